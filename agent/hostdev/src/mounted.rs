//! Which file system a path lies on.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::proctext;
use crate::topology::Host;

/// A mounted file system, as the kernel tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountedAt {
    /// Where it is mounted.
    pub at: PathBuf,
    /// What was mounted: a device path, or any text.
    pub source: PathBuf,
    /// Its type.
    pub kind: String,
    /// Whether the file system may be written to.
    pub writable: bool,
}

impl Host {
    /// The file system that an absolute path lies on, as this process sees it; `None` if the kernel tells of none.
    ///
    /// # Errors
    ///
    /// When the mounts cannot be read, or are not understood.
    pub fn mounted_at(&self, path: &Path) -> io::Result<Option<MountedAt>> {
        let mounts = proctext::mounts(&fs::read(self.proc.join("self/mountinfo"))?)?;
        // Of two at one place the later one is on top.
        let over = mounts.into_iter().filter(|mount| path.starts_with(&mount.at));
        let found = over.max_by_key(|mount| mount.at.components().count());
        Ok(found.map(|it| MountedAt { at: it.at, source: it.source, kind: it.kind, writable: it.writable }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::Machine;

    #[test]
    fn the_last_of_the_longest_wins() {
        let machine = Machine::new();
        let at = |path: &str| machine.host.mounted_at(Path::new(path)).unwrap().map(|found| found.kind);
        assert_eq!(at("/srv"), None);
        machine.mounts(
            "self",
            "27 1 254:0 / / rw - ext4 /dev/vda rw\n36 27 8:17 / /srv rw - xfs /dev/sdb1 rw\n\
             37 27 8:33 / /srv rw - btrfs /dev/sdc1 ro\n38 27 8:49 / /srv/deep rw - ext2 /dev/sdd1 rw\n",
        );
        for (path, kind) in
            [("/", "ext4"), ("/srv", "btrfs"), ("/srv/other", "btrfs"), ("/srv/deep/x", "ext2"), ("/srvx", "ext4")]
        {
            assert_eq!(at(path).as_deref(), Some(kind), "{path}");
        }
        assert!(!machine.host.mounted_at(Path::new("/srv")).unwrap().unwrap().writable);
    }
}
