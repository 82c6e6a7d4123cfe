//! In a Debian with a real udev, systemd, LVM, mdadm and multipath: disks of others are not taken, and without the changes they are.

use crate::disks;
use failback_tests::lab::guest::{Bus, Guest, GuestDisk, Results, debian};
use failback_tests::lab::{Place, files_below, has_devices, hash_of, tool};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const START: &str = include_str!("start.sh");
const JOB: &[u8] = include_bytes!("guest.sh");
const SCRIPT: &[u8] = include_bytes!("../../../scripts/apply-custom-changes");
const SYSTEM_WWN: u64 = 0x5000_c290_0000_0001;
/// One takes about a minute of a processor that has nothing else to do, and several on a machine that has.
const PATIENCE: Duration = Duration::from_secs(540);
/// The place of the reader of cards.
const READER: usize = 9;
/// What software RAID, LVM, btrfs and multipath need of a kernel, so that nothing is left alone for want of a module.
const MODULES: [&str; 14] = [
    "crc32c_generic",
    "vmw_pvscsi",
    "sd_mod",
    "virtio_pci",
    "virtio_blk",
    "nvme",
    "ext4",
    "dm_mod",
    "dm_multipath",
    "dm_service_time",
    "md_mod",
    "raid1",
    "btrfs",
    "autofs4",
];

/// The disks of others, and the appliance's own retention drive.
struct Disks {
    foreign: BTreeMap<&'static str, PathBuf>,
    retention: PathBuf,
}

impl Disks {
    fn new(place: &Place) -> Self {
        let retention = place.sparse("retention.img", 16 << 20, &[]);
        tool("mkfs.ext4", &["-q", "-L", "retention", retention.to_str().unwrap()]);
        let partitioned = disks::partitioned(place);
        let [first, second] = disks::mirror(place);
        let foreign = BTreeMap::from([
            ("copy of the partitioned disk", disks::copy(&partitioned)),
            ("partitioned", partitioned),
            ("physical volume", disks::physical_volume(place)),
            ("first member", first),
            ("second member", second),
            ("btrfs", disks::btrfs(place)),
            ("copy of the retention drive", disks::copy(&retention)),
            ("copy of the system disk", place.noisy("system.img", 8 << 20, 3)),
            ("card", place.noisy("card.img", 8 << 20, 4)),
        ]);
        Self { foreign, retention }
    }

    fn hashes(&self) -> BTreeMap<&'static str, String> {
        self.foreign.iter().map(|(name, image)| (*name, hash_of(image, None))).collect()
    }

    /// Whether what the guest writes to the retention drive got there.
    fn is_retention_written(&self) -> bool {
        tool("debugfs", &["-R", "cat written", self.retention.to_str().unwrap()]) == "kept"
    }
}

/// Starts the appliance with all disks attached, to its end. The names that its disks get are of all sorts.
fn run(disks: &Disks, debian: &Path, with_changes: bool) -> Option<Results> {
    let foreign = |name: &str, bus| GuestDisk::new(bus, &disks.foreign[name]);
    let mut guest = Guest::new()?
        .patience(PATIENCE)
        .modules(&MODULES)
        .disk(GuestDisk::new(Bus::Pvscsi, debian).wwn(SYSTEM_WWN).throwaway())
        .disk(GuestDisk::new(Bus::VirtioBlock, &disks.retention).serial("retention-1"))
        .disk(foreign("partitioned", Bus::Pvscsi).wwn(SYSTEM_WWN + 1))
        .disk(foreign("physical volume", Bus::Pvscsi))
        .disk(foreign("first member", Bus::Pvscsi).wwn(SYSTEM_WWN + 2))
        .disk(foreign("second member", Bus::Nvme).serial("member"))
        .disk(foreign("btrfs", Bus::VirtioBlock))
        .disk(foreign("copy of the retention drive", Bus::Pvscsi))
        .disk(foreign("copy of the system disk", Bus::Pvscsi).wwn(SYSTEM_WWN))
        .disk(foreign("card", Bus::Pvscsi).wwn(SYSTEM_WWN + 3).empty())
        .disk(foreign("copy of the partitioned disk", Bus::Pvscsi).wwn(SYSTEM_WWN + 1))
        // So that it is heard.
        .argument("systemd.show_status=1")
        .file("/payload/apply-custom-changes", SCRIPT)
        .file("/payload/guest.sh", JOB);
    let custom = Path::new(env!("CARGO_MANIFEST_DIR")).join("../appliance/custom");
    for path in files_below(&custom) {
        let name = path.strip_prefix(&custom).unwrap().to_str().unwrap();
        guest = guest.file(&format!("/payload/custom/{name}"), &fs::read(&path).unwrap());
    }
    if with_changes {
        // As the boot loader would give them, which is not there in this guest.
        let arguments = fs::read_to_string(custom.join("kernel-arguments")).unwrap();
        for line in arguments.lines().filter(|line| !line.starts_with('#')) {
            guest = guest.argument(line.split_ascii_whitespace().next().unwrap());
        }
    }
    let changes = if with_changes { "changes=yes\n" } else { "changes=no\n" };
    let mut guest = guest.start(&(changes.to_owned() + START));
    guest.await_result("empty");
    guest.insert(READER, &disks.foreign["card"]);
    Some(guest.finish())
}

/// What a result printed.
#[track_caller]
fn told(results: &Results, name: &str) -> String {
    String::from_utf8_lossy(&results.of(name).stdout).trim().to_owned()
}

