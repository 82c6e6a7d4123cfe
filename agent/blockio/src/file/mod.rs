//! A block device or image file that the kernel knows.
//!
//! # Two descriptions of one file
//!
//! The same inode is opened with `O_DIRECT` and without. What is aligned goes directly between the
//! medium and our memory; what is not (a misaligned offset, length or buffer, the ragged end of an image) goes through
//! the page cache. Linux keeps the two coherent when they do not overlap in time: a direct read or write first writes
//! back dirty cached pages of its range, and a direct write drops the cached pages it made stale.
//!
//! What Linux does *not* promise is a cached write and a direct write that run **at the same time within one page**: the
//! cached write reads the page in, the direct write changes the medium beneath it, the page is dirty and cannot be
//! dropped, and its write-back then restores old bytes next to the new ones; the next `fsync` may say `EIO` (seen on
//! Linux 6.18, where the conformance suite fails within seconds if granules are sectors). Operations that are disjoint
//! for the caller must not harm each other, so on a writable device only whole granules go direct, where a granule is at
//! least a page and a file system block, the largest unit the kernel ever writes back. A cached operation that is
//! disjoint from a direct one then touches other granules. The same holds for the tail: the granule with the ragged end
//! of an image is never partly direct. For the same reason the cached description of a writable device is told that
//! access is random: read-ahead could bring in a page beyond the range asked for while a direct write is on its way to
//! it, and block devices, unlike files, do not drop such a page when an asynchronous direct write completes.
//!
//! What stays with the caller: operations that overlap *while in flight* have no defined outcome, here as on any disk;
//! what another program reads through the page cache at that time may leave its own stale pages behind (hence the caches
//! of a claimed target are dropped at claim and release).

mod blocking;
mod caching;
mod medium;
mod open;
mod task;
mod uring;

use self::medium::Medium;
use crate::{Action, Device, Extent, IoError, Queue, Resizable};
use failback_units::{ByteCount, ByteOffset, ByteRange};
use std::{
    fmt, io,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Which engine carries out operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// `io_uring`, or `pread` and `pwrite` where the kernel refuses that; [`FileDevice::engine_note`] says why it did.
    #[default]
    Auto,
    /// `io_uring` or an error.
    IoUring,
    /// `pread` and `pwrite` on a few threads.
    Blocking,
}

/// Whether reads and writes go through the kernel's page cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Caching {
    /// Each read asks whether its range is mostly in the page cache and goes there if so; everything else is direct.
    /// For sources: a cold disk is read without the cost of the page cache, a warm one without the cost of the medium.
    #[default]
    Probe,
    /// Whatever is aligned goes direct. For target disks: what is written is on its way to the medium, and what is read
    /// comes from there.
    Direct,
    /// Everything goes through the page cache.
    Cached,
}

/// How to use a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Which engine carries out operations.
    pub engine: Engine,
    /// Whether reads and writes go through the page cache.
    pub caching: Caching,
}

/// What was done on a device since it was opened. An operation counts once it has succeeded as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes written by write operations.
    pub bytes_written: u64,
    /// Bytes zeroed, in whatever way.
    pub bytes_zeroed: u64,
    /// Read operations.
    pub reads: u64,
    /// Write operations.
    pub writes: u64,
    /// Flushes.
    pub flushes: u64,
}

#[derive(Debug, Default)]
struct AtomicCounters {
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    bytes_zeroed: AtomicU64,
    reads: AtomicU64,
    writes: AtomicU64,
    flushes: AtomicU64,
}

impl AtomicCounters {
    fn add(&self, action: Action, bytes: ByteCount) {
        match action {
            Action::Read => {
                self.bytes_read.fetch_add(bytes.get(), Relaxed);
                self.reads.fetch_add(1, Relaxed);
            }
            Action::Write => {
                self.bytes_written.fetch_add(bytes.get(), Relaxed);
                self.writes.fetch_add(1, Relaxed);
            }
            Action::Zero => {
                self.bytes_zeroed.fetch_add(bytes.get(), Relaxed);
            }
            Action::Flush => {
                self.flushes.fetch_add(1, Relaxed);
            }
            Action::Open | Action::Resize | Action::Map => {}
        }
    }
}

