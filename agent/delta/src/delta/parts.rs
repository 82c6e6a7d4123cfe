//! Where the parts of a delta end, found out while its bytes arrive, before anything of it is believed.

use super::KIND;
use crate::FormatError;
use crate::layout::{
    DELTA_END_MAGIC, DELTA_MAGIC, FRAME_EXTENTS_MAX, FRAME_MAGIC, FRAME_VALUES_MAX, IDENTITY_MAX, MAP_MAGIC,
    MAP_PAGE_RUNS_MAX, MAX_FRAME_BYTES, RawDeltaEnd, RawDeltaHeader, RawExtent, RawFrame, RawMapPage, RawRun,
    TRAILER_VALUES_MAX,
};
use failback_hashtree::ChainingValue;
use zerocopy::FromBytes;

/// Follows a delta whose bytes come in pieces of any length, and knows where its last whole part ends.
///
/// Parts are the header with the identity, pages of the map, frames, and the trailer. Only their lengths are looked at: what they
/// hold is for a [`DeltaReader`](super::DeltaReader) to check.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The end of the last whole part.
    whole: u64,
    /// The start of the part that is under way, until its length is known.
    start: Vec<u8>,
    /// Bytes of it that are still to come, once that is known.
    left: u64,
    /// What came of it.
    here: u64,
    first: bool,
    ended: bool,
    key: Option<[u8; 32]>,
}

impl Default for Parts {
    fn default() -> Self {
        Self::new()
    }
}

impl Parts {
    /// Nothing has arrived.
    #[must_use]
    pub const fn new() -> Self {
        Self { whole: 0, start: Vec::new(), left: 0, here: 0, first: true, ended: false, key: None }
    }

    /// How many bytes the whole parts have together.
    #[must_use]
    pub const fn whole(&self) -> u64 {
        self.whole
    }

    /// The hash of the header, which names the delta, once the header is whole.
    #[must_use]
    pub const fn key(&self) -> Option<[u8; 32]> {
        self.key
    }

    /// Whether the trailer is whole: nothing may follow.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.ended
    }

    /// Takes in the next bytes.
    ///
    /// # Errors
    ///
    /// When they begin as no part of a delta does, or a part is longer than the format allows, or something follows the trailer.
    pub fn take(&mut self, mut bytes: &[u8]) -> Result<(), FormatError> {
        while !bytes.is_empty() {
            if self.ended {
                return Err(damaged("something follows its trailer"));
            }
            if self.left == 0 {
                let missing = self.head_len()? - self.start.len();
                let (head, rest) = bytes.split_at(missing.min(bytes.len()));
                self.start.extend_from_slice(head);
                bytes = rest;
                if self.start.len() == self.head_len()? {
                    self.left = self.rest_len()?;
                    if self.left == 0 {
                        self.end_part();
                    }
                }
                continue;
            }
            let now = self.left.min(bytes.len() as u64);
            bytes = &bytes[usize::try_from(now).expect("no more than there is")..];
            (self.left, self.here) = (self.left - now, self.here + now);
            if self.left == 0 {
                self.end_part();
            }
        }
        Ok(())
    }

    /// What sort of part is under way; `None` while its first bytes are not here.
    fn sort(&self) -> Result<Option<Sort>, FormatError> {
        let magic_len = if self.first { DELTA_MAGIC.len() } else { FRAME_MAGIC.len() };
        let Some(magic) = self.start.get(..magic_len) else { return Ok(None) };
        Ok(Some(match (self.first, magic) {
            (true, magic) if magic == DELTA_MAGIC => Sort::Header,
            (false, magic) if magic == MAP_MAGIC => Sort::Map,
            (false, magic) if magic == FRAME_MAGIC => Sort::Frame,
            (false, magic) if magic == DELTA_END_MAGIC => Sort::Trailer,
            _ => return Err(damaged("it begins as no part of a delta does")),
        }))
    }

    /// How many bytes are needed next from the part's start on: its magic, and then its head.
    fn head_len(&self) -> Result<usize, FormatError> {
        Ok(match self.sort()? {
            None if self.first => DELTA_MAGIC.len(),
            None => FRAME_MAGIC.len(),
            Some(Sort::Header) => size_of::<RawDeltaHeader>(),
            Some(Sort::Map) => size_of::<RawMapPage>(),
            Some(Sort::Frame) => size_of::<RawFrame>(),
            Some(Sort::Trailer) => size_of::<RawDeltaEnd>(),
        })
    }

    /// How many bytes follow the head, which is here.
    fn rest_len(&self) -> Result<u64, FormatError> {
        let len = match self.sort()? {
            None => None,
            Some(Sort::Header) => {
                self.head().and_then(|raw: RawDeltaHeader| bounded(raw.identity_len.get(), IDENTITY_MAX as u64, 1))
            }
            Some(Sort::Map) => self.head().and_then(|raw: RawMapPage| {
                bounded(raw.run_count.get(), MAP_PAGE_RUNS_MAX.into(), size_of::<RawRun>())
            }),
            Some(Sort::Frame) => self.head().and_then(|raw: RawFrame| {
                let extents = bounded(raw.extent_count.get(), FRAME_EXTENTS_MAX.into(), size_of::<RawExtent>())?;
                let values = bounded(raw.value_count.get(), FRAME_VALUES_MAX.into(), size_of::<ChainingValue>())?;
                Some(extents + values + bounded(raw.stored_len.get(), MAX_FRAME_BYTES.into(), 1)?)
            }),
            Some(Sort::Trailer) => self.head().and_then(|raw: RawDeltaEnd| {
                bounded(raw.value_count.get(), TRAILER_VALUES_MAX.into(), size_of::<ChainingValue>())
            }),
        };
        len.ok_or_else(|| damaged("a part is longer than it may be"))
    }

    fn head<T: FromBytes>(&self) -> Option<T> {
        T::read_from_prefix(&self.start).ok().map(|(raw, _)| raw)
    }

    /// The part that is under way is whole.
    fn end_part(&mut self) {
        self.whole += self.start.len() as u64 + self.here;
        if self.first {
            self.key = self.head::<RawDeltaHeader>().map(|raw| raw.hash);
        }
        self.ended = !self.first && self.start.starts_with(&DELTA_END_MAGIC);
        self.first = false;
        self.start.clear();
        self.here = 0;
    }
}

enum Sort {
    Header,
    Map,
    Frame,
    Trailer,
}

fn damaged(why: &'static str) -> FormatError {
    FormatError::damaged(KIND, "stream", why)
}

/// The length of `count` things of `size` bytes; `None` for more than there may be.
fn bounded(count: u32, most: u64, size: usize) -> Option<u64> {
    (u64::from(count) <= most).then(|| u64::from(count) * size as u64)
}
