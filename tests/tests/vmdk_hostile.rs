//! Descriptors and extents that lie: no file is touched that is not the disk's, nothing is cut off in silence.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_blockio::{Buffer, Device, Engine, Operation, run};
use failback_image::Access;
use failback_orchestrate::{JobError, VmdkDisk};
use failback_tests::lab::{Place as Room, Unchanged, noise, tool};
use failback_tests::vmdk_made::{self as made, Made};
use failback_units::{ByteCount, ByteOffset};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const SECTOR: usize = 512;

fn open(path: &Path, access: Access) -> Result<VmdkDisk, JobError> {
    VmdkDisk::open(path, access, Engine::Blocking)
}

/// A descriptor of these extents.
fn text(extents: &str) -> String {
    format!("# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"custom\"\n{extents}\n")
}

/// Why the disk is not opened, for reading and for writing alike, and its files are as they were.
#[track_caller]
fn refused(path: &Path, words: &str) {
    let before = Unchanged::since(path);
    for access in [Access::Read, Access::Write] {
        let error = said(&open(path, access).err().unwrap_or_else(|| panic!("{access:?}: {words}")));
        assert!(error.contains(words), "{access:?}: {error:?} and not {words:?}");
    }
    before.check();
}

/// An error with its causes.
fn said(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |all, cause| format!("{all}: {cause}"))
}

#[test]
fn names_that_lead_away_are_refused() {
    let room = Room::new();
    let below = room.directory("below");
    let victim = room.file("victim.raw", &noise(4096, 1));
    fs::write(below.join("plain.raw"), noise(4096, 2)).unwrap();
    let before = Unchanged::since(&victim);
    let absolute = victim.to_str().unwrap().to_owned();
    for name in [
        "../victim.raw",
        "..",
        ".",
        "",
        "./plain.raw",
        "sub/plain.raw",
        "/dev/sda",
        "/etc/passwd",
        &absolute,
        "a\u{7}b",
    ] {
        let path = below.join("disk.vmdk");
        fs::write(&path, text(&format!("RW 8 FLAT \"{name}\" 0"))).unwrap();
        refused(&path, "no plain name");
    }
    before.check();
}

