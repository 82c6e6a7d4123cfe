//! The process ends in the middle of everything.

use crate::{Lab, NOW, names, pair};
use failback_control::state::{JobKind, JobQuery, JobState, Progress, State, StateError, Subject, restore};
use failback_units::ByteCount;
use rusqlite::Connection;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Names the state, or the directory, that this process writes to until it is killed.
const CHILD: &str = "FAILBACK_TEST_STATE_OF_CHILD";

/// Queues and runs jobs, and tells the number of each one after it is durable.
fn write_forever(path: &Path) -> ! {
    let mut state = State::open(path).unwrap();
    let subject = Subject::Pair(pair(1).name);
    loop {
        let job = state.queue_job(JobKind::Replicate, &subject, NOW).unwrap();
        state.start_job(job, NOW).unwrap();
        let progress = Progress { phase: "writing", durable: ByteCount::of_memory(1), total: None };
        state.job_progress(job, &progress, NOW).unwrap();
        state.job_done(job, NOW).unwrap();
        // Not through the test's own capture.
        let mut out = std::io::stdout().lock();
        writeln!(out, "done {job}").unwrap();
        out.flush().unwrap();
    }
}

/// Runs the test of that name as a child that does what it does in `place`.
fn child(test: &str, place: &Path) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", test, "--nocapture"]).env(CHILD, place);
    child.stdout(Stdio::piped()).spawn().unwrap()
}

#[test]
fn what_was_told_to_be_there_is_there_after_a_kill() {
    if let Some(path) = std::env::var_os(CHILD) {
        write_forever(&PathBuf::from(path));
    }
    let lab = Lab::new();
    lab.open().add_pair(&pair(1), NOW).unwrap();
    let mut told = 0;
    // What a kill may have left undone: the newest job of each round.
    let mut cut = BTreeSet::new();
    for round in 0..30_u64 {
        let mut child = child("kill::what_was_told_to_be_there_is_there_after_a_kill", &lab.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // It is at work, at the latest then.
        let mut last = |line: std::io::Result<String>| {
            let line = line.unwrap();
            line.strip_prefix("done ").map(|number| number.parse::<i64>().unwrap())
        };
        told = lines.by_ref().find_map(&mut last).unwrap();
        std::thread::sleep(Duration::from_micros(round * 1_700));
        child.kill().unwrap();
        child.wait().unwrap();
        told = lines.filter_map(last).last().unwrap_or(told);

        let state = lab.open();
        let jobs = state.jobs(&JobQuery::default()).unwrap();
        let newest = jobs[0].id.get();
        assert!((told..=told + 1).contains(&newest), "{newest} is there, and {told} was told");
        cut.insert(newest);
        for job in &jobs {
            let finished = job.state == JobState::Done && job.durable.get() == 1;
            let left = matches!(job.state, JobState::Queued | JobState::Interrupted) && cut.contains(&job.id.get());
            assert!(finished || left, "{job:?}");
        }
        assert_eq!(jobs.len(), usize::try_from(newest).unwrap(), "none is missing");
        drop(state);
        let answer: String =
            Connection::open(lab.path()).unwrap().query_row("PRAGMA quick_check", [], |row| row.get(0)).unwrap();
        assert_eq!(answer, "ok");
    }
    assert!(told >= 30, "it was killed while it was at work");
}

/// Makes a state, backs it up, and restores two backups in turn.
fn move_forever(directory: &Path) -> ! {
    let file = |name| directory.join(name);
    loop {
        drop(State::open(&file("fresh")).unwrap());
        for name in ["fresh", "fresh.lock"] {
            std::fs::remove_file(file(name)).unwrap();
        }
        for from in ["one", "two"] {
            restore(&file("state"), &file(from)).unwrap();
            State::open(&file("state")).unwrap().backup(&file("backup")).unwrap();
        }
        println!("done");
    }
}

#[test]
fn a_state_is_the_old_one_or_the_new_one_after_a_kill() {
    if let Some(directory) = std::env::var_os(CHILD) {
        move_forever(&PathBuf::from(directory));
    }
    let lab = Lab::new();
    let mut state = lab.open();
    for (number, backup) in [(1, "one"), (2, "two")] {
        state.add_pair(&pair(number), NOW).unwrap();
        state.backup(&lab.file(backup)).unwrap();
        state.remove_pair(&pair(number).name).unwrap();
    }
    drop(state);
    let whole = |path: &Path| {
        let found = names(&State::open(path).unwrap());
        assert!(found == ["pair 1"] || found == ["pair 2"], "{found:?}");
    };
    for round in 0..40_u64 {
        let mut child = child("kill::a_state_is_the_old_one_or_the_new_one_after_a_kill", lab.0.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.by_ref().any(|line| line.unwrap() == "done"));
        std::thread::sleep(Duration::from_micros(round * 1_300));
        child.kill().unwrap();
        child.wait().unwrap();
        match State::open(&lab.path()) {
            Ok(state) => drop(state),
            Err(StateError::HalfRestored { .. }) => drop(restore(&lab.path(), &lab.file("one")).unwrap()),
            Err(error) => panic!("round {round}: {error}"),
        }
        whole(&lab.path());
        restore(&lab.file("copy"), &lab.file("backup")).unwrap();
        whole(&lab.file("copy"));
        assert!(names(&State::open(&lab.file("fresh")).unwrap()).is_empty());
    }
}
