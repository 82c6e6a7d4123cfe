//! Master targets that stop at any time.

use crate::{Lab, Near, noise, send};
use failback_control::state::{JobQuery, JobState};
use failback_orchestrate::PointKind;
use std::fs;

/// A machine may stop after a point was published and before the files beside it followed; whoever restores some of them does the same.
#[test]
fn files_that_are_older_than_the_disk_are_not_believed() {
    let lab = Lab::new();
    let near = Near::new(&lab.master());
    lab.write_source(0, &noise(2, 50_000));
    send(&near, &lab.path("source.img"), PointKind::Crash).unwrap();
    let disk = fs::read_dir(lab.path("retention/replication")).unwrap().next().unwrap().unwrap().path();
    let (tree, applied) = (fs::read(disk.join("tree")).unwrap(), fs::read(disk.join("applied")).unwrap());
    // A second pass, of which the files are those of the first one.
    lab.write_source(1 << 20, &noise(3, 50_000));
    send(&near, &lab.path("source.img"), PointKind::Crash).unwrap();
    fs::write(disk.join("tree"), tree).unwrap();
    fs::write(disk.join("applied"), applied).unwrap();
    lab.write_source(2 << 20, &noise(4, 50_000));
    send(&near, &lab.path("source.img"), PointKind::Crash).unwrap();
    assert!(lab.target() == lab.source());
    assert_eq!(lab.points().len(), 4);
}

#[test]
fn a_master_target_that_is_to_end_begins_nothing() {
    let lab = Lab::new();
    let master = lab.master();
    let near = Near::new(&master);
    master.stop();
    lab.write_source(0, &noise(2, 5000));
    let refused = send(&near, &lab.path("source.img"), PointKind::Crash).unwrap_err().to_string();
    assert!(refused.contains("is ending"), "{refused}");
    assert!(master.state().jobs(&JobQuery::default()).unwrap().iter().all(|job| job.state != JobState::Running));
}
