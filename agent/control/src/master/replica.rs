//! What a session does to the disk of a pair.
//!
//! The disk is claimed and its recovery points are locked from the offer to the end of the session, so the tree that the source compares with
//! stays true. It becomes writable only once the delta is complete and durable. Then, each step on top of what the one before made durable:
//!
//! 1. The delta is applied with a recovery point: see `orchestrate::points`.
//! 2. The tree that follows from it takes the place of the one before.
//! 3. It is noted that it was applied: a source that asks again is told.
//! 4. The spool is emptied.
//!
//! A machine that stops in between finds a complete delta in the spool, and goes on with the next offer.

use super::desk::{AppliedDelta, Desk};
use super::job::Ending;
use super::locate::locate;
use super::slots::{Breaker, Slot};
use super::{Caller, LiveJob, MasterTarget, now, refused};
use crate::state::{JobKind, Pair, SourceDisk};
use failback_delta::{DeltaHeader, DeltaReader};
use failback_orchestrate::{
    ApplyOptions, BaseTree, Catalogue, ChainingValue, ClaimedTarget, Coverage, DeltaSource, DiskIdentity, FreeBlocks,
    HumanBytes, JobError, LocalBase, MoveOptions, NodeRun, Opened, Pending, PointKind, Progress, Root, ScsiUuid, Shape,
    StoredTree, TargetDisk, VerifyingKey, advance_tree, apply_recorded, binding_of, build_tree_of_disk, intents_of,
    is_unknown, keep_to_limits, name_of_points, points_made_for_changes, refuse_unrecorded,
};
use failback_replication::{Offer, Offered, Replica, SessionError, SessionReport, Spool};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often it is looked how far a job is.
const LOOKED_EVERY: Duration = Duration::from_millis(500);

/// One session.
pub(super) struct Served {
    master: Arc<MasterTarget>,
    caller: Caller,
    breaker: Breaker,
    open: Option<Open>,
}

/// A pair that a session works on. What is first here is given back first.
struct Open {
    job: Arc<LiveJob>,
    watch: Option<Watch>,
    pair: Pair,
    disk: Option<ClaimedTarget>,
    points: Opened,
    desk: Desk,
    spool: Arc<Mutex<Spool>>,
    tree: Option<StoredTree>,
    _slot: Slot,
}

impl Served {
    pub(super) const fn new(master: Arc<MasterTarget>, caller: Caller, breaker: Breaker) -> Self {
        Self { master, caller, breaker, open: None }
    }

    /// Gives everything back, and says what became of the job.
    pub(super) fn end(mut self, ended: &Result<SessionReport, SessionError>) {
        let name = self.open.as_ref().map(|open| open.pair.is.name.clone()).unwrap_or_default();
        let how = match ended {
            Ok(SessionReport::Applied(root) | SessionReport::AppliedBefore(root)) => {
                tracing::info!(pair = name, caller = %self.caller, %root, "the pass is complete");
                Ending::Done
            }
            Err(error @ (SessionError::Link(_) | SessionError::Refused(_))) => {
                tracing::warn!(pair = name, caller = %self.caller, "{}", with_cause(error));
                Ending::Waits(format!("{}; the pass goes on when the source comes back", with_cause(error)))
            }
            Err(error) => {
                tracing::error!(pair = name, caller = %self.caller, "{}", with_cause(error));
                Ending::Failed(with_cause(error))
            }
        };
        if let Some(mut open) = self.open.take() {
            open.watch = None;
            let job = Arc::clone(&open.job);
            if job.is_cancelled() {
                let key = open.spool.lock().unwrap_or_else(PoisonError::into_inner).key();
                self.master.note_cancelled(&name, key);
            }
            drop(open);
            self.master.end_job(&job, &how);
        }
    }

