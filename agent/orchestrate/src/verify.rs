//! `verify`: read a disk and compare it with a root or a signature.

use crate::scan::{Chunk, ChunkContent, ScanOptions, ScanReport, scan};
use crate::{JobError, Progress};
use failback_blockio::Device;
use failback_delta::{Coverage, RunContent, SignatureReader, Uniform};
use failback_hashtree::{ChainingValue, LeafHasher, Root, RootBuilder, Shape};
use failback_units::{BlockCount, BlockIndex, BlockRange, BlockSize, ByteCount, ByteRange};
use std::io::Read;

/// Ranges that are kept for the report; the bytes of all are counted.
const RANGES_KEPT: usize = 1000;

/// What a disk is compared with.
pub enum Against<R> {
    /// The root of its first bytes; how many, or all.
    Root(Root, Option<ByteCount>),
    /// A signature, which can name what differs.
    Signature(Box<SignatureReader<R>>),
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
    if let Against::Signature(reader) = &against
        && reader.header().coverage != Coverage::Whole
    {
        return Err(JobError::Refused(
            "this signature leaves free space out, which this program cannot compare yet: use a newer failback".into(),
        ));
    }
    let (shape, expected, mut signature) = match against {
        Against::Root(root, size) => (Shape::new(size.unwrap_or(device.size()), BlockSize::MAX), root, None),
        Against::Signature(reader) => (reader.header().shape, reader.root(), Some(reader)),
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
    let how = ScanOptions { shape, highest: shape.top_level(), keep_bytes: false, threads };
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
    Ok(VerifyReport { root, expected, size: shape.size(), differences: kept, bytes_different: bytes, scan })
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
