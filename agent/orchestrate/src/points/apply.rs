//! Applying a delta so that it can be undone.

use super::moving::{DeltaFile, Moving, Start, is_the_one};
use super::recorder::{Recorder, bytes_lost_to_zeroes, header_of_inverse};
use super::space::{begin, full, full_or, make_room};
use super::survey::Survey;
use super::tree::read_and_keep;
use super::{MoveOptions, nothing_under_way};
use crate::apply::{
    Applied, Checked, End, Written, check_all, check_signer, finish, fits, prove_disk, proven_by, same_disk, write_all,
};
use crate::free::free_blocks;
use crate::scan::ScanReport;
use crate::{ApplyOptions, ApplyReport, JobError, Progress, Proven, ReadSeek, likeness};
use failback_blockio::Device;
use failback_delta::{Coverage, FreeBlocks, PointKind, Shapes};
use failback_hashtree::Root;
use failback_retention::{
    Apply, DeltaSource, Direction, FileId, Link, LinkFile, LinkWriter, Pending, Point, PointId, Proof, Store,
};
use failback_units::{BlockRange, BlockSize, ByteCount};
use std::io::{self, Read};
use std::thread;

/// What applying with recovery points did.
#[derive(Clone, Debug)]
pub struct PointReport {
    /// What was done to the disk.
    pub applied: ApplyReport,
    /// The point that the disk is at.
    pub point: Point,
    /// What leads back from it; none if nothing was changed.
    pub link: Option<Link>,
}

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
            Ok(0) => break out.sync().map_err(|source| full_or_failed(store, 0, source)),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted && !progress.stop_requested() => continue,
            // Ctrl-C reaches both ends of a pipe: that it breaks off then is no failure.
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

/// Brings a target disk from the base of a delta to its result, and keeps what leads back. The caller has claimed the disk and
/// holds the lock of the store.
///
/// # Errors
///
/// When the delta is damaged, the disk is not at the present point or not at the base, something else is under way, something
/// fails, or the user stops it. Before the change is recorded as a whole, nothing is written; afterwards it can be finished
/// and taken back.
pub fn apply_recorded(
    device: &dyn Device,
    delta: &mut dyn ReadSeek,
    source: DeltaSource,
    store: &mut Store,
    options: &ApplyOptions,
    moving: &MoveOptions,
    progress: &dyn Progress,
) -> Result<PointReport, JobError> {
    let survey = Survey::of(delta)?;
    fits(&survey.header, device)?;
    check_signer(options, survey.signed_by())?;
    if let Some(Pending::Apply(apply)) = store.catalogue().pending()
        && apply.delta == survey.key
    {
        return finish_apply(device, delta, &survey, Start::OnTheWay, store, options, progress);
    }
    nothing_under_way(store)?;
    same_disk(device, &survey.header, options)?;
    if stands_at_the_result(&survey, store) {
        return already_there(device, delta, &survey, store, options, progress);
    }
    store.catalogue().check_apply()?;
    begin_at(&survey, store, options.now)?;
    make_room(device, store, survey.old_bytes + survey.uncounted_bytes, moving, progress)?;
    let trusted = trusted_free(device, &survey, options)?;
    let Some((checked, link)) = record(device, delta, &survey, trusted, store, moving, progress)? else {
        return already_there(device, delta, &survey, store, options, progress);
    };
    let result = Point {
        id: store.catalogue().next_point(),
        root: survey.trailer.result_root,
        size: survey.header.shapes.result.size(),
        block_size: survey.header.shapes.block_size(),
        coverage: survey.header.result_coverage,
        kind: survey.header.kind,
        time: survey.header.created,
        recorded: options.now,
        pinned: false,
        proven: Proof::ChangedBlocks,
        delta: survey.key,
    };
    let inverse = link.link(Direction::Reverse);
    let started = options.now;
    begin(store, |catalogue| catalogue.begin_apply(Apply { delta: survey.key, source, result, inverse, started }))?;
    let written = write_all(device, delta, &checked, &mut Moving, options.pace, progress)?;
    conclude(device, &survey, &checked, written, false, store, options, progress)
}

/// Goes on with an apply that is under way.
pub(super) fn finish_apply(
    device: &dyn Device,
    delta: &mut dyn ReadSeek,
    survey: &Survey,
    start: Start,
    store: &mut Store,
    options: &ApplyOptions,
    progress: &dyn Progress,
) -> Result<PointReport, JobError> {
    let torn = |_: &[u8; 32], shapes: &Shapes| start.torn(shapes);
    let checked = check_all(device, delta, torn, None, options.pace, progress)?;
    is_the_one(survey, &checked.key, "the delta")?;
    prove_disk(device, delta, &checked, "it was left as the interrupted apply had left it", progress)?;
    let written = write_all(device, delta, &checked, &mut Moving, options.pace, progress)?;
    conclude(device, survey, &checked, written, true, store, options, progress)
}

