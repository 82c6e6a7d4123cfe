//! Why a file is not what it should be.

use std::{fmt, io};

/// Which of the two formats is spoken of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A stored hash tree.
    Signature,
    /// Changed blocks from one root to another.
    Delta,
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Signature => "signature",
            Self::Delta => "delta",
        })
    }
}

/// Why a signature or a delta is refused. Nothing that failed a check is ever handed out.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The medium failed, not the format.
    #[error("cannot read the {0}")]
    Read(FileKind, #[source] io::Error),
    /// The output failed.
    #[error("cannot write the {0}")]
    Write(FileKind, #[source] io::Error),
    /// It ends before its trailer.
    #[error("the {0} ends in the middle of {1}: it was cut off, so copy or make it again")]
    Truncated(FileKind, &'static str),
    /// The first bytes are those of something else.
    #[error("this is not a failback {0}: check the file name")]
    NotOurs(FileKind),
    /// A later version of the format.
    #[error("this {kind} has format version {version}, and this program knows only version 1: use a newer failback")]
    UnknownVersion {
        /// Signature or delta.
        kind: FileKind,
        /// The version that it states.
        version: u16,
    },
    /// A feature that this program does not know, and must not ignore.
    #[error("this {kind} uses a feature unknown to this program ({what} {value:#x}): use a newer failback")]
    UnknownFeature {
        /// Signature or delta.
        kind: FileKind,
        /// The field.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// Bytes were changed, or never made sense.
    #[error("the {kind} is damaged ({part}: {why}): copy or make it again")]
    Damaged {
        /// Signature or delta.
        kind: FileKind,
        /// Where, such as `frame 3`.
        part: String,
        /// What does not fit.
        why: &'static str,
    },
}

impl FormatError {
    /// Whether the medium failed rather than the content.
    #[must_use]
    pub const fn is_io(&self) -> bool {
        matches!(self, Self::Read(..) | Self::Write(..))
    }

    pub(crate) fn damaged(kind: FileKind, part: impl Into<String>, why: &'static str) -> Self {
        Self::Damaged { kind, part: part.into(), why }
    }
}
