//! Connections to a Unix socket.

use crate::link::{Nobody, link_over};
use crate::{Connector, End, Limits, Link};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::time::TimeVal;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a socket is asked whether somebody listens there.
const ASKED: Duration = Duration::from_secs(1);

/// Connects to the Unix socket of a daemon on this machine.
#[derive(Clone, Debug)]
pub struct UnixConnector {
    path: PathBuf,
    limits: Limits,
}

impl UnixConnector {
    /// For the socket at a path.
    #[must_use]
    pub const fn new(path: PathBuf, limits: Limits) -> Self {
        Self { path, limits }
    }
}

impl Connector for UnixConnector {
    fn connect(&self) -> io::Result<Link> {
        link_over(connect_unix(&self.path, self.limits.connect)?, self.limits, Box::new(Nobody))
    }
}

/// Connects within a time: a daemon that accepts nobody any more would be waited for without end.
pub(crate) fn connect_unix(path: &Path, within: Duration) -> io::Result<UnixStream> {
    try_connect(path, within).map_err(|error| {
        let path = path.display();
        let why = match error {
            Errno::ENOENT | Errno::ECONNREFUSED => {
                format!("nobody listens at {path}: start failback serve there, or name its socket")
            }
            Errno::EACCES => format!("{path} may not be used by this user: use it as its owner or as root"),
            Errno::EAGAIN => format!("whoever listens at {path} accepts no connection: look at its log, or restart it"),
            Errno::ENAMETOOLONG => format!("{path} is too long for a Unix socket: use a path of at most 107 bytes"),
            other => format!("cannot connect to {path}: {}", other.desc()),
        };
        io::Error::new(io::Error::from(error).kind(), End::Because(why))
    })
}

/// Connects within a time; `EAGAIN` is the end of it.
fn try_connect(path: &Path, within: Duration) -> Result<UnixStream, Errno> {
    let address = UnixAddr::new(path)?;
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::SendTimeout, &time_val(within))?;
    connect(fd.as_raw_fd(), &address)?;
    Ok(fd.into())
}

/// Whether somebody is behind a socket that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answers {
    Somebody,
    /// Whoever made it is gone.
    Nobody,
}

/// Whether somebody listens at a socket.
pub(crate) fn who_answers(path: &Path) -> io::Result<Answers> {
    match try_connect(path, ASKED) {
        // Whoever takes none of many connections that wait is there too.
        Ok(_) | Err(Errno::EAGAIN) => Ok(Answers::Somebody),
        Err(Errno::ECONNREFUSED) => Ok(Answers::Nobody),
        Err(error) => Err(error.into()),
    }
}

fn time_val(time: Duration) -> TimeVal {
    // A time of zero would be no limit at all.
    let micros = time.as_micros().clamp(1, 1_000_000_000_000);
    let seconds = i64::try_from(micros / 1_000_000).unwrap_or(i64::MAX);
    let rest = i64::try_from(micros % 1_000_000).unwrap_or_default();
    TimeVal::new(seconds, rest)
}
