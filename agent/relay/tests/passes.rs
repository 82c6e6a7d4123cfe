//! Passes through a relay: what is stored, what is sent on, and what each link carries.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{DISK, Near, Open, Site, Target, changed, disk_of, noise, pass, relay_options, store, wait_for};
use failback_hashtree::Root;
use failback_orchestrate::{JobError, Silent};
use failback_relay::{Gate, Hooks, Limits, Relay, RelayError, Step};
use failback_replication::{Finish, Offer, SessionError, SessionReport, send_pass};
use failback_units::ByteCount;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

fn is_delta(name: &str) -> bool {
    name.strip_suffix(".delta").is_some()
}

fn is_aside(name: &str) -> bool {
    name.strip_suffix(".aside").is_some()
}

/// Waits until the target has applied so many deltas, and the relay knows it.
fn settled(site: &Site, target: &Target, applies: u64) {
    wait_for("an apply", || target.applies.load(Ordering::Relaxed) == applies && site.status("pair").deltas == 0);
}

#[test]
fn a_pass_is_stored_and_then_applied() {
    let base = noise(1, DISK);
    let (site, far, target) = Site::with(&base);
    let running = site.running();
    let result = changed(&base, 70_000);
    let near = Near::new(&site);
    let report = send_pass(&near, &disk_of(&result), &pass("pair", 1, Finish::Applied), &Silent).unwrap();
    assert_eq!((report.reached, report.root), (Finish::Applied, Root::of(&result)));
    assert!(target.disk.content() == result);
    wait_for("the end of the session", || !near.ended.lock().unwrap().is_empty());
    assert!(matches!(near.ended.lock().unwrap()[0], Ok(SessionReport::Applied(_))));
    let status = site.status("pair");
    assert_eq!((status.deltas, status.bytes, status.arriving, status.aside_deltas), (0, 0, 0, 0));
    assert_eq!((status.base, status.applied), (Some(report.root), Some(report.root)));
    assert_eq!((status.last_error, status.held), (None, None));
    drop(running);
    drop(far);
}

#[test]
fn what_is_stored_is_sent_on_byte_for_byte_and_in_order() {
    let base = noise(1, DISK);
    let (site, far, target) = Site::with(&base);
    let running = site.running();
    let contents: Vec<_> = [90_000, 60_000, 40_000]
        .iter()
        .scan(base, |now, step| {
            *now = changed(now, *step);
            Some(now.clone())
        })
        .collect();
    // The first pass makes the values known that the others need.
    store(&site, &disk_of(&contents[0]), 1).unwrap();
    settled(&site, &target, 1);
    drop(running);
    let mut site = site;
    site.restart();
    far.set_up(false);
    let again = changed(&contents[0], 90_000);
    for (number, state) in [&again, &contents[0], &again].into_iter().enumerate() {
        let report = store(&site, &disk_of(state), 10 + u8::try_from(number).unwrap()).unwrap();
        assert_eq!((report.reached, report.root), (Finish::Stored, Root::of(state)), "{number}");
    }
    assert!(target.disk.content() == contents[0], "nothing has reached the target");
    let status = site.status("pair");
    assert_eq!((status.deltas, status.base), (3, Some(Root::of(&again))));
    assert!(status.oldest.unwrap() < Duration::from_secs(60) && status.bytes > 10_000);
    assert_eq!(site.forward("pair"), Step::Failed);
    let error = site.status("pair").last_error.unwrap();
    assert!(error.contains("broke") && error.contains("refused"), "{error}");
    // Each is applied by itself, in the order in which they came.
    far.set_up(true);
    for state in [&again, &contents[0], &again] {
        let file = site.names("pair").into_iter().find(|name| is_delta(name)).unwrap();
        let kept = std::fs::read(site.pair_path("pair").join(file)).unwrap();
        site.relay.try_now("pair");
        far.taken();
        assert_eq!(site.relay.step_of("pair"), Step::Forwarded);
        assert!(target.disk.content() == *state);
        let len = kept.len() as u64;
        let taken = far.taken();
        assert!((len..len + len / 200 + 600).contains(&taken), "{taken} for a delta of {len}");
    }
    assert_eq!(site.relay.step_of("pair"), Step::Nothing);
    assert!(!site.names("pair").iter().any(|name| is_delta(name)));
}

