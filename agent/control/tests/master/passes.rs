//! What passes do to a disk, its points and the files beside them.

use crate::{Lab, Near, SIZE, noise, send};
use failback_control::state::{JobQuery, JobState};
use failback_orchestrate::{PointKind, Root};
use std::fs;

#[test]
fn passes_bring_the_target_to_the_source_with_a_point_each() {
    let lab = Lab::new();
    let master = lab.master();
    let near = Near::new(&master);
    let before = lab.source();
    lab.write_source(1 << 20, &noise(2, 100_000));
    let report = send(&near, &lab.path("source.img"), PointKind::Fuzzy).unwrap();
    assert_eq!(report.root, Root::of(&lab.source()));
    assert!(near.ended().into_iter().all(|ended| ended.is_ok()));
    assert!(lab.target() == lab.source());
    assert_eq!(
        lab.points(),
        [(Root::of(&before), PointKind::Crash), (Root::of(&lab.source()), PointKind::Fuzzy)],
        "the base is a point, too"
    );
    // The tree followed from the delta: the target is not read for it.
    let again = send(&near, &lab.path("source.img"), PointKind::Fuzzy).unwrap();
    assert_eq!(again.root, report.root);
    assert!(again.received < 8192 && again.sent < 8192, "{again:?}");
    assert_eq!(lab.points().len(), 2, "nothing new and no better moment is no new point");
    let last = send(&near, &lab.path("source.img"), PointKind::Crash).unwrap();
    assert_eq!(last.root, report.root);
    assert_eq!(lab.points().last(), Some(&(report.root, PointKind::Crash)), "there is one to boot from");
    let points = lab.points();
    send(&near, &lab.path("source.img"), PointKind::Crash).unwrap();
    assert_eq!(lab.points(), points, "there is one of that moment already");
    send(&near, &lab.path("source.img"), PointKind::Application).unwrap();
    assert_eq!(lab.points().last(), Some(&(report.root, PointKind::Application)));
    let jobs = master.state().jobs(&JobQuery::default()).unwrap();
    assert_eq!(
        jobs.iter().map(|job| (job.kind.as_str(), job.state)).collect::<Vec<_>>(),
        [
            ("final", JobState::Done),
            ("final", JobState::Done),
            ("final", JobState::Done),
            ("replicate", JobState::Done),
            ("replicate", JobState::Done)
        ]
    );
    assert!(master.live_jobs().is_empty());
}

#[test]
fn a_tree_that_is_lost_or_stale_is_made_from_the_disk() {
    let lab = Lab::new();
    let near = Near::new(&lab.master());
    lab.write_source(0, &noise(3, 5000));
    send(&near, &lab.path("source.img"), PointKind::Crash).unwrap();
    let disk = fs::read_dir(lab.path("retention/replication")).unwrap().next().unwrap().unwrap().path();
    for damage in ["remove", "cut", "garbage"] {
        let tree = disk.join("tree");
        match damage {
            "remove" => fs::remove_file(&tree).unwrap(),
            "cut" => fs::OpenOptions::new().write(true).open(&tree).unwrap().set_len(300).unwrap(),
            _ => fs::write(&tree, noise(4, 10_000)).unwrap(),
        }
        lab.write_source(2 << 20, &noise(damage.len() as u64, 70_000));
        send(&near, &lab.path("source.img"), PointKind::Crash).unwrap();
        assert!(lab.target() == lab.source(), "{damage}");
    }
}

#[test]
fn what_others_wrote_to_the_target_is_found_before_it_is_written() {
    let lab = Lab::new();
    let near = Near::new(&lab.master());
    lab.write_source(0, &noise(5, 5000));
    send(&near, &lab.path("source.img"), PointKind::Crash).unwrap();
    lab.write_target(3 << 20, &noise(6, 4096));
    let foreign = lab.target();
    lab.write_source(3 << 20, &noise(7, 8192));
    let refused = send(&near, &lab.path("source.img"), PointKind::Crash).unwrap_err().to_string();
    assert!(refused.contains("what its stored tree says: something else has written to it"), "{refused}");
    assert!(refused.starts_with("the other side says: "), "the target finds it out itself: {refused}");
    assert!(lab.target() == foreign, "nothing was written");
    // Now the disk is read, and it is not at its point.
    let refused = send(&near, &lab.path("source.img"), PointKind::Crash).unwrap_err().to_string();
    assert!(refused.contains("something else wrote to it") && refused.contains("commit"), "{refused}");
    assert!(lab.target() == foreign, "nothing was written");
}

#[test]
fn a_pass_goes_on_over_connections_that_break() {
    let lab = Lab::new();
    let mut near = Near::new(&lab.master());
    near.lasts = |number| if number < 6 { 100 + number * 700 } else { u64::MAX };
    lab.write_source(4096, &noise(8, SIZE / 2));
    let report = send(&near, &lab.path("source.img"), PointKind::Crash).unwrap();
    assert!(report.connections > 3, "{report:?}");
    assert!(lab.target() == lab.source());
    assert_eq!(lab.points().len(), 2, "one pass is one point");
    let jobs = near.master.state().jobs(&JobQuery::default()).unwrap();
    let done: Vec<_> = jobs.iter().filter(|job| job.state == JobState::Done).collect();
    assert_eq!(done.len(), 1, "{jobs:#?}");
}
