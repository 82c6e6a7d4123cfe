//! Disks that others wrote to, deltas that lead from elsewhere, clocks, and two programs at a time.

use crate::world::{Kind, MIB, SMALL, World, deltas, flip};
use failback_tests::failback;
use failback_tests::lab::{Place, Program, Running, Unchanged, noise, root_of_file};
use serde_json::json;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// The first byte that differs between two states.
fn first_difference(world: &World, one: usize, other: usize) -> usize {
    let (one, other) = (fs::read(&world.states[one]).unwrap(), fs::read(&world.states[other]).unwrap());
    one.iter().zip(&other).position(|(a, b)| a != b).unwrap()
}

/// A place that is written in each step from one of the states 1 and 2 to the other.
fn scribbled(world: &World, one: usize, other: usize) -> String {
    let at = first_difference(world, one, other);
    flip(&world.disk, i64::try_from(at).unwrap());
    // Blocks of 4 KiB are compared.
    format!("(the first at bytes {}..", at / 4096 * 4096)
}

#[test]
fn a_disk_that_others_wrote_to_is_not_written_over() {
    for ahead in [true, false] {
        let world = World::of_bytes(Kind::Raw, SMALL);
        world.apply(0).done();
        world.apply(1).done();
        let range = if ahead { scribbled(&world, 2, 3) } else { scribbled(&world, 1, 2) };
        let untouched = Unchanged::since(&world.disk);
        if ahead {
            let sentence = world.apply(2).fails(4, &range);
            assert!(sentence.contains("nothing was written"), "{sentence}");
            world.apply_of("-").fed(fs::read(&world.deltas[2]).unwrap()).fails(4, &range);
        } else {
            for (verb, rest) in [("point rollback", "1 --yes"), ("point rollback", "0 --yes"), ("undo", "--yes")] {
                let sentence = world.call(verb, rest).fails(4, &range);
                assert!(sentence.contains("is not at recovery point 2"), "{sentence}");
                assert!(sentence.contains("something wrote to it"), "{sentence}");
            }
        }
        untouched.check();
        let status = world.status();
        assert_eq!((&status["state"], &status["present"]), (&"at-rest".into(), &2.into()), "{status}");
        world.has_links(2);
        let report = world.call("verify", "--point 2").json_of(4);
        assert_eq!(report["matches"], false);
        untouched.check();
        // What it holds now can be kept, and built upon.
        world.call("commit", "--yes").done();
        let base = world.place.signature("now.sig", &world.disk, "4K");
        let delta = world.place.path("now.delta");
        failback!("diff", "--base", base, world.states[3], "-o", delta).done();
        world.apply_of(&delta).done();
        world.is_at(3);
        world.call("undo", "--yes").done();
        world.all_are_right();
    }
}

/// Once the hash tree of a point is kept, what differs is found without another copy of the content.
#[test]
fn what_others_wrote_is_named() {
    let world = World::of_bytes(Kind::Raw, SMALL);
    world.apply(0).done();
    world.call("verify", "--point 1").done();
    let file = File::options().write(true).open(&world.disk).unwrap();
    file.write_all_at(&noise(100, 99), MIB as u64).unwrap();
    let report = world.call("verify", "--point 1").json_of(4);
    assert_eq!(report["differences"].as_array().unwrap().len(), 1, "{report}");
    let found = &report["differences"][0];
    let (start, length) = (found["start"].as_u64().unwrap(), found["length"].as_u64().unwrap());
    assert!(start <= MIB as u64 && (MIB as u64) < start + length && length <= MIB as u64, "{report}");
}

#[test]
fn a_delta_that_starts_elsewhere() {
    let world = World::at_the_end();
    world.apply(0).refused("this delta starts from the root");
    let sentence = world.apply(1).refused("and the disk is at recovery point 3 with the root");
    assert!(sentence.contains("make the delta from a signature of that state"), "{sentence}");
    world.apply_of("-").fed(fs::read(&world.deltas[0]).unwrap()).refused("this delta starts from the root");
    world.has_links(3);
    world.is_at(3);
    // Who was at its base before can go there.
    world.rollback(0);
    world.apply(1).refused("go forward to that one");
    world.is_at(0);
}

