//! The tree of a disk that is here.

use super::StoredTree;
use crate::{BaseTree, JobError, NodeRun};
use failback_blockio::{Buffer, Device, Operation, run};
use failback_delta::{Coverage, FreeBlocks};
use failback_hashtree::{ChainingValue, Frontier, LeafHasher, Root, Shape};
use failback_units::{BlockCount, BlockIndex, BlockRange, ByteCount};

/// Bytes that are read at a time for values that are not stored.
const READ_AT_ONCE: u64 = 1 << 20;

/// A stored tree, and the disk that it is of: values of nodes that are not stored are read from there.
#[derive(Clone, Copy)]
pub struct LocalBase<'a> {
    /// The tree.
    pub tree: &'a StoredTree,
    /// The disk, at least as large as the tree says.
    pub device: &'a dyn Device,
}

impl LocalBase<'_> {
    /// The values of blocks, free ones as zero.
    fn read_blocks(
        &self,
        hasher: &mut LeafHasher,
        blocks: BlockRange,
        values: &mut Vec<ChainingValue>,
    ) -> Result<(), JobError> {
        let shape = self.tree.shape();
        let bytes = shape.bytes_of(blocks);
        let len = bytes.count().to_usize().expect("a piece fits in memory");
        let read = Operation::Read { at: bytes.start(), into: Buffer::zeroed(len) };
        let mut content = run(self.device, read)?.expect("a read hands its buffer back");
        for free in self.tree.free().within(blocks) {
            let free = shape.bytes_of(free);
            let place = |at: failback_units::ByteOffset| {
                let distance = at.distance_from(bytes.start()).unwrap_or(ByteCount::ZERO);
                distance.to_usize().expect("a piece fits in memory")
            };
            content[place(free.start())..place(free.end())].fill(0);
        }
        hasher.hash(shape, blocks.start(), &content, values);
        Ok(())
    }

    /// Compares what was read with the values that are stored of whole nodes of it.
    fn check_stored(
        &self,
        hasher: &mut LeafHasher,
        first: BlockIndex,
        leaves: &[ChainingValue],
    ) -> Result<(), JobError> {
        let mut whole = Frontier::new(self.tree.kept);
        whole.push_leaves(hasher, first, leaves);
        for (node, value) in whole.take() {
            if self.tree.holds(node) && self.tree.value_of(hasher, node)? != value {
                let blocks = BlockRange::between(node.first, node.end().unwrap_or(node.first)).unwrap_or_default();
                return Err(JobError::Mismatch(format!(
                    "{} does not hold at bytes {} what its stored tree says: something else has written to it; begin the pass again, \
                     which reads the whole target",
                    self.device.name(),
                    self.tree.shape().bytes_of(blocks)
                )));
            }
        }
        Ok(())
    }

    /// The values of nodes below those that are stored.
    fn read_nodes(
        &self,
        hasher: &mut LeafHasher,
        nodes: NodeRun,
        values: &mut Vec<ChainingValue>,
    ) -> Result<(), JobError> {
        let shape = self.tree.shape();
        let at_once = (READ_AT_ONCE >> shape.block_size().shift()).max(1 << nodes.level);
        let end = nodes.end().expect("it was checked");
        let mut at = nodes.first;
        while at < end {
            let piece = at.checked_add(BlockCount::new(at_once)).unwrap_or(end).min(end);
            let mut leaves = Vec::new();
            self.read_blocks(hasher, BlockRange::between(at, piece).unwrap_or_default(), &mut leaves)?;
            self.check_stored(hasher, at, &leaves)?;
            let mut joined = Frontier::new(nodes.level);
            joined.push_leaves(hasher, at, &leaves);
            values.extend(joined.take().map(|(_, value)| value));
            at = piece;
        }
        Ok(())
    }
}

impl BaseTree for LocalBase<'_> {
    fn shape(&self) -> Shape {
        self.tree.shape()
    }

    fn root(&self) -> Root {
        self.tree.root()
    }

    fn coverage(&self) -> Coverage {
        self.tree.coverage()
    }

    fn free(&self) -> &FreeBlocks {
        self.tree.free()
    }

    fn values(&self, nodes: &[NodeRun]) -> Result<Vec<ChainingValue>, JobError> {
        let mut values = Vec::new();
        let mut hasher = LeafHasher::new();
        for run in nodes {
            self.tree.check(run)?;
            match self.tree.values_of(&mut hasher, run)? {
                Some(stored) => values.extend(stored),
                None => self.read_nodes(&mut hasher, *run, &mut values)?,
            }
        }
        Ok(values)
    }
}
