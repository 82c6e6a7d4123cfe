//! SIGINT and SIGTERM in each phase: what is said of the disk is true, and it gets to where it was going, or back.

use crate::world::{Kind, MIB, World, deltas, names_in};
use failback_tests::lab::{Place, Program, Run, Unchanged};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;

/// More than is done between two looks at whether to stop.
const SIZE: usize = 64 * MIB;

/// How often a signal may come too late before that is a failure.
const ATTEMPTS: usize = 12;

fn world(states: u64) -> World {
    let place = Place::new();
    let states: Vec<_> = (1..=states).map(|state| place.noisy(&format!("state-{state}.img"), SIZE, state)).collect();
    let deltas = deltas(&place, &states, "64K");
    World::new(place, Kind::Raw, states, deltas, true)
}

impl World {
    /// The names in the directory of this disk that begin so.
    fn named(&self, prefix: &str) -> usize {
        let own = fs::read_dir(&self.retention).unwrap().next();
        let names = own.map_or_else(Vec::new, |own| names_in(&own.unwrap().path()));
        names.iter().filter(|name| name.starts_with(prefix)).count()
    }

    fn written(&self) -> (i64, i64) {
        let about = fs::metadata(&self.disk).unwrap();
        (about.mtime(), about.mtime_nsec())
    }

    /// Fails unless a change of the disk is told to be interrupted; which it is.
    #[track_caller]
    fn is_interrupted(&self, what: &str) -> Value {
        let status = self.status();
        assert_eq!((&status["state"], &status["under_way"]), (&"interrupted".into(), &what.into()), "{status}");
        assert_eq!((&status["can_resume"], &status["can_undo"]), (&true.into(), &true.into()), "{status}");
        status
    }

    #[track_caller]
    fn is_at_rest(&self, state: usize) {
        assert_eq!(self.status()["state"], "at-rest");
        self.is_at(state);
    }
}

/// Starts a program, holds it once something is the case, tells it to end, and lets it go. `None` if it had ended before.
fn stopped(call: &Program, signal: &str, now: impl FnMut() -> bool) -> Option<Run> {
    let mut running = call.start();
    drop(running.stdin());
    if !running.wait_until(now) {
        let _ = running.finish();
        return None;
    }
    for name in ["STOP", signal, "CONT"] {
        if running.is_running() {
            running.signal(name);
        }
    }
    Some(running.finish())
}

/// Does this until it is stopped in time. `attempt` puts everything back first.
#[track_caller]
fn until_stopped(mut attempt: impl FnMut(&str) -> Option<Run>) -> Run {
    for signal in ["INT", "TERM"].iter().cycle().take(ATTEMPTS) {
        if let Some(run) = attempt(signal).filter(|run| run.code != 0) {
            assert_eq!(run.code, 130, "{}", run.stderr);
            assert!(run.stdout.is_empty(), "a report of what was not done: {run:?}");
            return run;
        }
    }
    panic!("the signal always came too late");
}

/// What Ctrl-C does to `failback diff … | failback apply -`: both get the signal, and the pipe ends.
#[test]
fn while_a_delta_is_stored() {
    let world = world(2);
    let delta = fs::read(&world.deltas[0]).unwrap();
    let untouched = Unchanged::since(&world.disk);
    for signal in ["INT", "TERM"] {
        let mut running = world.apply_of("-").start();
        let mut stdin = running.stdin();
        stdin.write_all(&delta[..delta.len() / 2]).unwrap();
        assert!(running.wait_until(|| world.named("spool-") == 1));
        running.signal(signal);
        drop(stdin);
        let run = running.finish();
        assert_eq!(run.code, 130, "{}", run.stderr);
        assert_eq!(run.sentence(), "stopped: nothing was written");
        untouched.check();
        assert_eq!(world.named(""), 2, "more than the catalogue and the lock");
        assert_eq!(world.status()["state"], "at-rest");
    }
    // A pipe that breaks off by itself is no whole delta.
    world.apply_of("-").fed(delta[..delta.len() / 2].to_vec()).fails(6, "cut off");
    untouched.check();
    assert_eq!(world.named(""), 2);
    assert_eq!(world.apply_of("-").fed(delta).json()["point"], 1);
    world.is_at_rest(1);
    world.has_links(1);
}

#[test]
fn slow_while_the_way_back_is_recorded() {
    let world = world(2);
    let run = until_stopped(|signal| {
        if world.list()["present"] == 1 {
            world.call("undo", "--yes").done();
        }
        stopped(&world.apply(0), signal, || world.named("link-") > 0)
            .filter(|run| run.sentence().ends_with("nothing was written"))
    });
    assert_eq!(run.sentence(), "stopped: nothing was written");
    world.is_at(0);
    assert_eq!(world.named(""), 2, "more than the catalogue and the lock");
    world.call("resume", "--yes").refused("there are no recovery points of");
    world.apply(0).done();
    world.is_at_rest(1);
    world.has_links(1);
}

