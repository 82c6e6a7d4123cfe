//! What is not what it should be is refused with a sentence and an exit code, and the target stays as it is.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_tests::failback;
use failback_tests::lab::{Place, Program, Unchanged, has_devices, noise, tool};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const SIZE: usize = 1 << 20;

struct Job {
    place: Place,
    signature: PathBuf,
    delta: PathBuf,
    target: PathBuf,
}

fn job() -> Job {
    let place = Place::new();
    let (target, result) = (place.noisy("target.img", SIZE, 1), place.noisy("result.img", SIZE, 2));
    let delta = place.delta("d", &target, &result, "64K");
    let signature = place.path("d.base.sig");
    Job { place, signature, delta, target }
}

impl Job {
    /// A damaged delta: every verb that reads it says so, and apply writes nothing, from a file or a pipe.
    fn damaged(&self, delta: &[u8], words: &str) {
        let untouched = Unchanged::since(&self.target);
        let file = self.place.file("bad.delta", delta);
        failback!("apply", file, self.target, "--yes").fails(6, words);
        failback!("plan", file, self.target).fails(6, words);
        untouched.check();
        assert!(!self.place.names().iter().any(|name| name.contains("intent")));
    }
}

#[test]
fn a_delta_that_was_cut_off() {
    let job = job();
    let delta = fs::read(&job.delta).unwrap();
    for length in [0, 1, 7, 8, 111, 112, 150, 4000, delta.len() / 2, delta.len() - 217, delta.len() - 1] {
        job.damaged(&delta[..length], "");
    }
    job.damaged(&delta[..delta.len() - 1], "it was cut off, so copy or make it again");
    let file = job.place.file("cut.delta", &delta[..delta.len() / 2]);
    failback!("inspect", file).fails(6, "it was cut off");
}

#[test]
fn a_delta_with_one_wrong_byte() {
    let job = job();
    let delta = fs::read(&job.delta).unwrap();
    for at in [8, 16, 40, 80, 100, 112, 130, 500, 5000, delta.len() / 2, delta.len() - 200, delta.len() - 1] {
        let mut damaged = delta.clone();
        damaged[at] ^= 0x10;
        job.damaged(&damaged, "");
        let file = job.place.file("bad.delta", &damaged);
        failback!("inspect", file).fails(6, "");
    }
    // Through a pipe the first frame already shows it.
    let mut damaged = delta.clone();
    damaged[delta.len() / 2] ^= 0x10;
    let untouched = Unchanged::since(&job.target);
    failback!("apply", "-", job.target, "--yes").fed(damaged).fails(6, "is damaged (frame 0");
    untouched.check();
}

#[test]
fn bytes_behind_the_end() {
    let job = job();
    let delta = fs::read(&job.delta).unwrap();
    job.damaged(&[&delta[..], b"x"].concat(), "");
    job.damaged(&[&delta[..], &delta[..]].concat(), "");
}

#[test]
fn another_version_is_named() {
    let job = job();
    let mut delta = fs::read(&job.delta).unwrap();
    delta[8] = 2;
    job.damaged(&delta, "version 2, and this program knows only version 1: use a newer failback");
    let mut signature = fs::read(&job.signature).unwrap();
    signature[8] = 2;
    let signature = job.place.file("new.sig", &signature);
    let output = job.place.path("out.delta");
    failback!("diff", "--base", signature, job.target, "-o", output).fails(6, "use a newer failback");
    failback!("verify", job.target, "--signature", signature).fails(6, "use a newer failback");
    failback!("inspect", signature).fails(6, "use a newer failback");
    assert!(!output.exists());
}

