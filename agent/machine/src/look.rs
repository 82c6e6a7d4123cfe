//! A look at the machine, in a process of its own.
//!
//! What waits for a dead disk in the kernel can be neither interrupted nor killed, and a program that has a thread which waits so
//! never ends for whoever started it. A process can be left behind.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use failback_hostdev::plain;

use crate::command::{GRACE, within};

/// The word by which the program is asked for a look; no verb of the command line.
pub const LOOK: &str = "look";

/// A process that looks, and says what it sees in lines. It is killed when this is dropped, and left behind if that does not end it.
#[derive(Debug)]
pub struct Look {
    child: Child,
    lines: Receiver<String>,
    heard: Instant,
}

/// What comes from a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A line, without its end.
    Line(String),
    /// Nothing in that time.
    Nothing,
    /// It is over.
    End,
}

impl Look {
    /// Starts it. It has no terminal, nor anything else of ours that others wait for: it may outlive this program.
    ///
    /// # Errors
    ///
    /// When the program cannot be started.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.process_group(0).spawn()?;
        let (send, lines) = channel();
        let out = child.stdout.take().ok_or_else(|| io::Error::other("the look has no output"))?;
        thread::spawn(move || {
            let all = BufReader::new(out).lines().map_while(Result::ok);
            all.map(|line| send.send(line)).take_while(Result::is_ok).for_each(drop);
        });
        Ok(Self { child, lines, heard: Instant::now() })
    }

    /// The next line, if one comes in that time.
    pub fn next(&mut self, patience: Duration) -> Heard {
        match self.lines.recv_timeout(patience) {
            Ok(line) => {
                self.heard = Instant::now();
                Heard::Line(line)
            }
            Err(RecvTimeoutError::Timeout) => Heard::Nothing,
            Err(RecvTimeoutError::Disconnected) => Heard::End,
        }
    }

    /// For how long nothing came.
    #[must_use]
    pub fn silent_for(&self) -> Duration {
        self.heard.elapsed()
    }

    /// The disk that it has open at this moment, if it has one, without control characters.
    #[must_use]
    pub fn open_disk(&self) -> Option<String> {
        let open = PathBuf::from(format!("/proc/{}/fd", self.child.id()));
        let is_disk = |path: &Path| fs::metadata(path).is_ok_and(|about| about.file_type().is_block_device());
        open_below(&open, is_disk).map(|path| plain(&path.to_string_lossy()))
    }
}

/// The last of the open files that is one of those.
fn open_below(descriptors: &Path, is_one: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let open = fs::read_dir(descriptors).ok()?.flatten().filter_map(|entry| {
        let number = entry.file_name().to_str()?.parse::<u32>().ok()?;
        Some((number, fs::read_link(entry.path()).ok()?))
    });
    // Nothing but names in /dev is looked at, lest this hangs as well.
    let disks = open.filter(|(_, path)| path.starts_with("/dev") && is_one(path));
    disks.max_by_key(|(number, _)| *number).map(|(_, path)| path)
}

impl Drop for Look {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = within(GRACE, || Ok(self.child.try_wait()?.is_some()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn sh(script: &str) -> Look {
        Look::start(Command::new("sh").args(["-c", script])).unwrap()
    }

    #[test]
    fn lines_come_one_by_one_until_the_end() {
        let mut look = sh("echo one; echo two");
        let patience = Duration::from_secs(20);
        assert_eq!(look.next(patience), Heard::Line("one".into()));
        assert_eq!(look.next(patience), Heard::Line("two".into()));
        assert_eq!(look.next(patience), Heard::End);
    }

    #[test]
    fn one_that_hangs_keeps_nobody_waiting() {
        let started = Instant::now();
        let mut look = sh("echo one; exec sleep 60");
        assert_eq!(look.next(Duration::from_secs(20)), Heard::Line("one".into()));
        assert_eq!(look.next(Duration::from_millis(50)), Heard::Nothing);
        assert!(look.silent_for() >= Duration::from_millis(50));
        assert_eq!(look.open_disk(), None);
        let process = PathBuf::from(format!("/proc/{}", look.child.id()));
        assert!(process.exists());
        drop(look);
        assert!(!process.exists() && started.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn the_disk_that_is_open() {
        let place = tempfile::tempdir().unwrap();
        for (number, path) in [("0", "/dev/null"), ("3", "/dev/sdb"), ("10", "/dev/sdc"), ("11", "/srv/sdd")] {
            symlink(path, place.path().join(number)).unwrap();
        }
        let disk = |path: &Path| path.to_string_lossy().contains("sd");
        assert_eq!(open_below(place.path(), disk), Some("/dev/sdc".into()));
        assert_eq!(open_below(place.path(), |_| false), None);
        assert_eq!(open_below(Path::new("/nonexistent"), disk), None);
    }
}
