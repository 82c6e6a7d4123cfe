//! What is to be done, what is done, and what became of it.

use crate::{Lab, NOW, pair, sentence};
use failback_control::state::{
    Job, JobId, JobKind, JobQuery, JobState, KeepJobs, MAX_JOBS, Progress, State, StateError, Subject,
};
use failback_units::ByteCount;
use std::time::Duration;

fn lab_with_a_pair() -> (Lab, State, Subject) {
    let lab = Lab::new();
    let mut state = lab.open();
    state.add_pair(&pair(1), NOW).unwrap();
    (lab, state, Subject::Pair("pair 1".into()))
}

/// A job in that state, by the shortest way to it.
fn job_in(state: &mut State, subject: &Subject, wanted: JobState) -> JobId {
    let job = state.queue_job(JobKind::Replicate, subject, NOW).unwrap();
    if !matches!(wanted, JobState::Queued | JobState::Cancelled) {
        state.start_job(job, NOW).unwrap();
    }
    match wanted {
        JobState::Queued | JobState::Running => Ok(()),
        JobState::Waiting => state.job_waits(job, "it waits.", NOW),
        JobState::Done => state.job_done(job, NOW),
        JobState::Failed => state.job_failed(job, "it failed.", NOW),
        JobState::Cancelled => state.job_cancelled(job, NOW),
        JobState::Interrupted => panic!("only the end of the daemon interrupts a job"),
    }
    .unwrap();
    job
}

fn ids(jobs: &[Job]) -> Vec<i64> {
    jobs.iter().map(|job| job.id.get()).collect()
}

#[test]
fn a_job_from_its_beginning_to_its_end() {
    let (lab, mut state, subject) = lab_with_a_pair();
    let bytes = |count| ByteCount::new(count).unwrap();
    let id = state.queue_job(JobKind::Final, &subject, NOW).unwrap();
    let mut job = Job {
        id: JobId::new(1),
        kind: JobKind::Final,
        subject,
        state: JobState::Queued,
        phase: String::new(),
        durable: ByteCount::ZERO,
        total: None,
        queued: NOW,
        started: None,
        updated: NOW,
        ended: None,
        error: None,
    };
    assert_eq!(state.job(id).unwrap(), job);
    state.start_job(id, NOW + 1).unwrap();
    job = Job { state: JobState::Running, started: Some(NOW + 1), updated: NOW + 1, ..job };
    assert_eq!(state.job(id).unwrap(), job);
    let progress = Progress { phase: "comparing", durable: bytes(5), total: Some(bytes(u64::MAX >> 1)) };
    state.job_progress(id, &progress, NOW + 2).unwrap();
    job = Job { phase: "comparing".into(), durable: bytes(5), total: progress.total, updated: NOW + 2, ..job };
    assert_eq!(state.job(id).unwrap(), job);
    state.job_waits(id, "the source is away: look at its network.", NOW + 3).unwrap();
    let why = Some("the source is away: look at its network.".to_owned());
    job = Job { state: JobState::Waiting, error: why, updated: NOW + 3, ..job };
    drop(state);
    state = lab.open();
    assert_eq!(state.job(id).unwrap(), job, "a job that waits goes on waiting");
    assert_eq!(state.interrupted(), []);
    state.start_job(id, NOW + 4).unwrap();
    job = Job { state: JobState::Running, updated: NOW + 4, ..job };
    assert_eq!(state.job(id).unwrap(), job, "what was wrong stays until it is done, and so does when it began");
    state.job_done(id, NOW + 5).unwrap();
    job = Job { state: JobState::Done, updated: NOW + 5, ended: Some(NOW + 5), error: None, ..job };
    assert_eq!(state.job(id).unwrap(), job);
    drop(state);
    assert_eq!(lab.open().job(id).unwrap(), job);
}

#[test]
fn what_ran_is_interrupted_at_the_next_start_and_may_go_on() {
    let (lab, mut state, subject) = lab_with_a_pair();
    let others = [JobState::Queued, JobState::Waiting, JobState::Done, JobState::Failed, JobState::Cancelled];
    let others = others.map(|other| (job_in(&mut state, &subject, other), other));
    let running = job_in(&mut state, &subject, JobState::Running);
    let progress = Progress { phase: "writing", durable: ByteCount::of_memory(7), total: None };
    state.job_progress(running, &progress, NOW + 9).unwrap();
    drop(state);
    let mut state = lab.open();
    assert_eq!(state.interrupted(), [running]);
    let job = state.job(running).unwrap();
    assert_eq!((job.state, job.ended, job.durable.get()), (JobState::Interrupted, Some(NOW + 9), 7));
    for (id, other) in others {
        assert_eq!(state.job(id).unwrap().state, other);
    }
    drop(state);
    state = lab.open();
    assert_eq!(state.interrupted(), [], "once is enough");
    state.start_job(running, NOW + 20).unwrap();
    let job = state.job(running).unwrap();
    assert_eq!((job.state, job.ended, job.started, job.durable.get()), (JobState::Running, None, Some(NOW), 7));
}

