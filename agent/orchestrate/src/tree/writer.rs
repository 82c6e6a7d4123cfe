//! Making a stored tree: from a disk, or from the one before and the delta that leads on.

use super::layout::{HEADER_LEN, MAGIC, RUNS_MAX, RawFreeRun, RawTree, VERSION};
use super::{StoredTree, TreeError, kept_level, stored_nodes};
use crate::free::free_blocks;
use crate::output::sync_directory_of;
use crate::scan::{Chunk, ChunkContent, ScanOptions, scan};
use crate::{BaseTree, JobError, NodeRun, Progress, likeness};
use failback_blockio::Device;
use failback_delta::{Content, Coverage, DeltaReader, Extent, FreeBlocks, Item, SealedFrame, Shapes, Trailer};
use failback_hashtree::{ChainingValue, Cover, Frontier, LeafHasher, Node, Root, RootBuilder, Shape};
use failback_units::{BlockCount, BlockIndex, BlockRange, BlockSize, ByteCount};
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::thread;
use zerocopy::IntoBytes;

/// Unchanged values that are copied at a time.
const COPIED_AT_ONCE: u64 = 4096;
/// Values that are asked for in one question, and questions that are under way at the same time: the other side may be far away.
const VALUES_IN_QUESTION: usize = 4096;
const QUESTIONS_AT_ONCE: usize = 4;

/// Reads a disk once and stores its tree at `path`. Free blocks are not read. Returns the root.
///
/// # Errors
///
/// When the disk cannot be read, the file not be written, or the user stopped it. There is no new file then.
pub fn build_tree(
    device: &dyn Device,
    shape: Shape,
    free: &FreeBlocks,
    path: &Path,
    threads: usize,
    progress: &dyn Progress,
) -> Result<Root, JobError> {
    let mut writer = TreeWriter::create(path, shape, free)?;
    let mut hasher = LeafHasher::new();
    progress.phase("hashing the target", Some(shape.size().get()));
    let how = ScanOptions { shape, free, parts: None, highest: kept_level(shape), keep_bytes: false, threads };
    scan(device, how, progress, |Chunk { blocks, content, .. }| {
        match content {
            ChunkContent::Zero(nodes) => nodes.iter().for_each(|(node, value)| writer.push(*node, *value)),
            ChunkContent::Data { node: Some((node, value)), .. } => writer.push(node, value),
            ChunkContent::Data { leaves, .. } => writer.push_leaves(&mut hasher, blocks.start(), &leaves),
        }
        Ok(writer.write_out()?)
    })?;
    Ok(writer.finish()?)
}

/// Reads the first `size` bytes of a disk that nobody else writes to, and stores their tree at `path` in blocks of 4 KiB. Where only used
/// space counts, free space is not read.
///
/// # Errors
///
/// As [`build_tree`].
pub fn build_tree_of_disk(
    device: &dyn Device,
    size: ByteCount,
    coverage: Coverage,
    path: &Path,
    threads: usize,
    progress: &dyn Progress,
) -> Result<StoredTree, JobError> {
    let shape = Shape::new(size, BlockSize::MIN);
    let free = match coverage {
        Coverage::Whole => FreeBlocks::NONE,
        Coverage::Used => free_blocks(&likeness::free_of(device)?, shape),
    };
    build_tree(device, shape, &free, path, threads, progress)?;
    Ok(StoredTree::open(path)?)
}

