//! What a client asks for, and whether it may.

use crate::handshake::Agreed;
use crate::session::PIECE;
use crate::wire::{self, Request};
use failback_units::{ByteCount, ByteOffset, ByteRange};
use std::borrow::Cow;

/// What is to be done. The ranges lie on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// In one chunk, if `whole`.
    Read {
        range: ByteRange,
        whole: bool,
    },
    Write(ByteRange),
    Zero(ByteRange),
    Flush,
    /// Tell holes from data; in one descriptor, if `one`.
    Status {
        range: ByteRange,
        one: bool,
    },
    /// Nothing but a reply.
    Nothing,
    /// Finish, and close the connection.
    Leave,
}

/// What may be asked for on a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) size: ByteCount,
    pub(crate) writable: bool,
    pub(crate) agreed: Agreed,
}

/// Why a request fails, in the protocol's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// One of the errors of [`wire`].
    pub(crate) error: u32,
    /// For the user of the client.
    pub(crate) sentence: Cow<'static, str>,
    /// Where on the disk it happened.
    pub(crate) at: Option<ByteOffset>,
}

fn refused<T>(error: u32, sentence: &'static str) -> Result<T, Failure> {
    Err(Failure { error, sentence: Cow::Borrowed(sentence), at: None })
}

/// Bytes that follow a request.
pub(crate) fn payload(request: &Request) -> u32 {
    if request.command.get() == wire::CMD_WRITE { request.length.get() } else { 0 }
}

impl Rules {
    /// What a request is to lead to.
    pub(crate) fn check(&self, request: &Request) -> Result<Task, Failure> {
        let command = request.command.get();
        // FUA is allowed with every command. Nothing has to follow from it: an overlay is as durable as it will ever be.
        let allowed = match command {
            wire::CMD_READ if self.agreed.structured => wire::CMD_FLAG_DF,
            wire::CMD_WRITE_ZEROES => wire::CMD_FLAG_NO_HOLE,
            wire::CMD_BLOCK_STATUS => wire::CMD_FLAG_REQ_ONE,
            _ => 0,
        };
        let flags = request.flags.get();
        if flags & !(allowed | wire::CMD_FLAG_FUA) != 0 {
            return refused(wire::EINVAL, "the request has a flag that does not belong to its command");
        }
        match command {
            wire::CMD_DISC => Ok(Task::Leave),
            wire::CMD_FLUSH if self.writable => Ok(Task::Flush),
            wire::CMD_FLUSH => Ok(Task::Nothing),
            wire::CMD_READ => self.read(request, flags & wire::CMD_FLAG_DF != 0),
            wire::CMD_WRITE | wire::CMD_WRITE_ZEROES | wire::CMD_TRIM => self.change(request),
            wire::CMD_CACHE => match self.range(request) {
                Some(_) => Ok(Task::Nothing),
                None => refused(wire::EINVAL, BEYOND),
            },
            wire::CMD_BLOCK_STATUS => self.status(request, flags & wire::CMD_FLAG_REQ_ONE != 0),
            _ => refused(wire::EINVAL, "this server does not have the command"),
        }
    }

    fn read(&self, request: &Request, whole: bool) -> Result<Task, Failure> {
        if request.length.get() > wire::MAX_PAYLOAD {
            return refused(wire::EINVAL, "a read has at most 32 MiB");
        }
        let Some(range) = self.range(request) else { return refused(wire::EINVAL, BEYOND) };
        if whole && range.count() > ByteCount::of_memory(PIECE) {
            return refused(wire::EOVERFLOW, "a read in one piece has at most 512 KiB");
        }
        Ok(Task::Read { range, whole })
    }

    fn change(&self, request: &Request) -> Result<Task, Failure> {
        if !self.writable {
            return refused(wire::EPERM, "the disk is served for reading only");
        }
        let command = request.command.get();
        match self.range(request) {
            Some(range) if command == wire::CMD_WRITE => Ok(Task::Write(range)),
            Some(range) => Ok(Task::Zero(range)),
            None if command == wire::CMD_TRIM => refused(wire::EINVAL, BEYOND),
            None => refused(wire::ENOSPC, BEYOND),
        }
    }

    fn status(&self, request: &Request, one: bool) -> Result<Task, Failure> {
        if !self.agreed.block_status {
            return refused(wire::EINVAL, "base:allocation was not selected");
        }
        match self.range(request) {
            Some(range) if !range.is_empty() => Ok(Task::Status { range, one }),
            Some(_) => refused(wire::EINVAL, "there is no status of no bytes"),
            None => refused(wire::EINVAL, BEYOND),
        }
    }

    fn range(&self, request: &Request) -> Option<ByteRange> {
        let offset = ByteOffset::new(request.offset.get())?;
        let count = ByteCount::new(u64::from(request.length.get()))?;
        ByteRange::new(offset, count).filter(|range| range.fits(self.size))
    }
}

