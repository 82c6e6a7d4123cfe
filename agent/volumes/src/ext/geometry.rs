//! Where things are, as the superblock tells it and after it was found to make sense.

use super::checksum::{CRC16_START, CRC32C_START, crc16, crc32c};
use super::features::{Features, compatible, incompatible, read_only_compatible};
use super::layout::{
    CHECKSUM_CRC32C, DESCRIPTOR_64_LEN, DESCRIPTOR_LEN, INODE_LEN, SUPERBLOCK_CHECKSUM_AT, Superblock,
};
use crate::Unclear;
use failback_units::{ByteCount, HumanBytes};
use std::ops::Range;
use zerocopy::FromBytes;

/// The largest block is 64 KiB: 1024 shifted by this.
const LOG_BLOCK_SIZE_MAX: u32 = 6;
/// The largest cluster is 1 GiB (`EXT4_MAX_CLUSTER_LOG_SIZE`): 1024 shifted by this.
const LOG_CLUSTER_SIZE_MAX: u32 = 20;
/// Groups with fewer blocks are not made (`mke2fs -g`). It bounds the number of groups by the size of the volume.
const BLOCKS_PER_GROUP_MIN: u64 = 256;
/// Inodes of a revision 0 file system.
const OLD_INODE_LEN: u32 = 128;

/// Which checksums there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checks {
    /// None: only counts can be compared.
    None,
    /// crc16 of the descriptors (`uninit_bg`), started with the UUID.
    Descriptors {
        /// What each starts from.
        start: u16,
    },
    /// crc32c of everything (`metadata_csum`).
    Everything {
        /// What each starts from.
        seed: u32,
    },
}

/// Which groups have a copy of the superblock and of the descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backups {
    /// All, as at the beginning.
    Every,
    /// 0, 1 and the powers of 3, 5 and 7.
    Sparse,
    /// 0 and these two.
    Two([u64; 2]),
}

/// Where things are. Block numbers count from the start of the volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    /// Bytes of a block, 1 KiB to 64 KiB.
    pub(super) block_size: u32,
    /// Blocks in all, from block 0.
    pub(super) blocks: u64,
    /// Where group 0 begins: 0 or 1.
    pub(super) first_data_block: u64,
    /// A multiple of `8 * cluster_blocks`.
    pub(super) blocks_per_group: u64,
    /// Blocks that a bit of a bitmap speaks of: 1 without bigalloc.
    pub(super) cluster_blocks: u64,
    /// How many groups, at least one; the last may be short.
    pub(super) groups: u64,
    pub(super) inodes_per_group: u32,
    /// Bytes of an inode, at most a block.
    pub(super) inode_size: u32,
    /// Blocks of a group's inode table.
    pub(super) inode_table_blocks: u64,
    /// Bytes of a descriptor: 32, or a power of two from 64 to the block size.
    pub(super) descriptor_size: usize,
    /// Whether metadata of a group may lie in another.
    pub(super) flexible: bool,
    pub(super) checks: Checks,
    backups: Backups,
    /// The first descriptor block that lies in the groups that it describes; `u64::MAX` where none does.
    first_meta_group: u64,
    reserved_descriptor_blocks: u64,
    multi_mount_block: Option<u64>,
}

