//! What TLS's errors mean for a person.

use crate::End;
use failback_credentials::{Attempt, explain};
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970 by this machine's clock.
pub(crate) fn now() -> i64 {
    let since = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    i64::try_from(since(SystemTime::now())).unwrap_or(i64::MAX)
}

/// Why a secured connection ended.
pub(crate) fn end_of<C>(attempt: &Attempt<C>, error: &io::Error) -> End {
    if let Some(told) = explain(error) {
        return End::Refused(End::sentence(&attempt.explain(told)));
    }
    match error.kind() {
        // TLS says when a side has said all; without that, somebody cut the connection.
        io::ErrorKind::UnexpectedEof => {
            End::Because("the connection was cut, and the other side did not say that it was done".into())
        }
        _ => End::Because(format!("the connection broke: {error}")),
    }
}
