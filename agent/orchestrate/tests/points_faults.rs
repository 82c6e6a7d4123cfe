//! Devices that fail at any operation, and retention drives that are full at any byte, under everything that moves a disk between
//! recovery points: a clean stop, nothing tried again blindly, and every way on is open afterwards.
//!
//! A state that went wrong is told as an expression that makes it again.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use Command::{Apply, Commit, Drop, Merge, Pin, Pipe, Resume, Rollback, Undo, Unpin, Verified, Verify};
use Kind::{IntoFreeSpace, Mixed, Resized};
use Step::{Cut, Done};
use common::crash::Tally;
use common::faults::{EIO, ENOSPC};
use common::lab::{Case, Command, Kind, Lab, Step, case};
use failback_blockio::sim::FaultOn;
use std::time::Instant;

/// The first point was pinned when the second was committed: so it is older than the committed one, and can be dropped.
const COMMITTED: &[Step] =
    &[Done(Apply(1)), Done(Apply(2)), Done(Pin(1)), Done(Commit), Done(Unpin(1)), Done(Apply(3))];
const ONE: &[Step] = &[Done(Apply(1))];
const TWO: &[Step] = &[Done(Apply(1)), Done(Apply(2))];

const CASES: &[Case] = &[
    case(Mixed, 1, &[], Apply(1)),
    case(Mixed, 2, ONE, Apply(2)),
    case(Mixed, 3, ONE, Pipe(2)),
    case(Mixed, 4, &[Done(Apply(1)), Cut(Apply(2), 50)], Resume),
    case(Mixed, 5, &[Done(Apply(1)), Cut(Apply(2), 50)], Undo),
    case(IntoFreeSpace, 6, &[Done(Apply(1)), Cut(Apply(2), 50)], Undo),
    case(Mixed, 7, TWO, Rollback(0)),
    case(Resized, 8, &[Done(Apply(1)), Done(Apply(2)), Cut(Rollback(0), 50)], Resume),
    case(Mixed, 9, &[Done(Apply(1)), Done(Apply(2)), Cut(Rollback(0), 80)], Undo),
    case(Mixed, 10, TWO, Undo),
    case(Mixed, 11, TWO, Pin(1)),
    case(Mixed, 12, TWO, Commit),
    case(Mixed, 13, COMMITTED, Drop(1)),
    case(Mixed, 14, TWO, Merge(1)),
    case(Mixed, 15, &[Done(Verified(1))], Verified(2)),
    case(Mixed, 16, &[Done(Verified(1)), Done(Apply(2))], Verify),
];

fn survives(cases: &[Case], try_all: impl Fn(&Lab) -> Tally, at_least: u64) {
    let began = Instant::now();
    let mut all = Tally::default();
    for case in cases {
        all.add(try_all(&case.lab()));
    }
    let Tally { states, violations, .. } = all;
    println!("{states} failures, {:.1} s", began.elapsed().as_secs_f64());
    let some = &violations[..violations.len().min(8)];
    assert!(violations.is_empty(), "{} of {states} are wrong: {some:#?}", violations.len());
    assert!(states >= at_least, "{states}");
}

#[test]
fn reads_that_fail() {
    survives(CASES, |lab| lab.faults(FaultOn::Reads, EIO), 800);
}

#[test]
fn writes_that_fail() {
    survives(CASES, |lab| lab.faults(FaultOn::Writes, EIO), 380);
}

#[test]
fn writes_for_which_there_is_no_room() {
    survives(CASES, |lab| lab.faults(FaultOn::Writes, ENOSPC), 380);
}

#[test]
fn flushes_that_fail() {
    survives(CASES, |lab| lab.faults(FaultOn::Flushes, EIO), 110);
}

#[test]
fn a_retention_drive_that_is_full() {
    let cases = [
        case(Mixed, 1, ONE, Apply(2)),
        case(Mixed, 2, ONE, Pipe(2)),
        case(Mixed, 3, TWO, Rollback(0)),
        case(Mixed, 4, TWO, Undo),
        case(Mixed, 5, &[Done(Apply(1)), Cut(Apply(2), 50)], Resume),
    ];
    survives(&cases, |lab| lab.full(199), 600);
}
