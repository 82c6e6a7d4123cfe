//! `verify`: read a disk and compare it with a root or a signature.

use crate::free::free_blocks;
use crate::scan::{Chunk, ChunkContent, ScanOptions, ScanReport, scan};
use crate::{JobError, Progress};
use failback_blockio::Device;
use failback_delta::{Coverage, FreeBlocks, RunContent, SignatureReader, Uniform};
use failback_hashtree::{ChainingValue, LeafHasher, Root, RootBuilder, Shape};
use failback_units::{BlockCount, BlockIndex, BlockRange, BlockSize, ByteCount, ByteRange};
use failback_volumes::FreeMap;
use std::io::Read;

/// Ranges that are kept for the report; the bytes of all are counted.
const RANGES_KEPT: usize = 1000;

/// What a disk is compared with.
pub enum Against<R> {
    /// A root.
    Root(ExpectedRoot),
    /// A signature, which can name what differs. What it calls free is not looked at: those blocks are the second part.
    Signature(Box<SignatureReader<R>>, FreeBlocks),
}

/// A root that the first bytes of a disk should have.
#[derive(Clone, Debug)]
pub struct ExpectedRoot {
    /// The root.
    pub root: Root,
    /// How many bytes it is of; all of the disk if that is not known.
    pub size: Option<ByteCount>,
    /// Blocks that count as zero, and are not looked at.
    pub free: FreeBlocks,
    /// The size of those.
    pub block_size: BlockSize,
}

impl ExpectedRoot {
    /// The root of all that stands on a disk, or on its first `size` bytes.
    #[must_use]
    pub const fn whole(root: Root, size: Option<ByteCount>) -> Self {
        // With the whole disk any size of blocks leads to the same root.
        Self { root, size, free: FreeBlocks::NONE, block_size: BlockSize::MAX }
    }

    /// The root of a disk's first `size` bytes with free space as zeroes, in blocks of this size.
    #[must_use]
    pub fn of_used(root: Root, size: ByteCount, block_size: BlockSize, free: &FreeMap) -> Self {
        let shape = Shape::new(size, block_size);
        Self::used(root, shape, free_blocks(free, shape))
    }

    /// The root of a disk of this shape of which free blocks count as zero.
    #[must_use]
    pub const fn used(root: Root, shape: Shape, free: FreeBlocks) -> Self {
        Self { root, size: Some(shape.size()), free, block_size: shape.block_size() }
    }
}

/// Reads a signature once to learn which blocks it calls free.
///
/// # Errors
///
/// When it cannot be read or is damaged.
pub fn free_blocks_of<R: Read>(mut signature: SignatureReader<R>) -> Result<FreeBlocks, JobError> {
    let mut free = FreeBlocks::NONE;
    if signature.header().coverage == Coverage::Used {
        while let Some(run) = signature.next_run(BlockCount::new(u64::MAX))? {
            if let RunContent::Uniform(Uniform::Free) = run.content {
                free.push(run.blocks);
            }
        }
    }
    Ok(free)
}

/// A stretch that differs, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Difference {
    /// The first byte of the first block that differs.
    pub start: u64,
    /// How many bytes.
    pub length: u64,
}

/// What verifying found.
#[derive(Clone, Debug)]
pub struct VerifyReport {
    /// The root that was found.
    pub root: Root,
    /// The root that was expected.
    pub expected: Root,
    /// How many bytes of the disk the root is of.
    pub size: ByteCount,
    /// Which of those counted.
    pub coverage: Coverage,
    /// Stretches that differ, from left to right, the first thousand; empty if only a root was given.
    pub differences: Vec<Difference>,
    /// Bytes in all blocks that differ.
    pub bytes_different: u64,
    /// What was read.
    pub scan: ScanReport,
}

impl VerifyReport {
    /// Whether the disk is what it should be.
    #[must_use]
    pub fn matches(&self) -> bool {
        self.root == self.expected && self.bytes_different == 0
    }
}

