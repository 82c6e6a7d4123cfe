//! Recording: proving a delta and the disk, and keeping what leads back, before anything is written.

use super::MoveOptions;
use super::moving::is_the_one;
use super::recorder::{Recorder, bytes_lost_to_zeroes, header_of_inverse};
use super::space::full_or;
use super::survey::Survey;
use crate::apply::{Checked, check_all, prove_disk};
use crate::free::free_blocks;
use crate::{JobError, Progress, ReadSeek, likeness};
use failback_blockio::Device;
use failback_delta::{FreeBlocks, Shapes};
use failback_retention::{LinkFile, LinkWriter, Point, Store};
use failback_units::BlockRange;
use std::thread;

/// What the disk's own file systems call free, if that matters: then what lies there need not be kept. `zeroes` says that all
/// free space of the result is going to be made zero.
pub(super) fn trusted_free(device: &dyn Device, survey: &Survey, zeroes: bool) -> Result<FreeBlocks, JobError> {
    let zeroes = zeroes && !survey.free.is_empty();
    if survey.uncounted_bytes == 0 && !zeroes {
        return Ok(FreeBlocks::NONE);
    }
    let trusted = free_blocks(&likeness::free_of(device)?, survey.header.shapes.larger());
    let lost = if zeroes { bytes_lost_to_zeroes(survey, &trusted) } else { 0 };
    if lost == 0 {
        return Ok(trusted);
    }
    Err(JobError::Refused(format!(
        "making free space zero would destroy {lost} bytes that the file systems on {} do not call free, and no recovery point \
         would bring them back: leave out --zero-free, or use --no-undo",
        device.name()
    )))
}

/// Where the disk is before it is written.
pub(super) struct Base {
    /// The point.
    pub(super) point: Point,
    /// What the disk's own file systems call free, as far as that matters.
    pub(super) trusted: FreeBlocks,
}

/// Proves the delta and the disk, and keeps what leads back to `base`, durably. `None` if the disk holds the result already.
pub(super) fn record(
    device: &dyn Device,
    delta: &mut dyn ReadSeek,
    survey: &Survey,
    base: &Base,
    store: &mut Store,
    moving: &MoveOptions,
    progress: &dyn Progress,
) -> Result<Option<(Checked, LinkFile)>, JobError> {
    let header = header_of_inverse(survey, base.point.kind, base.point.time, moving.id(store));
    let needed = survey.bytes_to_keep();
    let writer = LinkWriter::create(store, header, &survey.base_free);
    let writer = writer.map_err(|error| full_or(store, needed, error.into()))?;
    let file = writer.file();
    let recorded = thread::scope(|scope| {
        let mut recorder = Recorder::new(survey, writer, base.trusted.clone(), moving.pace, scope);
        let nothing_torn = |_: &[u8; 32], _: &Shapes| BlockRange::default();
        let checked = check_all(device, delta, nothing_torn, Some(&mut recorder), moving.pace, progress)?;
        is_the_one(survey, &checked.key, "the delta")?;
        let untouched = "nothing was written";
        if let Some(error) = checked.wrong_base(device, untouched) {
            return Err(error);
        }
        if recorder.already() > 0 {
            return if checked.total.is_in_place() { Ok(None) } else { Err(half_there(device, recorder.already())) };
        }
        prove_disk(device, delta, &checked, untouched, progress)?;
        Ok(Some((checked, recorder.finish(survey)?)))
    });
    match recorded {
        Ok(Some(recorded)) => Ok(Some(recorded)),
        Ok(None) => store.discard(file).map(|()| None).map_err(Into::into),
        Err(error) => {
            // The reason counts more than what is left behind, which goes when the store is next opened.
            let _ = store.discard(file);
            Err(full_or(store, needed, error))
        }
    }
}

fn half_there(device: &dyn Device, runs: u64) -> JobError {
    JobError::Refused(format!(
        "{} holds what this delta would write in {runs} changed runs already, so what stood there before cannot be kept, and \
         nothing was written: an apply without --retention was interrupted, or others wrote to it; finish with --no-undo, or sign \
         the disk and make a new delta",
        device.name()
    ))
}