#[test]
fn slow_while_the_disk_is_written() {
    let world = world(2);
    for finish in ["resume", "undo"] {
        let run = until_stopped(|signal| {
            if world.list()["present"] == 1 {
                world.call("undo", "--yes").done();
            }
            let before = world.written();
            stopped(&world.apply(0), signal, || world.written() != before)
        });
        let sentence = run.sentence();
        assert!(
            sentence.starts_with("stopped: the disk is between two recovery points and is not to be used"),
            "{sentence}"
        );
        assert!(sentence.ends_with("failback resume to finish, or failback undo to go back"), "{sentence}");
        let status = world.is_interrupted("apply");
        assert_eq!((&status["base_root"], &status["result_root"]), (&world.root(0).into(), &world.root(1).into()));
        for (verb, rest) in
            [("point rollback", "0 --yes"), ("point prune", "0 --yes"), ("commit", "--yes"), ("point pin", "0")]
        {
            world.call(verb, rest).refused("is not finished");
        }
        world.call("verify", "--point 0").refused("is not finished");
        let report = world.call(finish, "--yes").json();
        assert!(report["bytes_written"].as_u64().unwrap() < SIZE as u64, "nothing of it had been written: {report}");
        world.is_at_rest(usize::from(finish == "resume"));
    }
}

/// The same command again, and resume and undo that are stopped themselves.
#[test]
fn slow_while_it_is_finished_or_taken_back() {
    let world = world(2);
    let before = world.written();
    until_stopped(|signal| {
        if world.list()["present"] == 1 {
            world.call("undo", "--yes").done();
        }
        stopped(&world.apply(0), signal, || world.written() != before)
    });
    let mut interrupted = 0;
    for verb in ["resume", "undo", "undo", "resume", "resume", "undo"] {
        let before = world.written();
        let call = world.call(verb, "--yes");
        let run = stopped(&call, "INT", || world.written() != before);
        if let Some(run) = run.filter(|run| run.code != 0) {
            assert_eq!(run.code, 130, "{}", run.stderr);
            assert!(
                run.sentence().contains("failback resume to finish, or failback undo to go back"),
                "{}",
                run.stderr
            );
            world.is_interrupted("apply");
            interrupted += 1;
        } else if world.status()["state"] == "at-rest" {
            break;
        }
    }
    println!("{interrupted} of 6 were stopped in time");
    // The same command again is as good as resume.
    let applied = world.apply(0).json();
    assert!(applied["resumed"] == true || applied["point"] == 1, "{applied}");
    world.is_at_rest(1);
    world.has_links(1);
}

/// Between two steps, and in one.
#[test]
fn slow_while_it_goes_from_point_to_point() {
    let world = world(3);
    world.apply_all();
    let mut between = 0;
    for attempt in 0..4 {
        let run = until_stopped(|signal| {
            if world.status()["state"] == "interrupted" {
                world.call("undo", "--yes").done();
            }
            if world.list()["present"] != 2 {
                world.rollback(2);
            }
            let before = world.written();
            stopped(&world.call("point rollback", "0 --yes"), signal, || world.written() != before)
        });
        let status = world.is_interrupted("rollback");
        assert_eq!((&status["base_root"], &status["result_root"]), (&world.root(2).into(), &world.root(0).into()));
        between += usize::from(run.sentence().contains("on its way"));
        if attempt % 2 == 0 {
            assert_eq!(world.call("resume", "--yes").json()["point"], 0);
            world.is_at_rest(0);
        } else {
            assert_eq!(world.call("undo", "--yes").json()["point"], 2);
            world.is_at_rest(2);
        }
        world.has_links(2);
    }
    println!("{between} of 4 were stopped between two steps");
}

#[test]
fn slow_while_all_is_undone() {
    let world = world(3);
    let run = until_stopped(|signal| {
        let mut next = world.list()["points"].as_array().unwrap().len().saturating_sub(1);
        while next < 2 {
            world.apply(next).done();
            next += 1;
        }
        let before = world.written();
        stopped(&world.call("undo", "--yes"), signal, || world.written() != before)
    });
    assert!(run.sentence().contains("failback"), "{}", run.stderr);
    world.is_interrupted("undo");
    world.call("undo", "--yes").done();
    world.is_at_rest(0);
    world.has_links(0);
}

/// What is copied out leaves nothing, and what is merged is merged or not.
#[test]
fn slow_while_points_are_copied_and_merged() {
    let world = world(3);
    world.apply_all();
    let there = names_in(world.place.root());
    let partial = || names_in(world.place.root()).iter().any(|name| name.contains(".partial"));
    for name in ["out.img", "out.vmdk", "out.delta"] {
        let output = world.place.path(name);
        let call = world.call("point export", "0 -o").arg(&output);
        until_stopped(|signal| {
            let _ = fs::remove_file(&output);
            stopped(&call, signal, partial)
        });
        assert_eq!(names_in(world.place.root()), there, "{name}");
    }
    let ids = world.ids();
    assert_eq!(ids.len(), 3);
    let run = until_stopped(|signal| {
        if world.ids().len() < 3 {
            world.call("undo", "--yes").done();
            world.apply_all();
        }
        let links = world.named("link-");
        let call = world.call("point prune", &format!("{} --yes", world.ids()[1]));
        stopped(&call, signal, || world.named("link-") != links)
    });
    assert!(run.sentence().starts_with("stopped: "), "{}", run.stderr);
    let left = world.ids().len();
    world.all_are_right();
    assert_eq!(world.status()["state"], "at-rest");
    world.has_links(left - 1);
}
