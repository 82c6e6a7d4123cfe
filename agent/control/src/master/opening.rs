//! From an offer to all that a pair needs to receive: its disk, its recovery points, and the files beside them.

use super::applying::{Applying, finish_files, header_of};
use super::desk::{Desk, Due};
use super::hooks::{About, Hook};
use super::{LiveJob, MasterTarget, now, refused};
use crate::state::Pair;
use failback_orchestrate::{
    Catalogue, ClaimedTarget, Coverage, DiskIdentity, HumanBytes, JobError, Opened, Pending, Root, StoredTree,
    build_tree_of_disk, intents_of, is_unknown, look_at_points, name_of_points, points_made_for_changes,
    refuse_unrecorded,
};
use failback_replication::{Offer, Spool};
use std::path::{Path, PathBuf};

/// What is being opened.
pub(super) struct Opening<'a> {
    pub(super) master: &'a MasterTarget,
    pub(super) pair: &'a Pair,
    pub(super) path: PathBuf,
    pub(super) disk: &'a DiskIdentity,
    pub(super) job: &'a LiveJob,
}

/// What a pair needs to receive.
pub(super) struct Ready {
    pub(super) claimed: ClaimedTarget,
    pub(super) points: Opened,
    pub(super) desk: Desk,
    pub(super) spool: Spool,
    pub(super) tree: StoredTree,
}

/// What an earlier run of this program had left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    Nothing,
    /// It is finished now.
    Applied,
    /// Its hook before-apply had been asked, and nothing more: it is asked again when the source comes back.
    NotApplied,
}

/// What is told of [`Left::NotApplied`].
pub(super) const NOT_BEGUN: &str =
    "the master target ended before the pass was applied; that is tried again when the source comes back";

