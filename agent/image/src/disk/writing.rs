//! What happens to a disk as a whole when it is written: the content ID, flushes, and the end.

use super::{Body, Disk, Layer};
use crate::extent::ExtentError;
use failback_blockio::{Action, Buffer, IoError, Operation, run};
use failback_units::{ByteOffset, ByteRange};
use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use std::sync::{Mutex, PoisonError};

/// How an open disk is changed.
pub(super) struct Writing {
    /// The content ID of what will be there: in which file, at which byte, and its digits.
    pub(super) cid: (usize, u64, String),
    /// Whether that was written.
    pub(super) begun: Mutex<bool>,
    /// Held during a flush, so that nobody takes another's flush for done while it is under way.
    pub(super) flushing: Mutex<()>,
    /// Whether a flush failed.
    pub(super) broken: AtomicBool,
}

impl Writing {
    pub(super) fn new(cid: (usize, u64, String)) -> Self {
        Self { cid, begun: Mutex::new(false), flushing: Mutex::new(()), broken: AtomicBool::new(false) }
    }
}

impl Disk {
    /// The layer that is written.
    pub(super) fn top(&self) -> &Layer {
        self.layers.first().unwrap_or_else(|| unreachable!("a disk has a layer"))
    }

    /// Before the first change: a new content ID, so that no child takes the disk for what it was. Durable first.
    pub(super) fn begin_writing(&self, action: Action, range: ByteRange) -> Result<(), IoError> {
        let Some(writing) = &self.writing else {
            let why = "the disk was opened for reading only";
            return Err(self.error(action, range, io::Error::new(io::ErrorKind::PermissionDenied, why)));
        };
        if writing.broken.load(Acquire) {
            let why = "an earlier flush failed, so that nobody knows what the disk holds; open it again";
            return Err(self.error(action, range, io::Error::other(why)));
        }
        let mut begun = writing.begun.lock().unwrap_or_else(PoisonError::into_inner);
        if !*begun {
            let (file, at, digits) = &writing.cid;
            let device = &self.files[*file].device;
            let at = ByteOffset::new(*at).unwrap_or_default();
            run(&**device, Operation::Write { at, from: Buffer::copy_of(digits.as_bytes()) })?;
            run(&**device, Operation::Flush)?;
            *begun = true;
        }
        Ok(())
    }

    /// Makes durable what was completed before.
    pub(super) fn flush(&self) -> Result<(), IoError> {
        let nowhere = ByteRange::default();
        let Some(writing) = &self.writing else { return Ok(()) };
        let _one = writing.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        if writing.broken.load(Acquire) {
            let why = "an earlier flush failed; open the disk again";
            return Err(self.error(Action::Flush, nowhere, io::Error::other(why)));
        }
        let result = self.top().parts.iter().try_for_each(|part| self.flush_part(&part.body));
        if result.is_err() {
            writing.broken.store(true, Release);
        }
        result.map_err(|error| self.failed(Action::Flush, nowhere, error))
    }

    fn flush_part(&self, body: &Body) -> Result<(), ExtentError> {
        let (Body::Flat { file, .. } | Body::Sparse { file, .. }) = body else { return Ok(()) };
        let slot = &self.files[*file];
        if !slot.touched.swap(false, AcqRel) {
            return Ok(());
        }
        match body {
            Body::Sparse { extent, .. } => extent.commit(),
            _ => Ok(run(&*slot.device, Operation::Flush).map(drop)?),
        }
    }

    /// Makes everything durable and closes the extents cleanly. A disk that is dropped does the same, and nobody learns
    /// how that ended.
    ///
    /// # Errors
    ///
    /// When a flush fails now or did before. The disk is then still marked as not cleanly closed, and the next opening for
    /// writing looks at all of its tables.
    pub fn close(mut self) -> Result<(), IoError> {
        let result = self.finish();
        self.writing = None;
        result
    }

    fn finish(&self) -> Result<(), IoError> {
        let Some(writing) = &self.writing else { return Ok(()) };
        self.flush()?;
        let result = self.top().parts.iter().try_for_each(|part| match &part.body {
            Body::Sparse { extent, .. } => extent.close(),
            _ => Ok(()),
        });
        if result.is_err() {
            writing.broken.store(true, Release);
        }
        result.map_err(|error| self.failed(Action::Flush, ByteRange::default(), error))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.finish();
    }
}
