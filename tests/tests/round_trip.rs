//! From a base to a result on images: every size, every block size, every engine, files and pipes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_tests::failback;
use failback_tests::lab::{Place, Unchanged, changed, hash, hash_of, noise, root_of_file};
use std::fs;
use std::path::Path;

const MIB: usize = 1 << 20;

/// Nothing, less than a sector, around a block, no whole number of sectors, several chunks.
const SIZES: [usize; 7] = [0, 1, 4095, 4096, 4097, MIB + 13, 5 * MIB];

/// Signs `base`, compares it with `result`, applies, and looks whether the target is the result, byte for byte.
fn round_trip(place: &Place, base: &[u8], result: &[u8], block_size: &str, engine: &str) {
    let case = format!("{} -> {} bytes in blocks of {block_size}, {engine}", base.len(), result.len());
    let (old, new) = (place.file("old.img", base), place.file("new.img", result));
    let (signature, delta, target) = (place.path("old.sig"), place.path("new.delta"), place.path("target.img"));
    let signed = failback!("sign", old, "-o", signature, "--block-size", block_size, "--engine", engine).json();
    assert_eq!(signed["root"], hash(base), "{case}");
    assert_eq!(signed["size"], base.len(), "{case}");
    let by = if engine == "blocking" { "pread/pwrite" } else { "io_uring" };
    assert_eq!(signed["engine"], by, "{case}");
    assert_eq!(signed["output_bytes"], fs::metadata(&signature).unwrap().len(), "{case}");
    let diffed = failback!("diff", "--base", signature, new, "-o", delta, "--engine", engine).json();
    assert_eq!(diffed["base_root"], hash(base), "{case}");
    assert_eq!(diffed["result_root"], hash(result), "{case}");
    assert_eq!(diffed["delta_bytes"], fs::metadata(&delta).unwrap().len(), "{case}");
    let inspected = failback!("inspect", delta).json();
    assert_eq!(inspected["result_root"], hash(result), "{case}");

    // A target as large as the larger of both: base, and room for the result.
    let mut content = base.to_vec();
    content.resize(base.len().max(result.len()), 0);
    fs::write(&target, &content).unwrap();
    let untouched = Unchanged::since(&target);
    let planned = failback!("plan", delta, target, "--engine", engine).json();
    assert_eq!(planned["result_root"], hash(result), "{case}");
    untouched.check();
    let applied = failback!("apply", delta, target, "--yes", "--verify", "--engine", engine).json();
    assert_eq!(applied["result_root"], hash(result), "{case}");
    assert_eq!(applied["proven"], "whole disk read", "{case}");
    // A batch that is not all in place is written whole.
    for (done, foreseen) in [("bytes_written", "bytes_to_write"), ("bytes_zeroed", "bytes_to_zero")] {
        assert!(applied[done].as_u64() >= planned[foreseen].as_u64(), "{case}: {done}");
    }
    let found = fs::read(&target).unwrap();
    assert!(found[..result.len()] == *result, "the result is not there: {case}");
    assert!(found[result.len()..] == content[result.len()..], "bytes behind the result were touched: {case}");
    let size = result.len().to_string();
    let verified = failback!("verify", target, "--root", hash(result), "--size", size, "--engine", engine).json();
    assert_eq!(verified["matches"], true, "{case}");
    assert!(!place.names().iter().any(|name| name.contains("intent")), "a record was left behind: {case}");
}

fn every_size(place: &Place, engine: &str) {
    for block_size in ["4K", "64K", "1M"] {
        for size in SIZES {
            let base = noise(size, 1);
            round_trip(place, &base, &changed(&base, size, 2), block_size, engine);
        }
    }
}

#[test]
fn every_size_through_io_uring() {
    every_size(&Place::new(), "io_uring");
}

#[test]
fn every_size_through_system_calls() {
    every_size(&Place::new(), "blocking");
}

#[test]
fn every_size_in_memory() {
    every_size(&Place::in_memory(), "io_uring");
}

#[test]
fn base_and_result_of_different_sizes() {
    let place = Place::in_memory();
    for block_size in ["4K", "64K", "1M"] {
        for (base_size, result_size) in SIZES.iter().flat_map(|base| SIZES.map(|result| (*base, result))) {
            let base = noise(base_size, 3);
            round_trip(&place, &base, &changed(&base, result_size, 4), block_size, "blocking");
        }
    }
}

#[test]
fn what_lies_behind_the_result_stays() {
    let place = Place::new();
    for (base_size, result_size) in [(MIB + 13, 3 * MIB), (3 * MIB, MIB + 13), (5000, 4097), (0, 4095)] {
        let base = noise(base_size, 5);
        let result = changed(&base, result_size, 6);
        let (old, new) = (place.file("old.img", &base), place.file("new.img", &result));
        let delta = place.delta("d", &old, &new, "4K");
        // The rest of the target is not what the disk's growth would have to find: it must be zero or base.
        let behind = noise(MIB, 7);
        let mut content = base.clone();
        content.resize(base_size.max(result_size), 0);
        let rest = content[result_size..].to_vec();
        content.extend_from_slice(&behind);
        let target = place.file("target.img", &content);
        failback!("apply", delta, target, "--yes").json();
        let found = fs::read(&target).unwrap();
        assert!(found[..result_size] == result, "{base_size} -> {result_size}");
        assert!(found[result_size..] == [rest, behind].concat(), "{base_size} -> {result_size}");
    }
}

