//! What a session does to the disk of a pair.
//!
//! The disk is claimed and its recovery points are locked from the offer to the end of the session, so the tree that the source compares with
//! stays true. It becomes writable only once the delta is complete and durable. Then, each step on top of what the one before made durable:
//!
//! 1. Of the mark of a group, the delta is proven.
//! 1. The hook before-apply is asked.
//! 1. Of the mark of a group, the deltas of the others are waited for.
//! 1. The delta is applied with a recovery point: see `orchestrate::points`.
//! 2. The tree that follows from it takes the place of the one before.
//! 3. It is noted that it was applied: a source that asks again is told.
//! 4. The spool is emptied.
//!
//! A machine that stops in between finds a complete delta in the spool, and goes on with the next offer.

use super::applying::{Applying, check_source, finish_files, header_of};
use super::desk::Desk;
use super::hooks::{About, Hook};
use super::job::Ending;
use super::locate::locate;
use super::opening::{Opening, Ready, check_size};
use super::slots::{Breaker, Slot};
use super::watch::Watch;
use super::{Caller, LiveJob, MasterTarget, cancelled, refused};
use crate::state::{JobKind, Pair};
use failback_credentials::Role;
use failback_delta::DeltaHeader;
use failback_orchestrate::{
    BaseTree, ChainingValue, ClaimedTarget, Coverage, FreeBlocks, JobError, LocalBase, NodeRun, Opened, PointKind,
    Progress, Root, Shape, StoredTree, with_causes,
};
use failback_replication::{Meet, Offer, Offered, Replica, Seat, SessionError, SessionReport, Spool};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// One session.
pub(super) struct Served {
    master: Arc<MasterTarget>,
    caller: Caller,
    breaker: Breaker,
    /// Set once another connection took the place of this one, or it was broken for another reason.
    left: Arc<AtomicBool>,
    open: Option<Open>,
    /// Outlives what is open, since it has the right to the pair.
    receiving: Option<Receiving>,
}

/// A pair whose source may send to it now.
struct Receiving {
    job: Arc<LiveJob>,
    about: About,
    /// The delta that is to go on.
    resumed: Option<[u8; 32]>,
    /// Whether the hook before-receive was asked, and has nothing against it.
    is_let_in: bool,
    slot: Slot,
}

/// A pair that a session works on. What is first here is given back first.
struct Open {
    watch: Option<Watch>,
    pair: Pair,
    disk: Option<ClaimedTarget>,
    points: Opened,
    desk: Desk,
    spool: Arc<Mutex<Spool>>,
    tree: Option<StoredTree>,
    /// The root that the disk has, once the pass is applied.
    applied: Option<Root>,
    /// The mark of the group that this is a pass of.
    mark: Option<[u8; 16]>,
}

impl Served {
    pub(super) fn new(master: Arc<MasterTarget>, caller: Caller, breaker: Breaker) -> Self {
        let left = Arc::<AtomicBool>::default();
        let leaving = Arc::clone(&left);
        let breaker: Breaker = Arc::new(move || {
            leaving.store(true, Ordering::Release);
            breaker();
        });
        Self { master, caller, breaker, left, open: None, receiving: None }
    }

    /// Gives everything back, and says what became of the job.
    pub(super) fn end(mut self, ended: &Result<SessionReport, SessionError>) {
        let name = self.receiving.as_ref().map(|receiving| receiving.about.pair.clone()).unwrap_or_default();
        let (how, root) = self.ending(&name, ended);
        let Some(Receiving { job, about, resumed, is_let_in, slot }) = self.receiving.take() else { return };
        let key = match self.open.take() {
            Some(mut open) => {
                open.watch = None;
                open.spool.lock().unwrap_or_else(PoisonError::into_inner).key()
            }
            None => resumed,
        };
        if is_let_in {
            let ended = match &how {
                Ending::Done => Ok(root),
                Ending::Waits(why) | Ending::Failed(why) => Err(why.clone()),
            };
            self.master.tell_hook(Hook::AfterReceive, &about, &job, &ended);
        }
        // Also if it was while the hook ran: nobody else has the pair before the slot is given back.
        if job.is_cancelled() {
            self.master.note_cancelled(&name, key);
            if let Err(error) = self.master.give_up_marks(&name, "its job was cancelled") {
                tracing::error!(pair = name, "the mark of its group could not be given up: {error}");
            }
        }
        self.master.end_job(&job, &how);
        drop(slot);
    }

