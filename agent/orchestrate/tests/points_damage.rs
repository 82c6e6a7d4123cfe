//! Damaged files of recovery points: noticed before anything of them is used, and what does not need them still works.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::points::{Trail, content_of};
use failback_blockio::Device;
use failback_orchestrate::{Directory, JobError, Outcome, PointId, Silent, open_point, verify_point};
use failback_units::ByteOffset;

/// The names of the files of the links, of the farthest point first.
fn files(trail: &Trail, name: fn(failback_retention::FileId) -> String) -> Vec<String> {
    trail.open().catalogue().links().iter().map(|link| name(link.file)).collect()
}

/// Flips a bit of a file as if the medium had done that.
fn flip(trail: &Trail, name: &str, at: u64, bit: u8) {
    let disk = trail.directory.disk_of(name).unwrap().unwrap();
    let offset = ByteOffset::new(at).unwrap();
    let byte = content_of(disk)[usize::try_from(at).unwrap()];
    disk.write_durably(offset, &[byte ^ (1 << bit)]);
}

fn length(trail: &Trail, name: &str) -> u64 {
    trail.directory.disk_of(name).unwrap().unwrap().size().get()
}

/// All that a point holds where it is, free space as zeroes; or why it cannot be read.
fn read(trail: &Trail, id: u64) -> Result<Vec<u8>, JobError> {
    let point = open_point(trail.target.clone(), &trail.open(), PointId(id))?;
    let mut content = Vec::new();
    for at in (0..point.device.size().get()).step_by(50_000) {
        let len = 50_000.min(usize::try_from(point.device.size().get() - at).unwrap());
        let into = failback_blockio::Buffer::zeroed(len);
        let at = ByteOffset::new(at).unwrap();
        let read = failback_blockio::run(&point.device, failback_blockio::Operation::Read { at, into })?;
        content.extend_from_slice(&read.unwrap());
    }
    Ok(trail.masked(&content, id))
}

#[test]
fn no_flipped_bit_of_a_link_is_read_or_written() {
    let mut trail = Trail::sized(21, 3, 40);
    trail.apply_all();
    let links = files(&trail, failback_retention::FileId::delta_name);
    let before = trail.world.snapshot();
    let middle = &links[1];
    let (mut refused, mut total) = (0, 0);
    for at in (0..length(&trail, middle)).step_by(263) {
        trail.world.restore(&before);
        flip(&trail, middle, at, u8::try_from(at % 8).unwrap());
        // What lies nearer to the disk does not need it.
        assert!(read(&trail, 2).unwrap() == trail.counted(2));
        for id in [0, 1] {
            total += 1;
            match read(&trail, id) {
                Ok(content) => assert!(content == trail.counted(id), "point {id} with byte {at} flipped"),
                Err(error) => {
                    assert!(matches!(error.outcome(), Outcome::Damaged | Outcome::Io), "{error}");
                    refused += 1;
                }
            }
        }
        let error = trail.rollback(0).unwrap_err();
        assert_eq!(error.outcome(), Outcome::Damaged, "{error}");
        // The step to point 2 was taken, and the disk is there.
        assert_eq!(trail.wrong_at(2), None);
        let store = trail.open();
        assert_eq!(store.catalogue().present().id, PointId(2));
        drop(store);
        trail.undo().unwrap();
        trail.is_at(3);
    }
    assert!(refused * 2 > total, "{refused} of {total}");
}

#[test]
fn an_index_is_made_again() {
    let mut trail = Trail::sized(22, 3, 40);
    trail.apply_all();
    let indices = files(&trail, failback_retention::FileId::index_name);
    let before = trail.world.snapshot();
    for at in (0..length(&trail, &indices[0])).step_by(7) {
        trail.world.restore(&before);
        flip(&trail, &indices[0], at, u8::try_from(at % 8).unwrap());
        assert!(read(&trail, 0).unwrap() == trail.counted(0), "byte {at}");
    }
    trail.world.restore(&before);
    for index in &indices {
        trail.directory.remove(index).unwrap();
    }
    for id in 0..=3 {
        assert!(read(&trail, id).unwrap() == trail.counted(id));
        assert!(
            verify_point(&trail.target, &mut trail.open(), PointId(id), false, 1, &Silent).unwrap().report.matches()
        );
    }
    trail.merge(1).unwrap();
    trail.rollback(0).unwrap();
    trail.is_at(0);
}

#[test]
fn a_missing_link_is_named_and_the_rest_works() {
    let mut trail = Trail::sized(23, 4, 40);
    trail.apply_all();
    let links = files(&trail, failback_retention::FileId::delta_name);
    trail.directory.remove(&links[1]).unwrap();
    let store = trail.open();
    let gaps = store.gaps();
    assert_eq!(gaps.len(), 1);
    assert_eq!(gaps[0].unreachable, [PointId(0), PointId(1)]);
    assert!(gaps[0].to_string().contains(&links[1]), "{}", gaps[0]);
    drop(store);
    for id in [0, 1] {
        assert_eq!(read(&trail, id).unwrap_err().outcome(), Outcome::Damaged);
    }
    trail.rollback(2).unwrap();
    trail.is_at(2);
    trail.rollback(4).unwrap();
    trail.is_at(4);
    assert_eq!(trail.undo().unwrap_err().outcome(), Outcome::Damaged);
    // An undo gives up what it passes: it does not begin if it cannot come to its end.
    trail.is_at(4);
    assert_eq!(trail.open().catalogue().points().len(), 5);
}

#[test]
fn an_undo_does_not_begin_on_a_way_that_is_damaged() {
    let mut trail = Trail::sized(24, 3, 40);
    trail.apply_all();
    let links = files(&trail, failback_retention::FileId::delta_name);
    let before = trail.world.snapshot();
    for at in (0..length(&trail, &links[0])).step_by(1009) {
        trail.world.restore(&before);
        flip(&trail, &links[0], at, u8::try_from(at % 8).unwrap());
        assert_eq!(trail.undo().unwrap_err().outcome(), Outcome::Damaged);
        trail.is_at(3);
        assert_eq!(trail.open().catalogue().points().len(), 4);
    }
}
