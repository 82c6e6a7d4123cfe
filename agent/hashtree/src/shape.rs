//! Which nodes a tree has: arithmetic on sizes, without content.

use failback_units::{BlockCount, BlockIndex, BlockRange, BlockSize, ByteCount, ByteOffset, ByteRange};

/// The tree of a disk of some size, cut into blocks.
///
/// The tree over the blocks is the top of BLAKE3's tree over chunks: the left child of a node with n blocks has as many
/// blocks as the largest power of two below n. So every aligned group of 2^k blocks within the disk is a node, also when
/// the disk's last block, which may be shorter than the others, is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    size: ByteCount,
    block_size: BlockSize,
}

/// A node that covers 2^`level` blocks from `first`, a multiple of 2^`level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// The first block below the node.
    pub first: BlockIndex,
    /// 0 for a single block; 63 at most.
    pub level: u8,
}

impl Node {
    /// A single block.
    #[must_use]
    pub const fn leaf(index: BlockIndex) -> Self {
        Self { first: index, level: 0 }
    }

    /// How many blocks lie below it.
    #[must_use]
    pub const fn count(self) -> BlockCount {
        BlockCount::new(1 << self.level)
    }

    /// The block behind its last one, or `None` past the last number.
    #[must_use]
    pub const fn end(self) -> Option<BlockIndex> {
        self.first.checked_add(self.count())
    }
}

impl Shape {
    /// The tree of a disk of `size` in blocks of `block_size`.
    #[must_use]
    pub const fn new(size: ByteCount, block_size: BlockSize) -> Self {
        Self { size, block_size }
    }

    /// The size of the disk in bytes.
    #[must_use]
    pub const fn size(self) -> ByteCount {
        self.size
    }

    /// The size of a block.
    #[must_use]
    pub const fn block_size(self) -> BlockSize {
        self.block_size
    }

    /// How many blocks there are, a shorter last one included.
    #[must_use]
    pub const fn blocks(self) -> BlockCount {
        self.block_size.blocks_in(self.size)
    }

    /// The bytes of `blocks`; what lies behind the disk's end is left out.
    #[must_use]
    pub const fn bytes_of(self, blocks: BlockRange) -> ByteRange {
        blocks.bytes_on(self.block_size, self.size)
    }

    /// Where block `index` starts, or the disk's end if it lies behind that.
    #[must_use]
    pub const fn start_of(self, index: BlockIndex) -> ByteOffset {
        match index.offset(self.block_size) {
            Some(offset) if offset.get() < self.size.get() => offset,
            _ => self.size.as_end(),
        }
    }

    /// Whether the tree is a single leaf, which then is the root.
    #[must_use]
    pub const fn is_single(self) -> bool {
        self.blocks().get() == 1
    }

    /// The highest level that a node below the root can have: the largest k with 2^k less than the number of blocks.
    ///
    /// The root's own value is of another kind than that of inner nodes, so that no node may cover the whole disk. A tree
    /// of one block has only its leaf, on level 0.
    #[must_use]
    pub const fn top_level(self) -> u8 {
        let blocks = self.blocks().get();
        if blocks <= 1 {
            return 0;
        }
        #[expect(clippy::cast_possible_truncation, reason = "a logarithm of a u64 is less than 64")]
        let level = (blocks - 1).ilog2() as u8;
        level
    }

    /// The highest level of a node that covers at most `bytes`, within this tree. At least 0.
    #[must_use]
    pub const fn level_within(self, bytes: u64) -> u8 {
        let blocks = bytes >> self.block_size.shift();
        let level = if blocks == 0 { 0 } else { blocks.ilog2() };
        let top = self.top_level();
        #[expect(clippy::cast_possible_truncation, reason = "a logarithm of a u64 is less than 64")]
        let level = level as u8;
        if level < top { level } else { top }
    }
}