    /// What became of the job, and the root that the disk has now if the pass is applied.
    fn ending(&self, name: &str, ended: &Result<SessionReport, SessionError>) -> (Ending, Option<Root>) {
        let applied = self.open.as_ref().and_then(|open| open.applied);
        let how = match ended {
            Ok(SessionReport::Applied(root) | SessionReport::AppliedBefore(root)) => {
                tracing::info!(pair = name, caller = %self.caller, %root, "the pass is complete");
                return (Ending::Done, Some(*root));
            }
            // A master target has the disk, and so is never a relay.
            // A meeting is no job.
            Ok(SessionReport::Marked(_)) => Ending::Done,
            Ok(SessionReport::Stored(_)) => Ending::Failed("the pass was kept and not applied".into()),
            Err(error) if applied.is_some() => {
                let error = with_causes(error);
                tracing::warn!(pair = name, caller = %self.caller, "the pass is complete, and its source could not be told: {error}");
                Ending::Done
            }
            Err(
                error
                @ (SessionError::Link(_) | SessionError::Refused(_) | SessionError::Job(JobError::Interrupted(_))),
            ) => {
                tracing::warn!(pair = name, caller = %self.caller, "{}", with_causes(error));
                Ending::Waits(format!("{}; the pass goes on when the source comes back", with_causes(error)))
            }
            Err(error) => {
                tracing::error!(pair = name, caller = %self.caller, "{}", with_causes(error));
                Ending::Failed(with_causes(error))
            }
        };
        (how, applied)
    }

    /// Opens all that belongs to a pair. A job is begun only for whom the pair is for; what became of it is said by [`end`](Self::end).
    fn open(&mut self, offer: &Offer) -> Result<Offered, JobError> {
        let master = Arc::clone(&self.master);
        let pair = master.pair_for(&self.caller, &offer.pair)?;
        check_source(&pair, offer.scsi_uuid, Some(&offer.source))?;
        let name = &pair.is.name;
        if offer.mark.is_none()
            && matches!(self.caller, Caller::Peer { role: Role::Relay, .. })
            && master.state().has_open_mark(name).map_err(|error| refused(&error))?
        {
            return Err(JobError::Refused(format!(
                "the pair \"{name}\" is coming home with its group: what a relay has of it has to wait until that is over",
            )));
        }
        let Some(slot) = master.slots.take(name, &self.breaker, &master.stop) else {
            return Err(JobError::Interrupted("the master target is ending: connect again later".into()));
        };
        master.refuse_cancelled(name, offer)?;
        let (path, disk) = locate(&pair.is.target)?;
        check_size(&path, &disk, offer)?;
        let group = match offer.mark {
            // Only one that is not given up.
            Some(mark) => {
                _ = master.state().mark_of(mark, name).map_err(|error| refused(&error))?;
                master.group_of(name)?
            }
            None => String::new(),
        };
        let is_open = Arc::<AtomicBool>::default();
        let kind = if offer.kind == PointKind::Fuzzy { JobKind::Replicate } else { JobKind::Final };
        let job = master
            .begin_job(kind, name, offer.resumed.is_some(), self.breaker_once(&is_open))
            .map_err(|error| refused(&error))?;
        let about = About { pair: name.clone(), disk: path.clone(), kind: offer.kind, group };
        let receiving = self.receiving.insert(Receiving {
            job: Arc::clone(&job),
            about,
            resumed: offer.resumed.map(|resumed| resumed.delta),
            is_let_in: false,
            slot,
        });
        // A source that has come back on another connection asks there.
        let is_left = || self.left.load(Ordering::Acquire);
        master.ask_hook(Hook::BeforeReceive, &receiving.about, &job, is_left)?;
        receiving.is_let_in = true;
        match offer.mark {
            // What is complete of it here is sent anew, or said to be complete again.
            Some(mark) => {
                _ = master.state().pair_is_not_complete(mark, name).map_err(|error| refused(&error))?;
            }
            None => master.give_up_marks(name, "a pass of this pair alone has begun")?,
        }
        let opened = Opening { master: &master, pair: &pair, path, disk: &disk, job: &job }.open(offer)?;
        let ready = match opened {
            (Some(root), _) => return Ok(Offered::Applied(root)),
            (None, ready) => ready,
        };
        let Ready { claimed, points, desk, spool, tree } = ready;
        let spool = Arc::new(Mutex::new(spool));
        job.phase("receiving", None);
        let watch = Some(Watch::begin(Arc::clone(&master), Arc::clone(&job), Arc::clone(&spool)));
        let (disk, tree) = (Some(claimed), Some(tree));
        self.open = Some(Open { watch, pair, disk, points, desk, spool, tree, applied: None, mark: offer.mark });
        is_open.store(true, Ordering::SeqCst);
        if job.is_cancelled() {
            return Err(cancelled());
        }
        Ok(Offered::Ready)
    }

