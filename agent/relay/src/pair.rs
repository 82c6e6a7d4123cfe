//! What the relay knows of one pair, in memory as on its disk.

use crate::files::{Applied, Found, PairFiles, Waiting};
use crate::leaves::Leaves;
use crate::ledger::{Ledger, charge};
use failback_orchestrate::{BaseTree, JobError, StoredTree};
use failback_replication::{Offer, Questions, Spool};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// One pair.
pub(crate) struct Pair {
    pub(crate) name: String,
    pub(crate) files: PairFiles,
    /// The delta that arrives.
    pub(crate) spool: Mutex<Spool>,
    /// Questions for the target.
    pub(crate) questions: Questions,
    /// Values below those that the tree has.
    pub(crate) leaves: Leaves,
    ledger: Arc<Ledger>,
    state: Mutex<PairState>,
    changed: Condvar,
}

/// Breaks a connection.
pub(crate) type Breaker = Arc<dyn Fn() + Send + Sync>;

/// What changes.
#[derive(Default)]
pub(crate) struct PairState {
    /// Deltas for the target, the first one next.
    pub(crate) waiting: VecDeque<Waiting>,
    /// The tree after the last of them; `None` if it has to be asked for.
    pub(crate) tree: Option<Arc<StoredTree>>,
    /// The number of the last delta in the tree, and the highest number that was ever used.
    pub(crate) tree_number: Option<u64>,
    pub(crate) last: u64,
    pub(crate) applied: Option<Applied>,
    /// Grows when the base that sources were told is no more.
    pub(crate) generation: u64,
    /// Why that was, the last time.
    pub(crate) lost: Option<String>,
    /// What the disk of the relay did, after which nothing is certain: the pair is not touched until the relay starts again.
    pub(crate) broken: Option<String>,
    pub(crate) session: Option<(u64, Arc<Token>, Breaker)>,
    /// The newest session that wants the pair.
    pub(crate) wanted: u64,
    /// What a source offered last: the target is asked for values as if for this.
    pub(crate) offer: Option<Offer>,
    /// Whether a source waits for the tree.
    pub(crate) wants_tree: bool,
    /// Whether somebody has a connection to the target for this pair, or is making one.
    pub(crate) is_busy: bool,
    pub(crate) upstream: Option<Breaker>,
    pub(crate) failures: u32,
    pub(crate) not_before: Option<Instant>,
    pub(crate) last_error: Option<String>,
    /// How often the target would not go on, and what it said the last time.
    pub(crate) refusals: u64,
    pub(crate) refusal: Option<String>,
    /// Whether a source is held because there is no room.
    pub(crate) is_held: bool,
}

/// Whether what a session waits for is still wanted.
#[derive(Debug, Default)]
pub(crate) struct Token {
    superseded: AtomicBool,
    no_questions: AtomicBool,
}

impl Token {
    /// Another session has come for the pair, or the relay stops.
    pub(crate) fn supersede(&self) {
        self.superseded.store(true, Ordering::Release);
    }

    pub(crate) fn is_superseded(&self) -> bool {
        self.superseded.load(Ordering::Acquire)
    }

    pub(crate) fn no_more_questions(&self) {
        self.no_questions.store(true, Ordering::Release);
    }

    /// Whether nobody waits for an answer.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.is_superseded() || self.no_questions.load(Ordering::Acquire)
    }
}

