//! `diff`: what changed since a signature was taken, read from the source once.

use crate::free::free_blocks;
use crate::ordered::{Ordered, worker_count};
use crate::scan::{Chunk, ChunkContent, Origin, ScanOptions, ScanReport, scan};
use crate::{JobError, Progress};
use failback_blockio::Device;
use failback_delta::{
    After, Before, Coverage, DeltaBuilder, DeltaHeader, DeltaWriter, FileKind, FormatError, Frame, FrameTable,
    FreeBlocks, Identity, PointKind, RunContent, Shapes, SignatureReader, SigningKey, Totals, Uniform,
};
use failback_hashtree::{ChainingValue, LeafHasher, Node, Root, Shape, is_zero};
use failback_units::{BlockCount, BlockIndex, BlockRange};
use failback_volumes::FreeMap;
use std::io::{Read, Write};
use std::thread;

/// Frames that are being compressed or wait to be written. Each is about 1 MiB, twice.
const FRAMES_UNDER_WAY: u64 = 8;

/// How to compare.
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
    /// zstd's level, 1 to 19.
    pub level: i32,
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
    let (key, level) = (writer.key(), options.level);
    progress.phase("comparing", Some(device.size().get()));
    thread::scope(|scope| {
        let sealer: Ordered<Frame, (FrameTable, Vec<u8>)> = Ordered::start(scope, worker_count(), move || {
            move |frame: Frame| {
                let sealed = frame.seal(&key, level);
                (frame.table, sealed)
            }
        });
        let mut comparison = Comparison {
            shapes,
            builder: DeltaBuilder::new(&shapes),
            hasher: LeafHasher::new(),
            before: Vec::new(),
            changed_blocks: 0,
            sealer,
            writer: &mut writer,
        };
        let how = ScanOptions {
            shape: shapes.result,
            free: &free,
            highest: shapes.gap_level(),
            keep_bytes: true,
            threads: options.threads,
        };
        let scan = scan(device, how, progress, |chunk| comparison.chunk(&mut base, &chunk))?;
        comparison.removed(&mut base)?;
        let Comparison { builder, mut sealer, writer, changed_blocks, .. } = comparison;
        let (last, values, proven) = builder.finish();
        if let Some(frame) = last {
            sealer.push(frame);
        }
        while let Some((table, sealed)) = sealer.pop() {
            writer.frame(&table, &sealed)?;
        }
        Ok::<_, JobError>((scan, values, proven, changed_blocks))
    })
    .and_then(|(scan, values, proven, changed_blocks)| {
        (options.before_end)()?;
        if proven.base != base_root {
            // The signature's root follows from its values, but not from its claim that some of them are those of zeroes.
            let why = "a stretch that it calls zero is not";
            return Err(FormatError::Damaged { kind: FileKind::Signature, part: "values".into(), why }.into());
        }
        let result_root = proven.result;
        let (_, totals, delta_bytes) = writer.finish(&values, proven, options.signer)?;
        Ok(DiffReport { base_root, result_root, result_coverage, shapes, scan, changed_blocks, totals, delta_bytes })
    })
}

struct Comparison<'a, W> {
    shapes: Shapes,
    builder: DeltaBuilder,
    hasher: LeafHasher,
    /// What the blocks of the chunk at hand were.
    before: Vec<Before>,
    changed_blocks: u64,
    sealer: Ordered<Frame, (FrameTable, Vec<u8>)>,
    writer: &'a mut DeltaWriter<W>,
}

