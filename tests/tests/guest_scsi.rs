//! SCSI identity on a real kernel: disks on VMware's paravirtual controller, with and without a UUID, and with one twice.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_tests::lab::guest::{Bus, Guest, GuestDisk, Results};
use failback_tests::lab::{Place, noise, root_of_file};
use serde_json::Value;

const UUIDS: [&str; 2] = ["6000c2999176dd776e0123456789abcd", "6000c29aaa76dd776e0123456789abce"];
const SIZE: usize = 1 << 20;
const CHECK: &[u8] = include_bytes!("../../scripts/check-scsi-uuid");

/// A guest with PVSCSI disks of these serial numbers, over images named by their place.
fn guest(place: &Place, serials: &[Option<&str>]) -> Option<Guest> {
    let mut guest = Guest::new()?.failback().modules(&["vmw_pvscsi", "sd_mod"]).file("/bin/check-scsi-uuid", CHECK);
    for (index, serial) in serials.iter().enumerate() {
        let image = place.noisy(&format!("{index}.img"), SIZE, 1);
        let disk = GuestDisk::new(Bus::Pvscsi, &image);
        guest = guest.disk(match serial {
            Some(serial) => disk.serial(serial),
            None => disk,
        });
    }
    Some(guest)
}

/// The script's beginning: all disks are there.
fn all_there(disks: usize) -> String {
    format!("there() {{ [ \"$(ls -d /sys/block/sd* 2>/dev/null | wc -l)\" -eq {disks} ]; }}\nawait 'the disks' there\n")
}

/// The disk at a SCSI target: names of disks differ from one start to the next.
fn at_target(report: &Value, target: usize) -> &Value {
    let address = format!(":0:{target}:0");
    let disks = report["disks"].as_array().unwrap().iter();
    let mut found = disks.filter(|disk| disk["scsi_address"].as_str().unwrap().ends_with(&address));
    let disk = found.next().unwrap_or_else(|| panic!("no disk at target {target}: {report:#}"));
    assert!(found.next().is_none());
    disk
}

fn told(results: &Results, name: &str, code: i32, words: &[&str]) {
    let run = results.of(name);
    assert_eq!(run.code, code, "{name}: {}\n{}", run.stderr, results.log());
    for words in words {
        assert!(run.stderr.contains(words), "{words:?} is not in: {}", run.stderr);
    }
}

#[test]
fn every_disk_has_its_uuid() {
    let place = Place::new();
    let Some(guest) = guest(&place, &[Some(UUIDS[0]), Some(UUIDS[1])]) else { return };
    let script = all_there(2)
        + "result disks failback disks --json\n\
           result table failback disks\n\
           result check check-scsi-uuid\n\
           result misuse check-scsi-uuid nonsense\n";
    let results = guest.run(&script);
    let report = results.json("disks", 0);
    assert_eq!((report["disks"].as_array().unwrap().len(), &report["usable"]), (2, &2.into()));
    for (target, uuid) in UUIDS.iter().enumerate() {
        let disk = at_target(&report, target);
        assert_eq!(disk["scsi_uuid"], *uuid);
        assert_eq!(disk["size"], SIZE);
        assert_eq!((&disk["transport"], &disk["model"]), (&"vmw_pvscsi".into(), &"VMware Virtual disk".into()));
        assert_eq!((&disk["uuid_problem"], &disk["refusal"]), (&Value::Null, &Value::Null), "{disk:#}");
    }
    let table = String::from_utf8(results.of("table").stdout.clone()).unwrap();
    assert!(
        table.contains(UUIDS[0]) && table.contains("usable") && table.lines().all(|line| line.len() <= 100),
        "{table}"
    );
    told(&results, "check", 0, &["2 data disks can be told apart by SCSI UUID"]);
    told(&results, "misuse", 2, &["usage: check-scsi-uuid"]);
}

#[test]
fn without_the_setting_the_check_says_how_to_make_it() {
    let place = Place::new();
    let Some(guest) = guest(&place, &[Some(UUIDS[0]), None, Some("6000c2999176dd77")]) else { return };
    let script = all_there(3) + "result disks failback disks --json\nresult check check-scsi-uuid --json\n";
    let results = guest.run(&script);
    let report = results.json("disks", 0);
    assert_eq!(at_target(&report, 0)["scsi_uuid"], UUIDS[0]);
    for (target, why) in [(1, "no serial number"), (2, "half a UUID is none")] {
        let disk = at_target(&report, target);
        assert_eq!((&disk["scsi_uuid"], &disk["uuid_problem"]), (&Value::Null, &"missing".into()), "{why}");
    }
    let words = [
        "shows no SCSI UUID: set disk.EnableUUID = TRUE on this VM",
        "Edit Settings > VM Options > Advanced > Configuration Parameters",
        "govc vm.change -vm NAME -e disk.enableUUID=TRUE",
        "New-AdvancedSetting",
        "disk.EnableUUID = \"TRUE\"",
    ];
    told(&results, "check", 3, &words);
    assert_eq!(results.json("check", 3)["disks"].as_array().unwrap().len(), 3);
}

