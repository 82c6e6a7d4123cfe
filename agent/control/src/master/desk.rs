//! What a replication pair keeps on the retention drive beside the recovery points: its spool, its tree, and what was applied last.
//!
//! ```text
//! RETENTION/replication/DISK/spool      the delta that arrives
//! RETENTION/replication/DISK/tree       the tree of what is on the disk: a cache
//! RETENTION/replication/DISK/applied    the delta that was applied last
//! RETENTION/replication/DISK/due        the pass for which the hook after-apply has still to run, while there is one
//! ```
//!
//! DISK is the name of the disk's own directory in RETENTION, whose lock is held by whoever uses these files.

use failback_orchestrate::{JobError, PointKind, Root, StoredTree};
use failback_replication::Spool;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// How the record of what was applied begins, and its version.
const MAGIC: &[u8; 8] = b"FBAPPL\x00\x01";
/// The same of the record of what is due.
const DUE_MAGIC: &[u8; 8] = b"FBADUE\x00\x01";
/// The longest record of what is due: the name of a group has 64 bytes at most.
const DUE_MAX: u64 = 8 + 32 + 1 + 64 + 32;

/// Closes a directory to others, whatever the umask was: the spool is what is on the disk. A file system without modes stays as it is.
fn private(directory: &Path) -> io::Result<()> {
    let of_others = fs::metadata(directory)?.mode() & 0o077;
    if of_others == 0 {
        return Ok(());
    }
    match fs::set_permissions(directory, fs::Permissions::from_mode(0o700)) {
        Err(error) if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported) => {
            let directory = directory.display();
            tracing::warn!(
                "others can look into {directory}, where what arrives is kept, and that cannot be changed: {error}"
            );
            Ok(())
        }
        changed => changed,
    }
}

pub(super) struct Desk {
    directory: PathBuf,
}

/// The delta that was applied last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AppliedDelta {
    /// The hash of its header.
    pub(super) key: [u8; 32],
    /// The root that the disk had afterwards.
    pub(super) root: Root,
}

/// A pass for which the hook before-apply was begun, and after-apply has not run to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// The hash of its header.
    pub(super) delta: [u8; 32],
    pub(super) kind: PointKind,
    /// The group of whose mark it is; empty if it is of none.
    pub(super) group: String,
}

impl Due {
    /// The hash of the header, the code of the kind in a delta, and the name of the group.
    fn to_bytes(&self) -> Vec<u8> {
        [&DUE_MAGIC[..], &self.delta, &[self.kind.code()], self.group.as_bytes()].concat()
    }

    fn from_bytes(said: &[u8]) -> Option<Self> {
        let (delta, said) = said.strip_prefix(DUE_MAGIC)?.split_first_chunk::<32>()?;
        let (kind, group) = said.split_first()?;
        let kind = PointKind::from_code(*kind)?;
        Some(Self { delta: *delta, kind, group: std::str::from_utf8(group).ok()?.to_owned() })
    }
}

impl Desk {
    /// Opens the files of a disk, and makes their directory if there is none.
    pub(super) fn open(retention: &Path, disk: &str) -> Result<Self, JobError> {
        let directory = Self::directory(retention, disk);
        let all = retention.join("replication");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .and_then(|()| private(&all))
            .and_then(|()| private(&directory))
            .and_then(|()| sync(&all))
            .and_then(|()| sync(retention))
            .map_err(|source| JobError::File { action: "make", path: directory.clone(), source })?;
        Ok(Self { directory })
    }

    fn directory(retention: &Path, disk: &str) -> PathBuf {
        retention.join("replication").join(disk)
    }

    pub(super) fn spool_path(&self) -> PathBuf {
        self.directory.join("spool")
    }

    pub(super) fn spool(&self) -> Result<Spool, JobError> {
        let spool = Spool::open(&self.spool_path())?;
        sync(&self.directory).map_err(|source| JobError::File {
            action: "write to",
            path: self.directory.clone(),
            source,
        })?;
        Ok(spool)
    }

    pub(super) fn tree_path(&self) -> PathBuf {
        self.directory.join("tree")
    }

    /// The tree, if there is one that can be believed.
    pub(super) fn tree(&self) -> Option<StoredTree> {
        StoredTree::open(&self.tree_path()).ok()
    }

    /// Removes a tree that the disk was found not to have.
    pub(super) fn forget_tree(&self) {
        let _ = fs::remove_file(self.tree_path());
    }

