//! Deltas that lie in files, sent as they are; and sources that a relay tells what it has and what the target has.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Near, Notes, Target, disk_of, link_over, noise, options, send, until};
use failback_delta::FreeBlocks;
use failback_hashtree::Root;
use failback_orchestrate::{
    BaseTree, JobError, LocalBase, NodeRun, Outcome, Progress, Silent, StoredTree, diff_tree, store_tree,
};
use failback_replication::wire::kind;
use failback_replication::{
    Backoff, Connector, Finish, Link, Offer, Offered, Questions, Replica, SessionError, SessionReport, Spool,
    StoredDelta, StoredOptions, StoredReport, ask_target, send_pass, send_stored, serve_session,
};
use failback_units::{BlockIndex, ByteCount};
use std::fs::{self, File};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

const ALWAYS: fn(u64) -> u64 = |_| u64::MAX;

fn changed(base: &[u8], step: usize) -> Vec<u8> {
    let mut result = base.to_vec();
    result.iter_mut().skip(step / 2).step_by(step).for_each(|byte| *byte ^= 1);
    result
}

/// Makes the delta from what a target holds to `result`, in a file.
fn delta_to(target: &Target, result: &[u8], id: u8) -> (PathBuf, Arc<StoredDelta>) {
    let path = target.directory.path().join(format!("{id}.delta"));
    let tree = StoredTree::open(&target.directory.path().join("tree")).unwrap();
    let base = LocalBase { tree: &tree, device: &target.disk };
    let mut file = File::create(&path).unwrap();
    diff_tree(&base, &disk_of(result), &mut file, &options(None, id).diff, None, &Silent).unwrap();
    let delta = Arc::new(StoredDelta::open(&path).unwrap());
    (path, delta)
}

fn how() -> StoredOptions {
    let backoff = Backoff {
        first: Duration::from_millis(1),
        longest: Duration::from_millis(2),
        attempts: 5,
        patience: Duration::MAX,
    };
    StoredOptions { pair: "pair".into(), backoff }
}

fn forward(connector: &dyn Connector, delta: &Arc<StoredDelta>) -> Result<StoredReport, SessionError> {
    send_stored(connector, delta, &how(), &Questions::new(), &Silent)
}

#[test]
fn a_stored_delta_is_applied_as_it_is() {
    let base = noise(1, 4 << 20);
    let target = Target::new(&base, &FreeBlocks::NONE);
    let result = changed(&base, 70_000);
    let (path, delta) = delta_to(&target, &result, 1);
    let near = Near::new(&target, ALWAYS);
    let report = forward(&near, &delta).unwrap();
    assert_eq!((report.root, report.applied_before, report.sent_again), (Root::of(&result), false, 0));
    assert!(target.disk.content() == result);
    assert!(report.sent <= delta.len() + delta.len() / 500 + 500, "{} for {}", report.sent, delta.len());
    assert_eq!(delta.len(), fs::metadata(&path).unwrap().len());
    // The second time it costs an offer and its answer.
    let again = forward(&near, &delta).unwrap();
    assert!(again.applied_before && again.sent < 300 && again.received < 300, "{again:?}");
    assert_eq!(target.applies.load(Ordering::Relaxed), 1);
}

#[test]
fn slow_a_stored_delta_goes_on_over_connections_that_break_at_every_place() {
    let base = noise(1, 3 << 20);
    let result = changed(&base, 40_000);
    let (_, delta) = delta_to(&Target::new(&base, &FreeBlocks::NONE), &result, 1);
    let whole = forward(&Near::new(&Target::new(&base, &FreeBlocks::NONE), ALWAYS), &delta).unwrap();
    let all = whole.sent + whole.received;
    let mut connections = 0;
    for first in (0..300).chain((300..all + 100).step_by(usize::try_from(all / 150).unwrap())) {
        let target = Target::new(&base, &FreeBlocks::NONE);
        let near = Near::new(&target, |number| if number == 0 { first } else { first + number * (all / 3) });
        let report = forward(&near, &delta).unwrap();
        assert_eq!((report.root, target.disk.content() == result), (Root::of(&result), true), "{first}");
        assert_eq!(target.applies.load(Ordering::Relaxed), 1, "applied once");
        connections += report.connections;
    }
    assert!(connections > 400, "{connections}");
}

