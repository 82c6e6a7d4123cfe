//! Recovery points on simulated disks: there, back, and everything between, without trouble.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::points::{Trail, content_of};
use failback_orchestrate::{ByteCount, Device, Directory, JobError, Outcome, PointId, Root};

#[test]
fn every_point_can_be_reached_from_every_other() {
    let mut trail = Trail::new(1, 5);
    trail.apply_all();
    for goal in [3, 0, 5, 2, 4, 1, 0, 5] {
        let report = trail.rollback(goal).unwrap();
        assert_eq!(report.to, PointId(goal));
        trail.is_at(goal);
        trail.is_sound();
    }
    let report = trail.undo().unwrap();
    assert_eq!((report.from, report.to, report.steps), (PointId(5), PointId(0), 5));
    trail.is_at(0);
    assert_eq!(trail.open().catalogue().points().len(), 1);
    assert_eq!(trail.undo().unwrap_err().outcome(), Outcome::Refused);
}

#[test]
fn every_point_can_be_read_where_it_is() {
    let mut trail = Trail::new(2, 5);
    trail.apply_all();
    for present in [5, 2, 0] {
        if trail.open().catalogue().present().id != PointId(present) {
            trail.rollback(present).unwrap();
        }
        for id in 0..=5 {
            let mut store = trail.open();
            let point = failback_orchestrate::open_point(trail.target.clone(), &store, PointId(id)).unwrap();
            let expected = trail.counted(id);
            assert!(trail.masked(&content_of(&point.device), id) == expected, "{id} from {present}");
            let check = failback_orchestrate::verify_point(
                &trail.target,
                &mut store,
                PointId(id),
                true,
                1,
                &failback_orchestrate::Silent,
            );
            let check = check.unwrap();
            assert!(check.report.matches(), "{id} from {present}");
            assert_eq!(check.report.root, Root::of(&expected));
        }
    }
}

#[test]
fn a_delta_between_any_two_points_leads_from_one_to_the_other() {
    let mut trail = Trail::new(3, 4);
    trail.apply_all();
    trail.rollback(2).unwrap();
    for from in 0..=4 {
        for to in 0..=4 {
            let delta = trail.export(from, to);
            if from == to {
                assert_eq!(delta.unwrap_err().outcome(), Outcome::Refused);
                continue;
            }
            let mut disk = trail.disk(from);
            common::points::patch(&delta.unwrap(), &mut disk);
            assert!(trail.masked(&disk, to) == trail.counted(to), "{from} to {to}");
        }
    }
}

#[test]
fn inner_points_are_merged() {
    let mut trail = Trail::new(4, 6);
    trail.apply_all();
    trail.rollback(3).unwrap();
    for id in [1, 5, 2] {
        trail.merge(id).unwrap();
        trail.is_sound();
        trail.is_at(3);
    }
    for goal in [0, 4, 6, 0, 3] {
        trail.rollback(goal).unwrap();
        trail.is_at(goal);
    }
    for id in [0, 3, 6, 9] {
        assert_eq!(trail.merge(id).unwrap_err().outcome(), Outcome::Refused, "{id}");
    }
}

#[test]
fn a_delta_is_applied_once() {
    let mut trail = Trail::new(5, 2);
    trail.apply(1).unwrap();
    trail.world.clear_trace();
    let again = trail.apply(1).unwrap();
    assert!(again.applied.already_in_place() && again.point.id == PointId(1) && again.link.is_none());
    assert!(trail.world.trace().iter().all(|event| event.disk.as_ref() != "target"));
    trail.apply(2).unwrap();
    let error = trail.apply(1).unwrap_err();
    assert_eq!(error.outcome(), Outcome::Refused, "{error}");
    trail.is_at(2);
}

#[test]
fn what_others_wrote_is_noticed_and_never_built_upon() {
    let mut trail = Trail::new(6, 3);
    trail.apply(1).unwrap();
    trail.apply(2).unwrap();
    let before = trail.world.snapshot();
    let changed = trail.changed_block(3);
    trail.scribble(changed);
    let content = trail.target.content();
    let error = trail.apply(3).unwrap_err();
    assert!(matches!(error, JobError::WrongBase { .. }), "{error}");
    assert!(error.to_string().contains(&format!("at bytes {}", changed * 4096)), "{error}");
    assert!(trail.target.content() == content);
    trail.is_sound();
    trail.world.restore(&before);
    let changed = trail.changed_block(2);
    trail.scribble(changed);
    let content = trail.target.content();
    for error in [trail.rollback(1).unwrap_err(), trail.undo().unwrap_err()] {
        assert_eq!(error.outcome(), Outcome::Mismatch, "{error}");
        assert!(trail.target.content() == content);
        assert!(trail.open().catalogue().pending().is_none(), "a journey that did not begin is none");
    }
}

