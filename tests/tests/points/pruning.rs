//! Which points stay: pinned ones, those that limits keep, and those that nobody names to be removed.

use crate::world::{Kind, MIB, SMALL, World};
use failback_tests::lab::{Program, Unchanged};
use serde_json::json;
use std::fs;
use std::path::PathBuf;

impl World {
    /// A configuration file with this section `retention`, besides the directory.
    fn configured(&self, more: &str) -> PathBuf {
        let text = format!("[retention]\ndirectory = '{}'\n{more}\n", self.retention.display());
        self.place.file("failback.toml", text.as_bytes())
    }

    /// Fails unless these points are there, and each can be reached and is the state of its number.
    #[track_caller]
    fn keeps(&self, ids: &[u64]) {
        assert_eq!(self.ids(), ids);
        self.has_links(ids.len() - 1);
        self.all_are_right();
        let present = self.list()["present"].as_u64().unwrap();
        let others = ids.iter().rev().filter(|id| **id != present);
        for id in others.clone().chain(others.clone().next().map(|_| &present)) {
            self.rollback(*id);
            self.is_at(usize::try_from(*id).unwrap());
        }
    }
}

#[test]
fn a_pinned_point_stays_until_it_is_unpinned() {
    let world = World::at_the_end();
    for _ in 0..2 {
        let shown = world.call("point pin", "1").json();
        assert_eq!((&shown["id"], &shown["pinned"]), (&1.into(), &true.into()), "{shown}");
    }
    world.call("point pin", "8").refused("there is no recovery point 8");
    world.call("point prune", "1 --yes").refused("recovery point 1 is pinned: unpin it if it is to go");
    world.call("undo", "--yes").refused("recovery point 1 is pinned");
    let report = world.call("point prune", "--keep-points 1 --yes").json();
    assert_eq!(report["removed"], json!([2]), "{report}");
    // What a commit drops is what lies before the oldest pinned one.
    let report = world.call("commit", "--yes").json();
    assert_eq!(report["removed"], json!([0]), "{report}");
    world.keeps(&[1, 3]);
    let shown = world.call("point unpin", "1").json();
    assert_eq!(shown["pinned"], false);
    let report = world.call("point prune", "1 --yes").json();
    assert_eq!(report["removed"], json!([1]), "{report}");
    world.keeps(&[3]);
}

#[test]
fn named_points_are_dropped_or_merged() {
    let world = World::at_the_end();
    let untouched = Unchanged::since(&world.disk);
    // In the middle: both sides of it can still be reached.
    let report = world.call("point prune", "1 --yes").json();
    assert_eq!((&report["removed"], &report["kept"], &report["dry_run"]), (&json!([1]), &json!([]), &false.into()));
    untouched.check();
    world.keeps(&[0, 2, 3]);
    for (id, words) in [(3, "is at recovery point 3"), (7, "there is no recovery point 7"), (1, "no recovery point 1")]
    {
        world.call("point prune", &format!("{id} --yes")).refused(words);
    }
    // The oldest is what an undo leads to, until another one is committed.
    world.call("point prune", "0 --yes").refused("recovery point 0 is the committed one");
    assert_eq!((world.ids(), &world.list()["committed"]), (vec![0, 2, 3], &0.into()));
    world.call("undo", "--yes").done();
    world.is_at(0);
    world.has_links(0);
}

/// Also where the disk is not at the newest: a point between it and newer ones is left out on the way forward. What lay behind
/// the end of the first state is none of its content, and comes back all the same: a point is kept if a link that leaves it out
/// could not hold that.
#[test]
fn points_ahead_of_the_disk_are_merged_too() {
    for size in [SMALL, 2 * MIB] {
        let world = World::of_bytes(Kind::Raw, size);
        world.is_at(0);
        world.apply_all();
        world.rollback(0);
        let prune = world.call("point prune", "1 2 --yes");
        let links = if size == SMALL {
            assert_eq!(prune.json()["removed"], json!([1, 2]));
            1
        } else {
            let report = prune.json_of(3);
            assert_eq!((&report["removed"], &report["kept"][0]["id"]), (&json!([1]), &2.into()), "{report}");
            2
        };
        world.call("point prune", "3 --yes").refused("recovery point 3 is the oldest or the newest");
        world.has_links(links);
        world.all_are_right();
        for _ in 0..2 {
            world.rollback(3);
            world.is_state(&world.disk, 3);
            world.rollback(0);
            world.is_at(0);
        }
    }
}

#[test]
fn several_are_removed_in_one_call_whatever_their_order() {
    let world = World::at_the_end();
    let said = world.call("point prune", "2 1 2 --yes").run();
    assert_eq!(said.code, 0, "{}", said.stderr);
    for (id, how) in [(1, "is merged"), (2, "is merged")] {
        assert!(said.stderr.contains(&format!("recovery point {id} {how}")), "{}", said.stderr);
    }
    world.keeps(&[0, 3]);
}

