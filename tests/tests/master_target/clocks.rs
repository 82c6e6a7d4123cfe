//! Clocks that are wrong, and what ends by them.

use crate::site::{MIB, Site};
use failback_tests::failback;
use failback_tests::lab::{Program, Run, Running, has_programs, noise, tool};
use serde_json::Value;
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const HOUR: i64 = 3600;

/// The same command on a machine whose clock is off by so many seconds. It is the process itself, and not a child of the tool's, so that it ends
/// when the test wants that.
fn off(by: i64, mut command: Command) -> Command {
    // Only what tells the time of day: waits are waited for as ever.
    let environment = tool("faketime", &["--exclude-monotonic", "-f", &format!("{by:+}"), "env"]);
    for (name, value) in environment.lines().filter_map(|line| line.split_once('=')) {
        // What the processes below one tool share goes with it.
        if name == "LD_PRELOAD" || name.contains("FAKE") && name != "FAKETIME_SHARED" {
            command.env(name, value);
        }
    }
    command
}

fn run_off(by: i64, program: &Program) -> Run {
    Running::start(off(by, program.command())).finish()
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
}

#[test]
fn a_token_that_has_expired_is_refused_in_one_sentence() {
    let site = Site::new();
    let daemon = site.serve();
    let token = site.on_site(failback!("enroll", "token", "web", "--expires", "1s")).json();
    let token = token["token"].as_str().unwrap().as_bytes().to_vec();
    thread::sleep(Duration::from_secs(2));
    let join = site.elsewhere(failback!("enroll", "join", daemon.data)).fed(token);
    join.refused("the token has expired by the server's clock: have a new one made");
    let peers = site.on_site(failback!("enroll", "list")).json();
    assert!(peers["peers"].as_array().unwrap().is_empty(), "{peers}");
}

#[test]
fn a_source_sends_whatever_its_clock_says() {
    if !has_programs(&["faketime"]) {
        return;
    }
    let site = Site::new();
    let daemon = site.serve();
    site.enroll(&daemon, "web");
    site.pair("data", 4 * MIB, Some("web"));
    let mut last = 0;
    for (number, by) in [-13 * HOUR, 13 * HOUR, 400 * 24 * HOUR].into_iter().enumerate() {
        site.write("data", 0, &noise(100_000, 50 + number as u64));
        let run = run_off(by, &site.send("data", &daemon.data).arg("--json"));
        assert_eq!(run.code, 0, "{by}: {}", run.stderr);
        site.is_home("data");
        let report: Value = serde_json::from_slice(&run.stdout).unwrap();
        let created = report[0]["created"].as_i64().unwrap();
        assert!((created - now() - by).abs() < 300, "its clock was not off: {report}");
        // What the master target tells is by its own clock.
        let job = &site.ended_jobs()[0];
        for field in ["queued", "started", "ended"] {
            let told = job[field].as_i64().unwrap_or_else(|| panic!("{field} is not in {job}"));
            assert!((now() - told).abs() < 300, "{field} of {job}");
            assert!(told >= last, "{field} of {job}");
            last = told;
        }
        assert!(job["rate"].as_u64().unwrap_or(0) < 1 << 40 && job["eta_seconds"].is_null(), "{job}");
    }
    // A point has the time that its source said, and none is removed for that.
    let points = failback!("point", "list", site.vmdk("data"), "--retention", site.place.path("retention")).json();
    assert_eq!(points["points"].as_array().unwrap().len(), 4, "{points:#}");
}

#[test]
fn a_peer_whose_time_is_over_is_refused_in_one_sentence() {
    if !has_programs(&["faketime"]) {
        return;
    }
    let site = Site::new();
    let daemon = site.serve();
    let token = site.on_site(failback!("enroll", "token", "web", "--trusted-for", "30d")).json();
    let token = token["token"].as_str().unwrap().as_bytes().to_vec();
    site.elsewhere(failback!("enroll", "join", daemon.data)).fed(token).done();
    site.pair("data", 4 * MIB, Some("web"));
    site.write("data", 0, &noise(50_000, 3));
    site.send("data", &daemon.data).done();
    drop(daemon);
    let daemon = site.serve_at("127.0.0.1", "site", |command| off(40 * 24 * HOUR, command));
    site.write("data", 0, &noise(50_000, 4));
    site.send("data", &daemon.data).refused("the other side's trust in this machine has ended");
    assert_eq!(site.jobs().len(), 1, "nothing was begun for it");
    // What shifts its clock takes its own files away only then.
    daemon.running.signal("TERM");
    let _ = daemon.running.finish();
}
