//! The daemon as the console shows it: whether it runs, this machine's key, and its pairs with what is done for them.

use crate::control::{Control, Place, job_line, pair_line};
use failback_control::api::types::{Job, Jobs, Pairs, Peer, Peers, Status};
use failback_machine::plain;
use failback_orchestrate::JobError;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// Within this time the daemon has to have told everything.
pub(super) const WITHIN: Duration = Duration::from_secs(2);
/// As many jobs are looked through, the newest first.
const JOBS: &str = "limit=100";
/// As many pairs are shown: more fit on no screen.
const PAIRS: usize = 100;
/// As much of a line is shown: a sentence of another machine may be long.
const LINE_CHARS: usize = 400;

/// What is told of it. Every text is plain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DaemonLines {
    /// Whether it runs, and answers.
    pub(super) runs: bool,
    /// The same as a sentence about it, or what else is so.
    pub(super) state: String,
    /// The fingerprint of this machine's key, if it has one.
    pub(super) key: Option<String>,
    /// Pairs, each with its newest job, and jobs of groups that are not over.
    pub(super) pairs: Vec<String>,
    /// What it does now; `None` if that is not known.
    pub(super) working: Option<Vec<String>>,
}

impl DaemonLines {
    fn without_answer(state: String, key: Option<String>, working: Option<Vec<String>>) -> Self {
        Self { runs: false, state, key, pairs: Vec::new(), working }
    }

    /// What is so when nothing came in time.
    fn silent(place: &Place) -> Self {
        let state = format!("does not answer within {} s: look at the logs (l)", WITHIN.as_secs());
        Self::without_answer(state, place.fingerprint().map(|key| key.to_string()), None)
    }

    /// Asks. This may take longer than [`WITHIN`] where the daemon takes no connections.
    fn ask(place: &Place) -> Self {
        let key = || place.fingerprint().map(|key| key.to_string());
        let daemon = match Control::of_daemon(place) {
            Ok(Some(daemon)) => daemon,
            Ok(None) => {
                let state = "does not run: no machine can join or send to this one".to_owned();
                return Self::without_answer(state, key(), Some(Vec::new()));
            }
            Err(error) => return Self::without_answer(format!("cannot be asked: {error}"), key(), None),
        };
        match Self::of(&daemon) {
            Ok(told) => Self { key: told.key.or_else(key), ..told },
            Err(error) => match error.downcast_ref::<JobError>() {
                Some(why) => Self::without_answer(shown(&format!("does not answer: {why}")), key(), None),
                None => Self::without_answer(shown(&format!("does not answer: {error}")), key(), None),
            },
        }
    }

    fn of(daemon: &Control) -> anyhow::Result<Self> {
        let end = Instant::now() + WITHIN;
        let left = || end.saturating_duration_since(Instant::now());
        let status: Status = daemon.look("/v1/status", "", left())?;
        let pairs: Pairs = daemon.look("/v1/pairs", "", left())?;
        let jobs: Jobs = daemon.look("/v1/jobs", JOBS, left())?;
        let peers: Peers = daemon.look("/v1/peers", "", left())?;
        Ok(Self::told(&status, &pairs, &jobs.jobs, &peers.peers))
    }

    fn told(status: &Status, pairs: &Pairs, jobs: &[Job], peers: &[Peer]) -> Self {
        let trusted = peers.iter().filter(|peer| peer.revoked.is_none()).count();
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        let state = format!(
            "runs, version {}, {trusted} machine{} let in, {} job{} at work",
            status.version,
            plural(trusted),
            status.running_jobs,
            plural(status.running_jobs)
        );
        let mut lines: Vec<_> = pairs
            .pairs
            .iter()
            .take(PAIRS)
            .map(|pair| {
                let newest = jobs.iter().find(|job| job.pair.as_ref() == Some(&pair.name));
                let job = newest.map(|job| format!("; {}", standing(job))).unwrap_or_default();
                shown(&format!("{}: {}{}{job}", pair.name, pair_line(pair), of_peer(pair.peer.as_deref(), peers)))
            })
            .collect();
        let under_way = || jobs.iter().filter(|job| job.ended.is_none());
        let groups = under_way().filter(|job| job.pair.is_none());
        lines.extend(groups.map(|job| shown(&format!("{}: {}", subject(job), standing(job)))));
        let working = under_way().map(|job| shown(&format!("{} of {}", standing(job), subject(job)))).collect();
        let key = status.fingerprint.as_deref().map(shown);
        Self { runs: true, state: shown(&state), key, pairs: lines, working: Some(working) }
    }
}

/// A text as a screen may have it, whoever chose it.
fn shown(text: &str) -> String {
    plain(text).chars().take(LINE_CHARS).collect()
}

fn subject(job: &Job) -> String {
    match (&job.pair, &job.group) {
        (Some(pair), _) => pair.clone(),
        (None, Some(group)) => format!("group {group}"),
        (None, None) => format!("job {}", job.id),
    }
}

/// How a job stands, on one line.
fn standing(job: &Job) -> String {
    job_line(job).replace('\n', ": ")
}

/// Who may send to a pair.
fn of_peer(key: Option<&str>, peers: &[Peer]) -> String {
    let Some(key) = key else { return String::new() };
    match peers.iter().find(|peer| peer.fingerprint == key) {
        Some(peer) if peer.revoked.is_none() => format!(" from {}", peer.name),
        Some(peer) => format!(" from {}, which is trusted no longer", peer.name),
        None => format!(" from {key}, which is not known here"),
    }
}

