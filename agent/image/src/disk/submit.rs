//! What is to be done on the files for an operation on the disk.

use super::queue::{DiskQueue, NewGrains};
use super::resolve::Location;
use super::{Body, Disk, Part};
use crate::sparse::{GrainTarget, SparseExtent};
use failback_blockio::{Action, Buffer, IoError, Operation, run};
use failback_units::{ByteCount, ByteOffset, ByteRange};

/// What a stretch of the disk is to become.
enum Change {
    /// These bytes.
    Bytes(Buffer),
    /// Zeroes.
    Zeroes,
}

/// A stretch of a sparse extent that is to be changed.
struct Stretch<'disk> {
    number: usize,
    part: &'disk Part,
    file: usize,
    extent: &'disk SparseExtent,
    /// From its beginning.
    within: u64,
    length: u64,
}

impl DiskQueue<'_> {
    pub(super) fn carry_out(&mut self, token: u64, range: ByteRange, operation: Operation) {
        let order = match operation {
            Operation::Read { into, .. } => {
                let order = self.begin(token, true);
                self.read(order, range, into);
                order
            }
            Operation::Write { from, .. } => {
                let order = self.begin(token, true);
                match self.disk.begin_writing(Action::Write, range) {
                    Ok(()) if !from.is_empty() => self.change(order, range, Some(from)),
                    Ok(()) => self.keep(order, from),
                    Err(error) => {
                        self.keep(order, from);
                        self.fail(order, error);
                    }
                }
                order
            }
            Operation::Zero { range } => {
                let order = self.begin(token, false);
                match self.disk.begin_writing(Action::Zero, range) {
                    Ok(()) => self.change(order, range, None),
                    Err(error) => self.fail(order, error),
                }
                order
            }
            Operation::Flush => unreachable!("flushes wait for their turn"),
        };
        self.end_if_done(order);
    }

    fn read(&mut self, order: usize, range: ByteRange, into: Buffer) {
        let segments = match self.disk.resolve(0, range.start().get(), range.end().get()) {
            Ok(segments) => segments,
            Err(error) => {
                self.keep(order, into);
                return self.fail(order, error);
            }
        };
        let mut rest = into;
        for segment in segments {
            let behind = rest.split_off(usize::try_from(segment.length).unwrap_or(usize::MAX));
            let mut piece = std::mem::replace(&mut rest, behind);
            match segment.location {
                Location::File { file, at } => {
                    let at = ByteOffset::new(at).unwrap_or_default();
                    self.send(order, file, Operation::Read { at, into: piece }, None);
                }
                Location::Zero => {
                    piece.fill(0);
                    self.keep(order, piece);
                }
                Location::Packed { layer, part, grain, within } => {
                    let result = self.disk.unpack((layer, part, grain, within), &mut piece);
                    self.keep(order, piece);
                    if let Err(error) = result {
                        self.fail(order, error);
                    }
                }
            }
        }
        // Nothing is left, but the last piece is put together with it.
        self.keep(order, rest);
    }

    /// Writes a buffer, or zeroes, over a range.
    fn change(&mut self, order: usize, range: ByteRange, from: Option<Buffer>) {
        let (mut at, end) = (range.start().get(), range.end().get());
        let mut rest = from;
        while at < end {
            match self.change_first(order, at, end, &mut rest) {
                Ok(length) => at += length,
                Err(error) => {
                    self.fail(order, error);
                    break;
                }
            }
        }
        if let Some(rest) = rest {
            self.keep(order, rest);
        }
    }

    /// Changes the beginning of what is left, and says how many bytes that was. 0 means: look again.
    fn change_first(&mut self, order: usize, at: u64, end: u64, rest: &mut Option<Buffer>) -> Result<u64, IoError> {
        let disk = self.disk;
        let Some((number, part)) = disk.top().part_at(at) else { unreachable!("the extents cover the disk") };
        let length = end.min(part.range.end().get()) - at;
        let within = at - part.range.start().get();
        match &part.body {
            Body::Flat { file, offset } => {
                let change = take(rest, length);
                self.send_change(order, *file, offset + within, length, change, None);
                Ok(length)
            }
            Body::Sparse { file, extent } => {
                let stretch = Stretch { number, part, file: *file, extent, within, length };
                self.change_sparse(order, &stretch, rest)
            }
            Body::Zero | Body::Grains { .. } => unreachable!("a disk with such extents is not opened for writing"),
        }
    }

    fn change_sparse(
        &mut self,
        order: usize,
        stretch: &Stretch<'_>,
        rest: &mut Option<Buffer>,
    ) -> Result<u64, IoError> {
        let Stretch { extent, within, length, .. } = *stretch;
        let grain = extent.shape().grain;
        let (first, skipped) = (within / grain, within % grain);
        let count = (skipped + length).div_ceil(grain);
        let (target, alike) =
            extent.target(first, count).map_err(|error| self.disk.failed(Action::Write, stretch.range(), error))?;
        let reaches = (alike * grain - skipped).min(length);
        let zero = match target {
            GrainTarget::At(at) => {
                let change = take(rest, reaches);
                self.send_change(order, stretch.file, at + skipped, reaches, change, None);
                return Ok(reaches);
            }
            GrainTarget::New { zero } => zero,
        };
        if rest.is_none() && (zero || self.disk.is_zero_below(stretch, reaches)?) {
            // It is to be zero, and is.
            return Ok(reaches);
        }
        let whole = whole_grains(extent, first, skipped, reaches);
        if whole == 0 {
            let length = self.change_part(stretch, first, rest)?;
            if let Change::Bytes(done) = take(rest, length) {
                self.keep(order, done);
            }
            return Ok(length);
        }
        let bytes = (whole * grain).min(reaches);
        let failed = |error| self.disk.failed(Action::Write, stretch.range(), error);
        if rest.is_none() && extent.shape().has_zeroed_grains {
            extent.zero_entries(first, whole).map_err(failed)?;
            self.disk.files[stretch.file].touch();
            return Ok(bytes);
        }
        let at = extent.reserve(first, whole).map_err(failed)?;
        let new = NewGrains { part: stretch.number, first, count: whole, at };
        let change = take(rest, bytes);
        self.send_change(order, stretch.file, at, bytes, change, Some(new));
        Ok(bytes)
    }

    /// Changes a part of a grain that is not there: what it is to be is put together first.
    fn change_part(&self, stretch: &Stretch<'_>, grain: u64, rest: &Option<Buffer>) -> Result<u64, IoError> {
        let shape = stretch.extent.shape();
        let start = grain * shape.grain;
        let held = shape.bytes_of(grain);
        let from = stretch.within - start;
        let length = (held - from).min(stretch.length);
        let disk = self.disk;
        let bounds = usize::try_from(from).ok().zip(usize::try_from(from + length).ok());
        let (from, to) = bounds.unwrap_or_else(|| unreachable!("a grain fits in memory"));
        let mut fill = |content: &mut [u8], zero: bool| {
            let held = usize::try_from(held).unwrap_or(content.len());
            if !zero {
                disk.read_below(stretch.part.range.start().get() + start, &mut content[..held])?;
            }
            match rest {
                Some(bytes) => content[from..to].copy_from_slice(&bytes[..to - from]),
                None => content[from..to].fill(0),
            }
            Ok(())
        };
        let made = stretch.extent.make_grain(grain, &mut fill);
        let made = made.map_err(|error| disk.failed(Action::Write, stretch.range(), error))?;
        if !made {
            return Ok(0);
        }
        disk.files[stretch.file].touch();
        Ok(length)
    }

    fn send_change(&mut self, order: usize, file: usize, at: u64, length: u64, change: Change, new: Option<NewGrains>) {
        let at = ByteOffset::new(at).unwrap_or_default();
        let operation = match change {
            Change::Bytes(from) => Operation::Write { at, from },
            Change::Zeroes => {
                let count = ByteCount::new(length).unwrap_or_default();
                Operation::Zero { range: ByteRange::new(at, count).unwrap_or_default() }
            }
        };
        self.send(order, file, operation, new);
    }
}

