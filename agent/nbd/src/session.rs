//! One connection: requests in, replies out, on the thread that serves it.
//!
//! A queue of a device belongs to one thread, and waiting for it cannot be interrupted. So one thread does both: it takes
//! requests from the socket as long as some are there, and then waits for the device. A client that asks for one thing at
//! a time costs no switch between threads; one that asks for many keeps the queue full but for what arrives while the
//! thread waits.

use crate::error::{Breach, SessionError};
use crate::export::Export;
use crate::extents::{Map, Part, Plan, pieces};
use crate::handshake::{Agreed, handshake};
use crate::link::{Arrival, Link, Wait, in_memory};
use crate::reply::{self, Cookie};
use crate::request::{Failure, Rules, Task, payload};
use crate::server::Limits;
use crate::wire::{self, Request};
use failback_blockio::{Buffer, Completion, Operation, Pool, Queue};
use failback_units::{ByteCount, ByteRange};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering::Relaxed;
use zerocopy::FromBytes;

/// Operations under way on the device, and with [`PIECE`] the memory of a connection: 8 MiB, near the best for scanning.
const DEPTH: usize = 16;
/// The most that is read or written at once; longer requests are cut.
pub(crate) const PIECE: usize = 512 << 10;

/// Serves one connected client on the calling thread until it leaves.
///
/// For its replies to be read it waits as long as it takes; [`UnixStream::shutdown`] on another thread ends that, and
/// everything else but operations of the device that are under way.
///
/// # Errors
///
/// When the client breaks the protocol, stops or goes away in the middle of a message, or when the socket fails. What
/// fails on the device is told to the client, and ends nothing.
pub fn serve_stream(stream: &UnixStream, export: &Export<'_>, limits: &Limits) -> Result<(), SessionError> {
    let mut link = Link::new(stream, limits.patience)?;
    let Some(agreed) = handshake(&mut link, export)? else { return Ok(()) };
    export.counting().connections.fetch_add(1, Relaxed);
    Session::new(link, export, agreed)?.serve()
}

/// A request under way.
struct Order {
    cookie: Cookie,
    /// Operations on the device that are not finished.
    pieces: usize,
    /// Whether there will be no more of them.
    begun: bool,
    /// What went wrong first.
    failure: Option<Failure>,
    body: Body,
}

/// What a request has to say when it ends.
enum Body {
    /// Chunks, as soon as there is something to say.
    Chunks,
    /// All content at once: pieces that are finished, in order, if there are several.
    Content(Vec<Option<Buffer>>),
    /// That it is done; so many bytes were written then.
    Done(ByteCount),
}

/// A place in the device's queue, with memory for a piece.
struct Slot {
    /// While an operation is under way, what is left of the memory behind it.
    memory: Option<Buffer>,
    job: Job,
}

/// What a place is used for.
#[derive(Clone, Copy, Default)]
struct Job {
    order: usize,
    range: ByteRange,
    /// The piece of [`Body::Content`] that it is.
    number: Option<usize>,
}

struct Session<'a> {
    link: Link<'a>,
    export: &'a Export<'a>,
    rules: Rules,
    /// For requests that come one at a time: cheaper, and as fast where there is nothing to overlap.
    lone: Box<dyn Queue + 'a>,
    deep: Box<dyn Queue + 'a>,
    /// Whether the next operation is to go to the first of them.
    alone: bool,
    map: Map<'a>,
    pool: Pool,
    slots: Vec<Slot>,
    /// Places that are not in use; the last is taken first, so that few are touched where few are needed.
    free: Vec<usize>,
    orders: Vec<Option<Order>>,
    /// Whether looking for a further request has lately been worth a system call.
    crowded: bool,
}

impl<'a> Session<'a> {
    fn new(link: Link<'a>, export: &'a Export<'a>, agreed: Agreed) -> Result<Self, SessionError> {
        let device = export.device();
        let rules = Rules { size: device.size(), writable: export.is_writable(), agreed };
        let pool = Pool::new(DEPTH, PIECE).map_err(SessionError::Memory)?;
        Ok(Self {
            link,
            export,
            rules,
            lone: device.queue(1).map_err(SessionError::Device)?,
            deep: device.queue(DEPTH).map_err(SessionError::Device)?,
            alone: false,
            map: Map::new(device),
            pool,
            slots: (0..DEPTH).map(|_| Slot { memory: None, job: Job::default() }).collect(),
            free: (0..DEPTH).rev().collect(),
            orders: Vec::new(),
            crowded: false,
        })
    }

