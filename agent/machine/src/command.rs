//! Running a program of the system without trusting it to end, or to say little.

use std::io::{self, Read};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks at whether it has ended.
const TICK: Duration = Duration::from_millis(20);
/// For a program that was killed to be gone. What waits for a dead disk in the kernel stays until the disk answers.
pub(crate) const GRACE: Duration = Duration::from_secs(2);

/// Which part of a text stays if it is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stays {
    /// What comes first.
    Beginning,
    /// What comes last, as in a log.
    End,
}

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code; `None` if it was killed, by us at its deadline or by others.
    pub code: Option<i32>,
    /// Whether it was killed because its time was over.
    pub timed_out: bool,
    /// Whether it was left behind, since it did not end when it was killed either: it waits for a disk that does not answer.
    pub left_behind: bool,
    /// The bytes that stay of what it said on standard output and standard error.
    pub said: Vec<u8>,
    /// How many bytes do not.
    pub cut: usize,
}

impl Ended {
    /// How it ended, if not by itself.
    #[must_use]
    pub fn trouble(&self, patience: Duration) -> Option<String> {
        let seconds = patience.as_secs();
        match (self.timed_out, self.left_behind) {
            (_, true) => Some(format!("no answer after {seconds} s; it waits in the kernel and cannot be killed")),
            (true, false) => Some(format!("no answer after {seconds} s; it was killed")),
            (false, false) => None,
        }
    }
}

/// Runs a program, and keeps at most `most` bytes of what it says; the rest is read and dropped. What is not over after
/// `patience` is killed, and left behind if that does not end it.
///
/// # Errors
///
/// When the program cannot be started.
pub fn run_bounded(command: &mut Command, most: usize, stays: Stays, patience: Duration) -> io::Result<Ended> {
    let (mut reader, writer) = io::pipe()?;
    let mut child = command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).spawn()?;
    // The command holds the writing ends; without them the reader comes to an end with the program.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let said = Arc::new(Mutex::new(Said::default()));
    let kept = Arc::clone(&said);
    let reading = thread::spawn(move || {
        let mut piece = [0; 16 << 10];
        while let Ok(length @ 1..) = reader.read(&mut piece) {
            kept.lock().unwrap_or_else(PoisonError::into_inner).add(&piece[..length], most, stays);
        }
    });
    let mut status = None;
    let timed_out = !within(patience, || {
        status = child.try_wait()?;
        Ok(status.is_some())
    })?;
    let mut left_behind = false;
    if timed_out {
        child.kill()?;
        left_behind = !within(GRACE, || Ok(child.try_wait()?.is_some()))?;
    }
    // What it started may hold the pipe open for ever: it gets a moment, and no more.
    within(Duration::from_millis(200), || Ok(reading.is_finished()))?;
    let mut said = said.lock().unwrap_or_else(PoisonError::into_inner).clone();
    said.shorten(most);
    let code = status.and_then(|status| status.code());
    Ok(Ended { code, timed_out, left_behind, said: said.bytes, cut: said.cut })
}

/// Asks again and again whether something is over, and no longer than that. Returns whether it is.
pub(crate) fn within(patience: Duration, mut is_over: impl FnMut() -> io::Result<bool>) -> io::Result<bool> {
    let end = Instant::now() + patience;
    loop {
        if is_over()? {
            return Ok(true);
        }
        if Instant::now() >= end {
            return Ok(false);
        }
        thread::sleep(TICK);
    }
}

/// What a program said, as far as it is kept.
#[derive(Clone, Debug, Default)]
struct Said {
    bytes: Vec<u8>,
    cut: usize,
}

impl Said {
    fn add(&mut self, piece: &[u8], most: usize, stays: Stays) {
        let room = match stays {
            Stays::Beginning => most.saturating_sub(self.bytes.len()).min(piece.len()),
            Stays::End => piece.len(),
        };
        self.bytes.extend_from_slice(&piece[..room]);
        self.cut = self.cut.saturating_add(piece.len() - room);
        // Now and then only: each time all that stays is moved.
        if self.bytes.len() > most.saturating_mul(2) {
            self.shorten(most);
        }
    }

    /// Leaves the last bytes.
    fn shorten(&mut self, most: usize) {
        let over = self.bytes.len().saturating_sub(most);
        self.bytes.drain(..over);
        self.cut = self.cut.saturating_add(over);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, most: usize, stays: Stays, patience: Duration) -> Ended {
        run_bounded(Command::new("sh").args(["-c", script]), most, stays, patience).unwrap()
    }

    #[test]
    fn what_is_said_is_bounded_and_both_streams_count() {
        let patience = Duration::from_secs(20);
        let ended = sh("echo out; echo err >&2; exit 3", 100, Stays::Beginning, patience);
        assert_eq!((ended.code, ended.timed_out, ended.cut), (Some(3), false, 0));
        assert_eq!((ended.said.as_slice(), ended.trouble(patience)), (b"out\nerr\n".as_slice(), None));
        let script = "echo first; yes | head -c 3000000; echo last";
        for (stays, wanted) in [(Stays::Beginning, "first\ny\n"), (Stays::End, "y\nlast\n")] {
            let ended = sh(script, 1000, stays, patience);
            assert_eq!((ended.said.len(), ended.cut), (1000, 3_000_011 - 1000), "{stays:?}");
            let said = String::from_utf8(ended.said).unwrap();
            assert!(if stays == Stays::End { said.ends_with(wanted) } else { said.starts_with(wanted) }, "{stays:?}");
        }
    }

    #[test]
    fn what_does_not_end_is_ended() {
        let started = Instant::now();
        let patience = Duration::from_secs(2);
        let ended = sh("echo first; exec sleep 60", 100, Stays::Beginning, patience);
        assert_eq!((ended.code, ended.timed_out, &*ended.said), (None, true, b"first\n".as_slice()));
        assert!(!ended.left_behind && ended.trouble(patience).unwrap().ends_with("it was killed"));
        // A child of it that lives on keeps nobody waiting.
        let ended = sh("sleep 60 & echo first", 100, Stays::Beginning, Duration::from_secs(20));
        assert_eq!((ended.code, &*ended.said), (Some(0), b"first\n".as_slice()));
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn what_cannot_be_killed_is_not_waited_for() {
        let started = Instant::now();
        assert!(!within(Duration::from_millis(50), || Ok(false)).unwrap());
        assert!(started.elapsed() < Duration::from_secs(10));
        let left = Ended { code: None, timed_out: true, left_behind: true, said: vec![], cut: 0 };
        assert!(left.trouble(Duration::from_secs(30)).unwrap().contains("cannot be killed"));
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        let started = run_bounded(&mut Command::new("/nonexistent/program"), 1, Stays::End, Duration::from_secs(1));
        assert!(started.is_err());
    }
}
