//! Where the blocks of the journal lie: its inode, by extents or by blocks of block numbers.

use crate::Unclear;
use crate::ext::blocks::Blocks;
use crate::ext::checksum::crc32c;
use crate::ext::descriptors;
use crate::ext::geometry::{Checks, Geometry, join};
use crate::ext::layout::{
    DIRECT_BLOCKS, EXTENT_DEPTH_MAX, EXTENT_ENTRY_LEN, EXTENT_MAGIC, EXTENT_WRITTEN_MAX, ExtentEntry, ExtentHeader,
    ExtentIndex, INODE_CHECKSUM_AT, INODE_CHECKSUM_HIGH_AT, INODE_EXTRA_AT, INODE_EXTRA_WITH_CHECKSUM, INODE_LEN,
    Inode, inode_flag, inode_mode,
};
use std::ops::Range;
use zerocopy::FromBytes;

/// Blocks of a journal, at most. mke2fs makes 1 GiB for the largest file systems.
pub(super) const MAX_BLOCKS: u64 = 1 << 21;
/// Bytes of a journal, at most: with larger blocks there are fewer.
const MAX_BYTES: u64 = 8 << 30;
/// Blocks of an extent tree that are looked at. A journal of that many blocks needs far fewer.
const MAX_NODES: usize = 1 << 14;

/// A stretch of the journal that lies in a row.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    logical: u64,
    physical: u64,
    count: u64,
}

/// Where each block of the journal lies; there are no gaps.
#[derive(Debug)]
pub(super) struct Places {
    stretches: Vec<Stretch>,
    end: u64,
}

impl Places {
    /// Of the journal in this inode.
    pub(super) fn of_inode(geometry: &Geometry, blocks: Blocks<'_>, number: u32) -> Result<Self, Unclear> {
        let (bytes, seed) = read_inode(geometry, blocks, number)?;
        let (inode, _) = Inode::ref_from_prefix(&bytes).map_err(|_| damaged())?;
        let flags = inode.flags.get();
        let is_file = inode.mode.get() & inode_mode::TYPE == inode_mode::REGULAR;
        if !is_file || inode.links.get() == 0 || flags & inode_flag::INLINE_DATA != 0 {
            return Err(damaged());
        }
        let count = join(inode.size_low.get(), inode.size_high.get()) / u64::from(geometry.block_size);
        if count > MAX_BLOCKS.min(MAX_BYTES / u64::from(geometry.block_size)) {
            return Err(Unclear::because("its journal is larger than this program can follow"));
        }
        let mut places = Self { stretches: Vec::new(), end: 0 };
        if flags & inode_flag::EXTENTS == 0 {
            places.follow_numbers(geometry, blocks, &inode.places, count)?;
        } else {
            places.follow_extents(geometry, blocks, &inode.places, count, seed)?;
        }
        let in_order = places.in_order();
        let overlap = in_order.windows(2).any(|pair| pair[1].start < pair[0].end);
        if places.end < count || overlap { Err(damaged()) } else { Ok(places) }
    }

    /// The blocks of the file system that it lies in, from left to right.
    pub(super) fn in_order(&self) -> Vec<Range<u64>> {
        let ranges = self.stretches.iter().map(|stretch| stretch.physical..stretch.physical + stretch.count);
        let mut ranges: Vec<_> = ranges.collect();
        ranges.sort_unstable_by_key(|range| range.start);
        ranges
    }

    /// Blocks in all.
    pub(super) fn count(&self) -> u64 {
        self.end
    }

    /// Where a block of the journal lies, and how many that follow lie in a row with it, itself counted.
    pub(super) fn find(&self, logical: u64) -> Option<(u64, u64)> {
        let behind = self.stretches.partition_point(|stretch| stretch.logical <= logical);
        let stretch = self.stretches.get(behind.checked_sub(1)?)?;
        let into = logical - stretch.logical;
        (into < stretch.count).then(|| (stretch.physical + into, stretch.count - into))
    }