#[test]
fn the_slow_link_carries_deltas_and_little_else() {
    let base = noise(1, 16 << 20);
    let (site, far, target) = Site::with(&base);
    let running = site.running();
    // The first time the tree is asked for: 32 bytes for each 64 KiB.
    let same = store(&site, &disk_of(&base), 1).unwrap();
    settled(&site, &target, 1);
    let first = far.taken();
    assert!((256 * 32..256 * 32 + 3000).contains(&first), "{first}");
    assert_eq!(same.difference.delta.changed_blocks, 0);
    drop(running);
    let mut site = site;
    site.restart();
    // From then on a comparison costs nothing there, and what says that nothing has changed is sent on for its time and kind.
    let report = store(&site, &disk_of(&base), 2).unwrap();
    assert!(report.received < 4096, "{}", report.received);
    assert_eq!(far.taken(), 0, "an unchanged pass from a source costs nothing on the slow link");
    assert_eq!(site.forward("pair"), Step::Nothing);
    let empty = far.taken();
    assert!(empty < 1200, "{empty}");
    // Changes cost their delta, and the values of the blocks around them once.
    let running = site.running();
    let result = changed(&base, 1 << 20);
    let report = store(&site, &disk_of(&result), 3).unwrap();
    assert_eq!(report.difference.delta.changed_blocks, 16);
    settled(&site, &target, 3);
    let delta = report.difference.delta.delta_bytes;
    let taken = far.taken();
    assert!(taken < delta + 16 * (16 * 32 + 16) + 2000, "{taken} for a delta of {delta}");
    drop(running);
    site.restart();
    // The same places once more: their values are known here, also after a start.
    let report = store(&site, &disk_of(&base), 4).unwrap();
    assert_eq!(report.difference.delta.changed_blocks, 16);
    assert_eq!(far.taken(), 0);
    assert_eq!(site.forward("pair"), Step::Nothing);
    assert!(target.disk.content() == base);
    let delta = report.difference.delta.delta_bytes;
    let taken = far.taken();
    assert!(taken < delta + 1200, "{taken} for a delta of {delta}");
}

#[test]
fn a_pass_over_places_that_are_not_known_waits_for_the_link() {
    let base = noise(1, DISK);
    let (site, far, target) = Site::with(&base);
    let _running = site.running();
    store(&site, &disk_of(&base), 1).unwrap();
    settled(&site, &target, 1);
    far.set_up(false);
    let result = changed(&base, 500_000);
    thread::scope(|scope| {
        let pass = scope.spawn(|| store(&site, &disk_of(&result), 2).unwrap());
        thread::sleep(Duration::from_millis(400));
        assert!(!pass.is_finished());
        far.set_up(true);
        assert_eq!(pass.join().unwrap().root, Root::of(&result));
    });
    wait_for("the second delta", || target.disk.content() == result);
}

#[test]
fn a_wait_for_the_link_ends_with_its_source() {
    let base = noise(1, DISK);
    let (site, far, target) = Site::with(&base);
    let _running = site.running();
    store(&site, &disk_of(&base), 1).unwrap();
    settled(&site, &target, 1);
    far.set_up(false);
    let result = changed(&base, 500_000);
    let near = Near::lasting(&site, |_| 3000);
    let mut how = pass("pair", 2, Finish::Stored);
    how.backoff.attempts = 0;
    // The connection breaks while a question waits.
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(300));
            near.relay.stop();
        });
        send_pass(&near, &disk_of(&result), &how, &Silent).unwrap_err();
    });
    wait_for("the end of the session", || near.ended.lock().unwrap().len() == 1);
}

#[test]
fn a_target_that_cannot_be_reached_at_first_is_told_of() {
    let base = noise(1, DISK);
    let mut options = relay_options();
    options.patience = Duration::from_millis(300);
    let site = Site::new(options);
    let (far, _) = site.add("pair", &base);
    let _running = site.running();
    far.set_up(false);
    let error = store(&site, &disk_of(&base), 1).unwrap_err().to_string();
    assert!(
        error.contains("does not know yet what the target of pair pair has") && error.contains("refused"),
        "{error}"
    );
    far.set_up(true);
    wait_for("the tree", || store(&site, &disk_of(&base), 1).is_ok());
}

