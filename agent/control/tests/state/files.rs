//! The file: who may read it, who has it open, whose it is.

use crate::{Lab, NOW, names, pair, raw, sentence};
use failback_control::state::{State, StateError};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

#[test]
fn only_its_owner_may_read_it() {
    let lab = Lab::new();
    let mut state = lab.open();
    state.add_pair(&pair(1), NOW).unwrap();
    assert_eq!(lab.names(), ["state", "state-wal", "state.lock"]);
    for name in lab.names() {
        assert_eq!(fs::metadata(lab.file(&name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
    assert_eq!(state.path(), lab.path().canonicalize().unwrap());
    drop(state);
    assert_eq!(lab.names(), ["state", "state.lock"], "all is in the one file");
    for mode in [0o640, 0o602, 0o666] {
        fs::set_permissions(lab.path(), Permissions::from_mode(mode)).unwrap();
        let said = sentence(State::open(&lab.path()), &lab);
        let says = format!(
            "DIR/state has mode {mode:03o}, and only its owner may have access: look at who changed it, then run chmod 600"
        );
        assert_eq!(said, says);
    }
    fs::set_permissions(lab.path(), Permissions::from_mode(0o600)).unwrap();
    assert_eq!(names(&lab.open()), ["pair 1"]);
}

#[test]
fn one_process_has_it_open() {
    let lab = Lab::new();
    let state = lab.open();
    let said = sentence(State::open(&lab.path()), &lab);
    let us = std::process::id();
    assert_eq!(said, format!("the state DIR/state is in use by process {us}: stop that, or ask the daemon to do it"));
    // Nor does a program of others get at it.
    let other = raw(&lab.path());
    other.busy_timeout(Duration::ZERO).unwrap();
    let refused = other.execute("DELETE FROM pair", []).unwrap_err();
    assert_eq!(refused.sqlite_error_code(), Some(rusqlite::ErrorCode::DatabaseBusy));
    drop((state, other));
    let other = raw(&lab.path());
    other.execute_batch("BEGIN; SELECT count(*) FROM pair").unwrap();
    let said = sentence(State::open(&lab.path()), &lab);
    assert!(said.starts_with("the state DIR/state is in use by another program"), "{said}");
    drop(other);
    fs::write(lab.file("state.lock"), "what is this").unwrap();
    drop(lab.open());
}

#[test]
fn what_is_no_place_for_a_state() {
    let lab = Lab::new();
    fs::create_dir(lab.path()).unwrap();
    let no_file = "DIR/state is no state of failback, nor a regular file: name the right file, or move this one away";
    assert_eq!(sentence(State::open(&lab.path()), &lab), no_file);
    fs::remove_dir(lab.path()).unwrap();
    drop(State::open(&lab.file("other")).unwrap());
    symlink("other", lab.path()).unwrap();
    assert_eq!(sentence(State::open(&lab.path()), &lab), no_file, "a link may lead anywhere");
    fs::remove_file(lab.path()).unwrap();
    symlink("other", lab.file("state.lock.link")).unwrap();
    assert_eq!(sentence(State::open(&lab.file("none/state")), &lab), "cannot use the directory DIR/none");
    assert!(matches!(State::open(Path::new("/")), Err(StateError::Io { action: "use", .. })));
    fs::remove_file(lab.file("state.lock")).unwrap();
    symlink("other", lab.file("state.lock")).unwrap();
    assert_eq!(sentence(State::open(&lab.path()), &lab), "cannot open DIR/state.lock");
    assert!(!lab.path().exists());
}

#[test]
fn a_directory_may_be_a_link() {
    let lab = Lab::new();
    fs::create_dir(lab.file("real")).unwrap();
    symlink("real", lab.file("link")).unwrap();
    let state = State::open(&lab.file("link/state")).unwrap();
    assert_eq!(state.path(), lab.file("real/state").canonicalize().unwrap());
}

#[test]
fn whose_it_is() {
    let lab = Lab::new();
    let open = || sentence(State::open(&lab.path()), &lab);
    let write = |bytes: &[u8]| {
        fs::write(lab.path(), bytes).unwrap();
        fs::set_permissions(lab.path(), Permissions::from_mode(0o600)).unwrap();
    };
    let no_database =
        "DIR/state is no state of failback, nor a database at all: name the right file, or move this one away";
    for bytes in [&b"x"[..], &[0; 4096], &[b'x'; 8192], b"SQLite format 3\0"] {
        write(bytes);
        assert_eq!(open(), no_database);
        assert_eq!(fs::read(lab.path()).unwrap(), bytes, "it is left as it is");
    }
    let other = "DIR/state is no state of failback, but a database of another program: name the right file, or move this one away";
    for (application, version, table) in [(0, 0, true), (7, 0, false), (7, 1, true), (0, 1, false)] {
        write(b"");
        let file = raw(&lab.path());
        file.pragma_update(None, "application_id", application).unwrap();
        file.pragma_update(None, "user_version", version).unwrap();
        if table {
            file.execute("CREATE TABLE t (a)", []).unwrap();
        }
        drop(file);
        assert_eq!(open(), other, "{application} {version} {table}");
    }
    write(b"");
    drop(lab.open());
    for version in [2, i32::MAX] {
        raw(&lab.path()).pragma_update(None, "user_version", version).unwrap();
        let says = format!(
            "DIR/state was written by a later failback, with schema {version}, and this one knows up to 1: install that version"
        );
        assert_eq!(open(), says);
    }
    for version in [0, -1] {
        raw(&lab.path()).pragma_update(None, "user_version", version).unwrap();
        let says =
            "DIR/state is damaged, its schema has no version: restore a good backup with `failback state restore`";
        assert_eq!(open(), says);
    }
}

#[test]
fn what_is_half_there_is_not_taken_for_nothing() {
    let lab = Lab::new();
    for (name, says) in [
        (
            "state-wal",
            "DIR/state is damaged, its file is gone and the last changes to it are still there: restore a good backup with `failback state restore`",
        ),
        (
            "state.restoring",
            "a restore of DIR/state was interrupted: run `failback state restore` again, or put back what is in DIR/state.restoring",
        ),
        (
            "state.before-restore",
            "a restore of DIR/state was interrupted: run `failback state restore` again, or put back what is in DIR/state.before-restore",
        ),
    ] {
        fs::write(lab.file(name), "x").unwrap();
        assert_eq!(sentence(State::open(&lab.path()), &lab), says);
        assert!(!lab.path().exists());
        fs::remove_file(lab.file(name)).unwrap();
    }
}

#[test]
fn it_is_no_larger_than_a_state_can_be() {
    let lab = Lab::new();
    drop(lab.open());
    fs::File::options().write(true).open(lab.path()).unwrap().set_len((256 << 20) + 1).unwrap();
    let says = "DIR/state has 268435457 bytes, and a state has at most 268435456: name the right file";
    assert_eq!(sentence(State::open(&lab.path()), &lab), says);
}

#[test]
fn what_is_refused_is_left_with_its_changes() {
    let lab = Lab::new();
    let mut state = lab.open();
    state.add_pair(&pair(1), NOW).unwrap();
    // As a process leaves them that is killed.
    fs::copy(lab.path(), lab.file("killed")).unwrap();
    fs::copy(lab.file("state-wal"), lab.file("killed-wal")).unwrap();
    let changes = fs::read(lab.file("killed-wal")).unwrap();
    let file = fs::read(lab.file("killed")).unwrap();
    let mut damaged = file.clone();
    damaged[4096..].fill(0xaa);
    fs::write(lab.file("killed"), &damaged).unwrap();
    let said = sentence(State::open(&lab.file("killed")), &lab);
    assert!(said.starts_with("DIR/killed is damaged, "), "{said}");
    assert_eq!(fs::read(lab.file("killed")).unwrap(), damaged);
    assert_eq!(fs::read(lab.file("killed-wal")).unwrap(), changes);
    fs::write(lab.file("killed"), &file).unwrap();
    assert_eq!(names(&State::open(&lab.file("killed")).unwrap()), ["pair 1"]);
}
