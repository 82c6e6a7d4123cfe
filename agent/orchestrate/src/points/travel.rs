//! Going from point to point: rollback, undo, and going on after an interruption.

use super::apply::{PointReport, finish_apply};
use super::moving::{DeltaFile, Start, check, from_start, is_the_one, write};
use super::record::{Base, record, trusted_free};
use super::space::{begin, publish};
use super::spool::open_spool;
use super::survey::Survey;
use super::view::refuse_fuzzy;
use super::{MoveOptions, nothing_under_way};
use crate::apply::Written;
use crate::{ApplyOptions, JobError, Progress, ReadSeek};
use failback_blockio::Device;
use failback_retention::{Catalogue, DeltaSource, Link, LinkError, MoveError, Pending, PointId, Store};
use std::fs::File;
use std::io::BufReader;

/// Where a disk went.
#[derive(Clone, Debug)]
pub struct TravelReport {
    /// The point that it was at, or whose change was taken back.
    pub from: PointId,
    /// The point that it is at.
    pub to: PointId,
    /// How many links were passed.
    pub steps: u64,
    /// Bytes of content that were written.
    pub bytes_written: u64,
    /// Bytes that were made zero.
    pub bytes_zeroed: u64,
    /// Bytes that were read and compared.
    pub bytes_read: u64,
    /// What an apply that was finished did.
    pub applied: Option<PointReport>,
}

impl TravelReport {
    fn starting_at(store: &Store) -> Self {
        let from = store.catalogue().present().id;
        Self { from, to: from, steps: 0, bytes_written: 0, bytes_zeroed: 0, bytes_read: 0, applied: None }
    }

    fn add(&mut self, written: Written, bytes_read: u64) {
        self.steps += 1;
        self.bytes_written += written.data;
        self.bytes_zeroed += written.zeroes;
        self.bytes_read += bytes_read;
    }
}

/// Brings the disk to another point. All points stay, those that are newer too.
///
/// # Errors
///
/// When something else is under way, there is no such point, it is fuzzy and `fuzzy` does not allow that, the disk is not
/// what it should be, something fails, or the user stops it.
pub fn rollback(
    device: &dyn Device,
    store: &mut Store,
    goal: PointId,
    fuzzy: bool,
    options: &MoveOptions,
    progress: &dyn Progress,
) -> Result<TravelReport, JobError> {
    nothing_under_way(store)?;
    let point = store.catalogue().point(goal).ok_or(MoveError::NoSuchPoint(goal)).map_err(JobError::from)?;
    refuse_fuzzy(point, fuzzy)?;
    links_are_there(store, goal)?;
    let mut report = TravelReport::starting_at(store);
    begin(store, |catalogue| catalogue.begin_rollback(goal, options.now))?;
    travel(device, store, true, &mut report, options, progress)?;
    Ok(report)
}

/// Takes back what is under way; if nothing is, everything since the last commit.
///
/// # Errors
///
/// When there is nothing to be undone, a point that would be lost is pinned, the disk is not what it should be, something
/// fails, or the user stops it.
pub fn undo(
    device: &dyn Device,
    store: &mut Store,
    options: &MoveOptions,
    progress: &dyn Progress,
) -> Result<TravelReport, JobError> {
    let mut report = TravelReport::starting_at(store);
    let begins = store.catalogue().pending().is_none();
    match store.catalogue().pending().cloned() {
        Some(Pending::Apply(apply)) => {
            take_back(device, store, &apply.inverse, &mut report, options, progress)?;
            publish(store, Catalogue::cancel_pending)?;
            return Ok(report);
        }
        Some(Pending::Rollback { from, inverse, .. }) => {
            if let Some(inverse) = inverse {
                take_back(device, store, &inverse, &mut report, options, progress)?;
            }
            publish(store, |catalogue| {
                let back = catalogue.cancel_pending()?;
                if back.present().id == from { Ok(back) } else { back.begin_rollback(from, options.now) }
            })?;
        }
        Some(Pending::Undo { .. }) => {}
        None => {
            let catalogue = store.catalogue();
            let (present, committed) = (catalogue.present().id, catalogue.committed());
            if present == committed {
                return Err(nothing_to_undo(committed));
            }
            check_way(store, committed, progress)?;
            begin(store, |catalogue| catalogue.begin_undo(committed, options.now))?;
        }
    }
    travel(device, store, begins, &mut report, options, progress)?;
    Ok(report)
}

/// The refusal of an undo where the disk is at the committed point already.
#[must_use]
pub fn nothing_to_undo(committed: PointId) -> JobError {
    JobError::Refused(format!(
        "nothing is to be undone: the disk is at recovery point {committed}, which is the committed one"
    ))
}

/// The refusal of a resume where nothing is under way.
#[must_use]
pub fn nothing_to_resume() -> JobError {
    JobError::Refused(
        "nothing is to be resumed: no change of this disk was interrupted; failback status tells where it is".into(),
    )
}

