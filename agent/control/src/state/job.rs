//! Jobs: what is to be done, what is done, and what became of it. The history outlives the daemon, and the pairs as well.

use crate::state::error::{Refusal, StateError};
use crate::state::schema::damaged;
use crate::state::{Database, State, check_name};
use failback_units::ByteCount;
use rusqlite::{Row, params};
use std::fmt;
use std::time::Duration;

/// How many jobs there may be, those of the history among them: at 4 KiB for each, 80 MiB.
pub const MAX_JOBS: usize = 20_000;
/// The longest phase, in bytes: a word or two.
const MAX_PHASE: usize = 64;
/// The longest error, in bytes: a sentence, with a path in it perhaps.
const MAX_ERROR: usize = 2048;

/// The number of a job. It is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(i64);

impl JobId {
    /// The job of that number.
    #[must_use]
    pub const fn new(number: i64) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> i64 {
        self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An enumeration whose values have names in the state. A new one is a new version of the schema, so that no program meets
/// a name that it does not know.
macro_rules! named {
    ($(#[$about:meta])* $name:ident { $($(#[$what:meta])* $value:ident = $text:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$what])* $value,)* }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$value),*];

            /// Its name, as in the state and in reports.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$value => $text,)* }
            }

            fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|known| known.as_str() == name)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

named! {
    /// What a job does.
    JobKind {
        /// A pass while the source is at work.
        Replicate = "replicate",
        /// The last pass, which makes a point to boot from.
        Final = "final",
        /// Reads a whole disk and compares its root.
        Verify = "verify",
        /// Takes a disk to one of its points.
        Rollback = "rollback",
        /// Takes a disk back to what was committed.
        Undo = "undo",
        /// Gives up the way back.
        Commit = "commit",
        /// Removes points that are not kept any longer.
        Prune = "prune",
    }
}

named! {
    /// Where a job stands.
    JobState {
        /// It has not begun.
        Queued = "queued",
        /// It is at work.
        Running = "running",
        /// It waits for something, a peer or a time, and goes on by itself.
        Waiting = "waiting",
        /// It did what it was to do.
        Done = "done",
        /// It did not, and its error says why.
        Failed = "failed",
        /// Somebody did not want it any longer.
        Cancelled = "cancelled",
        /// The daemon ended while it was at work. It may be started again.
        Interrupted = "interrupted",
    }
}

impl JobState {
    /// Whether nothing more happens by itself.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled | Self::Interrupted)
    }

    /// Whether a job gets from this state into that one.
    #[must_use]
    pub const fn may_become(self, next: Self) -> bool {
        match next {
            Self::Queued => false,
            Self::Running => matches!(self, Self::Queued | Self::Waiting | Self::Interrupted),
            Self::Waiting | Self::Done | Self::Interrupted => matches!(self, Self::Running),
            Self::Failed => matches!(self, Self::Queued | Self::Running | Self::Waiting),
            Self::Cancelled => matches!(self, Self::Queued | Self::Running | Self::Waiting | Self::Interrupted),
        }
    }
}

/// What a job is about, by its name at that time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A pair.
    Pair(String),
    /// A group, and so all pairs in it.
    Group(String),
}

impl Subject {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Pair(name) | Self::Group(name) => name,
        }
    }

    const fn kind(&self) -> &'static str {
        match self {
            Self::Pair(_) => "pair",
            Self::Group(_) => "group",
        }
    }
}

/// A job. Times are in seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its number; later jobs have greater ones.
    pub id: JobId,
    /// What it does.
    pub kind: JobKind,
    /// To what.
    pub subject: Subject,
    /// Where it stands.
    pub state: JobState,
    /// What it is doing, or did last; empty before it begins.
    pub phase: String,
    /// How many bytes are durable.
    pub durable: ByteCount,
    /// How many there will be, as far as is known.
    pub total: Option<ByteCount>,
    /// When it was asked for.
    pub queued: i64,
    /// When it began first.
    pub started: Option<i64>,
    /// When it was heard of last.
    pub updated: i64,
    /// When it was over. Of an interrupted one, when it was heard of last.
    pub ended: Option<i64>,
    /// What went wrong last, with what to do; of a job that waits, what it waits for. None of one that is done.
    pub error: Option<String>,
}

