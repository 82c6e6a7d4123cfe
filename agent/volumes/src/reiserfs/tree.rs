//! The top of the tree: proof that this file system is what fills its blocks.
//!
//! Superblock, bitmaps and journal stand at the start and in few other blocks. Something else that took the volume later may
//! have left them alone and have filled the rest. The root and its first children are then no nodes any more. They are
//! checked as Linux checks every node that it reads (`is_tree_node` in `stree.c`), as they will be after the replay.

use super::layout::{Child, ItemHead, KEY, LEAF_LEVEL, LEVEL_MAX, NodeHeader};
use super::replay::Changes;
use super::unreadable;
use crate::volume::bytes;
use crate::{Unclear, Volume};
use zerocopy::FromBytes;

/// How many of the root's children are looked at.
const CHILDREN: usize = 16;

/// The root of the tree and the first of its children: blocks that are nodes, and so must be in use.
///
/// # Errors
///
/// When one of them cannot be read, lies where no node can be, or is none of its level.
pub(super) fn top(volume: &dyn Volume, changes: &Changes) -> Result<Vec<u32>, Unclear> {
    let geometry = &changes.geometry;
    let height = geometry.tree_height();
    let level = height.checked_sub(1).filter(|level| (LEAF_LEVEL..=LEVEL_MAX).contains(level));
    let level = level.ok_or_else(|| Unclear::because(format!("its tree cannot have a height of {height}")))?;
    let root = geometry.root_block();
    let mut blocks = vec![root];
    for child in node(volume, changes, root, level)? {
        // Only a node above the leaves has children.
        node(volume, changes, child, level - 1)?;
        blocks.push(child);
    }
    Ok(blocks)
}

/// The first children of a node of this level; none of a leaf.
fn node(volume: &dyn Volume, changes: &Changes, block: u32, level: u16) -> Result<Vec<u32>, Unclear> {
    let geometry = &changes.geometry;
    if !geometry.is_for_tree(block) {
        return Err(Unclear::because(format!("a block of its tree cannot be block {block}")));
    }
    let newest = changes.of_block(block).unwrap_or(block);
    let read = bytes(volume, geometry.at(newest), geometry.block_len())
        .map_err(|error| unreadable("the top of its tree", error))?;
    let children = if level == LEAF_LEVEL { is_leaf(&read).then(Vec::new) } else { children(&read, level) };
    children.ok_or_else(|| {
        Unclear::because(format!(
            "block {block} is not the node of its tree that it should be: the file system is damaged, or something \
             else has overwritten it"
        ))
    })
}

/// The header of a block of the tree, and how many items or keys it has, if it is of this level.
fn header(block: &[u8], level: u16) -> Option<(NodeHeader, usize, &[u8])> {
    let (header, rest) = NodeHeader::read_from_prefix(block).ok()?;
    (header.level.get() == level).then(|| (header, header.items.get().into(), rest))
}

/// Whether this is a leaf: its items lie end to end from the end of the block, and what is left is as large as it says.
fn is_leaf(block: &[u8]) -> bool {
    let Some((header, count, rest)) = header(block, LEAF_LEVEL) else { return false };
    let heads_end = size_of::<NodeHeader>() + count * size_of::<ItemHead>();
    if count == 0 || heads_end > block.len() {
        return false;
    }
    let mut start = block.len();
    for head in rest.chunks_exact(size_of::<ItemHead>()).take(count) {
        let head = ItemHead::read_from_bytes(head).expect("as many bytes as it has");
        let (at, len) = (usize::from(head.at.get()), usize::from(head.len.get()));
        if len == 0 || at < heads_end || at.checked_add(len) != Some(start) {
            return false;
        }
        start = at;
    }
    start - heads_end == usize::from(header.free_space.get())
}

/// The first children of an internal node; `None` if it is none of this level.
fn children(block: &[u8], level: u16) -> Option<Vec<u32>> {
    let (header, keys, rest) = header(block, level)?;
    let end = size_of::<NodeHeader>() + keys * KEY + (keys + 1) * size_of::<Child>();
    if end.checked_add(header.free_space.get().into()) != Some(block.len()) {
        return None;
    }
    let all = rest.get(keys * KEY..)?.chunks_exact(size_of::<Child>()).take((keys + 1).min(CHILDREN));
    Some(all.map(|child| Child::read_from_bytes(child).expect("as many bytes as it has").block.get()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: usize = 512;

    /// Numbers of two bytes at the start, and a block filled up with zeroes.
    fn block(header: [u16; 3], rest: &[u8]) -> Vec<u8> {
        let mut bytes: Vec<u8> = header.into_iter().flat_map(u16::to_le_bytes).collect();
        bytes.resize(size_of::<NodeHeader>(), 0);
        bytes.extend(rest);
        bytes.resize(BLOCK, 0);
        bytes
    }

    /// A leaf with items of these lengths and places.
    fn leaf(header: [u16; 3], items: &[[u16; 2]]) -> Vec<u8> {
        let mut heads = Vec::new();
        for [len, at] in items {
            heads.extend([0; KEY + 2]);
            heads.extend([len.to_le_bytes(), at.to_le_bytes(), [0; 2]].as_flattened());
        }
        block(header, &heads)
    }

    #[test]
    fn a_leaf_is_told_from_what_is_none() {
        // Header and two heads take 72 bytes.
        assert!(is_leaf(&leaf([1, 2, 348], &[[44, 468], [48, 420]])));
        assert!(is_leaf(&leaf([1, 1, 0], &[[464, 48]])), "it may be full");
        for (what, block) in [
            ("an internal node's level", leaf([2, 2, 348], &[[44, 468], [48, 420]])),
            ("no level", leaf([0, 2, 348], &[[44, 468], [48, 420]])),
            ("no items", leaf([1, 0, 488], &[])),
            ("more items than there is room for", leaf([1, 21, 0], &[])),
            ("as many as a number counts", leaf([1, u16::MAX, 0], &[])),
            ("other free space", leaf([1, 2, 347], &[[44, 468], [48, 420]])),
            ("a gap at the end", leaf([1, 2, 347], &[[44, 467], [48, 419]])),
            ("a gap between items", leaf([1, 2, 347], &[[44, 468], [48, 419]])),
            ("items one over the other", leaf([1, 2, 349], &[[44, 468], [48, 421]])),
            ("an item of nothing", leaf([1, 2, 396], &[[44, 468], [0, 468]])),
            ("an item over the heads", leaf([1, 1, 0], &[[465, 47]])),
            ("an item behind the end", leaf([1, 1, 0], &[[u16::MAX, u16::MAX]])),
        ] {
            assert!(!is_leaf(&block), "{what}");
        }
    }

    #[test]
    fn an_internal_node_is_told_from_what_is_none() {
        let with = |level: u16, keys: u16, free: u16| {
            let mut rest = vec![0xEE; usize::from(keys) * KEY];
            (0..=u32::from(keys)).for_each(|number| rest.extend([(100 + number).to_le_bytes(), [0xEE; 4]].concat()));
            children(&block([level, keys, free], &rest)[..BLOCK], 3)
        };
        assert_eq!(with(3, 0, 480), Some(vec![100]));
        assert_eq!(with(3, 2, 432), Some(vec![100, 101, 102]));
        assert_eq!(with(3, 20, 0), Some((100..116).collect()), "only the first are looked at");
        for (level, keys, free) in [(2, 2, 432), (4, 2, 432), (3, 2, 431), (3, 21, 0), (3, u16::MAX, 0)] {
            assert_eq!(with(level, keys, free), None, "{level} {keys} {free}");
        }
    }
}
