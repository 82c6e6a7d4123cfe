//! How files are opened: by the caller, who claims them and knows which he may touch.

use failback_blockio::{Device, IoError};
use std::path::Path;

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading only.
    Read,
    /// Reading and writing; the file exists and is claimed for it.
    Write,
}

/// Opens the files that a disk consists of. Implemented above, with claims and locks; in tests with simulated disks.
pub trait Files {
    /// Opens an existing regular file. Never creates one, never follows a symbolic link in the last component.
    ///
    /// # Errors
    ///
    /// When there is no such file, or it must not be opened so.
    fn open(&self, path: &Path, access: Access) -> Result<Box<dyn Device>, IoError>;
}
