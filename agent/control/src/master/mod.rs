//! The master target: sessions of many pairs at once, one for each pair.

mod applying;
mod desk;
mod hooks;
mod job;
mod locate;
mod meetings;
mod opening;
mod replica;
mod slots;
mod together;
mod watch;

pub use hooks::{hook_failed, open_hooks};
pub use job::LiveJob;
pub use locate::{describe_target, target_of};

use crate::state::{Direction, JobId, JobKind, KeepJobs, Lookup, Pair, State, StateError};
use desk::Desk;
use failback_credentials::{Fingerprint, Role, TrustStore};
use failback_hooks::Hooks;
use failback_orchestrate::{
    Engine, JobError, Pending, PointKind, Policy, VerifyingKey, look_at_points, name_of_points, with_causes,
};
use failback_replication::{
    Link, Offer, SessionError, SessionReport, Standing, Traffic, required_signer, serve_session,
};
use job::Ending;
use meetings::Meetings;
use opening::{Left, NOT_BEGUN, Opening};
use replica::Served;
use slots::{Breaker, Slot, Slots};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use together::Decisions;

/// Between two looks at whether all is to end.
const STOP_TICK: Duration = Duration::from_millis(200);
/// How often what was decided and could not be applied is tried again.
const TRIED_AGAIN_EVERY: Duration = Duration::from_secs(60);
/// For how long it is kept what jobs were done, and how often what is older is looked for.
const HISTORY: Duration = Duration::from_secs(365 * DAY);
const PRUNED_EVERY: Duration = Duration::from_secs(DAY);
const DAY: u64 = 24 * 3600;

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Somebody who may act on this machine, such as through ssh: it may send to every pair.
    Local,
    /// A machine that is known by its key. A source may send to its own pairs; a relay to all that ask for their source's signature.
    Peer {
        /// The key.
        key: Fingerprint,
        /// The name that it is known by here.
        name: String,
        /// What it may do.
        role: Role,
    },
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("this machine"),
            Self::Peer { key, name, .. } => write!(f, "{name} ({key})"),
        }
    }
}

/// How a master target does its work.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// How disks are read and written.
    pub engine: Engine,
    /// Threads that read and hash a disk; 0 for one on each processor.
    pub threads: usize,
    /// Which recovery points are kept after each pass.
    pub policy: Policy,
    /// Whom it trusts, and its own key; none, where it has none yet.
    pub trust: Option<(TrustStore, Fingerprint)>,
    /// What [`open_hooks`] found; none, where there is no directory of them.
    pub hooks: Hooks,
}

/// What serves replication on this machine. There is one for a state.
#[derive(Debug)]
pub struct MasterTarget {
    state: Mutex<State>,
    settings: Settings,
    slots: Arc<Slots>,
    meetings: Arc<Meetings>,
    decisions: Decisions,
    jobs: Mutex<BTreeMap<JobId, Arc<LiveJob>>>,
    /// Of each pair, the delta that somebody did not want any longer.
    cancelled: Mutex<BTreeMap<String, [u8; 32]>>,
    /// Whoever has this applies with all the memory that makes one apply fast; others at the same time with less.
    wide: Mutex<()>,
    traffic: Arc<Traffic>,
    began: Instant,
    stop: Arc<AtomicBool>,
}

impl MasterTarget {
    /// Opens the state at `path`, or makes an empty one. Jobs that were at work when another process had it are interrupted.
    ///
    /// # Errors
    ///
    /// When another process has it open, it is damaged, or it cannot be read or made.
    pub fn open(path: &Path, settings: Settings) -> Result<Arc<Self>, StateError> {
        let state = Mutex::new(State::open(path)?);
        let stop = Arc::default();
        let master = Arc::new(Self {
            state,
            settings,
            slots: Arc::default(),
            meetings: Arc::new(Meetings::new(&stop)),
            decisions: Decisions::default(),
            jobs: Mutex::default(),
            cancelled: Mutex::default(),
            wide: Mutex::default(),
            traffic: Arc::default(),
            began: Instant::now(),
            stop,
        });
        master.tell_hooks();
        Ok(master)
    }

