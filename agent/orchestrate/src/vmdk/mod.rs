//! VMDKs on this machine: opening, checking, making and converting them.

mod convert;
mod files;
mod locks;
mod new;

pub use convert::{ConvertReport, NewImage, convert, create};
pub use files::VmdkFiles;

use crate::{JobError, SeenTarget};
use failback_blockio::{Device, Engine};
use failback_hostdev::{DiskIdentity, ScsiUuid, Source};
use failback_image::{Access, CheckReport, Disk, is_vmdk, may_be_written};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// A VMDK and what keeps its files claimed or watched.
#[derive(Debug)]
pub struct VmdkDisk {
    disk: Disk,
    files: VmdkFiles,
}

impl VmdkDisk {
    /// Opens the VMDK whose descriptor is at `path`. For writing, all files that may change are claimed.
    ///
    /// # Errors
    ///
    /// When it is damaged, must not be opened so, or somebody uses one of its files.
    pub fn open(path: &Path, access: Access, engine: Engine) -> Result<Self, JobError> {
        let path = plain(path)?;
        let files = VmdkFiles::new(engine, Vec::new());
        let disk = failback_image::open(&path, access, &files)?;
        Ok(Self { disk, files })
    }

    /// Opens for writing what this has open for reading: the same files, and no others.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), and when a file is another one now.
    pub(crate) fn open_for_writing(&self, path: &Path, engine: Engine) -> Result<Self, JobError> {
        let path = plain(path)?;
        let files = VmdkFiles::of(engine, &self.files);
        let disk = failback_image::open(&path, Access::Write, &files)?;
        Ok(Self { disk, files })
    }

    /// The device to read from and write to.
    #[must_use]
    pub const fn disk(&self) -> &Disk {
        &self.disk
    }

    /// The files that it consists of.
    #[must_use]
    pub const fn files(&self) -> &VmdkFiles {
        &self.files
    }

    /// Which disk it is: its descriptor's file, with the size and the UUID of the disk.
    ///
    /// # Errors
    ///
    /// When the descriptor cannot be opened any more.
    pub fn identity(&self, path: &Path) -> Result<DiskIdentity, JobError> {
        identity(path, &self.disk)
    }

    /// What the user should know before it is written.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let tracked = self.disk.facts().change_track.is_some();
        let note = "ESXi tracks the changed blocks of this disk and does not see what is written here: reset changed block \
                    tracking before the next incremental backup";
        tracked.then(|| note.to_owned()).into_iter().collect()
    }

    /// Makes everything durable, closes the disk cleanly and gives its files back, these also where that fails.
    ///
    /// # Errors
    ///
    /// When a flush fails.
    pub fn close(self) -> Result<(), JobError> {
        let closed = self.disk.close();
        let released = self.files.release();
        closed?;
        released
    }
}

fn identity(path: &Path, disk: &Disk) -> Result<DiskIdentity, JobError> {
    let uuid = disk.uuid().and_then(ScsiUuid::from_bytes);
    Ok(DiskIdentity { size: disk.size(), scsi_uuid: uuid, ..Source::open(path)?.identity().clone() })
}

/// Which disk a VMDK is, and why it cannot be a target now.
pub(crate) fn look(path: &Path) -> Result<SeenTarget, JobError> {
    let opened = VmdkDisk::open(path, Access::Read, Engine::Auto)?;
    let plain = plain(path)?;
    let mut seen = SeenTarget::new(opened.identity(path)?);
    if let Err(error) = may_be_written(&plain, opened.files()) {
        seen.reasons.push(JobError::from(error).to_string());
    }
    let extents = opened.disk().facts().extents.iter().filter_map(|extent| extent.file.as_deref());
    // A disk of one sparse file is in that file, whatever its descriptor calls it.
    let mut files: Vec<_> = extents.map(|name| plain.with_file_name(name)).filter(|file| file.exists()).collect();
    files.push(plain.clone());
    files.sort();
    files.dedup();
    for file in files {
        let (_, uses) = failback_hostdev::look(&file)?;
        seen.add(&file, &uses);
        seen.reasons.extend(opened.files().lock_on(&file)?.map(|locked| locked.to_string()));
    }
    Ok(seen)
}

/// Why an image must not be written to as bytes, if it is an extent of a VMDK: its guards would be passed by.
///
/// # Errors
///
/// When nobody can tell.
pub(crate) fn refusal_of_part(path: &Path) -> Result<Option<String>, JobError> {
    if !fs::metadata(path).is_ok_and(|seen| seen.is_file()) {
        return Ok(None);
    }
    let owner = failback_image::owner_of(&plain(path)?, &VmdkFiles::new(Engine::Blocking, Vec::new()))?;
    Ok(owner.map(|owner| format!("{} is a part of the VMDK {}: name that instead", path.display(), owner.display())))
}

/// Looks at the structure of a VMDK and of its parents: see [`failback_image::check`].
///
/// # Errors
///
/// When a file cannot be opened, or nothing more can be looked at.
pub fn check_vmdk(path: &Path, engine: Engine) -> Result<CheckReport, JobError> {
    let path = plain(path)?;
    Ok(failback_image::check(&path, &VmdkFiles::new(engine, Vec::new()))?)
}

/// The path itself, or where it leads if it is a symbolic link: the user named it, and the files lie beside what it means.
fn plain(path: &Path) -> Result<PathBuf, JobError> {
    let failed = |source| JobError::File { action: "look at", path: path.to_owned(), source };
    if fs::symlink_metadata(path).is_ok_and(|seen| seen.is_symlink()) {
        return fs::canonicalize(path).map_err(failed);
    }
    Ok(path.to_owned())
}

/// Whether a path names a regular file that begins as a VMDK does. Such a file is a disk of another content than its bytes.
#[must_use]
pub fn names_vmdk(path: &Path) -> bool {
    let mut first = Vec::with_capacity(64);
    fs::metadata(path).is_ok_and(|seen| seen.is_file())
        && File::open(path).and_then(|file| file.take(64).read_to_end(&mut first)).is_ok()
        && is_vmdk(&first)
}
