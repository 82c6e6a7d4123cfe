//! Whether this is the disk that a delta is for, and what is refused if it is not.

use super::batches::{Checked, length_of, open};
use super::target::Target;
use super::{ApplyOptions, Examined, Pace, ReadSeek};
use crate::likeness;
use crate::{Against, ExpectedRoot, JobError, Progress, verify};
use failback_blockio::Device;
use failback_delta::{BaseFree, DeltaHeader, FreeBlocks, Item, VerifyingKey};
use failback_hashtree::ChainingValue;
use failback_units::{BlockIndex, BlockRange};
use std::fs::File;
use std::thread;

pub(super) const NOTHING_WRITTEN: &str = "nothing was written";

pub(super) const LEFT_AS_IT_WAS: &str = "it was left as the interrupted apply had left it";

pub(super) const EMPTY_BASE: &str =
    "the base of this delta is empty, and the disk is not: sign the disk and make a new delta from that";

pub(super) fn wrong_base(examined: &Examined, device: &dyn Device, consequence: &str) -> Option<JobError> {
    examined.first_other.map(|first| JobError::WrongBase {
        disk: device.name().into(),
        blocks: examined.other,
        first,
        consequence: consequence.into(),
    })
}

/// Refuses a target that cannot hold the base, and so is not at it, or cannot hold the result.
pub(crate) fn fits(header: &DeltaHeader, device: &dyn Device) -> Result<(), JobError> {
    let (base, result) = (header.shapes.base.size(), header.shapes.result.size());
    let needed = base.max(result);
    if needed <= device.size() {
        return Ok(());
    }
    let what = if base > result { "base" } else { "result" };
    Err(JobError::Refused(format!(
        "{} has {} bytes and the {what} of this delta has {needed}: make the disk {} bytes larger, or choose the right one",
        device.name(),
        device.size(),
        needed.saturating_sub(device.size())
    )))
}

/// Refuses a delta that the wrong one, or nobody, has signed.
pub(crate) fn check_signer(options: &ApplyOptions, signed_by: Option<VerifyingKey>) -> Result<(), JobError> {
    match (options.trusted, signed_by) {
        (None, _) => Ok(()),
        (Some(trusted), Some(signer)) if trusted == signer => Ok(()),
        (Some(_), Some(_)) => Err(JobError::Untrusted(
            "this delta is signed by another key than the trusted one: get it from its source again".into(),
        )),
        (Some(_), None) => Err(JobError::Untrusted(
            "this delta is not signed, and a trusted key is demanded: make it with --signing-key".into(),
        )),
    }
}

/// Where the delta's own comparisons do not show that this is its disk, finds out by reading the blocks that do not change.
/// Returns how many bytes of those were read and found right.
pub(crate) fn prove_disk(
    device: &dyn Device,
    mut delta: &mut dyn ReadSeek,
    checked: &Checked,
    untouched: &str,
    progress: &dyn Progress,
) -> Result<u64, JobError> {
    let shapes = &checked.header.shapes;
    if shapes.base.size().is_zero() && checked.total.bytes_unknown > 0 {
        return Err(JobError::Refused(EMPTY_BASE.into()));
    }
    if checked.total.torn == 0 {
        if checked.total.bytes_compared > 0 || shapes.base.size().is_zero() {
            return Ok(0);
        }
        let base = ExpectedRoot::used(checked.header.base_root, shapes.base, base_free(delta, &checked.free)?);
        let result = ExpectedRoot::used(checked.result_root, shapes.result, checked.free.clone());
        return if holds_base_or_result(device, base, result, &checked.total, progress)? {
            Ok(shapes.base.size().get())
        } else {
            Err(not_the_base(device, untouched))
        };
    }
    progress
        .note("blocks may be half written, so all blocks that do not change are read to recognise the disk by them");
    progress.phase("recognising", length_of(delta)?);
    let mut reader = open(&mut delta)?;
    let (mut end, mut position) = (BlockIndex::ZERO, 0);
    thread::scope(|scope| {
        let mut target = Target::new(device, *shapes, Pace::NARROW, scope)?;
        let free = &checked.free;
        let mut read = 0;
        let mut is_held = |target: &mut Target<'_>, blocks: BlockRange, values: &[ChainingValue]| {
            let unused: u64 = free.within(blocks).map(|run| shapes.base.bytes_of(run).count().get()).sum();
            read += shapes.base.bytes_of(blocks).count().get() - unused;
            if target.holds(blocks, values, free)? { Ok(read) } else { Err(not_the_base(device, untouched)) }
        };
        loop {
            match reader.next_item()? {
                Item::Frame(frame) => {
                    for (blocks, values) in frame.table.gaps() {
                        is_held(&mut target, blocks, values)?;
                    }
                    end = frame.table.end();
                }
                Item::Trailer(trailer) => {
                    let (blocks, values) = trailer.gap(shapes, end);
                    return is_held(&mut target, blocks, values);
                }
            }
            progress.advance(reader.position() - position);
            position = reader.position();
            if progress.stop_requested() {
                return Err(JobError::Interrupted(untouched.into()));
            }
        }
    })
}

