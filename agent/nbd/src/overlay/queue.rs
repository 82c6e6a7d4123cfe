//! Operations on an overlay: what changes is done at once, what is read below is on its way there.

use super::table::State;
use super::{Change, Overlay};
use failback_blockio::{Action, Buffer, Completion, Device, IoError, Operation, Queue};
use failback_units::{ByteCount, ByteRange};
use std::collections::VecDeque;

/// The greatest depth of a queue.
const MAX_DEPTH: usize = 1024;

pub(super) struct OverlayQueue<'overlay, D> {
    overlay: &'overlay Overlay<D>,
    below: Box<dyn Queue + 'overlay>,
    depth: usize,
    /// Reads of which something is under way below.
    orders: Vec<Option<Order>>,
    /// Pieces for which there is no room below yet.
    backlog: VecDeque<(u64, Operation)>,
    ready: VecDeque<Completion>,
}

/// A read under way.
struct Order {
    token: u64,
    /// The pieces of the buffer, in order; those that are on their way are missing.
    parts: Vec<Option<Buffer>>,
    under_way: usize,
    error: Option<IoError>,
}

impl<'overlay, D: Device> OverlayQueue<'overlay, D> {
    pub(super) fn new(overlay: &'overlay Overlay<D>, depth: usize) -> Result<Self, IoError> {
        assert!((1..=MAX_DEPTH).contains(&depth), "a queue depth is 1 to {MAX_DEPTH}, not {depth}");
        Ok(Self {
            overlay,
            below: overlay.below.queue(depth)?,
            depth,
            orders: Vec::new(),
            backlog: VecDeque::new(),
            ready: VecDeque::new(),
        })
    }

    fn read(&mut self, token: u64, range: ByteRange, into: Buffer) {
        let number = self.orders.iter().position(Option::is_none).unwrap_or(self.orders.len());
        let mut order = Order { token, parts: Vec::new(), under_way: 0, error: None };
        let (mut rest, mut buffer) = (range, into);
        while !rest.is_empty() {
            let (state, run) = self.overlay.run(rest);
            rest = ByteRange::between(run.end(), rest.end()).unwrap_or_default();
            let behind = buffer.split_off(run.count().to_usize().unwrap_or(buffer.len()));
            let mut piece = std::mem::replace(&mut buffer, behind);
            match state {
                State::Below => {
                    let operation = Operation::Read { at: run.start(), into: piece };
                    self.backlog.push_back((token_of(number, order.parts.len()), operation));
                    order.under_way += 1;
                    order.parts.push(None);
                    continue;
                }
                State::Zero => piece.fill(0),
                State::Here => {
                    if let Err(error) = self.overlay.read_here(run, &mut piece) {
                        order.error.get_or_insert(error);
                    }
                }
            }
            order.parts.push(Some(piece));
        }
        if order.under_way == 0 {
            // The last piece, of no bytes, is the whole buffer of a read of nothing.
            order.parts.push(Some(buffer));
            self.ready.push_back(order.ended());
        } else if number == self.orders.len() {
            self.orders.push(Some(order));
        } else {
            self.orders[number] = Some(order);
        }
        self.send();
    }

    /// Hands over as many pieces as there is room for below.
    fn send(&mut self) {
        while self.below.in_flight() < self.below.depth()
            && let Some((token, operation)) = self.backlog.pop_front()
        {
            self.below.submit(token, operation);
        }
    }

    fn piece_ended(&mut self, Completion { token, buffer, result }: Completion) {
        let (number, part) = number_and_part(token);
        let Some(Some(order)) = self.orders.get_mut(number) else { return };
        order.under_way -= 1;
        if let Some(place) = order.parts.get_mut(part) {
            *place = buffer;
        }
        if let Err(error) = result {
            order.error.get_or_insert(error);
        }
        if order.under_way == 0
            && let Some(order) = self.orders[number].take()
        {
            self.ready.push_back(order.ended());
        }
    }
}

impl Order {
    fn ended(self) -> Completion {
        let buffer = put_together(self.parts);
        Completion { token: self.token, buffer, result: self.error.map_or(Ok(()), Err) }
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

/// What a piece is called below: reads and their pieces are both fewer than 2³².
fn token_of(number: usize, part: usize) -> u64 {
    let half = |number: usize| u64::from(u32::try_from(number).unwrap_or(u32::MAX));
    half(number) << 32 | half(part)
}

fn number_and_part(token: u64) -> (usize, usize) {
    let half = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    (half(token >> 32), half(token & u64::from(u32::MAX)))
}

impl<D: Device> Queue for OverlayQueue<'_, D> {
    fn depth(&self) -> usize {
        self.depth
    }

    fn in_flight(&self) -> usize {
        self.orders.iter().flatten().count() + self.ready.len()
    }

    fn submit(&mut self, token: u64, operation: Operation) {
        assert!(self.in_flight() < self.depth, "more than {} operations in flight", self.depth);
        let (buffer, result) = match operation {
            Operation::Read { at, into } => {
                match self.overlay.check(Action::Read, at, ByteCount::of_memory(into.len())) {
                    Ok(range) => return self.read(token, range, into),
                    Err(error) => (Some(into), Err(error)),
                }
            }
            Operation::Write { at, from } => {
                let checked = self.overlay.check(Action::Write, at, ByteCount::of_memory(from.len()));
                let result = checked.and_then(|range| self.overlay.change(range, Change::Bytes(&from)));
                (Some(from), result)
            }
            Operation::Zero { range } => {
                let checked = self.overlay.check(Action::Zero, range.start(), range.count());
                (None, checked.and_then(|range| self.overlay.change(range, Change::Zeroes)))
            }
            Operation::Flush => (None, Ok(())),
        };
        self.ready.push_back(Completion { token, buffer, result });
    }

    fn wait(&mut self) -> Option<Completion> {
        while self.ready.is_empty() {
            let completion = self.below.wait()?;
            self.piece_ended(completion);
            self.send();
        }
        self.ready.pop_front()
    }
}