impl Geometry {
    /// What the bytes of a superblock say for a volume of this size.
    pub(super) fn of(bytes: &[u8], superblock: &Superblock, volume: ByteCount) -> Result<Self, Unclear> {
        let features = Features::of(superblock);
        let checks = checks(bytes, superblock, features)?;
        features.accept()?;
        if superblock.revision.get() > 1 || (superblock.revision.get() == 0 && !features.are_none()) {
            return Err(Unclear::because(format!("its revision {} is not known", superblock.revision)));
        }
        let log_block_size = superblock.log_block_size.get();
        if log_block_size > LOG_BLOCK_SIZE_MAX {
            return Err(wrong("the size of a block"));
        }
        let block_size = 1024_u32 << log_block_size;
        let clusters = features.writes(read_only_compatible::CLUSTERS);
        let cluster_blocks = cluster_blocks(superblock, clusters).ok_or_else(|| wrong("the size of a cluster"))?;
        let first_data_block = u64::from(superblock.first_data_block.get());
        if first_data_block != u64::from(block_size == 1024 && !clusters) {
            return Err(wrong("the first data block"));
        }
        let blocks_per_group = blocks_per_group(superblock, clusters, cluster_blocks, block_size)
            .ok_or_else(|| wrong("the number of blocks in a group"))?;
        let blocks = blocks(superblock, features, block_size, volume)?;
        if blocks <= first_data_block {
            return Err(wrong("the number of blocks"));
        }
        let groups = (blocks - first_data_block).div_ceil(blocks_per_group);
        let inode_size = inode_size(superblock);
        if !inode_size.is_power_of_two() || !(OLD_INODE_LEN..=block_size).contains(&inode_size) {
            return Err(wrong("the size of an inode"));
        }
        let inodes_per_group = superblock.inodes_per_group.get();
        let inode_table_blocks = (u64::from(inodes_per_group) * u64::from(inode_size)).div_ceil(u64::from(block_size));
        if inodes_per_group > block_size * 8
            || inode_table_blocks == 0
            || inode_table_blocks >= blocks_per_group
            || u64::from(inodes_per_group).checked_mul(groups) != Some(superblock.inodes.get().into())
        {
            return Err(wrong("the number of inodes"));
        }
        let geometry = Self {
            block_size,
            blocks,
            first_data_block,
            blocks_per_group,
            cluster_blocks,
            groups,
            inodes_per_group,
            inode_size,
            inode_table_blocks,
            descriptor_size: descriptor_size(superblock, features, block_size)
                .ok_or_else(|| wrong("the size of a descriptor"))?,
            flexible: features.needs(incompatible::FLEXIBLE_GROUPS),
            checks,
            backups: backups(superblock, features),
            first_meta_group: first_meta_group(superblock, features),
            reserved_descriptor_blocks: u64::from(superblock.reserved_descriptor_blocks.get()),
            multi_mount_block: multi_mount_block(superblock, features),
        };
        let descriptors_end = geometry.descriptor_block(0) + geometry.plain_descriptor_blocks();
        if descriptors_end > geometry.blocks {
            return Err(wrong("the descriptors do not fit"));
        }
        Ok(geometry)
    }

    /// Bytes of a block, as a length in memory.
    pub(super) fn block_len(&self) -> usize {
        // At most 64 KiB.
        usize::try_from(self.block_size).unwrap_or(usize::MAX)
    }

    /// How many bits of a group's bitmap speak of blocks, if the group is full.
    pub(super) fn clusters_per_group(&self) -> u64 {
        self.blocks_per_group / self.cluster_blocks
    }

    /// The blocks of a group; those of the last end where the file system does.
    pub(super) fn group(&self, number: u64) -> Range<u64> {
        let start = self.first_data_block + number * self.blocks_per_group;
        start..self.blocks.min(start + self.blocks_per_group)
    }

    /// Whether these blocks lie in the file system.
    pub(super) fn holds(&self, first: u64, count: u64) -> bool {
        first >= self.first_data_block && first.checked_add(count).is_some_and(|end| end <= self.blocks)
    }

    /// The block in which the superblock lies: 1 only with blocks of 1 KiB.
    pub(super) fn superblock_block(&self) -> u64 {
        u64::from(self.block_size == 1024)
    }

    pub(super) fn descriptors_per_block(&self) -> u64 {
        // A descriptor is no longer than a block.
        u64::try_from(self.block_len() / self.descriptor_size).unwrap_or(1)
    }

    pub(super) fn descriptor_blocks(&self) -> u64 {
        self.groups.div_ceil(self.descriptors_per_block())
    }

