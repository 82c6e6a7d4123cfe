//! What a relay makes of its directory after it was stopped between any two steps, and of files that are damaged.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{DISK, Far, Near, Site, Target, changed, disk_of, noise, pass, store, target::until, wait_for};
use failback_hashtree::Root;
use failback_orchestrate::Silent;
use failback_relay::Step;
use failback_replication::wire::kind;
use failback_replication::{Finish, send_pass};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A site that has three deltas waiting, stopped; the states between them; and the trees after each of them.
struct Stopped {
    site: Site,
    far: Arc<Far>,
    target: Arc<Target>,
    states: Vec<Vec<u8>>,
    trees: Vec<(String, Vec<u8>)>,
}

fn stopped() -> Stopped {
    let base = noise(1, DISK);
    let (mut site, far, target) = Site::with(&base);
    let running = site.running();
    let states =
        vec![changed(&base, 500_000), changed(&base, 300_000), changed(&base, 700_000), changed(&base, 450_000)];
    // Every value is known here afterwards.
    for (id, state) in [&noise(2, DISK), &states[0]].into_iter().enumerate() {
        let id = u8::try_from(id).unwrap();
        send_pass(&Near::new(&site), &disk_of(state), &pass("pair", id, Finish::Applied), &Silent).unwrap();
    }
    wait_for("the end", || site.status("pair").deltas == 0);
    drop(running);
    site.restart();
    far.set_up(false);
    let mut trees = vec![tree(&site)];
    for (id, state) in (10..).zip(&states[1..]) {
        store(&site, &disk_of(state), id).unwrap();
        trees.push(tree(&site));
    }
    site.close();
    far.set_up(true);
    Stopped { site, far, target, states, trees }
}

fn tree(site: &Site) -> (String, Vec<u8>) {
    let name = site.names("pair").into_iter().find(|name| name.starts_with("tree.")).unwrap();
    let bytes = fs::read(site.pair_path("pair").join(&name)).unwrap();
    (name, bytes)
}

impl Stopped {
    fn path(&self, name: &str) -> PathBuf {
        self.site.pair_path("pair").join(name)
    }

    fn with_end(&self, end: &str) -> Vec<String> {
        self.site.names("pair").into_iter().filter(|name| name.strip_suffix(end).is_some()).collect()
    }

    /// Everything that waits reaches the target, in its order, and the next pass starts from there.
    fn judge(mut self, applies: u64) {
        self.site.restart();
        let last = self.states.last().unwrap().clone();
        assert_eq!(self.site.status("pair").base, Some(Root::of(&last)));
        assert_eq!(self.site.forward("pair"), Step::Nothing);
        assert!(self.target.disk.content() == last);
        assert_eq!(self.target.applies.load(Ordering::Relaxed), applies);
        let _running = self.site.running();
        let next = changed(&last, 123_456);
        let how = pass("pair", 99, Finish::Applied);
        send_pass(&Near::new(&self.site), &disk_of(&next), &how, &Silent).unwrap();
        assert!(self.target.disk.content() == next);
    }
}

#[test]
fn a_tree_that_is_behind_is_brought_on() {
    for behind in 0..3 {
        let stopped = stopped();
        fs::remove_file(stopped.path(&stopped.trees[3].0)).unwrap();
        fs::write(stopped.path(&stopped.trees[behind].0), &stopped.trees[behind].1).unwrap();
        // What was being written when it stopped.
        for leftover in ["next-tree", "next-tree.new", "applied.new"] {
            fs::write(stopped.path(leftover), b"half").unwrap();
        }
        let names = stopped.site.names("pair").len();
        let Stopped { mut site, far, target, states, trees } = stopped;
        site.restart();
        assert_eq!(tree(&site), trees[3], "{behind}");
        assert_eq!(site.names("pair").len(), names - 3);
        site.close();
        Stopped { site, far, target, states, trees }.judge(5);
    }
}

#[test]
fn of_two_trees_the_newer_one_counts() {
    let stopped = stopped();
    fs::write(stopped.path(&stopped.trees[1].0), &stopped.trees[1].1).unwrap();
    stopped.judge(5);
}

#[test]
fn a_damaged_tree_is_asked_for_again_when_nothing_waits() {
    let mut stopped = stopped();
    let path = stopped.path(&stopped.trees[3].0);
    let mut bytes = stopped.trees[3].1.clone();
    bytes[300] ^= 1;
    fs::write(&path, bytes).unwrap();
    stopped.site.restart();
    assert!(!path.exists());
    let notes = stopped.site.links.notes.lock().unwrap().clone();
    assert!(notes.iter().any(|note| note.contains("it will be asked for again")), "{notes:?}");
    stopped.site.close();
    stopped.judge(5);
}

#[test]
fn a_damaged_cache_is_no_cache() {
    let stopped = stopped();
    let path = stopped.path("leaves");
    let bytes = fs::read(&path).unwrap();
    assert!(bytes.iter().any(|byte| *byte != 0));
    fs::write(&path, noise(5, bytes.len())).unwrap();
    stopped.judge(5);
}

#[test]
fn a_damaged_record_of_what_was_applied_is_none() {
    let mut stopped = stopped();
    let path = stopped.path("applied");
    let mut bytes = fs::read(&path).unwrap();
    bytes[30] ^= 1;
    fs::write(&path, bytes).unwrap();
    stopped.site.restart();
    assert_eq!(stopped.site.status("pair").applied, None);
    stopped.site.close();
    stopped.judge(5);
}