    /// The state, for whoever looks at it or changes it. Sessions wait meanwhile.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is at work now, by number.
    #[must_use]
    pub fn live_jobs(&self) -> BTreeMap<JobId, Arc<LiveJob>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Serves one connection until it ends. What it does to a disk is done when this returns: the disk is given back.
    ///
    /// # Errors
    ///
    /// When the connection broke, the other side did what it must not do, or what it wants cannot be done. It has been told.
    pub fn session(self: &Arc<Self>, link: Link, caller: &Caller) -> Result<SessionReport, SessionError> {
        let mut served = Served::new(Arc::clone(self), caller.clone(), Arc::clone(&link.breaker));
        let ended = serve_session(link, &self.traffic, &mut served);
        served.end(&ended);
        ended
    }

    /// Whom it trusts, once it has a key of its own.
    pub(crate) fn trust(&self) -> Option<&TrustStore> {
        self.settings.trust.as_ref().map(|(trust, _)| trust)
    }

    /// The fingerprint of its own key.
    pub(crate) fn fingerprint(&self) -> Option<&Fingerprint> {
        self.settings.trust.as_ref().map(|(_, own)| own)
    }

    /// How long it has been there.
    pub(crate) fn uptime(&self) -> Duration {
        self.began.elapsed()
    }

    /// Bytes received from and sent to sources.
    pub(crate) fn traffic(&self) -> (u64, u64) {
        (self.traffic.received.load(Ordering::Relaxed), self.traffic.sent.load(Ordering::Relaxed))
    }

    /// The pairs of a group whose sources wait for the others to take the common mark.
    #[must_use]
    pub fn meeting(&self, group: &str) -> Vec<String> {
        self.meetings.here(group)
    }

    /// Nobody waits any longer for a group that was removed.
    pub(crate) fn dissolve(&self, group: &str) {
        self.meetings.dissolve(group);
    }

    /// Finishes what was being applied when this machine stopped, and what was decided to be, pair by pair, as far as the disks are
    /// there. A source that comes meanwhile waits, or has it done by its own session.
    pub fn recover(self: &Arc<Self>) {
        let pairs = self.state().pairs().unwrap_or_default();
        for pair in pairs.into_iter().filter(|pair| pair.is.direction == Direction::Receive) {
            let nothing: Breaker = Arc::new(|| ());
            if is_left(&pair)
                && let Some(slot) = self.slots.take(&pair.is.name, &nothing, &self.stop)
            {
                self.note_recovered(&pair, slot);
            }
        }
        self.apply_decided();
    }

    /// As [`recover`](Self::recover), and then tries each minute what could not be done, until [`stop`](Self::stop) is called.
    pub fn attend(self: &Arc<Self>) {
        self.recover();
        self.prune_history();
        let (mut looked, mut pruned) = (Instant::now(), Instant::now());
        while !self.is_stopping() {
            thread::sleep(STOP_TICK);
            if pruned.elapsed() >= PRUNED_EVERY {
                self.prune_history();
                pruned = Instant::now();
            }
            if looked.elapsed() >= TRIED_AGAIN_EVERY {
                self.apply_decided();
                looked = Instant::now();
            }
        }
    }

    /// Forgets jobs that were over long ago.
    fn prune_history(&self) {
        let pruned = self.state().prune_jobs(&KeepJobs { age: Some(HISTORY), count: None }, now());
        if let Err(error) = pruned {
            tracing::warn!("old jobs could not be removed from the history: {}", with_causes(&error));
        }
    }

    /// Finishes an apply, and says what became of it.
    fn note_recovered(self: &Arc<Self>, pair: &Pair, slot: Slot) {
        let name = &pair.is.name;
        match self.recover_pair(pair) {
            Ok(Left::Applied) => tracing::info!(pair = name, "what was left to be applied is applied"),
            Ok(Left::NotApplied) => tracing::info!(pair = name, "{NOT_BEGUN}"),
            Ok(Left::Nothing) => {}
            Err(error) => tracing::warn!(pair = name, "what is left to be applied could not be: {error}"),
        }
        drop(slot);
    }