#[test]
fn no_state_leads_where_it_does_not() {
    type Move = fn(&mut State, JobId) -> Result<(), StateError>;
    let moves: [(JobState, Move); 5] = [
        (JobState::Running, |state, id| state.start_job(id, NOW)),
        (JobState::Waiting, |state, id| state.job_waits(id, "why.", NOW)),
        (JobState::Done, |state, id| state.job_done(id, NOW)),
        (JobState::Failed, |state, id| state.job_failed(id, "why.", NOW)),
        (JobState::Cancelled, |state, id| state.job_cancelled(id, NOW)),
    ];
    // The rows are where a job is, the columns where it is to get, in the order of `moves`.
    let table = [
        (JobState::Queued, [true, false, false, true, true]),
        (JobState::Running, [false, true, true, true, true]),
        (JobState::Waiting, [true, false, false, true, true]),
        (JobState::Done, [false; 5]),
        (JobState::Failed, [false; 5]),
        (JobState::Cancelled, [false; 5]),
        (JobState::Interrupted, [true, false, false, false, true]),
    ];
    let (lab, mut state, subject) = lab_with_a_pair();
    for (from, row) in table {
        for ((to, go), may) in moves.iter().zip(row) {
            let id = if from == JobState::Interrupted {
                let id = job_in(&mut state, &subject, JobState::Running);
                drop(state);
                state = lab.open();
                id
            } else {
                job_in(&mut state, &subject, from)
            };
            let before = state.job(id).unwrap();
            assert_eq!(before.state, from);
            let went = go(&mut state, id);
            assert_eq!(went.is_ok(), may, "{from} -> {to}: {went:?}");
            if may {
                assert_eq!(state.job(id).unwrap().state, *to);
            } else {
                let says = format!("the job {id} is {from} and cannot become {to}: look at it with `failback jobs`");
                assert_eq!(sentence(went, &lab), says);
                assert_eq!(state.job(id).unwrap(), before);
            }
            let progress = Progress { phase: "p", durable: ByteCount::ZERO, total: None };
            let running = state.job(id).unwrap().state == JobState::Running;
            assert_eq!(state.job_progress(id, &progress, NOW).is_ok(), running);
        }
    }
    assert!(JobState::ALL.iter().all(|from| !from.may_become(JobState::Queued)));
    assert!(JobState::ALL.iter().all(|from| from.may_become(JobState::Interrupted) == (*from == JobState::Running)));
    for (_, go) in moves {
        let said = sentence(go(&mut state, JobId::new(0)), &lab);
        assert!(said.starts_with("there is no job 0: `failback jobs` shows which there are"), "{said}");
    }
    assert!(sentence(state.job(JobId::new(-1)), &lab).starts_with("there is no job -1"));
}

#[test]
fn what_a_job_is_about_has_to_be_there() {
    let (lab, mut state, subject) = lab_with_a_pair();
    for (subject, says) in [
        (Subject::Pair("none".into()), "there is no pair \"none\""),
        (Subject::Group("pair 1".into()), "there is no group \"pair 1\""),
    ] {
        let said = sentence(state.queue_job(JobKind::Verify, &subject, NOW), &lab);
        assert!(said.starts_with(says), "{said}");
    }
    let job = job_in(&mut state, &subject, JobState::Running);
    drop(state);
    let mut state = lab.open();
    state.remove_pair("pair 1").unwrap();
    assert!(sentence(state.start_job(job, NOW), &lab).starts_with("there is no pair \"pair 1\""));
}

