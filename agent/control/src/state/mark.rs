//! Marks of protection groups: moments at which all their pairs were read, and whether these are on all their targets.
//!
//! A mark is taken, and then its passes arrive. The last one that is complete decides that all are applied; from then on that is only a matter of
//! time. Before, nothing is applied, and the mark can be given up.

use crate::state::error::{Refusal, StateError};
use crate::state::schema::{damaged, failed};
use crate::state::{Database, State};
use rusqlite::{OptionalExtension, params};

/// Marks of one group that are kept, the newest ones.
const KEPT: i64 = 100;
/// Marks that a state can have: groups are pairs at most.
pub(crate) const MAX_MARKS: usize = 100 * crate::state::pair::MAX_PAIRS;

/// What became of a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkState {
    /// It is taken. Nothing of it is applied.
    Marked,
    /// All of its passes are here, and are being applied, or will be.
    Decided,
    /// All of its passes are applied.
    Whole,
    /// Nothing of it will be applied.
    GivenUp,
}

impl MarkState {
    const ALL: [Self; 4] = [Self::Marked, Self::Decided, Self::Whole, Self::GivenUp];

    /// Its name, in tables and in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Marked => "marked",
            Self::Decided => "decided",
            Self::Whole => "whole",
            Self::GivenUp => "given up",
        }
    }
}

/// A moment of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Random.
    pub id: [u8; 16],
    /// When it was taken, in seconds since 1970.
    pub time: i64,
    /// What became of it.
    pub state: MarkState,
    /// Its pairs, by name.
    pub pairs: Vec<MarkedPair>,
}

/// A pair at a mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkedPair {
    /// The name of the pair.
    pub pair: String,
    /// The header hash of its pass, once that is complete here.
    pub delta: Option<[u8; 32]>,
    /// The recovery point that it is, once it is applied.
    pub point: Option<u64>,
}

impl State {
    /// Notes that all pairs of a group have taken a mark, at the time `now`, in seconds since 1970. What was marked before and is not decided
    /// is given up. It is durable afterwards.
    ///
    /// # Errors
    ///
    /// When there is no such group, or the state cannot be written.
    pub fn begin_mark(&mut self, group: &str, id: [u8; 16], now: i64) -> Result<(), StateError> {
        self.change("add a mark to", |inside| {
            let group = inside.id_of_group(group)?.ok_or_else(|| Refusal::NoGroup { name: group.to_owned() })?;
            inside.give_up(group)?;
            inside.execute(
                "INSERT INTO group_mark (id, group_id, time, state) VALUES (?1, ?2, ?3, 'marked')",
                params![id, group, now],
            )?;
            let number = inside.connection.last_insert_rowid();
            inside.execute(
                "INSERT INTO marked_pair (mark, pair_id) SELECT ?1, pair_id FROM group_pair WHERE group_id = ?2",
                [number, group],
            )?;
            let old = "SELECT number FROM group_mark WHERE group_id = ?1 AND state IN ('whole', 'given up') AND number NOT IN \
                       (SELECT number FROM group_mark WHERE group_id = ?1 ORDER BY number DESC LIMIT ?2)";
            inside.execute(&format!("DELETE FROM marked_pair WHERE mark IN ({old})"), [group, KEPT])?;
            inside.execute(&format!("DELETE FROM group_mark WHERE number IN ({old})"), [group, KEPT])?;
            Ok(())
        })
    }

    /// Whether the group of a pair has a mark that is neither decided nor given up.
    ///
    /// # Errors
    ///
    /// When the state cannot be read.
    pub fn has_open_mark(&self, pair: &str) -> Result<bool, StateError> {
        let open = self.look().rows(
            "SELECT 1 FROM group_mark JOIN marked_pair ON mark = number JOIN pair ON pair.id = pair_id WHERE state = 'marked' AND name = ?1",
            [pair],
            |_| Ok(()),
        )?;
        Ok(!open.is_empty())
    }

    /// Gives up what was marked of a pair's group and is not decided. Returns whether there was anything.
    ///
    /// # Errors
    ///
    /// When the state cannot be read or written.
    pub fn give_up_marks(&mut self, pair: &str) -> Result<bool, StateError> {
        if !self.has_open_mark(pair)? {
            return Ok(false);
        }
        self.change("give up a mark in", |inside| {
            inside.execute(
                "UPDATE group_mark SET state = 'given up' WHERE state = 'marked' AND number IN \
                 (SELECT mark FROM marked_pair JOIN pair ON pair.id = pair_id WHERE name = ?1)",
                [pair],
            )
        })?;
        Ok(true)
    }

    /// What became of the mark of a pass.
    ///
    /// # Errors
    ///
    /// When there is none of that id that has this pair, it was given up, or the state cannot be read.
    pub fn mark_of(&self, id: [u8; 16], pair: &str) -> Result<MarkState, StateError> {
        self.look().marked(id, pair).map(|(_, _, state)| state)
    }

