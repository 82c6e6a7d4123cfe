//! Sources and master targets that are killed at any moment.

use crate::site::{MIB, Site};
use failback_tests::failback;
use failback_tests::lab::{Dice, noise};
use std::thread;
use std::time::{Duration, Instant};

const SIZE: usize = 8 * MIB;
/// Each of the two is killed so often before a pass is done.
const KILLS: usize = 100;

/// Changes the source a little, in several places.
fn change(site: &Site, dice: &mut Dice, round: usize) {
    for piece in 0..=dice.below(4) {
        let len = 1 + dice.below(400_000);
        let at = dice.below(SIZE - len);
        site.write("data", at as u64, &noise(len, (round * 10 + piece) as u64));
    }
}

/// How long a pass takes from its start to its end, on this machine and now.
fn a_whole_pass(site: &Site, dice: &mut Dice, round: usize, to: &str) -> Duration {
    change(site, dice, round);
    let began = Instant::now();
    site.send("data", to).args("--threads 1").done();
    let took = began.elapsed();
    site.is_home("data");
    took
}

/// Any moment of a pass.
fn any_moment(dice: &mut Dice, pass: Duration) -> Duration {
    pass * u32::try_from(dice.below(1000)).unwrap() / 1000
}

#[test]
fn slow_a_source_is_killed_at_any_moment() {
    let site = Site::new();
    let daemon = site.serve();
    site.enroll(&daemon, "web");
    site.pair("data", SIZE, Some("web"));
    let mut dice = Dice::new(1);
    let (mut landed, mut rounds) = (0, 0);
    let mut pass = Duration::ZERO;
    while landed < KILLS {
        if rounds % 10 == 0 {
            pass = a_whole_pass(&site, &mut dice, rounds, &daemon.data);
        }
        assert!(rounds < 3 * KILLS, "{landed} of {rounds} were killed before they were done");
        rounds += 1;
        change(&site, &mut dice, rounds);
        let mut sending = site.send("data", &daemon.data).args("--threads 1").start();
        thread::sleep(any_moment(&mut dice, pass));
        if sending.is_running() {
            landed += 1;
            sending.signal("KILL");
        }
        let _ = sending.finish();
    }
    site.send("data", &daemon.data).done();
    site.is_home("data");
    // None of them is left behind.
    site.ended_jobs();
}

#[test]
fn slow_a_master_target_is_killed_at_any_moment() {
    let site = Site::new();
    let mut daemon = site.serve();
    site.pair("data", SIZE, None);
    let socket = format!("unix:{}", site.place.path("site/data.sock").display());
    let mut dice = Dice::new(2);
    let retention = site.place.path("retention");
    let (mut landed, mut round) = (0, 0);
    let mut pass = Duration::ZERO;
    while landed < KILLS {
        if round % 10 == 0 {
            pass = a_whole_pass(&site, &mut dice, round, &socket);
        }
        assert!(round < 3 * KILLS, "{landed} of {round} were killed before a pass was done");
        round += 1;
        change(&site, &mut dice, round);
        // The source outlives it, and goes on by itself.
        let mut sending = site.send("data", &socket).args("--threads 1 --retry 60s").start();
        thread::sleep(any_moment(&mut dice, pass));
        landed += usize::from(sending.is_running());
        daemon.running.signal("KILL");
        let _ = daemon.running.finish();
        if round % 3 == 0 {
            // What it was doing is finished or taken back by hand as well.
            let status = failback!("status", site.vmdk("data"), "--retention", retention).json();
            assert!(status["state"].is_string(), "{status}");
        }
        daemon = site.serve();
        let run = sending.finish();
        assert!(run.code == 0, "round {round}: {}", run.stderr);
        site.is_home("data");
    }
    // None of them is left behind.
    site.ended_jobs();
}