/// The first `length` bytes of what is left to be written, or zeroes.
fn take(rest: &mut Option<Buffer>, length: u64) -> Change {
    let Some(buffer) = rest else { return Change::Zeroes };
    let behind = buffer.split_off(usize::try_from(length).unwrap_or(usize::MAX));
    Change::Bytes(std::mem::replace(buffer, behind))
}

/// How many grains from `first` on lie wholly within `length` bytes; the last one of the extent counts if all that it holds does.
fn whole_grains(extent: &SparseExtent, first: u64, skipped: u64, length: u64) -> u64 {
    let shape = extent.shape();
    if skipped > 0 {
        return 0;
    }
    let whole = length / shape.grain;
    let left = length % shape.grain;
    if left > 0 && left == shape.bytes_of(first + whole) { whole + 1 } else { whole }
}

impl Stretch<'_> {
    /// Where on the disk it lies.
    fn range(&self) -> ByteRange {
        let start = ByteOffset::new(self.part.range.start().get() + self.within).unwrap_or_default();
        ByteRange::new(start, ByteCount::new(self.length).unwrap_or_default()).unwrap_or_default()
    }
}

impl Disk {
    /// Whether the parents have nothing but zeroes where a stretch begins, for `length` bytes.
    fn is_zero_below(&self, stretch: &Stretch<'_>, length: u64) -> Result<bool, IoError> {
        let start = stretch.range().start().get();
        let segments = self.resolve(1, start, start + length)?;
        Ok(segments.iter().all(|segment| segment.location == Location::Zero))
    }

    /// Reads what the parents have at `start`.
    fn read_below(&self, start: u64, into: &mut [u8]) -> Result<(), IoError> {
        let end = start + ByteCount::of_memory(into.len()).get();
        let mut rest = into;
        for segment in self.resolve(1, start, end)? {
            let (piece, behind) = rest.split_at_mut(usize::try_from(segment.length).unwrap_or(usize::MAX));
            rest = behind;
            match segment.location {
                Location::Zero => piece.fill(0),
                Location::Packed { layer, part, grain, within } => {
                    self.unpack((layer, part, grain, within), piece)?;
                }
                Location::File { file, at } => {
                    let at = ByteOffset::new(at).unwrap_or_default();
                    let into = Buffer::zeroed(piece.len());
                    if let Some(read) = run(&*self.files[file].device, Operation::Read { at, into })? {
                        piece.copy_from_slice(&read);
                    }
                }
            }
        }
        Ok(())
    }
}
