//! In which order things become durable when a disk moves between recovery points, how often either drive is flushed for it, and
//! that nothing is written again that is in place.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use Command::{Apply, Merge, Pipe, Resume, Rollback, Undo};
use Kind::{Mixed, Plain, Resized, Wide};
use Step::{Cut, Done};
use common::drive::{LeftOut, Seen, bytes_of};
use common::lab::{Case, Command, Kind, Step, case};
use common::points::{Change, changes_of};
use failback_blockio::sim::{Event, EventKind, FaultOn};
use failback_orchestrate::{Device, Pending};
use std::collections::HashSet;
use std::sync::{Arc, Mutex};

const ONE: &[Step] = &[Done(Apply(1))];
const TWO: &[Step] = &[Done(Apply(1)), Done(Apply(2))];
const NAMES: &str = "retention/names";

/// A catalogue that took the place of another.
#[derive(Clone)]
struct Renamed {
    /// The place of the event in the trace.
    at: usize,
    /// The disk that it is on.
    disk: String,
}

/// Disks of which something is not durable yet.
#[derive(Default)]
struct Unflushed<'a>(HashSet<&'a str>);

impl<'a> Unflushed<'a> {
    fn follow(&mut self, event: &'a Event) {
        assert_eq!(event.errno, None);
        match event.kind {
            EventKind::Write | EventKind::Zero | EventKind::Resize => self.0.insert(&event.disk),
            EventKind::Flush => self.0.remove(event.disk.as_ref()),
            EventKind::Read | EventKind::PowerLoss | EventKind::Reboot => false,
        };
    }

    /// Fails if one of these is among them.
    fn holds_none_of(&self, disks: &[&str], when: &str) -> Result<(), String> {
        let missing: Vec<_> = disks.iter().filter(|disk| self.0.contains(*disk)).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("{when}, {missing:?} are not durable")) }
    }
}

/// Runs an apply that nothing disturbs, and says what is wrong with the order of what it does.
fn order_of_an_apply(case: Case, left_out: LeftOut) -> Result<(), String> {
    let lab = case.lab().without(left_out);
    let (directory, renamed) = (Arc::clone(&lab.trail.directory), Arc::new(Mutex::new(Vec::new())));
    let into = Arc::clone(&renamed);
    let watcher = move || {
        let disk = directory.disk_of("catalogue").unwrap().unwrap();
        let at = disk.world().trace().len() - 1;
        into.lock().unwrap().push(Renamed { at, disk: disk.name().to_owned() });
    };
    lab.run_watched(watcher).unwrap();
    let trace = lab.trail.world.trace();
    let record = lab.trail.open().catalogue().links().last().unwrap().file;
    let disk_of = |name: &str| lab.trail.directory.disk_of(name).unwrap().unwrap().name().to_owned();
    let (record, index) = (disk_of(&record.delta_name()), disk_of(&record.index_name()));
    let renamed = renamed.lock().unwrap().clone();
    let [.., begin, publish] = &renamed[..] else { panic!("an apply begins and ends") };
    let (mut unflushed, mut flushes, mut writes) = (Unflushed::default(), 0, 0);
    for (number, event) in trace.iter().enumerate() {
        match (event.disk.as_ref(), event.kind) {
            ("target", EventKind::Flush) => flushes += 1,
            ("target", _) => {
                assert!(begin.at < number && number < publish.at);
                writes += 1;
                let before = [&record, &index, &begin.disk, NAMES];
                unflushed.holds_none_of(&before, "when the target is written")?;
            }
            _ if number == publish.at => {
                unflushed.holds_none_of(&["target", &publish.disk], "when the point is published")?;
                if flushes != 1 {
                    return Err(format!("{flushes} flushes of the target come before the point is published"));
                }
            }
            _ => {}
        }
        unflushed.follow(event);
    }
    assert!(writes > 5);
    unflushed.holds_none_of(&["target", NAMES, &publish.disk], "in the end")
}

#[test]
fn an_apply_records_and_begins_and_writes_and_flushes_and_publishes() {
    for case in [case(Mixed, 1, &[], Apply(1)), case(Mixed, 2, ONE, Apply(2)), case(Wide(800), 3, &[], Apply(1))] {
        assert_eq!(order_of_an_apply(case, LeftOut::Nothing), Ok(()), "{case:?}");
    }
}

#[test]
fn another_order_is_noticed() {
    for left_out in [LeftOut::RecordSync, LeftOut::NameSync, LeftOut::TargetFlush] {
        order_of_an_apply(case(Mixed, 1, ONE, Apply(2)), left_out).unwrap_err();
    }
}

/// What catalogues say at the moment when they may become durable, and what is not so then.
fn said_too_early(case: Case, left_out: LeftOut) -> Vec<String> {
    let lab = case.lab().without(left_out);
    let (directory, target) = (Arc::clone(&lab.trail.directory), lab.trail.target.clone());
    let contents = lab.contents.clone();
    let wrong = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&wrong);
    let watcher = move || {
        let facts = Seen::now(&directory).unwrap().facts.unwrap();
        let stepping = match &facts.pending {
            None => false,
            Some(Pending::Apply(_)) => true,
            Some(Pending::Rollback { inverse, .. }) => inverse.is_some(),
            Some(Pending::Undo { stepping, .. }) => *stepping,
        };
        let present = facts.points[facts.present].id.0;
        if !stepping && target.durable_content() != contents[&present] {
            into.lock().unwrap().push(format!("point {present}"));
        }
        for link in facts.all_links() {
            for name in [link.file.delta_name(), link.file.index_name()] {
                let disk = directory.disk_of(&name).unwrap().unwrap();
                if disk.durable_content() != bytes_of(&*directory, &name).unwrap() {
                    into.lock().unwrap().push(name);
                }
            }
        }
    };
    lab.run_watched(watcher).unwrap();
    wrong.lock().unwrap().clone()
}

