//! What a stream-optimized extent has besides the header of [`crate::layout`], as VMware's note "Virtual Disk Format 5.0" has
//! it; little-endian, counted in sectors of 512 bytes.

use crate::layout::SparseHeader;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The versions there are: 2 brought zeroed grains, 3 is what ESXi takes ("sparse VMDK version too old" otherwise).
pub(crate) const VERSIONS: std::ops::RangeInclusive<u32> = 1..=3;
/// The version that is written.
pub(crate) const VERSION: u32 = 3;

/// What stands before a grain. The compressed bytes follow at once, then zeroes to the end of the sector.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawGrainMarker {
    /// Which sector of the disk the grain begins at.
    pub(crate) sector: U64,
    /// How many compressed bytes follow; 0 makes it a [`RawMarker`].
    pub(crate) size: U32,
}
const _: () = assert!(size_of::<RawGrainMarker>() == 12);

/// What stands before metadata: a sector of its own.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawMarker {
    /// How many sectors of metadata follow.
    pub(crate) sectors: U64,
    /// 0: what tells it from a grain.
    pub(crate) size: U32,
    /// One of [`marker`].
    pub(crate) kind: U32,
    /// Zero.
    pub(crate) reserved: [u8; 496],
}
const _: () = assert!(size_of::<RawMarker>() == 512);

/// Kinds of [`RawMarker`].
pub(crate) mod marker {
    /// Nothing follows.
    pub(crate) const END_OF_STREAM: u32 = 0;
    /// A grain table follows.
    pub(crate) const TABLE: u32 = 1;
    /// The grain directory follows.
    pub(crate) const DIRECTORY: u32 = 2;
    /// The footer follows.
    pub(crate) const FOOTER: u32 = 3;
}

/// The last sectors of a stream with a footer.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawEnd {
    /// [`marker::FOOTER`], 1 sector.
    pub(crate) before: RawMarker,
    /// The header once more, with the directory's place.
    pub(crate) footer: SparseHeader,
    /// [`marker::END_OF_STREAM`], 0 sectors.
    pub(crate) after: RawMarker,
}
const _: () = assert!(size_of::<RawEnd>() == 1536);
