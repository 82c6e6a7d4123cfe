//! This process's own standard input and output as a link: the other end of ssh, or of any command.
//!
//! They may be shared with other processes, so nothing about them is changed: `O_NONBLOCK` would be seen by all that have the same
//! description. What may wait is asked with poll(2) first, for a socket the single call is told not to wait.

use crate::{End, Limits, Link};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{dup2_stdin, dup2_stdout, read, write};
use std::io::{self, IsTerminal, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A pipe that poll(2) calls writable takes so many bytes without waiting (`PIPE_BUF`, pipe(7)).
const PIPE_BUF: usize = 4096;

/// Why standard input and output are no connection.
#[derive(Debug, thiserror::Error)]
pub enum StdioError {
    /// A person sits there.
    #[error(
        "standard {0} is a terminal: this is started by ssh or another program, with the other side connected to it"
    )]
    Terminal(&'static str),
    /// It is a file or a device.
    #[error("standard {0} is no pipe and no socket: start this with the other side connected to it, as ssh does")]
    Kind(&'static str),
    /// The system refused.
    #[error("standard input and output cannot be used as a connection")]
    Io(#[from] io::Error),
}

/// A link over this process's standard input and output.
///
/// From then on standard input is empty, and what anybody prints to standard output goes to standard error, so that nothing gets
/// between the messages.
///
/// # Errors
///
/// When they are a terminal, a file or a device, or the system refuses.
pub fn stdio_link(limits: Limits) -> Result<Link, StdioError> {
    let (input, output) = (io::stdin(), io::stdout());
    for (name, terminal) in [("input", input.is_terminal()), ("output", output.is_terminal())] {
        if terminal {
            return Err(StdioError::Terminal(name));
        }
    }
    output.lock().flush()?;
    let (from, to) = (input.as_fd().try_clone_to_owned()?, output.as_fd().try_clone_to_owned()?);
    let link = link_of(from, to, limits)?;
    let nothing = nix::fcntl::open("/dev/null", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty());
    dup2_stdin(nothing.map_err(io::Error::from)?).map_err(io::Error::from)?;
    dup2_stdout(io::stderr()).map_err(io::Error::from)?;
    Ok(link)
}

/// A link over any two descriptors that are pipes or sockets.
fn link_of(input: OwnedFd, output: OwnedFd, limits: Limits) -> Result<Link, StdioError> {
    let (breaks, broken) = UnixStream::pair()?;
    let shared = Arc::new(Shared { breaks, broken, ended: AtomicBool::new(false), limits });
    let reader = Reader { kind: Kind::of(&input, "input")?, fd: input, shared: Arc::clone(&shared) };
    let writer = Writer { kind: Kind::of(&output, "output")?, fd: output, shared: Arc::clone(&shared) };
    Ok(Link { reader: Box::new(reader), writer: Box::new(writer), breaker: Arc::new(move || shared.break_off()) })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pipe,
    Socket,
}

impl Kind {
    fn of(fd: &OwnedFd, name: &'static str) -> Result<Self, StdioError> {
        let mode = fstat(fd).map_err(io::Error::from)?.st_mode;
        match SFlag::from_bits_truncate(mode) & SFlag::S_IFMT {
            SFlag::S_IFIFO => Ok(Self::Pipe),
            SFlag::S_IFSOCK => Ok(Self::Socket),
            _ => Err(StdioError::Kind(name)),
        }
    }
}

/// What both sides share: a pair of sockets that is shut down to wake whoever waits.
struct Shared {
    breaks: UnixStream,
    broken: UnixStream,
    ended: AtomicBool,
    limits: Limits,
}

impl Shared {
    fn break_off(&self) {
        self.ended.store(true, Ordering::SeqCst);
        drop(self.breaks.shutdown(Shutdown::Both));
    }

    /// Waits until a descriptor can be used, the link is broken off, or the time is over, which breaks it off.
    fn wait(&self, fd: &OwnedFd, what: PollFlags, within: Duration, late: End) -> io::Result<()> {
        let until = Instant::now() + within;
        loop {
            if self.ended.load(Ordering::SeqCst) {
                return Err(End::BrokenOff.error());
            }
            let left = until.saturating_duration_since(Instant::now());
            // Rounded up, so that it never turns round and round in the last millisecond.
            let millis = left.as_millis() + u128::from(!left.subsec_nanos().is_multiple_of(1_000_000));
            let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(fd.as_fd(), what), PollFd::new(self.broken.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(0) if until <= Instant::now() => {
                    self.break_off();
                    return Err(late.error());
                }
                Ok(_) if fds[1].any() == Some(true) => return Err(End::BrokenOff.error()),
                // An error or an end is told by the call that follows.
                Ok(_) if fds[0].any() == Some(true) => return Ok(()),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

struct Reader {
    fd: OwnedFd,
    kind: Kind,
    shared: Arc<Shared>,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let silence = self.shared.limits.silence;
        loop {
            self.shared.wait(&self.fd, PollFlags::POLLIN, silence, End::Silent(silence))?;
            let len = match self.kind {
                Kind::Pipe => read(&self.fd, buffer),
                Kind::Socket => recv(self.fd.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT),
            };
            match len {
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                other => return other.map_err(Into::into),
            }
        }
    }
}

struct Writer {
    fd: OwnedFd,
    kind: Kind,
    shared: Arc<Shared>,
}

impl Write for Writer {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let stall = self.shared.limits.stall;
        loop {
            self.shared.wait(&self.fd, PollFlags::POLLOUT, stall, End::Stalled(stall))?;
            let len = match self.kind {
                Kind::Pipe => write(&self.fd, &buffer[..buffer.len().min(PIPE_BUF)]),
                Kind::Socket => send(self.fd.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL),
            };
            match len {
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                other => return other.map_err(Into::into),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.kind == Kind::Socket {
            // The reader has the same socket open, perhaps: the other side learns that nothing more comes.
            let _ = nix::sys::socket::shutdown(self.fd.as_raw_fd(), nix::sys::socket::Shutdown::Write);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    /// Limits of which one is met soon.
    fn limits(silence: u64, stall: u64) -> Limits {
        Limits { silence: Duration::from_millis(silence), stall: Duration::from_millis(stall), ..Limits::default() }
    }

    /// Our ends and a link over the other ones: of pipes, or of a socket.
    fn pairs(limits: Limits) -> Vec<(OwnedFd, OwnedFd, Link)> {
        let ((reads, input), (output, writes)) = (io::pipe().unwrap(), io::pipe().unwrap());
        let pipes = link_of(reads.into(), writes.into(), limits).unwrap();
        let (near, far) = UnixStream::pair().unwrap();
        let socket = link_of(far.try_clone().unwrap().into(), far.into(), limits).unwrap();
        vec![(input.into(), output.into(), pipes), (near.try_clone().unwrap().into(), near.into(), socket)]
    }

    fn fill(link: &mut Link) -> io::Error {
        loop {
            if let Err(error) = link.writer.write(&[7; 10_000]) {
                return error;
            }
        }
    }

    #[test]
    fn whoever_takes_nothing_or_says_nothing_is_not_waited_for() {
        for (_input, _output, mut link) in pairs(limits(60_000, 200)) {
            assert_eq!(End::of(&fill(&mut link)), Some(&End::Stalled(Duration::from_millis(200))));
        }
        for (_input, _output, mut link) in pairs(limits(200, 60_000)) {
            let error = link.reader.read(&mut [0; 9]).unwrap_err();
            assert_eq!(End::of(&error), Some(&End::Silent(Duration::from_millis(200))));
            let error = link.writer.write(b"more").unwrap_err();
            assert_eq!(End::of(&error), Some(&End::BrokenOff), "nothing follows");
        }
    }

    #[test]
    fn breaking_ends_a_reader_and_a_writer_that_wait() {
        for (_input, _output, mut link) in pairs(limits(60_000, 60_000)) {
            let Link { reader, writer, breaker } = &mut link;
            thread::scope(|scope| {
                let reads = scope.spawn(|| reader.read(&mut [0; 9]).unwrap_err());
                let writes = scope.spawn(|| {
                    loop {
                        if let Err(error) = writer.write(&[7; 10_000]) {
                            return error;
                        }
                    }
                });
                thread::sleep(Duration::from_millis(100));
                assert!(!reads.is_finished() && !writes.is_finished());
                breaker();
                assert_eq!(End::of(&reads.join().unwrap()), Some(&End::BrokenOff));
                assert_eq!(End::of(&writes.join().unwrap()), Some(&End::BrokenOff));
            });
        }
    }

    #[test]
    fn the_other_side_sees_the_end_and_its_end_is_seen() {
        for (input, output, mut link) in pairs(limits(60_000, 60_000)) {
            drop(link.writer);
            assert_eq!(read(&output, &mut [0; 9]), Ok(0));
            drop((input, output));
            assert_eq!(link.reader.read(&mut [0; 9]).unwrap(), 0);
        }
        for (input, output, mut link) in pairs(limits(60_000, 60_000)) {
            drop((input, output));
            assert_eq!(fill(&mut link).kind(), io::ErrorKind::BrokenPipe);
        }
    }
}
