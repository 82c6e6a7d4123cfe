//! Handing out the chunks of a disk, in order, to threads that read them.

use failback_blockio::{Device, Extent, IoError};
use failback_hashtree::Shape;
use failback_units::{BlockIndex, BlockRange, ByteCount, ByteOffset};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What is read and hashed at a time: a multiple of every block size, so that a chunk is a node of every tree.
pub(crate) const CHUNK_BYTES: u64 = 1 << 20;

/// A chunk to be dealt with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    /// Its place in the order of the disk, from 0.
    pub(crate) number: u64,
    pub(crate) blocks: BlockRange,
    /// Its first byte, and its length in bytes.
    pub(crate) at: ByteOffset,
    pub(crate) len: usize,
    /// Whether all of it is a hole, which need not be read.
    pub(crate) hole: bool,
}

/// The answer to a request for work.
pub(crate) enum Next {
    Job(Job),
    /// There is more, but not before earlier chunks were consumed.
    Later,
    /// There is no more.
    End,
}

/// The chunks of a disk that nobody has taken yet.
pub(crate) struct Cursor<'a> {
    device: &'a dyn Device,
    shape: Shape,
    /// How far work may run ahead of what was consumed, in chunks.
    window: u64,
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Default)]
struct State {
    next: u64,
    consumed: u64,
    closed: bool,
    extent: Option<Extent>,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(device: &'a dyn Device, shape: Shape, window: u64) -> Self {
        Self { device, shape, window, state: Mutex::default(), moved: Condvar::new() }
    }

    /// The next chunk. `wait` says whether to wait for it when work has run too far ahead.
    pub(crate) fn next(&self, wait: bool) -> Result<Next, IoError> {
        let mut state = self.lock();
        loop {
            let job = if state.closed { None } else { job(self.shape, state.next) };
            let Some(mut job) = job else { return Ok(Next::End) };
            if state.next < state.consumed + self.window {
                job.hole = self.is_hole(&mut state, &job)?;
                state.next += 1;
                return Ok(Next::Job(job));
            }
            if !wait {
                return Ok(Next::Later);
            }
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Chunks below `number` were consumed.
    pub(crate) fn consumed(&self, number: u64) {
        self.lock().consumed = number;
        self.moved.notify_all();
    }

    /// No more work is handed out.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.moved.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether all of a chunk is a hole. Chunks are asked about from left to right.
    fn is_hole(&self, state: &mut State, job: &Job) -> Result<bool, IoError> {
        if state.extent.is_none_or(|extent| extent.range.end() <= job.at) {
            state.extent = self.device.extent_at(job.at)?;
        }
        let end = job.at.checked_add(ByteCount::of_memory(job.len));
        Ok(state.extent.is_some_and(|extent| extent.hole && end.is_some_and(|end| end <= extent.range.end())))
    }
}

/// The chunk with this number, taken for data; `None` behind the end.
fn job(shape: Shape, number: u64) -> Option<Job> {
    let size = shape.size();
    let at = ByteOffset::new(number.checked_mul(CHUNK_BYTES)?)?;
    let left = size.as_end().distance_from(at).filter(|left| !left.is_zero())?;
    let len = left.get().min(CHUNK_BYTES);
    let first = BlockIndex::containing(at, shape.block_size());
    let count = shape.block_size().blocks_in(ByteCount::new(len)?);
    let blocks = BlockRange::new(first, count)?;
    Some(Job { number, blocks, at, len: usize::try_from(len).ok()?, hole: false })
}
