//! The space that nothing lives in.

use failback_units::{ByteCount, ByteOffset, ByteRange};

/// Extents that are kept at most: 64 MiB of them. A map with more forgets its shortest extents, which then count as used.
const MAX_EXTENTS: usize = 4 << 20;

/// Free bytes: extents in ascending order that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FreeMap {
    extents: Vec<ByteRange>,
}

impl FreeMap {
    /// A map in which nothing is free.
    #[must_use]
    pub const fn nothing() -> Self {
        Self { extents: Vec::new() }
    }

    /// The free extents, from left to right.
    #[must_use]
    pub fn extents(&self) -> &[ByteRange] {
        &self.extents
    }

    /// How many bytes are free.
    #[must_use]
    pub fn bytes(&self) -> ByteCount {
        let sum = self.extents.iter().map(|extent| extent.count().get()).sum();
        ByteCount::new(sum).expect("disjoint extents of a disk are together no longer than it")
    }

    /// Whether nothing is free.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    /// Whether every byte of `range` is free.
    #[must_use]
    pub fn covers(&self, range: ByteRange) -> bool {
        let behind = self.extents.partition_point(|extent| extent.end() < range.end());
        range.is_empty() || self.extents.get(behind).is_some_and(|extent| extent.start() <= range.start())
    }

    /// What is free in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut both = FreeMapBuilder::new();
        let (mut left, mut right) = (self.extents.iter().peekable(), other.extents.iter().peekable());
        while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
            let (start, end) = (a.start().max(b.start()), a.end().min(b.end()));
            if let Some(common) = ByteRange::between(start, end) {
                both.push(common);
            }
            if a.end() <= b.end() {
                left.next()
            } else {
                right.next()
            };
        }
        both.finish()
    }
}

/// Builds a [`FreeMap`] from left to right.
#[derive(Debug, Default)]
pub struct FreeMapBuilder {
    extents: Vec<ByteRange>,
    /// Shorter extents are forgotten; 0 until there are too many.
    least: u64,
}

impl FreeMapBuilder {
    /// With nothing free yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { extents: Vec::new(), least: 0 }
    }

    /// Adds a free extent, which may touch the one before. An empty one is ignored.
    ///
    /// # Panics
    ///
    /// When it starts before the end of the one before: the caller has to find out first, since extents that overlap
    /// or go back show that what they were read from is damaged.
    pub fn push(&mut self, extent: ByteRange) {
        if extent.is_empty() {
            return;
        }
        if let Some(last) = self.extents.last_mut() {
            assert!(last.end() <= extent.start(), "free extents come from left to right");
            if last.end() == extent.start() {
                *last = ByteRange::between(last.start(), extent.end()).expect("ends are in order");
                return;
            }
            if last.count().get() < self.least {
                self.extents.pop();
            }
        }
        if self.extents.len() == MAX_EXTENTS {
            while self.extents.len() > MAX_EXTENTS / 2 {
                self.least = (self.least * 2).max(4096);
                let least = self.least;
                self.extents.retain(|extent| extent.count().get() >= least);
            }
        }
        self.extents.push(extent);
    }

    /// Where the last extent ends, or 0.
    #[must_use]
    pub fn end(&self) -> ByteOffset {
        self.extents.last().map_or(ByteOffset::ZERO, |last| last.end())
    }

    /// The map.
    #[must_use]
    pub fn finish(mut self) -> FreeMap {
        if self.extents.last().is_some_and(|last| last.count().get() < self.least) {
            self.extents.pop();
        }
        FreeMap { extents: self.extents }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::between(ByteOffset::new(start).unwrap(), ByteOffset::new(end).unwrap()).unwrap()
    }

    fn map(bits: &[bool]) -> FreeMap {
        let mut builder = FreeMapBuilder::new();
        for (at, _) in bits.iter().enumerate().filter(|(_, free)| **free) {
            builder.push(range(at as u64, at as u64 + 1));
        }
        builder.finish()
    }

    proptest! {
        #[test]
        fn it_is_what_a_bitmap_says(a in prop::collection::vec(any::<bool>(), 0..40), b in prop::collection::vec(any::<bool>(), 40)) {
            let (left, right) = (map(&a), map(&b));
            prop_assert_eq!(left.bytes().get(), a.iter().filter(|free| **free).count() as u64);
            let both: Vec<_> = a.iter().zip(&b).map(|(a, b)| *a && *b).collect();
            prop_assert_eq!(left.intersection(&right), map(&both));
            for start in 0..a.len() {
                for end in start..a.len() {
                    prop_assert_eq!(left.covers(range(start as u64, end as u64)), a[start..end].iter().all(|free| *free));
                }
            }
        }
    }

    #[test]
    fn too_many_extents_lose_the_shortest() {
        let mut builder = FreeMapBuilder::new();
        for at in 0..=MAX_EXTENTS as u64 {
            let len = if at.is_multiple_of(4) { 8192 } else { 1024 };
            builder.push(range(at * 16_384, at * 16_384 + len));
        }
        let map = builder.finish();
        assert!(map.extents.len() <= MAX_EXTENTS / 2 && map.extents.len() >= MAX_EXTENTS / 8);
        assert!(map.extents.iter().all(|extent| extent.count().get() == 8192));
    }
}