/// Where all bytes count, a root does not depend on the size of the blocks, and steps of both sorts make one chain.
#[test]
fn deltas_in_blocks_of_another_size() {
    let world = World::of_bytes(Kind::Raw, SMALL);
    // What lies behind the end of a state, in a block in which it ends, would be refused if it were anything.
    let disk = File::options().write(true).open(&world.disk).unwrap();
    let len = disk.metadata().unwrap().len();
    disk.set_len(fs::metadata(&world.states[0]).unwrap().len()).unwrap();
    disk.set_len(len).unwrap();
    let coarse = world.place.delta("coarse.delta", &world.states[1], &world.states[2], "16K");
    world.apply(0).done();
    world.apply_of(&coarse).done();
    world.apply(2).done();
    world.all_are_right();
    // They cannot be made one.
    let report = world.call("point prune", "1 2 --yes").json_of(3);
    assert_eq!(report["removed"], json!([]), "{report}");
    let kept: Vec<_> = report["kept"].as_array().unwrap().iter().map(|kept| kept["id"].clone()).collect();
    assert_eq!(kept, [1, 2]);
    assert!(report["kept"][0]["why"].as_str().unwrap().contains("different block sizes"), "{report}");
    let out = world.place.path("out.delta");
    world.call("point export", "0 -o").arg(&out).refused("different block sizes");
    assert!(!out.exists());
    for state in [0, 2, 1, 3] {
        world.rollback(state);
        world.is_at(usize::try_from(state).unwrap());
        world.all_are_right();
    }
    world.has_links(3);
}

/// Where free space does not count, it is another root.
#[test]
fn a_delta_of_used_space_in_blocks_of_another_size() {
    let world = World::of_files(Kind::Raw);
    let other = world.place.delta("other.delta", &world.states[1], &world.states[2], "64K");
    world.apply(0).done();
    world.apply_of(&other).refused("(used, blocks of 16 KiB)");
    world.is_at(1);
    world.apply(1).done();
    world.is_at(2);
}

#[test]
fn an_apply_behind_the_back_of_the_points_is_refused() {
    let world = World::of_bytes(Kind::Raw, SMALL);
    let text = format!("[retention]\ndirectory = '{}'\n", world.retention.display());
    let config = world.place.file("failback.toml", text.as_bytes());
    let apply =
        |number: usize| failback!("apply", world.deltas[number], world.disk, "--yes").env("FAILBACK_CONFIG", &config);
    // As long as there are none, nothing becomes worthless.
    apply(0).arg("--no-undo").done();
    assert_eq!(world.list()["points"], json!([]));
    apply(1).done();
    assert_eq!(world.ids(), [0, 1]);
    let untouched = Unchanged::since(&world.disk);
    apply(2).arg("--no-undo").refused("which an apply without them would make worthless");
    untouched.check();
    let commit = world.call("commit", "--yes");
    commit.done();
    apply(2).arg("--no-undo").done();
    world.is_at(3);
    // README offers --no-undo where there is no retention drive, so one that is away does not stop it.
    fs::rename(&world.retention, world.place.path("away")).unwrap();
    failback!("apply", world.deltas[0], world.disk, "--yes").env("FAILBACK_CONFIG", &config).refused("does not exist");
    let back = world.place.sparse("back.img", fs::metadata(&world.disk).unwrap().len(), &[]);
    let delta = world.place.delta("back.delta", &world.disk, &back, "64K");
    let run = failback!("apply", delta, world.disk, "--yes", "--no-undo").env("FAILBACK_CONFIG", &config).run();
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("nobody can tell whether it has recovery points"), "{}", run.stderr);
    let wrong = world.place.file("wrong.toml", b"[retention]\nkeep_pionts = 3\n");
    failback!("status", world.disk).env("FAILBACK_CONFIG", &wrong).refused("in line 2");
    let relative = world.place.file("relative.toml", b"[retention]\ndirectory = 'retention'\n");
    failback!("status", world.disk).env("FAILBACK_CONFIG", &relative).refused("write it from / on");
    let fifo = world.place.path("fifo.toml");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    failback!("status", world.disk).env("FAILBACK_CONFIG", &fifo).refused("no plain file");
    failback!("status", world.disk).env("FAILBACK_CONFIG", "/dev/zero").refused("no plain file");
}

