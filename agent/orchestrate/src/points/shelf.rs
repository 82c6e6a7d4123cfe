//! From a disk to its recovery points: found by what identifies the disk, not by the name that it has today.

use super::unknown_point;
use crate::JobError;
use crate::naming::{binding_of, describe};
use failback_hostdev::{DiskIdentity, Medium};
use failback_retention::{Catalogue, Directory, Disk as StoredDisk, FsDirectory, Lock, LockError, Store, StoreError};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

/// The points of a disk, locked against others.
pub struct Opened {
    /// The points.
    pub store: Store,
    /// Kept until this goes.
    pub lock: Lock,
}

/// The name of a disk's directory in a retention directory. An image is told by its inode and the moment when that was made: a file that was copied or
/// restored is another one.
#[must_use]
pub fn name_of_points(disk: &DiskIdentity) -> String {
    match (disk.medium, &disk.scsi_uuid, &disk.kernel_name) {
        (_, Some(uuid), _) => uuid.to_string(),
        (Medium::Image, None, _) => {
            let born = fs::metadata(&disk.path).and_then(|about| about.created()).ok();
            let born = born.and_then(|born| born.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
            format!("image-{}-{}", disk.inode.unwrap_or_default().1, born.as_nanos())
        }
        (Medium::BlockDevice { .. }, None, Some(name)) => format!("{}-{}", name.replace('/', "!"), disk.size),
        (Medium::BlockDevice { major, minor }, None, None) => format!("{major}-{minor}-{}", disk.size),
    }
}

/// Where the points of a disk are, or would be.
fn place(directory: &Path, disk: &DiskIdentity) -> PathBuf {
    directory.join(name_of_points(disk))
}

/// Opens the points of a disk for changes, under the exclusive lock.
///
/// # Errors
///
/// When there are none, they are another disk's, damaged or in use, or the retention drive fails.
pub fn points_for_changes(directory: &Path, disk: &DiskIdentity) -> Result<Opened, JobError> {
    let place = place(directory, disk);
    check_directory(directory)?;
    if !place.exists() {
        return Err(none_of_this_disk(directory, disk));
    }
    let opened = Arc::new(FsDirectory::open(&place).map_err(|source| unusable(&place, source))?);
    let lock = locked(&opened, &place, true)?;
    match Store::open_for_changes(opened, &binding_of(disk).id) {
        Err(StoreError::Empty(_)) => Err(none_of_this_disk(directory, disk)),
        Ok(store) if is_unknown(store.catalogue()) => Err(none_of_this_disk(directory, disk)),
        opened => Ok(Opened { store: opened?, lock }),
    }
}

/// The same, and makes them if there are none: what is not known of the disk is known from the first delta on. `now` is in seconds since
/// 1970.
///
/// # Errors
///
/// As [`points_for_changes`].
pub fn points_made_for_changes(directory: &Path, disk: &DiskIdentity, now: i64) -> Result<Opened, JobError> {
    let place = place(directory, disk);
    check_directory(directory)?;
    let opened = FsDirectory::create(&place).map_err(|source| unusable(&place, source))?;
    let lock = locked(&opened, &place, true)?;
    let opened: Arc<dyn Directory> = Arc::new(opened);
    let binding = binding_of(disk).id;
    let store = match Store::open_for_changes(Arc::clone(&opened), &binding) {
        Err(StoreError::Empty(_)) => {
            let stored = StoredDisk { binding, description: describe(disk), size: disk.size };
            Store::create(opened, stored, unknown_point(disk.size, now))?
        }
        opened => opened?,
    };
    Ok(Opened { store, lock })
}

/// Opens the points of a disk for reading. The lock is shared: others may read too, and nobody may change them meanwhile.
///
/// # Errors
///
/// As [`points_for_changes`].
pub fn points_for_reading(directory: &Path, disk: &DiskIdentity) -> Result<Opened, JobError> {
    check_directory(directory)?;
    let place = place(directory, disk);
    let opened = match FsDirectory::open(&place) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(none_of_this_disk(directory, disk)),
        opened => opened.map_err(|source| unusable(&place, source))?,
    };
    let lock = locked(&opened, &place, false)?;
    let store = match Store::open_for_reading(Arc::new(opened)) {
        Err(StoreError::Empty(_)) => return Err(none_of_this_disk(directory, disk)),
        opened => opened?,
    };
    store.check_disk(&binding_of(disk).id)?;
    if is_unknown(store.catalogue()) {
        return Err(none_of_this_disk(directory, disk));
    }
    Ok(Opened { store, lock })
}

