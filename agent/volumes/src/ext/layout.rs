//! The bytes of ext2, ext3 and ext4 as far as the allocation map needs them. Nothing else lives here.
//!
//! Integers are little-endian. Sources: `Documentation/filesystems/ext4/` and `fs/ext4/ext4.h` of Linux, and
//! `lib/ext2fs/ext2_fs.h` of e2fsprogs. Fields that nobody reads here are named for what they are and left alone, since
//! checksums cover them.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// Where the primary superblock lies, in bytes, whatever the block size.
pub(super) const SUPERBLOCK_AT: u64 = 1024;
/// Its size in bytes.
pub(super) const SUPERBLOCK_LEN: usize = 1024;
/// The signature of all three, and of an external journal.
pub(super) const MAGIC: u16 = 0xEF53;
/// Where the superblock's own checksum lies in it: it covers what comes before.
pub(super) const SUPERBLOCK_CHECKSUM_AT: usize = 0x3FC;
/// The only kind of checksum there is: crc32c.
pub(super) const CHECKSUM_CRC32C: u8 = 1;

/// Bits of `Superblock::state`.
pub(super) mod state {
    /// It was unmounted. A file system with a journal keeps this while it is mounted.
    pub(in crate::ext) const VALID: u16 = 1;
    /// The kernel found an error and wrote that down.
    pub(in crate::ext) const ERROR: u16 = 2;
}

/// The superblock.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Superblock {
    /// Inodes in all: groups times inodes per group.
    pub(super) inodes: U32,
    /// Blocks, low half; they are counted from block 0.
    pub(super) blocks_low: U32,
    pub(super) reserved_blocks_low: U32,
    /// Stale while mounted; the descriptors' counts are not.
    pub(super) free_blocks_low: U32,
    pub(super) free_inodes: U32,
    /// The first block that the bitmaps speak of: 1 with blocks of 1 KiB and without bigalloc, else 0.
    pub(super) first_data_block: U32,
    /// Blocks have 1024 shifted by this many bytes; 0 to 6.
    pub(super) log_block_size: U32,
    /// The same for clusters; equal without bigalloc.
    pub(super) log_cluster_size: U32,
    pub(super) blocks_per_group: U32,
    /// Only with bigalloc.
    pub(super) clusters_per_group: U32,
    pub(super) inodes_per_group: U32,
    pub(super) mount_time: U32,
    pub(super) write_time: U32,
    pub(super) mounts: U16,
    pub(super) mounts_max: U16,
    /// [`MAGIC`].
    pub(super) magic: U16,
    /// See [`state`].
    pub(super) state: U16,
    pub(super) errors: U16,
    pub(super) minor_revision: U16,
    pub(super) last_check: U32,
    pub(super) check_interval: U32,
    pub(super) creator: U32,
    /// 0: nothing behind this structure's first 84 bytes counts. 1: everything does.
    pub(super) revision: U32,
    pub(super) reserved_for: [U16; 2],
    pub(super) first_inode: U32,
    /// Bytes of an inode; 128 with revision 0.
    pub(super) inode_size: U16,
    pub(super) own_group: U16,
    pub(super) compatible: U32,
    pub(super) incompatible: U32,
    pub(super) read_only_compatible: U32,
    pub(super) uuid: [u8; 16],
    pub(super) label: [u8; 16],
    pub(super) last_mounted: [u8; 64],
    pub(super) compression: U32,
    pub(super) preallocate: [u8; 2],
    /// Blocks behind the descriptors that are kept for more of them.
    pub(super) reserved_descriptor_blocks: U16,
    pub(super) journal_uuid: [u8; 16],
    /// The inode of the journal; 0 with a journal on another device.
    pub(super) journal_inode: U32,
    pub(super) journal_device: U32,
    pub(super) last_orphan: U32,
    pub(super) hash_seed: [U32; 4],
    pub(super) hash_version: u8,
    pub(super) journal_backup_type: u8,
    /// Bytes of a descriptor with 64bit; without it is 32.
    pub(super) descriptor_size: U16,
    pub(super) mount_options: U32,
    /// With `meta_bg`: descriptor blocks from this one on lie in the groups that they describe.
    pub(super) first_meta_group: U32,
    pub(super) made_time: U32,
    pub(super) journal_backup: [U32; 17],
    /// Blocks, high half; only with 64bit.
    pub(super) blocks_high: U32,
    pub(super) reserved_blocks_high: U32,
    pub(super) free_blocks_high: U32,
    pub(super) extra_inode_sizes: [U16; 2],
    pub(super) flags: U32,
    pub(super) raid_stride: U16,
    pub(super) multi_mount_interval: U16,
    pub(super) multi_mount_block: [U32; 2],
    pub(super) raid_stripe_width: U32,
    pub(super) log_groups_per_flex: u8,
    /// [`CHECKSUM_CRC32C`] with `metadata_csum`.
    pub(super) checksum_type: u8,
    pub(super) padding: [u8; 2],
    pub(super) kilobytes_written: [U32; 2],
    pub(super) snapshots: [U32; 5],
    pub(super) error_history: [u8; 108],
    pub(super) mount_option_text: [u8; 64],
    pub(super) quota_inodes: [U32; 2],
    pub(super) overhead_clusters: U32,
    /// With `sparse_super2`: the only two groups besides the first with a copy of the superblock.
    pub(super) backup_groups: [U32; 2],
    pub(super) encryption: [u8; 20],
    pub(super) lost_and_found: U32,
    pub(super) project_quota_inode: U32,
    /// With `metadata_csum_seed`: what checksums start from, instead of the UUID.
    pub(super) checksum_seed: U32,
    pub(super) times_high: [u8; 8],
    pub(super) encoding: [U16; 2],
    pub(super) orphan_file: U32,
    pub(super) reserved: [U32; 94],
    /// crc32c of everything before it, with `metadata_csum`.
    pub(super) checksum: U32,
}

