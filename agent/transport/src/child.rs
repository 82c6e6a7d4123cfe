//! Connections through a command: ssh, or anything else that carries bytes on its standard input and output.

use crate::link::{Behind, link_over};
use crate::{Connector, End, Limits, Link, SshAddress};
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use std::ffi::OsString;
use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What is run on the other machine.
const REMOTE: [&str; 3] = ["failback", "serve", "--stdio"];
/// How long a child whose input has ended may take to end by itself: what it was given last is on its way.
const GRACE: Duration = Duration::from_secs(5);
/// How long a child that has closed its output is waited for to say how it ended.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long it takes at most to read what a child that has ended has said.
const READ_UP: Duration = Duration::from_millis(500);
/// Of what a child says on its standard error, so many bytes are kept, the last ones.
const TAIL: usize = 4096;
/// Characters of the last line that are shown.
const LINE: usize = 400;

/// Connects by running a command, which carries the bytes.
///
/// The command is in a process group of its own, so that Ctrl-C reaches it through this process only; when the link goes, all
/// of that group is ended and the command reaped.
#[derive(Clone, Debug)]
pub struct CommandConnector {
    /// What it is called in sentences.
    what: &'static str,
    program: PathBuf,
    arguments: Vec<OsString>,
    limits: Limits,
}

impl CommandConnector {
    /// Runs failback on a machine that ssh reaches. Nothing is asked: ssh needs a key and has to know the host.
    #[must_use]
    pub fn ssh(address: &SshAddress, limits: Limits) -> Self {
        let seconds = |time: Duration| time.as_secs().max(1);
        let mut arguments: Vec<OsString> = Vec::new();
        arguments.extend(["-T", "-e", "none", "-o", "BatchMode=yes"].map(Into::into));
        // An idle connection is noticed by both; a master that stays behind would keep our standard error.
        let options = [
            format!("ConnectTimeout={}", seconds(limits.connect)),
            format!("ServerAliveInterval={}", seconds(limits.silence / 3)),
            "ServerAliveCountMax=3".into(),
            "ControlMaster=no".into(),
            "RemoteCommand=none".into(),
            "ForwardAgent=no".into(),
            "ForwardX11=no".into(),
            "ClearAllForwardings=yes".into(),
        ];
        arguments.extend(options.into_iter().flat_map(|option| ["-o".into(), option.into()]));
        if let Some(port) = address.port() {
            arguments.extend(["-p".into(), port.to_string().into()]);
        }
        if let Some(user) = address.user() {
            arguments.extend(["-l".into(), user.into()]);
        }
        arguments.extend(["--".into(), address.host().into()]);
        arguments.extend(REMOTE.map(Into::into));
        Self { what: "ssh", program: "ssh".into(), arguments, limits }
    }

    /// Runs a command by `sh -c`.
    #[must_use]
    pub fn exec(command: &str, limits: Limits) -> Self {
        let arguments = vec!["-c".into(), command.into()];
        Self { what: "the command", program: "/bin/sh".into(), arguments, limits }
    }

    /// Runs another program in the place of ssh or the shell, with the same arguments.
    #[must_use]
    pub fn program(mut self, program: PathBuf) -> Self {
        self.program = program;
        self
    }
}

impl Connector for CommandConnector {
    fn connect(&self) -> io::Result<Link> {
        let (near, far) = UnixStream::pair()?;
        let (errors, their_errors) = UnixStream::pair()?;
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).process_group(0);
        command.stdin(OwnedFd::from(far.try_clone()?)).stdout(OwnedFd::from(far)).stderr(OwnedFd::from(their_errors));
        let child = command.spawn().map_err(|error| self.not_started(&error))?;
        // Our copies of the child's ends go, so that its end is seen.
        drop(command);
        let running = Running::new(self.what, child, errors)?;
        link_over(near, self.limits, Box::new(running))
    }
}

impl CommandConnector {
    fn not_started(&self, error: &io::Error) -> io::Error {
        let program = self.program.display();
        let why = match error.kind() {
            io::ErrorKind::NotFound => format!("{program} is not on this machine: install it"),
            _ => format!("{program} cannot be started: {error}"),
        };
        io::Error::new(error.kind(), End::Because(why))
    }
}

/// A child that carries a connection.
struct Running {
    what: &'static str,
    child: Mutex<Child>,
    group: Pid,
    broken: AtomicBool,
    errors: UnixStream,
    tail: Arc<Tail>,
    collector: Option<JoinHandle<()>>,
}