#[test]
fn a_dry_run_says_what_would_go_and_removes_nothing() {
    let world = World::at_the_end();
    let before = world.files();
    let untouched = Unchanged::since(&world.own().join("link-0000000000000001.delta"));
    for rest in ["1 --dry-run", "--keep-points 3 --dry-run"] {
        let report = world.call("point prune", rest).json();
        assert_eq!((&report["removed"], &report["dry_run"]), (&json!([1]), &true.into()), "{report}");
    }
    world.call("point prune", "8 --dry-run").refused("there is no recovery point 8");
    untouched.check();
    assert_eq!((world.files(), world.ids()), (before, vec![0, 1, 2, 3]));
    // Without a limit nothing exceeds one.
    assert_eq!(world.call("point prune", "--yes").json()["removed"], json!([]));
}

#[test]
fn limits_are_held() {
    let world = World::at_the_end();
    let report = world.call("point prune", "--keep-points 3 --yes").json();
    assert_eq!(report["removed"], json!([1]), "{report}");
    assert_eq!(world.call("point prune", "--keep-points 3 --yes").json()["removed"], json!([]));
    // The committed and the present point stay, however little may be kept; that is said.
    let run = world.call("point prune", "--keep-space 1 --yes").run();
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("all points that are left are pinned, committed, present or the newest"), "{run:?}");
    world.keeps(&[0, 3]);
    let forever = world.call("point prune", "--keep-for 300d --yes").json();
    assert_eq!(forever["removed"], json!([]));
}

#[test]
fn what_contradicts_itself_on_the_command_line() {
    let world = World::at_the_end();
    world.call("point prune", "1 --keep-points 3 --yes").misused();
    world.call("point prune", "--keep-for soon --yes").misused();
    world.call("point prune", "--keep-space much --yes").misused();
    world.call("point prune", "one --yes").misused();
    world.call("point rollback", "-1 --yes").misused();
    world.call("point serve", "0").misused();
    world.call("point export", "0").misused();
    world.apply(0).arg("--no-undo").misused();
    assert_eq!(world.ids(), [0, 1, 2, 3]);
    // Nobody can be asked here.
    for (verb, rest) in [("point prune", "1"), ("point rollback", "1"), ("undo", ""), ("commit", "")] {
        world.call(verb, rest).refused("add --yes if it may");
    }
    world.keeps(&[0, 1, 2, 3]);
}

fn with(config: &PathBuf, call: Program) -> Program {
    call.env("FAILBACK_CONFIG", config)
}

/// The directory and the limits are said once, and every apply holds them.
#[test]
fn the_configuration_file_says_it_once() {
    let world = World::of_bytes(Kind::Raw, SMALL);
    let config = world.configured("keep_points = 2");
    let call = |words: &str, rest: &str| with(&config, Program::new().args(words).arg(&world.disk).args(rest));
    for delta in &world.deltas {
        with(&config, Program::new().arg("apply").arg(delta).arg(&world.disk).arg("--yes")).done();
    }
    let listed = call("point list", "").json();
    let ids: Vec<_> = listed["points"].as_array().unwrap().iter().map(|point| point["id"].clone()).collect();
    assert_eq!(ids, [0, 3]);
    assert_eq!(call("status", "").json()["present"], 3);
    call("point rollback", "0 --yes").done();
    world.is_at(0);
    // What the command line says comes first.
    let other = world.place.directory("other");
    assert_eq!(call("point list", "--retention").arg(&other).json()["points"], json!([]));
    assert_eq!(call("point prune", "--dry-run --keep-points 1").json()["removed"], json!([]));
    // All disks of it.
    let all = with(&config, Program::new().args("point list")).json();
    assert_eq!(all["disks"].as_array().unwrap().len(), 1, "{all}");
}

/// Limits that cannot be held now are no reason to fail: the change is applied.
#[test]
fn limits_of_a_command_line_are_held_after_an_apply() {
    let world = World::of_bytes(Kind::Raw, SMALL);
    world.apply(0).done();
    world.apply(1).done();
    let run = world.apply(2).args("--keep-points 2").run();
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("recovery point 1 is merged into its neighbours: 4 points, and 2 are kept"), "{run:?}");
    world.keeps(&[0, 3]);
}

#[test]
fn a_configuration_that_cannot_be_understood() {
    let world = World::at_the_end();
    let list = || Program::new().args("point list").arg(&world.disk);
    let missing = world.place.path("missing.toml");
    with(&missing, list()).fails(5, "missing.toml");
    for (more, words) in [
        ("keep_point = 3", "cannot be understood"),
        ("keep_points = 'three'", "cannot be understood"),
        ("[", "understood"),
    ] {
        with(&world.configured(more), list()).refused(words);
    }
    for more in ["keep_for = 'soon'", "keep_space = 'much'"] {
        with(&world.configured(more), Program::new().args("point prune").arg(&world.disk))
            .refused("in the configuration");
    }
    let nothing = world.place.file("empty.toml", b"");
    with(&nothing, list()).refused("add --retention DIR, or name it in /etc/failback/failback.toml");
    fs::remove_file(nothing).unwrap();
    assert_eq!(world.ids(), [0, 1, 2, 3]);
}
