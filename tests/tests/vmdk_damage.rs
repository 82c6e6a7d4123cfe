//! Damaged and hostile VMDKs: nothing panics, leads away or is written to.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_image::create::{NewDisk, Subformat, files_of};
use failback_tests::failback;
use failback_tests::fuzz_vmdk;
use failback_tests::lab::{Place, noise};
use failback_tests::vmdk_read::mutated;
use failback_units::ByteCount;
use serde_json::Value;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const GRAIN: u64 = 65_536;

/// A name, what must hold, something sound, how many mutations.
type Fixture = (&'static str, fn(&[u8]) -> bool, Vec<u8>, u64);
/// A name, what is done to a sound file, how a check then ends, and words of what it says.
type Damage<'a> = (&'a str, &'a dyn Fn(&mut Vec<u8>), i32, &'a str);

/// A sparse disk of 3 MiB and a bit, with five grains of noise.
fn sparse(zeroed_grains: bool) -> Vec<u8> {
    let new = NewDisk {
        subformat: Subformat::MonolithicSparse,
        capacity: ByteCount::new(3 * (1 << 20) + 1536).unwrap(),
        adapter: "lsilogic".into(),
        hardware_version: 14,
        uuid: Some([0x60; 16]),
        cid: 0x1234_5678,
        zeroed_grains,
    };
    let file = files_of(&new, "x.vmdk").unwrap().remove(0);
    let mut bytes = vec![0; file.length.to_usize().unwrap()];
    for (at, content) in file.content {
        let at = usize::try_from(at).unwrap();
        bytes[at..at + content.len()].copy_from_slice(&content);
    }
    let number = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    for (index, grain) in [0_usize, 1, 7, 47, 48].into_iter().enumerate() {
        let entry = u32::try_from(bytes.len() / 512).unwrap();
        for directory in [48, 56] {
            let directory = usize::try_from(number(&bytes, directory)).unwrap() * 512;
            let table = u32::from_le_bytes(bytes[directory..directory + 4].try_into().unwrap());
            let at = usize::try_from(table).unwrap() * 512 + grain * 4;
            bytes[at..at + 4].copy_from_slice(&entry.to_le_bytes());
        }
        bytes.extend(noise(65_536, index as u64));
    }
    bytes
}

/// Where the primary, or the redundant, table begins.
fn table(bytes: &[u8], directory_at: usize) -> usize {
    let number = u64::from_le_bytes(bytes[directory_at..directory_at + 8].try_into().unwrap());
    let at = usize::try_from(number).unwrap() * 512;
    usize::try_from(u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())).unwrap() * 512
}

#[test]
fn damaged_disks_do_no_harm() {
    let started = Instant::now();
    let flat = "# Disk DescriptorFile\nversion=1\nencoding=\"windows-1252\"\nCID=fffffffe\nparentCID=ffffffff\n\
        createType=\"monolithicFlat\"\n\nRW 4192256 FLAT \"a b.vmdk\" 0\nRDONLY 63 ZERO\n RW 5 SPARSE \"c.vmdk\"\n\
        ddb.uuid = \"60 00 C2 99 91 76 dd 77-6e 01 02 03 04 05 06 ff\"\n";
    let fixtures: [Fixture; 3] = [
        ("descriptor", fuzz_vmdk::descriptor, flat.into(), 4000),
        ("sparse", fuzz_vmdk::disk, sparse(false), 700),
        ("zeroed grains", fuzz_vmdk::disk, sparse(true), 300),
    ];
    for (name, target, bytes, rounds) in fixtures {
        assert!(target(&bytes), "{name} is sound");
        let read = (1..=rounds).filter(|round| target(&mutated(&bytes, *round))).count();
        println!("{name}: {read} of {rounds} mutations are read");
        assert!(read > 0 && read < usize::try_from(rounds).unwrap(), "{name}: {read} of {rounds}");
    }
    assert!(started.elapsed() < Duration::from_secs(60), "something took far too long");
}

/// What a check says of a damaged disk: the exit code, and all sentences.
fn checked(path: &Path) -> (i32, String, Value) {
    let run = failback!("vmdk", "check", path, "--json").run();
    let report: Value = serde_json::from_slice(&run.stdout).unwrap_or(Value::Null);
    let findings = report["findings"].as_array().cloned().unwrap_or_default();
    let sentences: Vec<_> = findings.iter().map(|finding| finding["sentence"].as_str().unwrap().to_owned()).collect();
    (run.code, sentences.join("\n") + &run.stderr, report)
}