#[test]
fn two_sources_do_not_wait_for_each_other() {
    let site = Site::new(relay_options());
    let (one, other) = (noise(1, DISK), noise(2, DISK));
    let (down, _) = site.add("one", &one);
    let (_, reached) = site.add("other", &other);
    let _running = site.running();
    let send = |name: &str, content: &[u8], id, finish| {
        send_pass(&Near::new(&site), &disk_of(content), &pass(name, id, finish), &Silent).unwrap()
    };
    send("one", &one, 1, Finish::Applied);
    down.set_up(false);
    let results = (changed(&one, 4 << 20), changed(&other, 60_000));
    thread::scope(|scope| {
        let waits = scope.spawn(|| send("one", &results.0, 2, Finish::Applied));
        for id in 0..5 {
            let content = if id % 2 == 0 { &results.1 } else { &other };
            let report = send("other", content, id, Finish::Applied);
            assert_eq!((report.reached, report.root), (Finish::Applied, Root::of(content)));
            assert!(reached.disk.content() == *content);
        }
        assert!(!waits.is_finished());
        down.set_up(true);
        assert_eq!(waits.join().unwrap().root, Root::of(&results.0));
    });
}

#[test]
fn a_full_spool_holds_the_source_and_loses_nothing() {
    let base = noise(1, DISK);
    let mut options = relay_options();
    // One delta with all of the disk fits, and not two.
    options.limits = Limits { total: 6 << 20, pair: 6 << 20 };
    let site = Site::new(options);
    let (far, target) = site.add("pair", &base);
    let running = site.running();
    store(&site, &disk_of(&base), 1).unwrap();
    store(&site, &disk_of(&noise(2, DISK)), 2).unwrap();
    settled(&site, &target, 2);
    far.set_up(false);
    store(&site, &disk_of(&noise(3, DISK)), 3).unwrap();
    thread::scope(|scope| {
        let held = scope.spawn(|| store(&site, &disk_of(&noise(4, DISK)), 4).unwrap());
        wait_for("the end of the room", || site.status("pair").held.is_some());
        let status = site.status("pair");
        let held_for = status.held.unwrap();
        assert!(held_for.contains("1 of its deltas") && held_for.contains("is held until there is room"), "{held_for}");
        assert!(site.relay.status().bytes <= 6 << 20, "{:?}", site.relay.status());
        assert!(status.arriving > 0 && status.arriving < 3 << 20);
        thread::sleep(Duration::from_millis(700));
        assert!(!held.is_finished());
        far.set_up(true);
        site.relay.try_now("pair");
        assert_eq!(held.join().unwrap().root, Root::of(&noise(4, DISK)));
    });
    settled(&site, &target, 4);
    assert!(target.disk.content() == noise(4, DISK));
    assert_eq!(site.status("pair").held, None);
    // What can never be kept is refused.
    drop(running);
    let mut site = site;
    site.options.limits = Limits { total: 6 << 20, pair: 2 << 20 };
    site.restart();
    let error = store(&site, &disk_of(&noise(5, DISK)), 5).unwrap_err().to_string();
    assert!(error.contains("longer than the 2.0 MiB that the relay keeps for one pair"), "{error}");
}

#[test]
fn a_source_that_is_held_may_leave() {
    let base = noise(1, DISK);
    let mut options = relay_options();
    options.limits = Limits { total: 6 << 20, pair: 6 << 20 };
    let site = Site::new(options);
    let (far, target) = site.add("pair", &base);
    let _running = site.running();
    store(&site, &disk_of(&base), 1).unwrap();
    store(&site, &disk_of(&noise(2, DISK)), 2).unwrap();
    settled(&site, &target, 2);
    far.set_up(false);
    store(&site, &disk_of(&noise(3, DISK)), 3).unwrap();
    let near = Near::lasting(&site, |_| 3 << 20);
    thread::scope(|scope| {
        let held = scope.spawn(|| {
            let mut how = pass("pair", 4, Finish::Stored);
            how.backoff.attempts = 0;
            send_pass(&near, &disk_of(&noise(4, DISK)), &how, &Silent)
        });
        wait_for("the end of the room", || site.status("pair").held.is_some() || held.is_finished());
        // A newer connection of the same source takes the place of one that may be dead.
        far.set_up(true);
        let second = store(&site, &disk_of(&noise(5, DISK)), 5);
        assert_eq!(second.unwrap().root, Root::of(&noise(5, DISK)));
        held.join().unwrap().unwrap_err();
    });
    wait_for("the last delta", || target.disk.content() == noise(5, DISK));
}

