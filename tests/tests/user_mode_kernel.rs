//! The kernel that runs as a process, which tests of file systems stand on: what it wrote is there, what it had not
//! written is not, and nothing of it stays behind.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_tests::lab::{Place, Uml, has_uml, tool};
use std::fs;

#[test]
fn what_was_written_before_the_power_went_is_there() {
    if !has_uml() {
        return;
    }
    let place = Place::new();
    let image = place.sparse("disk", 64 << 20, &[]);
    tool("mke2fs", &["-q", "-t", "ext4", image.to_str().unwrap()]);
    let uml = Uml::new();
    fs::write(uml.share().join("from-outside"), "hello").unwrap();
    uml.cut(
        &[&image],
        "mount -t ext4 /dev/ubda /mnt
         cat /share/from-outside > /mnt/synced
         sync
         echo late > /mnt/late
         md5sum /mnt/synced | cut -c 1-32 > /share/from-inside
         power_cut",
    );
    assert_eq!(fs::read_to_string(uml.share().join("from-inside")).unwrap().trim(), "5d41402abc4b2a76b9719d911017c592");
    let listing = tool("debugfs", &["-R", "ls -p", image.to_str().unwrap()]);
    assert!(listing.contains("/synced/") && !listing.contains("/late/"), "{listing}");

    let failed = uml.run(&[&image], "echo before; false; echo after");
    assert_eq!(failed.code, Some(1));
    assert!(failed.log.contains("before") && !failed.log.contains("after"), "{}", failed.log);

    let mut guest = uml.start(&[&image], "echo under way; while :; do echo > /tmp/busy; done");
    guest.wait_for("under way");
    guest.kill();
    let root = uml.share().parent().unwrap().to_str().unwrap().to_owned();
    assert!(!tool("ps", &["-e", "-o", "args"]).contains(&root), "something of the guest still runs");
}
