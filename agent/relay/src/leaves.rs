//! Values of blocks below those that a stored tree has: a cache of fixed size, of which nothing is believed.

use failback_hashtree::{ChainingValue, LeafHasher, Node, Shape};
use failback_orchestrate::StoredTree;
use failback_units::{BlockIndex, BlockRange};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Blocks below a node of the lowest level that a tree has.
const BLOCKS: usize = 16;

/// A slot: the values of the blocks below one stored node.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawSlot {
    /// The first block, plus 1; 0 if nothing is here.
    first: U64,
    values: [[u8; 32]; BLOCKS],
}
const SLOT: u64 = size_of::<RawSlot>() as u64;

/// The cache. Whatever is found in it is compared with the value of the node above, so it needs no flush, and what was damaged, or
/// is of another state of the disk, is as if it were not there.
#[derive(Debug)]
pub(crate) struct Leaves {
    file: Option<File>,
    slots: u64,
}

impl Leaves {
    /// Opens or makes a cache of at most `bytes`. One that cannot be opened holds nothing.
    pub(crate) fn open(path: &Path, bytes: u64) -> Self {
        let slots = bytes / SLOT;
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = file.ok().filter(|file| slots > 0 && file.set_len(slots * SLOT).is_ok());
        Self { file, slots }
    }

    /// Where the blocks below a node have their place. Neighbours do not take each other's.
    fn place(&self, node: Node) -> Option<u64> {
        let group = node.first.get() / BLOCKS as u64;
        group.checked_rem(self.slots).map(|slot| slot * SLOT)
    }

    /// The values of the blocks below a node with this value.
    pub(crate) fn get(&self, node: Node, value: ChainingValue, hasher: &mut LeafHasher) -> Option<Vec<ChainingValue>> {
        let mut raw = RawSlot::new_zeroed();
        self.file.as_ref()?.read_exact_at(raw.as_mut_bytes(), self.place(node)?).ok()?;
        let count = usize::try_from(node.count().get()).ok().filter(|count| *count <= BLOCKS)?;
        if raw.first.get() != node.first.get().checked_add(1)? {
            return None;
        }
        let values: Vec<_> = raw.values[..count].iter().map(|value| ChainingValue(*value)).collect();
        (hasher.join(&values) == value).then_some(values)
    }

    /// Keeps the values of the blocks below a node, if it can.
    pub(crate) fn put(&self, node: Node, values: &[ChainingValue]) {
        let (Some(file), Some(place)) = (&self.file, self.place(node)) else { return };
        let Some(first) = node.first.get().checked_add(1) else { return };
        if values.len() > BLOCKS {
            return;
        }
        let mut raw = RawSlot::new_zeroed();
        raw.first = first.into();
        for (slot, value) in raw.values.iter_mut().zip(values) {
            *slot = value.0;
        }
        // A write that fails leaves something that does not fit.
        let _ = file.write_all_at(raw.as_bytes(), place);
    }
}

/// Brings the cache from the values of one state to those of the next while a delta is read.
pub(crate) struct Renewal<'a> {
    leaves: &'a Leaves,
    old: &'a StoredTree,
    result: Shape,
    hasher: LeafHasher,
    /// The first block of those that are being collected, and what they become.
    first: u64,
    found: [Option<ChainingValue>; BLOCKS],
}

impl<'a> Renewal<'a> {
    pub(crate) fn new(leaves: &'a Leaves, old: &'a StoredTree, result: Shape) -> Self {
        Self { leaves, old, result, hasher: LeafHasher::new(), first: 0, found: [None; BLOCKS] }
    }

    /// Takes in what some blocks become; `None` for zeroes.
    pub(crate) fn take(&mut self, blocks: BlockRange, values: Option<&[ChainingValue]>) {
        let (start, end) = (blocks.start().get(), blocks.end().get());
        let groups = BLOCKS as u64;
        let mut block = start;
        while block < end {
            let first = block / groups * groups;
            if first != self.first {
                self.flush();
                self.first = first;
            }
            if values.is_none() && block == first && end - block >= groups {
                // All zero: nobody needs a cache to know that. There may be very many of these.
                block = (end / groups * groups).max(block + groups);
                continue;
            }
            let value = match values {
                Some(values) => usize::try_from(block - start).ok().and_then(|at| values.get(at)).copied(),
                None => Some(self.hasher.zero_node(self.result, Node::leaf(BlockIndex::new(block)))),
            };
            if let Some(place) = usize::try_from(block - first).ok().and_then(|at| self.found.get_mut(at)) {
                *place = value;
            }
            block += 1;
        }
    }

    /// Writes what was collected, with what was known before of the blocks beside it.
    pub(crate) fn flush(&mut self) {
        let found = std::mem::replace(&mut self.found, [None; BLOCKS]);
        let whole = self.first.checked_add(BLOCKS as u64).is_some_and(|end| end <= self.result.blocks().get());
        if found.iter().all(Option::is_none) || !whole {
            return;
        }
        let first = BlockIndex::new(self.first);
        let before = match self.old.stored_above(first) {
            Ok(Some((node, value))) if node.count().get() == BLOCKS as u64 => {
                self.leaves.get(node, value, &mut self.hasher)
            }
            _ => None,
        };
        let values: Option<Vec<_>> = found
            .iter()
            .enumerate()
            .map(|(at, now)| now.or_else(|| before.as_ref().and_then(|before| before.get(at).copied())))
            .collect();
        if let Some(values) = values {
            self.leaves.put(Node { first, level: 4 }, &values);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use failback_units::{BlockSize, ByteCount};

    #[test]
    fn what_does_not_fit_is_not_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("leaves");
        let leaves = Leaves::open(&path, 10 * SLOT + 3);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 10 * SLOT);
        let mut hasher = LeafHasher::new();
        let shape = Shape::new(ByteCount::new(1 << 30).unwrap(), BlockSize::MIN);
        let values = |seed: u8, hasher: &mut LeafHasher| {
            let mut values = Vec::new();
            hasher.hash(shape, BlockIndex::new(32), &vec![seed; 16 * 4096], &mut values);
            let node = hasher.join(&values);
            (values, node)
        };
        let node = Node { first: BlockIndex::new(32), level: 4 };
        let ((one, above), (_, other)) = (values(1, &mut hasher), values(2, &mut hasher));
        assert!(leaves.get(node, above, &mut hasher).is_none());
        leaves.put(node, &one);
        assert_eq!(leaves.get(node, above, &mut hasher), Some(one.clone()));
        assert!(leaves.get(node, other, &mut hasher).is_none(), "of another state");
        let same_slot = Node { first: BlockIndex::new(32 + 160), level: 4 };
        assert!(leaves.get(same_slot, above, &mut hasher).is_none());
        // It is there when it is opened again, and a flipped bit takes it away.
        let again = Leaves::open(&path, 10 * SLOT);
        assert_eq!(again.get(node, above, &mut hasher), Some(one.clone()));
        let mut bytes = std::fs::read(&path).unwrap();
        let at = usize::try_from(2 * SLOT).unwrap() + 100;
        bytes[at] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(again.get(node, above, &mut hasher).is_none());
        leaves.put(same_slot, &one);
        assert!(again.get(node, above, &mut hasher).is_none(), "a slot has one owner");
        let empty = Leaves::open(&path, 0);
        empty.put(node, &one);
        assert!(empty.get(node, above, &mut hasher).is_none());
    }
}
