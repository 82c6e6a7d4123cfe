//! The bytes of an LVM2 physical volume: `lib/format_text/layout.h` and `lib/label/label.h` of LVM2. Little-endian.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// LVM counts in sectors of 512 bytes, whatever the disk's are.
pub(crate) const SECTOR: u64 = 512;
/// The label stands in one of the first sectors.
pub(crate) const LABEL_SECTORS: u64 = 4;
pub(crate) const LABEL_ID: [u8; 8] = *b"LABELONE";
pub(crate) const LABEL_KIND: [u8; 8] = *b"LVM2 001";
/// With what LVM begins its CRCs, which it does not invert at the end.
pub(crate) const CRC_INITIAL: u32 = 0xf597_a6cf;
/// A label's CRC begins here and goes to the end of the sector.
pub(crate) const LABEL_CRC_FROM: usize = 20;

/// The label.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawLabel {
    /// [`LABEL_ID`].
    pub(crate) id: [u8; 8],
    /// The sector that the label is in.
    pub(crate) sector: U64,
    pub(crate) crc: U32,
    /// Where the physical volume's header begins, in bytes from the label: 32.
    pub(crate) header_at: U32,
    /// [`LABEL_KIND`].
    pub(crate) kind: [u8; 8],
}
const _: () = assert!(size_of::<RawLabel>() == 32);

/// The physical volume. Two lists of [`RawArea`] follow, each ended by one that is zero: data areas, metadata areas.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawPhysicalVolume {
    /// 32 letters and digits.
    pub(crate) uuid: [u8; 32],
    /// In bytes.
    pub(crate) size: U64,
}
const _: () = assert!(size_of::<RawPhysicalVolume>() == 40);

/// A place on the physical volume, in bytes; a size of 0 means up to the end.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawArea {
    pub(crate) at: U64,
    pub(crate) size: U64,
}
const _: () = assert!(size_of::<RawArea>() == 16);

pub(crate) const AREA_MAGIC: [u8; 16] = *b" LVM2 x[5A%r0N*>";
pub(crate) const AREA_VERSION: u32 = 1;
/// The header of a metadata area takes this many bytes; the rest of the area is a ring of texts.
pub(crate) const AREA_HEADER: u64 = 512;
/// A metadata area's CRC begins here.
pub(crate) const AREA_CRC_FROM: usize = 4;
/// The text is not kept up to date.
pub(crate) const LOCATION_IGNORED: u32 = 1;

/// Where a text is.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawLocation {
    /// From the start of the metadata area; 0 where there is none.
    pub(crate) at: U64,
    /// In bytes; a text that meets the end of the area goes on behind the header.
    pub(crate) size: U64,
    /// Of the text.
    pub(crate) crc: U32,
    /// [`LOCATION_IGNORED`], or 0.
    pub(crate) flags: U32,
}
const _: () = assert!(size_of::<RawLocation>() == 24);

/// The header of a metadata area.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawAreaHeader {
    pub(crate) crc: U32,
    /// [`AREA_MAGIC`].
    pub(crate) magic: [u8; 16],
    /// [`AREA_VERSION`].
    pub(crate) version: U32,
    /// Where the area begins on the physical volume, in bytes.
    pub(crate) start: U64,
    /// Its size with this header.
    pub(crate) size: U64,
    /// The text that is in force.
    pub(crate) committed: RawLocation,
    /// One that is about to be; only while a command of LVM is at work.
    pub(crate) precommitted: RawLocation,
    /// No more locations.
    pub(crate) rest: [u8; 424],
}
const _: () = assert!(size_of::<RawAreaHeader>() == 512);