/// Feeds a part of a delta to a call that reads a pipe, and waits until something is the case.
fn half_fed(call: &Program, delta: &Path, mut until: impl FnMut() -> bool) -> (Running, std::process::ChildStdin) {
    let mut running = call.start();
    let mut stdin = running.stdin();
    let bytes = fs::read(delta).unwrap();
    stdin.write_all(&bytes[..bytes.len() * 3 / 4]).unwrap();
    assert!(running.wait_until(&mut until));
    (running, stdin)
}

/// An image of 40 MiB that changes as a whole.
fn large() -> World {
    let place = Place::new();
    let states: Vec<_> = (1..3).map(|state| place.noisy(&format!("state-{state}.img"), 40 * MIB, state)).collect();
    let deltas = deltas(&place, &states, "64K");
    World::new(place, Kind::Raw, states, deltas, true)
}

/// What was on the disk before an apply without recovery points is kept nowhere: that has to come to its end first.
#[test]
fn an_apply_without_points_that_was_interrupted() {
    let world = large();
    let record = world.place.path("disk.img.failback-intent");
    let call = failback!("apply", "-", world.disk, "--yes");
    let (running, stdin) = half_fed(&call, &world.deltas[0], || record.exists());
    running.signal("KILL");
    drop(stdin);
    let _ = running.finish();
    let untouched = Unchanged::since(&world.disk);
    let apply = || failback!("apply", world.deltas[0], world.disk, "--yes", "--retention", world.retention);
    settled(|| apply().run(), |told| told.contains("without recovery points was interrupted"), 3);
    untouched.check();
    assert_eq!(fs::read_dir(&world.retention).unwrap().count(), 0);
    assert_eq!(world.status()["state"], "interrupted");
    failback!("apply", world.deltas[0], world.disk, "--yes", "--no-undo").done();
    world.is_at(1);
    assert_eq!(apply().json()["already_in_place"], true);
}