/// How far a job is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// What it is doing; cut to 64 bytes.
    pub phase: &'a str,
    /// How many bytes are durable.
    pub durable: ByteCount,
    /// How many there will be, as far as is known.
    pub total: Option<ByteCount>,
}

/// Which jobs to list, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobQuery {
    /// Those of this pair or group only.
    pub subject: Option<Subject>,
    /// Those that are in one of these states only; all, where there is none.
    pub states: Vec<JobState>,
    /// Those before this one only.
    pub before: Option<JobId>,
    /// How many at most; all, where there is none.
    pub limit: Option<usize>,
}

/// What is kept of the history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeepJobs {
    /// So many of those that are over.
    pub count: Option<usize>,
    /// Those that ended within that time.
    pub age: Option<Duration>,
}

const COLUMNS: &str = "SELECT id, kind, subject_kind, subject, state, phase, durable, total, queued, started, updated, ended, error FROM job";
const OVER: &str = "state IN ('done', 'failed', 'cancelled', 'interrupted')";
const NOT_OVER: &str = "state IN ('queued', 'running', 'waiting')";

impl State {
    /// Notes a job that is to be done. Where the history is full, the oldest of it goes.
    ///
    /// # Errors
    ///
    /// When there is no such pair or group, or [`MAX_JOBS`] that are not over.
    pub fn queue_job(&mut self, kind: JobKind, subject: &Subject, now: i64) -> Result<JobId, StateError> {
        self.change("queue a job in", |inside| {
            inside.check_subject(subject)?;
            if inside.count("job")? >= MAX_JOBS {
                let oldest = format!("DELETE FROM job WHERE id = (SELECT min(id) FROM job WHERE {OVER})");
                if inside.execute(&oldest, [])? == 0 {
                    return Err(Refusal::TooMany { what: "jobs", limit: MAX_JOBS }.into());
                }
            }
            inside.execute(
                "INSERT INTO job (kind, subject_kind, subject, state, phase, durable, queued, updated) \
                 VALUES (?1, ?2, ?3, 'queued', '', 0, ?4, ?4)",
                params![kind.as_str(), subject.kind(), subject.name(), now],
            )?;
            Ok(JobId(inside.connection.last_insert_rowid()))
        })
    }

    /// Says that a job is at work: for the first time, again after it waited, or again after it was interrupted.
    ///
    /// # Errors
    ///
    /// When there is none, it is over, or its pair or group is not there any longer.
    pub fn start_job(&mut self, id: JobId, now: i64) -> Result<(), StateError> {
        self.change("start a job in", |inside| {
            let job = inside.job_for(id, JobState::Running)?;
            inside.check_subject(&job.subject)?;
            let set = "UPDATE job SET state = 'running', started = coalesce(started, ?2), updated = ?2, ended = NULL WHERE id = ?1";
            inside.execute(set, params![id.0, now])?;
            Ok(())
        })
    }

    /// Says how far a job is. Each call is made durable, so once in a second or two is often enough.
    ///
    /// # Errors
    ///
    /// When there is no such job, or it is not at work.
    pub fn job_progress(&mut self, id: JobId, progress: &Progress<'_>, now: i64) -> Result<(), StateError> {
        self.change("note the progress of a job in", |inside| {
            let job = inside.job(id)?;
            if job.state != JobState::Running {
                return Err(Refusal::WrongState { job: id, from: job.state, to: JobState::Running }.into());
            }
            let set = "UPDATE job SET phase = ?2, durable = ?3, total = ?4, updated = ?5 WHERE id = ?1";
            let (durable, total) = (stored(progress.durable), progress.total.map(stored));
            inside.execute(set, params![id.0, clean(progress.phase, MAX_PHASE), durable, total, now])?;
            Ok(())
        })
    }

    /// Says that a job waits, and for what: a sentence, cut to 2048 bytes, with blanks for control characters.
    ///
    /// # Errors
    ///
    /// When there is no such job, or it is not at work.
    pub fn job_waits(&mut self, id: JobId, why: &str, now: i64) -> Result<(), StateError> {
        self.change("note that a job waits in", |inside| {
            inside.job_for(id, JobState::Waiting)?;
            let set = "UPDATE job SET state = 'waiting', error = ?2, updated = ?3 WHERE id = ?1";
            inside.execute(set, params![id.0, clean(why, MAX_ERROR), now])?;
            Ok(())
        })
    }