const _: () = assert!(size_of::<Superblock>() == SUPERBLOCK_LEN);
const _: () = assert!(std::mem::offset_of!(Superblock, uuid) == 0x68);
const _: () = assert!(std::mem::offset_of!(Superblock, first_meta_group) == 0x104);
const _: () = assert!(std::mem::offset_of!(Superblock, log_groups_per_flex) == 0x174);
const _: () = assert!(std::mem::offset_of!(Superblock, backup_groups) == 0x24C);
const _: () = assert!(std::mem::offset_of!(Superblock, checksum_seed) == 0x270);
const _: () = assert!(std::mem::offset_of!(Superblock, checksum) == SUPERBLOCK_CHECKSUM_AT);

/// Bits of `GroupDescriptor::flags`.
pub(super) mod group_flag {
    /// The block bitmap was never written: only metadata is in use. Counts only where descriptors have checksums.
    pub(in crate::ext) const BLOCK_UNINIT: u16 = 2;
}

/// A group descriptor, the half that all have.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct GroupDescriptor {
    /// The block of the block bitmap.
    pub(super) block_bitmap: U32,
    pub(super) inode_bitmap: U32,
    /// The first block of the inode table.
    pub(super) inode_table: U32,
    /// Free clusters.
    pub(super) free_clusters: U16,
    pub(super) free_inodes: U16,
    pub(super) directories: U16,
    /// See [`group_flag`].
    pub(super) flags: U16,
    pub(super) exclude_bitmap: U32,
    /// crc32c of the block bitmap, low half, with `metadata_csum`.
    pub(super) block_bitmap_checksum: U16,
    pub(super) inode_bitmap_checksum: U16,
    pub(super) unused_inodes: U16,
    /// Checksum of the descriptor, this field left out: crc16, or the low half of crc32c.
    pub(super) checksum: U16,
}

/// Bytes of a descriptor without 64bit.
pub(super) const DESCRIPTOR_LEN: usize = 32;
/// Where its checksum lies.
pub(super) const DESCRIPTOR_CHECKSUM_AT: usize = 0x1E;
const _: () = assert!(size_of::<GroupDescriptor>() == DESCRIPTOR_LEN);
const _: () = assert!(std::mem::offset_of!(GroupDescriptor, checksum) == DESCRIPTOR_CHECKSUM_AT);

/// The second half of a descriptor, with 64bit: the high halves.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct GroupDescriptorHigh {
    pub(super) block_bitmap: U32,
    pub(super) inode_bitmap: U32,
    pub(super) inode_table: U32,
    pub(super) free_clusters: U16,
    pub(super) free_inodes: U16,
    pub(super) directories: U16,
    pub(super) unused_inodes: U16,
    pub(super) exclude_bitmap: U32,
    pub(super) block_bitmap_checksum: U16,
    pub(super) inode_bitmap_checksum: U16,
    pub(super) reserved: U32,
}

