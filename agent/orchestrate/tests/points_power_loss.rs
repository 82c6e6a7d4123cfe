//! Power losses under everything that moves a disk between recovery points, at every change of either drive; and tests of these
//! tests.
//!
//! A state that went wrong is told as an expression that makes it again, such as `case(Mixed, 1, &[], Apply(1)).lab().state(7, 3)`:
//! the power fails at the seventh change of the command, and chance number 3 decides what is left.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use Command::{Apply, Commit, Drop, Merge, Pin, Pipe, Resume, Rollback, Undo, Unpin, Verified, Verify};
use Kind::{IntoFreeSpace, Mixed, Plain, Resized, Tight, Unchanged, Wide};
use Step::{Cut, Done};
use common::crash::Tally;
use common::drive::LeftOut;
use common::lab::{Case, Command, Kind, Step, case};
use std::time::Instant;

/// Lets the power fail in all of these cases, and asserts that at least so many states were seen and none was wrong.
fn survives(cases: &[Case], seeds: u64, at_least: u64) {
    let began = Instant::now();
    let mut all = Tally::default();
    for case in cases {
        all.add(case.lab().tally(seeds));
    }
    told(&all, began);
    assert!(all.states >= at_least, "{} states", all.states);
}

fn told(tally: &Tally, began: Instant) {
    let Tally { states, distinct, violations } = tally;
    println!("{states} power losses, {distinct} of the first ones differ, {:.1} s", began.elapsed().as_secs_f64());
    let some = &violations[..violations.len().min(8)];
    assert!(violations.is_empty(), "{} of {states} states are wrong: {some:#?}", violations.len());
}

/// The first point was pinned when the second was committed: so it is older than the committed one, and can be dropped.
const COMMITTED: &[Step] =
    &[Done(Apply(1)), Done(Apply(2)), Done(Pin(1)), Done(Commit), Done(Unpin(1)), Done(Apply(3))];
const COMMITTED_AND_DROPPED: &[Step] =
    &[Done(Apply(1)), Done(Apply(2)), Done(Pin(1)), Done(Commit), Done(Unpin(1)), Done(Apply(3)), Done(Drop(1))];
const ONE: &[Step] = &[Done(Apply(1))];
const TWO: &[Step] = &[Done(Apply(1)), Done(Apply(2))];
const THREE: &[Step] = &[Done(Apply(1)), Done(Apply(2)), Done(Apply(3))];
/// At the oldest of several points.
const TWO_AND_BACK: &[Step] = &[Done(Apply(1)), Done(Apply(2)), Done(Rollback(0))];
const THREE_AND_BACK: &[Step] = &[Done(Apply(1)), Done(Apply(2)), Done(Apply(3)), Done(Rollback(0))];

#[test]
fn the_first_apply() {
    let cases = [
        case(Mixed, 1, &[], Apply(1)),
        case(Mixed, 2, &[], Pipe(1)),
        case(Resized, 3, &[], Apply(1)),
        case(Unchanged, 4, &[], Apply(1)),
    ];
    survives(&cases, 16, 3000);
}

#[test]
fn another_apply() {
    let cases = [
        case(Mixed, 1, ONE, Apply(2)),
        case(Mixed, 2, TWO, Pipe(3)),
        case(Mixed, 3, &[Done(Apply(1)), Done(Commit)], Apply(2)),
        case(Mixed, 4, &[Done(Verified(1))], Verified(2)),
        case(Tight, 5, TWO, Apply(3)),
    ];
    survives(&cases, 16, 4500);
}

#[test]
fn resuming_an_apply() {
    let cases = [
        case(Mixed, 1, &[Cut(Apply(1), 40)], Resume),
        case(Mixed, 2, &[Done(Apply(1)), Cut(Apply(2), 0)], Resume),
        case(Mixed, 3, &[Done(Apply(1)), Cut(Apply(2), 70)], Resume),
        case(Mixed, 4, &[Done(Apply(1)), Cut(Apply(2), 100)], Resume),
        case(Mixed, 5, &[Done(Apply(1)), Cut(Pipe(2), 50)], Resume),
        case(Mixed, 6, &[Done(Apply(1)), Cut(Apply(2), 60), Cut(Undo, 50)], Resume),
        case(Mixed, 7, &[Done(Apply(1)), Cut(Apply(2), 50), Cut(Resume, 50)], Resume),
        case(Resized, 8, &[Done(Apply(1)), Cut(Apply(2), 60)], Resume),
    ];
    survives(&cases, 14, 2700);
}

