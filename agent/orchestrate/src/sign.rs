//! `sign`: the hash tree of a disk into a file.

use crate::free::free_blocks;
use crate::scan::{Chunk, ChunkContent, Origin, ScanOptions, ScanReport, scan};
use crate::{JobError, Progress};
use failback_blockio::Device;
use failback_delta::{Coverage, FreeBlocks, Identity, PointKind, SignatureHeader, SignatureWriter, Uniform};
use failback_hashtree::{Root, Shape};
use failback_units::BlockSize;
use failback_volumes::FreeMap;
use std::io::Write;

/// How to sign.
pub struct SignOptions<'a> {
    /// The size of the blocks whose values are stored.
    pub block_size: BlockSize,
    /// The free space, which is not read and counts as zero; `None` where the whole disk counts.
    pub free: Option<&'a FreeMap>,
    /// What moment the content is from.
    pub kind: PointKind,
    /// The time to state, in seconds since 1970.
    pub created: i64,
    /// Which disk it is.
    pub identity: Identity,
    /// Threads that read and hash; 0 for one on each processor.
    pub threads: usize,
    /// Called after the last read and before the trailer makes it a signature: the place to find out that the disk was at rest.
    pub before_end: &'a dyn Fn() -> Result<(), JobError>,
}

/// What signing did.
#[derive(Clone, Copy, Debug)]
pub struct SignReport {
    /// The root of the disk: its BLAKE3, with free space as zeroes where it was left out.
    pub root: Root,
    /// Which bytes counted.
    pub coverage: Coverage,
    /// What was read.
    pub scan: ScanReport,
    /// The length of the signature in bytes.
    pub output_bytes: u64,
}

/// Reads a disk once and writes its signature.
///
/// # Errors
///
/// When the disk cannot be read, the output not be written, or the user stopped it.
pub fn sign(
    device: &dyn Device,
    out: impl Write,
    options: &SignOptions<'_>,
    progress: &dyn Progress,
) -> Result<SignReport, JobError> {
    let shape = Shape::new(device.size(), options.block_size);
    let free = options.free.map_or(FreeBlocks::NONE, |map| free_blocks(map, shape));
    let coverage = free.coverage();
    let header = SignatureHeader {
        shape,
        coverage,
        kind: options.kind,
        created: options.created,
        identity: options.identity.clone(),
    };
    progress.phase("signing", Some(device.size().get()));
    let (writer, scan) = values_of(device, out, &header, &free, options.threads, progress)?;
    (options.before_end)()?;
    let (_, root, output_bytes) = writer.finish()?;
    Ok(SignReport { root, coverage, scan, output_bytes })
}

/// Reads a disk once and writes its values; what is left to be written is the end.
pub(crate) fn values_of<W: Write>(
    device: &dyn Device,
    out: W,
    header: &SignatureHeader,
    free: &FreeBlocks,
    threads: usize,
    progress: &dyn Progress,
) -> Result<(SignatureWriter<W>, ScanReport), JobError> {
    let shape = header.shape;
    let mut writer = SignatureWriter::new(out, header)?;
    let how = ScanOptions { shape, free, parts: None, highest: shape.top_level(), keep_bytes: false, threads };
    let scan = scan(device, how, progress, |Chunk { content, origin, .. }| {
        match content {
            ChunkContent::Zero(nodes) => {
                let uniform = if origin == Origin::Free { Uniform::Free } else { Uniform::Zero };
                for (node, value) in nodes {
                    writer.uniform(uniform, node, value)?;
                }
            }
            ChunkContent::Data { leaves, node, .. } => writer.blocks(&leaves, node)?,
        }
        Ok(())
    })?;
    Ok((writer, scan))
}