/// All is written and durable: makes the point visible.
#[expect(clippy::too_many_arguments, reason = "the end of one story, told in one place")]
fn conclude(
    device: &dyn Device,
    survey: &Survey,
    checked: &Checked,
    written: Written,
    resumed: bool,
    store: &mut Store,
    options: &ApplyOptions,
    progress: &dyn Progress,
) -> Result<PointReport, JobError> {
    let applied = applied(survey, checked, written);
    // What is read of the disk becomes its hash tree. Where free space is going to be made zero, it is read again after that.
    let zeroes = options.zeroes_free() && !survey.free.is_empty();
    let read = if options.verify && !zeroes { Some(read_result(device, survey, store, progress)?) } else { None };
    let rest = ApplyOptions { verify: options.verify && zeroes, ..options.clone() };
    let end = End { must_verify: false, resumed, verify_first: true };
    let mut applied = finish(device, applied, end, &rest, progress, |_, proven| {
        let proven = if read.is_some() { proven_by(Some(survey.free.coverage())) } else { proven };
        store.change(|catalogue| catalogue.finish_apply(proof(proven), options.now)).map_err(Into::into)
    })?;
    if let Some(scan) = read {
        applied.proven = proven_by(Some(survey.free.coverage()));
        applied.verified = Some(scan);
    }
    let catalogue = store.catalogue();
    Ok(PointReport { applied, point: *catalogue.present(), link: catalogue.links().last().copied() })
}

/// Reads the disk, which should hold the result.
fn read_result(
    device: &dyn Device,
    survey: &Survey,
    store: &mut Store,
    progress: &dyn Progress,
) -> Result<ScanReport, JobError> {
    let Some(Pending::Apply(apply)) = store.catalogue().pending() else { unreachable!("an apply is concluded") };
    let result = apply.result;
    let report = read_and_keep(device, store, &result, &survey.free, 0, progress)?;
    if report.matches() {
        return Ok(report.scan);
    }
    Err(JobError::Mismatch(format!(
        "the changed blocks are in place and durable, but {} has the root {} and not {}: blocks outside the delta are not those \
         of the base; failback undo goes back to the point before",
        device.name(),
        report.root,
        result.root
    )))
}

fn applied(survey: &Survey, checked: &Checked, written: Written) -> Applied {
    Applied {
        header: survey.header.clone(),
        free: survey.free.clone(),
        result_root: survey.trailer.result_root,
        totals: survey.totals(),
        signed_by: survey.signed_by(),
        examined: checked.total,
        written,
    }
}

/// What a point says was proven when it was published.
const fn proof(proven: Proven) -> Proof {
    match proven {
        Proven::ChangedBlocks => Proof::ChangedBlocks,
        Proven::UsedSpace => Proof::UsedSpace,
        Proven::WholeDisk => Proof::WholeDisk,
    }
}

/// Whether the present point is what the delta leads to.
fn stands_at_the_result(survey: &Survey, store: &Store) -> bool {
    let (present, shapes) = (store.catalogue().present(), &survey.header.shapes);
    present.delta == survey.key
        || (present.root == survey.trailer.result_root
            && present.root != survey.header.base_root
            && present.size == shapes.result.size())
}

/// The disk should hold the result: finds out, and writes nothing.
fn already_there(
    device: &dyn Device,
    delta: &mut dyn ReadSeek,
    survey: &Survey,
    store: &Store,
    options: &ApplyOptions,
    progress: &dyn Progress,
) -> Result<PointReport, JobError> {
    let checked = check_all(device, delta, |_, _| BlockRange::default(), None, options.pace, progress)?;
    if !checked.total.is_in_place() {
        return Err(JobError::Mismatch(format!(
            "{} should be at recovery point {} already, and is not: something wrote to it since; failback verify --point tells \
             where",
            device.name(),
            store.catalogue().present().id
        )));
    }
    let applied = applied(survey, &checked, Written::default());
    let end = End { must_verify: false, resumed: false, verify_first: true };
    let applied = finish(device, applied, end, options, progress, |_, _| Ok(()))?;
    Ok(PointReport { applied, point: *store.catalogue().present(), link: None })
}

/// Sees to it that the delta begins where the disk is: at the present point. Where no other point depends on that one, it
/// becomes what the delta says of its base.
fn begin_at(survey: &Survey, store: &mut Store, now: i64) -> Result<(), JobError> {
    begins_at_present(survey, store)?;
    let (header, present) = (&survey.header, store.catalogue().present());
    if present.root == header.base_root && present.size == header.shapes.base.size() {
        return Ok(());
    }
    let base = base_point(survey, now);
    begin(store, |catalogue| catalogue.rebase(base))
}

