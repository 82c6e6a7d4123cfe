//! A source that is written while it is read is no state of a disk: refused, or taken as fuzzy and called so.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_tests::failback;
use failback_tests::lab::{Loop, Mount, Place, is_inside, lone, noise, run_inside, tool};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Large enough that the output does not fit into a pipe: who does not read it holds the program up.
const SIZE: usize = 96 << 20;

/// Runs a call that writes to standard output; once it has begun, writes a byte to `disk`.
fn written_meanwhile(call: &failback_tests::lab::Program, disk: &Path) -> failback_tests::lab::Run {
    let mut running = call.start();
    let mut stdout = running.stdout();
    let mut start = [0; 16];
    stdout.read_exact(&mut start).unwrap();
    let file = File::options().write(true).open(disk).unwrap();
    file.write_all_at(b"changed", 77).unwrap();
    file.sync_all().unwrap();
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    let mut run = running.finish();
    run.stdout = [&start[..], &rest].concat();
    run
}

#[test]
fn an_image_that_is_written_meanwhile_is_refused() {
    let place = Place::new();
    let disk = place.noisy("disk.img", SIZE, 1);
    let run = written_meanwhile(&failback!("sign", disk, "-o", "-"), &disk);
    assert_eq!(run.code, 3, "{}", run.stderr);
    assert!(run.sentence().contains("was written to while it was read"), "{}", run.stderr);
    // What went out is no delta: its end is missing.
    let base = place.signature("small.sig", &place.noisy("small.img", 4096, 2), "4K");
    let run = written_meanwhile(&failback!("diff", "--base", base, disk, "-o", "-"), &disk);
    assert_eq!(run.code, 3, "{}", run.stderr);
    let delta = place.file("half.delta", &run.stdout);
    failback!("inspect", delta).fails(6, "it was cut off");
}

#[test]
fn fuzzy_takes_it_as_it_is() {
    let place = Place::new();
    let disk = place.noisy("disk.img", SIZE, 3);
    let run = written_meanwhile(&failback!("sign", disk, "-o", "-", "--fuzzy"), &disk);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let signature = place.file("fuzzy.sig", &run.stdout);
    assert_eq!(failback!("inspect", signature).json()["kind"], "fuzzy");
    assert_eq!(failback!("sign", disk, "-o", place.path("b.sig"), "--fuzzy").json()["kind"], "fuzzy");
}

#[test]
fn a_device_that_is_written_meanwhile_is_refused() {
    let Some(_lone) = lone() else { return };
    let place = Place::new();
    let device = Loop::attach(&place.noisy("disk.img", SIZE, 4), &[]);
    let run = written_meanwhile(&failback!("sign", device.path, "-o", "-"), &device.path);
    assert_eq!(run.code, 3, "{}", run.stderr);
    assert!(run.sentence().contains("was written to while it was read"), "{}", run.stderr);
}

/// What another program wrote, and has not closed yet, lies in the page cache: reading writes it back, and that is the
/// same content.
#[test]
fn a_device_with_unwritten_pages_is_at_rest() {
    let Some(_lone) = lone() else { return };
    let place = Place::new();
    let device = Loop::attach(&place.noisy("disk.img", 8 << 20, 5), &[]);
    let file = File::options().write(true).open(&device.path).unwrap();
    file.write_all_at(&noise(100_000, 6), 4 << 20).unwrap();
    let signed = failback!("sign", device.path, "-o", place.path("a.sig")).json();
    assert_eq!(signed["root"], failback_tests::lab::root_of_file(&device.path));
    drop(file);
}

#[test]
fn a_writable_mount_makes_it_fuzzy() {
    if is_inside() {
        let Some(_lone) = lone() else { return };
        let place = Place::new();
        let device = Loop::attach(&place.sparse("disk.img", 32 << 20, &[]), &[]);
        tool("mkfs.ext4", &["-q".as_ref(), device.path.as_os_str()]);
        let at = place.directory("mnt");
        let (signature, delta) = (place.path("a.sig"), place.path("a.delta"));
        {
            let _mount = Mount::device(&device.path, &at, "rw");
            let run = failback!("sign", device.path, "-o", signature).run();
            assert_eq!(run.code, 0, "{}", run.stderr);
            assert!(run.stderr.contains(&format!("is mounted at {}", at.display())), "{}", run.stderr);
            assert_eq!(failback!("inspect", signature).json()["kind"], "fuzzy");
            let diffed = failback!("diff", "--base", signature, device.path, "-o", delta).json();
            assert_eq!(diffed["kind"], "fuzzy");
        }
        let _mount = Mount::device(&device.path, &at, "ro");
        assert_eq!(failback!("sign", device.path, "-o", signature).json()["kind"], "crash");
    } else if let Some(_lone) = lone() {
        run_inside("a_writable_mount_makes_it_fuzzy");
    }
}
