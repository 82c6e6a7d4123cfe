//! Where a stretch of the source differs from the base: both trees are compared from the top, so that equal subtrees cost one
//! value each.

use super::tree::{BaseTree, NodeRun};
use crate::JobError;
use failback_delta::{Before, FreeBlocks};
use failback_hashtree::{ChainingValue, Cover, LeafHasher, Node};
use failback_units::{BlockCount, BlockIndex, BlockRange};

/// How many levels are gone down at a time. Each step costs a round trip, and 2^STEP values for each node that differs.
const STEP: u8 = 4;
/// Values that are asked for at once: 128 KiB, and 16 MiB to be read by the other side if they are those of blocks.
pub(super) const VALUES_AT_ONCE: u64 = 4096;

/// A stretch of the source, and the values of its nodes: those of the cover up to the lowest level that is kept.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) blocks: BlockRange,
    pub(super) nodes: Vec<(Node, ChainingValue)>,
}

/// A part of a segment.
#[derive(Debug)]
pub(super) enum Part {
    /// The same on both sides, free space too.
    Same(Node, ChainingValue),
    /// Different somewhere: what its blocks were.
    Differs(BlockRange, Vec<Before>),
}

impl Part {
    pub(super) const fn start(&self) -> BlockIndex {
        match self {
            Self::Same(node, _) => node.first,
            Self::Differs(blocks, _) => blocks.start(),
        }
    }
}

/// Compares segments with the base.
pub(super) struct Descent<'a> {
    base: &'a dyn BaseTree,
    /// The free blocks of the source.
    free: &'a FreeBlocks,
    /// The level of the nodes that a segment has values of, but for its ragged end.
    kept: u8,
    hasher: LeafHasher,
}

impl<'a> Descent<'a> {
    pub(super) fn new(base: &'a dyn BaseTree, free: &'a FreeBlocks, kept: u8) -> Self {
        Self { base, free, kept, hasher: LeafHasher::new() }
    }

    /// The parts of a segment from left to right; `highest` is the level to begin at.
    pub(super) fn compare(&mut self, segment: &Segment, highest: u8) -> Result<Vec<Part>, JobError> {
        let mut parts = Vec::new();
        let mut different = Vec::new();
        let mut level: Vec<Node> = Cover::new(segment.blocks, highest).collect();
        while !level.is_empty() {
            let theirs = self.ask(&level)?;
            let mut below = Vec::new();
            for (node, theirs) in level.into_iter().zip(theirs) {
                let ours = self.value_of(segment, node);
                let blocks = blocks_of(node);
                if ours == theirs && self.same_free(blocks) {
                    parts.push(Part::Same(node, ours));
                } else if node.level > self.kept {
                    below.extend(Cover::new(blocks, node.level.saturating_sub(STEP).max(self.kept)));
                } else {
                    different.push((node, theirs));
                }
            }
            level = below;
        }
        self.blocks(&different, &mut parts)?;
        parts.sort_by_key(Part::start);
        Ok(parts)
    }

    /// The values of nodes in the base. Neighbours of one level are asked for as one.
    fn ask(&self, nodes: &[Node]) -> Result<Vec<ChainingValue>, JobError> {
        let mut runs: Vec<NodeRun> = Vec::new();
        for node in nodes {
            match runs.last_mut() {
                Some(run) if run.level == node.level && run.end() == Some(node.first) => run.count += 1,
                _ => runs.push(NodeRun { first: node.first, level: node.level, count: 1 }),
            }
        }
        values(self.base, &runs)
    }

    /// The value of a node in the source.
    fn value_of(&mut self, segment: &Segment, node: Node) -> ChainingValue {
        let at = segment.nodes.partition_point(|(kept, _)| kept.first < node.first);
        let end = node.end().expect("a node lies within its tree");
        let below: Vec<_> =
            segment.nodes[at..].iter().take_while(|(kept, _)| kept.first < end).map(|(_, value)| *value).collect();
        match below.as_slice() {
            [value] => *value,
            values => self.hasher.join(values),
        }
    }

    /// Whether source and base have the same free blocks among these. Zero and free have one value.
    fn same_free(&self, blocks: BlockRange) -> bool {
        self.free.within(blocks).eq(self.base.free().within(blocks))
    }

