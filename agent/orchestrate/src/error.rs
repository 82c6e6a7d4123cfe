//! How a job can end other than well.

use failback_blockio::IoError;
use failback_delta::FormatError;
use failback_image::Damage;
use failback_retention::{LinkError, LockError, MoveError, StoreError};
use failback_units::ByteRange;
use std::{io, path::PathBuf};

/// What an ending means for whoever called: each has an exit code of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The job would be wrong or dangerous, and nothing was done.
    Refused,
    /// The content of a disk is not what it should be.
    Mismatch,
    /// A device, a file or the kernel failed.
    Io,
    /// A signature, a delta or a VMDK is damaged, or of an unknown version.
    Damaged,
    /// The user stopped it.
    Interrupted,
}

/// An error with its causes in one line.
#[must_use]
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut sentence = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        sentence = format!("{sentence}: {error}");
        cause = error.source();
    }
    sentence
}

/// Why a job did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// A sentence that says what to do.
    #[error("{0}")]
    Refused(String),
    /// A delta is not signed by whom it has to be; a sentence that says what to do.
    #[error("{0}")]
    Untrusted(String),
    /// A VMDK is not what it should be; a sentence that says what to do.
    #[error("{0}")]
    DamagedDisk(String),
    /// A disk cannot be read as a source.
    #[error(transparent)]
    Source(#[from] failback_hostdev::SourceError),
    /// A disk cannot be claimed as a target.
    #[error(transparent)]
    Claim(#[from] failback_hostdev::ClaimError),
    /// The target holds something else than base or result.
    #[error(
        "{disk} is not at the base of this delta: {blocks} changed runs hold neither what the delta expects nor what it \
         would write (the first at bytes {first}), so {consequence}; sign this disk again and make a new delta"
    )]
    WrongBase {
        /// The target.
        disk: String,
        /// How many extents.
        blocks: u64,
        /// The first of them.
        first: ByteRange,
        /// What was and was not written.
        consequence: String,
    },
    /// A disk does not have the root that it should have.
    #[error("{0}")]
    Mismatch(String),
    /// A device failed.
    #[error(transparent)]
    Device(#[from] IoError),
    /// A device failed while it was written: what that means for the disk.
    #[error("{state}")]
    WhileWriting {
        /// What the disk holds, and what to do.
        state: String,
        /// What failed.
        #[source]
        source: Box<JobError>,
    },
    /// A signature or a delta cannot be used.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A file of ours cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The intent record cannot be used.
    #[error(transparent)]
    Intent(#[from] crate::IntentError),
    /// The recovery points cannot be used or changed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A link between recovery points cannot be written or read.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A stored tree cannot be used.
    #[error(transparent)]
    Tree(#[from] crate::TreeError),
    /// Somebody else uses the recovery points.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The user stopped the job.
    #[error("stopped: {0}")]
    Interrupted(String),
}

impl From<MoveError> for JobError {
    fn from(error: MoveError) -> Self {
        Self::Store(error.into())
    }
}

impl JobError {
    /// What this ending means for whoever called.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Source(error) if error.is_io() => Outcome::Io,
            Self::Claim(error) if error.is_io() => Outcome::Io,
            Self::Lock(error) if error.is_io() => Outcome::Io,
            Self::Refused(_) | Self::Untrusted(_) | Self::Source(_) | Self::Claim(_) | Self::Lock(_) => {
                Outcome::Refused
            }
            Self::WrongBase { .. } | Self::Mismatch(_) => Outcome::Mismatch,
            Self::Device(error) if Damage::caused(error) || is_damaged_link(error) => Outcome::Damaged,
            Self::Device(_) | Self::File { .. } => Outcome::Io,
            Self::WhileWriting { source, .. } => match **source {
                // Damage that is found when something was written already: the disk is not as it was before.
                Self::Device(_) => Outcome::Io,
                ref source => source.outcome(),
            },
            Self::Format(error) if error.is_io() => Outcome::Io,
            Self::Format(_) | Self::DamagedDisk(_) => Outcome::Damaged,
            Self::Intent(error) => error.outcome(),
            Self::Tree(error) => error.outcome(),
            Self::Link(error) | Self::Store(StoreError::Link(error)) => {
                if error.is_io() {
                    Outcome::Io
                } else {
                    Outcome::Damaged
                }
            }
            Self::Store(error) => match error {
                StoreError::Io { .. } => Outcome::Io,
                StoreError::Lost(_)
                | StoreError::Catalogue { .. }
                | StoreError::Gap(_)
                | StoreError::Inconsistent(_) => Outcome::Damaged,
                _ => Outcome::Refused,
            },
            Self::Interrupted(_) => Outcome::Interrupted,
        }
    }
}

/// Whether a recovery point could not be read because what leads there is damaged.
fn is_damaged_link(error: &IoError) -> bool {
    let inner = error.source.get_ref().and_then(|inner| inner.downcast_ref::<LinkError>());
    inner.is_some_and(|error| !error.is_io())
}