#[test]
fn a_check_finds_what_qemu_does_not() {
    let place = Place::new();
    let sound = sparse(false);
    assert_eq!(checked(&place.file("sound.vmdk", &sound)).0, 0);
    let (primary, redundant) = (table(&sound, 56), table(&sound, 48));
    let entry = |bytes: &[u8], grain: usize| bytes[primary + grain * 4..primary + grain * 4 + 4].to_vec();
    let both = |bytes: &mut Vec<u8>, grain: usize, entry: &[u8]| {
        for table in [primary, redundant] {
            bytes[table + grain * 4..table + grain * 4 + 4].copy_from_slice(entry);
        }
    };
    let damages: [Damage<'_>; 9] = [
        ("dirty", &|bytes| bytes[72] = 1, 0, "not closed cleanly"),
        ("primary", &|bytes| bytes[primary + 4..primary + 8].fill(0), 6, "differ at grain 1"),
        ("redundant", &|bytes| bytes[redundant + 4..redundant + 8].fill(0), 6, "differ at grain 1"),
        ("twice", &|bytes| both(bytes, 7, &entry(&sound, 1)), 6, "lead to the same grain"),
        ("metadata", &|bytes| both(bytes, 7, &[1, 0, 0, 0]), 6, "into the metadata"),
        ("behind", &|bytes| both(bytes, 7, &[0, 0, 1, 0]), 6, "it was cut off"),
        ("misaligned", &|bytes| both(bytes, 7, &[1, 1, 0, 0]), 6, "not aligned"),
        ("cut", &|bytes| bytes.truncate(bytes.len() - 70_000), 6, "it was cut off"),
        ("newline", &|bytes| bytes[74] = b'\n', 6, "newline bytes"),
    ];
    for (name, damage, code, words) in damages {
        let mut bytes = sound.clone();
        damage(&mut bytes);
        let path = place.file(&format!("{name}.vmdk"), &bytes);
        let (ended, said, _) = checked(&path);
        assert!(ended == code && said.contains(words), "{name}: {ended}, {said}");
        assert_eq!(fs::read(&path).unwrap(), bytes, "a check writes nothing");
    }
}

fn flat(extent: &str, more: &str) -> String {
    format!(
        "# Disk DescriptorFile\nversion=1\nCID=00000007\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n\
         {extent}\n{more}\nddb.adapterType = \"lsilogic\"\n"
    )
}

fn info(path: &Path) -> failback_tests::lab::Program {
    failback!("vmdk", "info", path)
}

#[test]
fn nothing_leads_away() {
    let place = Place::new();
    let descriptor = |name: &str, text: String| place.file(name, text.as_bytes());
    let size = fs::metadata("/etc/passwd").unwrap().len() / 512;
    for (name, target) in [("up", "../../../../etc/passwd"), ("root", "/etc/passwd"), ("below", "sub/x.vmdk")] {
        let path = descriptor(&format!("{name}.vmdk"), flat(&format!("RW {size} FLAT \"{target}\" 0"), ""));
        info(&path).fails(6, "no plain name");
    }
    symlink("/etc/passwd", place.path("link-flat.vmdk")).unwrap();
    info(&descriptor("link.vmdk", flat("RW 1 FLAT \"link-flat.vmdk\" 0", ""))).refused("symbolic link");
    // A symbolic link that the user names is followed: the files lie beside what it means.
    let inner = place.directory("inner");
    fs::write(inner.join("x.vmdk"), flat("RW 8 FLAT \"x-flat.vmdk\" 0", "")).unwrap();
    fs::write(inner.join("x-flat.vmdk"), vec![7; 4096]).unwrap();
    symlink(inner.join("x.vmdk"), place.path("named.vmdk")).unwrap();
    assert_eq!(info(&place.path("named.vmdk")).json()["size"], 4096);
    // Devices, directories and what is not there.
    std::os::unix::net::UnixListener::bind(place.path("socket")).unwrap();
    info(&descriptor("socket.vmdk", flat("RW 8 FLAT \"socket\" 0", ""))).refused("no regular file");
    info(&descriptor("missing.vmdk", flat("RW 8 FLAT \"not-there.vmdk\" 0", ""))).fails(5, "not-there.vmdk");
    info(&descriptor("short.vmdk", flat("RW 9 FLAT \"short-flat.vmdk\" 0", ""))).fails(5, "short-flat.vmdk");
    place.file("short-flat.vmdk", &[0; 4096]);
    info(&place.path("short.vmdk")).fails(6, "less than");
    info(&descriptor("no.vmdk", flat("NOACCESS 8 FLAT \"short-flat.vmdk\" 0", ""))).refused("NOACCESS");
}