#[test]
fn links_pipes_and_devices_are_no_extents() {
    let room = Room::new();
    let victim = room.file("victim.raw", &noise(4096, 1));
    let path = room.file("disk.vmdk", text("RW 8 FLAT \"extent.raw\" 0").as_bytes());
    let extent = room.path("extent.raw");
    symlink(&victim, &extent).unwrap();
    let before = Unchanged::since(&victim);
    refused(&path, "symbolic link");
    before.check();
    fs::remove_file(&extent).unwrap();
    // A pipe that nobody writes to would be waited for without end.
    let started = Instant::now();
    nix::unistd::mkfifo(&extent, nix::sys::stat::Mode::S_IRWXU).unwrap();
    refused(&path, "no regular file");
    fs::remove_file(&extent).unwrap();
    fs::create_dir(&extent).unwrap();
    refused(&path, "no regular file");
    fs::remove_dir(&extent).unwrap();
    if nix::unistd::geteuid().is_root() {
        tool("mknod", &[extent.to_str().unwrap(), "c", "1", "5"]);
        refused(&path, "no regular file");
        fs::remove_file(&extent).unwrap();
    }
    refused(&path, "No such file");
    assert!(!extent.exists(), "a file that is missing is not made");
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_disk_has_no_place_twice() {
    let room = Room::new();
    room.file("a.raw", &noise(8192, 1));
    fs::hard_link(room.path("a.raw"), room.path("b.raw")).unwrap();
    let path = room.file("disk.vmdk", text("RW 8 FLAT \"a.raw\" 0\nRW 8 FLAT \"a.raw\" 7").as_bytes());
    refused(&path, "same bytes");
    fs::write(&path, text("RW 8 FLAT \"disk.vmdk\" 0")).unwrap();
    refused(&path, "names itself");
    // One file under two names shows when it is claimed.
    fs::write(&path, text("RW 8 FLAT \"a.raw\" 0\nRW 8 FLAT \"b.raw\" 0")).unwrap();
    let before = Unchanged::since(&room.path("a.raw"));
    open(&path, Access::Write).map(|_| ()).unwrap_err();
    before.check();
    // Two parts of one file are two places.
    fs::write(&path, text("RW 8 FLAT \"a.raw\" 8\nRW 8 FLAT \"a.raw\" 0")).unwrap();
    assert_eq!(open(&path, Access::Read).unwrap().disk().size().get(), 8192);
}

#[test]
fn what_is_cut_off_is_noticed() {
    let room = Room::new();
    let raw = room.file("a.raw", &noise(8192, 1));
    let path = room.file("disk.vmdk", text("RW 17 FLAT \"a.raw\" 0").as_bytes());
    refused(&path, "cut off");
    fs::write(&path, text("RW 16 FLAT \"a.raw\" 1")).unwrap();
    refused(&path, "cut off");
    fs::write(&path, text("RW 16 FLAT \"a.raw\" 18014398509481983")).unwrap();
    refused(&path, "");
    fs::write(&path, text("RW 16 FLAT \"a.raw\" 99999999999999999999")).unwrap();
    refused(&path, "offset");
    drop(raw);
    // A sparse extent, a stream and a snapshot that hold less, or much more, than their descriptor says.
    let sparse = room.path("whole.vmdk");
    tool("qemu-img", &["create", "-q", "-f", "vmdk", sparse.to_str().unwrap(), "10M"]);
    let stream = made::stream(&noise(1 << 20, 3), 128, "", false);
    room.file("stream.vmdk", &stream);
    room.file("delta.vmdk", &made::cowd(2048, 1, &[(0, Made::Data(vec![1; SECTOR]))]));
    room.file("se.vmdk", &made::sesparse(2048, 0, &[(0, Made::Data(vec![1; SECTOR]))]));
    for (kind, name, sectors) in [
        ("SPARSE", "whole.vmdk", 20_480),
        ("SPARSE", "stream.vmdk", 2048),
        ("VMFSSPARSE", "delta.vmdk", 2048),
        ("SESPARSE", "se.vmdk", 2048),
    ] {
        for wrong in [sectors * 2, sectors + 1, sectors / 2, 1] {
            fs::write(&path, text(&format!("RW {wrong} {kind} \"{name}\""))).unwrap();
            refused(&path, "another disk's");
        }
        fs::write(&path, text(&format!("RW {sectors} {kind} \"{name}\""))).unwrap();
        assert_eq!(open(&path, Access::Read).unwrap().disk().size().get(), sectors * 512, "{kind}");
    }
}

#[test]
fn damaged_texts_are_refused() {
    let room = Room::new();
    room.file("a.raw", &[0; 4096]);
    let good = text("RW 4 FLAT \"a.raw\" 0\nRW 4 FLAT \"a.raw\" 4");
    let path = room.file("disk.vmdk", good.as_bytes());
    assert_eq!(open(&path, Access::Read).unwrap().disk().size().get(), 4096);
    // Padding is no damage; a text that goes on behind zeroes is: its second extent would be lost.
    fs::write(&path, [good.as_bytes(), &[0; 500]].concat()).unwrap();
    assert_eq!(open(&path, Access::Read).unwrap().disk().size().get(), 4096);
    let mut damaged = good.clone().into_bytes();
    let second = good.rfind("RW").unwrap();
    damaged[second - 1] = 0;
    fs::write(&path, damaged).unwrap();
    refused(&path, "zero bytes within");
    for (from, to, words) in [
        ("# Disk", "# Disc", "no VMDK"),
        ("CID=12345678\n", "", "CID="),
        ("CID=12345678", "CID=123456789", "content ID"),
        ("CID=12345678", "CID=xyz", "content ID"),
        ("RW 4 FLAT", "RW -4 FLAT", "number of sectors"),
        ("RW 4 FLAT", "RW 4 RAW", "kind"),
        ("RW 4 FLAT", "RW 9223372036854775807 FLAT", "larger than any disk"),
        ("RW 4 FLAT", "RW 18014398509481983 FLAT", ""),
        ("RW 4 FLAT", "NOACCESS 4 FLAT", "NOACCESS"),
        ("a.raw\" 0", "a.raw 0", "quotes"),
    ] {
        fs::write(&path, good.replacen(from, to, 1)).unwrap();
        refused(&path, words);
    }
    // What is no UTF-8 is refused where it matters, and is nobody's business elsewhere.
    let bytes = |from: &str, to: &[u8]| {
        let at = good.find(from).unwrap();
        [&good.as_bytes()[..at], to, &good.as_bytes()[at + from.len()..]].concat()
    };
    fs::write(&path, bytes("a.raw", b"\xff\xfe")).unwrap();
    refused(&path, "encoding");
    fs::write(&path, bytes("version=1", b"version=1\n# \xff\nsomething=\"\xfe\"")).unwrap();
    open(&path, Access::Read).unwrap();
}

#[test]
fn texts_of_any_length_take_bounded_time() {
    let room = Room::new();
    room.file("a.raw", &[0; 4096]);
    let path = room.file("disk.vmdk", text("RW 8 FLAT \"a.raw\" 0").as_bytes());
    let started = Instant::now();
    // A GiB of lines would be read for minutes; a hole is as long and takes no room.
    let file = File::options().append(true).open(&path).unwrap();
    file.set_len(1 << 30).unwrap();
    let _ = open(&path, Access::Read).map(|_| ());
    fs::write(&path, [text("RW 8 FLAT \"a.raw\" 0").into_bytes(), b"# x\n".repeat(2 << 20)].concat()).unwrap();
    refused(&path, "more than");
    fs::write(&path, text(&"RW 8 ZERO\n".repeat(100_000))).unwrap();
    refused(&path, "extents");
    fs::write(&path, text(&"RW 9007199254740991 ZERO\n".repeat(3))).unwrap();
    refused(&path, "larger than any disk");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

/// A chain of sparse disks made by `qemu-img`: each the parent of the next.
fn chain(room: &Room, names: &[&str]) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for name in names {
        let path = room.path(name);
        let path_text = path.to_str().unwrap();
        match paths.last() {
            None => tool("qemu-img", &["create", "-q", "-f", "vmdk", path_text, "4M"]),
            Some(parent) => {
                let parent = parent.to_str().unwrap();
                tool("qemu-img", &["create", "-q", "-f", "vmdk", "-b", parent, "-F", "vmdk", path_text])
            }
        };
        // qemu-img names parents by the path it was given; snapshots name them by their names.
        let bytes = fs::read(&path).unwrap();
        let directory = format!("{}/", room.root().to_str().unwrap());
        if let Some(at) = bytes.windows(directory.len()).position(|part| part == directory.as_bytes()) {
            let end = at + bytes[at..].iter().position(|byte| *byte == 0).unwrap();
            let mut changed = bytes.clone();
            changed[at..end].fill(0);
            let rest = &bytes[at + directory.len()..end];
            changed[at..at + rest.len()].copy_from_slice(rest);
            fs::write(&path, changed).unwrap();
        }
        paths.push(path);
    }
    paths
}

/// Changes bytes in a file that stand there once.
fn replace(path: &Path, from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.windows(from.len()).position(|part| part == from.as_bytes()).unwrap();
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    fs::write(path, bytes).unwrap();
}

#[test]
fn parents_that_do_not_fit_are_refused() {
    let room = Room::new();
    let paths = chain(&room, &["a.vmdk", "b.vmdk", "c.vmdk"]);
    open(&paths[2], Access::Read).unwrap();
    // Only the top may be written.
    for parent in &paths[..2] {
        let before = Unchanged::since(parent);
        let error = said(&open(parent, Access::Write).err().unwrap());
        assert!(error.contains("is the parent of"), "{error}");
        before.check();
    }
    open(&paths[2], Access::Write).unwrap().close().unwrap();
    // A parent that was changed.
    let bytes = fs::read(&paths[0]).unwrap();
    let at = bytes.windows(5).position(|part| part == b"\nCID=").unwrap() + 5;
    let mut changed = bytes.clone();
    changed[at] = if changed[at] == b'1' { b'2' } else { b'1' };
    fs::write(&paths[0], changed).unwrap();
    refused(&paths[2], "changed since");
    fs::write(&paths[0], bytes).unwrap();
    // A parent elsewhere, and one that is the disk itself.
    replace(&paths[1], "Hint=\"a.vmdk\"", "Hint=\"/a.vmd\"");
    refused(&paths[1], "outside");
    replace(&paths[1], "Hint=\"/a.vmd\"", "Hint=\"../a.v\"");
    refused(&paths[1], "outside");
    replace(&paths[1], "Hint=\"../a.v\"", "Hint=\"b.vmdk\"");
    refused(&paths[1], "own parent");
    replace(&paths[1], "Hint=\"b.vmdk\"", "Hint=\"d.vmdk\"");
    refused(&paths[1], "No such file");
    symlink(&paths[0], room.path("d.vmdk")).unwrap();
    refused(&paths[1], "symbolic link");
}

#[test]
fn a_child_of_any_kind_protects_its_parent() {
    let room = Room::new();
    room.file("base-flat.vmdk", &noise(4096, 1));
    let base = room.file("base.vmdk", text("RW 8 FLAT \"base-flat.vmdk\" 0").as_bytes());
    let child = |hint: &str, extent: &str| {
        let text = text(extent).replace("parentCID=ffffffff", "parentCID=12345678");
        room.file("child.vmdk", format!("{text}parentFileNameHint=\"{hint}\"\n").as_bytes())
    };
    for (hint, extent) in [
        ("base.vmdk", "RW 8 VMFSSPARSE \"child-delta.vmdk\""),
        ("/vmfs/volumes/store/vm/base.vmdk", "RW 8 SESPARSE \"child-delta.vmdk\""),
        ("C:\\VMs\\base.vmdk", "RW 8 SPARSE \"child-s001.vmdk\""),
        // Kinds that are not known here; a parent is a parent.
        ("base.vmdk", "RW 8 VSANSPARSE \"child-vsan.vmdk\""),
        ("vm\\base.vmdk", "RW eight SOMETHING"),
    ] {
        let path = child(hint, extent);
        let before = Unchanged::since(&room.path("base-flat.vmdk"));
        let error = said(&open(&base, Access::Write).err().unwrap_or_else(|| panic!("{hint}, {extent}")));
        assert!(error.contains("is the parent of"), "{error}");
        before.check();
        fs::remove_file(path).unwrap();
    }
    child("other.vmdk", "RW 8 VSANSPARSE \"child-vsan.vmdk\"");
    open(&base, Access::Write).unwrap().close().unwrap();
}

#[test]
fn headers_that_are_not_understood_are_not_written_to() {
    let room = Room::new();
    let path = room.path("disk.vmdk");
    tool("qemu-img", &["create", "-q", "-f", "vmdk", path.to_str().unwrap(), "4M"]);
    let good = fs::read(&path).unwrap();
    open(&path, Access::Write).unwrap().close().unwrap();
    // At 8 the flags; at 64 the sectors before the first grain.
    for (at, bytes, words) in
        [(8, &[0x0b][..], "flags"), (10, &[0x04], "flags"), (4, &[4], "version"), (75, &[0x0a], "newline")]
    {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        fs::write(&path, bad).unwrap();
        refused(&path, words);
    }
    for overhead in [1_u8, 20] {
        let mut bad = good.clone();
        bad[64..72].copy_from_slice(&[overhead, 0, 0, 0, 0, 0, 0, 0]);
        fs::write(&path, bad).unwrap();
        let before = Unchanged::since(&path);
        let error = said(&open(&path, Access::Write).err().unwrap());
        assert!(error.contains("where its directory"), "{error}");
        before.check();
    }
}

#[test]
fn nothing_is_written_through_a_disk_that_is_only_read() {
    let room = Room::new();
    let raw = room.file("a.raw", &noise(4096, 1));
    let path = room.file("disk.vmdk", text("RW 8 FLAT \"a.raw\" 0").as_bytes());
    let (before, text_before) = (Unchanged::since(&raw), Unchanged::since(&path));
    let disk = open(&path, Access::Read).unwrap();
    let write = Operation::Write { at: ByteOffset::ZERO, from: Buffer::copy_of(&[1; 512]) };
    assert!(run(disk.disk(), write).is_err());
    let beyond = ByteOffset::new(4096).unwrap();
    assert!(run(disk.disk(), Operation::Read { at: beyond, into: Buffer::zeroed(1) }).is_err());
    assert_eq!(disk.disk().size(), ByteCount::new(4096).unwrap());
    drop(disk);
    before.check();
    text_before.check();
    let read_only = room.file("disk.vmdk", text("RDONLY 8 FLAT \"a.raw\" 0").as_bytes());
    open(&read_only, Access::Read).unwrap();
    let error = said(&open(&read_only, Access::Write).err().unwrap());
    assert!(error.contains("read-only"), "{error}");
    before.check();
}