/// Reads a disk and compares.
///
/// # Errors
///
/// When the disk cannot be read or is too small, the signature is damaged, or the user stopped it. A disk that differs is a
/// report, not an error.
pub fn verify<R: Read>(
    device: &dyn Device,
    against: Against<R>,
    threads: usize,
    progress: &dyn Progress,
) -> Result<VerifyReport, JobError> {
    let (shape, expected, free, mut signature) = match against {
        Against::Root(ExpectedRoot { root, size, free, block_size }) => {
            (Shape::new(size.unwrap_or(device.size()), block_size), root, free, None)
        }
        Against::Signature(reader, free) => (reader.header().shape, reader.root(), free, Some(reader)),
    };
    if shape.size() > device.size() {
        return Err(JobError::Mismatch(format!(
            "{} has {} bytes, fewer than the {} that are to be verified: this is not the disk that is meant",
            device.name(),
            device.size(),
            shape.size()
        )));
    }
    let mut builder = RootBuilder::new(shape);
    let mut hasher = LeafHasher::new();
    let mut differences = Differences { shape, kept: Vec::new(), bytes: 0 };
    progress.phase("verifying", Some(shape.size().get()));
    let how = ScanOptions { shape, free: &free, parts: None, highest: shape.top_level(), keep_bytes: false, threads };
    let scan = scan(device, how, progress, |Chunk { blocks, content, .. }| {
        match &content {
            ChunkContent::Zero(nodes) => nodes.iter().for_each(|(node, value)| builder.push(*node, *value)),
            ChunkContent::Data { node: Some((node, value)), .. } => builder.push(*node, *value),
            ChunkContent::Data { leaves, .. } => builder.push_leaves(&mut hasher, leaves),
        }
        if let Some(signature) = &mut signature {
            compare(signature, &mut hasher, blocks, &content, &mut differences)?;
        }
        Ok(())
    })?;
    if let Some(signature) = &mut signature {
        // Past the last block stands the proof that the signature itself is whole.
        signature.next_run(BlockCount::new(1))?;
    }
    let root = builder.finish().expect("every block was read");
    let Differences { kept, bytes, .. } = differences;
    let coverage = free.coverage();
    Ok(VerifyReport { root, expected, coverage, size: shape.size(), differences: kept, bytes_different: bytes, scan })
}

struct Differences {
    shape: Shape,
    kept: Vec<Difference>,
    bytes: u64,
}

impl Differences {
    fn add(&mut self, blocks: BlockRange) {
        let bytes: ByteRange = self.shape.bytes_of(blocks);
        let (start, length) = (bytes.start().get(), bytes.count().get());
        self.bytes += length;
        if let Some(last) = self.kept.last_mut()
            && last.start + last.length == start
        {
            last.length += length;
        } else if self.kept.len() < RANGES_KEPT {
            self.kept.push(Difference { start, length });
        }
    }
}

/// Compares a chunk with what the signature says of the same blocks.
fn compare<R: Read>(
    signature: &mut SignatureReader<R>,
    hasher: &mut LeafHasher,
    blocks: BlockRange,
    content: &ChunkContent,
    differences: &mut Differences,
) -> Result<(), JobError> {
    let shape = differences.shape;
    let mut at = blocks.start();
    while at < blocks.end() {
        let left = blocks.end().distance_from(at).unwrap_or_default();
        let Some(run) = signature.next_run(left)? else { break };
        for index in run.blocks.start().get()..run.blocks.end().get() {
            let block = BlockIndex::new(index);
            let place = |from: BlockIndex| usize::try_from(index - from.get()).expect("a chunk fits in memory");
            let zero = |hasher: &mut LeafHasher| hasher.zero_node(shape, failback_hashtree::Node::leaf(block));
            let found = |hasher: &mut LeafHasher| -> ChainingValue {
                match content {
                    ChunkContent::Zero(_) => zero(hasher),
                    ChunkContent::Data { leaves, .. } => leaves[place(blocks.start())],
                }
            };
            let same = match (&run.content, content) {
                (RunContent::Uniform(Uniform::Zero), ChunkContent::Zero(_))
                | (RunContent::Uniform(Uniform::Free), _) => true,
                (RunContent::Uniform(Uniform::Zero), _) => found(hasher) == zero(hasher),
                (RunContent::Values(values), _) => found(hasher) == values[place(run.blocks.start())],
            };
            if !same {
                differences.add(BlockRange::new(block, BlockCount::new(1)).unwrap_or_default());
            }
        }
        at = run.blocks.end();
    }
    Ok(())
}
