//! Protection groups: pairs that come home together, at one point.

use crate::state::error::{Refusal, StateError};
use crate::state::pair::MAX_PAIRS;
use crate::state::schema::{damaged, failed};
use crate::state::{Database, State, check_name};
use rusqlite::{OptionalExtension, params};
use std::time::Duration;

/// The shortest time in which anything is frozen and let go.
const MIN_QUIESCE: Duration = Duration::from_millis(100);
/// What is frozen does not answer; nobody waits longer for a file system that does not write.
const MAX_QUIESCE: Duration = Duration::from_secs(600);

/// A group of pairs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// 1 to 64 bytes, without control characters and without blanks at its ends; no other group has it.
    pub name: String,
    /// Its pairs, in the order in which they are taken; one at least, and none is in another group.
    pub pairs: Vec<String>,
    /// How long all of them may take to come to rest, 100 ms to 10 min. It is kept in whole milliseconds.
    pub quiesce: Duration,
}

impl Group {
    fn check(&self) -> Result<(), Refusal> {
        check_name(&self.name)?;
        if !(MIN_QUIESCE..=MAX_QUIESCE).contains(&self.quiesce) {
            return Err(Refusal::QuiesceLimit { millis: self.quiesce.as_millis() });
        }
        if self.pairs.is_empty() {
            return Err(Refusal::EmptyGroup);
        }
        let mut names: Vec<_> = self.pairs.iter().collect();
        names.sort_unstable();
        match names.windows(2).find(|two| two[0] == two[1]) {
            Some(two) => Err(Refusal::NamedTwice { pair: two[0].clone() }),
            None => Ok(()),
        }
    }
}

impl State {
    /// Adds a group, at the time `now`, in seconds since 1970. It is durable afterwards.
    ///
    /// # Errors
    ///
    /// When the name is taken or none, the time limit is no use, or a pair is not there, named twice, in another group or at work.
    pub fn add_group(&mut self, new: &Group, now: i64) -> Result<(), StateError> {
        new.check()?;
        self.change("add a group to", |inside| {
            if inside.id_of_group(&new.name)?.is_some() {
                return Err(Refusal::GroupExists { name: new.name.clone() }.into());
            }
            let millis = i64::try_from(new.quiesce.as_millis()).unwrap_or(i64::MAX);
            inside.execute(
                "INSERT INTO protection_group (name, quiesce_ms, created) VALUES (?1, ?2, ?3)",
                params![new.name, millis, now],
            )?;
            let group = inside.connection.last_insert_rowid();
            for (place, name) in (0_i64..).zip(&new.pairs) {
                let pair = inside.id_of_pair(name)?.ok_or_else(|| Refusal::NoPair { name: name.clone() })?;
                if let Some(group) = inside.group_of(pair)? {
                    return Err(Refusal::PairInGroup { pair: name.clone(), group }.into());
                }
                let insert = "INSERT INTO group_pair (group_id, place, pair_id) VALUES (?1, ?2, ?3)";
                inside.execute(insert, [group, place, pair])?;
            }
            Ok(())
        })
    }

    /// All groups, by name.
    ///
    /// # Errors
    ///
    /// When the state cannot be read or is damaged.
    pub fn groups(&self) -> Result<Vec<Group>, StateError> {
        self.look().groups()
    }

    /// The group of that name.
    ///
    /// # Errors
    ///
    /// When there is none, or the state cannot be read.
    pub fn group(&self, name: &str) -> Result<Group, StateError> {
        let found = self.look().groups_where("WHERE name = ?1", [name])?.into_iter().next();
        found.ok_or_else(|| Refusal::NoGroup { name: name.to_owned() }.into())
    }

    /// The group that a pair is in, if it is in one.
    ///
    /// # Errors
    ///
    /// When the state cannot be read.
    pub fn group_of_pair(&self, pair: &str) -> Result<Option<String>, StateError> {
        let inside = self.look();
        inside.id_of_pair(pair)?.map_or(Ok(None), |pair| inside.group_of(pair))
    }

    /// Removes a group. Its pairs stay. A mark of it that is being applied has to be finished first, unless it is `forced`: its passes that
    /// are not applied are pairs' like any others then.
    ///
    /// # Errors
    ///
    /// When there is none of that name, one of its jobs is not over, or a mark of it is being applied.
    pub fn remove_group(&mut self, name: &str, forced: bool) -> Result<(), StateError> {
        self.change("remove a group from", |inside| {
            let id = inside.id_of_group(name)?.ok_or_else(|| Refusal::NoGroup { name: name.to_owned() })?;
            inside.check_idle("group", name)?;
            inside.remove_marks(id, name, forced)?;
            inside.execute("DELETE FROM group_pair WHERE group_id = ?1", [id])?;
            inside.execute("DELETE FROM protection_group WHERE id = ?1", [id])?;
            Ok(())
        })
    }
}

impl Database<'_> {
    pub(crate) fn groups(&self) -> Result<Vec<Group>, StateError> {
        self.groups_where("", [])
    }

    fn groups_where(&self, which: &str, with: impl rusqlite::Params) -> Result<Vec<Group>, StateError> {
        // Each group has a pair, and each pair one group at most: so there are no more groups than pairs.
        let question =
            format!("SELECT id, name, quiesce_ms FROM protection_group {which} ORDER BY name LIMIT {}", MAX_PAIRS + 1);
        self.rows(&question, with, |row| {
            let wrong = || damaged(self.path, "a group in it makes no sense");
            let read = || -> rusqlite::Result<(i64, String, i64)> { Ok((row.get(0)?, row.get(1)?, row.get(2)?)) };
            let (id, name, millis) = read().map_err(|_| wrong())?;
            let pairs =
                "SELECT pair.name FROM group_pair JOIN pair ON pair.id = pair_id WHERE group_id = ?1 ORDER BY place";
            let pairs = self.rows(pairs, [id], |row| row.get(0).map_err(|_| wrong()))?;
            let quiesce = Duration::from_millis(u64::try_from(millis).map_err(|_| wrong())?);
            let group = Group { name, pairs, quiesce };
            group.check().map_err(|_| wrong())?;
            Ok(group)
        })
    }

    pub(crate) fn id_of_group(&self, name: &str) -> Result<Option<i64>, StateError> {
        let found =
            self.connection.query_row("SELECT id FROM protection_group WHERE name = ?1", [name], |row| row.get(0));
        found.optional().map_err(|source| failed("read", self.path, source))
    }

    fn group_of(&self, pair: i64) -> Result<Option<String>, StateError> {
        let question =
            "SELECT name FROM protection_group JOIN group_pair ON group_id = protection_group.id WHERE pair_id = ?1";
        let found = self.connection.query_row(question, [pair], |row| row.get(0)).optional();
        found.map_err(|source| failed("read", self.path, source))
    }
}
