//! Retention drives that are full: the disk is left as it is, and nothing stays behind.

use crate::world::{Kind, MIB, World};
use failback_tests::lab::{Mount, Place, Program, Unchanged, is_alone_inside, noise, tool};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// More than two catalogues take.
const ROOM: u64 = 64 << 10;

/// Runs a test with a disk of 4 MiB whose states differ in all of it, and a retention drive of this size.
fn with_a_drive_of(size: &str, name: &str, test: impl FnOnce(&World, &Mount)) {
    if !is_alone_inside(name) {
        return;
    }
    let place = Place::new();
    let states: Vec<_> = (0..4).map(|state| place.noisy(&format!("state-{state}.img"), 4 * MIB, state + 1)).collect();
    let deltas = crate::world::deltas(&place, &states, "16K");
    let world = World::new(place, Kind::Raw, states, deltas, true);
    let mount = Mount::memory(&world.retention, size);
    test(&world, &mount);
}

/// Writes to a file until nothing more fits; returns how much that was.
fn fill(path: &Path) -> u64 {
    let mut file = File::create(path).unwrap();
    let piece = noise(4096, 9);
    while file.write_all(&piece).is_ok() {}
    file.metadata().unwrap().len()
}

impl World {
    /// Refused since the drive is full, with nothing written and nothing left behind.
    #[track_caller]
    fn refuses_for_space(&self, call: &Program, links: usize) {
        let untouched = Unchanged::since(&self.disk);
        let sentence = call.refused("the retention drive is full");
        assert!(
            sentence.contains("the disk was left as it is: prune recovery points, or use a larger drive"),
            "{sentence}"
        );
        untouched.check();
        assert_eq!(self.status()["state"], "at-rest");
        self.has_links(links);
    }
}

#[test]
fn a_delta_from_a_pipe_that_does_not_fit() {
    with_a_drive_of("2m", "full::a_delta_from_a_pipe_that_does_not_fit", |world, mount| {
        let call = || world.apply_of("-").fed(fs::read(&world.deltas[0]).unwrap());
        let untouched = Unchanged::since(&world.disk);
        call().refused("the retention drive is full");
        untouched.check();
        assert_eq!(world.list()["points"], serde_json::json!([]));
        let own = fs::read_dir(&world.retention).unwrap().next().unwrap().unwrap().path();
        assert_eq!(crate::world::names_in(&own), ["catalogue", "lock"]);
        // The delta fits, and what leads back does not.
        mount.resize("6m");
        world.refuses_for_space(&call(), 0);
        mount.resize("12m");
        assert_eq!(call().json()["point"], 1);
        world.is_at(1);
        world.has_links(1);
    });
}

#[test]
fn a_way_back_that_does_not_fit() {
    with_a_drive_of("7m", "full::a_way_back_that_does_not_fit", |world, mount| {
        world.apply(0).done();
        world.refuses_for_space(&world.apply(1), 1);
        assert_eq!(world.ids(), [0, 1]);
        world.all_are_right();
        // What is there can be used, and given up to make room.
        world.call("commit", "--yes").done();
        world.apply(1).done();
        world.is_at(2);
        world.refuses_for_space(&world.apply(2), 1);
        mount.resize("10m");
        world.apply(2).done();
        world.is_at(3);
        world.all_are_right();
    });
}

/// A step of a rollback needs as much again for a while: what it replaces is kept before it is replaced.
#[test]
fn a_rollback_that_does_not_fit() {
    with_a_drive_of("10m", "full::a_rollback_that_does_not_fit", |world, mount| {
        world.apply(0).done();
        world.apply(1).done();
        world.refuses_for_space(&world.call("point rollback", "0 --yes"), 2);
        assert_eq!(world.ids(), [0, 1, 2]);
        world.all_are_right();
        mount.resize("14m");
        world.rollback(1);
        // The next step does not fit: the disk is on its way, and can go back.
        let filler = world.retention.join("filler");
        fill(&filler);
        world.call("point rollback", "0 --yes").run();
        world.is_at(1);
        let status = world.status();
        assert_eq!(status["present"], 1, "{status}");
        fs::remove_file(&filler).unwrap();
        world.rollback(0);
        world.is_at(0);
        // An undo keeps nothing, and needs no room.
        world.rollback(2);
        let all = fill(&filler);
        File::options().write(true).open(&filler).unwrap().set_len(all - ROOM).unwrap();
        assert_eq!(world.call("undo", "--yes").json()["point"], 0);
        world.is_at(0);
    });
}

/// Where nothing at all fits any more nothing is begun; what takes space can be given up with room for one catalogue.
#[test]
fn a_drive_without_one_free_block() {
    with_a_drive_of("16m", "full::a_drive_without_one_free_block", |world, _| {
        world.apply(0).done();
        world.apply(1).done();
        let filler = world.retention.join("filler");
        let all = fill(&filler);
        let untouched = Unchanged::since(&world.disk);
        assert_eq!(world.ids(), [0, 1, 2]);
        world.all_are_right();
        for (verb, rest) in [("point rollback", "1 --yes"), ("point prune", "1 --yes"), ("undo", "--yes")] {
            world.call(verb, rest).refused("the retention drive is full");
            assert_eq!(world.status()["state"], "at-rest", "{verb}");
        }
        untouched.check();
        File::options().write(true).open(&filler).unwrap().set_len(all - ROOM).unwrap();
        for (verb, rest) in [("point rollback", "1 --yes"), ("point prune", "1 --yes")] {
            world.call(verb, rest).refused("the retention drive is full");
        }
        assert_eq!(world.call("commit", "--yes").json()["removed"], serde_json::json!([0, 1]));
        untouched.check();
        world.all_are_right();
        // There is room for a step now.
        world.apply(2).done();
        world.is_at(3);
        world.rollback(2);
        world.is_at(2);
    });
}

/// A real file system, which keeps some room for root and needs some for itself.
#[test]
fn a_full_ext4() {
    if !is_alone_inside("full::a_full_ext4") {
        return;
    }
    let world = World::of_bytes(Kind::Raw, 4 * MIB);
    let image = world.place.sparse("drive.img", 6 << 20, &[]);
    tool("mkfs.ext4", &["-q".as_ref(), "-O".as_ref(), "^has_journal".as_ref(), image.as_os_str()]);
    let device = failback_tests::lab::Loop::attach(&image, &[]);
    let _mount = Mount::device(&device.path, &world.retention, "rw");
    world.apply(0).done();
    fill(&world.retention.join("filler"));
    world.refuses_for_space(&world.apply(1), 1);
    world.refuses_for_space(&world.apply_of("-").fed(fs::read(&world.deltas[1]).unwrap()), 1);
    world.call("point rollback", "0 --yes").refused("the retention drive is full");
    assert_eq!(world.status()["state"], "at-rest");
    fs::remove_file(world.retention.join("filler")).unwrap();
    world.apply(1).done();
    world.rollback(0);
    world.is_at(0);
}
