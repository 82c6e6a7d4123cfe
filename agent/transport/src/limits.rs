//! How long anything is waited for.

use failback_replication::ALIVE_EVERY;
use std::time::Duration;

/// How long anything is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A connection is broken if nothing is heard for this time: three times [`ALIVE_EVERY`].
    pub silence: Duration,
    /// A connection is broken if the other side takes nothing of what is written for this time. It is longer than `silence`, since a
    /// target may be busy with its disk and take nothing meanwhile.
    pub stall: Duration,
    /// For a connection to be made: the name found, all its addresses tried, and keys shown.
    pub connect: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { silence: ALIVE_EVERY * 3, stall: ALIVE_EVERY * 12, connect: Duration::from_secs(20) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_says_the_same() {
        let document = include_str!("../TRANSPORT.md");
        let limits = Limits::default();
        for (what, limit) in [
            ("connecting: name, all addresses, handshake", limits.connect),
            ("nothing heard while somebody reads", limits.silence),
            ("nothing taken while somebody writes", limits.stall),
        ] {
            assert!(document.contains(&format!("| {what} | {} s |", limit.as_secs())), "{what}: {limit:?}");
        }
        assert_eq!(limits.silence, Duration::from_secs(45));
    }
}
