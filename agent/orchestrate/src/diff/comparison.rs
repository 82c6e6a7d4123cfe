//! What the blocks of a source were, held against what they are, and put into a delta.

use super::effort::{Effort, Packed};
use crate::JobError;
use crate::ordered::{Ordered, worker_count};
use crate::scan::{Chunk, ChunkContent, Origin};
use failback_blockio::Buffer;
use failback_delta::{After, Before, DeltaBuilder, DeltaWriter, Frame, FrameTable, Proven, Shapes};
use failback_hashtree::{ChainingValue, LeafHasher, Node, is_zero};
use failback_units::{BlockIndex, BlockRange};
use std::io::Write;
use std::thread;
use std::time::Instant;

/// Frames that are being compressed or wait to be written. Each is about 1 MiB, twice.
const FRAMES_UNDER_WAY: u64 = 8;

/// What is left to be written when all blocks were told.
pub(super) struct Compared {
    pub(super) values: Vec<ChainingValue>,
    pub(super) proven: Proven,
    pub(super) changed_blocks: u64,
}

/// Puts blocks into a delta, from left to right, each once.
pub(super) struct Comparison<'a, W> {
    shapes: Shapes,
    builder: DeltaBuilder,
    hasher: LeafHasher,
    changed_blocks: u64,
    sealer: Ordered<Frame, (FrameTable, Vec<u8>)>,
    writer: &'a mut DeltaWriter<W>,
}

