//! Holes and data: what a client is told of them, and how a read is cut by them.

use crate::session::PIECE;
use crate::wire::{self, Descriptor};
use failback_blockio::{Device, Extent, IoError};
use failback_units::{ByteCount, ByteOffset, ByteRange};

/// How often a device is asked for one request. A device may tell a stretch in several parts; however small they are, this
/// bounds the time.
const MAX_STATUS_LOOKUPS: usize = 4 * wire::MAX_DESCRIPTORS;
/// The same for a read, where every question delays the content.
const MAX_READ_LOOKUPS: usize = 64;
/// Reads of less are not looked at for holes: that costs a system call or two, as the read itself does.
const MIN_LOOKED_AT: u64 = 64 << 10;
/// Shorter holes are sent as zeroes: a chunk for each would cost more.
const MIN_HOLE: u64 = 32 << 10;

/// Where a device's holes are. To find the end of a stretch can take a device much longer than to read some of it, and
/// requests come mostly one behind the other; so the stretch that was asked about last is remembered.
pub(crate) struct Map<'device> {
    device: &'device dyn Device,
    last: Option<Extent>,
    /// Which state of the disk that holds for.
    changes: u64,
}

impl<'device> Map<'device> {
    pub(crate) fn new(device: &'device dyn Device) -> Self {
        Self { device, last: None, changes: 0 }
    }

    /// Forgets what is not true any more, if the number of changes that were made to the disk is another one.
    pub(crate) fn at(&mut self, changes: u64) -> &mut Self {
        if self.changes != changes {
            self.last = None;
            self.changes = changes;
        }
        self
    }

    /// Whether `at` lies in a hole, and up to where in `range` that holds.
    fn stretch(&mut self, range: ByteRange, at: ByteOffset) -> Result<(ByteOffset, bool), IoError> {
        let is_within = |extent: &Extent| extent.range.start() <= at && extent.range.end() > at;
        if !self.last.as_ref().is_some_and(is_within) {
            self.last = self.device.extent_at(at)?.filter(is_within);
        }
        // What cannot be, as no progress, counts as data.
        Ok(self.last.map_or((range.end(), false), |extent| (extent.range.end().min(range.end()), extent.hole)))
    }

    /// Holes and data of a range that is not empty, from its start on, perhaps not to its end. At least one, and no more
    /// than one if `one`.
    pub(crate) fn status(&mut self, range: ByteRange, one: bool) -> Result<Vec<Descriptor>, IoError> {
        let most = if one { 1 } else { wire::MAX_DESCRIPTORS };
        let mut stretches: Vec<(u64, bool)> = Vec::new();
        let mut at = range.start();
        for _ in 0..MAX_STATUS_LOOKUPS {
            if at >= range.end() {
                break;
            }
            let (end, hole) = self.stretch(range, at)?;
            let length = end.distance_from(at).unwrap_or_default().get();
            let count = stretches.len();
            match stretches.last_mut() {
                Some((last, same)) if *same == hole => *last += length,
                _ if count == most => break,
                _ => stretches.push((length, hole)),
            }
            at = end;
        }
        let descriptor = |(length, hole)| Descriptor {
            // No longer than the request, whose length has 32 bits.
            length: u32::try_from(length).unwrap_or(u32::MAX).into(),
            state: if hole { wire::STATE_HOLE | wire::STATE_ZERO } else { 0 }.into(),
        };
        Ok(stretches.into_iter().map(descriptor).collect())
    }
}

/// A part of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// To be read; no more than a piece.
    Data(ByteRange),
    /// Known to be zeroes.
    Hole(ByteRange),
}

/// A request, cut into parts from its start to its end.
pub(crate) struct Plan {
    rest: ByteRange,
    /// From the start of the rest to here, all is to be read.
    data_to: ByteOffset,
    /// From there to here is a hole, if one was found.
    hole_to: ByteOffset,
    lookups: usize,
}

impl Plan {
    /// Parts of a read that tell holes apart, if that may pay.
    pub(crate) fn with_holes(range: ByteRange) -> Self {
        let looks = range.count().get() >= MIN_LOOKED_AT;
        let known = if looks { range.start() } else { range.end() };
        Self { rest: range, data_to: known, hole_to: known, lookups: 0 }
    }

    /// Whether the last part was taken.
    pub(crate) fn is_over(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next part; `None` at the end.
    pub(crate) fn next(&mut self, map: &mut Map<'_>) -> Option<Part> {
        if self.rest.is_empty() {
            return None;
        }
        let (start, end) = (self.rest.start(), piece_of(self.rest).end());
        self.look(end, map);
        let is_data = self.data_to > start;
        let cut = if is_data { self.data_to.min(end) } else { self.hole_to };
        if !is_data {
            self.data_to = self.hole_to;
        }
        let part = ByteRange::between(start, cut)?;
        self.rest = ByteRange::between(cut, self.rest.end())?;
        Some(if is_data { Part::Data(part) } else { Part::Hole(part) })
    }

    /// Looks on, until the end of what begins at the rest is known, or a piece is full.
    fn look(&mut self, piece_end: ByteOffset, map: &mut Map<'_>) {
        while self.hole_to == self.data_to && self.data_to < piece_end {
            let (end, hole) = if self.lookups < MAX_READ_LOOKUPS {
                self.lookups += 1;
                // Where the device cannot tell, reading will.
                map.stretch(self.rest, self.data_to).unwrap_or((self.rest.end(), false))
            } else {
                (self.rest.end(), false)
            };
            let length = end.distance_from(self.data_to).unwrap_or_default().get();
            self.hole_to = end;
            if !hole || length < MIN_HOLE {
                self.data_to = end;
            }
        }
    }
}

/// The pieces of a range, from its start to its end; none if it is empty.
pub(crate) fn pieces(range: ByteRange) -> impl Iterator<Item = ByteRange> {
    let mut rest = range;
    std::iter::from_fn(move || {
        let piece = piece_of(rest);
        rest = ByteRange::between(piece.end(), rest.end())?;
        (!piece.is_empty()).then_some(piece)
    })
}

/// The first piece of a range.
fn piece_of(range: ByteRange) -> ByteRange {
    let piece = ByteRange::new(range.start(), range.count().min(ByteCount::of_memory(PIECE)));
    piece.unwrap_or(range)
}
