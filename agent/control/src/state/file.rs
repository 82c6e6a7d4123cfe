//! The file of the state: where it is, who may read it, who has it open.

use crate::state::error::StateError;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, RenameFlags};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The greatest size of a state: half of it is more than all pairs and jobs take. So a file is read in a moment, whoever made it.
pub(crate) const MAX_BYTES: u64 = 256 << 20;
/// The first bytes of every `SQLite` file that is not empty (sqlite.org/fileformat.html, 1.3).
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Where the header holds the number of the program that made the file, big-endian.
const APPLICATION_ID_AT: usize = 68;
/// Where the header says how the file is written: 2 where changes go to a log beside it.
const WRITE_VERSION_AT: usize = 18;
/// How much of the header that takes.
const HEADER: usize = 72;
/// Only the owner, who is root: it names disks and peers.
const FILE_MODE: u32 = 0o600;

/// A file, and those beside it that belong to it.
#[derive(Debug)]
pub(crate) struct Place {
    /// The directory, with all symbolic links followed.
    directory: PathBuf,
    /// The file in it.
    pub(crate) file: PathBuf,
}

impl Place {
    /// The place of that path, whose directory has to be there.
    pub(crate) fn of(path: &Path) -> Result<Self, StateError> {
        let name = path.file_name().ok_or_else(|| {
            StateError::io("use", path)(io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))
        })?;
        let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let directory = fs::canonicalize(above).map_err(StateError::io("use the directory", above))?;
        Ok(Self { file: directory.join(name), directory })
    }

    /// The file beside it whose name has that at its end.
    pub(crate) fn beside(&self, end: &str) -> PathBuf {
        let mut name: OsString = self.file.clone().into();
        name.push(end);
        name.into()
    }

    /// What is written before it gets its name in a restore.
    pub(crate) fn restoring(&self) -> PathBuf {
        self.beside(".restoring")
    }

    /// Where the state before the last restore is.
    pub(crate) fn previous(&self) -> PathBuf {
        self.beside(".before-restore")
    }

    /// Locks the state, without waiting. The kernel ends the lock with the process, however that ends.
    pub(crate) fn lock(&self) -> Result<Lock, StateError> {
        let path = self.beside(".lock");
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
            .open(&path)
            .map_err(StateError::io("open", &path))?;
        match Flock::lock(opened, FlockArg::LockExclusiveNonblock) {
            Ok(mut held) => {
                // For people who find it locked, so that it need not be durable.
                let told = held.set_len(0).and_then(|()| write!(&mut *held, "{}", std::process::id()));
                told.map_err(StateError::io("write", &path))?;
                Ok(Lock { _held: held })
            }
            Err((file, Errno::EWOULDBLOCK)) => Err(StateError::InUse { path: self.file.clone(), who: holder(file) }),
            Err((_, errno)) => Err(StateError::io("lock", &path)(errno.into())),
        }
    }

    /// Makes an empty file where there is none, and says whether there is nothing in it. One that is there is looked at before `SQLite`
    /// opens it.
    pub(crate) fn prepare(&self) -> Result<bool, StateError> {
        match fs::symlink_metadata(&self.file) {
            Ok(about) => {
                self.look(&about)?;
                // Left by a restore that did not come to the point where it moves anything.
                remove(&self.restoring())?;
                Ok(about.len() == 0)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let half = [self.previous(), self.restoring()].into_iter().find(|path| path.exists());
                if let Some(left) = half {
                    return Err(StateError::HalfRestored { path: self.file.clone(), left });
                }
                if self.beside("-wal").exists() {
                    let what = "its file is gone and the last changes to it are still there".to_owned();
                    return Err(StateError::Damaged { path: self.file.clone(), what });
                }
                create(&self.file)?;
                Ok(true)
            }
            Err(error) => Err(StateError::io("look at", &self.file)(error)),
        }
    }

    fn look(&self, about: &fs::Metadata) -> Result<(), StateError> {
        let path = || self.file.clone();
        if !about.is_file() {
            return Err(StateError::NotOurs { path: path(), what: "nor a regular file" });
        }
        let mode = about.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(StateError::Exposed { path: path(), mode });
        }
        if about.len() > MAX_BYTES {
            return Err(StateError::TooLarge { path: path(), bytes: about.len(), limit: MAX_BYTES });
        }
        let opened = File::open(&self.file).map_err(StateError::io("open", &self.file))?;
        // What is in the header may be older than what stands in the log of changes, but for these bytes.
        let known = about.len() == 0 || header(&opened).map_err(StateError::io("read", &self.file))?.is_some();
        if known { Ok(()) } else { Err(StateError::NotOurs { path: path(), what: "nor a database at all" }) }
    }

    /// Whether `other` is the same file, by whatever name.
    pub(crate) fn is_same(&self, other: &Path) -> bool {
        let about = |path: &Path| fs::metadata(path).map(|about| (about.dev(), about.ino())).ok();
        self.file == other || about(&self.file).is_some_and(|own| about(other) == Some(own))
    }

    /// Makes what was created, renamed or removed in the directory durable.
    pub(crate) fn sync(&self) -> Result<(), StateError> {
        let synced = File::open(&self.directory).and_then(|directory| directory.sync_all());
        synced.map_err(StateError::io("sync", &self.directory))
    }
}

