//! Which recovery points may go, and how long the space lasts: decided from the catalogue alone, and done elsewhere.

#[cfg(test)]
mod tests;

use crate::{Catalogue, PointId};
use failback_units::{ByteCount, MAX_DISK_BYTES};
use std::fmt;
use std::time::Duration;

/// How much is kept. What is not limited is kept for ever; where there are several limits, each of them is held.
///
/// No limit touches the present point, pinned points, the committed point, which an undo returns to, and the newest point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// So many points, the present one and all that must stay among them.
    pub keep_points: Option<usize>,
    /// Points that were recorded no longer ago than this.
    pub keep_for: Option<Duration>,
    /// So many bytes in the files of all links together.
    pub keep_bytes: Option<ByteCount>,
}

/// How a point is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prune {
    /// The oldest point, with the link that leads to it.
    Drop(PointId),
    /// A point that others lie behind: its two links become one. While that is made, the drive holds all three.
    Merge(PointId),
}

impl fmt::Display for Prune {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drop(id) => write!(f, "recovery point {id} is dropped"),
            Self::Merge(id) => write!(f, "recovery point {id} is merged into its neighbours"),
        }
    }
}

impl Prune {
    /// The point.
    #[must_use]
    pub const fn point(self) -> PointId {
        match self {
            Self::Drop(id) | Self::Merge(id) => id,
        }
    }
}

/// The limit that a point is removed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is older than points are kept.
    Age {
        /// How many seconds ago it was recorded.
        age: u64,
        /// How many seconds points are kept.
        keep: u64,
    },
    /// There are more points than are kept.
    Count {
        /// How many there are before it is removed.
        points: usize,
        /// How many are kept.
        keep: usize,
    },
    /// The links take more space than they may.
    Space {
        /// How much they take before it is removed.
        bytes: ByteCount,
        /// How much they may take.
        keep: ByteCount,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Age { age, keep } => write!(f, "recorded {age} seconds ago, and points are kept for {keep}"),
            Self::Count { points, keep } => write!(f, "{points} points, and {keep} are kept"),
            Self::Space { bytes, keep } => write!(f, "{} in all, and {} are kept", bytes.human(), keep.human()),
        }
    }
}

/// One point that is to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PruneStep {
    /// Which, and how.
    pub prune: Prune,
    /// Why.
    pub reason: Reason,
    /// The bytes that are free afterwards. For a merge it is an estimate: how much of the smaller link the larger one
    /// replaces is known when both are read, and half of it is assumed.
    pub frees: ByteCount,
}

impl fmt::Display for PruneStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.prune, self.reason)
    }
}

/// What should be known about a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Remark {
    /// Points are only removed when nothing is under way.
    #[error(
        "the {0} that was begun on this disk is not finished, so that no recovery point is removed: resume it, or undo it"
    )]
    UnderWay(&'static str),
    /// The clock runs behind what it was.
    #[error(
        "the clock of this machine is {behind} seconds behind the newest recovery point, so that none is removed for its age: set the \
         clock right"
    )]
    ClockBackwards {
        /// By how many seconds.
        behind: u64,
    },
    /// All that is left must stay.
    #[error(
        "a limit is exceeded ({0}), and all points that are left are pinned, committed, present or the newest: unpin some, or commit"
    )]
    MustStay(Reason),
    /// More space is needed than the policy gives back.
    #[error(
        "{} are needed, and removing what the policy allows frees about {}: make room on the retention drive, or keep less",
        .wanted.human(),
        .frees.human()
    )]
    NotEnough {
        /// How much was asked for.
        wanted: ByteCount,
        /// How much all steps together free.
        frees: ByteCount,
    },
}

/// Points to be removed, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The steps; each depends on those before it.
    pub steps: Vec<PruneStep>,
    /// What should be known.
    pub remarks: Vec<Remark>,
}

impl Plan {
    /// The bytes that all steps free together; see [`PruneStep::frees`].
    #[must_use]
    pub fn frees(&self) -> ByteCount {
        bytes_of(self.steps.iter().map(|step| u128::from(step.frees.get())).sum())
    }
}