    /// Adds what comes next.
    fn push(&mut self, geometry: &Geometry, physical: u64, count: u64) -> Result<(), Unclear> {
        if count == 0 || !geometry.holds(physical, count) {
            return Err(damaged());
        }
        match self.stretches.last_mut().filter(|last| last.physical + last.count == physical) {
            Some(last) => last.count += count,
            None => self.stretches.push(Stretch { logical: self.end, physical, count }),
        }
        self.end += count;
        Ok(())
    }

    /// Twelve block numbers, and three of blocks of numbers.
    fn follow_numbers(
        &mut self,
        geometry: &Geometry,
        blocks: Blocks<'_>,
        root: &[u8],
        count: u64,
    ) -> Result<(), Unclear> {
        // What is still to be looked at, the next one last, with the number of blocks of numbers on the way to content.
        let numbers = |bytes: &[u8]| -> Vec<u64> {
            let words = bytes.chunks_exact(4).filter_map(|word| word.try_into().ok());
            words.map(|word| u64::from(u32::from_le_bytes(word))).collect()
        };
        let levels = std::iter::repeat_n(0, DIRECT_BLOCKS).chain(1..=3);
        let mut pending: Vec<(u64, u32)> = numbers(root).into_iter().zip(levels).collect();
        pending.reverse();
        while self.end < count {
            let (block, level) = pending.pop().ok_or_else(damaged)?;
            if level == 0 {
                self.push(geometry, block, 1)?;
                continue;
            }
            if !geometry.holds(block, 1) {
                return Err(damaged());
            }
            // Each such block leads to content at once or ends the loop, so there are not more of them than content.
            pending.extend(numbers(&blocks.one(block)?).into_iter().rev().map(|block| (block, level - 1)));
        }
        Ok(())
    }

    /// An extent tree.
    fn follow_extents(
        &mut self,
        geometry: &Geometry,
        blocks: Blocks<'_>,
        root: &[u8],
        count: u64,
        seed: u32,
    ) -> Result<(), Unclear> {
        let depth = node(root)?.0.depth.get();
        if depth > EXTENT_DEPTH_MAX {
            return Err(damaged());
        }
        let mut pending = Vec::new();
        self.follow_node(geometry, root, depth, &mut pending)?;
        let mut nodes = 0;
        while self.end < count {
            let (block, depth) = pending.pop().ok_or_else(damaged)?;
            nodes += 1;
            if nodes > MAX_NODES || !geometry.holds(block, 1) {
                return Err(damaged());
            }
            let bytes = blocks.one(block)?;
            check_node(geometry, &bytes, seed)?;
            self.follow_node(geometry, &bytes, depth, &mut pending)?;
        }
        Ok(())
    }

    /// Takes the extents of a leaf, or puts the nodes below an inner one on the list, the next one last.
    fn follow_node(
        &mut self,
        geometry: &Geometry,
        bytes: &[u8],
        depth: u16,
        pending: &mut Vec<(u64, u16)>,
    ) -> Result<(), Unclear> {
        let (header, entries) = node(bytes)?;
        if header.depth.get() != depth {
            return Err(damaged());
        }
        if let Some(below) = depth.checked_sub(1) {
            let nodes = entries.chunks_exact(EXTENT_ENTRY_LEN).rev();
            let nodes = nodes.filter_map(|entry| ExtentIndex::read_from_bytes(entry).ok());
            pending.extend(nodes.map(|entry| (join(entry.node_low.get(), entry.node_high.get().into()), below)));
            return Ok(());
        }
        for entry in entries.chunks_exact(EXTENT_ENTRY_LEN) {
            let extent = ExtentEntry::read_from_bytes(entry).map_err(|_| damaged())?;
            if u64::from(extent.logical.get()) != self.end || extent.count.get() > EXTENT_WRITTEN_MAX {
                return Err(damaged());
            }
            let physical = join(extent.start_low.get(), extent.start_high.get().into());
            self.push(geometry, physical, extent.count.get().into())?;
        }
        Ok(())
    }
}

fn damaged() -> Unclear {
    Unclear::because("its journal's inode is damaged")
}

