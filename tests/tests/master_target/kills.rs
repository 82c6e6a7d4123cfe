//! Sources and master targets that are killed at any moment.

use crate::site::{MIB, Site};
use failback_tests::failback;
use failback_tests::lab::{Dice, noise};
use std::thread;
use std::time::Duration;

const SIZE: usize = 8 * MIB;
/// Each of the two is killed so often.
const KILLS: usize = 100;

/// Changes the source a little, in several places.
fn change(site: &Site, dice: &mut Dice, round: usize) {
    for piece in 0..=dice.below(4) {
        let len = 1 + dice.below(400_000);
        let at = dice.below(SIZE - len);
        site.write("data", at as u64, &noise(len, (round * 10 + piece) as u64));
    }
}

/// The time within which a kill lands somewhere in a pass, in ms.
const PASS: usize = 250;

#[test]
fn slow_a_source_is_killed_at_any_moment() {
    let site = Site::new();
    let daemon = site.serve();
    site.enroll(&daemon, "web");
    site.pair("data", SIZE, Some("web"));
    let mut dice = Dice::new(1);
    let mut landed = 0;
    for round in 0..KILLS {
        change(&site, &mut dice, round);
        let mut sending = site.send("data", &daemon.data).args("--threads 1").start();
        thread::sleep(Duration::from_millis(dice.below(PASS) as u64));
        if sending.is_running() {
            landed += 1;
            sending.signal("KILL");
        }
        let _ = sending.finish();
        if round % 10 == 9 {
            site.send("data", &daemon.data).done();
            site.is_home("data");
        }
    }
    assert!(landed > KILLS / 4, "{landed} of {KILLS} were killed before they were done");
    let jobs = site.jobs();
    assert!(jobs.iter().all(|job| job["state"] != "running"), "{jobs:#?}");
}

#[test]
fn slow_a_master_target_is_killed_at_any_moment() {
    let site = Site::new();
    let mut daemon = site.serve();
    site.pair("data", SIZE, None);
    let socket = format!("unix:{}", site.place.path("site/data.sock").display());
    let mut dice = Dice::new(2);
    let retention = site.place.path("retention");
    for round in 0..KILLS {
        change(&site, &mut dice, round);
        // The source outlives it, and goes on by itself.
        let sending = site.send("data", &socket).args("--threads 1 --retry 60s").start();
        thread::sleep(Duration::from_millis(dice.below(PASS) as u64));
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
    let jobs = site.jobs();
    assert!(jobs.iter().all(|job| job["state"] != "running"), "{jobs:#?}");
}
