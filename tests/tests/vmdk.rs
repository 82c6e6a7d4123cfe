//! VMDKs against `qemu-img`: each reads what the other writes, in every subformat.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_blockio::{Buffer, Device, Engine, FileDevice, IoError, Operation, Options, Resizable, run};
use failback_image::{Access, Files, OpenError, open};
use failback_tests::failback;
use failback_tests::lab::{Place, hash_of as hash_of_first, noise, tool, try_tool};
use failback_units::{ByteOffset, ByteRange};
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

const SUBFORMATS: [&str; 6] =
    ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "streamOptimized", "vmfs"];

/// The hash of all of a file.
fn hash_of(path: &Path) -> String {
    hash_of_first(path, None)
}

fn qemu(arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> String {
    let arguments: Vec<_> = arguments.iter().map(AsRef::as_ref).collect();
    tool("qemu-img", &arguments)
}

/// A raw disk of 20 MiB and three sectors with holes, zeroes that are data, and a written end.
fn patterned(place: &Place) -> PathBuf {
    const SIZE: u64 = (20 << 20) + 1536;
    let pieces: [(u64, Vec<u8>); 6] = [
        (0, noise(512, 1)),
        (65_536, noise(3 * 65_536, 2)),
        (1 << 20, vec![0; 1 << 20]),
        ((5 << 20) + 512, noise(70_000, 3)),
        (12 << 20, noise(2 << 20, 4)),
        (SIZE - 2048, noise(2048, 5)),
    ];
    let pieces: Vec<(u64, &[u8])> = pieces.iter().map(|(at, bytes)| (*at, bytes.as_slice())).collect();
    place.sparse("source.raw", SIZE, &pieces)
}

/// What the program reads of a VMDK.
fn by_failback(place: &Place, vmdk: &Path) -> PathBuf {
    let name = format!("{}.by-failback.raw", vmdk.file_name().unwrap().to_string_lossy());
    let raw = place.path(&name);
    failback!("vmdk", "convert", vmdk, raw, "--subformat", "raw").json();
    raw
}

#[test]
fn qemu_reads_what_is_written_here() {
    let place = Place::new();
    let source = patterned(&place);
    for subformat in SUBFORMATS {
        for engine in ["auto", "blocking"] {
            let directory = place.directory(&format!("{subformat}-{engine}"));
            let vmdk = directory.join("a disk.vmdk");
            let report = failback!(
                "vmdk",
                "convert",
                source,
                vmdk,
                "--subformat",
                subformat,
                "--engine",
                engine,
                "--uuid",
                "6000c2999176dd776e010203040506ff"
            )
            .json();
            assert_eq!(report["size"], (20 << 20) + 1536, "{subformat}");
            assert!(report["bytes_written"].as_u64().unwrap() < 4 << 20, "holes and zeroes are left out");
            let raw = directory.join("qemu.raw");
            qemu(&[&"convert", &"-f", &"vmdk", &"-O", &"raw", &vmdk, &raw]);
            assert_eq!(hash_of(&raw), hash_of(&source), "{subformat}");
            if !matches!(subformat, "monolithicFlat" | "vmfs" | "twoGbMaxExtentFlat") {
                let checked = try_tool("qemu-img", &["check".as_ref(), vmdk.as_os_str()]);
                assert!(checked.status.success(), "{subformat}: {}", String::from_utf8_lossy(&checked.stderr));
            }
            let check = failback!("vmdk", "check", vmdk).json();
            assert_eq!(check["worst"], serde_json::Value::Null, "{subformat}: {check}");
            let info = failback!("vmdk", "info", vmdk).json();
            assert_eq!(info["create_type"], subformat);
            assert_eq!(
                (info["uuid"].as_str(), &info["unclean"]),
                (Some("6000c2999176dd776e010203040506ff"), &false.into())
            );
            let read = by_failback(&place, &vmdk);
            assert_eq!(hash_of(&read), hash_of(&source), "{subformat}");
            fs::remove_file(read).unwrap();
        }
    }
}

#[test]
fn what_qemu_writes_is_read_here() {
    let place = Place::new();
    let source = patterned(&place);
    for options in [
        "subformat=monolithicSparse",
        "subformat=monolithicFlat",
        "subformat=twoGbMaxExtentSparse",
        "subformat=twoGbMaxExtentFlat",
        "subformat=streamOptimized",
        "subformat=monolithicSparse,zeroed_grain=on",
    ] {
        let directory = place.directory(&options.replace('=', "-"));
        let vmdk = directory.join("disk.vmdk");
        qemu(&[&"convert", &"-f", &"raw", &"-O", &"vmdk", &"-o", &options, &source, &vmdk]);
        let read = by_failback(&place, &vmdk);
        assert_eq!(hash_of(&read), hash_of(&source), "{options}");
        fs::remove_file(read).unwrap();
        let check = failback!("vmdk", "check", vmdk).json();
        assert!(check["worst"].is_null() || check["worst"] == "note", "{options}: {check}");
        // And from one format to another.
        let again = directory.join("again.vmdk");
        failback!("vmdk", "convert", vmdk, again, "--subformat", "twoGbMaxExtentSparse").json();
        let same = qemu(&[&"compare", &"-f", &"raw", &"-F", &"vmdk", &source, &again]);
        assert!(same.contains("identical"), "{options}: {same}");
    }
}

#[test]
fn disks_larger_than_an_extent() {
    let place = Place::new();
    let pieces: [(u64, Vec<u8>); 4] = [
        (0, noise(4096, 1)),
        ((2047 << 20) - 65_536, noise(131_072, 2)),
        ((4094 << 20) - 512, noise(1024, 3)),
        ((5 << 30) - 512, noise(512, 4)),
    ];
    let pieces: Vec<(u64, &[u8])> = pieces.iter().map(|(at, bytes)| (*at, bytes.as_slice())).collect();
    let source = place.sparse("source.raw", 5 << 30, &pieces);
    for subformat in SUBFORMATS {
        let directory = place.directory(subformat);
        let ours = directory.join("ours.vmdk");
        let report = failback!("vmdk", "convert", source, ours, "--subformat", subformat).json();
        assert!(report["bytes_hole"].as_u64().unwrap() > 4 << 30, "{subformat}: holes are not read");
        let same = qemu(&[&"compare", &"-f", &"raw", &"-F", &"vmdk", &source, &ours]);
        assert!(same.contains("identical"), "{subformat}: {same}");
        if subformat == "vmfs" {
            continue;
        }
        let theirs = directory.join("theirs.vmdk");
        let options = format!("subformat={subformat}");
        qemu(&[&"convert", &"-f", &"raw", &"-O", &"vmdk", &"-o", &options, &source, &theirs]);
        let raw = by_failback(&place, &theirs);
        let same = qemu(&[&"compare", &"-f", &"raw", &"-F", &"raw", &source, &raw]);
        assert!(same.contains("identical"), "{subformat}: {same}");
        fs::remove_file(raw).unwrap();
    }
}

/// Files as they are, without claims.
struct PlainFiles;

fn failed(path: &Path, source: std::io::Error) -> IoError {
    IoError {
        action: failback_blockio::Action::Open,
        device: path.to_string_lossy().into(),
        at: ByteOffset::ZERO,
        count: failback_units::ByteCount::ZERO,
        source,
    }
}

impl Files for PlainFiles {
    fn open(&self, path: &Path, access: Access) -> Result<Box<dyn Resizable>, IoError> {
        let file = OpenOptions::new().read(true).write(access == Access::Write).open(path);
        let file = file.map_err(|source| failed(path, source))?;
        let options = Options { engine: Engine::Auto, caching: failback_blockio::Caching::Direct };
        Ok(Box::new(FileDevice::new(file.into(), &path.to_string_lossy(), options)?))
    }

    fn names_in(&self, directory: &Path) -> Result<Vec<OsString>, IoError> {
        let names = fs::read_dir(directory).map_err(|source| failed(directory, source))?;
        Ok(names.map(|name| name.unwrap().file_name()).collect())
    }
}

/// Writes, zeroes and overwrites parts of a disk, here and in `model`.
fn change(vmdk: &Path, model: &mut [u8]) {
    let disk = open(vmdk, Access::Write, &PlainFiles).unwrap();
    let mut queue = disk.queue(16).unwrap();
    let places = [(100, 50), (65_536, 65_536), (700_000, 300_001), (2 << 20, 1 << 20), (model.len() - 700, 700)];
    for (token, (at, length)) in (0..).zip(places) {
        let bytes = noise(length, token + 77);
        model[at..at + length].copy_from_slice(&bytes);
        let at = ByteOffset::new(at as u64).unwrap();
        queue.submit(token, Operation::Write { at, from: Buffer::copy_of(&bytes) });
    }
    while let Some(done) = queue.wait() {
        done.result.unwrap();
    }
    drop(queue);
    for (start, end) in [(66_000, 67_000), ((2 << 20) + 65_536, (2 << 20) + 3 * 65_536), (5 << 20, (5 << 20) + 100_000)]
    {
        model[start..end].fill(0);
        let range = ByteRange::between(ByteOffset::new(start as u64).unwrap(), ByteOffset::new(end as u64).unwrap());
        run(&disk, Operation::Zero { range: range.unwrap() }).unwrap();
    }
    run(&disk, Operation::Flush).unwrap();
    let all = run(&disk, Operation::Read { at: ByteOffset::ZERO, into: Buffer::zeroed(model.len()) }).unwrap().unwrap();
    assert!(all[..] == model[..], "it reads as it was written");
    disk.close().unwrap();
}

#[test]
fn writing_in_place() {
    let place = Place::new();
    let source = patterned(&place);
    for (name, options) in [
        ("monolithicSparse", "subformat=monolithicSparse"),
        ("zeroed", "subformat=monolithicSparse,zeroed_grain=on"),
        ("monolithicFlat", "subformat=monolithicFlat"),
        ("twoGbMaxExtentSparse", "subformat=twoGbMaxExtentSparse"),
        ("twoGbMaxExtentFlat", "subformat=twoGbMaxExtentFlat"),
    ] {
        let directory = place.directory(name);
        let vmdk = directory.join("disk.vmdk");
        qemu(&[&"convert", &"-f", &"raw", &"-O", &"vmdk", &"-o", &options, &source, &vmdk]);
        let before = failback!("vmdk", "info", vmdk).json();
        let mut model = fs::read(&source).unwrap();
        change(&vmdk, &mut model);
        change(&vmdk, &mut model);
        let raw = directory.join("qemu.raw");
        qemu(&[&"convert", &"-f", &"vmdk", &"-O", &"raw", &vmdk, &raw]);
        assert!(fs::read(&raw).unwrap() == model, "{name}");
        let after = failback!("vmdk", "info", vmdk).json();
        assert_ne!(before["cid"], after["cid"], "{name}: another content has another ID");
        assert_eq!((&before["uuid"], &before["extents"]), (&after["uuid"], &after["extents"]));
        let check = failback!("vmdk", "check", vmdk).json();
        assert!(check["worst"].is_null(), "{name}: {check}");
    }
}

#[test]
fn snapshots_are_read_through_and_written_at_the_top_only() {
    for (name, options) in
        [("plain", "subformat=monolithicSparse"), ("zeroed", "subformat=monolithicSparse,zeroed_grain=on")]
    {
        let place = Place::new();
        let source = patterned(&place);
        let (base, middle, top) = (place.path("base.vmdk"), place.path("middle.vmdk"), place.path("top.vmdk"));
        qemu(&[&"convert", &"-f", &"raw", &"-O", &"vmdk", &"-o", &options, &source, &base]);
        for (child, parent) in [(&middle, "base.vmdk"), (&top, "middle.vmdk")] {
            let create = ["create", "-f", "vmdk", "-o", options, "-F", "vmdk", "-b", parent];
            let mut command = std::process::Command::new("qemu-img");
            let status =
                command.args(create).arg(child.file_name().unwrap()).current_dir(place.root()).output().unwrap();
            assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
        }
        let info = failback!("vmdk", "info", top).json();
        assert_eq!(info["chain"].as_array().unwrap().len(), 3);
        for below in [&base, &middle] {
            let Err(OpenError::Refused(sentence)) = open(below, Access::Write, &PlainFiles) else { panic!("{name}") };
            assert!(sentence.contains("is the parent of") && sentence.contains("vSphere"), "{sentence}");
        }
        let mut model = fs::read(&source).unwrap();
        change(&top, &mut model);
        let raw = place.path("qemu.raw");
        qemu(&[&"convert", &"-f", &"vmdk", &"-O", &"raw", &top, &raw]);
        assert!(fs::read(&raw).unwrap() == model, "{name}");
        let read = by_failback(&place, &top);
        assert!(fs::read(&read).unwrap() == model, "{name}");
        assert!(failback!("vmdk", "check", top).json()["worst"].is_null(), "{name}");
        // The parents are as they were.
        assert_eq!(hash_of(&by_failback(&place, &middle)), hash_of(&source), "{name}");
        // A base that changes makes its children worthless, and that is noticed.
        fs::rename(&middle, place.path("aside")).unwrap();
        let mut other = fs::read(&source).unwrap();
        change(&base, &mut other);
        fs::rename(place.path("aside"), &middle).unwrap();
        failback!("vmdk", "info", top).refused("the parent was changed since");
    }
}

#[test]
fn streams_are_not_written_in_place() {
    let place = Place::new();
    let source = patterned(&place);
    let vmdk = place.path("x.vmdk");
    failback!("vmdk", "convert", source, vmdk, "--subformat", "streamOptimized").json();
    let Err(OpenError::Refused(sentence)) = open(&vmdk, Access::Write, &PlainFiles) else {
        panic!("it must be refused")
    };
    assert!(sentence.contains("vmdk convert"), "{sentence}");
    failback!("vmdk", "create", place.path("y.vmdk"), "--size", "1M", "--subformat", "streamOptimized").refused("once");
}

#[test]
fn new_disks_are_empty_and_taken_by_qemu() {
    let place = Place::new();
    for subformat in SUBFORMATS.into_iter().filter(|subformat| *subformat != "streamOptimized") {
        let vmdk = place.path(&format!("{subformat}.vmdk"));
        failback!("vmdk", "create", vmdk, "--size", "5G", "--subformat", subformat).json();
        let info: serde_json::Value = serde_json::from_str(&qemu(&[&"info", &"--output=json", &vmdk])).unwrap();
        assert_eq!(info["virtual-size"], 5_u64 << 30, "{subformat}");
        let read =
            failback!("vmdk", "convert", vmdk, place.path(&format!("{subformat}.raw")), "--subformat", "raw").json();
        assert_eq!((&read["bytes_read"], &read["bytes_written"]), (&0.into(), &0.into()), "{subformat}");
    }
}
