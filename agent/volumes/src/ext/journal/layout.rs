//! The bytes of a jbd2 journal. Nothing else lives here.
//!
//! Integers are big-endian. Sources: `include/linux/jbd2.h` and `Documentation/filesystems/ext4/journal.rst` of Linux.

use zerocopy::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// What every block of the journal's own begins with. A logged block that begins with it is escaped.
pub(in crate::ext) const MAGIC: u32 = 0xC03B_3998;

/// Kinds of blocks.
pub(super) mod block_type {
    /// Tells where the blocks behind it belong.
    pub(in crate::ext::journal) const DESCRIPTOR: u32 = 1;
    /// Ends a transaction.
    pub(in crate::ext::journal) const COMMIT: u32 = 2;
    /// The journal's superblock, without features.
    pub(in crate::ext::journal) const SUPERBLOCK_V1: u32 = 3;
    /// The journal's superblock.
    pub(in crate::ext::journal) const SUPERBLOCK_V2: u32 = 4;
    /// Tells which blocks must not be replayed from earlier transactions.
    pub(in crate::ext::journal) const REVOKE: u32 = 5;
}

/// What every block of the journal's own begins with.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Header {
    /// [`MAGIC`].
    pub(super) magic: U32,
    /// See [`block_type`].
    pub(super) block_type: U32,
    /// The number of the transaction.
    pub(super) transaction: U32,
}

pub(super) const HEADER_LEN: usize = 12;
const _: () = assert!(size_of::<Header>() == HEADER_LEN);

/// Features of a journal.
pub(super) mod feature {
    /// Compatible: a crc32 over each transaction, as before `CHECKSUM_V2`.
    pub(in crate::ext::journal) const CHECKSUM_V1: u32 = 0x1;
    /// Incompatible, like all that follow: there are revoke blocks.
    pub(in crate::ext::journal) const REVOKE: u32 = 0x1;
    /// Block numbers have 64 bits.
    pub(in crate::ext::journal) const SIXTY_FOUR_BIT: u32 = 0x2;
    /// A commit block may be written before what it commits.
    pub(in crate::ext::journal) const ASYNC_COMMIT: u32 = 0x4;
    /// crc32c of each block, the lower half of it in the tags.
    pub(in crate::ext::journal) const CHECKSUM_V2: u32 = 0x8;
    /// crc32c of each block, all of it in the tags.
    pub(in crate::ext::journal) const CHECKSUM_V3: u32 = 0x10;
    /// Part of the journal is in another format.
    pub(in crate::ext::journal) const FAST_COMMIT: u32 = 0x20;
}

/// The journal's superblock, in its first block.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct JournalSuperblock {
    pub(super) header: Header,
    /// Bytes of a block: those of the file system.
    pub(super) block_size: U32,
    /// Blocks in all, this one counted.
    pub(super) blocks: U32,
    /// The first block of the log.
    pub(super) first: U32,
    /// The transaction that the log begins with.
    pub(super) sequence: U32,
    /// Where the log begins; 0 if it is empty.
    pub(super) start: U32,
    /// An error that the kernel noted.
    pub(super) error: U32,
    pub(super) compatible: U32,
    pub(super) incompatible: U32,
    pub(super) read_only_compatible: U32,
    /// What checksums start from.
    pub(super) uuid: [u8; 16],
    pub(super) users: U32,
    pub(super) superblock_copy: U32,
    pub(super) limits: [U32; 2],
    /// [`CHECKSUM_CRC32C`].
    pub(super) checksum_type: u8,
    pub(super) padding: [u8; 3],
    pub(super) fast_commit_blocks: U32,
    pub(super) head: U32,
    pub(super) reserved: [U32; 40],
    /// crc32c of this structure, this field taken as zero.
    pub(super) checksum: U32,
    pub(super) user_uuids: [[u8; 16]; 48],
}

/// The only kind of checksum in use: crc32c. The file system's own superblock has another number for it.
pub(super) const CHECKSUM_CRC32C: u8 = 4;
pub(super) const JOURNAL_SUPERBLOCK_LEN: usize = 1024;
/// Where its checksum lies.
pub(super) const JOURNAL_CHECKSUM_AT: usize = 0xFC;
const _: () = assert!(size_of::<JournalSuperblock>() == JOURNAL_SUPERBLOCK_LEN);
const _: () = assert!(std::mem::offset_of!(JournalSuperblock, checksum) == JOURNAL_CHECKSUM_AT);
const _: () = assert!(std::mem::offset_of!(JournalSuperblock, checksum_type) == 0x50);

/// Bits of a tag's flags.
pub(super) mod tag_flag {
    /// The logged block began with [`super::MAGIC`], and has zeroes there instead.
    pub(in crate::ext::journal) const ESCAPED: u32 = 1;
    /// No UUID follows the tag.
    pub(in crate::ext::journal) const SAME_UUID: u32 = 2;
    /// No tag follows this one.
    pub(in crate::ext::journal) const LAST: u32 = 8;
}

/// A tag with `CHECKSUM_V3`.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Tag3 {
    pub(super) block_low: U32,
    pub(super) flags: U32,
    pub(super) block_high: U32,
    pub(super) checksum: U32,
}

pub(super) const TAG3_LEN: usize = 16;
const _: () = assert!(size_of::<Tag3>() == TAG3_LEN);

/// A tag without; what follows it depends on features: the high half of the block number, two bytes of nothing.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Tag {
    pub(super) block_low: U32,
    pub(super) checksum: U16,
    pub(super) flags: U16,
}

pub(super) const TAG_LEN: usize = 8;
const _: () = assert!(size_of::<Tag>() == TAG_LEN);
/// Bytes of the high half of a block number.
pub(super) const BLOCK_HIGH_LEN: usize = 4;
/// With `CHECKSUM_V2` a tag is longer by so much, for a field that has never been used.
pub(super) const TAG2_EXTRA_LEN: usize = 2;
/// Bytes of a UUID behind a tag.
pub(super) const TAG_UUID_LEN: usize = 16;
/// Bytes of the checksum at the end of descriptor and revoke blocks, where there are checksums.
pub(super) const TAIL_LEN: usize = 4;

/// Where in a revoke block the number of its bytes in use stands, and where its block numbers begin.
pub(super) const REVOKE_COUNT_AT: usize = 12;
pub(super) const REVOKE_RECORDS_AT: usize = 16;

/// Where in a commit block its checksum lies.
pub(super) const COMMIT_CHECKSUM_AT: usize = 16;
/// Bytes of a commit block that mean something (`struct commit_header` in Linux); the rest is zero.
pub(super) const COMMIT_LEN: usize = 60;
