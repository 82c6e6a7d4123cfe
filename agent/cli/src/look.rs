//! Looks at the machine: what may never answer is asked by a process of its own, and what has answered is used.

use crate::config::Config;
use crate::console::{DiskRow, RetentionLines};
use crate::points::report;
use crate::text::with_causes;
use crate::{console, disks};
use anyhow::Result;
use failback_machine::{Disks, Finding, Heard, Host, Job, LOOK, Look, check_disks, check_system, jobs, plain};
use failback_orchestrate::{JobError, all_points, inventory, io_uring_refusal};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

/// Without an answer for so long, something hangs. A disk gets 30 s from the kernel for one command.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);
/// So long `check` looks in all, however many are slow. At the start of a machine systemd kills it after 60 s (failback-check.service), which would
/// leave all that was found untold.
pub(crate) const LIMIT_OF_ALL: Duration = Duration::from_secs(50);
/// What to do about it.
pub(crate) const FIX: &str = "see what the kernel says of it (`dmesg`): a disk that is dead has to be detached, a server that is gone to come \
                              back; if that does not help, start this machine again";

/// What is to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// What failback does now.
    Jobs,
    /// What is wrong.
    Checks,
    /// What the console shows of disks and of the retention drive.
    Screen,
    /// What support gets of disks and of recovery points.
    Support,
}

impl Part {
    const ALL: [(Self, &str); 4] =
        [(Self::Jobs, "jobs"), (Self::Checks, "checks"), (Self::Screen, "screen"), (Self::Support, "support")];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(part, _)| *part == self).map_or("", |(_, name)| name)
    }
}

/// What a look says, each in a line of its own.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum Answer {
    /// What is asked from now on.
    At(String),
    Jobs(Vec<Job>),
    Check(String, Vec<Finding>),
    Rows(Vec<DiskRow>),
    Retention(RetentionLines),
    /// The list of disks, as an object for scripts.
    Disks(Value),
    /// The recovery points, in the same way.
    Points(Value),
    /// That was all.
    Done,
}

/// What comes next of a look.
#[derive(Debug)]
pub(crate) enum Next {
    Answer(Answer),
    /// Nothing in that time.
    Nothing,
    /// It is over; whether it came to its end.
    Over {
        done: bool,
    },
}

/// A look under way.
pub(crate) struct Looking {
    look: Look,
    /// What it asks now.
    at: String,
    done: bool,
    started: Instant,
}

impl Looking {
    /// Lets this program look, in another process.
    pub(crate) fn at(parts: &[Part]) -> io::Result<Self> {
        // By this name it is there also after an update has replaced it.
        Self::by(Command::new("/proc/self/exe").arg(LOOK).args(parts.iter().map(|part| part.name())))
    }

    /// The same by another program.
    pub(crate) fn by(command: &mut Command) -> io::Result<Self> {
        Ok(Self { look: Look::start(command)?, at: "this machine".into(), done: false, started: Instant::now() })
    }

    /// The next answer, if one comes in that time.
    pub(crate) fn next(&mut self, patience: Duration) -> Next {
        let end = Instant::now() + patience;
        loop {
            match self.look.next(end.saturating_duration_since(Instant::now())) {
                // A line that is not understood is one that was cut off.
                Heard::Line(line) => match serde_json::from_str(&line) {
                    Ok(Answer::At(what)) => self.at = plain(&what),
                    Ok(Answer::Done) => self.done = true,
                    Ok(answer) => return Next::Answer(answer),
                    Err(_) => {}
                },
                Heard::Nothing => return Next::Nothing,
                Heard::End => return Next::Over { done: self.done },
            }
        }
    }

    /// Takes every answer. Returns why some are missing, if they are: nothing came for `limit`, it was not done after `of_all`, or the look
    /// broke off.
    pub(crate) fn all(
        mut self,
        limit: Duration,
        of_all: Option<Duration>,
        mut take: impl FnMut(Answer),
    ) -> Option<String> {
        loop {
            // What it begins to ask counts as well as an answer: many disks may take their time, one after the other.
            let silence = limit.saturating_sub(self.silent_for());
            let left = of_all.map_or(silence, |of_all| of_all.saturating_sub(self.started.elapsed()));
            match self.next(silence.min(left)) {
                Next::Answer(answer) => take(answer),
                Next::Nothing if of_all.is_some_and(|of_all| self.started.elapsed() >= of_all) => {
                    let seconds = self.started.elapsed().as_secs();
                    return Some(format!(
                        "not reached in time: after {seconds} s, {} had not answered yet",
                        self.asked()
                    ));
                }
                Next::Nothing if self.silent_for() < limit => {}
                Next::Nothing => return Some(format!("no answer after {} s from {}", limit.as_secs(), self.asked())),
                Next::Over { done: true } => return None,
                Next::Over { done: false } => return Some(self.broken_off()),
            }
        }
    }

    /// Says that it ended where it should not.
    pub(crate) fn broken_off(&self) -> String {
        format!("the look at this machine broke off at {}", self.at)
    }

    /// For how long nothing came.
    pub(crate) fn silent_for(&self) -> Duration {
        self.look.silent_for()
    }

    /// What does not answer.
    pub(crate) fn asked(&self) -> String {
        // Where several disks are asked at once, the one that is open is meant.
        self.look.open_disk().unwrap_or_else(|| self.at.clone())
    }
}

/// What is asked for, if this program is to look: it is called so by itself only.
pub(crate) fn parts(mut arguments: impl Iterator<Item = String>) -> Option<Vec<Part>> {
    if arguments.nth(1)? != LOOK {
        return None;
    }
    let part = |name: String| Part::ALL.iter().find(|(_, it)| *it == name).map(|(part, _)| *part);
    let parts: Vec<_> = arguments.filter_map(part).collect();
    (!parts.is_empty()).then_some(parts)
}

