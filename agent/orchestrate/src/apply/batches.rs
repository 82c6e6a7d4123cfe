//! Reading a delta a few frames at a time, and proving all of it before anything is written.

use super::refusals::{NOTHING_WRITTEN, fits, wrong_base};
use super::target::{Target, Witness};
use super::{Examined, Pace, ReadSeek};
use crate::{JobError, Progress};
use failback_blockio::Device;
use failback_delta::{
    DeltaHeader, DeltaReader, FileKind, FormatError, FreeBlocks, Item, Proof, SealedFrame, Shapes, Totals, Trailer,
    VerifyingKey,
};
use failback_hashtree::Root;
use failback_units::{BlockIndex, BlockRange};
use std::io::{self, BufReader, Read};
use std::sync::Arc;
use std::thread;

/// What is read of a delta at a time, in bytes.
pub(super) const READ_AHEAD: usize = 1 << 20;

pub(crate) type Reader<'a, R> = DeltaReader<BufReader<&'a mut R>>;

/// Everything that is known of a delta and a target before anything is written.
pub(crate) struct Checked {
    pub(crate) header: DeltaHeader,
    /// The free blocks of the result.
    pub(crate) free: FreeBlocks,
    pub(crate) key: [u8; 32],
    pub(crate) result_root: Root,
    pub(super) totals: Totals,
    pub(super) signed_by: Option<VerifyingKey>,
    pub(crate) total: Examined,
    pub(super) batches: Vec<Batch>,
}

/// What is known of some frames that are written as one.
pub(crate) struct Batch {
    /// For each frame, whether all of it is in place.
    pub(super) in_place: Vec<bool>,
    /// A hash over the hashes of the frames: what is written is what was proven.
    pub(super) seal: [u8; 32],
    /// The block behind the last extent.
    pub(super) end: BlockIndex,
}

pub(super) fn in_place(frames: &[Examined]) -> Vec<bool> {
    frames.iter().map(Examined::is_in_place).collect()
}

/// The frames that are not in place.
pub(super) fn without(frames: Vec<Arc<SealedFrame>>, in_place: &[bool]) -> Vec<Arc<SealedFrame>> {
    frames.into_iter().zip(in_place).filter(|(_, in_place)| !**in_place).map(|(frame, _)| frame).collect()
}

pub(super) fn seal(frames: &[Arc<SealedFrame>]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for frame in frames {
        hasher.update(frame.hash());
    }
    hasher.finalize().into()
}

/// The frames of the next batch, and the trailer if it was met.
pub(super) fn next_batch<R: Read>(
    reader: &mut DeltaReader<R>,
    pace: Pace,
) -> Result<(Vec<Arc<SealedFrame>>, Option<Trailer>), FormatError> {
    let mut frames = Vec::with_capacity(pace.frames_in_batch);
    while frames.len() < pace.frames_in_batch {
        match reader.next_item()? {
            Item::Frame(frame) => frames.push(Arc::new(frame)),
            Item::Trailer(trailer) => return Ok((frames, Some(trailer))),
        }
    }
    Ok((frames, None))
}

pub(crate) fn open<R: Read>(delta: &mut R) -> Result<Reader<'_, R>, FormatError> {
    DeltaReader::open(BufReader::with_capacity(READ_AHEAD, delta))
}

/// What a delta says before its map and its frames.
pub(crate) fn header_of(mut delta: &mut dyn ReadSeek) -> Result<DeltaHeader, JobError> {
    length_of(delta)?;
    Ok(open(&mut delta)?.header().clone())
}

/// Whoever keeps what a delta is going to replace.
pub(crate) trait Recording {
    /// Makes ready for the next frames; the witness of what stands at them.
    fn witness(&mut self, frames: &[Arc<SealedFrame>]) -> &mut dyn Witness;

    /// Keeps what the witness saw of the same frames.
    fn record(&mut self, target: &mut Target<'_>, frames: &[Arc<SealedFrame>]) -> Result<(), JobError>;
}

/// Reads a whole delta and all that it would replace, and proves what can be proven before writing. `torn` finds the blocks
/// that may be half written, given the delta's key and shapes.
pub(crate) fn check_all(
    device: &dyn Device,
    delta: &mut dyn ReadSeek,
    torn: impl FnOnce(&[u8; 32], &Shapes) -> BlockRange,
    mut recording: Option<&mut dyn Recording>,
    pace: Pace,
    progress: &dyn Progress,
) -> Result<Checked, JobError> {
    progress.phase(if recording.is_some() { "recording" } else { "checking" }, length_of(delta)?);
    let mut delta = delta;
    let mut reader = open(&mut delta)?;
    let (header, free, key) = (reader.header().clone(), reader.free().clone(), *reader.key());
    // Before anything is read, and before values are computed for a disk of any size that a damaged header may claim.
    fits(&header, device)?;
    let torn = torn(&key, &header.shapes);
    let mut proof = Proof::new(&header.shapes);
    let mut total = Examined::default();
    let mut batches = Vec::new();
    let mut position = 0;
    thread::scope(|scope| {
        let mut target = Target::new(device, header.shapes, pace, scope)?;
        loop {
            let (frames, trailer) = next_batch(&mut reader, pace)?;
            for frame in &frames {
                proof.absorb(&frame.table);
            }
            target.start_checking(&frames);
            let witness = recording.as_deref_mut().map(|recording| recording.witness(&frames));
            let found = target.examine(&frames, torn, witness)?;
            if let Some(recording) = recording.as_deref_mut() {
                recording.record(&mut target, &frames)?;
            }
            // The last frames may be checked while the next ones are read.
            target.finish_checking(if trailer.is_some() { 0 } else { frames.len() })?;
            for examined in &found {
                total.add(examined);
            }
            if let Some(last) = frames.last() {
                batches.push(Batch { in_place: in_place(&found), seal: seal(&frames), end: last.table.end() });
            }
            progress.advance(reader.position() - position);
            position = reader.position();
            if let Some(trailer) = trailer {
                proof.finish(&header, &trailer)?;
                let Trailer { result_root, totals, signed_by, .. } = trailer;
                return Ok(Checked { header, free, key, result_root, totals, signed_by, total, batches });
            }
            if progress.stop_requested() {
                return Err(JobError::Interrupted(NOTHING_WRITTEN.into()));
            }
        }
    })
}

/// The length of a delta, and back to its start.
pub(crate) fn length_of(delta: &mut dyn ReadSeek) -> Result<Option<u64>, JobError> {
    let failed = |error: io::Error| JobError::from(FormatError::Read(FileKind::Delta, error));
    let length = delta.seek(io::SeekFrom::End(0)).map_err(failed)?;
    delta.rewind().map_err(failed)?;
    Ok(Some(length))
}

impl Checked {
    /// The refusal of a target that is at another base; none if it is at the right one.
    pub(crate) fn wrong_base(&self, device: &dyn Device, consequence: &str) -> Option<JobError> {
        wrong_base(&self.total, device, consequence)
    }
}
