//! The tree of a target, stored beside its recovery points, so that a source can be compared with it over a slow link.

mod base;
mod layout;
mod writer;

pub use base::LocalBase;
pub use writer::{advance_tree, advance_tree_seen, build_tree, build_tree_of_disk, store_tree};

use crate::{JobError, NodeRun, Outcome};
use failback_delta::{Coverage, FreeBlocks};
use failback_hashtree::{ChainingValue, Cover, Frontier, LeafHasher, Node, Root, RootBuilder, Shape};
use failback_units::{BlockCount, BlockIndex, BlockRange, BlockSize, ByteCount};
use layout::{HEADER_LEN, MAGIC, RUN_LEN, RUNS_MAX, RawFreeRun, RawTree, VALUE_LEN, VERSION};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// The level of the lowest nodes whose values are stored: 64 KiB in blocks of 4 KiB, VMDK's usual grain.
pub(crate) const KEPT_LEVEL: u8 = 4;
/// Values that are read at a time: 128 KiB.
const VALUES_AT_ONCE: u64 = 4096;

/// Why a stored tree cannot be used. It can always be made anew.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The file cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is not what it should be.
    #[error("the stored tree {} is damaged: {why}; remove it, and it is made anew from the disk", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
}

impl TreeError {
    /// What this ending means for whoever called.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Io { .. } => Outcome::Io,
            Self::Damaged { .. } => Outcome::Damaged,
        }
    }
}

/// A stored tree that was read to its end and is what it says.
#[derive(Debug)]
pub struct StoredTree {
    file: File,
    path: PathBuf,
    shape: Shape,
    kept: u8,
    free: FreeBlocks,
    root: Root,
    /// Where the values start in the file.
    values_at: u64,
}

/// The level of the lowest nodes of a disk whose values are stored.
pub(crate) fn kept_level(shape: Shape) -> u8 {
    KEPT_LEVEL.min(shape.top_level())
}

/// The nodes of a disk whose values are stored.
fn stored_nodes(shape: Shape) -> Cover {
    Cover::new(BlockRange::between(BlockIndex::ZERO, shape.blocks().as_end()).unwrap_or_default(), kept_level(shape))
}

impl StoredTree {
    /// Opens a tree and proves it: its header and its free runs by their hashes, its values by the root that follows from them.
    ///
    /// That the disk still has this root is not proven by this.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or is no whole tree of this version.
    pub fn open(path: &Path) -> Result<Self, TreeError> {
        let failed = |source| TreeError::Io { action: "read", path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        Self::read(file, len, path).map_err(|error| match error {
            Failure::Io(source) => failed(source),
            Failure::Damaged(why) => TreeError::Damaged { path: path.to_owned(), why },
        })
    }

    fn read(file: File, len: u64, path: &Path) -> Result<Self, Failure> {
        let mut raw = RawTree::new_zeroed();
        if len < u64::from(HEADER_LEN) {
            return Err(Failure::Damaged("it is cut off"));
        }
        file.read_exact_at(raw.as_mut_bytes(), 0)?;
        let (shape, run_count) = check_header(&raw)?;
        let value_count = stored_nodes(shape).len();
        let values_at = u64::from(HEADER_LEN) + run_count * RUN_LEN;
        let whole = value_count.checked_mul(VALUE_LEN).and_then(|values| values.checked_add(values_at));
        if raw.value_count.get() != value_count || whole != Some(len) {
            return Err(Failure::Damaged("it is longer or shorter than it says"));
        }
        let free = read_runs(&file, &raw, run_count, shape)?;
        let (kept, root) = (raw.kept_level, Root(raw.root));
        let tree = Self { file, path: path.to_owned(), shape, kept, free, root, values_at };
        if tree.root_of_values()? == root {
            Ok(tree)
        } else {
            Err(Failure::Damaged("its values do not lead to its root"))
        }
    }

    /// The size of the disk, and its blocks.
    #[must_use]
    pub const fn shape(&self) -> Shape {
        self.shape
    }

    /// The root of the disk, free blocks as zeroes.
    #[must_use]
    pub const fn root(&self) -> Root {
        self.root
    }

    /// The free blocks.
    #[must_use]
    pub const fn free(&self) -> &FreeBlocks {
        &self.free
    }

    /// Which bytes of the disk count.
    #[must_use]
    pub fn coverage(&self) -> Coverage {
        self.free.coverage()
    }

    /// Whether these are nodes of this tree.
    ///
    /// # Errors
    ///
    /// When they are not.
    pub fn check(&self, run: &NodeRun) -> Result<(), JobError> {
        let level_is_there = run.level <= self.shape.top_level();
        let aligned = level_is_there && run.first.get().is_multiple_of(1 << run.level);
        let end = self.shape.blocks().as_end();
        if !aligned || run.count == 0 || run.end().is_none_or(|behind| behind > end) {
            let why = format!("no nodes of level {} begin at block {}", run.level, run.first.get());
            return Err(JobError::Refused(why));
        }
        Ok(())
    }

    /// The values of nodes that were [checked](Self::check), if all of them stand here or follow from those that do.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn values_of(&self, hasher: &mut LeafHasher, run: &NodeRun) -> Result<Option<Vec<ChainingValue>>, TreeError> {
        if !run.nodes().all(|node| self.holds(node)) {
            return Ok(None);
        }
        run.nodes().map(|node| self.value_of(hasher, node)).collect::<Result<_, _>>().map(Some)
    }