#[test]
fn a_catalogue_never_says_what_is_not_durable() {
    for case in [
        case(Mixed, 1, &[], Apply(1)),
        case(Mixed, 2, ONE, Pipe(2)),
        case(Mixed, 3, TWO, Rollback(0)),
        case(Resized, 4, &[Done(Apply(1)), Done(Apply(2)), Cut(Rollback(0), 80)], Undo),
        case(Mixed, 5, TWO, Undo),
        case(Mixed, 6, &[Cut(Apply(1), 50)], Resume),
        case(Mixed, 6, &[Cut(Apply(1), 50)], Undo),
        case(Mixed, 7, TWO, Merge(1)),
    ] {
        assert_eq!(said_too_early(case, LeftOut::Nothing), [""; 0], "{case:?}");
    }
    assert!(!said_too_early(case(Mixed, 3, TWO, Rollback(0)), LeftOut::TargetFlush).is_empty());
    assert!(!said_too_early(case(Mixed, 3, TWO, Rollback(0)), LeftOut::RecordSync).is_empty());
}

/// Flushes of the retention drive and of the target.
fn flushes(case: Case) -> (usize, usize) {
    let lab = case.lab();
    lab.run_watched(|| ()).unwrap();
    let trace = lab.trail.world.trace();
    let of_target =
        trace.iter().filter(|event| event.disk.as_ref() == "target" && event.kind == EventKind::Flush).count();
    (lab.trail.directory.flushes(), of_target)
}

/// To open: the catalogue and its name. Then the record and its index; the catalogue that begins, the names of all three before
/// its rename, and its name; one of the target; the catalogue that publishes, and its name.
#[test]
fn flushes_do_not_depend_on_the_size_of_a_change() {
    for kind in [Plain, Wide(800), Wide(2400)] {
        assert_eq!(flushes(case(kind, 1, ONE, Apply(2))), (9, 1), "{kind:?}");
        // To begin a store is to write a catalogue too. The delta from a pipe is one file more.
        assert_eq!(flushes(case(kind, 1, &[], Apply(1))), (9, 1), "{kind:?}");
        assert_eq!(flushes(case(kind, 1, ONE, Pipe(2))), (10, 1), "{kind:?}");
        // A journey begins with a catalogue of its own.
        assert_eq!(flushes(case(kind, 1, ONE, Rollback(0))), (11, 1), "{kind:?}");
        assert_eq!(flushes(case(kind, 1, ONE, Undo)), (8, 1), "{kind:?}");
    }
}

fn bytes(changes: &[Change]) -> usize {
    changes.iter().map(|(_, content)| content.len()).sum()
}

/// Ends an apply at many of its writes as if the program had been killed there, with all that it had done, and goes on from there:
/// what is in place is not written again, but for the frame that was being written.
fn writes_only_what_is_missing(command: Command) {
    let lab = case(Wide(2400), 1, &[], Apply(1)).lab();
    let (world, target) = (&lab.trail.world, &lab.trail.target);
    lab.start_over(1);
    lab.run(Apply(1)).unwrap();
    let kinds = [EventKind::Write, EventKind::Zero, EventKind::Resize];
    let trace = world.trace();
    let writes = (1..).zip(trace.iter().filter(|event| kinds.contains(&event.kind)));
    let of_target: Vec<u64> = writes.filter(|(_, event)| event.disk.as_ref() == "target").map(|(n, _)| n).collect();
    assert_eq!(of_target.len(), 800, "a block each");
    let mut left = Vec::new();
    for n in of_target.into_iter().step_by(57) {
        lab.start_over(1);
        world.fail_after(n, FaultOn::Writes, 5);
        lab.run(Apply(1)).unwrap_err();
        let delta = match lab.facts().pending.unwrap() {
            _ if command == Resume => lab.trail.deltas[0].clone(),
            Pending::Apply(apply) => bytes_of(&*lab.trail.directory, &apply.inverse.file.delta_name()).unwrap(),
            other => panic!("{other:?}"),
        };
        let content = target.content();
        let is_there = |(at, new): &&Change| content[*at..*at + new.len()] == *new;
        let missing: Vec<_> =
            changes_of(&delta).into_iter().filter(|frame| !frame.iter().all(|change| is_there(&change))).collect();
        let there = |frame: &Vec<Change>| frame.iter().filter(is_there).map(|(_, new)| new.len()).sum::<usize>();
        let begun: Vec<_> = missing.iter().map(there).filter(|there| *there > 0).collect();
        assert!(begun.len() <= lab.trail.pace.frames_in_batch && begun.iter().sum::<usize>() <= 1 << 20, "{begun:?}");
        let report = if command == Resume { lab.trail.resume_on(target) } else { lab.trail.undo_on(target) }.unwrap();
        let wanted: usize = missing.iter().map(|frame| bytes(frame)).sum();
        assert_eq!(report.bytes_written + report.bytes_zeroed, wanted as u64, "stopped at write {n}");
        assert!(target.content() == lab.contents[&u64::from(command == Resume)]);
        left.push(wanted);
    }
    let (least, most) = (*left.iter().min().unwrap(), *left.iter().max().unwrap());
    assert!(least <= 1 << 20 && most >= 3 << 20, "{left:?}");
}

#[test]
fn resuming_writes_only_what_is_missing() {
    writes_only_what_is_missing(Resume);
}

#[test]
fn undoing_writes_only_what_was_written() {
    writes_only_what_is_missing(Undo);
}