/// Reads all links on the way to a point: what is passed in an undo cannot be gone back to, so all of it must lead there.
fn check_way(store: &Store, goal: PointId, progress: &dyn Progress) -> Result<(), JobError> {
    links_to(store, goal).into_iter().try_for_each(|link| open_link(store, link, progress).map(drop))
}

/// Goes on with what was interrupted. `delta` is the one that was being applied, if it is not where it was.
///
/// # Errors
///
/// When nothing is under way, the delta is missing or another one, the disk is not what it should be, something fails, or the
/// user stops it.
pub fn resume(
    device: &dyn Device,
    delta: Option<&mut dyn ReadSeek>,
    store: &mut Store,
    apply: &ApplyOptions,
    options: &MoveOptions,
    progress: &dyn Progress,
) -> Result<TravelReport, JobError> {
    let mut report = TravelReport::starting_at(store);
    match store.catalogue().pending().cloned() {
        None => return Err(nothing_to_resume()),
        Some(Pending::Apply(pending)) => {
            let applied = match (delta, pending.source) {
                (Some(delta), _) => go_on(device, delta, &pending.delta, store, apply, progress)?,
                (None, DeltaSource::Spooled(file)) => {
                    let mut delta = open_spool(store, file)?;
                    go_on(device, &mut delta, &pending.delta, store, apply, progress)?
                }
                (None, DeltaSource::Path(path)) => {
                    let missing = |error: std::io::Error| {
                        JobError::Refused(format!(
                            "the delta {path} cannot be opened ({error}): name it with --delta, or undo what was begun"
                        ))
                    };
                    let mut delta = BufReader::new(File::open(&path).map_err(missing)?);
                    go_on(device, &mut delta, &pending.delta, store, apply, progress)?
                }
            };
            report.add(Written { data: applied.applied.bytes_written, zeroes: applied.applied.bytes_zeroed }, 0);
            report.bytes_read = applied.applied.examined.bytes_read;
            report.to = applied.point.id;
            report.applied = Some(applied);
            return Ok(report);
        }
        Some(_) => travel(device, store, false, &mut report, options, progress)?,
    }
    Ok(report)
}

fn go_on(
    device: &dyn Device,
    delta: &mut dyn ReadSeek,
    key: &[u8; 32],
    store: &mut Store,
    options: &ApplyOptions,
    progress: &dyn Progress,
) -> Result<PointReport, JobError> {
    let survey = Survey::of(delta, progress)?;
    is_the_one(&survey, key, "the delta that was given")?;
    finish_apply(device, delta, &survey, store, options, progress)
}

/// Writes back what a step that is under way replaced.
fn take_back(
    device: &dyn Device,
    store: &Store,
    inverse: &Link,
    report: &mut TravelReport,
    options: &MoveOptions,
    progress: &dyn Progress,
) -> Result<(), JobError> {
    let (mut delta, _) = open_link(store, inverse, progress)?;
    let checked = check(device, &mut delta, Start::OnTheWay, options, progress)?;
    let written = write(device, &mut delta, &checked, options.pace, progress)?;
    report.add(written, checked.total.bytes_read);
    Ok(())
}

/// Passes link after link, until nothing is under way any more. `begins` says whether the journey begins here: if it cannot, it is
/// none.
fn travel(
    device: &dyn Device,
    store: &mut Store,
    begins: bool,
    report: &mut TravelReport,
    options: &MoveOptions,
    progress: &dyn Progress,
) -> Result<(), JobError> {
    loop {
        let passed = match store.catalogue().pending() {
            Some(Pending::Rollback { inverse, .. }) => {
                let start = if inverse.is_some() { Start::OnTheWay } else { Start::AtTheBase };
                step(device, store, start, options, progress)
            }
            Some(Pending::Undo { stepping, .. }) => {
                let start = if *stepping { Start::OnTheWay } else { Start::AtTheBase };
                undo_step(device, store, start, options, progress)
            }
            Some(Pending::Apply(_)) | None => break,
        };
        match passed {
            Ok((written, bytes_read)) => report.add(written, bytes_read),
            // Before a step is begun nothing is written for it, but those before it were taken.
            Err(JobError::Interrupted(_)) if !(is_stepping(store) || (begins && report.steps == 0)) => {
                return Err(stopped_at(store));
            }
            Err(error) => {
                let error = told_of_the_point(error, store.catalogue().present().id);
                return Err(if begins && report.steps == 0 { give_up(store, error) } else { error });
            }
        }
        if progress.stop_requested() && store.catalogue().pending().is_some() {
            return Err(stopped_at(store));
        }
    }
    report.to = store.catalogue().present().id;
    Ok(())
}

