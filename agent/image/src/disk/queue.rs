//! Operations on a disk, carried out as operations on its files.
//!
//! Buffers are never copied: one that goes to several places is split, and put together again when all pieces are back.

use super::{Body, Disk};
use crate::extent::ExtentError;
use failback_blockio::{Buffer, Completion, IoError, Operation, Queue};
use failback_units::ByteRange;
use std::collections::VecDeque;
use std::io;

/// Into how many pieces an operation is expected to fall: so much deeper are the queues of the files.
const FAN_OUT: usize = 8;
/// The greatest depth of a queue.
const MAX_DEPTH: usize = 1024;
/// How many files have a queue of their own before idle ones are closed.
const MAX_OPEN: usize = 16;

/// A queue on a disk.
pub(super) struct DiskQueue<'disk> {
    pub(super) disk: &'disk Disk,
    depth: usize,
    /// Queues of files, opened when first used.
    open: Vec<FileQueue<'disk>>,
    /// Which of them is waited for next.
    turn: usize,
    pub(super) orders: Slab<Order>,
    pieces: Slab<Piece>,
    ready: VecDeque<Completion>,
    flushes: VecDeque<u64>,
}

struct FileQueue<'disk> {
    file: usize,
    queue: Box<dyn Queue + 'disk>,
    backlog: VecDeque<(u64, Operation)>,
}

/// An operation under way.
pub(super) struct Order {
    token: u64,
    has_buffer: bool,
    /// The pieces of the buffer, in order; those that are on their way are missing.
    parts: Vec<Option<Buffer>>,
    under_way: usize,
    error: Option<IoError>,
}

/// What is under way on a file.
struct Piece {
    order: usize,
    /// Which part of the buffer it has.
    part: usize,
    file: usize,
    writes: bool,
    new: Option<NewGrains>,
}

/// Grains that a write makes: when it ends, their extent is told.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewGrains {
    /// The extent's number in the top layer.
    pub(super) part: usize,
    pub(super) first: u64,
    pub(super) count: u64,
    /// Where in the file.
    pub(super) at: u64,
}

/// Things under small numbers, which are used again.
pub(super) struct Slab<T> {
    places: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Slab<T> {
    const fn new() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }

    fn add(&mut self, thing: T) -> usize {
        match self.free.pop() {
            Some(number) => {
                self.places[number] = Some(thing);
                number
            }
            None => {
                self.places.push(Some(thing));
                self.places.len() - 1
            }
        }
    }

    fn take(&mut self, number: usize) -> Option<T> {
        let thing = self.places.get_mut(number)?.take()?;
        self.free.push(number);
        Some(thing)
    }

    fn get(&mut self, number: usize) -> &mut T {
        match self.places.get_mut(number) {
            Some(Some(thing)) => thing,
            _ => unreachable!("a number is used while its thing is there"),
        }
    }

    fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }
}

impl<'disk> DiskQueue<'disk> {
    pub(super) fn new(disk: &'disk Disk, depth: usize) -> Self {
        assert!((1..=MAX_DEPTH).contains(&depth), "a queue depth is 1 to {MAX_DEPTH}, not {depth}");
        Self {
            disk,
            depth,
            open: Vec::new(),
            turn: 0,
            orders: Slab::new(),
            pieces: Slab::new(),
            ready: VecDeque::new(),
            flushes: VecDeque::new(),
        }
    }

    /// Begins an operation.
    pub(super) fn begin(&mut self, token: u64, has_buffer: bool) -> usize {
        self.orders.add(Order { token, has_buffer, parts: Vec::new(), under_way: 0, error: None })
    }

    /// Keeps a part of the buffer that needs nothing more.
    pub(super) fn keep(&mut self, order: usize, part: Buffer) {
        self.orders.get(order).parts.push(Some(part));
    }

    /// Takes note of what went wrong; the first error counts.
    pub(super) fn fail(&mut self, order: usize, error: IoError) {
        self.orders.get(order).error.get_or_insert(error);
    }

    /// Sends a piece of an operation to a file.
    pub(super) fn send(&mut self, order: usize, file: usize, operation: Operation, new: Option<NewGrains>) {
        let writes = !matches!(operation, Operation::Read { .. });
        let state = self.orders.get(order);
        let part = state.parts.len();
        if state.has_buffer {
            state.parts.push(None);
        }
        state.under_way += 1;
        let piece = self.pieces.add(Piece { order, part, file, writes, new });
        // A slab is never so large.
        let token = u64::try_from(piece).unwrap_or(u64::MAX);
        match self.queue_of(file) {
            Ok(index) => {
                let FileQueue { queue, backlog, .. } = &mut self.open[index];
                if queue.in_flight() < queue.depth() {
                    queue.submit(token, operation);
                } else {
                    backlog.push_back((token, operation));
                }
            }
            Err(error) => {
                let buffer = match operation {
                    Operation::Read { into: buffer, .. } | Operation::Write { from: buffer, .. } => Some(buffer),
                    Operation::Zero { .. } | Operation::Flush => None,
                };
                self.piece_ended(Completion { token, buffer, result: Err(error) });
            }
        }
    }

