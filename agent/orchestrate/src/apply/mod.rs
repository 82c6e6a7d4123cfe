//! `plan` and `apply`: a delta onto a target disk.
//!
//! A delta in a file is read twice. First everything is proven and nothing written: every frame's hash, both roots, and that
//! each place to be written holds what the delta expects there (or already what it would write). Only then is it
//! written. A delta from a pipe can be read only once: its frames are proven and written a few at a time, and the roots
//! are known at the end.

mod batches;
mod intent;
mod record;
mod refusals;
mod run;
mod target;
mod zeroing;

pub(crate) use batches::{Batch, Checked, Recording, check_all, header_of, length_of, open};
pub use intent::{DiskBinding, FileIntents, Intent, IntentError, IntentStore};
pub(crate) use refusals::{check_signer, fits, prove_disk, same_disk};
pub(crate) use run::{Applied, End, Ledger, finish, write_all};
pub use target::Examined;
pub(crate) use target::{Target, Witness, Written};

use crate::ordered::worker_count;
use crate::scan::ScanReport;
use crate::{JobError, Progress};
use failback_blockio::Device;
use failback_delta::{DeltaHeader, Shapes, Totals, VerifyingKey};
use failback_hashtree::Root;
use std::io::{Read, Seek};
use std::time::Instant;

/// Where a delta comes from.
pub enum DeltaInput<'a> {
    /// A file, which can be read twice.
    File(&'a mut dyn ReadSeek),
    /// A pipe, which cannot.
    Stream(&'a mut dyn Read),
}

/// Something that can be read from the start again.
pub trait ReadSeek: Read + Seek {}
impl<T: Read + Seek> ReadSeek for T {}

/// How to apply.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is an answer that the user gave, independent of the others")]
pub struct ApplyOptions {
    /// Whether to read the whole disk at the end and compare its root.
    pub verify: bool,
    /// Whether to make all free space of the result zero. Otherwise it is left as it is.
    pub zero_free: bool,
    /// Whether the target may be another disk than the source was by what is on it. Its free space is made zero then.
    pub new_disk: bool,
    /// Whether to go on though another apply on this disk was interrupted. The whole disk is read at the end then.
    pub discard_intent: bool,
    /// Who must have signed the delta.
    pub trusted: Option<VerifyingKey>,
    /// The time to state in the intent record, in seconds since 1970.
    pub now: i64,
    /// Which disk the target is.
    pub disk: DiskBinding,
    /// How much is done at a time.
    pub pace: Pace,
}

impl ApplyOptions {
    /// Whether free space of the result becomes zero.
    #[must_use]
    pub const fn zeroes_free(&self) -> bool {
        self.zero_free || self.new_disk
    }
}

/// How much of a delta is dealt with at a time. The defaults are for disks; tests make them small to see every seam.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Frames that are examined or written as one: enough to keep the disk busy. Each takes up to 1 MiB, four times, and there are half as many
    /// buffers of 1 MiB more. At most half as many threads work on them, each with up to 7 MiB: so what an apply takes does not grow with
    /// the number of processors.
    pub frames_in_batch: usize,
    /// Batches between two flushes of the target, each followed by a new intent record.
    pub batches_in_window: usize,
}

impl Default for Pace {
    /// 16 MiB in a batch, 256 MiB in a window.
    fn default() -> Self {
        Self { frames_in_batch: 16, batches_in_window: 16 }
    }
}

impl Pace {
    /// For a daemon that does other things as well: 8 MiB in a batch, 256 MiB in a window.
    pub const MIDDLE: Self = Self { frames_in_batch: 8, batches_in_window: 32 };

    /// With less memory, where others apply at the same time and keep the disks busy, too: 4 MiB in a batch, 256 MiB in a window.
    pub const NARROW: Self = Self { frames_in_batch: 4, batches_in_window: 64 };

    /// Threads that unpack, compare or compress.
    pub(crate) fn workers(self) -> usize {
        self.workers_of(worker_count())
    }

    /// As many of those that the machine has work for.
    fn workers_of(self, all: usize) -> usize {
        all.min(self.frames_in_batch / 2).max(1)
    }

    /// Buffers for content that is read, and for payloads between unpacking and writing: one is always to be had while nothing is under way.
    const fn buffers(self) -> usize {
        let buffers = self.frames_in_batch + self.frames_in_batch / 2;
        if buffers < 2 { 2 } else { buffers }
    }
}

/// What was proven, and no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proven {
    /// Every changed block held what the base has there or what the result has there, and holds what the result has there;
    /// the delta leads from the base root to the result root. Blocks that did not change were not read.
    ChangedBlocks,
    /// The disk was read from end to end and has the result root.
    WholeDisk,
    /// All blocks that are in use in the result were read, and with free space as zeroes they have the result root.
    UsedSpace,
}

impl Proven {
    /// The words for it in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ChangedBlocks => "changed blocks",
            Self::WholeDisk => "whole disk read",
            Self::UsedSpace => "used space read",
        }
    }
}

/// What applying did.
#[derive(Clone, Debug)]
pub struct ApplyReport {
    /// What the delta says before its frames.
    pub header: DeltaHeader,
    /// The root that the disk now has.
    pub result_root: Root,
    /// Sums over the delta.
    pub totals: Totals,
    /// Who signed the delta, if anybody.
    pub signed_by: Option<VerifyingKey>,
    /// What stood on the disk before.
    pub examined: Examined,
    /// Bytes that were written.
    pub bytes_written: u64,
    /// Bytes that were made zero.
    pub bytes_zeroed: u64,
    /// Bytes of free space that were made zero.
    pub bytes_free_zeroed: u64,
    /// Bytes of free space of the result.
    pub bytes_free: u64,
    /// Whether an earlier apply had been interrupted and was finished.
    pub resumed: bool,
    /// What is proven now.
    pub proven: Proven,
    /// What was read to verify the whole disk, if it was.
    pub verified: Option<ScanReport>,
}

