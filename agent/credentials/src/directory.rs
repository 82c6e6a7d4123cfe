//! A directory that nobody else may look into, and the files in it.

use crate::StoreError;
use crate::identity::{KEY_FILE, KEY_FILE_MAX};
use crate::trust::{TRUST_FILE, TRUST_FILE_MAX};
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::unistd::geteuid;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
const LOCK_FILE: &str = "lock";

/// A directory of mode 0700 with files of mode 0600.
#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
}

/// While it is there, no other process and no other thread changes files of the directory.
pub(crate) struct Locked(#[expect(dead_code, reason = "it is held, not used")] Flock<File>);

impl Directory {
    /// Uses a directory, and makes it if it is not there; the one above it must be.
    ///
    /// # Errors
    ///
    /// When it cannot be made, is a link, belongs to somebody else or is open to others.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let path = path.into();
        match DirBuilder::new().mode(DIRECTORY_MODE).create(&path) {
            Ok(()) => sync(path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new(".")))?,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(source) => return Err(StoreError::Io { action: "create", path, source }),
        }
        let directory = Self { path };
        directory.check()?;
        Ok(directory)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Copies this machine's key and whom it trusts into another directory, where they replace what is there.
    ///
    /// # Errors
    ///
    /// When they cannot be read or written. The key is replaced last.
    pub fn copy_to(&self, other: &Self) -> Result<(), StoreError> {
        let (_here, there) = (self.lock()?, other.lock()?);
        for (name, most) in [(TRUST_FILE, TRUST_FILE_MAX), (KEY_FILE, KEY_FILE_MAX)] {
            if let Some(content) = self.read(name, most)? {
                other.replace(&there, name, &content)?;
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), StoreError> {
        let path = || self.path.clone();
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let opened = OpenOptions::new().read(true).custom_flags(flags.bits()).open(&self.path);
        match opened.and_then(|directory| directory.metadata()) {
            Ok(metadata) => check_owner(&self.path, &metadata, DIRECTORY_MODE),
            Err(error) if is_other_kind(&error) => Err(StoreError::Kind { path: path(), expected: "directory" }),
            Err(source) => Err(StoreError::Io { action: "open", path: path(), source }),
        }
    }

    /// Waits until nobody else changes anything.
    pub(crate) fn lock(&self) -> Result<Locked, StoreError> {
        let path = self.path.join(LOCK_FILE);
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE).custom_flags(flags);
        let failed = |source| StoreError::Io { action: "lock", path: path.clone(), source };
        let file = options.open(&path).map_err(failed)?;
        let locked = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| failed(errno.into()))?;
        Ok(Locked(locked))
    }

    /// All of a file's content; `None` if it is not there.
    pub(crate) fn read(&self, name: &str, limit: usize) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        self.check()?;
        let path = self.path.join(name);
        // A pipe in its place would be waited for.
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let mut file = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) if is_other_kind(&error) => return Err(StoreError::Kind { path, expected: "file" }),
            Err(source) => return Err(StoreError::Io { action: "open", path, source }),
        };
        let failed = |source| StoreError::Io { action: "read", path: path.clone(), source };
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(StoreError::Kind { path, expected: "file" });
        }
        check_owner(&path, &metadata, FILE_MODE)?;
        let len = usize::try_from(metadata.len()).ok().filter(|len| *len <= limit);
        let Some(len) = len else { return Err(StoreError::TooLarge { path, limit }) };
        // As large as it needs to be from the start: one that grew would leave copies of a key behind.
        let mut content = Zeroizing::new(vec![0; len]);
        file.read_exact(&mut content).map_err(failed)?;
        Ok(Some(content))
    }

    /// Puts a file in the place of what is there, as a whole and durably: after a crash it is the old or the new one.
    pub(crate) fn replace(&self, _locked: &Locked, name: &str, content: &[u8]) -> Result<(), StoreError> {
        self.check()?;
        let (path, new) = (self.path.join(name), self.path.join(format!("{name}.new")));
        let failed = |action, path: &Path, source| StoreError::Io { action, path: path.to_owned(), source };
        match fs::remove_file(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed("remove", &new, error)),
            _ => {}
        }
        let created = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&new);
        let mut file = created.map_err(|error| failed("create", &new, error))?;
        file.write_all(content).map_err(|error| failed("write", &new, error))?;
        file.sync_all().map_err(|error| failed("write", &new, error))?;
        fs::rename(&new, &path).map_err(|error| failed("replace", &path, error))?;
        sync(&self.path)
    }
}

/// Makes the names in a directory durable.
fn sync(path: &Path) -> Result<(), StoreError> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(|source| StoreError::Io { action: "write", path: path.to_owned(), source })
}

