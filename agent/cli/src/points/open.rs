//! From a disk to its recovery points: found by what identifies the disk, not by the name that it has today.

use super::args::{Keeping, Retention};
use super::report::is_unknown;
use crate::config::Config;
use crate::report::tell;
use crate::{confirm, files};
use failback_orchestrate::{
    DiskIdentity, FsDirectory, JobError, Lock, LockError, Medium, Policy, SourceDisk, SourceOptions, Store, StoreError,
    StoredDisk, unknown_point,
};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

/// The points of a disk, locked against others.
pub(crate) struct Opened {
    pub(crate) store: Store,
    pub(crate) lock: Lock,
}

/// The retention directory, from the command line or the configuration.
pub(crate) fn directory(retention: &Retention, config: &Config) -> Option<PathBuf> {
    retention.retention.clone().or_else(|| config.retention.directory.clone())
}

/// The same where there must be one.
pub(crate) fn needed_directory(retention: &Retention) -> Result<PathBuf, JobError> {
    directory(retention, &Config::load()?).ok_or_else(|| {
        JobError::Refused(
            "no retention directory is named: add --retention DIR, or name it in /etc/failback/failback.toml".into(),
        )
    })
}

/// The limits, from the command line or else the configuration.
pub(crate) fn policy(keeping: &Keeping, config: &Config) -> Result<Policy, JobError> {
    let configured = config.policy()?;
    Ok(Policy {
        keep_points: keeping.points.or(configured.keep_points),
        keep_for: keeping.age.or(configured.keep_for),
        keep_bytes: keeping.space.or(configured.keep_bytes),
    })
}

/// The name of a disk's directory. An image is told by its inode and the moment when that was made: a file that was copied or
/// restored is another one.
fn name_of(disk: &DiskIdentity) -> String {
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
pub(crate) fn place(directory: &Path, disk: &DiskIdentity) -> PathBuf {
    directory.join(name_of(disk))
}

/// Opens the points of a disk for changes, under the exclusive lock; makes them if `create` says so and there are none.
pub(crate) fn for_changes(directory: &Path, disk: &DiskIdentity, create: bool) -> Result<Opened, JobError> {
    let place = place(directory, disk);
    check_directory(directory)?;
    if !create && !place.exists() {
        return Err(none_of_this_disk(directory, disk));
    }
    let opened = if create { FsDirectory::create(&place) } else { FsDirectory::open(&place) };
    let opened = opened.map_err(|source| unusable(&place, source))?;
    let lock = locked(&opened, &place, true)?;
    let opened: Arc<dyn failback_orchestrate::Directory> = Arc::new(opened);
    let binding = files::binding(disk).id;
    let store = match Store::open_for_changes(Arc::clone(&opened), &binding) {
        Err(StoreError::Empty(_)) if create => {
            let stored = StoredDisk { binding, description: confirm::describe(disk), size: disk.size };
            Store::create(opened, stored, unknown_point(disk.size, files::now()))?
        }
        Err(StoreError::Empty(_)) => return Err(none_of_this_disk(directory, disk)),
        opened => opened?,
    };
    if !create && is_unknown(store.catalogue()) {
        return Err(none_of_this_disk(directory, disk));
    }
    Ok(Opened { store, lock })
}

/// Opens the points of a disk for reading. The lock is shared: others may read too, and nobody may change them meanwhile.
pub(crate) fn for_reading(directory: &Path, disk: &DiskIdentity) -> Result<Opened, JobError> {
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
    store.check_disk(&files::binding(disk).id)?;
    if is_unknown(store.catalogue()) {
        return Err(none_of_this_disk(directory, disk));
    }
    Ok(Opened { store, lock })
}

/// A look at the points of a disk, and whether somebody changes them now; `None` if there are none.
pub(crate) fn look(directory: &Path, disk: &DiskIdentity) -> Result<Option<(Store, bool)>, JobError> {
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
            store.check_disk(&files::binding(disk).id)?;
            Ok(Some((store, running)))
        }
    }
}

/// The same for an apply that keeps nothing there: a retention drive that is missing does not stop it, and is told of.
pub(crate) fn look_if_there(directory: &Path, disk: &DiskIdentity) -> Result<Option<(Store, bool)>, JobError> {
    if fs::metadata(directory).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        tell(&format!(
            "the retention directory {} does not exist, so nobody can tell whether it has recovery points of {}; this makes them worthless",
            directory.display(),
            disk.path.display()
        ));
        return Ok(None);
    }
    look(directory, disk)
}

/// A disk of a retention directory: the name of its own directory, and its points or why they cannot be read.
pub(crate) type FoundDisk = (String, Result<Store, StoreError>);

/// All disks of a retention directory.
pub(crate) fn all(directory: &Path) -> Result<Vec<FoundDisk>, JobError> {
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

/// A disk that is read for its points: nobody may write to it meanwhile.
pub(crate) fn quiet_disk(path: &Path, engine: failback_orchestrate::Engine) -> Result<SourceDisk, JobError> {
    let source = SourceDisk::open(path, SourceOptions { engine, fuzzy: false })?;
    if source.writers().is_empty() {
        return Ok(source);
    }
    Err(JobError::Refused(format!(
        "{} is {}, so what it holds is no recovery point: end that before",
        path.display(),
        source.writers().join(", and ")
    )))
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