/// Asks a tree that lies elsewhere for the values that a stored one has, several questions at a time, and stores it at `path`.
/// Returns its root.
///
/// # Errors
///
/// When the values cannot be had or do not lead to the root that the tree says, or the file cannot be written. There is no new file
/// then.
pub fn store_tree(base: &dyn BaseTree, path: &Path, progress: &dyn Progress) -> Result<Root, JobError> {
    let shape = base.shape();
    let mut writer = TreeWriter::create(path, shape, base.free())?;
    let mut nodes = stored_nodes(shape);
    progress.phase("asking for the target's tree", Some(nodes.len()));
    while !nodes.is_empty() {
        if progress.stop_requested() {
            return Err(JobError::Interrupted("the target's tree is not here yet; it is asked for again".into()));
        }
        let questions: Vec<Vec<Node>> = (0..QUESTIONS_AT_ONCE)
            .map(|_| nodes.by_ref().take(VALUES_IN_QUESTION).collect::<Vec<_>>())
            .filter(|question| !question.is_empty())
            .collect();
        let answers: Vec<_> = thread::scope(|scope| {
            let asked: Vec<_> =
                questions.iter().map(|question| scope.spawn(move || base.values(&runs_of(question)))).collect();
            asked.into_iter().map(|answer| answer.join().expect("asking does not panic")).collect()
        });
        for (question, answer) in questions.iter().zip(answers) {
            let answer = answer?;
            progress.advance(answer.len() as u64);
            question.iter().zip(answer).for_each(|(node, value)| writer.push(*node, value));
            writer.write_out()?;
        }
    }
    let root = writer.finish_if(|root| root == base.root())?;
    root.ok_or_else(|| {
        let why = "the tree of the target does not lead to its own root: have it made anew and begin again";
        JobError::Mismatch(why.into())
    })
}

/// Neighbours of one level as one.
fn runs_of(nodes: &[Node]) -> Vec<NodeRun> {
    let mut runs: Vec<NodeRun> = Vec::new();
    for node in nodes {
        match runs.last_mut() {
            Some(run) if run.level == node.level && run.end() == Some(node.first) => run.count += 1,
            _ => runs.push(NodeRun { first: node.first, level: node.level, count: 1 }),
        }
    }
    runs
}

/// Stores at `path` the tree of the result of a delta, whose base `old` is the tree of. Returns the root.
///
/// # Errors
///
/// When the delta is damaged or starts from another tree, or a file cannot be read or written. There is no new file then.
pub fn advance_tree<R: Read>(old: &StoredTree, delta: R, path: &Path) -> Result<Root, JobError> {
    advance_tree_seen(old, delta, path, &mut |_, _| ())
}

/// As [`advance_tree`], and shows the values of all blocks that the delta changes, in their order and a few at a time; `None` where
/// they become zero or free. They are not proven before this has returned a root.
///
/// # Errors
///
/// As of [`advance_tree`].
pub fn advance_tree_seen<R: Read>(
    old: &StoredTree,
    delta: R,
    path: &Path,
    seen: &mut dyn FnMut(BlockRange, Option<&[ChainingValue]>),
) -> Result<Root, JobError> {
    let mut delta = DeltaReader::open(delta)?;
    let shapes = delta.header().shapes;
    if shapes.base != old.shape() || delta.header().base_root != old.root() {
        let old = old.path.display();
        return Err(JobError::Refused(format!("{old} is not the tree of the base of this delta: make it anew")));
    }
    let writer = TreeWriter::create(path, shapes.result, delta.free())?;
    let mut advance =
        Advance { old, shapes, writer, hasher: LeafHasher::new(), end: BlockIndex::ZERO, data: Vec::new(), seen };
    loop {
        match delta.next_item()? {
            Item::Frame(frame) => advance.frame(&frame)?,
            Item::Trailer(trailer) => {
                advance.rest(&trailer)?;
                let root = advance.writer.finish_if(|root| root == trailer.result_root)?;
                return root.ok_or_else(|| {
                    let why = "the tree that follows from a delta does not have the root that the delta leads to: make it \
                               anew from the disk";
                    JobError::Mismatch(why.into())
                });
            }
        }
    }
}

struct Advance<'a> {
    old: &'a StoredTree,
    shapes: Shapes,
    writer: TreeWriter,
    hasher: LeafHasher,
    /// Blocks below this one were told.
    end: BlockIndex,
    data: Vec<u8>,
    seen: &'a mut dyn FnMut(BlockRange, Option<&[ChainingValue]>),
}

