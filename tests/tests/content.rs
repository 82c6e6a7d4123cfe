//! What stands on the target: the result already, the base, or something else.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_tests::failback;
use failback_tests::lab::{Loop, Place, Unchanged, changed, hash, lone, noise, root_of_file, sectors_written};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

const SIZE: usize = 6 << 20;

/// A base, a result and a delta between them.
fn pair(place: &Place, block_size: &str) -> (PathBuf, PathBuf, PathBuf) {
    let base = noise(SIZE, 1);
    let old = place.file("old.img", &base);
    let new = place.file("new.img", &changed(&base, SIZE, 2));
    let delta = place.delta("d", &old, &new, block_size);
    (old, new, delta)
}

#[test]
fn applying_again_writes_nothing() {
    let place = Place::new();
    let (target, _, delta) = pair(&place, "4K");
    let first = failback!("apply", delta, target, "--yes").json();
    assert_eq!(first["already_in_place"], false);
    let untouched = Unchanged::since(&target);
    for input in [failback!("apply", delta, target), failback!("apply", "-", target).fed(fs::read(&delta).unwrap())] {
        let again = input.arg("--yes").json();
        assert_eq!(again["already_in_place"], true);
        assert_eq!((&again["bytes_written"], &again["bytes_zeroed"]), (&0.into(), &0.into()));
        let changed = first["bytes_written"].as_u64().unwrap() + first["bytes_zeroed"].as_u64().unwrap();
        assert_eq!(again["bytes_in_place"], changed);
        assert_eq!(again["resumed"], false);
        untouched.check();
    }
    let text = String::from_utf8(failback!("apply", delta, target, "--yes").done()).unwrap();
    assert!(text.contains("already in place: nothing was written"), "{text}");
    let planned = failback!("plan", delta, target).json();
    assert_eq!((&planned["bytes_to_write"], &planned["bytes_to_zero"]), (&0.into(), &0.into()));
    untouched.check();
}

#[test]
fn applying_again_sends_no_write_to_the_device() {
    let Some(_lone) = lone() else { return };
    let place = Place::new();
    let (old, new, delta) = pair(&place, "64K");
    let state = place.directory("state");
    let device = Loop::attach(&old, &[]);
    let apply = || failback!("apply", delta, device.path, "--yes", "--no-undo", "--state", state).json();
    assert_eq!(apply()["already_in_place"], false);
    assert_eq!(root_of_file(&device.path), root_of_file(&new));
    let before = sectors_written(&device);
    assert_eq!(apply()["already_in_place"], true);
    failback!("verify", device.path, "--root", root_of_file(&new)).done();
    failback!("plan", delta, device.path, "--state", state).done();
    assert_eq!(sectors_written(&device), before);
}

/// Half of it in place, as after a copy of some blocks: only the rest is written.
#[test]
fn what_is_in_place_is_not_written() {
    let place = Place::new();
    let (old, new, delta) = pair(&place, "4K");
    let (base, result) = (fs::read(&old).unwrap(), fs::read(&new).unwrap());
    let target = place.file("target.img", &[&result[..SIZE / 2], &base[SIZE / 2..]].concat());
    let applied = failback!("apply", delta, target, "--yes", "--verify").json();
    assert!(applied["bytes_in_place"].as_u64().unwrap() > 0);
    assert!(applied["bytes_written"].as_u64().unwrap() > 0);
    assert!(fs::read(&target).unwrap() == result);
}

#[test]
fn verify_compares_with_a_root() {
    let place = Place::new();
    let disk = place.noisy("disk.img", SIZE + 13, 3);
    let root = root_of_file(&disk);
    let report = failback!("verify", disk, "--root", root).json();
    assert_eq!((&report["matches"], &report["proven"]), (&true.into(), &"whole disk read".into()));
    assert_eq!(report["bytes_read"], SIZE + 13);
    let other = hash(b"another disk");
    let report = failback!("verify", disk, "--root", other).json_of(4);
    assert_eq!((&report["matches"], &report["proven"]), (&false.into(), &"the disk differs".into()));
    assert_eq!((&report["root"], &report["expected_root"]), (&root.into(), &other.clone().into()));
    let text = failback!("verify", disk, "--root", other).run();
    assert_eq!(text.code, 4);
    assert!(String::from_utf8(text.stdout).unwrap().contains("THE DISK DIFFERS"));
    failback!("verify", disk, "--root", other, "--size", (SIZE + 14).to_string()).fails(4, "this is not the disk");
    failback!("verify", disk, "--root", &other[1..]).misused();
    failback!("verify", disk).misused();
}

