//! The bytes of XFS on disk, as far as free space and the log need them. Nothing else lives here.
//!
//! Sources: `xfs_format.h` and `xfs_log_format.h` of Linux 6.x, and the document "XFS Filesystem Structure". Integers are
//! big-endian, except for checksums, which are little-endian, and the items in the log, which have the byte order of the
//! machine that wrote them.

use zerocopy::little_endian;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

type U16 = zerocopy::big_endian::U16;
type U32 = zerocopy::big_endian::U32;
type U64 = zerocopy::big_endian::U64;

/// The unit of the log and of the addresses in it ("basic block"), whatever the sector of the disk.
pub(super) const BASIC_BLOCK: u32 = 512;

/// `XFSB`.
pub(super) const SUPERBLOCK_MAGIC: u32 = 0x5846_5342;
/// `XAGF`.
pub(super) const GROUP_MAGIC: u32 = 0x5841_4746;
/// `XAFL`; version 4 has no header there.
pub(super) const FREE_LIST_MAGIC: u32 = 0x5841_464C;
/// `ABTB`: a block of the tree of free space by block number, version 4.
pub(super) const TREE_MAGIC_V4: u32 = 0x4142_5442;
/// `AB3B`: the same, version 5.
pub(super) const TREE_MAGIC_V5: u32 = 0x4142_3342;
/// In a log record's first four bytes. No cycle has this number, so nothing else in the log begins with it.
pub(super) const RECORD_MAGIC: u32 = 0xFEED_BABE;
/// `TRAN`: the first region of a transaction.
pub(super) const TRANSACTION_MAGIC: u32 = 0x5452_414E;

/// No block, in a pointer to a neighbour and in an entry of the free list.
pub(super) const NULL_BLOCK: u32 = u32::MAX;

/// Where the sectors of a group's header lie, in sectors from its start. The third is the one of the inodes.
pub(super) mod header_sector {
    pub(in crate::xfs) const GROUP: u64 = 1;
    pub(in crate::xfs) const FREE_LIST: u64 = 3;
    /// How many there are.
    pub(in crate::xfs) const COUNT: u64 = 4;
}

/// Where checksums (CRC32C) lie in what they cover.
pub(super) mod checksum_at {
    pub(in crate::xfs) const SUPERBLOCK: usize = 224;
    pub(in crate::xfs) const GROUP: usize = 216;
    pub(in crate::xfs) const FREE_LIST: usize = 32;
    pub(in crate::xfs) const TREE: usize = 52;
    pub(in crate::xfs) const RECORD: usize = 32;
}

/// Versions and features in `version`.
pub(super) mod version {
    pub(in crate::xfs) const NUMBER: u16 = 0x000F;
    /// The log's records may be longer than 32 KiB and aligned.
    pub(in crate::xfs) const LOG_2: u16 = 0x0400;
    /// Never used, and refused by Linux.
    pub(in crate::xfs) const SHARED: u16 = 0x0200;
    /// Extents have a flag for what was never written; directories have their second form. All that Linux reads have both.
    pub(in crate::xfs) const EXTENT_FLAG: u16 = 0x1000;
    pub(in crate::xfs) const DIRECTORY_2: u16 = 0x2000;
    /// `features_2` counts.
    pub(in crate::xfs) const MORE: u16 = 0x8000;
}

/// Bits that are accepted of `features_2`: lazy counters, attributes' second form, 32-bit project numbers, version 5,
/// file types in directories. None of them changes how free space is kept.
pub(super) const FEATURES_2_KNOWN: u32 = 0x0002 | 0x0008 | 0x0080 | 0x0100 | 0x0200;

/// In `features_incompatible`: checksummed blocks have another UUID than the one that users see.
pub(super) const METADATA_UUID: u32 = 1 << 2;

