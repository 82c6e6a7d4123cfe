//! Why a connection ended, in sentences.

use std::io;
use std::time::Duration;

/// Why a connection ended or did not come about. Readers, writers and connectors give it within an [`io::Error`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum End {
    /// Nothing came.
    #[error("the other side was silent for {}, so the connection counts as broken", seconds(*.0))]
    Silent(Duration),
    /// Nothing of what is written was taken.
    #[error("the other side took nothing for {}, so the connection counts as broken", seconds(*.0))]
    Stalled(Duration),
    /// The breaker was called.
    #[error("the connection was broken off on this side")]
    BrokenOff,
    /// The command that was to reach the other side has ended.
    #[error("{what} ended ({status}){}", said(.last_line))]
    Command {
        /// What was run, for a person.
        what: String,
        /// How it ended.
        status: String,
        /// The last line that it wrote to its standard error, without control characters; empty if there is none.
        last_line: String,
    },
    /// One of the two sides does not take the other one.
    #[error("{0}")]
    Refused(String),
    /// Any other reason that is a sentence of its own.
    #[error("{0}")]
    Because(String),
}

/// A time for a person.
fn seconds(time: Duration) -> String {
    if time.subsec_millis() == 0 { format!("{} s", time.as_secs()) } else { format!("{} ms", time.as_millis()) }
}

fn said(last_line: &str) -> String {
    if last_line.is_empty() { String::new() } else { format!(": {last_line}") }
}

impl End {
    /// The reason within an error, if it is one of these.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// An error and what caused it, in one sentence.
    pub(crate) fn sentence(error: &dyn std::error::Error) -> String {
        let mut sentence = error.to_string();
        let mut cause = error.source();
        while let Some(deeper) = cause {
            sentence = format!("{sentence}: {deeper}");
            cause = deeper.source();
        }
        sentence
    }

    /// As an error of reading or writing.
    pub(crate) fn error(self) -> io::Error {
        let kind = match self {
            Self::Silent(_) | Self::Stalled(_) => io::ErrorKind::TimedOut,
            Self::BrokenOff => io::ErrorKind::ConnectionAborted,
            Self::Command { .. } => io::ErrorKind::BrokenPipe,
            Self::Refused(_) => io::ErrorKind::PermissionDenied,
            Self::Because(_) => io::ErrorKind::Other,
        };
        io::Error::new(kind, self)
    }
}
