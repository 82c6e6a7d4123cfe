//! What a master target knows beside its disks: pairs, groups, and jobs with their history.
//!
//! It is one `SQLite` file that one process has open. Whatever a function has returned from is durable, and what it has not
//! returned from is there as a whole or not at all, however the process ends.
//!
//! Nothing in it belongs to the machine: no address, no key, no name of a host. So a backup goes on on another one. And nothing in
//! it says what is on a disk or which points there are: that stands beside the disks.

mod backup;
mod error;
mod file;
mod group;
mod job;
mod mark;
mod pair;
mod rate;
mod schema;

pub use backup::{Restored, restore};
pub use error::{Refusal, StateError};
pub use group::Group;
pub use job::{Job, JobId, JobKind, JobQuery, JobState, KeepJobs, MAX_JOBS, Progress, Subject};
pub use mark::{Mark, MarkState, MarkedPair};
pub use pair::{Direction, DiskKey, Lookup, MAX_PAIRS, NewPair, Pair, SourceDisk, TargetDisk, Unbound, VmdkId};
pub use rate::RateMeter;

use file::{Lock, Place};
use rusqlite::{Connection, OpenFlags, Row, TransactionBehavior};
use schema::failed;
use std::path::{Path, PathBuf};

/// The longest name of a pair or a group, in bytes: it stands in tables, in file names and in messages.
const MAX_NAME: usize = 64;

/// The state, open for this process alone.
#[derive(Debug)]
pub struct State {
    // Closed before the lock is given up.
    connection: Connection,
    path: PathBuf,
    interrupted: Vec<JobId>,
    _lock: Lock,
}

impl State {
    /// Opens the state at `path`, or makes an empty one where there is none.
    ///
    /// The file is read as a whole and refused if it contradicts itself. A schema of an earlier version is brought up to date. Jobs
    /// that were at work are interrupted now.
    ///
    /// # Errors
    ///
    /// When another process has it open, others than its owner may read it, it is not ours, of a later version, damaged, or half
    /// restored, or the file system fails.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let place = Place::of(path)?;
        let lock = place.lock()?;
        let empty = place.prepare()?;
        let mut connection = connect(&place.file, &place.file)?;
        let version = schema::version_of(&connection, &place.file)?;
        if version > 0 {
            // First, so that nothing is computed that a foreign schema asks for.
            schema::check(&connection, version, &place.file)?;
            schema::check_pages(&connection, false, &place.file)?;
        }
        schema::migrate(&mut connection, version, &place.file)?;
        if empty {
            place.sync()?;
        }
        // Only now, when the file is one of ours, since this writes to it.
        schema::use_log(&connection).map_err(|source| failed("open", &place.file, source))?;
        let mut state = Self { connection, path: place.file, interrupted: Vec::new(), _lock: lock };
        state.look().read_all()?;
        state.interrupted = state.interrupt_jobs()?;
        state.forget_complete_passes()?;
        Ok(state)
    }

    /// Where it is, with all symbolic links followed.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The jobs that were at work when the state was closed last, newest first. They are interrupted now.
    #[must_use]
    pub fn interrupted(&self) -> &[JobId] {
        &self.interrupted
    }

    fn look(&self) -> Database<'_> {
        Database { connection: &self.connection, path: &self.path, action: "read" }
    }

    /// Makes a change, all of it or nothing. It is durable afterwards.
    fn change<T>(
        &mut self,
        action: &'static str,
        change: impl FnOnce(&Database<'_>) -> Result<T, StateError>,
    ) -> Result<T, StateError> {
        let failed = |source| failed(action, &self.path, source);
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        let result = change(&Database { connection: &transaction, path: &self.path, action })?;
        transaction.commit().map_err(failed)?;
        Ok(result)
    }
}

/// A connection to the file, for this process alone, which does nothing that the file may ask for. What is wrong is told of the file
/// `named`.
fn connect(file: &Path, named: &Path) -> Result<Connection, StateError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW
        | OpenFlags::SQLITE_OPEN_EXRESCODE;
    let open = || {
        let connection = Connection::open_with_flags(file, flags)?;
        schema::harden(&connection)?;
        // The lock is held from the first read on. So there is no file of shared memory, and no other program changes anything.
        connection.pragma_update_and_check(None, "locking_mode", "EXCLUSIVE", |_| Ok(()))?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        Ok(connection)
    };
    open().map_err(|source| failed("open", named, source))
}

