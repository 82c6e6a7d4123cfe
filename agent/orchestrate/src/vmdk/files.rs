//! The files of a VMDK on this machine: claimed for writing, watched while they are read.

use super::locks::{Locked, Locks};
use crate::JobError;
use failback_blockio::{Action, Caching, Device, Engine, FileDevice, IoError, Options, Resizable};
use failback_hostdev::{Candidate, ChangeMark, Claim, ClaimError, Source, SourceError};
use failback_image::{Access, Files, OpenError};
use failback_units::{ByteCount, ByteOffset};
use std::collections::BTreeSet;
use std::error::Error;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The most names of a directory that are looked at for children of a disk.
const MAX_NAMES: usize = 100_000;

/// Opens files for [`failback_image::open`], and knows which it opened.
#[derive(Debug, Default)]
pub struct VmdkFiles {
    engine: Engine,
    roots: Vec<PathBuf>,
    /// Device and inode numbers of the only files that may be opened for writing, if not all may.
    only: Option<BTreeSet<(u64, u64)>>,
    opened: Mutex<Opened>,
}

#[derive(Debug, Default)]
struct Opened {
    sources: Vec<(Source, Option<ChangeMark>)>,
    claims: Vec<Claim>,
    locks: Locks,
}

impl VmdkFiles {
    /// Opens files with this engine. Parents may lie beside the disk, and below `roots`.
    #[must_use]
    pub fn new(engine: Engine, roots: Vec<PathBuf>) -> Self {
        Self { engine, roots, ..Self::default() }
    }

    /// The same for files that were opened for reading and looked at: no other is opened for writing.
    pub(super) fn of(engine: Engine, seen: &Self) -> Self {
        let only = seen.opened().sources.iter().filter_map(|(source, _)| source.identity().inode).collect();
        Self { engine, roots: seen.roots.clone(), only: Some(only), ..Self::default() }
    }

    fn opened(&self) -> MutexGuard<'_, Opened> {
        // Things are only added.
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who may write to the files that are read, in words that complete "the disk is …".
    ///
    /// # Errors
    ///
    /// When nobody can tell.
    pub fn writers(&self) -> Result<Vec<String>, JobError> {
        let mut writers = Vec::new();
        let Opened { sources, locks, .. } = &mut *self.opened();
        for (source, _) in sources {
            writers.extend(source.writable_uses()?.iter().map(ToString::to_string));
            let path = &source.identity().path;
            let locked = locks.on(path).map_err(|error| failed("look for locks of", path, error))?;
            writers.extend(
                locked.map(|Locked { lock, .. }| format!("open in a virtual machine (lock {})", lock.display())),
            );
        }
        Ok(writers)
    }

    /// The lock that a virtual machine holds on a file, as the reason why that is not written to.
    pub(super) fn lock_on(&self, path: &Path) -> Result<Option<Locked>, JobError> {
        self.opened().locks.on(path).map_err(|error| failed("look for locks of", path, error))
    }

    /// To be called after the last read: fails if one of the files that are read was written to.
    ///
    /// # Errors
    ///
    /// When one was, or when nobody can tell.
    pub fn check_unchanged(&self) -> Result<(), JobError> {
        for (source, before) in &self.opened().sources {
            let path = &source.identity().path;
            let after = source.change_mark().map_err(|error| failed("look at", path, error))?;
            if before.as_ref() != Some(&after) {
                return Err(JobError::Refused(format!(
                    "{} was written to while it was read, so what was read is no state of the disk: stop what writes to \
                     it, such as a virtual machine that runs, and run this again",
                    path.display()
                )));
            }
        }
        Ok(())
    }

    /// What tells the state of the files from any other, as a text to be compared with a later one. `None` if nobody can tell.
    pub(crate) fn record(&self) -> Option<String> {
        let opened = self.opened();
        let records = opened
            .sources
            .iter()
            .map(|(source, mark)| Some(format!("{:?} {}", source.identity(), mark.as_ref()?.record()?)));
        records.collect()
    }

