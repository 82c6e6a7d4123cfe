//! Blocks: the equal pieces into which a disk is cut for hashing and comparing.

use crate::{ByteCount, ByteOffset, ByteRange, MAX_DISK_BYTES};
use std::fmt;

/// The size of a block: a power of two from 4 KiB to 1 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockSize {
    shift: u8,
}

/// Why a number is not a block size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a block size is a power of two from 4096 to 1048576 bytes, not {bytes}: choose one of those")]
pub struct BlockSizeError {
    /// The size that was asked for, in bytes.
    pub bytes: u64,
}

impl BlockSize {
    /// The smallest block, 4 KiB: a page, and what file systems write at least.
    pub const MIN: Self = Self { shift: 12 };
    /// The largest block, 1 MiB.
    pub const MAX: Self = Self { shift: 20 };

    /// A block of `bytes`.
    ///
    /// # Errors
    ///
    /// When `bytes` is no power of two, or out of range.
    pub const fn new(bytes: u64) -> Result<Self, BlockSizeError> {
        if !bytes.is_power_of_two() {
            return Err(BlockSizeError { bytes });
        }
        #[expect(clippy::cast_possible_truncation, reason = "the number of zero bits of a u64 is at most 64")]
        match Self::from_shift(bytes.trailing_zeros() as u8) {
            Some(size) => Ok(size),
            None => Err(BlockSizeError { bytes }),
        }
    }

    /// A block of 2^`shift` bytes, 12 to 20; `None` for any other.
    #[must_use]
    pub const fn from_shift(shift: u8) -> Option<Self> {
        if shift >= Self::MIN.shift && shift <= Self::MAX.shift { Some(Self { shift }) } else { None }
    }

    /// The base-2 logarithm of the size in bytes, 12 to 20.
    #[must_use]
    pub const fn shift(self) -> u8 {
        self.shift
    }

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1 << self.shift
    }

    /// The size in bytes, as a length in memory.
    #[must_use]
    pub const fn in_memory(self) -> usize {
        1 << self.shift
    }

    /// How many blocks a disk of `size` has; a last one that is not full counts.
    #[must_use]
    pub const fn blocks_in(self, size: ByteCount) -> BlockCount {
        BlockCount(size.get().div_ceil(self.bytes()))
    }
}

impl fmt::Display for BlockSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.shift < 20 { write!(f, "{} KiB", 1 << (self.shift - 10)) } else { f.write_str("1 MiB") }
    }
}

/// The number of a block, from 0 at the start of the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockIndex(u64);

/// A number of blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockCount(u64);

impl BlockIndex {
    /// The first block of a disk.
    pub const ZERO: Self = Self(0);

    /// Block number `index`; any number, since only a block size tells whether a disk reaches so far.
    #[must_use]
    pub const fn new(index: u64) -> Self {
        Self(index)
    }

    /// The number of the block.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Where the block starts, or `None` where no disk reaches.
    #[must_use]
    pub const fn offset(self, size: BlockSize) -> Option<ByteOffset> {
        match self.0.checked_mul(size.bytes()) {
            Some(bytes) => ByteOffset::new(bytes),
            None => None,
        }
    }

    /// The block that holds the byte at `offset`.
    #[must_use]
    pub const fn containing(offset: ByteOffset, size: BlockSize) -> Self {
        Self(offset.get() >> size.shift)
    }

    /// The block `count` further, or `None` past the last number.
    #[must_use]
    pub const fn checked_add(self, count: BlockCount) -> Option<Self> {
        match self.0.checked_add(count.0) {
            Some(index) => Some(Self(index)),
            None => None,
        }
    }

    /// How many blocks lie between `earlier` and this, or `None` if this comes first.
    #[must_use]
    pub const fn distance_from(self, earlier: Self) -> Option<BlockCount> {
        match self.0.checked_sub(earlier.0) {
            Some(count) => Some(BlockCount(count)),
            None => None,
        }
    }
}

impl BlockCount {
    /// No blocks.
    pub const ZERO: Self = Self(0);

    /// A number of blocks.
    #[must_use]
    pub const fn new(count: u64) -> Self {
        Self(count)
    }

    /// How many.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Their length in bytes if all are full, or `None` where no disk reaches.
    #[must_use]
    pub const fn bytes(self, size: BlockSize) -> Option<ByteCount> {
        match self.0.checked_mul(size.bytes()) {
            Some(bytes) if bytes <= MAX_DISK_BYTES => ByteCount::new(bytes),
            _ => None,
        }
    }

    /// The index just behind this many blocks.
    #[must_use]
    pub const fn as_end(self) -> BlockIndex {
        BlockIndex(self.0)
    }
}