/// A link, or something that is no directory.
fn is_other_kind(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(nix::errno::Errno::from_raw), Some(nix::Error::ELOOP | nix::Error::ENOTDIR))
}

fn check_owner(path: &Path, metadata: &Metadata, wanted: u32) -> Result<(), StoreError> {
    let (owner, user, mode) = (metadata.uid(), geteuid().as_raw(), metadata.mode() & 0o7777);
    if owner != user && owner != 0 {
        return Err(StoreError::Owner { path: path.to_owned(), owner, user });
    }
    if mode & 0o077 != 0 {
        return Err(StoreError::Exposed { path: path.to_owned(), mode, wanted });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    fn new() -> (tempfile::TempDir, Directory) {
        let temp = tempfile::tempdir().unwrap();
        let directory = Directory::open(temp.path().join("keys")).unwrap();
        (temp, directory)
    }

    #[test]
    fn only_the_owner_may_use_what_is_made() {
        let (_temp, directory) = new();
        directory.replace(&directory.lock().unwrap(), "file", b"content").unwrap();
        assert_eq!(mode(directory.path()), 0o700);
        assert_eq!(mode(&directory.path().join("file")), 0o600);
        assert_eq!(mode(&directory.path().join("lock")), 0o600);
        assert_eq!(directory.read("file", 7).unwrap().unwrap().as_slice(), b"content");
        assert!(directory.read("other", 7).unwrap().is_none());
        let names = fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(names, 2, "nothing is left over");
    }

    #[test]
    fn a_file_or_directory_that_others_may_read_is_refused() {
        let (_temp, directory) = new();
        directory.replace(&directory.lock().unwrap(), "file", b"content").unwrap();
        for bits in [0o640, 0o604, 0o620, 0o601] {
            set_mode(&directory.path().join("file"), bits);
            let error = directory.read("file", 7).unwrap_err();
            assert!(matches!(error, StoreError::Exposed { mode, wanted: 0o600, .. } if mode == bits), "{error}");
            assert!(error.to_string().contains("set it to 0600"), "{error}");
        }
        set_mode(&directory.path().join("file"), 0o600);
        for bits in [0o750, 0o705, 0o710] {
            set_mode(directory.path(), bits);
            for error in [
                directory.read("file", 7).unwrap_err(),
                directory.replace(&directory.lock().unwrap(), "file", b"x").unwrap_err(),
                Directory::open(directory.path()).unwrap_err(),
            ] {
                assert!(matches!(error, StoreError::Exposed { wanted: 0o700, .. }), "{error}");
            }
        }
    }

    #[test]
    fn what_belongs_to_another_user_is_refused() {
        if !geteuid().is_root() {
            // Nobody else can give a file away.
            return;
        }
        let (_temp, directory) = new();
        directory.replace(&directory.lock().unwrap(), "file", b"content").unwrap();
        std::os::unix::fs::chown(directory.path().join("file"), Some(12345), None).unwrap();
        let error = directory.read("file", 7).unwrap_err();
        assert!(matches!(error, StoreError::Owner { owner: 12345, .. }), "{error}");
    }

    #[test]
    fn links_pipes_and_what_is_too_large_are_refused() {
        let (temp, directory) = new();
        directory.replace(&directory.lock().unwrap(), "file", b"content").unwrap();
        assert!(matches!(directory.read("file", 6), Err(StoreError::TooLarge { limit: 6, .. })));
        symlink(directory.path().join("file"), directory.path().join("link")).unwrap();
        assert!(matches!(directory.read("link", 7), Err(StoreError::Kind { .. })));
        nix::unistd::mkfifo(&directory.path().join("pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(matches!(directory.read("pipe", 7), Err(StoreError::Kind { .. })));
        symlink(directory.path(), temp.path().join("elsewhere")).unwrap();
        assert!(matches!(Directory::open(temp.path().join("elsewhere")), Err(StoreError::Kind { .. })));
        let file = directory.path().join("file");
        assert!(matches!(Directory::open(&file), Err(StoreError::Kind { expected: "directory", .. })));
        assert!(matches!(Directory::open(temp.path().join("a/b")), Err(StoreError::Io { action: "create", .. })));
    }

    #[test]
    fn what_a_crash_left_behind_is_in_nobodys_way() {
        let (_temp, directory) = new();
        fs::write(directory.path().join("file.new"), b"half of wh").unwrap();
        directory.replace(&directory.lock().unwrap(), "file", b"whole").unwrap();
        assert_eq!(directory.read("file", 7).unwrap().unwrap().as_slice(), b"whole");
    }
}