#[test]
fn what_a_peer_says_is_cut_and_harmless() {
    let (_lab, mut state, subject) = lab_with_a_pair();
    let job = job_in(&mut state, &subject, JobState::Running);
    let long = "\u{1b}[2J\u{e4}".repeat(5000);
    state.job_progress(job, &Progress { phase: &long, durable: ByteCount::ZERO, total: None }, NOW).unwrap();
    state.job_failed(job, &long, NOW).unwrap();
    let job = state.job(job).unwrap();
    let error = job.error.unwrap();
    assert!(error.starts_with(" [2J\u{e4} [2J\u{e4}") && (2045..=2048).contains(&error.len()), "{}", error.len());
    assert!((61..=64).contains(&job.phase.len()) && !job.phase.contains(char::is_control));
}

#[test]
fn lists() {
    let (_lab, mut state, pair_1) = lab_with_a_pair();
    state.add_pair(&pair(2), NOW).unwrap();
    state.add_group(&crate::group("pair 1", &[2]), NOW).unwrap();
    let group = Subject::Group("pair 1".into());
    for subject in [&pair_1, &group, &pair_1] {
        job_in(&mut state, subject, JobState::Done);
    }
    job_in(&mut state, &pair_1, JobState::Running);
    job_in(&mut state, &pair_1, JobState::Waiting);
    let all = JobQuery::default();
    let list = |query: &JobQuery| ids(&state.jobs(query).unwrap());
    assert_eq!(list(&all), [5, 4, 3, 2, 1]);
    assert_eq!(list(&JobQuery { limit: Some(2), ..all.clone() }), [5, 4]);
    assert_eq!(list(&JobQuery { limit: Some(2), before: Some(JobId::new(4)), ..all.clone() }), [3, 2]);
    assert_eq!(list(&JobQuery { subject: Some(group), ..all.clone() }), [2]);
    assert_eq!(list(&JobQuery { subject: Some(pair_1), states: vec![JobState::Done], ..all.clone() }), [3, 1]);
    assert_eq!(list(&JobQuery { states: vec![JobState::Running, JobState::Waiting], ..all }), [5, 4]);
}

#[test]
fn the_history_is_pruned_and_numbers_are_not_used_again() {
    let (lab, mut state, subject) = lab_with_a_pair();
    let old = job_in(&mut state, &subject, JobState::Queued);
    for age in (0..6).rev() {
        let id = state.queue_job(JobKind::Prune, &subject, NOW - age * 100).unwrap();
        state.job_cancelled(id, NOW - age * 100).unwrap();
    }
    let left = |state: &State| ids(&state.jobs(&JobQuery::default()).unwrap());
    assert_eq!(state.prune_jobs(&KeepJobs::default(), NOW).unwrap(), 0, "without a limit all is kept");
    let within = KeepJobs { age: Some(Duration::from_secs(400)), count: None };
    assert_eq!(state.prune_jobs(&within, NOW).unwrap(), 1, "as old as that is not too old");
    assert_eq!(left(&state), [7, 6, 5, 4, 3, 1]);
    let newest = KeepJobs { age: Some(Duration::MAX), count: Some(2) };
    assert_eq!(state.prune_jobs(&newest, NOW).unwrap(), 3);
    assert_eq!(left(&state), [7, 6, 1]);
    assert_eq!(state.prune_jobs(&KeepJobs { count: Some(0), age: None }, NOW).unwrap(), 2);
    assert_eq!(left(&state), [old.get()], "what is not over stays");
    drop(state);
    let mut state = lab.open();
    assert_eq!(state.queue_job(JobKind::Verify, &subject, NOW).unwrap(), JobId::new(8));
}

#[test]
fn a_full_history_makes_room() {
    let (lab, state, subject) = lab_with_a_pair();
    drop(state);
    let fill = |state: &str, ended: &str| {
        let rows = format!(
            "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < {MAX_JOBS}) \
             INSERT INTO job SELECT i, 'verify', 'pair', 'pair 1', '{state}', '', 0, NULL, 0, NULL, 0, {ended}, NULL FROM n"
        );
        let file = crate::raw(&lab.path());
        file.execute("DELETE FROM job", []).unwrap();
        file.execute(&rows, []).unwrap();
    };
    fill("done", "0");
    let mut state = lab.open();
    let new = state.queue_job(JobKind::Verify, &subject, NOW).unwrap();
    let jobs = state.jobs(&JobQuery::default()).unwrap();
    assert_eq!((jobs.len(), jobs[0].id, jobs.last().unwrap().id), (MAX_JOBS, new, JobId::new(2)));
    drop(state);
    fill("queued", "NULL");
    let said = sentence(lab.open().queue_job(JobKind::Verify, &subject, NOW), &lab);
    assert!(said.starts_with("there are 20000 jobs already, which is the most"), "{said}");
}
