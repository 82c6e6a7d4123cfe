//! What scripts rely on: the names in JSON reports, exit codes, help, man pages, completions; and output that cannot be
//! written.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_tests::failback;
use failback_tests::lab::{Place, root_of_file, try_tool};
use serde_json::Value;
use std::fs::{self, File};
use std::process::Stdio;

const VERBS: [&str; 28] = [
    "disks",
    "scan",
    "sign",
    "diff",
    "inspect",
    "plan",
    "apply",
    "send",
    "status",
    "resume",
    "undo",
    "commit",
    "point",
    "verify",
    "vmdk",
    "pair",
    "group",
    "serve",
    "receive",
    "relay",
    "enroll",
    "jobs",
    "state",
    "check",
    "console",
    "support-bundle",
    "completions",
    "man",
];
/// What `point` can do.
const POINT_VERBS: [&str; 8] = ["list", "show", "rollback", "pin", "unpin", "prune", "export", "serve"];
/// What `vmdk` can do.
const VMDK_VERBS: [&str; 4] = ["info", "check", "create", "convert"];
/// What the verbs of the control plane can do.
const CONTROL_VERBS: [(&str, &[&str]); 4] = [
    ("pair", &["add", "list", "show", "remove", "turn"]),
    ("group", &["add", "list", "show", "remove"]),
    ("enroll", &["token", "join", "list", "revoke", "show", "certificate"]),
    ("state", &["backup", "restore"]),
];

const SCAN: &str = "bytes_skipped bytes_total bytes_used disks";
const SCAN_DISK: &str = "bytes_free bytes_skipped bytes_used content identity moving name scsi_uuid sector_size size";
const SIGN: &str =
    "block_size bytes_free bytes_hole bytes_read coverage disk engine kind output_bytes root seconds size";
const DIFF: &str = "base_coverage base_root base_size block_size bytes_data bytes_free bytes_hole bytes_read bytes_zero \
                    changed_blocks delta_bytes engine kind result_coverage result_root result_size seconds source";
const INSPECT_SIGNATURE: &str = "block_size coverage created file_bytes kind proven root size source_file_systems source_name \
     source_partition_table source_scsi_uuid what";
const INSPECT_DELTA: &str = "base_coverage base_root base_size block_size bytes_data bytes_free bytes_stored bytes_zero created \
                             extents file_bytes frames kind proven result_coverage result_root result_size signed_by \
                             source_file_systems source_name source_partition_table source_scsi_uuid what";
const PLAN: &str = "base_coverage base_root base_size bytes_free bytes_hole bytes_in_place bytes_to_keep bytes_to_read bytes_to_write bytes_to_zero \
                    disk disk_size extents finishes_interrupted_apply kind refusals result_coverage result_root result_size \
                    retention_available seconds_estimated signed_by torn zeroes_free";
const APPLY: &str = "already_in_place base_coverage base_root bytes_free bytes_free_zeroed bytes_hole bytes_in_place bytes_read bytes_written \
                     bytes_zeroed delta_bytes disk engine kind point proven result_coverage result_root result_size resumed \
                     retention_bytes retention_content_bytes seconds torn_rewritten verified_bytes_read";
const STATUS: &str = "base_root disk next record result_root started state window_bytes window_start";
const VERIFY: &str = "bytes_different bytes_free bytes_hole bytes_read coverage differences disk engine expected_root matches proven root \
                      seconds size";

#[track_caller]
fn has_names(report: &Value, names: &str) {
    let mut found: Vec<_> = report.as_object().unwrap().keys().map(String::as_str).collect();
    found.sort_unstable();
    let mut wanted: Vec<_> = names.split_ascii_whitespace().collect();
    wanted.sort_unstable();
    assert_eq!(found, wanted);
}

#[test]
fn reports_have_the_names_that_scripts_know() {
    let place = Place::new();
    let (old, new) = (place.noisy("old.img", 100_000, 1), place.noisy("new.img", 100_000, 2));
    let (signature, delta) = (place.path("old.sig"), place.path("new.delta"));
    let scan = failback!("scan", old).json();
    has_names(&scan, SCAN);
    has_names(&scan["disks"][0], SCAN_DISK);
    has_names(&failback!("sign", old, "-o", signature).json(), SIGN);
    has_names(&failback!("diff", "--base", signature, new, "-o", delta).json(), DIFF);
    has_names(&failback!("inspect", signature).json(), INSPECT_SIGNATURE);
    has_names(&failback!("inspect", delta).json(), INSPECT_DELTA);
    has_names(&failback!("plan", delta, old).json(), PLAN);
    has_names(&failback!("status", old).json(), STATUS);
    has_names(&failback!("apply", delta, old, "--yes").json(), APPLY);
    has_names(&failback!("verify", old, "--root", root_of_file(&new)).json(), VERIFY);
    has_names(&failback!("verify", old, "--signature", signature).json_of(4), VERIFY);
}

#[test]
fn a_report_holds_numbers_and_roots_not_prose() {
    let place = Place::new();
    let disk = place.noisy("disk with a space.img", 100_000, 3);
    let report = failback!("sign", disk, "-o", place.path("a.sig")).json();
    assert_eq!(report["disk"], disk.to_str().unwrap());
    assert_eq!((&report["kind"], &report["coverage"]), (&"crash".into(), &"whole".into()));
    assert_eq!(report["root"].as_str().unwrap().len(), 64);
    assert!(report["seconds"].as_f64().unwrap() > 0.0);
    let status = failback!("status", disk).json();
    assert_eq!((&status["state"], &status["next"]), (&"at-rest".into(), &Value::Null));
}

