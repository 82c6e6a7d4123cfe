//! Applying a delta that is complete in the spool, and what follows from it.

use super::desk::{AppliedDelta, Desk};
use super::{LiveJob, MasterTarget, now};
use crate::state::{Pair, SourceDisk};
use failback_delta::{DeltaHeader, DeltaReader};
use failback_orchestrate::{
    ApplyOptions, ClaimedTarget, DeltaSource, DiskBinding, JobError, MoveOptions, Opened, Pace, Progress, Root,
    ScsiUuid, StoredTree, TargetDisk, VerifyingKey, advance_tree, apply_recorded, binding_of, intents_of, is_unknown,
    keep_to_limits, plan, plan_keeping,
};
use failback_replication::Spool;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

/// The source of an offer, or of a delta's header, has to be that of the pair. `name` is the name that the source has where it is.
pub(super) fn check_source(pair: &Pair, uuid: Option<[u8; 16]>, name: Option<&str>) -> Result<(), JobError> {
    let (wanted, is_that_one) = match &pair.is.source {
        SourceDisk::Scsi(wanted) => (format!("the disk {wanted}"), uuid == Some(*wanted.as_bytes())),
        SourceDisk::Named(wanted) => (wanted.clone(), name == Some(wanted)),
    };
    if is_that_one {
        return Ok(());
    }
    let shown = match (&pair.is.source, uuid.and_then(ScsiUuid::from_bytes)) {
        (SourceDisk::Scsi(_), Some(uuid)) => format!("the disk {uuid}"),
        _ => name.unwrap_or("without a name").to_owned(),
    };
    Err(JobError::Refused(format!(
        "the source of the pair \"{}\" is {wanted}, and this is {shown}: send that disk, or add a pair for this one",
        pair.is.name
    )))
}

/// A complete delta that is to be applied.
pub(super) struct Applying<'a> {
    pub(super) master: &'a MasterTarget,
    pub(super) pair: &'a Pair,
    pub(super) points: &'a mut Opened,
    pub(super) desk: &'a Desk,
    pub(super) job: &'a LiveJob,
}

impl Applying<'_> {
    /// Proves what is in the spool as far as that is possible without a change: that it is whole, of the right source and signed, fits, and starts
    /// from what the disk holds.
    ///
    /// # Errors
    ///
    /// When it could not be applied.
    pub(super) fn prove(&self, claimed: &ClaimedTarget) -> Result<(), JobError> {
        let mut delta = self.delta()?;
        let options = self.options(binding_of(claimed.identity()), Pace::NARROW)?;
        let mut intents = intents_of(claimed.identity(), None);
        let found = plan(claimed.device(), &mut delta, &mut intents, &options, self.job)?;
        let keeping = plan_keeping(&mut delta, Some(&self.points.store), self.job)?;
        let refusals: Vec<_> = found.refusals.into_iter().chain(keeping.refusals).collect();
        if refusals.is_empty() { Ok(()) } else { Err(JobError::Refused(refusals.join("; "))) }
    }

    /// Applies what is in the spool, and removes older points as the limits say. Returns the root that the disk has now.
    pub(super) fn apply(self, target: &TargetDisk) -> Result<Root, JobError> {
        for note in target.notes() {
            self.job.note(&note);
        }
        let mut delta = self.delta()?;
        let disk = binding_of(target.identity());
        // Many at once must not take what one alone takes, so many times. One that is alone does not get faster by more than this.
        let wide = self.master.wide.try_lock();
        let pace = if wide.is_ok() { Pace::MIDDLE } else { Pace::NARROW };
        let options = self.options(disk, pace)?;
        let mut seed = [0; 16];
        getrandom::fill(&mut seed).map_err(|error| {
            JobError::Refused(format!("the machine has no random bytes yet ({error}): try again later"))
        })?;
        let policy = self.master.settings.policy;
        let moving = MoveOptions { now: now(), seed, certain: disk.certain, policy, pace };
        let source = DeltaSource::Path(self.desk.spool_path().to_string_lossy().into_owned());
        let (device, store) = (target.device(), &mut self.points.store);
        let report = apply_recorded(device, &mut delta, source, store, &options, &moving, self.job)?;
        if let Err(error) = keep_to_limits(device, store, &moving, self.job) {
            self.job.note(&format!("the pass is applied, but older recovery points could not be removed: {error}"));
        }
        Ok(report.applied.result_root)
    }

    /// The delta in the spool, of the right source.
    fn delta(&self) -> Result<BufReader<File>, JobError> {
        let path = self.desk.spool_path();
        let delta = BufReader::with_capacity(1 << 20, open(&path)?);
        let header = header_of(&path)?;
        check_source(self.pair, header.identity.scsi_uuid, header.identity.name.as_deref())?;
        Ok(delta)
    }

    fn options(&self, disk: DiskBinding, pace: Pace) -> Result<ApplyOptions, JobError> {
        let key = |key: [u8; 32]| {
            VerifyingKey::from_bytes(&key).ok_or_else(|| {
                let name = &self.pair.is.name;
                JobError::Refused(format!("the key of the pair \"{name}\" is none: add the pair anew"))
            })
        };
        Ok(ApplyOptions {
            new_disk: self.pair.is.new_disk && is_unknown(self.points.store.catalogue()),
            trusted: self.pair.is.signer.map(key).transpose()?,
            now: now(),
            disk,
            pace,
            ..ApplyOptions::default()
        })
    }
}

/// After an apply: the tree follows, the delta is noted as applied, and the spool is emptied.
pub(super) fn finish_files(
    desk: &Desk,
    tree: Option<&StoredTree>,
    spool: &mut Spool,
    root: Root,
) -> Result<(), JobError> {
    match tree {
        Some(tree) if is_tree_of(tree, desk, root)? => {}
        Some(tree) => {
            // A cache: without it the next pass reads the disk.
            if let Err(error) = advance_tree(tree, open(&desk.spool_path())?, &desk.tree_path()) {
                tracing::warn!("the tree did not follow, so the next pass reads the target once: {error}");
                desk.forget_tree();
            }
        }
        None => desk.forget_tree(),
    }
    if let Some(key) = spool.key() {
        desk.note_applied(AppliedDelta { key, root })?;
    }
    Ok(spool.cut(0)?)
}

/// Whether a tree is that of the result of the delta in the spool: with the same content, another size or coverage make it another one.
fn is_tree_of(tree: &StoredTree, desk: &Desk, root: Root) -> Result<bool, JobError> {
    let header = header_of(&desk.spool_path())?;
    Ok(tree.root() == root && tree.shape() == header.shapes.result && tree.coverage() == header.result_coverage)
}

fn open(path: &Path) -> Result<File, JobError> {
    File::open(path).map_err(|source| JobError::File { action: "read", path: path.to_owned(), source })
}

/// The header of a delta in a file.
pub(super) fn header_of(path: &Path) -> Result<DeltaHeader, JobError> {
    Ok(DeltaReader::open(BufReader::new(open(path)?))?.header().clone())
}
