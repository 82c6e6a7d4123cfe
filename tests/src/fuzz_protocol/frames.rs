//! Prefaces and messages, as bytes.

use failback_replication::wire::{MAGIC, MESSAGE_MAX, RawHead, RawPreface, VERSION, kind};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

const HEAD: usize = size_of::<RawHead>();

/// What a side says first.
pub(super) fn preface(role: u8) -> Vec<u8> {
    let mut raw = RawPreface::new_zeroed();
    (raw.magic, raw.oldest, raw.newest, raw.role) = (MAGIC, VERSION.into(), VERSION.into(), role);
    raw.as_bytes().to_vec()
}

/// A message.
pub(super) fn message(kind: u8, payload: &[u8]) -> Vec<u8> {
    headed(u32::try_from(payload.len()).expect("messages are short"), kind, payload)
}

/// A message whose head says that it has another length.
pub(super) fn headed(len: u32, kind: u8, payload: &[u8]) -> Vec<u8> {
    [RawHead { len: len.into(), kind, reserved: [0; 3] }.as_bytes(), payload].concat()
}

/// A message that comes in pieces.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    /// A message whose bytes are all there, and its length with its head.
    pub(super) fn first_of(bytes: &[u8]) -> Option<(Self, usize)> {
        let (head, rest) = RawHead::read_from_prefix(bytes).ok()?;
        let len = usize::try_from(head.len.get()).ok().filter(|len| *len <= MESSAGE_MAX)?;
        let payload = rest.get(..len)?.to_vec();
        Some((Self { kind: head.kind, payload }, HEAD + len))
    }

    /// The payload, if it begins as it has to.
    pub(super) fn start<T: FromBytes>(&self) -> Option<(T, &[u8])> {
        T::read_from_prefix(&self.payload).ok()
    }
}

/// Messages of a side whose bytes come in pieces.
#[derive(Debug, Default)]
pub(super) struct Frames {
    bytes: Vec<u8>,
    has_begun: bool,
}

impl Frames {
    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next message, if it is whole. What a side of ours says is checked; of another one nothing follows what is no message.
    pub(super) fn next(&mut self, ours: Option<u8>) -> Option<Frame> {
        if !self.has_begun {
            let (preface, _) = RawPreface::read_from_prefix(&self.bytes).ok()?;
            if let Some(role) = ours {
                assert_eq!((preface.magic, preface.role), (MAGIC, role), "a side says first what it is");
            }
            self.bytes.drain(..size_of::<RawPreface>());
            self.has_begun = true;
        }
        if ours.is_some() && self.bytes.len() >= HEAD {
            let (head, _) = RawHead::read_from_prefix(&self.bytes).ok()?;
            assert!(head.reserved == [0; 3] && head.len.get() as usize <= MESSAGE_MAX, "{head:?}");
        }
        let (frame, len) = Frame::first_of(&self.bytes)?;
        self.bytes.drain(..len);
        if ours.is_some() && frame.kind == kind::REFUSE {
            super::is_shown(std::str::from_utf8(&frame.payload).expect("a sentence is UTF-8"));
        }
        Some(frame)
    }
}
