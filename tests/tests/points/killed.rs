//! SIGKILL in every stage of what moves a disk between its recovery points.

use crate::world::{Kind, MIB, World, names_in};
use failback_tests::lab::{Place, Program, noise};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

/// Where a killed program was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// Nothing of what it makes was there yet.
    Before,
    /// The delta from a pipe was being stored.
    Storing,
    /// What leads back, or a merged link, was being written.
    Recording,
    /// The disk was being written.
    Writing,
    /// It had come to its end.
    Done,
}

/// Kills, and the stages in which they came.
#[derive(Default)]
struct Kills(BTreeMap<Stage, usize>);

impl Kills {
    fn count(&mut self, stage: Stage) {
        *self.0.entry(stage).or_default() += 1;
    }

    #[track_caller]
    fn hit(&self, stages: &[(Stage, usize)]) {
        println!("{:?}", self.0);
        for (stage, least) in stages {
            assert!(self.0.get(stage).copied().unwrap_or(0) >= *least, "{stage:?}: {:?}", self.0);
        }
    }
}

/// What can be seen of a disk's own directory from outside.
struct Seen {
    names: BTreeSet<String>,
    catalogue: Option<u64>,
}

impl Seen {
    fn now(world: &World) -> Self {
        let own = names_in(&world.retention).first().map(|name| world.retention.join(name));
        let names = own.as_deref().map(names_of).unwrap_or_default();
        let catalogue = own.and_then(|own| fs::metadata(own.join("catalogue")).ok()).map(|about| about.ino());
        Self { names, catalogue }
    }

    /// Whether a file has come with such a name.
    fn has_new(&self, since: &Self, start: &str, end: &str) -> bool {
        self.names.difference(&since.names).any(|name| name.starts_with(start) && name.ends_with(end))
    }
}

