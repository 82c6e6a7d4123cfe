//! Power cuts, torn sectors and failing devices under an apply, on simulated disks; and tests of these tests.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Scene, TakenOut, Way, delta_between, errno_of, noise, resealed_with_a_flipped_bit};
use failback_blockio::sim::{EventKind, FaultOn};
use failback_orchestrate::{ByteRange, Device, JobError, Outcome, Proven};
use failback_units::ByteOffset;

/// Cuts the power at mutation `n` of an apply, then goes on as an administrator would. Says what went wrong.
fn power_cut(scene: &Scene, n: u64, seed: u64, way: Way, out: TakenOut) -> Result<(), String> {
    scene.world.restore(&scene.start);
    scene.world.reseed(seed);
    scene.world.crash_after(n);
    let first = scene.apply(way, out);
    let done = first.is_ok();
    scene.world.crash_now();
    scene.world.reboot();
    if done {
        // Success was claimed before the power went off.
        return scene.wrong_at_result().map_or(Ok(()), Err);
    }
    if let Some(wrong) = scene.wrong_in_the_middle() {
        return Err(wrong);
    }
    // Once more in the middle of the recovery, which is shorter or as long.
    scene.world.crash_after(n.div_ceil(2));
    let second = scene.apply(way, out);
    scene.world.crash_now();
    scene.world.reboot();
    if second.is_ok() {
        return scene.wrong_at_result().map_or(Ok(()), Err);
    }
    let last = scene.apply(way, out).map_err(|error| format!("it cannot be finished: {error}"))?;
    scene.world.crash_now();
    scene.world.reboot();
    if let Some(wrong) = scene.wrong_at_result() {
        return Err(wrong);
    }
    if scene.intent().is_some() {
        return Err("the record is still there".into());
    }
    let doubtful = way == Way::Pipe && last.examined.torn > 0;
    if last.proven != Proven::ChangedBlocks && !doubtful {
        return Err("the whole disk was read although nothing was in doubt".into());
    }
    Ok(())
}

/// How many mutations an apply makes that nothing disturbs.
fn mutations(scene: &Scene, way: Way) -> u64 {
    scene.world.restore(&scene.start);
    let before = scene.world.mutations();
    scene.apply(way, TakenOut::Nothing).unwrap();
    assert_eq!(scene.wrong_at_result(), None);
    scene.world.mutations() - before
}

/// Crashes at moments spread over the whole of an apply, always including the first and last few. Returns what went wrong.
fn violations(scene: &Scene, way: Way, out: TakenOut, states: u64) -> Vec<String> {
    let total = mutations(scene, way);
    let step = (total / states).max(1);
    let edges = (1..=6).chain(total.saturating_sub(6)..=total + 1);
    edges
        .chain((7..total).step_by(usize::try_from(step).unwrap()))
        .filter_map(|n| {
            let wrong = power_cut(scene, n, n * 31 + 7, way, out).err()?;
            Some(format!("cut at mutation {n} of {total}, seed {}, {way:?}: {wrong}", n * 31 + 7))
        })
        .collect()
}

#[test]
fn power_cuts_anywhere_lose_nothing() {
    let scene = Scene::new(1, 5);
    for way in [Way::File, Way::Pipe] {
        let violations = violations(&scene, way, TakenOut::Nothing, 150);
        assert!(violations.is_empty(), "{violations:#?}");
    }
}

#[test]
fn without_the_targets_flush_a_power_cut_is_noticed() {
    let scene = Scene::new(2, 3);
    assert!(!violations(&scene, Way::File, TakenOut::TargetFlush, 30).is_empty());
    assert!(!violations(&scene, Way::Pipe, TakenOut::TargetFlush, 30).is_empty());
}

#[test]
fn without_the_records_flush_a_power_cut_is_noticed() {
    let scene = Scene::new(3, 3);
    assert!(!violations(&scene, Way::File, TakenOut::IntentFlush, 60).is_empty());
    assert!(!violations(&scene, Way::Pipe, TakenOut::IntentFlush, 60).is_empty());
}

