//! What a job that does not end leaves to whoever is at a terminal, and that disks are guarded also by a kernel that does not count them.

use crate::iso::live_iso;
use crate::machine::{Attached, Machine, job_disk, uuid};
use failback_tests::lab::guest::{Firmware, Medium};
use failback_tests::lab::{Place, noise};

const JOB: u8 = 9;

#[test]
fn slow_a_job_that_hangs_keeps_nobody_from_the_console() {
    let Some(iso) = live_iso() else { return };
    let place = Place::new();
    let target = place.file("target.img", &noise(1 << 20, 1));
    let script = format!(
        "link=/dev/disk/by-scsi-uuid/{uuid}\n\
         sed -i s/diskseq/none/ /usr/libexec/failback/guard\n\
         /usr/libexec/failback/guard\n\
         sd=$(basename $(readlink -f $link))\n\
         blockdev --setrw /dev/$sd\n\
         /usr/libexec/failback/guard\n\
         result once blockdev --getro /dev/$sd\n\
         host=$(readlink -f /sys/block/$sd | sed -n 's,.*/\\(host[0-9]*\\)/.*,\\1,p')\n\
         echo 1 >/sys/block/$sd/device/delete\n\
         for i in $(seq 500); do [ -L $link ] || break; sleep 0.2; done\n\
         result gone ls /sys/block/$sd /dev/disk/by-scsi-uuid\n\
         echo '- - -' >/sys/class/scsi_host/$host/scan\n\
         for i in $(seq 500); do [ \"$(blockdev --getro $link 2>/dev/null)\" != 1 ] || break; sleep 0.2; done\n\
         result name readlink $link\n\
         result again blockdev --getro $link\n\
         echo waiting for somebody\n\
         until ps | grep -q '[f]ailback console'; do sleep 0.5; done\n\
         echo somebody is there\n\
         kill -KILL $(cat /run/failback/job-is-on)\n\
         sleep 600\n",
        uuid = uuid(0)
    );
    let job = job_disk(&place, "job.img", &script, &[]);
    let mut machine = Machine::new(&iso, "failback.run=job", Firmware::Bios, Medium::Cd)
        .disk(Attached::new(&target, 0))
        .disk(Attached::new(&job, JOB).own())
        .start();
    machine.guest.await_printed("while the job runs, Enter leads to the console");
    machine.guest.await_printed("waiting for somebody");
    assert!(!machine.guest.console().contains(&uuid(0)), "the serial line has the console without being asked");
    machine.press(&["ret"]);
    machine.guest.await_printed("somebody is there");
    // A job that was killed is not waited for: the serial line shows the console as well.
    machine.guest.await_printed(&uuid(0));
    machine.press(&["ctrl", "alt", "delete"]);
    let results = machine.guest.await_end();
    let console = results.log();
    assert!(!console.contains("This is a shell"), "the console has ended, not failed:\n{console}");
    assert_eq!(results.of("once").stdout, b"0\n", "a disk that was looked at is looked at again\n{console}");
    assert_ne!(results.of("gone").code, 0, "{console}");
    assert!(results.of("name").stdout.starts_with(b"../../sd"), "{console}");
    assert_eq!(results.of("again").stdout, b"1\n", "a disk that takes the name of another is not read-only\n{console}");
}