/// Bytes of the shortest descriptor with both halves.
pub(super) const DESCRIPTOR_64_LEN: usize = 64;
const _: () = assert!(size_of::<GroupDescriptorHigh>() == DESCRIPTOR_64_LEN - DESCRIPTOR_LEN);

/// An inode, the part that every inode has.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Inode {
    /// What it is, in the upper four bits, and who may do what.
    pub(super) mode: U16,
    pub(super) owner: U16,
    pub(super) size_low: U32,
    pub(super) times: [U32; 4],
    pub(super) group: U16,
    pub(super) links: U16,
    pub(super) sectors: U32,
    /// See [`inode_flag`].
    pub(super) flags: U32,
    pub(super) version: U32,
    /// The root of the extent tree, or twelve blocks and three that hold block numbers.
    pub(super) places: [u8; 60],
    pub(super) generation: U32,
    pub(super) attributes: U32,
    pub(super) size_high: U32,
    pub(super) fragment: U32,
    pub(super) high_halves: [u8; 8],
    /// crc32c of the inode, low half, with `metadata_csum`.
    pub(super) checksum_low: U16,
    pub(super) reserved: U16,
}

/// Bytes of the shortest inode.
pub(super) const INODE_LEN: usize = 128;
const _: () = assert!(size_of::<Inode>() == INODE_LEN);
const _: () = assert!(std::mem::offset_of!(Inode, places) == 0x28);
/// Where the low half of an inode's checksum lies.
pub(super) const INODE_CHECKSUM_AT: usize = 0x7C;
const _: () = assert!(std::mem::offset_of!(Inode, checksum_low) == INODE_CHECKSUM_AT);
/// Where the number of bytes behind the first 128 that are in use is told.
pub(super) const INODE_EXTRA_AT: usize = 0x80;
/// Where the high half of its checksum lies, if that number is at least [`INODE_EXTRA_WITH_CHECKSUM`].
pub(super) const INODE_CHECKSUM_HIGH_AT: usize = 0x82;
pub(super) const INODE_EXTRA_WITH_CHECKSUM: u16 = 4;

/// The upper bits of `Inode::mode`.
pub(super) mod inode_mode {
    pub(in crate::ext) const TYPE: u16 = 0xF000;
    pub(in crate::ext) const REGULAR: u16 = 0x8000;
}

/// Bits of `Inode::flags`.
pub(super) mod inode_flag {
    /// Its places are an extent tree.
    pub(in crate::ext) const EXTENTS: u32 = 0x8_0000;
    /// Its content is in the inode itself.
    pub(in crate::ext) const INLINE_DATA: u32 = 0x1000_0000;
}

/// The head of a node of an extent tree.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct ExtentHeader {
    /// [`EXTENT_MAGIC`].
    pub(super) magic: U16,
    pub(super) entries: U16,
    /// How many fit.
    pub(super) entries_max: U16,
    /// 0: its entries are extents. Else they name nodes of one less.
    pub(super) depth: U16,
    pub(super) generation: U32,
}

pub(super) const EXTENT_MAGIC: u16 = 0xF30A;
/// The greatest depth that 2^32 blocks need with the smallest block (`EXT4_MAX_EXTENT_DEPTH`).
pub(super) const EXTENT_DEPTH_MAX: u16 = 5;
/// Bytes of the head and of each entry of a node.
pub(super) const EXTENT_ENTRY_LEN: usize = 12;
/// Longer extents are ones of unwritten blocks.
pub(super) const EXTENT_WRITTEN_MAX: u16 = 32_768;
const _: () = assert!(size_of::<ExtentHeader>() == EXTENT_ENTRY_LEN);

/// An entry of a leaf.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct ExtentEntry {
    /// The first block of the file.
    pub(super) logical: U32,
    pub(super) count: U16,
    pub(super) start_high: U16,
    pub(super) start_low: U32,
}
const _: () = assert!(size_of::<ExtentEntry>() == EXTENT_ENTRY_LEN);

/// An entry of a node that is no leaf.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct ExtentIndex {
    /// The first block of the file below it.
    pub(super) logical: U32,
    pub(super) node_low: U32,
    pub(super) node_high: U16,
    pub(super) unused: U16,
}
const _: () = assert!(size_of::<ExtentIndex>() == EXTENT_ENTRY_LEN);

/// Block numbers at the start of an inode's places that name content; the three behind them name blocks of numbers, once,
/// twice and three times removed.
pub(super) const DIRECT_BLOCKS: usize = 12;