/// The head of a node of an extent tree, and its entries.
fn node(bytes: &[u8]) -> Result<(ExtentHeader, &[u8]), Unclear> {
    let (header, rest) = ExtentHeader::read_from_prefix(bytes).map_err(|_| damaged())?;
    let (entries, most) = (usize::from(header.entries.get()), usize::from(header.entries_max.get()));
    if header.magic.get() != EXTENT_MAGIC || entries > most || most > rest.len() / EXTENT_ENTRY_LEN {
        return Err(damaged());
    }
    Ok((header, &rest[..entries * EXTENT_ENTRY_LEN]))
}

/// Checks the checksum behind the entries of a node that is a block.
fn check_node(geometry: &Geometry, bytes: &[u8], seed: u32) -> Result<(), Unclear> {
    if !matches!(geometry.checks, Checks::Everything { .. }) {
        return Ok(());
    }
    let (header, _) = node(bytes)?;
    let end = (1 + usize::from(header.entries_max.get())) * EXTENT_ENTRY_LEN;
    let stored = bytes.get(end..).and_then(|rest| rest.first_chunk());
    if stored == Some(&crc32c(seed, &bytes[..end]).to_le_bytes()) { Ok(()) } else { Err(damaged()) }
}

/// An inode, and what the checksums of its own and of its extent tree start from.
fn read_inode(geometry: &Geometry, blocks: Blocks<'_>, number: u32) -> Result<(Vec<u8>, u32), Unclear> {
    let index = number.checked_sub(1).ok_or_else(damaged)?;
    let group = u64::from(index / geometry.inodes_per_group);
    if group >= geometry.groups {
        return Err(damaged());
    }
    let per_block = geometry.descriptors_per_block();
    let descriptors = descriptors::read(geometry, blocks, group / per_block)?;
    let within = usize::try_from(group % per_block).map_err(|_| damaged())?;
    let descriptor = descriptors.get(within).copied().unwrap_or(Err("it has no descriptor"));
    let descriptor =
        descriptor.map_err(|why| Unclear::because(format!("group {group} holds its journal, and {why}")))?;
    let at = u64::from(index % geometry.inodes_per_group) * u64::from(geometry.inode_size);
    let block = blocks.one(descriptor.inode_table + at / u64::from(geometry.block_size))?;
    let start = usize::try_from(at % u64::from(geometry.block_size)).map_err(|_| damaged())?;
    let len = usize::try_from(geometry.inode_size).map_err(|_| damaged())?;
    let inode = block.get(start..).and_then(|rest| rest.get(..len)).ok_or_else(damaged)?.to_vec();
    let seed = check_inode(geometry, &inode, number)?;
    Ok((inode, seed))
}

/// Checks the checksum of an inode, where it has one.
fn check_inode(geometry: &Geometry, inode: &[u8], number: u32) -> Result<u32, Unclear> {
    let Checks::Everything { seed } = geometry.checks else { return Ok(0) };
    let (head, _) = Inode::ref_from_prefix(inode).map_err(|_| damaged())?;
    let seed = crc32c(crc32c(seed, &number.to_le_bytes()), &head.generation.get().to_le_bytes());
    let extra =
        inode.get(INODE_EXTRA_AT..).and_then(|rest| rest.first_chunk()).map_or(0, |len| u16::from_le_bytes(*len));
    let is_long = inode.len() > INODE_LEN && extra >= INODE_EXTRA_WITH_CHECKSUM;
    let mut bytes = inode.to_vec();
    let mut stored = [0; 4];
    stored[..2].copy_from_slice(&bytes[INODE_CHECKSUM_AT..INODE_CHECKSUM_AT + 2]);
    bytes[INODE_CHECKSUM_AT..INODE_CHECKSUM_AT + 2].fill(0);
    if is_long {
        stored[2..].copy_from_slice(&bytes[INODE_CHECKSUM_HIGH_AT..INODE_CHECKSUM_HIGH_AT + 2]);
        bytes[INODE_CHECKSUM_HIGH_AT..INODE_CHECKSUM_HIGH_AT + 2].fill(0);
    }
    let checksum = crc32c(seed, &bytes).to_le_bytes();
    let compared = if is_long { 4 } else { 2 };
    if checksum[..compared] == stored[..compared] { Ok(seed) } else { Err(damaged()) }
}
