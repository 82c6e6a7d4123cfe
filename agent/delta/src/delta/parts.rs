//! Where the parts of a delta end, found out while its bytes arrive, before anything of it is believed.

use super::map::Pages;
use super::{DeltaHeader, FrameTable, KIND};
use crate::layout::{
    DELTA_END_MAGIC, DELTA_MAGIC, FRAME_EXTENTS_MAX, FRAME_MAGIC, IDENTITY_MAX, MAP_MAGIC, MAP_PAGE_RUNS_MAX,
    MAP_RUNS_MAX, RawDeltaEnd, RawDeltaHeader, RawExtent, RawFrame, RawMapPage, RawRun, TRAILER_VALUES_MAX,
};
use crate::seal::Input;
use crate::{Coverage, FormatError};
use failback_hashtree::ChainingValue;
use failback_units::BlockIndex;
use std::sync::Arc;
use zerocopy::FromBytes;

/// Follows a delta whose bytes come in pieces of any length, and knows where its last whole part ends.
///
/// Parts are the header with the identity, pages of the map, frames, and the trailer. The header is checked as a
/// [`DeltaReader`](super::DeltaReader) does; of all others it is looked at whether they can stand where they do: each has the number that comes
/// next, and its runs or extents lie on the disk, in order, behind those before. So what is taken in is never longer than
/// [`longest`](DeltaHeader::longest) says, whoever sends it. Hashes of pages and frames, values and payloads are for a `DeltaReader` to check.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The end of the last whole part.
    whole: u64,
    /// The start of the part that is under way, until it is known that it can stand here.
    start: Vec<u8>,
    /// Bytes of it that are still to come, once that is known.
    left: u64,
    /// What came of it.
    here: u64,
    first: bool,
    ended: bool,
    header: Option<(Arc<DeltaHeader>, [u8; 32])>,
    /// What the map has had so far, and whether that is all of it.
    map: Pages,
    /// How many frames there were, and the block behind the last of their extents.
    frames: u64,
    after: BlockIndex,
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
        Self {
            whole: 0,
            start: Vec::new(),
            left: 0,
            here: 0,
            first: true,
            ended: false,
            header: None,
            map: Pages::NONE,
            frames: 0,
            after: BlockIndex::ZERO,
        }
    }

    /// How many bytes the whole parts have together.
    #[must_use]
    pub const fn whole(&self) -> u64 {
        self.whole
    }

    /// The hash of the header, which names the delta, once the header is whole.
    #[must_use]
    pub fn key(&self) -> Option<[u8; 32]> {
        self.header.as_ref().map(|(_, key)| *key)
    }

    /// The header, once it is whole.
    #[must_use]
    pub fn header(&self) -> Option<&DeltaHeader> {
        self.header.as_ref().map(|(header, _)| &**header)
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
    /// When they begin as no part of a delta does, or one that cannot stand there, or a part is longer than the format allows, or something
    /// follows the trailer.
    pub fn take(&mut self, mut bytes: &[u8]) -> Result<(), FormatError> {
        while !bytes.is_empty() {
            if self.ended {
                return Err(damaged("something follows its trailer"));
            }
            if self.left == 0 {
                let missing = self.start_len()? - self.start.len();
                let (head, rest) = bytes.split_at(missing.min(bytes.len()));
                self.start.extend_from_slice(head);
                bytes = rest;
                if self.start.len() == self.start_len()? {
                    self.left = self.check()?;
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

    /// How many bytes are needed from the part's start on: its magic, then its head, and then what has to be looked at besides.
    fn start_len(&self) -> Result<usize, FormatError> {
        let too_long = || damaged("a part is longer than it may be");
        let sort = self.sort()?;
        let head = match sort {
            None if self.first => return Ok(DELTA_MAGIC.len()),
            None => return Ok(FRAME_MAGIC.len()),
            Some(Sort::Header) => size_of::<RawDeltaHeader>(),
            Some(Sort::Map) => size_of::<RawMapPage>(),
            Some(Sort::Frame) => size_of::<RawFrame>(),
            Some(Sort::Trailer) => size_of::<RawDeltaEnd>(),
        };
        if self.start.len() < head {
            return Ok(head);
        }
        let more = match sort {
            None | Some(Sort::Trailer) => Some(0),
            Some(Sort::Header) => {
                self.head().and_then(|raw: RawDeltaHeader| bounded(raw.identity_len.get(), IDENTITY_MAX as u64, 1))
            }
            Some(Sort::Map) => self.head().and_then(|raw: RawMapPage| {
                bounded(raw.run_count.get(), MAP_PAGE_RUNS_MAX.into(), size_of::<RawRun>())
            }),
            Some(Sort::Frame) => self.head().and_then(|raw: RawFrame| {
                bounded(raw.extent_count.get(), FRAME_EXTENTS_MAX.into(), size_of::<RawExtent>())
            }),
        };
        Ok(head + usize::try_from(more.ok_or_else(too_long)?).expect("limits are small"))
    }

    /// Looks whether the part whose start is here can stand here. Returns how many bytes of it follow.
    fn check(&mut self) -> Result<u64, FormatError> {
        let values = |count: u32, most: u32| {
            let len = bounded(count, most.into(), size_of::<ChainingValue>());
            len.ok_or_else(|| damaged("a part is longer than it may be"))
        };
        let Some(sort) = self.sort()? else { return Err(damaged("it begins as no part of a delta does")) };
        if let Sort::Header = sort {
            let (header, key) = DeltaHeader::read(&mut Input::new(&*self.start, KIND))?;
            self.map = if header.result_coverage == Coverage::Whole { Pages::NONE } else { Pages::some() };
            self.header = Some((Arc::new(header), key));
            return Ok(0);
        }
        let Some((header, _)) = &self.header else { return Err(damaged("its header is missing")) };
        match sort {
            Sort::Map => {
                let blocks = header.shapes.result.blocks();
                let (page, runs) = RawMapPage::read_from_prefix(&self.start).map_err(|_| damaged("no whole page"))?;
                self.map.take(&page, runs, blocks, |_| ())?;
                Ok(0)
            }
            _ if !self.map.is_complete() => Err(damaged("the map of its free space is missing")),
            Sort::Frame => {
                let (end, rest) = FrameTable::follows(&self.start, header, self.frames, self.after)?;
                (self.after, self.frames) = (end, self.frames + 1);
                Ok(rest)
            }
            _ => values(self.head().map_or(u32::MAX, |raw: RawDeltaEnd| raw.value_count.get()), TRAILER_VALUES_MAX),
        }
    }

    fn head<T: FromBytes>(&self) -> Option<T> {
        T::read_from_prefix(&self.start).ok().map(|(raw, _)| raw)
    }

    /// The part that is under way is whole.
    fn end_part(&mut self) {
        self.whole += self.start.len() as u64 + self.here;
        debug_assert!(
            self.header().is_none_or(|header| self.whole <= header.longest()),
            "parts that follow are bounded"
        );
        self.ended = !self.first && self.start.starts_with(&DELTA_END_MAGIC);
        self.first = false;
        self.start.clear();
        self.here = 0;
    }
}

impl DeltaHeader {
    /// The most bytes that a delta with this header can have: see "How long a delta can be" in `FORMAT.md`.
    #[must_use]
    pub fn longest(&self) -> u64 {
        const VALUE: u64 = size_of::<ChainingValue>() as u64;
        let blocks = self.shapes.end().get();
        let header = (size_of::<RawDeltaHeader>() + IDENTITY_MAX) as u64;
        let page = size_of::<RawMapPage>() as u64;
        let map = match self.result_coverage {
            Coverage::Whole => 0,
            // A page for each run, and one that is empty.
            Coverage::Used => {
                self.shapes.result.blocks().get().min(MAP_RUNS_MAX) * (page + size_of::<RawRun>() as u64) + page
            }
        };
        // A frame for each block.
        let each = (size_of::<RawFrame>() + size_of::<RawExtent>()) as u64 + 2 * VALUE;
        let trailer = size_of::<RawDeltaEnd>() as u64 + u64::from(TRAILER_VALUES_MAX) * VALUE;
        let tables = blocks.saturating_mul(each).saturating_add(header + map + trailer);
        self.shapes.larger().size().get().saturating_add(tables)
    }
}

#[derive(Clone, Copy)]
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
