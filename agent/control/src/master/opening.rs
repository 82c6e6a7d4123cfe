//! From an offer to all that a pair needs to receive: its disk, its recovery points, and the files beside them.

use super::applying::{Applying, finish_files};
use super::desk::Desk;
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

impl Opening<'_> {
    /// The root of the offered delta if it has been applied already, and all that is needed to receive it if not.
    pub(super) fn open(&self, offer: &Offer) -> Result<(Option<Root>, Ready), JobError> {
        let is = &self.pair.is;
        refuse_unrecorded(&mut intents_of(self.disk, None))?;
        let claimed = self.claim()?;
        let mut points = self.points()?;
        let desk = Desk::open(&is.retention, &name_of_points(self.disk))?;
        let mut spool = desk.spool()?;
        let claimed = self.finish(claimed, &mut points, &desk, &mut spool)?;
        let catalogue = points.store.catalogue();
        catalogue.check_apply()?;
        let applied = desk.applied().filter(|applied| offer.resumed.is_some_and(|it| it.delta == applied.key));
        let root = applied.map(|applied| applied.root).filter(|root| catalogue.present().root == *root);
        let tree = self.tree(&claimed, catalogue, &desk)?;
        Ok((root, Ready { claimed, points, desk, spool, tree }))
    }

    /// Finishes what a machine that stopped left of an apply. Returns whether there was anything.
    pub(super) fn recover(&self) -> Result<bool, JobError> {
        let retention = &self.pair.is.retention;
        let mut points = self.points()?;
        let desk = Desk::open(retention, &name_of_points(self.disk))?;
        let mut spool = desk.spool()?;
        let was_complete = spool.is_complete();
        self.finish(self.claim()?, &mut points, &desk, &mut spool)?;
        Ok(was_complete && spool.is_empty())
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
    /// of its group, is finished before all else.
    fn finish(
        &self,
        claimed: ClaimedTarget,
        points: &mut Opened,
        desk: &Desk,
        spool: &mut Spool,
    ) -> Result<ClaimedTarget, JobError> {
        let Some(key) = spool.key().filter(|_| spool.is_complete()) else { return Ok(claimed) };
        let catalogue = points.store.catalogue();
        let is_begun = matches!(catalogue.pending(), Some(Pending::Apply(apply)) if apply.delta == key);
        let is_published = catalogue.present().delta == key && catalogue.pending().is_none();
        let is_decided = self.master.state().is_decided(&self.pair.is.name, key).map_err(|error| refused(&error))?;
        if !is_begun && !is_published && !is_decided {
            return Ok(claimed);
        }
        let work = Applying { master: self.master, pair: self.pair, points, desk, job: self.job };
        let (root, claimed) = if is_published {
            (work.points.store.catalogue().present().root, claimed)
        } else {
            let target = claimed.make_writable()?;
            let root = work.apply(&target);
            target.release()?;
            (root.map_err(|error| self.explained(error, is_decided))?, self.claim()?)
        };
        if is_decided {
            self.master.note_applied(self.pair, points, key)?;
        }
        finish_files(desk, desk.tree().as_ref(), spool, root)?;
        Ok(claimed)
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