    /// The lowest node above `block` whose value is stored, and that value. `None` behind the disk's end.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn stored_above(&self, block: BlockIndex) -> Result<Option<(Node, ChainingValue)>, TreeError> {
        let end = self.shape.blocks().as_end();
        if block >= end {
            return Ok(None);
        }
        let first = block.get() >> self.kept << self.kept;
        let ragged = range(first, end.min(BlockIndex::new(first.saturating_add(1 << self.kept))));
        let mut nodes = Cover::new(ragged, self.kept);
        let Some(node) = nodes.find(|node| node.end().is_some_and(|end| block < end)) else { return Ok(None) };
        Ok(Some((node, self.stored(self.place(node.first), 1)?[0])))
    }

    /// Whether the value of a node is here: it stands here, or follows from those that do.
    fn holds(&self, node: Node) -> bool {
        let end = self.shape.blocks().as_end();
        let Some(behind) = node.end().filter(|behind| *behind <= end) else { return false };
        // Nodes of lower levels stand only where the disk ends.
        let ragged = end.get() >> self.kept << self.kept;
        node.level >= self.kept
            || (node.first.get() >= ragged
                && Cover::new(range(ragged, end), self.kept).any(|tail| tail == node)
                && behind <= end)
    }

    /// The value of a node that is [held](Self::holds).
    fn value_of(&self, hasher: &mut LeafHasher, node: Node) -> Result<ChainingValue, TreeError> {
        let place = self.place(node.first);
        if node.level <= self.kept {
            return Ok(self.stored(place, 1)?[0]);
        }
        let mut joined = Frontier::new(node.level);
        let (mut left, mut place, mut block) = (1_u64 << (node.level - self.kept), place, node.first);
        while left > 0 {
            let count = left.min(VALUES_AT_ONCE);
            let values = self.stored(place, count)?;
            let level = self.kept + u8::try_from(count.ilog2()).unwrap_or(0);
            joined.push(Node { first: block, level }, hasher.join(&values));
            block = block.checked_add(BlockCount::new(count << self.kept)).unwrap_or(block);
            (left, place) = (left - count, place + count);
        }
        Ok(joined.nodes()[0].1)
    }

    /// The number of the stored value that begins at `block`.
    fn place(&self, block: BlockIndex) -> u64 {
        let full = self.shape.blocks().get() >> self.kept;
        let place = block.get() >> self.kept;
        if place < full {
            return place;
        }
        let ragged = full << self.kept;
        full + Cover::new(range(ragged, block), self.kept).len()
    }

    /// Stored values from number `place` on.
    fn stored(&self, place: u64, count: u64) -> Result<Vec<ChainingValue>, TreeError> {
        let at = self.values_at + place * VALUE_LEN;
        let mut bytes = vec![0; usize::try_from(count * VALUE_LEN).expect("a few values fit in memory")];
        let failed = |source| TreeError::Io { action: "read", path: self.path.clone(), source };
        self.file.read_exact_at(&mut bytes, at).map_err(failed)?;
        let (values, _) = bytes.as_chunks::<32>();
        Ok(values.iter().map(|value| ChainingValue(*value)).collect())
    }

    fn root_of_values(&self) -> Result<Root, Failure> {
        let mut builder = RootBuilder::new(self.shape);
        let mut hasher = LeafHasher::new();
        let mut nodes = stored_nodes(self.shape);
        let mut place = 0;
        while !nodes.is_empty() {
            let count = nodes.len().min(VALUES_AT_ONCE);
            let values = self.stored(place, count).map_err(|error| match error {
                TreeError::Io { source, .. } => Failure::Io(source),
                TreeError::Damaged { why, .. } => Failure::Damaged(why),
            })?;
            place += count;
            // A full piece of nodes of one level is joined many side by side.
            let level = self.kept + u8::try_from(VALUES_AT_ONCE.ilog2()).unwrap_or(0);
            let first = builder.next();
            let full = count == VALUES_AT_ONCE && place <= self.shape.blocks().get() >> self.kept;
            let mut named = nodes.by_ref().take(values.len());
            if full && level <= self.shape.top_level() {
                named.by_ref().for_each(drop);
                builder.push(Node { first, level }, hasher.join(&values));
            } else {
                named.zip(values).for_each(|(node, value)| builder.push(node, value));
            }
        }
        Ok(builder.finish().expect("every block is covered"))
    }
}

