//! A master target from memory loses its power: what it knew is on the retention disk, and another start goes on or back.

use crate::iso::live_iso;
use crate::machine::{Attached, Machine, job_disk, uuid, wwid};
use crate::originals::{Original, is_equal};
use failback_tests::lab::guest::{Firmware, Medium, Results};
use failback_tests::lab::{Place, lone};
use std::fs;
use std::path::{Path, PathBuf};

const MIB: u64 = 1 << 20;
const RETENTION: u8 = 8;
const JOB: u8 = 9;

/// A machine that runs a job; its disks are in a directory.
fn machine(iso: &Path, disks: &Path, job: &Path) -> Machine {
    let arguments = format!(
        "failback.retention=format:{} failback.run=job failback.then=poweroff failback.ip=192.0.2.7/24",
        wwid(RETENTION)
    );
    Machine::new(iso, &arguments, Firmware::Bios, Medium::Cd)
        .disk(Attached::new(&disks.join("disk.vmdk"), 0).slow(2 * MIB))
        .disk(Attached::new(&disks.join("retention.img"), RETENTION).own())
        .disk(Attached::new(job, JOB).own())
}

/// A start that recovers: what it is told before, and what it does.
fn recovered(iso: &Path, place: &Place, disks: &Path, recovery: &str) -> Results {
    let target = format!("$(disk {})", uuid(0));
    let script = format!(
        "result before failback status {target} --json\n\
         result recovery failback {recovery} {target} --yes --json\n\
         result after failback status {target} --json\n"
    );
    let job = job_disk(place, &format!("{}.img", &recovery[..4]), &script, &[]);
    let results = machine(iso, disks, &job).run();
    let before = results.json("before", 0);
    assert_eq!((&before["state"], &before["under_way"]), (&"interrupted".into(), &"apply".into()), "{before:#}");
    assert_eq!((&before["can_resume"], &before["can_undo"]), (&true.into(), &true.into()), "{before:#}");
    results.json("recovery", 0);
    let after = results.json("after", 0);
    assert_eq!(after["state"], "at-rest", "{after:#}");
    results
}

/// The same disks once more.
fn copy_of(place: &Place, disks: &Path, name: &str) -> PathBuf {
    let copy = place.directory(name);
    for entry in fs::read_dir(disks).unwrap().map(|entry| entry.unwrap().path()) {
        fs::copy(&entry, copy.join(entry.file_name().unwrap())).unwrap();
    }
    copy
}

#[test]
fn slow_a_power_cut_in_the_middle_of_an_apply() {
    let Some(iso) = live_iso() else { return };
    let place = Place::new();
    let lone = lone();
    let xfs = Original::xfs(&place);
    drop(lone);
    let vmdk = xfs.vmdk(&place, "monolithicSparse");
    let disks = vmdk.parent().unwrap();
    fs::File::create(disks.join("retention.img")).unwrap().set_len(96 * MIB).unwrap();
    // Spooled, so that the job disk is not needed later.
    let script = format!("failback apply - $(disk {}) --yes <xfs.delta\n", uuid(0));
    let job = job_disk(&place, "job.img", &script, &[&xfs.delta]);
    let mut running = machine(&iso, disks, &job).start().guest;
    running.await_printed("job: running job");
    // Compressed noise does not compress: a file that grows or a byte that changes says that the writing has begun.
    let before = fs::read(&vmdk).unwrap();
    running.await_that("changed byte on the target", |_| (fs::read(&vmdk).unwrap() != before).then_some(()));
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let results = running.cut_power();
    assert!(!results.log().contains("job: job ended"), "the power went too late\n{}", results.log());
    let other = copy_of(&place, disks, "other");

    let results = recovered(&iso, &place, disks, "resume");
    assert_eq!(results.json("after", 0)["present"], 1);
    xfs.has_come_home(&place, &vmdk);

    let results = recovered(&iso, &place, &other, "undo");
    assert_eq!(results.json("after", 0)["present"], 0);
    is_equal(&other.join("disk.vmdk"), &xfs.base);
    // What earlier starts said is still there.
    let log = "cat /appliance/log/failback.log".as_ref();
    let log = failback_tests::lab::tool("debugfs", &["-R".as_ref(), log, other.join("retention.img").as_os_str()]);
    assert_eq!(log.matches("formatting /dev/").count(), 1, "{log}");
    assert_eq!(log.matches("ready after").count(), 2, "{log}");
}