/// Which points a policy no longer keeps at the time `now`, in seconds since 1970. The oldest go first. Once a
/// plan was carried out, the next one is empty, if the estimates were right.
#[must_use]
pub fn plan_prune(catalogue: &Catalogue, policy: &Policy, now: i64) -> Plan {
    let mut plan = Plan::default();
    if let Some(pending) = catalogue.pending() {
        plan.remarks.push(Remark::UnderWay(pending.name()));
        return plan;
    }
    let points = catalogue.points();
    let newest = points.last().map_or(now, |point| point.recorded);
    let mut limits = Limits::of(catalogue, policy, now);
    if policy.keep_for.is_some() && now < newest {
        plan.remarks.push(Remark::ClockBackwards { behind: newest.abs_diff(now) });
        limits.keep_for = None;
    }
    // The bytes of the link that leads to the last point that stays; none as long as no point stays.
    let mut behind = None;
    for (point, link) in points.iter().zip(catalogue.links()) {
        let must_stay = point.pinned || point.id == catalogue.committed() || point.id == catalogue.present().id;
        let ahead = u128::from(link.bytes.get());
        let Some(reason) = limits.exceeded_by(point.recorded).filter(|_| !must_stay) else {
            behind = Some(ahead);
            continue;
        };
        let (prune, frees) = match behind {
            None => (Prune::Drop(point.id), ahead),
            Some(behind) => (Prune::Merge(point.id), behind.min(ahead) / 2),
        };
        behind = behind.map(|behind| behind + ahead - frees);
        limits.points -= 1;
        limits.bytes -= frees;
        plan.steps.push(PruneStep { prune, reason, frees: bytes_of(frees) });
    }
    plan.remarks.extend(limits.exceeded_in_all().map(Remark::MustStay));
    plan
}

/// The first of the steps of [`plan_prune`] that free at least `wanted` bytes together, by estimate; all of them, with a remark,
/// where they do not.
#[must_use]
pub fn plan_free(catalogue: &Catalogue, policy: &Policy, now: i64, wanted: ByteCount) -> Plan {
    let mut plan = plan_prune(catalogue, policy, now);
    let frees = plan.frees();
    if frees < wanted {
        plan.remarks.push(Remark::NotEnough { wanted, frees });
        return plan;
    }
    let mut left = u128::from(wanted.get());
    let enough = plan.steps.iter().take_while(|step| {
        let is_needed = left > 0;
        left = left.saturating_sub(step.frees.get().into());
        is_needed
    });
    let count = enough.count();
    plan.steps.truncate(count);
    plan
}

/// The limits, and what there is against them.
struct Limits {
    now: i64,
    keep_for: Option<u64>,
    keep_points: Option<usize>,
    keep_bytes: Option<ByteCount>,
    points: usize,
    bytes: u128,
}

impl Limits {
    fn of(catalogue: &Catalogue, policy: &Policy, now: i64) -> Self {
        Self {
            now,
            keep_for: policy.keep_for.map(|keep| keep.as_secs()),
            keep_points: policy.keep_points,
            keep_bytes: policy.keep_bytes,
            points: catalogue.points().len(),
            bytes: catalogue.links().iter().map(|link| u128::from(link.bytes.get())).sum(),
        }
    }

    /// The limit that a point which was recorded then exceeds.
    fn exceeded_by(&self, recorded: i64) -> Option<Reason> {
        // A time in the future has no age.
        let age = self.now.checked_sub(recorded).and_then(|age| u64::try_from(age).ok()).unwrap_or(0);
        let too_old = self.keep_for.filter(|keep| age > *keep).map(|keep| Reason::Age { age, keep });
        too_old.or_else(|| self.exceeded_in_all())
    }

    /// The limit that all points together exceed.
    fn exceeded_in_all(&self) -> Option<Reason> {
        let points = self.points;
        let too_many = self.keep_points.filter(|keep| points > *keep).map(|keep| Reason::Count { points, keep });
        let bytes = bytes_of(self.bytes);
        let too_large = || self.keep_bytes.filter(|keep| bytes > *keep).map(|keep| Reason::Space { bytes, keep });
        too_many.or_else(too_large)
    }
}

/// How fast the points of a disk fill the drive: the bytes of all links over the time in which they were recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forecast {
    /// The bytes of all links together.
    pub bytes: ByteCount,
    /// The seconds from the oldest point to the newest, 1 or more.
    pub seconds: u64,
}

impl Forecast {
    /// The forecast for a disk; none where there are less than two moments to compare, or a point was recorded earlier than the one
    /// before it, so that the clock cannot be trusted.
    #[must_use]
    pub fn of(catalogue: &Catalogue) -> Option<Self> {
        let points = catalogue.points();
        if points.windows(2).any(|pair| pair[1].recorded < pair[0].recorded) {
            return None;
        }
        let seconds = points.last()?.recorded.abs_diff(points.first()?.recorded);
        (seconds > 0).then(|| Self { bytes: catalogue.link_bytes(), seconds })
    }

    /// The bytes that are added in a second, on average, rounded down.
    #[must_use]
    pub const fn bytes_per_second(&self) -> u64 {
        self.bytes.get() / self.seconds
    }

    /// The seconds until so many bytes are filled, if it goes on like that; none if nothing is added.
    #[must_use]
    pub fn seconds_until_full(&self, available: ByteCount) -> Option<u64> {
        let seconds = u128::from(available.get()) * u128::from(self.seconds);
        let seconds = seconds.checked_div(self.bytes.get().into())?;
        Some(u64::try_from(seconds).unwrap_or(u64::MAX))
    }
}

/// A number of bytes; what no disk has is as much as the largest one has.
fn bytes_of(bytes: u128) -> ByteCount {
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX).min(MAX_DISK_BYTES);
    ByteCount::new(bytes).unwrap_or_default()
}
