//! Reading a disk once from end to end, hashing it on all processors, in bounded memory.

pub(crate) use crate::chunks::Origin;
use crate::chunks::{CHUNK_BYTES, Cursor, Job, Next};
use crate::ordered::worker_count;
use crate::{JobError, Progress};
use failback_blockio::{Buffer, Completion, Device, Operation, Pool, Queue};
use failback_delta::FreeBlocks;
use failback_hashtree::{ChainingValue, Cover, LeafHasher, Node, Shape, is_zero};
use failback_units::{BlockIndex, BlockRange, BlockSize, ByteCount, ByteRange};
use std::collections::{BTreeMap, VecDeque};
use std::ops::AddAssign;
use std::sync::mpsc::{Sender, channel};
use std::thread;

/// Reads under way for each thread. Measured (`scripts/bench`, and blockio's `measure` example): more gains nothing.
const DEPTH: usize = 8;
/// What is read at a time of a disk that is in the page cache: small enough to be hashed while the processor's cache holds it.
const NEAR_PIECE: usize = 256 << 10;
/// Chunks that a thread hands over at a time, so that whoever consumes them is not woken for each.
const HANDED_OVER: usize = 4;
/// How far work may run ahead of what was consumed, in chunks. Results wait in memory for their turn, at most 8 KiB each; and a
/// stretch of free space of as many MiB is no reason for the disk to idle.
const WINDOW: u64 = 1024;
/// Chunks of zeroes that a thread keeps for the time that it would wait for the disk.
const DEFERRED: usize = 512;
/// How many of them it hashes, at most, before it looks at the disk again.
const DEFERRED_AT_ONCE: usize = 16;
/// Pieces in memory: those being read and those waiting for their turn. 32 MiB.
const BUFFERS: usize = 32;

/// What was read of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ScanReport {
    /// Bytes that were read.
    pub bytes_read: u64,
    /// Bytes known to be zero without reading them: holes of an image.
    pub bytes_hole: u64,
    /// Bytes that were not read because they are free space, which counts as zero.
    pub bytes_free: u64,
}

impl AddAssign for ScanReport {
    fn add_assign(&mut self, more: Self) {
        self.bytes_read += more.bytes_read;
        self.bytes_hole += more.bytes_hole;
        self.bytes_free += more.bytes_free;
    }
}

/// A piece of a disk, in the order of the disk: 1 MiB where free space does not make it shorter.
pub(crate) struct Chunk {
    pub(crate) blocks: BlockRange,
    /// Where it comes from. What does not come from the disk has zero as its content.
    pub(crate) origin: Origin,
    pub(crate) content: ChunkContent,
}

pub(crate) enum ChunkContent {
    /// All zero: the nodes that cover it.
    Zero(Vec<(Node, ChainingValue)>),
    /// The values of its blocks; the one node above all of them, where there is one; its bytes, if they were asked for.
    Data { leaves: Vec<ChainingValue>, node: Option<(Node, ChainingValue)>, bytes: Option<Buffer> },
}

/// How to scan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScanOptions<'a> {
    /// How the bytes are cut into blocks; may be shorter than the device.
    pub(crate) shape: Shape,
    /// Blocks that are not read, and count as zero.
    pub(crate) free: &'a FreeBlocks,
    /// The parts of the disk that are wanted, in order and not touching; `None` for all of it.
    pub(crate) parts: Option<&'a [BlockRange]>,
    /// The highest level of a node that is handed out.
    pub(crate) highest: u8,
    /// Whether bytes are handed out with their values.
    pub(crate) keep_bytes: bool,
    /// Threads that read and hash; 0 for one on each processor.
    pub(crate) threads: usize,
}

type Finished = Result<Vec<(u64, Chunk)>, JobError>;

