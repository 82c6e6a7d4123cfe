//! A disk made of extents, and of parents where it has them: a [`Device`].
//!
//! A layer is one descriptor with its extents; the first layer is the disk that was named, each further one the parent of
//! the one before. What a layer does not have is looked for in the next; what none has is zero.

mod beside;
mod facts;
mod open;
mod queue;
mod resolve;
mod submit;
mod writing;

pub use beside::owner_of;
pub use facts::{DiskFacts, ExtentFacts};
pub use open::{OpenError, is_vmdk, may_be_written, open};
pub(crate) use open::{Opened, open_layer, parent};

use crate::extent::{Extent as GrainExtent, ExtentError};
use crate::sparse::SparseExtent;
use failback_blockio::{Action, Device, Extent, IoError, Queue, Resizable};
use failback_units::{ByteCount, ByteOffset, ByteRange};
use queue::DiskQueue;
use resolve::Location;
use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Release;
use writing::Writing;

/// A VMDK.
pub struct Disk {
    name: Arc<str>,
    size: ByteCount,
    layers: Vec<Layer>,
    files: Vec<FileSlot>,
    /// How it is changed; `None` if it is open for reading only.
    writing: Option<Writing>,
    facts: DiskFacts,
}

/// An open file.
pub(crate) struct FileSlot {
    pub(crate) device: Arc<dyn Resizable>,
    /// Whether something was written to it that was not flushed.
    pub(crate) touched: AtomicBool,
}

/// One descriptor with its extents.
pub(crate) struct Layer {
    pub(crate) size: ByteCount,
    /// In the order of the disk, without gaps.
    pub(crate) parts: Vec<Part>,
}

/// One extent.
pub(crate) struct Part {
    /// Where on the disk it lies.
    pub(crate) range: ByteRange,
    pub(crate) body: Body,
}

/// How an extent is stored; files are numbers in the disk's list.
pub(crate) enum Body {
    Zero,
    Flat { file: usize, offset: u64 },
    Sparse { file: usize, extent: Box<SparseExtent> },
    Grains { file: usize, extent: Box<dyn GrainExtent> },
}

/// What the cause of an [`IoError`] is when not a device failed, but a file of the disk is not what it should be: a sentence
/// that names it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Damage(String);

impl Damage {
    /// Whether an operation failed because of damage.
    #[must_use]
    pub fn caused(error: &IoError) -> bool {
        error.source.get_ref().is_some_and(<dyn Error + Send + Sync>::is::<Self>)
    }
}

impl Disk {
    /// `ddb.uuid` of the descriptor: its 32 hexadecimal digits are the NAA identifier that the guest sees.
    #[must_use]
    pub const fn uuid(&self) -> Option<[u8; 16]> {
        self.facts.uuid
    }

    /// What is known of the disk.
    #[must_use]
    pub const fn facts(&self) -> &DiskFacts {
        &self.facts
    }

    fn error(&self, action: Action, range: ByteRange, source: io::Error) -> IoError {
        IoError { action, device: Arc::clone(&self.name), at: range.start(), count: range.count(), source }
    }

    /// An error of an extent, as one of this disk.
    fn failed(&self, action: Action, range: ByteRange, error: ExtentError) -> IoError {
        match error {
            ExtentError::Io(error) => error,
            ExtentError::Damaged(sentence) => {
                self.error(action, range, io::Error::new(io::ErrorKind::InvalidData, Damage(sentence)))
            }
        }
    }
}

impl FileSlot {
    pub(crate) fn touch(&self) {
        self.touched.store(true, Release);
    }
}

/// How far a search for the end of a hole goes at a time, and how often.
const WINDOW: u64 = 64 << 20;
const WINDOWS: u32 = 256;

impl Device for Disk {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> ByteCount {
        self.size
    }

    fn logical_block(&self) -> u32 {
        512
    }

    fn engine(&self) -> &'static str {
        self.files.first().map_or("none", |file| file.device.engine())
    }

    fn queue(&self, depth: usize) -> Result<Box<dyn Queue + '_>, IoError> {
        Ok(Box::new(DiskQueue::new(self, depth)))
    }

    /// Where no layer has anything, where an entry says zero, and where the file below has a hole. A long hole may be
    /// told in several answers, of 16 GiB each.
    fn extent_at(&self, from: ByteOffset) -> Result<Option<Extent>, IoError> {
        let end = self.size.get();
        let start = from.get();
        if start >= end {
            return Ok(None);
        }
        let mut hole_end = start;
        for _ in 0..WINDOWS {
            let window_end = hole_end.saturating_add(WINDOW).min(end);
            for segment in self.resolve(0, hole_end, window_end)? {
                let (hole, length) = match segment.location {
                    Location::Zero => (true, segment.length),
                    Location::Packed { .. } => (false, segment.length),
                    Location::File { file, at } => self.file_extent(file, at, segment.length)?,
                };
                if !hole {
                    if hole_end > start {
                        return Ok(extent(start, hole_end, true));
                    }
                    return Ok(extent(start, start + length, false));
                }
                hole_end += length;
                if length < segment.length {
                    return Ok(extent(start, hole_end, true));
                }
            }
            if hole_end >= end {
                break;
            }
        }
        Ok(extent(start, hole_end, true))
    }

    fn is_resident(&self, range: ByteRange) -> bool {
        let end = range.end().get().min(self.size.get());
        let Ok(segments) = self.resolve(0, range.start().get(), end) else { return false };
        segments.iter().all(|segment| match segment.location {
            Location::Zero => true,
            Location::Packed { .. } => false,
            Location::File { file, at } => {
                let range = ByteOffset::new(at).zip(ByteCount::new(segment.length));
                let range = range.and_then(|(at, count)| ByteRange::new(at, count));
                range.is_some_and(|range| self.files[file].device.is_resident(range))
            }
        })
    }
}

impl Disk {
    /// Whether a stretch of a file is a hole, and for how many of these bytes that holds.
    fn file_extent(&self, file: usize, at: u64, length: u64) -> Result<(bool, u64), IoError> {
        let found = match ByteOffset::new(at) {
            Some(at) => self.files[file].device.extent_at(at)?,
            None => None,
        };
        Ok(found.map_or((false, length), |found| (found.hole, found.range.count().get().clamp(1, length))))
    }
}

fn extent(start: u64, end: u64, hole: bool) -> Option<Extent> {
    let range = ByteRange::between(ByteOffset::new(start)?, ByteOffset::new(end)?)?;
    Some(Extent { range, hole })
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Disk({}, {} bytes, {} layers)", self.name, self.size, self.layers.len())
    }
}