/// Applies to a disk that is not the base, at `at`. Says what went wrong.
fn wrong_base(scene: &Scene, at: usize, way: Way, out: TakenOut) -> Result<(), String> {
    scene.world.restore(&scene.start);
    scene.target.write_durably(ByteOffset::new(at as u64).unwrap(), &[0x5A; 3]);
    let before = scene.target.content();
    match scene.apply(way, out) {
        Ok(_) => Err("it was applied to another base".into()),
        Err(error @ JobError::WrongBase { .. }) => {
            assert_eq!(error.outcome(), Outcome::Mismatch);
            let untouched = scene.target.content() == before;
            // Through a pipe, what comes before the first frame that does not fit is written.
            if untouched || way == Way::Pipe { Ok(()) } else { Err("something was written".into()) }
        }
        Err(error) => Err(format!("unexpected: {error}")),
    }
}

#[test]
fn another_base_is_left_alone() {
    let scene = Scene::new(4, 3);
    for at in [0, 4096 * 256, scene.base.len() - 3] {
        for way in [Way::File, Way::Pipe] {
            assert_eq!(wrong_base(&scene, at, way, TakenOut::Nothing), Ok(()), "{at} {way:?}");
        }
    }
}

#[test]
fn without_the_check_of_old_content_another_base_is_noticed() {
    let scene = Scene::new(5, 2);
    for way in [Way::File, Way::Pipe] {
        assert!(wrong_base(&scene, 4096 * 256, way, TakenOut::OldContentCheck).is_err());
    }
}

#[test]
fn flushes_come_between_writes_and_claims() {
    let scene = Scene::new(6, 5);
    for way in [Way::File, Way::Pipe] {
        scene.world.restore(&scene.start);
        scene.world.clear_trace();
        scene.apply(way, TakenOut::Nothing).unwrap();
        let mut unflushed = 0;
        let mut recorded = false;
        for event in scene.world.trace() {
            let kind = event.kind;
            match (event.disk.as_ref(), kind) {
                ("target", EventKind::Write | EventKind::Zero) => {
                    assert!(recorded, "{way:?}: the target is written before the record is durable");
                    unflushed += 1;
                }
                ("target", EventKind::Flush) => unflushed = 0,
                ("records", EventKind::Write) => recorded = false,
                ("records", EventKind::Flush) => recorded = true,
                _ => {}
            }
        }
        assert_eq!(unflushed, 0, "{way:?}: the last flush comes last");
    }
}

/// Every way in which a device can refuse, at moments spread over an apply: a clean stop, and the same call finishes.
#[test]
fn failing_devices_are_reported_and_survived() {
    let scene = Scene::new(7, 3);
    let whole = ByteRange::whole(scene.target.size());
    for way in [Way::File, Way::Pipe] {
        for (on, errno) in [(FaultOn::Reads, 5), (FaultOn::Writes, 5), (FaultOn::Writes, 28), (FaultOn::Flushes, 5)] {
            for piece in 0..6 {
                scene.world.restore(&scene.start);
                let start = ByteOffset::new(whole.count().get() / 6 * piece).unwrap();
                let range = ByteRange::between(start, whole.end()).unwrap();
                scene.target.fail(range, errno, on, 1);
                scene.world.clear_trace();
                let error = scene.apply(way, TakenOut::Nothing).unwrap_err();
                assert_eq!(error.outcome(), Outcome::Io, "{error}");
                assert_eq!(errno_of(&error), Some(errno));
                let trace = scene.world.trace();
                if on == FaultOn::Flushes {
                    let last = trace.iter().rfind(|event| event.disk.as_ref() == "target").unwrap();
                    assert_eq!(
                        (last.kind, last.errno),
                        (EventKind::Flush, Some(errno)),
                        "no retry after a failed flush"
                    );
                }
                scene.target.clear_faults();
                scene.target.drop_caches();
                assert_eq!(scene.wrong_in_the_middle(), None);
                scene.apply(way, TakenOut::Nothing).unwrap();
                assert_eq!(scene.wrong_at_result(), None);
                assert_eq!(scene.intent(), None);
            }
        }
    }
}

