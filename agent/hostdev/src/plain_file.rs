//! Reading the small files that an administrator writes: whatever lies under their names, it takes neither for ever nor all memory.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// What a symbolic link in the place of such a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// Followed; one that leads nowhere is an error.
    Followed,
    /// An error, wherever it leads.
    Refused,
}

/// Reads all of a regular file of at most `most` bytes; `None` only if nothing has that name.
///
/// # Errors
///
/// [`io::ErrorKind::InvalidData`] with what it is and what to do, if something else has that name or if it is larger; else the
/// kernel's answer. Nothing but a regular file is opened, so that no FIFO is waited for and no device begins to do something.
pub fn read_plain_file(path: &Path, most: u64, links: Links) -> io::Result<Option<Vec<u8>>> {
    let named = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        named => named?,
    };
    if named.is_symlink() && links == Links::Refused {
        return Err(invalid("it is a symbolic link: put a plain file in its place"));
    }
    let about = if named.is_symlink() { fs::metadata(path) } else { Ok(named) };
    check_kind(&about.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => invalid("it is a symbolic link that leads nowhere: put a plain file in its place"),
        _ => error,
    })?)?;
    // It may have become something else by now.
    let follow = if links == Links::Refused { libc::O_NOFOLLOW } else { 0 };
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | follow).open(path)?;
    check_kind(&file.metadata()?)?;
    bounded(file, most).map(Some)
}

fn check_kind(about: &Metadata) -> io::Result<()> {
    if about.is_file() { Ok(()) } else { Err(invalid("it is no plain file: put one in its place")) }
}

/// What a file says of its length need not be so.
fn bounded(file: File, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    match u64::try_from(bytes.len()) {
        Ok(length) if length <= most => Ok(bytes),
        _ => Err(invalid(&format!("it is larger than {most} bytes: take out what does not belong in it"))),
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::Mode;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_a_plain_file_of_that_size_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let read = |links| read_plain_file(&path, 4, links);
        assert_eq!(read(Links::Refused).unwrap(), None);
        fs::write(&path, "four").unwrap();
        assert_eq!(read(Links::Refused).unwrap().as_deref(), Some(&b"four"[..]));
        fs::write(&path, "fives").unwrap();
        assert!(read(Links::Followed).unwrap_err().to_string().contains("larger than 4 bytes"));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(read(Links::Followed).unwrap_err().to_string().contains("no plain file"));
        fs::remove_dir(&path).unwrap();
        // Nobody has its other end.
        nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600)).unwrap();
        for links in [Links::Followed, Links::Refused] {
            assert!(read(links).unwrap_err().to_string().contains("no plain file"));
        }
    }

    #[test]
    fn links() {
        let directory = tempfile::tempdir().unwrap();
        let (path, to) = (directory.path().join("link"), directory.path().join("to"));
        let read = |links| read_plain_file(&path, 4, links).map_err(|error| (error.kind(), error.to_string()));
        symlink(&to, &path).unwrap();
        let (kind, text) = read(Links::Followed).unwrap_err();
        assert!(kind == io::ErrorKind::InvalidData && text.contains("leads nowhere"), "{text}");
        fs::write(&to, "four").unwrap();
        assert_eq!(read(Links::Followed), Ok(Some(b"four".to_vec())));
        fs::remove_file(&path).unwrap();
        symlink("/dev/zero", &path).unwrap();
        assert!(read(Links::Followed).unwrap_err().1.contains("no plain file"));
        for to in ["to", "nowhere", "link", "/dev/zero"] {
            fs::remove_file(&path).unwrap();
            symlink(to, &path).unwrap();
            assert!(read(Links::Refused).unwrap_err().1.contains("a symbolic link"), "{to}");
        }
    }
}
