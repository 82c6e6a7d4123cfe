//! The verb disks on this machine: what it says of loop devices, which the tests can make and use.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_tests::failback;
use failback_tests::lab::{Loop, Mount, Place, is_inside, lone, run_inside, tool};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

const SIZE: u64 = 64 << 20;
const NAMES: &str = "backing guarded holders links logical_block loops model mounts name own partitions path physical_block read_only \
                     refusal same_uuid scsi_address scsi_uuid size swap system transport usable uuid_problem wwid";

fn disk(report: &Value, device: &Loop) -> Value {
    let disks = report["disks"].as_array().unwrap();
    let found = disks.iter().find(|disk| disk["name"] == device.kernel_name());
    found.unwrap_or_else(|| panic!("{} is not listed: {report:#}", device.path.display())).clone()
}

#[test]
fn the_names_that_scripts_know() {
    let Some(_lock) = lone() else { return };
    let place = Place::new();
    let image = place.sparse("disk.img", SIZE, &[]);
    let device = Loop::attach(&image, &["--sector-size", "4096"]);
    device.with_partition(2048);
    let found = disk(&failback!("disks").json(), &device);
    let mut names: Vec<_> = found.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, NAMES.split_ascii_whitespace().collect::<Vec<_>>());
    assert_eq!((&found["size"], &found["logical_block"]), (&SIZE.into(), &4096.into()));
    assert_eq!((&found["partitions"], &found["transport"]), (&1.into(), &"loop".into()));
    assert_eq!(found["backing"], image.to_str().unwrap());
    assert_eq!((&found["scsi_uuid"], &found["uuid_problem"]), (&Value::Null, &Value::Null), "no data disk");
    assert_eq!((&found["usable"], &found["refusal"]), (&true.into(), &Value::Null));
}

#[test]
fn what_apply_would_refuse_is_told() {
    if !is_inside() {
        let Some(_lock) = lone() else { return };
        return run_inside("what_apply_would_refuse_is_told");
    }
    let Some(_lock) = lone() else { return };
    let place = Place::new();
    let image = place.sparse("disk.img", SIZE, &[]);
    let device = Loop::attach(&image, &[]);
    tool("mke2fs", &["-q", device.path.to_str().unwrap()]);
    let at = place.directory("mnt");
    let mount = Mount::device(&device.path, &at, "ro");
    let found = disk(&failback!("disks").json(), &device);
    assert_eq!(found["usable"], false);
    assert_eq!(found["mounts"][0]["at"], at.to_str().unwrap());
    assert_eq!(found["mounts"][0]["writable"], false);
    let result = place.sparse("result.img", SIZE, &[(0, b"other")]);
    let delta = place.delta("d", &image, &result, "4K");
    let sentence = failback!("apply", delta, device.path, "--no-undo", "--yes").refused("mounted at");
    assert_eq!(found["refusal"], sentence, "one sentence, from one place");
    let table = String::from_utf8(failback!("disks").done()).unwrap();
    assert!(
        table.lines().any(|line| line.starts_with(&device.kernel_name()) && line.ends_with("no: mounted")),
        "{table}"
    );
    drop(mount);
    assert_eq!(disk(&failback!("disks").json(), &device)["usable"], true);
}

#[test]
fn a_disk_that_goes_away_is_gone() {
    let Some(_lock) = lone() else { return };
    let place = Place::new();
    let image = place.sparse("disk.img", SIZE, &[]);
    let is_listed = || {
        let report = failback!("disks").json();
        report["disks"].as_array().unwrap().iter().any(|disk| disk["backing"] == image.to_str().unwrap())
    };
    let device = Loop::attach(&image, &[]);
    assert!(is_listed());
    drop(device);
    assert!(!is_listed());
}

#[test]
fn a_machine_whose_disks_nobody_lists_is_not_one_without() {
    if !is_inside() {
        return run_inside("a_machine_whose_disks_nobody_lists_is_not_one_without");
    }
    let place = Place::new();
    tool("mount", &["--bind", place.directory("empty").to_str().unwrap(), "/sys/block"]);
    let _bound = Mount::taken(Path::new("/sys/block"));
    let sentence = failback!("disks").fails(5, "/sys/block cannot be read");
    assert!(sentence.contains("make sure that /proc and /sys are mounted"), "{sentence}");
}

/// The script says with its exit code what the program says, and refuses where it cannot ask it.
#[test]
fn the_script_for_scsi_uuids_has_documented_exit_codes() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/check-scsi-uuid");
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(&script).args(arguments).env("FAILBACK", program).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    for wrong in [&["nonsense"][..], &["--json", "more"]] {
        let (code, said) = run("true", wrong);
        assert!(code == 2 && said.starts_with("usage: check-scsi-uuid"), "{said}");
    }
    assert_eq!(run("true", &["--help"]), (0, String::new()));
    if !nix::unistd::geteuid().is_root() {
        let (code, said) = run("true", &[]);
        return assert!(code == 3 && said.contains("run it as root"), "{said}");
    }
    for (program, wanted) in [("true", 0), ("false", 1)] {
        assert_eq!(run(program, &["--json"]), (wanted, String::new()));
    }
    for missing in ["/nonexistent/failback", "/etc", "/etc/passwd"] {
        let (code, said) = run(missing, &[]);
        assert!(code == 3 && said.contains("name the program with FAILBACK=PATH"), "{missing}: {said}");
    }
}
