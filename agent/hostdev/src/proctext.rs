//! Reading what procfs says: mounts, swaps and file locks, as pure functions over its text.

use crate::topology::DevNum;
use procfs::FromBufRead;
use procfs::process::MountInfo;
use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// One line of `mountinfo` (proc(5)), as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// The device of the file system; its major number is 0 where it has none of its own, as btrfs and overlay.
    pub(crate) device: DevNum,
    /// Where it is mounted, for the eyes of the administrator.
    pub(crate) at: PathBuf,
    /// What was mounted: a device path, or any text.
    pub(crate) source: PathBuf,
    /// The type of the file system.
    pub(crate) kind: String,
    /// Whether the file system may be written to, through this mount or any other.
    pub(crate) writable: bool,
    /// The directories that an overlay consists of.
    pub(crate) layers: Vec<PathBuf>,
    /// A process that sees this mount, where our own does not.
    pub(crate) elsewhere: Option<u32>,
}

/// Parses `/proc/PID/mountinfo`.
///
/// A line that cannot be understood is an error: a mount that is overlooked is a disk that is overwritten.
pub(crate) fn mounts(text: &[u8]) -> io::Result<Vec<Mount>> {
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(mount).collect()
}

fn mount(line: &[u8]) -> io::Result<Mount> {
    let invalid = || {
        let text = format!("a line of mountinfo is not understood: {}", line.escape_ascii());
        io::Error::new(io::ErrorKind::InvalidData, text)
    };
    // The kernel escapes blanks, not bytes above 127; the names in question are shown, and devices compared by number.
    let info = MountInfo::from_line(&String::from_utf8_lossy(line)).map_err(|_| invalid())?;
    let device = info.majmin.parse().map_err(|()| invalid())?;
    Ok(Mount {
        device,
        at: unescape(info.mount_point.as_os_str().as_encoded_bytes()),
        source: unescape(info.mount_source.as_deref().unwrap_or_default().as_bytes()),
        // The superblock's flag decides: a read-only bind mount of a writable file system does not keep it still.
        writable: !info.super_options.contains_key("ro"),
        layers: if info.fs_type == "overlay" { layers(&info.super_options) } else { Vec::new() },
        kind: info.fs_type,
        elsewhere: None,
    })
}

fn layers(options: &HashMap<String, Option<String>>) -> Vec<PathBuf> {
    let lower = options.iter().filter(|(name, _)| matches!(name.as_str(), "lowerdir" | "lowerdir+" | "datadir+"));
    let upper = options.get("upperdir").into_iter().flatten();
    lower
        .filter_map(|(_, value)| value.as_deref())
        .flat_map(|value| value.split(':'))
        .chain(upper.map(String::as_str))
        .filter(|part| !part.is_empty())
        .map(|part| unescape(part.as_bytes()))
        .collect()
}

/// Parses `/proc/swaps`: the paths of what is swapped to. The first line holds titles.
pub(crate) fn swaps(text: &[u8]) -> Vec<PathBuf> {
    text.split(|byte| *byte == b'\n')
        .skip(1)
        .filter_map(|line| line.split(|byte| matches!(byte, b' ' | b'\t')).next())
        .filter(|name| !name.is_empty())
        .map(unescape)
        .collect()
}

/// A lock on a file, from `/proc/locks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileLock {
    /// The device of the file system that holds the file.
    pub(crate) device: DevNum,
    /// The inode number of the file.
    pub(crate) inode: u64,
    /// Whether it is a lock of the whole file by `flock`, not one of a range by `fcntl`.
    pub(crate) whole: bool,
    /// Whether it excludes all others.
    pub(crate) exclusive: bool,
    /// The process that has it, where there is one to name.
    pub(crate) pid: Option<u32>,
}

/// Parses `/proc/locks`. What is not understood is left out: the locks are named from here, but taken to find out.
pub(crate) fn locks(text: &[u8]) -> Vec<FileLock> {
    use procfs::{LockKind, LockType};
    let parse = |line: &[u8]| procfs::Locks::from_buf_read(line).ok();
    text.split(|byte| *byte == b'\n')
        // "->" marks a process that waits for a lock.
        .filter(|line| !line.is_empty() && !line.windows(2).any(|pair| pair == b"->"))
        .filter_map(parse)
        .flat_map(|locks| locks.0)
        .filter_map(|lock| {
            Some(FileLock {
                device: DevNum { major: lock.devmaj, minor: lock.devmin },
                inode: lock.inode,
                whole: match lock.lock_type {
                    LockType::FLock => true,
                    LockType::Posix | LockType::ODF => false,
                    LockType::Other(_) => return None,
                },
                exclusive: matches!(lock.kind, LockKind::Write),
                pid: lock.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0),
            })
        })
        .collect()
}

