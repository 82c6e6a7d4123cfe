//! The other disks of a directory: what is written to one file can be the end of a disk that another file describes.

use super::open::{OpenError, is_vmdk, read, read_descriptor};
use crate::descriptor::{self, Descriptor};
use crate::files::Files;
use failback_blockio::IoError;
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What may stand before a parent's name: a hint can have been written on Windows.
const SEPARATORS: [char; 2] = ['/', '\\'];
/// As much of a file as tells whether it is a VMDK. Flat extents are called like one, and are not read further.
const FIRST_BYTES: u64 = 64;

/// The disk beside `path` that names it as its parent.
pub(super) fn child_of(path: &Path, descriptor: &Descriptor, files: &dyn Files) -> Result<Option<PathBuf>, OpenError> {
    let own: HashSet<&str> = descriptor.extents.iter().filter_map(|line| line.file.as_deref()).collect();
    for name in names_beside(path, files)? {
        if name.to_str().is_some_and(|name| own.contains(name)) {
            continue;
        }
        let other = path.with_file_name(&name);
        let Some(Text { bytes, .. }) = text_in(&other, files)? else { continue };
        let is_child = match Descriptor::parse(&bytes) {
            Ok(descriptor) => {
                let hint = descriptor.parent_hint.as_deref().filter(|_| descriptor.has_parent());
                let named = hint.and_then(|hint| hint.rsplit(SEPARATORS).next());
                named.is_some_and(|name| path.file_name() == Some(OsStr::new(name)))
            }
            // A disk of a kind that is not read here can have a parent all the same.
            Err(_) => path.file_name().is_some_and(|name| descriptor::names_parent(&bytes, name.as_bytes())),
        };
        if is_child {
            return Ok(Some(other));
        }
    }
    Ok(None)
}

/// The descriptor beside the file at `path` that names this file as one of its extents. Whoever writes to the file and not
/// to that disk changes it behind the back of its content ID, of its children and of everything else that guards it.
///
/// A neighbour that cannot be read is passed over: it is not what is to be written.
///
/// # Errors
///
/// When the directory cannot be read, or holds more names than `files` is ready to look at.
pub fn owner_of(path: &Path, files: &dyn Files) -> Result<Option<PathBuf>, OpenError> {
    let Some(file) = path.file_name() else { return Ok(None) };
    let owns = |name: &OsString| {
        // A disk of one sparse file is in that file, whatever its descriptor calls it.
        let Ok(Some(Text { bytes, embedded: false })) = text_in(&path.with_file_name(name), files) else {
            return false;
        };
        match Descriptor::parse(&bytes) {
            Ok(descriptor) => descriptor.extents.iter().any(|line| line.file.as_deref().map(OsStr::new) == Some(file)),
            // A disk of a kind that is not read here has extents all the same.
            Err(_) => descriptor::names_extent(&bytes, file.as_bytes()),
        }
    };
    Ok(names_beside(path, files)?.find(owns).map(|name| path.with_file_name(name)))
}

/// The names of the other files beside `path` that are called as a VMDK is.
fn names_beside(path: &Path, files: &dyn Files) -> Result<impl Iterator<Item = OsString>, IoError> {
    let directory = match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    };
    let is_vmdk = |name: &OsString| Path::new(name).extension().is_some_and(|end| end.eq_ignore_ascii_case("vmdk"));
    let names = files.names_in(directory)?.into_iter();
    Ok(names.filter(move |name| is_vmdk(name) && path.file_name() != Some(name)))
}

/// The text of a descriptor.
struct Text {
    bytes: Vec<u8>,
    /// Whether it lies in the extent that it describes.
    embedded: bool,
}

/// The descriptor in a file, if it has one.
fn text_in(path: &Path, files: &dyn Files) -> Result<Option<Text>, IoError> {
    let device = files.glance(path)?;
    let first = read(&*device, 0, device.size().get().min(FIRST_BYTES))?;
    if !is_vmdk(&first) {
        return Ok(None);
    }
    match read_descriptor(path, &*device) {
        Ok((bytes, _, header)) => Ok(Some(Text { bytes, embedded: header.is_some() })),
        Err(OpenError::Io(error)) => Err(error),
        // What is no disk has neither a parent nor extents.
        Err(_) => Ok(None),
    }
}