/// The tables, within a change or without one.
struct Database<'a> {
    connection: &'a Connection,
    path: &'a Path,
    /// What is told when something fails.
    action: &'static str,
}

impl Database<'_> {
    fn execute(&self, statement: &str, with: impl rusqlite::Params) -> Result<usize, StateError> {
        self.connection.execute(statement, with).map_err(|source| failed(self.action, self.path, source))
    }

    fn rows<T>(
        &self,
        question: &str,
        with: impl rusqlite::Params,
        mut each: impl FnMut(&Row<'_>) -> Result<T, StateError>,
    ) -> Result<Vec<T>, StateError> {
        let failed = |source| failed(self.action, self.path, source);
        let mut statement = self.connection.prepare(question).map_err(failed)?;
        let mut rows = statement.query(with).map_err(failed)?;
        let mut found = Vec::new();
        while let Some(row) = rows.next().map_err(failed)? {
            found.push(each(row)?);
        }
        Ok(found)
    }

    fn count(&self, table: &'static str) -> Result<usize, StateError> {
        let counts = self.rows(&format!("SELECT count(*) FROM {table}"), [], |row| {
            row.get::<_, i64>(0).map_err(|source| failed(self.action, self.path, source))
        })?;
        Ok(counts.first().and_then(|count| usize::try_from(*count).ok()).unwrap_or(usize::MAX))
    }

    /// Reads every row, and refuses what no function here would have written.
    fn read_all(&self) -> Result<(), StateError> {
        let too_many = |what| Err(schema::damaged(self.path, what));
        if self.count("pair")? > MAX_PAIRS || self.count("protection_group")? > MAX_PAIRS {
            return too_many("it has more pairs or groups than there may be");
        }
        if self.count("job")? > MAX_JOBS {
            return too_many("it has more jobs than there may be");
        }
        if self.count("group_mark")? > mark::MAX_MARKS {
            return too_many("it has more marks than there may be");
        }
        self.pairs()?;
        self.groups()?;
        self.check_marks()?;
        self.jobs(&JobQuery::default())?;
        Ok(())
    }
}

/// A name that can be typed, shown in a table, and told from another.
fn check_name(name: &str) -> Result<(), Refusal> {
    let fits = (1..=MAX_NAME).contains(&name.len());
    if fits && !name.contains(char::is_control) && name.trim() == name {
        Ok(())
    } else {
        Err(Refusal::BadName { name: name.chars().take(MAX_NAME).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::config::DbConfig;
    use rusqlite::types::Value;

    /// What no file tells from outside.
    #[test]
    fn how_the_file_is_used() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(&directory.path().join("state")).unwrap();
        let pragma = |name| state.connection.pragma_query_value(None, name, |row| row.get::<_, Value>(0)).unwrap();
        assert_eq!(pragma("journal_mode"), Value::Text("wal".into()));
        assert_eq!(pragma("locking_mode"), Value::Text("exclusive".into()));
        assert_eq!(pragma("synchronous"), Value::Integer(2), "FULL");
        assert_eq!(pragma("foreign_keys"), Value::Integer(1));
        assert_eq!(pragma("trusted_schema"), Value::Integer(0));
        assert_eq!(pragma("busy_timeout"), Value::Integer(5000));
        assert_eq!(pragma("mmap_size"), Value::Integer(0));
        assert_eq!(pragma("cell_size_check"), Value::Integer(1));
        assert_eq!(state.connection.db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE), Ok(true));
        assert_eq!(state.connection.db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER), Ok(false));
        assert_eq!(state.connection.db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW), Ok(false));
        // The connection itself makes no trigger that could be run.
        let by_hand = "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = ''";
        assert!(state.connection.execute_batch(by_hand).is_err());
        let dangling = state.connection.execute("INSERT INTO group_pair VALUES (1, 0, 1)", []);
        assert!(dangling.is_err(), "references are held");
    }

    /// The last step fails, and nothing of those before it is left.
    #[test]
    fn a_change_is_all_of_it_or_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let mut state = State::open(&directory.path().join("state")).unwrap();
        let result = state.change("try", |inside| {
            let group = "INSERT INTO protection_group (name, quiesce_ms, created) VALUES ('a', 100, 0)";
            assert_eq!(inside.execute(group, [])?, 1);
            inside.execute("INSERT INTO group_pair VALUES (1, 0, 1)", [])
        });
        assert!(matches!(result, Err(StateError::Sqlite { action: "try", .. })), "{result:?}");
        assert_eq!(state.look().count("protection_group").unwrap(), 0);
    }
}
