//! What a disk is called: for people, and in records that have to find it again.

use crate::{DiskBinding, FileIntents, IntentStore, JobError};
use failback_hashtree::Root;
use failback_hostdev::{DiskIdentity, Medium};
use std::path::{Path, PathBuf};

/// Where the records of block devices are kept.
const STATE_DIRECTORY: &str = "/var/lib/failback";

/// Describes a disk so that a person knows which one it is.
#[must_use]
pub fn describe(disk: &DiskIdentity) -> String {
    let mut parts = vec![format!("{} bytes ({})", disk.size, disk.size.human())];
    parts.extend(disk.model.clone());
    match disk.scsi_uuid {
        Some(uuid) => parts.push(format!("SCSI UUID {uuid}")),
        None if disk.kernel_name.is_some() => parts.push("no SCSI UUID".into()),
        None => parts.push("image".into()),
    }
    if let Some(resolved) = &disk.resolved {
        parts.push(format!("which is {}", resolved.display()));
    }
    format!("{}: {}", disk.path.display(), parts.join(", "))
}

/// The intent record of a disk: found by its SCSI UUID, not by the name that it has today. A block device without one has
/// nothing better than its name and size: another disk may have both after a reboot, and then is told apart by reading it.
#[must_use]
pub fn intents_of(disk: &DiskIdentity, state: Option<&Path>) -> FileIntents {
    let directory = state.map(Path::to_owned);
    let path = match (disk.medium, directory) {
        (Medium::Image, None) => {
            let mut name = disk.resolved.as_ref().unwrap_or(&disk.path).clone().into_os_string();
            name.push(".failback-intent");
            PathBuf::from(name)
        }
        (Medium::Image, Some(directory)) => {
            let (device, inode) = disk.inode.unwrap_or_default();
            directory.join(format!("image-{device}-{inode}.intent"))
        }
        (Medium::BlockDevice { major, minor }, directory) => {
            let name = match (&disk.scsi_uuid, &disk.kernel_name) {
                (Some(uuid), _) => uuid.to_string(),
                (None, Some(name)) => format!("{}-{}", name.replace('/', "!"), disk.size),
                (None, None) => format!("{major}-{minor}-{}", disk.size),
            };
            directory.unwrap_or_else(|| STATE_DIRECTORY.into()).join(format!("{name}.intent"))
        }
    };
    FileIntents::new(path)
}

/// What ties an intent record to a disk.
#[must_use]
pub fn binding_of(disk: &DiskIdentity) -> DiskBinding {
    let (certain, what) = match (&disk.scsi_uuid, disk.medium) {
        (Some(uuid), _) => (true, format!("scsi {uuid}")),
        (None, Medium::Image) => (true, format!("inode {}", disk.inode.unwrap_or_default().1)),
        (None, Medium::BlockDevice { .. }) => {
            (false, format!("name {} of {}", disk.kernel_name.as_deref().unwrap_or_default(), disk.size))
        }
    };
    DiskBinding { id: Root::of(what.as_bytes()).0, certain }
}

/// What the disk was before an apply without recovery points that was interrupted is kept nowhere.
///
/// # Errors
///
/// When there is a record of one, or nobody can tell.
pub fn refuse_unrecorded(intents: &mut FileIntents) -> Result<(), JobError> {
    match intents.load().map_err(JobError::from)? {
        None => Ok(()),
        Some(_) => Err(JobError::Refused(format!(
            "an apply to this disk without recovery points was interrupted ({}): finish it with --no-undo first",
            intents.place()
        ))),
    }
}