/// A lock, held until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _held: Flock<File>,
}

/// Who says in the lock's file to hold it.
fn holder(mut file: File) -> String {
    let mut text = String::new();
    let told = file.seek(SeekFrom::Start(0)).and_then(|_| file.take(16).read_to_string(&mut text));
    match (told, text.parse::<u32>()) {
        (Ok(_), Ok(process)) => format!("process {process}"),
        _ => "another process".to_owned(),
    }
}

/// Makes an empty file that only its owner may read.
pub(crate) fn create(path: &Path) -> Result<File, StateError> {
    let opened = OpenOptions::new().read(true).write(true).create_new(true).mode(FILE_MODE).open(path);
    opened.map_err(StateError::io("create", path))
}

/// Removes a file, if it is there.
pub(crate) fn remove(path: &Path) -> Result<(), StateError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StateError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Renames a file, if it is there.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), StateError> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StateError::io("rename", from)(error)),
        _ => Ok(()),
    }
}

/// Gives a file a name that nothing has. `false` where something has it.
pub(crate) fn rename_to_new(from: &Path, to: &Path) -> Result<bool, StateError> {
    let failed = StateError::io("rename", from);
    match nix::fcntl::renameat2(nix::fcntl::AT_FDCWD, from, nix::fcntl::AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
        Ok(()) => Ok(true),
        Err(Errno::EEXIST) => Ok(false),
        // Not all file systems can: over a network, or on a stick.
        Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => {
            let free = !to.exists();
            if free { fs::rename(from, to).map(|()| true).map_err(failed) } else { Ok(false) }
        }
        Err(errno) => Err(failed(errno.into())),
    }
}

/// What the first bytes of an `SQLite` file say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The number of the program that made it.
    pub(crate) application_id: i64,
    /// Whether changes go to a log beside it, as those of a state do that was opened once.
    pub(crate) has_log: bool,
}

/// The header; `None` if it is no `SQLite` file.
pub(crate) fn header(file: &File) -> io::Result<Option<Header>> {
    let mut bytes = [0; HEADER];
    match file.read_exact_at(&mut bytes, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let id: [u8; 4] = bytes[APPLICATION_ID_AT..].try_into().unwrap_or_default();
    let application_id = i64::from(i32::from_be_bytes(id));
    let has_log = bytes[WRITE_VERSION_AT] != 1;
    Ok(bytes.starts_with(MAGIC).then_some(Header { application_id, has_log }))
}