    /// The queue of a file.
    fn queue_of(&mut self, file: usize) -> Result<usize, IoError> {
        if let Some(index) = self.open.iter().position(|open| open.file == file) {
            return Ok(index);
        }
        if self.open.len() >= MAX_OPEN
            && let Some(idle) = self.open.iter().position(|open| open.queue.in_flight() == 0 && open.backlog.is_empty())
        {
            self.open.swap_remove(idle);
        }
        // One operation at a time is for those who have nothing to overlap, and have the cheaper queue.
        let depth = if self.depth == 1 { 1 } else { (self.depth * FAN_OUT).min(MAX_DEPTH) };
        let queue = self.disk.files[file].device.queue(depth)?;
        self.open.push(FileQueue { file, queue, backlog: VecDeque::new() });
        Ok(self.open.len() - 1)
    }

    /// Ends an operation, if nothing of it is under way.
    pub(super) fn end_if_done(&mut self, order: usize) {
        if self.orders.get(order).under_way > 0 {
            return;
        }
        let Some(Order { token, has_buffer, parts, error, .. }) = self.orders.take(order) else { return };
        let buffer = if has_buffer { put_together(parts) } else { None };
        self.ready.push_back(Completion { token, buffer, result: error.map_or(Ok(()), Err) });
    }

    fn piece_ended(&mut self, completion: Completion) {
        let Some(piece) = usize::try_from(completion.token).ok().and_then(|number| self.pieces.take(number)) else {
            return;
        };
        let mut result = completion.result;
        if piece.writes {
            if let Some(new) = piece.new
                && let Body::Sparse { extent, .. } = &self.disk.top().parts[new.part].body
                && !extent.written(new.first, new.count, new.at, result.is_ok())
                && result.is_ok()
            {
                let why = "two writes of the same place at the same time";
                let error = self.disk.failed(
                    failback_blockio::Action::Write,
                    ByteRange::default(),
                    ExtentError::Damaged(why.into()),
                );
                result = Err(error);
            }
            self.disk.files[piece.file].touch();
        }
        let state = self.orders.get(piece.order);
        if state.has_buffer {
            state.parts[piece.part] = completion.buffer;
        }
        state.under_way -= 1;
        if let Err(error) = result {
            state.error.get_or_insert(error);
        }
    }

    /// Waits for a piece on any file, and ends its operation if it was the last. Whether there was one.
    fn wait_for_piece(&mut self) -> bool {
        for _ in 0..self.open.len() {
            self.turn = (self.turn + 1) % self.open.len();
            let open = &mut self.open[self.turn];
            let Some(completion) = open.queue.wait() else { continue };
            if let Some((token, operation)) = open.backlog.pop_front() {
                open.queue.submit(token, operation);
            }
            let order = usize::try_from(completion.token).ok();
            let order = order.map(|number| self.pieces.get(number).order);
            self.piece_ended(completion);
            if let Some(order) = order {
                self.end_if_done(order);
            }
            return true;
        }
        false
    }
}

/// Puts the parts of a buffer together; `None` if one of them is lost.
fn put_together(parts: Vec<Option<Buffer>>) -> Option<Buffer> {
    let mut parts = parts.into_iter();
    let mut whole = parts.next()??;
    for part in parts {
        whole.unsplit(part?).unwrap_or_else(|_| unreachable!("pieces of one buffer, in order"));
    }
    Some(whole)
}

impl Queue for DiskQueue<'_> {
    fn depth(&self) -> usize {
        self.depth
    }

    fn in_flight(&self) -> usize {
        self.orders.len() + self.ready.len() + self.flushes.len()
    }

    fn submit(&mut self, token: u64, operation: Operation) {
        assert!(self.in_flight() < self.depth, "more than {} operations in flight", self.depth);
        match self.disk.range_of(&operation) {
            Ok(_) if matches!(operation, Operation::Flush) => self.flushes.push_back(token),
            Ok(range) => self.carry_out(token, range, operation),
            Err(error) => {
                let buffer = match operation {
                    Operation::Read { into: buffer, .. } | Operation::Write { from: buffer, .. } => Some(buffer),
                    Operation::Zero { .. } | Operation::Flush => None,
                };
                self.ready.push_back(Completion { token, buffer, result: Err(error) });
            }
        }
    }

    fn wait(&mut self) -> Option<Completion> {
        loop {
            if let Some(completion) = self.ready.pop_front() {
                return Some(completion);
            }
            if let Some(token) = self.flushes.pop_front() {
                return Some(Completion { token, buffer: None, result: self.disk.flush() });
            }
            if !self.wait_for_piece() {
                return None;
            }
        }
    }
}

impl Drop for DiskQueue<'_> {
    fn drop(&mut self) {
        while self.wait().is_some() {}
    }
}

impl Disk {
    /// The range of an operation, if it lies on the disk.
    fn range_of(&self, operation: &Operation) -> Result<ByteRange, IoError> {
        use failback_blockio::Action;
        use failback_units::{ByteCount, ByteOffset};
        let (action, at, count) = match operation {
            Operation::Read { at, into } => (Action::Read, *at, ByteCount::of_memory(into.len())),
            Operation::Write { at, from } => (Action::Write, *at, ByteCount::of_memory(from.len())),
            Operation::Zero { range } => (Action::Zero, range.start(), range.count()),
            Operation::Flush => (Action::Flush, ByteOffset::ZERO, ByteCount::ZERO),
        };
        let range = ByteRange::new(at, count).filter(|range| range.fits(failback_blockio::Device::size(self)));
        range.ok_or_else(|| {
            let mut error = self.error(action, ByteRange::default(), io::Error::from(io::ErrorKind::InvalidInput));
            (error.at, error.count) = (at, count);
            error
        })
    }
}
