//! The locks that VMware keeps beside the files of a disk that a virtual machine uses.
//!
//! They are names in the directory, of which the kernel of another machine, or of this one, knows nothing. What a crash left
//! behind looks the same as what is held, so that only a person can tell.
//!
//! - Workstation, Player and Fusion: a directory `NAME.lck`, in it a file `M`, five digits, `.lck` for each who holds or awaits
//!   the lock (VMware's manual, "Using Lock Files to Prevent Consistency Problems"; names as in open-vm-tools).
//! - ESXi on NFS 3: a file `.lck-` and 16 hexadecimal digits: the inode number of the locked file, lowest byte first
//!   (Broadcom's article 340515).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirEntryExt;
use std::path::{Path, PathBuf};

/// What the name of a lock of Workstation's, and of what is in it, ends with.
const HOSTED_END: &str = ".lck";
/// What the name of a lock of ESXi's begins with.
const NFS_START: &str = ".lck-";
/// The digits of an inode number in that name.
const NFS_DIGITS: usize = 16;
/// The most of these in a directory: a virtual machine has one for each of its files.
const MAX_LOCKS: usize = 4096;

/// That a file is locked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} is open in a virtual machine, which holds the lock {}: power it off; if none runs, remove that lock",
    file.display(),
    lock.display()
)]
pub(super) struct Locked {
    pub(super) file: PathBuf,
    pub(super) lock: PathBuf,
}

/// Finds locks. Each directory is listed once: a disk can have thousands of files.
#[derive(Debug, Default)]
pub(super) struct Locks {
    directories: BTreeMap<PathBuf, Vec<NfsLock>>,
}

/// A lock of ESXi's.
#[derive(Debug)]
struct NfsLock {
    name: OsString,
    /// The files of the directory that it means; none if it is not of this directory, or not understood.
    means: Vec<OsString>,
}

impl Locks {
    /// The lock on a file, if there is one.
    ///
    /// A lock of ESXi's that means no file of its directory can mean this one: a server may number files differently for
    /// other clients.
    ///
    /// # Errors
    ///
    /// When nobody can tell.
    pub(super) fn on(&mut self, file: &Path) -> io::Result<Option<Locked>> {
        let Some(name) = file.file_name() else { return Ok(None) };
        let locked = |lock: &OsStr| Some(Locked { file: file.to_owned(), lock: file.with_file_name(lock) });
        let mut hosted = name.to_owned();
        hosted.push(HOSTED_END);
        if is_held(&file.with_file_name(&hosted))? {
            return Ok(locked(&hosted));
        }
        let directory = match file.parent() {
            Some(directory) if !directory.as_os_str().is_empty() => directory,
            _ => Path::new("."),
        };
        let locks = match self.directories.entry(directory.to_owned()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(nfs_locks(directory)?),
        };
        let lock = locks.iter().find(|lock| lock.means.is_empty() || lock.means.iter().any(|means| means == name));
        Ok(lock.and_then(|lock| locked(&lock.name)))
    }
}

/// Whether somebody holds this lock of Workstation's. An empty directory is what a lock leaves that was given back.
fn is_held(lock: &Path) -> io::Result<bool> {
    let seen = match fs::symlink_metadata(lock) {
        // A name that is too long for a lock has none.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidFilename) => return Ok(false),
        seen => seen?,
    };
    if !seen.is_dir() {
        return Ok(true);
    }
    for entry in fs::read_dir(lock)? {
        if entry?.file_name().to_string_lossy().ends_with(HOSTED_END) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The locks of ESXi's in a directory.
fn nfs_locks(directory: &Path) -> io::Result<Vec<NfsLock>> {
    let mut locks = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        if let Some(inode) = lock_digits(&name).map(locked_inode) {
            locks.insert(name, inode);
        }
        if locks.len() > MAX_LOCKS {
            return Err(io::Error::other("there are more than 4,096 locks: move the disk to a directory of its own"));
        }
    }
    let mut found: Vec<_> =
        locks.into_iter().map(|(name, inode)| (NfsLock { name, means: Vec::new() }, inode)).collect();
    if !found.is_empty() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let meaning = found.iter_mut().filter(|(_, inode)| *inode == Some(entry.ino()));
            meaning.for_each(|(lock, _)| lock.means.push(entry.file_name()));
        }
    }
    Ok(found.into_iter().map(|(lock, _)| lock).collect())
}

/// The digits in the name of a lock of ESXi's, if this is one.
fn lock_digits(name: &OsStr) -> Option<&str> {
    let digits = name.to_str()?.strip_prefix(NFS_START)?;
    (!digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_hexdigit())).then_some(digits)
}

/// The inode number that these digits stand for, if they are understood.
fn locked_inode(digits: &str) -> Option<u64> {
    u64::from_str_radix(digits, 16).ok().filter(|_| digits.len() == NFS_DIGITS).map(u64::swap_bytes)
}