impl Advance<'_> {
    fn frame(&mut self, frame: &SealedFrame) -> Result<(), JobError> {
        let table = &frame.table;
        self.data.resize(table.data_len(), 0);
        let mut data = std::mem::take(&mut self.data);
        frame.open(&self.shapes, &mut self.hasher, &mut data)?;
        for ((gap, values), extent) in table.gaps().zip(&table.extents) {
            self.gap(gap, values)?;
            self.extent(extent, &data[extent.data.clone()])?;
        }
        self.data = data;
        Ok(())
    }

    /// Unchanged blocks, and the values of the nodes that cover them.
    fn gap(&mut self, gap: BlockRange, values: &[ChainingValue]) -> Result<(), JobError> {
        for (node, value) in Cover::new(gap, self.shapes.gap_level()).zip(values) {
            if node.level <= self.writer.kept() {
                self.writer.push(node, *value);
            } else {
                self.copy(node)?;
            }
        }
        self.end = gap.end().max(self.end);
        Ok(self.writer.write_out()?)
    }

    /// Takes over what is stored of a node that is the same on both sides.
    fn copy(&mut self, node: Node) -> Result<(), TreeError> {
        let kept = self.writer.kept();
        let (mut left, mut block) = (1_u64 << (node.level - kept), node.first);
        while left > 0 {
            let count = left.min(COPIED_AT_ONCE);
            for value in self.old.stored(self.old.place(block), count)? {
                self.writer.push(Node { first: block, level: kept }, value);
                block = block.checked_add(BlockCount::new(1 << kept)).expect("a node lies within its tree");
            }
            self.writer.write_out()?;
            left -= count;
        }
        Ok(())
    }

    fn extent(&mut self, extent: &Extent, content: &[u8]) -> Result<(), JobError> {
        let shape = self.shapes.result;
        self.end = extent.blocks.end();
        if extent.blocks.start() >= shape.blocks().as_end() {
            return Ok(());
        }
        if extent.new == Content::Data {
            let mut leaves = Vec::new();
            self.hasher.hash(shape, extent.blocks.start(), content, &mut leaves);
            self.writer.push_leaves(&mut self.hasher, extent.blocks.start(), &leaves);
            (self.seen)(extent.blocks, Some(&leaves));
        } else {
            // Zero, or free space, whatever it holds: it counts as zero.
            for node in Cover::new(extent.blocks, self.writer.kept()) {
                let value = self.hasher.zero_node(shape, node);
                self.writer.push(node, value);
            }
            (self.seen)(extent.blocks, None);
        }
        Ok(self.writer.write_out()?)
    }

    /// The unchanged blocks behind the last extent.
    fn rest(&mut self, trailer: &Trailer) -> Result<(), JobError> {
        if trailer.totals.frames > 0 {
            let (gap, values) = trailer.gap(&self.shapes, self.end);
            return self.gap(gap, values);
        }
        // A delta without a change carries no values.
        let mut nodes = stored_nodes(self.shapes.result);
        let mut place = 0;
        while !nodes.is_empty() {
            let count = nodes.len().min(COPIED_AT_ONCE);
            let values = self.old.stored(place, count)?;
            nodes.by_ref().zip(&values).take(values.len()).for_each(|(node, value)| self.writer.push(node, *value));
            self.writer.write_out()?;
            place += count;
        }
        Ok(())
    }
}

/// Writes a tree: nodes from left to right, none above the level that is kept.
struct TreeWriter {
    path: PathBuf,
    temporary: Temporary,
    out: BufWriter<File>,
    header: RawTree,
    root: RootBuilder,
    /// Nodes that may still be joined with others.
    open: Frontier,
    /// Nodes that are complete, and not yet written.
    complete: Vec<(Node, ChainingValue)>,
    written: u64,
}

