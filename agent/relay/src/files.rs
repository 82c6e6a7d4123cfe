//! The directory of one pair: see `RELAY.md` for its files and for the order in which they become durable.

use failback_hashtree::Root;
use failback_orchestrate::{JobError, StoredTree, TreeError, advance_tree};
use failback_replication::StoredDelta;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const PREFIX: &str = "pair-";
const DELTA: &str = ".delta";
const ASIDE: &str = ".aside";
const TREE: &str = "tree.";
const TREE_NEXT: &str = "next-tree";
const APPLIED: &str = "applied";
const APPLIED_NEW: &str = "applied.new";
/// Digits of a number in a name: enough for any.
const DIGITS: usize = 20;

/// What the relay knows of the last delta that the target has applied.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawApplied {
    /// [`APPLIED_MAGIC`].
    pub(crate) magic: [u8; 8],
    /// 1.
    pub(crate) version: U16,
    /// 0.
    pub(crate) reserved: [u8; 6],
    /// The number that the delta had here.
    pub(crate) number: U64,
    /// Its header hash.
    pub(crate) delta: [u8; 32],
    /// The root that it leads to.
    pub(crate) root: [u8; 32],
    /// BLAKE3 of all that precedes.
    pub(crate) hash: [u8; 32],
}
const _: () = assert!(size_of::<RawApplied>() == 120);

pub(crate) const APPLIED_MAGIC: [u8; 8] = *b"\x89FBRLY\r\n";

impl RawApplied {
    fn digest(&self) -> [u8; 32] {
        blake3::hash(&self.as_bytes()[..size_of::<Self>() - 32]).into()
    }
}

/// The last delta that the target has applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Applied {
    pub(crate) number: u64,
    pub(crate) delta: [u8; 32],
    pub(crate) root: Root,
}

/// A complete delta in the directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    pub(crate) number: u64,
    /// Its header hash.
    pub(crate) key: [u8; 32],
    pub(crate) root: Root,
    pub(crate) len: u64,
    /// When its last byte came.
    pub(crate) since: SystemTime,
}

/// What was found in a directory.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Deltas that wait for the target, each from the root that the one before leads to.
    pub(crate) waiting: Vec<Waiting>,
    /// The lengths of deltas that were set aside.
    pub(crate) aside: Vec<u64>,
    /// The tree after the last of those that wait.
    pub(crate) tree: Option<StoredTree>,
    pub(crate) applied: Option<Applied>,
    /// The highest number that was ever used, as far as can be told.
    pub(crate) last: u64,
    /// What is wrong, in sentences.
    pub(crate) remarks: Vec<String>,
}

/// The directory of one pair.
#[derive(Debug)]
pub(crate) struct PairFiles {
    path: PathBuf,
    opened: File,
}

/// The name of a pair's directory: whatever is no letter, digit or dash stands as its two hexadecimal digits behind an underscore.
pub(crate) fn directory_name(pair: &str) -> String {
    let mut name = String::from(PREFIX);
    for byte in pair.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'-' {
            name.push(char::from(byte));
        } else {
            let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or('0');
            name.extend(['_', digit(byte >> 4), digit(byte & 15)]);
        }
    }
    name
}

/// The pair whose directory has this name; `None` if it is no such name.
pub(crate) fn pair_of(directory: &str) -> Option<String> {
    let mut rest = directory.strip_prefix(PREFIX)?.as_bytes();
    let mut pair = Vec::new();
    while let Some((byte, behind)) = rest.split_first() {
        rest = behind;
        if *byte == b'_' {
            let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
            pair.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &rest[2..];
        } else {
            pair.push(*byte);
        }
    }
    let pair = String::from_utf8(pair).ok()?;
    (directory_name(&pair) == directory).then_some(pair)
}