/// The superblock's first bytes; the rest of its sector is zero or of no interest here.
#[derive(Clone, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawSuperblock {
    /// [`SUPERBLOCK_MAGIC`].
    pub(super) magic: U32,
    /// 512 to 65536, a power of two.
    pub(super) block_size: U32,
    /// The blocks of the file system.
    pub(super) blocks: U64,
    /// Blocks of a realtime device, which is another volume.
    pub(super) realtime_blocks: U64,
    pub(super) realtime_extents: U64,
    /// What users see.
    pub(super) uuid: [u8; 16],
    /// The log's first block as group and block in it; 0 where it lies on another device.
    pub(super) log_start: U64,
    pub(super) inodes: [U64; 3],
    pub(super) realtime_extent_size: U32,
    /// Blocks of every group but the last, which may be shorter. Any number, not only a power of two.
    pub(super) group_blocks: U32,
    pub(super) groups: U32,
    pub(super) realtime_bitmap_blocks: U32,
    pub(super) log_blocks: U32,
    /// The number of the version in the lowest four bits, features above; see [`version`].
    pub(super) version: U16,
    /// 512 to 32768, a power of two; the unit of the groups' headers.
    pub(super) sector_size: U16,
    pub(super) inode_size: U16,
    pub(super) inodes_per_block: U16,
    /// Padded with zeroes.
    pub(super) label: [u8; 12],
    /// The base-2 logarithm of `block_size`.
    pub(super) block_shift: u8,
    /// The base-2 logarithm of `sector_size`.
    pub(super) sector_shift: u8,
    pub(super) inode_shifts: [u8; 2],
    /// The base-2 logarithm of `group_blocks`, rounded up: where an address has its group's number.
    pub(super) group_shift: u8,
    pub(super) realtime_shift: u8,
    /// Not 0 while it is being made.
    pub(super) in_progress: u8,
    pub(super) inode_percent: u8,
    /// Inodes, free inodes, free blocks, free realtime extents: stale in many states, and never looked at.
    pub(super) counters: [U64; 4],
    pub(super) quota_inodes: [U64; 2],
    pub(super) quota_flags: U16,
    pub(super) flags: u8,
    pub(super) shared_version: u8,
    pub(super) inode_alignment: U32,
    pub(super) stripe: [U32; 2],
    pub(super) directory_block_shift: u8,
    pub(super) log_sector_shift: u8,
    pub(super) log_sector_size: U16,
    /// What the log's records are aligned to, in bytes; 0 or 1 where to nothing.
    pub(super) log_stripe: U32,
    pub(super) features_2: U32,
    pub(super) bad_features_2: U32,
    // Version 5 from here on.
    pub(super) features_compatible: U32,
    /// Bits without which it may be read but not written.
    pub(super) features_read_only: U32,
    /// Bits without which it may not be read.
    pub(super) features_incompatible: U32,
    /// Bits without which its log may not be replayed.
    pub(super) features_log: U32,
    /// CRC32C of the sector, this field zero.
    pub(super) checksum: little_endian::U32,
    pub(super) sparse_inode_alignment: U32,
    pub(super) project_quota_inode: U64,
    /// The log record as of which it was written here.
    pub(super) lsn: U64,
    /// With [`METADATA_UUID`], the UUID in all metadata but this.
    pub(super) metadata_uuid: [u8; 16],
}
const _: () = assert!(size_of::<RawSuperblock>() == 264);

/// The header of an allocation group as regards free space (AGF).
#[derive(Clone, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawGroup {
    /// [`GROUP_MAGIC`].
    pub(super) magic: U32,
    /// 1.
    pub(super) version: U32,
    /// The group's number, from 0.
    pub(super) number: U32,
    /// Its blocks.
    pub(super) blocks: U32,
    /// Root blocks of the trees of free space by number and by length, and of reverse mappings.
    pub(super) roots: [U32; 3],
    /// Their levels: 1 where the root is a leaf.
    pub(super) levels: [U32; 3],
    /// The first, last and number of the free list's entries in use; the list is a ring.
    pub(super) list_first: U32,
    pub(super) list_last: U32,
    pub(super) list_count: U32,
    /// The blocks in the trees of free space; those of the free list are not among them.
    pub(super) free: U32,
    /// The longest extent in them.
    pub(super) longest: U32,
    pub(super) tree_blocks: U32,
    /// Version 5: the metadata's UUID.
    pub(super) uuid: [u8; 16],
    pub(super) reverse_and_reference: [U32; 2],
    /// The root block of the tree of shared extents; 0 where there is none.
    pub(super) reference_root: U32,
    pub(super) reference_level: U32,
    pub(super) spare: [U64; 14],
    pub(super) lsn: U64,
    pub(super) checksum: little_endian::U32,
    pub(super) spare_2: U32,
}
const _: () = assert!(size_of::<RawGroup>() == 224);
/// What counts of [`RawGroup`] for the map: what has to be intact where its checksum cannot be.
pub(super) const GROUP_HEAD: usize = 96;

