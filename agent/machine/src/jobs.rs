//! Other failback programs that run now.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::time::{Duration, SystemTime};

use failback_hostdev::{Host, plain};
use nix::unistd::{SysconfVar, sysconf};
use serde::{Deserialize, Serialize};

use crate::look::LOOK;

/// Verbs that look and do not work.
const LOOKING: [&str; 7] = ["console", "check", "support-bundle", "jobs", "completions", "man", LOOK];
/// The verb of the daemon, which has its work from others and tells of it itself; with this option it is one session.
const DAEMON: (&str, &str) = ("serve", "--stdio");

/// Where a job keeps a file, named by its process and holding `DONE TOTAL WHAT`, if this directory is there.
pub const JOBS_DIRECTORY: &str = "/run/failback/jobs";
/// Such a file is shorter than this.
const MOST_SAID: u64 = 200;
/// As much of a call is told: whoever may start a program may call it with megabytes.
const MOST_OF_CALL: usize = 300;
/// How much the kernel's ticks and the clock may disagree on when a process began.
const SLACK: Duration = Duration::from_secs(2);

/// How far a job says that it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobProgress {
    /// What it does at present, in a word, without control characters.
    pub what: String,
    /// Bytes done of that.
    pub done: u64,
    /// Bytes in all, if that is known.
    pub total: Option<u64>,
}

/// A failback program that works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The number of its process.
    pub pid: u32,
    /// What it does, as it was called, without the program's name and without control characters; words with blanks are in quotes.
    pub call: String,
    /// For how many seconds it has been running, if the kernel tells.
    pub seconds: Option<u64>,
    /// Bytes that it had read from storage, if this user may know.
    pub bytes_read: Option<u64>,
    /// Bytes that it had written to storage: to its disk and to the retention drive.
    pub bytes_written: Option<u64>,
    /// How far it says that it is, if it says so.
    pub progress: Option<JobProgress>,
}

/// The failback programs that work on this machine, this one excepted, in the order of their numbers.
///
/// They are known by the name of the file that they run. What they have read and written is the kernel's count; how much is left
/// only they know, so that is told where they say it.
#[must_use]
pub fn jobs(host: &Host) -> Vec<Job> {
    let proc = host.path("/proc");
    let Ok(entries) = fs::read_dir(&proc) else { return Vec::new() };
    let mut pids: Vec<u32> = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    let own = std::process::id();
    let others = pids.into_iter().filter(|pid| !host.is_this() || *pid != own);
    others.filter_map(|pid| job(host, &proc, pid)).collect()
}

/// A process, if it is a failback that works; it may end while it is looked at.
fn job(host: &Host, proc: &Path, pid: u32) -> Option<Job> {
    let place = proc.join(pid.to_string());
    if !runs_failback(&place) {
        return None;
    }
    let line = fs::read(place.join("cmdline")).ok()?;
    let mut words: Vec<_> =
        line.split(|byte| *byte == 0).map(|word| plain(&String::from_utf8_lossy(word))).skip(1).collect();
    if words.last().is_some_and(String::is_empty) {
        words.pop();
    }
    let verb = words.iter().find(|word| !word.starts_with('-'))?;
    let is_daemon = verb == DAEMON.0 && !words.iter().any(|word| word == DAEMON.1);
    if LOOKING.contains(&verb.as_str()) || is_daemon {
        return None;
    }
    let io = fs::read_to_string(place.join("io")).unwrap_or_default();
    let count = |name: &str| io.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    let seconds = age(proc, &place);
    Some(Job {
        pid,
        call: words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ").chars().take(MOST_OF_CALL).collect(),
        seconds,
        progress: progress(&host.path(JOBS_DIRECTORY).join(pid.to_string()), seconds),
        bytes_read: count("read_bytes:"),
        bytes_written: count("write_bytes:"),
    })
}

/// Whether the process that this directory of `/proc` is about runs a file with the program's name.
pub(crate) fn runs_failback(place: &Path) -> bool {
    let exe = fs::read_link(place.join("exe")).unwrap_or_default();
    let name = exe.file_name().and_then(OsStr::to_str).unwrap_or_default();
    // So the kernel calls a file that was replaced meanwhile, as by an update.
    name.trim_end_matches(" (deleted)") == "failback"
}

/// A word as a shell would have it, so that where it ends can still be seen: what it holds may be a secret.
fn quoted(word: &str) -> Cow<'_, str> {
    if word.is_empty() || word.contains(char::is_whitespace) {
        return format!("{word:?}").into();
    }
    word.into()
}

