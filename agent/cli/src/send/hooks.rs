//! Programs of the administrator's that run around passes.

use crate::meter::Meter;
use failback_orchestrate::{JobError, Progress};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, geteuid};
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
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

/// When a hook is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    /// Before a pass, and before the last one, which makes a point. If it fails, the job stops.
    BeforePass,
    BeforeFinal,
    /// After either, also if the pass failed.
    AfterPass,
    AfterFinal,
    /// Brings programs and file systems to rest, right before the mark.
    Quiesce,
    /// Lets them go on, once the mark is there, or the disk itself was read.
    Release,
    /// Freezes or takes a snapshot, and prints the path of the device to be read in the place of the disk, or nothing.
    Mark,
    /// Runs after every mark, however that ended.
    Unmark,
}

impl Hook {
    const ALL: [Self; 8] = [
        Self::BeforePass,
        Self::BeforeFinal,
        Self::AfterPass,
        Self::AfterFinal,
        Self::Quiesce,
        Self::Release,
        Self::Mark,
        Self::Unmark,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::BeforePass => "before-pass",
            Self::BeforeFinal => "before-final",
            Self::AfterPass => "after-pass",
            Self::AfterFinal => "after-final",
            Self::Quiesce => "quiesce",
            Self::Release => "release",
            Self::Mark => "mark",
            Self::Unmark => "unmark",
        }
    }

    /// Whether it has to run to its end even if the job is to stop: it takes back what another one did.
    const fn takes_back(self) -> bool {
        matches!(self, Self::AfterPass | Self::AfterFinal | Self::Release | Self::Unmark)
    }
}

/// A directory of hooks, or none.
pub(crate) struct Hooks {
    found: Vec<(Hook, PathBuf)>,
    patience: Duration,
}

impl Hooks {
    /// Looks at a directory. What is in it and is no hook that can run is refused: a name that is misspelt would be a snapshot that is
    /// never taken.
    pub(crate) fn open(directory: Option<&Path>, patience: Duration) -> Result<Self, JobError> {
        let mut found = Vec::new();
        let Some(directory) = directory else { return Ok(Self { found, patience }) };
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| JobError::File { action: "read", path, source }
        };
        check_owner(directory, &fs::metadata(directory).map_err(failed(directory))?)?;
        for entry in fs::read_dir(directory).map_err(failed(directory))? {
            let path = entry.map_err(failed(directory))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with('.') || name.starts_with("README") {
                continue;
            }
            let Some(hook) = Hook::ALL.into_iter().find(|hook| hook.name() == name) else {
                let names = Hook::ALL.map(Hook::name).join(", ");
                return Err(JobError::Refused(format!(
                    "{} is no hook: call it one of {names}, or take it out of this directory",
                    path.display()
                )));
            };
            let about = fs::metadata(&path).map_err(failed(&path))?;
            if !about.is_file() || about.mode() & 0o111 == 0 {
                let path = path.display();
                return Err(JobError::Refused(format!("{path} cannot be run: chmod +x {path}, or remove it")));
            }
            check_owner(&path, &about)?;
            found.push((hook, path));
        }
        let hooks = Self { found, patience };
        if hooks.has(Hook::Mark) && !hooks.has(Hook::Unmark) {
            return Err(JobError::Refused(format!(
                "{} has mark and no unmark, so snapshots would stay: add unmark",
                directory.display()
            )));
        }
        if hooks.has(Hook::Quiesce) && !hooks.has(Hook::Release) {
            return Err(JobError::Refused(format!(
                "{} has quiesce and no release, so programs would stay at rest: add release",
                directory.display()
            )));
        }
        Ok(hooks)
    }

    /// Whether there is a hook for this.
    pub(crate) fn has(&self, hook: Hook) -> bool {
        self.found.iter().any(|(found, _)| *found == hook)
    }

    /// Whether there is one that may bring a disk to rest.
    pub(crate) fn may_bring_to_rest(&self) -> bool {
        [Hook::BeforeFinal, Hook::Quiesce, Hook::Mark].into_iter().any(|hook| self.has(hook))
    }

    /// Runs a hook, if there is one. Returns the first line that it printed, if it printed any.
    pub(crate) fn run(
        &self,
        hook: Hook,
        environment: &[(&str, OsString)],
        meter: &Meter,
    ) -> Result<Option<String>, JobError> {
        let Some((_, path)) = self.found.iter().find(|(found, _)| *found == hook) else { return Ok(None) };
        meter.phase("running a hook", None);
        let name = hook.name();
        let mut command = Command::new(path);
        command.envs(environment.iter().map(|(name, value)| (name, value))).env("FAILBACK_HOOK", name);
        let stop = || !hook.takes_back() && meter.stop_requested();
        let ended = run(&mut command, self.patience, stop).map_err(|source| JobError::File {
            action: "run",
            path: path.clone(),
            source,
        })?;
        let last_words = match ended.last_words.as_str() {
            "" => String::new(),
            words => format!(": {words}"),
        };
        match ended.how {
            How::Exited(status) if status.success() => Ok(Some(ended.first_line).filter(|line| !line.is_empty())),
            How::Exited(status) => Err(JobError::Refused(format!(
                "the hook {name} failed ({status}){last_words}; mend what it says and run this again"
            ))),
            How::TimedOut => Err(JobError::Refused(format!(
                "the hook {name} did not end within {} s and was ended{last_words}; mend it, or give it more by --hook-timeout",
                self.patience.as_secs()
            ))),
            How::Stopped => Err(JobError::Interrupted(format!("while the hook {name} ran; run this again to go on"))),
        }
    }
}

/// Whoever can write to a hook can do what this program can.
fn check_owner(path: &Path, about: &fs::Metadata) -> Result<(), JobError> {
    let is_ours = about.uid() == 0 || about.uid() == geteuid().as_raw();
    if is_ours && about.mode() & 0o022 == 0 {
        return Ok(());
    }
    let path = path.display();
    Err(JobError::Refused(format!(
        "others can write to {path}, and what is in it would be run: chown root {path}; chmod go-w {path}"
    )))
}

enum How {
    Exited(ExitStatus),
    TimedOut,
    Stopped,
}

struct Ended {
    how: How,
    first_line: String,
    last_words: String,
}

/// Runs a command in a process group of its own, which is ended as a whole.
fn run(command: &mut Command, patience: Duration, stop: impl Fn() -> bool) -> io::Result<Ended> {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn()?;
    let said = child.stdout.take().map(|stdout| listen(stdout, Part::Beginning));
    let complained = child.stderr.take().map(|stderr| listen(stderr, Part::End));
    let deadline = Instant::now() + patience;
    let how = loop {
        if let Some(status) = child.try_wait()? {
            break How::Exited(status);
        }
        let is_late = Instant::now() >= deadline;
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
