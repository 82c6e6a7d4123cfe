//! What happens in a simulated world, and in which order.

use super::{
    POWER_LOSS,
    content::{Change, Disk, Fault, Pending, WHOLE, fate, settle},
    random::Random,
};
use crate::{
    Operation,
    transfer::{Next, Transfer},
};
use failback_units::{ByteCount, ByteOffset, ByteRange};
use std::{io, sync::Arc};

/// Something that happened in a world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The number of the mutation, counted from 1; for anything else, that of the latest mutation.
    pub number: u64,
    /// The disk's name; empty for what happens to the world.
    pub disk: Arc<str>,
    /// What happened.
    pub kind: EventKind,
    /// Where; empty for flushes and for what happens to the world.
    pub range: ByteRange,
    /// The errno, if it failed.
    pub errno: Option<i32>,
}

/// What kind of thing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// A read; traced only when asked for.
    Read,
    /// A write.
    Write,
    /// A range made zero.
    Zero,
    /// A flush.
    Flush,
    /// A new size; the range is what was added or cut off.
    Resize,
    /// The power went off; the mutation before was in flight.
    PowerLoss,
    /// Back to service.
    Reboot,
}

/// The operations that an injected fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultOn {
    /// Reads.
    Reads,
    /// Writes and zeroes.
    Writes,
    /// Flushes, wherever the range lies.
    Flushes,
}

/// A world at one moment, to go back to.
#[derive(Clone)]
pub struct Snapshot(State);

/// The moment at which an operation was submitted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Submitted {
    epoch: u64,
    powered: bool,
    /// The last change whose completion was delivered.
    sequence: u64,
}

/// An operation that is going to fail: the `left`-th of its kind from now on.
#[derive(Clone, Copy, Debug)]
struct FailAt {
    left: u64,
    on: FaultOn,
    errno: i32,
}

#[derive(Clone)]
pub(super) struct State {
    random: Random,
    disks: Vec<Disk>,
    mutations: u64,
    crash_at: Option<u64>,
    fail_at: Option<FailAt>,
    powered: bool,
    /// Goes up at every reboot and restore, so that what was in flight before is recognised.
    epoch: u64,
    trace: Vec<Event>,
    trace_reads: bool,
}

