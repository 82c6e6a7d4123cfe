//! Replies, as they go over the wire.

use crate::error::SessionError;
use crate::link::Link;
use crate::request::Failure;
use crate::wire::{self, Chunk, DataChunk, Descriptor, ErrorChunk, HoleChunk, SimpleReply, StatusChunk};
use failback_blockio::{Buffer, IoError};
use failback_units::{ByteOffset, ByteRange};
use nix::errno::Errno;
use std::borrow::Cow;
use std::error::Error;
use std::io::IoSlice;
use zerocopy::IntoBytes;

pub(crate) type Cookie = [u8; 8];

impl Failure {
    /// What a device said, as the protocol says it. `at` is where the request, or the piece of it, begins.
    pub(crate) fn of(error: &IoError, at: Option<ByteOffset>) -> Self {
        let code = match error.source.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG) => wire::ENOSPC,
            Some(Errno::ENOMEM) => wire::ENOMEM,
            _ => wire::EIO,
        };
        let mut sentence = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            sentence.push_str(": ");
            sentence.push_str(&error.to_string());
            cause = error.source();
        }
        Self { error: code, sentence: Cow::Owned(sentence), at }
    }
}

/// A reply without content to any request but a structured read.
pub(crate) fn simple(link: &Link<'_>, cookie: Cookie, error: u32) -> Result<(), SessionError> {
    link.send(&mut [IoSlice::new(simple_header(cookie, error).as_bytes())])
}

/// The reply to a read where no structured ones were agreed on.
pub(crate) fn simple_data<'data>(
    link: &Link<'_>,
    cookie: Cookie,
    parts: impl Iterator<Item = &'data Buffer>,
) -> Result<(), SessionError> {
    let header = simple_header(cookie, 0);
    let header = std::iter::once(IoSlice::new(header.as_bytes()));
    let mut slices: Vec<_> = header.chain(parts.map(|part| IoSlice::new(part))).collect();
    link.send(&mut slices)
}

fn simple_header(cookie: Cookie, error: u32) -> SimpleReply {
    SimpleReply { magic: wire::SIMPLE_MAGIC.into(), error: error.into(), cookie }
}

fn chunk(cookie: Cookie, done: bool, kind: u16, length: usize) -> Chunk {
    Chunk {
        magic: wire::CHUNK_MAGIC.into(),
        flags: if done { wire::CHUNK_DONE } else { 0 }.into(),
        kind: kind.into(),
        cookie,
        // None is longer than a piece of a read.
        length: u32::try_from(length).unwrap_or(u32::MAX).into(),
    }
}

/// Ends a reply of which everything was said.
pub(crate) fn end(link: &Link<'_>, cookie: Cookie) -> Result<(), SessionError> {
    link.send(&mut [IoSlice::new(chunk(cookie, true, wire::CHUNK_NONE, 0).as_bytes())])
}

/// Content.
pub(crate) fn data(
    link: &Link<'_>,
    cookie: Cookie,
    done: bool,
    at: ByteOffset,
    content: &[u8],
) -> Result<(), SessionError> {
    let chunk = chunk(cookie, done, wire::CHUNK_DATA, size_of::<u64>() + content.len());
    let header = DataChunk { chunk, offset: at.get().into() };
    link.send(&mut [IoSlice::new(header.as_bytes()), IoSlice::new(content)])
}

/// Zeroes, which are not sent. Not for no bytes, and not for more than a read has.
pub(crate) fn hole(link: &Link<'_>, cookie: Cookie, done: bool, range: ByteRange) -> Result<(), SessionError> {
    let chunk = chunk(cookie, done, wire::CHUNK_HOLE, size_of::<HoleChunk>() - size_of::<Chunk>());
    let count = u32::try_from(range.count().get()).unwrap_or(u32::MAX);
    let hole = HoleChunk { chunk, offset: range.start().get().into(), count: count.into() };
    link.send(&mut [IoSlice::new(hole.as_bytes())])
}

/// What went wrong, with its sentence.
pub(crate) fn error(link: &Link<'_>, cookie: Cookie, done: bool, failure: &Failure) -> Result<(), SessionError> {
    let mut end = failure.sentence.len().min(wire::MAX_STRING);
    while !failure.sentence.is_char_boundary(end) {
        end -= 1;
    }
    let sentence = &failure.sentence.as_bytes()[..end];
    let offset = failure.at.map(|at| at.get().to_be_bytes());
    let offset = offset.as_ref().map_or(&[][..], |offset| &offset[..]);
    let kind = if offset.is_empty() { wire::CHUNK_ERROR } else { wire::CHUNK_ERROR_AT };
    let fields = size_of::<ErrorChunk>() - size_of::<Chunk>();
    let header = ErrorChunk {
        chunk: chunk(cookie, done, kind, fields + sentence.len() + offset.len()),
        error: failure.error.into(),
        length: u16::try_from(sentence.len()).unwrap_or(0).into(),
    };
    link.send(&mut [IoSlice::new(header.as_bytes()), IoSlice::new(sentence), IoSlice::new(offset)])
}

/// Holes and data.
pub(crate) fn status(link: &Link<'_>, cookie: Cookie, stretches: &[Descriptor]) -> Result<(), SessionError> {
    let stretches = stretches.as_bytes();
    let chunk = chunk(cookie, true, wire::CHUNK_STATUS, size_of::<u32>() + stretches.len());
    let header = StatusChunk { chunk, context: wire::CONTEXT_ID.into() };
    link.send(&mut [IoSlice::new(header.as_bytes()), IoSlice::new(stretches)])
}