#[test]
fn undoing_an_apply() {
    let cases = [
        case(Mixed, 1, &[Cut(Apply(1), 40)], Undo),
        case(Mixed, 2, &[Done(Apply(1)), Cut(Apply(2), 0)], Undo),
        case(Mixed, 3, &[Done(Apply(1)), Cut(Apply(2), 70)], Undo),
        case(Mixed, 4, &[Done(Apply(1)), Cut(Apply(2), 100)], Undo),
        case(Mixed, 5, &[Done(Apply(1)), Cut(Pipe(2), 50)], Undo),
        case(Mixed, 6, &[Done(Apply(1)), Cut(Apply(2), 60), Cut(Undo, 50)], Undo),
        case(Mixed, 7, &[Done(Apply(1)), Cut(Apply(2), 50), Cut(Undo, 50), Cut(Undo, 50)], Undo),
        case(Resized, 8, &[Done(Apply(1)), Cut(Apply(2), 60)], Undo),
    ];
    survives(&cases, 14, 2800);
}

/// Then the blocks that do not change have to tell that it is the disk.
#[test]
fn where_nothing_is_replaced_that_is_known() {
    let cases = [
        case(IntoFreeSpace, 1, ONE, Apply(2)),
        case(IntoFreeSpace, 2, &[Done(Apply(1)), Cut(Apply(2), 50)], Resume),
        case(IntoFreeSpace, 3, &[Done(Apply(1)), Cut(Apply(2), 50)], Undo),
        case(IntoFreeSpace, 4, TWO, Rollback(1)),
        case(IntoFreeSpace, 5, &[Done(Apply(1)), Done(Apply(2)), Done(Rollback(1))], Rollback(2)),
        case(Unchanged, 6, ONE, Rollback(0)),
    ];
    survives(&cases, 10, 2300);
}

#[test]
fn going_back() {
    let cases =
        [case(Mixed, 1, ONE, Rollback(0)), case(Mixed, 2, TWO, Rollback(1)), case(Resized, 3, TWO, Rollback(0))];
    survives(&cases, 8, 2000);
}

#[test]
fn going_back_several_links() {
    survives(&[case(Mixed, 1, THREE, Rollback(0))], 8, 1500);
}

#[test]
fn going_forward_again() {
    survives(&[case(Mixed, 1, TWO_AND_BACK, Rollback(1)), case(Mixed, 2, THREE_AND_BACK, Rollback(3))], 6, 1700);
}

#[test]
fn turning_round_on_the_way_back() {
    let cases = [
        case(Mixed, 1, &[Done(Apply(1)), Done(Apply(2)), Cut(Rollback(0), 20)], Undo),
        case(Mixed, 2, &[Done(Apply(1)), Done(Apply(2)), Cut(Rollback(0), 80)], Undo),
        case(Mixed, 3, &[Done(Apply(1)), Done(Apply(2)), Cut(Rollback(0), 80)], Resume),
        case(Mixed, 4, &[Done(Apply(1)), Done(Apply(2)), Cut(Rollback(0), 80), Cut(Undo, 80)], Undo),
        case(Resized, 5, &[Done(Apply(1)), Done(Apply(2)), Cut(Rollback(0), 80), Cut(Undo, 80)], Resume),
    ];
    survives(&cases, 8, 1400);
}

#[test]
fn turning_round_on_the_way_forward() {
    const BACK: Step = Done(Rollback(0));
    let cases = [
        case(Mixed, 1, &[Done(Apply(1)), Done(Apply(2)), BACK, Cut(Rollback(2), 20)], Undo),
        case(Mixed, 2, &[Done(Apply(1)), Done(Apply(2)), BACK, Cut(Rollback(2), 80)], Undo),
        case(Mixed, 3, &[Done(Apply(1)), Done(Apply(2)), BACK, Cut(Rollback(2), 80)], Resume),
        case(Resized, 4, &[Done(Apply(1)), Done(Apply(2)), BACK, Cut(Rollback(2), 80)], Undo),
    ];
    survives(&cases, 8, 1900);
}

#[test]
fn undoing_at_rest() {
    let cases = [
        case(Mixed, 1, ONE, Undo),
        case(Mixed, 2, THREE, Undo),
        case(Mixed, 3, &[Done(Apply(1)), Done(Commit), Done(Apply(2))], Undo),
        case(Mixed, 4, &[Done(Apply(1)), Done(Apply(2)), Done(Apply(3)), Done(Rollback(2))], Undo),
        case(Resized, 5, TWO, Undo),
    ];
    survives(&cases, 8, 2800);
}

