//! The retention disk when it is full, and when the machine ends although something still uses it.

use crate::iso::live_iso;
use crate::machine::{Attached, Machine, job_disk, uuid, wwid};
use failback_tests::lab::guest::{Firmware, Medium};
use failback_tests::lab::{Place, noise, tool};
use std::path::Path;

const RETENTION: u8 = 8;
const JOB: u8 = 9;
/// What the job says, a line each: several times what the end of a full log has room for.
const LINES: usize = 300;

/// A machine with a new retention disk that runs a job, and then switches itself off.
fn machine(iso: &Path, place: &Place, retention: &Path, job: &str) -> Machine {
    let job = job_disk(place, "job.img", job, &[]);
    let arguments = format!("failback.retention=format:{} failback.run=job failback.then=poweroff", wwid(RETENTION));
    Machine::new(iso, &arguments, Firmware::Bios, Medium::Cd)
        .disk(Attached::new(retention, RETENTION).own())
        .disk(Attached::new(&job, JOB).own())
}

/// It was unmounted, or made read-only: no journal is left to be replayed.
#[track_caller]
fn is_clean(image: &Path, console: &str) {
    let told = tool("dumpe2fs", &["-h".as_ref(), image.as_os_str()]);
    assert!(!told.contains("needs_recovery"), "{told}\n{console}");
    tool("e2fsck", &["-f".as_ref(), "-n".as_ref(), image.as_os_str()]);
}

/// The log goes on in memory and on the console when the disk is full, which is told once. Processes that use the disk and do not want
/// to end do not keep it from being unmounted.
#[test]
fn slow_a_full_retention_disk_is_told_of_once_and_a_busy_one_is_unmounted() {
    let Some(iso) = live_iso() else { return };
    let place = Place::new();
    let retention = place.sparse("retention.img", 32 << 20, &[]);
    let job = format!(
        "cd /var/lib/failback/retention\n\
         dd if=/dev/zero of=fill bs=1M 2>/dev/null; dd if=/dev/zero of=fill2 bs=1k 2>/dev/null\n\
         for i in $(seq {LINES}); do echo \"line $i of a job that has much to say, so that the log grows by some bytes\"; done\n\
         (trap '' TERM; while :; do sleep 1; done) 3<fill >/dev/null 2>&1 &\n\
         mkdir /tmp/elsewhere; mount -o bind /var/lib/failback/retention/appliance /tmp/elsewhere; cd /tmp/elsewhere\n\
         sleep 600 >/dev/null 2>&1 &\n"
    );
    let results = machine(&iso, &place, &retention, &job).run();
    let console = results.log();
    assert_eq!(console.matches("failback: the log cannot be kept on the retention disk").count(), 1, "{console}");
    assert!(!console.contains("No space left"), "{console}");
    for line in 1..=LINES {
        assert!(console.contains(&format!("line {line} of a job")), "line {line} is missing\n{console}");
    }
    for words in ["ending what still uses the retention disk: ", "sleep (", "sh ("] {
        assert!(console.contains(words), "{words:?} is not in:\n{console}");
    }
    assert!(!console.contains("is made read-only"), "{console}");
    is_clean(&retention, console);
    // Those lines are on the disk for which there was room.
    let log = "cat /appliance/log/failback.log".as_ref();
    let log = tool("debugfs", &["-R".as_ref(), log, retention.as_os_str()]);
    assert!(log.contains("job: running job") && !log.contains(&format!("line {LINES} of")), "{log}");
}

/// What cannot be unmounted, here because it is not even tried, is made read-only, which is as good for what is on it.
#[test]
fn slow_a_retention_disk_that_stays_in_use_is_made_read_only() {
    let Some(iso) = live_iso() else { return };
    let place = Place::new();
    let retention = place.sparse("retention.img", 32 << 20, &[]);
    let job = "sed -i 's/umount \"$place\"/false/' /usr/libexec/failback/shutdown\n\
               echo kept >/var/lib/failback/retention/file\n";
    let results = machine(&iso, &place, &retention, job).run();
    let console = results.log();
    assert!(console.contains("cannot be unmounted: it is made read-only"), "{console}");
    assert!(!console.contains("could not be made read-only"), "{console}");
    assert_eq!(tool("debugfs", &["-R".as_ref(), "cat /file".as_ref(), retention.as_os_str()]), "kept");
    is_clean(&retention, console);
}

/// A job that does not end keeps nobody from switching the machine off, here by the keyboard; and it does not go on with its next command
/// when the one that it waits for is ended.
#[test]
fn slow_a_machine_whose_job_hangs_can_be_switched_off() {
    let Some(iso) = live_iso() else { return };
    let place = Place::new();
    let retention = place.sparse("retention.img", 32 << 20, &[]);
    let target = place.file("target.img", &noise(1 << 20, 1));
    let job = format!(
        "mkfifo /tmp/delta; sleep 600 >/tmp/delta &\n\
         echo waiting for its delta\n\
         failback apply - $(disk {}) --yes </tmp/delta || :\n\
         echo next command\n",
        uuid(0)
    );
    let mut machine = machine(&iso, &place, &retention, &job).disk(Attached::new(&target, 0)).start();
    machine.guest.await_printed("waiting for its delta");
    machine.press(&["ctrl", "alt", "delete"]);
    let results = machine.guest.await_end();
    let console = results.log();
    assert!(console.contains("failback: ending after "), "{console}");
    assert!(!console.contains("next command"), "{console}");
    is_clean(&retention, console);
}