    fn in_flight(&self) -> usize {
        DEPTH - self.free.len()
    }

    fn serve(&mut self) -> Result<(), SessionError> {
        loop {
            let wait = match self.in_flight() {
                0 => Wait::Yes,
                1 if !self.crowded && !self.link.has_more() => {
                    self.complete_one()?;
                    continue;
                }
                _ => Wait::No,
            };
            match self.link.arrival(size_of::<Request>(), wait)? {
                Arrival::Here => {
                    self.crowded |= wait == Wait::No;
                    if !self.take_request()? {
                        break;
                    }
                }
                Arrival::NotYet => {
                    self.crowded &= self.in_flight() > 1;
                    self.complete_one()?;
                }
                Arrival::Closed => break,
            }
        }
        while self.in_flight() > 0 {
            self.complete_one()?;
        }
        Ok(())
    }

    /// Takes a request and begins it; `false` if it is the last.
    fn take_request(&mut self) -> Result<bool, SessionError> {
        let request: [u8; size_of::<Request>()] = self.link.take();
        let Ok(request) = Request::read_from_bytes(&request) else { unreachable!("it has that size") };
        if request.magic.get() != wire::REQUEST_MAGIC {
            return Err(Breach::NotARequest(request.magic.get()).into());
        }
        let payload = payload(&request);
        if payload > wire::MAX_PAYLOAD {
            return Err(Breach::PayloadTooLong(payload).into());
        }
        let task = self.rules.check(&request);
        if task == Ok(Task::Leave) {
            return Ok(false);
        }
        self.export.counting().requests.fetch_add(1, Relaxed);
        self.alone = self.in_flight() == 0 && !self.crowded && in_memory(request.length.get()) <= PIECE;
        let cookie = request.cookie;
        match task {
            Ok(Task::Read { range, whole }) if self.rules.agreed.structured => {
                self.read_in_chunks(cookie, range, whole)?;
            }
            Ok(Task::Read { range, .. }) => self.read_at_once(cookie, range)?,
            Ok(Task::Write(range)) => self.write(cookie, range)?,
            Ok(Task::Zero(range)) => self.operate(cookie, range, Operation::Zero { range })?,
            Ok(Task::Flush) => self.operate(cookie, ByteRange::default(), Operation::Flush)?,
            Ok(Task::Status { range, one }) => match self.map.at(self.export.changes()).status(range, one) {
                Ok(stretches) => reply::status(&self.link, cookie, &stretches)?,
                Err(error) => self.refuse(&request, &Failure::of(&error, None))?,
            },
            Ok(Task::Nothing) => reply::simple(&self.link, cookie, 0)?,
            Ok(Task::Leave) => unreachable!("looked at before"),
            Err(failure) => {
                self.link.skip(payload)?;
                self.refuse(&request, &failure)?;
            }
        }
        Ok(true)
    }

    fn refuse(&mut self, request: &Request, failure: &Failure) -> Result<(), SessionError> {
        self.export.counting().failed.fetch_add(1, Relaxed);
        if self.rules.agreed.structured {
            reply::error(&self.link, request.cookie, true, failure)
        } else {
            reply::simple(&self.link, request.cookie, failure.error)
        }
    }

    /// Reads, and sends each part as soon as it is there.
    fn read_in_chunks(&mut self, cookie: Cookie, range: ByteRange, whole: bool) -> Result<(), SessionError> {
        let order = self.open(cookie, Body::Chunks);
        if whole && !range.is_empty() {
            self.read_piece(order, range)?;
            return self.begun(order);
        }
        let mut plan = Plan::with_holes(range);
        while let Some(part) = plan.next(self.map.at(self.export.changes())) {
            match part {
                Part::Hole(range) => {
                    let done = plan.is_over() && self.order(order).pieces == 0 && self.order(order).failure.is_none();
                    self.count_read(range);
                    reply::hole(&self.link, cookie, done, range)?;
                    if done {
                        self.orders[order] = None;
                        return Ok(());
                    }
                }
                Part::Data(range) => self.read_piece(order, range)?,
            }
            if self.order(order).failure.is_some() {
                break;
            }
        }
        self.begun(order)
    }

