//! The hosted sparse extent on disk, versions 1 to 3.
//!
//! Source of the facts: VMware's "Virtual Disk Format 5.0", chapter "Hosted Sparse Extents", and images made by `qemu-img`.
//! All numbers are little-endian, all offsets and sizes in sectors of 512 bytes.
//!
//! ```text
//! header | descriptor | redundant directory, its tables | directory, its tables | grains …
//!        |<-------------------------- overhead ------------------------------->|
//! ```

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes in a sector, the unit of every offset in a VMDK.
pub const SECTOR: u64 = 512;
/// The first four bytes of a hosted sparse extent.
pub const SPARSE_MAGIC: [u8; 4] = *b"KDMV";
/// The first four bytes of a COWD extent (`vmfsSparse`).
pub const COWD_MAGIC: [u8; 4] = *b"COWD";
/// The first eight bytes of a seSparse extent: 0xcafebabe as a 64-bit number.
pub const SESPARSE_MAGIC: [u8; 8] = 0xcafe_babe_u64.to_le_bytes();

/// The first sector of a hosted sparse extent; also the footer of a stream.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SparseHeader {
    /// [`SPARSE_MAGIC`].
    pub magic: [u8; 4],
    /// 1, 2 (zeroed grains) or 3 (seen in streams).
    pub version: U32,
    /// [`FLAG_NEWLINES`] and the other flags.
    pub flags: U32,
    /// The size of the disk that the extent holds.
    pub capacity: U64,
    /// Sectors in a grain: a power of two, at least 8.
    pub grain_sectors: U64,
    /// Where an embedded descriptor begins; 0 if there is none.
    pub descriptor_offset: U64,
    /// Room for the descriptor, in sectors.
    pub descriptor_sectors: U64,
    /// [`TABLE_ENTRIES`].
    pub table_entries: U32,
    /// Where the redundant grain directory begins; 0 if there is none.
    pub redundant_directory: U64,
    /// Where the grain directory begins; [`DIRECTORY_AT_END`] in a stream, whose footer knows.
    pub directory: U64,
    /// What precedes the first grain.
    pub overhead: U64,
    /// 1 from the first change until the extent is closed.
    pub unclean_shutdown: u8,
    /// [`NEWLINES`], so that a transfer as text is noticed.
    pub newlines: [u8; 4],
    /// 0, or [`COMPRESSION_DEFLATE`].
    pub compression: U16,
    /// Zeroes.
    pub reserved: [u8; 433],
}

const _: () = assert!(size_of::<SparseHeader>() == 512);
const _: () = assert!(std::mem::offset_of!(SparseHeader, redundant_directory) == 48);
const _: () = assert!(std::mem::offset_of!(SparseHeader, directory) == 56);
const _: () = assert!(std::mem::offset_of!(SparseHeader, unclean_shutdown) == 72);
const _: () = assert!(std::mem::offset_of!(SparseHeader, compression) == 77);

/// Line feed, space, carriage return, line feed.
pub const NEWLINES: [u8; 4] = *b"\n \r\n";
/// Flag: the newline bytes are to be checked.
pub const FLAG_NEWLINES: u32 = 1;
/// Flag: the redundant tables are in use.
pub const FLAG_REDUNDANT: u32 = 1 << 1;
/// Flag: an entry of 1 means a grain of zeroes.
pub const FLAG_ZEROED_GRAINS: u32 = 1 << 2;
/// Flag: grains are compressed.
pub const FLAG_COMPRESSED: u32 = 1 << 16;
/// Flag: the extent is a stream with markers.
pub const FLAG_MARKERS: u32 = 1 << 17;
/// Grains compressed as RFC 1950 says.
pub const COMPRESSION_DEFLATE: u16 = 1;
/// The directory's offset in the header of a stream: see the footer.
pub const DIRECTORY_AT_END: u64 = u64::MAX;
/// Entries in a grain table.
pub const TABLE_ENTRIES: u32 = 512;
/// Bytes of a grain table.
pub const TABLE_BYTES: u64 = 4 * TABLE_ENTRIES as u64;
/// An entry for a grain that is nowhere.
pub const ENTRY_ABSENT: u32 = 0;
/// An entry for a grain of zeroes, with [`FLAG_ZEROED_GRAINS`].
pub const ENTRY_ZERO: u32 = 1;
