//! Disks come home: all the way through a machine that boots the live ISO.

use crate::iso::live_iso;
use crate::machine::{Attached, Machine, job_disk, uuid, wwid};
use crate::originals::Original;
use failback_tests::lab::guest::{Firmware, Medium, Results};
use failback_tests::lab::{Place, lone, noise, root_of_file, try_tool};
use std::fmt::Write as _;
use std::path::Path;

/// Targets on the controller; those below are original disks.
const RETENTION: u8 = 8;
const JOB: u8 = 9;
const NAMELESS: u8 = 10;

/// More than this is not in use when nothing runs.
const MOST_USED: u64 = 256 << 20;

/// What is done for each disk that comes home.
fn journey(number: u8, delta: &str) -> String {
    let uuid = uuid(number);
    format!(
        "result plan{number} failback plan {delta} $(disk {uuid}) --expect-uuid {uuid} --json\n\
         result apply{number} failback apply {delta} $(disk {uuid}) --expect-uuid {uuid} --verify --yes --json\n\
         result point{number} failback verify $(disk {uuid}) --point 1 --json\n"
    )
}

/// Four VMDKs, one of each subformat that QEMU writes, come home on a machine of this kind.
fn comes_home(firmware: Firmware, medium: Medium) {
    let Some(iso) = live_iso() else { return };
    let place = Place::new();
    let lone = lone();
    let (lvm, xfs) = (Original::ext4_on_lvm(&place), Original::xfs(&place));
    drop(lone);
    let disks = [
        (&lvm, lvm.vmdk(&place, "monolithicSparse")),
        (&xfs, xfs.vmdk(&place, "monolithicFlat")),
        (&xfs, xfs.vmdk(&place, "twoGbMaxExtentSparse")),
        (&lvm, lvm.vmdk(&place, "twoGbMaxExtentFlat")),
    ];
    // Before anything is written: what is guarded, and what a machine needs that does nothing.
    let mut script = String::from(
        "result memory cat /proc/meminfo\n\
         result disks failback disks --json\n\
         result guarded sh -c 'for disk in $(ls /dev/disk/by-scsi-uuid); do\n\
             echo $disk $(blockdev --getro $(readlink -f /dev/disk/by-scsi-uuid/$disk)); done'\n\
         result overwrite sh -c 'dd if=/dev/zero of=$0 bs=4096 count=1 conv=notrunc,fsync' $(disk ",
    );
    writeln!(script, "{})", uuid(0)).unwrap();
    for (number, (disk, _)) in (0..).zip(&disks) {
        script += &journey(number, disk.delta.file_name().unwrap().to_str().unwrap());
    }
    // The disk that shows no UUID is the one that has no name there.
    let nameless = "nameless=/dev/$(basename /sys/bus/scsi/devices/*:0:10:0/block/*)\n";
    let delta = lvm.delta.file_name().unwrap().to_str().unwrap();
    script += nameless;
    writeln!(script, "result nameless failback apply {delta} $nameless --expect-uuid {} --yes", uuid(NAMELESS))
        .unwrap();
    script += "echo 'what is attached:'\nfailback disks --check\n";
    let retention = place.sparse("retention.img", 96 << 20, &[]);
    let nameless = place.file("nameless.img", &noise(1 << 20, 1));
    let untouched = root_of_file(&nameless);
    let job = job_disk(&place, "job.img", &script, &[&lvm.delta, &xfs.delta]);
    let arguments = format!(
        "failback.retention=format:{} failback.hostname=target1 failback.run=job failback.then=poweroff",
        wwid(RETENTION)
    );
    let mut machine = Machine::new(&iso, &arguments, firmware, medium)
        .disk(Attached::new(&retention, RETENTION).own())
        .disk(Attached::new(&job, JOB).own())
        .disk(Attached::new(&nameless, NAMELESS).without_uuid());
    for (number, (_, vmdk)) in (0..).zip(&disks) {
        machine = machine.disk(Attached::new(vmdk, number));
    }
    let results = machine.run();
    was_ready(&results);
    was_guarded(&results);
    for (number, (disk, vmdk)) in (0_u8..).zip(&disks) {
        arrived(&results, number, disk, vmdk);
        disk.has_come_home(&place, vmdk);
    }
    let refused = results.of("nameless");
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(refused.stderr.contains("shows no SCSI UUID"), "{}", refused.stderr);
    // It is said where the administrator looks.
    let console = results.log();
    assert!(console.contains("disk.EnableUUID = TRUE"), "{console}");
    assert!(console.contains("job: job ended with exit code 3"), "{console}");
    assert_eq!(root_of_file(&nameless), untouched);
    is_sound(&retention);
}