#[test]
fn what_is_applied_already_is_not_applied_twice() {
    let base = noise(1, DISK);
    let (mut site, far, target) = Site::with(&base);
    let running = site.running();
    store(&site, &disk_of(&base), 1).unwrap();
    settled(&site, &target, 1);
    drop(running);
    site.restart();
    let running = site.running();
    let result = changed(&base, 900_000);
    // The connection to the target breaks just before the last byte of its answer.
    let report = store(&site, &disk_of(&result), 2).unwrap();
    wait_for("the second delta", || site.status("pair").deltas == 0);
    drop(running);
    site.restart();
    far.taken();
    let back = store(&site, &disk_of(&base), 3).unwrap();
    let copy: Vec<_> = site.names("pair").into_iter().filter(|name| is_delta(name)).collect();
    let path = site.pair_path("pair").join(&copy[0]);
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(site.forward("pair"), Step::Nothing);
    assert!(far.taken() > back.difference.delta.delta_bytes);
    // The relay lost power before it forgot the delta: it is there again, and so is the state before.
    site.close();
    std::fs::write(&path, bytes).unwrap();
    std::fs::remove_file(site.pair_path("pair").join("applied")).unwrap();
    site.restart();
    assert_eq!(site.status("pair").deltas, 1);
    assert_eq!(site.forward("pair"), Step::Nothing);
    assert!(far.taken() < 600, "an offer and its answer");
    assert_eq!((target.applies.load(Ordering::Relaxed), site.status("pair").applied), (3, Some(Root::of(&base))));
    assert_eq!(report.root, Root::of(&result));
}

#[test]
fn another_base_sets_everything_aside_until_it_is_dropped() {
    let base = noise(1, DISK);
    let (mut site, far, target) = Site::with(&base);
    let running = site.running();
    store(&site, &disk_of(&base), 1).unwrap();
    store(&site, &disk_of(&changed(&base, 800_000)), 2).unwrap();
    settled(&site, &target, 2);
    drop(running);
    site.restart();
    far.set_up(false);
    store(&site, &disk_of(&base), 3).unwrap();
    store(&site, &disk_of(&changed(&base, 800_000)), 4).unwrap();
    store(&site, &disk_of(&base), 5).unwrap();
    // Somebody has rolled the target back meanwhile; a source waits for its delta.
    let other = noise(7, DISK);
    let (_, rolled_back) = Site::new(relay_options()).add("pair", &other);
    *far.target.lock().unwrap() = Arc::clone(&rolled_back);
    let waits = thread::scope(|scope| {
        let near = Near::new(&site);
        let waits = scope.spawn(move || {
            send_pass(&near, &disk_of(&changed(&noise(1, DISK), 800_000)), &pass("pair", 6, Finish::Applied), &Silent)
        });
        wait_for("the sixth delta", || site.status("pair").deltas == 4);
        far.set_up(true);
        assert_eq!(site.forward("pair"), Step::LostBase);
        waits.join().unwrap()
    });
    let sentence = waits.unwrap_err().to_string();
    assert!(sentence.contains("4 deltas that waited for it are kept aside"), "{sentence}");
    let status = site.status("pair");
    assert_eq!((status.deltas, status.aside_deltas, status.base), (0, 4, None));
    assert!(status.aside_bytes > 0 && status.last_error.unwrap().contains("begin a new pass"));
    let notes = site.links.notes.lock().unwrap().clone();
    assert!(notes.iter().any(|note| note.contains("kept aside until they are dropped")), "{notes:?}");
    // It stays so over a start, the source begins again from the new base, and nothing of the old is applied.
    site.restart();
    assert_eq!(site.status("pair").aside_deltas, 4);
    let running = site.running();
    let report = store(&site, &disk_of(&changed(&other, 600_000)), 7).unwrap();
    assert_eq!(report.difference.delta.changed_blocks, 7);
    wait_for("the next delta", || rolled_back.disk.content() == changed(&other, 600_000));
    wait_for("its apply", || rolled_back.applies.load(Ordering::Relaxed) == 1);
    let (deltas, bytes) = site.relay.drop_aside("pair").unwrap();
    assert!(deltas == 4 && bytes > 0);
    assert_eq!((site.status("pair").aside_deltas, site.status("pair").aside_bytes), (0, 0));
    assert!(!site.names("pair").iter().any(|name| is_aside(name)));
    drop(running);
    assert!(site.relay.drop_aside("none").is_err() && site.relay.give_up("none").is_err());
}

