//! Passes of a group's mark: all are applied, or none.
//!
//! Each is proven and then waits for the others. The one that is complete last decides, by one durable change of the state. From then on each
//! is applied by its own session, by the next one, or by nobody's: when the master target starts, or when it was decided while the source
//! was away.

use super::{MasterTarget, now, refused};
use crate::state::{Mark, MarkState, Pair};
use failback_orchestrate::{JobError, Opened, Progress};
use failback_replication::GroupMark;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
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

    /// Says that a pass is complete and proven, and waits until all of its mark are. `is_left` once its connection is no more.
    pub(super) fn wait_for_group(
        self: &Arc<Self>,
        mark: [u8; 16],
        pair: &str,
        delta: [u8; 32],
        progress: &dyn Progress,
        is_left: &AtomicBool,
    ) -> Result<(), JobError> {
        let mut stands = self.state().pair_is_complete(mark, pair, delta).map_err(|error| refused(&error))?;
        if stands == MarkState::Decided {
            tracing::info!(pair, "all passes of the group's mark are here, and are applied now");
            self.decisions.wake();
            let master = Arc::clone(self);
            let this_one = pair.to_owned();
            thread::spawn(move || master.apply_for_absent(mark, &this_one));
        }
        progress.phase("waiting for the other pairs of the group", None);
        while stands == MarkState::Marked {
            if progress.stop_requested() || is_left.load(Ordering::Acquire) {
                return Err(JobError::Interrupted(
                    "all of this pass is here, and it waits for the other pairs of its group".into(),
                ));
            }
            self.decisions.wait();
            stands = self.state().mark_of(mark, pair).map_err(|error| refused(&error))?;
        }
        Ok(())
    }

    /// Notes that the pass of a pair is a recovery point now, of a mark or not.
    pub(super) fn note_applied(&self, pair: &Pair, points: &Opened, delta: [u8; 32]) -> Result<(), JobError> {
        let point = points.store.catalogue().present().id;
        self.state().pair_is_applied(&pair.is.name, delta, point.0).map_err(|error| refused(&error))
    }

    /// Applies the passes of a decided mark whose sources are away.
    fn apply_for_absent(self: &Arc<Self>, id: [u8; 16], but: &str) {
        let marks = self.state().marks_of_pair(but).unwrap_or_default();
        let Some(Mark { pairs, .. }) = marks.into_iter().find(|mark| mark.id == id) else { return };
        for name in pairs.into_iter().map(|pair| pair.pair).filter(|pair| pair != but) {
            let Some(slot) = self.slots.take_if_free(&name) else { continue };
            let Ok(pair) = self.state().pair(&name) else { continue };
            self.note_recovered(&pair, slot);
        }
    }
}
