//! One allocation group: its header, its free list, its tree of free space, and whether they agree.

use super::buffer::{FREE_LIST, GROUP, Metadata};
use super::layout::{FREE_LIST_MAGIC, GROUP_HEAD, GROUP_MAGIC, NULL_BLOCK, RawFreeList, RawGroup, header_sector};
use super::tree::{self, Tree};
use crate::{FreeMap, FreeMapBuilder, Unclear};
use failback_units::ByteRange;
use zerocopy::{FromBytes, big_endian};

/// A group's free space, and whether anything of it came from the log.
pub(super) struct Group {
    pub(super) map: FreeMap,
    pub(super) is_replayed: bool,
}

/// Reads a group; the error says what is wrong with it.
pub(super) fn read(metadata: &Metadata<'_>, group: u32) -> Result<Group, Unclear> {
    let buffer = metadata.sector(&GROUP, group, header_sector::GROUP)?;
    let (header, _) = RawGroup::ref_from_prefix(&buffer.bytes).map_err(|_| damaged("is too short"))?;
    if !buffer.vouches_for(0..GROUP_HEAD) {
        return Err(damaged("has a wrong checksum"));
    }
    check_header(metadata, group, header)?;
    let tree = tree::walk(metadata, group, header.roots[0].get(), header.levels[0].get())?;
    if tree.blocks != u64::from(header.free.get()) || tree.longest != header.longest.get() {
        return Err(damaged("counts other free blocks than its tree has"));
    }
    let (list, list_replayed) = free_list(metadata, group, header)?;
    if overlaps(&tree.map, in_use(metadata, group, header, &tree, &list)) {
        return Err(damaged("has a tree that calls metadata free"));
    }
    Ok(Group { map: tree.map, is_replayed: buffer.is_replayed() || list_replayed || tree.is_replayed })
}

fn damaged(what: &str) -> Unclear {
    Unclear::because(format!("its header {what}"))
}

fn check_header(metadata: &Metadata<'_>, group: u32, header: &RawGroup) -> Result<(), Unclear> {
    let superblock = metadata.superblock;
    if header.magic.get() != GROUP_MAGIC || header.version.get() != 1 || header.number.get() != group {
        return Err(damaged("is none"));
    }
    if superblock.checked && header.uuid != superblock.metadata_uuid {
        return Err(damaged("belongs to another file system"));
    }
    if header.blocks.get() != superblock.blocks_of(group) {
        return Err(damaged("has another length than the group"));
    }
    Ok(())
}

/// The blocks that are set aside for the group's trees. They are in use: the tree of free space does not have them.
fn free_list(metadata: &Metadata<'_>, group: u32, header: &RawGroup) -> Result<(Vec<u32>, bool), Unclear> {
    let buffer = metadata.sector(&FREE_LIST, group, header_sector::FREE_LIST)?;
    let checked = metadata.superblock.checked;
    let start = if checked { size_of::<RawFreeList>() } else { 0 };
    if checked {
        let (raw, _) = RawFreeList::ref_from_prefix(&buffer.bytes).map_err(|_| damaged("has no free list"))?;
        let is_own = raw.uuid == metadata.superblock.metadata_uuid && raw.number.get() == group;
        if raw.magic.get() != FREE_LIST_MAGIC || !is_own || !buffer.vouches_for(0..buffer.bytes.len()) {
            return Err(damaged("has a damaged free list"));
        }
    }
    let (entries, _) = <[big_endian::U32]>::ref_from_prefix_with_elems(
        &buffer.bytes[start..],
        (buffer.bytes.len() - start) / size_of::<u32>(),
    )
    .map_err(|_| damaged("has no free list"))?;
    let size = u32::try_from(entries.len()).map_err(|_| damaged("has no free list"))?;
    let (first, last, count) = (header.list_first.get(), header.list_last.get(), header.list_count.get());
    // Old kernels disagreed about the length of the ring by one; new ones empty a list that does not fit. Then its blocks
    // are in nobody's hands, and still not free.
    let fits = first < size && last < size && count <= size;
    let length = if last >= first { last - first + 1 } else { size.saturating_sub(first) + last + 1 };
    if !fits || count == 0 || count != length {
        return Ok((Vec::new(), buffer.is_replayed()));
    }
    let numbers = (0..count).map(|index| (first + index) % size);
    let blocks: Vec<u32> =
        numbers.filter_map(|at| entries.get(usize::try_from(at).ok()?)).map(|entry| entry.get()).collect();
    if blocks.iter().any(|block| *block >= metadata.superblock.blocks_of(group)) {
        return Err(damaged("has a free list with blocks that are none"));
    }
    Ok((blocks, buffer.is_replayed()))
}

/// What is certainly in use, as a check of the tree: headers, the log, the trees' roots and blocks, the free list.
fn in_use(metadata: &Metadata<'_>, group: u32, header: &RawGroup, tree: &Tree, list: &[u32]) -> Vec<ByteRange> {
    let superblock = metadata.superblock;
    let blocks = superblock.blocks_of(group);
    let headers = header_sector::COUNT * u64::from(superblock.sector_size);
    let headers = u32::try_from(headers.div_ceil(u64::from(superblock.block_size))).unwrap_or(blocks);
    let roots = header.roots.iter().chain([&header.reference_root]).map(|root| root.get());
    let single = roots.filter(|root| *root != 0 && *root != NULL_BLOCK);
    let single = single.chain(tree.own.iter().copied()).chain(list.iter().copied()).filter(|block| *block < blocks);
    let mut used: Vec<_> = single.map(|block| block..block + 1).collect();
    used.push(0..headers.min(blocks));
    if superblock.log.0 == group {
        used.push(superblock.log.1.clone());
    }
    used.sort_by_key(|range| range.start);
    used.iter().map(|range| superblock.range_of(group, range)).collect()
}

/// Whether any of these ranges, which come in the order of their starts, has a byte in common with a map.
fn overlaps(map: &FreeMap, ranges: Vec<ByteRange>) -> bool {
    let mut builder = FreeMapBuilder::new();
    for range in ranges {
        let start = range.start().max(builder.end());
        builder.push(ByteRange::between(start, range.end().max(start)).expect("its end is not before its start"));
    }
    !builder.finish().intersection(map).is_empty()
}
