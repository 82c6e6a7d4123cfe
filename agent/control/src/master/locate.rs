//! From a pair to its disk, and from a disk to what a pair binds.

use crate::state::{TargetDisk, VmdkId};
use failback_orchestrate::{DiskIdentity, JobError, Medium, disks_with_uuid, look_at_target, names_vmdk};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// What a pair binds of the disk at `path`: its UUID, or which VMDK it is.
///
/// # Errors
///
/// When it cannot be read, or nothing tells it from another disk.
pub fn target_of(path: &Path) -> Result<(TargetDisk, DiskIdentity), JobError> {
    let disk = look_at_target(path)?.identity;
    let target = match (disk.medium, disk.scsi_uuid) {
        (Medium::BlockDevice { .. }, Some(uuid)) => TargetDisk::Scsi(uuid),
        (Medium::BlockDevice { .. }, None) => {
            return Err(JobError::Refused(format!(
                "{} shows no SCSI UUID, so nobody could tell it from another disk tomorrow: set disk.EnableUUID = TRUE on this VM",
                path.display()
            )));
        }
        (Medium::Image, _) if !names_vmdk(path) => {
            return Err(JobError::Refused(format!(
                "{} is a plain image, which nothing tells from another: name a disk with a SCSI UUID, or a VMDK",
                path.display()
            )));
        }
        (Medium::Image, uuid) => {
            let failed = |source| JobError::File { action: "find", path: path.to_owned(), source };
            let whole = fs::canonicalize(path).map_err(failed)?;
            TargetDisk::Vmdk { id: vmdk_id(&whole, &disk, uuid.map(VmdkId::Uuid)), path: whole }
        }
    };
    Ok((target, disk))
}

fn vmdk_id(path: &Path, disk: &DiskIdentity, uuid: Option<VmdkId>) -> VmdkId {
    uuid.unwrap_or_else(|| {
        let born = fs::metadata(path).and_then(|about| about.created()).ok();
        let born = born.and_then(|born| born.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        VmdkId::File {
            inode: disk.inode.unwrap_or_default().1,
            born: u64::try_from(born.as_nanos()).unwrap_or_default(),
        }
    })
}

/// A target in words.
#[must_use]
pub fn describe_target(target: &TargetDisk) -> String {
    match target {
        TargetDisk::Scsi(uuid) => format!("the disk {uuid}"),
        TargetDisk::Vmdk { path, .. } => format!("the VMDK {}", path.display()),
    }
}

/// Where the target of a pair is today, if it can be written now.
pub(super) fn locate(target: &TargetDisk) -> Result<(PathBuf, DiskIdentity), JobError> {
    let path = match target {
        TargetDisk::Vmdk { path, .. } => path.clone(),
        TargetDisk::Scsi(uuid) => {
            let found = disks_with_uuid(*uuid)?;
            match <[PathBuf; 1]>::try_from(found) {
                Ok([path]) => path,
                Err(found) if found.is_empty() => {
                    return Err(JobError::Refused(format!(
                        "no attached disk shows the SCSI UUID {uuid}: attach the target disk to the master target"
                    )));
                }
                Err(found) => {
                    let names: Vec<_> = found.iter().map(|path| path.display().to_string()).collect();
                    return Err(JobError::Refused(format!(
                        "{} show the same SCSI UUID {uuid}, so nobody can tell which is the target: detach the one that is a copy",
                        names.join(" and ")
                    )));
                }
            }
        }
    };
    let seen = look_at_target(&path)?;
    let is_that_one = match target {
        TargetDisk::Scsi(uuid) | TargetDisk::Vmdk { id: VmdkId::Uuid(uuid), .. } => {
            seen.identity.scsi_uuid == Some(*uuid)
        }
        TargetDisk::Vmdk { id, .. } => vmdk_id(&path, &seen.identity, None) == *id,
    };
    if !is_that_one {
        return Err(JobError::Refused(format!(
            "{} is another disk than the one that this pair was made for: put the right one there, or remove the pair and add it anew",
            path.display()
        )));
    }
    match seen.reasons.as_slice() {
        [] => Ok((path, seen.identity)),
        reasons => Err(JobError::Refused(reasons.join("; "))),
    }
}