impl Opening<'_> {
    /// The root of the offered delta if it has been applied already, and all that is needed to receive it if not.
    pub(super) fn open(&self, offer: &Offer) -> Result<(Option<Root>, Ready), JobError> {
        let is = &self.pair.is;
        refuse_unrecorded(&mut intents_of(self.disk, None))?;
        let claimed = self.claim()?;
        let mut points = self.points()?;
        let desk = Desk::open(&is.retention, &name_of_points(self.disk))?;
        let mut spool = desk.spool()?;
        let claimed = match self.finish(claimed, &mut points, &desk, &mut spool)?.1 {
            Some(claimed) => claimed,
            None => self.claim()?,
        };
        let catalogue = points.store.catalogue();
        catalogue.check_apply()?;
        let applied = desk.applied().filter(|applied| offer.resumed.is_some_and(|it| it.delta == applied.key));
        let root = applied.map(|applied| applied.root).filter(|root| catalogue.present().root == *root);
        let tree = self.tree(&claimed, catalogue, &desk)?;
        Ok((root, Ready { claimed, points, desk, spool, tree }))
    }

    /// Finishes what a machine that stopped left of an apply, and runs the hook that is due for it.
    pub(super) fn recover(&self) -> Result<Left, JobError> {
        let retention = &self.pair.is.retention;
        let mut points = self.points()?;
        let desk = Desk::open(retention, &name_of_points(self.disk))?;
        let mut spool = desk.spool()?;
        self.finish(self.claim()?, &mut points, &desk, &mut spool).map(|(left, _)| left)
    }

    /// The recovery points of the disk, made if there never were any.
    ///
    /// A directory without them may be the mount point of a drive that is not mounted: a second line of points would begin there, and
    /// neither of the two could be followed afterwards.
    fn points(&self) -> Result<Opened, JobError> {
        let is = &self.pair.is;
        if self.pair.points_since.is_some() && look_at_points(&is.retention, self.disk)?.is_none() {
            return Err(JobError::Refused(format!(
                "the recovery points of the pair \"{}\" are not in {}: mount its retention drive there, or, if they are lost, remove the pair and \
                 add it again",
                is.name,
                is.retention.display()
            )));
        }
        let points = points_made_for_changes(&is.retention, self.disk, now())?;
        if self.pair.points_since.is_none() {
            self.master.state().note_points(&is.name, now()).map_err(|error| refused(&error))?;
        }
        Ok(points)
    }

    fn claim(&self) -> Result<ClaimedTarget, JobError> {
        ClaimedTarget::claim(&self.path, self.master.settings.engine, self.disk, self.disk.scsi_uuid)
    }

    /// A delta that is complete in the spool, and being applied or just applied when the machine stopped, or decided to be applied with those
    /// of its group, is finished before all else. What was to be told of it is told then; the disk is given back for that, and not claimed again.
    fn finish(
        &self,
        claimed: ClaimedTarget,
        points: &mut Opened,
        desk: &Desk,
        spool: &mut Spool,
    ) -> Result<(Left, Option<ClaimedTarget>), JobError> {
        let due = Desk::due_of(&self.pair.is.retention, &name_of_points(self.disk));
        let (applied, claimed) = self.finish_apply(claimed, points, desk, spool)?;
        let (due, left) = match (due, applied) {
            (None, None) => return Ok((Left::Nothing, claimed)),
            // Of the due one it is known which group it is of, also where that is no more.
            (Some(due), Some(applied)) if due.delta == applied.delta => (due, Left::Applied),
            (_, Some(applied)) => (applied, Left::Applied),
            (Some(due), None) => {
                let catalogue = points.store.catalogue();
                let is_there = catalogue.pending().is_none() && catalogue.present().delta == due.delta;
                (due, if is_there { Left::Applied } else { Left::NotApplied })
            }
        };
        let claimed = claimed.filter(|_| !self.master.has_hook(Hook::AfterApply));
        let about =
            About { pair: self.pair.is.name.clone(), disk: self.path.clone(), kind: due.kind, group: due.group };
        let ended = match left {
            Left::NotApplied => Err(NOT_BEGUN.to_owned()),
            Left::Nothing | Left::Applied => Ok(Some(points.store.catalogue().present().root)),
        };
        self.master.tell_after_apply(desk, &about, self.job, &ended);
        Ok((left, claimed))
    }

    /// What was finished, if there was anything, and the disk, unless it is given back.
    fn finish_apply(
        &self,
        claimed: ClaimedTarget,
        points: &mut Opened,
        desk: &Desk,
        spool: &mut Spool,
    ) -> Result<(Option<Due>, Option<ClaimedTarget>), JobError> {
        let Some(key) = spool.key().filter(|_| spool.is_complete()) else { return Ok((None, Some(claimed))) };
        let catalogue = points.store.catalogue();
        let is_begun = matches!(catalogue.pending(), Some(Pending::Apply(apply)) if apply.delta == key);
        let is_published = catalogue.present().delta == key && catalogue.pending().is_none();
        let name = &self.pair.is.name;
        let is_decided = self.master.state().is_decided(name, key).map_err(|error| refused(&error))?;
        if !is_begun && !is_published && !is_decided {
            return Ok((None, Some(claimed)));
        }
        let kind = header_of(&desk.spool_path())?.kind;
        let group = if is_decided { self.master.group_of(name)? } else { String::new() };
        let work = Applying { master: self.master, pair: self.pair, points, desk, job: self.job };
        let (root, claimed) = if is_published {
            (work.points.store.catalogue().present().root, Some(claimed))
        } else {
            let target = claimed.make_writable()?;
            let root = work.apply(&target);
            target.release()?;
            (root.map_err(|error| self.explained(error, is_decided))?, None)
        };
        if is_decided {
            self.master.note_applied(self.pair, points, key)?;
        }
        finish_files(desk, desk.tree().as_ref(), spool, root)?;
        Ok((Some(Due { delta: key, kind, group }), claimed))
    }

    /// What keeps a decided pass from being applied, with the ways out.
    fn explained(&self, error: JobError, is_decided: bool) -> JobError {
        match error {
            JobError::WrongBase { .. } | JobError::Mismatch(_) if is_decided => JobError::Refused(format!(
                "the pass of \"{}\" that its group has decided on cannot be applied, since something else wrote to the disk ({error}): bring the \
                 disk back to its last recovery point, or give the mark up with failback group remove --force",
                self.pair.is.name
            )),
            error => error,
        }
    }

    /// The tree of what is on the disk: the stored one, or one that is made by reading the disk.
    fn tree(&self, claimed: &ClaimedTarget, catalogue: &Catalogue, desk: &Desk) -> Result<StoredTree, JobError> {
        let (unknown, present) = (is_unknown(catalogue), catalogue.present());
        let size = if unknown { self.disk.size } else { present.size };
        let is_present = |tree: &StoredTree| {
            tree.shape().size() == size
                && (unknown || (tree.root() == present.root && tree.coverage() == present.coverage))
        };
        if let Some(tree) = desk.tree().filter(is_present) {
            return Ok(tree);
        }
        // A disk that is known is recorded as whole or by its used space, and that is what it is compared with.
        let coverage = if unknown { Coverage::Used } else { present.coverage };
        let threads = self.master.settings.threads;
        let tree = build_tree_of_disk(claimed.device(), size, coverage, &desk.tree_path(), threads, self.job)?;
        if !is_present(&tree) && !catalogue.links().is_empty() {
            desk.forget_tree();
            return Err(JobError::Mismatch(format!(
                "{} should be at recovery point {} with the root {} and has the root {}: something else wrote to it, or it was recorded in \
                 other blocks; failback commit gives the older points up, and then the next pass starts from what is there",
                self.path.display(),
                present.id,
                present.root,
                tree.root()
            )));
        }
        Ok(tree)
    }
}

/// A source has to fit on its target.
pub(super) fn check_size(path: &Path, disk: &DiskIdentity, offer: &Offer) -> Result<(), JobError> {
    if offer.size <= disk.size {
        return Ok(());
    }
    Err(JobError::Refused(format!(
        "the target {} has {} ({} bytes) and the source has {} ({} bytes): enlarge the target disk",
        path.display(),
        HumanBytes(disk.size.get()),
        disk.size,
        HumanBytes(offer.size.get()),
        offer.size
    )))
}