#[test]
fn another_base_that_is_found_by_a_question_is_told_to_the_source() {
    let base = noise(1, DISK);
    let (site, far, target) = Site::with(&base);
    let _running = site.running();
    store(&site, &disk_of(&base), 1).unwrap();
    settled(&site, &target, 1);
    let other = noise(7, DISK);
    let (_, rolled_back) = Site::new(relay_options()).add("pair", &other);
    *far.target.lock().unwrap() = Arc::clone(&rolled_back);
    let error = store(&site, &disk_of(&changed(&base, 90_000)), 2).unwrap_err().to_string();
    assert!(
        error.contains("which is not what this relay had been told") && error.contains("begin a new pass"),
        "{error}"
    );
    store(&site, &disk_of(&changed(&other, 90_000)), 3).unwrap();
    wait_for("the delta", || rolled_back.disk.content() == changed(&other, 90_000));
}

#[test]
fn what_the_target_will_never_take_can_be_given_up() {
    let base = noise(1, DISK);
    let (site, far, target) = Site::with(&base);
    *target.trusted.lock().unwrap() = Some(common::verifying_key());
    let running = site.running();
    store(&site, &disk_of(&base), 1).unwrap();
    wait_for("a refusal", || site.status("pair").last_error.is_some());
    let error = site.status("pair").last_error.unwrap();
    assert!(error.contains("is not signed"), "{error}");
    drop(running);
    let mut site = site;
    site.restart();
    assert_eq!((site.status("pair").deltas, target.applies.load(Ordering::Relaxed)), (1, 0));
    assert_eq!(site.relay.give_up("pair").unwrap(), 1);
    let status = site.status("pair");
    assert_eq!((status.deltas, status.aside_deltas, status.base), (0, 1, None));
    *target.trusted.lock().unwrap() = None;
    let _running = site.running();
    store(&site, &disk_of(&changed(&base, 90_000)), 2).unwrap();
    wait_for("the delta", || target.disk.content() == changed(&base, 90_000));
    drop(far);
}

#[test]
fn a_refusal_of_the_target_is_told_to_the_source_that_waits_and_once_to_the_log() {
    let base = noise(1, DISK);
    let (site, _far, target) = Site::with(&base);
    let _running = site.running();
    *target.trusted.lock().unwrap() = Some(common::verifying_key());
    let result = changed(&base, 90_000);
    let send = |id| send_pass(&Near::new(&site), &disk_of(&result), &pass("pair", id, Finish::Applied), &Silent);
    let error = send(1).unwrap_err();
    assert!(!error.is_link(), "{error}");
    let error = error.to_string();
    assert!(error.contains("will not take what the relay sends on") && error.contains("is not signed"), "{error}");
    // Whoever comes later hears it too, and not that it was so before somebody mended it.
    assert!(send(2).unwrap_err().to_string().contains("is not signed"));
    let notes = site.links.notes.lock().unwrap().clone();
    assert_eq!(notes.iter().filter(|note| note.contains("is not signed")).count(), 1, "{notes:?}");
    *target.trusted.lock().unwrap() = None;
    wait_for("what waited", || target.disk.content() == result);
    assert_eq!(send(3).unwrap().root, Root::of(&result));
}

#[test]
fn a_refusal_of_the_target_ends_the_wait_for_its_tree() {
    let base = noise(1, DISK);
    let (site, _far, target) = Site::with(&base);
    let _running = site.running();
    *target.pair.lock().unwrap() = "another".into();
    let began = Instant::now();
    let error = store(&site, &disk_of(&base), 1).unwrap_err().to_string();
    assert!(error.contains("will not take what the relay sends on"), "{error}");
    assert!(began.elapsed() < relay_options().patience / 2, "{:?}", began.elapsed());
}

