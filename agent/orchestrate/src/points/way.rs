//! The delta from one point to another, made of the links between them.

use super::view::{OpenPoint, open_links, open_point};
use crate::JobError;
use failback_blockio::Device;
use failback_delta::{DeltaHeader, Frame, FreeBlocks, Identity, Proven};
use failback_hashtree::ChainingValue;
use failback_retention::{
    BetweenError, Direction, Leg, LinkReader, PointId, Store, Uncounted, between, reach_of, shapes_over,
};

/// Two points that can be read, and what leads from the one to the other.
pub(super) struct Way<'disk> {
    from: OpenPoint<&'disk dyn Device>,
    to: OpenPoint<&'disk dyn Device>,
    links: Vec<LinkReader>,
    /// For each link, whether its delta leads this way; else it leads back.
    along: Vec<bool>,
}

impl<'disk> Way<'disk> {
    /// Opens both points and the links between.
    ///
    /// # Errors
    ///
    /// As [`open_point`], and when both are the same point.
    pub(super) fn open(disk: &'disk dyn Device, store: &Store, from: PointId, to: PointId) -> Result<Self, JobError> {
        let (mut base, mut goal) = (open_point(disk, store, from)?, open_point(disk, store, to)?);
        let links = open_links(store, from, to)?;
        if links.is_empty() {
            return Err(JobError::Refused(format!(
                "a delta leads from one recovery point to another, and {to} is both: name another base"
            )));
        }
        let passed = store.catalogue().links_between(from, to).unwrap_or_default();
        let down = to < from;
        let along: Vec<_> = passed.iter().map(|link| (link.direction == Direction::Reverse) == down).collect();
        let reach = reach_of(&legs(&links, &along));
        (base.device, goal.device) = (base.device.reaching(reach), goal.device.reaching(reach));
        Ok(Self { from: base, to: goal, links, along })
    }

    /// The disk as the links know it.
    pub(super) fn identity(&self) -> Identity {
        self.links[0].header().identity.clone()
    }

    /// The free blocks of the point that the delta leads to.
    pub(super) const fn free(&self) -> &FreeBlocks {
        &self.to.free
    }

    /// What the delta says before its frames.
    ///
    /// # Errors
    ///
    /// When the links were made in blocks of different sizes, or keep what the delta could not.
    pub(super) fn header(&self, id: [u8; 16], identity: Identity) -> Result<DeltaHeader, JobError> {
        Ok(DeltaHeader {
            shapes: shapes_over(&legs(&self.links, &self.along))?,
            base_coverage: self.from.point.coverage,
            result_coverage: self.to.point.coverage,
            kind: self.to.point.kind,
            created: self.to.point.time,
            id,
            base_root: self.from.point.root,
            identity,
        })
    }

    /// Makes the frames of the delta. Returns the values for its trailer and both roots, which are those of the points.
    ///
    /// # Errors
    ///
    /// As [`between()`], when what was read does not have the roots of the points; and what `sink` says.
    pub(super) fn frames(
        &self,
        uncounted: Uncounted,
        sink: impl FnMut(Frame) -> Result<(), JobError>,
    ) -> Result<(Vec<ChainingValue>, Proven), JobError> {
        let legs = legs(&self.links, &self.along);
        let (values, proven) = between(&legs, &self.from.device, &self.to.device, uncounted, sink)?;
        if (proven.base, proven.result) == (self.from.point.root, self.to.point.root) {
            return Ok((values, proven));
        }
        Err(JobError::Mismatch(format!(
            "what was read does not have the roots of the recovery points {} and {}: something wrote to the disk since; \
             failback verify --point tells where",
            self.from.point.id, self.to.point.id
        )))
    }
}

fn legs<'links>(links: &'links [LinkReader], along: &[bool]) -> Vec<Leg<'links>> {
    links.iter().zip(along).map(|(link, along)| Leg { link, along: *along }).collect()
}

impl From<BetweenError> for JobError {
    fn from(error: BetweenError) -> Self {
        match error {
            BetweenError::Link(error) => error.into(),
            BetweenError::Disk(error) => error.into(),
            BetweenError::BlockSizes | BetweenError::Behind => {
                Self::Refused(format!("{error}: choose points that were made alike"))
            }
            BetweenError::Disagree => Self::Mismatch(error.to_string()),
        }
    }
}
