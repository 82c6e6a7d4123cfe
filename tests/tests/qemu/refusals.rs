//! What a live ISO does not do, and how it says so.

use crate::iso::live_iso;
use crate::machine::{Attached, Machine, job_disk, uuid};
use failback_tests::lab::guest::{Firmware, Medium};
use failback_tests::lab::{Place, changed, noise, root_of_file};

const SIZE: usize = 4 << 20;
const JOB: u8 = 9;

/// A disk that is not empty is not formatted, whoever asks for it; and without a retention disk an original disk is written only by
/// whoever says that there is to be no way back.
#[test]
fn slow_no_disk_is_formatted_that_is_not_empty() {
    let Some(iso) = live_iso() else { return };
    let place = Place::new();
    let base = noise(SIZE, 1);
    let (target, result) = (place.file("target.img", &base), place.file("result.img", &changed(&base, SIZE, 2)));
    let delta = place.delta("d", &target, &result, "16K");
    // Nothing that any program knows, in the last sector only.
    let mut bytes = vec![0; 32 << 20];
    *bytes.last_mut().unwrap() = 1;
    let precious = place.file("precious.img", &bytes);
    let job = job_disk(
        &place,
        "job.img",
        &format!(
            "result guarded blockdev --getro $(disk {precious})\n\
             result without failback apply d $(disk {target}) --yes\n\
             result with failback apply d $(disk {target}) --yes --no-undo --json\n\
             result after blockdev --getro $(disk {target})\n",
            precious = uuid(1),
            target = uuid(0)
        ),
        &[&delta],
    );
    let untouched = [root_of_file(&precious), root_of_file(&job)];
    let arguments = format!(
        "failback.retention=format:{} failback.ip=wrong failback.nic=eth7 failback.run=job failback.then=poweroff",
        uuid(1)
    );
    let results = Machine::new(&iso, &arguments, Firmware::Uefi, Medium::Cd)
        .disk(Attached::new(&target, 0))
        .disk(Attached::new(&precious, 1))
        .disk(Attached::new(&job, JOB).own())
        .run();
    let console = results.log();
    for words in [
        "is not empty, so it is not formatted",
        "original disks are refused as targets, unless apply is told --no-undo",
        "there is no card called eth7",
    ] {
        assert!(console.contains(words), "{words:?} is not on the console:\n{console}");
    }
    assert_eq!(results.of("guarded").stdout, b"1\n", "a disk that was refused stays read-only\n{console}");
    let without = results.of("without");
    assert_eq!(without.code, 3, "{}", without.stderr);
    assert!(without.stderr.contains("--no-undo"), "{}", without.stderr);
    assert_eq!(results.json("with", 0)["result_root"], root_of_file(&result));
    assert_eq!(results.of("after").stdout, b"1\n", "read-only again after the apply");
    assert_eq!(root_of_file(&target), root_of_file(&result));
    assert_eq!([root_of_file(&precious), root_of_file(&job)], untouched);
}
