//! From a path to a device: what hostdev knows of the disk and what blockio does with it.

use crate::{JobError, likeness};
use failback_blockio::{Caching, Device, Engine, FileDevice, Options};
use failback_delta::{Identity, PointKind};
use failback_hostdev::{ChangeMark, Claim, DiskIdentity, Medium, ScsiUuid, Source};
use failback_volumes::{DiskLayout, FreeMap, scan};
use std::fs::File;
use std::io;
use std::path::Path;

/// How to open a source.
#[derive(Clone, Copy, Debug, Default)]
pub struct SourceOptions {
    /// Which engine reads.
    pub engine: Engine,
    /// Whether what is being written may be read all the same.
    pub fuzzy: bool,
}

/// A disk that is only read.
#[derive(Debug)]
pub struct SourceDisk {
    source: Source,
    device: FileDevice,
    kind: PointKind,
    /// Why the content is fuzzy, in words.
    writers: Vec<String>,
    mark: Option<ChangeMark>,
}

impl SourceDisk {
    /// Opens a source and finds out whether it may change while it is read.
    ///
    /// # Errors
    ///
    /// When it is no disk or image, or cannot be read.
    pub fn open(path: &Path, options: SourceOptions) -> Result<Self, JobError> {
        let source = Source::open(path)?;
        let writers: Vec<_> = source.writable_uses()?.iter().map(ToString::to_string).collect();
        let fuzzy = options.fuzzy || !writers.is_empty();
        let kind = if fuzzy { PointKind::Fuzzy } else { PointKind::Crash };
        let mark = if fuzzy { None } else { Some(mark_of(&source).map_err(|error| failed(path, error))?) };
        let how = Options { engine: options.engine, caching: Caching::Probe };
        let device = device(source.try_clone_fd(), path, how)?;
        Ok(Self { source, device, kind, writers, mark })
    }

    /// The device to read from.
    #[must_use]
    pub const fn device(&self) -> &FileDevice {
        &self.device
    }

    /// Which disk it is.
    #[must_use]
    pub const fn identity(&self) -> &DiskIdentity {
        self.source.identity()
    }

    /// What moment its content is from: `fuzzy` while somebody may write to it, else `crash`.
    #[must_use]
    pub const fn kind(&self) -> PointKind {
        self.kind
    }

    /// Who may write to it, in words that complete "the disk is …".
    #[must_use]
    pub fn writers(&self) -> &[String] {
        &self.writers
    }

    /// What is on it. `companions` are disks that volumes of this one may lie on too.
    #[must_use]
    pub fn content(&self, companions: &[Self]) -> DiskLayout {
        let disks: Vec<&dyn Device> = [self].into_iter().chain(companions).map(|disk| &disk.device as _).collect();
        scan(&disks).swap_remove(0)
    }

    /// The free space that may be left out: none while somebody may write to the disk, since a map can lie then.
    #[must_use]
    pub fn free_space<'a>(&self, content: &'a DiskLayout) -> &'a FreeMap {
        static NOTHING: FreeMap = FreeMap::nothing();
        if self.kind == PointKind::Fuzzy { &NOTHING } else { &content.free }
    }

    /// What a signature or a delta says of this disk.
    #[must_use]
    pub fn identity_with(&self, content: &DiskLayout) -> Identity {
        let disk = self.identity();
        Identity {
            name: Some(disk.path.to_string_lossy().into_owned()),
            scsi_uuid: disk.scsi_uuid.map(|uuid| *uuid.as_bytes()),
            ..likeness::of(content)
        }
    }

    /// To be called after the last read: fails if the disk was written to although it seemed at rest.
    ///
    /// # Errors
    ///
    /// When it was, or when nobody can tell.
    pub fn check_unchanged(&self) -> Result<(), JobError> {
        let Some(before) = &self.mark else { return Ok(()) };
        let path = &self.identity().path;
        let after = self.source.change_mark().map_err(|error| failed(path, error))?;
        if *before == after {
            return Ok(());
        }
        Err(JobError::Refused(format!(
            "{} was written to while it was read, so what was read is no state of it: stop what writes to it, or add \
             --fuzzy to take it as it is",
            path.display()
        )))
    }
}

/// A disk that is claimed for writing.
#[derive(Debug)]
pub struct TargetDisk {
    device: FileDevice,
    claim: Claim,
}

impl TargetDisk {
    /// Claims a target, and refuses it if it has not the SCSI UUID that is expected.
    ///
    /// # Errors
    ///
    /// When it is another disk, anybody uses it, or it cannot be written.
    pub fn claim(path: &Path, engine: Engine, expected: Option<ScsiUuid>) -> Result<Self, JobError> {
        let claim = Claim::target(path)?;
        check_uuid(claim.identity(), expected)?;
        let device = device(claim.try_clone_fd(), path, Options { engine, caching: Caching::Direct })?;
        Ok(Self { device, claim })
    }

    /// The device to write to.
    #[must_use]
    pub const fn device(&self) -> &FileDevice {
        &self.device
    }

    /// Which disk it is.
    #[must_use]
    pub const fn identity(&self) -> &DiskIdentity {
        self.claim.identity()
    }

    /// Drops the kernel's caches of the disk and gives it back.
    ///
    /// # Errors
    ///
    /// When the last flush fails.
    pub fn release(self) -> Result<(), JobError> {
        let path = self.identity().path.clone();
        drop(self.device);
        self.claim.release().map_err(|error| failed(&path, error))
    }
}

/// Refuses a disk that has not the SCSI UUID that is expected.
///
/// # Errors
///
/// When it has another one, or none.
pub fn check_uuid(disk: &DiskIdentity, expected: Option<ScsiUuid>) -> Result<(), JobError> {
    let Some(expected) = expected else { return Ok(()) };
    let path = disk.path.display();
    match disk.scsi_uuid {
        Some(uuid) if uuid == expected => Ok(()),
        Some(uuid) => Err(JobError::Refused(format!(
            "{path} is the disk with the SCSI UUID {uuid} and not {expected}: choose the right one, failback disks lists them"
        ))),
        None => Err(JobError::Refused(format!(
            "{path} shows no SCSI UUID, so nobody can tell whether it is {expected}: set disk.EnableUUID = TRUE on this VM, or \
             leave out --expect-uuid if you know that it is the right disk"
        ))),
    }
}

/// The mark of a source that is about to be read.
fn mark_of(source: &Source) -> io::Result<ChangeMark> {
    if let Medium::BlockDevice { .. } = source.identity().medium {
        // What lies unwritten in the page cache is content already. Reading past the cache writes it back, which counts as a
        // write; so that comes first. If it fails the mark will tell.
        let _ = File::from(source.try_clone_fd()?).sync_data();
    }
    source.change_mark()
}

fn device(fd: io::Result<std::os::fd::OwnedFd>, path: &Path, options: Options) -> Result<FileDevice, JobError> {
    let fd = fd.map_err(|error| failed(path, error))?;
    Ok(FileDevice::new(fd, &path.to_string_lossy(), options)?)
}

fn failed(path: &Path, source: io::Error) -> JobError {
    JobError::File { action: "use", path: path.to_owned(), source }
}