/// It said that it is ready, and does not need much.
fn was_ready(results: &Results) {
    let console = results.log();
    let ready = console.split("ready after ").nth(1).and_then(|rest| rest.split(" s").next());
    let memory = String::from_utf8_lossy(&results.of("memory").stdout).into_owned();
    let kib = |name: &str| -> u64 {
        let line = memory.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let used = (kib("MemTotal:") - kib("MemAvailable:")) << 10;
    println!("ready after {} s, {} MiB in use", ready.unwrap(), used >> 20);
    assert!(used <= MOST_USED, "{used} bytes are in use\n{memory}");
}

/// Every disk was read-only before the agent had it, but the appliance's own.
fn was_guarded(results: &Results) {
    let guarded = String::from_utf8_lossy(&results.of("guarded").stdout).into_owned();
    for number in (0..4).chain([JOB]) {
        assert!(guarded.contains(&format!("{} 1", uuid(number))), "{guarded}");
    }
    assert!(guarded.contains(&format!("{} 0", uuid(RETENTION))), "{guarded}");
    let overwrite = results.of("overwrite");
    assert!(overwrite.code != 0, "a disk could be written by dd: {}", overwrite.stderr);
    let disks = results.json("disks", 0);
    let usable = disks["disks"].as_array().unwrap().iter().filter(|disk| disk["usable"] == true);
    let usable: Vec<_> = usable.map(|disk| disk["scsi_uuid"].as_str().unwrap_or_default().to_owned()).collect();
    for number in 0..4 {
        assert!(usable.contains(&uuid(number)), "{disks:#}");
    }
    assert!(!usable.contains(&uuid(RETENTION)), "{disks:#}");
}

/// What the agent said of one disk.
#[track_caller]
fn arrived(results: &Results, number: u8, disk: &Original, vmdk: &Path) {
    let vmdk = vmdk.display();
    let plan = results.json(&format!("plan{number}"), 0);
    assert_eq!(plan["refusals"].as_array().map(Vec::len), Some(0), "{vmdk}: {plan:#}");
    let applied = results.json(&format!("apply{number}"), 0);
    assert_eq!(
        (&applied["point"], &applied["result_root"]),
        (&1.into(), &disk.root.as_str().into()),
        "{vmdk}: {applied:#}"
    );
    assert!(applied["proven"].as_str().unwrap().ends_with(" read"), "{vmdk}: {applied:#}");
    assert_eq!(results.json(&format!("point{number}"), 0)["matches"], true, "{vmdk}");
}

/// The retention drive was unmounted, and has the log.
fn is_sound(image: &Path) {
    let checked = try_tool("e2fsck", &["-f".as_ref(), "-n".as_ref(), image.as_os_str()]);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    let log = "cat /appliance/log/failback.log".as_ref();
    let log = try_tool("debugfs", &["-R".as_ref(), log, image.as_os_str()]);
    let log = String::from_utf8_lossy(&log.stdout).into_owned();
    for words in ["formatting /dev/", "ready after", "job: running job", "powering off"] {
        assert!(log.contains(words), "{words:?} is not in the log on the retention disk:\n{log}");
    }
}

#[test]
fn slow_disks_come_home_by_bios_from_a_cd() {
    comes_home(Firmware::Bios, Medium::Cd);
}

#[test]
fn slow_disks_come_home_by_uefi_from_a_usb_stick() {
    comes_home(Firmware::Uefi, Medium::Stick);
}