#[test]
fn what_is_durable_of_a_stored_delta_is_not_sent_again() {
    let base = noise(1, 40 << 20);
    let result = noise(2, 40 << 20);
    let target = Target::new(&base, &FreeBlocks::NONE);
    let (_, delta) = delta_to(&target, &result, 1);
    let near = Near::new(&target, |_| 12 << 20);
    let report = forward(&near, &delta).unwrap();
    assert!(target.disk.content() == result);
    let bound = (report.connections - 1) * (2 << 20);
    assert!(report.connections >= 4 && report.sent_again > 0 && report.sent_again <= bound, "{report:?}");
    // Another program goes on there too: nothing but the file is remembered.
    let target = Target::new(&base, &FreeBlocks::NONE);
    let mut once = how();
    once.backoff.attempts = 0;
    let near = Near::new(&target, |_| 21 << 20);
    send_stored(&near, &delta, &once, &Questions::new(), &Silent).unwrap_err();
    near.ended();
    assert!(target.durable() >= 16 << 20, "{}", target.durable());
    let report = forward(&Near::new(&target, ALWAYS), &delta).unwrap();
    assert!(report.sent < (21 << 20) && target.disk.content() == result, "{report:?}");
}

#[test]
fn a_target_at_another_base_is_told_from_all_else_that_goes_wrong() {
    let base = noise(1, 1 << 20);
    let (_, delta) = delta_to(&Target::new(&base, &FreeBlocks::NONE), &changed(&base, 9000), 1);
    let other = Target::new(&noise(3, 1 << 20), &FreeBlocks::NONE);
    let near = Near::new(&other, ALWAYS);
    let error = forward(&near, &delta).unwrap_err();
    let SessionError::OtherBase { expected, found } = error else { panic!("{error}") };
    assert_eq!((expected, found), (Root::of(&base), Root::of(&noise(3, 1 << 20))));
    near.ended();
    assert_eq!(
        (other.spooled(), near.made.load(Ordering::Relaxed)),
        (0, 1),
        "nothing of it was sent, and it is not tried again"
    );
    // A disk of another size has another base too.
    let longer = Target::new(&noise(1, 2 << 20), &FreeBlocks::NONE);
    assert!(matches!(forward(&Near::new(&longer, ALWAYS), &delta), Err(SessionError::OtherBase { .. })));
}

#[test]
fn a_file_that_is_no_complete_delta_is_none() {
    let base = noise(1, 1 << 20);
    let target = Target::new(&base, &FreeBlocks::NONE);
    let (path, _) = delta_to(&target, &changed(&base, 9000), 1);
    let bytes = fs::read(&path).unwrap();
    let none = target.directory.path().join("none");
    let opened = |bytes: &[u8]| {
        fs::write(&none, bytes).unwrap();
        StoredDelta::open(&none).is_ok()
    };
    assert!(opened(&bytes));
    for len in [0, 100, 200, bytes.len() / 2, bytes.len() - 1] {
        assert!(!opened(&bytes[..len]), "{len}");
    }
    assert!(!opened(&[&bytes[..], &[0]].concat()));
    let mut other = bytes.clone();
    let end = other.len() - 1;
    other[end] ^= 1;
    assert!(!opened(&other));
}

#[test]
fn questions_are_answered_with_and_without_a_delta() {
    let base = noise(1, (1 << 20) + 5000);
    let target = Target::new(&base, &FreeBlocks::NONE);
    let (_, delta) = delta_to(&target, &changed(&base, 9000), 1);
    let tree = StoredTree::open(&target.directory.path().join("tree")).unwrap();
    let runs = [NodeRun { first: BlockIndex::new(3), level: 0, count: 9 }];
    let right = LocalBase { tree: &tree, device: &target.disk }.values(&runs).unwrap();
    let questions = Questions::new();
    let near = Near::new(&target, ALWAYS);
    thread::scope(|scope| {
        let asked = scope.spawn(|| questions.ask(&runs, &|| false).unwrap());
        // A session that fails leaves the question to the next one.
        while questions.is_empty() {
            thread::yield_now();
        }
        let broken = Near::new(&target, |_| 150);
        let mut once = how();
        once.backoff.attempts = 0;
        send_stored(&broken, &delta, &once, &questions, &Silent).unwrap_err();
        broken.ended();
        let offer = offer(base.len());
        let answer = |base: &dyn BaseTree| questions.answer_one(base, Duration::from_secs(20));
        assert!(ask_target(&near, &offer, &how().backoff, false, &Silent, answer).unwrap());
        assert_eq!(asked.join().unwrap(), right);
    });
    assert!(questions.is_empty());
    assert!(questions.ask(&runs, &|| true).is_none() && questions.is_empty(), "who does not wait leaves no question");
    // And the whole tree is asked for in the same way.
    let copy = target.directory.path().join("copy");
    near.ended();
    let keep = |base: &dyn BaseTree| store_tree(base, &copy, &Silent);
    let root = ask_target(&near, &offer(base.len()), &how().backoff, true, &Silent, keep);
    assert_eq!(root.unwrap(), Root::of(&base));
    assert!(fs::read(&copy).unwrap() == fs::read(target.directory.path().join("tree")).unwrap());
}

