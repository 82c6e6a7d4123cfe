//! How one catalogue follows from another. Nothing here is done: [`Store::save`](crate::Store::save) does it.

use super::layout::POINTS_MAX;
use super::{Apply, Catalogue, DeltaSource, FileId, Inconsistency, Link, Pending, Point, PointId, Proof};

/// Why a catalogue cannot be changed so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoveError {
    /// Something else is not finished.
    #[error("the {0} that was begun on this disk is not finished: resume it, or undo it, and try again")]
    UnderWay(&'static str),
    /// What should be finished was not begun.
    #[error("no {0} is under way on this disk: look at its status")]
    NotUnderWay(&'static str),
    /// There is no such point.
    #[error("there is no recovery point {0}: list the points and name one of them")]
    NoSuchPoint(PointId),
    /// The disk is there already.
    #[error("the disk is at recovery point {0} already: nothing is to be done")]
    ThereAlready(PointId),
    /// New points can only be added to the newest.
    #[error(
        "the disk is at recovery point {present}, and newer ones are kept, up to {newest}: go forward to that one, or commit the \
         present one, which drops them"
    )]
    NotAtTheEnd {
        /// Where the disk is.
        present: PointId,
        /// The newest point.
        newest: PointId,
    },
    /// An undo leads to older points only.
    #[error("recovery point {0} is not older than the present one: use a rollback to go there")]
    NotOlder(PointId),
    /// An undo ends at the committed point at the latest.
    #[error("recovery point {0} is older than the committed one: use a rollback to go there")]
    BeforeCommitted(PointId),
    /// The disk holds that point.
    #[error("the disk is at recovery point {0}, so that it cannot be removed: go to another one before")]
    IsPresent(PointId),
    /// That point is to be kept.
    #[error("recovery point {0} is pinned: unpin it if it is to go")]
    IsPinned(PointId),
    /// An undo returns to that point.
    #[error("recovery point {0} is the committed one, which an undo returns to: commit another one before")]
    IsCommitted(PointId),
    /// Another point depends on what the first one is.
    #[error(
        "there are {0} recovery points, so that what the first one is cannot be said anew: commit the present one before"
    )]
    NotAlone(usize),
    /// Only the oldest point can be dropped.
    #[error("recovery point {0} is not the oldest: merge it, or drop the older ones before")]
    NotOldest(PointId),
    /// The oldest and the newest point have no two links that could become one.
    #[error("recovery point {0} is the oldest or the newest, which cannot be merged: drop it, or leave it")]
    NotInner(PointId),
    /// No more points or files can be numbered or kept.
    #[error("the disk has as many recovery points as can be kept ({POINTS_MAX}): remove some")]
    Full,
    /// The change would break what must hold.
    #[error("the change does not fit the recovery points that there are")]
    Inconsistent(#[from] Inconsistency),
}

impl Catalogue {
    /// A delta is going to be applied: the file of its inverse is complete and durable.
    ///
    /// # Errors
    ///
    /// When something else is under way, the disk is not at the newest point, or what is given does not fit.
    pub fn begin_apply(&self, apply: Apply) -> Result<Self, MoveError> {
        self.check_apply()?;
        let mut next = self.clone();
        next.give(apply.inverse.file)?;
        if let DeltaSource::Spooled(file) = apply.source {
            next.give(file)?;
        }
        next.pending = Some(Pending::Apply(Box::new(apply)));
        next.checked()
    }

    /// Refuses where no delta can be applied now.
    ///
    /// # Errors
    ///
    /// As [`begin_apply`](Self::begin_apply), as far as that can be said without the delta.
    pub fn check_apply(&self) -> Result<(), MoveError> {
        self.nothing_under_way()?;
        if self.present != self.links.len() {
            let newest = self.points.last().map_or(self.present().id, |point| point.id);
            return Err(MoveError::NotAtTheEnd { present: self.present().id, newest });
        }
        if self.points.len() >= POINTS_MAX || self.next_point.0 == u64::MAX { Err(MoveError::Full) } else { Ok(()) }
    }

    /// The delta was applied, and the disk is durably at the result: publishes it, with what was read of it by then.
    ///
    /// # Errors
    ///
    /// When no apply is under way.
    pub fn finish_apply(&self, proven: Proof, recorded: i64) -> Result<Self, MoveError> {
        let Some(Pending::Apply(apply)) = &self.pending else { return Err(MoveError::NotUnderWay("apply")) };
        let mut next = self.clone();
        next.points.push(Point { recorded, proven, ..apply.result });
        next.links.push(apply.inverse);
        next.present = next.links.len();
        next.next_point = PointId(apply.result.id.0.checked_add(1).ok_or(MoveError::Full)?);
        next.pending = None;
        next.checked()
    }

