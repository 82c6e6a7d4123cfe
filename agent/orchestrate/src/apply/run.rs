//! The order of things.

use super::batches::Checked;
use super::batches::{Batch, check_all, header_of, in_place, length_of, next_batch, open, seal, without};
use super::record::{Resume, Windows, new_intent, torn_by};
use super::refusals::{
    LEFT_AS_IT_WAS, NOTHING_WRITTEN, check_signer, fits, holds_base_or_result, not_the_base, prove_disk, same_disk,
    too_little_known, wrong_base,
};
use super::target::{Target, Written};
use super::zeroing;
use super::{ApplyOptions, ApplyReport, Examined, IntentStore, Pace, Proven, ReadSeek};
use crate::scan::ScanReport;
use crate::{Against, ExpectedRoot, JobError, Progress, verify};
use failback_blockio::Device;
use failback_delta::{
    BaseFree, Coverage, DeltaHeader, FreeBlocks, Proof, SealedFrame, Shapes, Totals, Trailer, VerifyingKey,
};
use failback_hashtree::Root;
use failback_units::BlockIndex;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::thread;

/// Applies a delta that can be read twice.
pub(super) fn from_file(
    device: &dyn Device,
    delta: &mut dyn ReadSeek,
    intents: &mut dyn IntentStore,
    options: &ApplyOptions,
    progress: &dyn Progress,
) -> Result<ApplyReport, JobError> {
    let recorded = intents.load()?;
    // Before the whole delta is read. A disk on which an apply was interrupted is recognised by its blocks instead.
    if recorded.is_none() || options.discard_intent {
        let header = header_of(delta)?;
        fits(&header, device)?;
        same_disk(device, &header, options)?;
    }
    let torn = |key: &[u8; 32], _: &Shapes| torn_by(recorded.as_ref(), key, options);
    let checked = check_all(device, delta, torn, None, options.pace, progress)?;
    check_signer(options, checked.signed_by)?;
    let result_root = Some(checked.result_root);
    let resume = Resume::decide(recorded, &checked.key, &checked.header, result_root, options, intents)?;
    let untouched = if resume.resuming { LEFT_AS_IT_WAS } else { NOTHING_WRITTEN };
    if let Some(error) = checked.wrong_base(device, untouched) {
        return Err(error);
    }
    prove_disk(device, delta, &checked, untouched, progress)?;
    let intent = new_intent(&checked.header, checked.key, result_root, &resume, options);
    let mut windows = Windows::new(intents, intent, resume, options.pace);
    let written = write_all(device, delta, &checked, &mut windows, options.pace, progress)?;
    let Checked { header, free, result_root, totals, signed_by, total, .. } = checked;
    let applied = Applied { header, free, result_root, totals, signed_by, examined: total, written };
    let resume = windows.resume;
    let end = End { must_verify: resume.must_verify, resumed: resume.resuming, read: None };
    finish(device, applied, end, options, progress, |written, _| windows.remove_record(written))
}

/// Whoever keeps account of what is being written, so that it can be finished or undone.
pub(crate) trait Ledger {
    /// Frames are going to be written; they are the first of the batches that are left.
    fn before(
        &mut self,
        target: &Target<'_>,
        frames: &[Arc<SealedFrame>],
        left: &[Batch],
        written: &Written,
    ) -> Result<(), JobError>;

    /// A batch that ends at `end` was written, or needed no writing.
    fn batch_done(&mut self, end: BlockIndex);

