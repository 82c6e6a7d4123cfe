//! An operation on its way: which call comes next, and what its outcome means. Both engines carry out these calls.

use super::medium::{MAX_PIECE, Medium, Piece, Zeroing};
use crate::{
    Action, Buffer, Completion, IoError, Operation,
    transfer::{Next, Transfer, read_ended, write_ended},
};
use failback_units::{ByteCount, ByteOffset, ByteRange};
use std::{
    io,
    os::fd::RawFd,
    sync::{Arc, OnceLock},
};

/// One call of the kernel.
///
/// The descriptor and the memory belong to the [`Task`] that made it, and are valid for as long as that exists.
#[derive(Clone, Copy, Debug)]
pub(super) enum Call {
    Read { fd: RawFd, at: u64, memory: *mut u8, bytes: u32 },
    Write { fd: RawFd, at: u64, memory: *const u8, bytes: u32 },
    Fallocate { fd: RawFd, mode: i32, at: u64, bytes: u64 },
    Flush { fd: RawFd },
}

/// An operation, with everything the kernel may reach on its behalf: the memory, and the open descriptions.
pub(super) struct Task {
    token: u64,
    medium: Arc<Medium>,
    work: Work,
    transfer: Transfer,
    /// Whether it keeps to the page cache although it is aligned.
    cached: bool,
    /// The call under way.
    step: Step,
}

enum Work {
    Read(Buffer),
    Write(Buffer),
    Zero(Zeroing),
    Flush,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    None,
    Piece(Piece),
    Fallocate(u64),
    Flush,
}

/// The zeroes that are written where a device has no better way; longer ranges take several writes.
const ZEROES_BYTES: usize = 1 << 20;

fn zeroes() -> &'static Buffer {
    static ZEROES: OnceLock<Buffer> = OnceLock::new();
    ZEROES.get_or_init(|| Buffer::zeroed(ZEROES_BYTES))
}

impl Task {
    /// An operation that lies on the medium; for any other, its completion with `EINVAL`.
    pub(super) fn new(medium: &Arc<Medium>, token: u64, operation: Operation) -> Result<Self, Completion> {
        let range_of = |at: ByteOffset, buffer: &Buffer| ByteRange::new(at, ByteCount::of_memory(buffer.len()));
        let (range, work, at) = match operation {
            Operation::Read { at, into } => (range_of(at, &into), Work::Read(into), at),
            Operation::Write { at, from } => (range_of(at, &from), Work::Write(from), at),
            Operation::Zero { range } => (Some(range), Work::Zero(medium.zeroing()), range.start()),
            Operation::Flush => (Some(ByteRange::default()), Work::Flush, ByteOffset::ZERO),
        };
        let fits = range.filter(|range| range.fits(medium.size()));
        let transfer = Transfer::new(fits.unwrap_or_default());
        let mut task = Self { token, medium: Arc::clone(medium), work, transfer, cached: false, step: Step::None };
        let Some(range) = fits else {
            let count =
                task.buffer().map_or_else(|| range.unwrap_or_default().count(), |b| ByteCount::of_memory(b.len()));
            let source = io::Error::from_raw_os_error(libc::EINVAL);
            let mut error = IoError::whole(task.action(), medium.name(), source);
            (error.at, error.count) = (at, count);
            return Err(Completion { token, buffer: task.work.into_buffer(), result: Err(error) });
        };
        task.cached = matches!(task.work, Work::Read(_)) && !range.is_empty() && medium.reads_cached(range);
        Ok(task)
    }

    /// The call to make now, or `None` if nothing is left to do.
    pub(super) fn call(&mut self) -> Option<Call> {
        let left = self.transfer.left();
        if left.is_empty() && !matches!(self.work, Work::Flush) {
            return None;
        }
        let at = left.start().get();
        let done = self.transfer.done().to_usize()?;
        let (step, call) = match &mut self.work {
            Work::Read(buffer) => {
                let memory = buffer[done..].as_mut_ptr();
                let piece = self.medium.piece(left, memory.addr(), self.cached);
                let fd = self.medium.descriptor(piece.direct);
                (Step::Piece(piece), Call::Read { fd, at, memory, bytes: call_bytes(piece) })
            }
            Work::Write(buffer) => {
                let memory = buffer[done..].as_ptr();
                let piece = self.medium.piece(left, memory.addr(), self.cached);
                let fd = self.medium.descriptor(piece.direct);
                (Step::Piece(piece), Call::Write { fd, at, memory, bytes: call_bytes(piece) })
            }
            Work::Zero(method) => zeroing_call(&self.medium, *method, left, self.cached),
            Work::Flush => (Step::Flush, Call::Flush { fd: self.medium.descriptor(false) }),
        };
        self.step = step;
        Some(call)
    }