    /// Forgets what is under way. The caller knows that the disk is at the present point: nothing was written to it since, or
    /// all that was has been taken back, durably.
    ///
    /// # Errors
    ///
    /// When nothing is under way.
    pub fn cancel_pending(&self) -> Result<Self, MoveError> {
        if self.pending.is_none() {
            return Err(MoveError::NotUnderWay("apply, rollback or undo"));
        }
        Self { pending: None, ..self.clone() }.checked()
    }

    /// The disk is going to another point, and all points are kept.
    ///
    /// # Errors
    ///
    /// When something else is under way, there is no such point, or the disk is there.
    pub fn begin_rollback(&self, goal: PointId, started: i64) -> Result<Self, MoveError> {
        self.nothing_under_way()?;
        self.place(goal)?;
        let from = self.present().id;
        if goal == from {
            return Err(MoveError::ThereAlready(goal));
        }
        Self { pending: Some(Pending::Rollback { goal, from, inverse: None, started }), ..self.clone() }.checked()
    }

    /// The link that the next step of what is under way passes, between steps as well as in one; none where nothing that goes
    /// by links is under way.
    #[must_use]
    pub fn next_link(&self) -> Option<&Link> {
        let (Pending::Rollback { goal, .. } | Pending::Undo { goal, .. }) = self.pending.as_ref()? else { return None };
        let index = if self.index_of(*goal)? < self.present { self.present - 1 } else { self.present };
        self.links.get(index)
    }

    /// A step of a rollback is going to be taken: the file of its inverse is complete and durable.
    ///
    /// # Errors
    ///
    /// When no rollback is between two steps, or the inverse does not fit.
    pub fn begin_step(&self, inverse: Link) -> Result<Self, MoveError> {
        let Some(Pending::Rollback { goal, from, inverse: None, started }) = self.pending else {
            return Err(MoveError::NotUnderWay("rollback that is between two steps"));
        };
        let mut next = self.clone();
        next.give(inverse.file)?;
        next.pending = Some(Pending::Rollback { goal, from, inverse: Some(inverse), started });
        next.checked()
    }

    /// The step was taken, and the disk is durably at the next point on the way. At the goal, nothing is under way any more.
    ///
    /// # Errors
    ///
    /// When no step of a rollback is being taken.
    pub fn finish_step(&self) -> Result<Self, MoveError> {
        let Some(Pending::Rollback { goal, from, inverse: Some(inverse), started }) = self.pending else {
            return Err(MoveError::NotUnderWay("step of a rollback"));
        };
        let mut next = self.clone();
        if self.place(goal)? < self.present {
            next.present -= 1;
            next.links[next.present] = inverse;
        } else {
            next.links[next.present] = inverse;
            next.present += 1;
        }
        let there = next.present().id == goal;
        next.pending = (!there).then_some(Pending::Rollback { goal, from, inverse: None, started });
        next.checked()
    }

    /// The disk is going back to an older point, the committed one or one after it, and newer points are dropped on the way.
    ///
    /// # Errors
    ///
    /// When something else is under way, there is no such point, it is none of those, or a newer one is pinned.
    pub fn begin_undo(&self, goal: PointId, started: i64) -> Result<Self, MoveError> {
        self.nothing_under_way()?;
        let index = self.place(goal)?;
        if index >= self.present {
            return Err(MoveError::NotOlder(goal));
        }
        if Some(index) < self.index_of(self.committed) {
            return Err(MoveError::BeforeCommitted(goal));
        }
        self.none_is_pinned_after(index)?;
        Self { pending: Some(Pending::Undo { goal, stepping: false, started }), ..self.clone() }.checked()
    }

    /// A step of an undo is going to be taken.
    ///
    /// # Errors
    ///
    /// When no undo is between two steps.
    pub fn begin_undo_step(&self) -> Result<Self, MoveError> {
        let Some(Pending::Undo { goal, stepping: false, started }) = self.pending else {
            return Err(MoveError::NotUnderWay("undo that is between two steps"));
        };
        Self { pending: Some(Pending::Undo { goal, stepping: true, started }), ..self.clone() }.checked()
    }

    /// The step was taken, and the disk is durably at the point before: drops all newer points. At the goal, nothing is under
    /// way any more.
    ///
    /// # Errors
    ///
    /// When no step of an undo is being taken.
    pub fn finish_undo_step(&self) -> Result<Self, MoveError> {
        let Some(Pending::Undo { goal, stepping: true, started }) = self.pending else {
            return Err(MoveError::NotUnderWay("step of an undo"));
        };
        let mut next = self.clone();
        next.present -= 1;
        next.keep_up_to_present();
        let there = next.present().id == goal;
        next.pending = (!there).then_some(Pending::Undo { goal, stepping: false, started });
        next.checked()
    }

    /// Keeps the present state: an undo returns here from now on. Drops all newer points, and all older ones but those from
    /// the oldest pinned one on.
    ///
    /// # Errors
    ///
    /// When something is under way, or a newer point is pinned.
    pub fn commit(&self) -> Result<Self, MoveError> {
        self.nothing_under_way()?;
        self.none_is_pinned_after(self.present)?;
        let mut next = self.clone();
        next.keep_up_to_present();
        let kept = next.points.iter().position(|point| point.pinned).unwrap_or(next.present);
        next.points.drain(..kept);
        next.links.drain(..kept);
        next.present -= kept;
        next.committed = self.present().id;
        next.checked()
    }

