//! How files are opened: by the caller, who claims them and knows which he may touch.

use failback_blockio::{IoError, Resizable};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading only.
    Read,
    /// Reading and writing; the file exists and is claimed for it.
    Write,
}

/// Opens the files that a disk consists of. Implemented above, with claims and locks; in tests with simulated disks.
///
/// What is asked for is a name in the directory of the descriptor that names it, or lies in one of the [`roots`](Files::roots).
pub trait Files {
    /// Opens an existing regular file. Never creates one, never follows a symbolic link in the last component.
    ///
    /// # Errors
    ///
    /// When there is no such file, or it must not be opened so.
    fn open(&self, path: &Path, access: Access) -> Result<Box<dyn Resizable>, IoError>;

    /// The names of the regular files in a directory, to look for disks that have this one as their parent.
    ///
    /// # Errors
    ///
    /// When the directory cannot be read, or holds more names than the implementation is ready to look at.
    fn names_in(&self, directory: &Path) -> Result<Vec<OsString>, IoError>;

    /// Directories, absolute and without `..`, below which a parent may lie besides the directory of the disk itself.
    fn roots(&self) -> &[PathBuf] {
        &[]
    }
}
