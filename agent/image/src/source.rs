//! A file that an extent is read from, never more of it in memory than a piece.

use crate::extent::{ExtentError, Place};
use crate::layout::SECTOR;
use failback_blockio::{Buffer, Device, IoError, Operation, run};
use failback_units::{ByteCount, ByteOffset, ByteRange};
use std::fmt::Display;
use std::sync::{Mutex, PoisonError};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// The file of an extent that is only read.
pub(crate) struct Source {
    device: Box<dyn Device>,
}

impl Source {
    pub(crate) fn new(device: Box<dyn Device>) -> Self {
        Self { device }
    }

    pub(crate) fn size(&self) -> ByteCount {
        self.device.size()
    }

    /// That something stands in this file that cannot be right; `what` is a sentence without its subject's name.
    pub(crate) fn damaged(&self, what: impl Display) -> ExtentError {
        ExtentError::Damaged(format!("{}: {what}", self.device.name()))
    }

    /// `bytes` bytes from a sector on, or `None` where the file does not reach.
    pub(crate) fn range(&self, sector: u64, bytes: u64) -> Option<ByteRange> {
        let start = ByteOffset::new(sector.checked_mul(SECTOR)?)?;
        ByteRange::new(start, ByteCount::new(bytes)?).filter(|range| range.fits(self.size()))
    }

    /// A structure that stands in the file; the file being too short for it is an error of its own.
    pub(crate) fn structure<T>(&self, at: ByteOffset, what: &str) -> Result<T, ExtentError>
    where
        T: FromBytes + KnownLayout + Immutable + Unaligned,
    {
        let range = ByteRange::new(at, ByteCount::of_memory(size_of::<T>())).filter(|range| range.fits(self.size()));
        let range =
            range.ok_or_else(|| self.damaged(format_args!("the file ends before its {what}: copy it again")))?;
        let bytes = self.read(range)?;
        // The length is that of the structure, and any bytes are one.
        T::read_from_bytes(&bytes).map_err(|_| self.damaged(format_args!("its {what} was not read whole: try again")))
    }

    fn read(&self, range: ByteRange) -> Result<Buffer, IoError> {
        // A length that no memory has reads nothing, which is then found to be too short.
        let len = range.count().to_usize().unwrap_or(0);
        let into = Buffer::zeroed(len);
        Ok(run(&*self.device, Operation::Read { at: range.start(), into })?.unwrap_or_else(|| Buffer::zeroed(0)))
    }
}

/// The stretch of a file that was read last, at least `ahead` bytes of it, for whoever reads from left to right.
pub(crate) struct Window {
    ahead: u32,
    held: Mutex<Option<(ByteRange, Buffer)>>,
}

impl Window {
    pub(crate) fn new(ahead: u32) -> Self {
        Self { ahead, held: Mutex::new(None) }
    }

    /// Shows `range`, which lies within the file, to `look`.
    pub(crate) fn with<T>(
        &self,
        source: &Source,
        range: ByteRange,
        look: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, ExtentError> {
        // What was read stays right, whatever happened to the one who read it.
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if !held.as_ref().is_some_and(|(there, _)| there.start() <= range.start() && range.end() <= there.end()) {
            let left = source.size().saturating_sub(ByteCount::new(range.start().get()).unwrap_or(ByteCount::ZERO));
            let ahead = ByteCount::new(u64::from(self.ahead)).unwrap_or(ByteCount::ZERO);
            let longer = ByteRange::new(range.start(), range.count().max(ahead).min(left)).unwrap_or(range);
            // Given back first, so that one window is never held twice.
            *held = None;
            *held = Some((longer, source.read(longer)?));
        }
        let bytes = held.as_ref().and_then(|(there, bytes)| {
            let from = range.start().distance_from(there.start())?.to_usize()?;
            bytes.get(from..from.checked_add(range.count().to_usize()?)?)
        });
        bytes.map(look).ok_or_else(|| source.damaged("the file became shorter while it was read: copy it again"))
    }
}

/// Fills `into` with a grain that is not compressed: from `place`, which was checked, or with zeroes.
pub(crate) fn fill(source: &Source, data: &Window, place: Place, into: &mut [u8]) -> Result<(), ExtentError> {
    let Place::At(start) = place else {
        into.fill(0);
        return Ok(());
    };
    let range = ByteRange::new(start, ByteCount::of_memory(into.len()));
    let range = range.ok_or_else(|| source.damaged("a grain lies where no file reaches: copy it again"))?;
    data.with(source, range, |bytes| into.copy_from_slice(bytes))
}

/// How much of a table is held at a time: all of a grain table of any format, and a piece of a directory.
const PIECE: u32 = 32 << 10;

/// The entries of a directory or table, of which a piece is held.
pub(crate) struct Entries {
    window: Window,
}

impl Entries {
    pub(crate) fn new() -> Self {
        Self { window: Window::new(PIECE) }
    }

    /// Entry `index` of the `count` that stand from `sector` on. `None` where these do not all lie in the file, or
    /// where there are not so many.
    pub(crate) fn get<E>(&self, source: &Source, sector: u64, count: u64, index: u64) -> Result<Option<E>, ExtentError>
    where
        E: FromBytes + KnownLayout + Immutable + Unaligned + Copy,
    {
        let width = size_of::<E>() as u64;
        let all = count.checked_mul(width).and_then(|bytes| source.range(sector, bytes));
        let Some(all) = all.filter(|_| index < count) else { return Ok(None) };
        let in_piece = u64::from(PIECE) / width;
        let within = usize::try_from(index % in_piece).unwrap_or(usize::MAX);
        let piece = (index / in_piece)
            .checked_mul(u64::from(PIECE))
            .and_then(ByteCount::new)
            .and_then(|before| all.start().checked_add(before))
            .and_then(|start| {
                let left = all.end().distance_from(start)?.min(ByteCount::new(u64::from(PIECE))?);
                ByteRange::new(start, left)
            });
        let Some(piece) = piece else { return Ok(None) };
        self.window.with(source, piece, |bytes| {
            let entries = <[E]>::ref_from_bytes(bytes).ok()?;
            entries.get(within).copied()
        })
    }
}