    fn applied_path(&self) -> PathBuf {
        self.directory.join("applied")
    }

    /// The delta that was applied last, if that is known. A record that is damaged is none: then a delta is sent again at worst.
    pub(super) fn applied(&self) -> Option<AppliedDelta> {
        let bytes = fs::read(self.applied_path()).ok()?;
        let (key, root) = said_in(&bytes)?.strip_prefix(MAGIC)?.split_at_checked(32)?;
        Some(AppliedDelta { key: key.try_into().ok()?, root: Root(root.try_into().ok()?) })
    }

    /// Notes durably what was applied.
    pub(super) fn note_applied(&self, applied: AppliedDelta) -> Result<(), JobError> {
        note(self.applied_path(), &[&MAGIC[..], &applied.key, &applied.root.0].concat())
    }

    fn due_path(directory: &Path) -> PathBuf {
        directory.join("due")
    }

    /// What is due of a disk, which need not have anything here. A record that is damaged is none: it was written and synced before anything was
    /// done for it.
    pub(super) fn due_of(retention: &Path, disk: &str) -> Option<Due> {
        let file = File::open(Self::due_path(&Self::directory(retention, disk))).ok()?;
        let mut bytes = Vec::new();
        file.take(DUE_MAX + 1).read_to_end(&mut bytes).ok()?;
        Due::from_bytes(said_in(&bytes)?)
    }

    /// Notes durably for which pass after-apply will have to run.
    pub(super) fn note_due(&self, due: &Due) -> Result<(), JobError> {
        note(Self::due_path(&self.directory), &due.to_bytes())
    }

    /// After-apply was run, or is not to run. If this is not durable, it runs again at worst.
    pub(super) fn forget_due(&self) {
        if fs::remove_file(Self::due_path(&self.directory)).is_ok() {
            let _ = sync(&self.directory);
        }
    }
}

/// What a record says, if it is whole: its hash stands behind it.
fn said_in(bytes: &[u8]) -> Option<&[u8]> {
    let (said, hash) = bytes.split_last_chunk::<32>()?;
    (Root::of(said).0 == *hash).then_some(said)
}

fn note(path: PathBuf, said: &[u8]) -> Result<(), JobError> {
    replace(&path, &[said, &Root::of(said).0].concat()).map_err(|source| JobError::File {
        action: "write",
        path,
        source,
    })
}

/// Replaces a file: it is the old one or the new one, whenever the machine stops.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), sync)
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_applied_is_known_or_not_but_never_another() {
        let directory = tempfile::tempdir().unwrap();
        let desk = Desk::open(directory.path(), "disk").unwrap();
        assert_eq!(desk.applied(), None);
        let first = AppliedDelta { key: [1; 32], root: Root([2; 32]) };
        desk.note_applied(first).unwrap();
        assert_eq!(desk.applied(), Some(first));
        let second = AppliedDelta { key: [3; 32], root: Root([4; 32]) };
        desk.note_applied(second).unwrap();
        assert_eq!(Desk::open(directory.path(), "disk").unwrap().applied(), Some(second));
        let whole = fs::read(desk.applied_path()).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(desk.applied_path(), damaged).unwrap();
            assert_eq!(desk.applied(), None, "byte {at}");
            fs::write(desk.applied_path(), &whole[..at]).unwrap();
            assert_eq!(desk.applied(), None, "cut at {at}");
        }
    }

    #[test]
    fn what_is_due_is_known_until_it_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let (retention, due) = (directory.path(), |group: &str| Due {
            delta: [7; 32],
            kind: PointKind::Filesystem,
            group: group.to_owned(),
        });
        assert_eq!(Desk::due_of(retention, "disk"), None, "nothing is made to know that");
        assert!(!retention.join("replication").exists());
        let desk = Desk::open(retention, "disk").unwrap();
        for group in ["", "shop", &"g".repeat(64)] {
            desk.note_due(&due(group)).unwrap();
            assert_eq!(Desk::due_of(retention, "disk"), Some(due(group)));
        }
        assert_eq!(Desk::due_of(retention, "other"), None);
        let path = Desk::due_path(&desk.directory);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&path, damaged).unwrap();
            assert_eq!(Desk::due_of(retention, "disk"), None, "byte {at}");
            fs::write(&path, &whole[..at]).unwrap();
            assert_eq!(Desk::due_of(retention, "disk"), None, "cut at {at}");
        }
        desk.forget_due();
        assert!(!path.exists());
        desk.forget_due();
    }
}
