//! The bytes of a space-efficient sparse extent; little-endian, counted in sectors of 512 bytes.
//!
//! VMware has not published them. They were found out by looking at files that ESXi 6.5 and later made, and qemu's reader
//! (`block/vmdk.c`) has what is known; both headers' unused bytes were zero in all of those files.

use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// [`RawVolatileHeader::magic`].
pub(super) const VOLATILE_MAGIC: u64 = 0xCAFE_CAFE;
/// 2.1, the only version that was seen.
pub(super) const VERSION: u64 = 0x2_0000_0001;
/// A grain in sectors: 4 KiB.
pub(super) const GRAIN_SECTORS: u64 = 8;
/// A grain table in sectors: 32 KiB.
pub(super) const TABLE_SECTORS: u64 = 64;
/// Entries in a grain table: it covers 16 MiB.
pub(super) const TABLE_ENTRIES: u64 = 4096;
/// Entries in a sector of the directory.
pub(super) const ENTRIES_PER_SECTOR: u64 = 64;

/// An entry of the directory.
pub(super) mod directory_entry {
    /// No table here.
    pub(crate) const ABSENT: u64 = 0;
    /// The upper half of any other; the lower is the number of the table.
    pub(crate) const PRESENT: u64 = 0x1000_0000;
}

/// Kinds of entries of a grain table: the top 4 of 64 bits.
pub(super) mod grain_kind {
    /// What the parent has; all other bits are zero.
    pub(crate) const ABSENT: u64 = 0;
    /// Unmapped by the guest; reads as zeroes. The other bits name the grain that it had.
    pub(crate) const UNMAPPED: u64 = 1;
    /// Zeroes.
    pub(crate) const ZERO: u64 = 2;
    /// The other bits are the number of the grain: its low 12 bits are bits 48 to 59, the others bits 0 to 47.
    pub(crate) const PRESENT: u64 = 3;
}

/// The header that is written once. Places and sizes of the file's parts.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawConstHeader {
    /// [`SESPARSE_MAGIC`](crate::layout::SESPARSE_MAGIC).
    pub(super) magic: [u8; 8],
    /// [`VERSION`].
    pub(super) version: U64,
    /// The size of the disk.
    pub(super) capacity: U64,
    /// [`GRAIN_SECTORS`].
    pub(super) grain: U64,
    /// [`TABLE_SECTORS`].
    pub(super) table: U64,
    /// 0.
    pub(super) flags: U64,
    /// 0.
    pub(super) reserved: [U64; 4],
    /// Where the volatile header is.
    pub(super) volatile_header: U64,
    pub(super) volatile_header_size: U64,
    pub(super) journal_header: U64,
    pub(super) journal_header_size: U64,
    pub(super) journal: U64,
    pub(super) journal_size: U64,
    /// Where the grain directory is.
    pub(super) directory: U64,
    /// Its length: at least an entry for each grain table that the capacity needs.
    pub(super) directory_size: U64,
    /// Where grain table 0 is; the others follow.
    pub(super) tables: U64,
    pub(super) tables_size: U64,
    pub(super) free_bitmap: U64,
    pub(super) free_bitmap_size: U64,
    /// From grains to their place on the disk; for reclaiming them.
    pub(super) backmap: U64,
    pub(super) backmap_size: U64,
    /// Where grain 0 is; the others follow.
    pub(super) grains: U64,
    pub(super) grains_size: U64,
    /// Zero.
    pub(super) padding: [u8; 304],
}
const _: () = assert!(size_of::<RawConstHeader>() == 512);

/// The header that changes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawVolatileHeader {
    /// [`VOLATILE_MAGIC`].
    pub(super) magic: U64,
    /// The grain table that is given out next.
    pub(super) free_table: U64,
    /// The number of the journal's next transaction.
    pub(super) next_transaction: U64,
    /// Not 0 where the journal holds changes that are not yet in the tables.
    pub(super) replay_journal: U64,
    /// Zero.
    pub(super) padding: [u8; 480],
}
const _: () = assert!(size_of::<RawVolatileHeader>() == 512);