/// Reads all that counts of the base: for a delta that replaces nothing that is known. Where nothing is left to be
/// written, the disk may be at the result as well.
pub(super) fn holds_base_or_result(
    device: &dyn Device,
    base: ExpectedRoot,
    result: ExpectedRoot,
    examined: &Examined,
    progress: &dyn Progress,
) -> Result<bool, JobError> {
    progress.note("nothing that this delta replaces tells whether this is its disk, so all of the base is read");
    let holds = |root| Ok::<_, JobError>(verify(device, Against::<File>::Root(root), 0, progress)?.matches());
    Ok(holds(base)? || (examined.is_in_place() && holds(result)?))
}

/// Reads a delta for the free blocks of its base.
fn base_free(mut delta: &mut dyn ReadSeek, result: &FreeBlocks) -> Result<FreeBlocks, JobError> {
    length_of(delta)?;
    let mut reader = open(&mut delta)?;
    let shapes = reader.header().shapes;
    let mut free = BaseFree::new(result);
    while let Item::Frame(frame) = reader.next_item()? {
        free.absorb(&frame.table, &shapes);
    }
    Ok(free.finish(&shapes))
}

/// Refuses a target that is another disk than the source by what is on it: its partition table and its file systems.
pub(crate) fn same_disk(device: &dyn Device, header: &DeltaHeader, options: &ApplyOptions) -> Result<(), JobError> {
    if options.new_disk {
        return Ok(());
    }
    let (source, target) = (&header.identity, likeness::content_of(device)?);
    match likeness::difference(source, &target) {
        None => Ok(()),
        Some(difference) => Err(JobError::Refused(format!(
            "{} is another disk than the one this delta was made from: {difference}; choose the right one, or add --new-disk \
             if this one is to become a copy of it",
            device.name()
        ))),
    }
}

pub(super) fn not_the_base(device: &dyn Device, consequence: &str) -> JobError {
    JobError::Mismatch(format!(
        "{} is not at the base of this delta: blocks that do not change are not those of the base, so {consequence}; choose \
         the right disk, or sign this one and make a new delta",
        device.name()
    ))
}

/// Refuses a delta from a pipe of which too little is known to tell whether this is its disk. From a file that is found out.
pub(super) fn too_little_known(header: &DeltaHeader, examined: &Examined, options: &ApplyOptions) -> Option<JobError> {
    let refused = |sentence: &str| Some(JobError::Refused(sentence.into()));
    if examined.torn > 0 && !options.disk.certain {
        return refused(
            "this disk has no SCSI UUID by which it could be recognised after the interruption: store the delta in a file and \
             apply that",
        );
    }
    if header.shapes.base.size().is_zero() {
        return if examined.bytes_unknown > 0 { refused(EMPTY_BASE) } else { None };
    }
    if examined.bytes_compared == 0 && !examined.is_in_place() {
        return refused(
            "nothing that this delta replaces tells whether this is its disk: store it in a file and apply that, so that the \
             whole base can be read first",
        );
    }
    None
}
