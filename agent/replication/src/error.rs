//! How a session can end other than well.

use failback_hashtree::Root;
use failback_orchestrate::Outcome;
use std::io;

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The connection broke, was never there, or the other side was silent for too long. The pass can go on over another.
    #[error("the connection to the other side broke")]
    Link(#[source] io::Error),
    /// The other side speaks another version, or is not what it should be.
    #[error("{0}")]
    Mismatch(String),
    /// What the pass was made for is no more, so that it cannot go on: another one can begin.
    #[error("{0}")]
    Changed(&'static str),
    /// The other side said something that it must not say.
    #[error("the other side does not keep to the protocol: {0}; check that it is failback, of a version that fits")]
    Breach(&'static str),
    /// The delta that a source began to send is not the one that was agreed on.
    #[error(
        "this delta does not start from the base that was told, or leads to a disk of another size than was offered: begin this pass again"
    )]
    NotOffered,
    /// The other side will not go on: its own sentence.
    #[error("the other side says: {0}")]
    Refused(String),
    /// The target is not at the base of a delta that is complete.
    #[error(
        "the target is at {found} and not at {expected}, the base of this delta, so the delta can never be applied there: begin a new \
         pass from what the target has now"
    )]
    OtherBase {
        /// The root of the delta's base.
        expected: Root,
        /// The root of the target's base.
        found: Root,
    },
    /// What is to be done here cannot be.
    #[error(transparent)]
    Job(#[from] failback_orchestrate::JobError),
}

impl SessionError {
    /// What this ending means for whoever called.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Link(_) | Self::Breach(_) | Self::NotOffered => Outcome::Io,
            Self::Mismatch(_) | Self::Refused(_) | Self::Changed(_) | Self::OtherBase { .. } => Outcome::Refused,
            Self::Job(error) => error.outcome(),
        }
    }

    /// Whether the same pass may go on over another connection.
    #[must_use]
    pub const fn is_link(&self) -> bool {
        matches!(self, Self::Link(_))
    }
}

impl From<io::Error> for SessionError {
    /// A connection that was not allowed will not be allowed the next time: what is told is its reason, and it is not tried again.
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::PermissionDenied {
            Self::Mismatch(error.to_string())
        } else {
            Self::Link(error)
        }
    }
}