/// A block device or an image file.
pub struct FileDevice {
    medium: Arc<Medium>,
    engine: Chosen,
    engine_note: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chosen {
    IoUring,
    Blocking,
}

/// Why `io_uring` is not to be had on this machine, as a sentence for the administrator; `None` if it is. A ring is made to find out.
#[must_use]
pub fn io_uring_refusal() -> Option<String> {
    uring::refused().map(|(_, note)| note)
}

impl FileDevice {
    /// Takes over a block device or regular file that the caller has opened, for reading or for reading and writing.
    ///
    /// `name` is what messages call it. The descriptor is kept open for as long as the device or any operation on it
    /// lives, so that a claim made with `O_EXCL` holds. The inode is opened again through `/proc/self/fd`, never by name,
    /// and compared.
    ///
    /// # Errors
    ///
    /// When it is neither a block device nor a regular file, when it was opened for writing only or for appending, when
    /// its size cannot be found out, when the second descriptor cannot be had and is needed, or when
    /// [`Engine::IoUring`] is asked for and refused.
    pub fn new(fd: OwnedFd, name: &str, options: Options) -> Result<Self, IoError> {
        let name: Arc<str> = Arc::from(name);
        let (engine, engine_note) = match options.engine {
            Engine::Blocking => (Chosen::Blocking, None),
            Engine::Auto | Engine::IoUring => match uring::refused() {
                None => (Chosen::IoUring, None),
                Some((_, note)) if options.engine == Engine::Auto => (Chosen::Blocking, Some(note)),
                Some((error, note)) => {
                    return Err(IoError::whole(Action::Open, &name, io::Error::new(error.kind(), note)));
                }
            },
        };
        let medium = Arc::new(open::medium(fd, name, options.caching)?);
        Ok(Self { medium, engine, engine_note })
    }

    /// Why [`Engine::Auto`] did not choose `io_uring`, as a sentence for the administrator; `None` if it did.
    #[must_use]
    pub fn engine_note(&self) -> Option<&str> {
        self.engine_note.as_deref()
    }

    /// How the page cache is used: what was asked for, or [`Caching::Cached`] where the file system has no `O_DIRECT`.
    #[must_use]
    pub fn caching(&self) -> Caching {
        self.medium.caching()
    }

    /// What was done since the device was opened, through all queues.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let counters = self.medium.counters();
        Counters {
            bytes_read: counters.bytes_read.load(Relaxed),
            bytes_written: counters.bytes_written.load(Relaxed),
            bytes_zeroed: counters.bytes_zeroed.load(Relaxed),
            reads: counters.reads.load(Relaxed),
            writes: counters.writes.load(Relaxed),
            flushes: counters.flushes.load(Relaxed),
        }
    }
}

impl Device for FileDevice {
    fn name(&self) -> &str {
        self.medium.name()
    }

    fn size(&self) -> ByteCount {
        self.medium.size()
    }

    fn logical_block(&self) -> u32 {
        self.medium.logical_block()
    }

    fn engine(&self) -> &'static str {
        match self.engine {
            Chosen::IoUring => "io_uring",
            Chosen::Blocking => "pread/pwrite",
        }
    }

    fn queue(&self, depth: usize) -> Result<Box<dyn Queue + '_>, IoError> {
        crate::device::check_depth(depth);
        Ok(match self.engine {
            // With one operation at a time a ring has nothing to overlap, and costs more than the calls that it saves.
            Chosen::IoUring if depth > 1 => Box::new(uring::UringQueue::new(&self.medium, depth)?),
            Chosen::IoUring | Chosen::Blocking => Box::new(blocking::BlockingQueue::new(&self.medium, depth)),
        })
    }

    fn extent_at(&self, from: ByteOffset) -> Result<Option<Extent>, IoError> {
        self.medium.extent_at(from)
    }

    fn is_resident(&self, range: ByteRange) -> bool {
        self.caching() == Caching::Probe && self.medium.reads_cached(range)
    }
}

impl Resizable for FileDevice {
    fn resize(&self, to: ByteCount) -> Result<(), IoError> {
        self.medium.resize(to)
    }
}

impl fmt::Debug for FileDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileDevice({}, {}, {:?})", self.name(), self.engine(), self.caching())
    }
}
