//! A source and a master target on two networks, whose wire is cut: what is on it is lost, and nobody is told.

use crate::site::{Daemon, MIB, Site};
use failback_tests::lab::{At, Program, Running, Unchanged, Wire, has_wires, noise};
use serde_json::Value;
use std::thread;
use std::time::{Duration, Instant};

/// For what takes as long as a master target waits for a source that says nothing, 45 s.
const PATIENCE: Duration = Duration::from_secs(75);

/// A site at one end of a wire and a source at the other, of which half has changed.
fn apart() -> (Site, Wire, Daemon) {
    let (site, wire) = (Site::new(), Wire::lay());
    let daemon = site.serve_at(At::Site.address(), "site", |command| wire.command(At::Site, &command));
    let token = site.on_site(failback_tests::failback!("enroll", "token", "web")).json();
    let join = site.elsewhere(failback_tests::failback!("enroll", "join", daemon.data, "--token-file", {
        site.place.file("token", token["token"].as_str().unwrap().as_bytes())
    }));
    let joined = start(&wire, &join).finish();
    assert_eq!(joined.code, 0, "{}", joined.stderr);
    site.pair("data", 16 * MIB, Some("web"));
    site.write("data", 0, &noise(8 * MIB, 5));
    (site, wire, daemon)
}

fn start(wire: &Wire, program: &Program) -> Running {
    Running::start(wire.command(At::Cloud, &program.command()))
}

/// Sends so slowly that the wire can be cut on the way, and waits until it is on the way. Then the master target says nothing for 4 s, which is
/// when 8 MiB have come: what counts as silence has to be longer.
fn on_the_way(site: &Site, wire: &Wire, daemon: &Daemon, options: &str) -> Running {
    let send = site.send("data", &daemon.data).args("--limit 2M --compression off --json").args(options);
    let mut sending = start(wire, &send);
    let is_compared =
        || site.jobs().iter().any(|job| job["state"] == "running" && job["source_compared"].as_u64() > Some(0));
    assert!(sending.wait_until(is_compared), "{}", sending.finish().stderr);
    sending
}

fn report(run: &failback_tests::lab::Run) -> Value {
    assert_eq!(run.code, 0, "{}", run.stderr);
    serde_json::from_slice::<Value>(&run.stdout).unwrap()[0].clone()
}

#[test]
fn a_short_partition_is_for_tcp_to_bridge() {
    if !has_wires() {
        return;
    }
    let (site, wire, daemon) = apart();
    let sending = on_the_way(&site, &wire, &daemon, "");
    wire.cut();
    thread::sleep(Duration::from_secs(2));
    wire.join();
    let report = report(&sending.finish());
    assert_eq!((&report["connections"], &report["bytes_sent_again"]), (&1.into(), &0.into()), "{report}");
    site.is_home("data");
}

#[test]
fn a_partition_longer_than_the_limit_of_silence_ends_by_itself() {
    if !has_wires() {
        return;
    }
    let (site, wire, daemon) = apart();
    let sending = on_the_way(&site, &wire, &daemon, "--silence 8s");
    wire.cut();
    thread::sleep(Duration::from_secs(12));
    wire.join();
    let joined = Instant::now();
    let run = sending.finish();
    // The master target still believes in the connection that was lost.
    assert!(joined.elapsed() < Duration::from_secs(30), "{:?}", joined.elapsed());
    assert!(run.stderr.contains("connecting again"), "{}", run.stderr);
    let report = report(&run);
    assert_eq!(report["connections"], 2, "{report}");
    let again = report["bytes_sent_again"].as_u64().unwrap();
    assert!(again < 5 * MIB as u64, "{again} bytes of 8 MiB were sent again");
    site.is_home("data");
    let jobs = site.ended_jobs();
    assert!(jobs.iter().all(|job| job["state"] == "done"), "{jobs:#?}");
}

#[test]
fn slow_what_a_partition_leaves_unfinished_is_called_that_and_goes_on() {
    if !has_wires() {
        return;
    }
    let (site, wire, daemon) = apart();
    let untouched = Unchanged::since(&site.target("data"));
    let sending = on_the_way(&site, &wire, &daemon, "--silence 8s --retry 2s");
    wire.cut();
    let cut = Instant::now();
    let run = sending.finish();
    assert_eq!(run.code, 5, "{}", run.stderr);
    assert!(run.stdout.is_empty() && run.stderr.contains("the pass is unfinished"), "{run:?}");
    run.sentence();
    // The master target has heard nothing of it, and notices by itself.
    let job = loop {
        let job = site.jobs().swap_remove(0);
        if job["state"] != "running" {
            break job;
        }
        assert!(cut.elapsed() < PATIENCE, "{job:#?}");
        thread::sleep(Duration::from_millis(500));
    };
    assert_eq!(job["state"], "waiting", "{job:#?}");
    assert!(job["error"].as_str().unwrap().contains("goes on when the source comes back"), "{job:#?}");
    untouched.check();
    wire.join();
    let report = report(&start(&wire, &site.send("data", &daemon.data).args("--json")).finish());
    assert_eq!(report["went_on"], true, "{report}");
    site.is_home("data");
    let jobs = site.ended_jobs();
    assert_eq!((jobs.len(), &jobs[0]["state"]), (1, &"done".into()), "it is the same job that went on");
}
