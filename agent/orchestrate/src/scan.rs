//! Reading a disk once from end to end, hashing it on all processors, in bounded memory.

use crate::chunks::{CHUNK_BYTES, Cursor, Job, Next};
use crate::ordered::worker_count;
use crate::{JobError, Progress};
use failback_blockio::{Buffer, Completion, Device, Operation, Pool, Queue};
use failback_hashtree::{ChainingValue, Cover, LeafHasher, Node, Shape, is_zero};
use failback_units::{BlockRange, BlockSize};
use std::collections::BTreeMap;
use std::sync::mpsc::{Sender, channel};
use std::thread;

/// Reads under way for each thread. Measured (`scripts/bench`, and blockio's `measure` example): more gains nothing.
const DEPTH: usize = 8;
/// Pieces in memory: those being read and those waiting for their turn. 32 MiB.
const BUFFERS: usize = 32;

/// What was read of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ScanReport {
    /// Bytes that were read.
    pub bytes_read: u64,
    /// Bytes known to be zero without reading them: holes of an image.
    pub bytes_hole: u64,
}

/// A piece of a disk, 1 MiB but for the last one, in the order of the disk.
pub(crate) struct Chunk {
    pub(crate) blocks: BlockRange,
    /// Whether it was known to be zero without reading it.
    pub(crate) hole: bool,
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
pub(crate) struct ScanOptions {
    /// How the bytes are cut into blocks; may be shorter than the device.
    pub(crate) shape: Shape,
    /// The highest level of a node that is handed out.
    pub(crate) highest: u8,
    /// Whether bytes are handed out with their values.
    pub(crate) keep_bytes: bool,
    /// Threads that read and hash; 0 for one on each processor.
    pub(crate) threads: usize,
}

type Finished = Result<(u64, Chunk), JobError>;

/// Reads the disk, and calls `consume` with each chunk in the order of the disk.
pub(crate) fn scan(
    device: &dyn Device,
    options: ScanOptions,
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
    let cursor = Cursor::new(device, options.shape, 2 * buffers as u64);
    let mut report = ScanReport::default();
    thread::scope(|scope| {
        let (send, receive) = channel::<Finished>();
        for _ in 0..threads {
            let (send, pool, cursor) = (send.clone(), pool.clone(), &cursor);
            scope.spawn(move || {
                let worker = Worker { device, options, pool, cursor, hasher: LeafHasher::new(), send: &send };
                if let Err(error) = worker.run() {
                    let _ = send.send(Err(error));
                }
            });
        }
        drop(send);
        let mut waiting = BTreeMap::new();
        let mut next = 0;
        let result = loop {
            let finished = match receive.recv() {
                Ok(Ok(finished)) => finished,
                Ok(Err(error)) => break Err(error),
                Err(_) => break Ok(()),
            };
            waiting.insert(finished.0, finished.1);
            let mut consumed = Ok(());
            while let Some(chunk) = waiting.remove(&next) {
                let bytes = options.shape.bytes_of(chunk.blocks).count().get();
                *if chunk.hole { &mut report.bytes_hole } else { &mut report.bytes_read } += bytes;
                next += 1;
                cursor.consumed(next);
                consumed = consume(chunk);
                if consumed.is_ok() && progress.stop_requested() {
                    consumed = Err(JobError::Interrupted("nothing was written".into()));
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
        cursor.close();
        drop(receive);
        drop(waiting);
        result
    })?;
    Ok(report)
}

struct Worker<'a> {
    device: &'a dyn Device,
    options: ScanOptions,
    pool: Pool,
    cursor: &'a Cursor<'a>,
    hasher: LeafHasher,
    send: &'a Sender<Finished>,
}

impl Worker<'_> {
    fn run(mut self) -> Result<(), JobError> {
        let mut queue = self.device.queue(DEPTH)?;
        let mut jobs: BTreeMap<u64, Job> = BTreeMap::new();
        let mut spare: Option<Buffer> = None;
        loop {
            self.fill(queue.as_mut(), &mut jobs, &mut spare)?;
            let Some(Completion { token, buffer, result }) = queue.wait() else {
                return Ok(());
            };
            result?;
            let (Some(job), Some(buffer)) = (jobs.remove(&token), buffer) else { continue };
            let chunk = self.hashed(&job, buffer);
            if self.send.send(Ok((job.number, chunk))).is_err() {
                return Ok(());
            }
        }
    }

    /// Submits reads until the queue is full or the work is handed out; hashes holes on the way.
    ///
    /// A buffer is held before a job is taken: so the job that everybody waits for always has one.
    fn fill(
        &mut self,
        queue: &mut dyn Queue,
        jobs: &mut BTreeMap<u64, Job>,
        spare: &mut Option<Buffer>,
    ) -> Result<(), JobError> {
        while queue.in_flight() < queue.depth() {
            let idle = queue.in_flight() == 0;
            if spare.is_none() {
                *spare = if idle { Some(self.pool.take()) } else { self.pool.try_take() };
            }
            let Some(mut buffer) = spare.take() else { return Ok(()) };
            match self.cursor.next(idle)? {
                Next::End | Next::Later => {
                    // A buffer that is kept while waiting for reads could be the one that the others need.
                    return Ok(());
                }
                Next::Job(Job { number, blocks, hole: true, .. }) => {
                    *spare = Some(buffer);
                    let content = ChunkContent::Zero(self.zero_nodes(blocks));
                    let chunk = Chunk { blocks, hole: true, content };
                    if self.send.send(Ok((number, chunk))).is_err() {
                        return Ok(());
                    }
                }
                Next::Job(job) => {
                    buffer.truncate(job.len);
                    queue.submit(job.number, Operation::Read { at: job.at, into: buffer });
                    jobs.insert(job.number, job);
                }
            }
        }
        Ok(())
    }

    fn hashed(&mut self, job: &Job, buffer: Buffer) -> Chunk {
        let (shape, blocks) = (self.options.shape, job.blocks);
        if is_zero(&buffer) {
            return Chunk { blocks, hole: false, content: ChunkContent::Zero(self.zero_nodes(blocks)) };
        }
        let mut leaves = Vec::with_capacity(usize::try_from(blocks.count().get()).unwrap_or(0));
        self.hasher.hash(shape, blocks.start(), &buffer, &mut leaves);
        let mut cover = Cover::new(blocks, self.options.highest);
        let node = if cover.len() == 1 { cover.next().map(|node| (node, self.hasher.join(&leaves))) } else { None };
        let bytes = self.options.keep_bytes.then_some(buffer);
        Chunk { blocks, hole: false, content: ChunkContent::Data { leaves, node, bytes } }
    }

    fn zero_nodes(&mut self, blocks: BlockRange) -> Vec<(Node, ChainingValue)> {
        let shape = self.options.shape;
        let cover = Cover::new(blocks, self.options.highest);
        cover.map(|node| (node, self.hasher.zero_node(shape, node))).collect()
    }
}
