//! One file that has everything, and how it takes the place of what is there.

use crate::state::error::StateError;
use crate::state::file::{self, Header, MAX_BYTES, Place};
use crate::state::schema::{self, APPLICATION_ID, failed};
use crate::state::{Database, State, connect};
use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What a restore did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Where the state is that was there before, if there was one. The next restore replaces it.
    pub previous: Option<PathBuf>,
}

impl State {
    /// Writes a copy of the state, as it is at one moment, to `to`. Nobody has to stop working.
    ///
    /// The copy is checked, and durable, before it gets its name. An earlier backup of that name is replaced, and nothing else.
    ///
    /// # Errors
    ///
    /// When there is something else at `to`, or it is the state itself, or the copy cannot be written or read again.
    pub fn backup(&self, to: &Path) -> Result<(), StateError> {
        let place = Place::of(to)?;
        // To open and close it would give up the lock that `SQLite` has on it.
        if place.is_same(&self.path) {
            return Err(StateError::Itself { path: place.file });
        }
        let replace = is_backup(&place.file)?;
        let new = place.beside(".failback-new");
        file::remove(&new)?;
        let made = self.copy_to(&new).and_then(|()| check(&new, &new)).and_then(|()| {
            let synced = File::open(&new).and_then(|file| file.sync_all());
            synced.map_err(StateError::io("sync", &new))?;
            if replace {
                file::rename(&new, &place.file)
            } else if file::rename_to_new(&new, &place.file)? {
                Ok(())
            } else {
                Err(StateError::Occupied { path: place.file.clone() })
            }
        });
        if made.is_err() {
            // What is told is why there is no backup.
            let _ = file::remove(&new);
        }
        made.and_then(|()| place.sync())
    }

    /// Writes all that there is to an empty file, without what was removed.
    fn copy_to(&self, new: &Path) -> Result<(), StateError> {
        file::create(new)?;
        let name = ToSqlOutput::Borrowed(ValueRef::Text(new.as_os_str().as_bytes()));
        let copied = self.connection.execute("VACUUM INTO ?1", [name]);
        copied.map(|_| ()).map_err(|source| failed("copy", &self.path, source))
    }
}

/// Whether there is a backup of ours at `path`, which may be replaced. Anything else that is there is an error.
fn is_backup(path: &Path) -> Result<bool, StateError> {
    let occupied = || StateError::Occupied { path: path.to_owned() };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(StateError::io("look at", path)(error)),
        Ok(about) if !about.is_file() => return Err(occupied()),
        Ok(_) => {}
    }
    let opened = File::open(path).map_err(StateError::io("open", path))?;
    match file::header(&opened).map_err(StateError::io("read", path))? {
        // A state that is not open at present is none, either.
        Some(Header { application_id: APPLICATION_ID, has_log: false }) if !has_changes_beside(path) => Ok(true),
        _ => Err(occupied()),
    }
}

/// Whether `SQLite` keeps changes to that file in another one: then it is in use, or was, and is nothing without it.
fn has_changes_beside(path: &Path) -> bool {
    ["-wal", "-journal"].into_iter().any(|end| {
        let mut beside = path.as_os_str().to_owned();
        beside.push(end);
        fs::metadata(beside).is_ok_and(|about| about.len() > 0)
    })
}

/// Puts the backup `from` in the place of the state at `path`, which nobody has open.
///
/// It is copied, and the copy is read as a whole, before anything is moved. What was there before stays beside it under another name.
///
/// # Errors
///
/// When the state is in use, or `from` is no backup, of a later version or damaged; then all is as it was. When it fails later, or the machine
/// stops, there is either the old state, or the new one, or [`State::open`] says that this has to be done again.
pub fn restore(path: &Path, from: &Path) -> Result<Restored, StateError> {
    let place = Place::of(path)?;
    let lock = place.lock()?;
    let new = place.restoring();
    let made = copy(from, &place).and_then(|()| check(&new, from));
    if let Err(error) = made {
        for end in ["", "-wal", "-journal"] {
            let _ = file::remove(&place.beside(&format!(".restoring{end}")));
        }
        return Err(error);
    }
    let synced = File::open(&new).and_then(|file| file.sync_all());
    synced.map_err(StateError::io("sync", &new))?;
    place.sync()?;
    let previous = move_away(&place)?;
    file::rename(&new, &place.file)?;
    place.sync()?;
    drop(lock);
    Ok(Restored { previous })
}

