//! Handing out the chunks of a disk, in order, to threads that read them.

use failback_blockio::{Device, Extent, IoError};
use failback_delta::{FreeBlocks, FreeWalk};
use failback_hashtree::Shape;
use failback_units::{BlockIndex, BlockRange, ByteCount, ByteOffset};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What is read and hashed at a time, at most: a multiple of every block size, so that a full chunk is a node of every tree.
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
    pub(crate) origin: Origin,
}

/// Where the content of a chunk comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It has to be read.
    Disk,
    /// It is a hole, which is known to be zero.
    Hole,
    /// It is free space, which counts as zero.
    Free,
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
    state: Mutex<State<'a>>,
    moved: Condvar,
}

struct State<'a> {
    /// The number of the next chunk, and its first block.
    next: u64,
    at: BlockIndex,
    consumed: u64,
    closed: bool,
    extent: Option<Extent>,
    free: FreeWalk<'a>,
    /// The parts of the disk that are wanted, those that were handed out left out.
    parts: &'a [BlockRange],
}

impl<'a> Cursor<'a> {
    /// Hands out `parts` of the disk, which are in order and do not touch.
    pub(crate) fn new(
        device: &'a dyn Device,
        shape: Shape,
        free: &'a FreeBlocks,
        parts: &'a [BlockRange],
        window: u64,
    ) -> Self {
        let (at, free) = (BlockIndex::ZERO, FreeWalk::new(free));
        let state = State { next: 0, at, consumed: 0, closed: false, extent: None, free, parts };
        Self { device, shape, window, state: Mutex::new(state), moved: Condvar::new() }
    }

    /// The next chunk. `wait` says whether to wait for it when work has run too far ahead.
    pub(crate) fn next(&self, wait: bool) -> Result<Next, IoError> {
        let mut state = self.lock();
        loop {
            let job = if state.closed { None } else { self.job(&mut state) };
            let Some(mut job) = job else { return Ok(Next::End) };
            if state.next < state.consumed + self.window {
                if job.origin == Origin::Disk && self.is_hole(&mut state, &job)? {
                    job.origin = Origin::Hole;
                }
                state.next += 1;
                state.at = job.blocks.end();
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

    fn lock(&self) -> MutexGuard<'_, State<'a>> {
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

    /// The next chunk, holes taken for data; `None` behind the end. It ends where free space or a part begins or ends, and at
    /// a multiple of [`CHUNK_BYTES`].
    fn job(&self, state: &mut State<'a>) -> Option<Job> {
        while let Some((part, rest)) = state.parts.split_first()
            && part.end() <= state.at
        {
            state.parts = rest;
        }
        let part = state.parts.first()?;
        let (shape, start) = (self.shape, state.at.max(part.start()));
        let at = shape.start_of(start);
        let bound = at.get() / CHUNK_BYTES * CHUNK_BYTES + CHUNK_BYTES;
        let bound = BlockIndex::new(bound >> shape.block_size().shift()).min(part.end());
        let (end, origin) = match state.free.from(start) {
            Some(free) if free.start() <= start => (free.end().min(bound), Origin::Free),
            Some(free) => (free.start().min(bound), Origin::Disk),
            None => (bound, Origin::Disk),
        };
        let blocks = BlockRange::between(start, end).filter(|blocks| !blocks.is_empty())?;
        let len = shape.bytes_of(blocks).count().to_usize()?;
        Some(Job { number: state.next, blocks, at, len, origin })
    }
}