impl TreeWriter {
    fn create(path: &Path, shape: Shape, free: &FreeBlocks) -> Result<Self, TreeError> {
        let temporary = Temporary::beside(path);
        let failed = |source| TreeError::Io { action: "write", path: path.to_owned(), source };
        let runs: Vec<_> = free
            .runs()
            .iter()
            .map(|run| RawFreeRun { first: run.start().get().into(), blocks: run.count().get().into() })
            .collect();
        if runs.len() as u64 > RUNS_MAX {
            return Err(failed(io::Error::other("the free space has too many runs")));
        }
        let kept = kept_level(shape);
        let header = RawTree {
            magic: MAGIC,
            version: VERSION.into(),
            header_len: HEADER_LEN.into(),
            flags: 0.into(),
            block_shift: shape.block_size().shift(),
            kept_level: kept,
            reserved: [0; 6],
            size: shape.size().get().into(),
            run_count: (runs.len() as u64).into(),
            value_count: stored_nodes(shape).len().into(),
            root: [0; 32],
            runs_hash: blake3::hash(runs.as_bytes()).into(),
            hash: [0; 32],
        };
        let file = File::create(&temporary.0).map_err(failed)?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        out.write_all(&[0; HEADER_LEN as usize]).and_then(|()| out.write_all(runs.as_bytes())).map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            temporary,
            out,
            header,
            root: RootBuilder::new(shape),
            open: Frontier::new(kept),
            complete: Vec::new(),
            written: 0,
        })
    }

    const fn kept(&self) -> u8 {
        self.open.highest()
    }

    /// Adds the next node.
    fn push(&mut self, node: Node, value: ChainingValue) {
        self.open.push(node, value);
        self.complete_nodes();
    }

    /// Adds the next blocks.
    fn push_leaves(&mut self, hasher: &mut LeafHasher, first: BlockIndex, values: &[ChainingValue]) {
        self.open.push_leaves(hasher, first, values);
        self.complete_nodes();
    }

    /// Takes out what is complete, once nothing is left that waits for its right neighbour.
    fn complete_nodes(&mut self) {
        if self.open.nodes().last().is_some_and(|(node, _)| node.level == self.open.highest()) {
            self.complete.extend(self.open.take());
        }
    }

    fn write_out(&mut self) -> Result<(), TreeError> {
        for (node, value) in self.complete.drain(..) {
            self.root.push(node, value);
            self.out.write_all(&value.0).map_err(|source| TreeError::Io {
                action: "write",
                path: self.path.clone(),
                source,
            })?;
            self.written += 1;
        }
        Ok(())
    }

    /// Writes the header, makes the file durable, and gives it its name. Returns the root.
    fn finish(self) -> Result<Root, TreeError> {
        Ok(self.finish_if(|_| true)?.expect("any root will do"))
    }

    /// As [`finish`](Self::finish) if the root is the right one; `None`, and no file, if it is not.
    fn finish_if(mut self, is_right: impl FnOnce(Root) -> bool) -> Result<Option<Root>, TreeError> {
        self.complete.extend(self.open.take());
        self.write_out()?;
        let root = self.root.finish().expect("every block is covered");
        assert_eq!(self.written, self.header.value_count.get(), "the nodes are those of the cover");
        if !is_right(root) {
            return Ok(None);
        }
        self.header.root = root.0;
        self.header.hash = self.header.digest();
        let renamed = self
            .out
            .seek(SeekFrom::Start(0))
            .and_then(|_| self.out.write_all(self.header.as_bytes()))
            .and_then(|()| self.out.flush())
            .and_then(|()| self.out.get_ref().sync_all())
            .and_then(|()| fs::rename(&self.temporary.0, &self.path))
            .and_then(|()| sync_directory_of(&self.path));
        renamed.map_err(|source| TreeError::Io { action: "write", path: self.path.clone(), source })?;
        Ok(Some(root))
    }
}

/// A file that is removed if it did not get its name.
struct Temporary(PathBuf);

impl Temporary {
    fn beside(path: &Path) -> Self {
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        Self(PathBuf::from(name))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