/// Reads the disk, and calls `consume` with each chunk in the order of the disk.
pub(crate) fn scan(
    device: &dyn Device,
    options: ScanOptions<'_>,
    progress: &dyn Progress,
    mut consume: impl FnMut(Chunk) -> Result<(), JobError>,
) -> Result<ScanReport, JobError> {
    debug_assert!(BlockSize::MAX.bytes() <= CHUNK_BYTES, "no block is larger than a chunk");
    let threads = if options.threads == 0 { worker_count() } else { options.threads };
    let slot = usize::try_from(CHUNK_BYTES).expect("a chunk fits in memory");
    let buffers = BUFFERS.max(threads * 2);
    let pool = Pool::new(buffers, slot).map_err(|source| JobError::File {
        action: "map memory for",
        path: device.name().into(),
        source,
    })?;
    let all = [BlockRange::between(BlockIndex::ZERO, options.shape.blocks().as_end()).unwrap_or_default()];
    let parts = options.parts.unwrap_or(&all);
    let cursor = Cursor::new(device, options.shape, options.free, parts, WINDOW);
    let mut report = ScanReport::default();
    thread::scope(|scope| {
        let (send, receive) = channel::<Finished>();
        for _ in 0..threads {
            let (send, pool, cursor) = (send.clone(), pool.clone(), &cursor);
            scope.spawn(move || {
                let (hasher, deferred, outbox) = (LeafHasher::new(), VecDeque::new(), Vec::new());
                let worker = Worker { device, options, pool, cursor, hasher, deferred, outbox, send: &send };
                if let Err(error) = worker.run() {
                    let _ = send.send(Err(error));
                }
            });
        }
        drop(send);
        let closing = Closing(&cursor);
        let mut waiting = BTreeMap::new();
        let mut next = 0;
        let result = loop {
            let finished = match receive.recv() {
                Ok(Ok(finished)) => finished,
                Ok(Err(error)) => break Err(error),
                Err(_) => break Ok(()),
            };
            waiting.extend(finished);
            let mut consumed = Ok(());
            while let Some(chunk) = waiting.remove(&next) {
                let bytes = options.shape.bytes_of(chunk.blocks).count().get();
                *match chunk.origin {
                    Origin::Disk => &mut report.bytes_read,
                    Origin::Hole => &mut report.bytes_hole,
                    Origin::Free => &mut report.bytes_free,
                } += bytes;
                next += 1;
                cursor.consumed(next);
                consumed = consume(chunk);
                if consumed.is_ok() && progress.stop_requested() {
                    consumed = Err(JobError::Interrupted("the disk was not read to its end".into()));
                }
                if consumed.is_err() {
                    break;
                }
                progress.advance(bytes);
            }
            if consumed.is_err() {
                break consumed;
            }
        };
        // Whatever the reason for leaving: let go of buffers and wake those who wait for them.
        drop(closing);
        drop(receive);
        drop(waiting);
        result
    })?;
    let wanted: u64 = parts.iter().map(|part| options.shape.bytes_of(*part).count().get()).sum();
    if report.bytes_read + report.bytes_hole + report.bytes_free != wanted {
        return Err(JobError::Refused(format!("{} was not read to its end: run this again", device.name())));
    }
    Ok(report)
}

/// Closes a cursor also when the scan is left by a panic, so that nobody waits for ever.
struct Closing<'a, 'd>(&'a Cursor<'d>);

impl Drop for Closing<'_, '_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

struct Worker<'a, 'd> {
    device: &'a dyn Device,
    options: ScanOptions<'a>,
    pool: Pool,
    cursor: &'a Cursor<'d>,
    hasher: LeafHasher,
    /// Chunks that are known to be zero, whose values are computed while the disk is busy.
    deferred: VecDeque<Job>,
    /// Finished chunks that were not handed over yet.
    outbox: Vec<(u64, Chunk)>,
    send: &'a Sender<Finished>,
}

impl Worker<'_, '_> {
    fn run(mut self) -> Result<(), JobError> {
        let mut queue = self.device.queue(DEPTH)?;
        let mut near = self.device.queue(1)?;
        let mut jobs: BTreeMap<u64, Job> = BTreeMap::new();
        loop {
            self.fill(queue.as_mut(), near.as_mut(), &mut jobs)?;
            let share = self.deferred.len().div_ceil(queue.in_flight().max(1)).min(DEFERRED_AT_ONCE);
            for job in self.deferred.drain(..share).collect::<Vec<_>>() {
                let content = ChunkContent::Zero(self.zero_nodes(job.blocks));
                self.outbox.push((job.number, Chunk { blocks: job.blocks, origin: job.origin, content }));
            }
            self.hand_over();
            let Some(Completion { token, buffer, result }) = queue.wait() else {
                if share > 0 {
                    continue;
                }
                return Ok(());
            };
            result?;
            let (Some(job), Some(buffer)) = (jobs.remove(&token), buffer) else { continue };
            let chunk = self.hashed(&job, buffer);
            self.outbox.push((job.number, chunk));
        }
    }

    /// Submits reads until the queue is full or the work is handed out; deals with cached chunks on the way, and puts off those
    /// that need no reading.
    fn fill(
        &mut self,
        queue: &mut dyn Queue,
        near: &mut dyn Queue,
        jobs: &mut BTreeMap<u64, Job>,
    ) -> Result<(), JobError> {
        while queue.in_flight() < queue.depth() && self.deferred.len() < DEFERRED {
            let idle = queue.in_flight() == 0 && self.deferred.is_empty();
            let Some((mut buffer, job)) = self.take_job(idle)? else { return Ok(()) };
            if job.origin == Origin::Disk {
                buffer.truncate(job.len);
                if self.is_resident(&job) {
                    let chunk = self.read_near(near, &job, buffer)?;
                    self.outbox.push((job.number, chunk));
                } else {
                    queue.submit(job.number, Operation::Read { at: job.at, into: buffer });
                    jobs.insert(job.number, job);
                }
            } else {
                self.deferred.push_back(job);
            }
            if self.outbox.len() >= HANDED_OVER {
                self.hand_over();
            }
        }
        Ok(())
    }