/// The fewest nodes, none above a highest level, that cover a range of blocks exactly; from left to right.
///
/// There are at most 2 × 63 of them, besides those that the highest level makes more numerous.
#[derive(Clone, Debug)]
pub struct Cover {
    rest: BlockRange,
    highest: u8,
}

impl Cover {
    /// Covers `range` with nodes of at most level `highest`.
    #[must_use]
    pub const fn new(range: BlockRange, highest: u8) -> Self {
        Self { rest: range, highest }
    }

    /// How many nodes are left, without walking over those of the highest level one by one.
    #[must_use]
    pub fn len(&self) -> u64 {
        let unit = 1_u64 << self.highest;
        let (start, end) = (self.rest.start().get(), self.rest.end().get());
        let first_unit = start.div_ceil(unit);
        let last_unit = end / unit;
        if first_unit > last_unit {
            // All of it lies inside one unit and touches neither of its ends.
            return u64::from(ascending(start, end).1);
        }
        let head = u64::from((first_unit * unit - start).count_ones());
        let tail = u64::from((end - last_unit * unit).count_ones());
        head + (last_unit - first_unit) + tail
    }

    /// Whether there is no node left.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

/// Counts the nodes that cover `start..end` without any limit on their level; returns the end and the count.
fn ascending(mut start: u64, end: u64) -> (u64, u32) {
    let mut nodes = 0;
    while start < end {
        start += 1 << largest_level(start, end - start, 63);
        nodes += 1;
    }
    (start, nodes)
}

/// The level of the largest node that starts at `start` and covers at most `count` blocks, 1 or more.
fn largest_level(start: u64, count: u64, highest: u8) -> u8 {
    let aligned = start.trailing_zeros().min(63);
    let fits = count.ilog2();
    let level = aligned.min(fits) as u8;
    level.min(highest)
}

impl Iterator for Cover {
    type Item = Node;

    fn next(&mut self) -> Option<Node> {
        if self.rest.is_empty() {
            return None;
        }
        let first = self.rest.start();
        let node = Node { first, level: largest_level(first.get(), self.rest.count().get(), self.highest) };
        self.rest = BlockRange::between(node.end()?, self.rest.end())?;
        Some(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(start: u64, end: u64) -> BlockRange {
        BlockRange::between(BlockIndex::new(start), BlockIndex::new(end)).unwrap()
    }

    #[test]
    fn top_levels() {
        let top = |blocks: u64| Shape::new(ByteCount::new(blocks * 4096).unwrap(), BlockSize::MIN).top_level();
        let expected = [(0, 0), (1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (8, 2), (9, 3), (1 << 40, 39)];
        for (blocks, level) in expected {
            assert_eq!(top(blocks), level, "{blocks} blocks");
        }
    }

    #[test]
    fn a_known_cover() {
        let nodes: Vec<_> = Cover::new(range(1, 15), 63).map(|n| (n.first.get(), n.count().get())).collect();
        assert_eq!(nodes, [(1, 1), (2, 2), (4, 4), (8, 4), (12, 2), (14, 1)]);
        let capped: Vec<_> = Cover::new(range(0, 10), 1).map(|n| (n.first.get(), n.count().get())).collect();
        assert_eq!(capped, [(0, 2), (2, 2), (4, 2), (6, 2), (8, 2)]);
        assert_eq!(Cover::new(range(0, u64::MAX), 63).count(), 64);
    }

    proptest! {
        #[test]
        fn covers_are_exact_aligned_and_counted(start in 0_u64..5000, count in 0_u64..5000, highest in 0_u8..=63) {
            let cover = Cover::new(range(start, start + count), highest);
            let (mut at, mut nodes) = (start, 0);
            let len = cover.len();
            for node in cover {
                prop_assert_eq!(node.first.get(), at);
                prop_assert_eq!(at % node.count().get(), 0);
                prop_assert!(node.level <= highest);
                at += node.count().get();
                nodes += 1;
            }
            prop_assert_eq!(at, start + count);
            prop_assert_eq!(nodes, len);
        }
    }
}