#[test]
fn verify_names_the_ranges_that_differ() {
    let place = Place::new();
    for (block_size, block) in [("4K", 4096), ("64K", 65_536), ("1M", 1 << 20)] {
        let disk = place.noisy("disk.img", SIZE + 13, 4);
        let signature = place.signature("disk.sig", &disk, block_size);
        assert_eq!(failback!("verify", disk, "--signature", signature).json()["differences"], json!([]));
        let mut bytes = fs::read(&disk).unwrap();
        // The first byte; two neighbouring blocks; the last byte, in a block of 13.
        for at in [0, 3 * block - 1, 3 * block, SIZE + 12] {
            bytes[at] ^= 1;
        }
        fs::write(&disk, bytes).unwrap();
        let report = failback!("verify", disk, "--signature", signature).json_of(4);
        let wanted = json!([
            { "start": 0, "length": block },
            { "start": 2 * block, "length": 2 * block },
            { "start": SIZE, "length": 13 },
        ]);
        assert_eq!(report["differences"], wanted, "{block_size}");
        assert_eq!(report["bytes_different"], 3 * block + 13, "{block_size}");
    }
}

/// A signature of a disk with holes names what was written into them.
#[test]
fn verify_sees_into_holes() {
    let place = Place::new();
    let disk = place.sparse("disk.img", 32 << 20, &[(8 << 20, &noise(1 << 20, 5))]);
    let signature = place.signature("disk.sig", &disk, "4K");
    let other = place.sparse("other.img", 32 << 20, &[(8 << 20, &noise(1 << 20, 5)), (20 << 20, b"x")]);
    let report = failback!("verify", other, "--signature", signature).json_of(4);
    assert_eq!(report["differences"], json!([{ "start": 20 << 20, "length": 4096 }]));
}

#[test]
fn a_larger_disk_is_verified_as_far_as_the_signature_goes() {
    let place = Place::new();
    let disk = place.noisy("disk.img", SIZE, 6);
    let signature = place.signature("disk.sig", &disk, "64K");
    let larger = place.file("larger.img", &[fs::read(&disk).unwrap(), noise(5000, 7)].concat());
    assert_eq!(failback!("verify", larger, "--signature", signature).json()["size"], SIZE);
    let smaller = place.file("smaller.img", &fs::read(&disk).unwrap()[..SIZE - 1]);
    failback!("verify", smaller, "--signature", signature).fails(4, "fewer than");
}

/// One changed block of the target is not that of the base.
fn wrong_base(place: &Place) -> (PathBuf, PathBuf) {
    let (old, _, delta) = pair(place, "4K");
    let mut bytes = fs::read(&old).unwrap();
    bytes[20_000] ^= 1;
    fs::write(&old, bytes).unwrap();
    (old, delta)
}

fn no_record(place: &Place) {
    assert!(!place.names().iter().any(|name| name.contains("intent")), "{:?}", place.names());
}

#[test]
fn another_base_is_refused_before_anything_is_written() {
    let place = Place::new();
    let (target, delta) = wrong_base(&place);
    let untouched = Unchanged::since(&target);
    let sentence = failback!("apply", delta, target, "--yes").fails(4, "is not at the base of this delta");
    assert!(sentence.contains("nothing was written"), "{sentence}");
    let planned = failback!("plan", delta, target).json_of(3);
    assert!(planned["refusals"][0].as_str().unwrap().contains("nothing would be written"));
    untouched.check();
    no_record(&place);
}

#[test]
fn another_base_is_refused_from_a_pipe_if_the_first_batch_shows_it() {
    let place = Place::new();
    let (target, delta) = wrong_base(&place);
    let untouched = Unchanged::since(&target);
    let piped = failback!("apply", "-", target, "--yes").fed(fs::read(&delta).unwrap());
    let sentence = piped.fails(4, "is not at the base of this delta");
    assert!(sentence.contains("nothing was written"), "{sentence}");
    untouched.check();
    no_record(&place);
}

/// The last block of a large change is another: a pipe shows that too late, and what was done is said.
#[test]
fn another_base_is_told_from_a_pipe_when_it_is_met() {
    let place = Place::in_memory();
    let size = 64 << 20;
    let (old, new) = (place.noisy("old.img", size, 8), place.noisy("new.img", size, 9));
    let delta = place.delta("d", &old, &new, "64K");
    let mut bytes = fs::read(&old).unwrap();
    bytes[size - 1] ^= 1;
    fs::write(&old, bytes).unwrap();
    let sentence = failback!("apply", "-", old, "--yes").fed(fs::read(&delta).unwrap()).fails(4, "not at the base");
    assert!(sentence.contains("the disk holds a part of the change"), "{sentence}");
    assert_eq!(failback!("status", old).json()["state"], "interrupted");
    // The advice: sign it as it is, make a new delta.
    let again = place.delta("again", &old, &new, "64K");
    failback!("apply", again, old, "--yes").refused("--discard-intent");
    let applied = failback!("apply", again, old, "--yes", "--discard-intent").json();
    assert_eq!(applied["proven"], "whole disk read");
    assert_eq!(root_of_file(&old), root_of_file(&new));
    assert_at_rest(&old);
}

fn assert_at_rest(target: &Path) {
    assert_eq!(failback!("status", target).json()["state"], "at-rest");
}
