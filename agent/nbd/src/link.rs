//! A socket to a client: messages in, messages out.

use crate::error::SessionError;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, sendmsg};
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Room for some hundred requests, or for one with a small payload: so much is taken from the socket in one call.
const BUFFER: usize = 16 << 10;

/// Whether a message is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Its first bytes, as many as were asked for, can be taken.
    Here,
    /// Nothing, or not enough of it, has come yet.
    NotYet,
    /// The client has closed the connection, and did so between two messages.
    Closed,
}

/// Whether to wait for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// As long as it takes: a client may be idle for ever.
    Yes,
    /// Not at all.
    No,
}

pub(crate) struct Link<'stream> {
    stream: &'stream UnixStream,
    patience: Duration,
    buffer: Box<[u8]>,
    /// What was received and not taken yet lies from `start` to `end`.
    start: usize,
    end: usize,
}

impl<'stream> Link<'stream> {
    /// `patience` is how long a client may pause in the middle of a message.
    pub(crate) fn new(stream: &'stream UnixStream, patience: Duration) -> Result<Self, SessionError> {
        stream.set_nonblocking(false).map_err(SessionError::Socket)?;
        stream.set_read_timeout(Some(patience)).map_err(SessionError::Socket)?;
        Ok(Self { stream, patience, buffer: vec![0; BUFFER].into_boxed_slice(), start: 0, end: 0 })
    }

    /// Waits for the first `need` bytes of the next message, at most [`BUFFER`], or looks whether they are there.
    pub(crate) fn arrival(&mut self, need: usize, wait: Wait) -> Result<Arrival, SessionError> {
        while self.end - self.start < need {
            if self.start > 0 {
                self.buffer.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            }
            let flags = if wait == Wait::No { MsgFlags::MSG_DONTWAIT } else { MsgFlags::empty() };
            match recv(self.stream.as_raw_fd(), &mut self.buffer[self.end..], flags) {
                // The error is what a client leaves behind that ends with replies unread.
                Ok(0) | Err(Errno::ECONNRESET) if self.end == 0 => return Ok(Arrival::Closed),
                Ok(0) | Err(Errno::ECONNRESET) => return Err(SessionError::Gone),
                Ok(count) => self.end += count,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) if wait == Wait::No => return Ok(Arrival::NotYet),
                Err(Errno::EAGAIN) if self.end == 0 => {}
                Err(Errno::EAGAIN) => return Err(SessionError::Stalled(self.patience)),
                Err(errno) => return Err(failed(errno)),
            }
        }
        Ok(Arrival::Here)
    }

    /// Whether something was received that was not taken yet.
    pub(crate) fn has_more(&self) -> bool {
        self.end > self.start
    }

    /// Takes bytes of which [`arrival`](Link::arrival) said that they are here.
    pub(crate) fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut taken = [0; N];
        taken.copy_from_slice(&self.buffer[self.start..self.start + N]);
        self.start += N;
        taken
    }

    /// Fills `into` with what comes next of a message.
    pub(crate) fn receive(&mut self, mut into: &mut [u8]) -> Result<(), SessionError> {
        let buffered = into.len().min(self.end - self.start);
        let (front, rest) = into.split_at_mut(buffered);
        front.copy_from_slice(&self.buffer[self.start..self.start + buffered]);
        self.start += buffered;
        into = rest;
        while !into.is_empty() {
            match recv(self.stream.as_raw_fd(), into, MsgFlags::empty()) {
                Ok(0) | Err(Errno::ECONNRESET) => return Err(SessionError::Gone),
                Ok(count) => into = &mut into[count..],
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Err(SessionError::Stalled(self.patience)),
                Err(errno) => return Err(failed(errno)),
            }
        }
        Ok(())
    }

    /// Throws away what comes next of a message.
    pub(crate) fn skip(&mut self, count: u32) -> Result<(), SessionError> {
        let mut left = in_memory(count);
        let mut sink = [0; 4096];
        while left > 0 {
            let piece = left.min(sink.len());
            self.receive(&mut sink[..piece])?;
            left -= piece;
        }
        Ok(())
    }

    /// Sends all of the parts, one after the other. A client may take its time.
    pub(crate) fn send(&self, mut parts: &mut [IoSlice<'_>]) -> Result<(), SessionError> {
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            match sendmsg::<()>(self.stream.as_raw_fd(), parts, &[], MsgFlags::MSG_NOSIGNAL, None) {
                Ok(count) => IoSlice::advance_slices(&mut parts, count),
                Err(Errno::EINTR) => {}
                Err(Errno::EPIPE | Errno::ECONNRESET) => return Err(SessionError::Gone),
                Err(errno) => return Err(failed(errno)),
            }
        }
        Ok(())
    }
}

fn failed(errno: Errno) -> SessionError {
    SessionError::Socket(io::Error::from(errno))
}

/// A length on the wire as one in memory.
pub(crate) fn in_memory(count: u32) -> usize {
    // Linux runs on nothing with less than 32 bits.
    usize::try_from(count).unwrap_or(usize::MAX)
}
