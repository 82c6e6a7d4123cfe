//! Group descriptors: always the primary ones, since copies of them are as old as the last check or resize.

use super::blocks::Blocks;
use super::checksum::{crc16, crc32c};
use super::geometry::{Checks, Geometry, join};
use super::layout::{
    DESCRIPTOR_64_LEN, DESCRIPTOR_CHECKSUM_AT, DESCRIPTOR_LEN, GroupDescriptor, GroupDescriptorHigh, group_flag,
};
use crate::Unclear;
use zerocopy::FromBytes;

/// What a descriptor says of its group, every place checked to lie in the file system.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    /// The block of the block bitmap.
    pub(super) bitmap: u64,
    /// The block of the inode bitmap.
    pub(super) inode_bitmap: u64,
    /// The first block of the inode table.
    pub(super) inode_table: u64,
    pub(super) free_clusters: u64,
    /// Whether the block bitmap was never written.
    pub(super) uninitialised: bool,
    /// crc32c of the block bitmap; only the lower half where descriptors are short.
    pub(super) bitmap_checksum: u32,
}

/// The descriptors of one descriptor block, or why one of them cannot be believed.
pub(super) type Groups = Vec<Result<Group, &'static str>>;

/// Reads descriptor block `number`, which describes the groups from `number * descriptors_per_block` on.
pub(super) fn read(geometry: &Geometry, blocks: Blocks<'_>, number: u64) -> Result<Groups, Unclear> {
    let block = blocks.one(geometry.descriptor_block(number))?;
    let first = number * geometry.descriptors_per_block();
    let all = block.chunks_exact(geometry.descriptor_size).zip(first..geometry.groups);
    Ok(all.map(|(bytes, group)| parse(geometry, group, bytes)).collect())
}

/// One descriptor, which has `descriptor_size` bytes.
fn parse(geometry: &Geometry, number: u64, bytes: &[u8]) -> Result<Group, &'static str> {
    const WRONG_PLACE: &str = "its descriptor points to a wrong place";
    let (low, rest) = GroupDescriptor::read_from_prefix(bytes).map_err(|_| "its descriptor is cut short")?;
    if !is_intact(geometry, number, bytes, low.checksum.get()) {
        return Err("its descriptor's checksum is wrong");
    }
    let high = GroupDescriptorHigh::read_from_prefix(rest).ok().map(|(high, _)| high);
    let high = high.filter(|_| geometry.descriptor_size >= DESCRIPTOR_64_LEN);
    let wide = |low: u32, high: Option<u32>| join(low, high.unwrap_or(0));
    let half = |low: u16, high: Option<u16>| u32::from(high.unwrap_or(0)) << 16 | u32::from(low);
    let group = Group {
        bitmap: wide(low.block_bitmap.get(), high.map(|high| high.block_bitmap.get())),
        inode_bitmap: wide(low.inode_bitmap.get(), high.map(|high| high.inode_bitmap.get())),
        inode_table: wide(low.inode_table.get(), high.map(|high| high.inode_table.get())),
        free_clusters: half(low.free_clusters.get(), high.map(|high| high.free_clusters.get())).into(),
        uninitialised: geometry.checks != Checks::None && low.flags.get() & group_flag::BLOCK_UNINIT != 0,
        bitmap_checksum: half(low.block_bitmap_checksum.get(), high.map(|high| high.block_bitmap_checksum.get())),
    };
    let own = geometry.group(number);
    let places = [(group.bitmap, 1), (group.inode_bitmap, 1), (group.inode_table, geometry.inode_table_blocks)];
    for (first, count) in places {
        if !geometry.holds(first, count) {
            return Err(WRONG_PLACE);
        }
        if !geometry.flexible && (first < own.start || first + count > own.end) {
            return Err(WRONG_PLACE);
        }
    }
    Ok(group)
}

/// Whether the checksum of a descriptor is right, where it has one.
fn is_intact(geometry: &Geometry, number: u64, bytes: &[u8], checksum: u16) -> bool {
    // The kernel hashes the group's number as 32 bits; there are never more groups.
    let Ok(number) = u32::try_from(number) else { return false };
    let (before, behind) = (&bytes[..DESCRIPTOR_CHECKSUM_AT], &bytes[DESCRIPTOR_LEN..]);
    match geometry.checks {
        Checks::None => true,
        Checks::Descriptors { start } => {
            let crc = crc16(crc16(start, &number.to_le_bytes()), before);
            crc16(crc, behind) == checksum
        }
        Checks::Everything { seed } => {
            let crc = crc32c(crc32c(seed, &number.to_le_bytes()), before);
            crc32c(crc32c(crc, &[0; 2]), behind).to_le_bytes()[..2] == checksum.to_le_bytes()
        }
    }
}