    /// Gives back what was claimed, with the kernel's caches dropped. To be called after the disk was closed.
    ///
    /// # Errors
    ///
    /// When a last flush fails. All others are given back all the same.
    pub fn release(self) -> Result<(), JobError> {
        let opened = self.opened.into_inner().unwrap_or_else(PoisonError::into_inner);
        each(opened.claims, |claim| {
            let path = claim.identity().path.clone();
            claim.release().map_err(|error| (path, error))
        })
    }

    fn for_reading(&self, path: &Path, seen: &Metadata) -> Result<OwnedFd, Box<dyn Error + Send + Sync>> {
        let source = Source::open(path)?;
        same(source.identity().inode, seen)?;
        let fd = source.try_clone_fd()?;
        let mark = source.change_mark().ok();
        self.opened().sources.push((source, mark));
        Ok(fd)
    }

    fn for_writing(&self, path: &Path, seen: &Metadata) -> Result<OwnedFd, Box<dyn Error + Send + Sync>> {
        if let Some(locked) = self.opened().locks.on(path)? {
            return Err(locked.into());
        }
        let candidate = Candidate::open(path)?;
        let inode = candidate.identity().inode;
        same(inode, seen)?;
        if let (Some(only), Some(inode)) = (&self.only, inode)
            && !only.contains(&inode)
        {
            return Err(replaced().into());
        }
        let claim = candidate.claim()?;
        let fd = claim.try_clone_fd()?;
        self.opened().claims.push(claim);
        Ok(fd)
    }
}

/// Does something to all files, whatever becomes of the others.
fn each<T>(
    files: impl IntoIterator<Item = T>,
    mut what: impl FnMut(T) -> Result<(), (PathBuf, io::Error)>,
) -> Result<(), JobError> {
    let mut failures = files.into_iter().filter_map(|file| what(file).err()).collect::<Vec<_>>().into_iter();
    let Some((path, source)) = failures.next() else { return Ok(()) };
    let others = failures.len();
    let source = if others > 0 { io::Error::new(source.kind(), AndOthers { others, source }) } else { source };
    Err(failed("use", &path, source))
}

/// The first failure of several.
#[derive(Debug, thiserror::Error)]
#[error("it failed, as did {others} more of the disk's files")]
struct AndOthers {
    others: usize,
    source: io::Error,
}

/// Whether what was opened is what was looked at, and not what a link or another name leads to.
fn same(inode: Option<(u64, u64)>, seen: &Metadata) -> io::Result<()> {
    if inode == Some((seen.dev(), seen.ino())) {
        return Ok(());
    }
    Err(replaced())
}

fn replaced() -> io::Error {
    io::Error::other("it was replaced by something else while it was being opened: run this again")
}

/// A file that was not opened, as the error of a device.
pub(super) fn not_opened(path: &Path, source: io::Error) -> IoError {
    IoError {
        action: Action::Open,
        device: path.to_string_lossy().into(),
        at: ByteOffset::ZERO,
        count: ByteCount::ZERO,
        source,
    }
}

impl Files for VmdkFiles {
    fn open(&self, path: &Path, access: Access) -> Result<Box<dyn Resizable>, IoError> {
        let error = |source: io::Error| not_opened(path, source);
        let seen = fs::symlink_metadata(path).map_err(error)?;
        if seen.is_symlink() {
            let why = "it is a symbolic link, and the files of a disk must not lead elsewhere";
            return Err(error(io::Error::other(NotPlain(why))));
        }
        if !seen.is_file() {
            return Err(error(io::Error::other(NotPlain("it is no regular file"))));
        }
        let (fd, caching) = match access {
            Access::Read => (self.for_reading(path, &seen), Caching::Probe),
            Access::Write => (self.for_writing(path, &seen), Caching::Direct),
        };
        let fd = fd.map_err(|source| error(io::Error::other(source)))?;
        let options = Options { engine: self.engine, caching };
        Ok(Box::new(FileDevice::new(fd, &path.to_string_lossy(), options)?))
    }

