//! A master target that moves to another machine, and a pair that is turned round.

use crate::site::{MIB, Site};
use failback_tests::failback;
use failback_tests::lab::{noise, root_of_file};
use std::fs;

#[test]
fn a_backup_takes_the_place_of_the_machine_at_another_address() {
    let site = Site::new();
    let daemon = site.serve();
    site.enroll(&daemon, "web");
    site.pair("data", 4 * MIB, Some("web"));
    site.write("data", 0, &noise(50_000, 5));
    site.send("data", &daemon.data).done();
    site.ended_jobs();
    let backup = site.place.path("backup");
    // While it runs.
    site.on_site(failback!("state", "backup", backup)).done();
    failback!("state", "restore", backup, "--state", site.place.path("site")).refused("site");
    drop(daemon);
    failback!("state", "restore", backup, "--state", site.place.path("other")).done();
    let daemon = site.serve_in("other");
    site.write("data", 1 << 20, &noise(50_000, 6));
    site.send("data", &daemon.data).done();
    site.is_home("data");
    let jobs = failback!("jobs", "--state", site.place.path("other")).json();
    assert_eq!(jobs["jobs"].as_array().unwrap().len(), 2, "the history moved, too");
    fs::remove_file(backup.join("key.pem")).unwrap();
    failback!("state", "restore", backup, "--state", site.place.path("third")).refused("key");
    assert!(!site.place.path("third/state").exists(), "nothing was half restored");
}

#[test]
fn what_came_home_is_sent_back_to_protect_the_site_again() {
    let site = Site::new();
    let daemon = site.serve();
    site.enroll(&daemon, "web");
    site.pair("data", 4 * MIB, Some("web"));
    site.write("data", 0, &noise(50_000, 5));
    site.send("data", &daemon.data).done();
    site.ended_jobs();
    // The other way: the disk in the cloud is a VMDK there, and the machine there is a master target, too.
    site.on_site(failback!("pair", "turn", "data", "--to", "send")).done();
    site.send("data", &daemon.data).refused("the other way");
    let cloud = site.vmdk("cloud");
    failback!("vmdk", "create", cloud, "--size", (4 * MIB).to_string(), "--subformat", "monolithicFlat").done();
    fs::copy(site.source("data"), site.target("cloud")).unwrap();
    let retention = site.place.path("retention");
    let add =
        failback!("pair", "add", "data", "--source", site.vmdk("data"), "--target", cloud, "--retention", retention);
    site.elsewhere(add).done();
    let there = site.serve_in("elsewhere");
    let socket = format!("unix:{}", site.place.path("elsewhere/data.sock").display());
    // The site goes on working with its disk.
    let mut content = fs::read(site.target("data")).unwrap();
    content[2 * MIB..][..70_000].copy_from_slice(&noise(70_000, 6));
    fs::write(site.target("data"), content).unwrap();
    let back = failback!("send", site.vmdk("data"), "--to", socket, "--pair", "data", "--final");
    back.arg("--journal").arg(site.place.path("back")).done();
    assert_eq!(root_of_file(&site.target("cloud")), root_of_file(&site.target("data")));
    drop(there);
}