fn stopped_at(store: &Store) -> JobError {
    JobError::Interrupted(format!(
        "the disk is at recovery point {} on its way: failback resume to go on, or failback undo to go back",
        store.catalogue().present().id
    ))
}

/// Whether the disk may be between two points.
fn is_stepping(store: &Store) -> bool {
    match store.catalogue().pending() {
        Some(Pending::Rollback { inverse, .. }) => inverse.is_some(),
        Some(Pending::Undo { stepping, .. }) => *stepping,
        Some(Pending::Apply(_)) => true,
        None => false,
    }
}

/// A journey that could not begin is none: nothing was written, so nothing is left to be finished or taken back.
fn give_up(store: &mut Store, error: JobError) -> JobError {
    if !is_stepping(store) {
        // If this fails as well, the status says so, and it can be undone.
        let _ = store.change(Catalogue::cancel_pending);
    }
    error
}

/// One step of a rollback.
fn step(
    device: &dyn Device,
    store: &mut Store,
    start: Start,
    options: &MoveOptions,
    progress: &dyn Progress,
) -> Result<(Written, u64), JobError> {
    let link = next_link(store)?;
    let (mut delta, survey) = open_link(store, &link, progress)?;
    let checked = match start {
        Start::OnTheWay => check(device, &mut delta, start, options, progress)?,
        Start::AtTheBase => {
            let (point, trusted) = (*store.catalogue().present(), trusted_free(device, &survey, false)?);
            let recorded = record(device, &mut delta, &survey, &Base { point, trusted }, store, options, progress)?;
            let (checked, inverse) = recorded.ok_or_else(|| moved_by_others(device, store))?;
            let inverse = inverse.link(link.direction.opposite());
            begin(store, |catalogue| catalogue.begin_step(inverse))?;
            checked
        }
    };
    let written = write(device, &mut delta, &checked, options.pace, progress)?;
    publish(store, Catalogue::finish_step)?;
    Ok((written, checked.total.bytes_read))
}

/// One step of an undo: nothing is kept of what it replaces.
fn undo_step(
    device: &dyn Device,
    store: &mut Store,
    start: Start,
    options: &MoveOptions,
    progress: &dyn Progress,
) -> Result<(Written, u64), JobError> {
    let link = next_link(store)?;
    let (mut delta, _) = open_link(store, &link, progress)?;
    let checked = check(device, &mut delta, start, options, progress)?;
    if start == Start::AtTheBase {
        begin(store, Catalogue::begin_undo_step)?;
    }
    let written = write(device, &mut delta, &checked, options.pace, progress)?;
    publish(store, Catalogue::finish_undo_step)?;
    Ok((written, checked.total.bytes_read))
}

fn next_link(store: &Store) -> Result<Link, JobError> {
    let link = store.catalogue().next_link().copied();
    link.ok_or_else(|| JobError::Refused("there is no way on from here: look at the recovery points".into()))
}

/// Opens the delta of a link and reads it to its end: it is whole, and the one that the catalogue names.
fn open_link(store: &Store, link: &Link, progress: &dyn Progress) -> Result<(DeltaFile, Survey), JobError> {
    let place = || format!("{}/{}", store.directory().place(), link.file.delta_name());
    let mut delta = from_start(store, store.open_link(link)?)?;
    let survey = Survey::of(&mut delta, progress).map_err(|error| match error {
        JobError::Format(source) => LinkError::Damaged { place: place(), source }.into(),
        other => other,
    })?;
    if survey.key != link.key {
        return Err(LinkError::Other { place: place() }.into());
    }
    Ok((delta, survey))
}

/// Refuses a journey that cannot come to its end because the file of a link is not there.
fn links_are_there(store: &Store, goal: PointId) -> Result<(), JobError> {
    links_to(store, goal).into_iter().try_for_each(|link| store.open_link(link).map(drop)).map_err(JobError::from)
}

/// The links from where the disk is to a point, in the order in which they are passed.
fn links_to(store: &Store, goal: PointId) -> Vec<&Link> {
    let catalogue = store.catalogue();
    catalogue.links_between(catalogue.present().id, goal).unwrap_or_default()
}

/// A step that does not find the point that it starts from: nobody has given a delta here.
fn told_of_the_point(error: JobError, present: PointId) -> JobError {
    let JobError::WrongBase { disk, blocks, first, consequence } = error else { return error };
    JobError::Mismatch(format!(
        "{disk} is not at recovery point {present}: something wrote to it since, {blocks} runs hold something else (the first at bytes \
         {first}), so {consequence}; failback verify --point {present} compares all of it, and failback commit gives the way back up and \
         keeps what it holds"
    ))
}

fn moved_by_others(device: &dyn Device, store: &Store) -> JobError {
    JobError::Mismatch(format!(
        "{} is not at recovery point {}: it holds what the neighbouring one has, so others wrote to it; failback verify --point \
         tells where",
        device.name(),
        store.catalogue().present().id
    ))
}
