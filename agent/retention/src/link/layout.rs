//! The bytes of a link's index: sizes, constants, limits. `FORMAT.md` tells the same in prose.
//!
//! Integers are little-endian, structures have no padding and any alignment.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub(crate) const INDEX_MAGIC: [u8; 8] = *b"\x89FBIDX\r\n";
pub(crate) const INDEX_VERSION: u16 = 1;

/// The start of an index. The extents follow, then the frames, then the end.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawIndexHeader {
    pub(crate) magic: [u8; 8],
    pub(crate) version: U16,
    /// Zero.
    pub(crate) reserved: [u8; 6],
    /// The header hash of the delta that this is the index of.
    pub(crate) key: [u8; 32],
}
const _: () = assert!(size_of::<RawIndexHeader>() == 48);

/// An extent of the delta, in the order of the disk.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawIndexExtent {
    /// Its first block, in the delta's block size.
    pub(crate) first: U64,
    /// How many blocks, 1 to 65535.
    pub(crate) count: U32,
    /// The frame that it is in.
    pub(crate) frame: U32,
    /// Where its content begins in that frame's content.
    pub(crate) data: U32,
    /// What the blocks become, and what they were: the codes of the delta.
    pub(crate) new: u8,
    pub(crate) old: u8,
    pub(crate) reserved: [u8; 2],
}
const _: () = assert!(size_of::<RawIndexExtent>() == 24);

/// A frame of the delta.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawIndexFrame {
    /// Where it stands in the file of the delta.
    pub(crate) offset: U64,
    /// The block behind the previous frame's last extent.
    pub(crate) after: U64,
    /// Its length.
    pub(crate) len: U32,
    pub(crate) reserved: [u8; 4],
}
const _: () = assert!(size_of::<RawIndexFrame>() == 24);

/// The end of an index.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawIndexEnd {
    pub(crate) extents: U64,
    pub(crate) frames: U64,
    /// BLAKE3 of all of the file before this field.
    pub(crate) hash: [u8; 32],
}
const _: () = assert!(size_of::<RawIndexEnd>() == 48);
