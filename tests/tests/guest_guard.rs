//! Disks that are kept read-only, on VMware's controller and another kernel: own ones by WWID, foreign ones by everything else.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_tests::lab::guest::{Bus, Guest, GuestDisk};
use failback_tests::lab::{Place, noise, root_of_file};

const UUIDS: [&str; 3] =
    ["6000c2999176dd776e0123456789abcd", "6000c29aaa76dd776e0123456789abce", "6000c29bbb76dd776e0123456789abcf"];
const SIZE: usize = 1 << 20;

/// All disks read-only but the first, which is recorded as the machine's own, as an appliance does at its start.
const PREPARE: &str = "\
there() { [ \"$(ls -d /sys/block/sd* 2>/dev/null | wc -l)\" -eq 4 ]; }
await 'the disks' there
at() { ls /sys/bus/scsi/devices/*:0:$1:0/block; }
for target in 1 2 3; do blockdev --setro /dev/$(at $target); done
mkdir -p /etc/failback
echo 'retention 6000c2999176dd776e0123456789abcd' >/etc/failback/own-disks
";

#[test]
fn own_disks_are_refused_and_foreign_ones_are_writable_only_when_claimed() {
    let place = Place::new();
    let Some(mut guest) = Guest::new() else { return };
    guest = guest.failback().modules(&["vmw_pvscsi", "sd_mod"]);
    for (index, uuid) in UUIDS.iter().enumerate() {
        let image = place.noisy(&format!("{index}.img"), SIZE, 1);
        guest = guest.disk(GuestDisk::new(Bus::Pvscsi, &image).serial(uuid));
    }
    // One whose VM lacks the setting.
    guest = guest.disk(GuestDisk::new(Bus::Pvscsi, &place.noisy("3.img", SIZE, 1)));
    let result = place.file("result.img", &noise(SIZE, 2));
    let delta = place.delta("change.delta", &place.path("0.img"), &result, "4K");
    let apply = |target: usize| format!("failback apply /change.delta /dev/$(at {target}) --no-undo --yes --json");
    let script = PREPARE.to_owned()
        + "result disks failback disks --json\n\
           result before failback check --json\n"
        + &format!("result own {}\nresult foreign {}\n", apply(0), apply(1))
        + &format!("result other {} --expect-uuid {}\n", apply(2), UUIDS[1])
        + "result marks cat /sys/block/$(at 0)/ro /sys/block/$(at 1)/ro /sys/block/$(at 2)/ro\n\
           result write dd if=/dev/zero of=/dev/$(at 1) bs=512 count=1 conv=notrunc,fsync\n\
           blockdev --setrw /dev/$(at 1)\n\
           result left failback check --json\n\
           result console failback console --once\n";
    let results = guest.file("/change.delta", &std::fs::read(&delta).unwrap()).run(&script);
    let disks = results.json("disks", 0);
    let mut states: Vec<_> = disks["disks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|disk| {
            let address = disk["scsi_address"].as_str().unwrap().to_owned();
            (address, disk["own"].clone(), disk["guarded"] == true, disk["read_only"] == true, disk["usable"] == true)
        })
        .collect();
    states.sort_by(|one, other| one.0.cmp(&other.0));
    let told: Vec<_> = states
        .iter()
        .map(|(_, own, guarded, read_only, usable)| (own.as_str(), *guarded, *read_only, *usable))
        .collect();
    let foreign = (None, true, true, true);
    assert_eq!(told, [(Some("retention"), false, false, false), foreign, foreign, foreign], "{disks:#}");
    let own = results.of("own");
    assert!(own.code == 3 && own.stderr.contains("the machine's own retention disk"), "{}", own.stderr);
    let applied = results.of("foreign");
    assert_eq!(applied.code, 0, "{}\n{}", applied.stderr, results.log());
    assert_eq!(results.of("other").code, 3);
    assert_eq!(results.of("marks").stdout, b"0\n1\n1\n");
    assert_ne!(results.of("write").code, 0, "nobody else writes to it");
    let finding = |report: &str, check: &str| {
        let report = results.json(report, 3);
        report["checks"].as_array().unwrap().iter().find(|found| found["check"] == check).unwrap().clone()
    };
    assert_eq!(finding("before", "disk-uuid")["level"], "fail", "one shows no UUID");
    let before = finding("before", "foreign-disks");
    assert!(before["message"].as_str().unwrap().starts_with("of 3 foreign disks, 0 claimed"), "{before}");
    assert_eq!(finding("before", "controllers")["message"], "SCSI controllers: vmw_pvscsi");
    let left = finding("left", "foreign-disks");
    assert_eq!(left["level"], "warn");
    assert!(left["fix"].as_str().unwrap().starts_with("blockdev --setro /dev/sd"), "{left}");
    let console = String::from_utf8(results.of("console").stdout.clone()).unwrap();
    for words in ["WRITABLE while idle", "own: retention", "no UUID", UUIDS[1], "shows neither a SCSI UUID"] {
        assert!(console.contains(words), "{words}\n{console}");
    }
    // What each disk holds: the result, or what it held.
    let untouched = root_of_file(&place.file("untouched", &noise(SIZE, 1)));
    for (index, wanted) in [untouched.clone(), root_of_file(&result), untouched.clone(), untouched].iter().enumerate() {
        assert_eq!(root_of_file(&place.path(&format!("{index}.img"))), *wanted, "{index}");
    }
}
