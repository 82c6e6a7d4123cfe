//! The way to the target: what waits is sent on, and what is not known is asked.

use crate::Relay;
use crate::files::Waiting;
use crate::pair::{Pair, PairState};
use failback_orchestrate::{BaseTree, JobError, Progress, store_tree, with_causes};
use failback_replication::{
    Backoff, Connector, Link, Offer, SessionError, StoredDelta, StoredOptions, ask_target, send_stored,
};
use std::io;
use std::sync::Arc;
use std::sync::PoisonError;
use std::time::Duration;

/// Connections that may fail one after the other before other pairs have their turn.
const ATTEMPTS: u32 = 2;
/// How often somebody without work looks for some.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long a connection that only asks is kept for the next question.
const IDLE: Duration = Duration::from_secs(2);

/// What a pair needs of its target.
enum Job {
    Forward(Waiting),
    FetchTree(Offer),
    Ask(Offer),
}

/// What was done for a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There was nothing to do, or it is not time to try again.
    Nothing,
    /// A delta was applied by the target, and is forgotten here.
    Forwarded,
    /// The target's tree was asked for, or values of it.
    Asked,
    /// The target is at another base than was known: what waited is kept aside.
    LostBase,
    /// It did not go well: [`PairStatus::last_error`](crate::PairStatus::last_error) says why. It is tried again.
    Failed,
}

impl Relay {
    /// Sends on what waits, and asks what is to be known, until the relay is [stopped](Self::stop). As many pairs as the options say
    /// are served at the same time, each in the order of its deltas; one that fails does not hold up the others.
    pub fn run(&self) {
        std::thread::scope(|scope| {
            for _ in 0..self.options().forwarders.max(1) {
                scope.spawn(|| {
                    while !self.is_stopping() {
                        if !self.work() {
                            let guard = self.work_lock().lock().unwrap_or_else(PoisonError::into_inner);
                            let _ = self.work_there().wait_timeout(guard, LOOK_EVERY);
                        }
                    }
                });
            }
        });
    }

    /// Does one thing for the pair that has waited longest. `false` if there is nothing to do.
    fn work(&self) -> bool {
        let mut pairs = self.pairs();
        pairs.sort_by_key(|pair| {
            pair.lock().waiting.front().map_or(std::time::SystemTime::UNIX_EPOCH, |first| first.since)
        });
        pairs.iter().any(|pair| self.step(pair) != Step::Nothing)
    }

    /// Does one thing for a pair.
    pub(crate) fn step(&self, pair: &Arc<Pair>) -> Step {
        let (job, before) = {
            let mut state = pair.lock();
            if state.is_busy || state.broken.is_some() || !state.is_due() || self.is_stopping() {
                return Step::Nothing;
            }
            let Some(job) = job_of(pair, &state) else { return Step::Nothing };
            state.is_busy = true;
            (job, state.last_error.clone())
        };
        let done = self.run_job(pair, job);
        let mut state = pair.lock();
        (state.is_busy, state.upstream) = (false, None);
        let step = match done {
            Ok(step) => {
                if step != Step::LostBase {
                    state.failures = 0;
                    state.not_before = None;
                    if state.broken.is_none() && step == Step::Forwarded {
                        state.last_error = None;
                    }
                }
                step
            }
            Err(error) => {
                let backoff = self.options().backoff;
                match &error {
                    SessionError::Refused(why) | SessionError::Mismatch(why) => state.refused(why.clone()),
                    // A target may be away for days, and what waits for it waits.
                    _ => {}
                }
                state.failed(with_causes(&error), |failed| backoff.wait(failed));
                Step::Failed
            }
        };
        // The same is told once, however often it is tried again.
        let is_new = step == Step::LostBase || before != state.last_error;
        let sentence = state.last_error.clone().filter(|_| is_new);
        drop(state);
        if let (Step::Failed | Step::LostBase, Some(sentence)) = (step, sentence) {
            self.hooks().note(&pair.name, &sentence);
        }
        pair.notify();
        step
    }

    fn run_job(&self, pair: &Arc<Pair>, job: Job) -> Result<Step, SessionError> {
        let upstream = Upstream { relay: self, pair };
        let backoff = Backoff { attempts: ATTEMPTS, ..self.options().backoff };
        let progress = Stopping(self);
        match job {
            Job::Forward(first) => {
                let delta = Arc::new(StoredDelta::open(&pair.files.delta(first.number))?);
                let options = StoredOptions { pair: pair.name.clone(), backoff };
                match send_stored(&upstream, &delta, &options, &pair.questions, &progress) {
                    Ok(_) => {
                        pair.forget(first)?;
                        Ok(Step::Forwarded)
                    }
                    Err(SessionError::OtherBase { expected, found }) => {
                        let why =
                            format!("the target is at {found} and not at {expected}, which this relay had been told");
                        pair.lose_base(&why)?;
                        Ok(Step::LostBase)
                    }
                    Err(error) => Err(error),
                }
            }
            Job::FetchTree(offer) => {
                let next = pair.files.next_tree();
                ask_target(&upstream, &offer, &backoff, true, &progress, |base| store_tree(base, &next, &progress))?;
                pair.put_tree()?;
                Ok(Step::Asked)
            }
            Job::Ask(offer) => {
                let answer = |base: &dyn BaseTree| self.answer(pair, base);
                match ask_target(&upstream, &offer, &backoff, false, &progress, answer)? {
                    None => Ok(Step::Asked),
                    Some(why) => {
                        pair.lose_base(&why)?;
                        Ok(Step::LostBase)
                    }
                }
            }
        }
    }

    /// Answers questions as long as there are some. Says why not, if the target is not at the base that is known.
    fn answer(&self, pair: &Pair, base: &dyn BaseTree) -> Result<Option<String>, JobError> {
        if pair.knows(base) == Some(false) {
            return Ok(Some(format!("the target is at {}, which is not what this relay had been told", base.root())));
        }
        while !self.is_stopping() && pair.questions.answer_one(base, IDLE)? {
            if !pair.lock().waiting.is_empty() {
                break;
            }
        }
        Ok(None)
    }
}

fn job_of(pair: &Pair, state: &PairState) -> Option<Job> {
    if let Some(first) = state.waiting.front() {
        return Some(Job::Forward(*first));
    }
    let offer = state.offer.clone()?;
    if state.wants_tree && state.tree.is_none() {
        return Some(Job::FetchTree(offer));
    }
    (!pair.questions.is_empty()).then_some(Job::Ask(offer))
}

/// Connects to the target of a pair, so that the relay can break the connection when it stops.
struct Upstream<'a> {
    relay: &'a Relay,
    pair: &'a Pair,
}

impl Connector for Upstream<'_> {
    fn connect(&self) -> io::Result<Link> {
        let link = self.relay.hooks().connect(&self.pair.name)?;
        self.pair.lock().upstream = Some(Arc::clone(&link.breaker));
        if self.relay.is_stopping() {
            // What breaks it is kept, and keeps it.
            (link.breaker)();
            return Err(io::ErrorKind::Interrupted.into());
        }
        Ok(link)
    }
}

/// Nobody watches, but somebody may stop it.
struct Stopping<'a>(&'a Relay);

impl Progress for Stopping<'_> {
    fn phase(&self, _: &'static str, _: Option<u64>) {}
    fn advance(&self, _: u64) {}
    fn note(&self, _: &str) {}
    fn stop_requested(&self) -> bool {
        self.0.is_stopping()
    }
}
