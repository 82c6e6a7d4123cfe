//! What a parser found.

use crate::{FreeMap, ReadError};
use failback_units::ByteCount;
use std::fmt;

/// What lives on a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// ext2: no journal.
    Ext2,
    /// ext3: a journal, and none of ext4's features.
    Ext3,
    /// ext4.
    Ext4,
    /// XFS.
    Xfs,
    /// ReiserFS 3.5 or 3.6.
    ReiserFs,
    /// Swap space of Linux.
    Swap,
    /// Something that is recognised and whose space is not understood, by its usual name: `btrfs`, `NTFS`, `LUKS`.
    Other(&'static str),
}

impl Kind {
    /// Its usual name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ext2 => "ext2",
            Self::Ext3 => "ext3",
            Self::Ext4 => "ext4",
            Self::Xfs => "XFS",
            Self::ReiserFs => "ReiserFS",
            Self::Swap => "swap",
            Self::Other(name) => name,
        }
    }
}

/// In which state it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Its own map is what is true.
    Clean,
    /// It was not unmounted, and its journal was replayed in memory, for the map only.
    Replayed {
        /// Committed transactions that were found in it.
        transactions: u64,
    },
    /// It was not unmounted, and its journal was not understood.
    NotUnderstood,
    /// Nothing is known, as with what is recognised only.
    Unknown,
}

impl State {
    /// `clean`, `replayed`, `not-understood` or `unknown`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Replayed { .. } => "replayed",
            Self::NotUnderstood => "not-understood",
            Self::Unknown => "unknown",
        }
    }
}

/// Why every block counts as used: a clause that completes "every block, because …", such as
/// `its superblock's checksum is wrong`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unclear(String);

impl Unclear {
    /// With this reason.
    #[must_use]
    pub fn because(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

impl fmt::Display for Unclear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<ReadError> for Unclear {
    fn from(error: ReadError) -> Self {
        match &error {
            ReadError::Beyond => Self(error.to_string()),
            ReadError::Io(source) => Self(format!("{error}: {source}")),
        }
    }
}

/// A file system, or what else lives on a volume.
#[derive(Clone, Debug)]
pub struct FileSystem {
    /// What it is.
    pub kind: Kind,
    /// Its version where one name has several formats: `v5` of XFS, `3.6` of ReiserFS.
    pub version: Option<&'static str>,
    /// Its label, control characters escaped; `None` where it has none.
    pub label: Option<String>,
    /// Its UUID in the usual form with dashes; `None` where it is all zeroes or the format has none.
    pub uuid: Option<String>,
    /// How much of the volume it says to take, from its start; never more than the volume where the map is given.
    pub size: Option<ByteCount>,
    /// Its unit of allocation, in bytes.
    pub block_size: Option<u32>,
    /// In which state it is.
    pub state: State,
    /// Whether checksums vouch for the map. Without, a flipped bit in it cannot be seen.
    pub checked: bool,
    /// The free space, in bytes from the start of the volume, or why every block counts as used.
    pub map: Result<FreeMap, Unclear>,
    /// What else the administrator should know: groups that count as used although others do not, and why.
    pub remarks: Vec<String>,
}
