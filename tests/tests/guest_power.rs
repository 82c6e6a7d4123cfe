//! A master target that loses its power: a machine of its own, with VMware's SCSI controller, is killed and started again.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_tests::lab::guest::{Bus, Guest, GuestDisk, RunningGuest};
use failback_tests::lab::{Place, changed, noise, root_of_file, try_tool};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

const MIB: u64 = 1 << 20;
const SIZE: usize = 32 << 20;
const UUID: &str = "6000c2999176dd776e0123456789abcd";

/// What every start begins with: the target, the retention drive and the disk that the delta is on.
const PREPARE: &str = "target=$(disk 0)\n\
                       mount -t ext4 \"$(disk 1)\" /mnt || die 'the retention drive cannot be mounted'\n\
                       mkdir -p /mnt/state /delta\n\
                       mount -t ext4 -o ro \"$(disk 2)\" /delta || die 'the delta cannot be mounted'\n\
                       apply() { failback apply /delta/d $target --no-undo --yes --state /mnt/state \"$@\"; }\n\
                       status() { failback status $target --state /mnt/state --json; }\n";

/// The machine with its three disks. The target is slow, so that an apply takes seconds.
fn machine(place: &Place) -> Option<Guest> {
    let guest = Guest::new()?.failback().modules(&["vmw_pvscsi", "sd_mod", "crc32c_generic", "ext4"]);
    let disk = |name| GuestDisk::new(Bus::Pvscsi, &place.path(name));
    let target = disk("target.img").serial(UUID).slow(3 * MIB);
    Some(guest.disk(target).disk(disk("retention.img")).disk(disk("delta.img")))
}

/// How much of the result is on the target already, in pieces of a MiB that hold nothing of the base any more.
fn pieces_done(target: &Path, result: &Path) -> usize {
    let mib = usize::try_from(MIB).unwrap();
    let piece = |file: &File, number: usize| {
        let mut bytes = vec![0; mib];
        file.read_exact_at(&mut bytes, (number * mib) as u64).unwrap();
        bytes
    };
    let (target, result) = (File::open(target).unwrap(), File::open(result).unwrap());
    (0..SIZE / mib).filter(|number| piece(&target, *number) == piece(&result, *number)).count()
}

/// Two power cuts in the middle of writing, and a third start that finishes what was begun.
#[test]
fn slow_a_machine_loses_its_power_twice_and_finishes() {
    let place = Place::new();
    let base = noise(SIZE, 1);
    let (target, result) = (place.file("target.img", &base), place.file("result.img", &changed(&base, SIZE, 2)));
    let delta = place.delta("d", &target, &result, "16K");
    let retention = place.ext4("retention.img", 32 * MIB, &[]);
    place.ext4("delta.img", 64 * MIB, &[&delta]);
    let Some(guest) = machine(&place) else { return };
    let unchanged = pieces_done(&target, &result);
    // The progress bar on the console says when it writes.
    let begin = format!("{PREPARE}export TERM=linux\nshown apply apply\n");
    let mut running = guest.start(&begin);
    running.await_printed("writing");
    let some_done = |_: &RunningGuest| (pieces_done(&target, &result) > unchanged).then_some(());
    running.await_that("piece of the result", some_done);
    running.cut_power();
    let first = pieces_done(&target, &result);
    // Again, a while after it has gone on.
    let script = format!("{PREPARE}result status status\necho 'it goes on'\nshown apply apply\n");
    let mut running = machine(&place).unwrap().start(&script);
    running.await_printed("it goes on");
    running.await_that("further piece", |_| (pieces_done(&target, &result) > first).then_some(()));
    thread::sleep(Duration::from_millis(500));
    let results = running.cut_power();
    assert_eq!(results.json("status", 0)["state"], "interrupted", "{}", results.log());
    let second = pieces_done(&target, &result);
    assert!(second < SIZE >> 20, "the power went too late");
    // And to the end.
    let script = format!(
        "{PREPARE}result before status\nresult apply apply --json --verify\nresult after status\n\
         umount /mnt || die 'the retention drive is still in use'\n"
    );
    let results = machine(&place).unwrap().run(&script);
    println!("{unchanged} MiB in place at first, {first} after a power cut, {second} after another");
    let before = results.json("before", 0);
    assert_eq!(before["state"], "interrupted", "{before}");
    assert!(before["record"].as_str().unwrap().contains(UUID), "{before}");
    let applied = results.json("apply", 0);
    assert_eq!((&applied["resumed"], &applied["proven"]), (&true.into(), &"whole disk read".into()));
    assert_eq!(results.json("after", 0)["state"], "at-rest");
    assert_eq!(root_of_file(&target), root_of_file(&result));
    let checked = try_tool("e2fsck", &["-f".as_ref(), "-n".as_ref(), retention.as_os_str()]);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
}
