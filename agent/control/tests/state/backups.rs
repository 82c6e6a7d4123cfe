//! One file that has everything, and how it takes the place of what is there.

use crate::{Lab, NOW, group, names, pair, raw, sentence};
use failback_control::state::{JobKind, JobQuery, JobState, Restored, State, Subject, restore};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// A state with a pair, a group and a job that runs.
fn filled(lab: &Lab) -> State {
    let mut state = lab.open();
    state.add_pair(&pair(1), NOW).unwrap();
    state.add_group(&group("a", &[1]), NOW).unwrap();
    let job = state.queue_job(JobKind::Final, &Subject::Group("a".into()), NOW).unwrap();
    state.start_job(job, NOW).unwrap();
    state
}

#[test]
fn it_goes_on_on_another_machine() {
    let (here, there) = (Lab::new(), Lab::new());
    let state = filled(&here);
    state.backup(&here.file("backup")).unwrap();
    assert_eq!(fs::metadata(here.file("backup")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(here.names(), ["backup", "state", "state-wal", "state.lock"], "nothing else is left");
    assert_eq!(restore(&there.path(), &here.file("backup")).unwrap(), Restored { previous: None });
    assert_eq!(there.names(), ["state", "state.lock"]);
    let moved = there.open();
    assert_eq!((moved.pairs().unwrap(), moved.groups().unwrap()), (state.pairs().unwrap(), state.groups().unwrap()));
    let job = &moved.jobs(&JobQuery::default()).unwrap()[0];
    assert_eq!((job.state, job.ended), (JobState::Interrupted, Some(NOW)), "nobody is at work there");
    assert_eq!(state.job(job.id).unwrap().state, JobState::Running);
    assert_eq!(fs::metadata(there.path()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_backup_replaces_an_earlier_one_and_nothing_else() {
    let lab = Lab::new();
    let mut state = filled(&lab);
    let to = lab.file("backup");
    state.backup(&to).unwrap();
    state.add_pair(&pair(2), NOW).unwrap();
    fs::write(lab.file("backup.failback-new"), "left by a backup that was killed").unwrap();
    state.backup(&to).unwrap();
    fs::remove_file(lab.file("backup.failback-new")).unwrap_err();
    let other = lab.file("other");
    let occupied = "DIR/other is there and no backup of a state: give another name, or move it away";
    fs::write(&other, "a letter to the board, and long enough to have a header of 72 bytes, too").unwrap();
    assert_eq!(sentence(state.backup(&other), &lab), occupied);
    assert!(fs::read_to_string(&other).unwrap().starts_with("a letter"));
    fs::write(&other, "").unwrap();
    assert_eq!(sentence(state.backup(&other), &lab), occupied);
    fs::remove_file(&other).unwrap();
    raw(&other).execute("CREATE TABLE t (a)", []).unwrap();
    assert_eq!(sentence(state.backup(&other), &lab), occupied);
    fs::remove_file(&other).unwrap();
    symlink("backup", &other).unwrap();
    assert_eq!(sentence(state.backup(&other), &lab), occupied, "a link may lead anywhere");
    fs::remove_file(&other).unwrap();
    fs::create_dir(&other).unwrap();
    assert_eq!(sentence(state.backup(&other), &lab), occupied);
    // A state that is in use by others, or was left by them.
    fs::copy(&to, lab.file("busy")).unwrap();
    fs::write(lab.file("busy-wal"), "changes").unwrap();
    assert!(sentence(state.backup(&lab.file("busy")), &lab).starts_with("DIR/busy is there and no backup"));
    drop(State::open(&lab.file("second")).unwrap());
    assert!(sentence(state.backup(&lab.file("second")), &lab).starts_with("DIR/second is there and no backup"));
    let itself = "DIR/state is the state itself: give another name for the backup";
    assert_eq!(sentence(state.backup(&lab.path()), &lab), itself);
    fs::hard_link(lab.path(), lab.file("hard")).unwrap();
    assert!(sentence(state.backup(&lab.file("hard")), &lab).starts_with("DIR/hard is the state itself"));
    assert_eq!(sentence(state.backup(&lab.file("none/backup")), &lab), "cannot use the directory DIR/none");
    restore(&lab.file("new"), &to).unwrap();
    assert_eq!(names(&State::open(&lab.file("new")).unwrap()), ["pair 1", "pair 2"]);
    let other_program = raw(&lab.path());
    other_program.busy_timeout(std::time::Duration::ZERO).unwrap();
    assert!(other_program.execute("DELETE FROM pair", []).is_err(), "the lock was not given up");
}

#[test]
fn a_backup_that_fails_leaves_nothing() {
    let lab = Lab::new();
    let state = filled(&lab);
    fs::create_dir(lab.file("full")).unwrap();
    fs::create_dir(lab.file("backup.failback-new")).unwrap();
    assert_eq!(sentence(state.backup(&lab.file("backup")), &lab), "cannot remove DIR/backup.failback-new");
    assert!(!lab.file("backup").exists());
}

#[test]
fn it_is_one_moment_while_others_write() {
    let lab = Lab::new();
    let state = Mutex::new(lab.open());
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                lock(&state).add_pair(&pair(1), NOW).unwrap();
                lock(&state).add_group(&group("a", &[1]), NOW).unwrap();
                lock(&state).remove_group("a", false).unwrap();
                lock(&state).remove_pair("pair 1").unwrap();
            }
        });
        for round in 0..20 {
            let to = lab.file(&format!("backup {round}"));
            lock(&state).backup(&to).unwrap();
            restore(&lab.file("copy"), &to).unwrap();
            let copy = State::open(&lab.file("copy")).unwrap();
            let found = (copy.pairs().unwrap().len(), copy.groups().unwrap().len());
            assert!([(0, 0), (1, 0), (1, 1)].contains(&found), "{found:?}");
        }
        over.store(true, Ordering::Relaxed);
    });
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap()
}

