//! What stands in the way of a master target, and what mends it.

mod disks;
mod retention;
mod system;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use failback_hostdev::{AttachedDisk, Host, SourceError, inventory_of};

use crate::finding::Finding;

/// What only the program knows that asks.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The retention directory of the configuration, if it names one, or why the configuration cannot be read.
    pub retention: Result<Option<PathBuf>, String>,
    /// Why `io_uring` is not used, as a sentence; `None` if it is.
    pub io_uring: Option<String>,
}

/// Checks everything, in a fixed order. Nothing is changed, and no disk is opened for writing.
#[must_use]
pub fn check(host: &Host, facts: &Facts) -> Vec<Finding> {
    let disks = inventory_of(host);
    let known = disks.as_deref().unwrap_or_default();
    let mut found = match &disks {
        Ok(disks) => disks::identity(host, disks),
        Err(error) => vec![unknown(error)],
    };
    found.extend(disks::controllers(host, known));
    found.extend(retention::retention(host, facts, known));
    found.push(system::io_uring(host, facts));
    found.extend(system::clock(host));
    found.extend(system::ports(host));
    found.push(system::custom_changes(host));
    found.push(system::kernel(host));
    found.extend(system::free_space(host));
    if disks.is_ok() {
        found.extend(disks::foreign(host, facts, known));
    }
    found.extend(system::start(host));
    found
}

fn unknown(error: &SourceError) -> Finding {
    let cause = std::error::Error::source(error).map(|cause| format!(" ({cause})")).unwrap_or_default();
    let text = error.to_string();
    let (what, fix) = text.split_once(": ").unwrap_or((&text, "look at the messages of the kernel"));
    Finding::fail("disk-uuid", format!("{what}{cause}"), fix)
}

/// The disk that the retention directory lies on.
fn retention_disk<'a>(host: &Host, facts: &Facts, disks: &'a [AttachedDisk]) -> Option<&'a AttachedDisk> {
    use failback_hostdev::Use;
    let directory = facts.retention.as_ref().ok()?.as_ref()?;
    let place = host.mounted_at(directory).ok()??.at;
    disks.iter().find(|disk| disk.uses.iter().any(|used| matches!(used, Use::Mounted { at, .. } if *at == place)))
}