    /// What the blocks below nodes that differ were, neighbours as one.
    fn blocks(&mut self, nodes: &[(Node, ChainingValue)], parts: &mut Vec<Part>) -> Result<(), JobError> {
        let mut wanted = Vec::new();
        for (node, _) in nodes.iter().filter(|(node, _)| node.level > 0) {
            wanted.extend(self.counted(blocks_of(*node)).into_iter().map(NodeRun::of_blocks));
        }
        let found = values(self.base, &wanted)?;
        let mut found = found.into_iter();
        for (node, value) in nodes {
            let blocks = blocks_of(*node);
            let before = if node.level == 0 {
                let free = self.base.free().covers(blocks);
                vec![if free { Before::Free } else { Before::Data(*value) }]
            } else {
                let before = self.before(blocks, &mut found);
                self.check(&before, *node, *value)?;
                before
            };
            match parts.last_mut() {
                Some(Part::Differs(last, all)) if last.end() == blocks.start() => {
                    *last = BlockRange::between(last.start(), blocks.end()).unwrap_or(*last);
                    all.extend(before);
                }
                _ => parts.push(Part::Differs(blocks, before)),
            }
        }
        Ok(())
    }

    /// The runs of these blocks that count in the base.
    fn counted(&self, blocks: BlockRange) -> Vec<BlockRange> {
        counted(self.base.free(), blocks)
    }

    fn before(&self, blocks: BlockRange, found: &mut impl Iterator<Item = ChainingValue>) -> Vec<Before> {
        let free = self.base.free();
        let of = |block| {
            let block = BlockRange::new(BlockIndex::new(block), BlockCount::new(1)).unwrap_or_default();
            if free.covers(block) {
                return Before::Free;
            }
            Before::Data(found.next().expect("as many values as were asked for"))
        };
        (blocks.start().get()..blocks.end().get()).map(of).collect()
    }

    /// The blocks of a base have to lead to the value of the node above them: its disk may have been written by others since
    /// its tree was stored.
    fn check(&mut self, before: &[Before], node: Node, value: ChainingValue) -> Result<(), JobError> {
        let shape = self.base.shape();
        let values: Vec<_> = before
            .iter()
            .zip(node.first.get()..)
            .map(|(before, block)| match before {
                Before::Data(value) => *value,
                _ => self.hasher.zero_node(shape, Node::leaf(BlockIndex::new(block))),
            })
            .collect();
        if self.hasher.join(&values) == value {
            return Ok(());
        }
        let bytes = shape.bytes_of(blocks_of(node));
        Err(JobError::Mismatch(format!(
            "the target does not hold at bytes {bytes} what its stored tree says: something else has written to it; \
             have its tree made anew and begin again"
        )))
    }
}

/// The runs of `blocks` that are not free.
pub(super) fn counted(free: &FreeBlocks, blocks: BlockRange) -> Vec<BlockRange> {
    let (mut runs, mut at) = (Vec::new(), blocks.start());
    for run in free.within(blocks) {
        runs.extend(BlockRange::between(at, run.start()).filter(|run| !run.is_empty()));
        at = run.end();
    }
    runs.extend(BlockRange::between(at, blocks.end()).filter(|run| !run.is_empty()));
    runs
}

/// Asks for values in as many questions as their number needs.
pub(super) fn values(base: &dyn BaseTree, runs: &[NodeRun]) -> Result<Vec<ChainingValue>, JobError> {
    let mut values = Vec::new();
    let (mut question, mut asked) = (Vec::new(), 0);
    for run in runs {
        let mut rest = Some(*run);
        while let Some(run) = rest {
            let (now, later) = run.split(VALUES_AT_ONCE - asked);
            asked += now.count;
            question.push(now);
            rest = later;
            if asked == VALUES_AT_ONCE {
                values.extend(answer(base, &question, asked)?);
                (question, asked) = (Vec::new(), 0);
            }
        }
    }
    if asked > 0 {
        values.extend(answer(base, &question, asked)?);
    }
    Ok(values)
}

fn answer(base: &dyn BaseTree, question: &[NodeRun], asked: u64) -> Result<Vec<ChainingValue>, JobError> {
    let values = base.values(question)?;
    assert_eq!(values.len() as u64, asked, "a base answers what it was asked");
    Ok(values)
}

fn blocks_of(node: Node) -> BlockRange {
    BlockRange::new(node.first, node.count()).expect("a node lies within its tree")
}