/// The appliance's own disks are what they are without the changes: mounted, swapped to and written.
#[track_caller]
fn check_own(results: &Results, disks: &Disks) {
    assert_eq!(told(results, "system"), "the system is as it should be", "{}", results.log());
    assert_eq!(results.of("retention").code, 0, "{}", results.log());
    assert!(disks.is_retention_written());
}

/// With the changes: no use of a disk of others, nothing that another program could act upon, and no byte but those of the one
/// that has claimed it.
fn check_with(results: &Results, disks: &Disks, before: &BTreeMap<&'static str, String>) {
    assert_eq!(results.of("applied").code, 0, "{}", results.log());
    assert!(told(results, "applied").contains("masked lvm2-monitor.service"));
    for name in ["uses", "known", "writable", "uses-later", "writable-later"] {
        assert_eq!(told(results, name), "", "{name}\n{}", results.log());
    }
    let scribbled = results.of("scribbled");
    assert!(scribbled.code != 0 && scribbled.stderr.contains("not permitted"), "{scribbled:?}");
    assert_ne!(results.of("careless").code, 0, "LVM let somebody have a volume");
    assert_eq!(results.of("written").code, 0, "{}", results.log());
    // Of the two system disks only the one that the system is on is its own.
    let report = results.json("check", 1);
    let items = report["items"].as_array().unwrap();
    let open: Vec<_> = items.iter().filter(|item| item["state"] == "open").collect();
    assert!(open.len() == 1 && open[0]["name"] == "own-copies", "{report:#}");
    let problem = open[0]["problems"][0].as_str().unwrap();
    assert!(problem.contains(" all show naa.5000c29000000001, "), "{problem}");
    assert_ne!(told(results, "said"), "0", "the console does not tell of the copy\n{}", results.log());
    assert_eq!(told(results, "inserted"), "1", "the card is not read-only\n{}", results.log());
    // Alone, it is writable and has its links; beside its copy neither has.
    assert_eq!(told(results, "alike"), "0 4\n1 0\n1 0", "{}", results.log());
    check_own(results, disks);
    // The block that was written by the claim's holder is the only difference.
    let first = &disks.foreign["first member"];
    let written = fs::read(first).unwrap()[4 << 20..][..4096].to_vec();
    assert!(written.iter().all(|byte| *byte == b'x'));
    let original = fs::read(&disks.foreign["second member"]).unwrap();
    disks::put(first, 4 << 20, &original[4 << 20..][..4096]);
    assert_eq!(disks.hashes(), *before, "other bytes were written");
}

/// Without them the same looks find what they are there to find.
fn check_without(results: &Results, disks: &Disks, before: &BTreeMap<&'static str, String>) {
    let uses = told(results, "uses");
    for words in ["strange-data", "software RAID has md", "held by dm-", "held by md"] {
        assert!(uses.contains(words), "{words:?} is not in: {uses}\n{}", results.log());
    }
    let known = told(results, "known");
    for words in ["LVM2_member", "linux_raid_member", "btrfs", "/dev/disk/by-"] {
        assert!(known.contains(words), "{words:?} is not in: {known}");
    }
    // All but the card, which is not there yet.
    assert_eq!(told(results, "writable").lines().count(), disks.foreign.len() - 1);
    assert_eq!(told(results, "inserted"), "0", "{}", results.log());
    assert_eq!((results.of("scribbled").code, results.of("careless").code), (0, 0), "{}", results.log());
    let report = results.json("check", 1);
    let items = report["items"].as_array().unwrap();
    let open: Vec<_> =
        items.iter().filter(|item| item["state"] == "open").map(|item| item["name"].as_str().unwrap()).collect();
    for item in [
        "udev-rules",
        "lvm-devices",
        "md-settings",
        "multipath-units",
        "kernel-arguments",
        "running",
        "own-copies",
        "disks-in-use",
        "disks-read-only",
    ] {
        assert!(open.contains(&item), "{item} is not open: {open:?}");
    }
    assert!(!told(results, "uses-later").is_empty());
    // They can be made while it runs: what is not held is read-only at once. The rest takes a restart, which it says.
    assert!(told(results, "again").ends_with("Restart the machine: then all of it holds."), "{}", results.log());
    assert!(told(results, "writable-later").lines().count() < disks.foreign.len());
    check_own(results, disks);
    let after = disks.hashes();
    for name in ["first member", "physical volume"] {
        assert_ne!(after[name], before[name], "{name}: nobody wrote to it, so that the test above proves nothing");
    }
}

/// What both tests begin with.
fn prepared() -> Option<(PathBuf, Place)> {
    let debian = debian()?;
    has_devices().then(|| (debian, Place::new()))
}

#[test]
fn slow_foreign_disks_are_left_alone() {
    let Some((debian, place)) = prepared() else { return };
    let disks = Disks::new(&place);
    let before = disks.hashes();
    let Some(results) = run(&disks, &debian, true) else { return };
    println!("up for {} s", told(&results, "uptime"));
    check_with(&results, &disks, &before);
}

#[test]
fn slow_without_the_changes_they_are_taken() {
    let Some((debian, place)) = prepared() else { return };
    let disks = Disks::new(&place);
    let before = disks.hashes();
    let Some(results) = run(&disks, &debian, false) else { return };
    println!("up for {} s", told(&results, "uptime"));
    check_without(&results, &disks, &before);
}
