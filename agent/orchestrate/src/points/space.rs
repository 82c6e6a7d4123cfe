//! A retention drive that is full, or is going to be.

use super::MoveOptions;
use super::merge::remove;
use crate::{JobError, Progress};
use failback_blockio::Device;
use failback_retention::{Catalogue, LinkError, MoveError, Store, StoreError, is_full, plan_free};
use failback_units::{ByteCount, HumanBytes};
use std::io;

/// The sentence for a retention drive that is full; `None` if that is not what went wrong. `needed` are the bytes that were to
/// be kept, at most.
pub(super) fn full(store: &Store, needed: u64, source: &io::Error) -> Option<JobError> {
    if !is_full(source) {
        return None;
    }
    let free = store.directory().space().map_or(ByteCount::ZERO, |space| space.available);
    let wanted = if needed == 0 { String::new() } else { format!(" for up to {}", HumanBytes(needed)) };
    Some(JobError::Refused(format!(
        "the retention drive is full ({} left in {}{wanted}), and the disk was left as it is: prune recovery points, or use a larger \
         drive",
        free.human(),
        store.directory().place()
    )))
}

/// What a failure means that came before the disk was written: if the drive is full, what is to be done about it.
pub(super) fn full_or(store: &Store, needed: u64, error: JobError) -> JobError {
    source_of(&error).and_then(|source| full(store, needed, source)).unwrap_or(error)
}

/// What the retention drive said, if it is what failed.
fn source_of(error: &JobError) -> Option<&io::Error> {
    match error {
        JobError::Link(LinkError::Io { source, .. })
        | JobError::Store(StoreError::Io { source, .. } | StoreError::Link(LinkError::Io { source, .. })) => {
            Some(source)
        }
        _ => None,
    }
}

/// Whether it failed because the retention drive has no room left.
fn ran_out(error: &JobError) -> bool {
    source_of(error).is_some_and(is_full)
}

/// Puts on record what is going to be done to the disk.
pub(super) fn begin(
    store: &mut Store,
    change: impl FnOnce(&Catalogue) -> Result<Catalogue, MoveError>,
) -> Result<(), JobError> {
    store.change(change).map_err(|error| full_or(store, 0, error.into()))
}

/// Sees to it that there is room for what is going to be kept: removes points that the limits no longer keep, and says which.
///
/// What is kept is compressed, so what it needs is known when it is there. Where the limits do not give enough, the attempt is made
/// all the same: it ends before the disk is touched.
pub(super) fn make_room(
    device: &dyn Device,
    store: &mut Store,
    needed: u64,
    options: &MoveOptions,
    progress: &dyn Progress,
) -> Result<(), JobError> {
    let Ok(space) = store.directory().space() else { return Ok(()) };
    let Some(missing) = needed.checked_sub(space.available.get()).and_then(ByteCount::new) else { return Ok(()) };
    if missing.is_zero() {
        return Ok(());
    }
    let plan = plan_free(store.catalogue(), &options.policy, options.now, missing);
    for step in &plan.steps {
        progress.note(&format!(
            "recovery point {} is removed to make room for up to {}: {}",
            step.prune.point(),
            HumanBytes(needed),
            step.reason
        ));
    }
    let steps: Vec<_> = plan.steps.iter().map(|step| step.prune).collect();
    if steps.is_empty() {
        return Ok(());
    }
    match remove(device, store, &steps, options, progress) {
        // Merging needs room of its own for a moment. Whether there is enough without it is soon found out.
        Err(error) if ran_out(&error) => Ok(()),
        pruned => pruned.map(|_| ()),
    }
}

/// Puts on record what was done to the disk, which is durable there.
pub(super) fn publish(
    store: &mut Store,
    change: impl FnOnce(&Catalogue) -> Result<Catalogue, MoveError>,
) -> Result<(), JobError> {
    store.change(change).map_err(|error| {
        let error = JobError::from(error);
        if !ran_out(&error) {
            return error;
        }
        JobError::WhileWriting {
            state: "the disk is written, durably, but the retention drive is full, so that this could not be put on record: make room \
                    there, then failback resume"
                .into(),
            source: Box::new(error),
        }
    })
}
