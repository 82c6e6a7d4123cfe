//! Applying a delta so that it can be undone.

use super::MoveOptions;
use super::moving::{Start, is_recognised, is_the_one, write};
use super::nothing_under_way;
use super::origin::{destination, origin, stands_at_the_result};
use super::ragged::check_ragged_end;
use super::record::{Base, record, trusted_free};
use super::space::{begin, make_room, publish};
use super::survey::Survey;
use super::tree::read_and_keep;
use crate::apply::{
    Applied, Checked, End, Written, check_all, check_signer, finish, fits, header_of, prove_disk, same_disk,
};
use crate::scan::ScanReport;
use crate::{ApplyOptions, ApplyReport, JobError, Progress, Proven, ReadSeek};
use failback_blockio::Device;
use failback_delta::Shapes;
use failback_retention::{Apply, DeltaSource, Direction, Link, Pending, Point, Proof, Store};
use failback_units::BlockRange;

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
    // Before anything is computed for the sizes that it states.
    fits(&header_of(delta)?, device)?;
    let survey = Survey::of(delta, progress)?;
    check_signer(options, survey.signed_by())?;
    if let Some(Pending::Apply(apply)) = store.catalogue().pending()
        && apply.delta == survey.key
    {
        return finish_apply(device, delta, &survey, store, options, progress);
    }
    nothing_under_way(store)?;
    same_disk(device, &survey.header, options)?;
    if stands_at_the_result(&survey, store) {
        return already_there(device, delta, &survey, store, options, progress);
    }
    store.catalogue().check_apply()?;
    let point = origin(&survey, store, options.now)?;
    check_ragged_end(device, &survey.header.shapes)?;
    let base = Base { point, trusted: trusted_free(device, &survey, options.zeroes_free())? };
    make_room(device, store, survey.bytes_to_keep(), moving, progress)?;
    let recorded = record(device, delta, &survey, &base, store, moving, progress)?;
    let Some((checked, link)) = recorded else {
        return already_there(device, delta, &survey, store, options, progress);
    };
    let apply = Apply {
        delta: survey.key,
        source,
        result: destination(&survey, store, options.now),
        inverse: link.link(Direction::Reverse),
        started: options.now,
    };
    begin(store, |catalogue| {
        // Now that the disk was compared with it.
        let from = if *catalogue.present() == point { catalogue.clone() } else { catalogue.rebase(point)? };
        from.begin_apply(apply)
    })?;
    let written = write(device, delta, &checked, options.pace, progress)?;
    let end = End { must_verify: false, resumed: false, read: None };
    conclude(device, &survey, applied(&survey, &checked, written), end, store, options, progress)
}

/// Goes on with an apply that is under way.
pub(super) fn finish_apply(
    device: &dyn Device,
    delta: &mut dyn ReadSeek,
    survey: &Survey,
    store: &mut Store,
    options: &ApplyOptions,
    progress: &dyn Progress,
) -> Result<PointReport, JobError> {
    if options.zeroes_free() {
        progress.note("free space is left as it is while an apply is finished: run the same command again for that");
    }
    let options = &ApplyOptions { zero_free: false, new_disk: false, ..options.clone() };
    let torn = |_: &[u8; 32], shapes: &Shapes| Start::OnTheWay.torn(shapes);
    let checked = check_all(device, delta, torn, None, options.pace, progress)?;
    is_the_one(survey, &checked.key, "the delta")?;
    let unchanged = prove_disk(device, delta, &checked, "it was left as the interrupted apply had left it", progress)?;
    is_recognised(device, &checked, unchanged, options.disk.certain)?;
    let written = write(device, delta, &checked, options.pace, progress)?;
    let end = End { must_verify: false, resumed: true, read: None };
    conclude(device, survey, applied(survey, &checked, written), end, store, options, progress)
}

/// All is written and durable: makes the point visible.
fn conclude(
    device: &dyn Device,
    survey: &Survey,
    applied: Applied,
    end: End,
    store: &mut Store,
    options: &ApplyOptions,
    progress: &dyn Progress,
) -> Result<PointReport, JobError> {
    // A point that turns out to be another one is none: what is going to be read is read before. It becomes the hash tree.
    let zeroes = options.zeroes_free() && !survey.free.is_empty();
    let read = if options.verify || zeroes { Some(read_result(device, survey, store, progress)?) } else { None };
    let end = End { read: read.map(|scan| (scan, survey.free.coverage())), ..end };
    let applied = finish(device, applied, end, options, progress, |_, proven| {
        publish(store, |catalogue| catalogue.finish_apply(proof(proven), options.now))
    })?;
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

/// The disk should hold the result: finds out, and writes nothing but zeroes into free space, if that is wanted.
fn already_there(
    device: &dyn Device,
    delta: &mut dyn ReadSeek,
    survey: &Survey,
    store: &Store,
    options: &ApplyOptions,
    progress: &dyn Progress,
) -> Result<PointReport, JobError> {
    trusted_free(device, survey, options.zeroes_free())?;
    let checked = check_all(device, delta, |_, _| BlockRange::default(), None, options.pace, progress)?;
    if !checked.total.is_in_place() {
        return Err(JobError::Mismatch(format!(
            "{} should be at recovery point {} already, and is not: something wrote to it since; failback verify --point tells \
             where",
            device.name(),
            store.catalogue().present().id
        )));
    }
    let end = End { must_verify: false, resumed: false, read: None };
    let applied = applied(survey, &checked, Written::default());
    let applied = finish(device, applied, end, options, progress, |_, _| Ok(()))?;
    Ok(PointReport { applied, point: *store.catalogue().present(), link: None })
}
