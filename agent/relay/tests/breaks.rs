//! Links that break anywhere on both sides, and a relay that is killed at any moment: nothing is lost, and nothing is applied twice.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Near, Open, Site, Target, disk_of, link_over, noise, pass, quick, relay_options, wait_for};
use failback_hashtree::Root;
use failback_orchestrate::Silent;
use failback_relay::{Hooks, PairRules, Relay};
use failback_replication::{Backoff, Connector, Finish, Link, send_pass};
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

const DISK: usize = 1 << 20;

/// A number below `limit`, from a seed and a place.
fn random(seed: u64, place: u64, limit: u64) -> u64 {
    let bytes = noise(seed.wrapping_mul(1_000_003) ^ place, 8);
    u64::from_le_bytes(bytes.try_into().unwrap()) % limit
}

/// A disk with some blocks of its own, by a seed.
fn state(base: &[u8], seed: u64) -> Vec<u8> {
    let mut state = base.to_vec();
    for change in 0..random(seed, 0, 30) {
        let at = usize::try_from(random(seed, 10 + change, DISK as u64)).unwrap();
        let len = usize::try_from(random(seed, 50 + change, 20_000)).unwrap().min(DISK - at);
        state[at..at + len].copy_from_slice(&noise(seed ^ change, len));
    }
    state
}

#[test]
fn slow_links_may_break_anywhere_on_both_sides() {
    for seed in 0..40 {
        let base = noise(seed, DISK);
        let (site, far, target) = Site::with(&base);
        *far.lasts.lock().unwrap() = Box::new(move |number| 60 + (1 + number) * random(seed, 100 + number, 40_000));
        let _running = site.running();
        let mut passes = 0;
        for number in 0..4 {
            let content = state(&base, seed * 10 + number);
            let near = Near::lasting(&site, move |made| 60 + (1 + made) * random(seed + number, 200 + made, 60_000));
            let finish = if random(seed, number, 2) == 0 { Finish::Stored } else { Finish::Applied };
            let mut how = pass("pair", u8::try_from(number).unwrap(), finish);
            how.backoff.attempts = 1000;
            let report = send_pass(&near, &disk_of(&content), &how, &Silent).unwrap();
            assert_eq!(report.root, Root::of(&content), "{seed}");
            passes += 1;
            if finish == Finish::Applied {
                assert_eq!(report.reached, Finish::Applied);
                assert!(target.disk.content() == content, "{seed}: what is said to be applied is there");
            }
        }
        let last = state(&base, seed * 10 + 3);
        wait_for("the end", || {
            site.relay.try_now("pair");
            site.status("pair").deltas == 0
        });
        assert!(target.disk.content() == last, "{seed}");
        assert_eq!(target.applies.load(Ordering::Relaxed), passes, "{seed}: each delta is applied once");
    }
}

/// A relay in a process of its own: this test program, started again. It serves `near`, and its target is at `far`.
#[test]
fn child_relay() {
    let Some(place) = std::env::var_os("FAILBACK_TEST_RELAY").map(PathBuf::from) else { return };
    let hooks = Arc::new(Hooked { far: place.join("far") });
    let relay = Arc::new(Relay::open(&place.join("relay"), relay_options(), hooks).unwrap());
    let near = place.join("near");
    let _ = std::fs::remove_file(&near);
    let listener = UnixListener::bind(&near).unwrap();
    let runner = Arc::clone(&relay);
    thread::spawn(move || runner.run());
    for stream in listener.incoming() {
        let (stream, relay) = (stream.unwrap(), Arc::clone(&relay));
        thread::spawn(move || relay.serve(link_over(&stream, u64::MAX), &Open, &Arc::default()));
    }
}

struct Hooked {
    far: PathBuf,
}

impl Hooks for Hooked {
    fn pair(&self, _: &str) -> Option<PairRules> {
        Some(PairRules::default())
    }
    fn connect(&self, _: &str) -> io::Result<Link> {
        Ok(link_over(&UnixStream::connect(&self.far)?, u64::MAX))
    }
}

