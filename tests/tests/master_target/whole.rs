//! From a token to a disk that came home.

use crate::site::{MIB, Site};
use failback_tests::failback;
use failback_tests::lab::noise;
use std::thread;

#[test]
fn a_disk_comes_home_over_tls() {
    let site = Site::new();
    let daemon = site.serve();
    site.enroll(&daemon, "web");
    site.pair("data", 8 * MIB, Some("web"));
    site.write("data", 3 << 20, &noise(100_000, 7));
    let report = &site.send("data", &daemon.data).arg("--final").json()[1];
    assert_eq!((&report["final"], &report["kind"]), (&true.into(), &"crash".into()));
    site.is_home("data");
    let points = failback!("point", "list", site.vmdk("data"), "--retention", site.place.path("retention")).json();
    assert_eq!(points["points"].as_array().unwrap().len(), 2, "the base, and one of that moment");
    let jobs = site.ended_jobs();
    assert!(jobs.iter().all(|job| job["state"] == "done" && job["pair"] == "data"), "{jobs:#?}");
    // What came home can be taken back, as after an apply.
    failback!("undo", site.vmdk("data"), "--retention", site.place.path("retention"), "--yes").done();
    assert!(std::fs::read(site.target("data")).unwrap() == noise(8 * MIB, 4));
}

#[test]
fn whoever_comes_through_a_command_gets_there_with_a_daemon_and_without() {
    let site = Site::new();
    site.pair("data", 4 * MIB, None);
    site.write("data", 0, &noise(50_000, 8));
    site.send("data", &site.by_command()).done();
    site.is_home("data");
    let daemon = site.serve();
    site.write("data", 1 << 20, &noise(50_000, 9));
    site.send("data", &site.by_command()).done();
    site.is_home("data");
    site.write("data", 2 << 20, &noise(50_000, 10));
    let socket = format!("unix:{}", site.place.path("site/data.sock").display());
    site.send("data", &socket).done();
    site.is_home("data");
    drop(daemon);
    assert_eq!(site.jobs().len(), 3);
}

#[test]
fn what_counts_may_become_all_of_the_disk_and_its_used_space_again() {
    let site = Site::new();
    site.pair("data", 16 * MIB, None);
    // Free space that holds zeroes: all of the disk and its used space have the same root.
    let made = std::fs::read(site.place.ext4("made.img", 16 << 20, &[])).unwrap();
    for disk in [site.source("data"), site.target("data")] {
        std::fs::write(disk, &made).unwrap();
    }
    let to = site.by_command();
    let tree = |site: &Site| {
        let mut disks = std::fs::read_dir(site.place.path("retention/replication")).unwrap();
        disks.next().unwrap().unwrap().path().join("tree")
    };
    for options in ["--whole", "--whole", "", "--whole", "", ""] {
        for is_lost in [false, true] {
            if is_lost {
                std::fs::remove_file(tree(&site)).unwrap();
            }
            let report = &site.send("data", &to).args(options).json()[0];
            assert!(report["delta_bytes"].as_u64().unwrap() < 8192, "{options}: {report}");
        }
        site.is_home("data");
    }
}

#[test]
fn several_sources_at_once_come_home_each_to_its_own_disk() {
    let site = Site::new();
    let daemon = site.serve();
    site.enroll(&daemon, "web");
    let names = ["a", "ab", "abc", "abcd"];
    for name in names {
        site.pair(name, 4 * MIB, Some("web"));
        site.write(name, 12_345, &noise(MIB, 70 + name.len() as u64));
    }
    thread::scope(|scope| {
        for (number, name) in names.into_iter().enumerate() {
            let (site, to) = (&site, &daemon.data);
            scope.spawn(move || site.send(name, to).arg("--streams").arg((1 + number).to_string()).done());
        }
    });
    for name in names {
        site.is_home(name);
    }
}

#[test]
fn whoever_looks_sees_how_far_a_pass_is() {
    let site = Site::new();
    let daemon = site.serve();
    site.enroll(&daemon, "web");
    site.pair("data", 16 * MIB, Some("web"));
    site.write("data", 0, &noise(16 * MIB, 5));
    // What has arrived is made durable after every 8 MiB.
    let mut sending = site.send("data", &daemon.data).args("--limit 4M --compression off").start();
    let seen = sending.wait_until(|| {
        site.jobs().iter().any(|job| {
            let number = |name: &str| job[name].as_u64().unwrap_or(0);
            let compared = number("source_size") == 16 * MIB as u64 && number("source_compared") > 0;
            job["state"] == "running" && compared && number("durable") > 0 && number("rate") > 0
        })
    });
    assert!(seen, "it was done before it was seen at work: {:#?}", site.jobs());
    assert_eq!(sending.finish().code, 0);
    site.is_home("data");
    let job = &site.ended_jobs()[0];
    assert_eq!((&job["state"], &job["kind"]), (&"done".into(), &"final".into()));
}