/// Has `tell` tell all blocks, and writes the frames that come of it.
///
/// # Errors
///
/// Those of `tell`, and what the output said.
pub(super) fn compare<W: Write, T>(
    shapes: Shapes,
    effort: &dyn Effort,
    writer: &mut DeltaWriter<W>,
    tell: impl FnOnce(&mut Comparison<'_, W>) -> Result<T, JobError>,
) -> Result<(T, Compared), JobError> {
    let key = writer.key();
    thread::scope(|scope| {
        let sealer = Ordered::start(scope, worker_count(), move || {
            move |frame: Frame| {
                let sealed = seal(&frame, &key, effort);
                (frame.table, sealed)
            }
        });
        let builder = DeltaBuilder::new(&shapes);
        let mut comparison =
            Comparison { shapes, builder, hasher: LeafHasher::new(), changed_blocks: 0, sealer, writer };
        let told = tell(&mut comparison)?;
        Ok((told, comparison.finish()?))
    })
}

/// Seals a frame as hard as it is worth now, and tells what came of it.
fn seal(frame: &Frame, key: &[u8; 32], effort: &dyn Effort) -> Vec<u8> {
    let compression = effort.next();
    let started = Instant::now();
    let sealed = frame.seal(key, compression.level());
    let took = started.elapsed();
    let payload = FrameTable::outline_len(&sealed).map_or(0, |(_, payload)| payload);
    effort.packed(&Packed { compression, content: frame.data.len() as u64, stored: payload, took });
    sealed
}

impl<W: Write> Comparison<'_, W> {
    /// The first block that was not told yet.
    pub(super) const fn next(&self) -> BlockIndex {
        self.builder.next()
    }

    /// Takes in a frame that stands in the output already.
    pub(super) fn told(&mut self, table: &FrameTable, sealed_len: usize) {
        self.builder.told(table);
        self.writer.written_before(table, sealed_len);
        let blocks = table.extents.iter().map(|extent| extent.blocks.count().get());
        self.changed_blocks += blocks.sum::<u64>();
    }

    /// Tells that the blocks of a node are the same on both sides, free space too.
    pub(super) fn unchanged(&mut self, node: Node, value: ChainingValue) {
        self.builder.unchanged(node, value);
    }

    /// Tells what the blocks of a chunk are and what they were.
    pub(super) fn chunk(&mut self, before: &[Before], chunk: &Chunk) -> Result<(), JobError> {
        match &chunk.content {
            ChunkContent::Zero(nodes) if chunk.origin == Origin::Free => self.free(before, chunk.blocks, nodes),
            ChunkContent::Zero(nodes) => self.zero(before, chunk.blocks, nodes),
            ChunkContent::Data { leaves, node, bytes } => {
                let bytes = bytes.as_ref().expect("the scan was asked for bytes");
                self.data(before, chunk.blocks, (leaves, *node), bytes)
            }
        }
    }

    /// Tells of blocks that only the base has.
    pub(super) fn removed(&mut self, before: &[Before]) -> Result<(), JobError> {
        before.iter().try_for_each(|before| self.changed(*before, After::Absent))
    }

    /// Free space: nothing changes where the base has free space too. All else is told, since the base may hold anything
    /// where it is free, and zeroes where it is not.
    fn free(&mut self, before: &[Before], blocks: BlockRange, nodes: &[(Node, ChainingValue)]) -> Result<(), JobError> {
        let common = blocks.end() <= self.shapes.common_end();
        if common && before.iter().all(|before| *before == Before::Free) {
            for (node, value) in nodes {
                self.builder.unchanged(*node, *value);
            }
            return Ok(());
        }
        for (block, before) in (blocks.start().get()..).map(BlockIndex::new).zip(before) {
            if *before == Before::Free && block < self.shapes.common_end() {
                let value = self.hasher.zero_node(self.shapes.result, Node::leaf(block));
                self.builder.unchanged(Node::leaf(block), value);
            } else {
                self.changed(*before, After::Free)?;
            }
        }
        Ok(())
    }

    fn zero(&mut self, before: &[Before], blocks: BlockRange, nodes: &[(Node, ChainingValue)]) -> Result<(), JobError> {
        if blocks.end() <= self.shapes.common_end() && before.iter().all(|before| *before == Before::Zero) {
            for (node, value) in nodes {
                self.builder.unchanged(*node, *value);
            }
            return Ok(());
        }
        for (block, before) in (blocks.start().get()..).map(BlockIndex::new).zip(before) {
            // What was free may hold anything on the target. Values of zeroes are computed only where they are needed.
            let zero = match before {
                Before::Zero | Before::Data(_) if block < self.shapes.common_end() => {
                    Some(self.hasher.zero_node(self.shapes.result, Node::leaf(block)))
                }
                _ => None,
            };
            match zero {
                Some(value) if *before == Before::Zero || *before == Before::Data(value) => {
                    self.builder.unchanged(Node::leaf(block), value);
                }
                _ => self.changed(*before, After::Zero)?,
            }
        }
        Ok(())
    }

    fn data(
        &mut self,
        before: &[Before],
        blocks: BlockRange,
        (leaves, node): (&[ChainingValue], Option<(Node, ChainingValue)>),
        bytes: &Buffer,
    ) -> Result<(), JobError> {
        let common = self.shapes.common_end().distance_from(blocks.start()).unwrap_or_default().get();
        let common = usize::try_from(common).unwrap_or(usize::MAX);
        let block_size = self.shapes.block_size().in_memory();
        let contents = bytes.chunks(block_size).collect::<Vec<_>>();
        let same = |before: &Before, place: usize| {
            place < common
                && match before {
                    Before::Data(old) => *old == leaves[place],
                    Before::Zero => is_zero(contents[place]),
                    // What was free may hold anything on the target.
                    Before::Free | Before::Absent | Before::Kept(_) => false,
                }
        };
        let mut place = 0;
        while place < leaves.len() {
            let rest = before[place..].iter().zip(place..);
            let unchanged = rest.take_while(|(before, place)| same(before, *place)).count();
            if unchanged > 0 {
                match node {
                    Some((node, value)) if unchanged == leaves.len() => self.builder.unchanged(node, value),
                    _ => self.builder.unchanged_blocks(&mut self.hasher, &leaves[place..place + unchanged]),
                }
                place += unchanged;
                continue;
            }
            let content = contents[place];
            let after = if is_zero(content) { After::Zero } else { After::Data(content, leaves[place]) };
            self.changed(before[place], after)?;
            place += 1;
        }
        Ok(())
    }

    fn changed(&mut self, before: Before, after: After<'_>) -> Result<(), JobError> {
        self.changed_blocks += 1;
        if let Some(frame) = self.builder.changed(before, after) {
            if self.sealer.under_way() >= FRAMES_UNDER_WAY
                && let Some((table, sealed)) = self.sealer.pop()
            {
                self.writer.frame(&table, &sealed)?;
            }
            self.sealer.push(frame);
        }
        Ok(())
    }

    /// Writes the frames that are left.
    fn finish(self) -> Result<Compared, JobError> {
        let Self { builder, mut sealer, writer, changed_blocks, .. } = self;
        let (last, values, proven) = builder.finish();
        if let Some(frame) = last {
            sealer.push(frame);
        }
        while let Some((table, sealed)) = sealer.pop() {
            writer.frame(&table, &sealed)?;
        }
        Ok(Compared { values, proven, changed_blocks })
    }
}