    /// The next chunk to be dealt with, and memory for it; `None` when there is neither, or nothing more.
    ///
    /// Memory is held before a job is taken: so the chunk that everybody waits for always has some. `idle` says that nothing
    /// is under way, so that there is nothing better to do than to wait for both.
    fn take_job(&mut self, idle: bool) -> Result<Option<(Buffer, Job)>, JobError> {
        let buffer = match self.pool.try_take() {
            Some(buffer) => buffer,
            None if idle => {
                self.hand_over();
                self.pool.take()
            }
            None => return Ok(None),
        };
        let mut next = self.cursor.next(false)?;
        if idle && matches!(next, Next::Later) {
            self.hand_over();
            next = self.cursor.next(true)?;
        }
        match next {
            Next::Job(job) => Ok(Some((buffer, job))),
            Next::Later | Next::End => Ok(None),
        }
    }

    /// Hands over what is finished. If nobody wants it any more, the cursor is closed, and that ends the work.
    fn hand_over(&mut self) {
        if !self.outbox.is_empty() {
            let _ = self.send.send(Ok(std::mem::take(&mut self.outbox)));
        }
    }

    fn is_resident(&self, job: &Job) -> bool {
        ByteRange::new(job.at, ByteCount::of_memory(job.len)).is_some_and(|range| self.device.is_resident(range))
    }

    /// Reads a chunk that the kernel has in memory, and hashes each piece of it while the processor has it in its cache.
    fn read_near(&mut self, near: &mut dyn Queue, job: &Job, buffer: Buffer) -> Result<Chunk, JobError> {
        let shape = self.options.shape;
        let piece = NEAR_PIECE.max(shape.block_size().in_memory());
        let mut leaves = Vec::with_capacity(usize::try_from(job.blocks.count().get()).unwrap_or(0));
        let (mut done, mut rest, mut at) = (None::<Buffer>, buffer, job.at);
        let (mut block, mut zero) = (job.blocks.start(), true);
        while !rest.is_empty() {
            let behind = rest.split_off(piece.min(rest.len()));
            near.submit(0, Operation::Read { at, into: std::mem::replace(&mut rest, behind) });
            let Some(Completion { buffer, result, .. }) = near.wait() else { break };
            result?;
            let Some(buffer) = buffer else { break };
            let count = ByteCount::of_memory(buffer.len());
            zero = zero && is_zero(&buffer);
            self.hasher.hash(shape, block, &buffer, &mut leaves);
            at = at.checked_add(count).unwrap_or(at);
            block = BlockIndex::containing(at, shape.block_size());
            match &mut done {
                None => done = Some(buffer),
                Some(done) => done.unsplit(buffer).unwrap_or_else(|_| unreachable!("pieces of one buffer, in order")),
            }
        }
        let buffer = done.unwrap_or_else(|| unreachable!("a chunk has bytes"));
        Ok(self.chunk(job, buffer, zero, leaves))
    }

    fn hashed(&mut self, job: &Job, buffer: Buffer) -> Chunk {
        if is_zero(&buffer) {
            return self.chunk(job, buffer, true, Vec::new());
        }
        let mut leaves = Vec::with_capacity(usize::try_from(job.blocks.count().get()).unwrap_or(0));
        self.hasher.hash(self.options.shape, job.blocks.start(), &buffer, &mut leaves);
        self.chunk(job, buffer, false, leaves)
    }

    fn chunk(&mut self, job: &Job, buffer: Buffer, zero: bool, leaves: Vec<ChainingValue>) -> Chunk {
        let blocks = job.blocks;
        if zero {
            return Chunk { blocks, origin: Origin::Disk, content: ChunkContent::Zero(self.zero_nodes(blocks)) };
        }
        let mut cover = Cover::new(blocks, self.options.highest);
        let node = if cover.len() == 1 { cover.next().map(|node| (node, self.hasher.join(&leaves))) } else { None };
        let bytes = self.options.keep_bytes.then_some(buffer);
        Chunk { blocks, origin: Origin::Disk, content: ChunkContent::Data { leaves, node, bytes } }
    }

    fn zero_nodes(&mut self, blocks: BlockRange) -> Vec<(Node, ChainingValue)> {
        let shape = self.options.shape;
        let cover = Cover::new(blocks, self.options.highest);
        cover.map(|node| (node, self.hasher.zero_node(shape, node))).collect()
    }
}
