//! A master target that loses its power: a machine of its own, with VMware's SCSI controller, is killed and started again.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_tests::lab::guest::{Bus, Guest, GuestDisk, Results, RunningGuest};
use failback_tests::lab::{Place, changed, noise, root_of_file, try_tool};
use std::fs::{self, File};
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
                       mkdir -p /mnt/state /mnt/points /delta\n\
                       mount -t ext4 -o ro \"$(disk 2)\" /delta || die 'the delta cannot be mounted'\n\
                       apply() { failback apply /delta/d $target --no-undo --yes --state /mnt/state \"$@\"; }\n\
                       status() { failback status $target --state /mnt/state --json; }\n\
                       points() { failback \"$@\" --retention /mnt/points; }\n";
const POINT_STATUS: &str = "points status $target --json";
/// What every orderly end ends with.
const END: &str = "umount /mnt || die 'the retention drive is still in use'\n";

/// The machine with its three disks. The target is slow, so that an apply takes seconds.
fn machine(place: &Place) -> Option<Guest> {
    let guest = Guest::new()?.failback().modules(&["vmw_pvscsi", "sd_mod", "crc32c_generic", "ext4"]);
    let disk = |name| GuestDisk::new(Bus::Pvscsi, &place.path(name));
    let target = disk("target.img").serial(UUID).slow(3 * MIB);
    Some(guest.disk(target).disk(disk("retention.img")).disk(disk("delta.img")))
}

/// How much of the result is on the target already, in pieces of a MiB, each of which holds something of the base before.
fn pieces_done(target: &Path, result: &Path) -> usize {
    let pieces = usize::try_from(fs::metadata(target).unwrap().len() / MIB).unwrap();
    let mib = usize::try_from(MIB).unwrap();
    let piece = |file: &File, number: usize| {
        let mut bytes = vec![0; mib];
        file.read_exact_at(&mut bytes, (number * mib) as u64).unwrap();
        bytes
    };
    let (target, result) = (File::open(target).unwrap(), File::open(result).unwrap());
    (0..pieces).filter(|number| piece(&target, *number) == piece(&result, *number)).count()
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
    let script =
        format!("{PREPARE}result before status\nresult apply apply --json --verify\nresult after status\n{END}");
    let results = machine(&place).unwrap().run(&script);
    println!("{unchanged} MiB in place at first, {first} after a power cut, {second} after another");
    let before = results.json("before", 0);
    assert_eq!(before["state"], "interrupted", "{before}");
    assert!(before["record"].as_str().unwrap().contains(UUID), "{before}");
    let applied = results.json("apply", 0);
    assert_eq!((&applied["resumed"], &applied["proven"]), (&true.into(), &"whole disk read".into()));
    assert_eq!(results.json("after", 0)["state"], "at-rest");
    assert_eq!(root_of_file(&target), root_of_file(&result));
    is_sound(&retention);
}

/// A file system that was unmounted.
fn is_sound(image: &Path) {
    let checked = try_tool("e2fsck", &["-f".as_ref(), "-n".as_ref(), image.as_os_str()]);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
}

/// A machine after a power cut, which comes up and says that the apply can be finished or taken back; then it does one of both, and
/// checks the point that it is at.
fn recovering(place: &Place, recovery: &str, point: u64) -> RunningGuest {
    let script = format!(
        "{PREPARE}result before {POINT_STATUS}\nresult recovery points {recovery} $target --yes --json\n\
         result point points verify $target --point {point} --json\nresult after {POINT_STATUS}\n{END}"
    );
    machine(place).unwrap().start(&script)
}

/// Waits until such a machine has ended, with the disk at this point, which has the content of this image.
fn has_recovered(running: RunningGuest, place: &Place, point: u64, content: &Path) {
    let results = running.finish();
    assert_eq!(results.json("recovery", 0)["point"], point);
    let (root, after) = (root_of_file(content), results.json("after", 0));
    assert_eq!(results.json("point", 0)["root"], root);
    assert_eq!((&after["state"], &after["present"]), (&"at-rest".into(), &point.into()), "{after}");
    assert_eq!(root_of_file(&place.path("target.img")), root);
    is_sound(&place.path("retention.img"));
    is_between(&results, place);
}

/// The machine came up between both points, and said so.
fn is_between(results: &Results, place: &Place) {
    let status = results.json("before", 0);
    assert_eq!((&status["state"], &status["under_way"]), (&"interrupted".into(), &"apply".into()), "{status}");
    assert_eq!((&status["can_resume"], &status["can_undo"]), (&true.into(), &true.into()), "{status}");
    assert_eq!(status["base_root"], root_of_file(&place.path("base.img")), "{status}");
    assert_eq!(status["result_root"], root_of_file(&place.path("result.img")), "{status}");
}

/// A power cut in the middle of an apply that keeps the way back. One machine goes on from there to the new state; another one, with
/// copies of its disks, goes back to the old one, and loses its power once more on the way.
#[test]
fn slow_a_machine_loses_its_power_and_goes_on_or_back() {
    let (place, other) = (Place::new(), Place::new());
    let content = noise(SIZE / 2, 3);
    let (base, result) = (place.file("base.img", &content), place.file("result.img", &changed(&content, SIZE / 2, 4)));
    let target = place.file("target.img", &content);
    place.ext4("retention.img", 64 * MIB, &[]);
    place.ext4("delta.img", 64 * MIB, &[&place.delta("d", &base, &result, "16K")]);
    let Some(guest) = machine(&place) else { return };
    let script = format!("{PREPARE}export TERM=linux\nshown apply points apply /delta/d $target --yes\n");
    let mut running = guest.start(&script);
    running.await_printed("writing");
    running.await_that("piece of the result", |_| (pieces_done(&target, &result) > 2).then_some(()));
    running.cut_power();
    for image in ["base.img", "result.img", "target.img", "retention.img", "delta.img"] {
        fs::copy(place.path(image), other.path(image)).unwrap();
    }
    let going_on = recovering(&place, "resume --delta /delta/d", 1);
    let copy = other.path("target.img");
    let first = pieces_done(&copy, &base);
    let script = format!("{PREPARE}result before {POINT_STATUS}\nshown undo points undo $target --yes\n");
    let mut running = machine(&other).unwrap().start(&script);
    running.await_that("piece of the base", |_| (pieces_done(&copy, &base) > first).then_some(()));
    is_between(&running.cut_power(), &other);
    let second = pieces_done(&copy, &base);
    println!("{first} MiB of the base in place after a power cut, {second} after another on the way back");
    assert!(second < pieces_done(&base, &base), "the power went too late");
    has_recovered(going_on, &place, 1, &result);
    has_recovered(recovering(&other, "undo", 0), &other, 0, &base);
}
