//! The record of an apply that was stopped, and other deltas than the one it is of.

use crate::job::{ATTEMPTS, Job, MIB, half_fed};
use failback_tests::failback;
use failback_tests::lab::{Place, Unchanged, root_of_file};
use serde_json::json;
use std::fs;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Whether the first MiB of the target is no longer what it was.
fn has_begun(job: &Job) -> bool {
    let mut start = vec![0; MIB];
    fs::File::open(&job.target).unwrap().read_exact(&mut start).unwrap();
    start != job.base[..MIB]
}

/// An apply from a pipe that was killed with a part of its change written.
fn killed_in_the_middle_of_a_pipe(job: &Job) {
    let delta = fs::read(&job.delta).unwrap();
    let (mut running, stdin) = half_fed(job, &delta, 25 * MIB);
    assert!(running.wait_until(|| has_begun(job)));
    running.signal("KILL");
    drop(stdin);
    let _ = running.finish();
    assert_eq!(job.status(), "interrupted");
}

/// The same for an apply from a file, which may be too fast.
fn killed_in_the_middle(job: &Job) {
    for _ in 0..ATTEMPTS {
        job.reset();
        let mut running = job.apply().start();
        if running.wait_until(|| has_begun(job)) {
            running.signal("KILL");
        }
        let _ = running.finish();
        if job.status() == "interrupted" {
            return;
        }
    }
    panic!("the signal always came too late");
}

/// Who reads a pipe cannot know where a delta leads. One with the same base may be the same change, made again: it is
/// taken, and then all of the disk is read.
#[test]
fn a_pipe_is_resumed_by_a_new_delta_of_the_same_change() {
    let job = Job::new(Place::new(), 40 * MIB);
    killed_in_the_middle_of_a_pipe(&job);
    let old = job.place.file("base.img", &job.base);
    let copy = job.place.path("copy.img");
    fs::copy(&job.result, &copy).unwrap();
    let again = job.place.delta("again", &old, &copy, "64K");
    let applied = failback!("apply", "-", job.target, "--yes").fed(fs::read(&again).unwrap()).json();
    assert_eq!((&applied["resumed"], &applied["proven"]), (&true.into(), &"whole disk read".into()));
    assert_eq!(root_of_file(&job.target), root_of_file(&job.result));
    assert_eq!(job.status(), "at-rest");
}

#[test]
fn another_delta_after_an_interruption() {
    let job = Job::new(Place::new(), 128 * MIB);
    killed_in_the_middle(&job);
    let untouched = Unchanged::since(&job.target);
    assert!(failback!("status", job.target).json()["result_root"] == root_of_file(&job.result));
    let other = job.place.noisy("other.img", 128 * MIB, 8);
    // From the former base: not what the disk holds.
    let old = job.place.file("base.img", &job.base);
    let from_base = job.place.delta("from-base", &old, &other, "64K");
    let apply = |delta: &Path| failback!("apply", delta, job.target, "--yes");
    let sentence = apply(&from_base).refused("an apply of another delta to this disk was interrupted");
    assert!(sentence.contains("add --discard-intent"), "{sentence}");
    apply(&from_base).arg("--discard-intent").fails(4, "is not at the base of this delta");
    untouched.check();
    // From the disk as it is: accepted, and all of it is read.
    let from_now = job.place.delta("from-now", &job.target, &other, "64K");
    apply(&from_now).refused("an apply of another delta to this disk was interrupted");
    let planned = failback!("plan", from_now, job.target).json_of(3);
    assert!(planned["refusals"][0].as_str().unwrap().contains("another delta"));
    untouched.check();
    assert_eq!(failback!("plan", from_now, job.target, "--discard-intent").json()["refusals"], json!([]));
    let applied = apply(&from_now).arg("--discard-intent").json();
    assert_eq!(applied["proven"], "whole disk read");
    assert_eq!(applied["verified_bytes_read"], 128 * MIB);
    assert_eq!(root_of_file(&job.target), root_of_file(&other));
    assert_eq!(job.status(), "at-rest");
}