/// Copies `from` beside the state. The copy is what is looked at, so that nobody can change it after that.
fn copy(from: &Path, place: &Place) -> Result<(), StateError> {
    let opened = OpenOptions::new().read(true).custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits()).open(from);
    let opened = opened.map_err(StateError::io("open", from))?;
    let about = opened.metadata().map_err(StateError::io("look at", from))?;
    let not_ours = |what| StateError::NotOurs { path: from.to_owned(), what };
    if !about.is_file() {
        return Err(not_ours("nor a regular file"));
    }
    if place.is_same(from) {
        return Err(StateError::Itself { path: place.file.clone() });
    }
    if about.len() > MAX_BYTES {
        return Err(StateError::TooLarge { path: from.to_owned(), bytes: about.len(), limit: MAX_BYTES });
    }
    match file::header(&opened).map_err(StateError::io("read", from))? {
        Some(Header { application_id: APPLICATION_ID, .. }) => {}
        Some(_) => return Err(not_ours("but a database of another program")),
        None => return Err(not_ours("nor a database at all")),
    }
    if has_changes_beside(from) {
        return Err(StateError::NoBackup { path: from.to_owned() });
    }
    let new = place.restoring();
    for end in ["", "-wal", "-journal"] {
        file::remove(&place.beside(&format!(".restoring{end}")))?;
    }
    let mut file = file::create(&new)?;
    // It may grow while it is read.
    io::copy(&mut opened.take(MAX_BYTES), &mut file).map_err(StateError::io("copy", from))?;
    Ok(())
}

/// Reads a copy that nobody else has open, its pages, its schema and its rows, and brings its schema up to date. What is wrong is told of
/// the file `named`.
fn check(copy: &Path, named: &Path) -> Result<(), StateError> {
    let mut connection = connect(copy, named)?;
    let version = schema::version_of(&connection, named)?;
    if version == 0 {
        return Err(schema::damaged(named, "nothing is in it"));
    }
    schema::check(&connection, version, named)?;
    schema::check_pages(&connection, true, named)?;
    schema::migrate(&mut connection, version, named)?;
    Database { connection: &connection, path: named, action: "check" }.read_all()?;
    // A copy of a state that was closed still says that changes go to another file.
    let mode = connection.pragma_update_and_check(None, "journal_mode", "DELETE", |row| row.get::<_, Value>(0));
    mode.map_err(|source| failed("check", named, source))?;
    connection.close().map_err(|(_, source)| failed("check", named, source))
}

/// Moves what is there away, with the changes to it that stand in another file, and says where to.
fn move_away(place: &Place) -> Result<Option<PathBuf>, StateError> {
    let previous = place.previous();
    let changes = place.beside("-wal");
    let previous_changes = place.beside(".before-restore-wal");
    if place.file.exists() {
        fold(place)?;
        file::remove(&previous_changes)?;
        file::rename(&place.file, &previous)?;
        // A state without its changes would be an older one, and look as if it were whole.
        place.sync()?;
    }
    file::rename(&changes, &previous_changes)?;
    file::remove(&place.beside("-shm"))?;
    place.sync()?;
    Ok(previous.exists().then_some(previous))
}

/// Puts the changes that stand in another file into the state's own, if that one is whole. Otherwise both are left as they are: it may be
/// restored because it cannot be read, and somebody may still want to try.
fn fold(place: &Place) -> Result<(), StateError> {
    let path = &place.file;
    let opened = File::open(path).and_then(|opened| file::header(&opened));
    if !matches!(opened, Ok(Some(_))) {
        return Ok(());
    }
    let folded = connect(path, path).and_then(|connection| {
        schema::check_pages(&connection, false, path)?;
        let mode = connection.pragma_update_and_check(None, "journal_mode", "DELETE", |row| row.get::<_, Value>(0));
        mode.map(|_| ()).map_err(|source| failed("close", path, source))
    });
    match folded {
        // Whoever has it open would take what the new one writes for its own.
        Err(error @ StateError::InUse { .. }) => Err(error),
        _ => Ok(()),
    }
}