impl Pair {
    /// Opens the pair in `path`, or makes it, and finishes what was interrupted. Returns what is wrong besides, in sentences.
    pub(crate) fn open(
        name: &str,
        path: &Path,
        leaf_bytes: u64,
        ledger: &Arc<Ledger>,
    ) -> Result<(Self, Vec<String>), JobError> {
        let files = PairFiles::open(path)?;
        let Found { waiting, aside, tree, applied, last, remarks } = files.recover()?;
        let spool = Spool::open(&files.arriving())?;
        let sum = |lens: &mut dyn Iterator<Item = u64>| lens.fold(0_u64, |sum, len| sum.saturating_add(charge(len)));
        ledger.change(name, |share| {
            share.waiting = sum(&mut waiting.iter().map(|waiting| waiting.len));
            share.aside = sum(&mut aside.iter().copied());
            (share.waiting_deltas, share.aside_deltas) = (waiting.len() as u64, aside.len() as u64);
            share.arriving = spool.len();
        });
        let tree_number = tree.is_some().then(|| waiting.last().map_or(last, |waiting| waiting.number));
        let state = PairState {
            waiting: waiting.into(),
            tree: tree.map(Arc::new),
            tree_number,
            last,
            applied,
            last_error: remarks.last().cloned(),
            ..PairState::default()
        };
        let pair = Self {
            name: name.to_owned(),
            leaves: Leaves::open(&files.leaves(), leaf_bytes),
            files,
            spool: Mutex::new(spool),
            questions: Questions::new(),
            ledger: Arc::clone(ledger),
            state: Mutex::new(state),
            changed: Condvar::new(),
        };
        Ok((pair, remarks))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, PairState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something changes, but not longer than `patience`.
    pub(crate) fn wait<'a>(&self, state: MutexGuard<'a, PairState>, patience: Duration) -> MutexGuard<'a, PairState> {
        self.changed.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner).0
    }

    pub(crate) fn notify(&self) {
        self.changed.notify_all();
    }

    /// No source is sending any more.
    pub(crate) fn source_left(&self, arrived: u64) {
        self.ledger.source_left(&self.name, arrived);
    }

    pub(crate) fn spooled(&self) -> u64 {
        self.spool.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Takes over a delta that has arrived, is flushed and proven, and whose tree is made: from here on it waits for the target.
    /// Returns its number.
    pub(crate) fn store(&self, generation: u64, waiting: Waiting) -> Result<u64, JobError> {
        let mut state = self.lock();
        state.check(&self.name, generation)?;
        let number = state.last + 1;
        let old = state.tree_number;
        let stored = (|| {
            self.files.put_delta(number)?;
            let next = Spool::open(&self.files.arriving())?;
            *self.spool.lock().unwrap_or_else(PoisonError::into_inner) = next;
            self.files.put_tree(number, old)
        })();
        let tree = stored.map_err(|error| state.give_up(&self.name, error))?;
        state.last = number;
        (state.tree, state.tree_number) = (Some(Arc::new(tree)), Some(number));
        state.waiting.push_back(Waiting { number, ..waiting });
        drop(state);
        self.ledger.change(&self.name, |share| {
            share.waiting = share.waiting.saturating_add(charge(waiting.len));
            share.waiting_deltas += 1;
        });
        self.ledger.source_left(&self.name, 0);
        self.notify();
        Ok(number)
    }

    /// The target has applied the first delta that waits.
    pub(crate) fn forget(&self, first: Waiting) -> Result<(), JobError> {
        let mut state = self.lock();
        let applied = Applied { number: first.number, delta: first.key, root: first.root };
        self.files.forget(applied).map_err(|error| state.give_up(&self.name, error))?;
        state.waiting.pop_front();
        state.applied = Some(applied);
        drop(state);
        self.ledger.change(&self.name, |share| {
            share.waiting = share.waiting.saturating_sub(charge(first.len));
            share.waiting_deltas = share.waiting_deltas.saturating_sub(1);
        });
        self.notify();
        Ok(())
    }

    /// Nothing that waits can ever be applied: it is kept aside, and the next base is asked for. Returns how many deltas that are.
    pub(crate) fn lose_base(&self, why: &str) -> Result<u64, JobError> {
        let mut state = self.lock();
        let count = state.waiting.len() as u64;
        let mut bytes = 0_u64;
        let set_aside = (|| {
            // Without a tree nobody can add to what is of no use.
            self.files.remove_trees()?;
            (state.tree, state.tree_number) = (None, None);
            // The last first: what is left in between is a beginning that leads on.
            while let Some(last) = state.waiting.back() {
                bytes = bytes.saturating_add(charge(self.files.aside(last.number)?));
                state.waiting.pop_back();
            }
            Ok(())
        })();
        set_aside.map_err(|error| state.give_up(&self.name, error))?;
        let kept = match count {
            0 => String::new(),
            1 => "; 1 delta that waited for it is kept aside until it is dropped".into(),
            _ => format!("; {count} deltas that waited for it are kept aside until they are dropped"),
        };
        let sentence = format!("{why}{kept}; begin a new pass from what the target has now");
        state.generation += 1;
        (state.lost, state.last_error) = (Some(sentence.clone()), Some(sentence));
        (state.failures, state.not_before) = (0, None);
        drop(state);
        self.ledger.change(&self.name, |share| {
            share.waiting = share.waiting.saturating_sub(bytes);
            share.aside = share.aside.saturating_add(bytes);
            share.waiting_deltas = share.waiting_deltas.saturating_sub(count);
            share.aside_deltas += count;
        });
        self.notify();
        Ok(count)
    }

    /// Removes what was kept aside. Returns how many deltas that were, and how many bytes.
    pub(crate) fn drop_aside(&self) -> Result<(u64, u64), JobError> {
        let state = self.lock();
        let (deltas, bytes) = self.files.drop_aside()?;
        drop(state);
        self.ledger.change(&self.name, |share| {
            (share.aside, share.aside_deltas) = (0, 0);
        });
        Ok((deltas, bytes))
    }

    /// Takes over the tree that the target was asked for. `false` if it is not wanted any more.
    pub(crate) fn put_tree(&self) -> Result<bool, JobError> {
        let mut state = self.lock();
        state.wants_tree = false;
        if !state.waiting.is_empty() || state.tree.is_some() {
            return Ok(false);
        }
        let number = state.last;
        let tree = self.files.put_tree(number, None).map_err(|error| state.give_up(&self.name, error))?;
        (state.tree, state.tree_number) = (Some(Arc::new(tree)), Some(number));
        drop(state);
        self.notify();
        Ok(true)
    }

    /// Whether a target with this base can be what the tree here is of, when nothing waits for it. `None` if that cannot be told.
    pub(crate) fn knows(&self, base: &dyn BaseTree) -> Option<bool> {
        let state = self.lock();
        let tree = state.tree.as_ref().filter(|_| state.waiting.is_empty())?;
        Some(tree.root() == base.root() && tree.shape() == base.shape() && tree.coverage() == base.coverage())
    }
}

