//! Block devices: sectors of both sizes, partitions, and what must not be written.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_tests::failback;
use failback_tests::lab::{Loop, Place, Unchanged, changed, hash, hash_of, lone, noise, root_of_file};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

const SIZE: usize = 4 << 20;

/// From base to result on `device`, which holds `base`; whole disk and back.
fn round_trip(place: &Place, device: &Path, base: &[u8], result: &[u8], engine: &str) {
    let (signature, delta) = (place.path("device.sig"), place.path("new.delta"));
    let state = place.path("state");
    let new = place.file("new.img", result);
    let signed = failback!("sign", device, "-o", signature, "--engine", engine).json();
    assert_eq!((&signed["root"], &signed["kind"]), (&hash(base).into(), &"crash".into()));
    failback!("diff", "--base", signature, new, "-o", delta, "--engine", engine).json();
    let plan = failback!("plan", delta, device, "--state", state, "--engine", engine).json();
    assert_eq!(plan["refusals"].as_array().unwrap().len(), 0);
    let apply = failback!("apply", delta, device, "--yes", "--no-undo", "--verify", "--state", state);
    let applied = apply.arg("--engine").arg(engine).json();
    assert_eq!(applied["proven"], "whole disk read");
    assert_eq!(hash_of(device, Some(result.len() as u64)), hash(result));
    let size = result.len().to_string();
    failback!("verify", device, "--root", hash(result), "--size", size, "--engine", engine).done();
    assert_eq!(fs::read_dir(&state).unwrap().count(), 0, "a record was left behind");
    // The other way: the device as source.
    let back = place.path("back.delta");
    let sign_new = place.signature("new.sig", &new, "4K");
    failback!("diff", "--base", sign_new, device, "-o", back, "--engine", engine).json();
}

fn devices_with(options: &[&str]) {
    let Some(_lone) = lone() else { return };
    let place = Place::new();
    for (engine, seed) in [("io_uring", 1), ("blocking", 2)] {
        let base = noise(SIZE, seed);
        let device = Loop::attach(&place.file("disk.img", &base), options);
        let result = changed(&base, SIZE, seed + 10);
        round_trip(&place, &device.path, &base, &result, engine);
        // A result that ends within a sector, and one that ends within a block.
        for (length, seed) in [(SIZE - 4096 + 13, seed + 20), (SIZE - 512, seed + 30)] {
            let base = fs::read(&device.path).unwrap();
            let result = changed(&base, length, seed);
            round_trip(&place, &device.path, &base, &result, engine);
            assert!(
                fs::read(&device.path).unwrap()[length..] == base[length..],
                "bytes behind the result were touched"
            );
        }
    }
}

#[test]
fn sectors_of_512_bytes() {
    devices_with(&[]);
}

#[test]
fn sectors_of_4096_bytes() {
    devices_with(&["-b", "4096"]);
}

#[test]
fn direct_loop_devices() {
    devices_with(&["--direct-io=on"]);
}

#[test]
fn a_partition() {
    let Some(_lone) = lone() else { return };
    let place = Place::new();
    let disk = noise(8 << 20, 3);
    let device = Loop::attach(&place.file("disk.img", &disk), &[]);
    // An odd number of sectors: no whole number of blocks.
    let sectors = 4097;
    let partition = device.with_partition(sectors);
    let length = 512 * usize::try_from(sectors).unwrap();
    let (start, end) = (1 << 20, (1 << 20) + length);
    let base = &disk[start..end];
    let result = changed(base, length, 4);
    round_trip(&place, &partition, base, &result, "io_uring");
    let found = fs::read(&device.path).unwrap();
    assert!(found[..start] == disk[..start] && found[start..end] == result && found[end..] == disk[end..]);
}

struct Job {
    place: Place,
    delta: PathBuf,
    image: PathBuf,
}

