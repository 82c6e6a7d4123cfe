//! VMDKs on this machine: opening, checking, making and converting them.

mod files;

pub use files::VmdkFiles;

use crate::JobError;
use failback_blockio::Engine;
use failback_image::{Access, Disk, is_vmdk};
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

    /// Makes everything durable, closes the disk cleanly and gives its files back.
    ///
    /// # Errors
    ///
    /// When a flush fails.
    pub fn close(self) -> Result<(), JobError> {
        self.disk.close()?;
        self.files.release()
    }
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