#[test]
fn a_restore_keeps_what_was_there() {
    let lab = Lab::new();
    let mut state = filled(&lab);
    state.backup(&lab.file("backup")).unwrap();
    state.add_pair(&pair(2), NOW).unwrap();
    let in_use = format!(
        "the state DIR/state is in use by process {}: stop that, or ask the daemon to do it",
        std::process::id()
    );
    assert_eq!(sentence(restore(&lab.path(), &lab.file("backup")), &lab), in_use);
    drop(state);
    let previous = lab
        .file("state.before-restore")
        .canonicalize()
        .unwrap_or(lab.path().canonicalize().unwrap().with_extension("before-restore"));
    for _ in 0..2 {
        let restored = restore(&lab.path(), &lab.file("backup")).unwrap();
        assert_eq!(restored.previous.as_ref(), Some(&previous));
        assert_eq!(names(&lab.open()), ["pair 1"]);
        assert_eq!(lab.names(), ["backup", "state", "state.before-restore", "state.lock"]);
        lab.open().add_pair(&pair(2), NOW).unwrap();
    }
    // It is a state as any other.
    assert_eq!(restore(&lab.path(), &previous).unwrap().previous, Some(previous));
    assert_eq!(names(&lab.open()), ["pair 1", "pair 2"]);
}

#[test]
fn a_damaged_state_is_restored_with_what_belongs_to_it_kept() {
    let lab = Lab::new();
    let state = filled(&lab);
    state.backup(&lab.file("backup")).unwrap();
    // As a process leaves them that is killed.
    let changes = fs::read(lab.file("state-wal")).unwrap();
    drop(state);
    let mut damaged = fs::read(lab.path()).unwrap();
    damaged[100..4096].fill(0xaa);
    for (file, changes) in
        [(&b"nothing of a database"[..], &b"changes"[..]), (&damaged, &b"changes"[..]), (&damaged, &changes[..32 + 24])]
    {
        fs::write(lab.path(), file).unwrap();
        fs::write(lab.file("state-wal"), changes).unwrap();
        restore(&lab.path(), &lab.file("backup")).unwrap();
        assert_eq!(names(&lab.open()), ["pair 1"]);
        assert_eq!(fs::read(lab.file("state.before-restore")).unwrap(), file);
        assert_eq!(fs::read(lab.file("state.before-restore-wal")).unwrap(), changes);
    }
}

#[test]
fn a_state_that_others_have_open_is_not_replaced() {
    let lab = Lab::new();
    let state = filled(&lab);
    state.backup(&lab.file("backup")).unwrap();
    drop(state);
    let other = raw(&lab.path());
    other.execute_batch("BEGIN; SELECT count(*) FROM pair").unwrap();
    let said = sentence(restore(&lab.path(), &lab.file("backup")), &lab);
    assert!(said.starts_with("the state DIR/state is in use by another program"), "{said}");
    assert!(!lab.file("state.before-restore").exists());
    drop(other);
    restore(&lab.path(), &lab.file("backup")).unwrap();
}

#[test]
fn changes_beside_the_old_state_go_along_with_it() {
    let lab = Lab::new();
    let state = filled(&lab);
    state.backup(&lab.file("backup")).unwrap();
    // As a process leaves them that is killed.
    fs::copy(lab.path(), lab.file("killed")).unwrap();
    fs::copy(lab.file("state-wal"), lab.file("killed-wal")).unwrap();
    fs::set_permissions(lab.file("killed"), Permissions::from_mode(0o600)).unwrap();
    assert!(fs::metadata(lab.file("killed-wal")).unwrap().len() > 0);
    let says =
        "DIR/killed is a state with changes in a file beside it, and no backup: make one with `failback state backup`";
    assert_eq!(sentence(restore(&lab.file("new"), &lab.file("killed")), &lab), says);
    restore(&lab.file("killed"), &lab.file("backup")).unwrap();
    assert!(
        !lab.file("killed-wal").exists() && !lab.file("killed.before-restore-wal").exists(),
        "they are in the file"
    );
    restore(&lab.file("new"), &lab.file("killed.before-restore")).unwrap();
    assert_eq!(names(&State::open(&lab.file("new")).unwrap()), ["pair 1"]);
}

