//! The verb support-bundle: what is in the file, what is not, and what is never replaced.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_tests::failback;
use failback_tests::lab::{Hung, Mount, Place, has_fuse, has_programs, is_inside, lone, run_inside, tool};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The names and texts in a bundle, in their order.
fn unpacked(path: &Path) -> Vec<(String, String)> {
    let mut archive = tar::Archive::new(zstd::Decoder::new(File::open(path).unwrap()).unwrap());
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        (name, text)
    });
    entries.collect()
}

#[test]
fn a_file_for_its_owner_with_a_list_of_what_is_in_it() {
    let place = Place::new();
    let file = place.path("support.tar.zst");
    let report = failback!("support-bundle", "-o", file).json();
    let mut names: Vec<_> = report.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["bytes", "file", "missing", "secrets_removed", "texts"]);
    let about = fs::metadata(&file).unwrap();
    assert_eq!(about.permissions().mode() & 0o7777, 0o600);
    assert_eq!(report["bytes"], about.len());
    let found = unpacked(&file);
    assert_eq!(found[0].0, "failback-support/CONTENTS");
    assert_eq!(report["texts"], found.len() - 1);
    let mut sorted: Vec<_> = found[1..].iter().map(|(name, _)| name.clone()).collect();
    sorted.sort();
    assert!(found[1..].iter().map(|(name, _)| name).eq(&sorted), "in the order of their names");
    for name in
        ["proc/version", "state/check.json", "state/disks.json", "state/jobs.json", "state/points.json", "sys/block"]
    {
        assert!(sorted.contains(&format!("failback-support/{name}")), "{name}: {sorted:?}");
        assert!(found[0].1.contains(&format!("  {name}")), "{name} is not in the list");
    }
    assert!(found.iter().map(|(_, text)| text.len()).sum::<usize>() <= 34 << 20);
}

#[test]
fn nothing_is_replaced_and_no_directory_made() {
    let place = Place::new();
    let file = place.file("support.tar.zst", b"another one");
    failback!("support-bundle", "-o", file).refused("is there already");
    assert_eq!(fs::read(&file).unwrap(), b"another one");
    let link = place.path("link");
    std::os::unix::fs::symlink(place.path("elsewhere"), &link).unwrap();
    failback!("support-bundle", "-o", link).refused("is there already");
    failback!("support-bundle", "-o", place.path("none/support.tar.zst")).refused("does not exist");
    assert_eq!(place.names(), ["link", "support.tar.zst"]);
}

#[test]
fn keys_and_passwords_stay_on_the_machine() {
    if !is_inside() {
        let Some(_lock) = lone() else { return };
        return run_inside("keys_and_passwords_stay_on_the_machine");
    }
    let place = Place::new();
    let key = "AAAAC3NzaC1lZDI1NTE5AAAAIKeyOfAnAdministrator";
    let line = format!("quiet failback.sshkey=\"ssh-ed25519 {key} me\" inst.rootpw=hunter2 failback.ip=10.0.0.2/24\n");
    let file = place.file("cmdline", line.as_bytes());
    tool("mount", &["--bind", file.to_str().unwrap(), "/proc/cmdline"]);
    let _bound = Mount::taken(Path::new("/proc/cmdline"));
    let configuration = place.file("failback.toml", b"[retention]\ndirectory = '/nonexistent'\n");
    let bundle = place.path("support.tar.zst");
    failback!("support-bundle", "-o", bundle).env("FAILBACK_CONFIG", configuration).done();
    let found = unpacked(&bundle);
    for (name, text) in &found {
        assert!(!text.contains(key) && !text.contains("hunter2"), "{name}");
    }
    let (_, text) = found.iter().find(|(name, _)| name.ends_with("proc/cmdline")).unwrap();
    assert!(text.contains("failback.ip=10.0.0.2/24"), "{text}");
}

