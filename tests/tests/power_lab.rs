//! The power lab itself: it shows every state that a power cut may leave, and no other; and it gives back what it took.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_tests::lab::power::{CrashState, Disks, Limits, PowerLab, has_power_lab};
use failback_tests::lab::{is_inside, run_inside, tool};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

const TARGET: u64 = 1 << 20;
const RETENTION: u64 = 16 << 20;

/// Whether the test runs where it may mount; otherwise it is run there.
fn inside(test: &str) -> bool {
    if !is_inside() && has_power_lab() {
        run_inside(test);
    }
    is_inside()
}

fn limits(states: u64) -> Limits {
    Limits { states, time: Duration::from_secs(100), seed: 1 }
}

/// Writes a sector, and does not flush.
fn write(disks: &Disks, sector: u64, letter: char) {
    let script = format!(
        "head -c 512 /dev/zero | tr '\\0' {letter} | \
         dd of={} seek={sector} bs=512 count=1 iflag=fullblock oflag=direct conv=notrunc",
        disks.target().display()
    );
    tool("sh", &["-c", &script]);
}

/// Flushes the target.
fn flush(disks: &Disks) {
    File::open(disks.target()).unwrap().sync_all().unwrap();
}

/// The first bytes of these sectors.
fn letters(target: &Path, sectors: &[u64]) -> String {
    let mut file = File::open(target).unwrap();
    let letters = sectors.iter().map(|sector| {
        let mut bytes = [0; 512];
        file.seek(SeekFrom::Start(sector * 512)).unwrap();
        file.read_exact(&mut bytes).unwrap();
        assert!(bytes.iter().all(|byte| *byte == bytes[0]), "a sector is torn");
        if bytes[0] == 0 { '-' } else { char::from(bytes[0]) }
    });
    letters.collect()
}

/// All that is seen of these sectors after power cuts.
fn seen(lab: &PowerLab, states: u64, look: impl Fn(&CrashState) -> String) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    lab.crash_states(limits(states), |state| {
        seen.insert(look(state));
    });
    seen
}

fn set(expected: &[&str]) -> BTreeSet<String> {
    expected.iter().map(ToString::to_string).collect()
}

#[test]
fn slow_what_was_not_flushed_may_be_lost_in_any_order() {
    if !inside("slow_what_was_not_flushed_may_be_lost_in_any_order") {
        return;
    }
    let mut lab = PowerLab::new(TARGET, RETENTION);
    lab.record(|disks| {
        write(disks, 5, 'A');
        write(disks, 9, 'B');
        flush(disks);
        write(disks, 2, 'C');
    });
    let with_flush = seen(&lab, 300, |state| letters(state.target(), &[5, 9, 2]));
    assert_eq!(with_flush, set(&["---", "A--", "-B-", "AB-", "ABC"]));
    // Who forgets the flush is caught.
    let mut lab = PowerLab::new(TARGET, RETENTION);
    lab.record(|disks| {
        write(disks, 5, 'A');
        write(disks, 9, 'B');
        write(disks, 2, 'C');
    });
    let without_flush = seen(&lab, 300, |state| letters(state.target(), &[5, 9, 2]));
    assert_eq!(without_flush, set(&["---", "A--", "-B-", "AB-", "ABC", "--C", "A-C", "-BC"]));
}

/// Each disk has a cache of its own.
#[test]
fn to_flush_one_disk_does_not_flush_the_other() {
    if !inside("to_flush_one_disk_does_not_flush_the_other") {
        return;
    }
    let mut lab = PowerLab::new(TARGET, RETENTION);
    lab.record(|disks| {
        write(disks, 5, 'A');
        let record = disks.retention().join("record");
        File::create_new(&record).unwrap().sync_all().unwrap();
        File::open(disks.retention()).unwrap().sync_all().unwrap();
    });
    let look = |state: &CrashState| {
        let recorded = state.retention().join("record").exists();
        assert!(recorded || !state.is_after_the_workload(), "a file that was synced is not there");
        letters(state.target(), &[5]) + if recorded { " recorded" } else { "" }
    };
    // Also the worst: the record is there, and what it is about is not.
    assert_eq!(seen(&lab, 100, look), set(&["-", "A", "- recorded", "A recorded"]));
}

