//! A retention drive that is full.

use crate::JobError;
use failback_retention::{Catalogue, LinkError, MoveError, Store, StoreError};
use failback_units::{ByteCount, HumanBytes};
use std::io;

/// The sentence for a retention drive that is full; `None` if that is not what went wrong. `needed` are the bytes that were to
/// be kept, at most.
pub(super) fn full(store: &Store, needed: u64, source: &io::Error) -> Option<JobError> {
    if !matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
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
    let source = match &error {
        JobError::Link(LinkError::Io { source, .. })
        | JobError::Store(StoreError::Io { source, .. } | StoreError::Link(LinkError::Io { source, .. })) => source,
        _ => return error,
    };
    full(store, needed, source).unwrap_or(error)
}

/// Puts on record what is going to be done to the disk.
pub(super) fn begin(
    store: &mut Store,
    change: impl FnOnce(&Catalogue) -> Result<Catalogue, MoveError>,
) -> Result<(), JobError> {
    store.change(change).map_err(|error| full_or(store, 0, error.into()))
}