    fn recover_pair(self: &Arc<Self>, pair: &Pair) -> Result<Left, JobError> {
        let (path, disk) = locate::locate(&pair.is.target)?;
        let nothing: Breaker = Arc::new(|| ());
        let decided = self.state().pairs_decided().map_err(|error| refused(&error))?;
        let is_decided = decided.contains(&pair.is.name);
        let due = Desk::due_of(&pair.is.retention, &name_of_points(&disk));
        let is_moment = is_decided || due.is_some_and(|due| due.kind != PointKind::Fuzzy);
        let kind = if is_moment { JobKind::Final } else { JobKind::Replicate };
        let job = self.begin_job(kind, &pair.is.name, true, nothing).map_err(|error| refused(&error))?;
        let recovered = Opening { master: self, pair, path, disk: &disk, job: &job }.recover();
        let how = match &recovered {
            Ok(Left::NotApplied) => Ending::Waits(NOT_BEGUN.into()),
            Ok(_) => Ending::Done,
            // It is tried again, as the same job.
            Err(error) if is_decided => Ending::Waits(with_causes(error)),
            Err(error) => Ending::Failed(with_causes(error)),
        };
        self.end_job(&job, &how);
        recovered
    }

    /// Begins to end: no session begins any more, those that are under way are broken, and what is being applied stops at a safe place.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.slots.break_all();
    }

    /// Whether [`stop`](Self::stop) was called.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Remembers that a delta is not wanted any longer: its source would send the rest of it otherwise.
    fn note_cancelled(&self, pair: &str, key: Option<[u8; 32]>) {
        let mut cancelled = self.cancelled.lock().unwrap_or_else(PoisonError::into_inner);
        match key {
            Some(key) => _ = cancelled.insert(pair.to_owned(), key),
            None => _ = cancelled.remove(pair),
        }
    }

    fn refuse_cancelled(&self, pair: &str, offer: &Offer) -> Result<(), JobError> {
        let all = self.cancelled.lock().unwrap_or_else(PoisonError::into_inner);
        match offer.resumed.filter(|resumed| all.get(pair) == Some(&resumed.delta)) {
            Some(_) => Err(cancelled()),
            None => Ok(()),
        }
    }

    /// Whether a caller that was let in still would be. Where that cannot be found out, it stays.
    fn is_still_known(&self, caller: &Caller) -> bool {
        let (Caller::Peer { key, .. }, Some(trust)) = (caller, self.trust()) else { return true };
        matches!(trust.check(key, now()), Ok(_) | Err(failback_credentials::Refusal::Store(_)))
    }

    /// The pair that a caller names, if it may send to it now.
    fn pair_for(&self, caller: &Caller, name: &str) -> Result<Pair, JobError> {
        let whose = match caller {
            Caller::Local | Caller::Peer { role: Role::Relay, .. } => None,
            Caller::Peer { key, role: Role::Source, .. } => Some(key),
            Caller::Peer { role: Role::Admin | Role::Target, .. } => {
                return Err(JobError::Refused(
                    "only sources and relays send to a master target: enroll this machine with --role source there"
                        .into(),
                ));
            }
        };
        match self.state().pair_for(whose, name).map_err(|error| refused(&error))? {
            Lookup::Bound(pair) => {
                if matches!(caller, Caller::Peer { role: Role::Relay, .. }) {
                    let signer = pair.is.signer.and_then(|key| VerifyingKey::from_bytes(&key));
                    required_signer(Standing::Relay, name, signer)?;
                }
                Ok(*pair)
            }
            Lookup::Unbound(why) => {
                tracing::warn!(pair = name, %caller, "refused: {}", why.for_the_log());
                Err(JobError::Refused(why.to_string()))
            }
        }
    }
}

/// Whether an apply of a pair's disk is under way that no session does, or a hook has still to run for one. What cannot be found out now is
/// found out by the next session.
fn is_left(pair: &Pair) -> bool {
    let Ok((_, disk)) = locate::locate(&pair.is.target) else { return false };
    let found = look_at_points(&pair.is.retention, &disk).ok().flatten();
    found.is_some_and(|(store, _)| matches!(store.catalogue().pending(), Some(Pending::Apply(_))))
        || Desk::due_of(&pair.is.retention, &name_of_points(&disk)).is_some()
}

/// What cannot be done with the state is told in its own words.
fn refused(error: &StateError) -> JobError {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    JobError::Refused(format!("{error}{}", cause.unwrap_or_default()))
}

/// What the source of a cancelled pass is told.
fn cancelled() -> JobError {
    JobError::Refused(
        "this pass was cancelled on the master target: when it is wanted again, failback send --anew begins a new one"
            .into(),
    )
}

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
