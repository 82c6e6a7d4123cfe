//! A simulated disk and its queues.

use super::{FaultOn, World, state::Submitted};
use crate::{Action, Completion, Device, Extent, IoError, Operation, Queue, Resizable, device::check_depth};
use failback_units::{ByteCount, ByteOffset, ByteRange};
use std::{fmt, io, sync::Arc};

/// A disk of a [`World`]. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk {
    world: World,
    index: usize,
    name: Arc<str>,
    logical_block: u32,
}

impl SimDisk {
    pub(super) fn new(world: World, index: usize, name: Arc<str>, logical_block: u32) -> Self {
        Self { world, index, name, logical_block }
    }

    /// The world it is in.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Makes the next `times` operations of a kind that touch `range` fail with `errno`; `u32::MAX` means all of them.
    pub fn fail(&self, range: ByteRange, errno: i32, on: FaultOn, times: u32) {
        self.world.state().add_fault(self.index, on, range, errno, times);
    }

    /// Takes back all faults.
    pub fn clear_faults(&self) {
        self.world.state().clear_faults(self.index);
    }

    /// After `space` more bytes, writes fail with `ENOSPC`, as on a file in a full file system or a full thin pool;
    /// `None` lifts the limit. What still fits of a write is written.
    pub fn limit_space(&self, space: Option<ByteCount>) {
        self.world.state().limit_space(self.index, space);
    }

    /// Cuts transfers short, or interrupts them, with a chance of `percent` at every step (at most 90). The duty to go on
    /// is fulfilled inside, so that callers should not notice.
    pub fn short_transfers(&self, percent: u8) {
        self.world.state().short_transfers(self.index, percent);
    }

    /// Puts `bytes` on the disk as if they had always been there: not counted, not traced, not lost.
    ///
    /// # Panics
    ///
    /// If they do not lie on the disk.
    pub fn write_durably(&self, at: ByteOffset, bytes: &[u8]) {
        let fits = ByteRange::new(at, ByteCount::of_memory(bytes.len())).is_some_and(|range| range.fits(self.size()));
        assert!(fits, "{} bytes at {at} do not lie on {} of {} bytes", bytes.len(), self.name, self.size());
        self.world.state().write_durably(self.index, at, bytes);
    }

    /// All that reads would return, for disks that fit in memory.
    ///
    /// # Panics
    ///
    /// If the disk does not fit in memory.
    #[must_use]
    pub fn content(&self) -> Vec<u8> {
        self.copy(false)
    }

    /// All that a power loss cannot touch, for disks that fit in memory.
    ///
    /// # Panics
    ///
    /// If the disk does not fit in memory.
    #[must_use]
    pub fn durable_content(&self) -> Vec<u8> {
        self.copy(true)
    }

    fn copy(&self, durable: bool) -> Vec<u8> {
        let Some(len) = self.size().to_usize() else { panic!("{} does not fit in memory", self.name) };
        let mut bytes = vec![0; len];
        self.world.state().content(self.index, durable, &mut bytes);
        bytes
    }

    /// Makes reads see the medium instead of the cache, as after reopening with `O_DIRECT`. It differs only after a
    /// failed flush.
    pub fn drop_caches(&self) {
        self.world.state().drop_caches(self.index);
    }
}

impl Device for SimDisk {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> ByteCount {
        ByteCount::new(self.world.state().size(self.index)).unwrap_or_default()
    }

    fn logical_block(&self) -> u32 {
        self.logical_block
    }

    fn engine(&self) -> &'static str {
        "simulated"
    }

    fn queue(&self, depth: usize) -> Result<Box<dyn Queue + '_>, IoError> {
        check_depth(depth);
        Ok(Box::new(SimQueue { disk: self, depth, waiting: Vec::new() }))
    }

    fn extent_at(&self, from: ByteOffset) -> Result<Option<Extent>, IoError> {
        let end = self.size().as_end();
        if from >= end {
            return Ok(None);
        }
        let (stop, hole) = self.world.state().extent(self.index, from.get(), end.get());
        let range = ByteOffset::new(stop).and_then(|stop| ByteRange::between(from, stop));
        Ok(range.map(|range| Extent { range, hole }))
    }
}

impl Resizable for SimDisk {
    fn resize(&self, to: ByteCount) -> Result<(), IoError> {
        let result = self.world.state().resize(self.index, to.get());
        result.map_err(|source| IoError {
            action: Action::Resize,
            device: Arc::clone(&self.name),
            at: ByteOffset::ZERO,
            count: to,
            source,
        })
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimDisk({}, {} bytes)", self.name, self.size())
    }
}

/// Operations wait here until a `wait` picks one by chance, carries it out and delivers it.
struct SimQueue<'disk> {
    disk: &'disk SimDisk,
    depth: usize,
    waiting: Vec<(u64, Operation, Submitted)>,
}

impl SimQueue<'_> {
    fn carry_out(&self, operation: &mut Operation, submitted: Submitted) -> Result<(), IoError> {
        let (action, at, count) = match &*operation {
            Operation::Read { at, into } => (Action::Read, *at, ByteCount::of_memory(into.len())),
            Operation::Write { at, from } => (Action::Write, *at, ByteCount::of_memory(from.len())),
            Operation::Zero { range } => (Action::Zero, range.start(), range.count()),
            Operation::Flush => (Action::Flush, ByteOffset::ZERO, ByteCount::ZERO),
        };
        let result = match ByteRange::new(at, count).filter(|range| range.fits(self.disk.size())) {
            Some(range) => self.disk.world.state().carry_out(self.disk.index, range, operation, submitted),
            None => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        };
        result.map_err(|source| IoError { action, device: Arc::clone(&self.disk.name), at, count, source })
    }
}

impl Queue for SimQueue<'_> {
    fn depth(&self) -> usize {
        self.depth
    }

    fn in_flight(&self) -> usize {
        self.waiting.len()
    }

    fn submit(&mut self, token: u64, operation: Operation) {
        assert!(self.waiting.len() < self.depth, "more than {} operations in flight", self.depth);
        let submitted = self.disk.world.state().submitted(self.disk.index);
        self.waiting.push((token, operation, submitted));
    }

    fn wait(&mut self) -> Option<Completion> {
        if self.waiting.is_empty() {
            return None;
        }
        let picked = self.disk.world.state().pick(self.waiting.len());
        let (token, mut operation, submitted) = self.waiting.swap_remove(picked);
        let result = self.carry_out(&mut operation, submitted);
        let buffer = match operation {
            Operation::Read { into: buffer, .. } | Operation::Write { from: buffer, .. } => Some(buffer),
            Operation::Zero { .. } | Operation::Flush => None,
        };
        Some(Completion { token, buffer, result })
    }
}

impl Drop for SimQueue<'_> {
    fn drop(&mut self) {
        while self.wait().is_some() {}
    }
}