/// A look at the points of a disk, and whether somebody changes them now; `None` if there are none.
///
/// # Errors
///
/// When they are another disk's or damaged, or the retention drive fails.
pub fn look_at_points(directory: &Path, disk: &DiskIdentity) -> Result<Option<(Store, bool)>, JobError> {
    check_directory(directory)?;
    let place = place(directory, disk);
    let opened = match FsDirectory::open(&place) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|source| unusable(&place, source))?,
    };
    // Whoever may only read cannot lock, and can look all the same.
    let running = matches!(opened.lock(false), Err(LockError::Held { .. }));
    match Store::open_for_reading(Arc::new(opened)) {
        Err(StoreError::Empty(_)) => Ok(None),
        opened => {
            let store = opened?;
            store.check_disk(&binding_of(disk).id)?;
            Ok(Some((store, running)))
        }
    }
}

/// A disk of a retention directory: the name of its own directory, and its points or why they cannot be read.
pub type FoundDisk = (String, Result<Store, StoreError>);

/// All disks of a retention directory.
///
/// # Errors
///
/// When the directory cannot be read.
pub fn all_points(directory: &Path) -> Result<Vec<FoundDisk>, JobError> {
    check_directory(directory)?;
    let failed = |source| unusable(directory, source);
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let Ok(opened) = FsDirectory::open(&entry.path()) else { continue };
        match Store::open_for_reading(Arc::new(opened)) {
            // No directory of ours, such as lost+found.
            Err(StoreError::Empty(_)) => {}
            store => found.push((name, store)),
        }
    }
    found.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(found)
}

/// Whether nothing was recorded yet: the first apply was refused.
#[must_use]
pub fn is_unknown(catalogue: &Catalogue) -> bool {
    catalogue.pending().is_none() && catalogue.points().len() == 1 && catalogue.present().root.0 == [0; 32]
}

fn check_directory(directory: &Path) -> Result<(), JobError> {
    let about = fs::metadata(directory).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => JobError::Refused(format!(
            "the retention directory {} does not exist: mount the retention drive, or make the directory on it",
            directory.display()
        )),
        _ => unusable(directory, source),
    })?;
    if !about.is_dir() {
        return Err(JobError::Refused(format!(
            "{} is no directory: name one on the retention drive",
            directory.display()
        )));
    }
    if directory.join("catalogue").exists() {
        return Err(JobError::Refused(format!(
            "{} holds the recovery points of one disk: name the directory above it",
            directory.display()
        )));
    }
    Ok(())
}

fn none_of_this_disk(directory: &Path, disk: &DiskIdentity) -> JobError {
    JobError::Refused(format!(
        "there are no recovery points of {} in {}: failback point list --retention {} tells of which disks there are",
        disk.path.display(),
        directory.display(),
        directory.display()
    ))
}

fn locked(directory: &FsDirectory, place: &Path, exclusive: bool) -> Result<Lock, JobError> {
    directory.lock(exclusive).map_err(|error| match error {
        LockError::Failed { source, .. } => unusable(place, source),
        held @ LockError::Held { .. } => held.into(),
    })
}

fn unusable(path: &Path, source: io::Error) -> JobError {
    match source.kind() {
        io::ErrorKind::ReadOnlyFilesystem => JobError::Refused(format!(
            "{} is on a file system that is mounted read-only: mount it writable, or name another retention directory",
            path.display()
        )),
        io::ErrorKind::PermissionDenied => JobError::Refused(format!(
            "{} may not be used by this user: run this as root, or name another retention directory",
            path.display()
        )),
        _ => JobError::File { action: "use the retention directory", path: path.to_owned(), source },
    }
}