    /// What breaks the connection of a job that is cancelled, once a pass may wait for its source. Until then its source is told.
    fn breaker_once(&self, is_open: &Arc<AtomicBool>) -> Breaker {
        let (is_open, breaker) = (Arc::clone(is_open), Arc::clone(&self.breaker));
        Arc::new(move || {
            if is_open.load(Ordering::SeqCst) {
                breaker();
            }
        })
    }

    fn opened(&self) -> &Open {
        self.open.as_ref().expect("a session asks only after its offer was accepted")
    }
}

impl Open {
    /// Applies what is in the spool, if the hook before-apply has nothing against it.
    fn apply(
        &mut self,
        master: &MasterTarget,
        caller: &Caller,
        left: &AtomicBool,
        receiving: &Receiving,
        expected: Root,
    ) -> Result<Root, JobError> {
        if let Some(watch) = &self.watch {
            watch.received();
        }
        let job = &*receiving.job;
        let header = header_of(&self.desk.spool_path())?;
        let key = self.spool.lock().unwrap_or_else(PoisonError::into_inner).key();
        // A mark is a point of each of its pairs.
        if self.mark.is_none() && self.is_nothing_new(&header, expected) {
            job.note("nothing has changed since the last recovery point, so there is no new one");
            return self.is_applied(master, key, expected);
        }
        let Some(key) = key else { return Err(JobError::Refused("the pass is gone: begin it again".into())) };
        if self.mark.is_some() {
            let claimed = self.disk.as_ref().expect("a pass is applied once");
            let (pair, points, desk) = (&self.pair, &mut self.points, &self.desk);
            Applying { master, pair, points, desk, job }.prove(claimed)?;
        }
        let about = About { kind: header.kind, ..receiving.about.clone() };
        master.ask_before_apply(&self.desk, key, &about, job)?;
        let ended = self.apply_asked(master, caller, left, job, key, expected);
        let told = ended.as_ref().map(|root| Some(*root)).map_err(|error| with_causes(error));
        // It may have been waiting for the others of its group until now.
        self.disk = None;
        master.tell_after_apply(&self.desk, &about, job, &told);
        ended
    }

    /// Applies what is in the spool, together with the others of a mark.
    fn apply_asked(
        &mut self,
        master: &MasterTarget,
        caller: &Caller,
        left: &AtomicBool,
        job: &LiveJob,
        key: [u8; 32],
        expected: Root,
    ) -> Result<Root, JobError> {
        if let Some(mark) = self.mark {
            master.wait_for_group(mark, &self.pair.is.name, key, job, left, &|| master.is_still_known(caller))?;
        } else if master.has_hook(Hook::BeforeApply) && !master.is_still_known(caller) {
            return Err(JobError::Refused(
                "the trust in this source has ended while a hook ran, so its pass is not applied: enroll it again, and begin the pass again"
                    .into(),
            ));
        }
        let claimed = self.disk.take().expect("a pass is applied once");
        let target = claimed.make_writable()?;
        let (pair, points, desk) = (&self.pair, &mut self.points, &self.desk);
        let applied = Applying { master, pair, points, desk, job }.apply(&target);
        let released = target.release();
        if let Err(JobError::WrongBase { .. } | JobError::Mismatch(_)) = &applied {
            // It said what the disk does not hold.
            self.desk.forget_tree();
        }
        let root = applied?;
        released?;
        if root != expected {
            return Err(JobError::Mismatch(format!(
                "the delta leads to the root {root}, and its source says {expected}: begin the pass again"
            )));
        }
        self.is_applied(master, Some(key), root)
    }