    /// Descriptor blocks that lie in a row behind the superblock.
    fn plain_descriptor_blocks(&self) -> u64 {
        self.first_meta_group.min(self.descriptor_blocks())
    }

    /// Where descriptor block `number` lies, always the primary.
    pub(super) fn descriptor_block(&self, number: u64) -> u64 {
        if number < self.first_meta_group {
            return self.superblock_block() + 1 + number;
        }
        let first_group = number * self.descriptors_per_block();
        // With blocks of 1 KiB and bigalloc, group 0 begins at the boot block, before the superblock.
        let boot = u64::from(number == 0 && self.superblock_block() > self.first_data_block);
        self.group(first_group).start + u64::from(self.has_superblock(first_group)) + boot
    }

    /// Whether a group begins with the superblock or a copy.
    fn has_superblock(&self, group: u64) -> bool {
        match self.backups {
            _ if group == 0 => true,
            Backups::Every => true,
            Backups::Two(groups) => groups.contains(&group),
            Backups::Sparse => group == 1 || [3, 5, 7].into_iter().any(|root| is_power_of(group, root)),
        }
    }

    /// What lies at fixed places of a group: superblock, descriptors, blocks kept for descriptors.
    pub(super) fn fixed_places(&self, group: u64) -> [Range<u64>; 2] {
        let start = self.group(group).start.max(if group == 0 { self.superblock_block() } else { 0 });
        let has_superblock = self.has_superblock(group);
        let behind = start + u64::from(has_superblock);
        let meta_group = group / self.descriptors_per_block();
        let within = group % self.descriptors_per_block();
        let with_own =
            meta_group >= self.first_meta_group && (within <= 1 || within == self.descriptors_per_block() - 1);
        let mut descriptors = u64::from(with_own);
        if has_superblock && self.first_meta_group == u64::MAX {
            descriptors = self.descriptor_blocks() + self.reserved_descriptor_blocks;
        } else if has_superblock && meta_group < self.first_meta_group {
            descriptors = self.first_meta_group;
        }
        let end = self.blocks;
        let multi_mount = self.multi_mount_block.filter(|block| group == 0 && self.holds(*block, 1)).unwrap_or(start);
        let is_there = u64::from(multi_mount != start);
        [start..end.min(behind.saturating_add(descriptors)), multi_mount..multi_mount + is_there]
    }
}

/// Whether `number` is `root` to a power of at least one.
fn is_power_of(number: u64, root: u64) -> bool {
    let powers = std::iter::successors(Some(root), |power| power.checked_mul(root));
    powers.take_while(|power| *power <= number).any(|power| power == number)
}