    /// Says that a job did what it was to do.
    ///
    /// # Errors
    ///
    /// When there is no such job, or it is not at work.
    pub fn job_done(&mut self, id: JobId, now: i64) -> Result<(), StateError> {
        self.end(id, JobState::Done, None, now)
    }

    /// Says that a job failed, and why: a sentence that says what to do, cut to 2048 bytes, with blanks for control characters.
    ///
    /// # Errors
    ///
    /// When there is no such job, or it is over.
    pub fn job_failed(&mut self, id: JobId, error: &str, now: i64) -> Result<(), StateError> {
        self.end(id, JobState::Failed, Some(error), now)
    }

    /// Says that a job was given up. Whoever does it has to be stopped first.
    ///
    /// # Errors
    ///
    /// When there is no such job, or it is over and was not interrupted.
    pub fn job_cancelled(&mut self, id: JobId, now: i64) -> Result<(), StateError> {
        self.end(id, JobState::Cancelled, None, now)
    }

    fn end(&mut self, id: JobId, state: JobState, error: Option<&str>, now: i64) -> Result<(), StateError> {
        self.change("note the end of a job in", |inside| {
            inside.job_for(id, state)?;
            let error = error.map(|error| clean(error, MAX_ERROR));
            let set = "UPDATE job SET state = ?2, updated = ?3, ended = ?3, \
                       error = CASE ?2 WHEN 'cancelled' THEN error ELSE ?4 END WHERE id = ?1";
            inside.execute(set, params![id.0, state.as_str(), now, error])?;
            Ok(())
        })
    }

    /// The job of that number.
    ///
    /// # Errors
    ///
    /// When there is none, or the state cannot be read.
    pub fn job(&self, id: JobId) -> Result<Job, StateError> {
        self.look().job(id)
    }

    /// The jobs that `which` asks for, newest first.
    ///
    /// # Errors
    ///
    /// When the state cannot be read or is damaged.
    pub fn jobs(&self, which: &JobQuery) -> Result<Vec<Job>, StateError> {
        self.look().jobs(which)
    }

    /// Removes from the history what need not be kept, and says how many jobs that were. What is not over stays.
    ///
    /// # Errors
    ///
    /// When the state cannot be changed.
    pub fn prune_jobs(&mut self, keep: &KeepJobs, now: i64) -> Result<usize, StateError> {
        self.change("prune the history in", |inside| {
            let mut removed = 0;
            if let Some(age) = keep.age {
                let before = now.saturating_sub_unsigned(age.as_secs());
                removed += inside.execute(&format!("DELETE FROM job WHERE {OVER} AND ended < ?1"), [before])?;
            }
            if let Some(count) = keep.count {
                let kept = i64::try_from(count).unwrap_or(i64::MAX);
                let those = format!("SELECT id FROM job WHERE {OVER} ORDER BY id DESC LIMIT -1 OFFSET ?1");
                removed += inside.execute(&format!("DELETE FROM job WHERE id IN ({those})"), [kept])?;
            }
            Ok(removed)
        })
    }

    /// Says of all jobs that were at work that they are no longer, since nobody is there who does them.
    pub(crate) fn interrupt_jobs(&mut self) -> Result<Vec<JobId>, StateError> {
        self.change("note interrupted jobs in", |inside| {
            let running = JobQuery { states: vec![JobState::Running], ..JobQuery::default() };
            let ids = inside.jobs(&running)?.iter().map(|job| job.id).collect();
            inside.execute("UPDATE job SET state = 'interrupted', ended = updated WHERE state = 'running'", [])?;
            Ok(ids)
        })
    }
}

