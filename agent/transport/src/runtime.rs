//! The one module that knows what connections in the network run on: tokio on one thread, with an `io_uring` beside it where the
//! kernel allows that.
//!
//! tokio-uring's runtime is tokio's for one thread with all its drivers, and an `io_uring`; so tokio's sockets, TLS and HTTP work in it.
//! `block_in_place` panics there: whatever takes a processor or waits for a disk is given to tokio's threads for that or to one of ours.
//! Nothing here leaves an operation in the ring, so there is none to be waited for when it goes.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The environment variable that names what is to be used: `tokio` or `io_uring`.
pub const RUNTIME_VARIABLE: &str = "FAILBACK_RUNTIME";

/// How long a runtime that goes may take. What still blocks then is left to itself.
const GOES: Duration = Duration::from_secs(2);

/// What connections run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// tokio alone, which asks with epoll.
    Tokio,
    /// tokio-uring.
    IoUring,
}

/// An `io_uring` was refused once, and is not asked for again: each time would keep three descriptors.
static REFUSED: AtomicBool = AtomicBool::new(false);

/// A thread on which connections run.
pub struct Runtime {
    kind: Kind,
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    gone: Mutex<mpsc::Receiver<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Runtime {
    /// Starts one: of the kind that the environment names, else with an `io_uring` if the kernel allows it.
    ///
    /// # Errors
    ///
    /// When the variable names something else, or the system gives no thread, no epoll, or not the `io_uring` that was named.
    pub fn start() -> io::Result<Self> {
        let named = std::env::var_os(RUNTIME_VARIABLE);
        match named.as_ref().map(|name| name.to_str().unwrap_or_default()) {
            None | Some("") => {
                if !REFUSED.load(Ordering::Relaxed) {
                    match Self::start_as(Kind::IoUring) {
                        Ok(runtime) => return Ok(runtime),
                        Err(_) => REFUSED.store(true, Ordering::Relaxed),
                    }
                }
                Self::start_as(Kind::Tokio)
            }
            Some("tokio") => Self::start_as(Kind::Tokio),
            Some("io_uring") => Self::start_as(Kind::IoUring),
            Some(_) => {
                let why = format!("{RUNTIME_VARIABLE} is neither tokio nor io_uring: set one of them, or take it away");
                Err(io::Error::new(io::ErrorKind::InvalidInput, why))
            }
        }
    }

    /// Starts one of a kind.
    ///
    /// # Errors
    ///
    /// When the system gives no thread, no epoll or no `io_uring`.
    pub fn start_as(kind: Kind) -> io::Result<Self> {
        let (ready, started) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let (going, gone) = mpsc::channel();
        let body = move || {
            // Goes last, when all of the runtime is gone.
            let _going: mpsc::Sender<()> = going;
            let told = ready.clone();
            let serve = async move {
                // Whoever has gone without waiting has stopped it too.
                drop(told.send(Ok(Handle::current())));
                drop(stopped.await);
            };
            let ended = match kind {
                Kind::Tokio => {
                    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
                    built.map(|runtime| runtime.block_on(serve))
                }
                Kind::IoUring => {
                    tokio_uring::Runtime::new(&tokio_uring::builder()).map(|runtime| runtime.block_on(serve))
                }
            };
            if let Err(error) = ended {
                drop(ready.send(Err(error)));
            }
        };
        let thread = thread::Builder::new().name("failback-net".into()).spawn(body)?;
        let handle = started.recv().map_err(io::Error::other)??;
        Ok(Self { kind, handle, stop: Some(stop), gone: Mutex::new(gone), thread: Some(thread) })
    }

    /// Of which kind it is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Starts something that goes on by itself, until the runtime goes.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.spawner().spawn(task);
    }

    /// What starts tasks and keeps nothing alive.
    pub(crate) fn spawner(&self) -> Spawner {
        Spawner(self.handle.clone())
    }

    /// Waits for something from a thread that is not the runtime's.
    pub(crate) fn wait<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> io::Result<T> {
        let (done, result) = mpsc::sync_channel(1);
        self.spawn(async move { drop(done.send(task.await)) });
        result.recv().map_err(|_| io::Error::other("the connection was given up, since this process is ending"))
    }
}

/// Starts tasks on a runtime; those that come after its end are thrown away.
#[derive(Clone)]
pub(crate) struct Spawner(Handle);

impl Spawner {
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(self.0.spawn(task));
    }
}

impl Runtime {
    /// Starts something whose result another task waits for.
    pub(crate) fn start_task<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.handle.spawn(task)
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        drop(self.stop.take());
        let Some(thread) = self.thread.take() else { return };
        if thread.thread().id() == thread::current().id() {
            // A task of its own held it last; the thread ends with that task.
            return;
        }
        let gone = self.gone.get_mut().unwrap_or_else(PoisonError::into_inner);
        if gone.recv_timeout(GOES) == Err(mpsc::RecvTimeoutError::Disconnected) {
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_run_what_they_are_given_and_go() {
        let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
        let files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        for kind in [Kind::Tokio, Kind::IoUring] {
            let before = (threads(), files());
            let runtime = match Runtime::start_as(kind) {
                Ok(runtime) => runtime,
                Err(error) => {
                    assert_eq!(kind, Kind::IoUring, "{error}");
                    eprintln!("skipped: there is no io_uring here ({error})");
                    continue;
                }
            };
            assert_eq!(runtime.wait(async { tokio::task::spawn_blocking(|| 7).await.unwrap() }).unwrap(), 7);
            let slept = runtime.wait(async { tokio::time::sleep(Duration::from_millis(20)).await });
            slept.unwrap();
            runtime.spawn(std::future::pending());
            drop(runtime);
            assert_eq!((threads(), files()), before, "{kind:?}");
        }
    }
}
