//! The verb check on this machine: names, levels and exit codes that scripts rely on.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_machine::CHECKS;
use failback_tests::failback;
use failback_tests::lab::{Hung, Loop, Mount, Place, has_fuse, has_programs, is_inside, lone, run_inside, tool};
use serde_json::Value;
use std::time::{Duration, Instant};

/// Whether a check says something also where all is well.
fn always_tells(name: &str) -> bool {
    name != "start"
}

/// Runs it with this configuration; the report, whose exit code was looked at.
fn report(place: &Place, configuration: &str) -> Value {
    let file = place.file("failback.toml", configuration.as_bytes());
    let run = failback!("check", "--json").env("FAILBACK_CONFIG", file).run();
    let report: Value = serde_json::from_slice(&run.stdout).unwrap();
    let wanted = if report["result"] == "fail" { 3 } else { 0 };
    assert_eq!(run.code, wanted, "{report:#}\n{}", run.stderr);
    report
}

/// The first finding of a check.
fn finding(report: &Value, name: &str) -> Value {
    report["checks"].as_array().unwrap().iter().find(|found| found["check"] == name).unwrap().clone()
}

#[test]
fn the_names_that_scripts_know() {
    let place = Place::new();
    let report = report(&place, "");
    let mut names: Vec<_> = report.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["checks", "failures", "result", "warnings"]);
    let found = report["checks"].as_array().unwrap();
    let mut order: Vec<_> = found.iter().map(|found| found["check"].as_str().unwrap()).collect();
    order.dedup();
    order.retain(|name| always_tells(name));
    assert_eq!(order, CHECKS.into_iter().filter(|name| always_tells(name)).collect::<Vec<_>>());
    for found in found {
        let mut names: Vec<_> = found.as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["check", "fix", "level", "message"]);
        assert_eq!(found["fix"].is_null(), found["level"] == "ok", "{found}");
    }
    let count = |level| found.iter().filter(|found| found["level"] == level).count();
    assert_eq!((&report["failures"], &report["warnings"]), (&count("fail").into(), &count("warn").into()));
}

#[test]
fn a_line_for_each_and_a_fix_below() {
    let place = Place::new();
    let file = place.file("failback.toml", b"[retention]\ndirectory = '/nonexistent/retention'\n");
    let run = failback!("check").env("FAILBACK_CONFIG", file).run();
    let text = String::from_utf8(run.stdout).unwrap();
    assert_eq!(run.code, 3, "{text}");
    let mut lines = text.lines().skip_while(|line| !line.starts_with("FAIL  retention"));
    assert!(lines.next().unwrap().ends_with("the retention directory /nonexistent/retention is not there"), "{text}");
    assert!(lines.next().unwrap().trim_start().starts_with("=> mount the retention drive"), "{text}");
    assert!(CHECKS.into_iter().filter(|name| always_tells(name)).all(|name| text.contains(name)), "{text}");
}

#[test]
fn a_configuration_that_is_wrong_is_found() {
    let place = Place::new();
    let report = report(&place, "[retention]\nkeep_point = 3\n");
    let found = finding(&report, "retention");
    assert_eq!(found["level"], "fail");
    assert!(found["message"].as_str().unwrap().contains("in line 2"), "{found}");
    let limits = "[retention]\ndirectory = '/nonexistent'\nkeep_for = 'soon'\n";
    let found = finding(&self::report(&place, limits), "retention");
    assert_eq!(found["level"], "fail");
    let message = found["message"].as_str().unwrap();
    assert_eq!(message, "keep_for in the configuration: write it like 90s, 15m, 36h or 7d");
    let (disk, configuration) = (place.sparse("disk.img", 1 << 20, &[]), place.path("failback.toml"));
    let delta = place.delta("d", &disk, &place.sparse("result.img", 1 << 20, &[(0, b"other")]), "4K");
    failback!("apply", delta, disk, "--yes").env("FAILBACK_CONFIG", configuration).refused(message);
}

#[test]
fn a_retention_drive_is_looked_at() {
    if !is_inside() {
        let Some(_lock) = lone() else { return };
        return run_inside("a_retention_drive_is_looked_at");
    }
    let place = Place::new();
    let image = place.sparse("drive.img", 64 << 20, &[]);
    let device = Loop::attach(&image, &[]);
    tool("mke2fs", &["-q", device.path.to_str().unwrap()]);
    let at = place.directory("retention");
    let configuration = format!("[retention]\ndirectory = '{}'\n", at.display());
    let level = || finding(&report(&place, &configuration), "retention");
    let mounted = Mount::device(&device.path, &at, "rw");
    let found = level();
    assert_eq!(found["level"], "ok", "{found}");
    assert!(found["message"].as_str().unwrap().contains(device.path.to_str().unwrap()), "{found}");
    drop(mounted);
    let mounted = Mount::device(&device.path, &at, "ro");
    assert!(level()["message"].as_str().unwrap().ends_with("cannot be written to"));
    drop(mounted);
    let mounted = Mount::memory(&at, "16M");
    let found = level();
    assert!(found["message"].as_str().unwrap().contains("lies in memory (tmpfs)"), "{found}");
    drop(mounted);
}

#[test]
fn a_port_that_is_taken_is_told_with_its_program() {
    // Whose it is does not matter, but somebody who has it for a moment may let go of it while it is looked at.
    let began = Instant::now();
    let _listener = loop {
        let listener = std::net::TcpListener::bind("127.0.0.1:9443");
        if listener.is_ok() || began.elapsed() > Duration::from_secs(30) {
            break listener;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    let place = Place::new();
    // Port 443 may be taken too, and comes first.
    let report = report(&place, "");
    let found = report["checks"].as_array().unwrap().iter().filter(|found| found["check"] == "ports");
    let told: Vec<_> = found.filter(|found| found["message"].as_str().unwrap().starts_with("port 9443 ")).collect();
    assert_eq!(told.len(), 1, "{report:#}");
    assert_eq!(told[0]["level"], "warn");
    assert!(told[0]["message"].as_str().unwrap().starts_with("port 9443 is taken by "), "{}", told[0]);
}

/// A process that waits in the kernel for a dead disk cannot be killed, nor can one end that has a thread which does.
#[test]
fn what_never_answers_fails_and_this_ends_all_the_same() {
    if !is_inside() {
        if !has_fuse() || !has_programs(&["nbdkit", "nbdfuse"]) {
            return;
        }
        let Some(_lock) = lone() else { return };
        return run_inside("what_never_answers_fails_and_this_ends_all_the_same");
    }
    let place = Place::new();
    let hung = Hung::new(&place, &place.file("failback.toml", b"[retention]\ndirectory = '/mnt'\n"));
    let started = Instant::now();
    let run = failback!("check").env("FAILBACK_CONFIG", hung.at.join("failback.toml")).run();
    assert!(started.elapsed() < Duration::from_secs(55), "{:?}", started.elapsed());
    let text = String::from_utf8(run.stdout).unwrap();
    assert_eq!(run.code, 3, "{text}");
    for name in ["disk-uuid", "controllers", "retention", "foreign-disks"] {
        let line = format!("FAIL  {name:14}  no answer after 30 s from the configuration\n");
        assert!(text.contains(&line), "{name}: {text}");
    }
    assert!(text.contains("=> see what the kernel says of it (`dmesg`)"), "{text}");
    assert!(text.contains("  kernel          Linux ") && text.matches("no answer").count() == 4, "{text}");
    let left = Hung::looks();
    assert!(left.iter().any(|line| line.starts_with('D')), "nothing waited as for a dead disk: {left:?}");
    hung.end();
}