#[test]
fn a_uuid_that_two_disks_have_is_nobodys() {
    let place = Place::new();
    let Some(guest) = guest(&place, &[Some(UUIDS[0]), Some(UUIDS[0]), Some(UUIDS[1])]) else { return };
    let result = place.file("result.img", &noise(SIZE, 2));
    let delta = place.delta("change.delta", &place.path("0.img"), &result, "4K");
    let apply = |target: usize, name: &str| {
        format!(
            "disk=/dev/$(ls /sys/bus/scsi/devices/*:0:{target}:0/block)\n\
             result plan-{name} failback plan /change.delta $disk --json\n\
             result apply-{name} failback apply /change.delta $disk --no-undo --yes --json\n"
        )
    };
    let script = all_there(3)
        + "result disks failback disks --json\nresult check check-scsi-uuid\n"
        + &apply(0, "first")
        + &apply(1, "second")
        + &apply(2, "other");
    let results = guest.file("/change.delta", &std::fs::read(&delta).unwrap()).run(&script);
    let report = results.json("disks", 0);
    for (target, other) in [(0, 1), (1, 0)] {
        let (disk, other) = (at_target(&report, target), at_target(&report, other));
        assert_eq!(disk["same_uuid"], serde_json::json!([other["name"]]));
        assert_eq!((&disk["usable"], &disk["uuid_problem"]), (&false.into(), &"duplicate".into()));
    }
    assert_eq!(at_target(&report, 2)["usable"], true);
    let name = |target: usize| at_target(&report, target)["path"].as_str().unwrap().to_owned();
    told(&results, "check", 3, &["shows the same SCSI UUID", UUIDS[0], &name(0), &name(1)]);
    assert!(!results.of("check").stderr.contains("govc"), "the setting is made");
    for (run, own, other) in [("first", 0, 1), ("second", 1, 0)] {
        let sentence = format!("{} is of the same SCSI UUID ({}) as {}", name(own), UUIDS[0], name(other));
        told(&results, &format!("apply-{run}"), 3, &[&sentence]);
        let plan = results.json(&format!("plan-{run}"), 3);
        assert!(plan["refusals"].to_string().contains("of the same SCSI UUID"), "{plan:#}");
    }
    told(&results, "apply-other", 0, &[]);
    // Those that were refused hold what they held, and the third has the result.
    let untouched = root_of_file(&place.file("untouched", &noise(SIZE, 1)));
    assert_eq!(root_of_file(&place.path("0.img")), untouched);
    assert_eq!(root_of_file(&place.path("1.img")), untouched);
    assert_eq!(root_of_file(&place.path("2.img")), root_of_file(&result));
}

/// The very shape of VMware's name, 16 bytes on page 0x83, by the kernel's own SCSI target.
#[test]
fn the_name_on_page_83_comes_first() {
    let place = Place::new();
    let Some(guest) = guest(&place, &[]) else { return };
    let guest = guest.modules(&["configfs", "target_core_mod", "target_core_file", "tcm_loop"]);
    // The target makes the name of the company id and of the serial number's first 25 digits.
    let disk = |name: &str, serial: &str| {
        format!(
            "mkdir -p $core/fileio_0/{name}\n\
             echo fd_dev_name=/tmp/{name},fd_dev_size={SIZE} >$core/fileio_0/{name}/control\n\
             echo 0x000c29 >$core/fileio_0/{name}/wwn/company_id || die 'this target has no company id'\n\
             echo {serial} >$core/fileio_0/{name}/wwn/vpd_unit_serial\n\
             echo 1 >$core/fileio_0/{name}/enable\n\
             mkdir -p $loop/lun/lun_{name}\n\
             ln -s $core/fileio_0/{name} $loop/lun/lun_{name}/link\n"
        )
    };
    let script = "mount -t configfs configfs /sys/kernel/config\n\
                  core=/sys/kernel/config/target/core\n\
                  mkdir -p $core\n\
                  loop=/sys/kernel/config/target/loopback/naa.5001405000000001/tpgt_1\n\
                  mkdir -p $loop\n\
                  echo naa.5001405000000002 >$loop/nexus\n"
        .to_owned()
        + &disk("0", &UUIDS[0][7..])
        + &disk("1", &UUIDS[1][7..])
        + &all_there(2)
        + "result disks failback disks --json\nresult check check-scsi-uuid\n\
           result page hexdump -C $(ls -d /sys/block/sda/device)/vpd_pg83\n";
    let results = guest.run(&script);
    let report = results.json("disks", 0);
    let mut found: Vec<_> =
        report["disks"].as_array().unwrap().iter().map(|disk| disk["scsi_uuid"].as_str().unwrap_or("none")).collect();
    found.sort_unstable();
    assert_eq!(found, UUIDS, "{report:#}\n{}", String::from_utf8_lossy(&results.of("page").stdout));
    told(&results, "check", 0, &["2 data disks"]);
}

/// What the tests above wait for: a guest that does not come to its end is a failure.
#[test]
fn a_guest_that_ends_early_is_noticed() {
    let place = Place::new();
    let Some(guest) = guest(&place, &[]) else { return };
    let mut running = guest.start("result first true\nreboot -f\nresult second true\n");
    assert_eq!(running.await_result("first").code, 0);
    let failure = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| running.await_result("second")));
    assert!(failure.is_err(), "a result came from nowhere");
}
