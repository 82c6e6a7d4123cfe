//! Proving that a map of free space is right: by what other programs say, and by losing everything that it calls free.
//!
//! A file system check is no oracle: it follows the same metadata that a wrong map came from, and it never looks at the
//! content of files. So the proof of a map is this: overwrite all that it calls free, let the kernel recover what is
//! left, and compare every file with the same recovery of an untouched copy.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![expect(clippy::must_use_candidate, reason = "helpers of tests are called for what they do")]

use crate::lab::{Loop, Mount, Place, tool, try_tool};
use failback_blockio::{FileDevice, Options};
use failback_units::{ByteOffset, ByteRange};
use failback_volumes::{DeviceVolume, FileSystem, FreeMap, FreeMapBuilder, file_systems};
use nix::sched::{CloneFlags, unshare};
use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread;

/// What free space is overwritten with: nothing that a file system could take for its own.
const POISON: [u8; 4] = 0xDEAD_BEEF_u32.to_be_bytes();

/// Bytes that are written at a time.
const PIECE: usize = 1 << 20;

/// Files of a real tree that are larger are left out.
const LARGEST_FILE: u64 = 4 << 20;
/// Larger ones are no small texts, in bytes: one firmware image would be the whole tree.
const LARGEST_TEXT: u64 = 64 << 10;

/// What the volume in an image says of itself; there must be exactly one file system.
#[track_caller]
pub fn mapped(image: &Path) -> FileSystem {
    let mut found = all_mapped(image);
    assert_eq!(found.len(), 1, "{}: {found:?}", image.display());
    found.remove(0)
}

/// Every file system that an image claims to hold.
#[track_caller]
pub fn all_mapped(image: &Path) -> Vec<FileSystem> {
    let file = File::open(image).unwrap();
    let device = FileDevice::new(file.into(), &image.display().to_string(), Options::default()).unwrap();
    let volume = DeviceVolume::new(&device).unwrap();
    file_systems(&volume)
}

/// Copies an image, holes and all.
#[track_caller]
pub fn copy_image(image: &Path, out: &Path) {
    tool("cp", &["--sparse=always".as_ref(), "--reflink=auto".as_ref(), image.as_os_str(), out.as_os_str()]);
}

/// Copies what a map calls used, and fills the rest with a pattern.
#[track_caller]
pub fn only_used(image: &Path, map: &FreeMap, out: &Path) {
    copy_image(image, out);
    let poison = POISON.repeat(PIECE / POISON.len());
    let file = OpenOptions::new().write(true).open(out).unwrap();
    for extent in map.extents() {
        let (mut at, end) = (extent.start().get(), extent.end().get());
        while at < end {
            let len = poison.len().min(usize::try_from(end - at).unwrap());
            file.write_all_at(&poison[..len], at).unwrap();
            at += len as u64;
        }
    }
}

/// Every file, directory and link below a directory, by its path in it: mode, owner, size, and the hash of its content.
#[track_caller]
pub fn file_hashes(directory: &Path) -> BTreeMap<String, String> {
    let mut hashes = BTreeMap::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(next) = directories.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            let about = fs::symlink_metadata(&path).unwrap();
            let content = if about.is_symlink() {
                fs::read_link(&path).unwrap().display().to_string()
            } else if about.is_dir() {
                directories.push(path.clone());
                String::new()
            } else if about.is_file() {
                fs::read(&path).map_or_else(|error| error.to_string(), |bytes| blake3::hash(&bytes).to_string())
            } else {
                String::new()
            };
            let size = if about.is_dir() { 0 } else { about.size() };
            let facts = format!("{:o} {}:{} {size} {content}", about.permissions().mode(), about.uid(), about.gid());
            hashes.insert(path.strip_prefix(directory).unwrap().display().to_string(), facts);
        }
    }
    hashes
}

/// The same of all that is in the ext file system of an image, and that `e2fsck` has nothing to say about it. Nothing is mounted.
#[track_caller]
pub fn ext_files(image: &Path) -> BTreeMap<String, String> {
    tool("e2fsck", &["-fn".as_ref(), image.as_os_str()]);
    let place = Place::new();
    let request = format!("rdump / {}", place.root().display());
    tool("debugfs", &["-R".as_ref(), request.as_ref(), image.as_os_str()]);
    file_hashes(place.root())
}