    fn glance(&self, path: &Path) -> Result<Box<dyn Device>, IoError> {
        // Without a claim or a watch: what is looked at here is another disk, by a name that was found to be a file's.
        let file = File::open(path);
        let file = file.map_err(|source| IoError {
            action: Action::Open,
            device: path.to_string_lossy().into(),
            at: ByteOffset::ZERO,
            count: ByteCount::ZERO,
            source,
        })?;
        let options = Options { engine: Engine::Blocking, caching: Caching::Cached };
        Ok(Box::new(FileDevice::new(file.into(), &path.to_string_lossy(), options)?))
    }

    fn names_in(&self, directory: &Path) -> Result<Vec<OsString>, IoError> {
        names_in(directory).map_err(|source| not_opened(directory, source))
    }

    fn roots(&self) -> &[PathBuf] {
        &self.roots
    }
}

fn names_in(directory: &Path) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            names.push(entry.file_name());
        }
        if names.len() > MAX_NAMES {
            return Err(io::Error::other(NotPlain(
                "it holds more than 100,000 files: move the disk to one of its own",
            )));
        }
    }
    Ok(names)
}

/// What a path must not be.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NotPlain(&'static str);

impl From<OpenError> for JobError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Refused(sentence) => Self::Refused(sentence),
            OpenError::Damaged(sentence) => Self::DamagedDisk(sentence),
            OpenError::Io(error) => unwrapped(error),
        }
    }
}

/// The refusal of a claim that travelled in an error of a device.
fn unwrapped(error: IoError) -> JobError {
    let name = error.device.to_string();
    let IoError { action, device, at, count, source } = error;
    let (kind, code) = (source.kind(), source.raw_os_error());
    let Some(inner) = source.into_inner() else {
        let source = code.map_or_else(|| io::Error::from(kind), io::Error::from_raw_os_error);
        return JobError::Device(IoError { action, device, at, count, source });
    };
    let inner = match inner.downcast::<ClaimError>() {
        Ok(refused) => return JobError::Claim(*refused),
        Err(inner) => inner,
    };
    let inner = match inner.downcast::<SourceError>() {
        Ok(refused) => return JobError::Source(*refused),
        Err(inner) => inner,
    };
    let inner = match inner.downcast::<Locked>() {
        Ok(locked) => return JobError::Refused(locked.to_string()),
        Err(inner) => inner,
    };
    match inner.downcast::<NotPlain>() {
        Ok(refused) => JobError::Refused(format!("{name} cannot be used: {refused}")),
        Err(inner) => JobError::Device(IoError { action, device, at, count, source: io::Error::new(kind, inner) }),
    }
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> JobError {
    JobError::File { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_are_given_back_and_the_first_failure_is_told() {
        let mut given_back = Vec::new();
        let mut release = |failing: &[u32]| {
            given_back.clear();
            let result = each(0..4, |file| {
                given_back.push(file);
                let failure = || (PathBuf::from(format!("s00{file}.vmdk")), io::Error::from_raw_os_error(28));
                if failing.contains(&file) { Err(failure()) } else { Ok(()) }
            });
            assert_eq!(given_back, [0, 1, 2, 3], "with {failing:?}");
            result.map_err(|error| {
                let cause = error.source().unwrap();
                (error.to_string(), cause.to_string(), cause.source().map(ToString::to_string))
            })
        };
        assert_eq!(release(&[]), Ok(()));
        let full = io::Error::from_raw_os_error(28).to_string();
        assert_eq!(release(&[2]), Err(("cannot use s002.vmdk".into(), full.clone(), None)));
        let both = "it failed, as did 2 more of the disk's files";
        assert_eq!(release(&[1, 2, 3]), Err(("cannot use s001.vmdk".into(), both.into(), Some(full))));
    }
}