    /// Opens all that belongs to a pair. A job is begun only for whom the pair is for.
    fn open(&mut self, offer: &Offer) -> Result<Offered, JobError> {
        let master = &self.master;
        let pair = master.pair_for(&self.caller, &offer.pair)?;
        check_source(&pair, offer.scsi_uuid, Some(&offer.source))?;
        let Some(slot) = master.slots.take(&pair.is.name, &self.breaker, &master.stop) else {
            return Err(JobError::Interrupted("the master target is ending: connect again later".into()));
        };
        master.refuse_cancelled(&pair.is.name, offer)?;
        let (path, disk) = locate(&pair.is.target)?;
        check_size(&path, &disk, offer)?;
        let kind = if offer.kind == PointKind::Fuzzy { JobKind::Replicate } else { JobKind::Final };
        let job = master
            .begin_job(kind, &pair.is.name, offer.resumed.is_some(), Arc::clone(&self.breaker))
            .map_err(|error| refused(&error))?;
        let opened = Opening { master, pair: &pair, path, disk: &disk, offer, job: &job }.open();
        match opened {
            Ok((Offered::Applied(root), ..)) => {
                drop(slot);
                master.end_job(&job, &Ending::Done);
                Ok(Offered::Applied(root))
            }
            Ok((Offered::Ready, ready)) => {
                let Ready { claimed, points, desk, spool, tree } = ready;
                let spool = Arc::new(Mutex::new(spool));
                job.phase("receiving", None);
                let watch = Some(Watch::begin(Arc::clone(master), Arc::clone(&job), Arc::clone(&spool)));
                let (disk, tree) = (Some(claimed), Some(tree));
                self.open = Some(Open { job, watch, pair, disk, points, desk, spool, tree, _slot: slot });
                Ok(Offered::Ready)
            }
            Err(error) => {
                master.end_job(&job, &Ending::Failed(error.to_string()));
                Err(error)
            }
        }
    }

    fn opened(&self) -> &Open {
        self.open.as_ref().expect("a session asks only after its offer was accepted")
    }
}

/// A sentence with its cause.
fn with_cause(error: &SessionError) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}

/// What is being opened.
struct Opening<'a> {
    master: &'a MasterTarget,
    pair: &'a Pair,
    path: PathBuf,
    disk: &'a DiskIdentity,
    offer: &'a Offer,
    job: &'a LiveJob,
}

/// What a pair needs to receive.
struct Ready {
    claimed: ClaimedTarget,
    points: Opened,
    desk: Desk,
    spool: Spool,
    tree: StoredTree,
}

impl Opening<'_> {
    fn open(&self) -> Result<(Offered, Ready), JobError> {
        let is = &self.pair.is;
        refuse_unrecorded(&mut intents_of(self.disk, None))?;
        let claimed = self.claim()?;
        let mut points = points_made_for_changes(&is.retention, self.disk, now())?;
        let desk = Desk::open(&is.retention, &name_of_points(self.disk))?;
        let mut spool = desk.spool()?;
        let claimed = self.finish(claimed, &mut points, &desk, &mut spool)?;
        let catalogue = points.store.catalogue();
        catalogue.check_apply()?;
        let applied = desk.applied().filter(|applied| self.offer.resumed.is_some_and(|it| it.delta == applied.key));
        let root = applied.map(|applied| applied.root).filter(|root| catalogue.present().root == *root);
        let tree = self.tree(&claimed, catalogue, &desk)?;
        let offered = root.map_or(Offered::Ready, Offered::Applied);
        Ok((offered, Ready { claimed, points, desk, spool, tree }))
    }

    fn claim(&self) -> Result<ClaimedTarget, JobError> {
        ClaimedTarget::claim(&self.path, self.master.settings.engine, self.disk, self.disk.scsi_uuid)
    }

    /// A delta that is complete in the spool, and being applied or just applied when the machine stopped, is finished before all else.
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
        if !is_begun && !is_published {
            return Ok(claimed);
        }
        let work = Applying { master: self.master, pair: self.pair, points, desk, job: self.job };
        let (root, claimed) = if is_begun {
            let target = claimed.make_writable()?;
            let root = work.apply(&target);
            target.release()?;
            (root?, self.claim()?)
        } else {
            (work.points.store.catalogue().present().root, claimed)
        };
        finish_files(desk, desk.tree().as_ref(), spool, root)?;
        Ok(claimed)
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
        let tree =
            build_tree_of_disk(claimed.device(), size, &desk.tree_path(), self.master.settings.threads, self.job)?;
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

