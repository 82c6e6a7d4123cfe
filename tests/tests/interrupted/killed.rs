//! SIGKILL, at any moment.

use crate::job::{Job, MIB, half_fed, settled};
use failback_tests::failback;
use failback_tests::lab::{Loop, Place, Program, changed, has_devices, noise, root_of_file};
use std::fs;
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

/// Kills the process `after` its start, wherever it is then. `feed` goes to its standard input.
fn killed(call: &Program, feed: Option<&[u8]>, after: Duration) {
    let mut running = call.start();
    let mut stdin = running.stdin();
    thread::scope(|scope| {
        // The pipe breaks when the reader is gone.
        scope.spawn(move || feed.map(|bytes| stdin.write_all(bytes)));
        thread::sleep(after);
        running.signal("KILL");
        let _ = running.finish();
    });
}

/// A time until the signal, between nothing and `whole`, by number.
fn moment(number: u32, whole: Duration) -> Duration {
    let random = u32::from_le_bytes(noise(4, u64::from(number) + 100).try_into().unwrap());
    whole.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// Thirty times: killed at a random moment, looked at, finished. `call` is the same command each time.
fn killed_thirty_times(job: &Job, call: &dyn Fn() -> Program, feed: Option<&[u8]>) {
    let start = Instant::now();
    job.finish(match feed {
        Some(bytes) => call().fed(bytes.to_vec()),
        None => call(),
    });
    let whole = start.elapsed();
    let mut interrupted = 0;
    for number in 0..30 {
        job.reset();
        killed(&call(), feed, moment(number, whole));
        let state = job.status();
        assert!(["at-rest", "interrupted"].contains(&state.as_str()), "{state}");
        if state == "interrupted" {
            interrupted += 1;
        }
        job.finish(match feed {
            Some(bytes) => call().fed(bytes.to_vec()),
            None => call(),
        });
    }
    println!("{interrupted} of 30 were in the middle of writing");
    assert!(interrupted > 0, "no moment was one of writing");
}

/// Blocks of 4 KiB, some of them zero, some unchanged: more records, punched holes, gaps.
fn scattered_job() -> Job {
    let place = Place::new();
    let size = 24 * MIB;
    let base = noise(size, 6);
    let (target, result) = (place.file("target.img", &base), place.file("result.img", &changed(&base, size, 7)));
    let delta = place.delta("d", &target, &result, "4K");
    Job { place, base, result, delta, target }
}

#[test]
fn slow_killed_at_thirty_moments() {
    let job = scattered_job();
    killed_thirty_times(&job, &|| job.apply(), None);
}

#[test]
fn slow_killed_at_thirty_moments_of_a_pipe() {
    let job = scattered_job();
    let delta = fs::read(&job.delta).unwrap();
    killed_thirty_times(&job, &|| failback!("apply", "-", job.target, "--yes"), Some(&delta));
}

#[test]
fn slow_killed_at_thirty_moments_on_a_device() {
    if !has_devices() {
        return;
    }
    let job = scattered_job();
    let device = Loop::attach(&job.target, &[]);
    let state = job.place.directory("state");
    let status = || settled(&|| failback!("status", device.path, "--state", state).json());
    let call = || failback!("apply", job.delta, device.path, "--yes", "--no-undo", "--state", state);
    let start = Instant::now();
    call().json();
    let whole = start.elapsed();
    for number in 30..60 {
        fs::write(&device.path, &job.base).unwrap();
        killed(&call(), None, moment(number, whole));
        let interrupted = status() == "interrupted";
        assert_eq!(call().json()["resumed"], interrupted);
        assert_eq!(root_of_file(&device.path), root_of_file(&job.result));
        assert_eq!(status(), "at-rest");
    }
}

/// Larger than what is written between two flushes: what is behind the recorded window is not doubted any more.
#[test]
fn slow_killed_in_the_second_window() {
    let job = Job::new(Place::in_memory(), 300 * MIB);
    let delta = fs::read(&job.delta).unwrap();
    let (mut running, stdin) = half_fed(&job, &delta, 290 * MIB);
    let second = || failback!("status", job.target).json()["window_start"].as_u64() >= Some(200 << 20);
    assert!(running.wait_until(second));
    running.signal("KILL");
    drop(stdin);
    let _ = running.finish();
    assert_eq!(job.status(), "interrupted");
    let status = failback!("status", job.target).json();
    assert!(status["window_bytes"].as_u64().unwrap() < 100 << 20, "{status}");
    let half = &fs::read(&job.target).unwrap()[..200 << 20];
    assert!(half == &fs::read(&job.result).unwrap()[..200 << 20], "what is before the window is not the result");
    job.finish(job.apply());
}
