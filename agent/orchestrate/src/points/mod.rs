//! Recovery points: applying a delta so that it can be undone, and going from point to point.
//!
//! # The order of things
//!
//! A disk is moved by a delta in three stages, each of which begins with what the one before has made durable:
//!
//! 1. **Record.** The delta is proven, what stands on the disk is compared with it, and all of that is written to the retention
//!    drive as the delta that leads back, which is then flushed. The disk is not touched.
//! 2. **Begin.** The catalogue says what is under way. From here on the disk may be anywhere between both points.
//! 3. **Write, flush, publish.** The disk is written and flushed; then the catalogue says that it is there.
//!
//! So nothing is ever recorded that a write of ours could have changed: the first record is the only one. What is under way can
//! be finished by the delta, or taken back by the recorded one, and both are complete before the first write.

mod apply;
mod merge;
mod moving;
mod origin;
mod ragged;
mod record;
mod recorder;
mod shelf;
mod space;
mod spool;
mod survey;
mod travel;
mod tree;
mod view;
mod way;

pub use apply::{PointReport, apply_recorded};
pub use merge::{PruneReport, keep_to_limits, prune};
pub use moving::DeltaFile;
pub use origin::{KeepingPlan, plan_keeping, unknown_point};
pub use shelf::{
    FoundDisk, Opened, all_points, is_unknown, look_at_points, name_of_points, points_for_changes, points_for_reading,
    points_made_for_changes,
};
pub use spool::{open_spool, spool};
pub use travel::{TravelReport, nothing_to_resume, nothing_to_undo, resume, rollback, undo};
pub use view::{OpenPoint, PointCheck, export_delta, export_image, open_point, refuse_fuzzy, verify_point};

use crate::apply::Checked;
use crate::{JobError, Pace};
use failback_retention::{FileId, Policy, Store};

/// How to move a disk between points.
#[derive(Clone, Copy, Debug, Default)]
pub struct MoveOptions {
    /// The time to state, in seconds since 1970.
    pub now: i64,
    /// Bytes that nobody else has, for the names of deltas.
    pub seed: [u8; 16],
    /// Whether no other disk can have the identity of this one: see [`DiskBinding`](crate::DiskBinding).
    pub certain: bool,
    /// How much is done at a time.
    pub pace: Pace,
    /// How much is kept, at least: what it no longer keeps goes if the retention drive would become full.
    pub policy: Policy,
}

impl MoveOptions {
    /// The random part of the header of a new delta.
    fn id(&self, store: &Store) -> [u8; 16] {
        let FileId(number) = store.next_file();
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.seed).update(&number.to_le_bytes());
        *hasher.finalize().as_bytes().first_chunk().expect("a hash has 32 bytes")
    }
}

/// Refuses to go on while something else is unfinished.
fn nothing_under_way(store: &Store) -> Result<(), JobError> {
    match store.catalogue().pending() {
        None => Ok(()),
        Some(pending) => Err(JobError::Refused(format!(
            "the {} that was begun on this disk is not finished: failback resume finishes it, failback undo takes it back",
            pending.name()
        ))),
    }
}