impl ApplyReport {
    /// Whether the disk held the result before, so that nothing was written.
    #[must_use]
    pub const fn already_in_place(&self) -> bool {
        self.bytes_written == 0 && self.bytes_zeroed == 0 && self.bytes_free_zeroed == 0
    }
}

/// What applying would do.
#[derive(Clone, Debug)]
pub struct PlanReport {
    /// What the delta says before its frames.
    pub header: DeltaHeader,
    /// The root that the delta leads to; not known if the delta was refused for what its header says.
    pub result_root: Option<Root>,
    /// Sums over the delta.
    pub totals: Totals,
    /// Bytes of free space of the result.
    pub bytes_free: u64,
    /// Who signed the delta, if anybody.
    pub signed_by: Option<VerifyingKey>,
    /// What stands on the disk now.
    pub examined: Examined,
    /// Whether an interrupted apply would be finished.
    pub resumes: bool,
    /// Why apply would refuse, in sentences; empty if it would not.
    pub refusals: Vec<String>,
    /// How long apply would take, in seconds, at the rate at which the old content was just read; `None` where nothing
    /// was read that a rate could be measured from.
    pub seconds_estimated: Option<f64>,
}

/// Finds out what apply would do, and writes nothing.
///
/// # Errors
///
/// When the delta is damaged, or delta or target cannot be read. What apply would refuse is in the report.
pub fn plan(
    device: &dyn Device,
    delta: &mut dyn ReadSeek,
    intents: &mut dyn IntentStore,
    options: &ApplyOptions,
    progress: &dyn Progress,
) -> Result<PlanReport, JobError> {
    let started = Instant::now();
    let mut reasons = Vec::new();
    let mut recorded = None;
    match intents.load() {
        Ok(intent) => recorded = intent,
        Err(error) => reasons.push(error.to_string()),
    }
    let header = batches::header_of(delta)?;
    if let Err(error) = refusals::fits(&header, device) {
        reasons.push(error.to_string());
        let (totals, examined) = (Totals::default(), Examined::default());
        let (result_root, signed_by, seconds_estimated) = (None, None, None);
        let (resumes, bytes_free) = (false, 0);
        return Ok(PlanReport {
            header,
            result_root,
            totals,
            bytes_free,
            signed_by,
            examined,
            resumes,
            refusals: reasons,
            seconds_estimated,
        });
    }
    if recorded.is_none() || options.discard_intent {
        match refusals::same_disk(device, &header, options) {
            Err(error @ JobError::Refused(_)) => reasons.push(error.to_string()),
            same => same?,
        }
    }
    let torn = |key: &[u8; 32], _: &Shapes| record::torn_by(recorded.as_ref(), key, options);
    let checked = batches::check_all(device, delta, torn, None, options.pace, progress)?;
    let seconds = started.elapsed().as_secs_f64();
    let resume =
        record::Resume::decide(recorded, &checked.key, &checked.header, Some(checked.result_root), options, intents);
    let resumes = resume.as_ref().is_ok_and(record::Resume::is_resuming);
    let wrong_base = checked.wrong_base(device, "nothing would be written");
    if wrong_base.is_none() && resume.is_ok() {
        match refusals::prove_disk(device, delta, &checked, "nothing would be written", progress) {
            Err(error @ (JobError::Refused(_) | JobError::Mismatch(_))) => reasons.push(error.to_string()),
            proven => proven.map(|_| ())?,
        }
    }
    reasons.extend([resume.err(), wrong_base].into_iter().flatten().map(|error| error.to_string()));
    if let Err(error) = refusals::check_signer(options, checked.signed_by) {
        reasons.push(error.to_string());
    }
    let bytes_free = checked.free.bytes(checked.header.shapes.result).get();
    let examined = checked.total;
    let moved = examined.bytes_read + examined.bytes_to_write + examined.bytes_to_zero;
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let seconds_estimated = (examined.bytes_read > 0).then(|| seconds * moved as f64 / examined.bytes_read as f64);
    Ok(PlanReport {
        header: checked.header,
        result_root: Some(checked.result_root),
        totals: checked.totals,
        bytes_free,
        signed_by: checked.signed_by,
        examined,
        resumes,
        refusals: reasons,
        seconds_estimated,
    })
}

/// Brings a target disk from the base of a delta to its result. The caller has claimed the disk.
///
/// # Errors
///
/// When the delta is damaged, the disk is at another base, something fails, or the user stops it. The error says what
/// the disk holds then; until this returns `Ok` the intent record stays, and the same call finishes the work.
pub fn apply(
    device: &dyn Device,
    delta: DeltaInput<'_>,
    intents: &mut dyn IntentStore,
    options: &ApplyOptions,
    progress: &dyn Progress,
) -> Result<ApplyReport, JobError> {
    match delta {
        DeltaInput::File(file) => run::from_file(device, file, intents, options, progress),
        DeltaInput::Stream(stream) => run::from_stream(device, stream, intents, options, progress),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_do_not_widen_a_narrow_pace() {
        let paces = [Pace::default(), Pace::MIDDLE, Pace::NARROW, Pace { frames_in_batch: 1, batches_in_window: 1 }];
        assert_eq!(paces.map(|pace| pace.workers_of(64)), [8, 4, 2, 1]);
        assert_eq!(paces.map(|pace| pace.workers_of(1)), [1; 4]);
    }
}
