//! What `ReiserFS` has on the disk, as far as a map of its space needs it.
//!
//! Source of all facts: Linux 6.1, `fs/reiserfs/reiserfs.h`, `journal.c`, `super.c`, `bitmap.c` and `stree.c`; `reiserfsprogs` 3.6.27
//! where it differs. All numbers are little-endian.
//!
//! ```text
//! 0 .. 64 KiB      nothing of the file system's: boot loaders live there
//! 64 KiB           superblock, then the first bitmap block, then the journal and its header
//! N*8*block size   further bitmap blocks, each the first of the blocks that it describes
//! ```

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// Where the superblock is, in bytes (`REISERFS_DISK_OFFSET_IN_BYTES`).
pub(super) const SUPERBLOCK_AT: u64 = 64 << 10;

/// Where it was until 3.5.10, in bytes (`REISERFS_OLD_DISK_OFFSET_IN_BYTES`).
pub(super) const OLD_SUPERBLOCK_AT: u64 = 8 << 10;

/// The smallest and the largest block, in bytes (`reiserfsprogs`; Linux takes none larger than a page).
pub(super) const BLOCK_SIZES: std::ops::RangeInclusive<u16> = 512..=8192;

/// What `magic` begins with in a 3.5 file system.
pub(super) const MAGIC_3_5: &[u8] = b"ReIsErFs";
/// In a 3.6 file system.
pub(super) const MAGIC_3_6: &[u8] = b"ReIsEr2Fs";
/// In one of either format with a journal of another size or in another place than usual.
pub(super) const MAGIC_OTHER_JOURNAL: &[u8] = b"ReIsEr3Fs";

/// `version` of a 3.5 file system; it counts with [`MAGIC_OTHER_JOURNAL`] only.
pub(super) const VERSION_3_5: u16 = 0;
/// Of a 3.6 file system.
pub(super) const VERSION_3_6: u16 = 2;

/// `unmount_state` after a clean unmount, and while mounted. It is written when the kernel pleases, so it proves nothing;
/// but no other value has a meaning.
pub(super) const UNMOUNT_STATES: [u16; 2] = [1, 2];

/// `root_block` while `reiserfsck --rebuild-tree` is under way or was broken off.
pub(super) const ROOT_BEING_REBUILT: u32 = u32::MAX;

/// The greatest known `hash_function` (`R5_HASH`); 0 means that it has to be found out.
pub(super) const HASH_FUNCTION_MAX: u32 = 3;

/// The one known bit of `flags`: inode attributes were cleared once, so that they mean something.
pub(super) const FLAG_ATTRIBUTES_CLEARED: u32 = 1;

/// Where and how large the journal is, and how it may be used; in the superblock and again in the journal's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct JournalParameters {
    /// Its first block.
    pub(super) first_block: U32,
    /// The number of the device that it is on; 0 for the file system's own.
    pub(super) device: U32,
    /// Its length in blocks. The block behind it is its header, and does not count.
    pub(super) blocks: U32,
    /// How many blocks a transaction logs at most. 0 in the headers of old file systems: [`TRANSACTION_DEFAULT`].
    pub(super) transaction_max: U32,
    /// A random number, the same in both places with [`MAGIC_OTHER_JOURNAL`].
    pub(super) magic: U32,
    /// How many blocks are put together in a transaction at most.
    pub(super) batch_max: U32,
    /// Seconds until a transaction is committed.
    pub(super) commit_age_max: U32,
    /// Seconds that a transaction may be open.
    pub(super) transaction_age_max: U32,
}

/// The superblock. What stands from `inode_generation` on belongs to 3.6; in 3.5 the map of object numbers begins there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Superblock {
    /// Blocks of the file system.
    pub(super) block_count: U32,
    /// How many of them the bitmaps call free. Changed together with them, so it is exact after recovery.
    pub(super) free_blocks: U32,
    /// The root of the tree.
    pub(super) root_block: U32,
    /// The journal.
    pub(super) journal: JournalParameters,
    /// Bytes in a block: a power of two in [`BLOCK_SIZES`].
    pub(super) block_size: U16,
    /// Room for the map of object numbers.
    pub(super) object_map_max: U16,
    /// How much of it is in use.
    pub(super) object_map_now: U16,
    /// One of [`UNMOUNT_STATES`].
    pub(super) unmount_state: U16,
    /// Begins with one of the three magics.
    pub(super) magic: [u8; 10],
    /// Not 0 when a check found damage, or did not come to its end.
    pub(super) check_state: U16,
    /// How names are hashed: 0 to [`HASH_FUNCTION_MAX`].
    pub(super) hash_function: U32,
    /// Levels of the tree and one more: 2 for a root that is a leaf.
    pub(super) tree_height: U16,
    /// Number of bitmap blocks. It cannot count beyond 65,535: Linux then writes 0, older programs what is left of it.
    pub(super) bitmap_count: U16,
    /// [`VERSION_3_5`] or [`VERSION_3_6`].
    pub(super) version: U16,
    /// Blocks that are kept for a journal here; 0 with an ordinary one, and with one that lies on another device.
    pub(super) reserved_for_journal: U16,
    /// For the numbers of new inodes.
    pub(super) inode_generation: U32,
    /// [`FLAG_ATTRIBUTES_CLEARED`] or nothing.
    pub(super) flags: U32,
    /// The file system's UUID.
    pub(super) uuid: [u8; 16],
    /// Its label, filled up with zeroes.
    pub(super) label: [u8; 16],
}

