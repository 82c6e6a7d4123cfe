//! The moment of a disk that a pass reads: how it is come by, and how all is let go again.

use super::hooks::Hook;
use super::job::{Job, check_mark, refuse_moving};
use crate::compare::open_source;
use failback_orchestrate::{DiskIdentity, JobError, SourceDisk, SourceOptions};
use failback_replication::Marking;
use std::path::PathBuf;

/// A moment that is being taken, or was. What was done for it is taken back by [`let_go`](Self::let_go).
pub(crate) struct Moment<'a, 'b> {
    job: &'a Job<'b>,
    is_last: bool,
    is_quiesced: bool,
    /// What the hook mark printed, once it was run: nothing, if it did not get so far.
    marked: Option<String>,
    source: Option<SourceDisk>,
    /// The disk, where a snapshot is read in its place.
    disk: Option<DiskIdentity>,
}

impl<'a, 'b> Moment<'a, 'b> {
    pub(crate) const fn new(job: &'a Job<'b>, is_last: bool) -> Self {
        Self { job, is_last, is_quiesced: false, marked: None, source: None, disk: None }
    }

    /// The path of the snapshot that is read in the place of the disk.
    pub(crate) fn snapshot(&self) -> Option<PathBuf> {
        self.marked.as_deref().filter(|device| !device.is_empty()).map(PathBuf::from)
    }

    /// What is read.
    pub(crate) fn source(&self) -> &SourceDisk {
        self.source.as_ref().expect("a moment is read once it was taken")
    }

    /// Which disk it is a moment of, as it was when the moment was taken.
    pub(crate) fn disk(&self) -> &DiskIdentity {
        self.disk.as_ref().unwrap_or_else(|| self.source().identity())
    }

    /// Lets programs go on that were brought to rest, if what is read does not need that any longer.
    pub(crate) fn release_early(&mut self) -> Result<(), JobError> {
        if self.snapshot().is_some() { self.release() } else { Ok(()) }
    }

    fn release(&mut self) -> Result<(), JobError> {
        if self.is_quiesced {
            self.job.hook(Hook::Release, self.is_last, &[])?;
            self.is_quiesced = false;
        }
        Ok(())
    }

    /// Takes back all that was done.
    pub(crate) fn let_go(mut self) -> Result<(), JobError> {
        self.source = None;
        let released = self.release();
        let unmarked = match self.marked.take() {
            Some(device) => self.job.unmark(self.is_last, &device),
            None => Ok(()),
        };
        released.and(unmarked)?;
        self.job.end_mark()
    }
}

impl Marking for Moment<'_, '_> {
    fn quiesce(&mut self) -> Result<(), JobError> {
        self.job.begin_mark("")?;
        self.is_quiesced = true;
        self.job.hook(Hook::Quiesce, self.is_last, &[]).map(drop)
    }

    fn mark(&mut self) -> Result<(), JobError> {
        if self.job.has_hook(Hook::Mark) {
            self.marked = Some(String::new());
            let device = self.job.hook(Hook::Mark, self.is_last, &[])?.unwrap_or_default();
            self.job.begin_mark(&device)?;
            self.marked = Some(device);
        }
        let options = self.job.source_options();
        let (disk, snapshot) = (self.job.disk(), self.snapshot());
        let source = open_source(snapshot.as_deref().unwrap_or(disk), options, self.job.said())?;
        if self.is_last {
            refuse_moving(&source)?;
        }
        if let Some(snapshot) = &snapshot {
            let disk = SourceDisk::open(disk, SourceOptions { fuzzy: true, ..options })?;
            check_mark(snapshot, source.identity(), disk.identity())?;
            self.disk = Some(disk.identity().clone());
        }
        self.source = Some(source);
        Ok(())
    }
}