/// The names of a directory that changes meanwhile.
fn names_of(own: &std::path::Path) -> BTreeSet<String> {
    let entries = fs::read_dir(own).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// A moment by number, up to `most`.
fn moment(number: u32, most: Duration) -> Duration {
    let random = u32::from_le_bytes(noise(4, u64::from(number) + 9).try_into().unwrap());
    most.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// Runs a call, waits until it is in a stage, and kills it a moment later. Returns in which stage that came.
fn killed(world: &World, call: &Program, feed: Option<Vec<u8>>, stage: Stage, number: u32) -> Stage {
    let before = Seen::now(world);
    let present = present(&world.status());
    let mut running = call.start();
    let mut stdin = running.stdin();
    let feeder = thread::spawn(move || feed.map(|bytes| stdin.write_all(&bytes)));
    let comes = |running: &mut failback_tests::lab::Running, done: &dyn Fn() -> bool| running.wait_until(done);
    let mut runs = match stage {
        Stage::Before | Stage::Done => true,
        Stage::Storing => comes(&mut running, &|| Seen::now(world).has_new(&before, "spool-", ".delta")),
        Stage::Recording | Stage::Writing => {
            comes(&mut running, &|| Seen::now(world).has_new(&before, "link-", ".delta"))
        }
    };
    if runs && stage == Stage::Writing {
        let recording = Seen::now(world).catalogue;
        runs = comes(&mut running, &|| Seen::now(world).catalogue != recording);
    }
    if runs {
        thread::sleep(moment(number, Duration::from_millis(if stage == Stage::Writing { 25 } else { 60 })));
        running.signal("KILL");
    }
    let _ = running.finish();
    let _ = feeder.join();
    let status = settled(world);
    let seen = Seen::now(world);
    match status["state"].as_str().unwrap() {
        "interrupted" => Stage::Writing,
        "at-rest" if present != self::present(&status) => Stage::Done,
        "at-rest" if seen.has_new(&before, "link-", ".delta") => Stage::Recording,
        "at-rest" if seen.has_new(&before, "spool-", ".delta") => Stage::Storing,
        "at-rest" => Stage::Before,
        other => panic!("{other}: {status}"),
    }
}

fn present(status: &Value) -> u64 {
    status["present"].as_u64().unwrap_or(0)
}

/// The status, once nobody has the disk any more: the kernel lets go of what `io_uring` holds a moment after a killed process.
fn settled(world: &World) -> Value {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let status = world.status();
        if !["running", "in-use"].contains(&status["state"].as_str().unwrap()) || Instant::now() > end {
            return status;
        }
    }
}

/// Goes on with what was interrupted, or takes it back, and says where the disk is then.
#[track_caller]
fn recovered(world: &World, stage: Stage, forward: bool, call: impl Fn() -> Program) -> Value {
    let status = world.status();
    if stage == Stage::Writing {
        assert_eq!((&status["can_resume"], &status["can_undo"]), (&true.into(), &true.into()), "{status}");
        let verb = if forward { "resume" } else { "undo" };
        return world.call(verb, "--yes").json();
    }
    assert_eq!(status["can_resume"], false, "{status}");
    if forward && stage != Stage::Done { call().json() } else { status }
}

#[test]
fn slow_an_apply_is_killed_in_every_stage() {
    let world = World::of_bytes_in(Place::in_memory(), Kind::Raw, 32 * MIB);
    let delta = fs::read(&world.deltas[0]).unwrap();
    let mut kills = Kills::default();
    for number in 0..48_u32 {
        let piped = number % 2 == 1;
        let call = || if piped { world.apply_of("-").fed(delta.clone()) } else { world.apply(0) };
        let stage = match number % 6 {
            1 | 3 => Stage::Storing,
            0 => Stage::Recording,
            _ => Stage::Writing,
        };
        let start = if piped { world.apply_of("-") } else { world.apply(0) };
        let came = killed(&world, &start, piped.then(|| delta.clone()), stage, number);
        kills.count(came);
        let forward = number % 4 < 2;
        recovered(&world, came, forward, call);
        if forward || came == Stage::Done {
            world.is_at(1);
            world.call("verify", "--point 1").json();
            world.has_links(1);
            world.call("undo", "--yes").json();
        }
        world.is_at(0);
        if came == Stage::Writing || forward {
            world.has_links(0);
        }
    }
    kills.hit(&[(Stage::Storing, 3), (Stage::Recording, 6), (Stage::Writing, 12)]);
}

#[test]
fn slow_a_rollback_is_killed_in_every_stage() {
    let world = World::of_bytes_in(Place::in_memory(), Kind::Raw, 32 * MIB);
    world.apply_all();
    let mut kills = Kills::default();
    for number in 0..24_u32 {
        let call = || world.call("point rollback", "0 --yes");
        let stage = if number % 3 == 0 { Stage::Recording } else { Stage::Writing };
        let came = killed(&world, &call(), None, stage, number);
        kills.count(came);
        let forward = number % 2 == 0;
        if came == Stage::Done {
            world.is_at(0);
        } else if world.status()["state"] == "interrupted" {
            recovered(&world, Stage::Writing, forward, call);
            world.is_at(if forward { 0 } else { 3 });
        }
        if world.status()["present"] != 3 {
            world.rollback(3);
        }
        world.is_at(3);
        world.has_links(3);
    }
    world.all_are_right();
    kills.hit(&[(Stage::Writing, 12)]);
}

#[test]
fn slow_an_undo_a_resume_and_a_merge_are_killed() {
    let world = World::of_bytes_in(Place::in_memory(), Kind::Raw, 32 * MIB);
    let (mut undone, mut resumed, mut merged) = (Kills::default(), Kills::default(), Kills::default());
    for number in 0..10_u32 {
        world.apply_all();
        // A merge: before or after, never between.
        let came = killed(&world, &world.call("point prune", "1 --yes"), None, Stage::Recording, number);
        merged.count(came);
        let ids = world.ids();
        assert!(ids == [0, 1, 2, 3] || ids == [0, 2, 3], "{ids:?}");
        if ids.contains(&1) {
            world.call("point prune", "1 --yes").json();
        }
        world.has_links(2);
        world.all_are_right();
        // An undo of everything: it knows no way but back.
        let came = killed(&world, &world.call("undo", "--yes"), None, Stage::Before, number);
        undone.count(came);
        if world.status()["state"] == "interrupted" || world.status()["present"] != 0 {
            world.call(if number % 2 == 0 { "undo" } else { "resume" }, "--yes").run();
        }
        if world.status()["present"] != 0 {
            world.call("undo", "--yes").json();
        }
        world.is_at(0);
        world.has_links(0);
        // A resume.
        if killed(&world, &world.apply(0), None, Stage::Writing, number) == Stage::Writing {
            let came = killed(&world, &world.call("resume", "--yes"), None, Stage::Before, number + 100);
            resumed.count(came);
            if came == Stage::Writing {
                world.call("resume", "--yes").json();
            }
            world.is_at(1);
        }
        if world.status()["present"] != 0 {
            world.call("undo", "--yes").json();
        }
        world.is_at(0);
    }
    merged.hit(&[]);
    undone.hit(&[]);
    resumed.hit(&[]);
    let kills: usize = [merged, undone, resumed].iter().flat_map(|kills| kills.0.values()).sum();
    assert!(kills >= 25, "{kills}");
}

/// What was written before the kill is there, since it went past the page cache, and is not written again but for the frames
/// that were under way: a batch of 16 MiB at most.
#[test]
fn slow_a_resume_writes_what_is_missing() {
    let place = Place::in_memory();
    let size = 96 * MIB;
    let states: Vec<PathBuf> = (0..2).map(|state| place.noisy(&format!("state-{state}.img"), size, state)).collect();
    let deltas = crate::world::deltas(&place, &states, "64K");
    let world = World::new(place, Kind::Raw, states, deltas, true);
    let wanted = fs::read(&world.states[1]).unwrap();
    let mut partly = 0;
    for number in 0..12_u32 {
        if killed(&world, &world.apply(0), None, Stage::Writing, number) == Stage::Writing {
            let there = fs::read(&world.disk).unwrap();
            let missing = there.chunks(4096).zip(wanted.chunks(4096)).filter(|(now, then)| now != then).count() * 4096;
            let written = world.call("resume", "--yes").json()["bytes_written"].as_u64().unwrap();
            let written = usize::try_from(written).unwrap();
            assert!(written >= missing && written <= missing + 16 * MIB, "{written} bytes, and {missing} were missing");
            partly += usize::from(missing > 0 && missing < size - 16 * MIB);
        }
        world.is_at(1);
        world.call("undo", "--yes").json();
    }
    println!("{partly} of 12 were in the middle of writing");
    assert!(partly > 0);
}