impl State {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            disks: Vec::new(),
            mutations: 0,
            crash_at: None,
            fail_at: None,
            powered: true,
            epoch: 0,
            trace: Vec::new(),
            trace_reads: false,
        }
    }

    pub(super) fn add_disk(&mut self, name: &Arc<str>, size: u64) -> usize {
        self.disks.push(Disk::new(name, size));
        self.disks.len() - 1
    }

    pub(super) fn reseed(&mut self, seed: u64) {
        self.random = Random::new(seed);
    }

    pub(super) fn crash_after(&mut self, n: u64) {
        self.crash_at = Some(self.mutations.saturating_add(n));
    }

    pub(super) fn fail_after(&mut self, n: u64, on: FaultOn, errno: i32) {
        self.fail_at = Some(FailAt { left: n, on, errno });
    }

    /// The errno of the fault that hits an operation, if one does.
    fn fault(&mut self, disk: usize, on: FaultOn, range: ByteRange) -> Option<i32> {
        if let Some(next) = self.fail_at.as_mut().filter(|next| next.on == on) {
            next.left -= 1;
            if next.left == 0 {
                return self.fail_at.take().map(|now| now.errno);
            }
        }
        self.disks[disk].fault(on, range)
    }

    pub(super) fn is_powered(&self) -> bool {
        self.powered
    }

    pub(super) fn mutations(&self) -> u64 {
        self.mutations
    }

    pub(super) fn trace(&self) -> &[Event] {
        &self.trace
    }

    pub(super) fn clear_trace(&mut self) {
        self.trace.clear();
    }

    pub(super) fn trace_reads(&mut self, traced: bool) {
        self.trace_reads = traced;
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot(self.clone())
    }

    pub(super) fn restore(&mut self, snapshot: &Snapshot) {
        let epoch = self.epoch + 1;
        *self = snapshot.0.clone();
        self.epoch = epoch.max(self.epoch + 1);
    }

    pub(super) fn cut_power(&mut self) {
        if self.powered {
            self.powered = false;
            self.note_world(EventKind::PowerLoss);
        }
    }

    pub(super) fn reboot(&mut self) {
        self.cut_power();
        for disk in &mut self.disks {
            settle(disk, &mut self.random);
        }
        self.powered = true;
        self.crash_at = None;
        self.epoch += 1;
        self.note_world(EventKind::Reboot);
    }

    pub(super) fn submitted(&self, disk: usize) -> Submitted {
        Submitted { epoch: self.epoch, powered: self.powered, sequence: self.disks[disk].sequence }
    }

    /// An index below `len`, by chance.
    pub(super) fn pick(&mut self, len: usize) -> usize {
        self.random.index(len)
    }

    pub(super) fn add_fault(&mut self, disk: usize, on: FaultOn, range: ByteRange, errno: i32, times: u32) {
        self.disks[disk].faults.push(Fault { on, range, errno, times });
    }

    pub(super) fn clear_faults(&mut self, disk: usize) {
        self.disks[disk].faults.clear();
    }

    pub(super) fn limit_space(&mut self, disk: usize, space: Option<ByteCount>) {
        self.disks[disk].space = space.map(ByteCount::get);
    }

    pub(super) fn short_transfers(&mut self, disk: usize, percent: u8) {
        self.disks[disk].short_percent = percent.min(90);
    }

    pub(super) fn write_durably(&mut self, disk: usize, at: ByteOffset, bytes: &[u8]) {
        let disk = &mut self.disks[disk];
        disk.current.write(at.get(), bytes);
        disk.durable.write(at.get(), bytes);
    }

    pub(super) fn content(&self, disk: usize, durable: bool, into: &mut [u8]) {
        let disk = &self.disks[disk];
        let store = if durable { &disk.durable } else { &disk.current };
        store.read(0, into);
    }

    pub(super) fn drop_caches(&mut self, disk: usize) {
        let disk = &mut self.disks[disk];
        disk.current = disk.durable.clone();
        for pending in &disk.pending {
            pending.change.apply(&mut disk.current);
        }
    }

    pub(super) fn extent(&self, disk: usize, from: u64, end: u64) -> (u64, bool) {
        self.disks[disk].current.extent(from, end)
    }

    /// Carries out an operation of `range`, which has been checked.
    pub(super) fn carry_out(
        &mut self,
        disk: usize,
        range: ByteRange,
        operation: &mut Operation,
        submitted: Submitted,
    ) -> io::Result<()> {
        let kind = match operation {
            Operation::Read { .. } => EventKind::Read,
            Operation::Write { .. } => EventKind::Write,
            Operation::Zero { .. } => EventKind::Zero,
            Operation::Flush => EventKind::Flush,
        };
        if range.is_empty() && kind != EventKind::Flush {
            return Ok(());
        }
        if self.powered && submitted.epoch == self.epoch && kind != EventKind::Read {
            self.mutations += 1;
            if self.crash_at == Some(self.mutations) {
                self.note(disk, kind, range, Some(POWER_LOSS));
                self.cut_power();
            }
        }
        if !self.powered || submitted.epoch != self.epoch {
            if submitted.powered && submitted.epoch == self.epoch {
                self.leave_in_flight(disk, operation);
            }
            return Err(io::Error::from_raw_os_error(POWER_LOSS));
        }
        let result = match operation {
            Operation::Read { at, into } => self.read(disk, *at, into),
            Operation::Write { at, from } => self.write(disk, *at, from),
            Operation::Zero { range } => self.zero(disk, *range),
            Operation::Flush => self.flush(disk, submitted.sequence),
        };
        if kind != EventKind::Read || self.trace_reads {
            self.note(disk, kind, range, result.as_ref().err().map(|error| error.raw_os_error().unwrap_or(libc::EIO)));
        }
        result
    }

    pub(super) fn size(&self, disk: usize) -> u64 {
        self.disks[disk].current.size()
    }

    /// Sets the size of a disk: a mutation like any other, done at once.
    pub(super) fn resize(&mut self, disk: usize, to: u64) -> io::Result<()> {
        let from = self.size(disk);
        let ends = (ByteOffset::new(from.min(to)), ByteOffset::new(from.max(to)));
        let range = ends.0.zip(ends.1).and_then(|(start, end)| ByteRange::between(start, end)).unwrap_or_default();
        if from == to {
            return Ok(());
        }
        let change = Change::Resize { from, to };
        if self.powered {
            self.mutations += 1;
            if self.crash_at == Some(self.mutations) {
                self.note(disk, EventKind::Resize, range, Some(POWER_LOSS));
                self.cut_power();
                self.disks[disk].pending.push(Pending { sequence: u64::MAX, change: change.clone() });
            }
        }
        if !self.powered {
            return Err(io::Error::from_raw_os_error(POWER_LOSS));
        }
        let fault = self.fault(disk, FaultOn::Writes, range);
        self.note(disk, EventKind::Resize, range, fault);
        if let Some(errno) = fault {
            return Err(io::Error::from_raw_os_error(errno));
        }
        self.disks[disk].complete(change);
        Ok(())
    }

    fn read(&mut self, disk: usize, at: ByteOffset, into: &mut [u8]) -> io::Result<()> {
        let range = ByteRange::new(at, ByteCount::of_memory(into.len())).unwrap_or_default();
        if let Some(errno) = self.fault(disk, FaultOn::Reads, range) {
            return Err(io::Error::from_raw_os_error(errno));
        }
        self.in_pieces(disk, range, |disk, piece, done| {
            let len = piece.count().to_usize().unwrap_or(0);
            disk.current.read(piece.start().get(), &mut into[done..done + len]);
            Ok(piece.count().get())
        })
    }

    fn write(&mut self, disk: usize, at: ByteOffset, from: &[u8]) -> io::Result<()> {
        let range = ByteRange::new(at, ByteCount::of_memory(from.len())).unwrap_or_default();
        if let Some(errno) = self.fault(disk, FaultOn::Writes, range) {
            self.half_done(disk, &Change::of(at, from));
            return Err(io::Error::from_raw_os_error(errno));
        }
        self.in_pieces(disk, range, |disk, piece, done| {
            let mut count = piece.count().get();
            if let Some(space) = &mut disk.space {
                if *space == 0 {
                    return Err(libc::ENOSPC);
                }
                count = count.min(*space);
                *space -= count;
            }
            let len = ByteCount::new(count).and_then(ByteCount::to_usize).unwrap_or(0);
            disk.complete(Change::of(piece.start(), &from[done..done + len]));
            Ok(count)
        })
    }

    fn zero(&mut self, disk: usize, range: ByteRange) -> io::Result<()> {
        let change = Change::zero(range);
        if let Some(errno) = self.fault(disk, FaultOn::Writes, range) {
            self.half_done(disk, &change);
            return Err(io::Error::from_raw_os_error(errno));
        }
        self.disks[disk].complete(change);
        Ok(())
    }

    fn flush(&mut self, disk: usize, sequence: u64) -> io::Result<()> {
        let failed = self.fault(disk, FaultOn::Flushes, ByteRange::default());
        let disk = &mut self.disks[disk];
        let (flushed, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut disk.pending).into_iter().partition(|pending| pending.sequence <= sequence);
        disk.pending = later;
        for pending in flushed {
            // What a failed flush does not make durable is lost: the cache believes it written.
            let percent = if failed.is_some() { fate(&mut self.random) } else { WHOLE };
            for change in pending.change.torn(percent, &disk.durable, &mut self.random) {
                change.apply(&mut disk.durable);
            }
        }
        failed.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }

    /// Moves the bytes of `range` in one piece, or in several with interruptions where that was asked for.
    fn in_pieces(
        &mut self,
        disk: usize,
        range: ByteRange,
        mut one: impl FnMut(&mut Disk, ByteRange, usize) -> Result<u64, i32>,
    ) -> io::Result<()> {
        let disk = &mut self.disks[disk];
        let mut transfer = Transfer::new(range);
        loop {
            let left = transfer.left();
            let done = transfer.done().to_usize().unwrap_or(usize::MAX);
            let mut piece = left;
            let mut result = Ok(0);
            if self.random.percent(disk.short_percent) {
                let count = ByteCount::new(self.random.below(left.count().get()));
                piece = count.and_then(|count| ByteRange::new(left.start(), count)).unwrap_or(left);
                result = Err(if self.random.percent(50) { libc::EINTR } else { libc::EAGAIN });
            }
            if !piece.is_empty() {
                result = one(disk, piece, done);
            }
            match transfer.advance(result, nothing_moved) {
                Next::Continue | Next::Retry(_) => {}
                Next::Done => return Ok(()),
                Next::Failed(error) => return Err(error),
            }
        }
    }

    /// A change that failed, and came about in part.
    fn half_done(&mut self, disk: usize, change: &Change) {
        let disk = &mut self.disks[disk];
        let percent = fate(&mut self.random);
        for change in change.torn(percent, &disk.current, &mut self.random) {
            disk.complete(change);
        }
    }

    /// A change that was under way when the power went off: what became of it is decided at the reboot.
    fn leave_in_flight(&mut self, disk: usize, operation: &Operation) {
        let change = match operation {
            Operation::Write { at, from } => Change::of(*at, from),
            Operation::Zero { range } => Change::zero(*range),
            Operation::Read { .. } | Operation::Flush => return,
        };
        self.disks[disk].pending.push(Pending { sequence: u64::MAX, change });
    }

    fn note(&mut self, disk: usize, kind: EventKind, range: ByteRange, errno: Option<i32>) {
        let disk = Arc::clone(&self.disks[disk].name);
        self.trace.push(Event { number: self.mutations, disk, kind, range, errno });
    }

    fn note_world(&mut self, kind: EventKind) {
        let (disk, range) = (Arc::from(""), ByteRange::default());
        self.trace.push(Event { number: self.mutations, disk, kind, range, errno: None });
    }
}

/// Every step of a simulated transfer moves something or says why not.
fn nothing_moved() -> io::Error {
    io::Error::other("a simulated transfer moved nothing")
}
