//! What is written to a disk, kept beside it for a while.
//!
//! A block that was never written is read from the device below; one that was, from a file without a name, at the same
//! offset. A write of a part of a block first copies the block up. The table that says which block is where lives in
//! memory: nothing of an overlay is meant to survive.
//!
//! # Who may do what at the same time
//!
//! Requests that overlap while they are under way have no defined outcome on a disk, but each byte must come from one of
//! them, and neighbours in a block must not harm each other. So every change of a block is made under the lock of its
//! region, on the thread that submits it; the file's pages are memory, so that there is nothing to overlap. Reads take no
//! such lock: content is in the file before the table says so, and a block that becomes zero is cut out of the file after
//! the table says so, so that a read that asked the table before finds the old or the new content.

mod file;
mod queue;
mod table;

use crate::error::OverlayError;
use failback_blockio::{Action, Buffer, Device, Extent, IoError, Operation, Queue, run};
use failback_units::{BlockIndex, BlockRange, BlockSize, ByteCount, ByteOffset, ByteRange};
use nix::errno::Errno;
use queue::OverlayQueue;
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use table::{State, Table};

/// What is copied up at least: a page and the block of most file systems, so that their writes need no copy.
const BLOCK: BlockSize = BlockSize::MIN;
/// Changes of different regions do not wait for each other. A multiple of [`BLOCK`].
const REGION: u64 = 1 << 20;
/// Regions share this many locks.
const LOCKS: u64 = 64;
/// How many stretches are joined for one answer of [`Device::extent_at`].
const MAX_JOINED: usize = 64;

/// A disk that can be written, over one that is not: what is written goes into a temporary file that has no name, and is
/// gone with the overlay, or with the process.
///
/// [`Operation::Flush`] succeeds and makes nothing durable.
pub struct Overlay<D> {
    below: D,
    name: Arc<str>,
    file: File,
    table: RwLock<Table>,
    locks: Vec<Mutex<()>>,
}

/// What a stretch of the disk is to become.
#[derive(Clone, Copy)]
enum Change<'bytes> {
    /// These bytes, which are as many.
    Bytes(&'bytes [u8]),
    Zeroes,
}

impl<D: Device> Overlay<D> {
    /// An overlay over `below` that keeps what is written in a temporary file in `directory`. It is as long as the disk,
    /// with a hole wherever nothing was written.
    ///
    /// # Errors
    ///
    /// When no such file can be made there.
    pub fn new(below: D, directory: &Path) -> Result<Self, OverlayError> {
        let size = below.size();
        let made = file::unnamed(directory).and_then(|file| file.set_len(size.get()).map(|()| file));
        let file = made.map_err(|source| OverlayError { directory: directory.to_owned(), size, source })?;
        let locks = (0..LOCKS).map(|_| Mutex::default()).collect();
        Ok(Self { name: Arc::from(below.name()), below, file, table: RwLock::default(), locks })
    }

    /// How much space the temporary file takes.
    ///
    /// # Errors
    ///
    /// When the kernel cannot say.
    pub fn space(&self) -> io::Result<ByteCount> {
        // A file has no more blocks than its length has room for, or nearly so.
        Ok(ByteCount::new(self.file.metadata()?.blocks().saturating_mul(512)).unwrap_or_default())
    }

