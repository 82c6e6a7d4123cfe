//! Why a token let nobody in.

use super::wire::verdict;
use crate::tls::Refusal;
use crate::trust::TrustError;

/// Why a token let nobody in. Both sides say the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnrolRefusal {
    /// No token here has this secret.
    #[error("the server has given out no such token: take the newest one for this machine, or have a new one made")]
    Wrong,
    /// Another key used it, or this one in another way.
    #[error("the token has been used: if not by this machine, revoke who used it; have a new one made")]
    Used,
    /// Its time is over.
    #[error("the token has expired by the server's clock: have a new one made, and set the clock if it is wrong")]
    Expired,
    /// The client's key was revoked.
    #[error("this machine's key was revoked on the server: make a new key, and enrol that one")]
    Revoked,
    /// Another key has the name.
    #[error(
        "the name that the token gives is another machine's by now: revoke that one on the server, or have a new token made"
    )]
    NameTaken,
    /// There were too many tries.
    #[error("there were too many tries to enrol: wait {wait} seconds and use the same token again")]
    TooOften {
        /// How many seconds to wait.
        wait: u32,
    },
    /// The token is of the future.
    #[error(
        "the server's clock is behind the time at which it made the token: set its clock, and use the same token again"
    )]
    ClockBehind,
    /// The server could not do it.
    #[error("the server could not enrol this machine: look at its log, and then use the same token again")]
    Failed,
    /// The client's message is not one.
    #[error(
        "the server does not understand how this machine wants to be enrolled: use the same version of failback on both"
    )]
    NotUnderstood,
}

impl EnrolRefusal {
    pub(super) const fn verdict(self) -> u8 {
        match self {
            Self::Wrong => verdict::WRONG,
            Self::Used => verdict::USED,
            Self::Expired => verdict::EXPIRED,
            Self::Revoked => verdict::REVOKED,
            Self::NameTaken => verdict::NAME_TAKEN,
            Self::TooOften { .. } => verdict::TOO_OFTEN,
            Self::ClockBehind => verdict::CLOCK_BEHIND,
            Self::Failed => verdict::FAILED,
            Self::NotUnderstood => verdict::NOT_UNDERSTOOD,
        }
    }

    pub(super) const fn of_verdict(code: u8, wait: u32) -> Option<Self> {
        Some(match code {
            verdict::WRONG => Self::Wrong,
            verdict::USED => Self::Used,
            verdict::EXPIRED => Self::Expired,
            verdict::REVOKED => Self::Revoked,
            verdict::NAME_TAKEN => Self::NameTaken,
            verdict::TOO_OFTEN => Self::TooOften { wait },
            verdict::CLOCK_BEHIND => Self::ClockBehind,
            verdict::FAILED => Self::Failed,
            verdict::NOT_UNDERSTOOD => Self::NotUnderstood,
            _ => return None,
        })
    }
}

/// Why the server let nobody in, for its own log.
#[derive(Debug, thiserror::Error)]
pub enum EnrolFailure {
    /// The client's fault, or nobody's.
    #[error(transparent)]
    Refused(#[from] EnrolRefusal),
    /// The server's.
    #[error("a machine could not be enrolled")]
    Store(#[source] TrustError),
    /// The connection is not one for enrolment.
    #[error("a machine could not be enrolled")]
    Connection(#[source] Refusal),
}

impl EnrolFailure {
    /// What the client is told.
    #[must_use]
    pub const fn told(&self) -> EnrolRefusal {
        match self {
            Self::Refused(refusal) => *refusal,
            Self::Store(_) => EnrolRefusal::Failed,
            Self::Connection(_) => EnrolRefusal::NotUnderstood,
        }
    }
}

/// Why a client is not enrolled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// The server refused.
    #[error(transparent)]
    Refused(#[from] EnrolRefusal),
    /// The server said something else than an answer.
    #[error("the server's answer is not understood: use the same version of failback on both sides")]
    NotUnderstood,
}
