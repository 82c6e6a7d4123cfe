//! What changed since a tree was stored that lies elsewhere: the source is read once, and only what differs is read again.

use super::comparison::{Comparison, compare};
use super::segment::{Descent, Part, Segment, counted, values};
use super::{DiffOptions, DiffReport, finish, piece_from};
use crate::free::free_blocks;
use crate::ordered::Ordered;
use crate::scan::{ChunkContent, ScanOptions, ScanReport, scan};
use crate::tree::KEPT_LEVEL;
use crate::{JobError, Progress};
use failback_blockio::Device;
use failback_delta::{Before, Coverage, DeltaHeader, DeltaWriter, FrameTable, FreeBlocks, Shapes};
use failback_hashtree::{ChainingValue, Frontier, LeafHasher, Node, Root, Shape};
use failback_units::{BlockCount, BlockIndex, BlockRange, ByteCount};
use std::io::Write;
use std::thread;

/// Segments in which differences are looked for at the same time: the other side may be far away.
const COMPARED_AT_ONCE: usize = 8;
/// A segment is a 32nd of the disk, so that an unchanged disk costs 32 values, but not larger than 256 MiB, which bounds memory,
/// nor smaller than what is read at a time.
const SEGMENTS: u64 = 32;
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=256 << 20;

/// Neighbouring nodes of one level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeRun {
    /// The first block below the first node, a multiple of 2^`level`.
    pub first: BlockIndex,
    /// The level of the nodes.
    pub level: u8,
    /// How many there are, 1 or more.
    pub count: u64,
}

impl NodeRun {
    /// The block behind the last node, or `None` past the last number.
    #[must_use]
    pub fn end(&self) -> Option<BlockIndex> {
        let blocks = self.count.checked_shl(self.level.into()).filter(|blocks| blocks >> self.level == self.count)?;
        self.first.checked_add(BlockCount::new(blocks))
    }

    /// The nodes from left to right.
    pub fn nodes(self) -> impl Iterator<Item = Node> {
        (0..self.count).map_while(move |number| {
            let first = self.first.get().checked_add(number << self.level)?;
            Some(Node { first: BlockIndex::new(first), level: self.level })
        })
    }

    /// These blocks, each as a node.
    pub(super) const fn of_blocks(blocks: BlockRange) -> Self {
        Self { first: blocks.start(), level: 0, count: blocks.count().get() }
    }

    /// At most the first `count` nodes, and the rest, if there is one.
    pub(super) fn split(self, count: u64) -> (Self, Option<Self>) {
        if self.count <= count {
            return (self, None);
        }
        let first = BlockIndex::new(self.first.get() + (count << self.level));
        (Self { count, ..self }, Some(Self { first, count: self.count - count, ..self }))
    }
}

/// The tree of a base whose disk is elsewhere, in blocks of one size.
pub trait BaseTree: Sync {
    /// The base's size, and its blocks.
    fn shape(&self) -> Shape;

    /// The base's root.
    fn root(&self) -> Root;

    /// Which bytes of the base count.
    fn coverage(&self) -> Coverage;

    /// The base's free blocks, which count as zero.
    fn free(&self) -> &FreeBlocks;

    /// The values of nodes, in the order in which they are named. At most 4096 are asked for at once.
    ///
    /// # Errors
    ///
    /// When the values cannot be had.
    fn values(&self, nodes: &[NodeRun]) -> Result<Vec<ChainingValue>, JobError>;
}

/// What comparing with a tree found.
#[derive(Clone, Copy, Debug)]
pub struct TreeDiffReport {
    /// The delta.
    pub delta: DiffReport,
    /// What was read a second time, since it differed. In [`DiffReport::scan`] is the first reading.
    pub read_again: ScanReport,
}