#[test]
fn parents_are_the_right_ones() {
    let place = Place::new();
    place.file("x-flat.vmdk", &[7; 4096]);
    let line = "RW 8 FLAT \"x-flat.vmdk\" 0";
    let child = |name: &str, parent: &str, cid: &str| {
        let hint = format!("parentFileNameHint=\"{parent}\"");
        place.file(name, flat(line, &hint).replace("ffffffff", cid).as_bytes())
    };
    info(&child("self.vmdk", "self.vmdk", "00000007")).fails(6, "its own parent");
    child("one.vmdk", "two.vmdk", "00000007");
    info(&child("two.vmdk", "one.vmdk", "00000007")).fails(6, "its own parent");
    info(&child("away.vmdk", "/etc/passwd", "00000007")).refused("outside of the directories");
    info(&child("up.vmdk", "../x.vmdk", "00000007")).refused("outside of the directories");
    place.file("base.vmdk", flat(line, "").as_bytes());
    info(&child("stale.vmdk", "base.vmdk", "00000008")).refused("the parent was changed since");
    let (code, said, _) = checked(&place.path("stale.vmdk"));
    assert!(code == 6 && said.contains("00000008"), "{said}");
    assert_eq!(info(&child("good.vmdk", "base.vmdk", "00000007")).json()["chain"].as_array().unwrap().len(), 2);
    // A chain without end in sight.
    for index in 0..70 {
        child(&format!("c{index}.vmdk"), &format!("c{}.vmdk", index + 1), "00000007");
    }
    info(&place.path("c0.vmdk")).refused("more than 64 parents");
}

#[test]
fn nothing_is_overwritten_and_nothing_half_is_left() {
    let place = Place::new();
    let source = place.file("source.raw", &noise(300_000, 1));
    let new = place.directory("new");
    let there = new.join("there.vmdk");
    fs::write(&there, b"precious").unwrap();
    failback!("vmdk", "convert", source, there).refused("is there already");
    failback!("vmdk", "create", there, "--size", "1M").refused("is there already");
    fs::write(new.join("x-flat.vmdk"), b"precious").unwrap();
    for subformat in ["monolithicFlat", "vmfs"] {
        failback!("vmdk", "convert", source, new.join("x.vmdk"), "--subformat", subformat).refused("is there already");
    }
    // A source whose content cannot be read to its end.
    let bad = place.file("bad.vmdk", &{
        let mut bytes = sparse(false);
        let (primary, redundant) = (table(&bytes, 56), table(&bytes, 48));
        for table in [primary, redundant] {
            bytes[table + 8..table + 12].copy_from_slice(&[0, 0, 1, 0]);
        }
        bytes
    });
    for subformat in ["monolithicSparse", "twoGbMaxExtentSparse", "raw", "streamOptimized"] {
        failback!("vmdk", "convert", bad, new.join("y.vmdk"), "--subformat", subformat).fails(6, "grain 2");
    }
    let mut left: Vec<PathBuf> = fs::read_dir(&new).unwrap().map(|entry| entry.unwrap().path()).collect();
    left.sort();
    assert_eq!(left, [there.clone(), new.join("x-flat.vmdk")]);
    assert_eq!(fs::read(&there).unwrap(), b"precious");
    for (name, words) in [("no\"quotes.vmdk", "no name"), ("noextension", "no name")] {
        failback!("vmdk", "create", new.join(name), "--size", "1M").refused(words);
    }
    failback!("vmdk", "create", new.join("z.vmdk"), "--size", "100").refused("multiple of 512");
    failback!("vmdk", "create", new.join("z.vmdk"), "--size", "63T").refused("at most 62 TiB");
    failback!("vmdk", "create", new.join("z.vmdk"), "--size", "3T").refused("choose another");
}

/// A disk that changes while it is copied is not copied.
#[test]
fn a_disk_that_is_cut_off_is_not_read_as_zeroes() {
    let place = Place::new();
    let bytes = sparse(false);
    let path = place.file("x.vmdk", &bytes);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(bytes.len() as u64 - GRAIN).unwrap();
    file.write_all_at(&[], 0).unwrap();
    failback!("vmdk", "convert", path, place.path("y.raw"), "--subformat", "raw").fails(6, "behind the end");
}
