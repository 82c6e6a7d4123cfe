//! The open descriptions of one inode, and what is known about it.

use super::{AtomicCounters, Caching, caching::Residency};
use crate::{Action, Extent, IoError, transfer::read_ended};
use failback_units::{ByteCount, ByteOffset, ByteRange};
use nix::{
    errno::Errno,
    sys::stat::fstat,
    unistd::{Whence, fdatasync, ftruncate, lseek},
};
use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU8, AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
};

/// What kind of inode it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Block,
    File,
}

/// What a direct transfer's offset and length, and its memory, are multiples of; in bytes, at least 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Alignment {
    pub(super) offset: u64,
    pub(super) memory: u64,
}

/// Ways to make a range read as zeroes, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Zeroing {
    /// `FALLOC_FL_PUNCH_HOLE`: gives the space back. On block devices a zeroing command, offloaded or refused.
    Punch,
    /// `FALLOC_FL_ZERO_RANGE`. On block devices this is what `BLKZEROOUT` does, but `io_uring` can carry it: the kernel
    /// writes zeroes where the device has no command for it.
    ZeroRange,
    /// Writing zeroes.
    Write,
}

impl Zeroing {
    pub(super) fn next(self) -> Self {
        match self {
            Self::Punch => Self::ZeroRange,
            Self::ZeroRange | Self::Write => Self::Write,
        }
    }

    pub(super) fn fallocate_mode(self) -> i32 {
        // The kernel insists on KEEP_SIZE for holes; for ranges it makes sure that an image never grows.
        match self {
            Self::Punch => libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
            Self::ZeroRange | Self::Write => libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE,
        }
    }
}

/// A piece of a transfer: through which description it goes, and how long it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) direct: bool,
    pub(super) bytes: u64,
}

/// The most that is moved in one call: 1 GiB, below the kernel's own limit of 2 GiB less a page, and a whole number of
/// granules.
pub(super) const MAX_PIECE: u64 = 1 << 30;

/// What the inode is like, as found when it was opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) kind: Kind,
    pub(super) size: ByteCount,
    pub(super) logical_block: u32,
}

/// The open descriptions of the inode.
#[derive(Debug)]
pub(super) struct Descriptions {
    /// What the caller opened, which may hold a claim. It is kept for that, and no operation goes through it if `cached`
    /// is there: a worker of `io_uring` may hold a description for a moment after the completion was seen, and the claim
    /// would outlive the device by that moment.
    pub(super) given: OwnedFd,
    /// The same inode, without `O_DIRECT`; `None` if `given` serves.
    pub(super) cached: Option<OwnedFd>,
    /// The same inode, with `O_DIRECT`, if that is wanted and possible.
    pub(super) direct: Option<OwnedFd>,
}

impl Descriptions {
    fn cached(&self) -> BorrowedFd<'_> {
        self.cached.as_ref().unwrap_or(&self.given).as_fd()
    }

    fn direct(&self) -> BorrowedFd<'_> {
        self.direct.as_ref().map_or_else(|| self.cached(), OwnedFd::as_fd)
    }
}

/// An inode that is read and written: shared by the device, its queues and every operation in flight, so that the
/// descriptors stay open for as long as the kernel may use them.
pub(super) struct Medium {
    name: Arc<str>,
    shape: Shape,
    /// How long it is now: a file may be made longer or shorter.
    size: AtomicU64,
    descriptions: Descriptions,
    caching: Caching,
    alignment: Alignment,
    residency: Residency,
    /// The best way of zeroing that has not been refused yet, as a number.
    zeroing: AtomicU8,
    /// Whether something was written since the map of data and holes was last brought up to date.
    map_is_stale: AtomicBool,
    counters: AtomicCounters,
}

