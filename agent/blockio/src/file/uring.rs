//! The engine that stands on `io_uring`: one ring per queue, used by the thread that made the queue.

use super::{
    medium::Medium,
    task::{Call, Task},
};
use crate::{Action, Completion, IoError, Operation, Queue, transfer::Next};
use io_uring::{IoUring, Probe, opcode, squeue, types};
use std::{collections::VecDeque, fs, io, marker::PhantomData, mem::ManuallyDrop, sync::Arc, thread, time::Duration};

/// With so many entries waiting, the kernel is told of them although completions are at hand: a caller that works on one
/// completion after the other would otherwise let the device run dry.
const BATCH: usize = 8;

/// How often the kernel may say that it has no memory to take entries, before that counts as a failure: with the pause,
/// about four seconds.
const ENTER_TRIES: u32 = 2000;
const ENTER_PAUSE: Duration = Duration::from_millis(2);

/// A ring and the operations on it.
///
/// An operation, with its memory and its descriptors, moves into `slots` *before* its entry is pushed and leaves only when
/// its completion has been seen. If the ring itself fails, so that completions can no longer be seen, everything on it is
/// leaked: memory that the kernel may still write to is never freed.
pub(super) struct UringQueue<'device> {
    ring: ManuallyDrop<IoUring>,
    medium: Arc<Medium>,
    depth: usize,
    /// Operations that the kernel has, or is about to be told of; the index is the `user_data` of their entries.
    slots: Vec<Option<Task>>,
    free: Vec<usize>,
    ready: VecDeque<Completion>,
    /// Entries pushed since the kernel was last told.
    pushed: usize,
    /// The errno with which the ring failed.
    broken: Option<i32>,
    /// The device is borrowed; and a ring with a single issuer must stay on its thread.
    _device: PhantomData<(&'device (), *const ())>,
}

/// A ring for one thread, with fewer interruptions where the kernel can (`DEFER_TASKRUN`, 6.1), plain where not (older
/// distributions have 5.14).
fn ring(entries: u32) -> io::Result<IoUring> {
    let tuned = IoUring::builder().setup_single_issuer().setup_defer_taskrun().setup_submit_all().build(entries);
    match tuned {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => plain_ring(entries),
        other => other,
    }
}

fn plain_ring(entries: u32) -> io::Result<IoUring> {
    IoUring::builder().build(entries)
}

/// Why there is no `io_uring` here, with a sentence for the administrator; `None` if there is.
pub(super) fn refused() -> Option<(io::Error, String)> {
    let error = match ring(2).and_then(|ring| has_operations(&ring)) {
        Ok(()) => return None,
        Err(error) => error,
    };
    let sysctl = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok();
    let note = note(sysctl.as_deref(), &error);
    Some((error, note))
}

/// Whether the kernel knows every operation used here (5.6).
fn has_operations(ring: &IoUring) -> io::Result<()> {
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let needed = [opcode::Read::CODE, opcode::Write::CODE, opcode::Fsync::CODE, opcode::Fallocate::CODE];
    if needed.into_iter().all(|code| probe.is_supported(code)) {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP))
    }
}

fn note(sysctl: Option<&str>, error: &io::Error) -> String {
    match sysctl.map(str::trim) {
        Some("2") => {
            "io_uring is switched off by the setting kernel.io_uring_disabled=2, so disks are read and written \
            with pread and pwrite; `sysctl kernel.io_uring_disabled=1`, as root, allows it to root"
                .to_owned()
        }
        Some("1") => {
            "io_uring is kept to root and to one group by the setting kernel.io_uring_disabled=1, so disks are \
            read and written with pread and pwrite; run as root, or name a group of this user with `sysctl \
            kernel.io_uring_group=GID`, as root"
                .to_owned()
        }
        // No such file: the kernel is older than 6.6 and has no such switch.
        _ => format!(
            "the kernel refuses io_uring ({error}), so disks are read and written with pread and pwrite; in a container, \
             its system call filter may be the reason"
        ),
    }
}