/// What was written before the recording, and what a check changed, comes back in no state; a seed brings one back.
#[test]
fn states_are_made_anew_each_time() {
    if !inside("states_are_made_anew_each_time") {
        return;
    }
    let mut lab = PowerLab::new(TARGET, RETENTION);
    lab.prepare(|disks| {
        write(disks, 7, 'p');
        fs::write(disks.retention().join("prepared"), "p").unwrap();
    });
    lab.record(|disks| {
        for sector in 100..120 {
            write(disks, sector, 'A');
        }
    });
    let sectors: Vec<_> = (100..120).collect();
    let mut states = BTreeMap::new();
    let told = lab.crash_states(limits(40), |state| {
        assert_eq!(letters(state.target(), &[7, 8]), "p-");
        assert_eq!(fs::read_dir(state.retention()).unwrap().count(), 2, "lost+found and what was prepared");
        assert_eq!(fs::read_to_string(state.retention().join("prepared")).unwrap(), "p");
        states.insert(state.seed(), letters(state.target(), &sectors));
        fs::write(state.target(), vec![b'x'; 1 << 20]).unwrap();
        fs::write(state.retention().join("prepared"), "changed").unwrap();
        fs::write(state.retention().join("new"), "new").unwrap();
    });
    assert_eq!((told, states.len()), (40, 40));
    for seed in [3, 33] {
        let one = Limits { states: 1, seed, ..limits(1) };
        lab.crash_states(one, |state| assert_eq!(letters(state.target(), &sectors), states[&seed]));
    }
    let no_time = Limits { time: Duration::ZERO, ..limits(40) };
    assert_eq!(lab.crash_states(no_time, |_| panic!("no time is left")), 0);
}

/// What a power cut left is what the next workload finds.
#[test]
fn a_power_cut_may_follow_another() {
    if !inside("a_power_cut_may_follow_another") {
        return;
    }
    let mut lab = PowerLab::new(TARGET, RETENTION);
    lab.record(|disks| {
        write(disks, 5, 'A');
        write(disks, 6, 'B');
        fs::write(disks.retention().join("first"), "1").unwrap();
        tool("sync", &[disks.retention().join("first").as_path(), disks.retention()]);
    });
    let mut only_b = None;
    lab.crash_states(limits(100), |state| {
        if letters(state.target(), &[5, 6]) == "-B" && state.retention().join("first").exists() {
            only_b = Some(state.seed());
        }
    });
    lab.continue_from(only_b.expect("no state has only the second letter"));
    lab.record(|disks| {
        assert!(disks.retention().join("first").exists());
        write(disks, 7, 'C');
    });
    assert_eq!(seen(&lab, 30, |state| letters(state.target(), &[5, 6, 7])), set(&["-B-", "-BC"]));
}

/// A test that fails in the middle leaves nothing attached, mounted or running.
#[test]
fn a_failure_leaves_nothing_behind() {
    if !inside("a_failure_leaves_nothing_behind") {
        return;
    }
    for in_workload in [true, false] {
        let mut taken = None;
        let failure = catch_unwind(AssertUnwindSafe(|| {
            let mut lab = PowerLab::new(TARGET, RETENTION);
            let disks = lab.disks().clone();
            taken = Some(disks.clone());
            lab.record(|_| {
                assert!(is_backed(&disks) && is_mounted(&disks) && runs_in(&disks), "nothing would be noticed");
                assert!(!in_workload, "meant to fail");
            });
            lab.crash_states(limits(1), |_| panic!("meant to fail"));
        }));
        assert_eq!(*failure.unwrap_err().downcast::<&str>().unwrap(), "meant to fail");
        let disks = taken.unwrap();
        assert!(!is_backed(&disks), "a device is still attached");
        assert!(!is_mounted(&disks), "something is still mounted");
        assert!(!runs_in(&disks), "a daemon still runs");
        assert!(!place(&disks).exists(), "files are left");
    }
}

/// The directory that all is in but the images of states.
fn place(disks: &Disks) -> &Path {
    disks.retention().parent().unwrap()
}

/// Whether the target's device is one of the lab's still. Somebody else may have it by now.
fn is_backed(disks: &Disks) -> bool {
    let name = disks.target().file_name().unwrap().to_str().unwrap();
    let backing = fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).unwrap_or_default();
    backing.starts_with(place(disks).to_str().unwrap()) || backing.trim_end().ends_with("/target.img (deleted)")
}

fn is_mounted(disks: &Disks) -> bool {
    fs::read_to_string("/proc/self/mountinfo").unwrap().contains(place(disks).to_str().unwrap())
}

fn runs_in(disks: &Disks) -> bool {
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let mut places = processes.filter_map(|process| fs::read_link(process.join("cwd")).ok());
    places.any(|at| at.starts_with(place(disks)))
}