/// What the file of a job says; nothing, if it is older than the process: then another wrote it, and was killed.
fn progress(path: &Path, seconds: Option<u64>) -> Option<JobProgress> {
    let file = File::open(path).ok()?;
    let written = file.metadata().ok()?.modified().ok()?;
    let began = SystemTime::now().checked_sub(Duration::from_secs(seconds?))?.checked_sub(SLACK)?;
    if written < began {
        return None;
    }
    let mut said = String::new();
    file.take(MOST_SAID).read_to_string(&mut said).ok()?;
    let mut words = said.trim().splitn(3, ' ');
    let (done, total, what) = (words.next()?.parse().ok()?, words.next()?, plain(words.next()?));
    Some(JobProgress { what, done, total: total.parse().ok() })
}

/// For how many seconds a process has been there: the machine's age less the moment of the start, which counts in ticks.
fn age(proc: &Path, place: &Path) -> Option<u64> {
    let stat = fs::read_to_string(place.join("stat")).ok()?;
    // The name stands in brackets and may hold anything; the start is field 22, the 20th behind it (proc(5)).
    let ticks: u64 = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()?;
    let rate = u64::try_from(sysconf(SysconfVar::CLK_TCK).ok()??).ok()?;
    let uptime = fs::read_to_string(proc.join("uptime")).ok()?;
    let uptime: u64 = uptime.split(['.', ' ']).next()?.parse().ok()?;
    Some(uptime.saturating_sub(ticks.checked_div(rate)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn process(base: &Path, pid: u32, exe: &str, line: &[u8]) {
        let place = base.join("proc").join(pid.to_string());
        fs::create_dir_all(&place).unwrap();
        symlink(exe, place.join("exe")).unwrap();
        fs::write(place.join("cmdline"), line).unwrap();
        let stat = format!("{pid} (fail) back) S {} 12000 0 0", ["0"; 18].join(" "));
        fs::write(place.join("stat"), stat).unwrap();
        fs::write(place.join("io"), "rchar: 9\nread_bytes: 4096\nwrite_bytes: 8192\n").unwrap();
    }

    #[test]
    fn those_that_work_and_no_others() {
        let base = tempfile::tempdir().unwrap();
        let apply = b"failback\0apply\0--yes\0new \"x\".delta\0/dev/sdb\x1b[2J\0";
        process(base.path(), 30, "/usr/bin/failback (deleted)", apply);
        process(base.path(), 4, "/usr/bin/failback", b"failback\0console\0");
        process(base.path(), 8, "/usr/bin/failback", b"/proc/self/exe\0look\0jobs\0");
        process(base.path(), 5, "/usr/bin/failback", b"failback\0--help\0");
        process(base.path(), 9, "/usr/bin/failback", b"failback\0serve\0--name\0a\0");
        process(base.path(), 6, "/usr/bin/bash", b"failback\0apply\0");
        process(base.path(), 7, "/opt/failback", format!("failback\0verify\0{}\0", "x".repeat(5000)).as_bytes());
        fs::write(base.path().join("proc/uptime"), "500.25 1000.00\n").unwrap();
        let found = jobs(&Host::below(base.path()));
        assert_eq!(found.iter().map(|job| job.pid).collect::<Vec<_>>(), [7, 30]);
        assert_eq!(found[1].call, r#"apply --yes "new \"x\".delta" /dev/sdb\u{1b}[2J"#);
        assert_eq!((found[1].bytes_read, found[1].bytes_written), (Some(4096), Some(8192)));
        assert_eq!(found[0].call.len(), MOST_OF_CALL);
        assert!(found[0].seconds.is_some_and(|seconds| seconds <= 500));
        fs::remove_file(base.path().join("proc/7/io")).unwrap();
        assert_eq!(jobs(&Host::below(base.path()))[0].bytes_read, None);
        assert_eq!(jobs(&Host::below(Path::new("/nonexistent"))), []);
        // How far they are, they say themselves.
        let said = |text: &str| {
            let directory = base.path().join("run/failback/jobs");
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("30"), text).unwrap();
            jobs(&Host::below(base.path())).pop().unwrap().progress
        };
        let progress = |total| Some(JobProgress { what: r"writing\u{1b}c".into(), done: 5, total });
        assert_eq!(said("5 20 writing\x1bc\n"), progress(Some(20)));
        assert_eq!(said("5 - writing\x1bc\n"), progress(None));
        for wrong in ["", "5", "5 6", "x 6 writing", "\n\n"] {
            assert_eq!(said(wrong), None, "{wrong}");
        }
        // One that was there before the process is another's.
        let old = File::options().write(true).open(base.path().join("run/failback/jobs/30")).unwrap();
        fs::write(base.path().join("run/failback/jobs/30"), "5 20 writing\n").unwrap();
        old.set_modified(SystemTime::now() - Duration::from_secs(10_000)).unwrap();
        assert_eq!(jobs(&Host::below(base.path()))[1].progress, None);
        // A session is work, other than the daemon that waits for some.
        process(base.path(), 31, "/usr/bin/failback", b"failback\0serve\0--stdio\0");
        assert_eq!(jobs(&Host::below(base.path())).pop().unwrap().call, "serve --stdio");
    }
}