fn offer(size: usize) -> Offer {
    Offer {
        pair: "pair".into(),
        scsi_uuid: None,
        source: String::new(),
        size: ByteCount::of_memory(size),
        coverage: failback_delta::Coverage::Whole,
        kind: failback_delta::PointKind::Crash,
        resumed: None,
        mark: None,
    }
}

/// A relay that keeps one delta, and has sent it on when it is told so.
struct Keeper {
    target: Arc<Target>,
    tree: StoredTree,
    spool: Mutex<Spool>,
    stored: Mutex<Option<([u8; 32], Root)>>,
    sent_on: AtomicBool,
    useless: AtomicBool,
    /// How often it was asked whether it has sent on what it keeps.
    asked: AtomicU64,
    /// Whether it says that it is a relay.
    relays: AtomicBool,
}

impl Keeper {
    fn new(target: &Arc<Target>) -> Arc<Self> {
        let tree = StoredTree::open(&target.directory.path().join("tree")).unwrap();
        let spool = Mutex::new(Spool::open(&target.directory.path().join("keeper")).unwrap());
        let (sent_on, useless, relays) = (AtomicBool::new(false), AtomicBool::new(false), AtomicBool::new(true));
        let asked = AtomicU64::new(0);
        Arc::new(Self {
            target: Arc::clone(target),
            tree,
            spool,
            stored: Mutex::default(),
            sent_on,
            useless,
            asked,
            relays,
        })
    }
}

struct Kept<'a> {
    keeper: &'a Keeper,
    base: LocalBase<'a>,
}

impl Replica for Kept<'_> {
    fn offer(&mut self, offer: &Offer) -> Result<Offered, JobError> {
        let stored = *self.keeper.stored.lock().unwrap();
        Ok(match (offer.resumed, stored) {
            (Some(resumed), Some((key, root))) if resumed.delta == key => {
                if self.keeper.sent_on.load(Ordering::Relaxed) { Offered::Applied(root) } else { Offered::Stored(root) }
            }
            _ => Offered::Ready,
        })
    }
    fn base(&self) -> Result<&dyn BaseTree, JobError> {
        Ok(&self.base)
    }
    fn spool(&self) -> &Mutex<Spool> {
        &self.keeper.spool
    }
    fn apply(&mut self, expected: Root) -> Result<Root, JobError> {
        let key = self.keeper.spool.lock().unwrap().key().unwrap();
        *self.keeper.stored.lock().unwrap() = Some((key, expected));
        Ok(expected)
    }
    fn relays(&self) -> bool {
        self.keeper.relays.load(Ordering::Relaxed)
    }
    fn applied(&self, root: Root, patience: Duration) -> Result<Option<Root>, JobError> {
        self.keeper.asked.fetch_add(1, Ordering::Relaxed);
        thread::sleep(patience.min(Duration::from_millis(5)));
        if self.keeper.useless.load(Ordering::Relaxed) {
            return Err(JobError::Refused("the target has changed".into()));
        }
        Ok(self.keeper.sent_on.load(Ordering::Relaxed).then_some(root))
    }
}

struct ToKeeper<F> {
    keeper: Arc<Keeper>,
    lasts: F,
    made: AtomicU64,
    reports: Arc<Mutex<Vec<Result<SessionReport, SessionError>>>>,
}

impl<F: Fn(u64) -> u64 + Sync> Connector for ToKeeper<F> {
    fn connect(&self) -> io::Result<Link> {
        let lasts = (self.lasts)(self.made.fetch_add(1, Ordering::Relaxed));
        let (near, far) = UnixStream::pair()?;
        let (keeper, reports) = (Arc::clone(&self.keeper), Arc::clone(&self.reports));
        thread::spawn(move || {
            let base = LocalBase { tree: &keeper.tree, device: &keeper.target.disk };
            let mut replica = Kept { keeper: &keeper, base };
            let ended = serve_session(link_over(&far, u64::MAX), &Arc::default(), &mut replica);
            reports.lock().unwrap().push(ended);
        });
        Ok(link_over(&near, lasts))
    }
}

fn to_keeper<F: Fn(u64) -> u64 + Sync>(target: &Arc<Target>, lasts: F) -> ToKeeper<F> {
    ToKeeper { keeper: Keeper::new(target), lasts, made: AtomicU64::new(0), reports: Arc::default() }
}

