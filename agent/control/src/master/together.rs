//! Passes of a group's mark: all are applied, or none.
//!
//! Each is proven and then waits for the others, with its disk claimed and its points locked, so that what was proven stays so. The one that
//! is complete last decides, by one durable change of the state. From then on each is applied: by its own session, or where that failed by the
//! next one, or by nobody's, when the master target starts and each minute after that.

use super::{MasterTarget, now, refused};
use crate::state::{MarkState, Pair};
use failback_orchestrate::{JobError, Opened, Progress};
use failback_replication::GroupMark;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How often whoever waits looks whether there is still a reason to.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Wakes those who wait for the other passes of a mark.
#[derive(Debug, Default)]
pub(super) struct Decisions {
    lock: Mutex<()>,
    changed: Condvar,
}

impl Decisions {
    pub(super) fn wake(&self) {
        // Whoever is about to wait has looked before, and looks again soon.
        self.changed.notify_all();
    }

    fn wait(&self) {
        let held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_timeout(held, LOOK_EVERY).unwrap_or_else(PoisonError::into_inner));
    }
}

impl MasterTarget {
    /// Notes that all pairs of a group have their marks.
    pub(super) fn begin_mark(&self, group: &str) -> Result<GroupMark, JobError> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|error| {
            JobError::Refused(format!("the machine has no random bytes yet ({error}): try again later"))
        })?;
        let time = now();
        self.state().begin_mark(group, id, time).map_err(|error| refused(&error))?;
        self.decisions.wake();
        tracing::info!(group, "all of the group have their marks");
        Ok(GroupMark { id, time })
    }

    /// Gives up what a pair's group has marked and is not decided.
    pub(super) fn give_up_marks(&self, pair: &str, why: &str) -> Result<(), JobError> {
        let any = self.state().give_up_marks(pair).map_err(|error| refused(&error))?;
        if any {
            tracing::warn!(pair, "the mark of its group is given up: {why}");
            self.decisions.wake();
        }
        Ok(())
    }

    /// Says that a pass is complete and proven, and waits until all of its mark are. `is_left` once another connection has taken the place of
    /// this one, or it was broken from here; a source that is lost is not missed, since all of its pass is here. `may` tells whether the caller is
    /// still let in.
    pub(super) fn wait_for_group(
        &self,
        mark: [u8; 16],
        pair: &str,
        delta: [u8; 32],
        progress: &dyn Progress,
        is_left: &AtomicBool,
        may: &dyn Fn() -> bool,
    ) -> Result<(), JobError> {
        let mut stands = self.state().pair_is_complete(mark, pair, delta).map_err(|error| refused(&error))?;
        if stands == MarkState::Decided {
            tracing::info!(pair, "all passes of the group's mark are here, and are applied now");
            self.decisions.wake();
        }
        progress.phase("waiting for the other pairs of the group", None);
        while stands == MarkState::Marked {
            let ends = if progress.stop_requested() || is_left.load(Ordering::Acquire) {
                Some(JobError::Interrupted(
                    "all of this pass is here, and it waits for the other pairs of its group".into(),
                ))
            } else if may() {
                None
            } else {
                Some(JobError::Refused(
                    "the trust in this source has ended, so its pass is not applied: enroll it again, and begin the last pass of the whole \
                     group again"
                        .into(),
                ))
            };
            if let Some(error) = ends {
                // Unless it was decided in this moment.
                let now = self.state().pair_is_not_complete(mark, pair).map_err(|error| refused(&error))?;
                return if now == MarkState::Marked { Err(error) } else { Ok(()) };
            }
            self.decisions.wait();
            stands = self.state().mark_of(mark, pair).map_err(|error| refused(&error))?;
        }
        Ok(())
    }

    /// The group that a pair is in, for hooks; empty if it is in none.
    pub(super) fn group_of(&self, pair: &str) -> Result<String, JobError> {
        let group = self.state().group_of_pair(pair).map_err(|error| refused(&error))?;
        Ok(group.unwrap_or_default())
    }

    /// Notes that the pass of a pair is a recovery point now, of a mark or not.
    pub(super) fn note_applied(&self, pair: &Pair, points: &Opened, delta: [u8; 32]) -> Result<(), JobError> {
        let point = points.store.catalogue().present().id;
        self.state().pair_is_applied(&pair.is.name, delta, point.0).map_err(|error| refused(&error))
    }

    /// Applies what is decided and not applied, of pairs that nobody works at.
    pub(super) fn apply_decided(self: &Arc<Self>) {
        // The state is not held meanwhile.
        let decided = self.state().pairs_decided().unwrap_or_default();
        for name in decided {
            let Some(slot) = self.slots.take_if_free(&name) else { continue };
            let Ok(pair) = self.state().pair(&name) else { continue };
            self.note_recovered(&pair, slot);
        }
    }
}
