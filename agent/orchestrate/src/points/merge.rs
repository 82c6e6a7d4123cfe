//! Removing points: dropping those at the end of the chain, and merging what leads past the others.

use super::space::full_or;
use super::way::Way;
use super::{MoveOptions, nothing_under_way};
use crate::{JobError, Progress};
use failback_blockio::Device;
use failback_retention::{Direction, LinkWriter, MoveError, PointId, Prune, Store, Uncounted, plan_prune};

/// zstd's level.
const LEVEL: i32 = 1;

/// What pruning did.
#[derive(Clone, Debug, Default)]
pub struct PruneReport {
    /// What was removed, in order.
    pub removed: Vec<Prune>,
    /// What could not be removed, and why.
    pub kept: Vec<(PointId, String)>,
    /// Bytes that the links took less in the end.
    pub bytes_freed: u64,
}

/// Removes points. Each is removed for itself: after an interruption those before are gone, and nothing else has changed.
///
/// # Errors
///
/// When something is under way, a point cannot be removed, the disk or a link is not what it should be, something fails, or
/// the user stops it.
pub fn prune(
    disk: &dyn Device,
    store: &mut Store,
    steps: &[Prune],
    options: &MoveOptions,
    progress: &dyn Progress,
) -> Result<PruneReport, JobError> {
    remove(disk, store, steps, options, progress).map_err(|error| full_or(store, 0, error))
}

/// Removes what the limits in `options` no longer keep, after a point was added. What is removed and why is told as notes.
///
/// # Errors
///
/// As [`prune`].
pub fn keep_to_limits(
    disk: &dyn Device,
    store: &mut Store,
    options: &MoveOptions,
    progress: &dyn Progress,
) -> Result<(), JobError> {
    let plan = plan_prune(store.catalogue(), &options.policy, options.now);
    for remark in &plan.remarks {
        progress.note(&remark.to_string());
    }
    if plan.steps.is_empty() {
        return Ok(());
    }
    for step in &plan.steps {
        progress.note(&step.to_string());
    }
    let steps: Vec<_> = plan.steps.iter().map(|step| step.prune).collect();
    for (id, why) in prune(disk, store, &steps, options, progress)?.kept {
        progress.note(&format!("recovery point {id} stays all the same: {why}"));
    }
    Ok(())
}

/// The same, with what the retention drive said where it is full.
pub(super) fn remove(
    disk: &dyn Device,
    store: &mut Store,
    steps: &[Prune],
    options: &MoveOptions,
    progress: &dyn Progress,
) -> Result<PruneReport, JobError> {
    nothing_under_way(store)?;
    let before = store.catalogue().link_bytes();
    let mut report = PruneReport::default();
    progress.phase("pruning", Some(steps.len() as u64));
    for (number, step) in steps.iter().enumerate() {
        match *step {
            Prune::Drop(point) => store.change(|catalogue| catalogue.drop_oldest(point))?,
            Prune::Merge(point) => match merge(disk, store, point, options, progress) {
                // Points that were made in blocks of another size stay; that is no reason to keep the rest.
                Err(JobError::Refused(why)) => {
                    report.kept.push((point, why));
                    continue;
                }
                merged => merged?,
            },
        }
        report.removed.push(*step);
        progress.advance(1);
        if let Some(next) = steps.get(number + 1).filter(|_| progress.stop_requested()) {
            return Err(stopped(next.point()));
        }
    }
    report.bytes_freed = before.saturating_sub(store.catalogue().link_bytes()).get();
    Ok(report)
}

/// The user wants no more points to be removed, from this one on.
fn stopped(next: PointId) -> JobError {
    JobError::Interrupted(format!(
        "recovery point {next} was not removed, nor were those that were to follow: prune again to go on"
    ))
}

/// Replaces the two links of a point by one that leads past it.
fn merge(
    disk: &dyn Device,
    store: &mut Store,
    id: PointId,
    options: &MoveOptions,
    progress: &dyn Progress,
) -> Result<(), JobError> {
    let catalogue = store.catalogue();
    let index = catalogue.index_of(id).ok_or(MoveError::NoSuchPoint(id)).map_err(JobError::from)?;
    catalogue.check_merge(id)?;
    let below = index < catalogue.present_index();
    // From the point that is nearer to the disk to the one that is farther.
    let (near, far) = if below { (index + 1, index - 1) } else { (index - 1, index + 1) };
    let (near, far) = (catalogue.points()[near].id, catalogue.points()[far].id);
    let way = Way::open(disk, store, near, far)?;
    let header = way.header(options.id(store), way.identity())?;
    let mut writer = LinkWriter::create(store, header, way.free())?;
    let (file, key) = (writer.file(), writer.key());
    let made = way.frames(Uncounted::BroughtBack, |frame| {
        if progress.stop_requested() {
            return Err(stopped(id));
        }
        Ok(writer.frame(&frame.table, &frame.seal_in_pieces(&key, LEVEL))?)
    });
    let made = made.and_then(|(values, proven)| Ok(writer.finish(&values, proven)?));
    let direction = if below { Direction::Reverse } else { Direction::Forward };
    let merged = made.and_then(|link| Ok(store.change(|catalogue| catalogue.merge(id, link.link(direction)))?));
    if merged.is_err() {
        let _ = store.discard(file);
    }
    merged
}
