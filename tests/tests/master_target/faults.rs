//! A network between that breaks connections at any byte, or falls silent.

use crate::site::{MIB, Site};
use failback_tests::failback;
use failback_tests::lab::{Dice, Fault, Proxy, Way, What, noise};
use serde_json::Value;
use std::thread;
use std::time::{Duration, Instant};

const SIZE: usize = 16 * MIB;
/// How many sources there are at once in the longest test, and how many connections each one loses.
const SOURCES: usize = 4;
const FAULTS: usize = 15;
/// More passes than it takes to lose them.
const PASSES: u64 = 30;
/// What a broken connection may bring the target twice: half a part of the delta, which has at most 1 MiB of blocks and their values, and what is
/// on the way within the program.
const TWICE: u64 = (1 << 20) + (256 << 10);
/// What a connection needs for anything but the delta: handshakes, questions, signs of life.
const BESIDE: u64 = 128 << 10;
const AT_ONCE: Duration = Duration::ZERO;

fn bytes(report: &Value, field: &str) -> u64 {
    report[field].as_u64().unwrap_or_else(|| panic!("{field} is not in {report}"))
}

/// A place in a connection: in the handshake, in what the source sends or in what it hears.
fn place(dice: &mut Dice) -> Fault {
    let what = if dice.below(3) == 0 { What::Close } else { What::Reset };
    let (way, most) = match dice.below(4) {
        0 => (Way::Up, 4 << 10),
        1 => (Way::Down, 8 << 10),
        _ => (Way::Up, 6 * MIB),
    };
    Fault { what, way, after: dice.below(most) as u64 }
}

#[test]
fn slow_connections_break_at_any_byte() {
    let site = Site::new();
    let daemon = site.serve();
    site.enroll(&daemon, "web");
    let names = ["a", "ab", "abc", "abcd"];
    for name in names {
        site.pair(name, SIZE, Some("web"));
    }
    thread::scope(|scope| {
        for (number, name) in names.into_iter().enumerate() {
            let (site, to) = (&site, &daemon.data);
            // The last of them has several connections at once, each with faults of its own.
            let streams = if number + 1 == SOURCES { 3 } else { 1 };
            scope.spawn(move || lose_connections(site, name, to, streams, number as u64 + 1));
        }
    });
    let jobs = site.ended_jobs();
    assert!(jobs.iter().all(|job| job["state"] == "done"), "{jobs:#?}");
}

/// Makes passes until enough connections were lost on the way; each of them ends by itself, with the disk at home.
fn lose_connections(site: &Site, name: &str, to: &str, streams: usize, seed: u64) {
    let (proxy, mut dice) = (Proxy::new(to, AT_ONCE), Dice::new(seed));
    let (mut needed, mut twice, mut round) = (0, 0, 0);
    while proxy.met() < FAULTS {
        assert!(round < PASSES, "{} connections were lost in {round} passes", proxy.met());
        // No more than may still be lost, so that there is an end.
        for _ in 0..FAULTS.saturating_sub(proxy.met()).min(6) {
            let fault = place(&mut dice);
            proxy.faults([fault]);
            twice += if fault.way == Way::Up { fault.after.min(TWICE) } else { TWICE };
        }
        site.write(name, dice.below(SIZE / 2) as u64, &noise(SIZE / 2, seed * 100 + round));
        let report = site.send(name, &proxy.address).arg("--streams").arg(streams.to_string()).json();
        needed += bytes(&report[0], "delta_bytes");
        round += 1;
        site.is_home(name);
    }
    let (passed, connections) = (proxy.passed(Way::Up) - proxy.unread(), proxy.connections() as u64);
    let most = needed + twice + connections * BESIDE;
    println!(
        "{name}: {} faults in {round} passes, {needed} bytes needed, {passed} of at most {most} passed",
        proxy.met()
    );
    assert!(passed <= most, "{name}: {passed} bytes came to the target, {needed} were needed, at most {twice} twice");
}

