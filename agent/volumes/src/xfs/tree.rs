//! The tree of free space, one for each group: records of free extents in leaves, keys and pointers above them.
//!
//! It is read level by level, and each level from left to right. So no block can be met twice without being noticed (keys
//! must ascend), neighbours can be checked, and leaves can be read in large pieces.

use super::buffer::{Buffer, Metadata, TREE};
use super::layout::{BASIC_BLOCK, NULL_BLOCK, RawFree, RawTree, RawTreeIdentity, TREE_MAGIC_V4, TREE_MAGIC_V5};
use crate::{FreeMap, FreeMapBuilder, Unclear};
use zerocopy::{FromBytes, big_endian};

/// More levels than any such tree can have: Linux's limit for all of its trees.
const LEVELS_MAX: u32 = 9;

/// Blocks of one level that are followed. With 4 KiB blocks their leaves hold more than a hundred million extents.
const LEVEL_BLOCKS_MAX: usize = 1 << 20;

/// What a tree says.
pub(super) struct Tree {
    /// The free extents, in bytes of the volume.
    pub(super) map: FreeMap,
    /// Their blocks, and the longest of them.
    pub(super) blocks: u64,
    pub(super) longest: u32,
    /// The blocks of the tree itself.
    pub(super) own: Vec<u32>,
    /// Whether anything of it came from the log.
    pub(super) is_replayed: bool,
}

/// A pointer, and the first key of what it leads to where that is known.
#[derive(Clone, Copy)]
struct Pointer {
    block: u32,
    key: Option<u32>,
}

/// A walk through one tree.
struct Walk<'a> {
    metadata: &'a Metadata<'a>,
    group: u32,
    /// Blocks of the group.
    blocks: u32,
    /// Whether the block at hand is the root.
    is_root: bool,
    is_replayed: bool,
    below: Vec<Pointer>,
    builder: FreeMapBuilder,
    free: u64,
    longest: u32,
    /// Where the last extent or key ended.
    end: u32,
}

fn damaged(what: &str) -> Unclear {
    Unclear::because(format!("its tree of free space is damaged: {what}"))
}

/// Reads the tree of a group with this root and this many levels.
pub(super) fn walk(metadata: &Metadata<'_>, group: u32, root: u32, levels: u32) -> Result<Tree, Unclear> {
    if levels == 0 || levels > LEVELS_MAX {
        return Err(damaged("it cannot have the levels that it says"));
    }
    let mut walk = Walk {
        metadata,
        group,
        blocks: metadata.superblock.blocks_of(group),
        is_root: true,
        is_replayed: false,
        below: Vec::new(),
        builder: FreeMapBuilder::new(),
        free: 0,
        longest: 0,
        end: 0,
    };
    let mut pointers = vec![Pointer { block: root, key: None }];
    let mut own = Vec::new();
    for level in (0..levels).rev() {
        own.extend(pointers.iter().map(|pointer| pointer.block));
        walk.level(level, &pointers)?;
        walk.is_root = false;
        pointers = std::mem::take(&mut walk.below);
    }
    Ok(Tree {
        map: walk.builder.finish(),
        blocks: walk.free,
        longest: walk.longest,
        own,
        is_replayed: walk.is_replayed,
    })
}

