//! The verb `failback scan`.

use super::disk::{MIB, put_swap};
use failback_tests::failback;
use failback_tests::lab::{Loop, Mount, Place, is_inside, lone, run_inside, tool};

#[test]
fn a_tree_that_fits_and_a_report_with_names() {
    let place = Place::new();
    let disk = place.sparse("disk.img", 32 * MIB, &[]);
    let name = "a name of thirty-six characters, all";
    let path = disk.to_str().unwrap();
    tool("sgdisk", &["-o", "-n", "1:1M:+8M", "-c", &format!("1:{name}"), "-n", "2:0:0", path]);
    put_swap(&disk, MIB, 8 * MIB);
    let text = String::from_utf8(failback!("scan", disk).done()).unwrap();
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    for words in
        ["GPT ", name, "swap \"spare\"", "8384512 bytes", "=> every block, because nothing that", "total: 32.0 MiB"]
    {
        assert!(text.contains(words), "{words}\n{text}");
    }
    let report = failback!("scan", disk).json();
    let seen = &report["disks"][0];
    assert_eq!((&report["bytes_total"], &report["bytes_skipped"]), (&(32 * MIB).into(), &(8 * MIB - 4096).into()));
    assert_eq!(seen["content"]["is"], "partition-table");
    assert_eq!(seen["content"]["partitions"][0]["content"]["kind"], "swap");
    assert_eq!(seen["content"]["partitions"][1]["content"]["is"], "unclear");
    assert_eq!(seen["bytes_used"].as_u64().unwrap() + seen["bytes_skipped"].as_u64().unwrap(), 32 * MIB);
    assert_eq!(seen["identity"]["partition_table"], seen["content"]["id"]);
    failback!("scan", place.path("missing.img")).refused("does not exist");
    failback!("scan").misused();
}

#[test]
fn nothing_is_skipped_of_a_disk_that_is_mounted() {
    if is_inside() {
        let Some(_lone) = lone() else { return };
        let place = Place::new();
        let disk = place.sparse("disk.img", 32 * MIB, &[]);
        tool("mke2fs", &["-q", "-t", "ext4", disk.to_str().unwrap()]);
        let device = Loop::attach(&disk, &[]);
        let directory = place.directory("mounted");
        assert!(failback!("scan", device.path).json()["bytes_skipped"].as_u64().unwrap() > 0);
        let mount = Mount::device(&device.path, &directory, "rw");
        let report = failback!("scan", device.path).json();
        assert_eq!(report["bytes_skipped"], 0);
        let text = String::from_utf8(failback!("scan", device.path).done()).unwrap();
        let wanted = format!("=> nothing is skipped, because the disk is mounted at {}", directory.display());
        let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flat.contains(&wanted), "{text}");
        drop(mount);
        let _mount = Mount::device(&device.path, &directory, "ro");
        assert!(failback!("scan", device.path).json()["bytes_skipped"].as_u64().unwrap() > 0);
    } else if let Some(_lone) = lone() {
        run_inside("verb::nothing_is_skipped_of_a_disk_that_is_mounted");
    }
}