#[test]
fn a_source_can_tell_what_is_stored_from_what_is_applied() {
    let base = noise(1, 1 << 20);
    let source = disk_of(&changed(&base, 9000));
    let target = Target::new(&base, &FreeBlocks::NONE);
    let relay = to_keeper(&target, ALWAYS);
    let mut hurried = options(None, 1);
    hurried.finish = Finish::Stored;
    let report = send_pass(&relay, &source, &hurried, &Silent).unwrap();
    assert_eq!((report.reached, report.root), (Finish::Stored, Root::of(&source.content())));
    while relay.reports.lock().unwrap().is_empty() {
        thread::yield_now();
    }
    assert!(matches!(relay.reports.lock().unwrap()[0], Ok(SessionReport::Stored(root)) if root == report.root));
    // One that waits ends when the relay has heard of the target, whatever breaks meanwhile.
    let relay = to_keeper(&target, |number| if number == 0 { 1 << 20 } else { u64::MAX });
    let keeper = Arc::clone(&relay.keeper);
    let report = thread::scope(|scope| {
        let waits = scope.spawn(|| send(&relay, &source, 1));
        while keeper.stored.lock().unwrap().is_none() {
            thread::yield_now();
        }
        thread::sleep(Duration::from_millis(50));
        assert!(!waits.is_finished(), "it waits for the target");
        keeper.sent_on.store(true, Ordering::Relaxed);
        waits.join().unwrap().unwrap()
    });
    assert_eq!(report.reached, Finish::Applied);
    // Where there is no relay, there is nothing in between.
    let report = send_pass(&Near::new(&target, ALWAYS), &source, &hurried, &Silent).unwrap();
    assert_eq!(report.reached, Finish::Applied);
}

#[test]
fn a_source_that_waits_is_told_over_any_connection_what_became_of_its_delta() {
    let base = noise(1, 1 << 20);
    let source = disk_of(&changed(&base, 9000));
    let target = Target::new(&base, &FreeBlocks::NONE);
    let whole = to_keeper(&target, ALWAYS);
    let mut hurried = options(None, 1);
    hurried.finish = Finish::Stored;
    let report = send_pass(&whole, &source, &hurried, &Silent).unwrap();
    // The connection breaks around STORED; then it holds.
    let all = report.sent + report.received;
    for first in (all - 120)..(all + 10) {
        let relay = to_keeper(&target, move |number| if number == 0 { first } else { u64::MAX });
        relay.keeper.sent_on.store(first % 2 == 0, Ordering::Relaxed);
        let keeper = Arc::clone(&relay.keeper);
        let report = thread::scope(|scope| {
            let waits = scope.spawn(|| send(&relay, &source, 1));
            while keeper.stored.lock().unwrap().is_none() {
                thread::yield_now();
            }
            keeper.sent_on.store(true, Ordering::Relaxed);
            waits.join().unwrap().unwrap()
        });
        assert_eq!((report.reached, report.root), (Finish::Applied, Root::of(&source.content())), "{first}");
    }
    // What will never be applied is no success.
    let relay = to_keeper(&target, ALWAYS);
    relay.keeper.useless.store(true, Ordering::Relaxed);
    let error = send(&relay, &source, 1).unwrap_err();
    assert_eq!(error.to_string(), "the other side says: the target has changed");
}

#[test]
fn what_does_not_say_that_it_is_a_relay_has_nothing_to_store() {
    let base = noise(1, 1 << 20);
    let source = disk_of(&changed(&base, 9000));
    let target = Target::new(&base, &FreeBlocks::NONE);
    // Its last message is lost, and then it says something else.
    let relay = to_keeper(&target, |number| if number == 0 { until(kind::DONE) } else { u64::MAX });
    relay.keeper.relays.store(false, Ordering::Relaxed);
    let error = send(&relay, &source, 1).unwrap_err();
    assert!(error.to_string().contains("is no relay"), "{error}");
}

/// Sends all of a pass and is stopped before it hears of its end; then the target, or the relay, has all of it.
fn stopped_at_the_end(connector: &dyn Connector, source: &failback_blockio::sim::SimDisk, journal: &Path) {
    let mut how = options(None, 1);
    how.journal = Some(journal);
    how.backoff.attempts = 0;
    let error = send_pass(connector, source, &how, &Silent).unwrap_err();
    assert!(error.is_link() && journal.exists(), "{error}");
}

