//! A file without a name.

use failback_units::ByteRange;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, fallocate, open};
use nix::sys::stat::Mode;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// How many names are tried.
const TRIES: u32 = 1000;

/// Makes a file in a directory that only this process can reach, and that is gone when it is closed.
pub(super) fn unnamed(directory: &Path) -> io::Result<File> {
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    match open(directory, flags, Mode::S_IRUSR | Mode::S_IWUSR) {
        Ok(fd) => Ok(File::from(fd)),
        // The file system cannot; an old kernel takes it for a directory that is to be opened for writing.
        Err(Errno::EOPNOTSUPP | Errno::EISDIR) => removed(directory),
        Err(errno) => Err(errno.into()),
    }
}

/// The same where the file system wants a name at first.
fn removed(directory: &Path) -> io::Result<File> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    for _ in 0..TRIES {
        let name = format!(".failback-overlay-{}-{}", process::id(), NUMBER.fetch_add(1, Relaxed));
        let path = directory.join(name);
        match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => return fs::remove_file(&path).map(|()| file),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::from(io::ErrorKind::AlreadyExists))
}

/// Gives the space of a range back; it reads as zeroes then.
pub(super) fn cut_out(file: &File, range: ByteRange) -> io::Result<()> {
    let number = |bytes: u64| i64::try_from(bytes).map_err(|_| io::Error::from(Errno::EFBIG));
    let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    Ok(fallocate(file, mode, number(range.start().get())?, number(range.count().get())?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn no_name_is_left() {
        let directory = tempfile::tempdir().unwrap();
        for make in [unnamed, removed] {
            let mut files = [make(directory.path()).unwrap(), make(directory.path()).unwrap()];
            files[0].write_all(b"content").unwrap();
            assert_eq!(files[1].metadata().unwrap().len(), 0);
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        }
        assert!(unnamed(&directory.path().join("missing")).is_err());
        assert!(removed(&directory.path().join("missing")).is_err());
    }
}
