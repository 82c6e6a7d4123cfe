//! A job that is at work: how far it is, for whoever asks, and now and then for the state.

use super::slots::Breaker;
use super::{MasterTarget, now};
use crate::state::{self, JobId, JobKind, JobState, RateMeter, State, StateError, Subject};
use failback_orchestrate::{ByteCount, Progress};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often the state learns how far a job is.
const NOTED_EVERY: Duration = Duration::from_secs(2);

/// A job that is at work.
pub struct LiveJob {
    id: JobId,
    subject: Subject,
    facts: Mutex<Facts>,
    stop: Arc<AtomicBool>,
    cancelled: AtomicBool,
    breaker: Breaker,
}

impl fmt::Debug for LiveJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveJob").field("id", &self.id).field("subject", &self.subject).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Facts {
    began: Instant,
    phase: &'static str,
    done: u64,
    total: Option<u64>,
    rate: RateMeter,
    /// What the source says that it has compared, of how much, and how fast that is.
    compared: Option<(u64, u64)>,
    comparing: RateMeter,
    noted: Instant,
}

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobFacts {
    /// What it does.
    pub phase: &'static str,
    /// Bytes of that which are done; of what is received, those that are durable.
    pub done: u64,
    /// How many there will be, as far as is known.
    pub total: Option<u64>,
    /// Bytes per second over the last minute.
    pub rate: Option<u64>,
    /// How long this takes at that rate; of what is received, until the source has compared all of its disk.
    pub eta: Option<Duration>,
    /// How much of the source has been compared, and how much there is.
    pub compared: Option<(u64, u64)>,
}

impl LiveJob {
    fn new(id: JobId, subject: Subject, stop: Arc<AtomicBool>, breaker: Breaker) -> Self {
        let began = Instant::now();
        let facts = Facts {
            began,
            phase: "",
            done: 0,
            total: None,
            rate: RateMeter::new(),
            compared: None,
            comparing: RateMeter::new(),
            noted: began,
        };
        Self { id, subject, facts: Mutex::new(facts), stop, cancelled: AtomicBool::new(false), breaker }
    }

    /// Its number.
    #[must_use]
    pub const fn id(&self) -> JobId {
        self.id
    }

    /// What it is about.
    #[must_use]
    pub const fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Ends it at the next safe place: nobody wants it any longer.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        (self.breaker)();
    }

    /// Whether it was [cancelled](Self::cancel).
    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far it is now.
    #[must_use]
    pub fn facts(&self) -> JobFacts {
        let facts = self.lock();
        let now = facts.began.elapsed();
        let size = |bytes| ByteCount::new(bytes).unwrap_or(ByteCount::ZERO);
        JobFacts {
            phase: facts.phase,
            done: facts.done,
            total: facts.total,
            rate: facts.rate.rate(now),
            eta: match (facts.total, facts.compared) {
                (Some(total), _) => facts.rate.eta(now, size(total)),
                (None, Some((_, total))) => facts.comparing.eta(now, size(total)),
                (None, None) => None,
            },
            compared: facts.compared,
        }
    }

    /// Does something else for a while, and is then where it was before.
    pub(super) fn meanwhile<T>(&self, what: &'static str, work: impl FnOnce() -> T) -> T {
        let before = {
            let facts = self.lock();
            (facts.phase, facts.done, facts.total, facts.compared)
        };
        self.phase(what, None);
        let done = work();
        let mut facts = self.lock();
        (facts.phase, facts.done, facts.total, facts.compared) = before;
        done
    }

    /// So many bytes are done of what it does.
    pub(super) fn is_at(&self, done: u64) {
        let mut facts = self.lock();
        facts.done = done;
        let at = facts.began.elapsed();
        facts.rate.record(at, ByteCount::new(done).unwrap_or(ByteCount::ZERO));
    }

    /// The source says how far it is. It is a peer: what makes no sense is not taken.
    pub(super) fn source_is_at(&self, compared: u64, total: u64) {
        let mut facts = self.lock();
        if let Some(done) = ByteCount::new(compared.min(total)).filter(|_| ByteCount::new(total).is_some()) {
            let at = facts.began.elapsed();
            facts.compared = Some((done.get(), total));
            facts.comparing.record(at, done);
        }
    }

    /// What the state should learn, if it is time for that.
    fn is_due(&self) -> bool {
        let mut facts = self.lock();
        let due = facts.noted.elapsed() >= NOTED_EVERY;
        if due {
            facts.noted = Instant::now();
        }
        due
    }

    /// Tells the state how far it is, now and then.
    pub(super) fn report_to(&self, master: &MasterTarget) {
        if self.is_due() {
            self.note_now(&mut master.state());
        }
    }

    fn note_now(&self, state: &mut State) {
        let facts = self.facts();
        let size = |bytes| ByteCount::new(bytes).unwrap_or(ByteCount::ZERO);
        let progress = state::Progress { phase: facts.phase, durable: size(facts.done), total: facts.total.map(size) };
        if let Err(error) = state.job_progress(self.id, &progress, now()) {
            tracing::warn!(job = self.id.get(), "how far it is could not be noted: {error}");
        }
    }
}