/// Refuses a delta that begins elsewhere than at the present point, unless no other point depends on that one.
fn begins_at_present(survey: &Survey, store: &Store) -> Result<(), JobError> {
    let (header, present) = (&survey.header, store.catalogue().present());
    let same = present.root == header.base_root && present.size == header.shapes.base.size();
    if same || store.catalogue().links().is_empty() {
        return Ok(());
    }
    Err(JobError::Refused(format!(
        "this delta starts from the root {} and the disk is at recovery point {} with the root {}: make the delta from a signature \
         of that state, in blocks of {} bytes; if the disk was changed by others, failback commit gives the older points up",
        header.base_root,
        present.id,
        present.root,
        present.block_size.bytes()
    )))
}

/// The point of a disk of which nothing is known yet: what a store begins with, until the first delta says what it starts from.
#[must_use]
pub const fn unknown_point(size: ByteCount, now: i64) -> Point {
    Point {
        id: PointId(0),
        root: Root([0; 32]),
        size,
        block_size: BlockSize::MIN,
        coverage: Coverage::Whole,
        kind: PointKind::Crash,
        time: now,
        recorded: now,
        pinned: false,
        proven: Proof::ChangedBlocks,
        delta: [0; 32],
    }
}

/// What keeping the way back of a delta would need.
#[derive(Clone, Debug)]
pub struct KeepingPlan {
    /// Bytes of old content that would be kept, at most and before compression.
    pub bytes_to_keep: u64,
    /// Why it would be refused, in sentences.
    pub refusals: Vec<String>,
}

/// Finds out what keeping the way back of a delta would need, and writes nothing. `store` are the points that there are.
///
/// # Errors
///
/// When the delta is damaged or cannot be read.
pub fn plan_keeping(delta: &mut dyn ReadSeek, store: Option<&Store>) -> Result<KeepingPlan, JobError> {
    let survey = Survey::of(delta)?;
    let mut refusals = Vec::new();
    if let Some(store) = store {
        let is_this_one = match store.catalogue().pending() {
            Some(Pending::Apply(apply)) => apply.delta == survey.key,
            _ => false,
        };
        if !is_this_one {
            let begins =
                || if stands_at_the_result(&survey, store) { Ok(()) } else { begins_at_present(&survey, store) };
            refusals.extend(nothing_under_way(store).and_then(|()| begins()).err().map(|error| error.to_string()));
        }
    }
    Ok(KeepingPlan { bytes_to_keep: survey.old_bytes + survey.uncounted_bytes, refusals })
}

/// The state before the first delta, as that delta states it.
fn base_point(survey: &Survey, now: i64) -> Point {
    let header = &survey.header;
    Point {
        id: PointId(0),
        root: header.base_root,
        size: header.shapes.base.size(),
        block_size: header.shapes.block_size(),
        coverage: header.base_coverage,
        // The disk is claimed, so nobody writes to it.
        kind: PointKind::Crash,
        time: now,
        recorded: now,
        pinned: false,
        proven: Proof::ChangedBlocks,
        delta: [0; 32],
    }
}

/// What the disk's own file systems call free, if that matters: then what lies there need not be kept.
fn trusted_free(device: &dyn Device, survey: &Survey, options: &ApplyOptions) -> Result<FreeBlocks, JobError> {
    let zeroes = options.zeroes_free() && !survey.free.is_empty();
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

/// Proves the delta and the disk, and keeps what leads back, durably. `None` if the disk holds the result already.
pub(super) fn record(
    device: &dyn Device,
    delta: &mut dyn ReadSeek,
    survey: &Survey,
    trusted: FreeBlocks,
    store: &mut Store,
    moving: &MoveOptions,
    progress: &dyn Progress,
) -> Result<Option<(Checked, LinkFile)>, JobError> {
    let present = *store.catalogue().present();
    let header = header_of_inverse(survey, present.kind, present.time, moving.id(store));
    let needed = survey.old_bytes + survey.uncounted_bytes;
    let writer = LinkWriter::create(store, header, &survey.base_free);
    let writer = writer.map_err(|error| full_or(store, needed, error.into()))?;
    let file = writer.file();
    let recorded = thread::scope(|scope| {
        let mut recorder = Recorder::new(survey, writer, trusted, scope);
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

/// A delta that was stored, to be read from its start.
///
/// # Errors
///
/// When it cannot be opened.
pub fn open_spool(store: &Store, file: FileId) -> Result<DeltaFile, JobError> {
    let place = || store.directory().place().into();
    let file = store.open_spool(file)?;
    failback_retention::Reader::new(file).map_err(|source| JobError::File { action: "read", path: place(), source })
}