/// Runs a call until what it tells is this, with this exit code: the kernel lets go of what a killed process held a moment later.
#[track_caller]
fn settled(run: impl Fn() -> failback_tests::lab::Run, wanted: impl Fn(&str) -> bool, code: i32) {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let run = run();
        if run.code == code && wanted(&run.stderr) {
            return;
        }
        assert!(Instant::now() < end, "{run:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Whoever changes the points of a disk has them alone, for as long as the process lives and no longer.
#[test]
fn two_programs_on_one_disk() {
    let world = large();
    let spooling = || {
        let own = fs::read_dir(&world.retention).unwrap().next();
        own.is_some_and(|own| {
            crate::world::names_in(&own.unwrap().path()).iter().any(|name| name.starts_with("spool-"))
        })
    };
    let (running, stdin) = half_fed(&world.apply_of("-"), &world.deltas[0], spooling);
    let untouched = Unchanged::since(&world.disk);
    for (verb, rest) in [("point prune", "0 --yes"), ("commit", "--yes"), ("point pin", "0"), ("point show", "0")] {
        let sentence = world.call(verb, rest).refused("is in use by process");
        assert!(sentence.contains("(failback)"), "{sentence}");
    }
    world.apply(0).refused("wait");
    world.apply_of("-").fed(fs::read(&world.deltas[0]).unwrap()).refused("wait");
    let list = world.list();
    assert_eq!((&list["running"], &list["points"]), (&true.into(), &json!([])), "{list}");
    assert_eq!(world.status()["state"], "in-use");
    untouched.check();
    running.signal("KILL");
    drop(stdin);
    let _ = running.finish();
    settled(|| world.apply(0).run(), |_| true, 0);
    world.is_at(1);
    world.has_links(1);
}

/// The clock was set back: nothing is removed for its age, and no forecast is made.
#[test]
fn a_clock_that_runs_backwards() {
    let world = World::at_the_end();
    let day = 86_400;
    // The newest point in a day from now.
    recorded(&world, 3, day);
    let run = world.call("point prune", "--keep-for 0s --yes").run();
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("behind the newest recovery point, so that none is removed for its age"), "{run:?}");
    assert_eq!(world.ids(), [0, 1, 2, 3]);
    // Other limits hold.
    assert_eq!(world.call("point prune", "--keep-for 0s --keep-points 3 --yes").json()["removed"], json!([1]));
    // An older point in a day from now, long ago the others.
    recorded(&world, 2, day);
    recorded(&world, 3, -day);
    recorded(&world, 0, -9 * day);
    let list = world.list();
    assert_eq!(
        (&list["space"]["bytes_per_second"], &list["space"]["seconds_until_full"]),
        (&json!(null), &json!(null))
    );
    assert_eq!(world.call("point prune", "--keep-for 2d --yes").json()["removed"], json!([]));
    world.all_are_right();
    // Where it goes forward again, age counts.
    recorded(&world, 2, -5 * day);
    assert!(world.list()["space"]["seconds_until_full"].as_u64() > Some(0));
    assert_eq!(world.call("point prune", "--keep-for 2d --yes").json()["removed"], json!([2]));
    world.rollback(0);
    world.is_at(0);
}

/// Has the catalogue say that a point was recorded so many seconds after now, in both copies.
fn recorded(world: &World, id: u64, after_now: i64) {
    let path = world.own().join("catalogue");
    let mut bytes = fs::read(&path).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let half = bytes.len() / 2;
    for copy in bytes.chunks_mut(half) {
        let number = |at: usize, len: usize| {
            let mut digits = [0; 8];
            digits[..len].copy_from_slice(&copy[at..at + len]);
            usize::try_from(u64::from_le_bytes(digits)).unwrap()
        };
        // As agent/retention/FORMAT.md has it.
        let (record_len, points, description_len) = (number(16, 8), number(68, 4), number(72, 4));
        let first = 144 + description_len;
        let place = (0..points).map(|place| first + 104 * place).find(|at| number(*at, 8) as u64 == id).unwrap();
        let moment = i64::try_from(now).unwrap() + after_now;
        copy[place + 24..place + 32].copy_from_slice(&moment.to_le_bytes());
        copy[112..144].fill(0);
        let hash = *blake3::hash(&copy[..record_len]).as_bytes();
        copy[112..144].copy_from_slice(&hash);
    }
    fs::write(path, bytes).unwrap();
}

/// A disk that became smaller or larger since.
#[test]
fn a_disk_of_another_size() {
    let world = World::at_the_end();
    let resize = |size: u64| fs::File::options().write(true).open(&world.disk).unwrap().set_len(size).unwrap();
    let before = fs::read(&world.disk).unwrap();
    resize(SMALL as u64);
    let untouched = Unchanged::since(&world.disk);
    world.call("verify", "--point 3").refused("the disk became smaller, so choose the right one");
    world.call("point rollback", "2 --yes").refused("bytes larger, or choose the right one");
    world.call("undo", "--yes").refused("bytes larger, or choose the right one");
    untouched.check();
    assert_eq!(world.status()["state"], "at-rest");
    fs::write(&world.disk, &before).unwrap();
    resize(SMALL as u64 + 100_000);
    world.all_are_right();
    world.rollback(0);
    world.is_at(0);
    let content = fs::read(&world.disk).unwrap();
    assert!(content[before.len()..].iter().all(|byte| *byte == 0), "what was added was written to");
    assert_eq!(root_of_file(&world.disk).len(), 64);
}
