//! Where the bytes of a disk are: in which file, at which offset.

use super::{Body, Disk, Layer, Part};
use crate::extent::Place;
use crate::sparse;
use failback_blockio::{Action, IoError};
use failback_units::{ByteOffset, ByteRange};

/// Where a stretch of the disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Location {
    /// Nowhere: it is zero.
    Zero,
    /// In a file, at this offset.
    File { file: usize, at: u64 },
    /// Within a compressed grain.
    Packed { layer: usize, part: usize, grain: u64, within: u64 },
}

/// A stretch of the disk that is in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) length: u64,
    pub(super) location: Location,
}

impl Segment {
    /// Whether the next stretch is the continuation of this one.
    fn goes_on_with(&self, next: &Location) -> bool {
        match (self.location, next) {
            (Location::Zero, Location::Zero) => true,
            (Location::File { file, at }, Location::File { file: next, at: next_at }) => {
                file == *next && at + self.length == *next_at
            }
            _ => false,
        }
    }
}

/// What one layer says of the beginning of a stretch.
enum Answer {
    Here(Location),
    /// The next layer has it.
    Below,
}

impl Layer {
    /// The extent that holds the byte at `at`, which lies on the layer.
    pub(super) fn part_at(&self, at: u64) -> Option<(usize, &Part)> {
        let index = self.parts.partition_point(|part| part.range.end().get() <= at);
        self.parts.get(index).map(|part| (index, part))
    }
}

impl Disk {
    /// Where the bytes from `start` to `end` are, in order and without gaps, seen from layer `first` down.
    pub(super) fn resolve(&self, first: usize, start: u64, end: u64) -> Result<Vec<Segment>, IoError> {
        let mut segments: Vec<Segment> = Vec::new();
        let mut to_do = vec![(first, start, end)];
        while let Some((layer, start, end)) = to_do.pop() {
            if start >= end {
                continue;
            }
            let (answer, length) = self.ask(layer, start, end)?;
            to_do.push((layer, start + length, end));
            match answer {
                Answer::Below => to_do.push((layer + 1, start, start + length)),
                Answer::Here(location) => match segments.last_mut() {
                    Some(last) if last.goes_on_with(&location) => last.length += length,
                    _ => segments.push(Segment { length, location }),
                },
            }
        }
        Ok(segments)
    }

    /// What a layer says of the bytes from `start` on, and for how many of those up to `end` that holds: at least one.
    fn ask(&self, index: usize, start: u64, end: u64) -> Result<(Answer, u64), IoError> {
        let Some(layer) = self.layers.get(index).filter(|layer| start < layer.size.get()) else {
            // Below the last layer, and where a parent is smaller, there is nothing.
            return Ok((Answer::Here(Location::Zero), end - start));
        };
        let Some((number, part)) = layer.part_at(start) else { return Ok((Answer::Below, end - start)) };
        let end = end.min(part.range.end().get());
        let within = start - part.range.start().get();
        let length = end - start;
        match &part.body {
            Body::Zero => Ok((Answer::Here(Location::Zero), length)),
            Body::Flat { file, offset } => {
                Ok((Answer::Here(Location::File { file: *file, at: offset + within }), length))
            }
            Body::Sparse { file, extent } => {
                let grain = extent.shape().grain;
                let (first, skipped) = (within / grain, within % grain);
                let count = (skipped + length).div_ceil(grain);
                let (location, alike) = extent.run(first, count).map_err(|error| self.unread(start, end, error))?;
                let length = (alike * grain - skipped).min(length);
                Ok(match location {
                    sparse::Location::Absent => (Answer::Below, length),
                    sparse::Location::Zero => (Answer::Here(Location::Zero), length),
                    sparse::Location::At(at) => {
                        (Answer::Here(Location::File { file: *file, at: at + skipped }), length)
                    }
                })
            }
            Body::Grains { file, extent } => {
                let grain = u64::from(extent.grain_size());
                let (first, skipped) = (within / grain, within % grain);
                let length = length.min(grain - skipped);
                let place = extent.place(first).map_err(|error| self.unread(start, end, error))?;
                Ok(match place {
                    Place::Absent => (Answer::Below, length),
                    Place::Zero => (Answer::Here(Location::Zero), length),
                    Place::At(at) => (Answer::Here(Location::File { file: *file, at: at.get() + skipped }), length),
                    Place::Compressed(_) => {
                        let location = Location::Packed { layer: index, part: number, grain: first, within: skipped };
                        (Answer::Here(location), length)
                    }
                })
            }
        }
    }

    fn unread(&self, start: u64, end: u64, error: crate::extent::ExtentError) -> IoError {
        let range = ByteOffset::new(start).zip(ByteOffset::new(end));
        let range = range.and_then(|(start, end)| ByteRange::between(start, end)).unwrap_or_default();
        self.failed(Action::Read, range, error)
    }

    /// Unpacks a part of a compressed grain.
    pub(super) fn unpack(
        &self,
        (layer, part, grain, within): (usize, usize, u64, u64),
        into: &mut [u8],
    ) -> Result<(), IoError> {
        let Some(Part { range, body: Body::Grains { extent, .. } }) =
            self.layers.get(layer).and_then(|layer| layer.parts.get(part))
        else {
            unreachable!("only such extents have compressed grains")
        };
        let start = grain * u64::from(extent.grain_size());
        let held = extent.capacity().get().saturating_sub(start).min(u64::from(extent.grain_size()));
        let whole = usize::try_from(held).unwrap_or(0);
        let failed = |error| {
            let at = range.start().get() + start;
            self.unread(at, at + held, error)
        };
        if within == 0 && into.len() == whole {
            return extent.read_grain(grain, into).map_err(failed);
        }
        let mut content = vec![0; whole];
        extent.read_grain(grain, &mut content).map_err(failed)?;
        let from = usize::try_from(within).unwrap_or(usize::MAX);
        let wanted = content.get(from..).and_then(|rest| rest.get(..into.len()));
        into.copy_from_slice(wanted.unwrap_or_else(|| unreachable!("a segment lies within its grain")));
        Ok(())
    }
}