/// Reads a source once, compares it with a tree from the top, reads again what differs, and writes the delta.
///
/// A source that is written to meanwhile leads to a delta that is right for what was read: the result is a mixture of
/// moments, as with [`diff`](super::diff()).
///
/// `earlier` are frames of the same delta that the output has already, with their lengths: an earlier run with the same options came
/// so far. What they tell of is not read again, and the delta goes on behind them; its header and map are written again all the same.
///
/// # Errors
///
/// When the source cannot be read, the tree contradicts itself or cannot be had, the output cannot be written, or the user
/// stopped it. What was written by then is no delta: it has no trailer.
pub fn diff_tree(
    base: &dyn BaseTree,
    device: &dyn Device,
    out: impl Write,
    options: &DiffOptions<'_>,
    earlier: impl IntoIterator<Item = Result<(FrameTable, usize), JobError>>,
    progress: &dyn Progress,
) -> Result<TreeDiffReport, JobError> {
    let (header, free) = tree_header(base, device.size(), options);
    let shapes = header.shapes;
    let mut writer = DeltaWriter::new(out, header, &free)?;
    progress.phase("comparing", Some(device.size().get()));
    let job = TreeDiff { base, device, shapes, free: &free, threads: options.threads, progress };
    let ((scan, read_again), compared) = compare(shapes, options.compression, &mut writer, |comparison| {
        for frame in earlier {
            let (table, len) = frame?;
            comparison.told(&table, len);
        }
        let mut again = ScanReport::default();
        let mut scan = job.common(comparison, &mut again)?;
        scan += job.tail(comparison)?;
        Ok((scan, again))
    })?;
    (options.before_end)()?;
    if compared.proven.base != base.root() {
        let why = "the tree of the target does not lead to its own root: have it made anew and begin again";
        return Err(JobError::Mismatch(why.into()));
    }
    Ok(TreeDiffReport { delta: finish(writer, &compared, options.signer, scan)?, read_again })
}

/// How a delta begins that [`diff_tree`] makes of a source of this size: its header, and the free blocks of its result.
#[must_use]
pub fn tree_header(base: &dyn BaseTree, size: ByteCount, options: &DiffOptions<'_>) -> (DeltaHeader, FreeBlocks) {
    let shapes = Shapes { base: base.shape(), result: Shape::new(size, base.shape().block_size()) };
    let free = options.free.map_or(FreeBlocks::NONE, |map| free_blocks(map, shapes.result));
    let header = DeltaHeader {
        shapes,
        base_coverage: base.coverage(),
        result_coverage: free.coverage(),
        kind: options.kind,
        created: options.created,
        id: options.id,
        base_root: base.root(),
        identity: options.identity.clone(),
    };
    (header, free)
}

struct TreeDiff<'a> {
    base: &'a dyn BaseTree,
    device: &'a dyn Device,
    shapes: Shapes,
    free: &'a FreeBlocks,
    threads: usize,
    progress: &'a dyn Progress,
}

