//! Space that runs out: of an output, of a target, of the intent record.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_tests::failback;
use failback_tests::lab::{Loop, Mount, Place, Unchanged, is_inside, lone, root_of_file, run_inside};
use std::fs;

/// No file of ours stays behind where an output could not be completed.
#[test]
fn an_output_that_does_not_fit_leaves_nothing() {
    if is_inside() {
        let Some(_lone) = lone() else { return };
        let place = Place::new();
        let (old, new) = (place.noisy("old.img", 8 << 20, 1), place.noisy("new.img", 8 << 20, 2));
        let base = place.signature("old.sig", &old, "4K");
        let small = place.directory("small");
        let _mount = Mount::memory(&small, "32k");
        failback!("sign", old, "-o", small.join("a.sig"), "--block-size", "4K").fails(5, "No space left on device");
        failback!("diff", "--base", base, new, "-o", small.join("a.delta")).fails(5, "No space left on device");
        assert_eq!(fs::read_dir(&small).unwrap().count(), 0);
        // One that was there before is still there, whole.
        let older = small.join("older.sig");
        failback!("sign", new, "-o", older, "--block-size", "1M").done();
        let untouched = Unchanged::since(&older);
        failback!("sign", old, "-o", older, "--block-size", "4K").fails(5, "No space left on device");
        untouched.check();
        assert_eq!(fs::read_dir(&small).unwrap().count(), 1);
    } else if let Some(_lone) = lone() {
        run_inside("an_output_that_does_not_fit_leaves_nothing");
    }
}

/// A target that promises more than it has: an image with holes on a file system that is full, directly or as a loop device.
#[test]
fn a_target_that_runs_out_of_space_is_finished_later() {
    if is_inside() {
        let Some(_lone) = lone() else { return };
        let place = Place::new();
        let size = 48 << 20;
        let new = place.noisy("new.img", size, 3);
        let empty = place.sparse("empty.img", size as u64, &[]);
        let delta = place.delta("d", &empty, &new, "64K");
        for piped in [false, true] {
            for as_device in [false, true] {
                let at = place.path(&format!("target-{piped}-{as_device}"));
                fs::create_dir(&at).unwrap();
                let mount = Mount::memory(&at, "20m");
                let image = at.join("disk.img");
                fs::File::create(&image).unwrap().set_len(size as u64).unwrap();
                let device = as_device.then(|| Loop::attach(&image, &[]));
                let target = device.as_ref().map_or(&image, |device| &device.path);
                let state = place.path("state");
                let apply = || {
                    let call = failback!("apply", if piped { "-".as_ref() } else { delta.as_os_str() }, target);
                    let call = call.arg("--yes").arg("--no-undo").arg("--state").arg(&state);
                    if piped { call.fed(fs::read(&delta).unwrap()) } else { call }
                };
                let sentence = apply().fails(5, "failed while writing");
                assert!(sentence.contains("run the same command again to finish"), "{sentence}");
                let status = failback!("status", target, "--state", state).json();
                assert_eq!(status["state"], "interrupted", "{status}");
                assert!(status["next"].as_str().unwrap().contains("same delta"), "{status}");
                // Still full: fails again, in the same way.
                apply().fails(5, "failed while writing");
                mount.resize("64m");
                let applied = apply().json();
                assert_eq!(applied["resumed"], true);
                assert_eq!(root_of_file(target), root_of_file(&new), "piped: {piped}, device: {as_device}");
                assert_eq!(failback!("status", target, "--state", state).json()["state"], "at-rest");
                drop(device);
            }
        }
    } else if let Some(_lone) = lone() {
        run_inside("a_target_that_runs_out_of_space_is_finished_later");
    }
}

/// Without a place for the record nothing is begun.
#[test]
fn without_room_for_the_record_nothing_is_written() {
    let place = Place::new();
    let (old, new) = (place.noisy("old.img", 100_000, 4), place.noisy("new.img", 100_000, 5));
    let delta = place.delta("d", &old, &new, "4K");
    let untouched = Unchanged::since(&old);
    let file = place.file("file", b"");
    failback!("apply", delta, old, "--yes", "--state", file).fails(5, "cannot keep the intent record");
    failback!("apply", delta, old, "--yes", "--state", "/proc/none").fails(5, "cannot keep the intent record");
    untouched.check();
}

#[test]
fn a_full_file_system_for_the_record_is_found_before_the_first_write() {
    if is_inside() {
        let Some(_lone) = lone() else { return };
        let place = Place::new();
        let (old, new) = (place.noisy("old.img", 100_000, 6), place.noisy("new.img", 100_000, 7));
        let delta = place.delta("d", &old, &new, "4K");
        let untouched = Unchanged::since(&old);
        let state = place.directory("state");
        let _mount = Mount::memory(&state, "4k");
        fs::write(state.join("fill"), [1; 4096]).unwrap();
        let sentence = failback!("apply", delta, old, "--yes", "--state", state).fails(5, "the intent record");
        assert!(!sentence.contains("a part of the change is on the disk"), "{sentence}");
        untouched.check();
        assert_eq!(fs::read_dir(&state).unwrap().count(), 1, "a record was left behind");
    } else if let Some(_lone) = lone() {
        run_inside("a_full_file_system_for_the_record_is_found_before_the_first_write");
    }
}