    /// Drops the oldest point. If it is the committed one, an undo returns to the one after it from then on, so the caller
    /// names it.
    ///
    /// # Errors
    ///
    /// When something is under way, or that point is not the oldest, is present or is pinned.
    pub fn drop_oldest(&self, id: PointId) -> Result<Self, MoveError> {
        self.nothing_under_way()?;
        let index = self.removable(id)?;
        if index != 0 {
            return Err(MoveError::NotOldest(id));
        }
        let mut next = self.clone();
        next.points.remove(0);
        next.links.remove(0);
        next.present -= 1;
        if self.committed == id {
            next.committed = next.points[0].id;
        }
        next.checked()
    }

    /// Says anew what the only point is: nothing depends on it, and the disk is now something else, or told of otherwise.
    ///
    /// # Errors
    ///
    /// When something is under way, or there are other points.
    pub fn rebase(&self, base: Point) -> Result<Self, MoveError> {
        self.nothing_under_way()?;
        let [only] = self.points[..] else { return Err(MoveError::NotAlone(self.points.len())) };
        let mut next = self.clone();
        next.points[0] = Point { id: only.id, pinned: only.pinned, ..base };
        next.checked()
    }

    /// Refuses a point that cannot be removed between two others.
    ///
    /// # Errors
    ///
    /// As [`merge`](Self::merge), as far as that can be said without the link.
    pub fn check_merge(&self, id: PointId) -> Result<(), MoveError> {
        self.inner(id).map(|_| ())
    }

    /// Removes a point between two others; `link` takes the place of its two links.
    ///
    /// # Errors
    ///
    /// When something is under way, that point is the oldest or newest, present, pinned or committed, or the link does not fit.
    pub fn merge(&self, id: PointId, link: Link) -> Result<Self, MoveError> {
        let index = self.inner(id)?;
        let mut next = self.clone();
        next.give(link.file)?;
        next.points.remove(index);
        next.links.splice(index - 1..=index, [link]);
        if index < next.present {
            next.present -= 1;
        }
        next.checked()
    }

    /// The place of a point that can be removed between two others.
    fn inner(&self, id: PointId) -> Result<usize, MoveError> {
        self.nothing_under_way()?;
        let index = self.removable(id)?;
        if id == self.committed {
            return Err(MoveError::IsCommitted(id));
        }
        if index == 0 || index == self.links.len() { Err(MoveError::NotInner(id)) } else { Ok(index) }
    }

    /// Keeps a point until that is taken back.
    ///
    /// # Errors
    ///
    /// When something is under way, or there is no such point.
    pub fn pin(&self, id: PointId) -> Result<Self, MoveError> {
        self.set_pinned(id, true)
    }

    /// Takes that back.
    ///
    /// # Errors
    ///
    /// When something is under way, or there is no such point.
    pub fn unpin(&self, id: PointId) -> Result<Self, MoveError> {
        self.set_pinned(id, false)
    }

    fn set_pinned(&self, id: PointId, pinned: bool) -> Result<Self, MoveError> {
        self.nothing_under_way()?;
        let index = self.place(id)?;
        let mut next = self.clone();
        next.points[index].pinned = pinned;
        next.checked()
    }

    fn nothing_under_way(&self) -> Result<(), MoveError> {
        self.pending.as_ref().map_or(Ok(()), |pending| Err(MoveError::UnderWay(pending.name())))
    }

    fn none_is_pinned_after(&self, index: usize) -> Result<(), MoveError> {
        let pinned = self.points[index + 1..].iter().find(|point| point.pinned);
        pinned.map_or(Ok(()), |point| Err(MoveError::IsPinned(point.id)))
    }

    fn place(&self, id: PointId) -> Result<usize, MoveError> {
        self.index_of(id).ok_or(MoveError::NoSuchPoint(id))
    }

    /// The place of a point that is neither present nor pinned.
    fn removable(&self, id: PointId) -> Result<usize, MoveError> {
        let index = self.place(id)?;
        if index == self.present {
            return Err(MoveError::IsPresent(id));
        }
        if self.points[index].pinned { Err(MoveError::IsPinned(id)) } else { Ok(index) }
    }

    fn keep_up_to_present(&mut self) {
        self.points.truncate(self.present + 1);
        self.links.truncate(self.present);
    }

    /// A file has this number now, so that no other gets it.
    fn give(&mut self, file: FileId) -> Result<(), MoveError> {
        let after = FileId(file.0.checked_add(1).ok_or(MoveError::Full)?);
        self.next_file = self.next_file.max(after);
        Ok(())
    }

    fn checked(self) -> Result<Self, MoveError> {
        self.check()?;
        Ok(self)
    }
}
