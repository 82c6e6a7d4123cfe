//! The bytes of partition tables.
//!
//! MBR and EBR: the master boot record of the IBM PC, as `block/partitions/msdos.c` of Linux reads it. GPT: UEFI
//! specification 2.10, chapter 5. All integers are little-endian.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The last two bytes of a boot record's first 512.
pub(crate) const BOOT_SIGNATURE: [u8; 2] = [0x55, 0xaa];

/// A partition in an MBR or EBR.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawMbrEntry {
    /// 0x80 for the partition to boot from, else 0; anything else is no table.
    pub(crate) status: u8,
    /// Cylinder, head and sector of the first sector; not looked at.
    pub(crate) first_chs: [u8; 3],
    /// What it is for; 0 for an entry that is not in use.
    pub(crate) kind: u8,
    /// The last sector, as above.
    pub(crate) last_chs: [u8; 3],
    /// Its first sector: from the start of the disk, in an EBR from that EBR, in a link from the extended partition.
    pub(crate) start: U32,
    /// How many sectors.
    pub(crate) sectors: U32,
}
const _: () = assert!(size_of::<RawMbrEntry>() == 16);

/// The first 512 bytes of a disk, or of a logical partition's EBR, whatever the size of a sector.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawMbr {
    /// A program, or the boot block of a file system.
    pub(crate) code: [u8; 440],
    /// Four bytes that tell disks apart; 0 where there are none.
    pub(crate) disk_signature: U32,
    /// 0, or 0x5a5a for a disk that is not to be written to; not looked at.
    pub(crate) reserved: U16,
    pub(crate) entries: [RawMbrEntry; 4],
    /// [`BOOT_SIGNATURE`].
    pub(crate) signature: [u8; 2],
}
const _: () = assert!(size_of::<RawMbr>() == 512);

/// Types in an MBR that mean something to us.
pub(crate) mod mbr_kind {
    /// Not in use.
    pub(crate) const EMPTY: u8 = 0;
    /// The whole disk, kept from programs that do not know GPT.
    pub(crate) const PROTECTIVE: u8 = 0xee;
    /// Holds logical partitions: as DOS, Windows and Linux write it.
    pub(crate) const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
}

/// The first bytes of a GPT header.
pub(crate) const GPT_SIGNATURE: [u8; 8] = *b"EFI PART";
/// Revision 1.0, the only one there is.
pub(crate) const GPT_REVISION: u32 = 0x0001_0000;
/// Entries are this long or a power of two times it.
pub(crate) const GPT_ENTRY_LEAST: u32 = 128;

/// A GPT header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawGptHeader {
    /// [`GPT_SIGNATURE`].
    pub(crate) signature: [u8; 8],
    /// [`GPT_REVISION`].
    pub(crate) revision: U32,
    /// The bytes that the header's CRC covers: from the 92 of this structure to a whole sector.
    pub(crate) header_len: U32,
    /// CRC-32 of the header with this field zero.
    pub(crate) header_crc: U32,
    /// 0.
    pub(crate) reserved: U32,
    /// The sector that this header is in.
    pub(crate) own_lba: U64,
    /// The sector that the other header is in.
    pub(crate) other_lba: U64,
    /// The first sector that a partition may take.
    pub(crate) first_usable: U64,
    /// The last one.
    pub(crate) last_usable: U64,
    pub(crate) disk_guid: [u8; 16],
    /// Where the entries begin.
    pub(crate) entries_lba: U64,
    /// How many entries, most of them not in use.
    pub(crate) entry_count: U32,
    /// [`GPT_ENTRY_LEAST`] times a power of two.
    pub(crate) entry_len: U32,
    /// CRC-32 of all entries.
    pub(crate) entries_crc: U32,
}
const _: () = assert!(size_of::<RawGptHeader>() == 92);

/// A partition in a GPT; what is behind it in a longer entry has no meaning.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawGptEntry {
    /// What it is for; all zero in an entry that is not in use.
    pub(crate) kind: [u8; 16],
    pub(crate) guid: [u8; 16],
    pub(crate) first_lba: U64,
    /// The last sector that belongs to it.
    pub(crate) last_lba: U64,
    /// Not looked at.
    pub(crate) attributes: U64,
    /// In UTF-16, up to the first zero.
    pub(crate) name: [U16; 36],
}
const _: () = assert!(size_of::<RawGptEntry>() == 128);
