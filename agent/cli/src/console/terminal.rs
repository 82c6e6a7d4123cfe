//! The terminal: keys without waiting for the end of a line, and given back as it was, however the program ends.
//!
//! Nothing is asked of it but to clear itself, so that it may be a serial line.

use super::screen::Size;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{FlushArg, SpecialCharacterIndices};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcflush, tcgetattr, tcsetattr};
use nix::unistd::{getpgid, getpgrp, getppid, getsid};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGWINCH};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;
use std::{env, panic};

/// What a terminal is taken for that does not tell its size, as one behind a serial line.
const USUAL: (usize, usize) = (80, 24);
/// Signals that end the program.
const ENDING: [i32; 4] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM];
/// Home, and clear what is below.
const CLEAR: &str = "\x1b[H\x1b[J";

/// How the terminal was, as long as it is ours: for the hook that runs when the program panics, after which nothing is dropped.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// What happened while waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The time is over.
    Nothing,
    /// A key.
    Key(u8),
    /// The size is another, or somebody else has written there.
    Redraw,
    /// Nobody is there any more.
    Closed,
    /// A signal that ends the program.
    Signal(u8),
}

/// The terminal on standard input and output, in a mode for single keys.
pub(super) struct Terminal {
    before: Termios,
    ending: Vec<(i32, Arc<AtomicBool>)>,
    stopping: Arc<AtomicBool>,
    redraw: Arc<AtomicBool>,
    clears: bool,
}

impl Terminal {
    pub(super) fn open() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let flag = |signal| {
            let flag = Arc::new(AtomicBool::new(false));
            signal_hook::flag::register(signal, Arc::clone(&flag)).map(|_| flag)
        };
        let ending = ENDING.into_iter().map(|signal| Ok((signal, flag(signal)?))).collect::<io::Result<_>>()?;
        let (stopping, redraw) = (flag(SIGTSTP)?, flag(SIGWINCH)?);
        signal_hook::flag::register(SIGCONT, Arc::clone(&redraw))?;
        restore_on_panic();
        let clears = env::var_os("TERM").is_some_and(|kind| !kind.is_empty() && kind != "dumb");
        let terminal = Self { before, ending, stopping, redraw, clears };
        terminal.take()?;
        Ok(terminal)
    }

    /// Switches to single keys.
    fn take(&self) -> io::Result<()> {
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.before.clone());
        let mut keys = self.before.clone();
        // ISIG stays: the terminal itself makes signals of its keys.
        keys.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
        keys.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
        keys.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
        Ok(tcsetattr(io::stdin(), SetArg::TCSADRAIN, &keys)?)
    }

    /// Gives it back for a while, as to a shell.
    pub(super) fn lend<T>(&mut self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        give_back();
        let done = work();
        // What was meant for the other program is not meant for this one.
        for (signal, flag) in &self.ending {
            if matches!(*signal, SIGINT | SIGQUIT) {
                flag.store(false, Ordering::Relaxed);
            }
        }
        self.stopping.store(false, Ordering::Relaxed);
        self.take()?;
        let _ = tcflush(io::stdin(), FlushArg::TCIFLUSH);
        done
    }

    /// Shows a text in place of what is there.
    pub(super) fn show(&self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        let before = if self.clears { CLEAR } else { "\n\n" };
        write!(out, "{before}{text}")?;
        out.flush()
    }

    /// Waits for a key or a signal.
    pub(super) fn wait(&self, patience: Duration) -> io::Result<Event> {
        if let Some(event) = self.signalled()? {
            return Ok(event);
        }
        let stdin = io::stdin();
        let mut watched = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        match poll(&mut watched, timeout) {
            Err(nix::Error::EINTR) | Ok(0) => return Ok(self.signalled()?.unwrap_or(Event::Nothing)),
            polled => polled?,
        };
        // Past the buffer of std: what waited there would not be polled.
        let mut key = [0];
        match nix::unistd::read(stdin.as_fd(), &mut key) {
            Ok(0) | Err(nix::Error::EIO) => Ok(Event::Closed),
            Ok(_) => Ok(Event::Key(key[0])),
            Err(nix::Error::EINTR | nix::Error::EAGAIN) => Ok(Event::Nothing),
            Err(error) => Err(error.into()),
        }
    }

    fn signalled(&self) -> io::Result<Option<Event>> {
        if let Some((signal, _)) = self.ending.iter().find(|(_, flag)| flag.load(Ordering::Relaxed)) {
            return Ok(Some(Event::Signal(u8::try_from(*signal).unwrap_or(0))));
        }
        if self.stopping.swap(false, Ordering::Relaxed) && is_job() {
            give_back();
            signal_hook::low_level::emulate_default_handler(SIGTSTP)?;
            self.take()?;
            return Ok(Some(Event::Redraw));
        }
        Ok(self.redraw.swap(false, Ordering::Relaxed).then_some(Event::Redraw))
    }
}

/// Whether a shell with job control is there, which lets a stopped program go on; on a terminal of its own nobody would.
fn is_job() -> bool {
    let shell = Some(getppid());
    getsid(shell) == getsid(None) && getpgid(shell) != Ok(getpgrp())
}

impl Drop for Terminal {
    fn drop(&mut self) {
        give_back();
        let _ = writeln!(io::stdout());
    }
}

/// Makes the terminal what it was before.
fn give_back() {
    if let Some(before) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let _ = tcsetattr(io::stdin(), SetArg::TCSADRAIN, &before);
    }
}

fn restore_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |why| {
            give_back();
            usual(why);
        }));
    });
}

/// The size of the terminal.
pub(super) fn size() -> Size {
    let told = terminal_size::terminal_size();
    // A serial line tells 0 by 0.
    let told =
        told.map(|(width, height)| (usize::from(width.0), usize::from(height.0))).filter(|it| it.0 > 0 && it.1 > 0);
    let (width, height) = told.unwrap_or(USUAL);
    Size { width, height: Some(height) }
}

/// Reads one line of an answer, while the terminal is lent. Only its beginning is kept: an answer is short.
///
/// It is read past the buffer of std: what is typed ahead is for whoever reads next, which may be another program.
pub(super) fn read_line() -> io::Result<String> {
    let stdin = io::stdin();
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        match nix::unistd::read(stdin.as_fd(), &mut byte) {
            Ok(0) => break,
            Ok(_) if byte[0] == b'\n' => break,
            Ok(_) if line.len() < 256 => line.push(byte[0]),
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(String::from_utf8_lossy(&line).trim().to_owned())
}