    /// Notes that the pass of a pair is complete, durable and proven. With the last one it is decided that all are applied. Returns
    /// whether it is.
    ///
    /// # Errors
    ///
    /// When there is no such mark, it was given up or another pass was decided, or the state cannot be written.
    pub fn pair_is_complete(&mut self, id: [u8; 16], pair: &str, delta: [u8; 32]) -> Result<MarkState, StateError> {
        self.change("note a complete pass in", |inside| {
            let (mark, place, state) = inside.marked(id, pair)?;
            if state != MarkState::Marked {
                let same = inside.rows(
                    "SELECT 1 FROM marked_pair WHERE mark = ?1 AND pair_id = ?2 AND delta = ?3",
                    params![mark, place, delta],
                    |_| Ok(()),
                )?;
                let gone = || Refusal::MarkGone { pair: pair.to_owned() };
                return if same.is_empty() { Err(gone().into()) } else { Ok(state) };
            }
            let note = "UPDATE marked_pair SET delta = ?3 WHERE mark = ?1 AND pair_id = ?2";
            inside.execute(note, params![mark, place, delta])?;
            let decided = inside.execute(
                "UPDATE group_mark SET state = 'decided' WHERE number = ?1 AND NOT EXISTS \
                 (SELECT 1 FROM marked_pair WHERE mark = ?1 AND delta IS NULL)",
                [mark],
            )?;
            Ok(if decided > 0 { MarkState::Decided } else { MarkState::Marked })
        })
    }

    /// Takes back that the pass of a pair is complete: whoever held its disk does so no longer, or it is being sent anew. Returns how the mark
    /// stands; once it is decided nothing is taken back.
    ///
    /// # Errors
    ///
    /// As [`pair_is_complete`](Self::pair_is_complete).
    pub fn pair_is_not_complete(&mut self, id: [u8; 16], pair: &str) -> Result<MarkState, StateError> {
        self.change("take back a complete pass in", |inside| {
            let (mark, place, state) = inside.marked(id, pair)?;
            if state == MarkState::Marked {
                inside
                    .execute("UPDATE marked_pair SET delta = NULL WHERE mark = ?1 AND pair_id = ?2", [mark, place])?;
            }
            Ok(state)
        })
    }

    /// Takes back that any pass is complete that is not decided: nobody holds a disk when a state is opened.
    pub(crate) fn forget_complete_passes(&mut self) -> Result<(), StateError> {
        self.change("take back complete passes in", |inside| {
            let marked = "SELECT number FROM group_mark WHERE state = 'marked'";
            inside.execute(&format!("UPDATE marked_pair SET delta = NULL WHERE mark IN ({marked})"), []).map(drop)
        })
    }

    /// Notes that the pass of a pair, which was decided, is applied as a recovery point. With the last one the mark is whole. Nothing
    /// happens if there is no such pass.
    ///
    /// # Errors
    ///
    /// When the state cannot be written.
    pub fn pair_is_applied(&mut self, pair: &str, delta: [u8; 32], point: u64) -> Result<(), StateError> {
        let point = i64::try_from(point).unwrap_or(i64::MAX);
        self.change("note an applied pass in", |inside| {
            inside.execute(
                "UPDATE marked_pair SET point = ?3 WHERE delta = ?2 AND pair_id = (SELECT id FROM pair WHERE name = ?1) AND mark IN \
                 (SELECT number FROM group_mark WHERE state = 'decided')",
                params![pair, delta, point],
            )?;
            inside.execute(
                "UPDATE group_mark SET state = 'whole' WHERE state = 'decided' AND NOT EXISTS \
                 (SELECT 1 FROM marked_pair WHERE mark = number AND point IS NULL)",
                [],
            )?;
            Ok(())
        })
    }

    /// Whether this pass of a pair is decided and not applied.
    ///
    /// # Errors
    ///
    /// When the state cannot be read.
    pub fn is_decided(&self, pair: &str, delta: [u8; 32]) -> Result<bool, StateError> {
        Ok(!self.look().decided(Some(pair), Some(delta))?.is_empty())
    }

    /// The pairs of which a pass is decided and not applied.
    ///
    /// # Errors
    ///
    /// When the state cannot be read.
    pub fn pairs_decided(&self) -> Result<Vec<String>, StateError> {
        self.look().decided(None, None)
    }

    /// The newest `limit` marks of a group, the newest first.
    ///
    /// # Errors
    ///
    /// When the state cannot be read, or one of these marks is damaged.
    pub fn marks(&self, group: &str, limit: usize) -> Result<Vec<Mark>, StateError> {
        self.look().marks_where(
            "JOIN protection_group ON protection_group.id = group_id WHERE protection_group.name = ?1",
            [group],
            limit,
        )
    }
}