impl PairFiles {
    /// Opens the directory of a pair, or makes it, and makes its name durable.
    pub(crate) fn open(path: &Path) -> Result<Self, JobError> {
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed("create", path, error)),
            _ => {}
        }
        let opened = File::open(path).map_err(|error| failed("open", path, error))?;
        let above = path.parent().unwrap_or(Path::new("/"));
        sync_directory(above)?;
        Ok(Self { path: path.to_owned(), opened })
    }

    /// The delta that is on its way.
    pub(crate) fn arriving(&self) -> PathBuf {
        self.path.join("arriving")
    }

    /// Values of blocks.
    pub(crate) fn leaves(&self) -> PathBuf {
        self.path.join("leaves")
    }

    /// Where the next tree is made.
    pub(crate) fn next_tree(&self) -> PathBuf {
        self.path.join(TREE_NEXT)
    }

    /// A delta that waits.
    pub(crate) fn delta(&self, number: u64) -> PathBuf {
        self.path.join(numbered("", number, DELTA))
    }

    fn tree(&self, number: u64) -> PathBuf {
        self.path.join(numbered(TREE, number, ""))
    }

    /// Reads the directory, and finishes what was interrupted: leftovers are removed, and the tree is brought to the last delta.
    /// What cannot be used is set aside, with a remark.
    pub(crate) fn recover(&self) -> Result<Found, JobError> {
        let mut found = Found::default();
        let (mut deltas, mut asides, mut trees) = (Vec::new(), Vec::new(), Vec::new());
        for name in self.names()? {
            if let Some(number) = number_in(&name, "", DELTA) {
                deltas.push(number);
            } else if let Some(number) = number_in(&name, "", ASIDE) {
                asides.push(number);
            } else if let Some(number) = number_in(&name, TREE, "") {
                trees.push(number);
            } else if name.starts_with(TREE_NEXT) || name == APPLIED_NEW {
                remove(&self.path.join(&name))?;
            }
        }
        deltas.sort_unstable();
        trees.sort_unstable();
        found.applied = self.read_applied()?;
        let numbers = deltas.iter().chain(&asides).chain(&trees).copied();
        found.last = numbers.chain(found.applied.map(|applied| applied.number)).max().unwrap_or(0);
        for number in asides {
            let path = self.path.join(numbered("", number, ASIDE));
            found.aside.push(fs::metadata(&path).map_err(|error| failed("read", &path, error))?.len());
        }
        self.read_waiting(&deltas, &mut trees, &mut found)?;
        self.read_tree(&trees, &mut found)?;
        self.sync()?;
        Ok(found)
    }

    /// Deltas as far as each leads on from the one before. What does not is of no use.
    fn read_waiting(&self, numbers: &[u64], trees: &mut Vec<u64>, found: &mut Found) -> Result<(), JobError> {
        let mut useless = None;
        for (at, number) in numbers.iter().enumerate() {
            let path = self.delta(*number);
            let delta = match StoredDelta::open(&path) {
                Ok(delta) => delta,
                Err(error @ JobError::File { .. }) if !is_cut_off(&error) => return Err(error),
                Err(error) => {
                    useless = Some((at, error.to_string()));
                    break;
                }
            };
            let before = found.waiting.last().map(|waiting: &Waiting| waiting.root);
            if before.is_some_and(|root| root != delta.header().base_root) {
                useless = Some((at, "it does not lead on from the one before".into()));
                break;
            }
            let about = fs::metadata(&path).map_err(|error| failed("read", &path, error))?;
            found.waiting.push(Waiting {
                number: *number,
                key: *delta.key(),
                root: delta.root(),
                len: delta.len(),
                since: about.modified().unwrap_or(SystemTime::UNIX_EPOCH),
            });
        }
        if let Some((at, why)) = useless {
            // A tree may be of what is of no use.
            self.remove_trees()?;
            trees.clear();
            // The last first: what is left in between is a beginning that leads on.
            for number in numbers[at..].iter().rev() {
                let len = self.aside(*number)?;
                found.aside.push(len);
            }
            found.remarks.push(format!(
                "{} is of no use ({why}), and so is what was received after it: they are kept aside, look at the disk of this \
                 relay, and let the source begin again",
                self.delta(numbers[at]).display()
            ));
        }
        Ok(())
    }

    /// The newest tree, brought to the last delta. A tree that cannot be used is removed: it can be asked for again.
    fn read_tree(&self, numbers: &[u64], found: &mut Found) -> Result<(), JobError> {
        let last = found.waiting.last().map(|waiting| waiting.number);
        let mut best = None;
        for number in numbers.iter().rev() {
            let is_of_these = last.is_none_or(|last| *number <= last);
            if best.is_some() || !is_of_these {
                remove(&self.tree(*number))?;
                continue;
            }
            match self.brought_on(*number, found) {
                Ok(tree) => best = Some(tree),
                Err(error @ (JobError::Device(_) | JobError::File { .. } | JobError::Tree(TreeError::Io { .. }))) => {
                    return Err(error);
                }
                Err(error) => {
                    remove(&self.tree(*number))?;
                    found.remarks.push(format!("{error}; it will be asked for again"));
                }
            }
        }
        found.tree = best;
        Ok(())
    }

    fn brought_on(&self, number: u64, found: &Found) -> Result<StoredTree, JobError> {
        let mut tree = StoredTree::open(&self.tree(number))?;
        let mut at = number;
        for waiting in found.waiting.iter().filter(|waiting| waiting.number > number) {
            let delta = self.delta(waiting.number);
            let delta = File::open(&delta).map_err(|error| failed("read", &delta, error))?;
            advance_tree(&tree, delta, &self.next_tree())?;
            tree = self.put_tree(waiting.number, Some(at))?;
            at = waiting.number;
        }
        if found.waiting.last().is_some_and(|last| last.root != tree.root()) {
            return Err(JobError::Mismatch(format!(
                "{} is not the tree after the last delta",
                self.tree(at).display()
            )));
        }
        Ok(tree)
    }

    /// Gives the delta that has arrived its number. It is flushed; from here on it is there.
    pub(crate) fn put_delta(&self, number: u64) -> Result<(), JobError> {
        rename(&self.arriving(), &self.delta(number))?;
        self.sync()
    }

    /// Gives the next tree, which is flushed, the number of the last delta that is in it, and removes the one with number `old`.
    pub(crate) fn put_tree(&self, number: u64, old: Option<u64>) -> Result<StoredTree, JobError> {
        let path = self.tree(number);
        rename(&self.next_tree(), &path)?;
        self.sync()?;
        if let Some(old) = old.filter(|old| *old != number) {
            remove(&self.tree(old))?;
        }
        Ok(StoredTree::open(&path)?)
    }

    /// Removes all trees, durably.
    pub(crate) fn remove_trees(&self) -> Result<(), JobError> {
        for name in self.names()? {
            if number_in(&name, TREE, "").is_some() {
                remove(&self.path.join(&name))?;
            }
        }
        self.sync()
    }

    /// Remembers that the target has applied a delta, and only then forgets the delta.
    pub(crate) fn forget(&self, applied: Applied) -> Result<(), JobError> {
        let mut raw = RawApplied {
            magic: APPLIED_MAGIC,
            version: 1.into(),
            reserved: [0; 6],
            number: applied.number.into(),
            delta: applied.delta,
            root: applied.root.0,
            hash: [0; 32],
        };
        raw.hash = raw.digest();
        let new = self.path.join(APPLIED_NEW);
        let written = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new);
        let written = written.and_then(|mut file| file.write_all(raw.as_bytes()).and_then(|()| file.sync_all()));
        written.map_err(|error| failed("write", &new, error))?;
        rename(&new, &self.path.join(APPLIED))?;
        self.sync()?;
        remove(&self.delta(applied.number))?;
        self.sync()
    }

    /// Sets a delta aside. Returns its length.
    pub(crate) fn aside(&self, number: u64) -> Result<u64, JobError> {
        let (from, to) = (self.delta(number), self.path.join(numbered("", number, ASIDE)));
        let len = fs::metadata(&from).map_err(|error| failed("read", &from, error))?.len();
        rename(&from, &to)?;
        self.sync()?;
        Ok(len)
    }

    /// Removes what was set aside. Returns how many deltas that were, and how many bytes.
    pub(crate) fn drop_aside(&self) -> Result<(u64, u64), JobError> {
        let (mut deltas, mut bytes) = (0, 0);
        for name in self.names()? {
            if number_in(&name, "", ASIDE).is_some() {
                let path = self.path.join(&name);
                bytes += fs::metadata(&path).map_err(|error| failed("read", &path, error))?.len();
                deltas += 1;
                remove(&path)?;
            }
        }
        self.sync()?;
        Ok((deltas, bytes))
    }

    fn read_applied(&self) -> Result<Option<Applied>, JobError> {
        let path = self.path.join(APPLIED);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &path, error)),
        };
        // It spares a source that asks once more an answer of the target's: whatever else it is, it is none.
        let raw = RawApplied::read_from_bytes(&bytes).ok();
        let raw = raw.filter(|raw| raw.magic == APPLIED_MAGIC && raw.version.get() == 1 && raw.digest() == raw.hash);
        Ok(raw.map(|raw| Applied { number: raw.number.get(), delta: raw.delta, root: Root(raw.root) }))
    }

    fn names(&self) -> Result<Vec<String>, JobError> {
        let read = || -> io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in fs::read_dir(&self.path)? {
                names.extend(entry?.file_name().into_string());
            }
            Ok(names)
        };
        read().map_err(|error| failed("read", &self.path, error))
    }

    fn sync(&self) -> Result<(), JobError> {
        self.opened.sync_all().map_err(|error| failed("write", &self.path, error))
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), JobError> {
    fs::rename(from, to).map_err(|error| failed("rename", from, error))
}