#[test]
fn a_target_that_is_too_small_is_refused() {
    let place = Place::new();
    let base = noise(MIB, 8);
    let (old, new) = (place.file("old.img", &base), place.noisy("new.img", MIB + 4096, 9));
    let delta = place.delta("d", &old, &new, "4K");
    let untouched = Unchanged::since(&old);
    failback!("apply", delta, old, "--yes").refused("make the disk 4096 bytes larger");
    failback!("apply", "-", old, "--yes").fed(fs::read(&delta).unwrap()).refused("make the disk 4096 bytes larger");
    let planned = failback!("plan", delta, old).json_of(3);
    assert!(planned["refusals"][0].as_str().unwrap().contains("make the disk 4096 bytes larger"));
    untouched.check();
}

/// Holes are neither read nor written: what is counted as read is what there is.
#[test]
fn holes_are_counted_and_not_read() {
    let place = Place::new();
    let (size, data) = (64 * MIB as u64, noise(2 * MIB, 10));
    let pieces = [(5 * MIB as u64, &data[..]), (40 * MIB as u64, &data[..MIB])];
    let (old, new) = (place.sparse("old.img", size, &[]), place.sparse("new.img", size, &pieces));
    let signed = failback!("sign", new, "-o", place.path("new.sig")).json();
    assert_eq!(signed["bytes_read"], 3 * MIB);
    assert_eq!(signed["bytes_hole"], 61 * MIB);
    assert_eq!(signed["root"], root_of_file(&new));

    let there = place.delta("there", &old, &new, "64K");
    let target = place.sparse("target.img", size, &[]);
    let applied = failback!("apply", there, target, "--yes").json();
    assert_eq!(applied["bytes_written"], 3 * MIB);
    assert_eq!((&applied["bytes_read"], &applied["bytes_hole"]), (&0.into(), &(3 * MIB).into()));
    assert_eq!(root_of_file(&target), root_of_file(&new));
    let verified = failback!("verify", target, "--root", root_of_file(&new)).json();
    assert_eq!((&verified["bytes_read"], &verified["bytes_hole"]), (&(3 * MIB).into(), &(61 * MIB).into()));

    // And back: what was data becomes a hole again, and costs nothing in the delta.
    let back = place.delta("back", &new, &old, "64K");
    assert!(fs::metadata(&back).unwrap().len() < 16_384);
    let applied = failback!("apply", back, target, "--yes").json();
    assert_eq!((&applied["bytes_written"], &applied["bytes_zeroed"]), (&0.into(), &(3 * MIB).into()));
    assert_eq!(root_of_file(&target), root_of_file(&old));
    assert!(blocks_of(&target) <= 8, "the image got no smaller");
}

fn blocks_of(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(&fs::metadata(path).unwrap())
}

#[test]
fn through_a_pipe() {
    let place = Place::new();
    for (base_size, result_size) in [(0, 1), (MIB + 13, 5 * MIB), (20 * MIB, 20 * MIB), (4097, 0)] {
        let base = noise(base_size, 11);
        let result = changed(&base, result_size, 12);
        let (old, new) = (place.file("old.img", &base), place.file("new.img", &result));
        let mut content = base.clone();
        content.resize(base_size.max(result_size), 0);
        let target = place.file("target.img", &content);
        let signature = failback!("sign", old, "-o", "-").done();
        let signature = place.file("old.sig", &signature);
        let delta = failback!("diff", "--base", signature, new, "-o", "-").done();
        let applied = failback!("apply", "-", target, "--yes").fed(delta).json();
        assert_eq!(applied["result_root"], hash(&result));
        assert_eq!(applied["proven"], "changed blocks");
        assert_eq!(hash_of(&target, Some(result_size as u64)), hash(&result));
    }
}

#[test]
fn the_root_is_what_b3sum_prints() {
    let place = Place::new();
    let disk = place.noisy("disk.img", 3 * MIB + 5, 13);
    let signed = failback!("sign", disk, "-o", place.path("disk.sig")).json();
    match std::process::Command::new("b3sum").arg("--no-names").arg(&disk).output() {
        Ok(output) => assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), signed["root"]),
        Err(error) => println!("compared with the crate only: there is no b3sum ({error})"),
    }
    assert_eq!(signed["root"], root_of_file(&disk));
}

#[test]
fn text_reports_name_the_root() {
    let place = Place::new();
    let disk = place.noisy("disk.img", MIB, 14);
    let text = String::from_utf8(failback!("sign", disk, "-o", place.path("disk.sig")).done()).unwrap();
    assert!(text.starts_with(&format!("root             {}\n", root_of_file(&disk))), "{text}");
}

#[test]
fn content_is_compressed_unless_it_is_not_to_be() {
    let place = Place::new();
    let (old, new) = (place.sparse("old.img", 3 << 20, &[]), place.file("new.img", &vec![b'x'; 3 * MIB]));
    let signature = place.signature("old.sig", &old, "4K");
    let length = |compression: &str| {
        let delta = place.path(compression);
        failback!("diff", "--base", signature, new, "-o", delta, "--compression", compression).json();
        assert_eq!(failback!("inspect", delta).json()["result_root"], root_of_file(&new));
        fs::metadata(delta).unwrap().len()
    };
    let (off, lightest, hardest) = (length("off"), length("1"), length("19"));
    assert!(off > 3 << 20 && lightest < 300_000 && hardest < 300_000, "{off} {lightest} {hardest}");
    failback!("apply", place.path("off"), old, "--yes", "--verify").done();
    assert_eq!(root_of_file(&old), root_of_file(&new));
}