impl<W: Write> Comparison<'_, W> {
    fn chunk<R: Read>(&mut self, base: &mut SignatureReader<R>, chunk: &Chunk) -> Result<(), JobError> {
        self.read_base(base, chunk.blocks)?;
        match &chunk.content {
            ChunkContent::Zero(nodes) if chunk.origin == Origin::Free => self.free_chunk(chunk.blocks, nodes),
            ChunkContent::Zero(nodes) => self.zero_chunk(chunk.blocks, nodes),
            ChunkContent::Data { leaves, node, bytes } => {
                let bytes = bytes.as_ref().expect("the scan was asked for bytes");
                self.data_chunk(chunk.blocks, leaves, *node, bytes)
            }
        }
    }

    /// Collects what the blocks of a chunk were.
    fn read_base<R: Read>(&mut self, base: &mut SignatureReader<R>, blocks: BlockRange) -> Result<(), JobError> {
        self.before.clear();
        let mut at = blocks.start();
        let end = blocks.end().min(self.shapes.base.blocks().as_end());
        while at < end {
            let left = end.distance_from(at).unwrap_or_default();
            let Some(run) = base.next_run(left)? else { break };
            let count = usize::try_from(run.blocks.count().get()).expect("a chunk fits in memory");
            match run.content {
                RunContent::Values(values) => self.before.extend(values.iter().map(|value| Before::Data(*value))),
                RunContent::Uniform(Uniform::Zero) => self.before.extend(std::iter::repeat_n(Before::Zero, count)),
                RunContent::Uniform(Uniform::Free) => self.before.extend(std::iter::repeat_n(Before::Free, count)),
            }
            at = run.blocks.end();
        }
        let count = usize::try_from(blocks.count().get()).expect("a chunk fits in memory");
        self.before.resize(count, Before::Absent);
        Ok(())
    }

    /// Free space: nothing changes where the base has free space too. All else is told, since the base may hold anything
    /// where it is free, and zeroes where it is not.
    fn free_chunk(&mut self, blocks: BlockRange, nodes: &[(Node, ChainingValue)]) -> Result<(), JobError> {
        let common = blocks.end() <= self.shapes.common_end();
        if common && self.before.iter().all(|before| *before == Before::Free) {
            for (node, value) in nodes {
                self.builder.unchanged(*node, *value);
            }
            return Ok(());
        }
        for (place, block) in (blocks.start().get()..blocks.end().get()).enumerate() {
            let (before, block) = (self.before[place], BlockIndex::new(block));
            if before == Before::Free && block < self.shapes.common_end() {
                let value = self.hasher.zero_node(self.shapes.result, Node::leaf(block));
                self.builder.unchanged(Node::leaf(block), value);
            } else {
                self.changed(before, After::Free)?;
            }
        }
        Ok(())
    }

    fn zero_chunk(&mut self, blocks: BlockRange, nodes: &[(Node, ChainingValue)]) -> Result<(), JobError> {
        if blocks.end() <= self.shapes.common_end() && self.before.iter().all(|before| *before == Before::Zero) {
            for (node, value) in nodes {
                self.builder.unchanged(*node, *value);
            }
            return Ok(());
        }
        for (place, block) in (blocks.start().get()..blocks.end().get()).enumerate() {
            let block = BlockIndex::new(block);
            let before = self.before[place];
            // What was free may hold anything on the target. Values of zeroes are computed only where they are needed.
            let zero = match before {
                Before::Zero | Before::Data(_) if block < self.shapes.common_end() => {
                    Some(self.hasher.zero_node(self.shapes.result, Node::leaf(block)))
                }
                _ => None,
            };
            match zero {
                Some(value) if before == Before::Zero || before == Before::Data(value) => {
                    self.builder.unchanged(Node::leaf(block), value);
                }
                _ => self.changed(before, After::Zero)?,
            }
        }
        Ok(())
    }

    fn data_chunk(
        &mut self,
        blocks: BlockRange,
        leaves: &[ChainingValue],
        node: Option<(Node, ChainingValue)>,
        bytes: &[u8],
    ) -> Result<(), JobError> {
        let common = self.shapes.common_end().distance_from(blocks.start()).unwrap_or_default().get();
        let common = usize::try_from(common).unwrap_or(usize::MAX);
        let block_size = self.shapes.block_size().in_memory();
        let contents = bytes.chunks(block_size).collect::<Vec<_>>();
        let same = |before: &Before, place: usize| {
            place < common
                && match before {
                    Before::Data(old) => *old == leaves[place],
                    Before::Zero => is_zero(contents[place]),
                    // What was free may hold anything on the target.
                    Before::Free | Before::Absent | Before::Kept(_) => false,
                }
        };
        let mut place = 0;
        while place < leaves.len() {
            let rest = self.before[place..].iter().zip(place..);
            let unchanged = rest.take_while(|(before, place)| same(before, *place)).count();
            if unchanged > 0 {
                match node {
                    Some((node, value)) if unchanged == leaves.len() => self.builder.unchanged(node, value),
                    _ => self.builder.unchanged_blocks(&mut self.hasher, &leaves[place..place + unchanged]),
                }
                place += unchanged;
                continue;
            }
            let content = contents[place];
            let after = if is_zero(content) { After::Zero } else { After::Data(content, leaves[place]) };
            self.changed(self.before[place], after)?;
            place += 1;
        }
        Ok(())
    }

    /// Tells of the blocks that only the base has, and reads the signature to its end, where its root is proven.
    fn removed<R: Read>(&mut self, base: &mut SignatureReader<R>) -> Result<(), JobError> {
        let piece = BlockCount::new(256);
        while self.builder.next() < self.shapes.end() {
            let blocks = BlockRange::new(self.builder.next(), piece).unwrap_or_default();
            let end = blocks.end().min(self.shapes.end());
            let blocks = BlockRange::between(blocks.start(), end).unwrap_or_default();
            self.read_base(base, blocks)?;
            for place in 0..self.before.len() {
                self.changed(self.before[place], After::Absent)?;
            }
        }
        match base.next_run(piece)? {
            None => Ok(()),
            Some(_) => unreachable!("all blocks of the base were told"),
        }
    }

    fn changed(&mut self, before: Before, after: After<'_>) -> Result<(), JobError> {
        self.changed_blocks += 1;
        if let Some(frame) = self.builder.changed(before, after) {
            if self.sealer.under_way() >= FRAMES_UNDER_WAY
                && let Some((table, sealed)) = self.sealer.pop()
            {
                self.writer.frame(&table, &sealed)?;
            }
            self.sealer.push(frame);
        }
        Ok(())
    }
}
