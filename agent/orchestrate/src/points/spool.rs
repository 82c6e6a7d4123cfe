//! Deltas that came through a pipe, stored to be read more than once.

use super::moving::{DeltaFile, from_start};
use super::nothing_under_way;
use super::space::{full, full_or};
use crate::{JobError, Progress};
use failback_retention::{FileId, Store};
use std::io::{self, Read};

/// Stores a delta that comes through a pipe, so that it can be read twice, and read again after an interruption.
///
/// # Errors
///
/// When the pipe breaks, or the retention drive fails or is full: nothing is kept then.
pub fn spool(store: &mut Store, delta: &mut dyn Read, progress: &dyn Progress) -> Result<FileId, JobError> {
    nothing_under_way(store)?;
    progress.phase("storing", None);
    let (file, mut out) = store.create_spool().map_err(|error| full_or(store, 0, error.into()))?;
    let mut buffer = vec![0; 1 << 20];
    let copied = loop {
        let len = match delta.read(&mut buffer) {
            // Ctrl-C reaches both ends of a pipe: that it ends then says nothing of the delta.
            Ok(0) if progress.stop_requested() => break Err(JobError::Interrupted("nothing was written".into())),
            Ok(0) => break out.sync().map_err(|source| full_or_failed(store, 0, source)),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted && !progress.stop_requested() => continue,
            Err(_) if progress.stop_requested() => break Err(JobError::Interrupted("nothing was written".into())),
            Err(source) => break Err(JobError::File { action: "read", path: "the pipe".into(), source }),
        };
        if let Err(source) = out.append(&buffer[..len]) {
            break Err(full_or_failed(store, 0, source));
        }
        progress.advance(len as u64);
        if progress.stop_requested() {
            break Err(JobError::Interrupted("nothing was written".into()));
        }
    };
    drop(out);
    match copied {
        Ok(()) => Ok(file),
        Err(error) => {
            store.discard(file)?;
            Err(error)
        }
    }
}

fn full_or_failed(store: &Store, needed: u64, source: io::Error) -> JobError {
    let place = store.directory().place();
    full(store, needed, &source).unwrap_or_else(|| JobError::File { action: "write to", path: place.into(), source })
}

/// A delta that was stored, to be read from its start.
///
/// # Errors
///
/// When it cannot be opened.
pub fn open_spool(store: &Store, file: FileId) -> Result<DeltaFile, JobError> {
    from_start(store, store.open_spool(file)?)
}
