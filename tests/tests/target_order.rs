//! What is asked of a target before it is open for writing: everything that needs no writing. Shown by what the kernel was asked for.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_orchestrate::{ByteCount, ClaimedTarget, DiskIdentity, Engine, look_at_target};
use failback_tests::failback;
use failback_tests::lab::{Guarded, Place, Program, Unchanged, guarding, root_of_file};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, str};

const SIZE: u64 = 4 << 20;
const UUID: &str = "6000c2999176dd776e0123456789abcd";
const OTHER: &str = "6000c29aaa76dd776e0123456789abce";
/// Set for a test that runs again under strace: the disk, and what is expected of it.
const CLAIM: &str = "FAILBACK_TEST_CLAIM";

/// What was asked for with regard to files in a place or to a device: opens for writing, and marks taken off.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    opened: usize,
    made_writable: usize,
}

/// Runs a command under strace.
fn recorded(command: &Command, about: &Path, to: &Path) -> (Asked, Option<i32>, String) {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-e", "trace=openat,openat2,open,ioctl", "-o"]).arg(to);
    strace.arg(command.get_program()).args(command.get_args());
    strace.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = strace.output().unwrap();
    let (text, about) = (fs::read_to_string(to).unwrap(), about.to_str().unwrap());
    let lines = || text.lines().filter(|line| line.contains(about));
    let asked = Asked {
        opened: lines().filter(|line| line.contains("O_RDWR") || line.contains("O_WRONLY")).count(),
        made_writable: lines().filter(|line| line.contains("BLKROSET, [0]")).count(),
    };
    assert!(lines().any(|line| line.contains("O_RDONLY")), "it was not even looked at:\n{text}");
    (asked, output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The process that claims: with another UUID than the disk's, as another disk than it is, or as it is.
fn claim(what: &str) {
    let (how, path) = what.split_once(' ').unwrap();
    let path = Path::new(path);
    let seen = look_at_target(path).unwrap().identity;
    let size = ByteCount::new(seen.size.get() + 512).unwrap();
    let claimed = match how {
        "uuid" => ClaimedTarget::claim(path, Engine::Blocking, &seen, Some(OTHER.parse().unwrap())),
        "other" => ClaimedTarget::claim(path, Engine::Blocking, &DiskIdentity { size, ..seen }, None),
        _ => ClaimedTarget::claim(path, Engine::Blocking, &seen, None),
    };
    match (how, claimed) {
        ("right", claimed) => claimed.unwrap().make_writable().unwrap().release().unwrap(),
        (_, claimed) => {
            let sentence = claimed.expect_err("this is another disk").to_string();
            let words = [OTHER, "became another disk while it was looked at"];
            assert!(words.iter().any(|words| sentence.contains(words)), "{sentence}");
        }
    }
}

/// Lets the named test run again under strace as such a process.
fn claimed(test: &str, how: &str, path: &Path, about: &Path, to: &Path) -> Asked {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(CLAIM, format!("{how} {}", path.display()));
    let (asked, code, errors) = recorded(&command, about, to);
    assert_eq!(code, Some(0), "{how}: {errors}");
    asked
}

#[test]
fn a_disk_that_is_another_one_is_not_even_opened_for_writing() {
    const NAME: &str = "a_disk_that_is_another_one_is_not_even_opened_for_writing";
    if let Ok(what) = env::var(CLAIM) {
        return claim(&what);
    }
    let Some(_run) = guarding(NAME) else { return };
    let place = Place::new();
    let disk = Guarded::new(&place.sparse("disk.img", SIZE, &[(0, b"content")]));
    let path = disk.path();
    for how in ["uuid", "other"] {
        assert_eq!(claimed(NAME, how, path, path, &place.path("record")), Asked::default(), "{how}");
    }
    let right = claimed(NAME, "right", path, path, &place.path("record"));
    assert!(right.opened > 0 && right.made_writable == 1, "{right:?}");
}

#[test]
fn a_vmdk_that_is_another_one_is_not_even_opened_for_writing() {
    const NAME: &str = "a_vmdk_that_is_another_one_is_not_even_opened_for_writing";
    if let Ok(what) = env::var(CLAIM) {
        return claim(&what);
    }
    let place = Place::new();
    for subformat in ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse"] {
        let directory = place.directory(subformat);
        let vmdk = directory.join("t.vmdk");
        failback!("vmdk", "create", vmdk, "--size", "4M", "--uuid", UUID, "--subformat", subformat).done();
        let untouched = Unchanged::since(&vmdk);
        for how in ["uuid", "other"] {
            let asked = claimed(NAME, how, &vmdk, &directory, &place.path("record"));
            assert_eq!(asked, Asked::default(), "{subformat}, {how}");
        }
        untouched.check();
        let asked = claimed(NAME, "right", &vmdk, &directory, &place.path("record"));
        assert_ne!(asked.opened, 0, "{subformat}");
    }
}

/// A retention drive on which a disk has the recovery points of another one under its name.
struct Mixed {
    place: Place,
    disk: Guarded,
    delta: PathBuf,
    retention: PathBuf,
}

impl Mixed {
    fn new() -> Self {
        let place = Place::new();
        let old = place.sparse("old.img", SIZE, &[(0, b"old")]);
        let new = place.sparse("new.img", SIZE, &[(0, b"new")]);
        let (delta, retention) = (place.delta("change", &old, &new, "16K"), place.directory("retention"));
        let copy = |name: &str| {
            fs::copy(&old, place.path(name)).unwrap();
            Guarded::new(&place.path(name))
        };
        let (disk, other) = (copy("disk.img"), copy("other.img"));
        failback!("apply", delta, other.path(), "--yes", "--retention", retention).done();
        let name = |disk: &Guarded| format!("{}-{SIZE}", disk.path().file_name().unwrap().to_str().unwrap());
        fs::rename(retention.join(name(&other)), retention.join(name(&disk))).unwrap();
        Self { place, disk, delta, retention }
    }

    fn call(&self, program: Program) -> Program {
        program.args("--engine blocking --yes --retention").arg(&self.retention)
    }
}

#[test]
fn recovery_points_of_another_disk_are_found_out_before_it_is_opened_for_writing() {
    let Some(_run) = guarding("recovery_points_of_another_disk_are_found_out_before_it_is_opened_for_writing") else {
        return;
    };
    let mixed = Mixed::new();
    let path = mixed.disk.path();
    let before = root_of_file(&mixed.place.path("disk.img"));
    for program in [
        failback!("apply", mixed.delta, path),
        failback!("resume", path),
        failback!("undo", path),
        failback!("point", "rollback", path, "1"),
    ] {
        let call = mixed.call(program);
        let (asked, code, errors) = recorded(&call.command(), path, &mixed.place.path("record"));
        assert_eq!((asked, code), (Asked::default(), Some(3)), "{call:?}: {errors}");
    }
    assert_eq!(root_of_file(&mixed.place.path("disk.img")), before);
}

/// What was left half written without recovery points is found out as early.
#[test]
fn an_unrecorded_apply_is_found_out_before_it_is_opened_for_writing() {
    let Some(_run) = guarding("an_unrecorded_apply_is_found_out_before_it_is_opened_for_writing") else { return };
    let mixed = Mixed::new();
    let path = mixed.disk.path();
    let state = mixed.place.directory("state");
    let record = format!("{}-{SIZE}.intent", path.file_name().unwrap().to_str().unwrap());
    fs::write(state.join(record), b"not a record").unwrap();
    let call = mixed.call(failback!("apply", mixed.delta, path, "--state", state));
    let (asked, code, errors) = recorded(&call.command(), path, &mixed.place.path("record"));
    assert_eq!(asked, Asked::default(), "{errors}");
    assert!(code.is_some_and(|code| code != 0), "{errors}");
}

/// A delta through a pipe is stored first, and while that goes on the disk is not writable.
#[test]
fn a_delta_from_a_pipe_is_stored_before_the_disk_is_made_writable() {
    let Some(_run) = guarding("a_delta_from_a_pipe_is_stored_before_the_disk_is_made_writable") else { return };
    let place = Place::new();
    let old = place.sparse("old.img", SIZE, &[(0, b"old")]);
    let new = place.sparse("new.img", SIZE, &[(0, b"new")]);
    let (delta, retention) = (place.delta("change", &old, &new, "16K"), place.directory("retention"));
    let (disk, record) = (Guarded::new(&old), place.path("record"));
    let call = failback!("apply", "-", disk.path(), "--engine", "blocking", "--yes", "--retention", retention);
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-e", "trace=read,ioctl", "-o"]).arg(&record);
    strace.arg(call.command().get_program()).args(call.command().get_args());
    let output = strace.stdin(File::open(&delta).unwrap()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(root_of_file(&old), root_of_file(&new));
    let text = fs::read_to_string(&record).unwrap();
    let lines: Vec<_> = text.lines().collect();
    let last_read = lines.iter().rposition(|line| line.contains("read(0<"));
    let writable = lines.iter().position(|line| line.contains("BLKROSET, [0]"));
    assert!(last_read.is_some() && last_read < writable, "{last_read:?}, {writable:?}:\n{text}");
}