/// A question under way.
pub(super) struct Asking {
    answer: Receiver<DaemonLines>,
    since: Instant,
}

impl Asking {
    /// Asks beside the screen.
    pub(super) fn begin(place: &Place) -> Self {
        let (told, answer) = sync_channel(1);
        let place = place.clone();
        // Whoever asked may be gone when it has been told.
        thread::spawn(move || drop(told.send(DaemonLines::ask(&place))));
        Self { answer, since: Instant::now() }
    }

    /// What is to be shown, if that is known by now, and whether the question is over. When nothing came in time, that is told, and the
    /// answer is still taken when it comes.
    pub(super) fn look(&self, place: &Place) -> (Option<DaemonLines>, bool) {
        match self.answer.try_recv() {
            Ok(told) => (Some(told), true),
            Err(TryRecvError::Empty) if self.since.elapsed() < WITHIN => (None, false),
            Err(TryRecvError::Empty) => (Some(DaemonLines::silent(place)), false),
            Err(TryRecvError::Disconnected) => (Some(DaemonLines::silent(place)), true),
        }
    }
}

/// Asks, and waits for the answer as long as it may take.
pub(super) fn ask_now(place: &Place) -> DaemonLines {
    Asking::begin(place).answer.recv_timeout(WITHIN).unwrap_or_else(|_| DaemonLines::silent(place))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};
    use std::os::unix::net::UnixListener;

    #[test]
    fn what_others_chose_is_harmless_and_jobs_stand_at_their_pairs() {
        let status = json!({ "version": "1", "uptime_seconds": 1, "pairs": 2, "running_jobs": 1 });
        let pair = |name: &str, peer: &str| {
            json!({ "name": name, "peer": peer, "source_name": "/dev/sd\u{1b}[2Jb", "target_uuid": "6000c29", "direction": "receive",
                    "retention": "/r", "new_disk": false, "created": 1 })
        };
        let pairs =
            json!({ "pairs": [pair("web\u{1b}]0;x\u{7}\u{202e}", "k1"), pair("data", "k2"), pair("log", "k3")] });
        let job = |id: i64, state: &str, ended: Option<i64>, error: Option<&str>| {
            json!({ "id": id, "kind": "replicate", "pair": "data", "state": state, "phase": "writing\u{1b}c", "durable": 1 << 20,
                    "total": 4 << 20, "queued": 1, "updated": 1, "ended": ended, "error": error })
        };
        let jobs = json!([job(2, "running", None, Some("a\u{1b}b")), job(1, "done", Some(2), None)]);
        let peer = |key: &str, revoked: Option<i64>| json!({ "name": format!("of-{key}"), "fingerprint": key, "role": "source", "added": 1, "revoked": revoked });
        let peers = json!([peer("k1", None), peer("k2", Some(3))]);
        let [jobs, peers] = [jobs, peers].map(|list| list.as_array().unwrap().clone());
        let jobs: Vec<Job> = jobs.into_iter().map(|job| from_value(job).unwrap()).collect();
        let peers: Vec<Peer> = peers.into_iter().map(|peer| from_value(peer).unwrap()).collect();
        let told = DaemonLines::told(&from_value(status).unwrap(), &from_value(pairs).unwrap(), &jobs, &peers);
        assert_eq!(told.state, "runs, version 1, 1 machine let in, 1 job at work");
        assert!(told.pairs[0].ends_with(" -> 6000c29 from of-k1"), "{told:?}");
        assert!(told.pairs[1].contains("from of-k2, which is trusted no longer; replicate running"), "{told:?}");
        assert!(told.pairs[1].contains("1.0 MiB of 4.0 MiB: a"), "{told:?}");
        assert!(told.pairs[2].ends_with("from k3, which is not known here"), "{told:?}");
        let working = told.working.as_deref().unwrap();
        assert!(working.len() == 1 && working[0].ends_with(" of data"), "{told:?}");
        for text in told.pairs.iter().chain(working) {
            assert!(!text.contains(|c: char| c.is_control() || c == '\u{202e}'), "{text:?}");
        }
    }

    #[test]
    fn a_daemon_that_does_not_answer_is_shown_as_such_in_time() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place { state: directory.path().to_owned() };
        let told = ask_now(&place);
        assert!(told.state.starts_with("does not run") && !told.runs, "{told:?}");
        assert_eq!(told.working, Some(vec![]));
        // It takes connections, and says nothing.
        let listener = UnixListener::bind(place.control_socket()).unwrap();
        let begun = Instant::now();
        let asking = Asking::begin(&place);
        assert_eq!(asking.look(&place), (None, false));
        while begun.elapsed() < WITHIN {
            thread::sleep(Duration::from_millis(20));
        }
        let (told, _) = asking.look(&place);
        let told = told.unwrap();
        assert!(told.state.starts_with("does not answer") && !told.runs, "{told:?}");
        assert_eq!(told.working, None, "what it does is not known");
        // Nobody made a key to know that there is none.
        assert_eq!((told.key, directory.path().join("credentials").exists()), (None, false));
        // One that has ended without removing its socket does not run.
        drop(listener);
        assert!(ask_now(&place).state.starts_with("does not run"));
    }
}
