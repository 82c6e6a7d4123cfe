//! Running a program of the system without trusting it to end, or to say little.

use std::io::{self, Read};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks at whether it has ended.
const TICK: Duration = Duration::from_millis(20);

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code; `None` if it was killed, by us at its deadline or by others.
    pub code: Option<i32>,
    /// Whether it was killed because its time was over.
    pub timed_out: bool,
    /// The first bytes of what it said on standard output and standard error.
    pub said: Vec<u8>,
}

/// Runs a program, and keeps at most `most` bytes of what it says; the rest is read and dropped. What is not over after
/// `patience` is killed.
///
/// # Errors
///
/// When the program cannot be started.
pub fn run_bounded(command: &mut Command, most: usize, patience: Duration) -> io::Result<Ended> {
    let (mut reader, writer) = io::pipe()?;
    let mut child = command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).spawn()?;
    // The command holds the writing ends; without them the reader comes to an end with the program.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let said = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&said);
    let reading = thread::spawn(move || {
        let mut piece = [0; 16 << 10];
        while let Ok(length @ 1..) = reader.read(&mut piece) {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            let room = most.saturating_sub(kept.len()).min(length);
            kept.extend_from_slice(&piece[..room]);
        }
    });
    let end = Instant::now() + patience;
    let (mut code, mut timed_out) = (None, false);
    loop {
        if let Some(status) = child.try_wait()? {
            code = status.code();
            break;
        }
        if Instant::now() >= end {
            timed_out = true;
            child.kill()?;
            child.wait()?;
            break;
        }
        thread::sleep(TICK);
    }
    // What it started may hold the pipe open for ever: it gets a moment, and no more.
    let last = Instant::now() + Duration::from_millis(200);
    while !reading.is_finished() && Instant::now() < last {
        thread::sleep(TICK);
    }
    let said = said.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(Ended { code, timed_out, said })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, most: usize, patience: Duration) -> Ended {
        run_bounded(Command::new("sh").args(["-c", script]), most, patience).unwrap()
    }

    #[test]
    fn what_is_said_is_bounded_and_both_streams_count() {
        let ended = sh("echo out; echo err >&2; exit 3", 100, Duration::from_secs(20));
        assert_eq!((ended.code, ended.timed_out), (Some(3), false));
        assert_eq!(ended.said, b"out\nerr\n");
        assert_eq!(sh("yes | head -c 3000000", 1000, Duration::from_secs(20)).said.len(), 1000);
    }

    #[test]
    fn what_does_not_end_is_ended() {
        let started = Instant::now();
        let ended = sh("echo first; exec sleep 60", 100, Duration::from_millis(300));
        assert_eq!((ended.code, ended.timed_out, &*ended.said), (None, true, b"first\n".as_slice()));
        // A child of it that lives on keeps nobody waiting.
        let ended = sh("sleep 5 & echo first", 100, Duration::from_secs(20));
        assert_eq!((ended.code, &*ended.said), (Some(0), b"first\n".as_slice()));
        assert!(started.elapsed() < Duration::from_secs(4));
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        assert!(run_bounded(&mut Command::new("/nonexistent/program"), 1, Duration::from_secs(1)).is_err());
    }
}