/// The header of a group's free list (AGFL), version 5 only. Block numbers follow up to the end of the sector.
#[derive(Clone, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawFreeList {
    /// [`FREE_LIST_MAGIC`].
    pub(super) magic: U32,
    /// The group's number.
    pub(super) number: U32,
    pub(super) uuid: [u8; 16],
    pub(super) lsn: U64,
    pub(super) checksum: little_endian::U32,
}
const _: () = assert!(size_of::<RawFreeList>() == 36);

/// The start of a block of a tree. In a leaf records follow; above, first keys and then, behind room for as many keys as
/// there may be, pointers.
#[derive(Clone, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawTree {
    pub(super) magic: U32,
    /// 0 in a leaf.
    pub(super) level: U16,
    pub(super) count: U16,
    /// The blocks to the left and right on the same level, or [`NULL_BLOCK`].
    pub(super) left: U32,
    pub(super) right: U32,
}
const _: () = assert!(size_of::<RawTree>() == 16);

/// What follows [`RawTree`] in version 5.
#[derive(Clone, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawTreeIdentity {
    /// Where the block lies, in basic blocks from the start of the volume.
    pub(super) address: U64,
    pub(super) lsn: U64,
    pub(super) uuid: [u8; 16],
    /// The group's number.
    pub(super) owner: U32,
    pub(super) checksum: little_endian::U32,
}
const _: () = assert!(size_of::<RawTreeIdentity>() == 40);

/// A free extent, in blocks of its group; also a key.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawFree {
    pub(super) start: U32,
    pub(super) count: U32,
}
const _: () = assert!(size_of::<RawFree>() == 8);

/// How many basic blocks' first words one basic block of a record's header keeps.
pub(super) const CYCLES_PER_HEADER: usize = 64;
/// The bytes of a record that one basic block of header is for.
pub(super) const BODY_PER_HEADER: u32 = 32 << 10;
/// The longest body of a record.
pub(super) const RECORD_MAX: u32 = 256 << 10;
/// Records that may be under way to the disk at one time: only among the last so many can be torn ones.
pub(super) const RECORDS_IN_FLIGHT: u32 = 8;
/// The byte order of the items in a record: little-endian Linux.
pub(super) const FORMAT_LITTLE_ENDIAN: u32 = 1;

/// The start of a log record; it fills a basic block, the rest of which is padding.
#[derive(Clone, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawRecord {
    /// [`RECORD_MAGIC`].
    pub(super) magic: U32,
    /// How often the log was written around, from 1.
    pub(super) cycle: U32,
    /// 1 or 2.
    pub(super) version: U32,
    /// The bytes of the body.
    pub(super) len: U32,
    /// This record: its cycle and its basic block.
    pub(super) lsn: U64,
    /// The first record that is still needed when this one is the last.
    pub(super) tail: U64,
    /// CRC32C of header, further headers and body, this field zero; 0 where the program that wrote it computes none.
    pub(super) checksum: little_endian::U32,
    pub(super) previous: U32,
    /// Operations that begin in it.
    pub(super) operations: U32,
    /// The first words of the body's basic blocks, in whose place stands the cycle.
    pub(super) words: [[u8; 4]; CYCLES_PER_HEADER],
    /// See [`FORMAT_LITTLE_ENDIAN`].
    pub(super) format: U32,
    /// What users see as UUID.
    pub(super) uuid: [u8; 16],
    /// The longest body that this mount wrote; it decides the length of the header. Version 2.
    pub(super) size: U32,
}
const _: () = assert!(size_of::<RawRecord>() == 324);
/// The bytes of a record's header that its checksum covers: with the padding that C adds on 64-bit machines, or without.
pub(super) const RECORD_CHECKED: [usize; 2] = [328, 324];

