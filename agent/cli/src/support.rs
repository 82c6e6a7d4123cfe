//! The verb support-bundle: what support needs to see, in one file, without secrets.

use crate::args::SupportBundleArgs;
use crate::look::{self, Answer, Looking, Part};
use crate::report::{Lines, print};
use crate::signals::stop_flag;
use crate::{check, files};
use anyhow::{Result, bail};
use failback_machine::{Bundle, Findings, Host, Job};
use failback_orchestrate::JobError;
use serde_json::{Value, json};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// Between two looks at whether this is to stop.
const TICK: Duration = Duration::from_millis(50);

pub(crate) fn support_bundle(args: &SupportBundleArgs) -> Result<ExitCode> {
    let path = &args.output;
    let stop = stop_flag()?;
    // Before anything is collected, so that a wrong name is told at once.
    let unfinished = Unfinished::beside(path)?;
    let (file, name) = (unfinished.file()?, path.clone());
    // Half a file is of no use to anybody: it goes with `unfinished`.
    let made = in_thread(file, &stop, move |file| {
        let bundle = collect(Looking::at(&[Part::Jobs, Part::Checks, Part::Support]), look::LIMIT)?;
        let now = u64::try_from(files::now()).unwrap_or_default();
        let written = write(&bundle, &file, now);
        let bytes = written.map_err(|source| JobError::File { action: "write", path: name, source })?;
        Ok(Made { bytes, texts: bundle.len(), removed: bundle.removed(), missing: bundle.missing() })
    })?;
    unfinished.finish()?;
    let object = json!({
        "file": path.display().to_string(),
        "bytes": made.bytes,
        "texts": made.texts,
        "secrets_removed": made.removed,
        "missing": made.missing,
    });
    let mut lines = Lines::default();
    lines.add("file", path.display()).bytes("size", made.bytes).add("texts", made.texts);
    lines.add("secrets removed", made.removed);
    if !made.missing.is_empty() {
        lines.add("missing", made.missing.join("\n"));
    }
    lines.add("before you send it", "look through it: `tar --zstd -xf` unpacks it, CONTENTS lists what is in it");
    print(args.json, &object, &lines)?;
    Ok(ExitCode::SUCCESS)
}

/// What there is to say of a bundle.
struct Made {
    bytes: u64,
    texts: usize,
    removed: usize,
    missing: Vec<String>,
}

/// Makes it in a thread, so that a signal is heard whatever that waits for.
fn in_thread<T: Send + 'static>(
    file: File,
    stop: &AtomicBool,
    make: impl FnOnce(File) -> Result<T> + Send + 'static,
) -> Result<T> {
    let (send, receive) = channel();
    thread::spawn(move || send.send(make(file)));
    loop {
        match receive.recv_timeout(TICK) {
            Ok(result) => return result,
            Err(RecvTimeoutError::Timeout) if stop.load(Ordering::Relaxed) => {
                return Err(JobError::Interrupted("the unfinished file was removed".into()).into());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => bail!("the collecting broke off: this is a fault of failback"),
        }
    }
}

/// A new file that only its owner may read, under another name beside its own until it is whole: a program that is killed must not
/// leave half of it where the next one writes. It is removed when this is dropped.
struct Unfinished {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
}

impl Unfinished {
    fn beside(path: &Path) -> Result<Self, JobError> {
        if files::is_dash(path) {
            let sentence = "a bundle is a file that only its owner may read, so it is not written to standard output: name a file with -o";
            return Err(JobError::Refused(sentence.into()));
        }
        let failed = |source: io::Error| not_created(path, source);
        if fs::symlink_metadata(path).is_ok() {
            return Err(failed(io::ErrorKind::AlreadyExists.into()));
        }
        // Not made of its own name, which may be as long as names can be.
        let temporary = format!("failback-{:032x}.unfinished", u128::from_le_bytes(files::random()?));
        let temporary = path.with_file_name(temporary);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).map_err(failed)?;
        Ok(Self { file, temporary, path: path.to_owned() })
    }

    fn file(&self) -> Result<File, JobError> {
        self.file.try_clone().map_err(|source| not_created(&self.path, source))
    }

    /// Gives it its own name, durably, without replacing anything that has that name by now.
    fn finish(self) -> Result<(), JobError> {
        give_name(&self.temporary, &self.path).map_err(|source| not_created(&self.path, source))?;
        let directory = self.path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(|source| JobError::File { action: "write", path: directory.to_owned(), source })
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.temporary);
    }
}