impl Medium {
    pub(super) fn new(
        name: Arc<str>,
        shape: Shape,
        descriptions: Descriptions,
        caching: Caching,
        alignment: Alignment,
    ) -> Self {
        Self {
            name,
            size: AtomicU64::new(shape.size.get()),
            shape,
            descriptions,
            caching,
            alignment,
            residency: Residency::default(),
            zeroing: AtomicU8::new(0),
            map_is_stale: AtomicBool::new(true),
            counters: AtomicCounters::default(),
        }
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(super) fn size(&self) -> ByteCount {
        ByteCount::new(self.size.load(Acquire)).unwrap_or(self.shape.size)
    }

    /// Makes a file longer, with a hole at its end, or shorter.
    pub(super) fn resize(&self, to: ByteCount) -> Result<(), IoError> {
        let failed = |source: io::Error| IoError { count: to, ..IoError::whole(Action::Resize, &self.name, source) };
        if self.shape.kind == Kind::Block {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "a block device has the size it has")));
        }
        if to == self.size() {
            return Ok(());
        }
        let length = i64::try_from(to.get()).map_err(|_| failed(io::Error::from_raw_os_error(libc::EFBIG)))?;
        ftruncate(self.cached(), length).map_err(|errno| failed(errno.into()))?;
        self.size.store(to.get(), Release);
        self.changed();
        Ok(())
    }

    pub(super) fn logical_block(&self) -> u32 {
        self.shape.logical_block
    }

    pub(super) fn caching(&self) -> Caching {
        self.caching
    }

    pub(super) fn counters(&self) -> &AtomicCounters {
        &self.counters
    }

    /// The description without `O_DIRECT`.
    pub(super) fn cached(&self) -> BorrowedFd<'_> {
        self.descriptions.cached()
    }

    /// The descriptor for a piece. It is valid for as long as this medium lives.
    pub(super) fn descriptor(&self, direct: bool) -> RawFd {
        let description = if direct { self.descriptions.direct() } else { self.descriptions.cached() };
        description.as_raw_fd()
    }

    /// The first piece of a transfer of `range` from or to memory at `address`.
    pub(super) fn piece(&self, range: ByteRange, address: usize, cached_only: bool) -> Piece {
        let left = range.count().get().min(MAX_PIECE);
        let Alignment { offset, memory } = self.alignment;
        // A usize has at most 64 bits on every system Linux runs on.
        let aligned = u64::try_from(address).is_ok_and(|address| address.is_multiple_of(memory))
            && range.start().get().is_multiple_of(offset);
        let whole = left - left % offset;
        if aligned && whole > 0 && !cached_only && self.caching != Caching::Cached {
            Piece { direct: true, bytes: whole }
        } else {
            Piece { direct: false, bytes: left }
        }
    }

    /// Whether a read of `range` had better go through the page cache.
    pub(super) fn reads_cached(&self, range: ByteRange) -> bool {
        self.caching == Caching::Probe && self.residency.mostly_cached(self.cached(), range, self.size())
    }

    /// What zeroing by `fallocate` is limited to multiples of.
    pub(super) fn zeroing_granule(&self) -> u64 {
        // A page at least, for the reason in the module's text: the ends are cached writes.
        self.alignment.offset.max(4096)
    }

    /// The best way of zeroing known to work, or not known not to.
    pub(super) fn zeroing(&self) -> Zeroing {
        match self.zeroing.load(Relaxed) {
            0 => Zeroing::Punch,
            1 => Zeroing::ZeroRange,
            _ => Zeroing::Write,
        }
    }

    /// Remembers that a way of zeroing was refused.
    pub(super) fn zeroing_refused(&self, refused: Zeroing) {
        let next = match refused.next() {
            Zeroing::Punch => 0,
            Zeroing::ZeroRange => 1,
            Zeroing::Write => 2,
        };
        self.zeroing.fetch_max(next, Relaxed);
    }

    /// Takes note that an operation succeeded.
    pub(super) fn completed(&self, action: Action, bytes: ByteCount) {
        self.counters.add(action, bytes);
    }

    /// Takes note that an operation may have changed the content.
    pub(super) fn changed(&self) {
        self.map_is_stale.store(true, Release);
    }

    pub(super) fn extent_at(&self, from: ByteOffset) -> Result<Option<Extent>, IoError> {
        let Some(rest) = ByteRange::between(from, self.size().as_end()).filter(|rest| !rest.is_empty()) else {
            return Ok(None);
        };
        if self.shape.kind == Kind::Block {
            return Ok(Some(Extent { range: rest, hole: false }));
        }
        self.seek(rest).map(Some).map_err(|source| IoError::new(Action::Map, &self.name, rest, source))
    }

    /// The extent at the start of `rest`, which reaches to the end of the file and is not empty.
    fn seek(&self, rest: ByteRange) -> io::Result<Extent> {
        if self.map_is_stale.swap(false, AcqRel) {
            // Some file systems take what is written but not yet allocated for a hole.
            if let Err(errno) = fdatasync(self.cached()) {
                self.changed();
                return Err(errno.into());
            }
        }
        let data = match self.seek_to(rest, Whence::SeekData) {
            Ok(data) => data,
            Err(Errno::ENXIO) => {
                // No data up to the end, wherever that is now.
                let size = u64::try_from(fstat(self.cached())?.st_size).unwrap_or(0);
                if size < rest.end().get() {
                    return Err(read_ended());
                }
                rest.end()
            }
            // The file system does not know.
            Err(Errno::EINVAL | Errno::EOPNOTSUPP) => return Ok(Extent { range: rest, hole: false }),
            Err(errno) => return Err(errno.into()),
        };
        let (end, hole) = if data > rest.start() {
            (data, true)
        } else {
            match self.seek_to(rest, Whence::SeekHole) {
                Ok(hole) if hole > rest.start() => (hole, false),
                // Another program punched a hole between the two questions, or cut the file off.
                Ok(_) => return Ok(Extent { range: rest, hole: false }),
                Err(Errno::ENXIO) => return Err(read_ended()),
                Err(errno) => return Err(errno.into()),
            }
        };
        let range = ByteRange::between(rest.start(), end.min(rest.end())).unwrap_or(rest);
        Ok(Extent { range, hole })
    }

    fn seek_to(&self, rest: ByteRange, whence: Whence) -> nix::Result<ByteOffset> {
        // The file position that this moves is used by nothing else.
        let from = i64::try_from(rest.start().get()).map_err(|_| Errno::EOVERFLOW)?;
        let found = lseek(self.cached(), from, whence)?;
        u64::try_from(found).ok().and_then(ByteOffset::new).ok_or(Errno::EOVERFLOW)
    }
}