/// Runs something in a mount namespace of its own: whatever it mounts is gone when it is over, however it ends.
pub fn in_own_namespace<R: Send>(run: impl FnOnce() -> R + Send) -> R {
    let outcome = thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // Only this thread and the programs that it starts are in the new namespace.
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            tool("mount", &["--make-rprivate", "/"]);
            run()
        });
        thread.join()
    });
    outcome.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Mounts an image, which recovers it unless `options` say otherwise, and runs something with the mount point.
pub fn with_mounted<R: Send>(image: &Path, kind: &str, options: &str, run: impl FnOnce(&Path) -> R + Send) -> R {
    let place = Place::new();
    let at = place.directory("mounted");
    in_own_namespace(|| {
        let _mount = attached(image, kind, options, &at);
        run(&at)
    })
}

/// Mounts an image by a loop device that the kernel takes back when the mount ends.
fn attached(image: &Path, kind: &str, options: &str, at: &Path) -> Mount {
    let device = Loop::attach(image, &[]);
    Mount::kind(kind, &device.path, at, options)
}

/// A file system that is in use, and of which copies can be taken as a crash would leave it.
pub struct Live {
    at: PathBuf,
    image: PathBuf,
    copies: AtomicU32,
}

impl Live {
    /// Where it is mounted.
    pub fn root(&self) -> &Path {
        &self.at
    }

    /// Takes what would be on the disk if the machine lost its power now: one instant, whatever is written meanwhile.
    #[track_caller]
    pub fn crash_copy(&self, to: &Path) {
        let snapshot = self.image.with_extension(self.copies.fetch_add(1, Relaxed).to_string());
        tool("cp", &["--reflink=always".as_ref(), self.image.as_os_str(), snapshot.as_os_str()]);
        copy_image(&snapshot, to);
        fs::remove_file(snapshot).unwrap();
    }
}

/// Mounts a copy of an image read-write in a place from which [`Live::crash_copy`] can copy it in one instant, and runs
/// something with it. The image itself stays as it is.
pub fn with_live<R: Send>(image: &Path, kind: &str, options: &str, run: impl FnOnce(&Live) -> R + Send) -> R {
    // In memory, since what uses it may sync often.
    let place = Place::in_memory();
    let (below, at) = (place.directory("below"), place.directory("live"));
    // Its copies share their blocks, so that one is made in no time and while nothing is written.
    let size = 2 * fs::metadata(image).unwrap().len() + (512 << 20);
    let shared = place.sparse("shared.img", size, &[]);
    tool("mkfs.xfs", &["-q".as_ref(), "-m".as_ref(), "reflink=1".as_ref(), shared.as_os_str()]);
    in_own_namespace(|| {
        let _below = attached(&shared, "xfs", "rw", &below);
        let inner = below.join("image");
        copy_image(image, &inner);
        let _mount = attached(&inner, kind, options, &at);
        run(&Live { at: at.clone(), image: inner, copies: AtomicU32::new(0) })
    })
}

/// Whether a file system survives the loss of everything that a map calls free: a copy without it is recovered by the
/// kernel and compared, file by file, with the same recovery of a whole copy; then its own checker looks at it.
///
/// # Errors
///
/// What did not survive.
pub fn survives(image: &Path, kind: &str, map: &FreeMap) -> Result<(), String> {
    let place = Place::new();
    let (whole, used) = (place.path("whole.img"), place.path("used.img"));
    copy_image(image, &whole);
    only_used(image, map, &used);
    let expected = with_mounted(&whole, kind, "rw", file_hashes);
    fs::remove_file(&whole).unwrap();
    let found = in_own_namespace(|| {
        let at = place.directory("mounted");
        let device = Loop::attach(&used, &[]);
        let arguments = ["-t".as_ref(), kind.as_ref(), "-o".as_ref(), "rw".as_ref(), device.path.as_os_str()];
        let output = try_tool("mount", &[&arguments[..], &[at.as_os_str()]].concat());
        if !output.status.success() {
            return Err(format!("it cannot be mounted: {}", String::from_utf8_lossy(&output.stderr)));
        }
        let _mount = Mount::taken(&at);
        drop(device);
        Ok(file_hashes(&at))
    })?;
    let lost = expected.iter().filter(|(name, facts)| found.get(*name) != Some(facts)).count();
    let strange = found.keys().filter(|name| !expected.contains_key(*name)).count();
    if lost + strange > 0 {
        return Err(format!("of {} files {lost} are lost, and {strange} are new", expected.len()));
    }
    assert!(!expected.is_empty(), "without files this proves nothing");
    let (checker, option) = if kind == "xfs" { ("xfs_repair", "-n") } else { ("e2fsck", "-fn") };
    let output = try_tool(checker, &[option.as_ref(), used.as_os_str()]);
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stdout).into_owned()) }
}