#[test]
fn bytes_that_are_free_for_the_base_alone_come_back() {
    let mut trail = Trail::new(7, 2);
    let junk = trail.disk(0);
    trail.apply_all();
    trail.rollback(0).unwrap();
    assert!(
        trail.target.content()[..junk.len()] == junk,
        "all of them: nothing on this disk can be trusted to be free"
    );
    assert_eq!(trail.target.size(), ByteCount::of_memory(trail.len()));
}

/// What differs is named: in what links have changed by their values, elsewhere by the tree that was kept.
#[test]
fn what_differs_is_named() {
    use failback_orchestrate::{Silent, verify_point};
    let mut trail = Trail::new(8, 3);
    trail.apply(1).unwrap();
    let verify = |trail: &Trail, id| verify_point(&trail.target, &mut trail.open(), PointId(id), true, 1, &Silent);
    let ranges = |check: failback_orchestrate::PointCheck| {
        assert!(!check.report.matches());
        check.report.differences.iter().map(|range| (range.start, range.length)).collect::<Vec<_>>()
    };
    let within = |found: &[(u64, u64)], block: usize| {
        let at = (block * 4096) as u64;
        found.iter().any(|(start, length)| *start <= at && at < start + length)
    };
    let (changed, quiet) = (trail.changed_block(1), trail.quiet_block());
    let before = trail.world.snapshot();
    trail.scribble(changed);
    assert!(within(&ranges(verify(&trail, 1).unwrap()), changed), "the link tells");
    trail.world.restore(&before);
    trail.scribble(quiet);
    assert_eq!(ranges(verify(&trail, 1).unwrap()), [], "nothing tells where");
    trail.world.restore(&before);
    assert!(verify(&trail, 1).unwrap().report.matches());
    assert!(trail.directory.names().unwrap().iter().any(|name| name.starts_with("tree-")));
    trail.apply(2).unwrap();
    trail.apply(3).unwrap();
    let before = trail.world.snapshot();
    trail.scribble(quiet);
    assert_eq!(ranges(verify(&trail, 3).unwrap()), [((quiet * 4096) as u64, 4096)], "the tree of point 1 tells");
    trail.world.restore(&before);
    let changed = trail.changed_block(2);
    trail.scribble(changed);
    let found = ranges(verify(&trail, 3).unwrap());
    assert!(within(&found, changed) && found.iter().all(|(_, length)| *length <= 1 << 20), "{found:?}");
    trail.world.restore(&before);
    assert!(verify(&trail, 3).unwrap().report.matches());
    let trees: Vec<_> = trail.directory.names().unwrap().into_iter().filter(|name| name.starts_with("tree")).collect();
    assert_eq!(trees, ["tree-0000000000000003.signature"]);
    trail.undo().unwrap();
    trail.open();
    assert!(trail.directory.names().unwrap().iter().all(|name| !name.starts_with("tree")), "the tree of a lost point");
}

/// However far it gets: what keeps the way back has no room, and that is found out before the disk is touched.
#[test]
fn a_full_retention_drive_is_refused_before_anything_is_written() {
    let mut trail = Trail::sized(8, 2, 28);
    trail.apply(1).unwrap();
    let before = trail.world.snapshot();
    let used = trail.directory.space().unwrap().total.get() - trail.directory.space().unwrap().available.get();
    let mut refusals = 0;
    for room in (0..).step_by(151) {
        trail.world.restore(&before);
        trail.directory.limit_space(Some(used + room));
        trail.world.clear_trace();
        let result = trail.apply(2);
        trail.directory.limit_space(None);
        let Err(error) = result else { break };
        if trail.world.trace().iter().any(|event| event.disk.as_ref() == "target") {
            // Only the catalogue of the end did not fit any more.
            assert_eq!(error.outcome(), Outcome::Io, "{room}: {error}");
            trail.resume().unwrap();
        } else {
            assert_eq!(error.outcome(), Outcome::Refused, "{room}: {error}");
            assert!(error.to_string().starts_with("the retention drive is full"), "{room}: {error}");
            trail.apply(2).unwrap();
            refusals += 1;
        }
        trail.is_at(2);
        trail.is_sound();
    }
    assert!(refusals > 100, "{refusals}");
}

