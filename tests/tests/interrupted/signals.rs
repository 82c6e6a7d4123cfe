//! SIGINT and SIGTERM, and pipes that break off.

use crate::job::{ATTEMPTS, Job, MIB, half_fed};
use failback_tests::failback;
use failback_tests::lab::{Place, Run};
use std::fs;
use std::io::Read;
use std::thread;
use std::time::{Duration, Instant};

/// Stops an apply in the middle of its writing: once there is a record, the process is held, told to end, and let go.
fn interrupt_apply(job: &Job) -> Option<Run> {
    let mut running = job.apply().start();
    if !running.wait_until(|| job.record().exists()) {
        return None;
    }
    running.signal("STOP");
    running.signal("INT");
    running.signal("CONT");
    let run = running.finish();
    (run.code != 0).then_some(run)
}

#[test]
fn slow_sigint_stops_an_apply_at_a_safe_place() {
    let job = Job::new(Place::new(), 300 * MIB);
    for _ in 0..ATTEMPTS {
        job.reset();
        let Some(run) = interrupt_apply(&job) else { continue };
        assert_eq!(run.code, 130, "{}", run.stderr);
        let sentence = run.sentence();
        assert!(sentence.starts_with("stopped: the disk holds a part of the change"), "{sentence}");
        assert!(sentence.ends_with("run the same command again to finish"), "{sentence}");
        assert!(run.stdout.is_empty());
        assert_eq!(job.status(), "interrupted");
        let planned = failback!("plan", job.delta, job.target).json();
        assert_eq!(planned["finishes_interrupted_apply"], true);
        // Nothing is half written after an orderly stop.
        assert_eq!(planned["torn"], 0);
        job.finish(job.apply());
        return;
    }
    panic!("the signal always came too late");
}

/// What Ctrl-C does to `failback diff … | failback apply -`: both get the signal, and the pipe ends.
#[test]
fn sigint_and_the_end_of_the_pipe_are_an_interruption_not_damage() {
    let job = Job::new(Place::new(), 40 * MIB);
    let delta = fs::read(&job.delta).unwrap();
    let (running, stdin) = half_fed(&job, &delta, 25 * MIB);
    running.signal("INT");
    drop(stdin);
    let run = running.finish();
    assert_eq!(run.code, 130, "{}", run.stderr);
    assert!(run.sentence().contains("run the same command again to finish"), "{}", run.stderr);
    assert_eq!(job.status(), "interrupted");
    job.finish(failback!("apply", "-", job.target, "--yes").fed(delta));
}

/// The connection broke: the pipe ends too early.
#[test]
fn a_pipe_that_breaks_is_told_and_finished_later() {
    let job = Job::new(Place::new(), 40 * MIB);
    let delta = fs::read(&job.delta).unwrap();
    let (running, stdin) = half_fed(&job, &delta, 25 * MIB);
    drop(stdin);
    let run = running.finish();
    assert_eq!(run.code, 6, "{}", run.stderr);
    assert!(run.sentence().contains("a part of the change is on the disk"), "{}", run.stderr);
    assert_eq!(job.status(), "interrupted");
    // The stored delta is the same delta.
    job.finish(job.apply());
}

#[test]
fn sigint_stops_a_sign_and_leaves_no_file() {
    let place = Place::new();
    let disk = place.noisy("disk.img", 300 * MIB, 3);
    let output = place.path("disk.sig");
    for _ in 0..ATTEMPTS {
        let mut running = failback!("sign", disk, "-o", output).start();
        let begun = || place.names().iter().any(|name| name.ends_with(".partial"));
        if running.wait_until(begun) {
            running.signal("INT");
        }
        let run = running.finish();
        if run.code == 0 {
            fs::remove_file(&output).unwrap();
            continue;
        }
        assert_eq!(run.code, 130, "{}", run.stderr);
        assert_eq!(run.sentence(), "stopped: the disk was not read to its end");
        assert_eq!(place.names(), ["disk.img"]);
        return;
    }
    panic!("the signal always came too late");
}

#[test]
fn sigint_stops_a_diff_into_a_pipe() {
    let place = Place::new();
    let disk = place.noisy("disk.img", 64 * MIB, 4);
    let base = place.signature("base.sig", &place.noisy("small.img", 4096, 5), "4K");
    let mut running = failback!("diff", "--base", base, disk, "-o", "-").start();
    let mut stdout = running.stdout();
    let mut bytes = vec![0; 16];
    // It has begun, and waits for its reader.
    stdout.read_exact(&mut bytes).unwrap();
    running.signal("INT");
    stdout.read_to_end(&mut bytes).unwrap();
    let run = running.finish();
    assert_eq!(run.code, 130, "{}", run.stderr);
    assert!(run.sentence().starts_with("stopped"), "{}", run.stderr);
    failback!("inspect", place.file("half.delta", &bytes)).fails(6, "cut off");
}

#[test]
fn a_second_signal_ends_the_program_at_once() {
    let job = Job::new(Place::new(), 40 * MIB);
    let delta = fs::read(&job.delta).unwrap();
    let (mut running, stdin) = half_fed(&job, &delta, 25 * MIB);
    let start = Instant::now();
    while running.is_running() && start.elapsed() < Duration::from_secs(20) {
        running.signal("TERM");
        thread::sleep(Duration::from_millis(20));
    }
    let run = running.finish();
    assert_eq!(run.code, 130, "{}", run.stderr);
    drop(stdin);
    assert_eq!(job.status(), "interrupted");
    job.finish(job.apply());
}
