//! The way back, recorded while a delta is compared with the disk: every byte that will be overwritten, before the first one is.

use super::survey::{Survey, overwrites_uncounted};
use crate::apply::{Recording, Target, Witness};
use crate::ordered::Ordered;
use crate::{JobError, Pace};
use failback_delta::{
    DeltaHeader, Extent, Frame, FrameTable, FreeBlocks, Inverter, PointKind, Proven, SealedFrame, Shapes, Was,
};
use failback_hashtree::is_zero;
use failback_retention::{LinkFile, LinkWriter};
use failback_units::{BlockCount, BlockIndex, BlockRange};
use std::ops::Range;
use std::sync::Arc;
use std::thread::Scope;

/// zstd's level: the retention drive is written at the speed of the disk.
const LEVEL: i32 = 1;

/// Writes the delta that undoes another one.
pub(crate) struct Recorder {
    shapes: Shapes,
    writer: LinkWriter,
    inverter: Inverter,
    workers: usize,
    sealing: Ordered<Frame, (FrameTable, Vec<u8>)>,
    /// What the disk's own file systems call free: nothing of that is kept where the base calls it free too.
    trusted: FreeBlocks,
    batch: Batch,
    /// Extents that hold what the delta would write, and not what it expects.
    already: u64,
}

/// What was seen of the frames of a batch.
#[derive(Default)]
struct Batch {
    frames: Vec<Seen>,
    already: u64,
}

/// What stood at the extents of a frame.
#[derive(Default)]
struct Seen {
    content: Vec<u8>,
    /// For each extent, where its content stands in `content`.
    places: Vec<Range<usize>>,
    /// Extents without weight that are not zero.
    not_zero: Vec<bool>,
}

/// How much of an extent's old content is carried as one.
fn carried(extent: &Extent, shapes: &Shapes, trusted: &FreeBlocks) -> usize {
    let bytes = if extent.old.has_values() {
        extent.old_bytes(shapes)
    } else if extent.is_weighty() && overwrites_uncounted(extent) && !trusted.covers(extent.blocks) {
        shapes.larger().bytes_of(extent.blocks)
    } else {
        return 0;
    };
    bytes.count().to_usize().expect("what has weight fits in memory")
}

impl Witness for Batch {
    fn sees(&mut self, frame: usize, number: usize, extent: &Extent, content: &[u8], is_old: bool) {
        let seen = &mut self.frames[frame];
        let place = seen.places[number].clone();
        let len = place.len();
        seen.content[place].copy_from_slice(&content[..len]);
        seen.not_zero[number] |= !extent.is_weighty() && !is_zero(content);
        self.already += u64::from(!is_old);
    }
}

impl Recording for Recorder {
    /// Makes room for what stands at the extents of the frames.
    fn witness(&mut self, frames: &[Arc<SealedFrame>]) -> &mut dyn Witness {
        let (shapes, trusted) = (&self.shapes, &self.trusted);
        self.batch.frames = frames
            .iter()
            .map(|frame| {
                let mut end = 0;
                let extents = &frame.table.extents;
                let place = |extent| {
                    let start = end;
                    end += carried(extent, shapes, trusted);
                    start..end
                };
                let places: Vec<_> = extents.iter().map(place).collect();
                Seen { content: vec![0; end], places, not_zero: vec![false; extents.len()] }
            })
            .collect();
        &mut self.batch
    }

    fn record(&mut self, target: &mut Target<'_>, frames: &[Arc<SealedFrame>]) -> Result<(), JobError> {
        for (frame, seen) in frames.iter().zip(std::mem::take(&mut self.batch.frames)) {
            let table = &frame.table;
            for ((extent, place), not_zero) in table.extents.iter().zip(seen.places).zip(seen.not_zero) {
                let content = &seen.content[place];
                if extent.old.has_values() {
                    self.push(table, extent, extent.blocks, Was::Stated(content))?;
                } else if !content.is_empty() {
                    self.push(table, extent, extent.blocks, Was::Kept(content))?;
                } else if not_zero && overwrites_uncounted(extent) {
                    self.in_parts(target, table, extent)?;
                } else {
                    self.push(table, extent, extent.blocks, Was::Stated(&[]))?;
                }
            }
        }
        self.already += std::mem::take(&mut self.batch.already);
        Ok(())
    }
}