impl Running {
    fn new(what: &'static str, mut child: Child, errors: UnixStream) -> io::Result<Self> {
        let tail = Arc::<Tail>::default();
        let collector = errors.try_clone().and_then(|from| {
            let tail = Arc::clone(&tail);
            thread::Builder::new().name("failback-stderr".into()).spawn(move || collect(from, &tail))
        });
        let collector = match collector {
            Ok(collector) => Some(collector),
            Err(error) => {
                drop(child.kill());
                drop(child.wait());
                return Err(error);
            }
        };
        let group = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
        let (child, broken) = (Mutex::new(child), AtomicBool::new(false));
        Ok(Self { what, child, group, broken, errors, tail, collector })
    }

    /// How the child ended; `None` if it runs. Does not wait.
    fn status(&self) -> Option<io::Result<ExitStatus>> {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        // As long as it is not reaped, its number is its own, and so is that of its group.
        let seen = waitid(Id::Pid(self.group), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT);
        match seen {
            Ok(WaitStatus::StillAlive) => None,
            Ok(_) => {
                let _ = killpg(self.group, Signal::SIGKILL);
                Some(child.wait())
            }
            // It is reaped, and `wait` tells again what it told then.
            Err(Errno::ECHILD) => Some(child.wait()),
            Err(error) => Some(Err(error.into())),
        }
    }

    /// How the child ended, if it ends within a time.
    fn wait(&self, within: Duration) -> Option<io::Result<ExitStatus>> {
        let until = Instant::now() + within;
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(status) = self.status() {
                return Some(status);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            thread::sleep(pause.min(left));
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    fn kill(&self) {
        let _child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = waitid(Id::Pid(self.group), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT);
        if waits.is_ok() {
            let _ = killpg(self.group, Signal::SIGKILL);
        }
    }
}

impl Behind for Running {
    fn break_off(&self) {
        self.broken.store(true, Ordering::SeqCst);
        self.kill();
    }

    fn why(&self) -> Option<End> {
        let status = match self.wait(LAST_WORDS) {
            None => return None,
            Some(Ok(status)) if status.success() => return None,
            Some(Ok(status)) => told(status),
            Some(Err(error)) => error.to_string(),
        };
        Some(End::Command { what: self.what.into(), status, last_line: self.tail.last_line() })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The link's socket is closed by now, so a child that was not broken off sees the end of its input.
        let broken = self.broken.load(Ordering::SeqCst);
        if broken || self.wait(GRACE).is_none() {
            self.kill();
            // Only a child that hangs in the kernel is not there to be reaped at once.
            drop(self.wait(GRACE));
        }
        drop(self.errors.shutdown(Shutdown::Both));
        self.collector.take().map(JoinHandle::join);
    }
}

/// What a child said last on its standard error.
#[derive(Default)]
struct Tail {
    said: Mutex<Said>,
    ends: Condvar,
}

#[derive(Default)]
struct Said {
    last: Vec<u8>,
    /// Whether nothing more can come.
    ended: bool,
}

impl Tail {
    fn keep(&self, bytes: &[u8]) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.last.extend_from_slice(bytes);
        let over = said.last.len().saturating_sub(TAIL);
        said.last.drain(..over);
        said.ended |= bytes.is_empty();
        if said.ended {
            self.ends.notify_all();
        }
    }

    /// The last line of a child that has ended. Somebody else may still have its standard error, and is not waited for.
    fn last_line(&self) -> String {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.ends.wait_timeout_while(said, READ_UP, |said| !said.ended);
        last_line(&waited.unwrap_or_else(PoisonError::into_inner).0.last)
    }
}

/// Keeps the last bytes of what a child says, until it says no more.
fn collect(mut from: UnixStream, tail: &Tail) {
    let mut buffer = [0; 1024];
    loop {
        let len = match from.read(&mut buffer) {
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => 0,
        };
        tail.keep(&buffer[..len]);
        if len == 0 {
            return;
        }
    }
}

/// The last line that is not empty, fit to be shown: a terminal would obey control characters.
fn last_line(tail: &[u8]) -> String {
    let text = String::from_utf8_lossy(tail);
    let mut lines =
        text.lines().map(|line| line.chars().filter(|character| !character.is_control()).collect::<String>());
    let last = lines.rfind(|line| !line.trim().is_empty()).unwrap_or_default();
    last.trim().chars().take(LINE).collect()
}

fn told(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}