    /// Takes note of how the latest call ended: with a number of bytes (0 for calls that do not count) or an errno.
    pub(super) fn advance(&mut self, result: Result<u64, i32>) -> Next {
        let step = std::mem::replace(&mut self.step, Step::None);
        match (step, result) {
            // The kernel wants another alignment than it told. There is always the other way.
            (Step::Piece(Piece { direct: true, .. }), Err(libc::EINVAL)) => {
                self.cached = true;
                Next::Continue
            }
            (Step::Fallocate(_), Err(errno)) if self.next_zeroing(errno) => Next::Continue,
            (Step::Fallocate(bytes), Ok(_)) => self.transfer.advance(Ok(bytes), write_ended),
            (Step::Flush, Ok(_)) => Next::Done,
            (_, result) => {
                let ended = if matches!(self.work, Work::Read(_)) { read_ended } else { write_ended };
                self.transfer.advance(result, ended)
            }
        }
    }

    /// Turns to the next way of zeroing if `errno` says that the present one does not work here.
    fn next_zeroing(&mut self, errno: i32) -> bool {
        let Work::Zero(method) = &mut self.work else { return false };
        match errno {
            // Not known to the file system, the driver or the disk; EREMOTEIO is what the block layer makes of a SCSI
            // disk that answers a zeroing command with "invalid field"; EPERM comes from sandboxes.
            libc::EOPNOTSUPP
            | libc::EINVAL
            | libc::ENODEV
            | libc::ENOSYS
            | libc::ENOTTY
            | libc::EPERM
            | libc::EREMOTEIO => self.medium.zeroing_refused(*method),
            // Cached pages of the range are dirty, and on a claimed block device the kernel drops such pages only for the
            // description that holds the claim.
            libc::EBUSY => {}
            _ => return false,
        }
        *method = method.next();
        true
    }

    /// Ends the operation.
    pub(super) fn finish(self, result: io::Result<()>) -> Completion {
        let action = self.action();
        let range = self.transfer.range();
        if action != Action::Read && action != Action::Flush {
            // A failed write may have changed something too.
            self.medium.changed();
        }
        let result = match result {
            Ok(()) => {
                self.medium.completed(action, range.count());
                Ok(())
            }
            Err(source) => Err(IoError::new(action, self.medium.name(), range, source)),
        };
        Completion { token: self.token, buffer: self.work.into_buffer(), result }
    }

    /// Gives the operation up while the kernel may still be at it: its memory and descriptions are never freed.
    pub(super) fn abandon(self, errno: i32) -> Completion {
        let source = io::Error::from_raw_os_error(errno);
        let error = IoError::new(self.action(), self.medium.name(), self.transfer.range(), source);
        let token = self.token;
        std::mem::forget(self);
        Completion { token, buffer: None, result: Err(error) }
    }

    fn action(&self) -> Action {
        match self.work {
            Work::Read(_) => Action::Read,
            Work::Write(_) => Action::Write,
            Work::Zero(_) => Action::Zero,
            Work::Flush => Action::Flush,
        }
    }

    fn buffer(&self) -> Option<&Buffer> {
        match &self.work {
            Work::Read(buffer) | Work::Write(buffer) => Some(buffer),
            Work::Zero(_) | Work::Flush => None,
        }
    }
}

impl Work {
    fn into_buffer(self) -> Option<Buffer> {
        match self {
            Self::Read(buffer) | Self::Write(buffer) => Some(buffer),
            Self::Zero(_) | Self::Flush => None,
        }
    }
}

fn call_bytes(piece: Piece) -> u32 {
    const { assert!(MAX_PIECE <= 1 << 30, "the kernel takes 32 bits for the length of a transfer") };
    u32::try_from(piece.bytes).unwrap_or(1 << 30)
}

/// What to do for the first part of a range to be zeroed: a misaligned end is written, what lies between is left to the
/// file system or the device, if it can.
fn zeroing_call(medium: &Medium, method: Zeroing, left: ByteRange, cached: bool) -> (Step, Call) {
    let granule = medium.zeroing_granule();
    let (at, count) = (left.start().get(), left.count().get());
    let inside = count - count % granule;
    let misaligned = at % granule;
    if misaligned == 0 && inside > 0 && method != Zeroing::Write {
        // In pieces, since some block devices write zeroes one by one, and a signal or a drop should not wait for hours.
        let bytes = inside.min(MAX_PIECE);
        return (
            Step::Fallocate(bytes),
            Call::Fallocate { fd: medium.descriptor(false), mode: method.fallocate_mode(), at, bytes },
        );
    }
    let mut bytes = count.min(ByteCount::of_memory(ZEROES_BYTES).get());
    if misaligned != 0 {
        bytes = bytes.min(granule - misaligned);
    } else if inside > 0 {
        bytes = bytes.min(inside);
    }
    let memory = zeroes().as_ptr();
    let count = ByteCount::new(bytes).unwrap_or_default();
    let range = ByteRange::new(left.start(), count).unwrap_or(left);
    let piece = medium.piece(range, memory.addr(), cached);
    (Step::Piece(piece), Call::Write { fd: medium.descriptor(piece.direct), at, memory, bytes: call_bytes(piece) })
}