#[test]
fn one_kind_of_file_for_the_other() {
    let job = job();
    job.damaged(&fs::read(&job.signature).unwrap(), "this is not a failback delta: check the file name");
    job.damaged(&fs::read(&job.target).unwrap(), "this is not a failback delta: check the file name");
    let output = job.place.path("out.delta");
    for wrong in [&job.delta, &job.target] {
        let words = "this is not a failback signature: check the file name";
        failback!("diff", "--base", wrong, job.target, "-o", output).fails(6, words);
        failback!("verify", job.target, "--signature", wrong).fails(6, words);
    }
    failback!("inspect", job.target).refused("neither a signature nor a delta");
    assert!(!output.exists());
}

#[test]
fn a_signature_with_one_wrong_byte() {
    let job = job();
    let signature = fs::read(&job.signature).unwrap();
    for at in [12, 20, 70, 85, 200, 300, signature.len() - 100, signature.len() - 1] {
        let mut damaged = signature.clone();
        damaged[at] ^= 1;
        let file = job.place.file("bad.sig", &damaged);
        let output = job.place.path("out.delta");
        failback!("diff", "--base", file, job.target, "-o", output).fails(6, "");
        failback!("verify", job.target, "--signature", file).fails(6, "");
        assert!(!output.exists() && !job.place.names().iter().any(|name| name.contains("partial")));
    }
}

/// Every verb that takes a disk, with `disk` as it.
fn each_disk(job: &Job, disk: &Path, words: &str) {
    let output = job.place.path("out");
    failback!("sign", disk, "-o", output).refused(words);
    failback!("diff", "--base", job.signature, disk, "-o", output).refused(words);
    failback!("plan", job.delta, disk).refused(words);
    failback!("apply", job.delta, disk, "--yes", "--no-undo").refused(words);
    failback!("verify", disk, "--signature", job.signature).refused(words);
    failback!("status", disk).refused(words);
    assert!(!output.exists());
}

#[test]
fn what_is_no_disk() {
    let job = job();
    each_disk(&job, job.place.root(), "is a directory: name a block device");
    each_disk(&job, Path::new("/dev/null"), "is a character device");
    each_disk(&job, Path::new("/dev/zero"), "is a character device");
    each_disk(&job, &job.place.path("missing.img"), "does not exist: check the name, or attach the disk first");
    let fifo = job.place.path("fifo");
    tool("mkfifo", &[&fifo]);
    each_disk(&job, &fifo, "is a FIFO");
    let link = job.place.path("dangling");
    symlink("nowhere", &link).unwrap();
    each_disk(&job, &link, "does not exist");
}

#[test]
fn what_is_no_file_of_ours() {
    let job = job();
    let fifo = job.place.path("fifo");
    tool("mkfifo", &[&fifo]);
    let untouched = Unchanged::since(&job.target);
    for wrong in [job.place.root(), Path::new("/dev/null"), Path::new("/dev/zero"), &fifo] {
        let output = job.place.path("out.delta");
        failback!("apply", wrong, job.target, "--yes").refused("is no regular file");
        failback!("plan", wrong, job.target).refused("is no regular file");
        failback!("inspect", wrong).refused("is no regular file");
        failback!("diff", "--base", wrong, job.target, "-o", output).refused("is no regular file");
        failback!("verify", job.target, "--signature", wrong).refused("is no regular file");
        assert!(!output.exists());
    }
    let missing = job.place.path("missing");
    failback!("apply", missing, job.target, "--yes").refused("missing does not exist: check the name");
    failback!("inspect", missing).refused("does not exist");
    untouched.check();
}