    /// The disk has what is in the spool: all that stands beside it follows.
    fn is_applied(&mut self, master: &MasterTarget, key: Option<[u8; 32]>, root: Root) -> Result<Root, JobError> {
        self.applied = Some(root);
        if let Some(key) = key.filter(|_| self.mark.is_some()) {
            master.note_applied(&self.pair, &self.points, key)?;
        }
        let tree = self.tree.take();
        let mut spool = self.spool.lock().unwrap_or_else(PoisonError::into_inner);
        finish_files(&self.desk, tree.as_ref(), &mut spool, root)?;
        Ok(root)
    }

    /// Whether a delta leads from the present point to the same content, and tells of no better moment than that one.
    fn is_nothing_new(&self, header: &DeltaHeader, expected: Root) -> bool {
        let catalogue = self.points.store.catalogue();
        let present = catalogue.present();
        worth(header.kind) <= worth(present.kind)
            && header.base_root == expected
            && present.root == expected
            && header.shapes.base == header.shapes.result
            && header.base_coverage == header.result_coverage
            && present.coverage == header.result_coverage
            && catalogue.pending().is_none()
    }
}

/// How much a moment is worth: what a machine boots from in the state in which it would be found.
const fn worth(kind: PointKind) -> u8 {
    match kind {
        PointKind::Fuzzy => 0,
        PointKind::Crash => 1,
        PointKind::Filesystem => 2,
        PointKind::Application => 3,
    }
}

impl Replica for Served {
    fn offer(&mut self, offer: &Offer) -> Result<Offered, JobError> {
        self.open(offer)
    }

    fn base(&self) -> Result<&dyn BaseTree, JobError> {
        Ok(self.opened())
    }

    fn progress(&self, compared: u64, total: u64) {
        if let Some(receiving) = &self.receiving {
            receiving.job.source_is_at(compared, total);
        }
    }

    fn spool(&self) -> &Mutex<Spool> {
        &self.opened().spool
    }

    fn apply(&mut self, expected: Root) -> Result<Root, JobError> {
        let (Some(open), Some(receiving)) = (&mut self.open, &self.receiving) else {
            unreachable!("a session applies only after its offer was accepted")
        };
        open.apply(&self.master, &self.caller, &self.left, receiving, expected)
    }

    fn meet(&mut self, meet: &Meet) -> Result<Box<dyn Seat>, JobError> {
        let master = &self.master;
        if matches!(self.caller, Caller::Peer { role: Role::Relay, .. }) {
            return Err(JobError::Refused(
                "a relay has no disk that could come to rest: let the source come itself".into(),
            ));
        }
        let pair = master.pair_for(&self.caller, &meet.pair)?;
        check_source(&pair, meet.scsi_uuid, Some(&meet.source))?;
        let group = master.state().group(&meet.group).map_err(|error| refused(&error))?;
        if !group.pairs.contains(&meet.pair) {
            let (pair, group) = (&meet.pair, &meet.group);
            return Err(JobError::Refused(format!(
                "the pair \"{pair}\" is not in the group \"{group}\": failback group show tells which are"
            )));
        }
        // What cannot be written is better known before anybody comes to rest.
        locate(&pair.is.target)?;
        master.give_up_marks(&meet.pair, "the group meets again")?;
        let recorder = Arc::clone(master);
        let record = Box::new(move |group: &str| recorder.begin_mark(group));
        Ok(Box::new(master.meetings.join(group, &meet.pair, record)))
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
