//! What stands in the way of a master target, and what mends it.

mod disks;
mod retention;
mod system;

#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};

use failback_hostdev::{AttachedDisk, Host, SourceError, Use};

use crate::finding::Finding;

/// What the list of the attached disks is, or why there is none.
pub type Disks = Result<Vec<AttachedDisk>, SourceError>;

/// Checks what can be told without touching a disk that is not the system's. `tell` gets the name of each check and what it found, as soon as
/// that is known. `io_uring` says why that is not used, as a sentence; `None` if it is.
///
/// Nothing is changed.
pub fn check_system(host: &Host, io_uring: Option<&str>, tell: &mut dyn FnMut(&str, Vec<Finding>)) {
    tell("io_uring", vec![system::io_uring(host, io_uring)]);
    tell("clock", system::clock(host));
    tell("ports", system::ports(host));
    tell("kernel", vec![system::kernel(host)]);
    tell("start", system::start(host));
    tell("free-space", system::free_space(host));
    tell("custom-changes", vec![system::custom_changes(host)]);
}

/// Checks what the disks tell, in the same way: those that need nothing else first. `retention` is the retention directory of the configuration,
/// if it names one, or why the configuration cannot be read.
///
/// Nothing is changed, and no disk is opened for writing. That directory is read: where its drive is dead, this does not end.
pub fn check_disks(
    host: &Host,
    disks: &Disks,
    retention: &Result<Option<PathBuf>, String>,
    tell: &mut dyn FnMut(&str, Vec<Finding>),
) {
    let known = disks.as_deref().unwrap_or_default();
    match disks {
        Ok(disks) => tell("disk-uuid", disks::identity(host, disks)),
        Err(error) => tell("disk-uuid", vec![unknown(error)]),
    }
    tell("controllers", disks::controllers(host, known));
    let directory = retention.as_ref().map(|directory| directory.as_deref().map(|it| real_path(host, it)));
    let own = directory.as_ref().ok().and_then(|directory| retention_disk(host, directory.as_deref()?, known));
    // Without a list of disks nothing can be said of foreign ones, and disk-uuid says why.
    tell("foreign-disks", if disks.is_ok() { disks::foreign(own, known) } else { Vec::new() });
    tell("retention", retention::retention(host, directory, own));
}

fn unknown(error: &SourceError) -> Finding {
    let cause = std::error::Error::source(error).map(|cause| format!(" ({cause})")).unwrap_or_default();
    let text = error.to_string();
    let (what, fix) = text.split_once(": ").unwrap_or((&text, "look at the messages of the kernel"));
    Finding::fail("disk-uuid", format!("{what}{cause}"), fix)
}

/// Where a directory is by the names of no links, as the kernel tells of mounts. A place where something is mounted is left as it is: it has no
/// links in its name, and nothing has to be read there.
fn real_path(host: &Host, directory: &Path) -> PathBuf {
    if host.mounted_at(directory).is_ok_and(|found| found.is_some_and(|found| found.at == directory)) {
        return directory.to_owned();
    }
    let real = fs::canonicalize(host.path(directory)).ok().zip(fs::canonicalize(host.path("/")).ok());
    let real = real.and_then(|(real, base)| Some(Path::new("/").join(real.strip_prefix(base).ok()?)));
    real.unwrap_or_else(|| directory.to_owned())
}

/// The disk that the retention directory lies on.
fn retention_disk<'a>(host: &Host, directory: &Path, disks: &'a [AttachedDisk]) -> Option<&'a AttachedDisk> {
    let place = host.mounted_at(directory).ok()??.at;
    disks.iter().find(|disk| disk.uses.iter().any(|used| matches!(used, Use::Mounted { at, .. } if *at == place)))
}
