//! What is refused, what is noticed, and what still works when something is missing or damaged.

use crate::world::{Kind, MIB, SMALL, World, flip};
use failback_tests::failback;
use failback_tests::lab::{Program, noise};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Runs a call that must be refused with this code, and returns what it says.
#[track_caller]
fn refused(call: &Program, code: i32) -> String {
    let run = call.run();
    assert_eq!(run.code, code, "{}", run.stderr);
    run.stderr
}

fn with(world: &World, verb: &str, directory: &Path) -> Program {
    failback!(verb, world.disk, "--retention", directory)
}

#[test]
fn directories_that_are_none() {
    let world = World::at_the_end();
    let before = world.hash();
    let nowhere = world.place.path("nowhere");
    assert!(refused(&with(&world, "undo", &nowhere).arg("--yes"), 3).contains("does not exist"));
    assert!(refused(&with(&world, "undo", &world.own()).arg("--yes"), 3).contains("name the directory above it"));
    let empty = world.place.directory("empty");
    assert!(refused(&with(&world, "undo", &empty).arg("--yes"), 3).contains("there are no recovery points"));
    let file = world.place.file("file", b"x");
    assert!(refused(&with(&world, "undo", &file).arg("--yes"), 3).contains("is no directory"));
    assert!(refused(&failback!("undo", world.disk, "--yes"), 3).contains("no retention directory is named"));
    assert_eq!(world.hash(), before);
}

/// The directory of another disk under the name of this one's.
#[test]
fn the_points_of_another_disk() {
    let (world, other) = (World::at_the_end(), World::at_the_end());
    let own = world.own();
    fs::remove_dir_all(&own).unwrap();
    let copied = std::process::Command::new("cp").arg("-r").arg(other.own()).arg(&own).status().unwrap();
    assert!(copied.success());
    let before = world.hash();
    for verb in ["undo", "resume", "point rollback"] {
        let call = world.call(verb, if verb == "point rollback" { "1 --yes" } else { "--yes" });
        assert!(refused(&call, 3).contains("retention directory of another disk"), "{verb}");
    }
    assert_eq!(world.hash(), before);
}

#[test]
fn a_damaged_link_ends_what_needs_it_and_nothing_else() {
    let world = World::at_the_end();
    let link = world.link(1);
    for at in [9, 200, i64::try_from(fs::metadata(&link).unwrap().len()).unwrap() / 2, -40] {
        flip(&link, at);
        for id in [2, 3] {
            assert_eq!(world.call("verify", &format!("--point {id}")).json()["matches"], true);
        }
        let run = world.call("undo", "--yes").run();
        assert_eq!(run.code, 6, "{}", run.stderr);
        world.is_at(3);
        flip(&link, at);
    }
    fs::remove_file(&link).unwrap();
    let list = world.list();
    let reachable: Vec<_> = list["points"].as_array().unwrap().iter().map(|point| point["reachable"] == true).collect();
    assert_eq!(reachable, [false, false, true, true]);
    assert_eq!(world.status()["can_undo"], false);
    assert_eq!(refused(&world.call("undo", "--yes"), 6).matches("missing").count(), 1);
    world.rollback(2);
    world.is_at(2);
}

#[test]
fn an_index_and_a_copy_of_the_catalogue_can_be_lost() {
    let world = World::at_the_end();
    for name in world.files().iter().filter(|name| Path::new(name).extension().is_some_and(|end| end == "index")) {
        fs::remove_file(world.own().join(name)).unwrap();
    }
    flip(&world.own().join("catalogue"), 300);
    world.all_are_right();
    world.rollback(0);
    world.is_at(0);
    let catalogue = world.own().join("catalogue");
    for at in [10, i64::try_from(fs::metadata(&catalogue).unwrap().len()).unwrap() / 2 + 10] {
        flip(&catalogue, at);
    }
    let before = world.hash();
    assert!(refused(&world.call("point rollback", "3 --yes"), 6).contains("cannot be used"));
    assert_eq!(world.hash(), before);
}

#[test]
fn what_others_wrote_is_named_and_not_built_upon() {
    let world = World::of_bytes(Kind::Raw, SMALL);
    world.apply(0).done();
    world.call("verify", "--point 1").json();
    let file = File::options().write(true).open(&world.disk).unwrap();
    file.write_all_at(&noise(100, 99), MIB as u64).unwrap();
    let run = world.call("verify", "--point 1 --json").run();
    assert_eq!(run.code, 4, "{}", run.stderr);
    let report: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(report["differences"].as_array().unwrap().len(), 1, "{report}");
    let found = &report["differences"][0];
    let (start, length) = (found["start"].as_u64().unwrap(), found["length"].as_u64().unwrap());
    assert!(start <= MIB as u64 && (MIB as u64) < start + length && length <= MIB as u64, "{report}");
}

#[test]
fn a_delta_that_starts_elsewhere() {
    let world = World::of_bytes(Kind::Raw, SMALL);
    world.apply(0).done();
    let before = world.hash();
    assert!(refused(&world.apply(2), 3).contains("this delta starts from the root"));
    world.rollback(0);
    assert!(refused(&world.apply(1), 3).contains("go forward to that one"));
    world.rollback(1);
    assert_eq!(world.hash(), before);
    world.apply(1).done();
    world.is_at(2);
}

/// Nobody goes behind the back of recovery points that the configuration names.
#[test]
fn no_undo_on_a_disk_that_has_points() {
    let world = World::of_bytes(Kind::Raw, SMALL);
    world.apply(0).done();
    let text = format!("[retention]\ndirectory = '{}'\n", world.retention.display());
    let config = world.place.file("failback.toml", text.as_bytes());
    let call = failback!("apply", world.deltas[1], world.disk, "--yes", "--no-undo").env("FAILBACK_CONFIG", &config);
    assert!(refused(&call, 3).contains("has recovery points"));
    world.is_at(1);
    failback!("apply", world.deltas[1], world.disk, "--yes").env("FAILBACK_CONFIG", &config).done();
    world.is_at(2);
    assert_eq!(world.ids(), [0, 1, 2]);
    let wrong = world.place.file("wrong.toml", b"[retention]\nkeep_pionts = 3\n");
    let call = failback!("status", world.disk).env("FAILBACK_CONFIG", &wrong);
    assert!(refused(&call, 3).contains("in line 2"));
}