fn remove(path: &Path) -> Result<(), JobError> {
    fs::remove_file(path).map_err(|error| failed("remove", path, error))
}

fn numbered(before: &str, number: u64, behind: &str) -> String {
    format!("{before}{number:0DIGITS$}{behind}")
}

fn number_in(name: &str, before: &str, behind: &str) -> Option<u64> {
    let number = name.strip_prefix(before)?.strip_suffix(behind)?;
    let is_number = number.len() == DIGITS && number.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| number.parse().ok()).flatten()
}

fn is_cut_off(error: &JobError) -> bool {
    matches!(error, JobError::File { source, .. } if source.kind() == io::ErrorKind::UnexpectedEof)
}

pub(crate) fn sync_directory(path: &Path) -> Result<(), JobError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(|error| failed("write", path, error))
}

pub(crate) fn failed(action: &'static str, path: &Path, source: io::Error) -> JobError {
    JobError::File { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn a_directory_has_one_pair_and_a_pair_one_directory() {
        for pair in ["web-01", "..", ".", "a/b", "ü", "A", "a", "_", "a_b", "x y", "-", &"ü".repeat(32)] {
            let name = directory_name(pair);
            assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{name}");
            assert!(name.len() < 255);
            assert_eq!(pair_of(&name).as_deref(), Some(pair));
        }
        for name in ["web", "pair-_", "pair-_g0", "pair-_61", "pair-_C3_9c", "pair-a.b", "pair-_ff", "pair-a/b"] {
            assert_eq!(pair_of(name), None, "{name}");
        }
    }

    #[test]
    fn the_document_says_the_same_of_the_record() {
        let rows: Vec<(usize, usize, String)> = include_str!("../RELAY.md")
            .lines()
            .filter_map(|line| {
                let cells: Vec<&str> = line.split('|').map(str::trim).collect();
                let [_, offset, size, _, field, ..] = cells.as_slice() else { return None };
                Some((offset.parse().ok()?, size.parse().ok()?, field.trim_matches('`').to_owned()))
            })
            .collect();
        let places = [
            (offset_of!(RawApplied, magic), "magic"),
            (offset_of!(RawApplied, version), "version"),
            (offset_of!(RawApplied, reserved), "reserved"),
            (offset_of!(RawApplied, number), "number"),
            (offset_of!(RawApplied, delta), "delta"),
            (offset_of!(RawApplied, root), "root"),
            (offset_of!(RawApplied, hash), "hash"),
            (size_of::<RawApplied>(), ""),
        ];
        let code: Vec<_> =
            places.windows(2).map(|pair| (pair[0].0, pair[1].0 - pair[0].0, pair[0].1.to_owned())).collect();
        assert_eq!(rows, code);
    }
}