/// Runs a call as nobody, who has a copy of the program that may be run by all.
fn as_nobody(place: &Place, call: &Program) -> (Option<i32>, String) {
    let command = call.command();
    let program = place.path("failback");
    fs::copy(command.get_program(), &program).unwrap();
    fs::set_permissions(place.root(), Permissions::from_mode(0o755)).unwrap();
    let output = Command::new(program).args(command.get_args()).uid(65_534).gid(65_534).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn what_may_not_be_read_or_written() {
    // Only root can become nobody.
    if !has_devices() {
        return;
    }
    let job = job();
    let untouched = Unchanged::since(&job.target);
    let (place, target) = (&job.place, &job.target);
    let told = |call: &Program, code: i32, words: &str| {
        let (found, sentence) = as_nobody(place, call);
        assert_eq!(found, Some(code), "{sentence}");
        assert!(sentence.contains(words), "{sentence}");
    };
    told(&failback!("apply", job.delta, target, "--yes"), 3, "not writable for this user: become root");
    told(&failback!("sign", target, "-o", place.path("out.sig")), 5, "Permission denied");
    fs::set_permissions(&job.delta, Permissions::from_mode(0o600)).unwrap();
    told(&failback!("inspect", job.delta), 5, "Permission denied");
    untouched.check();
    fs::set_permissions(target, Permissions::from_mode(0o600)).unwrap();
    told(&failback!("verify", target, "--signature", job.signature), 3, "this user may not open");
    assert!(!place.path("out.sig").exists());
}

#[test]
fn an_output_replaces_only_its_like() {
    let job = job();
    let image = job.place.noisy("precious.img", 5000, 3);
    let sparse = job.place.sparse("empty.img", 1 << 20, &[]);
    let fifo = job.place.path("fifo");
    tool("mkfifo", &[&fifo]);
    let guards = [&image, &sparse, &job.target, &job.delta].map(|path| Unchanged::since(path));
    for wrong in [&image, &sparse, &job.target, &job.delta, &fifo] {
        failback!("sign", job.target, "-o", wrong).refused("name a new file for the signature with -o");
    }
    for wrong in [&image, &sparse, &job.target, &job.signature, &fifo] {
        let diff = failback!("diff", "--base", job.signature, job.target, "-o", wrong);
        diff.refused("name a new file for the delta with -o");
    }
    failback!("sign", job.target, "-o", job.place.root()).refused("is no regular file: name a new file");
    for device in ["/dev/null", "/dev/full"] {
        // By another name, so that a failure of this test costs the machine nothing.
        let link = job.place.path(&device[5..]);
        symlink(device, &link).unwrap();
        failback!("sign", job.target, "-o", link).refused("is a device: name a new file");
    }
    let link = job.place.path("link");
    symlink(&image, &link).unwrap();
    failback!("sign", job.target, "-o", link).refused("there already and is no signature");
    guards.iter().for_each(Unchanged::check);
    // An older one of the same kind, and an empty file, are replaced.
    let older = job.place.signature("older.sig", &image, "4K");
    failback!("sign", job.target, "-o", older).done();
    failback!("verify", job.target, "--signature", older).done();
    failback!("sign", job.target, "-o", job.place.file("new.sig", b"")).done();
}

#[test]
fn an_output_that_cannot_be_made() {
    let job = job();
    let nowhere = job.place.path("missing/out.sig");
    failback!("sign", job.target, "-o", nowhere).fails(5, "cannot create");
    failback!("man", job.place.path("missing")).fails(5, "cannot write man pages");
}

#[test]
fn wrong_words_on_the_command_line() {
    let job = job();
    let output = job.place.path("out.sig");
    failback!("sign", job.target).misused();
    failback!("sign", job.target, "-o", output, "--block-size", "3K").misused();
    failback!("sign", job.target, "-o", output, "--block-size", "2M").misused();
    failback!("sign", job.target, "-o", output, "--engine", "mmap").misused();
    failback!("diff", job.target, "-o", output).misused();
    for compression in ["20", "0", "adaptive", "none"] {
        failback!("diff", "--base", job.signature, job.target, "-o", output, "--compression", compression).misused();
    }
    failback!("apply", job.delta).misused();
    failback!("reply").misused();
    assert!(!output.exists());
}

/// A key that is none, and a delta whose every byte is noise: no panic, no endless memory.
#[test]
fn noise_in_place_of_a_delta() {
    let job = job();
    let mut delta = fs::read(&job.delta).unwrap();
    let len = delta.len();
    delta[112..].copy_from_slice(&noise(len - 112, 4));
    job.damaged(&delta, "");
}
