//! The engine for kernels that refuse `io_uring`: `pread`, `pwrite` and their like, on a few threads per queue.

use super::{
    medium::Medium,
    task::{Call, Task},
};
use crate::{Completion, Operation, Queue, transfer::Next};
use nix::errno::Errno;
use std::{
    collections::VecDeque,
    marker::PhantomData,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    thread::{self, JoinHandle},
};

/// The most threads of a queue: in `examples/measure.rs`, 8 to 16 were about as fast as `io_uring`; more were not tried.
const MAX_THREADS: usize = 16;

/// A queue of depth 1 makes its calls itself, in `wait`; a deeper one hands them to threads, started as they are needed.
pub(super) struct BlockingQueue<'device> {
    medium: Arc<Medium>,
    depth: usize,
    in_flight: usize,
    /// Completions that needed no call, and tasks that wait for `wait`.
    ready: VecDeque<Completion>,
    own: VecDeque<Task>,
    jobs: Arc<Jobs>,
    threads: Vec<JoinHandle<()>>,
    /// For the threads to send what they finished; one stays here, so that receiving never finds the channel closed.
    sender: mpsc::Sender<Completion>,
    finished: mpsc::Receiver<Completion>,
    _device: PhantomData<&'device ()>,
}

/// What the threads of one queue have to do.
#[derive(Default)]
struct Jobs {
    list: Mutex<JobList>,
    more: Condvar,
}

#[derive(Default)]
struct JobList {
    tasks: VecDeque<Task>,
    idle: usize,
    closed: bool,
}

impl Jobs {
    fn list(&self) -> MutexGuard<'_, JobList> {
        // Nothing that is done under the lock can leave the list half changed.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next task, or `None` when the queue is dropped and nothing is left to do.
    fn next(&self) -> Option<Task> {
        let mut list = self.list();
        loop {
            if let Some(task) = list.tasks.pop_front() {
                return Some(task);
            }
            if list.closed {
                return None;
            }
            list.idle += 1;
            list = self.more.wait(list).unwrap_or_else(PoisonError::into_inner);
            list.idle -= 1;
        }
    }
}

impl BlockingQueue<'_> {
    pub(super) fn new(medium: &Arc<Medium>, depth: usize) -> Self {
        let (sender, finished) = mpsc::channel();
        Self {
            medium: Arc::clone(medium),
            depth,
            in_flight: 0,
            ready: VecDeque::new(),
            own: VecDeque::new(),
            jobs: Arc::default(),
            threads: Vec::new(),
            sender,
            finished,
            _device: PhantomData,
        }
    }

    /// Hands a task to a thread, or keeps it if there is none to have.
    fn hand_over(&mut self, task: Task) {
        let mut list = self.jobs.list();
        let another = list.tasks.len() >= list.idle && self.threads.len() < MAX_THREADS.min(self.depth);
        list.tasks.push_back(task);
        drop(list);
        self.jobs.more.notify_one();
        if another {
            let (jobs, sender) = (Arc::clone(&self.jobs), self.sender.clone());
            let work = move || {
                while let Some(task) = jobs.next() {
                    // The queue waits for every task before it goes, so there is a receiver.
                    let _ = sender.send(carry_out(task));
                }
            };
            match thread::Builder::new().name("failback-block".to_owned()).spawn(work) {
                Ok(thread) => self.threads.push(thread),
                // The threads there are do it; without any, this one does.
                Err(_) if self.threads.is_empty() => self.own.extend(self.jobs.list().tasks.drain(..)),
                Err(_) => {}
            }
        }
    }
}

impl Queue for BlockingQueue<'_> {
    fn depth(&self) -> usize {
        self.depth
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn submit(&mut self, token: u64, operation: Operation) {
        assert!(self.in_flight < self.depth, "more than {} operations in flight", self.depth);
        self.in_flight += 1;
        match Task::new(&self.medium, token, operation) {
            Err(refused) => self.ready.push_back(refused),
            Ok(task) if self.depth == 1 => self.own.push_back(task),
            Ok(task) => self.hand_over(task),
        }
    }

    fn wait(&mut self) -> Option<Completion> {
        if self.in_flight == 0 {
            return None;
        }
        let completion = if let Some(ready) = self.ready.pop_front() {
            ready
        } else if let Some(task) = self.own.pop_front() {
            carry_out(task)
        } else {
            match self.finished.recv() {
                Ok(completion) => completion,
                Err(_) => unreachable!("this queue holds a sender itself"),
            }
        };
        self.in_flight -= 1;
        Some(completion)
    }
}

impl Drop for BlockingQueue<'_> {
    fn drop(&mut self) {
        while self.wait().is_some() {}
        self.jobs.list().closed = true;
        self.jobs.more.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so already.
            let _ = thread.join();
        }
    }
}

/// Does all of an operation, one call after the other.
fn carry_out(mut task: Task) -> Completion {
    while let Some(call) = task.call() {
        match task.advance(make(call)) {
            Next::Continue => {}
            Next::Retry(pause) => thread::sleep(pause),
            Next::Done => break,
            Next::Failed(error) => return task.finish(Err(error)),
        }
    }
    task.finish(Ok(()))
}

/// Makes a call; `Ok` is the number of bytes, or 0 for what does not count.
fn make(call: Call) -> Result<u64, i32> {
    let position = |at: u64| i64::try_from(at).map_err(|_| libc::EOVERFLOW);
    let size = |bytes: u32| usize::try_from(bytes).map_err(|_| libc::EINVAL);
    let result = match call {
        Call::Read { fd, at, memory, bytes } => {
            // SAFETY: the task that made the call owns the descriptor and exclusively owns `bytes` bytes at `memory`.
            unsafe { libc::pread(fd, memory.cast(), size(bytes)?, position(at)?) }
        }
        Call::Write { fd, at, memory, bytes } => {
            // SAFETY: the task that made the call owns the descriptor and `bytes` bytes at `memory`.
            unsafe { libc::pwrite(fd, memory.cast(), size(bytes)?, position(at)?) }
        }
        Call::Fallocate { fd, mode, at, bytes } => {
            // SAFETY: the call takes no memory, and the task that made it owns the descriptor.
            let result = unsafe { libc::fallocate(fd, mode, position(at)?, position(bytes)?) };
            isize::try_from(result).unwrap_or(-1)
        }
        Call::Flush { fd } => {
            // SAFETY: the call takes no memory, and the task that made it owns the descriptor.
            let result = unsafe { libc::fdatasync(fd) };
            isize::try_from(result).unwrap_or(-1)
        }
    };
    u64::try_from(result).map_err(|_| Errno::last_raw())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_keep_their_number() {
        let call = Call::Flush { fd: -1 };
        assert_eq!(make(call), Err(libc::EBADF));
    }
}