fn start(place: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_relay", "--nocapture"])
        .env("FAILBACK_TEST_RELAY", place)
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

struct Socket(PathBuf);

impl Connector for Socket {
    fn connect(&self) -> io::Result<Link> {
        Ok(link_over(&UnixStream::connect(&self.0)?, u64::MAX))
    }
}

/// Serves a target, one session at a time, until it is told to end.
fn serve_target(place: &Path, target: &Arc<Target>, over: &Arc<AtomicBool>) -> thread::JoinHandle<()> {
    let listener = UnixListener::bind(place.join("far")).unwrap();
    let (target, over) = (Arc::clone(target), Arc::clone(over));
    thread::spawn(move || {
        for stream in listener.incoming() {
            if over.load(Ordering::Relaxed) {
                return;
            }
            let _ = target.serve(link_over(&stream.unwrap(), u64::MAX));
        }
    })
}

/// Says that all is done when it goes out of sight, also by a panic: who waits for that would wait for ever.
struct AtEnd<'a>(&'a AtomicBool);

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits until the relay takes connections, or all is done.
fn until_up(place: &Path, done: &AtomicBool) {
    while UnixStream::connect(place.join("near")).is_err() && !done.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn slow_a_relay_may_be_killed_at_any_moment() {
    const SEEDS: u64 = 8;
    let mut all_kills = 0;
    for seed in 0..SEEDS {
        let place = tempfile::tempdir().unwrap();
        let base = noise(seed, DISK);
        let target = Target::new(&base, &failback_delta::FreeBlocks::NONE);
        let over = Arc::new(AtomicBool::new(false));
        let serving = serve_target(place.path(), &target, &over);
        let child = Arc::new(Mutex::new(start(place.path())));
        let kills = AtomicU64::new(0);
        let done = AtomicBool::new(false);
        let passes = AtomicU64::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                let (mut seen, mut in_vain) = (0, 0);
                while !done.load(Ordering::Relaxed) {
                    // However long it takes to start: what is killed has been at work.
                    until_up(place.path(), &done);
                    let number = kills.load(Ordering::Relaxed);
                    // On a busy machine it needs longer than that to get anywhere.
                    in_vain = if passes.load(Ordering::Relaxed) == seen { in_vain + 1 } else { 0 };
                    seen = passes.load(Ordering::Relaxed);
                    let longer = 1 << (in_vain / 16).min(6);
                    thread::sleep(Duration::from_millis(10 + random(seed, 900 + number, 250) * longer));
                    if !done.load(Ordering::Relaxed) {
                        kills.fetch_add(1, Ordering::Relaxed);
                    }
                    let mut child = child.lock().unwrap();
                    child.kill().unwrap();
                    child.wait().unwrap();
                    *child = start(place.path());
                }
            });
            let _end = AtEnd(&done);
            for number in 0..6 {
                let content = state(&base, seed * 10 + number);
                let finish = if number % 2 == 0 { Finish::Stored } else { Finish::Applied };
                let mut how = pass("pair", u8::try_from(number).unwrap(), finish);
                how.backoff = Backoff { attempts: 200_000, ..quick() };
                let sent = send_pass(&Socket(place.path().join("near")), &disk_of(&content), &how, &Silent);
                let report = sent.unwrap_or_else(|error| panic!("{seed} {number}: {error}"));
                assert_eq!(report.root, Root::of(&content), "{seed}");
                passes.fetch_add(1, Ordering::Relaxed);
                if report.reached == Finish::Applied {
                    assert!(target.disk.content() == content, "{seed}: what is said to be applied is there");
                }
            }
        });
        let passes = passes.into_inner();
        let last = state(&base, seed * 10 + 5);
        wait_for("the end", || target.disk.content() == last && target.applies.load(Ordering::Relaxed) >= passes);
        assert_eq!(target.applies.load(Ordering::Relaxed), passes, "{seed}: each delta is applied once");
        all_kills += kills.load(Ordering::Relaxed);
        let mut child = child.lock().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        over.store(true, Ordering::Relaxed);
        drop(UnixStream::connect(place.path().join("far")).unwrap());
        serving.join().unwrap();
    }
    println!("{all_kills} kills");
    assert!(all_kills > SEEDS, "{all_kills} kills in the middle of {SEEDS} times six passes");
}
