//! The bitmaps: a bit for each block, set where it is in use.

use super::geometry::Geometry;
use super::replay::Changes;
use super::unreadable;
use crate::{FreeMap, FreeMapBuilder, Unclear, Volume};
use failback_units::{ByteOffset, ByteRange};
use std::ops::RangeInclusive;

/// Bits that are looked at together.
const WORD: u32 = u64::BITS;

/// The free space: what the bitmaps on the disk and those in the journal both call free.
///
/// # Errors
///
/// When a bitmap cannot be read, when blocks that must be in use are called free, those of the `tree` among them, and when
/// the superblock counts other free blocks than the bitmaps have.
pub(super) fn read(
    volume: &dyn Volume,
    geometry: &Geometry,
    changes: &Changes,
    tree: &[u32],
) -> Result<FreeMap, Unclear> {
    let newest = &changes.geometry;
    let never_free: Vec<_> = newest
        .untouchable()
        .into_iter()
        .chain([single(newest.superblock_block())])
        .chain(tree.iter().copied().map(single))
        .collect();
    let mut builder = FreeMapBuilder::new();
    let mut on_disk = vec![0; geometry.block_len()];
    let mut replayed = vec![0; geometry.block_len()];
    let mut free = 0_u64;
    for number in 0..geometry.bitmaps() {
        let group = Group::new(geometry, number);
        block(volume, geometry, geometry.bitmap_block(number), &mut on_disk)?;
        match changes.of_block(geometry.bitmap_block(number)) {
            Some(in_journal) => block(volume, geometry, in_journal, &mut replayed)?,
            None => replayed.copy_from_slice(&on_disk),
        }
        let is_sound = never_free.iter().all(|blocks| group.is_used(&replayed, blocks))
            && group.is_used(&replayed, &single(geometry.bitmap_block(number)));
        if !is_sound {
            return Err(Unclear::because(format!(
                "bitmap {number} calls blocks free that hold its superblock, its bitmaps, its journal or its tree"
            )));
        }
        free += group.push_free(geometry, &on_disk, &replayed, &mut builder);
    }
    let stated = u64::from(newest.free_blocks());
    if free != stated {
        return Err(Unclear::because(format!("its superblock counts {stated} free blocks, and its bitmaps {free}")));
    }
    Ok(builder.finish())
}

/// One block as a range of blocks.
fn single(block: u32) -> RangeInclusive<u32> {
    block..=block
}

/// Fills a buffer with a block.
fn block(volume: &dyn Volume, geometry: &Geometry, block: u32, into: &mut [u8]) -> Result<(), Unclear> {
    let at = ByteOffset::new(geometry.at(block)).expect("2^32 blocks of 2^13 bytes are less than a disk can have");
    volume.read(at, into).map_err(|error| unreadable("one of its bitmaps", error))
}

/// The blocks that one bitmap describes.
struct Group {
    /// Its first block.
    first: u32,
    /// How many there are: as many as the bitmap has bits, or less in the last one.
    count: u32,
}

impl Group {
    fn new(geometry: &Geometry, number: u32) -> Self {
        let first = number.saturating_mul(geometry.blocks_in_bitmap());
        Self { first, count: geometry.blocks().saturating_sub(first).min(geometry.blocks_in_bitmap()) }
    }

    /// Whether all of these blocks are in use, as far as they are in this group.
    fn is_used(&self, bits: &[u8], blocks: &RangeInclusive<u32>) -> bool {
        let start = blocks.start().saturating_sub(self.first);
        let end = (u64::from(*blocks.end()) + 1).saturating_sub(self.first.into()).min(self.count.into());
        (u64::from(start)..end).all(|bit| {
            let byte = usize::try_from(bit / 8).expect("a bitmap has 8192 bytes at most");
            bits[byte] & (1 << (bit % 8)) != 0
        })
    }

    /// Adds what is free in both versions; returns how many blocks are free in the newer one.
    fn push_free(&self, geometry: &Geometry, old: &[u8], new: &[u8], builder: &mut FreeMapBuilder) -> u64 {
        let mut free_in_new = 0;
        for (number, (old, new)) in (0_u32..).zip(words(old).zip(words(new))) {
            let bit = number * WORD;
            if bit >= self.count {
                break;
            }
            // Bits behind the last block mean nothing.
            let meaningful = u64::MAX >> (WORD - (self.count - bit).min(WORD));
            free_in_new += u64::from((!new & meaningful).count_ones());
            let first = self.first + bit;
            for (start, end) in runs(!old & !new & meaningful) {
                let at =
                    |bit: u32| ByteOffset::new((u64::from(first) + u64::from(bit)) * u64::from(geometry.block_size()));
                let range = at(start).zip(at(end)).and_then(|(start, end)| ByteRange::between(start, end));
                builder.push(range.expect("a group lies within its volume"));
            }
        }
        free_in_new
    }
}

/// The bytes of a bitmap, eight at a time; its length is a multiple of that.
fn words(bits: &[u8]) -> impl Iterator<Item = u64> {
    let (words, _) = bits.as_chunks::<8>();
    words.iter().map(|word| u64::from_le_bytes(*word))
}

/// The runs of ones in a word, from the lowest bit on: each as its first bit and the bit behind it.
fn runs(word: u64) -> impl Iterator<Item = (u32, u32)> {
    let mut left = word;
    let mut at = 0;
    std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let start = at + left.trailing_zeros();
        // Shifting by all 64 bits at once is no operation of the processor's.
        let rest = left >> left.trailing_zeros();
        let len = rest.trailing_ones();
        at = start + len;
        left = rest.checked_shr(len).unwrap_or(0);
        Some((start, at))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_are_the_ones(word in prop_oneof![any::<u64>(), Just(0), Just(u64::MAX), Just(1 << 63), Just(u64::MAX >> 1)]) {
            let mut again = 0;
            let mut behind = None;
            for (start, end) in runs(word) {
                prop_assert!(start < end && end <= WORD && behind.is_none_or(|behind| behind < start));
                again |= (u64::MAX >> (WORD - (end - start))) << start;
                behind = Some(end);
            }
            prop_assert_eq!(again, word);
        }
    }
}
