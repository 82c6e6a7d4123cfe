//! `diff`: what changed since a signature was taken, read from the source once.

mod comparison;
mod effort;
mod segment;
mod tree;

pub use effort::{Compression, CompressionError, Effort, Packed};
pub use tree::{BaseTree, NodeRun, TreeDiffReport, diff_tree, tree_header};

use crate::free::free_blocks;
use crate::scan::{ScanOptions, ScanReport, scan};
use crate::{JobError, Progress};
use comparison::{Compared, Comparison, compare};
use failback_blockio::Device;
use failback_delta::{
    Before, Coverage, DeltaHeader, DeltaWriter, FileKind, FormatError, FreeBlocks, Identity, PointKind, RunContent,
    Shapes, SignatureReader, SigningKey, Totals, Uniform,
};
use failback_hashtree::{Root, Shape};
use failback_units::{BlockCount, BlockIndex, BlockRange};
use failback_volumes::FreeMap;
use std::io::{Read, Write};

/// How to compare.
#[derive(Clone)]
pub struct DiffOptions<'a> {
    /// The source's free space, which is not read and counts as zero; `None` where the whole disk counts.
    pub free: Option<&'a FreeMap>,
    /// What moment the source's content is from.
    pub kind: PointKind,
    /// The time to state, in seconds since 1970.
    pub created: i64,
    /// 16 random bytes, which tell this delta from any other.
    pub id: [u8; 16],
    /// Which disk the source is.
    pub identity: Identity,
    /// How hard the content is compressed.
    pub compression: &'a dyn Effort,
    /// Threads that read and hash; 0 for one on each processor.
    pub threads: usize,
    /// Who signs.
    pub signer: Option<&'a SigningKey>,
    /// Called after the last read and before the trailer makes it a delta: the place to find out that the source was at rest.
    pub before_end: &'a dyn Fn() -> Result<(), JobError>,
}

/// What comparing found.
#[derive(Clone, Copy, Debug)]
pub struct DiffReport {
    /// Where the delta starts from.
    pub base_root: Root,
    /// Where it leads: the BLAKE3 of the source, with free space as zeroes where it was left out.
    pub result_root: Root,
    /// Which bytes of the result counted.
    pub result_coverage: Coverage,
    /// Both sizes and the block size.
    pub shapes: Shapes,
    /// What was read of the source.
    pub scan: ScanReport,
    /// Blocks that differ.
    pub changed_blocks: u64,
    /// Sums over the delta.
    pub totals: Totals,
    /// The length of the delta in bytes.
    pub delta_bytes: u64,
}

/// Reads a source once, compares it with the signature of the base, and writes the delta.
///
/// # Errors
///
/// When the source cannot be read, the signature is damaged, the output cannot be written, or the user stopped it. What
/// was written by then is no delta: it has no trailer.
pub fn diff<R: Read>(
    mut base: SignatureReader<R>,
    device: &dyn Device,
    out: impl Write,
    options: &DiffOptions<'_>,
    progress: &dyn Progress,
) -> Result<DiffReport, JobError> {
    let base_shape = base.header().shape;
    let shapes = Shapes { base: base_shape, result: Shape::new(device.size(), base_shape.block_size()) };
    let base_root = base.root();
    let free = options.free.map_or(FreeBlocks::NONE, |map| free_blocks(map, shapes.result));
    let result_coverage = free.coverage();
    let header = DeltaHeader {
        shapes,
        base_coverage: base.header().coverage,
        result_coverage,
        kind: options.kind,
        created: options.created,
        id: options.id,
        base_root,
        identity: options.identity.clone(),
    };
    let mut writer = DeltaWriter::new(out, header, &free)?;
    progress.phase("comparing", Some(device.size().get()));
    let (scan, compared) = compare(shapes, options.compression, &mut writer, |comparison| {
        let mut before = Vec::new();
        let how = ScanOptions {
            shape: shapes.result,
            free: &free,
            parts: None,
            highest: shapes.gap_level(),
            keep_bytes: true,
            threads: options.threads,
        };
        let scan = scan(device, how, progress, |chunk| {
            read_base(&mut base, chunk.blocks, &mut before)?;
            comparison.chunk(&before, &chunk)
        })?;
        removed(&mut base, &shapes, comparison)?;
        Ok(scan)
    })?;
    (options.before_end)()?;
    if compared.proven.base != base_root {
        // The signature's root follows from its values, but not from its claim that some of them are those of zeroes.
        let why = "a stretch that it calls zero is not";
        return Err(FormatError::Damaged { kind: FileKind::Signature, part: "values".into(), why }.into());
    }
    finish(writer, &compared, options.signer, scan)
}

/// Completes the delta, and sums up.
fn finish<W: Write>(
    writer: DeltaWriter<W>,
    compared: &Compared,
    signer: Option<&SigningKey>,
    scan: ScanReport,
) -> Result<DiffReport, JobError> {
    let DeltaHeader { shapes, base_root, result_coverage, .. } = *writer.header();
    let Compared { ref values, proven, changed_blocks } = *compared;
    let (_, totals, delta_bytes) = writer.finish(values, proven, signer)?;
    let result_root = proven.result;
    Ok(DiffReport { base_root, result_root, result_coverage, shapes, scan, changed_blocks, totals, delta_bytes })
}

/// Collects what blocks were: those behind the end of the base were not there.
fn read_base<R: Read>(
    base: &mut SignatureReader<R>,
    blocks: BlockRange,
    before: &mut Vec<Before>,
) -> Result<(), JobError> {
    before.clear();
    let mut at = blocks.start();
    let end = blocks.end().min(base.header().shape.blocks().as_end());
    while at < end {
        let left = end.distance_from(at).unwrap_or_default();
        let Some(run) = base.next_run(left)? else { break };
        let count = usize::try_from(run.blocks.count().get()).expect("a chunk fits in memory");
        match run.content {
            RunContent::Values(values) => before.extend(values.iter().map(|value| Before::Data(*value))),
            RunContent::Uniform(Uniform::Zero) => before.extend(std::iter::repeat_n(Before::Zero, count)),
            RunContent::Uniform(Uniform::Free) => before.extend(std::iter::repeat_n(Before::Free, count)),
        }
        at = run.blocks.end();
    }
    let count = usize::try_from(blocks.count().get()).expect("a chunk fits in memory");
    before.resize(count, Before::Absent);
    Ok(())
}

/// Tells of the blocks that only the base has, and reads the signature to its end, where its root is proven.
fn removed<R: Read, W: Write>(
    base: &mut SignatureReader<R>,
    shapes: &Shapes,
    comparison: &mut Comparison<'_, W>,
) -> Result<(), JobError> {
    let mut before = Vec::new();
    while let Some(blocks) = piece_from(comparison.next(), shapes.end()) {
        read_base(base, blocks, &mut before)?;
        comparison.removed(&before)?;
    }
    match base.next_run(PIECE)? {
        None => Ok(()),
        Some(_) => unreachable!("all blocks of the base were told"),
    }
}

/// How many blocks that only one side has are dealt with at a time.
const PIECE: BlockCount = BlockCount::new(256);

/// The next blocks from `at` on, up to `end`; `None` where there are none.
fn piece_from(at: BlockIndex, end: BlockIndex) -> Option<BlockRange> {
    let count = end.distance_from(at)?.min(PIECE);
    BlockRange::new(at, count).filter(|blocks| !blocks.is_empty())
}
