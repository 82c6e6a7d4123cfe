//! The retention drive: configured, mounted, a file system of its own, writable, with room, and nobody's target.

use std::path::{Path, PathBuf};

use failback_hostdev::{AttachedDisk, Host, MountedAt, ScsiUuid};
use failback_units::HumanBytes;
use nix::unistd::{AccessFlags, access};

use super::system::{Space, space_of};
use crate::finding::{Finding, Level};

const NAME: &str = "retention";
/// As many digits has a SCSI UUID without anything before it.
const UUID_DIGITS: usize = 32;
/// File systems that are gone after a power cut.
const IN_MEMORY: [&str; 4] = ["tmpfs", "ramfs", "rootfs", "overlay"];

/// `directory` is without links in its name, and `disk` is the one that it lies on.
pub(super) fn retention(
    host: &Host,
    directory: Result<Option<PathBuf>, &String>,
    disk: Option<&AttachedDisk>,
) -> Vec<Finding> {
    let directory = match directory {
        Ok(Some(directory)) => directory,
        Ok(None) => {
            let message = "no retention drive is configured: original disks are written with --no-undo only";
            let fix = "mount one at /var/lib/failback/retention and name that in /etc/failback/failback.toml";
            return vec![Finding::warn(NAME, message, fix)];
        }
        Err(why) => {
            let fix = "correct /etc/failback/failback.toml";
            return vec![Finding::fail(NAME, why, fix)];
        }
    };
    let shown = directory.display();
    let place = host.path(&directory);
    if !place.is_dir() {
        let fix = format!("mount the retention drive so that {shown} is there");
        return vec![Finding::fail(NAME, format!("the retention directory {shown} is not there"), fix)];
    }
    let mounted = match host.mounted_at(&directory) {
        Ok(Some(mounted)) => mounted,
        Ok(None) => return vec![blind(&directory, "the kernel tells of no mount")],
        Err(error) => return vec![blind(&directory, &error.to_string())],
    };
    let mut found: Vec<_> = drive(&directory, &mounted, disk).into_iter().collect();
    found.extend(writable(&place, &directory, &mounted));
    found.extend(disk.and_then(record));
    let space = space_of(host, &mounted.at);
    found.extend(space.and_then(|space| room(&mounted, space)));
    if found.is_empty() {
        let room = space.map(|space| format!(", {} of {} free", HumanBytes(space.free), HumanBytes(space.total)));
        let message = format!("{shown} lies on {}{}", mounted.source.display(), room.unwrap_or_default());
        found.push(Finding::ok(NAME, message));
    }
    found
}

fn blind(directory: &Path, why: &str) -> Finding {
    let message = format!("nobody can tell what {} lies on: {why}", directory.display());
    Finding::fail(NAME, message, "make sure that /proc is mounted")
}

/// Whether it is a drive of its own at all.
fn drive(directory: &Path, mounted: &MountedAt, disk: Option<&AttachedDisk>) -> Option<Finding> {
    let shown = directory.display();
    let fix = "mount the retention drive there; move what is in the directory now onto it";
    if mounted.at == Path::new("/") {
        return Some(Finding::fail(
            NAME,
            format!("{shown} lies on the system's own file system, not on a drive of its own"),
            fix,
        ));
    }
    if IN_MEMORY.contains(&mounted.kind.as_str()) {
        let message = format!("{shown} lies in memory ({}): a power cut ends every recovery point", mounted.kind);
        return Some(Finding::fail(NAME, message, fix));
    }
    let disk = disk.filter(|disk| disk.is_system() || disk.own.as_deref() == Some("system"))?;
    let message = format!(
        "{shown} lies on {}, the disk of the system: whatever happens to that disk ends every recovery point too",
        disk.path.display()
    );
    Some(Finding::warn(
        NAME,
        message,
        "attach a disk for the retention drive, and move what is in the directory onto it",
    ))
}

fn writable(place: &Path, directory: &Path, mounted: &MountedAt) -> Option<Finding> {
    if mounted.writable && access(place, AccessFlags::W_OK).is_ok() {
        return None;
    }
    let at = mounted.at.display();
    let fix = format!("look for errors of its file system (`dmesg`), check it, then `mount -o remount,rw {at}`");
    Some(Finding::fail(NAME, format!("{} cannot be written to", directory.display()), fix))
}

/// Whether the disk is recorded as the machine's own, where disks are.
fn record(disk: &AttachedDisk) -> Option<Finding> {
    if !disk.guarded {
        return None;
    }
    let message = format!("{}, the retention drive, is not recorded as the machine's own", disk.path.display());
    let Some(wwid) = &disk.wwid else {
        let fix = "give that disk a WWID or a serial number in the settings of the hypervisor (in VMware: disk.EnableUUID = TRUE), then \
                   record it in /etc/failback/own-disks: it has no name by which it is known again";
        return Some(Finding::warn(NAME, message, fix));
    };
    // A disk whose WWID the kernel does not keep is called by its SCSI UUID, which is no WWID. The kernel makes one of it so.
    let is_uuid = wwid.len() == UUID_DIGITS && wwid.parse::<ScsiUuid>().is_ok();
    let wwid = if is_uuid { format!("naa.{wwid}") } else { wwid.clone() };
    Some(Finding::warn(NAME, message, format!("add the line `retention {wwid}` to /etc/failback/own-disks")))
}

fn room(mounted: &MountedAt, space: Space) -> Option<Finding> {
    let message = format!(
        "{} of {} are free on the retention drive at {}",
        HumanBytes(space.free),
        HumanBytes(space.total),
        mounted.at.display(),
    );
    let fix =
        "remove recovery points with `failback point prune`, set limits in /etc/failback/failback.toml, or enlarge it";
    match space.level() {
        Level::Ok => None,
        Level::Warn => Some(Finding::warn(NAME, message, fix)),
        Level::Fail => Some(Finding::fail(NAME, message, fix)),
    }
}