const _: () = assert!(size_of::<JournalParameters>() == 32);
const _: () = assert!(size_of::<Superblock>() == 116);

/// What a transaction logs at most, in blocks, with blocks of [`STANDARD_BLOCK`] or more; less with smaller ones, in
/// proportion (`JOURNAL_TRANS_MAX_DEFAULT`).
pub(super) const TRANSACTION_DEFAULT: u32 = 1024;
/// And at least (`JOURNAL_TRANS_MIN_DEFAULT`).
pub(super) const TRANSACTION_LEAST: u32 = 256;
/// `batch_max` for [`TRANSACTION_DEFAULT`]; otherwise in proportion (`JOURNAL_MAX_BATCH_DEFAULT`).
pub(super) const BATCH_DEFAULT: u32 = 900;
/// `REISERFS_STANDARD_BLKSIZE`, in bytes.
pub(super) const STANDARD_BLOCK: u32 = 4096;
/// A journal has room for so many of the largest transactions at least (`JOURNAL_MIN_RATIO`).
pub(super) const TRANSACTIONS_IN_JOURNAL: u32 = 2;

/// The journal's header, in the block behind its last one.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct JournalHeader {
    /// The last transaction whose blocks are all in their places; 0 where none was ever flushed: then the oldest one has to
    /// be looked for.
    pub(super) last_flushed: U32,
    /// Where the one behind it begins, in blocks from the journal's start.
    pub(super) first_unflushed: U32,
    /// Which mount this is; every transaction carries the number of its mount.
    pub(super) mount: U32,
    /// What the superblock says, too; the limits that count stand here.
    pub(super) parameters: JournalParameters,
}

const _: () = assert!(size_of::<JournalHeader>() == 44);

/// What a transaction begins with. Behind these numbers stand the places of its blocks, four bytes each, as many as fit
/// before the last [`MAGIC_ROOM`] bytes; the blocks themselves come next, and the commit block last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Descriptor {
    /// The number of the transaction: one more than that of the one before it.
    pub(super) transaction: U32,
    /// How many blocks it logs.
    pub(super) blocks: U32,
    /// The number of the mount that it was written in.
    pub(super) mount: U32,
}

const _: () = assert!(size_of::<Descriptor>() == 12);

/// What a transaction ends with. Behind these numbers stand the places that found no room in the descriptor; the last 16
/// bytes were meant for a digest, which nobody writes.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Commit {
    /// As in the descriptor.
    pub(super) transaction: U32,
    /// As in the descriptor.
    pub(super) blocks: U32,
}

const _: () = assert!(size_of::<Commit>() == 8);

/// Bytes at the end of a descriptor block that hold its magic, and zeroes.
pub(super) const MAGIC_ROOM: usize = 12;
/// What makes a block a descriptor (`JOURNAL_DESC_MAGIC`).
pub(super) const DESCRIPTOR_MAGIC: &[u8] = b"ReIsErLB";

/// The number of the transaction behind the last one that a number can count (`journal.c`: 0 is not a transaction, and the
/// first ten are left out).
pub(super) const TRANSACTION_AFTER_WRAP: u32 = 10;
/// The mount number that a fresh journal's transactions exceed, as `journal_read` begins with.
pub(super) const MOUNT_BEFORE_FIRST: u32 = 9;

/// What every block of the tree begins with (`block_head`).
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct NodeHeader {
    /// [`LEAF_LEVEL`] for a leaf, one more for each level above, [`LEVEL_MAX`] at most; 0 once it has left the tree.
    pub(super) level: U16,
    /// Items of a leaf, or keys of an internal node.
    pub(super) items: U16,
    /// Bytes that neither heads nor contents take.
    pub(super) free_space: U16,
    /// Nothing.
    pub(super) reserved: U16,
    /// A key that newer programs leave alone.
    pub(super) right_delimiter: [u8; KEY],
}

const _: () = assert!(size_of::<NodeHeader>() == 24);

/// `DISK_LEAF_NODE_LEVEL`. The root's level is one less than `tree_height`.
pub(super) const LEAF_LEVEL: u16 = 1;
/// `MAX_HEIGHT`.
pub(super) const LEVEL_MAX: u16 = 5;
/// Bytes of a key.
pub(super) const KEY: usize = 16;

/// The head of an item of a leaf (`item_head`). The heads follow the leaf's header; their contents lie one before the other
/// from the end of the block on.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct ItemHead {
    /// What it is of.
    pub(super) key: [u8; KEY],
    /// How many names a directory's item has; of other items something else.
    pub(super) count: U16,
    /// Bytes of its content, 1 at least.
    pub(super) len: U16,
    /// Where the content begins in the block.
    pub(super) at: U16,
    /// The version of the key.
    pub(super) version: U16,
}

const _: () = assert!(size_of::<ItemHead>() == 24);

/// A child of an internal node (`disk_child`). They follow the keys, and are one more than these.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Child {
    /// Its block.
    pub(super) block: U32,
    /// How much of it is in use, in bytes.
    pub(super) used: U16,
    /// Nothing.
    pub(super) reserved: U16,
}

const _: () = assert!(size_of::<Child>() == 8);
