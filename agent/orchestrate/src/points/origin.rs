//! Where a delta begins and leads, against the points that there are.

use super::nothing_under_way;
use super::survey::Survey;
use crate::{JobError, Progress, ReadSeek};
use failback_delta::{Coverage, PointKind};
use failback_hashtree::Root;
use failback_retention::{Pending, Point, PointId, Proof, Store};
use failback_units::{BlockSize, ByteCount};

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

/// The point that the disk is at if it holds the base of a delta. It is the present one, or, where no other point depends on
/// that, what the delta says of its base: once that has been compared with the disk, it takes the place of the present one.
pub(super) fn origin(survey: &Survey, store: &Store, now: i64) -> Result<Point, JobError> {
    let (header, present) = (&survey.header, *store.catalogue().present());
    // With free space as zeroes the same root can be that of other bytes, and depends on the blocks.
    let same_bytes = present.coverage == header.base_coverage
        && (present.coverage == Coverage::Whole || present.block_size == header.shapes.block_size());
    if same_bytes && present.root == header.base_root && present.size == header.shapes.base.size() {
        return Ok(present);
    }
    if store.catalogue().links().is_empty() {
        return Ok(Point {
            id: present.id,
            root: header.base_root,
            size: header.shapes.base.size(),
            block_size: header.shapes.block_size(),
            coverage: header.base_coverage,
            // The disk is claimed, so nobody writes to it.
            kind: PointKind::Crash,
            time: now,
            recorded: now,
            pinned: present.pinned,
            proven: Proof::ChangedBlocks,
            delta: [0; 32],
        });
    }
    Err(JobError::Refused(format!(
        "this delta starts from the root {} ({}, blocks of {}) and the disk is at recovery point {} with the root {} ({}, blocks of \
         {}): make the delta from a signature of that state with that coverage and block size; if others have changed the disk, \
         failback commit gives the older points up",
        header.base_root,
        header.base_coverage,
        header.shapes.block_size(),
        present.id,
        present.root,
        present.coverage,
        present.block_size
    )))
}

/// The point that the disk is at once a delta was applied.
pub(super) fn destination(survey: &Survey, store: &Store, now: i64) -> Point {
    let header = &survey.header;
    Point {
        id: store.catalogue().next_point(),
        root: survey.trailer.result_root,
        size: header.shapes.result.size(),
        block_size: header.shapes.block_size(),
        coverage: header.result_coverage,
        kind: header.kind,
        time: header.created,
        recorded: now,
        pinned: false,
        proven: Proof::ChangedBlocks,
        delta: survey.key,
    }
}

/// Whether the present point is what the delta leads to.
pub(super) fn stands_at_the_result(survey: &Survey, store: &Store) -> bool {
    let (present, header) = (store.catalogue().present(), &survey.header);
    present.delta == survey.key
        || (present.root == survey.trailer.result_root
            && present.root != header.base_root
            && present.size == header.shapes.result.size()
            && present.coverage == header.result_coverage
            && present.block_size == header.shapes.block_size())
}

/// What keeping the way back of a delta would need.
#[derive(Clone, Debug)]
pub struct KeepingPlan {
    /// Bytes of old content that would be kept, at most and before compression.
    pub bytes_to_keep: u64,
    /// Why it would be refused, in sentences.
    pub refusals: Vec<String>,
}

/// Finds out what keeping the way back of a delta would need, and writes nothing. `store` are the points that there are. The
/// caller knows that the delta fits on the disk: to prove it takes time in proportion to the sizes that it states.
///
/// # Errors
///
/// When the delta is damaged or cannot be read.
pub fn plan_keeping(
    delta: &mut dyn ReadSeek,
    store: Option<&Store>,
    progress: &dyn Progress,
) -> Result<KeepingPlan, JobError> {
    let survey = Survey::of(delta, progress)?;
    let mut refusals = Vec::new();
    if let Some(store) = store {
        let is_this_one = match store.catalogue().pending() {
            Some(Pending::Apply(apply)) => apply.delta == survey.key,
            _ => false,
        };
        let refusal = || {
            nothing_under_way(store)?;
            if stands_at_the_result(&survey, store) {
                return Ok(());
            }
            store.catalogue().check_apply()?;
            origin(&survey, store, 0).map(|_| ())
        };
        if !is_this_one {
            refusals.extend(refusal().err().map(|error: JobError| error.to_string()));
        }
    }
    Ok(KeepingPlan { bytes_to_keep: survey.bytes_to_keep(), refusals })
}