impl Database<'_> {
    /// Whether every mark is one that could have been written here.
    pub(crate) fn check_marks(&self) -> Result<(), StateError> {
        // One more than there can be, so that it is found if there are.
        self.marks_where("", [], MAX_MARKS + 1).map(drop)
    }

    fn marks_where(&self, which: &str, with: impl rusqlite::Params, limit: usize) -> Result<Vec<Mark>, StateError> {
        let wrong = || damaged(self.path, "a mark in it makes no sense");
        let question = format!(
            "SELECT number, group_mark.id, time, state FROM group_mark {which} ORDER BY number DESC LIMIT {limit}"
        );
        self.rows(&question, with, |row| {
            let read = || -> rusqlite::Result<(i64, [u8; 16], i64, String)> {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            };
            let (number, id, time, state) = read().map_err(|_| wrong())?;
            let state = MarkState::ALL.into_iter().find(|known| known.as_str() == state).ok_or_else(wrong)?;
            let pairs =
                "SELECT name, delta, point FROM marked_pair JOIN pair ON pair.id = pair_id WHERE mark = ?1 ORDER BY name";
            let pairs = self.rows(pairs, [number], |row| {
                let read = || -> rusqlite::Result<(String, Option<[u8; 32]>, Option<i64>)> {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                };
                let (pair, delta, point) = read().map_err(|_| wrong())?;
                Ok(MarkedPair { pair, delta, point: point.and_then(|point| u64::try_from(point).ok()) })
            })?;
            let complete = pairs.iter().all(|pair| pair.delta.is_some());
            let applied = pairs.iter().filter(|pair| pair.point.is_some()).count();
            let fits = match state {
                MarkState::Marked => !complete && applied == 0,
                MarkState::GivenUp => applied == 0,
                MarkState::Decided => complete && applied < pairs.len(),
                MarkState::Whole => complete && applied == pairs.len(),
            };
            if pairs.is_empty() || !fits {
                return Err(wrong());
            }
            Ok(Mark { id, time, state, pairs })
        })
    }

    /// The numbers of a mark and of one of its pairs, and its state.
    fn marked(&self, id: [u8; 16], pair: &str) -> Result<(i64, i64, MarkState), StateError> {
        let found = self.connection.query_row(
            "SELECT number, pair.id, state FROM group_mark JOIN marked_pair ON mark = number JOIN pair ON pair.id = pair_id \
             WHERE group_mark.id = ?1 AND pair.name = ?2",
            params![id, pair],
            |row| Ok((row.get(0)?, row.get(1)?, row.get::<_, String>(2)?)),
        );
        let found = found.optional().map_err(|source| failed("read", self.path, source))?;
        let state = |state: String| MarkState::ALL.into_iter().find(|known| known.as_str() == state);
        match found.and_then(|(mark, pair, said)| Some((mark, pair, state(said)?))) {
            Some(found) if found.2 != MarkState::GivenUp => Ok(found),
            _ => Err(Refusal::MarkGone { pair: pair.to_owned() }.into()),
        }
    }

    fn give_up(&self, group: i64) -> Result<usize, StateError> {
        self.execute("UPDATE group_mark SET state = 'given up' WHERE state = 'marked' AND group_id = ?1", [group])
    }

    /// Refuses what cannot be while a pass of a pair is decided and not applied.
    pub(crate) fn check_undecided(&self, pair: &str, group: &str) -> Result<(), StateError> {
        if self.decided(Some(pair), None)?.is_empty() {
            return Ok(());
        }
        Err(Refusal::MarkUnfinished { group: group.to_owned() }.into())
    }

    /// The pairs of which a pass is decided and not applied, by name; of one pair and one pass only, where they are given.
    fn decided(&self, pair: Option<&str>, delta: Option<[u8; 32]>) -> Result<Vec<String>, StateError> {
        self.rows(
            "SELECT DISTINCT name FROM marked_pair JOIN group_mark ON mark = number JOIN pair ON pair.id = pair_id \
             WHERE state = 'decided' AND point IS NULL AND (?1 IS NULL OR name = ?1) AND (?2 IS NULL OR delta = ?2) \
             ORDER BY name",
            params![pair, delta],
            |row| row.get(0).map_err(|source| failed("read", self.path, source)),
        )
    }

    /// Removes the marks of a group that is removed itself.
    pub(crate) fn remove_marks(&self, group: i64, name: &str, forced: bool) -> Result<(), StateError> {
        let open = "SELECT 1 FROM group_mark WHERE group_id = ?1 AND state = 'decided'";
        if !forced && !self.rows(open, [group], |_| Ok(()))?.is_empty() {
            return Err(Refusal::MarkUnfinished { group: name.to_owned() }.into());
        }
        let marks = "SELECT number FROM group_mark WHERE group_id = ?1";
        self.execute(&format!("DELETE FROM marked_pair WHERE mark IN ({marks})"), [group])?;
        self.execute("DELETE FROM group_mark WHERE group_id = ?1", [group])?;
        Ok(())
    }
}
