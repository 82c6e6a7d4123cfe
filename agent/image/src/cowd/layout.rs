//! The bytes of a host sparse extent, as VMware's note "Virtual Disk Format 1.1" has them; little-endian, counted in sectors
//! of 512 bytes.

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The only version.
pub(super) const VERSION: u32 = 1;
/// The only flags; the note does not say what they mean.
pub(super) const FLAGS: u32 = 3;

/// Entries in a grain table: it covers 2 MiB where a grain is a sector.
pub(super) const TABLE_ENTRIES: u64 = 4096;

/// Entry of directory or table: nothing here, so what the parent has.
pub(super) const ENTRY_ABSENT: u32 = 0;
/// Entry of a table: zeroes, whatever the parent has. Not in the note; ESXi's deltas have it, and Xen Orchestra reads it
/// so. Sector 1 is part of the header, so that it cannot be a grain, though qemu would read it as one.
pub(super) const ENTRY_ZERO: u32 = 1;

/// How long the header is, in sectors: the directory follows.
pub(super) const HEADER_SECTORS: u64 = 4;

/// The header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawHeader {
    /// [`COWD_MAGIC`](crate::layout::COWD_MAGIC).
    pub(super) magic: [u8; 4],
    /// [`VERSION`].
    pub(super) version: U32,
    /// [`FLAGS`].
    pub(super) flags: U32,
    /// The size of the disk.
    pub(super) capacity: U32,
    /// The size of a grain: a power of two, 1 in practice.
    pub(super) grain: U32,
    /// Where the grain directory is: at [`HEADER_SECTORS`] in practice.
    pub(super) directory: U32,
    /// How many entries the directory has: at least one for each grain table that the capacity needs.
    pub(super) directory_entries: U32,
    /// Where the next grain or table goes; of interest to who writes.
    pub(super) free: U32,
    /// In a base disk its geometry, 3 numbers; in a delta its parent's name and generation. The descriptor has both.
    pub(super) root_or_child: [u8; 1028],
    /// Counts changes of the extent.
    pub(super) generation: U32,
    /// What it is called.
    pub(super) name: [u8; 60],
    /// What somebody wrote about it.
    pub(super) description: [u8; 512],
    /// The generation when it was closed.
    pub(super) saved_generation: U32,
    /// Zero.
    pub(super) reserved: [u8; 8],
    /// Not 0 while it is written, and after a crash.
    pub(super) unclean: U32,
    /// Zero.
    pub(super) padding: [u8; 396],
}
const _: () = assert!(size_of::<RawHeader>() as u64 == HEADER_SECTORS * 512);
