//! A directory for a test, and watching that something stays as it is.

use super::{noise, tool};
use crate::failback;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A directory that is gone when the test is over.
pub struct Place(TempDir);

impl Place {
    /// On the disk that temporary files are on.
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// In memory.
    pub fn in_memory() -> Self {
        Self(tempfile::tempdir_in("/dev/shm").unwrap())
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        self.0.path()
    }

    /// A name in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A directory in it.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).unwrap();
        path
    }

    /// A file with this content.
    pub fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// An image of `size` bytes with nothing but holes, except for these pieces.
    pub fn sparse(&self, name: &str, size: u64, pieces: &[(u64, &[u8])]) -> PathBuf {
        let path = self.path(name);
        let file = File::create(&path).unwrap();
        file.set_len(size).unwrap();
        for (at, bytes) in pieces {
            file.write_all_at(bytes, *at).unwrap();
        }
        file.sync_all().unwrap();
        path
    }

    /// An image of `size` bytes with an ext4 that has these files in it.
    pub fn ext4(&self, name: &str, size: u64, files: &[&Path]) -> PathBuf {
        let content = self.directory(&format!("{name}.content"));
        for file in files {
            fs::copy(file, content.join(file.file_name().unwrap())).unwrap();
        }
        let path = self.sparse(name, size, &[]);
        tool("mkfs.ext4", &["-q".as_ref(), "-d".as_ref(), content.as_os_str(), path.as_os_str()]);
        path
    }

    /// An image of `size` bytes of noise.
    pub fn noisy(&self, name: &str, size: usize, seed: u64) -> PathBuf {
        self.file(name, &noise(size, seed))
    }

    /// A signature of `disk`, in blocks of `block_size`.
    pub fn signature(&self, name: &str, disk: &Path, block_size: &str) -> PathBuf {
        let path = self.path(name);
        failback!("sign", disk, "-o", path, "--block-size", block_size).json();
        path
    }

    /// A delta from `base` to `result`, two images, in blocks of `block_size`.
    pub fn delta(&self, name: &str, base: &Path, result: &Path, block_size: &str) -> PathBuf {
        let signature = self.signature(&format!("{name}.base.sig"), base, block_size);
        let path = self.path(name);
        failback!("diff", "--base", signature, result, "-o", path).json();
        path
    }

    /// The names in it, sorted.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

/// BLAKE3 of the first `size` bytes of a file or device, or of all.
pub fn hash_of(path: &Path, size: Option<u64>) -> String {
    let mut hasher = blake3::Hasher::new();
    let file = File::open(path).unwrap();
    io::copy(&mut file.take(size.unwrap_or(u64::MAX)), &mut hasher).unwrap();
    hasher.finalize().to_hex().to_string()
}

/// BLAKE3 of a file or device.
pub fn root_of_file(path: &Path) -> String {
    hash_of(path, None)
}

/// Remembers a file or device: its content, and the times of a file.
pub struct Unchanged {
    path: PathBuf,
    content: String,
    times: Option<(i64, i64, i64, i64)>,
}

impl Unchanged {
    /// As it is now.
    pub fn since(path: &Path) -> Self {
        Self { path: path.to_owned(), content: root_of_file(path), times: times(path) }
    }

    /// Fails if it was written since.
    #[track_caller]
    pub fn check(&self) {
        assert_eq!(self.content, root_of_file(&self.path), "the content of {} was changed", self.path.display());
        assert_eq!(self.times, times(&self.path), "{} was written to", self.path.display());
    }
}

/// When a file was modified and changed; a device's node tells nothing.
fn times(path: &Path) -> Option<(i64, i64, i64, i64)> {
    let about = fs::metadata(path).unwrap();
    let times = (about.mtime(), about.mtime_nsec(), about.ctime(), about.ctime_nsec());
    (!about.file_type().is_block_device()).then_some(times)
}

/// The files below a directory, sorted; links are files.
pub fn files_below(directory: &Path) -> Vec<PathBuf> {
    let (mut files, mut pending) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(next) = pending.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let entry = entry.unwrap();
            // Links to directories lead out.
            if entry.file_type().unwrap().is_dir() { pending.push(entry.path()) } else { files.push(entry.path()) }
        }
    }
    files.sort();
    files
}
