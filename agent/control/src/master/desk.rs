//! What a replication pair keeps on the retention drive beside the recovery points: its spool, its tree, and what was applied last.
//!
//! ```text
//! RETENTION/replication/DISK/spool      the delta that arrives
//! RETENTION/replication/DISK/tree       the tree of what is on the disk: a cache
//! RETENTION/replication/DISK/applied    the delta that was applied last
//! ```
//!
//! DISK is the name of the disk's own directory in RETENTION, whose lock is held by whoever uses these files.

use failback_orchestrate::{JobError, Root, StoredTree};
use failback_replication::Spool;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// How the record of what was applied begins, and its version.
const MAGIC: &[u8; 8] = b"FBAPPL\x00\x01";

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

impl Desk {
    /// Opens the files of a disk, and makes their directory if there is none.
    pub(super) fn open(retention: &Path, disk: &str) -> Result<Self, JobError> {
        let directory = retention.join("replication").join(disk);
        fs::create_dir_all(&directory)
            .and_then(|()| sync(&retention.join("replication")))
            .and_then(|()| sync(retention))
            .map_err(|source| JobError::File { action: "make", path: directory.clone(), source })?;
        Ok(Self { directory })
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
        let (said, hash) = bytes.split_at_checked(72)?;
        let (key, root) = said.strip_prefix(MAGIC)?.split_at(32);
        let is_whole = Root::of(said).0.as_slice() == hash;
        is_whole.then_some(AppliedDelta { key: key.try_into().ok()?, root: Root(root.try_into().ok()?) })
    }

    /// Notes durably what was applied.
    pub(super) fn note_applied(&self, applied: AppliedDelta) -> Result<(), JobError> {
        let path = self.applied_path();
        let said = [&MAGIC[..], &applied.key, &applied.root.0].concat();
        let hash = Root::of(&said);
        replace(&path, &[&said[..], &hash.0].concat()).map_err(|source| JobError::File {
            action: "write",
            path,
            source,
        })
    }
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
}
