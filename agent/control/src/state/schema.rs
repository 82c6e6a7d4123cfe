//! The tables, how one version becomes the next, and how a connection is set up that reads what others may have written.
//!
//! `STATE.md` beside this crate says what each column means.

use crate::state::error::StateError;
use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, TransactionBehavior};
use std::path::Path;
use std::time::Duration;

/// `FBCP`, for the control plane of failback: what the header of the file says about whose it is.
pub(crate) const APPLICATION_ID: i64 = 0x4642_4350;

/// What leads from version i to version i + 1, beginning with an empty file, which is version 0. Released steps never change.
const MIGRATIONS: &[&str] = &[include_str!("schema_1.sql")];

/// The longest value or row, in bytes; the longest here is a row of a pair, with two paths.
const MAX_VALUE: i32 = 64 << 10;
/// The longest statement, in bytes; the longest are those of the schema.
const MAX_STATEMENT: i32 = 16 << 10;
/// How long to wait for a lock, which only a program of others can hold.
const PATIENCE: Duration = Duration::from_secs(5);

/// The version that the last migration leads to.
pub(crate) fn version() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

/// Keeps a connection from doing anything that a file may ask for: no triggers or views, no functions but harmless ones, no changes of
/// the schema behind its back, no large values, no mapped file.
pub(crate) fn harden(connection: &Connection) -> rusqlite::Result<()> {
    for (switch, on) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, true),
        (DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_DQS_DML, false),
        (DbConfig::SQLITE_DBCONFIG_DQS_DDL, false),
        // What is refused is left as it is, with the changes that stand beside it.
        (DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true),
    ] {
        if connection.set_db_config(switch, on)? != on {
            return Err(rusqlite::Error::InvalidQuery);
        }
    }
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_VALUE)?;
    connection.set_limit(Limit::SQLITE_LIMIT_SQL_LENGTH, MAX_STATEMENT)?;
    connection.busy_timeout(PATIENCE)?;
    // Of a mapped file a read error would be a signal.
    connection.pragma_update(None, "mmap_size", 0)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "temp_store", "MEMORY")
}

/// Lets changes go to a file beside it, which is emptied into the state when that is closed.
pub(crate) fn use_log(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map(|_| ())
}

/// What a file says it is: its version, if it is ours; 0 if it is empty.
///
/// # Errors
///
/// When it is another program's or a later version's, or cannot be read.
pub(crate) fn version_of(connection: &Connection, path: &Path) -> Result<i64, StateError> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let read = |result: rusqlite::Result<i64>| result.map_err(|source| failed("read", path, source));
    let application = read(pragma("application_id"))?;
    let found = read(pragma("user_version"))?;
    let count = "SELECT count(*) FROM sqlite_schema";
    let objects: i64 = read(connection.query_row(count, [], |row| row.get(0)))?;
    match (application, found, objects) {
        (0, 0, 0) => Ok(0),
        (APPLICATION_ID, found, _) if found > version() => {
            Err(StateError::Newer { path: path.to_owned(), found, known: version() })
        }
        (APPLICATION_ID, 1.., _) => Ok(found),
        (APPLICATION_ID, ..) => Err(damaged(path, "its schema has no version")),
        _ => Err(StateError::NotOurs { path: path.to_owned(), what: "but a database of another program" }),
    }
}

/// Brings the schema from `from` to the last version, all of it or nothing.
pub(crate) fn migrate(connection: &mut Connection, from: i64, path: &Path) -> Result<(), StateError> {
    let done = usize::try_from(from).unwrap_or(usize::MAX);
    let mut steps = || {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for step in MIGRATIONS.get(done..).unwrap_or_default() {
            transaction.execute_batch(step)?;
        }
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", version())?;
        transaction.commit()
    };
    if from == version() { Ok(()) } else { steps().map_err(|source| failed("bring up to date", path, source)) }
}

/// Whether the schema is what the migrations up to `version` make, object by object and word by word.
///
/// Whatever else there is, a trigger, a view, an index with an expression, is not ours, and may be there to be run.
pub(crate) fn check(connection: &Connection, version: i64, path: &Path) -> Result<(), StateError> {
    let own = || {
        let fresh = Connection::open_in_memory()?;
        let steps = usize::try_from(version).unwrap_or(usize::MAX).min(MIGRATIONS.len());
        MIGRATIONS[..steps].iter().try_for_each(|step| fresh.execute_batch(step))?;
        objects(&fresh)
    };
    let own = own().map_err(|source| failed("read", path, source))?;
    let found = objects(connection).map_err(|source| failed("read", path, source))?;
    if found == own {
        Ok(())
    } else {
        Err(damaged(path, "it has other tables, indices, views or triggers than a state has"))
    }
}

type Object = (String, String, String, Option<String>);

fn objects(connection: &Connection) -> rusqlite::Result<Vec<Object>> {
    // Of a hostile file's, one more than there may be is enough to see that it is another.
    const ENOUGH: &str = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name LIMIT 100";
    let mut statement = connection.prepare(ENOUGH)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
    rows.collect()
}

/// Reads all pages, and refuses a file that contradicts itself. `thorough` compares indices with their tables, too.
pub(crate) fn check_pages(connection: &Connection, thorough: bool, path: &Path) -> Result<(), StateError> {
    let pragma = if thorough { "PRAGMA integrity_check(1)" } else { "PRAGMA quick_check(1)" };
    let answer = connection.query_row(pragma, [], |row| row.get::<_, String>(0));
    match answer.map_err(|source| failed("check", path, source))? {
        answer if answer == "ok" => {}
        // It may quote names that are in the file.
        answer => return Err(damaged(path, &answer.escape_debug().to_string())),
    }
    let mut keys = connection.prepare("PRAGMA foreign_key_check").map_err(|source| failed("check", path, source))?;
    let dangling = keys.exists([]).map_err(|source| failed("check", path, source))?;
    if dangling { Err(damaged(path, "a group names a pair that is not there")) } else { Ok(()) }
}

pub(crate) fn damaged(path: &Path, what: &str) -> StateError {
    StateError::Damaged { path: path.to_owned(), what: what.to_owned() }
}

/// An error of `SQLite`'s in the words of ours: what is wrong with the file is told as such.
pub(crate) fn failed(action: &'static str, path: &Path, source: rusqlite::Error) -> StateError {
    use rusqlite::ErrorCode::{DatabaseBusy, DatabaseCorrupt, DatabaseLocked, NotADatabase, TooBig};
    match source.sqlite_error_code() {
        Some(NotADatabase) => StateError::NotOurs { path: path.to_owned(), what: "nor a database at all" },
        Some(DatabaseCorrupt | TooBig) => damaged(path, "SQLite cannot make sense of it"),
        Some(DatabaseBusy | DatabaseLocked) => {
            StateError::InUse { path: path.to_owned(), who: "another program".to_owned() }
        }
        _ => StateError::Sqlite { action, path: path.to_owned(), source },
    }
}