/// Discarding the record where the blocks of the other delta are not in this one: its own blocks fit, the disk does not.
#[test]
fn a_discarded_record_does_not_hide_a_wrong_disk() {
    let job = Job::new(Place::new(), 128 * MIB);
    killed_in_the_middle(&job);
    // A change of the last block only, of the former base.
    let mut other = job.base.clone();
    *other.last_mut().unwrap() ^= 1;
    let (old, other) = (job.place.file("base.img", &job.base), job.place.file("other.img", &other));
    let delta = job.place.delta("small", &old, &other, "64K");
    let call = || failback!("apply", delta, job.target, "--yes", "--discard-intent");
    let sentence = call().fails(4, "blocks outside the delta are not those of the base");
    assert!(sentence.contains("sign this disk as it is"), "{sentence}");
    // That doubt does not go away by itself.
    assert_eq!(job.status(), "interrupted");
    call().fails(4, "blocks outside the delta are not those of the base");
    // The way out that is named: a delta from a signature of the disk as it is.
    let from_now = job.place.delta("from-now", &job.target, &other, "64K");
    let applied = failback!("apply", from_now, job.target, "--yes", "--discard-intent").json();
    assert_eq!(applied["proven"], "whole disk read");
    assert_eq!(root_of_file(&job.target), root_of_file(&other));
}

/// Makes one block of 64 KiB half old, half new, as power loss leaves it.
fn tear(job: &Job, at: usize) {
    let (result, target) = (fs::read(&job.result).unwrap(), fs::File::options().write(true).open(&job.target).unwrap());
    let half = at + 32_768;
    target.write_all_at(&result[at..half], at as u64).unwrap();
    target.write_all_at(&job.base[half..at + 65_536], half as u64).unwrap();
}

/// Interrupted twice: what the first interruption may have torn is still known after the second, though that one was
/// orderly and came before those blocks.
#[test]
fn torn_blocks_stay_on_record_until_they_are_written() {
    let job = Job::new(Place::new(), 40 * MIB);
    let delta = fs::read(&job.delta).unwrap();
    let (mut running, stdin) = half_fed(&job, &delta, 36 * MIB);
    // Two batches of 16 MiB are under way or done.
    assert!(running.wait_until(|| failback!("status", job.target).json()["window_bytes"].as_u64() > Some(20 << 20)));
    running.signal("KILL");
    drop(stdin);
    let _ = running.finish();
    assert_eq!(job.status(), "interrupted");
    tear(&job, 0);
    tear(&job, 20 * MIB);
    let before = fs::read(&job.target).unwrap()[..MIB].to_vec();
    let (mut running, stdin) = half_fed(&job, &delta, 20 * MIB);
    assert!(running.wait_until(|| fs::read(&job.target).unwrap()[..MIB] != before));
    running.signal("INT");
    drop(stdin);
    assert_eq!(running.finish().code, 130);
    let applied = job.apply().json();
    assert_eq!((&applied["resumed"], &applied["torn_rewritten"]), (&true.into(), &1.into()));
    assert_eq!(root_of_file(&job.target), root_of_file(&job.result));
}

/// Discarding is no obstacle where nothing needs it: the same delta finishes.
#[test]
fn the_same_delta_finishes_even_if_told_to_discard() {
    let job = Job::new(Place::new(), 40 * MIB);
    killed_in_the_middle_of_a_pipe(&job);
    tear(&job, 0);
    let status = failback!("status", job.target).json();
    assert_eq!(status["window_start"], 0);
    let applied = failback!("apply", job.delta, job.target, "--yes", "--discard-intent").json();
    assert_eq!((&applied["resumed"], &applied["torn_rewritten"]), (&true.into(), &1.into()));
    assert_eq!(root_of_file(&job.target), root_of_file(&job.result));
}
