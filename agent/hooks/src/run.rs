//! Runs a program in a process group of its own, and ends that as a whole.

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks at whether a hook has ended.
const TICK: Duration = Duration::from_millis(20);
/// For a hook that was asked to end, before it is killed; and for what it started to close its pipes, once it has ended.
const GRACE: Duration = Duration::from_secs(5);
const LAST_WORDS: Duration = Duration::from_millis(300);
/// What is kept of what a hook says, in bytes: the beginning of its standard output, the end of its standard error.
const SAID_MAX: usize = 4096;

pub(crate) enum How {
    Exited(ExitStatus),
    TimedOut,
    Stopped,
}

pub(crate) struct Ended {
    pub(crate) how: How,
    pub(crate) first_line: String,
    pub(crate) last_words: String,
}

/// Runs a command in a process group of its own, which is ended as a whole.
pub(crate) fn run(command: &mut Command, patience: Duration, stop: impl Fn() -> bool) -> io::Result<Ended> {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn()?;
    let said = child.stdout.take().map(|stdout| listen(stdout, Part::Beginning));
    let complained = child.stderr.take().map(|stderr| listen(stderr, Part::End));
    // A time that no clock reaches is no limit.
    let deadline = Instant::now().checked_add(patience);
    let how = loop {
        if let Some(status) = child.try_wait()? {
            break How::Exited(status);
        }
        let is_late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if is_late || stop() {
            end_group(&mut child)?;
            break if is_late { How::TimedOut } else { How::Stopped };
        }
        thread::sleep(TICK);
    };
    let text = |listening: Option<Receiver<Vec<u8>>>| {
        let bytes = listening.and_then(|listening| listening.recv_timeout(LAST_WORDS).ok()).unwrap_or_default();
        // It is printed, and given to other programs: nothing in it may move a cursor.
        String::from_utf8_lossy(&bytes).chars().map(|it| if it.is_control() && it != '\n' { ' ' } else { it }).collect()
    };
    let (said, complained): (String, String) = (text(said), text(complained));
    let first_line = said.lines().next().unwrap_or_default().trim().to_owned();
    let last_words =
        complained.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default().to_owned();
    Ok(Ended { how, first_line, last_words })
}

/// Asks the whole group of a child to end, and kills what does not.
fn end_group(child: &mut Child) -> io::Result<()> {
    // Not waited for yet, so its number is still its own.
    let group = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
    let _ = killpg(group, Signal::SIGTERM);
    let end = Instant::now() + GRACE;
    while Instant::now() < end && killpg(group, None).is_ok() {
        if child.try_wait()?.is_some() && killpg(group, None).is_err() {
            return Ok(());
        }
        thread::sleep(TICK);
    }
    let _ = killpg(group, Signal::SIGKILL);
    child.wait().map(drop)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Beginning,
    End,
}

/// Reads to the end, and tells what is kept of it. What a hook left running may hold the pipe: then nobody waits for this.
fn listen(mut stream: impl Read + Send + 'static, part: Part) -> Receiver<Vec<u8>> {
    let (tell, told) = channel();
    thread::spawn(move || {
        let (mut kept, mut piece) = (Vec::new(), [0; 1024]);
        while let Ok(read @ 1..) = stream.read(&mut piece) {
            kept.extend_from_slice(&piece[..read]);
            let over = kept.len().saturating_sub(SAID_MAX);
            match part {
                Part::Beginning => kept.truncate(SAID_MAX),
                Part::End => drop(kept.drain(..over)),
            }
        }
        let _ = tell.send(kept);
    });
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, patience: Duration, stop: bool) -> Ended {
        run(Command::new("sh").args(["-c", script]), patience, || stop).unwrap()
    }

    #[test]
    fn the_first_line_and_the_last_words_are_kept() {
        let minute = Duration::from_secs(60);
        let ended =
            sh("echo ' /dev/vg/snap '; echo more; echo why >&2; printf 'x\\033[2Jy\\n\\n' >&2; exit 3", minute, false);
        assert_eq!((ended.first_line.as_str(), ended.last_words.as_str()), ("/dev/vg/snap", "x [2Jy"));
        assert!(matches!(ended.how, How::Exited(status) if status.code() == Some(3)));
        let ended = sh("yes | head -c 3000000; yes no | head -c 3000000 >&2; echo last >&2", minute, false);
        assert_eq!((ended.first_line.as_str(), ended.last_words.as_str()), ("y", "last"));
    }

    #[test]
    fn a_group_is_ended_as_a_whole() {
        let place = tempfile::tempdir().unwrap();
        let (alive, started) = (place.path().join("alive"), Instant::now());
        // A child that lives on would make the file.
        let script = format!("(sleep 3; touch {}) & sleep 600", alive.display());
        assert!(matches!(sh(&script, Duration::from_millis(200), false).how, How::TimedOut));
        assert!(matches!(sh(&script, Duration::from_secs(600), true).how, How::Stopped));
        // One that does not want to end is killed.
        let script = format!("trap '' TERM; (sleep 9; touch {}) & while :; do sleep 1; done", alive.display());
        assert!(matches!(sh(&script, Duration::from_millis(200), false).how, How::TimedOut));
        assert!(started.elapsed() < Duration::from_secs(30));
        thread::sleep(Duration::from_secs(10).saturating_sub(started.elapsed()));
        assert!(!alive.exists());
    }

    #[test]
    fn what_it_leaves_running_keeps_nobody_waiting() {
        let started = Instant::now();
        let ended = sh("sleep 20 & echo done", Duration::from_secs(60), false);
        assert!(matches!(ended.how, How::Exited(status) if status.success()));
        assert!(started.elapsed() < Duration::from_secs(15));
    }
}