    fn reading(&self) -> RwLockReadGuard<'_, Table> {
        // Nothing that is done under the lock can leave the table half changed.
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn changing(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses what does not lie on the disk.
    fn check(&self, action: Action, at: ByteOffset, count: ByteCount) -> Result<ByteRange, IoError> {
        let range = ByteRange::new(at, count).filter(|range| range.fits(self.below.size()));
        range.ok_or_else(|| IoError {
            action,
            device: Arc::clone(&self.name),
            at,
            count,
            source: io::Error::from(Errno::EINVAL),
        })
    }

    fn failed(&self, action: Action, range: ByteRange, source: io::Error) -> IoError {
        IoError { action, device: Arc::clone(&self.name), at: range.start(), count: range.count(), source }
    }

    /// The state at the start of a range that is not empty, and up to where in it that holds.
    fn run(&self, range: ByteRange) -> (State, ByteRange) {
        let blocks = touched(range);
        let table = self.reading();
        let state = table.state(blocks.start);
        let run = BlockIndex::new(table.run_end(blocks.start, blocks.end)).offset(BLOCK);
        let end = run.unwrap_or(range.end()).min(range.end());
        (state, ByteRange::between(range.start(), end).unwrap_or(range))
    }

    /// Reads what the table says is in the file.
    fn read_here(&self, range: ByteRange, into: &mut [u8]) -> Result<(), IoError> {
        let read = self.file.read_exact_at(into, range.start().get());
        read.map_err(|source| self.failed(Action::Read, range, source))
    }

    fn change(&self, range: ByteRange, change: Change<'_>) -> Result<(), IoError> {
        let mut change = change;
        let mut rest = range;
        while !rest.is_empty() {
            let region = rest.start().get() / REGION;
            let end = ByteOffset::new((region + 1) * REGION).unwrap_or(rest.end()).min(rest.end());
            let part = ByteRange::between(rest.start(), end).unwrap_or(rest);
            rest = ByteRange::between(end, rest.end()).unwrap_or_default();
            let now = match &mut change {
                Change::Zeroes => Change::Zeroes,
                Change::Bytes(bytes) => {
                    let (front, behind) = bytes.split_at(part.count().to_usize().unwrap_or(bytes.len()));
                    *bytes = behind;
                    Change::Bytes(front)
                }
            };
            let lock = usize::try_from(region % LOCKS).unwrap_or(0);
            let _held = self.locks[lock].lock().unwrap_or_else(PoisonError::into_inner);
            match now {
                Change::Bytes(bytes) => self.write_locked(part, bytes)?,
                Change::Zeroes => self.zero_locked(part)?,
            }
        }
        Ok(())
    }

    /// Writes within a region whose lock is held.
    fn write_locked(&self, range: ByteRange, bytes: &[u8]) -> Result<(), IoError> {
        let touched = touched(range);
        let covered = self.covered(range);
        // At most the first and the last.
        for block in [touched.start, touched.end - 1] {
            if !covered.contains(&block) {
                self.copy_up(block)?;
            }
        }
        let written = self.file.write_all_at(bytes, range.start().get());
        written.map_err(|source| self.failed(Action::Write, range, source))?;
        self.changing().set(touched, State::Here);
        Ok(())
    }

    /// Zeroes within a region whose lock is held.
    fn zero_locked(&self, range: ByteRange) -> Result<(), IoError> {
        let touched = touched(range);
        let covered = self.covered(range);
        let mut ends = [touched.start, touched.end - 1].to_vec();
        ends.dedup();
        for block in ends {
            if !covered.contains(&block) && self.reading().state(block) != State::Zero {
                self.copy_up(block)?;
                let part = intersection(range, self.block(block));
                let zeroes = [0; BLOCK.in_memory()];
                let zeroes = &zeroes[..part.count().to_usize().unwrap_or_default()];
                let written = self.file.write_all_at(zeroes, part.start().get());
                written.map_err(|source| self.failed(Action::Zero, part, source))?;
            }
        }
        if covered.is_empty() {
            return Ok(());
        }
        let had_space = self.reading().any(covered.clone(), State::Here);
        self.changing().set(covered.clone(), State::Zero);
        if had_space {
            // A file system that cannot cut out what is there keeps it, and nobody reads it.
            let blocks = BlockRange::between(BlockIndex::new(covered.start), BlockIndex::new(covered.end));
            let _ = file::cut_out(&self.file, blocks.unwrap_or_default().bytes_on(BLOCK, self.below.size()));
        }
        Ok(())
    }

    /// Brings a block into the file, if it is not there. The lock of its region is held.
    fn copy_up(&self, block: u64) -> Result<(), IoError> {
        let range = self.block(block);
        let state = self.reading().state(block);
        let content = match state {
            State::Here => return Ok(()),
            State::Zero => Buffer::zeroed(range.count().to_usize().unwrap_or_default()),
            State::Below => {
                let into = Buffer::zeroed(range.count().to_usize().unwrap_or_default());
                let read = run(&self.below, Operation::Read { at: range.start(), into })?;
                read.ok_or_else(|| self.failed(Action::Read, range, io::Error::other("the device kept the buffer")))?
            }
        };
        let written = self.file.write_all_at(&content, range.start().get());
        written.map_err(|source| self.failed(Action::Write, range, source))?;
        self.changing().set(block..block + 1, State::Here);
        Ok(())
    }

    /// Where a block lies; the last one may be shorter.
    fn block(&self, block: u64) -> ByteRange {
        let range = BlockRange::between(BlockIndex::new(block), BlockIndex::new(block + 1)).unwrap_or_default();
        range.bytes_on(BLOCK, self.below.size())
    }

    /// The blocks all of whose bytes lie in a range; none may be at any number.
    fn covered(&self, range: ByteRange) -> Range<u64> {
        let start = range.start().get().div_ceil(BLOCK.bytes());
        let at_end = range.end() == self.below.size().as_end();
        let end = range.end().get();
        let end = if at_end { end.div_ceil(BLOCK.bytes()) } else { end / BLOCK.bytes() };
        start..end
    }
}

/// The blocks of which a range has a byte.
fn touched(range: ByteRange) -> Range<u64> {
    range.start().get() / BLOCK.bytes()..range.end().get().div_ceil(BLOCK.bytes())
}

fn intersection(a: ByteRange, b: ByteRange) -> ByteRange {
    ByteRange::between(a.start().max(b.start()), a.end().min(b.end())).unwrap_or_default()
}

impl<D: Device> Device for Overlay<D> {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> ByteCount {
        self.below.size()
    }