impl Recorder {
    /// Begins the way back from the result of a surveyed delta to its base.
    pub(super) fn new<'scope>(
        survey: &Survey,
        writer: LinkWriter,
        trusted: FreeBlocks,
        pace: Pace,
        scope: &'scope Scope<'scope, '_>,
    ) -> Self {
        let key = writer.key();
        let workers = pace.workers();
        let sealing = Ordered::start(scope, workers, move || {
            move |frame: Frame| {
                let sealed = frame.seal_in_pieces(&key, LEVEL);
                (frame.table, sealed)
            }
        });
        let shapes = survey.header.shapes;
        let inverter = Inverter::new(&shapes);
        Self { shapes, writer, inverter, workers, sealing, trusted, batch: Batch::default(), already: 0 }
    }

    /// How many extents hold already what the delta would write.
    pub(crate) const fn already(&self) -> u64 {
        self.already
    }

    /// Ends the way back. It is durable when this returns, but for the name of its file.
    pub(super) fn finish(mut self, survey: &Survey) -> Result<LinkFile, JobError> {
        let inverter = std::mem::replace(&mut self.inverter, Inverter::new(&self.shapes));
        if let Some(last) = inverter.finish() {
            self.sealing.push(last);
        }
        self.write_sealed(0)?;
        let proven = Proven { base: survey.trailer.result_root, result: survey.header.base_root };
        Ok(self.writer.finish(survey.trailer.values(), proven)?)
    }

    /// An extent that becomes zero where the base has nothing that counts, and which holds something: it may be larger than
    /// memory, so it is read again, in parts of a frame.
    fn in_parts(&mut self, target: &mut Target<'_>, table: &FrameTable, extent: &Extent) -> Result<(), JobError> {
        let larger = self.shapes.larger();
        let step = self.shapes.frame_blocks();
        let (mut at, end) = (extent.blocks.start(), extent.blocks.end());
        while at < end {
            let next = BlockIndex::new((at.get() / step + 1) * step).min(end);
            let part = BlockRange::between(at, next).unwrap_or_default();
            at = next;
            let content = if self.trusted.covers(part) { None } else { target.read(larger.bytes_of(part))? };
            match content.filter(|content| !is_zero(content)) {
                Some(content) => self.push(table, extent, part, Was::Kept(&content))?,
                None => self.push(table, extent, part, Was::Stated(&[]))?,
            }
        }
        Ok(())
    }

    fn push(&mut self, table: &FrameTable, extent: &Extent, blocks: BlockRange, was: Was<'_>) -> Result<(), JobError> {
        if let Some(frame) = self.inverter.push(table, extent, blocks, was) {
            self.sealing.push(frame);
            self.write_sealed(2 * self.workers as u64)?;
        }
        Ok(())
    }

    /// Writes what is sealed, until no more than `pending` frames are under way.
    fn write_sealed(&mut self, pending: u64) -> Result<(), JobError> {
        while self.sealing.under_way() > pending
            && let Some((table, sealed)) = self.sealing.pop()
        {
            self.writer.frame(&table, &sealed)?;
        }
        Ok(())
    }
}

/// What the way back says before its frames.
pub(super) fn header_of_inverse(survey: &Survey, kind: PointKind, created: i64, id: [u8; 16]) -> DeltaHeader {
    let forward = &survey.header;
    DeltaHeader {
        shapes: forward.shapes.swapped(),
        base_coverage: forward.result_coverage,
        result_coverage: forward.base_coverage,
        kind,
        created,
        id,
        base_root: survey.trailer.result_root,
        identity: forward.identity.clone(),
    }
}

/// What is lost if the free space of the result is made zero: where the base has free space too, or ends, and the disk's own file
/// systems do not call it free. In bytes.
pub(super) fn bytes_lost_to_zeroes(survey: &Survey, trusted: &FreeBlocks) -> u64 {
    let shapes = &survey.header.shapes;
    let base_end = shapes.base.blocks().as_end();
    let mut lost = 0;
    for run in survey.free.runs() {
        let behind = BlockRange::between(run.start().max(base_end), run.end());
        for part in survey.base_free.within(*run).chain(behind) {
            let free: u64 = trusted.within(part).map(|run| run.count().get()).sum();
            lost += BlockCount::new(part.count().get() - free).bytes(shapes.block_size()).unwrap_or_default().get();
        }
    }
    lost
}