impl TreeDiff<'_> {
    /// Compares the blocks that both sides have. Returns what was read; what was read again goes to `again`.
    fn common<W: Write>(
        &self,
        comparison: &mut Comparison<'_, W>,
        again: &mut ScanReport,
    ) -> Result<ScanReport, JobError> {
        let common = BlockRange::between(comparison.next(), self.shapes.common_end());
        let Some(common) = common.filter(|common| !common.is_empty()) else {
            return Ok(ScanReport::default());
        };
        let kept = KEPT_LEVEL.min(self.shapes.gap_level());
        let segment = segment_blocks(&self.shapes);
        let highest = self.shapes.gap_level().min(ilog2(segment));
        thread::scope(|scope| {
            let mut comparing: Ordered<Segment, Result<Vec<Part>, JobError>> =
                Ordered::start(scope, COMPARED_AT_ONCE, || {
                    let mut descent = Descent::new(self.base, self.free, kept);
                    move |segment: Segment| descent.compare(&segment, highest)
                });
            let mut nodes = Frontier::new(kept);
            let mut hasher = LeafHasher::new();
            let mut start = common.start();
            let parts = [common];
            let how = ScanOptions { parts: Some(&parts), ..self.reading(kept, false) };
            let report = scan(self.device, how, self.progress, |chunk| {
                match &chunk.content {
                    ChunkContent::Zero(zero) => zero.iter().for_each(|(node, value)| nodes.push(*node, *value)),
                    ChunkContent::Data { node: Some((node, value)), .. } => nodes.push(*node, *value),
                    ChunkContent::Data { leaves, .. } => nodes.push_leaves(&mut hasher, chunk.blocks.start(), leaves),
                }
                let end = chunk.blocks.end();
                if end.get() % segment == 0 || end == common.end() {
                    let blocks = BlockRange::between(start, end).unwrap_or_default();
                    comparing.push(Segment { blocks, nodes: nodes.take().collect() });
                    start = end;
                    if comparing.under_way() >= COMPARED_AT_ONCE as u64
                        && let Some(parts) = comparing.pop()
                    {
                        self.emit(&parts?, comparison, again)?;
                    }
                }
                Ok(())
            })?;
            while let Some(parts) = comparing.pop() {
                self.emit(&parts?, comparison, again)?;
            }
            Ok(report)
        })
    }

    /// Tells what was found of a segment; what differs is read again.
    fn emit<W: Write>(
        &self,
        parts: &[Part],
        comparison: &mut Comparison<'_, W>,
        again: &mut ScanReport,
    ) -> Result<(), JobError> {
        let differs: Vec<_> = parts
            .iter()
            .filter_map(|part| match part {
                Part::Differs(blocks, _) => Some(*blocks),
                Part::Same(..) => None,
            })
            .collect();
        let mut rest = parts.iter();
        let mut now: Option<(BlockRange, &[Before])> = None;
        if !differs.is_empty() {
            let how = ScanOptions { parts: Some(&differs), ..self.reading(self.shapes.gap_level(), true) };
            *again += scan(self.device, how, &Quiet(self.progress), |chunk| {
                while now.is_none_or(|(blocks, _)| blocks.end() <= chunk.blocks.start()) {
                    match rest.next() {
                        Some(Part::Same(node, value)) => comparison.unchanged(*node, *value),
                        Some(Part::Differs(blocks, before)) => now = Some((*blocks, before)),
                        None => unreachable!("only parts that differ are read again"),
                    }
                }
                let Some((blocks, before)) = now else { unreachable!("a part was found") };
                comparison.chunk(&before[within(blocks, chunk.blocks)], &chunk)
            })?;
        }
        for part in rest {
            if let Part::Same(node, value) = part {
                comparison.unchanged(*node, *value);
            }
        }
        Ok(())
    }

    /// Tells of the blocks that the two sides do not have in common, since their sizes differ. Returns what was read.
    fn tail<W: Write>(&self, comparison: &mut Comparison<'_, W>) -> Result<ScanReport, JobError> {
        let mut report = ScanReport::default();
        let result_end = self.shapes.result.blocks().as_end();
        while let Some(blocks) = piece_from(comparison.next(), result_end) {
            let before = self.before(blocks)?;
            let parts = [blocks];
            let how = ScanOptions { parts: Some(&parts), ..self.reading(self.shapes.gap_level(), true) };
            report += scan(self.device, how, self.progress, |chunk| {
                comparison.chunk(&before[within(blocks, chunk.blocks)], &chunk)
            })?;
        }
        while let Some(blocks) = piece_from(comparison.next(), self.shapes.end()) {
            comparison.removed(&self.before(blocks)?)?;
        }
        Ok(report)
    }

    /// What blocks were, by the base alone.
    fn before(&self, blocks: BlockRange) -> Result<Vec<Before>, JobError> {
        let end = blocks.end().min(self.base.shape().blocks().as_end());
        let there = BlockRange::between(blocks.start(), end).unwrap_or_default();
        let mut before = vec![Before::Absent; in_memory(blocks.count())];
        before[..in_memory(there.count())].fill(Before::Free);
        let runs = counted(self.base.free(), there);
        let questions: Vec<_> = runs.iter().copied().map(NodeRun::of_blocks).collect();
        let mut found = values(self.base, &questions)?.into_iter();
        for run in runs {
            for (before, value) in before[within(blocks, run)].iter_mut().zip(&mut found) {
                *before = Before::Data(value);
            }
        }
        Ok(before)
    }

    const fn reading(&self, highest: u8, keep_bytes: bool) -> ScanOptions<'_> {
        let (shape, free) = (self.shapes.result, self.free);
        ScanOptions { shape, free, parts: None, highest, keep_bytes, threads: self.threads }
    }
}

/// How many blocks a segment has: a power of two.
fn segment_blocks(shapes: &Shapes) -> u64 {
    let bytes = (shapes.result.size().get() / SEGMENTS).clamp(*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end());
    bytes.next_power_of_two() >> shapes.block_size().shift()
}

fn ilog2(blocks: u64) -> u8 {
    u8::try_from(blocks.ilog2()).expect("a logarithm of a u64 is less than 64")
}

/// Where `inner` lies in memory for `outer`.
fn within(outer: BlockRange, inner: BlockRange) -> std::ops::Range<usize> {
    let start = in_memory(inner.start().distance_from(outer.start()).unwrap_or_default());
    start..start + in_memory(inner.count())
}

fn in_memory(count: BlockCount) -> usize {
    usize::try_from(count.get()).expect("a piece fits in memory")
}

/// Passes on the wish to stop, and nothing of the progress: what is read again was counted.
struct Quiet<'a>(&'a dyn Progress);

impl Progress for Quiet<'_> {
    fn phase(&self, _: &'static str, _: Option<u64>) {}
    fn advance(&self, _: u64) {}
    fn note(&self, sentence: &str) {
        self.0.note(sentence);
    }
    fn stop_requested(&self) -> bool {
        self.0.stop_requested()
    }
}
