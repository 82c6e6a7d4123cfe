//! The fuzzer's target for disks, over disks made by real tools and thousands of fixed mutations of them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_tests::fuzz_layout::layout;
use failback_tests::lab::{Dice, Loop, Place, has_devices, lone, tool};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Of each disk.
const MUTATIONS: u64 = 500;
const DISK: u64 = 3 << 20;
/// What is cut off at the end is at most this.
const CUT_MAX: usize = 64 << 10;

fn swap(disk: &Path, at: u64, size: u64) {
    let space = tempfile::NamedTempFile::new().unwrap();
    space.as_file().set_len(size).unwrap();
    tool("mkswap", &["-q", "-p", "4096", space.path().to_str().unwrap()]);
    let header = std::fs::read(space.path()).unwrap();
    let mut bytes = std::fs::read(disk).unwrap();
    let at = usize::try_from(at).unwrap();
    bytes[at..at + 4096].copy_from_slice(&header[..4096]);
    std::fs::write(disk, bytes).unwrap();
}

/// Disks of 3 MiB with swap space in them.
fn disks(place: &Place) -> Vec<Vec<u8>> {
    let gpt = place.sparse("gpt.img", DISK, &[]);
    tool("sgdisk", &["-o", "-a", "1", "-n", "1:64:+1M", "-n", "2:0:+1M", gpt.to_str().unwrap()]);
    swap(&gpt, 64 * 512, 1 << 20);
    let mbr = place.sparse("mbr.img", DISK, &[]);
    let mut sfdisk = Command::new("/usr/sbin/sfdisk").arg("-q").arg(&mbr).stdin(Stdio::piped()).spawn().unwrap();
    let script = "label: dos\nstart=64, size=1024, type=82\nstart=1088, size=4000, type=5\n5 : start=1100, size=512, type=83\n\
                  6 : start=1700, size=1024, type=82\n";
    std::io::Write::write_all(&mut sfdisk.stdin.take().unwrap(), script.as_bytes()).unwrap();
    assert!(sfdisk.wait().unwrap().success());
    swap(&mbr, 64 * 512, 512 << 10);
    swap(&mbr, 1700 * 512, 512 << 10);
    let whole = place.sparse("swap.img", DISK, &[]);
    swap(&whole, 0, DISK);
    let mut all = vec![gpt, mbr, whole];
    if has_devices() {
        let lvm = place.sparse("lvm.img", DISK, &[]);
        let device = Loop::attach(&lvm, &[]);
        let name = device.path.to_str().unwrap();
        let config = format!(
            "devices {{ filter=[\"a|^{name}$|\",\"r|.*|\"] use_devicesfile=0 }} backup {{ backup=0 archive=0 }}"
        );
        let run =
            |arguments: &[&str]| tool("lvm", &[arguments, &["--config", &config, "--driverloaded", "n"]].concat());
        run(&["vgcreate", "-s", "64k", "--metadatasize", "64k", "--dataalignment", "128k", "vg0", name]);
        run(&["lvcreate", "-an", "-Zn", "-Wn", "-l", "10", "-n", "a", "vg0"]);
        run(&["lvcreate", "-an", "-Zn", "-Wn", "-l", "10", "-n", "b", "vg0"]);
        let start = run(&["pvs", "--noheadings", "--nosuffix", "--units", "b", "-o", "pe_start", name]);
        drop(device);
        swap(&lvm, start.parse().unwrap(), 640 << 10);
        all.push(lvm);
    }
    all.into_iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// Changes a few places where there is something, and perhaps cuts the disk.
fn mutate(disk: &mut Vec<u8>, places: &[usize], dice: &mut Dice) {
    const NUMBERS: [u64; 10] = [0, 1, 2, 0x7f, 0xff, 0x1fff, 0xffff_ffff, 0x7fff_ffff_ffff_ffff, u64::MAX, 0x800];
    for _ in 0..=dice.below(3) {
        let at = places[dice.below(places.len())] + dice.below(24);
        if at + 8 > disk.len() {
            continue;
        }
        match dice.below(6) {
            0 | 1 => disk[at] ^= 1_u8 << dice.below(8),
            2 => disk[at] = dice.roll().to_le_bytes()[0],
            3 => {
                let (at, value) = (at / 4 * 4, NUMBERS[dice.below(NUMBERS.len())].to_le_bytes());
                let width = [4, 8][dice.below(2)].min(disk.len() - at);
                disk[at..at + width].copy_from_slice(&value[..width]);
            }
            4 => {
                let (from, len) = (places[dice.below(places.len())], 1 + dice.below(16));
                if from + len <= disk.len() && at + len <= disk.len() {
                    disk.copy_within(from..from + len, at);
                }
            }
            _ => disk[at] = b"0123456789{}[]\"#=,\\ "[dice.below(20)],
        }
    }
    if dice.below(40) == 0 {
        disk.truncate(disk.len() - dice.below(CUT_MAX));
    }
}

#[test]
fn whatever_a_disk_says_it_is_looked_at_in_peace() {
    let Some(_lone) = lone() else { return };
    let place = Place::new();
    let started = Instant::now();
    for (number, original) in disks(&place).into_iter().enumerate() {
        assert!(layout(&original), "disk {number} has something free");
        let places: Vec<_> = (0..original.len()).step_by(8).filter(|at| original[*at..*at + 8] != [0; 8]).collect();
        let (mut disk, mut still_free) = (original.clone(), 0);
        for round in 0..MUTATIONS {
            let mut dice = Dice::new(0x9E37_79B9_7F4A_7C15 ^ ((number as u64) << 32) ^ (round + 1));
            disk.clone_from(&original);
            mutate(&mut disk, &places, &mut dice);
            still_free += u64::from(layout(&disk));
        }
        println!("disk {number}: {still_free} of {MUTATIONS} mutations have something free, {:?}", started.elapsed());
        assert!(still_free > 0 && still_free < MUTATIONS, "mutations change something, and not everything");
    }
    assert!(started.elapsed() < Duration::from_secs(90), "something took far too long");
}
