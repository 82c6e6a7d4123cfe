//! Free space, in the blocks of a tree.

use crate::Coverage;
use crate::delta::{Content, FrameTable, Shapes};
use failback_hashtree::Shape;
use failback_units::{BlockIndex, BlockRange, ByteCount};

/// The blocks of a disk that nothing lives in, from left to right. A block of which a single byte is in use is not free.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FreeBlocks {
    runs: Vec<BlockRange>,
}

impl FreeBlocks {
    /// No block is free.
    pub const NONE: Self = Self { runs: Vec::new() };

    /// Adds a run behind all others, which it may touch. An empty one is ignored.
    ///
    /// # Panics
    ///
    /// When it starts before the end of the last one.
    pub fn push(&mut self, run: BlockRange) {
        if run.is_empty() {
            return;
        }
        if let Some(last) = self.runs.last_mut() {
            assert!(last.end() <= run.start(), "free runs come from left to right");
            if last.end() == run.start() {
                *last = BlockRange::between(last.start(), run.end()).expect("ends are in order");
                return;
            }
        }
        self.runs.push(run);
    }

    /// The runs of free blocks, which do not touch.
    #[must_use]
    pub fn runs(&self) -> &[BlockRange] {
        &self.runs
    }

    /// Whether no block is free.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// How many bytes they have on a disk of this shape.
    #[must_use]
    pub fn bytes(&self, shape: Shape) -> ByteCount {
        let sum = self.runs.iter().map(|run| shape.bytes_of(*run).count().get()).sum();
        ByteCount::new(sum).expect("runs that do not overlap are together no longer than the disk")
    }

    /// The parts of these runs that lie within `blocks`, from left to right.
    pub fn within(&self, blocks: BlockRange) -> impl Iterator<Item = BlockRange> {
        let first = self.runs.partition_point(|run| run.end() <= blocks.start());
        let runs = self.runs[first..].iter().take_while(move |run| run.start() < blocks.end());
        runs.filter_map(move |run| BlockRange::between(run.start().max(blocks.start()), run.end().min(blocks.end())))
    }

    /// What counts of a disk with these free blocks: where there are none, the whole disk.
    #[must_use]
    pub fn coverage(&self) -> Coverage {
        if self.is_empty() { Coverage::Whole } else { Coverage::Used }
    }

    /// Whether every one of these blocks is free.
    #[must_use]
    pub fn covers(&self, blocks: BlockRange) -> bool {
        blocks.is_empty()
            || self
                .first_behind(blocks.start())
                .is_some_and(|run| run.start() <= blocks.start() && blocks.end() <= run.end())
    }

    /// Whether any of these blocks is free.
    #[must_use]
    pub fn touches(&self, blocks: BlockRange) -> bool {
        self.within(blocks).any(|part| !part.is_empty())
    }

    /// The first run that ends behind `at`.
    fn first_behind(&self, at: BlockIndex) -> Option<BlockRange> {
        self.runs.get(self.runs.partition_point(|run| run.end() <= at)).copied()
    }
}

/// Walks along the free runs of a disk from left to right.
#[derive(Clone, Copy, Debug)]
pub struct FreeWalk<'a> {
    rest: &'a [BlockRange],
}

impl<'a> FreeWalk<'a> {
    /// From the first run on.
    #[must_use]
    pub fn new(blocks: &'a FreeBlocks) -> Self {
        Self { rest: &blocks.runs }
    }

    /// The first free run that ends behind `at`. `at` never moves to the left from one call to the next.
    pub fn from(&mut self, at: BlockIndex) -> Option<BlockRange> {
        while let Some((first, rest)) = self.rest.split_first()
            && first.end() <= at
        {
            self.rest = rest;
        }
        self.rest.first().copied()
    }
}

/// The free blocks of a delta's base, which stand nowhere in one piece: what was free and is not any more is in the
/// extents, and what was free and still is lies between them.
#[derive(Debug)]
pub struct BaseFree<'a> {
    result: &'a FreeBlocks,
    at: BlockIndex,
    base: FreeBlocks,
}

impl<'a> BaseFree<'a> {
    /// Nothing taken in yet; `result` are the free blocks of the delta's result.
    #[must_use]
    pub const fn new(result: &'a FreeBlocks) -> Self {
        Self { result, at: BlockIndex::ZERO, base: FreeBlocks::NONE }
    }

    /// Takes in the extents of the next frame.
    pub fn absorb(&mut self, table: &FrameTable, shapes: &Shapes) {
        for extent in &table.extents {
            self.extent(extent.blocks, extent.old, shapes);
        }
    }

    /// Takes in the next extent: its blocks, and what they were.
    pub fn extent(&mut self, blocks: BlockRange, old: Content, shapes: &Shapes) {
        self.unchanged(blocks.start());
        let behind = blocks.start() >= shapes.base.blocks().as_end();
        if old == Content::Free || (old == Content::Kept && !behind) {
            self.base.push(blocks);
        }
        self.at = blocks.end();
    }

    /// The free blocks of the base, once all extents were taken in.
    #[must_use]
    pub fn finish(mut self, shapes: &Shapes) -> FreeBlocks {
        self.unchanged(shapes.common_end());
        self.base
    }

    fn unchanged(&mut self, until: BlockIndex) {
        let gap = BlockRange::between(self.at, until).unwrap_or_default();
        for run in self.result.within(gap) {
            self.base.push(run);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> BlockRange {
        BlockRange::between(BlockIndex::new(start), BlockIndex::new(end)).unwrap()
    }

    #[test]
    fn runs_are_joined_and_found() {
        let mut free = FreeBlocks::NONE;
        for run in [range(1, 2), range(2, 4), range(5, 5), range(8, 10)] {
            free.push(run);
        }
        assert_eq!(free.runs(), [range(1, 4), range(8, 10)]);
        assert!(free.covers(range(1, 4)) && free.covers(range(2, 3)) && free.covers(range(7, 7)));
        assert!(!free.covers(range(0, 2)) && !free.covers(range(3, 5)) && !free.covers(range(3, 9)));
        assert!(free.touches(range(0, 2)) && free.touches(range(3, 9)) && free.touches(range(9, 20)));
        assert!(!free.touches(range(4, 8)) && !free.touches(range(10, 11)) && !free.touches(range(2, 2)));
        let mut walk = FreeWalk::new(&free);
        let mut at = |block| walk.from(BlockIndex::new(block)).map(|run| run.start().get());
        assert_eq!([at(0), at(3), at(4), at(9), at(10)], [Some(1), Some(1), Some(8), Some(8), None]);
    }
}