/// Two halves of a number.
pub(super) fn join(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

fn wrong(what: &str) -> Unclear {
    Unclear::because(format!("its superblock is wrong: {what}"))
}

fn blocks_per_group(superblock: &Superblock, clusters: bool, cluster_blocks: u64, block_size: u32) -> Option<u64> {
    let blocks = u64::from(superblock.blocks_per_group.get());
    let in_clusters = blocks / cluster_blocks;
    let known = blocks >= BLOCKS_PER_GROUP_MIN
        && blocks.is_multiple_of(8 * cluster_blocks)
        // A bitmap is one block.
        && in_clusters <= u64::from(block_size) * 8
        && (!clusters || in_clusters == u64::from(superblock.clusters_per_group.get()));
    known.then_some(blocks)
}

fn first_meta_group(superblock: &Superblock, features: Features) -> u64 {
    if features.needs(incompatible::META_GROUPS) { superblock.first_meta_group.get().into() } else { u64::MAX }
}

fn multi_mount_block(superblock: &Superblock, features: Features) -> Option<u64> {
    let [low, high] = superblock.multi_mount_block;
    features.needs(incompatible::MULTI_MOUNT).then(|| join(low.get(), high.get()))
}

fn cluster_blocks(superblock: &Superblock, clusters: bool) -> Option<u64> {
    let (block, cluster) = (superblock.log_block_size.get(), superblock.log_cluster_size.get());
    let shift = cluster.checked_sub(block)?;
    let known = cluster <= LOG_CLUSTER_SIZE_MAX && (clusters || shift == 0);
    known.then(|| 1 << shift)
}

/// Blocks in all, which must lie on the volume.
fn blocks(superblock: &Superblock, features: Features, block_size: u32, volume: ByteCount) -> Result<u64, Unclear> {
    let high = if features.needs(incompatible::SIXTY_FOUR_BIT) { superblock.blocks_high.get() } else { 0 };
    let blocks = join(superblock.blocks_low.get(), high);
    let bytes = blocks.saturating_mul(u64::from(block_size));
    if bytes > volume.get() {
        let (claimed, there) = (HumanBytes(bytes), volume.human());
        return Err(Unclear::because(format!(
            "it says to have {claimed} ({bytes} bytes) and the volume has {there} ({volume} bytes)"
        )));
    }
    Ok(blocks)
}

fn inode_size(superblock: &Superblock) -> u32 {
    if superblock.revision.get() == 0 { OLD_INODE_LEN } else { u32::from(superblock.inode_size.get()) }
}

fn descriptor_size(superblock: &Superblock, features: Features, block_size: u32) -> Option<usize> {
    if !features.needs(incompatible::SIXTY_FOUR_BIT) {
        return Some(DESCRIPTOR_LEN);
    }
    let size = superblock.descriptor_size.get();
    let known = size.is_power_of_two() && usize::from(size) >= DESCRIPTOR_64_LEN && u32::from(size) <= block_size;
    known.then_some(usize::from(size))
}

fn backups(superblock: &Superblock, features: Features) -> Backups {
    if features.has(compatible::SPARSE_SUPER2) {
        Backups::Two(superblock.backup_groups.map(|group| u64::from(group.get())))
    } else if features.writes(read_only_compatible::SPARSE_SUPER) {
        Backups::Sparse
    } else {
        Backups::Every
    }
}

/// Which checksums there are, after the superblock's own was found to be right.
fn checks(bytes: &[u8], superblock: &Superblock, features: Features) -> Result<Checks, Unclear> {
    if features.writes(read_only_compatible::METADATA_CHECKSUMS) {
        if superblock.checksum_type != CHECKSUM_CRC32C {
            return Err(Unclear::because("its checksums are of a kind that is not known"));
        }
        if crc32c(CRC32C_START, &bytes[..SUPERBLOCK_CHECKSUM_AT]) != superblock.checksum.get() {
            return Err(Unclear::because("its superblock's checksum is wrong"));
        }
        let seeded = features.needs(incompatible::CHECKSUM_SEED);
        let from_uuid = || crc32c(CRC32C_START, &superblock.uuid);
        return Ok(Checks::Everything { seed: if seeded { superblock.checksum_seed.get() } else { from_uuid() } });
    }
    if features.needs(incompatible::CHECKSUM_SEED) {
        return Err(Unclear::because("it has a seed of checksums and no checksums"));
    }
    if features.writes(read_only_compatible::DESCRIPTOR_CHECKSUMS) {
        return Ok(Checks::Descriptors { start: crc16(CRC16_START, &superblock.uuid) });
    }
    Ok(Checks::None)
}

/// The superblock in its bytes.
pub(super) fn superblock(bytes: &[u8]) -> Option<&Superblock> {
    Superblock::ref_from_prefix(bytes).ok().map(|(superblock, _)| superblock)
}

const _: () = assert!(INODE_LEN == 128 && OLD_INODE_LEN == 128);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_with_a_copy_of_the_superblock() {
        let powers = (0..400).filter(|group| [3, 5, 7].into_iter().any(|root| is_power_of(*group, root)));
        assert_eq!(powers.collect::<Vec<_>>(), [3, 5, 7, 9, 25, 27, 49, 81, 125, 243, 343]);
        assert!(is_power_of(3_u64.pow(40), 3) && !is_power_of(u64::MAX, 7));
    }
}