impl Walk<'_> {
    /// All blocks of a level.
    fn level(&mut self, level: u32, pointers: &[Pointer]) -> Result<(), Unclear> {
        self.end = 0;
        let mut index = 0_usize;
        for batch in pointers.chunks(self.metadata.batch()) {
            let blocks: Vec<u32> = batch.iter().map(|pointer| pointer.block).collect();
            if let Some(strange) = blocks.iter().find(|block| **block >= self.blocks) {
                return Err(damaged(&format!("it leads to block {strange}, which is none of its group")));
            }
            for (pointer, buffer) in batch.iter().zip(self.metadata.blocks(&TREE, self.group, &blocks)?) {
                let neighbour = |index: Option<usize>| index.and_then(|index| pointers.get(index)).map(|it| it.block);
                let beside = [neighbour(index.checked_sub(1)), neighbour(index.checked_add(1))];
                self.block(level, *pointer, beside, &buffer)?;
                index += 1;
            }
        }
        Ok(())
    }

    /// One block, with its neighbours on the left and right as the level above tells them.
    fn block(
        &mut self,
        level: u32,
        pointer: Pointer,
        beside: [Option<u32>; 2],
        buffer: &Buffer,
    ) -> Result<(), Unclear> {
        self.is_replayed |= buffer.is_replayed();
        let (raw, rest) = RawTree::ref_from_prefix(&buffer.bytes).map_err(|_| damaged("a block is too short"))?;
        let checked = self.metadata.superblock.checked;
        let magic = if checked { TREE_MAGIC_V5 } else { TREE_MAGIC_V4 };
        if raw.magic.get() != magic || u32::from(raw.level.get()) != level {
            return Err(damaged(&format!("block {} is not of it, or of another level", pointer.block)));
        }
        if [raw.left.get(), raw.right.get()] != beside.map(|block| block.unwrap_or(NULL_BLOCK)) {
            return Err(damaged(&format!("block {} has other neighbours than it should", pointer.block)));
        }
        let rest = if checked { self.identity(pointer.block, rest)? } else { rest };
        let header = buffer.bytes.len() - rest.len();
        let count = usize::from(raw.count.get());
        if level == 0 { self.leaf(pointer, count, header, buffer) } else { self.node(pointer, count, header, buffer) }
    }

    /// Whether the block is where it was written to, and this file system's.
    fn identity<'b>(&self, block: u32, bytes: &'b [u8]) -> Result<&'b [u8], Unclear> {
        let superblock = self.metadata.superblock;
        let (raw, rest) = RawTreeIdentity::ref_from_prefix(bytes).map_err(|_| damaged("a block is too short"))?;
        let address = superblock.byte_of(self.group, block) / u64::from(BASIC_BLOCK);
        let is_right = raw.address.get() == address && raw.owner.get() == self.group;
        if is_right && raw.uuid == superblock.metadata_uuid {
            Ok(rest)
        } else {
            Err(damaged(&format!("block {block} belongs elsewhere")))
        }
    }

    /// The extents of a leaf.
    fn leaf(&mut self, pointer: Pointer, count: usize, header: usize, buffer: &Buffer) -> Result<(), Unclear> {
        let records = items::<RawFree>(&buffer.bytes, header, count)?;
        self.check_fill(pointer, count, records.first().map(|record| record.start.get()))?;
        let end = header + size_of_val(records);
        if !buffer.vouches_for(0..end) {
            return Err(damaged(&format!("the checksum of block {} is wrong", pointer.block)));
        }
        for record in records {
            let (start, count) = (record.start.get(), record.count.get());
            let end = start.checked_add(count).filter(|end| count > 0 && *end <= self.blocks);
            let Some(end) = end.filter(|_| start >= self.end) else {
                return Err(damaged("its extents overlap, go back, or lie outside of the group"));
            };
            self.builder.push(self.metadata.superblock.range_of(self.group, &(start..end)));
            self.free += u64::from(count);
            self.longest = self.longest.max(count);
            self.end = end;
        }
        Ok(())
    }

    /// The pointers of a block above the leaves.
    fn node(&mut self, pointer: Pointer, count: usize, header: usize, buffer: &Buffer) -> Result<(), Unclear> {
        let room = (buffer.bytes.len() - header) / (size_of::<RawFree>() + size_of::<u32>());
        if count > room {
            return Err(damaged("a block says that it has more than fits"));
        }
        let keys = items::<RawFree>(&buffer.bytes, header, count)?;
        let pointers_at = header + room * size_of::<RawFree>();
        let pointers = items::<big_endian::U32>(&buffer.bytes, pointers_at, count)?;
        self.check_fill(pointer, count.max(1), keys.first().map(|key| key.start.get()))?;
        let known = buffer.vouches_for(0..header + size_of_val(keys))
            && buffer.vouches_for(pointers_at..pointers_at + size_of_val(pointers));
        if !known || count == 0 {
            return Err(damaged(&format!("the checksum of block {} is wrong", pointer.block)));
        }
        if self.below.len() + count > LEVEL_BLOCKS_MAX {
            return Err(damaged("it is larger than any that is read"));
        }
        for (key, block) in keys.iter().zip(pointers) {
            let start = key.start.get();
            if start < self.end || start >= self.blocks {
                return Err(damaged("its keys do not ascend"));
            }
            self.end = start + 1;
            self.below.push(Pointer { block: block.get(), key: Some(start) });
        }
        Ok(())
    }

    /// Only a root that is a leaf may be empty; any other block begins with the key that leads to it.
    fn check_fill(&self, pointer: Pointer, count: usize, first: Option<u32>) -> Result<(), Unclear> {
        let fits = if self.is_root { true } else { count > 0 && first == pointer.key };
        if fits { Ok(()) } else { Err(damaged(&format!("block {} is not what leads to it", pointer.block))) }
    }
}

/// `count` structures from `at` on.
fn items<T: FromBytes + zerocopy::Immutable + zerocopy::KnownLayout + zerocopy::Unaligned>(
    bytes: &[u8],
    at: usize,
    count: usize,
) -> Result<&[T], Unclear> {
    let found = bytes.get(at..).and_then(|rest| <[T]>::ref_from_prefix_with_elems(rest, count).ok());
    found.map(|(items, _)| items).ok_or_else(|| damaged("a block says that it has more than fits"))
}
