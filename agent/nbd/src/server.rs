//! A socket in the file system, and the connections that come through it.

use crate::error::{BindError, ListenError, SessionError};
use crate::export::Export;
use crate::session::serve_stream;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr};
use nix::sys::stat::{Mode, fchmod};
use std::fs;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How often a server looks whether it is to stop.
const TICK: Duration = Duration::from_millis(100);
/// How long a server that is to stop waits for clients to take replies to what is under way.
const GRACE: Duration = Duration::from_secs(2);

/// What clients may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How many connections there may be at a time; further ones are closed at once. Each has 8 MiB of memory at most, and
    /// one whose client does not know structured replies 32 MiB more.
    pub connections: usize,
    /// How long a client may pause in the middle of a message; between two it may be idle for ever. Not zero.
    pub patience: Duration,
}

impl Default for Limits {
    /// 16 connections and a minute.
    fn default() -> Self {
        Self { connections: 16, patience: Duration::from_secs(60) }
    }
}

/// A socket that clients can connect to. Its file is removed when this is dropped.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the socket's file.
    file: (u64, u64),
    limits: Limits,
}

impl Server {
    /// Makes a socket that only its owner can connect to. From now on clients can; they are served while
    /// [`run`](Server::run) does. A socket that a server has left behind is replaced.
    ///
    /// # Errors
    ///
    /// When there is something at `path` that is no socket, or one at which somebody answers; when `path` is too long; or
    /// when the kernel refuses.
    pub fn bind(path: &Path, limits: Limits) -> Result<Self, BindError> {
        let failed = |source: io::Error| BindError::Io { path: path.to_owned(), source };
        let address = UnixAddr::new(path).map_err(|errno| match errno {
            Errno::ENAMETOOLONG => BindError::TooLong { path: path.to_owned() },
            errno => failed(errno.into()),
        })?;
        let socket = match bound(&address) {
            Err(Errno::EADDRINUSE) => {
                remove_stale(path, &address)?;
                bound(&address)
            }
            other => other,
        };
        let socket = socket.map_err(|errno| failed(errno.into()))?;
        let listener = UnixListener::from(socket);
        let about = fs::symlink_metadata(path).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned(), file: (about.dev(), about.ino()), limits })
    }

    /// Where the socket is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Serves clients until `stop` says so; it is asked about ten times a second.
    ///
    /// Then what clients have asked for is still answered, for two seconds at most, and nothing new is taken. Operations
    /// that are under way on the device end in any case. `report` is told of connections that ended otherwise than by
    /// the client's wish.
    ///
    /// # Errors
    ///
    /// When no connections can be accepted any more. Those that were are ended.
    pub fn run(
        &self,
        export: &Export<'_>,
        mut stop: impl FnMut() -> bool,
        report: impl Fn(&SessionError) + Sync,
    ) -> Result<(), ListenError> {
        let guests = Guests::new(self.limits.connections);
        thread::scope(|scope| {
            let served = loop {
                if stop() {
                    break Ok(());
                }
                match self.accept() {
                    Ok(Some(stream)) => {
                        let Some(guest) = guests.admit(stream) else { continue };
                        let report = &report;
                        let work = move || {
                            if let Err(error) = serve_stream(&guest.stream, export, &self.limits) {
                                report(&error);
                            }
                        };
                        // Where no thread can be had, the connection is closed.
                        let _ = thread::Builder::new().name("failback-nbd".to_owned()).spawn_scoped(scope, work);
                    }
                    Ok(None) => {}
                    Err(source) => break Err(ListenError { path: self.path.clone(), source }),
                }
            };
            guests.see_off();
            served
        })
    }

    /// A new connection; waits for a moment until there is one.
    fn accept(&self) -> io::Result<Option<UnixStream>> {
        let mut waiting = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        match poll(&mut waiting, PollTimeout::try_from(TICK).unwrap_or(PollTimeout::ZERO)) {
            Ok(0) | Err(Errno::EINTR) => return Ok(None),
            Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
        let error = match self.listener.accept() {
            Ok((stream, _)) => return Ok(Some(stream)),
            Err(error) => error,
        };
        match error.raw_os_error().map(Errno::from_raw) {
            // Gone again, or taken by nobody.
            Some(Errno::EAGAIN | Errno::ECONNABORTED | Errno::EINTR) => Ok(None),
            // That passes.
            Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) => {
                thread::sleep(TICK);
                Ok(None)
            }
            _ => Err(error),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Somebody else may have put something there meanwhile.
        let ours = |about: fs::Metadata| (about.dev(), about.ino()) == self.file;
        if fs::symlink_metadata(&self.path).is_ok_and(ours) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A socket that listens, with a file that is its owner's from the first moment on: Linux gives the file the mode of the
/// socket, less the umask.
fn bound(address: &UnixAddr) -> Result<OwnedFd, Errno> {
    let socket = socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    socket::bind(socket.as_raw_fd(), address)?;
    socket::listen(&socket, Backlog::MAXCONN)?;
    Ok(socket)
}

/// Removes a socket at which nobody answers.
fn remove_stale(path: &Path, address: &UnixAddr) -> Result<(), BindError> {
    let failed = |source: io::Error| BindError::Io { path: path.to_owned(), source };
    let about = fs::symlink_metadata(path).map_err(failed)?;
    if !about.file_type().is_socket() {
        return Err(BindError::NotASocket { path: path.to_owned() });
    }
    // Without waiting: a server that is there, and takes no connections at the moment, is there all the same.
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let probe = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None);
    let probe = probe.map_err(|errno| failed(errno.into()))?;
    match socket::connect(probe.as_raw_fd(), address) {
        Err(Errno::ECONNREFUSED) => fs::remove_file(path).map_err(failed),
        _ => Err(BindError::InUse { path: path.to_owned() }),
    }
}

/// The connections that there are.
struct Guests {
    places: Mutex<Vec<Option<Arc<UnixStream>>>>,
}

/// A connection; its place is free again when this is dropped.
struct Guest<'guests> {
    guests: &'guests Guests,
    place: usize,
    stream: Arc<UnixStream>,
}

impl Guests {
    fn new(places: usize) -> Self {
        Self { places: Mutex::new(vec![None; places]) }
    }

    fn places(&self) -> MutexGuard<'_, Vec<Option<Arc<UnixStream>>>> {
        // Nothing that is done under the lock can leave the list half changed.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection, if there is one.
    fn admit(&self, stream: UnixStream) -> Option<Guest<'_>> {
        let stream = Arc::new(stream);
        let mut places = self.places();
        let place = places.iter().position(Option::is_none)?;
        places[place] = Some(Arc::clone(&stream));
        Some(Guest { guests: self, place, stream })
    }

    /// Ends all connections: first to what comes, and after a while also to what goes.
    fn see_off(&self) {
        let shut = |how| {
            // One that has ended meanwhile says so, which is as well.
            self.places().iter().flatten().for_each(|stream| drop(stream.shutdown(how)));
        };
        shut(Shutdown::Read);
        let end = Instant::now() + GRACE;
        while Instant::now() < end && self.places().iter().any(Option::is_some) {
            thread::sleep(Duration::from_millis(5));
        }
        shut(Shutdown::Both);
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        self.guests.places()[self.place] = None;
    }
}