#[test]
fn what_is_not_signed_is_refused_where_targets_ask_for_that() {
    let base = noise(1, DISK);
    let (site, far, target) = Site::with(&base);
    let _running = site.running();
    far.signed.store(true, Ordering::Relaxed);
    let error = store(&site, &disk_of(&changed(&base, 90_000)), 1).unwrap_err().to_string();
    assert!(error.contains("is not signed") && error.contains("--signing-key"), "{error}");
    // The session that was refused says so before it gives back what it had.
    wait_for("an empty spool", || site.status("pair").arriving == 0);
    assert_eq!((site.status("pair").deltas, target.applies.load(Ordering::Relaxed)), (0, 0));
}

#[test]
fn a_source_that_waits_for_the_target_keeps_its_connection() {
    let base = noise(1, DISK);
    let (site, far, target) = Site::with(&base);
    let _running = site.running();
    store(&site, &disk_of(&base), 1).unwrap();
    settled(&site, &target, 1);
    far.set_up(false);
    let report = thread::scope(|scope| {
        let waits = scope.spawn(|| {
            let how = pass("pair", 2, Finish::Applied);
            send_pass(&Near::new(&site), &disk_of(&base), &how, &Silent).unwrap()
        });
        // Longer than it takes until a source says again how far it is.
        thread::sleep(Duration::from_millis(2500));
        far.set_up(true);
        waits.join().unwrap()
    });
    assert_eq!((report.reached, report.connections), (Finish::Applied, 1));
}

/// Lets nobody in but the sources of one size.
struct Only(u64);

impl Gate for Only {
    fn admit(&self, offer: &Offer) -> Result<(), JobError> {
        let is_known = offer.size.get() == self.0;
        is_known.then_some(()).ok_or_else(|| JobError::Refused("this key is not that of the pair's source".into()))
    }
}

#[test]
fn who_may_not_is_refused_before_anything_is_done() {
    let base = noise(1, DISK);
    let mut options = relay_options();
    options.pairs = 2;
    options.largest_disk = ByteCount::new(8 << 20).unwrap();
    let site = Site::new(options);
    for pair in ["pair", "second", "third"] {
        site.add(pair, &base);
    }
    let _running = site.running();
    let refused = |pair_name: &str, content: &[u8]| {
        let how = pass(pair_name, 1, Finish::Stored);
        send_pass(&Near::new(&site), &disk_of(content), &how, &Silent).unwrap_err().to_string()
    };
    assert!(refused("unknown", &base).contains("knows no pair unknown"));
    assert!(refused("pair", &noise(1, 9 << 20)).contains("takes disks of at most 8.0 MiB"));
    assert!(!site.pair_path("pair").exists());
    let (near, far) = UnixStream::pair().unwrap();
    let relay = Arc::clone(&site.relay);
    let served = thread::spawn(move || relay.serve(common::link_over(&far, u64::MAX), &Only(7), &Arc::default()));
    let once = OneLink(std::sync::Mutex::new(Some(near)));
    let error = send_pass(&once, &disk_of(&base), &pass("pair", 1, Finish::Stored), &Silent).unwrap_err();
    assert_eq!(error.to_string(), "the other side says: this key is not that of the pair's source");
    assert!(matches!(served.join().unwrap(), Err(SessionError::Job(_))) && !site.pair_path("pair").exists());
    store(&site, &disk_of(&base), 1).unwrap();
    send_pass(&Near::new(&site), &disk_of(&base), &pass("second", 1, Finish::Stored), &Silent).unwrap();
    assert!(refused("third", &base).contains("keeps something of 2 pairs already"));
    let _ = &Open;
}

struct OneLink(std::sync::Mutex<Option<UnixStream>>);

impl failback_replication::Connector for OneLink {
    fn connect(&self) -> std::io::Result<failback_replication::Link> {
        let stream = self.0.lock().unwrap().take().ok_or(std::io::ErrorKind::ConnectionRefused)?;
        Ok(common::link_over(&stream, u64::MAX))
    }
}

#[test]
fn a_directory_has_one_relay_and_limits_that_fit() {
    let site = Site::new(relay_options());
    let hooks = || Arc::clone(&site.links) as Arc<dyn Hooks>;
    let error = Relay::open(&site.path(), relay_options(), hooks()).err().unwrap();
    assert!(matches!(error, RelayError::InUse(_)), "{error}");
    let mut options = relay_options();
    options.limits = Limits { total: 1, pair: 2 };
    let error = Relay::open(&site.directory.path().join("other"), options, hooks()).err().unwrap();
    assert!(error.to_string().contains("a pair may have 2 bytes"), "{error}");
}

