//! File systems to look at, made by real programs.

use failback_tests::lab::{Place, tool, try_tool};
use failback_tests::proof::real_tree;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The smallest that `mkfs.xfs` makes willingly, with some MiB that are no multiple of a group.
pub(crate) const SIZE: u64 = 301 << 20;

/// What turns off all that version 4 has not.
pub(crate) const V4: &[&str] =
    &["-m", "crc=0,finobt=0,rmapbt=0,reflink=0,inobtcount=0,bigtime=0", "-i", "sparse=0,nrext64=0"];

/// An empty file system on an image of `size` bytes, always with the same UUID.
pub(crate) fn made(place: &Place, name: &str, size: u64, options: &[&str]) -> PathBuf {
    let image = place.sparse(name, size, &[]);
    let uuid = ["-m", "uuid=6ba7b810-9dad-11d1-80b4-00c04fd430c8"];
    let image_name = image.to_str().unwrap().to_owned();
    // Without these, which its authors' own tests set, it makes no file system that is as small as a test wants it.
    let small = ["TEST_DIR=x", "TEST_DEV=x", "QA_CHECK_FS=x", "mkfs.xfs", "-q", "-f"];
    tool("env", &[&small[..], &uuid, options, &[&image_name]].concat());
    image
}

/// A prototype file for `mkfs.xfs -p`, for what this kernel cannot mount: a few hundred real files in one directory.
pub(crate) fn prototype(place: &Place, mib: u64) -> PathBuf {
    let tree = place.directory("prototype.d");
    real_tree(&tree, mib);
    let mut text = String::from("none\n0 0\nd--755 0 0\n");
    let mut directories = vec![tree];
    let mut number = 0;
    while let Some(next) = directories.pop() {
        let mut paths: Vec<_> = fs::read_dir(next).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        for path in paths {
            let about = fs::symlink_metadata(&path).unwrap();
            if about.is_dir() {
                directories.push(path);
            } else if about.is_file() && !path.to_str().unwrap().contains(char::is_whitespace) {
                writeln!(text, "file{number} ---644 0 0 {}", path.display()).unwrap();
                number += 1;
            }
        }
    }
    text.push_str("$\n");
    place.file("prototype", text.as_bytes())
}

/// Fills a mounted file system with real files, and makes holes: every third file removed, and large files with every
/// other block punched out.
pub(crate) fn fill(root: &Path, mib: u64) {
    real_tree(&root.join("tree"), mib);
    remove_every_third(&root.join("tree"));
    punched(&root.join("punched"), 96);
}

/// Removes every third file below a directory, in the order of names.
pub(crate) fn remove_every_third(directory: &Path) {
    let mut directories = vec![directory.to_owned()];
    let mut number = 0;
    while let Some(next) = directories.pop() {
        let mut paths: Vec<_> = fs::read_dir(next).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        for path in paths {
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                directories.push(path);
            } else {
                number += 1;
                if number % 3 == 0 {
                    fs::remove_file(path).unwrap();
                }
            }
        }
    }
}

/// A file of which every other 64 KiB were given back: as many holes as there are.
pub(crate) fn punched(path: &Path, holes: u64) {
    const PIECE: u64 = 64 << 10;
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(path).unwrap();
    let bytes = vec![0x5A; usize::try_from(PIECE).unwrap()];
    for at in 0..2 * holes {
        file.write_all_at(&bytes, at * PIECE).unwrap();
    }
    file.sync_all().unwrap();
    for at in 0..holes {
        punch(&file, (2 * at) * PIECE, PIECE);
    }
}

/// Gives back a part of a file.
pub(crate) fn punch(file: &File, at: u64, len: u64) {
    use nix::fcntl::{FallocateFlags, fallocate};
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(file, flags, i64::try_from(at).unwrap(), i64::try_from(len).unwrap()).unwrap();
}

/// Writes a file, and waits until it is safe.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) {
    let mut file = File::create(path).unwrap();
    file.write_all(bytes).unwrap();
    file.sync_all().unwrap();
}

/// Whether this kernel can mount such a file system: not all have version 4, or blocks larger than a page.
pub(crate) fn can_mount(image: &Path) -> bool {
    failback_tests::proof::in_own_namespace(|| {
        let place = Place::new();
        let at = place.directory("mounted");
        let device = failback_tests::lab::Loop::attach(image, &["--read-only"]);
        let options = ["-t", "xfs", "-o", "ro,norecovery"].map(AsRef::<std::ffi::OsStr>::as_ref);
        let mounted = try_tool("mount", &[&options[..], &[device.path.as_os_str(), at.as_os_str()]].concat());
        if mounted.status.success() {
            try_tool("umount", &[&at]);
        }
        mounted.status.success()
    })
}
