//! From state to state and back, on every kind of disk.

use crate::world::{Kind, MIB, SMALL, World};
use failback_tests::failback;
use failback_tests::lab::lone;
use serde_json::{Value, json};
use std::fs;

/// Some fields of an object.
fn of(object: &Value, names: &str) -> Value {
    names.split_ascii_whitespace().map(|name| object[name].clone()).collect()
}

/// Three deltas are applied, the second from a pipe.
fn three_applied(world: &World) {
    let applied = world.apply(0).json();
    assert_eq!(of(&applied, "point resumed already_in_place proven"), json!([1, false, false, "changed blocks"]));
    assert_eq!(applied["result_root"], world.root(1));
    assert!(applied["retention_bytes"].as_u64() > Some(0), "{applied}");
    assert!(applied["retention_content_bytes"].as_u64() > Some(0), "{applied}");
    world.is_at(1);
    let applied = world.apply_of("-").fed(fs::read(&world.deltas[1]).unwrap()).json();
    assert_eq!(of(&applied, "point resumed"), json!([2, false]));
    world.is_at(2);
    let applied = world.apply(2).arg("--verify").json();
    assert!(["used space read", "whole disk read"].contains(&applied["proven"].as_str().unwrap()), "{applied}");
    assert_eq!(applied["point"], 3);
    world.is_at(3);
    world.has_links(3);
}

fn listed(world: &World, present: u64, committed: u64) {
    let list = world.list();
    assert_eq!(of(&list, "running present committed under_way"), json!([false, present, committed, null]));
    for (point, state) in list["points"].as_array().unwrap().iter().zip(0..) {
        assert_eq!(
            of(point, "id root reachable bootable pinned"),
            json!([state, world.root(state), true, true, false])
        );
        let is_present = point["id"] == present;
        assert_eq!(of(point, "kind present committed"), json!(["crash", is_present, point["id"] == committed]));
        assert_eq!(point["link_bytes"].is_null(), is_present, "{point}");
        assert_eq!(&world.call("point show", &state.to_string()).json(), point);
    }
    let text = String::from_utf8(world.call("point list", "").done()).unwrap();
    let marked: Vec<_> = text.lines().filter(|line| line.starts_with('>')).collect();
    assert!(marked.len() == 1 && marked[0].starts_with(&format!(">{present:>5}  ")), "{text}");
    let status = world.status();
    assert_eq!(of(&status, "state present committed next"), json!(["at-rest", present, committed, null]));
    assert_eq!(of(&status, "can_resume can_undo"), json!([false, present != committed]));
    assert_eq!(status["root"], world.root(usize::try_from(present).unwrap()));
}

/// All of it, on one disk.
fn journey(world: &World) {
    assert_eq!(world.list()["points"], json!([]));
    world.is_at(0);
    three_applied(world);
    listed(world, 3, 0);
    world.all_are_right();
    // Back and forth, over one link and over several, and what has been there before comes back.
    for (goal, steps) in [(0, 3), (2, 2), (1, 1), (3, 2), (2, 1)] {
        let report = world.rollback(goal);
        assert_eq!(of(&report, "steps root"), json!([steps, world.root(usize::try_from(goal).unwrap())]), "{report}");
        assert!(report["bytes_written"].as_u64() > Some(0), "{report}");
        world.is_at(usize::try_from(goal).unwrap());
        world.has_links(3);
        listed(world, goal, 0);
        world.all_are_right();
    }
    world.call("point rollback", "2 --yes").refused("is at recovery point 2 already");
    world.call("point rollback", "9 --yes").refused("there is no recovery point 9");
    // Only at the newest point can another be added.
    world.apply(2).refused("go forward to that one, or commit");
    world.has_links(3);
    world.rollback(3);
    // A delta that was applied before is in place.
    assert_eq!(of(&world.apply(2).json(), "already_in_place point"), json!([true, 3]));
    // Everything since the last commit is given up.
    let report = world.call("undo", "--yes").json();
    assert_eq!(of(&report, "from point steps"), json!([3, 0, 3]), "{report}");
    world.is_at(0);
    world.has_links(0);
    world.call("undo", "--yes").refused("nothing is to be undone");
    world.call("resume", "--yes").refused("nothing is to be resumed");
    committed(world);
}

/// A commit in the middle: what is older goes, and an undo leads there. Numbers are never given twice.
fn committed(world: &World) {
    assert_eq!(world.apply(0).json()["point"], 4);
    assert_eq!(world.apply(1).json()["point"], 5);
    let report = world.call("commit", "--yes").json();
    assert_eq!(of(&report, "committed removed"), json!([5, [0, 4]]), "{report}");
    assert!(report["bytes_freed"].as_u64() > Some(0), "{report}");
    world.has_links(0);
    assert_eq!(world.ids(), [5]);
    world.is_at(2);
    assert_eq!(world.apply(2).json()["point"], 6);
    world.is_at(3);
    assert_eq!(world.call("undo", "--yes").json()["point"], 5);
    world.is_at(2);
    world.all_are_right();
}

#[test]
fn files_on_an_image() {
    journey(&World::of_files(Kind::Raw));
}

#[test]
fn files_on_a_vmdk() {
    let world = World::of_files(Kind::Vmdk);
    journey(&world);
    failback!("vmdk", "check", world.disk).done();
}

#[test]
fn files_on_a_device() {
    let Some(_lone) = lone() else { return };
    journey(&World::of_files(Kind::Device));
}

/// Nothing is free there, so that what was overwritten comes back, byte for byte.
#[test]
fn bytes_on_an_image() {
    journey(&World::of_bytes(Kind::Raw, 2 * MIB));
    journey(&World::of_bytes(Kind::Raw, SMALL));
}

#[test]
fn bytes_on_a_vmdk() {
    journey(&World::of_bytes(Kind::Vmdk, 2 * MIB));
}

#[test]
fn bytes_on_a_device() {
    let Some(_lone) = lone() else { return };
    journey(&World::of_bytes(Kind::Device, 2 * MIB));
}