impl UringQueue<'_> {
    pub(super) fn new(medium: &Arc<Medium>, depth: usize) -> Result<Self, IoError> {
        let entries = u32::try_from(depth).unwrap_or(u32::MAX);
        let ring = ring(entries).map_err(|source| IoError::whole(Action::Open, medium.name(), source))?;
        Ok(Self::on(ring, medium, depth))
    }

    /// A queue on a ring with at least `depth` entries, made by this thread.
    fn on(ring: IoUring, medium: &Arc<Medium>, depth: usize) -> Self {
        Self {
            ring: ManuallyDrop::new(ring),
            medium: Arc::clone(medium),
            depth,
            slots: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
            ready: VecDeque::with_capacity(depth),
            pushed: 0,
            broken: None,
            _device: PhantomData,
        }
    }

    /// Puts a task into a slot and pushes the entry for its next call; ends it if there is no call to make.
    fn start(&mut self, mut task: Task) {
        if let Some(errno) = self.broken {
            self.ready.push_back(task.finish(Err(io::Error::from_raw_os_error(errno))));
            return;
        }
        let Some(call) = task.call() else {
            self.ready.push_back(task.finish(Ok(())));
            return;
        };
        let Some(slot) = self.free.pop() else {
            unreachable!("there are as many slots as operations may be in flight")
        };
        self.slots[slot] = Some(task);
        self.push(&entry(call, slot));
    }

    fn push(&mut self, entry: &squeue::Entry) {
        loop {
            // SAFETY: the memory and the descriptor in the entry belong to a task in `slots`, where it stays until the
            // completion of this entry was seen, or for ever. Moving the task moves neither.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                self.pushed += 1;
                return;
            }
            // There are as many entries as slots, and one entry per slot, so this happens only while the kernel has not
            // yet taken what it was told of.
            self.enter(0);
            if self.broken.is_some() {
                return;
            }
        }
    }

    /// Tells the kernel of pushed entries and waits until it has completed `want` operations.
    fn enter(&mut self, want: usize) {
        let mut tries = 0;
        while self.broken.is_none() {
            match self.ring.submit_and_wait(want) {
                Ok(taken) => {
                    self.pushed = self.pushed.saturating_sub(taken);
                    return;
                }
                // A failed submit is not a failed operation: the entries are still in the ring.
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    // The kernel wants completions to be taken first.
                    Some(libc::EBUSY) if !self.ring.completion().is_empty() => return,
                    Some(libc::EAGAIN | libc::EBUSY) if tries < ENTER_TRIES => {
                        tries += 1;
                        thread::sleep(ENTER_PAUSE);
                    }
                    errno => self.give_up(errno.unwrap_or(libc::EIO)),
                },
            }
        }
    }

    /// Takes all completions that are there, and goes on with the operations that are not done.
    fn reap(&mut self) {
        loop {
            let Some(entry) = self.ring.completion().next() else { return };
            let Some(slot) = usize::try_from(entry.user_data()).ok().filter(|slot| *slot < self.depth) else {
                continue;
            };
            let Some(mut task) = self.slots[slot].take() else { continue };
            self.free.push(slot);
            // A negative result is an errno, negated.
            let result = u64::try_from(entry.result()).map_err(|_| entry.result().saturating_neg());
            match task.advance(result) {
                Next::Continue => self.start(task),
                Next::Retry(pause) => {
                    thread::sleep(pause);
                    self.start(task);
                }
                Next::Done => self.ready.push_back(task.finish(Ok(()))),
                Next::Failed(error) => self.ready.push_back(task.finish(Err(error))),
            }
        }
    }

    /// Ends everything with an error and without its memory, which the kernel may still have.
    fn give_up(&mut self, errno: i32) {
        self.broken = Some(errno);
        for slot in &mut self.slots {
            if let Some(task) = slot.take() {
                self.ready.push_back(task.abandon(errno));
            }
        }
    }

    fn on_the_ring(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

impl Queue for UringQueue<'_> {
    fn depth(&self) -> usize {
        self.depth
    }

    fn in_flight(&self) -> usize {
        let on_the_ring = if self.broken.is_some() { 0 } else { self.on_the_ring() };
        on_the_ring + self.ready.len()
    }

    fn submit(&mut self, token: u64, operation: Operation) {
        assert!(self.in_flight() < self.depth, "more than {} operations in flight", self.depth);
        match Task::new(&self.medium, token, operation) {
            Ok(task) => self.start(task),
            Err(refused) => self.ready.push_back(refused),
        }
    }

    fn wait(&mut self) -> Option<Completion> {
        loop {
            if self.broken.is_none() {
                self.reap();
            }
            if !self.ready.is_empty() {
                if self.pushed >= BATCH {
                    self.enter(0);
                }
                return self.ready.pop_front();
            }
            if self.broken.is_some() || self.on_the_ring() == 0 {
                return None;
            }
            self.enter(1);
        }
    }
}