enum Failure {
    Io(io::Error),
    Damaged(&'static str),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn check_header(raw: &RawTree) -> Result<(Shape, u64), Failure> {
    if raw.magic != MAGIC || raw.version.get() != VERSION {
        return Err(Failure::Damaged("it is none, or of another version"));
    }
    if raw.digest() != raw.hash || raw.header_len.get() != HEADER_LEN {
        return Err(Failure::Damaged("the hash of its header does not fit"));
    }
    let block_size = BlockSize::from_shift(raw.block_shift).ok_or(Failure::Damaged("no such block size"))?;
    let size = ByteCount::new(raw.size.get()).ok_or(Failure::Damaged("no disk is so large"))?;
    let shape = Shape::new(size, block_size);
    let known = raw.flags.get() == 0 && raw.reserved == [0; 6] && raw.kept_level == kept_level(shape);
    if !known || raw.run_count.get() > RUNS_MAX {
        return Err(Failure::Damaged("it has something that this version does not know"));
    }
    Ok((shape, raw.run_count.get()))
}

fn read_runs(file: &File, raw: &RawTree, count: u64, shape: Shape) -> Result<FreeBlocks, Failure> {
    let mut bytes = vec![0; usize::try_from(count * RUN_LEN).expect("a map fits in memory")];
    file.read_exact_at(&mut bytes, HEADER_LEN.into())?;
    if *blake3::hash(&bytes).as_bytes() != raw.runs_hash {
        return Err(Failure::Damaged("the hash of its free runs does not fit"));
    }
    let mut free = FreeBlocks::NONE;
    let mut end = None;
    for raw in <[RawFreeRun]>::ref_from_bytes(&bytes).expect("whole runs were read") {
        let run = BlockRange::new(BlockIndex::new(raw.first.get()), BlockCount::new(raw.blocks.get()));
        let fits = |run: &BlockRange| {
            !run.is_empty() && run.end() <= shape.blocks().as_end() && end.is_none_or(|end| run.start() > end)
        };
        let run = run.filter(fits).ok_or(Failure::Damaged("its free runs are not in order"))?;
        end = Some(run.end());
        free.push(run);
    }
    Ok(free)
}

fn range(start: u64, end: BlockIndex) -> BlockRange {
    BlockRange::between(BlockIndex::new(start), end).unwrap_or_default()
}