#[test]
fn a_source_that_was_stopped_after_its_last_byte_goes_on_with_the_next_pass() {
    let base = noise(1, 1 << 20);
    let source = disk_of(&changed(&base, 9000));
    let target = Target::new(&base, &FreeBlocks::NONE);
    let journal = target.directory.path().join("journal");
    let near = Near::new(&target, |_| until(kind::DONE));
    stopped_at_the_end(&near, &source, &journal);
    near.ended();
    assert_eq!(target.applies.load(Ordering::Relaxed), 1);
    let mut how = options(None, 2);
    how.journal = Some(&journal);
    let report = send_pass(&Near::new(&target, ALWAYS), &source, &how, &Silent).unwrap();
    assert_eq!((report.difference.delta.changed_blocks, journal.exists()), (0, false), "it is a pass of its own");
    assert_eq!(target.applies.load(Ordering::Relaxed), 2);
}

#[test]
fn a_source_that_was_stopped_after_its_last_byte_finds_that_a_relay_has_it() {
    let base = noise(1, 1 << 20);
    let source = disk_of(&changed(&base, 9000));
    let target = Target::new(&base, &FreeBlocks::NONE);
    let mut how = options(None, 1);
    how.finish = Finish::Stored;
    let whole = send_pass(&to_keeper(&target, ALWAYS), &source, &how, &Silent).unwrap();
    let all = whole.sent + whole.received;
    let relay = to_keeper(&target, move |number| if number == 0 { all - 10 } else { u64::MAX });
    let journal = target.directory.path().join("journal");
    stopped_at_the_end(&relay, &source, &journal);
    while relay.reports.lock().unwrap().is_empty() {
        thread::yield_now();
    }
    let first = relay.keeper.stored.lock().unwrap().unwrap();
    // The same command finds out, and makes another pass.
    (how.journal, how.diff.id) = (Some(journal.as_path()), [2; 16]);
    let notes = Notes(Mutex::default());
    let report = send_pass(&relay, &source, &how, &notes).unwrap();
    assert_eq!((report.reached, report.went_on, journal.exists()), (Finish::Stored, false, false));
    assert_ne!(relay.keeper.stored.lock().unwrap().unwrap().0, first.0, "it is a pass of its own");
    let notes = notes.0.into_inner().unwrap();
    assert!(notes[0].contains("had arrived at the relay, which sends it on; another one begins"), "{notes:?}");
}

/// Somebody who wants to stop once something is so.
struct StopWhen<F>(F);

impl<F: Fn() -> bool + Sync> Progress for StopWhen<F> {
    fn phase(&self, _: &'static str, _: Option<u64>) {}
    fn advance(&self, _: u64) {}
    fn note(&self, _: &str) {}
    fn stop_requested(&self) -> bool {
        (self.0)()
    }
}

#[test]
fn a_source_that_waits_for_a_relays_target_is_stopped_and_told_where_its_pass_is() {
    let base = noise(1, 1 << 20);
    let source = disk_of(&changed(&base, 9000));
    let relay = to_keeper(&Target::new(&base, &FreeBlocks::NONE), ALWAYS);
    // It asks whether the target has it after it has said that it is stored.
    let asked = Arc::clone(&relay.keeper);
    let since = Instant::now();
    let heard = StopWhen(move || asked.asked.load(Ordering::Relaxed) > 100 && since.elapsed() > Duration::from_secs(1));
    let error = send_pass(&relay, &source, &options(None, 1), &heard).unwrap_err();
    assert!(error.to_string().contains("the relay has this pass, durably"), "{error}");
    assert_eq!(error.outcome(), Outcome::Interrupted);
}

#[test]
fn whoever_forwards_or_asks_is_stopped_while_the_target_is_silent() {
    let base = noise(1, 1 << 20);
    let (_, delta) = delta_to(&Target::new(&base, &FreeBlocks::NONE), &changed(&base, 9000), 1);
    let far = Mutex::new(Vec::new());
    let silent = Silence(&far);
    let stops = || {
        let since = Instant::now();
        StopWhen(move || since.elapsed() > Duration::from_millis(200))
    };
    let started = Instant::now();
    let forwarded = send_stored(&silent, &delta, &how(), &Questions::new(), &stops()).unwrap_err();
    let asked = ask_target(&silent, &offer(base.len()), &how().backoff, false, &stops(), |_| Ok(())).unwrap_err();
    assert_eq!((forwarded.outcome(), asked.outcome()), (Outcome::Interrupted, Outcome::Interrupted));
    assert!(started.elapsed() < Duration::from_secs(20));
}

/// A target that takes every connection and never says a word.
struct Silence<'a>(&'a Mutex<Vec<UnixStream>>);

impl Connector for Silence<'_> {
    fn connect(&self) -> io::Result<Link> {
        let (near, far) = UnixStream::pair()?;
        self.0.lock().unwrap().push(far);
        Ok(link_over(&near, u64::MAX))
    }
}