/// Blocks from `start` up to, not including, `end`. Empty where both are equal; never reversed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockRange {
    start: BlockIndex,
    end: BlockIndex,
}

impl BlockRange {
    /// `count` blocks from `start`, or `None` past the last number.
    #[must_use]
    pub const fn new(start: BlockIndex, count: BlockCount) -> Option<Self> {
        match start.checked_add(count) {
            Some(end) => Some(Self { start, end }),
            None => None,
        }
    }

    /// From `start` to `end`, or `None` if `end` comes first.
    #[must_use]
    pub const fn between(start: BlockIndex, end: BlockIndex) -> Option<Self> {
        if start.0 <= end.0 { Some(Self { start, end }) } else { None }
    }

    /// The first block.
    #[must_use]
    pub const fn start(self) -> BlockIndex {
        self.start
    }

    /// The index behind the last block.
    #[must_use]
    pub const fn end(self) -> BlockIndex {
        self.end
    }

    /// How many blocks.
    #[must_use]
    pub const fn count(self) -> BlockCount {
        BlockCount(self.end.0 - self.start.0)
    }

    /// Whether there is no block in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.start.0 == self.end.0
    }

    /// The bytes of these blocks on a disk of `disk` bytes: what lies behind its end is left out.
    #[must_use]
    pub const fn bytes_on(self, size: BlockSize, disk: ByteCount) -> ByteRange {
        let end = disk.as_end();
        let start = match self.start.offset(size) {
            Some(offset) if offset.get() < end.get() => offset,
            _ => end,
        };
        let stop = match self.end.offset(size) {
            Some(offset) if offset.get() < end.get() => offset,
            _ => end,
        };
        match ByteRange::between(start, stop) {
            Some(range) => range,
            None => ByteRange::whole(ByteCount::ZERO),
        }
    }
}

impl fmt::Display for BlockIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for BlockCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for BlockRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn block_sizes() {
        for bytes in [4096, 8192, 65_536, 1 << 20] {
            assert_eq!(BlockSize::new(bytes).unwrap().bytes(), bytes);
        }
        for bytes in [0, 1, 1024, 2048, 4097, 12_288, 1 << 21, u64::MAX, 1 << 63] {
            assert_eq!(BlockSize::new(bytes), Err(BlockSizeError { bytes }));
        }
        assert_eq!(BlockSize::MIN.to_string(), "4 KiB");
        assert_eq!(BlockSize::MAX.to_string(), "1 MiB");
    }

    #[test]
    fn no_disk_reaches_so_far() {
        assert_eq!(BlockIndex::new(u64::MAX).offset(BlockSize::MIN), None);
        let last = BlockIndex::containing(ByteOffset::new(MAX_DISK_BYTES).unwrap(), BlockSize::MIN);
        assert!(last.offset(BlockSize::MIN).is_some());
        assert_eq!(BlockIndex::new(last.get() + 1).offset(BlockSize::MIN), None);
        assert_eq!(BlockCount::new(u64::MAX).bytes(BlockSize::MAX), None);
        assert_eq!(BlockIndex::new(u64::MAX).checked_add(BlockCount::new(1)), None);
    }

    #[test]
    fn ragged_end_and_beyond() {
        let disk = ByteCount::new(10_000).unwrap();
        let bytes = |start, end| {
            BlockRange::between(BlockIndex::new(start), BlockIndex::new(end)).unwrap().bytes_on(BlockSize::MIN, disk)
        };
        assert_eq!(bytes(0, 1).to_string(), "0..4096");
        assert_eq!(bytes(2, 3).to_string(), "8192..10000");
        assert_eq!(bytes(1, u64::MAX).to_string(), "4096..10000");
        assert!(bytes(3, 9).is_empty());
    }

    proptest! {
        #[test]
        fn a_block_contains_its_own_start(index in 0..=MAX_DISK_BYTES >> 12, shift in 12_u8..=20) {
            let size = BlockSize::from_shift(shift).unwrap();
            if let Some(offset) = BlockIndex::new(index).offset(size) {
                prop_assert_eq!(BlockIndex::containing(offset, size).get(), index);
                prop_assert_eq!(u128::from(offset.get()), u128::from(index) << shift);
            } else {
                prop_assert!(u128::from(index) << shift > u128::from(MAX_DISK_BYTES));
            }
        }

        #[test]
        fn blocks_cover_the_disk_and_no_more(bytes in 0..=MAX_DISK_BYTES, shift in 12_u8..=20) {
            let size = BlockSize::from_shift(shift).unwrap();
            let blocks = u128::from(size.blocks_in(ByteCount::new(bytes).unwrap()).get());
            prop_assert!(blocks << shift >= u128::from(bytes));
            prop_assert!(blocks == 0 || (blocks - 1) << shift < u128::from(bytes));
        }
    }
}
