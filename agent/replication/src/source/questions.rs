//! Values of a target's tree that somebody else than a pass wants to know.

use super::remote::RemoteBase;
use super::state::Pass;
use super::{Connector, attend};
use crate::message::Offer;
use crate::{Backoff, SessionError, Traffic};
use failback_hashtree::ChainingValue;
use failback_orchestrate::{BaseTree, JobError, NodeRun, Progress};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

/// How often somebody who waits looks whether there is still a reason to.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Questions that wait for a connection to the target, whoever makes one: each belongs to somebody who waits for its answer, so
/// there are never more of them than of those.
#[derive(Debug, Default)]
pub struct Questions {
    state: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    /// How often those who answer were told to look around.
    woken: u64,
    asked: VecDeque<(u64, Vec<NodeRun>)>,
    /// Numbers of those that somebody has taken to answer.
    taken: Vec<u64>,
    answered: Vec<(u64, Vec<ChainingValue>)>,
}

impl Questions {
    /// No question yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether somebody waits for an answer and nobody has taken the question.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().asked.is_empty()
    }

    /// Asks for at most 4096 values of the target's base, as it is when they are answered, and waits for them. `None` once
    /// `cancelled` says so.
    pub fn ask(&self, runs: &[NodeRun], cancelled: &dyn Fn() -> bool) -> Option<Vec<ChainingValue>> {
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        state.asked.push_back((id, runs.to_vec()));
        self.changed.notify_all();
        loop {
            if let Some(at) = state.answered.iter().position(|(answered, _)| *answered == id) {
                return Some(state.answered.swap_remove(at).1);
            }
            drop(self.changed.wait_timeout(state, LOOK_EVERY).unwrap_or_else(PoisonError::into_inner));
            // Whoever says so may hold locks of his own.
            let is_cancelled = cancelled();
            state = self.lock();
            if is_cancelled {
                state.asked.retain(|(asked, _)| *asked != id);
                state.taken.retain(|taken| *taken != id);
                state.answered.retain(|(answered, _)| *answered != id);
                return None;
            }
        }
    }

    /// Lets whoever waits for a question wait no longer.
    pub fn wake(&self) {
        self.lock().woken += 1;
        self.changed.notify_all();
    }

    /// Waits for a question for at most `patience` or until it is [woken](Self::wake), and answers it from `base`. `false` if there was none.
    ///
    /// # Errors
    ///
    /// When the base cannot answer it. The question waits for another base then.
    pub fn answer_one(&self, base: &dyn BaseTree, patience: Duration) -> Result<bool, JobError> {
        let until = Instant::now() + patience;
        let mut state = self.lock();
        let woken = state.woken;
        let (id, runs) = loop {
            if let Some(question) = state.asked.pop_front() {
                break question;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || state.woken != woken {
                return Ok(false);
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        };
        state.taken.push(id);
        drop(state);
        let answer = base.values(&runs);
        let mut state = self.lock();
        // Whoever asked may have gone in the meantime.
        let is_wanted = state.taken.contains(&id);
        state.taken.retain(|taken| *taken != id);
        let outcome = match answer {
            Ok(values) => {
                if is_wanted {
                    state.answered.push((id, values));
                }
                Ok(true)
            }
            Err(error) => {
                if is_wanted {
                    state.asked.push_front((id, runs));
                }
                Err(error)
            }
        };
        drop(state);
        self.changed.notify_all();
        outcome
    }

    /// Answers questions over the connections of a pass until that ends.
    pub(super) fn answered_by<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>, pass: &'scope Pass<'_>) {
        scope.spawn(move || {
            let Some(base) = RemoteBase::without_map(pass) else { return };
            while !pass.has_ended() {
                if self.answer_one(&base, LOOK_EVERY).is_err() {
                    return;
                }
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connects to a target as if for a pass, and hands its base to `job`, which may ask for values for as long as it likes, also from
/// several threads. Nothing is sent to the target, but what it keeps of an unfinished pass of this pair is thrown away by it. What
/// the base has free is asked for only if `wants_map`; otherwise nothing is free by what the base says of itself.
///
/// # Errors
///
/// When the target refuses or cannot be reached any more, or the job fails.
pub fn ask_target<T>(
    connector: &dyn Connector,
    offer: &Offer,
    backoff: &Backoff,
    wants_map: bool,
    progress: &dyn Progress,
    job: impl FnOnce(&dyn BaseTree) -> Result<T, JobError>,
) -> Result<T, SessionError> {
    let traffic = Arc::<Traffic>::default();
    let pass = Pass::of_questions(Offer { resumed: None, ..offer.clone() });
    thread::scope(|scope| {
        let pass = &pass;
        attend(scope, connector, pass, backoff, &traffic, progress);
        let met = if wants_map {
            let never_sent = SessionError::Breach("it has had a delta that was never sent");
            RemoteBase::meet(pass, None, offer.size).and_then(|base| base.ok_or(never_sent))
        } else {
            let fail = || pass.failure().unwrap_or(SessionError::Breach("it was given up"));
            RemoteBase::without_map(pass).ok_or_else(fail)
        };
        let done = met.and_then(|base| {
            // What the connection met is the reason, and not that a question failed.
            job(&base).map_err(|error| pass.failure().unwrap_or(SessionError::Job(error)))
        });
        pass.end();
        done
    })
}
