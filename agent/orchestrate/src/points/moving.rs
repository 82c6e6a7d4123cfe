//! Writing the disk on its way from one point to another.

use super::ragged::clear_ragged_end;
use super::survey::Survey;
use super::{Checked, MoveOptions};
use crate::apply::{Batch, Ledger, Target, Written, check_all, prove_disk, write_all};
use crate::{Examined, JobError, Pace, Progress, ReadSeek};
use failback_blockio::Device;
use failback_delta::{SealedFrame, Shapes};
use failback_retention::{Reader, Store, StoredFile};
use failback_units::{BlockIndex, BlockRange};
use std::sync::Arc;

/// The file of a link or of a stored delta, from its start.
pub type DeltaFile = Reader<Box<dyn StoredFile>>;

/// A file of the retention drive, to be read from its start.
pub(super) fn from_start<F: AsRef<dyn StoredFile>>(store: &Store, file: F) -> Result<Reader<F>, JobError> {
    let failed = |source| JobError::File { action: "read", path: store.directory().place().into(), source };
    Reader::new(file).map_err(failed)
}

const ON_THE_WAY: &str = "the disk is between two recovery points and is not to be used as it is";

/// Whether the disk may be somewhere on the way already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// It holds the base of the delta.
    AtTheBase,
    /// It was on the way when its program or machine stopped: where the delta changes something, anything may stand.
    OnTheWay,
}

impl Start {
    pub(super) fn torn(self, shapes: &Shapes) -> BlockRange {
        match self {
            Self::AtTheBase => BlockRange::default(),
            Self::OnTheWay => BlockRange::between(BlockIndex::ZERO, shapes.end()).unwrap_or_default(),
        }
    }
}

/// What is being written is on record as a whole, and what it replaces is kept: nothing is to be noted on the way.
struct Moving<'a> {
    device: &'a dyn Device,
    shapes: &'a Shapes,
}

impl Ledger for Moving<'_> {
    fn before(&mut self, _: &Target<'_>, _: &[Arc<SealedFrame>], _: &[Batch], _: &Written) -> Result<(), JobError> {
        Ok(())
    }

    fn batch_done(&mut self, _: BlockIndex) {}

    /// Also where nothing had to be written: what was written before an interruption may not be durable.
    fn settle(&self, target: &Target<'_>, written: &Written) -> Result<(), JobError> {
        let settled = target
            .flush()
            .and_then(|()| if clear_ragged_end(self.device, self.shapes)? { target.flush() } else { Ok(()) });
        settled.map_err(|error| self.failed(error.into(), written))
    }

    fn failed(&self, error: JobError, _: &Written) -> JobError {
        let state = format!(
            "failed while writing: {ON_THE_WAY}; remove the cause, then failback resume to finish or failback undo to go back"
        );
        JobError::WhileWriting { state, source: Box::new(error) }
    }

    fn interrupted(&mut self, target: &Target<'_>, written: &Written) -> JobError {
        match target.flush() {
            Ok(()) => JobError::Interrupted(format!(
                "{ON_THE_WAY} ({} bytes written, {} made zero): failback resume to finish, or failback undo to go back",
                written.data, written.zeroes
            )),
            Err(error) => self.failed(error.into(), written),
        }
    }
}

/// Checks a delta against the disk and the disk against the delta, before anything is written.
pub(super) fn check(
    device: &dyn Device,
    delta: &mut DeltaFile,
    start: Start,
    options: &MoveOptions,
    progress: &dyn Progress,
) -> Result<Checked, JobError> {
    let torn = |_: &[u8; 32], shapes: &Shapes| start.torn(shapes);
    let checked = check_all(device, delta, torn, None, options.pace, progress)?;
    let untouched = "it was left as it is";
    if let Some(error) = checked.wrong_base(device, untouched) {
        return Err(error);
    }
    let unchanged = prove_disk(device, delta, &checked, untouched, progress)?;
    is_recognised(device, &checked, unchanged, options.certain)?;
    Ok(checked)
}

/// Refuses a disk that nothing shows to be the one that was being written. Where a disk is known by a name that another can get,
/// its content has to show it: blocks that do not change, or changed ones that hold what they should.
pub(super) fn is_recognised(
    device: &dyn Device,
    checked: &Checked,
    unchanged: u64,
    certain: bool,
) -> Result<(), JobError> {
    let Examined { torn, recognised, .. } = checked.total;
    if torn == 0 || certain || (recognised > 0 && (unchanged > 0 || recognised >= torn)) {
        return Ok(());
    }
    Err(JobError::Refused(format!(
        "{} has no UUID, and nothing on it shows that it is the disk that was being written: attach that one under this name, and \
         it was left as it is",
        device.name()
    )))
}

/// Writes a delta that was checked, durably.
pub(super) fn write(
    device: &dyn Device,
    delta: &mut dyn ReadSeek,
    checked: &Checked,
    pace: Pace,
    progress: &dyn Progress,
) -> Result<Written, JobError> {
    let mut moving = Moving { device, shapes: &checked.header.shapes };
    write_all(device, delta, checked, &mut moving, pace, progress)
}

/// Refuses the file of a link that is another delta than the catalogue says.
pub(super) fn is_the_one(survey: &Survey, key: &[u8; 32], what: &str) -> Result<(), JobError> {
    if survey.key == *key {
        return Ok(());
    }
    Err(JobError::Refused(format!("{what} is another delta than the one that was begun with: give that one")))
}
