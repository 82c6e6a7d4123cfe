//! Opening what a path names, and nothing else.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::guard::MARKER;
use crate::identity::{DiskIdentity, DiskName};
use crate::lookout::{Blind, LOOP_BACKING};
use crate::own_disks::OWN_DISKS;
use crate::topology::{Host, Object};
use crate::uses::plain_path;

/// Why a disk or image cannot be read, or looked at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// Nothing has that name.
    #[error("{} does not exist: check the name, or attach the disk first", plain_path(path))]
    Missing {
        /// The path that was given.
        path: PathBuf,
    },
    /// It is something that holds no disk.
    #[error("{name} is {kind}: name a block device such as /dev/sdb, or an image file")]
    NotADisk {
        /// What was named.
        name: DiskName,
        /// What it is, with its article.
        kind: &'static str,
    },
    /// This user may not open it.
    #[error("this user may not open {name}: run this as root")]
    Denied {
        /// What was named.
        name: DiskName,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A block device of no size: an empty drive, a detached loop device.
    #[error("{name} holds no medium: insert or attach one, then run this again")]
    NoMedium {
        /// What was named.
        name: DiskName,
    },
    /// Between looking and opening, the name came to mean something else.
    #[error("{name} was replaced by something else while it was being opened: run this again")]
    Replaced {
        /// What was named.
        name: DiskName,
    },
    /// The kernel refused to open it or to describe it.
    #[error("cannot {doing} {name}")]
    Io {
        /// What was named.
        name: DiskName,
        /// What was tried, as a verb.
        doing: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// What the kernel says about disks in use cannot be read, so that nobody can say who uses this one.
    #[error("cannot tell who uses {name}, because {what} cannot be read: {}", what_to_do(what))]
    Blind {
        /// What was named.
        name: DiskName,
        /// What could not be read.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// What helps where something cannot be read.
fn what_to_do(what: &str) -> &'static str {
    match what {
        OWN_DISKS => "write each of its lines as a role, system or retention, and a WWID",
        MARKER => "make sure that /run/failback is a directory, or remove it",
        LOOP_BACKING => "detach that (`losetup -d`), and name what it shows instead",
        _ => "make sure that /proc and /sys are mounted",
    }
}

impl SourceError {
    /// Whether a device or the kernel failed, rather than the user having named the wrong thing.
    #[must_use]
    pub fn is_io(&self) -> bool {
        match self {
            // Whoever wrote that file has to mend it.
            Self::Blind { what, source, .. } => *what != OWN_DISKS || source.kind() != io::ErrorKind::InvalidData,
            Self::Io { .. } => true,
            _ => false,
        }
    }
}

impl SourceError {
    pub(crate) fn blind(name: &DiskName, blind: Blind) -> Self {
        Self::Blind { name: name.clone(), what: blind.what, source: blind.source }
    }

    pub(crate) fn io(name: &DiskName, doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        let name = name.clone();
        move |source| match source.kind() {
            io::ErrorKind::NotFound => Self::Missing { path: name.given },
            io::ErrorKind::PermissionDenied => Self::Denied { name, source },
            _ if source.raw_os_error() == Some(libc::ENOMEDIUM) => Self::NoMedium { name },
            _ => Self::Io { name, doing, source },
        }
    }
}

/// A path that was looked at, but not opened.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) name: DiskName,
    pub(crate) object: Object,
    pub(crate) metadata: Metadata,
}

/// Looks at a path without opening what it names: a tape does not rewind, a FIFO does not wait for its other end.
pub(crate) fn peek(path: &Path) -> Result<Seen, SourceError> {
    let name = DiskName::new(path);
    let metadata = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path)
        .and_then(|file| file.metadata())
        .map_err(SourceError::io(&name, "look at"))?;
    match Object::of(&metadata) {
        Some(object) => Ok(Seen { name, object, metadata }),
        None => Err(SourceError::NotADisk { name, kind: kind(&metadata) }),
    }
}

fn kind(metadata: &Metadata) -> &'static str {
    let kind = metadata.file_type();
    if kind.is_dir() {
        "a directory"
    } else if kind.is_char_device() {
        "a character device"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "neither a disk nor a file"
    }
}

/// How to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// For reading, beside others.
    Read,
    /// For reading, and only if nobody else has a claim on the block device.
    ReadAlone,
    /// For reading and writing, and a block device only if nobody else has a claim on it.
    WriteAlone,
}

impl Seen {
    /// Opens what was seen, and nothing that has taken its place since.
    ///
    /// Never with `O_CREAT`. `O_EXCL` without it makes the opener the only holder of a block device (open(2)): mounting,
    /// swapping and device mapper are then refused to all others, on its partitions too.
    pub(crate) fn open(&self, access: Access) -> Result<File, SourceError> {
        // O_NONBLOCK, since by now the name may mean a FIFO.
        let mut flags = libc::O_NOCTTY | libc::O_NONBLOCK;
        if access != Access::Read && matches!(self.object, Object::Block(_)) {
            flags |= libc::O_EXCL;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(access == Access::WriteAlone)
            .custom_flags(flags)
            .open(&self.name.given)
            .map_err(SourceError::io(&self.name, "open"))?;
        let metadata = file.metadata().map_err(SourceError::io(&self.name, "look at"))?;
        if Object::of(&metadata) != Some(self.object) {
            return Err(SourceError::Replaced { name: self.name.clone() });
        }
        make_blocking(&file).map_err(SourceError::io(&self.name, "open"))?;
        Ok(file)
    }

    /// Reads the identity of what is open.
    pub(crate) fn identify(&self, host: &Host, file: &File) -> Result<DiskIdentity, SourceError> {
        let identity = DiskIdentity::read(host, &self.name, file, self.object)
            .map_err(SourceError::io(&self.name, "read the size of"))?;
        if matches!(self.object, Object::Block(_)) && identity.size.is_zero() {
            return Err(SourceError::NoMedium { name: self.name.clone() });
        }
        Ok(identity)
    }
}

/// Takes `O_NONBLOCK` off again: `io_uring` answers EAGAIN on such a descriptor where it would otherwise wait.
fn make_blocking(file: &File) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(file.as_fd(), FcntlArg::F_GETFL)?);
    fcntl(file.as_fd(), FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
    Ok(())
}
