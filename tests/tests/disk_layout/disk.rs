//! Disks to look at, and what is expected of them.

use failback_blockio::{Device, FileDevice, Options};
use failback_tests::lab::tool;
use failback_units::ByteRange;
use failback_volumes::{Content, DiskLayout, PartitionTable, scan};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

pub(crate) const MIB: u64 = 1 << 20;
/// The UUID of every swap space that tests make.
pub(crate) const SWAP_UUID: &str = "12345678-9abc-def0-1234-56789abcdef0";

/// Looks at images or devices, together.
pub(crate) fn layouts(paths: &[&Path]) -> Vec<DiskLayout> {
    let open = |path: &&Path| {
        let file = File::open(path).unwrap();
        FileDevice::new(file.into(), &path.to_string_lossy(), Options::default()).unwrap()
    };
    let devices: Vec<_> = paths.iter().map(open).collect();
    let devices: Vec<&dyn Device> = devices.iter().map(|device| device as _).collect();
    scan(&devices)
}

/// Looks at one.
pub(crate) fn layout(path: &Path) -> DiskLayout {
    layouts(&[path]).remove(0)
}

/// The table of a disk.
#[track_caller]
pub(crate) fn table(layout: &DiskLayout) -> &PartitionTable {
    match &layout.content {
        Content::PartitionTable(table) => table,
        other => panic!("no table: {other:?}"),
    }
}

/// The free bytes of a disk.
pub(crate) fn free(layout: &DiskLayout) -> Vec<Range<u64>> {
    let bytes = |extent: &ByteRange| extent.start().get()..extent.end().get();
    layout.free.extents().iter().map(bytes).collect()
}

/// Expects that nothing of a disk is free, and why.
#[track_caller]
pub(crate) fn all_used(layout: &DiskLayout, words: &str) {
    let because = match &layout.content {
        Content::PartitionTable(table) => table.because.clone().unwrap_or_default(),
        Content::FileSystem(system) => system.because.clone().unwrap_or_default(),
        Content::Unclear { because, .. } => because.clone(),
        other => panic!("{other:?}"),
    };
    assert!(because.contains(words), "{words:?} is not in: {because}");
    assert!(layout.free.is_empty(), "{because}");
    assert_eq!(layout.used(), layout.size);
}

/// Writes swap space of `size` bytes at `at`, and returns what must be found free: all but its first page.
pub(crate) fn put_swap(disk: &Path, at: u64, size: u64) -> Range<u64> {
    let space = tempfile::NamedTempFile::new().unwrap();
    space.as_file().set_len(size).unwrap();
    let path = space.path().to_str().unwrap();
    tool("mkswap", &["-q", "-p", "4096", "-U", SWAP_UUID, "-L", "spare", path]);
    copy_to(space.path(), disk, at);
    at + 4096..at + size
}

/// Copies what is not zero of a file onto a disk.
pub(crate) fn copy_to(from: &Path, disk: &Path, at: u64) {
    let (from, to) = (File::open(from).unwrap(), File::options().write(true).open(disk).unwrap());
    let (mut buffer, mut done) = (vec![0; 1 << 20], 0);
    loop {
        let len = from.read_at(&mut buffer, done).unwrap();
        if len == 0 {
            return to.sync_all().unwrap();
        }
        for (piece, at) in buffer[..len].chunks(4096).zip((at + done..).step_by(4096)) {
            if piece.iter().any(|byte| *byte != 0) {
                to.write_all_at(piece, at).unwrap();
            }
        }
        done += len as u64;
    }
}

/// Reads bytes of a disk.
pub(crate) fn peek(disk: &Path, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    File::open(disk).unwrap().read_exact_at(&mut bytes, at).unwrap();
    bytes
}

/// Overwrites bytes of a disk.
pub(crate) fn poke(disk: &Path, at: u64, bytes: &[u8]) {
    let file = File::options().write(true).open(disk).unwrap();
    file.write_all_at(bytes, at).unwrap();
    file.sync_all().unwrap();
}