/// Undoes the octal escapes (`\040` for a blank) with which the kernel keeps the fields of a line apart.
pub(crate) fn unescape(field: &[u8]) -> PathBuf {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        match after {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', behind @ ..] if *first == b'\\' => {
                plain.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = behind;
            }
            _ => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(plain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn dev(major: u32, minor: u32) -> DevNum {
        DevNum { major, minor }
    }

    #[test]
    fn mounts_of_every_shape() {
        let text = br"27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
36 27 8:17 / /srv/with\040blank\011and\134 ro,noatime shared:1 master:2 - ext4 /dev/sdb\0401 rw
37 27 0:44 /@sub /data rw - btrfs /dev/sdc ro,space_cache=v2
38 27 0:45 / /merged rw - overlay overlay rw,lowerdir=/a\040b:/c,upperdir=/up,workdir=/work
39 27 0:46 / /odd rw unknown:9 - tmpfs none rw
40 27 0:47 / /empty rw - tmpfs  rw
";
        let found = mounts(text).unwrap();
        assert_eq!(found.len(), 6);
        assert_eq!((found[0].device, found[0].writable), (dev(254, 0), true));
        assert_eq!(found[1].at, Path::new("/srv/with blank\tand\\"));
        assert_eq!(found[1].source, Path::new("/dev/sdb 1"));
        assert!(found[1].writable, "the mount is read-only, the file system is not");
        assert!(!found[2].writable);
        assert_eq!(found[2].kind, "btrfs");
        assert_eq!(found[3].layers, [Path::new("/a b"), Path::new("/c"), Path::new("/up")]);
        assert_eq!(found[5].source, Path::new(""));
    }

    #[test]
    fn a_name_that_is_not_utf8_hides_nothing() {
        let found = mounts(b"36 27 8:17 / /srv/\xff\xfe rw - ext4 /dev/sdb1 rw\n").unwrap();
        assert_eq!(found[0].device, dev(8, 17));
    }

    #[test]
    fn a_line_that_is_not_understood_is_an_error() {
        for line in
            ["nonsense", "36 27 8:17 / /srv", "36 27 8-17 / /srv rw - ext4 /dev/sdb1 rw", "36 27 8:17 / /srv rw"]
        {
            let error = mounts(line.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(line), "{error}");
        }
    }

    #[test]
    fn swaps_with_blanks() {
        let text = b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n/dev/sda2                               partition\t8388604\t\t0\t\t-2\n/swap\\040file file\t4\t0\t-3\n";
        assert_eq!(swaps(text), [Path::new("/dev/sda2"), Path::new("/swap file")]);
        assert!(swaps(b"").is_empty());
        assert!(swaps(b"Filename\tType\n").is_empty());
    }

    #[test]
    fn locks_of_every_shape() {
        let text = b"1: FLOCK  ADVISORY  WRITE 812 fd:0a:396528 0 EOF
2: OFDLCK ADVISORY  READ -1 08:01:77 100 103
2: -> POSIX  ADVISORY  WRITE 1281 08:01:77 0 0
3: LEASE  ACTIVE    READ 9 08:01:78 0 EOF
4: POSIX  ADVISORY  WRITE 5 <none>:0 0 EOF
";
        let found = locks(text);
        assert_eq!(found.len(), 2);
        let first = FileLock { device: dev(0xfd, 10), inode: 396_528, whole: true, exclusive: true, pid: Some(812) };
        assert_eq!(found[0], first);
        assert_eq!(found[1], FileLock { device: dev(8, 1), inode: 77, whole: false, exclusive: false, pid: None });
    }

    #[test]
    fn escapes() {
        for (escaped, plain) in [
            (r"plain", "plain"),
            (r"a\040b", "a b"),
            (r"a\134040", r"a\040"),
            (r"end\04", r"end\04"),
            (r"\", r"\"),
            (r"\999", r"\999"),
            (r"\777", r"\777"),
        ] {
            assert_eq!(unescape(escaped.as_bytes()), Path::new(plain));
        }
    }
}
