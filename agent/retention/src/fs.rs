//! A real directory, and the lock that keeps two programs from changing it at a time.

use crate::directory::{Directory, Space, StoredFile, check_name};
use failback_units::ByteCount;
use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{Flock, FlockArg, OFlag, openat, renameat},
    sys::{
        stat::{Mode, major, minor},
        statvfs::fstatvfs,
    },
    unistd::{UnlinkatFlags, unlinkat},
};
use std::fs::{DirBuilder, File, read_to_string};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// The file that is locked. Nothing is in it.
const LOCK_NAME: &str = "lock";
/// How often a lock is tried again that another holds.
const ATTEMPTS: u32 = 5;
/// How long to wait between two attempts.
const PATIENCE: Duration = Duration::from_millis(40);

/// Only the owner, who is root: a recovery point holds everything that was on the disk.
const FILE_MODE: Mode = Mode::from_bits_truncate(0o600);
const DIRECTORY_MODE: u32 = 0o700;

/// A directory of a mounted file system. It is held open, so that it stays the same one whatever is mounted or renamed.
#[derive(Debug)]
pub struct FsDirectory {
    path: PathBuf,
    opened: File,
}

impl FsDirectory {
    /// Opens a directory that is there.
    ///
    /// # Errors
    ///
    /// When there is none, or it cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let opened = nix::fcntl::open(path, flags, Mode::empty())?;
        Ok(Self { path: path.to_owned(), opened: opened.into() })
    }

    /// Opens a directory, and makes the last component of its path first if it is missing. In either case its name is
    /// durable afterwards: it may have been made by a program that did not come so far.
    ///
    /// # Errors
    ///
    /// When it is not there and cannot be made, or cannot be opened, or the directory above cannot be synced.
    pub fn create(path: &Path) -> io::Result<Self> {
        match DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let directory = Self::open(path)?;
        // Through the directory itself, so that a path that ends in a symbolic link leads to the right one.
        let above = openat(&directory.opened, "..", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        File::from(above).sync_all()?;
        Ok(directory)
    }

    /// Locks the directory, without waiting longer than for a moment: exclusively for everything that changes it, shared for
    /// reading and serving.
    ///
    /// The lock is the process's: the kernel ends it with the process, however that ends.
    ///
    /// # Errors
    ///
    /// When another holds a lock that this one does not go with, or the lock file cannot be opened or made.
    pub fn lock(&self, exclusive: bool) -> Result<Lock, LockError> {
        let failed = |source: Errno| LockError::Failed { place: self.place(), source: source.into() };
        let flags = OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let writable = || openat(&self.opened, LOCK_NAME, flags | OFlag::O_RDWR | OFlag::O_CREAT, FILE_MODE);
        // Readers need not be able to write; over NFS, an exclusive lock needs a file that is open for writing.
        let read_only = || openat(&self.opened, LOCK_NAME, flags | OFlag::O_RDONLY, FILE_MODE);
        let opened = if exclusive { Err(Errno::ENOENT) } else { read_only() };
        let opened = opened.or_else(|errno| if errno == Errno::ENOENT { writable() } else { Err(errno) });
        let mut file = File::from(opened.map_err(failed)?);
        let kind = if exclusive { FlockArg::LockExclusiveNonblock } else { FlockArg::LockSharedNonblock };
        // Whoever only looks holds a lock for a moment.
        for attempt in 0.. {
            file = match Flock::lock(file, kind) {
                Ok(held) => return Ok(Lock { _held: held }),
                Err((file, Errno::EWOULDBLOCK)) if attempt < ATTEMPTS => file,
                Err((file, Errno::EWOULDBLOCK)) => {
                    return Err(LockError::Held { place: self.place(), who: holder(&file) });
                }
                Err((_, errno)) => return Err(failed(errno)),
            };
            thread::sleep(PATIENCE);
        }
        unreachable!("the attempts end")
    }
}

impl Directory for FsDirectory {
    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut names = Vec::new();
        for entry in Dir::openat(&self.opened, ".", flags, Mode::empty())? {
            let entry = entry?;
            match entry.file_name().to_str() {
                Ok("." | "..") | Err(_) => {}
                Ok(name) => names.push(name.to_owned()),
            }
        }
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn StoredFile>> {
        check_name(name)?;
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let opened = openat(&self.opened, name, flags, FILE_MODE)?;
        Ok(Box::new(FsFile(opened.into())))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn StoredFile>> {
        check_name(name)?;
        // Without O_NONBLOCK, to open a pipe would wait for somebody to write to it.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let no_file = || io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is no regular file"));
        let opened = match openat(&self.opened, name, flags, Mode::empty()) {
            Err(Errno::ELOOP) => return Err(no_file()),
            other => File::from(other?),
        };
        if !opened.metadata()?.is_file() {
            return Err(no_file());
        }
        Ok(Box::new(FsFile(opened)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check_name(from)?;
        check_name(to)?;
        Ok(renameat(&self.opened, from, &self.opened, to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        Ok(unlinkat(&self.opened, name, UnlinkatFlags::NoRemoveDir)?)
    }

    fn sync(&self) -> io::Result<()> {
        self.opened.sync_all()
    }

    fn space(&self) -> io::Result<Space> {
        let answer = fstatvfs(&self.opened)?;
        let bytes = |blocks: u64| {
            let bytes = blocks.checked_mul(answer.fragment_size()).and_then(ByteCount::new);
            bytes.ok_or_else(|| io::Error::other("the file system tells a size that no file system has"))
        };
        Ok(Space { total: bytes(answer.blocks())?, available: bytes(answer.blocks_available())? })
    }
}

struct FsFile(File);

impl StoredFile for FsFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(into, at)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// A lock on a directory, held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _held: Flock<File>,
}

/// Why a directory is not locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else uses it.
    #[error("the retention directory {place} is in use by {who}: wait until that ends, or stop it, and try again")]
    Held {
        /// The directory.
        place: String,
        /// The process, if the kernel told; otherwise `another process`.
        who: String,
    },
    /// The lock file cannot be opened, made or locked.
    #[error("cannot lock the retention directory {place}: check that it may be written to")]
    Failed {
        /// The directory.
        place: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl LockError {
    /// Whether the file system failed rather than somebody being there.
    #[must_use]
    pub const fn is_io(&self) -> bool {
        matches!(self, Self::Failed { .. })
    }
}

/// Who holds a lock on `file`, as `/proc/locks` tells it: for people, so that whatever goes wrong is passed over.
fn holder(file: &File) -> String {
    let process = || {
        let about = file.metadata().ok()?;
        let device = about.dev();
        let wanted = format!("{:02x}:{:02x}:{}", major(device), minor(device), about.ino());
        let pid = holder_in(&read_to_string("/proc/locks").ok()?, &wanted)?;
        let name = read_to_string(format!("/proc/{pid}/comm")).ok()?;
        Some(format!("process {pid} ({})", name.trim_end().escape_default()))
    };
    process().unwrap_or_else(|| "another process".into())
}

/// The process that holds the lock on the file `wanted` (major:minor:inode), from the text of `/proc/locks`:
/// `1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF`.
fn holder_in(locks: &str, wanted: &str) -> Option<u32> {
    let mut held = locks.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let line = held.find(|words| words.get(1) == Some(&"FLOCK") && words.get(5) == Some(&wanted))?;
    line.get(4)?.parse().ok().filter(|pid| *pid != 0)
}
