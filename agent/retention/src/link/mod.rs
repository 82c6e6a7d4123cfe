//! Links: the deltas between neighbouring points, each a file with an index beside it.

mod index;
pub(crate) mod layout;
mod reader;
mod writer;

pub use index::{Index, IndexExtent, IndexFrame};
pub use reader::LinkReader;
pub(crate) use reader::Stream;
pub use writer::{LinkFile, LinkWriter};

use failback_delta::FormatError;
use std::io;

/// Why a link cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The retention drive failed, or is full.
    #[error("cannot {action} {place}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        place: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The delta of a link is damaged.
    #[error("{place}, which leads from one recovery point to the next, cannot be used")]
    Damaged {
        /// The file.
        place: String,
        /// What is wrong with it.
        #[source]
        source: FormatError,
    },
    /// It is a sound delta, but not the one that the catalogue names.
    #[error(
        "{place} is not the delta that the catalogue names: put back the right file, or prune the points beyond it"
    )]
    Other {
        /// The file.
        place: String,
    },
}

impl LinkError {
    /// Whether the medium failed rather than the content.
    #[must_use]
    pub fn is_io(&self) -> bool {
        match self {
            Self::Io { .. } => true,
            Self::Damaged { source, .. } => source.is_io(),
            Self::Other { .. } => false,
        }
    }

    fn io(action: &'static str, place: String, source: io::Error) -> Self {
        Self::Io { action, place, source }
    }

    fn format(place: String, source: FormatError) -> Self {
        match source {
            FormatError::Read(_, source) => Self::io("read", place, source),
            FormatError::Write(_, source) => Self::io("write", place, source),
            source => Self::Damaged { place, source },
        }
    }
}