#[test]
fn a_full_retention_drive_is_refused_before_a_journey() {
    let mut trail = Trail::sized(9, 2, 28);
    trail.apply_all();
    let before = trail.world.snapshot();
    let used = trail.directory.space().unwrap().total.get() - trail.directory.space().unwrap().available.get();
    for room in (0..8000).step_by(800) {
        for undo in [false, true] {
            trail.world.restore(&before);
            trail.directory.limit_space(Some(used + room));
            let result = if undo { trail.undo() } else { trail.rollback(0) };
            trail.directory.limit_space(None);
            let error = result.unwrap_err();
            assert_eq!(error.outcome(), Outcome::Refused, "{room}: {error}");
            assert!(error.to_string().starts_with("the retention drive is full"), "{room}: {error}");
            trail.is_at(2);
            trail.is_sound();
        }
    }
}

/// What the limits no longer keep goes before the drive is full, and only then; the rest is kept whatever happens.
#[test]
fn points_go_before_the_retention_drive_is_full() {
    use failback_orchestrate::{Policy, Silent, plan_keeping};
    let mut trail = Trail::new(9, 4);
    trail.rewrite_last();
    for state in 1..=3 {
        trail.apply(state).unwrap();
    }
    let before = trail.world.snapshot();
    let space = trail.directory.space().unwrap();
    let used = space.total.get() - space.available.get();
    let needed = plan_keeping(&mut std::io::Cursor::new(&trail.deltas[3]), None, &Silent).unwrap().bytes_to_keep;
    let known = |trail: &Trail| trail.open().catalogue().points().iter().map(|point| point.id.0).collect::<Vec<_>>();
    let limits = Policy { keep_points: Some(2), ..Policy::default() };
    for (room, policy, expected) in [
        (needed * 2, limits, vec![0, 1, 2, 3, 4]),
        (needed - 5000, limits, vec![0, 2, 3, 4]),
        // Without limits nothing goes; what is kept may be small enough once it is compressed, or not.
        (needed - 5000, Policy::default(), vec![0, 1, 2, 3, 4]),
        (needed / 10 * 7, Policy::default(), vec![0, 1, 2, 3]),
        (needed / 4, limits, vec![0, 1, 2, 3]),
    ] {
        trail.world.restore(&before);
        trail.policy = policy;
        trail.directory.limit_space(Some(used + room));
        let applied = trail.apply(4);
        trail.directory.limit_space(None);
        assert_eq!(known(&trail), expected, "{room} of {needed}: {:?}", applied.map(|report| report.link));
        trail.is_at(*expected.last().unwrap());
        trail.undo().unwrap();
        trail.is_at(0);
    }
}

/// A tree is worth having, and not worth failing for: where an apply has room without it, it has room with it.
#[test]
fn a_hash_tree_takes_no_room_that_the_catalogue_needs() {
    let mut trail = Trail::plain(10, 1, 2400, 60);
    let fits = |trail: &mut Trail, room: u64, verify: bool| {
        trail.world.restore(&trail.start);
        trail.verify = verify;
        trail.directory.limit_space(Some(room));
        let applied = trail.apply(1);
        trail.directory.limit_space(None);
        applied.map(|report| assert_eq!(report.applied.verified.is_some(), verify))
    };
    let enough = (3_300_000..).step_by(4000).find(|room| fits(&mut trail, *room, false).is_ok()).unwrap();
    let tree = 2401 * 32;
    for room in [enough, enough + 2000, enough + tree / 2, enough + tree, enough + tree + 2000, enough + 2 * tree] {
        fits(&mut trail, room, true).unwrap_or_else(|error| panic!("{room}, {enough} without a tree: {error}"));
        trail.is_at(1);
    }
}

/// A disk that grows inside a block: what stood there does not stand in the way of the same apply after an undo.
#[test]
fn a_disk_grows_and_shrinks_inside_a_block() {
    let mut trail = Trail::resized(11, 40, 400);
    trail.apply_all();
    for goal in [0, 2, 1, 0, 2] {
        trail.rollback(goal).unwrap();
        trail.is_at(goal);
    }
    trail.undo().unwrap();
    trail.is_at(0);
    for state in 1..trail.states.len() {
        trail.apply(state).unwrap();
        assert_eq!(trail.wrong_at(state as u64), None);
    }
    trail.undo().unwrap();
    assert_eq!(trail.wrong_at(0), None);
}
