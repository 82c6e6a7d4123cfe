//! The files that a guest starts with, as an archive that the kernel unpacks into memory.

use std::collections::BTreeSet;
use std::path::Path;

/// What the name of the entry is that ends an archive.
const END: &str = "TRAILER!!!";
/// Headers, names and contents begin at multiples of this.
const ALIGNMENT: usize = 4;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

/// A cpio archive in the form "newc" (Documentation/driver-api/early-userspace/buffer-format.rst). The same files give the
/// same bytes, and no root is needed for it.
pub(super) struct Initramfs {
    bytes: Vec<u8>,
    entries: u32,
    directories: BTreeSet<String>,
}

impl Initramfs {
    pub(super) fn new() -> Self {
        let mut archive = Self { bytes: Vec::new(), entries: 0, directories: BTreeSet::new() };
        for directory in ["bin", "dev", "proc", "sys", "tmp", "run", "mnt", "etc", "lib"] {
            archive.directory(directory);
        }
        archive
    }

    fn directory(&mut self, path: &str) {
        if self.directories.insert(path.to_owned()) {
            self.entry(path, DIRECTORY, &[]);
        }
    }

    /// A file that can be run, and the directories above it.
    pub(super) fn file(&mut self, path: &str, content: &[u8]) {
        let path = path.trim_start_matches('/');
        let above: Vec<_> = Path::new(path).ancestors().skip(1).filter_map(Path::to_str).collect();
        for directory in above.into_iter().rev().filter(|name| !name.is_empty()) {
            self.directory(directory);
        }
        self.entry(path, PROGRAM, content);
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry(END, 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let size = u32::try_from(content.len()).unwrap();
        let name_size = u32::try_from(name.len() + 1).unwrap();
        // Inode, mode, owner, group, links, time, size, two device numbers in two halves each, length of the name, checksum.
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
}
