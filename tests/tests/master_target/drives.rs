//! The retention drive that a pass is received on.

use crate::site::{MIB, Site};
use failback_tests::failback;
use failback_tests::lab::noise;
use std::fs;

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