#[test]
fn a_relay_that_stops_refuses_nobody() {
    let base = noise(1, DISK);
    let (mut site, far, target) = Site::with(&base);
    let running = site.running();
    store(&site, &disk_of(&base), 1).unwrap();
    settled(&site, &target, 1);
    drop(running);
    site.restart();
    far.set_up(false);
    // Two sources of one pair: one has its place, the other waits for it or has taken it. And the relay stops.
    let result = changed(&base, 900_000);
    let ended: Vec<_> = thread::scope(|scope| {
        let send = |id: u8| {
            let near = Near::new(&site);
            let mut how = pass("pair", id, Finish::Applied);
            how.backoff.attempts = 1;
            let ended = send_pass(&near, &disk_of(&result), &how, &Silent);
            (ended, near.made.load(Ordering::Relaxed))
        };
        let one = scope.spawn(move || send(2));
        wait_for("a source", || site.status("pair").has_source);
        let other = scope.spawn(move || send(3));
        thread::sleep(Duration::from_millis(100));
        site.relay.stop();
        [one.join().unwrap(), other.join().unwrap()].into()
    });
    for (ended, made) in ended {
        let error = ended.unwrap_err();
        assert!(error.is_link() && made > 1, "a source tries again: {error}");
    }
}

#[test]
fn two_deltas_that_do_not_fit_together_are_both_stored() {
    let mut options = relay_options();
    // One of them fits, and half of the other.
    options.limits = Limits { total: 7 << 20, pair: 5 << 20 };
    let site = Site::new(options);
    let pairs = ["one", "other"].map(|pair| (pair, site.add(pair, &noise(1, DISK))));
    let running = site.running();
    let send = |pair: &str, seed: u64, finish| {
        let how = pass(pair, u8::try_from(seed).unwrap(), finish);
        send_pass(&Near::new(&site), &disk_of(&noise(seed, DISK)), &how, &Silent).unwrap()
    };
    for (pair, _) in &pairs {
        send(pair, 2, Finish::Applied);
    }
    wait_for("the end", || site.relay.status().bytes == 0);
    for (_, (far, _)) in &pairs {
        far.set_up(false);
    }
    thread::scope(|scope| {
        let passes = pairs.each_ref().map(|(pair, _)| scope.spawn(|| send(pair, 3, Finish::Applied)));
        wait_for("one delta", || site.relay.status().pairs.iter().map(|pair| pair.deltas).sum::<u64>() == 1);
        wait_for("a source that is held", || site.relay.status().pairs.iter().any(|pair| pair.held.is_some()));
        assert!(site.relay.status().bytes <= 7 << 20);
        for (_, (far, _)) in &pairs {
            far.set_up(true);
        }
        for pass in passes {
            assert_eq!(pass.join().unwrap().reached, Finish::Applied);
        }
    });
    assert!(pairs.iter().all(|(_, (_, target))| target.disk.content() == noise(3, DISK)));
    drop(running);
}

#[test]
fn a_spool_that_fails_is_not_touched_before_it_was_read_again() {
    let base = noise(1, DISK);
    let (site, _far, target) = Site::with(&base);
    let running = site.running();
    store(&site, &disk_of(&base), 1).unwrap();
    settled(&site, &target, 1);
    // The next delta cannot get its name.
    let taken = site.pair_path("pair").join("00000000000000000002.delta");
    std::fs::create_dir(&taken).unwrap();
    let error = store(&site, &disk_of(&base), 2).unwrap_err().to_string();
    assert!(error.contains("cannot rename"), "{error}");
    let told = site.status("pair").last_error.unwrap();
    assert!(told.contains("the spool of pair pair failed") && told.contains("start the relay again"), "{told}");
    std::fs::remove_dir(&taken).unwrap();
    let error = store(&site, &disk_of(&base), 3).unwrap_err().to_string();
    assert!(error.contains("start the relay again"), "{error}");
    drop(running);
    let mut site = site;
    site.restart();
    let _running = site.running();
    store(&site, &disk_of(&base), 4).unwrap();
    settled(&site, &target, 2);
}
