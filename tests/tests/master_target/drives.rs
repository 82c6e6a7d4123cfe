//! The retention drive that a pass is received on.

use crate::site::{MIB, Site};
use failback_tests::failback;
use failback_tests::lab::noise;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn a_drive_that_is_not_mounted_is_not_taken_for_an_empty_one() {
    let site = Site::new();
    site.pair("data", 4 * MIB, None);
    let send = || site.send("data", &site.by_command());
    site.write("data", 0, &noise(50_000, 1));
    send().done();
    site.is_home("data");
    let [mount_point, away] = ["retention", "away"].map(|name| site.place.path(name));
    fs::rename(&mount_point, &away).unwrap();
    fs::create_dir(&mount_point).unwrap();
    let before = fs::read(site.target("data")).unwrap();
    site.write("data", MIB as u64, &noise(50_000, 2));
    send().refused("mount its retention drive there");
    assert!(fs::read(site.target("data")).unwrap() == before, "the target is as it was");
    assert_eq!(fs::read_dir(&mount_point).unwrap().count(), 0, "nothing was begun on the machine's own disk");
    fs::remove_dir(&mount_point).unwrap();
    fs::rename(&away, &mount_point).unwrap();
    send().done();
    site.is_home("data");
    // Whoever has lost the points says so.
    fs::remove_dir_all(&mount_point).unwrap();
    fs::create_dir(&mount_point).unwrap();
    site.write("data", 2 * MIB as u64, &noise(50_000, 3));
    send().refused("remove the pair");
    site.on_site(failback!("pair", "remove", "data")).done();
    let add = failback!("pair", "add", "data", "--source", site.source("data"), "--target", site.vmdk("data"));
    site.on_site(add.arg("--retention").arg(&mount_point)).done();
    send().done();
    site.is_home("data");
}

#[test]
fn what_arrives_is_for_its_owner_alone() {
    let site = Site::new();
    site.pair("data", 4 * MIB, None);
    let kept = site.place.path("retention/replication");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for round in 0..2 {
        site.write("data", 0, &noise(50_000, round));
        site.send("data", &site.by_command()).done();
        let disks: Vec<_> = fs::read_dir(&kept).unwrap().map(|disk| disk.unwrap().path()).collect();
        let [disk] = disks.as_slice() else { panic!("{disks:?}") };
        assert_eq!([&kept, disk].map(|path| mode(path)), [0o700; 2]);
        assert_eq!(mode(&disk.join("spool")), 0o600);
        // What was more open before is closed.
        for path in [&kept, disk] {
            fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        }
    }
}

#[test]
fn a_pass_that_was_cancelled_is_begun_anew_only_if_that_is_said() {
    let site = Site::new();
    let daemon = site.serve();
    site.enroll(&daemon, "web");
    site.pair("data", 16 * MIB, Some("web"));
    let before = fs::read(site.target("data")).unwrap();
    site.write("data", 0, &noise(14 * MIB, 5));
    let sending = site.send("data", &daemon.data).args("--limit 2M --compression off").start();
    let began = Instant::now();
    let job = loop {
        assert!(began.elapsed() < Duration::from_secs(60));
        let job = site.jobs().into_iter().find(|job| job["phase"] == "receiving" && job["durable"].as_u64() > Some(0));
        match job {
            Some(job) => break job,
            None => thread::sleep(Duration::from_millis(50)),
        }
    };
    site.on_site(failback!("jobs", "--cancel", job["id"].to_string())).done();
    let run = sending.finish();
    assert!(run.code == 3 && run.stderr.contains("send --anew"), "{run:?}");
    site.send("data", &daemon.data).refused("send --anew");
    assert!(fs::read(site.target("data")).unwrap() == before, "nothing was written");
    site.send("data", &daemon.data).arg("--anew").done();
    site.is_home("data");
}