#[test]
fn short_help_fits_on_a_screen() {
    for verb in std::iter::once(None).chain(VERBS.map(Some)) {
        let call = verb.map_or_else(|| failback!("-h"), |verb| failback!(verb, "-h"));
        let text = String::from_utf8(call.done()).unwrap();
        // The verbs are many, and so is what can be said to some of them.
        let most = match verb {
            None => 46,
            Some("send" | "relay") => 36,
            Some("apply" | "verify" | "serve" | "receive") => 32,
            Some(_) => 24,
        };
        assert!(text.lines().count() <= most, "{verb:?} has {} lines\n{text}", text.lines().count());
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{verb:?}: {line}");
        }
    }
}

#[test]
fn help_tells_the_exit_codes() {
    let text = String::from_utf8(failback!("--help").done()).unwrap();
    for code in
        ["0 done", "2 wrong usage", "3 refused", "4 content", "5 input or output", "6 damaged", "130 interrupted"]
    {
        assert!(text.contains(code), "{code}\n{text}");
    }
    for verb in VERBS {
        assert!(text.contains(&format!("\n  {verb} ")), "{verb}\n{text}");
    }
}

#[test]
fn every_verb_has_a_man_page() {
    let place = Place::new();
    failback!("man", place.root()).done();
    let mut wanted: Vec<_> = VERBS.iter().map(|verb| format!("failback-{verb}.1")).collect();
    wanted.extend(VMDK_VERBS.iter().map(|verb| format!("failback-vmdk-{verb}.1")));
    wanted.extend(POINT_VERBS.iter().map(|verb| format!("failback-point-{verb}.1")));
    for (verb, parts) in CONTROL_VERBS {
        wanted.extend(parts.iter().map(|part| format!("failback-{verb}-{part}.1")));
    }
    wanted.push("failback.1".into());
    wanted.sort();
    assert_eq!(place.names(), wanted);
    for name in wanted {
        let page = place.path(&name);
        let text = fs::read_to_string(&page).unwrap();
        for section in [".SH NAME", ".SH SYNOPSIS"] {
            assert!(text.contains(section), "{name} has no {section}");
        }
        match std::process::Command::new("groff").args(["-man", "-Tutf8", "-ww", "-z"]).arg(&page).output() {
            Ok(output) => assert!(output.stderr.is_empty(), "{name}: {}", String::from_utf8_lossy(&output.stderr)),
            Err(error) => println!("the pages' markup was not checked: there is no groff ({error})"),
        }
    }
}

#[test]
fn completions_are_scripts() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = place.file(shell, &failback!("completions", shell).done());
        let text = fs::read_to_string(&script).unwrap();
        assert!(VERBS.iter().all(|verb| text.contains(verb)), "{shell}");
        if shell == "bash" {
            let checked = try_tool("bash", &["-n".as_ref(), script.as_os_str()]);
            assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
        }
    }
}

/// The log's file system is full, or whoever read the log has gone: the disk is more important.
#[test]
fn a_log_that_cannot_be_written_stops_nothing() {
    let place = Place::new();
    let (old, new) = (place.noisy("old.img", 100_000, 4), place.noisy("new.img", 100_000, 5));
    let delta = place.delta("d", &old, &new, "4K");
    let mut command = failback!("apply", delta, old, "--yes").command();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let status = command.stderr(full).stdout(Stdio::null()).stdin(Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(0));
    assert_eq!(root_of_file(&old), root_of_file(&new));
    // An error that nobody can be told still has its code.
    let mut command = failback!("apply", place.path("missing"), old, "--yes").command();
    let full = File::options().write(true).open("/dev/full").unwrap();
    assert_eq!(command.stderr(full).stdin(Stdio::null()).status().unwrap().code(), Some(3));
}

#[test]
fn standard_output_that_cannot_be_written_is_told() {
    let place = Place::new();
    let disk = place.noisy("disk.img", 100_000, 6);
    let signature = place.path("a.sig");
    for call in [
        failback!("sign", disk, "-o", signature, "--json"),
        failback!("sign", disk, "-o", "-"),
        failback!("inspect", place.signature("b.sig", &disk, "4K")),
        failback!("completions", "bash"),
    ] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = call.command().stdout(full).stdin(Stdio::null()).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(5), "{told}");
        assert!(told.starts_with("failback: cannot write "), "{told}");
    }
    // The signature itself was complete before its report could not be printed.
    failback!("verify", disk, "--signature", signature).done();
}

#[test]
fn a_reader_that_goes_away_is_no_error_of_a_report() {
    let place = Place::new();
    let disk = place.noisy("disk.img", 100_000, 7);
    for call in [failback!("status", disk), failback!("completions", "bash")] {
        let mut running = call.start();
        drop(running.stdout());
        assert_eq!(running.finish().code, 0);
    }
    // Of a delta it is: the delta is not complete.
    let large = place.noisy("large.img", 8 << 20, 8);
    let mut running = failback!("sign", large, "-o", "-").start();
    drop(running.stdout());
    let run = running.finish();
    assert_eq!(run.code, 5, "{}", run.stderr);
}
