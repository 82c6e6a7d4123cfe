//! The bytes of a log of writes, format version 1: little-endian, laid out in sectors of the log's own size.
//!
//! The format is that of Linux's device-mapper target `log-writes` (`Documentation/admin-guide/device-mapper/log-writes.rst`
//! and `drivers/md/dm-log-writes.c`), which QEMU's block driver `blklogwrites` writes too: a superblock in sector 0, then
//! entries, each a header sector and behind it the data of a write.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// [`RawSuper::magic`].
pub(super) const MAGIC: u64 = 0x006a_7366_7773_6872;
/// [`RawSuper::version`].
pub(super) const VERSION: u64 = 1;
/// The smallest sector: no disk has smaller ones.
pub(super) const SECTOR_MIN: u32 = 512;
/// The largest sector: Linux has no disks with larger ones as a rule, and no page is smaller.
pub(super) const SECTOR_MAX: u32 = 4096;

/// [`RawEntry::flags`]: what was written before is to be made durable.
pub(super) const FLUSH: u64 = 1;
/// [`RawEntry::flags`]: this write was durable when it was completed.
pub(super) const FUA: u64 = 2;
/// [`RawEntry::flags`]: the sectors were discarded; there is no data in the log.
pub(super) const DISCARD: u64 = 4;
/// [`RawEntry::flags`]: a name for this place, which stands in the header's sector behind the header.
pub(super) const MARK: u64 = 8;
/// All flags that there are.
pub(super) const FLAGS: u64 = FLUSH | FUA | DISCARD | MARK;

/// The superblock, at the start of sector 0.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawSuper {
    /// [`MAGIC`].
    pub(super) magic: U64,
    /// [`VERSION`].
    pub(super) version: U64,
    /// How many entries follow. QEMU writes it anew every now and then, and with every flush.
    pub(super) entries: U64,
    /// The size of a sector in bytes: a power of two from [`SECTOR_MIN`] to [`SECTOR_MAX`].
    pub(super) sector_size: U32,
}
const _: () = assert!(size_of::<RawSuper>() == 28);

/// The header of an entry, at the start of a sector.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawEntry {
    /// Where on the disk, in sectors.
    pub(super) sector: U64,
    /// How much of it, in sectors. So many sectors of data follow the header's, unless they were discarded.
    pub(super) sectors: U64,
    /// Some of [`FLAGS`].
    pub(super) flags: U64,
    /// Of a mark: the length of its name in bytes. Otherwise 0.
    pub(super) mark_length: U64,
}
const _: () = assert!(size_of::<RawEntry>() == 32);
