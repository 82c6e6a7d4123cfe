//! Many sources at once.

use crate::site::{MIB, Site};
use failback_tests::lab::noise;
use std::fs;
use std::thread;

const SOURCES: u64 = 8;
const SIZE: usize = 64 * MIB;
/// Together more than the master target may have in memory.
const CHANGED: usize = 48 * MIB;
/// What a master target may have in memory: for itself, and for each session.
const ITSELF: u64 = 64 << 20;
const SESSION: u64 = 32 << 20;

/// The most memory that a process ever had, in bytes (proc(5), `VmHWM`).
fn peak(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn slow_eight_sources_at_once_come_home_within_the_memory_that_is_said() {
    let site = Site::new();
    let daemon = site.serve();
    site.enroll(&daemon, "web");
    let names: Vec<_> = (0..SOURCES).map(|number| format!("disk{number}")).collect();
    for (name, seed) in names.iter().zip(100..) {
        site.pair(name, SIZE, Some("web"));
        site.write(name, 0, &noise(CHANGED, seed));
    }
    let reports: Vec<_> = thread::scope(|scope| {
        let (site, to) = (&site, &daemon.data);
        let all: Vec<_> =
            names.iter().map(|name| scope.spawn(move || site.send(name, to).args("--threads 1").json())).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let most = peak(daemon.running.id());
    println!("{} MiB at most", most >> 20);
    assert!(most <= ITSELF + SOURCES * SESSION, "{most} bytes of memory for {SOURCES} sessions");
    assert!(reports.iter().all(|report| report[0]["connections"] == 1), "{reports:#?}");
    for name in &names {
        site.is_home(name);
    }
    let jobs = site.ended_jobs();
    assert!(jobs.len() == names.len() && jobs.iter().all(|job| job["state"] == "done"), "{jobs:#?}");
}