#[test]
fn a_delta_that_is_there_though_it_was_applied_is_offered_once_more() {
    let mut stopped = stopped();
    let first = stopped.with_end(".delta")[0].clone();
    let bytes = fs::read(stopped.path(&first)).unwrap();
    stopped.site.restart();
    assert_eq!(stopped.site.relay.step_of("pair"), Step::Forwarded);
    stopped.site.close();
    // The record is durable, and the removal was not.
    fs::write(stopped.path(&first), bytes).unwrap();
    stopped.judge(5);
}

#[test]
fn what_does_not_lead_on_is_kept_aside() {
    for (which, cut, left) in [(1, None, 1), (1, Some(200), 1), (0, Some(100), 0), (2, Some(1), 2), (0, Some(0), 0)] {
        let mut stopped = stopped();
        let deltas = stopped.with_end(".delta");
        let path = stopped.path(&deltas[which]);
        match cut {
            None => fs::remove_file(&path).unwrap(),
            Some(less) => {
                let mut bytes = fs::read(&path).unwrap();
                bytes.truncate(bytes.len() - less);
                if less == 0 {
                    // Its name is another one.
                    bytes[50] ^= 1;
                }
                fs::write(&path, bytes).unwrap();
            }
        }
        let there = 3 - usize::from(cut.is_none());
        stopped.site.restart();
        let status = stopped.site.status("pair");
        assert_eq!((status.deltas, status.aside_deltas), (left, there as u64 - left), "{which} {cut:?}");
        assert_eq!(stopped.with_end(".aside").len() as u64, status.aside_deltas);
        assert!(status.last_error.unwrap().contains("kept aside"));
        // The tree was of what is of no use. What leads on is sent on, and then it is asked for.
        assert!(!stopped.site.names("pair").iter().any(|name| name.starts_with("tree.")));
        assert_eq!(stopped.site.forward("pair"), Step::Nothing);
        let reached = &stopped.states[usize::try_from(left).unwrap()];
        assert!(stopped.target.disk.content() == *reached);
        let _running = stopped.site.running();
        let next = changed(reached, 222_222);
        send_pass(&Near::new(&stopped.site), &disk_of(&next), &pass("pair", 99, Finish::Applied), &Silent).unwrap();
        assert!(stopped.target.disk.content() == next);
    }
}

#[test]
fn setting_aside_goes_on_after_any_step() {
    // The target has another base. How many steps were done when the relay stopped: the tree, and then deltas from the last on.
    for done in 0..=4 {
        let mut stopped = stopped();
        let other = noise(9, DISK);
        let (_, rolled_back) = Site::new(common::relay_options()).add("pair", &other);
        *stopped.far.target.lock().unwrap() = Arc::clone(&rolled_back);
        if done > 0 {
            fs::remove_file(stopped.path(&stopped.trees[3].0)).unwrap();
        }
        for name in stopped.with_end(".delta").iter().rev().take(usize::max(done, 1) - 1) {
            fs::rename(stopped.path(name), stopped.path(name).with_extension("aside")).unwrap();
        }
        stopped.site.restart();
        let expected = if done == 4 { Step::Nothing } else { Step::LostBase };
        assert_eq!(stopped.site.forward("pair"), expected, "{done}");
        let status = stopped.site.status("pair");
        assert_eq!((status.deltas, status.aside_deltas, status.base), (0, 3, None), "{done}");
        let _running = stopped.site.running();
        let next = changed(&other, 222_222);
        send_pass(&Near::new(&stopped.site), &disk_of(&next), &pass("pair", 99, Finish::Applied), &Silent).unwrap();
        assert!(rolled_back.disk.content() == next && stopped.target.disk.content() == stopped.states[0]);
    }
}

#[test]
fn a_source_that_was_stopped_after_its_end_begins_its_next_pass() {
    let mut stopped = stopped();
    stopped.site.restart();
    stopped.far.set_up(false);
    // It had sent all of its delta, and did not hear that it is stored.
    let journal = stopped.site.directory.path().join("journal");
    let next = changed(&stopped.states[3], 800_000);
    let mut how = pass("pair", 50, Finish::Stored);
    how.journal = Some(&journal);
    send_pass(&Near::new(&stopped.site), &disk_of(&next), &how, &Silent).unwrap();
    let again = changed(&next, 800_000);
    let near = Near::lasting(&stopped.site, |_| until(kind::STORED));
    how.diff.id = [51; 16];
    how.backoff.attempts = 0;
    let error = send_pass(&near, &disk_of(&again), &how, &Silent).unwrap_err();
    assert!(error.is_link() && journal.exists(), "{error}");
    wait_for("the delta", || stopped.site.status("pair").deltas == 5);
    drop(near);
    let report = send_pass(&Near::new(&stopped.site), &disk_of(&again), &how, &Silent).unwrap();
    assert_eq!((report.difference.delta.changed_blocks, journal.exists()), (0, false));
    assert_eq!(stopped.site.status("pair").deltas, 6);
    stopped.site.close();
    stopped.states.push(again);
    stopped.far.set_up(true);
    stopped.judge(8);
}