/// The source of an offer, or of a delta's header, has to be that of the pair. `name` is the name that the source has where it is.
fn check_source(pair: &Pair, uuid: Option<[u8; 16]>, name: Option<&str>) -> Result<(), JobError> {
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

fn check_size(path: &Path, disk: &DiskIdentity, offer: &Offer) -> Result<(), JobError> {
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

/// A complete delta that is to be applied.
struct Applying<'a> {
    master: &'a MasterTarget,
    pair: &'a Pair,
    points: &'a mut Opened,
    desk: &'a Desk,
    job: &'a LiveJob,
}

impl Applying<'_> {
    /// Applies what is in the spool, and removes older points as the limits say. Returns the root that the disk has now.
    fn apply(self, target: &TargetDisk) -> Result<Root, JobError> {
        for note in target.notes() {
            self.job.note(&note);
        }
        let path = self.desk.spool_path();
        let mut delta = BufReader::with_capacity(1 << 20, open(&path)?);
        let header = header_of(&path)?;
        check_source(self.pair, header.identity.scsi_uuid, header.identity.name.as_deref())?;
        let disk = binding_of(target.identity());
        let key = |key: [u8; 32]| {
            VerifyingKey::from_bytes(&key).ok_or_else(|| {
                let name = &self.pair.is.name;
                JobError::Refused(format!("the key of the pair \"{name}\" is none: add the pair anew"))
            })
        };
        let options = ApplyOptions {
            new_disk: self.pair.is.new_disk && is_unknown(self.points.store.catalogue()),
            trusted: self.pair.is.signer.map(key).transpose()?,
            now: now(),
            disk,
            ..ApplyOptions::default()
        };
        let mut seed = [0; 16];
        getrandom::fill(&mut seed).map_err(|error| {
            JobError::Refused(format!("the machine has no random bytes yet ({error}): try again later"))
        })?;
        let policy = self.master.settings.policy;
        let moving = MoveOptions { now: now(), seed, certain: disk.certain, policy, ..MoveOptions::default() };
        let source = DeltaSource::Path(path.to_string_lossy().into_owned());
        let (device, store) = (target.device(), &mut self.points.store);
        let report = apply_recorded(device, &mut delta, source, store, &options, &moving, self.job)?;
        if let Err(error) = keep_to_limits(device, store, &moving, self.job) {
            self.job.note(&format!("the pass is applied, but older recovery points could not be removed: {error}"));
        }
        Ok(report.applied.result_root)
    }
}