impl Progress for LiveJob {
    fn phase(&self, what: &'static str, total: Option<u64>) {
        let mut facts = self.lock();
        (facts.phase, facts.done, facts.total, facts.rate) = (what, 0, total, RateMeter::new());
        facts.compared = None;
        drop(facts);
        tracing::info!(job = self.id.get(), subject = self.subject.name(), total, "{what}");
    }

    fn advance(&self, bytes: u64) {
        let done = self.lock().done + bytes;
        self.is_at(done);
    }

    fn note(&self, sentence: &str) {
        tracing::info!(job = self.id.get(), subject = self.subject.name(), "{sentence}");
    }

    fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::Acquire) || self.is_cancelled()
    }
}

impl MasterTarget {
    /// Begins a job for a pair. One of the same kind that waits for the source to come back goes on if `goes_on` says so; what else waits
    /// will not come back, and is cancelled.
    pub(super) fn begin_job(
        &self,
        kind: JobKind,
        pair: &str,
        goes_on: bool,
        breaker: Breaker,
    ) -> Result<Arc<LiveJob>, StateError> {
        let subject = Subject::Pair(pair.to_owned());
        let mut state = self.state();
        let states = vec![JobState::Queued, JobState::Waiting, JobState::Interrupted];
        let query = state::JobQuery { subject: Some(subject.clone()), states, ..state::JobQuery::default() };
        let mut earlier = None;
        for job in state.jobs(&query)? {
            if job.state == JobState::Interrupted && job.ended.is_some() && !(goes_on && earlier.is_none()) {
                continue;
            }
            if goes_on && earlier.is_none() && job.kind == kind {
                earlier = Some(job.id);
            } else if !job.state.is_over() {
                state.job_cancelled(job.id, now())?;
            }
        }
        let id = match earlier {
            Some(id) => id,
            None => state.queue_job(kind, &subject, now())?,
        };
        state.start_job(id, now())?;
        drop(state);
        let job = Arc::new(LiveJob::new(id, subject, Arc::clone(&self.stop), breaker));
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::clone(&job));
        Ok(job)
    }

    /// Says what became of a job: done, waiting for the source, or failed with a sentence.
    pub(super) fn end_job(&self, job: &LiveJob, how: &Ending) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).remove(&job.id);
        let mut state = self.state();
        job.note_now(&mut state);
        let ended = match how {
            Ending::Done => state.job_done(job.id, now()),
            Ending::Waits(_) | Ending::Failed(_) if job.is_cancelled() => state.job_cancelled(job.id, now()),
            Ending::Waits(why) => state.job_waits(job.id, why, now()),
            Ending::Failed(why) => state.job_failed(job.id, why, now()),
        };
        if let Err(error) = ended {
            tracing::error!(job = job.id.get(), "its end could not be noted: {error}");
        }
    }
}

/// What became of a job.
#[derive(Debug)]
pub(super) enum Ending {
    Done,
    Waits(String),
    Failed(String),
}