/// Looks, and prints each answer as soon as it is there. What may hang comes late, and after its name.
pub(crate) fn look(parts: &[Part]) -> Result<ExitCode> {
    let host = Host::this();
    if parts.contains(&Part::Jobs) {
        tell_at("the processes of this machine")?;
        tell(&Answer::Jobs(jobs(&host)))?;
    }
    if parts.iter().any(|part| *part != Part::Jobs) {
        look_at_disks(&host, parts)?;
    }
    tell(&Answer::Done)?;
    Ok(ExitCode::SUCCESS)
}

fn look_at_disks(host: &Host, parts: &[Part]) -> Result<()> {
    let has = |part| parts.contains(&part);
    let mut told = Ok(());
    let mut tell_check = |name: &str, found| {
        if told.is_ok() {
            told = tell(&Answer::Check(name.to_owned(), found));
        }
    };
    if has(Part::Checks) {
        tell_at("this system")?;
        check_system(host, io_uring_refusal().as_deref(), &mut tell_check);
    }
    tell_at("the disks of this machine")?;
    // If nobody listens any more, whatever is told next ends this.
    let disks = inventory(&|path| drop(tell_at(&path.to_string_lossy())));
    let known = disks.as_deref().unwrap_or_default();
    if has(Part::Screen) {
        tell(&Answer::Rows(console::rows(known)))?;
    }
    if has(Part::Support) {
        tell(&Answer::Disks(disks_object(&disks)))?;
    }
    tell_at("the configuration")?;
    let retention = Config::load().map(|config| config.retention.directory);
    if let Ok(Some(directory)) = &retention {
        tell_at(&format!("the retention drive at {}", directory.display()))?;
    }
    if has(Part::Checks) {
        let retention = retention.as_ref().map(Clone::clone).map_err(|error| with_causes(error));
        check_disks(host, &disks, &retention, &mut tell_check);
    }
    told?;
    if has(Part::Screen) {
        tell(&Answer::Retention(RetentionLines::read(&retention, known)))?;
    }
    if has(Part::Support) {
        tell(&Answer::Points(points_object(&retention)))?;
    }
    Ok(())
}

/// Whoever listened may be gone: then this ends.
fn tell(answer: &Answer) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(answer)?)?;
    Ok(out.flush()?)
}

fn tell_at(what: &str) -> Result<()> {
    tell(&Answer::At(what.to_owned()))
}

fn disks_object(disks: &Disks) -> Value {
    disks.as_deref().map_or_else(|error| json!({ "error": error.to_string() }), disks::object)
}

fn points_object(retention: &Result<Option<PathBuf>, JobError>) -> Value {
    let of = |directory: &Path| {
        let all = all_points(directory);
        all.map_or_else(|error| json!({ "error": error.to_string() }), |all| report::all_disks(directory, &all).0)
    };
    match retention {
        Ok(directory) => json!(directory.as_deref().map(of)),
        Err(error) => json!({ "error": error.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Looking {
        Looking::by(Command::new("sh").args(["-c", script])).unwrap()
    }

    #[test]
    fn only_this_program_asks_itself() {
        let asked = |words: &str| parts(words.split(' ').map(str::to_owned));
        assert_eq!(asked("failback look jobs screen"), Some(vec![Part::Jobs, Part::Screen]));
        assert_eq!(asked("failback look"), None);
        assert_eq!(asked("failback check look"), None);
        assert_eq!(asked("failback"), None);
    }

    #[test]
    fn many_that_take_their_time_are_no_silence() {
        let script = r#"for number in 1 2 3 4 5 6; do echo '{"At":"a disk"}'; sleep 0.4; done; echo '"Done"'"#;
        assert_eq!(sh(script).all(Duration::from_millis(1500), None, |_| {}), None);
    }

    #[test]
    fn many_that_take_their_time_are_not_waited_for_without_an_end() {
        let script = r#"echo '{"Jobs":[]}'; while :; do echo '{"At":"/dev/sdb"}'; sleep 0.4; done"#;
        let (started, mut count) = (Instant::now(), 0);
        let (limit, of_all) = (Duration::from_secs(20), Some(Duration::from_millis(1500)));
        let why = sh(script).all(limit, of_all, |_| count += 1).unwrap();
        // A second, or more of them on a busy machine.
        let seconds = why.strip_prefix("not reached in time: after ");
        let seconds = seconds.and_then(|rest| rest.strip_suffix(" s, /dev/sdb had not answered yet"));
        assert!(count == 1 && seconds.is_some_and(|seconds| seconds.parse::<u64>().unwrap() >= 1), "{count}: {why}");
        assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    }

    #[test]
    fn what_has_answered_counts_and_what_has_not_is_named() {
        let answers = r#"echo '{"Jobs":[]}'; echo '{"At":"/dev/sdb"}'; echo 'half a li'"#;
        for (end, why) in [
            ("exec sleep 60", Some("no answer after 2 s from /dev/sdb")),
            ("exit 1", Some("the look at this machine broke off at /dev/sdb")),
            (r#"echo '"Done"'"#, None),
        ] {
            let mut count = 0;
            let found = sh(&format!("{answers}; {end}")).all(Duration::from_secs(2), None, |answer| {
                assert!(matches!(answer, Answer::Jobs(_)), "{answer:?}");
                count += 1;
            });
            assert_eq!((count, found.as_deref()), (1, why));
        }
    }
}