    fn logical_block(&self) -> u32 {
        self.below.logical_block()
    }

    fn engine(&self) -> &'static str {
        self.below.engine()
    }

    fn queue(&self, depth: usize) -> Result<Box<dyn Queue + '_>, IoError> {
        Ok(Box::new(OverlayQueue::new(self, depth)?))
    }

    /// What was zeroed and not written since is a hole. A stretch that is made of many changes may be told in several
    /// answers.
    fn extent_at(&self, from: ByteOffset) -> Result<Option<Extent>, IoError> {
        let Some(rest) = ByteRange::between(from, self.size().as_end()).filter(|rest| !rest.is_empty()) else {
            return Ok(None);
        };
        let (mut at, mut kind) = (from, None);
        for _ in 0..MAX_JOINED {
            let Some(rest) = ByteRange::between(at, rest.end()).filter(|rest| !rest.is_empty()) else { break };
            let (state, run) = self.run(rest);
            let (end, hole) = match state {
                State::Here => (run.end(), false),
                State::Zero => (run.end(), true),
                State::Below => match self.below.extent_at(at)? {
                    Some(extent) if extent.range.end() > at => (extent.range.end().min(run.end()), extent.hole),
                    _ => (run.end(), false),
                },
            };
            if *kind.get_or_insert(hole) != hole {
                break;
            }
            at = end;
        }
        let range = ByteRange::between(from, at).unwrap_or(rest);
        Ok(Some(Extent { range, hole: kind.unwrap_or(false) }))
    }

    fn is_resident(&self, range: ByteRange) -> bool {
        let range = intersection(range, ByteRange::whole(self.size()));
        // What was changed is in the page cache, or was not long ago.
        range.is_empty() || !matches!(self.run(range), (State::Below, _)) || self.below.is_resident(range)
    }
}

impl<D: Device> fmt::Debug for Overlay<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Overlay({}, {} bytes)", self.name, self.size())
    }
}