impl PairState {
    /// Whether a session that began with this generation may go on.
    pub(crate) fn check(&self, pair: &str, generation: u64) -> Result<(), JobError> {
        if let Some(broken) = &self.broken {
            return Err(JobError::Refused(broken.clone()));
        }
        if self.generation == generation {
            return Ok(());
        }
        let begun = || format!("the base of pair {pair} has changed: begin this pass again");
        Err(JobError::Refused(self.lost.clone().unwrap_or_else(begun)))
    }

    /// Whether the target has not refused since there were `seen` refusals. Whoever waits for it would wait for ever, or for somebody
    /// to mend something.
    pub(crate) fn check_target(&self, pair: &str, seen: u64) -> Result<(), JobError> {
        match &self.refusal {
            Some(why) if self.refusals != seen => Err(JobError::Refused(format!(
                "the target of pair {pair} will not take what the relay sends on: {why}; what waits stays at the relay, which tries again: \
                 mend that, or let the relay give it up"
            ))),
            _ => Ok(()),
        }
    }

    /// The target said why it will not go on.
    pub(crate) fn refused(&mut self, why: String) {
        self.refusals += 1;
        self.refusal = Some(why);
    }

    /// The disk of the relay failed where it must not: what it holds now is not known before it is read again.
    fn give_up(&mut self, pair: &str, error: JobError) -> JobError {
        let sentence = format!(
            "the spool of pair {pair} failed: {}; look at the disk of the relay, and start the relay again",
            failback_orchestrate::with_causes(&error)
        );
        (self.broken, self.last_error) = (Some(sentence.clone()), Some(sentence));
        error
    }

    /// Remembers what the target's side did wrong, and when to try again.
    pub(crate) fn failed(&mut self, sentence: String, wait: impl FnOnce(u32) -> Duration) {
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(Instant::now() + wait(self.failures));
        self.last_error = Some(sentence);
    }

    /// Whether it is time to try the target.
    pub(crate) fn is_due(&self) -> bool {
        self.not_before.is_none_or(|time| time <= Instant::now())
    }
}
