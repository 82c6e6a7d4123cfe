//! Devices that do something wrong on purpose, so that tests can be shown to notice.

use crate::{Completion, Device, Extent, IoError, Operation, Queue, Resizable};
use failback_units::{ByteCount, ByteOffset};
use std::collections::VecDeque;

/// A device that acknowledges flushes and does not carry them out.
#[derive(Clone, Debug)]
pub struct DropFlushes<D>(pub D);

impl<D: Device> Device for DropFlushes<D> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn size(&self) -> ByteCount {
        self.0.size()
    }

    fn logical_block(&self) -> u32 {
        self.0.logical_block()
    }

    fn engine(&self) -> &'static str {
        self.0.engine()
    }

    fn queue(&self, depth: usize) -> Result<Box<dyn Queue + '_>, IoError> {
        Ok(Box::new(DroppingQueue { inner: self.0.queue(depth)?, dropped: VecDeque::new() }))
    }

    fn extent_at(&self, from: ByteOffset) -> Result<Option<Extent>, IoError> {
        self.0.extent_at(from)
    }
}

impl<D: Resizable> Resizable for DropFlushes<D> {
    fn resize(&self, to: ByteCount) -> Result<(), IoError> {
        self.0.resize(to)
    }
}

struct DroppingQueue<'device> {
    inner: Box<dyn Queue + 'device>,
    dropped: VecDeque<u64>,
}

impl Queue for DroppingQueue<'_> {
    fn depth(&self) -> usize {
        self.inner.depth()
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight() + self.dropped.len()
    }

    fn submit(&mut self, token: u64, operation: Operation) {
        assert!(self.in_flight() < self.depth(), "more than {} operations in flight", self.depth());
        match operation {
            Operation::Flush => self.dropped.push_back(token),
            other => self.inner.submit(token, other),
        }
    }

    fn wait(&mut self) -> Option<Completion> {
        match self.dropped.pop_front() {
            Some(token) => Some(Completion { token, buffer: None, result: Ok(()) }),
            None => self.inner.wait(),
        }
    }
}

/// A device that is written but whose reads are answered by another one: stale, misdirected or of another disk.
#[derive(Clone, Debug)]
pub struct ReadsFrom<A, B> {
    /// What is written, and what the size and the rest are taken from.
    pub device: A,
    /// What answers reads, and says where the holes are.
    pub reads: B,
}

impl<A: Device, B: Device> Device for ReadsFrom<A, B> {
    fn name(&self) -> &str {
        self.device.name()
    }

    fn size(&self) -> ByteCount {
        self.device.size()
    }

    fn logical_block(&self) -> u32 {
        self.device.logical_block()
    }

    fn engine(&self) -> &'static str {
        self.device.engine()
    }

    fn queue(&self, depth: usize) -> Result<Box<dyn Queue + '_>, IoError> {
        let (writes, reads) = (self.device.queue(depth)?, self.reads.queue(depth)?);
        Ok(Box::new(SplitQueue { writes, reads, reads_next: false }))
    }

    fn extent_at(&self, from: ByteOffset) -> Result<Option<Extent>, IoError> {
        self.reads.extent_at(from)
    }
}

struct SplitQueue<'device> {
    writes: Box<dyn Queue + 'device>,
    reads: Box<dyn Queue + 'device>,
    /// Whose turn it is to be waited for.
    reads_next: bool,
}

impl Queue for SplitQueue<'_> {
    fn depth(&self) -> usize {
        self.writes.depth()
    }

    fn in_flight(&self) -> usize {
        self.writes.in_flight() + self.reads.in_flight()
    }

    fn submit(&mut self, token: u64, operation: Operation) {
        assert!(self.in_flight() < self.depth(), "more than {} operations in flight", self.depth());
        match operation {
            Operation::Read { .. } => self.reads.submit(token, operation),
            _ => self.writes.submit(token, operation),
        }
    }

    fn wait(&mut self) -> Option<Completion> {
        self.reads_next = !self.reads_next;
        let (first, second) =
            if self.reads_next { (&mut self.reads, &mut self.writes) } else { (&mut self.writes, &mut self.reads) };
        first.wait().or_else(|| second.wait())
    }
}