    /// Reads all before anything is sent, since an error cannot be told any more after that.
    fn read_at_once(&mut self, cookie: Cookie, range: ByteRange) -> Result<(), SessionError> {
        if range.count() <= ByteCount::of_memory(PIECE) {
            let order = self.open(cookie, Body::Content(Vec::new()));
            self.read_piece(order, range)?;
            return self.begun(order);
        }
        // Such a read has memory of its own, and one at a time has.
        while self.orders.iter().flatten().any(|order| matches!(&order.body, Body::Content(parts) if !parts.is_empty()))
        {
            self.complete_one()?;
        }
        let mut memory = Buffer::zeroed(range.count().to_usize().unwrap_or_default());
        let order = self.open(cookie, Body::Content(pieces(range).map(|_| None).collect()));
        for (number, range) in pieces(range).enumerate() {
            let slot = self.slot()?;
            if self.order(order).failure.is_some() {
                self.free.push(slot);
                break;
            }
            let behind = memory.split_off(range.count().to_usize().unwrap_or_default());
            let into = std::mem::replace(&mut memory, behind);
            let job = Job { order, range, number: Some(number) };
            self.submit(slot, job, Operation::Read { at: range.start(), into });
        }
        self.begun(order)
    }

    /// Reads into the memory of a place.
    fn read_piece(&mut self, order: usize, range: ByteRange) -> Result<(), SessionError> {
        let slot = self.slot()?;
        let into = self.lend(slot, range);
        self.submit(slot, Job { order, range, number: None }, Operation::Read { at: range.start(), into });
        Ok(())
    }

    /// Writes the payload, which is taken from the socket meanwhile.
    fn write(&mut self, cookie: Cookie, range: ByteRange) -> Result<(), SessionError> {
        let order = self.open(cookie, Body::Done(range.count()));
        for range in pieces(range) {
            let slot = self.slot()?;
            let mut from = self.lend(slot, range);
            self.link.receive(&mut from)?;
            self.submit(slot, Job { order, range, number: None }, Operation::Write { at: range.start(), from });
        }
        self.begun(order)
    }

    /// Has the device do what takes no content.
    fn operate(&mut self, cookie: Cookie, range: ByteRange, operation: Operation) -> Result<(), SessionError> {
        let order = self.open(cookie, Body::Done(ByteCount::ZERO));
        let slot = self.slot()?;
        self.submit(slot, Job { order, range, number: None }, operation);
        self.begun(order)
    }

    fn open(&mut self, cookie: Cookie, body: Body) -> usize {
        let order = Order { cookie, pieces: 0, begun: false, failure: None, body };
        let place = self.orders.iter().position(Option::is_none).unwrap_or(self.orders.len());
        if place == self.orders.len() {
            self.orders.push(Some(order));
        } else {
            self.orders[place] = Some(order);
        }
        place
    }

    fn order(&mut self, number: usize) -> &mut Order {
        match &mut self.orders[number] {
            Some(order) => order,
            None => unreachable!("a number is used while its request is under way"),
        }
    }

    /// Takes note that all of a request is with the device.
    fn begun(&mut self, number: usize) -> Result<(), SessionError> {
        let order = self.order(number);
        order.begun = true;
        if order.pieces == 0 { self.finish(number) } else { Ok(()) }
    }

    /// Waits for a place in the queue.
    fn slot(&mut self) -> Result<usize, SessionError> {
        loop {
            if let Some(slot) = self.free.pop() {
                return Ok(slot);
            }
            self.complete_one()?;
        }
    }

    /// Memory of a place, as much as the range is long.
    fn lend(&mut self, slot: usize, range: ByteRange) -> Buffer {
        let memory = self.slots[slot].memory.take().or_else(|| self.pool.try_take());
        // A device that failed badly does not give buffers back, which the kernel may still write to.
        let mut memory = memory.unwrap_or_else(|| Buffer::zeroed(PIECE));
        self.slots[slot].memory = Some(memory.split_off(range.count().to_usize().unwrap_or(PIECE)));
        memory
    }

    /// Takes memory back.
    fn put_back(&mut self, slot: usize, buffer: Option<Buffer>) {
        let behind = self.slots[slot].memory.take();
        self.slots[slot].memory = buffer.zip(behind).and_then(|(mut buffer, behind)| {
            let whole = buffer.unsplit(behind);
            whole.is_ok().then_some(buffer)
        });
    }