impl Drop for UringQueue<'_> {
    fn drop(&mut self) {
        while self.wait().is_some() {}
        if self.broken.is_none() {
            // SAFETY: dropped once, here, and not used afterwards. Nothing is in flight.
            unsafe { ManuallyDrop::drop(&mut self.ring) };
        }
    }
}

fn entry(call: Call, slot: usize) -> squeue::Entry {
    let entry = match call {
        Call::Read { fd, at, memory, bytes } => opcode::Read::new(types::Fd(fd), memory, bytes).offset(at).build(),
        Call::Write { fd, at, memory, bytes } => opcode::Write::new(types::Fd(fd), memory, bytes).offset(at).build(),
        Call::Fallocate { fd, mode, at, bytes } => {
            opcode::Fallocate::new(types::Fd(fd), bytes).offset(at).mode(mode).build()
        }
        Call::Flush { fd } => opcode::Fsync::new(types::Fd(fd)).flags(types::FsyncFlags::DATASYNC).build(),
    };
    // A queue has at most 1024 slots.
    entry.user_data(u64::try_from(slot).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Buffer, Caching, file::open};
    use failback_units::{ByteCount, ByteOffset};

    const PIECE: usize = 64 << 10;

    fn medium() -> Arc<Medium> {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        Arc::new(open::medium(file.into(), "test".into(), Caching::Direct).unwrap())
    }

    fn at(token: u64) -> ByteOffset {
        ByteOffset::new(token * ByteCount::of_memory(PIECE).get()).unwrap()
    }

    fn write(token: u64) -> Operation {
        let mut from = Buffer::zeroed(PIECE);
        from.fill(u8::try_from(token).unwrap() + 1);
        Operation::Write { at: at(token), from }
    }

    /// What older kernels have, with no limit on who submits and completions at any time.
    #[test]
    fn a_plain_ring_does_too() {
        let medium = medium();
        let mut queue = UringQueue::on(plain_ring(16).unwrap(), &medium, 16);
        for token in 0..16 {
            queue.submit(token, write(token));
        }
        while let Some(completion) = queue.wait() {
            completion.result.unwrap();
        }
        queue.submit(99, Operation::Flush);
        queue.wait().unwrap().result.unwrap();
        for token in 0..16 {
            queue.submit(token, Operation::Read { at: at(token), into: Buffer::zeroed(PIECE) });
        }
        while let Some(completion) = queue.wait() {
            completion.result.unwrap();
            let wanted = u8::try_from(completion.token).unwrap() + 1;
            assert!(completion.buffer.unwrap().iter().all(|byte| *byte == wanted));
        }
    }

    #[test]
    fn a_broken_ring_ends_everything_and_keeps_its_memory() {
        let medium = medium();
        let mut queue = UringQueue::new(&medium, 4).unwrap();
        for token in 0..3 {
            queue.submit(token, write(token));
        }
        queue.give_up(libc::ENXIO);
        assert_eq!(queue.in_flight(), 3);
        queue.submit(3, write(3));
        for token in 0..4 {
            let completion = queue.wait().unwrap();
            let error = completion.result.unwrap_err();
            assert_eq!((completion.token, error.source.raw_os_error()), (token, Some(libc::ENXIO)));
            // What was on the ring is leaked; what came later never was.
            assert_eq!(completion.buffer.is_some(), token == 3);
        }
        assert!(queue.wait().is_none());
    }

    #[test]
    fn notes_say_what_to_do() {
        let refused = io::Error::from_raw_os_error(libc::EPERM);
        assert!(note(Some("2\n"), &refused).contains("sysctl kernel.io_uring_disabled=1"));
        assert!(note(Some("1\n"), &refused).contains("kernel.io_uring_group"));
        for sysctl in [None, Some("0\n")] {
            let note = note(sysctl, &refused);
            assert!(note.contains("os error 1") && !note.contains("sysctl"), "{note}");
        }
    }
}
