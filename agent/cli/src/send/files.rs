//! What send keeps on this machine: the journal of a pass, a lock, and whether a mark is there.

use failback_orchestrate::{JobError, Root};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The files of one pair and one target.
pub(crate) struct Files {
    journal: PathBuf,
    mark: PathBuf,
    _lock: Flock<File>,
}

impl Files {
    /// Makes the directory if there is none, and sees to it that nobody else sends this pair to this target.
    pub(crate) fn open(directory: &Path, pair: &str, address: &str) -> Result<Self, JobError> {
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| JobError::File { action, path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed("make", directory))?;
        let named = |kind: &str| directory.join(format!("{}.{kind}", name_of(pair, address)));
        let path = named("lock");
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let lock = Flock::lock(file.map_err(failed("write", &path))?, FlockArg::LockExclusiveNonblock);
        let lock = lock.map_err(|(_, errno)| match errno {
            nix::Error::EWOULDBLOCK => JobError::Refused(format!(
                "the pair {pair} is being sent there already: stop that first, or wait for its end"
            )),
            errno => failed("lock", &path)(io::Error::from(errno)),
        })?;
        Ok(Self { journal: named("journal"), mark: named("mark"), _lock: lock })
    }

    /// Where the pass that is under way remembers how far it is.
    pub(crate) fn journal(&self) -> &Path {
        &self.journal
    }

    /// Forgets the pass that is under way, if there is one.
    pub(crate) fn begin_anew(&self) -> Result<(), JobError> {
        match fs::remove_file(&self.journal) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => {
                removed.map_err(|source| JobError::File { action: "remove", path: self.journal.clone(), source })
            }
        }
    }

    /// Remembers that a mark is being made, or which one is there.
    pub(crate) fn begin_mark(&self, device: &str) -> Result<(), JobError> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.mark);
        let written = file.and_then(|mut file| io::Write::write_all(&mut file, device.as_bytes()));
        written.map_err(|source| JobError::File { action: "write", path: self.mark.clone(), source })
    }

    /// The mark that an earlier run has left, as far as it is known: no text if it did not get so far.
    pub(crate) fn left_mark(&self) -> Option<String> {
        fs::read_to_string(&self.mark).ok()
    }

    /// There is no mark any more.
    pub(crate) fn end_mark(&self) -> Result<(), JobError> {
        fs::remove_file(&self.mark).map_err(|source| JobError::File {
            action: "remove",
            path: self.mark.clone(),
            source,
        })
    }
}

/// A file name for a pair and a target: what people know of it, and a hash of all of it.
fn name_of(pair: &str, address: &str) -> String {
    let plain: String = pair
        .chars()
        .map(|it| if it.is_ascii_alphanumeric() || "-_".contains(it) { it } else { '_' })
        .take(40)
        .collect();
    let hash = Root::of(format!("{pair}\0{address}").as_bytes()).to_string();
    format!("{plain}-{}", &hash[..16])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn each_pair_and_target_has_files_of_its_own() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("a/b");
        let open = |pair: &str, address: &str| Files::open(&directory, pair, address);
        let first = open("web/../01", "ssh:mt").unwrap();
        assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o777, 0o700);
        let others = [open("web/..//01", "ssh:mt").unwrap(), open("web/../01", "ssh:other").unwrap()];
        assert!(others.iter().all(|other| other.journal != first.journal));
        assert_eq!(first.journal.parent(), Some(directory.as_path()));
        let refused = open("web/../01", "ssh:mt").err().unwrap().to_string();
        assert!(refused.contains("is being sent there already"), "{refused}");
        drop(first);
        open("web/../01", "ssh:mt").unwrap();
    }

    #[test]
    fn a_mark_is_remembered_until_it_is_gone() {
        let place = tempfile::tempdir().unwrap();
        let files = Files::open(place.path(), "pair", "ssh:mt").unwrap();
        assert_eq!(files.left_mark(), None);
        files.begin_mark("").unwrap();
        assert_eq!(files.left_mark().as_deref(), Some(""));
        files.begin_mark("/dev/vg/snap").unwrap();
        assert_eq!(fs::metadata(&files.mark).unwrap().mode() & 0o777, 0o600);
        drop(files);
        let files = Files::open(place.path(), "pair", "ssh:mt").unwrap();
        assert_eq!(files.left_mark().as_deref(), Some("/dev/vg/snap"));
        files.end_mark().unwrap();
        assert_eq!(files.left_mark(), None);
    }
}