    fn submit(&mut self, slot: usize, job: Job, operation: Operation) {
        self.slots[slot].job = job;
        self.order(job.order).pieces += 1;
        // There are sixteen.
        let token = u64::try_from(slot).unwrap_or(u64::MAX);
        let queue = if std::mem::take(&mut self.alone) { &mut self.lone } else { &mut self.deep };
        queue.submit(token, operation);
    }

    /// Waits for an operation of the device, and says what is to be said then.
    fn complete_one(&mut self) -> Result<(), SessionError> {
        // What is alone was there first.
        let Some(Completion { token, mut buffer, result }) = self.lone.wait().or_else(|| self.deep.wait()) else {
            unreachable!("an operation in flight completes")
        };
        let slot = usize::try_from(token).unwrap_or(DEPTH);
        let Job { order: number, range, number: part } = self.slots[slot].job;
        let order = self.order(number);
        order.pieces -= 1;
        if matches!(order.body, Body::Done(_)) {
            // Whatever came of it, and before anybody is told.
            self.export.changed();
        }
        match (result, part) {
            (Err(error), _) => {
                let at = (!range.is_empty()).then_some(range.start());
                self.fail(number, Failure::of(&error, at))?;
            }
            (Ok(()), None) => self.content(number, range, buffer.as_ref())?,
            (Ok(()), Some(part)) => {
                if let Body::Content(parts) = &mut self.order(number).body {
                    parts[part] = Some(buffer.take().unwrap_or_else(|| no_content()));
                }
            }
        }
        if part.is_none() {
            self.put_back(slot, buffer);
        }
        self.free.push(slot);
        match &self.orders[number] {
            Some(order) if order.begun && order.pieces == 0 => self.finish(number),
            _ => Ok(()),
        }
    }

    /// Sends what was read, if it was a read.
    fn content(&mut self, number: usize, range: ByteRange, buffer: Option<&Buffer>) -> Result<(), SessionError> {
        let order = self.order(number);
        let (cookie, mut done) = (order.cookie, order.begun && order.pieces == 0);
        match &order.body {
            Body::Done(_) => return Ok(()),
            Body::Chunks => {
                let content = buffer.unwrap_or_else(|| no_content());
                reply::data(&self.link, cookie, done, range.start(), content)?;
            }
            Body::Content(_) => {
                // It is the only piece.
                done = true;
                let content = buffer.unwrap_or_else(|| no_content());
                reply::simple_data(&self.link, cookie, std::iter::once(content))?;
            }
        }
        self.count_read(range);
        if done {
            self.orders[number] = None;
        }
        Ok(())
    }

    /// The first failure of a request counts.
    fn fail(&mut self, number: usize, failure: Failure) -> Result<(), SessionError> {
        let order = self.order(number);
        if order.failure.is_some() {
            return Ok(());
        }
        let (cookie, done) = (order.cookie, order.begun && order.pieces == 0);
        let told = matches!(order.body, Body::Chunks).then(|| failure.clone());
        order.failure = Some(failure);
        self.export.counting().failed.fetch_add(1, Relaxed);
        let Some(failure) = told else { return Ok(()) };
        reply::error(&self.link, cookie, done, &failure)?;
        if done {
            self.orders[number] = None;
        }
        Ok(())
    }

    /// Says what is left to say of a request.
    fn finish(&mut self, number: usize) -> Result<(), SessionError> {
        let Some(Order { cookie, failure, body, .. }) = self.orders[number].take() else { return Ok(()) };
        match (body, failure) {
            (Body::Chunks, _) => reply::end(&self.link, cookie),
            (Body::Done(_), Some(failure)) if self.rules.agreed.structured => {
                reply::error(&self.link, cookie, true, &failure)
            }
            (_, Some(failure)) => reply::simple(&self.link, cookie, failure.error),
            (Body::Content(parts), None) => {
                let bytes = parts.iter().flatten().map(|part| ByteCount::of_memory(part.len()).get()).sum();
                self.export.counting().bytes_read.fetch_add(bytes, Relaxed);
                reply::simple_data(&self.link, cookie, parts.iter().flatten())
            }
            (Body::Done(written), None) => {
                self.export.counting().bytes_written.fetch_add(written.get(), Relaxed);
                reply::simple(&self.link, cookie, 0)
            }
        }
    }

    fn count_read(&self, range: ByteRange) {
        self.export.counting().bytes_read.fetch_add(range.count().get(), Relaxed);
    }
}

/// Rather an end than a reply without what was asked for.
fn no_content() -> ! {
    unreachable!("a read that succeeded has its buffer")
}
