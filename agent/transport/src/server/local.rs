//! Connections at Unix sockets. Who may reach a socket is decided by the file system: it belongs to one user, and only that user
//! and root may use it.

use super::{Caller, Door, Event, ServerError, Shared, api};
use crate::link::{Nobody, link_over};
use crate::unix::{Answers, who_answers};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::sleep;

/// Connections that wait to be taken.
const WAITING: i32 = 128;
/// How long a listener pauses when the system gives it nothing.
const PAUSE: Duration = Duration::from_millis(100);

/// A socket in the file system; it goes with this.
pub(super) struct LocalSocket {
    path: PathBuf,
    /// Device and inode of our socket: another one at its path is not ours to remove.
    own: (u64, u64),
    /// Held as long as the socket is there. The file stays: whoever waits for the lock has it open.
    _lock: Flock<File>,
}

impl LocalSocket {
    /// Makes the socket, for its owner only. A socket that is left from a server that is gone is replaced.
    pub(super) fn bind(path: PathBuf) -> Result<(Self, UnixListener), ServerError> {
        let shown = path.display().to_string();
        let cannot = |what: &str| {
            let what = format!("cannot {what} {shown}");
            move |error: io::Error| ServerError::Socket(format!("{what}: {error}"))
        };
        let directory = path.parent().filter(|_| path.is_absolute());
        let Some(directory) = directory else {
            return Err(ServerError::Socket(format!("{shown} is no absolute path: name the whole path of the socket")));
        };
        make_directory(directory)?;
        let lock = lock_beside(&path)?;
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(cannot("look at")(error)),
            Ok(found) if !found.file_type().is_socket() => {
                let why =
                    format!("{shown} is no socket, and so not from failback: move it away, or choose another path");
                return Err(ServerError::Socket(why));
            }
            Ok(_) => match who_answers(&path).map_err(cannot("connect to"))? {
                Answers::Somebody => return Err(in_use(&shown)),
                Answers::Nobody => fs::remove_file(&path).map_err(cannot("replace"))?,
            },
        }
        let make = || -> io::Result<(UnixListener, (u64, u64))> {
            let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
            bind(fd.as_raw_fd(), &UnixAddr::new(&path)?)?;
            // Nobody can connect before it listens.
            fs::set_permissions(&path, Permissions::from_mode(0o600))?;
            listen(&fd, Backlog::new(WAITING)?)?;
            let listener = UnixListener::from(fd);
            listener.set_nonblocking(true)?;
            let made = fs::symlink_metadata(&path)?;
            Ok((listener, (made.dev(), made.ino())))
        };
        let (listener, own) = make().map_err(cannot("listen at"))?;
        Ok((Self { path, own, _lock: lock }, listener))
    }
}

impl Drop for LocalSocket {
    fn drop(&mut self) {
        let is_own = fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.own);
        if is_own {
            drop(fs::remove_file(&self.path));
        }
    }
}

fn in_use(path: &str) -> ServerError {
    ServerError::Socket(format!(
        "another failback serves at {path} already: stop that one first, or choose another path"
    ))
}

/// The directory, for its owner only if it is made here. One that others may write in is refused: they could put their own socket there.
fn make_directory(directory: &Path) -> Result<(), ServerError> {
    let shown = directory.display();
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory).and_then(|()| fs::metadata(directory));
    let made = made.map_err(|error| ServerError::Socket(format!("cannot make {shown}: {error}")))?;
    if made.mode() & 0o022 != 0 {
        let why =
            format!("{shown} may be written by others than its owner: take that away, or put the socket elsewhere");
        return Err(ServerError::Socket(why));
    }
    Ok(())
}

/// The lock of a socket, in a file beside it: of two servers that start at once, one gets it.
fn lock_beside(path: &Path) -> Result<Flock<File>, ServerError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let flags = nix::libc::O_NOFOLLOW;
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).custom_flags(flags).open(&name);
    let file =
        file.map_err(|error| ServerError::Socket(format!("cannot open {}: {error}", Path::new(&name).display())))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        nix::errno::Errno::EWOULDBLOCK => in_use(&path.display().to_string()),
        error => ServerError::Socket(format!("cannot lock {}: {}", Path::new(&name).display(), error.desc())),
    })
}

/// Takes connections until the server stops.
pub(super) async fn accept(shared: Arc<Shared>, listener: UnixListener, door: Door, mut stop: watch::Receiver<bool>) {
    let listener = match tokio::net::UnixListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return shared.event(Event::Trouble(error)),
    };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let started = accepted.and_then(|(stream, _)| start(&shared, stream, door));
        if let Err(error) = started {
            shared.event(Event::Trouble(error));
            sleep(PAUSE).await;
        }
    }
}

fn start(shared: &Arc<Shared>, stream: UnixStream, door: Door) -> io::Result<()> {
    let ticket = match shared.registry.local() {
        Ok(ticket) => Arc::new(ticket),
        Err(why) => {
            shared.full(None, why);
            return Ok(());
        }
    };
    let who = stream.peer_cred()?;
    let caller = Caller::Local { uid: who.uid(), pid: who.pid() };
    let stream = stream.into_std()?;
    if door == Door::Data {
        let link = link_over(stream, shared.limits, Box::new(Nobody))?;
        ticket.breaks_by(Arc::clone(&link.breaker));
        shared.start_session(link, caller, ticket);
        return Ok(());
    }
    let own = Arc::clone(shared);
    shared.spawner().spawn(async move {
        let (broken, breaks) = watch::channel(false);
        ticket.breaks_by(Arc::new(move || broken.send_modify(|broken| *broken = true)));
        match UnixStream::from_std(stream) {
            Ok(stream) => api::serve(&own, stream, caller, &ticket, breaks).await,
            Err(error) => own.event(Event::Trouble(error)),
        }
    });
    Ok(())
}
