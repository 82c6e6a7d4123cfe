//! What is on a disk: partition tables, LVM, file systems and swap, and the space that they prove to be free.
//!
//! Everything that is read here may be hostile, and is read by root. So: no `unsafe`, checked arithmetic, loops and
//! memory with bounds that do not come from the disk, and one rule above all: **what is not fully understood is in use**.
//! A map that calls a free block used costs time; one that calls a used block free costs data.
//!
//! - [`Volume`] is what a parser reads: a disk, a partition or a logical volume, as bytes from 0.
//! - [`FreeMap`] is the space that nothing lives in.
//! - [`FileSystem`] is what a parser found: what it is, in which state, and its free space or why there is none.
//! - [`scan`] looks at whole disks, and makes a [`DiskLayout`] of each: the tree of what is on it, and its free map.
#![forbid(unsafe_code)]

mod crc32;
mod ext;
mod file_system;
mod free_map;
mod lvm;
mod partitions;
mod pieces;
mod recognise;
mod reiserfs;
mod remarks;
mod scan;
mod swap;
mod text;
mod tree;
mod volume;
mod xfs;

pub use file_system::{FileSystem, Kind, State, Unclear};
pub use free_map::{FreeMap, FreeMapBuilder};
pub use partitions::TableKind;
pub use scan::scan;
pub use tree::{
    Content, DiskLayout, FileSystemFacts, Group, LayoutIdentity, LogicalVolume, Partition, PartitionTable,
    PhysicalVolume, Segment,
};
pub use volume::{DeviceVolume, ReadError, Volume};

/// Looks for the file systems and the swap space that are understood, by signature and not by belief: whatever claims to
/// be there is returned, and more than one entry means that every block of the volume is in use.
#[must_use]
pub fn file_systems(volume: &dyn Volume) -> Vec<FileSystem> {
    [ext::inspect(volume), xfs::inspect(volume), reiserfs::inspect(volume), swap::inspect(volume)]
        .into_iter()
        .flatten()
        .collect()
}