/// A second name; the first one goes with [`Unfinished`].
fn give_name(temporary: &Path, path: &Path) -> io::Result<()> {
    match fs::hard_link(temporary, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            // A file system without second names: what is replaced is what was made here a moment ago.
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            fs::rename(temporary, path)
        }
        named => named,
    }
}

fn not_created(path: &Path, source: io::Error) -> JobError {
    match source.kind() {
        io::ErrorKind::AlreadyExists => JobError::Refused(format!(
            "{} is there already and is not replaced: name another file, or remove it",
            path.display()
        )),
        io::ErrorKind::NotFound => JobError::Refused(format!(
            "the directory of {} does not exist: name a file in one that does",
            path.display()
        )),
        _ => JobError::File { action: "create", path: path.to_owned(), source },
    }
}

fn write(bundle: &Bundle, file: &File, now: u64) -> io::Result<u64> {
    let mut out = BufWriter::new(file);
    bundle.write(&mut out, now)?;
    out.flush()?;
    drop(out);
    file.sync_all()?;
    Ok(file.metadata()?.len())
}

/// What the machine tells, and what only this program knows of it; in place of what does not answer, that it does not.
fn collect(looking: io::Result<Looking>, limit: Duration) -> Result<Bundle> {
    let (mut jobs, mut disks, mut points, mut found) = (None, None, None, Findings::default());
    let missing = match looking {
        Ok(looking) => looking.all(limit, None, |answer| match answer {
            Answer::Jobs(told) => jobs = Some(jobs_object(&told)),
            Answer::Disks(told) => disks = Some(told),
            Answer::Points(told) => points = Some(told),
            Answer::Check(name, told) => found.answer(&name, told),
            Answer::At(_) | Answer::Rows(_) | Answer::Retention(_) | Answer::Done => {}
        }),
        Err(error) => Some(format!("this machine cannot be looked at: {error}")),
    };
    let why = missing.unwrap_or_else(|| "the look did not tell".into());
    found.fail_the_rest(&why, look::FIX);
    let found: Vec<_> = found.iter().cloned().collect();
    let mut bundle = Bundle::of(&Host::this());
    let version = Some(json!({ "failback": env!("CARGO_PKG_VERSION") }));
    for (name, value) in [
        ("state/version.json", version),
        ("state/check.json", Some(check::object(&found))),
        ("state/jobs.json", jobs),
        ("state/disks.json", disks),
        ("state/points.json", points),
    ] {
        match value {
            Some(value) => bundle.add(name, &(serde_json::to_string_pretty(&value)? + "\n")),
            None => bundle.add_missing(name, &why),
        }
    }
    Ok(bundle)
}

fn jobs_object(jobs: &[Job]) -> Value {
    let object = |job: &Job| {
        json!({
            "pid": job.pid,
            "call": job.call,
            "seconds": job.seconds,
            "bytes_read": job.bytes_read,
            "bytes_written": job.bytes_written,
            "phase": job.progress.as_ref().map(|progress| &progress.what),
            "done": job.progress.as_ref().map(|progress| progress.done),
            "total": job.progress.as_ref().and_then(|progress| progress.total),
        })
    };
    json!(jobs.iter().map(object).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn what_hangs_is_named_and_what_has_answered_is_there() {
        let script = r#"echo '{"Jobs":[]}'; echo '{"At":"/dev/sdb"}'; exec sleep 60"#;
        let looking = Looking::by(Command::new("sh").args(["-c", script]));
        let bundle = collect(looking, Duration::from_secs(1)).unwrap();
        let list = bundle.contents();
        for name in ["disks", "points"] {
            assert!(list.contains(&format!("  state/{name}.json (no answer after 1 s from /dev/sdb)\n")), "{list}");
        }
        assert!(list.contains("  state/jobs.json\n") && list.contains("  proc/version\n"), "{list}");
        let missing = bundle.missing();
        assert!(missing.contains(&"state/disks.json: no answer after 1 s from /dev/sdb".to_owned()), "{missing:?}");
    }

    #[test]
    fn a_signal_is_heard_whatever_is_waited_for() {
        let place = tempfile::tempdir().unwrap();
        let stop = AtomicBool::new(true);
        let (hold, waiting) = channel::<()>();
        let file = Unfinished::beside(&place.path().join("file")).unwrap();
        let made = in_thread(file.file().unwrap(), &stop, move |_| Ok(waiting.recv()?));
        assert!(made.unwrap_err().to_string().contains("the unfinished file was removed"));
        drop(hold);
    }
}