    /// All is written: makes it durable.
    fn settle(&self, target: &Target<'_>, written: &Written) -> Result<(), JobError>;

    /// What an error in the middle means for the disk.
    fn failed(&self, error: JobError, written: &Written) -> JobError;

    /// The user wants to stop: what was written is made durable.
    fn interrupted(&mut self, target: &Target<'_>, written: &Written) -> JobError;
}

/// Writes a delta that was checked, as far as it is not in place, and makes it durable.
pub(crate) fn write_all(
    device: &dyn Device,
    mut delta: &mut dyn ReadSeek,
    checked: &Checked,
    ledger: &mut dyn Ledger,
    pace: Pace,
    progress: &dyn Progress,
) -> Result<Written, JobError> {
    let total = length_of(delta)?;
    let mut reader = open(&mut delta)?;
    let replaced = || JobError::Refused("the delta was replaced while it was read: run this again".into());
    if *reader.key() != checked.key {
        return Err(replaced());
    }
    let mut written = Written::default();
    thread::scope(|scope| {
        let mut target = Target::new(device, checked.header.shapes, pace, scope)?;
        if checked.total.is_in_place() {
            return ledger.settle(&target, &written);
        }
        progress.phase("writing", total);
        let mut position = 0;
        for (number, batch) in checked.batches.iter().enumerate() {
            let (frames, _) = next_batch(&mut reader, pace).map_err(|error| ledger.failed(error.into(), &written))?;
            if seal(&frames) != batch.seal {
                return Err(ledger.failed(replaced(), &written));
            }
            let frames = without(frames, &batch.in_place);
            if !frames.is_empty() {
                ledger.before(&target, &frames, &checked.batches[number..], &written)?;
                written.add(target.write(frames).map_err(|error| ledger.failed(error, &written))?);
            }
            ledger.batch_done(batch.end);
            progress.advance(reader.position() - position);
            position = reader.position();
            if progress.stop_requested() {
                return Err(ledger.interrupted(&target, &written));
            }
        }
        ledger.settle(&target, &written)
    })?;
    Ok(written)
}

/// Applies a delta that can be read only once.
pub(super) fn from_stream(
    device: &dyn Device,
    mut delta: &mut dyn Read,
    intents: &mut dyn IntentStore,
    options: &ApplyOptions,
    progress: &dyn Progress,
) -> Result<ApplyReport, JobError> {
    if options.trusted.is_some() {
        return Err(JobError::Refused(
            "a signature stands at the end of a delta, too late to refuse one from a pipe: store it in a file first"
                .into(),
        ));
    }
    let recorded = intents.load()?;
    let mut reader = match open(&mut delta) {
        Err(_) if progress.stop_requested() => return Err(JobError::Interrupted("nothing was written".into())),
        opened => opened?,
    };
    let header = reader.header().clone();
    let free = reader.free().clone();
    fits(&header, device)?;
    let resume = Resume::decide(recorded, reader.key(), &header, None, options, intents)?;
    if !resume.resuming {
        same_disk(device, &header, options)?;
    }
    let intent = new_intent(&header, *reader.key(), None, &resume, options);
    let mut windows = Windows::new(intents, intent, resume, options.pace);
    let (mut examined, mut written) = (Examined::default(), Written::default());
    let (mut proof, mut base_free) = (Proof::new(&header.shapes), BaseFree::new(&free));
    let mut position = 0;
    progress.phase("writing", None);
    let trailer = thread::scope(|scope| {
        let mut target = Target::new(device, header.shapes, options.pace, scope)?;
        loop {
            let (frames, trailer) = match next_batch(&mut reader, options.pace) {
                Ok(batch) => batch,
                // Ctrl-C reaches both ends of a pipe: that it breaks off then is no damage.
                Err(_) if progress.stop_requested() => return Err(windows.interrupted(&target, &written)),
                Err(error) => return Err(windows.failed(error.into(), &written)),
            };
            for frame in &frames {
                proof.absorb(&frame.table);
                base_free.absorb(&frame.table, &header.shapes);
            }
            let found = target.examine(&frames, resume.torn, None).map_err(|error| windows.failed(error, &written))?;
            for frame in &found {
                examined.add(frame);
            }
            if let Some(error) = wrong_base(&examined, device, &windows.consequence(&written)) {
                return Err(windows.stopped(&target, error, &written));
            }
            if let Some(error) = too_little_known(&header, &examined, options) {
                return Err(windows.stopped(&target, error, &written));
            }
            if let Some(end) = frames.last().map(|last| last.table.end()) {
                let frames = without(frames, &in_place(&found));
                if !frames.is_empty() {
                    // What comes later is not known yet: the window grows batch by batch.
                    windows.open(&target, &frames, end, &written)?;
                    written.add(target.write(frames).map_err(|error| windows.failed(error, &written))?);
                }
                windows.batch_done(end);
            }
            progress.advance(reader.position() - position);
            position = reader.position();
            if let Some(trailer) = trailer {
                let proven = std::mem::replace(&mut proof, Proof::new(&header.shapes)).finish(&header, &trailer);
                proven.map_err(|error| windows.failed(error.into(), &written))?;
                windows.settle(&target, &written)?;
                return Ok(trailer);
            }
            if progress.stop_requested() {
                return Err(windows.interrupted(&target, &written));
            }
        }
    })?;
    if examined.bytes_compared == 0 && !header.shapes.base.size().is_zero() {
        let shapes = &header.shapes;
        let base = ExpectedRoot::used(header.base_root, shapes.base, base_free.finish(shapes));
        let result = ExpectedRoot::used(trailer.result_root, shapes.result, free.clone());
        if !holds_base_or_result(device, base, result, &examined, progress)? {
            return Err(not_the_base(device, &windows.consequence(&written)));
        }
    }
    // What was half written was taken for the rest of this apply, and nothing else of the disk was compared with it.
    windows.resume.must_verify |= examined.torn > 0;
    let Trailer { result_root, totals, signed_by, .. } = trailer;
    let applied = Applied { header, free, result_root, totals, signed_by, examined, written };
    let resume = windows.resume;
    let end = End { must_verify: resume.must_verify, resumed: resume.resuming, read: None };
    finish(device, applied, end, options, progress, |written, _| windows.remove_record(written))
}

/// What stands when everything is written and durable.
pub(crate) struct Applied {
    pub(crate) header: DeltaHeader,
    /// The free blocks of the result.
    pub(crate) free: FreeBlocks,
    pub(crate) result_root: Root,
    pub(crate) totals: Totals,
    pub(crate) signed_by: Option<VerifyingKey>,
    pub(crate) examined: Examined,
    pub(crate) written: Written,
}

/// How an apply ends.
#[derive(Clone, Copy)]
pub(crate) struct End {
    /// Whether blocks that do not change may be other than those of the base.
    pub(crate) must_verify: bool,
    /// Whether an interrupted apply was finished.
    pub(crate) resumed: bool,
    /// What was read of the result and found right already, and which of its bytes counted.
    pub(crate) read: Option<(ScanReport, Coverage)>,
}

/// Reads the disk if that is asked for or needed, concludes (removes the record, or makes the point visible), makes free space
/// zero if that is wanted, and reports.
pub(crate) fn finish(
    device: &dyn Device,
    applied: Applied,
    end: End,
    options: &ApplyOptions,
    progress: &dyn Progress,
    conclude: impl FnOnce(&Written, Proven) -> Result<(), JobError>,
) -> Result<ApplyReport, JobError> {
    let Applied { header, free, result_root, totals, signed_by, examined, written } = applied;
    let shape = header.shapes.result;
    let read = |masked: &FreeBlocks| read_all(device, &header, result_root, masked, progress);
    let mut verified = end.read;
    if end.must_verify {
        // As long as that is in doubt, the record stays.
        progress.note("another delta may have been written in part before, so the whole disk is read");
        verified = Some((read(&free)?, free.coverage()));
    }
    conclude(&written, proven_by(verified.map(|(_, coverage)| coverage)))?;
    let zeroes = options.zeroes_free() && !free.is_empty();
    let mut bytes_free_zeroed = 0;
    if zeroes {
        if verified.is_none() {
            progress.note("all that is in use is read before free space is made zero");
            let read = read(&free).map_err(no_free_space_was_zeroed)?;
            verified = Some((read, Coverage::Used));
        }
        bytes_free_zeroed =
            zeroing::make_zero(device, &free, shape, progress).map_err(|source| JobError::WhileWriting {
                state: "the change is applied and durable, but not all free space is zero: run the same command again"
                    .into(),
                source: Box::new(source),
            })?;
    }
    if options.verify && (zeroes || verified.is_none()) {
        // Free space that was made zero can be read like everything else.
        let masked = if zeroes { FreeBlocks::NONE } else { free.clone() };
        verified = Some((read(&masked)?, masked.coverage()));
    }
    Ok(ApplyReport {
        result_root,
        totals,
        signed_by,
        examined,
        bytes_written: written.data,
        bytes_zeroed: written.zeroes,
        bytes_free_zeroed,
        bytes_free: free.bytes(shape).get(),
        resumed: end.resumed,
        proven: proven_by(verified.map(|(_, coverage)| coverage)),
        verified: verified.map(|(scan, _)| scan),
        header,
    })
}

/// What is proven after the disk was read, in this coverage, or was not.
const fn proven_by(read: Option<Coverage>) -> Proven {
    match read {
        None => Proven::ChangedBlocks,
        Some(Coverage::Used) => Proven::UsedSpace,
        Some(Coverage::Whole) => Proven::WholeDisk,
    }
}

/// What is in use is not the result, so what is free is not known.
fn no_free_space_was_zeroed(error: JobError) -> JobError {
    match error {
        JobError::Mismatch(sentence) => JobError::Mismatch(format!("no free space was made zero: {sentence}")),
        other => other,
    }
}

/// Reads the result back, but for what is masked, and compares its root.
fn read_all(
    device: &dyn Device,
    header: &DeltaHeader,
    result_root: Root,
    masked: &FreeBlocks,
    progress: &dyn Progress,
) -> Result<ScanReport, JobError> {
    let expected = ExpectedRoot::used(result_root, header.shapes.result, masked.clone());
    let report = verify(device, Against::<File>::Root(expected), 0, progress).map_err(|error| {
        let state =
            "the change is written and durable, but reading the disk to check it was not finished: run failback verify";
        JobError::WhileWriting { state: state.into(), source: Box::new(error) }
    })?;
    if report.matches() {
        return Ok(report.scan);
    }
    Err(JobError::Mismatch(format!(
        "the changed blocks are in place and durable, but {} has the root {} and not {result_root}: blocks outside the delta \
         are not those of the base; sign this disk as it is, make a new delta, and if a record is left add --discard-intent",
        device.name(),
        report.root
    )))
}