#[test]
fn undoing_an_undo_that_was_interrupted() {
    let cases = [
        case(Mixed, 1, &[Done(Apply(1)), Done(Apply(2)), Cut(Undo, 20)], Undo),
        case(Mixed, 2, &[Done(Apply(1)), Done(Apply(2)), Cut(Undo, 80)], Undo),
        case(Mixed, 3, &[Done(Apply(1)), Done(Apply(2)), Cut(Undo, 80)], Resume),
    ];
    survives(&cases, 10, 1100);
}

#[test]
fn keeping_and_giving_up() {
    let cases = [
        case(Mixed, 1, &[Done(Apply(1)), Done(Apply(2)), Done(Apply(3)), Done(Rollback(2))], Commit),
        case(Mixed, 2, &[Done(Apply(1)), Done(Apply(2)), Done(Apply(3)), Done(Pin(1))], Commit),
        case(Mixed, 3, THREE, Pin(1)),
        case(Mixed, 4, COMMITTED, Drop(1)),
        case(Mixed, 5, &[Done(Verified(1)), Done(Apply(2))], Verify),
    ];
    survives(&cases, 24, 1300);
}

#[test]
fn merging() {
    let cases = [case(Mixed, 1, THREE, Merge(1)), case(Mixed, 2, THREE_AND_BACK, Merge(2))];
    survives(&cases, 12, 700);
}

#[test]
fn going_on_where_points_were_removed() {
    let cases = [
        case(Mixed, 1, &[Done(Apply(1)), Done(Apply(2)), Done(Apply(3)), Done(Merge(1)), Done(Merge(2))], Rollback(0)),
        case(Mixed, 2, COMMITTED_AND_DROPPED, Rollback(2)),
    ];
    survives(&cases, 6, 1100);
}

/// With several frames some are in place after a power loss and others are not.
#[test]
fn several_frames() {
    let began = Instant::now();
    let mut all = Tally::default();
    for case in [
        case(Wide(800), 1, &[], Apply(1)),
        case(Wide(800), 2, &[Cut(Apply(1), 50)], Resume),
        case(Wide(800), 3, &[Cut(Apply(1), 60)], Undo),
        case(Wide(800), 4, ONE, Rollback(0)),
    ] {
        let lab = case.lab();
        all.add(lab.tally_at((1..=lab.changes()).step_by(23), 2));
    }
    told(&all, began);
}

/// How many states are wrong with something taken out of the program, and what is said of some of them.
fn violations(case: Case, left_out: LeftOut) -> Vec<String> {
    let Tally { states, violations, .. } = case.lab().without(left_out).tally(3);
    println!("{left_out:?}: {} of {states} states are wrong", violations.len());
    violations
}

#[test]
fn without_the_sync_of_the_record_a_power_loss_is_noticed() {
    for command in [Apply(2), Rollback(0)] {
        assert!(!violations(case(Mixed, 1, ONE, command), LeftOut::RecordSync).is_empty());
    }
}

#[test]
fn without_the_flush_of_the_target_a_power_loss_is_noticed() {
    for command in [Apply(2), Rollback(0), Undo] {
        assert!(!violations(case(Mixed, 1, ONE, command), LeftOut::TargetFlush).is_empty());
    }
}

#[test]
fn without_the_sync_of_names_a_power_loss_is_noticed() {
    for command in [Apply(2), Rollback(0), Undo, Pin(0)] {
        assert!(!violations(case(Mixed, 1, ONE, command), LeftOut::NameSync).is_empty());
    }
}

/// Undo then leads to what was found half written. Where that has a place in the root, the record is refused; in free space
/// nothing but a comparison of all bytes tells.
#[test]
fn a_record_that_is_made_twice_is_noticed() {
    let wrong = violations(case(Plain, 1, ONE, Apply(2)), LeftOut::FirstRecord);
    assert!(wrong.iter().any(|wrong| wrong.contains("Undo does not go on: the delta is damaged")), "{wrong:#?}");
    let wrong = violations(case(IntoFreeSpace, 3, ONE, Apply(2)), LeftOut::FirstRecord);
    assert!(wrong.iter().any(|wrong| wrong.contains("after Some(Undo): ")), "{wrong:#?}");
}

/// What is told of a state is enough to see it again.
#[test]
fn a_state_can_be_seen_again() {
    let case = case(Mixed, 1, ONE, Apply(2));
    let wrong = violations(case, LeftOut::TargetFlush);
    let lab = case.lab().without(LeftOut::TargetFlush);
    for wrong in wrong.iter().take(20) {
        let (place, told) = wrong.split_once(".state(").unwrap().1.split_once(')').unwrap();
        let (n, seed) = place.split_once(", ").unwrap();
        let again = lab.state(n.parse().unwrap(), seed.parse().unwrap()).unwrap_err();
        assert!(told.ends_with(&again), "{told}, then {again}");
    }
}