#[test]
fn whatever_is_wrong_with_a_backup_leaves_the_state_as_it_is() {
    let lab = Lab::new();
    let state = filled(&lab);
    state.backup(&lab.file("backup")).unwrap();
    drop(state);
    let before = fs::read(lab.path()).unwrap();
    let good = fs::read(lab.file("backup")).unwrap();
    let bad = lab.file("bad");
    let refused = |says: &str| {
        assert_eq!(sentence(restore(&lab.path(), &bad), &lab), says);
        assert_eq!(fs::read(lab.path()).unwrap(), before);
        assert!(
            lab.names().iter().all(|name| !name.starts_with("state.") || name == "state.lock"),
            "{:?}",
            lab.names()
        );
    };
    refused("cannot open DIR/bad");
    fs::create_dir(&bad).unwrap();
    refused("DIR/bad is no state of failback, nor a regular file: name the right file, or move this one away");
    fs::remove_dir(&bad).unwrap();
    fs::write(&bad, "").unwrap();
    refused("DIR/bad is no state of failback, nor a database at all: name the right file, or move this one away");
    raw(&bad).execute("CREATE TABLE t (a)", []).unwrap();
    refused(
        "DIR/bad is no state of failback, but a database of another program: name the right file, or move this one away",
    );
    let with = |change: &dyn Fn(&rusqlite::Connection)| {
        fs::write(&bad, &good).unwrap();
        change(&raw(&bad));
    };
    with(&|file| file.pragma_update(None, "user_version", 9).unwrap());
    refused("DIR/bad was written by a later failback, with schema 9, and this one knows up to 1: install that version");
    with(&|file| {
        file.execute_batch("DROP TABLE marked_pair; DROP TABLE group_mark; DROP TABLE group_pair; DROP TABLE pair; DROP TABLE job; DROP TABLE protection_group; PRAGMA user_version = 0; DELETE FROM sqlite_sequence").unwrap();
    });
    refused("DIR/bad is damaged, its schema has no version: restore a good backup with `failback state restore`");
    with(&|file| file.execute_batch("PRAGMA foreign_keys = OFF; DELETE FROM pair").unwrap());
    refused(
        "DIR/bad is damaged, a group names a pair that is not there: restore a good backup with `failback state restore`",
    );
    with(&|file| file.execute_batch("UPDATE pair SET name = 'a' || char(10)").unwrap());
    refused("DIR/bad is damaged, a pair in it makes no sense: restore a good backup with `failback state restore`");
    with(&|file| file.execute_batch("CREATE TRIGGER t AFTER INSERT ON job BEGIN DELETE FROM pair; END").unwrap());
    refused(
        "DIR/bad is damaged, it has other tables, indices, views or triggers than a state has: restore a good backup with `failback state restore`",
    );
    fs::File::create(&bad).unwrap().set_len((256 << 20) + 1).unwrap();
    refused("DIR/bad has 268435457 bytes, and a state has at most 268435456: name the right file");
    fs::remove_file(&bad).unwrap();
    fs::hard_link(lab.path(), &bad).unwrap();
    refused("DIR/state is the state itself: give another name for the backup");
    fs::remove_file(&bad).unwrap();
    fs::write(&bad, &good).unwrap();
    restore(&lab.path(), &bad).unwrap();
}

/// Every place at which the machine may stop, made by hand.
#[test]
fn an_interrupted_restore_is_done_again() {
    let lab = Lab::new();
    let state = filled(&lab);
    state.backup(&lab.file("backup")).unwrap();
    drop(state);
    lab.open().add_pair(&pair(2), NOW).unwrap();
    // Half a copy is there, and nothing was moved: the state goes on as it was.
    fs::write(lab.file("state.restoring"), "half a copy").unwrap();
    assert_eq!(names(&lab.open()), ["pair 1", "pair 2"]);
    assert!(!lab.file("state.restoring").exists());
    // The old one was moved away, its changes were not yet.
    fs::write(lab.file("state.restoring"), "the copy").unwrap();
    fs::rename(lab.path(), lab.file("state.before-restore")).unwrap();
    fs::write(lab.file("state-wal"), "changes").unwrap();
    let said = sentence(State::open(&lab.path()), &lab);
    assert!(said.starts_with("a restore of DIR/state was interrupted: run `failback state restore` again"), "{said}");
    let previous = restore(&lab.path(), &lab.file("backup")).unwrap().previous.unwrap();
    assert_eq!(names(&lab.open()), ["pair 1"]);
    assert_eq!(lab.names(), ["backup", "state", "state.before-restore", "state.before-restore-wal", "state.lock"]);
    assert_eq!(fs::read_to_string(lab.file("state.before-restore-wal")).unwrap(), "changes");
    fs::remove_file(lab.file("state.before-restore-wal")).unwrap();
    fs::set_permissions(&previous, Permissions::from_mode(0o600)).unwrap();
    assert_eq!(names(&State::open(&previous).unwrap()), ["pair 1", "pair 2"], "the old one is not replaced by nothing");
}