/// Copies real files of this machine, in a fixed order, until there are about so many MiB: half of it small texts, half
/// of it programs and libraries.
pub fn real_tree(into: &Path, mib: u64) {
    let half = mib << 19;
    for (source, name, largest) in [("/usr/share", "texts", LARGEST_TEXT), ("/usr/lib", "programs", LARGEST_FILE)] {
        let to = into.join(name);
        fs::create_dir_all(&to).unwrap();
        copy_tree(Path::new(source), &to, half, largest);
    }
}

/// Copies links and files of at most `largest` bytes, breadth first, until there are so many bytes.
fn copy_tree(from: &Path, to: &Path, bytes: u64, largest: u64) {
    let mut left = bytes;
    let mut directories = VecDeque::from([PathBuf::new()]);
    while let Some(directory) = directories.pop_front() {
        let Ok(entries) = fs::read_dir(from.join(&directory)) else { continue };
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        fs::create_dir_all(to.join(&directory)).unwrap();
        for name in names {
            let path = directory.join(name);
            let Ok(about) = fs::symlink_metadata(from.join(&path)) else { continue };
            if about.is_dir() {
                directories.push_back(path);
            } else if about.is_symlink() {
                std::os::unix::fs::symlink(fs::read_link(from.join(&path)).unwrap(), to.join(&path)).unwrap();
            } else if about.is_file() && about.len() <= largest {
                let Ok(content) = fs::read(from.join(&path)) else { continue };
                fs::write(to.join(&path), content).unwrap();
                // A small file costs a block and an inode.
                left = left.saturating_sub(about.len() + 4096);
                if left == 0 {
                    return;
                }
            }
        }
    }
}

/// Wants a map to say exactly what another program does: `free` are its free bytes, from left to right.
#[track_caller]
pub fn assert_same_map(ours: &FreeMap, free: impl IntoIterator<Item = Range<u64>>) {
    let theirs = free_map(free);
    if let Some((a, b)) = ours.extents().iter().zip(theirs.extents()).find(|(a, b)| a != b) {
        panic!("the maps differ: {a} is free here and {b} there");
    }
    assert_eq!(ours.extents().len(), theirs.extents().len(), "one map has more than the other");
}

/// A map in which these bytes are free, which come from left to right.
pub fn free_map(free: impl IntoIterator<Item = Range<u64>>) -> FreeMap {
    let mut builder = FreeMapBuilder::new();
    for range in free {
        let ends = [range.start, range.end].map(|at| ByteOffset::new(at).unwrap());
        builder.push(ByteRange::between(ends[0], ends[1]).unwrap());
    }
    builder.finish()
}

/// What partclone takes for free in an image that is not mounted; `program` is such as `partclone.extfs`.
#[track_caller]
pub fn partclone_free(program: &str, image: &Path) -> Vec<Range<u64>> {
    let place = Place::new();
    let (map, log) = (place.path("map"), place.path("log"));
    let options = ["-D", "-q", "-F", "-C", "--offset_domain=0", "-L"].map(AsRef::<std::ffi::OsStr>::as_ref);
    let files = [log.as_os_str(), "-s".as_ref(), image.as_os_str(), "-O".as_ref(), map.as_os_str()];
    tool(program, &[&options[..], &files].concat());
    let text = fs::read_to_string(map).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#')).map(|line| line.split_whitespace().collect());
    let extents = lines.filter_map(|fields: Vec<&str>| match fields[..] {
        [start, count, "?"] => Some((hexadecimal(start), hexadecimal(count))),
        _ => None,
    });
    extents.map(|(start, count)| start..start + count).collect()
}

fn hexadecimal(text: &str) -> u64 {
    u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap()
}
