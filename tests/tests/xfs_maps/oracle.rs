//! What `xfs_db` and partclone say of a file system that was unmounted.

use failback_tests::lab::tool;
use failback_tests::proof::{free_map, partclone_free};
use failback_volumes::FreeMap;
use std::collections::BTreeSet;
use std::path::Path;

/// How a file system is laid out, as `xfs_db` tells it.
pub(crate) struct Shape {
    pub(crate) block_size: u64,
    pub(crate) group_blocks: u64,
    pub(crate) groups: u64,
}

/// Runs commands of `xfs_db` on an image, which it only reads.
pub(crate) fn database(image: &Path, commands: &[String]) -> String {
    let mut arguments = vec!["-r"];
    for command in commands {
        arguments.extend(["-c", command]);
    }
    arguments.push(image.to_str().unwrap());
    tool("xfs_db", &arguments)
}

pub(crate) fn shape(image: &Path) -> Shape {
    let text = database(image, &["sb 0".into(), "print blocksize agblocks agcount".into()]);
    let mut numbers = text.lines().map(|line| line.split('=').nth(1).unwrap().trim().parse().unwrap());
    let mut next = || numbers.next().unwrap();
    Shape { block_size: next(), group_blocks: next(), groups: next() }
}

/// The blocks in the groups' free lists, counted from the start of the volume.
fn listed(image: &Path, shape: &Shape) -> BTreeSet<u64> {
    let mut commands = Vec::new();
    for group in 0..shape.groups {
        commands.extend([format!("agf {group}"), "print flfirst fllast flcount".into()]);
        commands.extend([format!("agfl {group}"), "print bno".into()]);
    }
    let text = database(image, &commands);
    let mut lines = text.lines();
    let mut blocks = BTreeSet::new();
    for group in 0..shape.groups {
        let mut number = || lines.next().unwrap().split('=').nth(1).unwrap().trim().parse::<usize>().unwrap();
        let (first, last, count) = (number(), number(), number());
        let entries = lines.next().unwrap().split('=').nth(1).unwrap();
        let entries: Vec<Option<u64>> =
            entries.split_whitespace().map(|entry| entry.split(':').nth(1).unwrap().parse().ok()).collect();
        let mut at = first;
        for index in 0..count {
            blocks.insert(group * shape.group_blocks + entries[at].unwrap());
            assert!(at != last || index + 1 == count);
            at = (at + 1) % entries.len();
        }
    }
    blocks
}

/// The free space on the disk as it is, whatever is in the log: what `xfs_db` finds without the free lists, which it counts
/// as free.
pub(crate) fn on_disk(image: &Path) -> FreeMap {
    let shape = shape(image);
    let listed = listed(image, &shape);
    let text = database(image, &["freesp -d".into()]);
    let extents = text.lines().filter_map(|line| {
        let numbers: Option<Vec<u64>> = line.split_whitespace().map(|word| word.parse().ok()).collect();
        match numbers?[..] {
            [group, block, count] => Some((group * shape.group_blocks + block, count)),
            _ => None,
        }
    });
    without(extents.map(|(start, count)| start..start + count), &listed, shape.block_size)
}

/// The same as partclone sees it.
pub(crate) fn partclone(image: &Path) -> FreeMap {
    let shape = shape(image);
    let size = shape.block_size;
    let free = partclone_free("partclone.xfs", image).into_iter();
    let inside = free.filter(|range| range.start < shape.groups * shape.group_blocks * size);
    without(inside.map(|range| range.start / size..range.end / size), &listed(image, &shape), size)
}

/// A map of these blocks, in any order, but for some.
fn without(free: impl Iterator<Item = std::ops::Range<u64>>, but: &BTreeSet<u64>, block_size: u64) -> FreeMap {
    let mut pieces = Vec::new();
    for range in free {
        let mut start = range.start;
        for taken in but.range(range.clone()) {
            pieces.push(start..*taken);
            start = taken + 1;
        }
        pieces.push(start..range.end);
    }
    pieces.retain(|range| !range.is_empty());
    pieces.sort_by_key(|range| range.start);
    free_map(pieces.into_iter().map(|range| range.start * block_size..range.end * block_size))
}
