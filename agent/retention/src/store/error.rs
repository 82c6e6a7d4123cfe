//! Why a store cannot be used, and what is missing of it.

use crate::{CatalogueError, Inconsistency, LinkError, MoveError, PointId};
use std::io;

/// Why the recovery points of a disk cannot be used or changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system failed.
    #[error("cannot {action} {name} in the retention directory {place}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file, or `the names` where it is the directory.
        name: String,
        /// The directory.
        place: String,
        /// What the file system said.
        #[source]
        source: io::Error,
    },
    /// Nothing is there yet.
    #[error(
        "{0} holds no recovery points: name the retention directory of the disk, or apply a delta with it to make one"
    )]
    Empty(String),
    /// There are files of recovery points, and nothing says what they are.
    #[error(
        "the retention directory {0} has lost its catalogue, while files of recovery points are there: restore the whole directory from a \
         backup, and remove nothing"
    )]
    Lost(String),
    /// The points of a disk are there already.
    #[error("{0} holds recovery points already: name an empty directory")]
    Exists(String),
    /// The catalogue cannot be believed.
    #[error(
        "the catalogue of the retention directory {place} cannot be used: restore the whole directory from a backup, and remove nothing"
    )]
    Catalogue {
        /// The directory.
        place: String,
        /// What is wrong with it.
        #[source]
        source: CatalogueError,
    },
    /// The points are those of another disk.
    #[error(
        "{place} is the retention directory of another disk ({}): name the directory of this one",
        .description.escape_debug()
    )]
    OtherDisk {
        /// The directory.
        place: String,
        /// The disk that it belongs to, as it was described when its first point was recorded.
        description: String,
    },
    /// The file of a link is not there, or is not what the link says.
    #[error("{0}")]
    Gap(Gap),
    /// It was opened for reading, or an earlier save failed and nobody looked what became of it.
    #[error(
        "the recovery points in {0} are not open for changes: open them again, and look at the status of the disk first"
    )]
    NotWritable(String),
    /// The change contradicts itself.
    #[error(transparent)]
    Inconsistent(#[from] Inconsistency),
    /// The change cannot be made.
    #[error(transparent)]
    Move(#[from] MoveError),
    /// A link cannot be written.
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// A link that cannot be passed, since its file is not there as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The place of the link in the chain; none if it is that of what is under way.
    pub link: Option<usize>,
    /// The name of its file.
    pub name: String,
    /// What is wrong with it.
    pub what: Missing,
    /// The points that cannot be reached because of it, oldest first. All others still can.
    pub unreachable: Vec<PointId>,
}

/// What is wrong with the file of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// There is none.
    Gone,
    /// It is longer or shorter than it was.
    Length {
        /// The length that it had.
        wanted: u64,
        /// The length that it has.
        found: u64,
    },
    /// It cannot be opened.
    Unreadable(String),
}

impl std::fmt::Display for Gap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.what {
            Missing::Gone => write!(f, "the file {} is missing", self.name)?,
            Missing::Length { wanted, found } => {
                write!(f, "the file {} has {found} bytes instead of {wanted}", self.name)?;
            }
            Missing::Unreadable(why) => write!(f, "the file {} cannot be opened ({why})", self.name)?,
        }
        f.write_str(": restore it from a backup; the points that do not need it can still be used")
    }
}

/// Whether a file system says that there is no room, for anybody or for this user.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