#[test]
fn a_full_disk_leaves_no_half_a_file() {
    if !is_inside() {
        let Some(_lock) = lone() else { return };
        return run_inside("a_full_disk_leaves_no_half_a_file");
    }
    let place = Place::new();
    let at = place.directory("small");
    let _mounted = Mount::memory(&at, "4K");
    failback!("support-bundle", "-o", at.join("support.tar.zst")).fails(5, "cannot write");
    assert_eq!(fs::read_dir(&at).unwrap().count(), 0);
}

#[test]
fn a_signal_leaves_no_half_a_file() {
    for name in ["INT", "TERM", "HUP"] {
        let place = Place::new();
        let file = place.path("support.tar.zst");
        let mut running = failback!("support-bundle", "-o", file).start();
        assert!(running.wait_until(|| !place.names().is_empty()));
        assert!(!file.exists(), "it has another name until it is whole");
        running.signal(name);
        let run = running.finish();
        assert_eq!(run.code, 130, "{}", run.stderr);
        assert!(run.stderr.contains("the unfinished file was removed"), "{}", run.stderr);
        assert_eq!(place.names(), Vec::<String>::new());
    }
}

#[test]
fn a_program_that_is_killed_leaves_the_name_free() {
    let place = Place::new();
    let file = place.path("support.tar.zst");
    let mut running = failback!("support-bundle", "-o", file).start();
    assert!(running.wait_until(|| !place.names().is_empty()));
    running.signal("KILL");
    running.finish();
    assert!(!file.exists());
    failback!("support-bundle", "-o", file).done();
    assert_eq!(unpacked(&file)[0].0, "failback-support/CONTENTS");
    let left = place.names();
    assert!(left.len() == 2 && left.iter().any(|name| name.ends_with(".unfinished")), "{left:?}");
}

#[test]
fn a_file_that_came_meanwhile_is_not_replaced() {
    let place = Place::new();
    let file = place.path("support.tar.zst");
    let mut running = failback!("support-bundle", "-o", file).start();
    assert!(running.wait_until(|| !place.names().is_empty()));
    fs::write(&file, "another one").unwrap();
    let run = running.finish();
    assert!(run.code == 3 && run.stderr.contains("is there already"), "{}", run.stderr);
    assert_eq!(fs::read(&file).unwrap(), b"another one");
    assert_eq!(place.names(), ["support.tar.zst"]);
}

#[test]
fn standard_output_and_what_is_no_name_are_refused() {
    failback!("support-bundle", "-o", "-").refused("name a file with -o");
    failback!("support-bundle", "-o", "..").refused("is there already");
    failback!("support-bundle", "-o", "").misused();
    assert!(!Path::new("-").exists());
}

#[test]
fn a_retention_drive_that_never_answers_is_named_and_all_else_is_there() {
    if !is_inside() {
        if !has_fuse() || !has_programs(&["nbdkit", "nbdfuse"]) {
            return;
        }
        let Some(_lock) = lone() else { return };
        return run_inside("a_retention_drive_that_never_answers_is_named_and_all_else_is_there");
    }
    let place = Place::new();
    let hung = Hung::new(&place, &place.file("old", b"a file"));
    let text = format!("[retention]\ndirectory = '{}'\n", hung.at.join("points").display());
    let configuration = place.file("failback.toml", text.as_bytes());
    let bundle = place.path("support.tar.zst");
    let report = failback!("support-bundle", "-o", bundle).env("FAILBACK_CONFIG", configuration).json();
    let found = unpacked(&bundle);
    let why = format!("no answer after 30 s from the retention drive at {}", hung.at.join("points").display());
    assert!(found[0].1.contains(&format!("  state/points.json ({why})\n")), "{}", found[0].1);
    let missing = report["missing"].as_array().unwrap();
    assert!(missing.contains(&format!("state/points.json: {why}").into()), "{report}");
    let text = |name: &str| &found.iter().find(|(found, _)| found.ends_with(name)).unwrap().1;
    assert_eq!(*text("state/points.json"), format!("{why}\n"));
    assert!(text("state/disks.json").contains("\"usable\""), "the disks did answer");
    assert!(text("state/check.json").contains(&why) && text("proc/version").contains("Linux"));
    hung.end();
}
