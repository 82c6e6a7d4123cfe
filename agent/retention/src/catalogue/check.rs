//! What holds for every catalogue: checked before one is saved, and when one was read.

use super::layout::{DESCRIPTION_MAX, PATH_MAX, POINTS_MAX};
use super::{Catalogue, DeltaSource, Direction, FileId, Pending, Point, PointId};
use std::collections::HashSet;

/// What does not hold and should: no catalogue is saved with it, and one that was saved with it is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Inconsistency {
    /// There is no point.
    #[error("it has no recovery point")]
    NoPoints,
    /// There are more points than a catalogue may have.
    #[error("it has more than {POINTS_MAX} recovery points")]
    TooManyPoints,
    /// There is not one link between each two neighbours.
    #[error("it has {points} points and {links} links: there should be one link less than points")]
    LinkCount {
        /// How many points.
        points: usize,
        /// How many links.
        links: usize,
    },
    /// The numbers of points do not go up.
    #[error("the number of point {0} is not greater than the one before")]
    PointOrder(PointId),
    /// A point has a number that another one may get.
    #[error("point {0} has a number that has not been given yet")]
    PointNumber(PointId),
    /// The present point is none of the chain.
    #[error("the present point is none of its points")]
    Present,
    /// The committed point is none of the chain.
    #[error("the committed point {0} is none of its points")]
    Committed(PointId),
    /// A link leads away from the present point's other side.
    #[error("the link with file {0} leads into the wrong direction")]
    LinkDirection(FileId),
    /// Two things have the same file.
    #[error("file {0} is named twice")]
    FileTwice(FileId),
    /// A file has a number that another one may get.
    #[error("file {0} has a number that has not been given yet")]
    FileNumber(FileId),
    /// The description is too long.
    #[error("the description of the disk is longer than {DESCRIPTION_MAX} bytes")]
    Description,
    /// The path of a delta is too long.
    #[error("the path of the delta that is being applied is longer than {PATH_MAX} bytes")]
    Path,
    /// The disk is not where what is under way could have begun, or does not lead to where it should.
    #[error("the {0} that is under way does not fit the points")]
    Pending(&'static str),
}

impl Catalogue {
    /// Checks all that should hold.
    pub(super) fn check(&self) -> Result<(), Inconsistency> {
        self.check_points()?;
        self.check_links()?;
        if self.disk.description.len() > DESCRIPTION_MAX {
            return Err(Inconsistency::Description);
        }
        match &self.pending {
            Some(pending) if !self.fits(pending)? => Err(Inconsistency::Pending(pending.name())),
            _ => Ok(()),
        }
    }

    fn check_points(&self) -> Result<(), Inconsistency> {
        let last = self.points.last().ok_or(Inconsistency::NoPoints)?;
        if self.points.len() > POINTS_MAX {
            return Err(Inconsistency::TooManyPoints);
        }
        if let Some(pair) = self.points.windows(2).find(|pair| pair[0].id >= pair[1].id) {
            return Err(Inconsistency::PointOrder(pair[1].id));
        }
        if last.id >= self.next_point {
            return Err(Inconsistency::PointNumber(last.id));
        }
        if self.present >= self.points.len() {
            return Err(Inconsistency::Present);
        }
        if self.index_of(self.committed).is_none() {
            return Err(Inconsistency::Committed(self.committed));
        }
        Ok(())
    }

    fn check_links(&self) -> Result<(), Inconsistency> {
        let (points, links) = (self.points.len(), self.links.len());
        if links + 1 != points {
            return Err(Inconsistency::LinkCount { points, links });
        }
        for (index, link) in self.links.iter().enumerate() {
            let wanted = if index < self.present { Direction::Reverse } else { Direction::Forward };
            if link.direction != wanted {
                return Err(Inconsistency::LinkDirection(link.file));
            }
        }
        let mut seen = HashSet::new();
        for file in self.files() {
            if !seen.insert(file) {
                return Err(Inconsistency::FileTwice(file));
            }
            if file >= self.next_file {
                return Err(Inconsistency::FileNumber(file));
            }
        }
        Ok(())
    }

    /// Whether what is under way can be under way at the present point.
    fn fits(&self, pending: &Pending) -> Result<bool, Inconsistency> {
        Ok(match pending {
            Pending::Apply(apply) => {
                if matches!(&apply.source, DeltaSource::Path(path) if path.len() > PATH_MAX) {
                    return Err(Inconsistency::Path);
                }
                let Point { id, delta, .. } = apply.result;
                let at_the_end = self.present == self.links.len() && self.points.len() < POINTS_MAX;
                let result_fits = id == self.next_point && delta == apply.delta && id.0 < u64::MAX;
                at_the_end && result_fits && apply.inverse.direction == Direction::Reverse
            }
            Pending::Rollback { goal, from, inverse, .. } => {
                let (Some(goal), Some(from)) = (self.index_of(*goal), self.index_of(*from)) else { return Ok(false) };
                let on_the_way = if goal < from { goal + 1..=from } else { from..=goal.saturating_sub(1) };
                let back = if goal < from { Direction::Forward } else { Direction::Reverse };
                goal != from
                    && on_the_way.contains(&self.present)
                    && inverse.is_none_or(|inverse| inverse.direction == back)
            }
            Pending::Undo { goal, .. } => {
                let committed = self.index_of(self.committed);
                self.index_of(*goal).is_some_and(|goal| goal < self.present && committed <= Some(goal))
            }
        })
    }
}
