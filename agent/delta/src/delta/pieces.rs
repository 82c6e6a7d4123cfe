//! How a payload is cut and packed, so that a part of it can be had without the whole.

use crate::layout::PIECE_BYTES;
use std::cell::RefCell;
use std::ops::Range;
use zstd::bulk::Decompressor;

thread_local! {
    /// What zstd unpacks with. To make it for every piece anew would cost more than small pieces themselves.
    static UNPACKER: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// The pieces of a frame's payload: where each stands in its frame, and how long its content is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pieces {
    content_len: usize,
    /// The length of the content of every piece but the last.
    unit: usize,
    packing: Packing,
    /// Where the pieces stand: piece n from `ends[n]` to `ends[n + 1]`.
    ends: Vec<usize>,
}

/// What stands for a piece's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    /// Itself.
    Plain,
    /// A zstd frame.
    Zstd,
    /// A zstd frame if it is shorter than the content, else the content itself.
    Either,
}

/// The payload of [`Pieces`]: the stored length of each as `u32`, then one after the other. `None` if zstd fails.
pub(super) fn pack(content: &[u8], level: i32) -> Option<Vec<u8>> {
    let mut compressor = zstd::bulk::Compressor::new(level).ok()?;
    let count = content.len().div_ceil(PIECE_BYTES);
    let mut packed = vec![0; count * 4];
    for (number, piece) in content.chunks(PIECE_BYTES).enumerate() {
        let shorter = compressor.compress(piece).ok().filter(|shorter| shorter.len() < piece.len());
        let stored = shorter.as_deref().unwrap_or(piece);
        packed[number * 4..][..4].copy_from_slice(&u32::try_from(stored.len()).ok()?.to_le_bytes());
        packed.extend_from_slice(stored);
    }
    Some(packed)
}

/// Unpacks a zstd frame; its length. `None` if it is none, or longer than `into`.
fn unpack_frame(stored: &[u8], into: &mut [u8]) -> Option<usize> {
    UNPACKER.with_borrow_mut(|unpacker| {
        if unpacker.is_none() {
            *unpacker = Decompressor::new().ok();
        }
        unpacker.as_mut()?.decompress_to_buffer(stored, into).ok()
    })
}

impl Pieces {
    /// Content that is stored as it is.
    pub(super) fn plain(content_len: usize) -> Self {
        let count = content_len.div_ceil(PIECE_BYTES);
        let ends = (0..=count).map(|number| (number * PIECE_BYTES).min(content_len)).collect();
        Self { content_len, unit: PIECE_BYTES, packing: Packing::Plain, ends }
    }

    /// All of the content in one zstd frame, whatever its length.
    pub(super) fn single(content_len: usize, stored_len: usize) -> Self {
        let ends = if content_len == 0 && stored_len == 0 { vec![0] } else { vec![0, stored_len] };
        Self { content_len, unit: content_len.max(1), packing: Packing::Zstd, ends }
    }

    /// What the table at the start of a payload says; `None` if its lengths do not fit.
    pub(super) fn of(stored: &[u8], content_len: usize) -> Option<Self> {
        let count = content_len.div_ceil(PIECE_BYTES);
        let (table, _) = stored.split_at_checked(count.checked_mul(4)?)?;
        let mut end = table.len();
        let mut ends = Vec::with_capacity(count + 1);
        ends.push(end);
        for (number, len) in table.as_chunks::<4>().0.iter().enumerate() {
            let len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
            let content = PIECE_BYTES.min(content_len - number * PIECE_BYTES);
            end = end.checked_add(len).filter(|_| len > 0 && len <= content)?;
            ends.push(end);
        }
        (end == stored.len()).then_some(Self { content_len, unit: PIECE_BYTES, packing: Packing::Either, ends })
    }

    /// The same pieces behind `before` bytes.
    pub(super) fn behind(mut self, before: usize) -> Self {
        self.ends.iter_mut().for_each(|end| *end += before);
        self
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.ends.len() - 1
    }

    /// The piece that holds this byte of the content.
    #[must_use]
    pub const fn holding(&self, at: usize) -> usize {
        at / self.unit
    }

    /// The bytes of the content that a piece holds.
    #[must_use]
    pub fn content(&self, number: usize) -> Range<usize> {
        let start = number * self.unit;
        start..(start + self.unit).min(self.content_len)
    }

    /// Where a piece is stored.
    #[must_use]
    pub fn stored(&self, number: usize) -> Range<usize> {
        self.ends[number]..self.ends[number + 1]
    }

    /// Unpacks a piece from the bytes that are stored for it. `false` if they are not that piece.
    #[must_use]
    pub fn unpack(&self, number: usize, stored: &[u8], into: &mut [u8]) -> bool {
        if into.len() != self.content(number).len() {
            return false;
        }
        let same_length = stored.len() == into.len();
        match self.packing {
            Packing::Plain | Packing::Either if same_length => into.copy_from_slice(stored),
            Packing::Plain => return false,
            Packing::Zstd | Packing::Either => {
                return unpack_frame(stored, into) == Some(into.len());
            }
        }
        true
    }

    /// Unpacks all pieces of a payload.
    pub(super) fn unpack_all(&self, stored: &[u8], into: &mut [u8]) -> bool {
        into.len() == self.content_len
            && (0..self.count()).all(|number| {
                stored
                    .get(self.stored(number))
                    .is_some_and(|stored| self.unpack(number, stored, &mut into[self.content(number)]))
            })
    }
}
