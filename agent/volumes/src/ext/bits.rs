//! A group's bitmap in memory.

use std::ops::Range;

/// One bit for each cluster of a group, set where it is in use. Bits behind the last cluster are set.
#[derive(Debug, Default)]
pub(super) struct Bits {
    words: Vec<u64>,
}

impl Bits {
    /// Takes the first `count` bits of a bitmap block, least significant first.
    pub(super) fn take(&mut self, block: &[u8], count: u64) {
        let len = usize::try_from(count.div_ceil(64)).expect("a bitmap has at most 64 KiB");
        self.words.clear();
        self.words.extend(block.chunks(8).take(len).map(|chunk| {
            let mut word = [0xFF; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(word)
        }));
        self.words.resize(len, u64::MAX);
        if let Some(last) = self.words.last_mut().filter(|_| !count.is_multiple_of(64)) {
            *last |= u64::MAX << (count % 64);
        }
    }

    /// Starts over with `count` clusters of which none is in use.
    pub(super) fn clear(&mut self, count: u64) {
        self.take(&[], 0);
        let len = usize::try_from(count.div_ceil(64)).expect("a bitmap has at most 64 KiB");
        self.words.resize(len, 0);
        if let Some(last) = self.words.last_mut().filter(|_| !count.is_multiple_of(64)) {
            *last = u64::MAX << (count % 64);
        }
    }

    /// Sets the bits of a range within the group; returns whether all were set before.
    pub(super) fn set(&mut self, range: Range<u64>) -> bool {
        let mut were_set = true;
        let mut at = range.start;
        while at < range.end {
            let (index, bit) = (usize::try_from(at / 64), at % 64);
            let count = (64 - bit).min(range.end - at);
            let mask = (u64::MAX >> (64 - count)) << bit;
            if let Some(word) = index.ok().and_then(|index| self.words.get_mut(index)) {
                were_set &= *word & mask == mask;
                *word |= mask;
            }
            at += count;
        }
        were_set
    }

    /// Sets every bit that is set in `other`.
    pub(super) fn unite(&mut self, other: &Self) {
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
    }

    /// How many clusters are free.
    pub(super) fn free(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_zeros())).sum()
    }

    /// The free clusters, as ranges from left to right that do not touch.
    pub(super) fn free_runs(&self) -> impl Iterator<Item = Range<u64>> {
        let mut at = Some(0);
        std::iter::from_fn(move || {
            let start = self.next(at?, 0)?;
            at = self.next(start, u64::MAX);
            Some(start..at.unwrap_or(self.end()))
        })
    }

    fn end(&self) -> u64 {
        self.words.iter().map(|_| 64).sum()
    }

    /// The first bit from `from` on that is clear (`flip` 0) or set (all ones).
    fn next(&self, from: u64, flip: u64) -> Option<u64> {
        let first = usize::try_from(from / 64).ok()?;
        let mut below = !(u64::MAX << (from % 64));
        let mut base = from - from % 64;
        for word in self.words.get(first..)? {
            // Ones where the bit is not what is looked for.
            let other = (word ^ flip) | below;
            if other != u64::MAX {
                return Some(base + u64::from(other.trailing_ones()));
            }
            below = 0;
            base += 64;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_says_what_the_block_says(block in prop::collection::vec(prop_oneof![Just(0), Just(0xFF), any::<u8>()], 0..40),
                                       other in prop::collection::vec(any::<u8>(), 40), cut in 0..8_u64) {
            let count = (8 * block.len() as u64).saturating_sub(cut);
            let is_set = |block: &[u8], at: u64| block[usize::try_from(at / 8).unwrap()] >> (at % 8) & 1 == 1;
            let free = |bits: &Bits| bits.free_runs().flatten().collect::<Vec<_>>();
            let mut bits = Bits::default();
            bits.take(&block, count);
            let expected: Vec<_> = (0..count).filter(|at| !is_set(&block, *at)).collect();
            prop_assert_eq!(free(&bits), expected.clone());
            prop_assert_eq!(bits.free(), expected.len() as u64);
            let mut more = Bits::default();
            more.take(&other, count);
            bits.unite(&more);
            prop_assert_eq!(free(&bits), expected.into_iter().filter(|at| !is_set(&other, *at)).collect::<Vec<_>>());
        }

        #[test]
        fn setting_sets(count in 1..300_u64, start in 0..300_u64, len in 0..300_u64) {
            let range = start.min(count)..(start + len).min(count).max(start.min(count));
            let mut bits = Bits::default();
            bits.clear(count);
            prop_assert_eq!(bits.free(), count);
            prop_assert_eq!(bits.set(range.clone()), range.is_empty());
            prop_assert!(bits.set(range.clone()));
            prop_assert_eq!(bits.free(), count - (range.end - range.start));
            prop_assert!(bits.free_runs().flatten().all(|at| !range.contains(&at)));
        }
    }
}