#[test]
fn short_transfers_are_continued() {
    let scene = Scene::new(8, 2);
    scene.target.short_transfers(60);
    scene.apply(Way::File, TakenOut::Nothing).unwrap();
    assert_eq!(scene.wrong_at_result(), None);
}

#[test]
fn applying_twice_writes_once() {
    let scene = Scene::new(9, 2);
    for way in [Way::File, Way::Pipe] {
        scene.world.restore(&scene.start);
        let first = scene.apply(way, TakenOut::Nothing).unwrap();
        assert!(!first.already_in_place());
        scene.world.clear_trace();
        let second = scene.apply(way, TakenOut::Nothing).unwrap();
        assert!(second.already_in_place());
        assert!(scene.world.trace().is_empty(), "nothing was written or flushed");
        assert_eq!(second.examined.bytes_in_place, first.bytes_written + first.bytes_zeroed);
    }
}

/// A disk that is only known by its kernel name, and a record that says that some of its blocks are torn.
#[test]
fn torn_blocks_of_a_disk_without_an_identity() {
    let mut scene = Scene::new(11, 3);
    scene.certain = false;
    for way in [Way::File, Way::Pipe] {
        let mut foreign_seen = false;
        for n in (20..mutations(&scene, Way::File)).step_by(97) {
            scene.world.restore(&scene.start);
            scene.world.reseed(n);
            scene.world.crash_after(n);
            scene.apply(way, TakenOut::Nothing).unwrap_err();
            scene.world.reboot();
            let interrupted = scene.world.snapshot();
            // Another disk got the name: what does not change on it is not that of the base.
            scene.target.write_durably(ByteOffset::ZERO, &noise(5, scene.base.len()));
            let before = scene.target.content();
            let error = scene.apply(way, TakenOut::Nothing).unwrap_err();
            assert!(matches!(error.outcome(), Outcome::Mismatch | Outcome::Refused), "{error}");
            assert!(scene.target.content() == before, "another disk is left alone");
            foreign_seen |= scene.intent().is_some();
            // The disk itself is recognised by what did not change.
            scene.world.restore(&interrupted);
            scene.apply(Way::File, TakenOut::Nothing).unwrap();
            assert_eq!(scene.wrong_at_result(), None);
        }
        assert!(foreign_seen);
    }
}

/// The power goes off, and the resumed apply fails in the middle: what was torn before is not forgotten.
#[test]
fn a_resume_that_fails_keeps_what_was_torn_on_record() {
    let scene = Scene::new(12, 4);
    for way in [Way::File, Way::Pipe] {
        let total = mutations(&scene, way);
        for n in (30..total).step_by(usize::try_from(total / 12).unwrap()) {
            scene.world.restore(&scene.start);
            scene.world.reseed(n);
            scene.world.crash_after(n);
            scene.apply(way, TakenOut::Nothing).unwrap_err();
            scene.world.reboot();
            scene.target.fail(ByteRange::whole(scene.target.size()), 5, FaultOn::Flushes, 1);
            let _ = scene.apply(way, TakenOut::Nothing);
            scene.target.clear_faults();
            scene.target.drop_caches();
            scene.apply(way, TakenOut::Nothing).unwrap();
            assert_eq!(scene.wrong_at_result(), None, "cut at {n} of {total}, {way:?}");
        }
    }
}

