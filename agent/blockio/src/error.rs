//! What went wrong with an operation, where, and the kernel's own number for it.

use failback_units::{ByteCount, ByteOffset, ByteRange};
use std::{fmt, io, sync::Arc};

/// What was being done when an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Opening the device or finding out its size and limits.
    Open,
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Making a range read as zeroes.
    Zero,
    /// Making finished writes durable.
    Flush,
    /// Changing the size of a file.
    Resize,
    /// Asking which parts of a file hold data.
    Map,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Read => "read",
            Self::Write => "write",
            Self::Zero => "zero",
            Self::Flush => "flush",
            Self::Resize => "change the size of",
            Self::Map => "map the data of",
        })
    }
}

/// A failed operation on a device. The kernel's error, with its errno, is the source.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {device}{}", Place(*.at, *.count))]
pub struct IoError {
    /// What was being done.
    pub action: Action,
    /// The name under which the device was opened.
    pub device: Arc<str>,
    /// Where the operation began; 0 for a flush.
    pub at: ByteOffset,
    /// How many bytes it was for; 0 where that has no meaning.
    pub count: ByteCount,
    /// What the kernel, or the engine on its behalf, said.
    #[source]
    pub source: io::Error,
}

impl IoError {
    /// An error of `action` on `range` of `device`.
    pub(crate) fn new(action: Action, device: &Arc<str>, range: ByteRange, source: impl Into<io::Error>) -> Self {
        Self { action, device: Arc::clone(device), at: range.start(), count: range.count(), source: source.into() }
    }

    /// An error of `action` on the device as a whole.
    pub(crate) fn whole(action: Action, device: &Arc<str>, source: impl Into<io::Error>) -> Self {
        Self::new(action, device, ByteRange::default(), source)
    }
}

struct Place(ByteOffset, ByteCount);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.1.is_zero() { Ok(()) } else { write!(f, ", {} bytes at {}", self.1, self.0) }
    }
}