fn job() -> Job {
    let place = Place::new();
    let (image, result) = (place.noisy("disk.img", SIZE, 5), place.noisy("new.img", SIZE, 6));
    let delta = place.delta("d", &image, &result, "64K");
    Job { place, delta, image }
}

#[test]
fn a_device_needs_the_word_no_undo() {
    let Some(_lone) = lone() else { return };
    let job = job();
    let device = Loop::attach(&job.image, &[]);
    let untouched = Unchanged::since(&device.path);
    let state = job.place.directory("state");
    let sentence = failback!("apply", job.delta, device.path, "--yes", "--state", state).refused("--no-undo");
    assert!(sentence.contains("would be kept nowhere"), "{sentence}");
    failback!("apply", job.delta, device.path, "--no-undo", "--state", state).refused("add --yes");
    untouched.check();
}

#[test]
fn a_link_to_a_device_is_that_device() {
    let Some(_lone) = lone() else { return };
    let job = job();
    let device = Loop::attach(&job.image, &[]);
    let link = job.place.path("by-id");
    symlink(&device.path, &link).unwrap();
    let state = job.place.directory("state");
    let planned = String::from_utf8(failback!("plan", job.delta, link, "--state", state).done()).unwrap();
    assert!(planned.contains(&format!("which is {}", device.path.display())), "{planned}");
    failback!("apply", job.delta, link, "--yes", "--no-undo", "--state", state).done();
    assert_eq!(root_of_file(&device.path), root_of_file(&job.place.path("new.img")));
    assert!(link.is_symlink());
}

#[test]
fn a_write_protected_device_is_refused() {
    let Some(_lone) = lone() else { return };
    let job = job();
    let device = Loop::attach(&job.image, &["--read-only"]);
    let untouched = Unchanged::since(&job.image);
    let state = job.place.directory("state");
    let apply = failback!("apply", job.delta, device.path, "--yes", "--no-undo", "--state", state);
    apply.refused("is read-only: remove the write protection first");
    let planned = failback!("plan", job.delta, device.path, "--state", state).json_of(3);
    assert!(planned["refusals"][0].as_str().unwrap().ends_with("read-only"));
    // Reading it is no matter.
    failback!("verify", device.path, "--root", root_of_file(&job.image)).done();
    untouched.check();
}

#[test]
fn a_device_without_a_medium_is_refused() {
    let Some(_lone) = lone() else { return };
    let job = job();
    let empty = {
        let device = Loop::attach(&job.image, &[]);
        device.path.clone()
    };
    // Any other process may attach the free device: the kernel counts that.
    let counted = Path::new("/sys/block").join(empty.file_name().unwrap()).join("diskseq");
    let attached = || fs::read_to_string(&counted).unwrap();
    for number in 0..100 {
        let before = attached();
        let sign = failback!("sign", empty, "-o", job.place.path(&format!("{number}.sig"))).run();
        if attached() == before && is_empty(&empty) {
            assert!(sign.code == 3 && sign.sentence().contains("holds no medium"), "{sign:?}");
            return;
        }
        thread::sleep(Duration::from_millis(200));
    }
    panic!("{} is never left alone", empty.display());
}

/// Whether nothing is attached to a loop device.
fn is_empty(device: &Path) -> bool {
    !Path::new("/sys/block").join(device.file_name().unwrap()).join("loop").exists()
}

#[test]
fn a_device_is_no_output() {
    let Some(_lone) = lone() else { return };
    let job = job();
    let device = Loop::attach(&job.image, &[]);
    let untouched = Unchanged::since(&device.path);
    let link = job.place.path("link");
    symlink(&device.path, &link).unwrap();
    for output in [&device.path, &link] {
        failback!("sign", job.image, "-o", output).refused("is a device: name a new file");
        let signature = job.place.path("d.base.sig");
        failback!("diff", "--base", signature, job.image, "-o", output).refused("is a device: name a new file");
    }
    untouched.check();
}
