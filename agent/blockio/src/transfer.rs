//! The duties that every engine has alike: to go on after a short transfer, to retry what may be retried, and no more.

use failback_units::{ByteCount, ByteOffset, ByteRange};
use std::{io, time::Duration};

/// How often `EINTR` and `EAGAIN` are answered with another try before any byte has moved.
///
/// With the pauses below that is about two seconds: long enough for a passing shortage of memory or requests, short
/// enough not to look like a hang.
const TRIES: u32 = 1000;
/// The tries that follow each other at once.
const TRIES_WITHOUT_PAUSE: u32 = 8;
const PAUSE: Duration = Duration::from_millis(2);

/// How far an operation has come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    range: ByteRange,
    at: ByteOffset,
    tries: u32,
}

/// What is to be done after a part of an operation.
#[derive(Debug)]
pub(crate) enum Next {
    /// The rest of it.
    Continue,
    /// The same again, after a pause.
    Retry(Duration),
    /// Nothing: all is done.
    Done,
    /// Nothing: it failed.
    Failed(io::Error),
}

impl Transfer {
    pub(crate) fn new(range: ByteRange) -> Self {
        Self { range, at: range.start(), tries: 0 }
    }

    /// All of the operation.
    pub(crate) fn range(&self) -> ByteRange {
        self.range
    }

    /// What is still to be done.
    pub(crate) fn left(&self) -> ByteRange {
        ByteRange::between(self.at, self.range.end()).unwrap_or_default()
    }

    /// How many bytes are done.
    pub(crate) fn done(&self) -> ByteCount {
        self.at.distance_from(self.range.start()).unwrap_or_default()
    }

    /// Takes note of what the kernel said about the latest part: how many bytes it moved, or an errno.
    ///
    /// `ended` makes the error for a transfer that moved nothing although something was left.
    pub(crate) fn advance(&mut self, result: Result<u64, i32>, ended: fn() -> io::Error) -> Next {
        match result {
            Ok(0) if !self.left().is_empty() => Next::Failed(ended()),
            Ok(bytes) => {
                self.tries = 0;
                // The kernel never says more than it was asked for; if it did, nothing it says could be relied on.
                match ByteCount::new(bytes).and_then(|count| self.at.checked_add(count)) {
                    Some(at) if at < self.range.end() => {
                        self.at = at;
                        Next::Continue
                    }
                    Some(at) if at == self.range.end() => {
                        self.at = at;
                        Next::Done
                    }
                    _ => Next::Failed(io::Error::other("the kernel reports more bytes than it was asked to move")),
                }
            }
            Err(libc::EINTR | libc::EAGAIN) if self.tries < TRIES => {
                self.tries += 1;
                Next::Retry(if self.tries > TRIES_WITHOUT_PAUSE { PAUSE } else { Duration::ZERO })
            }
            Err(errno) => Next::Failed(io::Error::from_raw_os_error(errno)),
        }
    }
}

/// A read met the end of the medium before the device's size.
pub(crate) fn read_ended() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the device ends earlier than when it was opened: it was truncated or shrunk meanwhile",
    )
}

/// A write moved nothing and gave no reason.
pub(crate) fn write_ended() -> io::Error {
    io::Error::new(io::ErrorKind::WriteZero, "the kernel wrote nothing and gave no error")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transfer(start: u64, count: u64) -> Transfer {
        Transfer::new(ByteRange::new(ByteOffset::new(start).unwrap(), ByteCount::new(count).unwrap()).unwrap())
    }

    #[test]
    fn short_transfers_are_continued() {
        let mut transfer = transfer(100, 10);
        assert!(matches!(transfer.advance(Ok(3), read_ended), Next::Continue));
        assert_eq!((transfer.done().get(), transfer.left().to_string()), (3, "103..110".to_owned()));
        assert!(matches!(transfer.advance(Ok(7), read_ended), Next::Done));
        assert!(transfer.left().is_empty());
    }

    #[test]
    fn nothing_before_the_end_is_an_error() {
        let Next::Failed(error) = transfer(0, 10).advance(Ok(0), read_ended) else { panic!("must fail") };
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn more_than_asked_for_is_an_error() {
        assert!(matches!(transfer(0, 10).advance(Ok(11), read_ended), Next::Failed(_)));
        assert!(matches!(transfer(5, 10).advance(Ok(u64::MAX), read_ended), Next::Failed(_)));
    }

    #[test]
    fn retries_are_bounded_and_start_anew_after_progress() {
        let mut transfer = transfer(0, 10);
        for _ in 0..TRIES {
            assert!(matches!(transfer.advance(Err(libc::EAGAIN), read_ended), Next::Retry(_)));
        }
        assert!(matches!(transfer.advance(Ok(1), read_ended), Next::Continue));
        for _ in 0..TRIES {
            assert!(matches!(transfer.advance(Err(libc::EINTR), read_ended), Next::Retry(_)));
        }
        let Next::Failed(error) = transfer.advance(Err(libc::EINTR), read_ended) else { panic!("must fail") };
        assert_eq!(error.raw_os_error(), Some(libc::EINTR));
    }

    #[test]
    fn every_other_error_comes_back_at_once() {
        for errno in [libc::EIO, libc::ENOSPC, libc::ETIMEDOUT, libc::EREMOTEIO] {
            let Next::Failed(error) = transfer(0, 10).advance(Err(errno), read_ended) else { panic!("must fail") };
            assert_eq!(error.raw_os_error(), Some(errno));
        }
    }
}