/// A record in the right place that is another disk's.
#[test]
fn the_record_of_another_disk_is_refused() {
    let scene = Scene::new(13, 2);
    scene.world.crash_after(200);
    scene.apply(Way::File, TakenOut::Nothing).unwrap_err();
    scene.world.reboot();
    let intent = scene.intent().unwrap();
    scene.keep(&failback_orchestrate::Intent { disk: [8; 32], ..intent });
    let error = scene.apply(Way::File, TakenOut::Nothing).unwrap_err();
    assert_eq!(error.outcome(), Outcome::Refused, "{error}");
}

/// A delta that replaces nothing that is known is not taken for one that was checked.
#[test]
fn a_delta_that_compares_nothing_reads_the_base() {
    let mut scene = Scene::new(14, 1);
    scene.base.truncate(4096 * 200);
    let grown = [scene.base.clone(), noise(3, 4096 * 100)].concat();
    for result in [scene.base.clone(), grown] {
        scene.result.clone_from(&result);
        scene.delta = delta_between(&scene.base, &result);
        for way in [Way::File, Way::Pipe] {
            scene.world.restore(&scene.start);
            if way == Way::File || result.len() == scene.base.len() {
                scene.apply(way, TakenOut::Nothing).unwrap();
                assert!(scene.target.content().starts_with(&result));
            } else {
                assert_eq!(scene.apply(way, TakenOut::Nothing).unwrap_err().outcome(), Outcome::Refused);
            }
            scene.world.restore(&scene.start);
            scene.target.write_durably(ByteOffset::new(4096 * 7).unwrap(), b"another disk");
            let before = scene.target.content();
            scene.apply(way, TakenOut::Nothing).unwrap_err();
            assert!(scene.target.content() == before);
        }
    }
}

/// A payload that is not what its table states is found before anything is written.
#[test]
fn a_damaged_payload_in_a_file_is_found_first() {
    let scene = Scene::new(15, 3);
    // One bit of the last frame's payload, with the frame's hash made good again, as by a memory error before sealing.
    let delta = resealed_with_a_flipped_bit(&scene.delta);
    scene.world.clear_trace();
    let error = scene.apply_delta(&delta, Way::File, TakenOut::Nothing, false).unwrap_err();
    assert_eq!(error.outcome(), Outcome::Damaged, "{error}");
    assert!(scene.world.trace().is_empty(), "nothing was written");
}

/// An apply was interrupted, and another delta comes: what the first one wrote outside of the second is found out.
#[test]
fn another_delta_after_an_interruption() {
    let scene = Scene::new(10, 3);
    let other_result = {
        let mut disk = scene.base.clone();
        disk[4096..8192].copy_from_slice(&noise(99, 4096));
        disk
    };
    let other = delta_between(&scene.base, &other_result);
    for way in [Way::File, Way::Pipe] {
        let half = mutations(&scene, way) / 2;
        scene.world.restore(&scene.start);
        scene.world.crash_after(half);
        scene.apply(way, TakenOut::Nothing).unwrap_err();
        scene.world.reboot();
        assert!(scene.intent().is_some());
        if way == Way::File {
            let refused = scene.apply_delta(&other, way, TakenOut::Nothing, false).unwrap_err();
            assert_eq!(refused.outcome(), Outcome::Refused, "{refused}");
        }
        // Block 1, which the second delta changes, still is that of the base. Others are not.
        let error = scene.apply_delta(&other, way, TakenOut::Nothing, true).unwrap_err();
        assert_eq!(error.outcome(), Outcome::Mismatch, "{error}");
        assert!(scene.intent().is_some_and(|intent| intent.doubtful), "the doubt outlives the attempt");
        // A delta from what really is there ends it.
        let now = scene.target.content()[..scene.base.len()].to_vec();
        let true_delta = delta_between(&now, &scene.result);
        let report = scene.apply_delta(&true_delta, way, TakenOut::Nothing, true).unwrap();
        assert_eq!(report.proven, Proven::WholeDisk);
        assert_eq!(scene.wrong_at_result(), None);
        assert_eq!(scene.intent(), None);
    }
}
