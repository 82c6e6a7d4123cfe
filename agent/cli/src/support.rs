//! The verb support-bundle: what support needs to see, in one file, without secrets.

use crate::args::SupportBundleArgs;
use crate::config::Config;
use crate::points::{open, report};
use crate::report::{Lines, print};
use crate::{check, disks, files};
use anyhow::Result;
use failback_machine::{Bundle, Host, jobs};
use failback_orchestrate::{JobError, inventory};
use serde_json::{Value, json};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

pub(crate) fn support_bundle(args: &SupportBundleArgs) -> Result<ExitCode> {
    let path = &args.output;
    // Before anything is collected, so that a wrong name is told at once.
    let file = create(path)?;
    let bundle = collect()?;
    let now = u64::try_from(files::now()).unwrap_or_default();
    let written = write(&bundle, &file, now);
    let bytes = written.inspect_err(|_| {
        // Half a file is of no use to anybody.
        let _ = fs::remove_file(path);
    });
    let bytes = bytes.map_err(|source| JobError::File { action: "write", path: path.clone(), source })?;
    let object = json!({
        "file": path.display().to_string(),
        "bytes": bytes,
        "texts": bundle.len(),
        "secrets_removed": bundle.removed(),
    });
    let mut lines = Lines::default();
    lines.add("file", path.display()).bytes("size", bytes).add("texts", bundle.len());
    lines.add("secrets removed", bundle.removed());
    lines.add("before you send it", "look through it: `tar --zstd -xf` unpacks it, CONTENTS lists what is in it");
    print(args.json, &object, &lines)?;
    Ok(ExitCode::SUCCESS)
}

/// A new file that only its owner may read.
fn create(path: &Path) -> Result<File, JobError> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => JobError::Refused(format!(
            "{} is there already and is not replaced: name another file, or remove it",
            path.display()
        )),
        io::ErrorKind::NotFound => JobError::Refused(format!(
            "the directory of {} does not exist: name a file in one that does",
            path.display()
        )),
        _ => JobError::File { action: "create", path: path.to_owned(), source },
    })
}

fn write(bundle: &Bundle, file: &File, now: u64) -> io::Result<u64> {
    let mut out = BufWriter::new(file);
    bundle.write(&mut out, now)?;
    out.flush()?;
    drop(out);
    file.sync_all()?;
    Ok(file.metadata()?.len())
}

/// What the machine tells, and what only this program knows of it.
fn collect() -> Result<Bundle> {
    let host = Host::this();
    let mut bundle = Bundle::of(&host);
    let mut add = |name: &str, value: &Value| -> Result<()> {
        bundle.add(name, &(serde_json::to_string_pretty(value)? + "\n"));
        Ok(())
    };
    add("state/version.json", &json!({ "failback": env!("CARGO_PKG_VERSION") }))?;
    add("state/check.json", &check::object(&check::findings()))?;
    add(
        "state/disks.json",
        &inventory().map_or_else(|error| json!({ "error": error.to_string() }), |it| disks::object(&it)),
    )?;
    let running: Vec<_> = jobs(&host)
        .into_iter()
        .map(|job| {
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
        })
        .collect();
    add("state/jobs.json", &json!(running))?;
    let points = match Config::load() {
        Ok(config) => config.retention.directory.map(|directory| {
            let all = open::all(&directory);
            all.map_or_else(|error| json!({ "error": error.to_string() }), |all| report::all_disks(&directory, &all).0)
        }),
        Err(error) => Some(json!({ "error": error.to_string() })),
    };
    add("state/points.json", &json!(points))?;
    Ok(bundle)
}