/// After an apply: the tree follows, the delta is noted as applied, and the spool is emptied.
fn finish_files(desk: &Desk, tree: Option<&StoredTree>, spool: &mut Spool, root: Root) -> Result<(), JobError> {
    match tree {
        Some(tree) if tree.root() == root => {}
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
    spool.cut(0).map_err(super::desk::spool_failed)
}

fn open(path: &Path) -> Result<File, JobError> {
    File::open(path).map_err(|source| JobError::File { action: "read", path: path.to_owned(), source })
}

fn header_of(path: &Path) -> Result<DeltaHeader, JobError> {
    Ok(DeltaReader::open(BufReader::new(open(path)?))?.header().clone())
}

impl Open {
    fn apply(&mut self, master: &MasterTarget, expected: Root) -> Result<Root, JobError> {
        if let Some(watch) = &self.watch {
            watch.received();
        }
        let header = header_of(&self.desk.spool_path())?;
        let tree = self.tree.take();
        let mut spool = self.spool.lock().unwrap_or_else(PoisonError::into_inner);
        let root = if self.is_nothing_new(&header, expected) {
            self.job.note("nothing has changed since the last recovery point, so there is no new one");
            expected
        } else {
            let claimed = self.disk.take().expect("a pass is applied once");
            let target = claimed.make_writable()?;
            let (pair, points, desk) = (&self.pair, &mut self.points, &self.desk);
            let applied = Applying { master, pair, points, desk, job: &self.job }.apply(&target);
            let released = target.release();
            if let Err(JobError::WrongBase { .. } | JobError::Mismatch(_)) = &applied {
                // It said what the disk does not hold.
                self.desk.forget_tree();
            }
            let root = applied?;
            released?;
            root
        };
        if root != expected {
            return Err(JobError::Mismatch(format!(
                "the delta leads to the root {root}, and its source says {expected}: begin the pass again"
            )));
        }
        finish_files(&self.desk, tree.as_ref(), &mut spool, root)?;
        Ok(root)
    }

    /// Whether a delta leads from the present point to the same content, and tells of no better moment than that one.
    fn is_nothing_new(&self, header: &DeltaHeader, expected: Root) -> bool {
        let catalogue = self.points.store.catalogue();
        let present = catalogue.present();
        header.kind == PointKind::Fuzzy
            && header.base_root == expected
            && present.root == expected
            && header.shapes.base == header.shapes.result
            && header.base_coverage == header.result_coverage
            && present.coverage == header.result_coverage
            && catalogue.pending().is_none()
    }
}

impl Replica for Served {
    fn offer(&mut self, offer: &Offer) -> Result<Offered, JobError> {
        self.open(offer)
    }

    fn base(&self) -> Result<&dyn BaseTree, JobError> {
        Ok(self.opened())
    }

    fn spool(&self) -> &Mutex<Spool> {
        &self.opened().spool
    }

    fn apply(&mut self, expected: Root) -> Result<Root, JobError> {
        let master = Arc::clone(&self.master);
        self.open.as_mut().expect("a session applies only after its offer was accepted").apply(&master, expected)
    }
}

impl Open {
    fn stored(&self) -> &StoredTree {
        self.tree.as_ref().expect("a session compares before it applies")
    }
}

impl BaseTree for Open {
    fn shape(&self) -> Shape {
        self.stored().shape()
    }

    fn root(&self) -> Root {
        self.stored().root()
    }

    fn coverage(&self) -> Coverage {
        self.stored().coverage()
    }

    fn free(&self) -> &FreeBlocks {
        self.stored().free()
    }

    fn values(&self, nodes: &[NodeRun]) -> Result<Vec<ChainingValue>, JobError> {
        let device = self.disk.as_ref().expect("a session compares before it applies").device();
        let values = LocalBase { tree: self.stored(), device }.values(nodes);
        if let Err(JobError::Mismatch(_)) = &values {
            // It said what the disk does not hold: the next pass reads the disk.
            self.desk.forget_tree();
        }
        values
    }
}

/// Looks now and then how far a job is.
struct Watch {
    looking: Option<(Sender<()>, JoinHandle<()>)>,
    receiving: Arc<AtomicBool>,
}

impl Watch {
    fn begin(master: Arc<MasterTarget>, job: Arc<LiveJob>, spool: Arc<Mutex<Spool>>) -> Self {
        let receiving = Arc::new(AtomicBool::new(true));
        let (stop, stopped) = channel();
        let arriving = Arc::clone(&receiving);
        let thread = thread::spawn(move || {
            while stopped.recv_timeout(LOOKED_EVERY) == Err(RecvTimeoutError::Timeout) {
                if arriving.load(Ordering::Acquire) {
                    job.is_at(spool.lock().unwrap_or_else(PoisonError::into_inner).durable());
                }
                job.report_to(&master);
            }
        });
        Self { looking: Some((stop, thread)), receiving }
    }

    /// All has arrived: what follows tells itself how far it is.
    fn received(&self) {
        self.receiving.store(false, Ordering::Release);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.looking.take() {
            drop(stop);
            let _ = thread.join();
        }
    }
}