impl Database<'_> {
    fn job(&self, id: JobId) -> Result<Job, StateError> {
        let found = self.rows(&format!("{COLUMNS} WHERE id = ?1"), [id.0], |row| self.job_of(row))?;
        found.into_iter().next().ok_or_else(|| Refusal::NoJob { job: id }.into())
    }

    /// The job, if it may get into that state.
    fn job_for(&self, id: JobId, next: JobState) -> Result<Job, StateError> {
        let job = self.job(id)?;
        if job.state.may_become(next) {
            Ok(job)
        } else {
            Err(Refusal::WrongState { job: id, from: job.state, to: next }.into())
        }
    }

    pub(crate) fn jobs(&self, which: &JobQuery) -> Result<Vec<Job>, StateError> {
        // Names of states are words of ours, so that they may stand in the question.
        let states: Vec<_> = which.states.iter().map(|state| format!("'{state}'")).collect();
        let states = if states.is_empty() { "1".to_owned() } else { format!("state IN ({})", states.join(", ")) };
        let question = format!(
            "{COLUMNS} WHERE {states} AND (?1 IS NULL OR (subject_kind = ?1 AND subject = ?2)) AND (?3 IS NULL OR id < ?3) \
             ORDER BY id DESC LIMIT ?4"
        );
        let (kind, name) = (which.subject.as_ref().map(Subject::kind), which.subject.as_ref().map(Subject::name));
        let limit = i64::try_from(which.limit.unwrap_or(usize::MAX)).unwrap_or(i64::MAX);
        let with = params![kind, name, which.before.map(JobId::get), limit];
        self.rows(&question, with, |row| self.job_of(row))
    }

    fn check_subject(&self, subject: &Subject) -> Result<(), StateError> {
        match subject {
            Subject::Pair(name) if self.id_of_pair(name)?.is_none() => {
                Err(Refusal::NoPair { name: name.clone() }.into())
            }
            Subject::Group(name) if self.id_of_group(name)?.is_none() => {
                Err(Refusal::NoGroup { name: name.clone() }.into())
            }
            _ => Ok(()),
        }
    }

    /// Whether no job of the pair or group is under way or to come.
    pub(crate) fn check_idle(&self, kind: &str, name: &str) -> Result<(), StateError> {
        let question = format!("{COLUMNS} WHERE {NOT_OVER} AND subject_kind = ?1 AND subject = ?2 ORDER BY id LIMIT 1");
        match self.rows(&question, [kind, name], |row| self.job_of(row))?.first() {
            Some(job) => Err(Refusal::Busy { subject: name.to_owned(), job: job.id }.into()),
            None => Ok(()),
        }
    }

    /// Believes nothing of what stands there: the file may have been made by anybody.
    fn job_of(&self, row: &Row<'_>) -> Result<Job, StateError> {
        let read = || -> rusqlite::Result<Option<Job>> {
            let (kind, state): (String, String) = (row.get(1)?, row.get(4)?);
            let (of, name): (String, String) = (row.get(2)?, row.get(3)?);
            let subject = match of.as_str() {
                "pair" => Subject::Pair(name),
                "group" => Subject::Group(name),
                _ => return Ok(None),
            };
            let (durable, total): (i64, Option<i64>) = (row.get(6)?, row.get(7)?);
            let bytes = |number: i64| u64::try_from(number).ok().and_then(ByteCount::new);
            let (Some(kind), Some(state)) = (JobKind::from_name(&kind), JobState::from_name(&state)) else {
                return Ok(None);
            };
            let (Some(durable), Ok(total)) = (bytes(durable), total.map(|total| bytes(total).ok_or(())).transpose())
            else {
                return Ok(None);
            };
            Ok(Some(Job {
                id: JobId(row.get(0)?),
                kind,
                subject,
                state,
                phase: row.get(5)?,
                durable,
                total,
                queued: row.get(8)?,
                started: row.get(9)?,
                updated: row.get(10)?,
                ended: row.get(11)?,
                error: row.get(12)?,
            }))
        };
        let plain = |job: &Job| {
            let texts = [Some(&job.phase), job.error.as_ref()];
            let clean = texts.into_iter().flatten().all(|text| !text.contains(char::is_control));
            clean && check_name(job.subject.name()).is_ok() && job.ended.is_some() == job.state.is_over()
        };
        read().ok().flatten().filter(plain).ok_or_else(|| damaged(self.path, "a job in it makes no sense"))
    }
}

fn stored(bytes: ByteCount) -> i64 {
    // The greatest length of a disk is the greatest number here.
    i64::try_from(bytes.get()).unwrap_or(i64::MAX)
}

/// A text that can be shown on a terminal, of at most `limit` bytes: parts of it may come from a peer.
fn clean(text: &str, limit: usize) -> String {
    let mut text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let end = (0..=limit.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or(0));
    text
}
