//! Free space in the blocks of a tree.

use failback_delta::FreeBlocks;
use failback_hashtree::Shape;
use failback_units::{BlockIndex, BlockRange, ByteRange};
use failback_volumes::FreeMap;

/// The blocks of `shape` that lie in free space.
#[must_use]
pub fn free_blocks(map: &FreeMap, shape: Shape) -> FreeBlocks {
    let mut blocks = FreeBlocks::NONE;
    for run in map.extents().iter().filter_map(|extent| blocks_within(*extent, shape)) {
        blocks.push(run);
    }
    blocks
}

/// The blocks that lie wholly within `extent`.
fn blocks_within(extent: ByteRange, shape: Shape) -> Option<BlockRange> {
    let size = shape.block_size();
    let disk = shape.size().as_end();
    let first = BlockIndex::containing(extent.start(), size);
    let start = if first.offset(size)? == extent.start() { first.get() } else { first.get() + 1 };
    // The last block ends with the disk.
    let end = if extent.end() >= disk { shape.blocks().as_end() } else { BlockIndex::containing(extent.end(), size) };
    BlockRange::between(BlockIndex::new(start), end).filter(|blocks| !blocks.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use failback_units::{BlockSize, ByteCount, ByteOffset};
    use failback_volumes::FreeMapBuilder;

    fn map(ranges: &[(u64, u64)]) -> FreeMap {
        let mut map = FreeMapBuilder::new();
        for (start, end) in ranges {
            let offset = |at: u64| ByteOffset::new(at).unwrap();
            map.push(ByteRange::between(offset(*start), offset(*end)).unwrap());
        }
        map.finish()
    }

    fn blocks(ranges: &[(u64, u64)], size: u64) -> Vec<(u64, u64)> {
        let shape = Shape::new(ByteCount::new(size).unwrap(), BlockSize::MIN);
        let blocks = free_blocks(&map(ranges), shape);
        blocks.runs().iter().map(|run| (run.start().get(), run.end().get())).collect()
    }

    #[test]
    fn a_block_is_free_if_all_of_it_is() {
        assert_eq!(blocks(&[(0, 4095)], 16_384), []);
        assert_eq!(blocks(&[(0, 4096)], 16_384), [(0, 1)]);
        assert_eq!(blocks(&[(1, 8192)], 16_384), [(1, 2)]);
        assert_eq!(blocks(&[(1, 8191)], 16_384), []);
        assert_eq!(blocks(&[(512, 4096), (8192, 12_288)], 16_384), [(2, 3)]);
        // The last block is as short as the disk makes it.
        assert_eq!(blocks(&[(12_288, 12_800)], 12_800), [(3, 4)]);
        assert_eq!(blocks(&[(12_289, 12_800)], 12_800), []);
        assert_eq!(blocks(&[(0, 700)], 700), [(0, 1)]);
    }
}
