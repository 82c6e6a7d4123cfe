//! How a disk is cut into grains: all of one size, but the last, which is as long as is left.

use crate::layout::SECTOR;
use failback_units::ByteCount;

/// The capacity of an extent and the size of its grains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grains {
    capacity: ByteCount,
    size: u32,
}

impl Grains {
    /// Of both in sectors; `None` for no capacity, for one that no disk has, or for grains that are not a power of two
    /// up to 1 MiB.
    pub(crate) fn of_sectors(capacity: u64, size: u64) -> Option<Self> {
        let capacity = ByteCount::new(capacity.checked_mul(SECTOR)?)?;
        let size = u32::try_from(size.checked_mul(SECTOR)?).ok()?;
        let is_right = !capacity.is_zero() && size.is_power_of_two() && size <= LARGEST;
        is_right.then_some(Self { capacity, size })
    }

    pub(crate) const fn capacity(self) -> ByteCount {
        self.capacity
    }

    /// Bytes in a whole grain.
    pub(crate) const fn size(self) -> u32 {
        self.size
    }

    /// How many there are; a short one counts.
    pub(crate) const fn count(self) -> u64 {
        self.capacity.get().div_ceil(self.size as u64)
    }

    /// How long grain `index` is; `None` behind the last.
    pub(crate) fn len(self, index: u64) -> Option<u32> {
        let start = index.checked_mul(u64::from(self.size))?;
        let left = self.capacity.get().checked_sub(start).filter(|left| *left > 0)?;
        Some(u32::try_from(left).map_or(self.size, |left| left.min(self.size)))
    }
}

/// The largest grain that is read, in bytes: it bounds the memory for one.
const LARGEST: u32 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_grain_is_short() {
        let grains = Grains::of_sectors(129, 128).unwrap();
        assert_eq!((grains.count(), grains.size()), (2, 65_536));
        assert_eq!([0, 1, 2, u64::MAX].map(|index| grains.len(index)), [Some(65_536), Some(512), None, None]);
        assert_eq!(Grains::of_sectors(256, 128).unwrap().len(1), Some(65_536));
    }

    #[test]
    fn what_no_disk_has_is_refused() {
        for (capacity, size) in [(0, 8), (1 << 60, 8), (u64::MAX, 8), (8, 0), (8, 12), (8, 4096), (8, u64::MAX)] {
            assert_eq!(Grains::of_sectors(capacity, size), None, "{capacity} {size}");
        }
    }
}