/// A further basic block of a header.
#[derive(Clone, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawMoreWords {
    pub(super) cycle: U32,
    pub(super) words: [[u8; 4]; CYCLES_PER_HEADER],
}
const _: () = assert!(size_of::<RawMoreWords>() == 260);

/// The start of an operation in a record's body; its bytes follow.
#[derive(Clone, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawOperation {
    pub(super) transaction: U32,
    pub(super) len: U32,
    /// See [`client`].
    pub(super) client: u8,
    /// See [`operation`].
    pub(super) flags: u8,
    pub(super) reserved: U16,
}
const _: () = assert!(size_of::<RawOperation>() == 12);

/// Who wrote an operation.
pub(super) mod client {
    pub(in crate::xfs) const TRANSACTION: u8 = 0x69;
    pub(in crate::xfs) const LOG: u8 = 0xAA;
}

/// What an operation is.
pub(super) mod operation {
    pub(in crate::xfs) const START: u8 = 0x01;
    pub(in crate::xfs) const COMMIT: u8 = 0x02;
    /// The region goes on in the next record.
    pub(in crate::xfs) const CONTINUES: u8 = 0x04;
    /// The region began in an earlier record.
    pub(in crate::xfs) const CONTINUED: u8 = 0x08;
    /// The last part of a continued region.
    pub(in crate::xfs) const END: u8 = 0x10;
    pub(in crate::xfs) const UNMOUNT: u8 = 0x20;
}

/// The length of a transaction's first region, which begins with [`TRANSACTION_MAGIC`].
pub(super) const TRANSACTION_HEADER: usize = 16;
/// Regions of one item at most: its description, and every other chunk of the largest buffer.
pub(super) const REGIONS_MAX: u16 = 257;

/// What an item is about, its first two bytes.
pub(super) mod item {
    /// A buffer: bytes of one place on the disk.
    pub(in crate::xfs) const BUFFER: u16 = 0x123C;
    /// The others that Linux knows: intents, inodes, quotas, and their like. None of them changes a block of free space but
    /// through a buffer in the same log.
    pub(in crate::xfs) const KNOWN: std::ops::RangeInclusive<u16> = 0x1236..=0x124F;
}

/// The description of a buffer, in the byte order of the machine; a bitmap of chunks follows, in words of 32 bits.
#[derive(Clone, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawBuffer {
    /// [`item::BUFFER`].
    pub(super) kind: little_endian::U16,
    /// Regions of this item.
    pub(super) regions: little_endian::U16,
    /// See [`buffer`].
    pub(super) flags: little_endian::U16,
    /// Its length in basic blocks.
    pub(super) len: little_endian::U16,
    /// Where it lies, in basic blocks from the start of the volume.
    pub(super) address: little_endian::U64,
    /// Words of the bitmap.
    pub(super) words: little_endian::U32,
}
const _: () = assert!(size_of::<RawBuffer>() == 20);
/// Words of a bitmap: one bit for each chunk of 64 KiB, and one word that rounds it up.
pub(super) const BITMAP_WORDS_MAX: usize = 17;
/// What one bit of the bitmap stands for, in bytes.
pub(super) const CHUNK: usize = 128;

/// Flags of a buffer.
pub(super) mod buffer {
    /// Of inodes: only a part of what is in the log counts.
    pub(in crate::xfs) const INODES: u16 = 1;
    /// The block is no metadata any more: nothing that is before this in the log may be replayed.
    pub(in crate::xfs) const CANCEL: u16 = 2;
    /// Of quotas.
    pub(in crate::xfs) const QUOTAS: u16 = 4 | 8 | 16;
    /// Where the type stands; 0 in logs of old kernels.
    pub(in crate::xfs) const TYPE_SHIFT: u32 = 11;
    pub(in crate::xfs) const TYPE_UNKNOWN: u16 = 0;
    /// A block of any tree.
    pub(in crate::xfs) const TYPE_TREE: u16 = 4;
}