#[test]
fn what_has_arrived_before_a_break_is_not_sent_again() {
    let site = Site::new();
    let daemon = site.serve();
    site.enroll(&daemon, "web");
    site.pair("data", 32 * MIB, Some("web"));
    site.write("data", 0, &noise(24 * MIB, 5));
    let proxy = Proxy::new(&daemon.data, Duration::from_millis(10));
    // None of them lives for so long that what has arrived is flushed in the course of things, which is after 8 MiB.
    let lengths = [5, 3, 6, 4].map(|mib| mib * MIB as u64 + 4321);
    proxy.faults(lengths.iter().cycle().take(12).map(|&after| Fault { what: What::Reset, way: Way::Up, after }));
    let report = &site.send("data", &proxy.address).args("--compression off --retry 20s").json()[0];
    site.is_home("data");
    let (needed, lost) = (bytes(report, "delta_bytes"), proxy.met() as u64);
    let passed = proxy.passed(Way::Up) - proxy.unread();
    assert!((5..=8).contains(&lost), "{lost} connections for 24 MiB");
    assert_eq!(bytes(report, "connections"), lost + 1);
    assert!(passed <= needed + lost * (TWICE + BESIDE), "{passed} bytes came to the target, and {needed} were needed");
}

#[test]
fn a_side_that_falls_silent_is_left_and_keeps_no_pair_from_its_source() {
    let site = Site::new();
    let daemon = site.serve();
    site.enroll(&daemon, "web");
    // In the delta; in what the source hears; before any of it; and in the handshake, for which there is a limit of its own, 20 s.
    let stalls =
        [("a", Way::Up, 3 * MIB as u64), ("ab", Way::Down, 3000), ("abc", Way::Up, 2500), ("abcd", Way::Up, 100)];
    for (name, ..) in stalls {
        site.pair(name, SIZE, Some("web"));
        site.write(name, 0, &noise(SIZE / 2, 6));
    }
    thread::scope(|scope| {
        for (name, way, after) in stalls {
            let (site, to) = (&site, &daemon.data);
            scope.spawn(move || {
                let proxy = Proxy::new(to, AT_ONCE);
                proxy.faults([Fault { what: What::Stall, way, after }]);
                let began = Instant::now();
                let run = site.send(name, &proxy.address).args("--silence 8s --json").start().finish();
                assert_eq!(run.code, 0, "{name}: {}", run.stderr);
                // The master target itself would wait for 45 s. The connection is still there, as far as it can tell.
                let took = began.elapsed();
                assert!(took < Duration::from_secs(40), "{name}: {took:?}");
                assert!(took > Duration::from_secs(8), "{name}: {took:?}");
                assert_eq!((proxy.met(), proxy.connections()), (1, 2), "{name}: {}", run.stderr);
                assert!(run.stderr.contains("connecting again"), "{name}: {}", run.stderr);
                site.is_home(name);
            });
        }
    });
}

#[test]
fn an_enrolment_that_breaks_anywhere_is_done_again_with_the_same_token() {
    let site = Site::new();
    let daemon = site.serve();
    let proxy = Proxy::new(&daemon.data, AT_ONCE);
    let join = |state: &str, token: &str| {
        let place = site.place.path(state);
        failback!("enroll", "join", proxy.address, "--state", place).fed(token.as_bytes().to_vec()).run()
    };
    let token =
        |name: &str| site.on_site(failback!("enroll", "token", name)).json()["token"].as_str().unwrap().to_owned();
    assert_eq!(join("first", &token("first")).code, 0);
    let (up, down) = (proxy.passed(Way::Up), proxy.passed(Way::Down));
    // Tries that get so far as to show a token are counted, so only the last two do.
    let places = [(Way::Up, 1), (Way::Up, up / 3), (Way::Down, 1), (Way::Down, down / 3), (Way::Up, up - 40)];
    let places = places.into_iter().chain([(Way::Down, down - 60)]);
    let token = token("web");
    for (number, (way, after)) in places.enumerate() {
        let what = if number % 2 == 0 { What::Reset } else { What::Close };
        proxy.faults([Fault { what, way, after }]);
        let run = join("elsewhere", &token);
        assert_eq!(proxy.met(), number + 1, "{way:?} {after}: {}", run.stderr);
        // What was lost may be nothing that matters; else there is one sentence.
        if run.code != 0 {
            assert_eq!(run.code, 3, "{way:?} {after}: {}", run.stderr);
            run.sentence();
        }
    }
    let run = join("elsewhere", &token);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let peers = site.on_site(failback!("enroll", "list")).json();
    let called = |name: &str| peers["peers"].as_array().unwrap().iter().filter(|peer| peer["name"] == name).count();
    assert_eq!((called("first"), called("web")), (1, 1), "{peers}");
    site.pair("data", 4 * MIB, Some("web"));
    site.write("data", 0, &noise(50_000, 3));
    site.send("data", &daemon.data).done();
    site.is_home("data");
}