const BEYOND: &str = "the request reaches beyond the end of the disk";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: u64 = 1 << 30;

    fn rules(writable: bool, structured: bool) -> Rules {
        let agreed = Agreed { structured, block_status: structured };
        Rules { size: ByteCount::new(SIZE).unwrap(), writable, agreed }
    }

    fn request(command: u16, flags: u16, offset: u64, length: u32) -> Request {
        Request {
            magic: wire::REQUEST_MAGIC.into(),
            flags: flags.into(),
            command: command.into(),
            cookie: [0; 8],
            offset: offset.into(),
            length: length.into(),
        }
    }

    fn error(rules: Rules, command: u16, flags: u16, offset: u64, length: u32) -> Option<u32> {
        rules.check(&request(command, flags, offset, length)).err().map(|failure| failure.error)
    }

    #[test]
    fn nothing_is_written_without_an_overlay() {
        for command in [wire::CMD_WRITE, wire::CMD_WRITE_ZEROES, wire::CMD_TRIM] {
            assert_eq!(error(rules(false, true), command, 0, 0, 512), Some(wire::EPERM));
            assert_eq!(error(rules(true, true), command, wire::CMD_FLAG_FUA, 0, 512), None);
        }
    }

    #[test]
    fn beyond_the_end() {
        for (command, wanted) in [
            (wire::CMD_READ, wire::EINVAL),
            (wire::CMD_TRIM, wire::EINVAL),
            (wire::CMD_CACHE, wire::EINVAL),
            (wire::CMD_BLOCK_STATUS, wire::EINVAL),
            (wire::CMD_WRITE, wire::ENOSPC),
            (wire::CMD_WRITE_ZEROES, wire::ENOSPC),
        ] {
            for (offset, length) in [(SIZE, 1), (SIZE - 1, 2), (u64::MAX, 1), (u64::MAX - 1, 2), (1 << 63, 0)] {
                assert_eq!(error(rules(true, true), command, 0, offset, length), Some(wanted), "{command}, {offset}");
            }
            assert_eq!(error(rules(true, true), command, 0, SIZE - 1, 1), None);
        }
    }

    #[test]
    fn flags_belong_to_commands_and_to_what_was_agreed() {
        assert_eq!(error(rules(false, true), wire::CMD_READ, wire::CMD_FLAG_DF, 0, 1), None);
        assert_eq!(error(rules(false, false), wire::CMD_READ, wire::CMD_FLAG_DF, 0, 1), Some(wire::EINVAL));
        assert_eq!(error(rules(false, true), wire::CMD_FLUSH, wire::CMD_FLAG_DF, 0, 0), Some(wire::EINVAL));
        assert_eq!(error(rules(true, true), wire::CMD_WRITE_ZEROES, wire::CMD_FLAG_NO_HOLE, 0, 1), None);
        assert_eq!(error(rules(true, true), wire::CMD_TRIM, wire::CMD_FLAG_NO_HOLE, 0, 1), Some(wire::EINVAL));
        assert_eq!(error(rules(false, true), wire::CMD_BLOCK_STATUS, wire::CMD_FLAG_REQ_ONE, 0, 1), None);
        assert_eq!(error(rules(false, true), wire::CMD_READ, 1 << 15, 0, 1), Some(wire::EINVAL));
        assert_eq!(error(rules(false, false), wire::CMD_BLOCK_STATUS, 0, 0, 1), Some(wire::EINVAL));
    }

    #[test]
    fn what_is_too_long_or_unknown() {
        assert_eq!(error(rules(false, true), wire::CMD_READ, 0, 0, wire::MAX_PAYLOAD), None);
        assert_eq!(error(rules(false, true), wire::CMD_READ, 0, 0, wire::MAX_PAYLOAD + 1), Some(wire::EINVAL));
        let df = wire::CMD_FLAG_DF;
        assert_eq!(error(rules(false, true), wire::CMD_READ, df, 0, 512 << 10), None);
        assert_eq!(error(rules(false, true), wire::CMD_READ, df, 0, (512 << 10) + 1), Some(wire::EOVERFLOW));
        assert_eq!(error(rules(false, true), wire::CMD_BLOCK_STATUS, 0, 0, 0), Some(wire::EINVAL));
        assert_eq!(error(rules(true, true), 8, 0, 0, 0), Some(wire::EINVAL));
    }

    proptest! {
        #[test]
        fn every_task_lies_on_the_disk(command in 0..10_u16, flags: u16, offset: u64, length: u32, structured: bool) {
            for flags in [flags, 0] {
                for offset in [offset, offset % (SIZE + 2)] {
                    let task = rules(true, structured).check(&request(command, flags, offset, length));
                    match task {
                        Ok(
                            Task::Read { range, .. }
                            | Task::Write(range)
                            | Task::Zero(range)
                            | Task::Status { range, .. },
                        ) => {
                            prop_assert!(range.fits(ByteCount::new(SIZE).unwrap()));
                            prop_assert_eq!(range.count().get(), u64::from(length));
                        }
                        Ok(Task::Flush | Task::Nothing | Task::Leave) => {}
                        Err(failure) => prop_assert!(failure.error != 0),
                    }
                }
            }
        }
    }
}
