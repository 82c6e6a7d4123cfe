//! Positions and lengths in bytes.

use std::fmt;

/// The greatest offset or length of a disk, in bytes: Linux's `loff_t` is a signed 64-bit integer.
pub const MAX_DISK_BYTES: u64 = i64::MAX.unsigned_abs();

/// A position on a disk, in bytes from its start; at most [`MAX_DISK_BYTES`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteOffset(u64);

/// A length or size in bytes; at most [`MAX_DISK_BYTES`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteCount(u64);

impl ByteOffset {
    /// The start of a disk.
    pub const ZERO: Self = Self(0);

    /// An offset of `bytes`, or `None` above [`MAX_DISK_BYTES`].
    #[must_use]
    pub const fn new(bytes: u64) -> Option<Self> {
        if bytes <= MAX_DISK_BYTES { Some(Self(bytes)) } else { None }
    }

    /// The number of bytes from the start of the disk.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The offset `count` bytes further, or `None` where no disk reaches.
    #[must_use]
    pub const fn checked_add(self, count: ByteCount) -> Option<Self> {
        Self::new(self.0 + count.0)
    }

    /// How far this lies behind `earlier`, or `None` if it lies before it.
    #[must_use]
    pub const fn distance_from(self, earlier: Self) -> Option<ByteCount> {
        match self.0.checked_sub(earlier.0) {
            Some(bytes) => Some(ByteCount(bytes)),
            None => None,
        }
    }

    /// Whether this is a multiple of `alignment` bytes; every offset is a multiple of 0 and 1.
    #[must_use]
    pub const fn is_aligned(self, alignment: u32) -> bool {
        alignment <= 1 || self.0.is_multiple_of(alignment as u64)
    }
}

impl ByteCount {
    /// No bytes.
    pub const ZERO: Self = Self(0);

    /// A length of `bytes`, or `None` above [`MAX_DISK_BYTES`].
    #[must_use]
    pub const fn new(bytes: u64) -> Option<Self> {
        if bytes <= MAX_DISK_BYTES { Some(Self(bytes)) } else { None }
    }

    /// The length of something in memory, which is always within range.
    ///
    /// # Panics
    ///
    /// Never: no allocation is larger than `isize::MAX` bytes.
    #[must_use]
    pub const fn of_memory(bytes: usize) -> Self {
        match Self::new(bytes as u64) {
            Some(count) => count,
            None => panic!("an allocation is never larger than isize::MAX"),
        }
    }

    /// The number of bytes.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number of bytes as a length in memory, or `None` where the address space is too small for it.
    #[must_use]
    pub fn to_usize(self) -> Option<usize> {
        usize::try_from(self.0).ok()
    }

    /// The sum, or `None` above [`MAX_DISK_BYTES`].
    #[must_use]
    pub const fn checked_add(self, more: Self) -> Option<Self> {
        Self::new(self.0 + more.0)
    }

    /// What is left after `less` bytes are taken away, at least nothing.
    #[must_use]
    pub const fn saturating_sub(self, less: Self) -> Self {
        Self(self.0.saturating_sub(less.0))
    }

    /// The position just behind this many bytes.
    #[must_use]
    pub const fn as_end(self) -> ByteOffset {
        ByteOffset(self.0)
    }

    /// Whether there are no bytes.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The bytes in words for people, such as `3.2 GiB`.
    #[must_use]
    pub const fn human(self) -> HumanBytes {
        HumanBytes(self.0)
    }
}

/// Bytes from `start` up to, not including, `end`. Empty where both are equal; never reversed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteRange {
    start: ByteOffset,
    end: ByteOffset,
}

impl ByteRange {
    /// `count` bytes from `start`, or `None` where no disk reaches.
    #[must_use]
    pub const fn new(start: ByteOffset, count: ByteCount) -> Option<Self> {
        match start.checked_add(count) {
            Some(end) => Some(Self { start, end }),
            None => None,
        }
    }

    /// From `start` to `end`, or `None` if `end` lies before `start`.
    #[must_use]
    pub const fn between(start: ByteOffset, end: ByteOffset) -> Option<Self> {
        if start.0 <= end.0 { Some(Self { start, end }) } else { None }
    }

    /// All of a disk of this size.
    #[must_use]
    pub const fn whole(size: ByteCount) -> Self {
        Self { start: ByteOffset::ZERO, end: size.as_end() }
    }

    /// The first byte's position.
    #[must_use]
    pub const fn start(self) -> ByteOffset {
        self.start
    }

    /// The position behind the last byte.
    #[must_use]
    pub const fn end(self) -> ByteOffset {
        self.end
    }

    /// How many bytes.
    #[must_use]
    pub const fn count(self) -> ByteCount {
        ByteCount(self.end.0 - self.start.0)
    }

    /// Whether there is no byte in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.start.0 == self.end.0
    }

    /// Whether every byte lies on a disk of `size`.
    #[must_use]
    pub const fn fits(self, size: ByteCount) -> bool {
        self.end.0 <= size.0
    }
}

impl fmt::Display for ByteOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

/// A number of bytes printed with a binary unit and three digits or so: `512 B`, `4.0 KiB`, `3.2 GiB`.
#[derive(Clone, Copy, Debug)]
pub struct HumanBytes(pub u64);

impl fmt::Display for HumanBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        if self.0 < 1024 {
            return f.pad(&format!("{} B", self.0));
        }
        // Integer arithmetic in tenths, rounded to the nearest: exact up to the largest u64.
        let mut unit = 0;
        let mut scale = 1024_u128;
        let tenths_of = |scale: u128| (u128::from(self.0) * 10 + scale / 2) / scale;
        while tenths_of(scale) >= 10_240 && unit + 1 < UNITS.len() {
            unit += 1;
            scale *= 1024;
        }
        let tenths = tenths_of(scale);
        f.pad(&format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn limits() {
        assert_eq!(ByteOffset::new(MAX_DISK_BYTES).map(ByteOffset::get), Some(MAX_DISK_BYTES));
        assert_eq!(ByteOffset::new(MAX_DISK_BYTES + 1), None);
        assert_eq!(ByteCount::new(u64::MAX), None);
        let last = ByteOffset::new(MAX_DISK_BYTES).unwrap();
        assert_eq!(last.checked_add(ByteCount::of_memory(1)), None);
        assert_eq!(ByteRange::new(last, ByteCount::ZERO).unwrap().count(), ByteCount::ZERO);
        assert_eq!(ByteRange::between(last, ByteOffset::ZERO), None);
    }

    #[test]
    fn human_units() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (218 * 1024 * 1024, "218.0 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(HumanBytes(bytes).to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn addition_agrees_with_wide_integers(a in 0..=MAX_DISK_BYTES, b in 0..=MAX_DISK_BYTES) {
            let sum = ByteOffset::new(a).unwrap().checked_add(ByteCount::new(b).unwrap());
            let wide = u128::from(a) + u128::from(b);
            prop_assert_eq!(sum.map(|s| u128::from(s.get())), (wide <= u128::from(MAX_DISK_BYTES)).then_some(wide));
        }

        #[test]
        fn distance_undoes_addition(a in 0..=MAX_DISK_BYTES / 2, b in 0..=MAX_DISK_BYTES / 2) {
            let (a, b) = (ByteOffset::new(a).unwrap(), ByteCount::new(b).unwrap());
            prop_assert_eq!(a.checked_add(b).unwrap().distance_from(a), Some(b));
        }
    }
}
