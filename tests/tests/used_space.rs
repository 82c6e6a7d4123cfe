//! Free space of real file systems: not read, not carried, not written, and nothing that is in use is lost by that.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_tests::lab::{Loop, Mount, Place, has_devices, is_inside, noise, root_of_file, run_inside, tool};
use failback_tests::proof::ext_files;
use failback_tests::{failback, proof};
use std::fs;
use std::path::{Path, PathBuf};

const MIB: u64 = 1 << 20;
/// What the program compares by default.
const BLOCK: u64 = 16 << 10;
const UUID: &str = "6f1d2c3b-0a49-4f58-8e67-7d8c9bafbecd";
const OTHER_UUID: &str = "0b5e2d71-93c4-4a86-b1f7-2e6c8d9a0f13";

/// An image of noise in which a file system with some files was made: its free space holds what nobody wants.
fn ext4(place: &Place, name: &str, uuid: &str, seed: u64, files: u64) -> PathBuf {
    let image = place.noisy(name, usize::try_from(64 * MIB).unwrap(), seed);
    let tree = place.path(&format!("{name}.tree"));
    fs::create_dir(&tree).unwrap();
    for file in 0..files {
        fs::write(tree.join(format!("file {file}")), noise(300_000, seed * 1000 + file)).unwrap();
    }
    let options = "lazy_itable_init=0,nodiscard,hash_seed=00000000-0000-0000-0000-000000000001";
    tool(
        "mke2fs",
        &["-q", "-F", "-t", "ext4", "-U", uuid, "-E", options, "-d", tree.to_str().unwrap(), image.to_str().unwrap()],
    );
    image
}

/// Another state of a disk: a copy in which files were added and removed.
fn changed(place: &Place, image: &Path, name: &str) -> PathBuf {
    let other = place.path(name);
    fs::copy(image, &other).unwrap();
    let new = place.file("new file", &noise(3_000_000, 77));
    for request in ["rm \"file 1\"".to_owned(), "rm \"file 2\"".to_owned(), format!("write \"{}\" new", new.display())]
    {
        tool("debugfs", &["-w", "-R", &request, other.to_str().unwrap()]);
    }
    other
}

/// Overwrites all blocks of 16 KiB that an image's own map calls free. A block that is free in part counts as it is.
fn spoil_free_space(image: &Path) {
    let map = proof::mapped(image).map.unwrap();
    let other = image.with_extension("spoiled");
    let block = |at: u64| at / BLOCK * BLOCK;
    let whole = map.extents().iter().map(|extent| {
        let start = block(extent.start().get() + BLOCK - 1);
        start..block(extent.end().get()).max(start)
    });
    proof::only_used(image, &proof::free_map(whole), &other);
    fs::rename(other, image).unwrap();
}

#[test]
fn a_change_travels_without_free_space() {
    let place = Place::new();
    let old = ext4(&place, "old.img", UUID, 1, 20);
    let new = changed(&place, &old, "new.img");
    let (signature, delta) = (place.path("old.sig"), place.path("new.delta"));
    let signed = failback!("sign", old, "-o", signature).json();
    assert_eq!((&signed["coverage"], &signed["kind"]), (&"used".into(), &"crash".into()));
    let free = proof::mapped(&old).map.unwrap().bytes().get();
    let (skipped, read) = (signed["bytes_free"].as_u64().unwrap(), signed["bytes_read"].as_u64().unwrap());
    assert!(skipped > 45 * MIB && skipped <= free && free - skipped < MIB, "{skipped} of {free}");
    assert!(read + skipped <= 64 * MIB && read < 17 * MIB, "{read}");
    // What lies in the free space of either side does not matter.
    spoil_free_space(&old);
    let diffed = failback!("diff", "--base", signature, new, "-o", delta).json();
    assert_eq!((&diffed["base_coverage"], &diffed["result_coverage"]), (&"used".into(), &"used".into()));
    assert!(diffed["delta_bytes"].as_u64().unwrap() < 4 * MIB, "{diffed}");
    let planned = failback!("plan", delta, old).json();
    assert_eq!(planned["bytes_free"], diffed["bytes_free"]);
    let applied = failback!("apply", delta, old, "--yes", "--verify").json();
    assert_eq!(applied["proven"], "used space read");
    assert_eq!(ext_files(&old), ext_files(&new));
    // The root is that of used space; b3sum prints it once free space is zero.
    let root = applied["result_root"].as_str().unwrap().to_owned();
    assert_ne!(root_of_file(&old), root);
    assert_eq!(failback!("verify", old, "--root", root).json_of(4)["matches"], false);
    assert_eq!(failback!("verify", old, "--root", root, "--used").json()["matches"], true);
    let zeroed = failback!("apply", delta, old, "--yes", "--zero-free", "--verify").json();
    assert_eq!(zeroed["proven"], "whole disk read");
    assert!(zeroed["bytes_free_zeroed"].as_u64().unwrap() > 40 * MIB);
    assert_eq!(root_of_file(&old), root);
    assert_eq!(ext_files(&old), ext_files(&new));
}

#[test]
fn whole_reads_all_of_it() {
    let place = Place::new();
    let disk = ext4(&place, "disk.img", UUID, 2, 5);
    let signed = failback!("sign", disk, "-o", place.path("whole.sig"), "--whole").json();
    assert_eq!((&signed["coverage"], &signed["bytes_free"]), (&"whole".into(), &0.into()));
    assert_eq!(signed["root"], root_of_file(&disk));
    // From used to whole: everything that was free has to travel.
    let used = place.path("used.sig");
    failback!("sign", disk, "-o", used).done();
    let delta = place.path("whole.delta");
    let diffed = failback!("diff", "--base", used, disk, "--whole", "-o", delta).json();
    assert_eq!((&diffed["base_coverage"], &diffed["result_coverage"]), (&"used".into(), &"whole".into()));
    let target = place.path("target.img");
    fs::copy(&disk, &target).unwrap();
    spoil_free_space(&target);
    failback!("apply", delta, target, "--yes", "--verify").done();
    assert_eq!(root_of_file(&target), root_of_file(&disk));
}

#[test]
fn a_stranger_is_refused_unless_it_is_to_be_new() {
    let place = Place::new();
    let source = ext4(&place, "source.img", UUID, 3, 12);
    let other = ext4(&place, "other.img", "00000000-1111-2222-3333-444444444444", 4, 3);
    let blank = place.sparse("blank.img", 64 * MIB, &[]);
    for target in [&other, &blank] {
        let (signature, delta) = (place.path("target.sig"), place.path("target.delta"));
        failback!("sign", target, "-o", signature).done();
        failback!("diff", "--base", signature, source, "-o", delta).done();
        let before = root_of_file(target);
        failback!("apply", delta, target, "--yes").refused("--new-disk");
        failback!("apply", "-", target, "--yes").fed(fs::read(&delta).unwrap()).refused("--new-disk");
        let planned = failback!("plan", delta, target).json_of(3);
        assert!(planned["refusals"][0].as_str().unwrap().contains("another disk than the one"), "{planned}");
        assert_eq!(root_of_file(target), before);
        let applied = failback!("apply", delta, target, "--yes", "--new-disk", "--verify").json();
        assert_eq!(applied["proven"], "whole disk read");
        assert_eq!(applied["result_root"], root_of_file(target), "free space of a new disk is zero");
        assert_eq!(ext_files(target), ext_files(&source));
        failback!("apply", delta, target, "--yes").done();
    }
}

/// Free space lies within a volume, so a target that has no room for it would cut that volume off.
#[test]
fn a_smaller_target_is_refused_even_if_only_free_space_is_missing() {
    let place = Place::new();
    let home = ext4(&place, "home.img", UUID, 5, 10);
    let (signature, delta) = (place.path("home.sig"), place.path("cloud.delta"));
    failback!("sign", home, "-o", signature).done();
    // The cloud rounds disks up, and somebody let the file system grow.
    let cloud = changed(&place, &home, "cloud.img");
    fs::File::options().write(true).open(&cloud).unwrap().set_len(80 * MIB).unwrap();
    tool("e2fsck", &["-fy", cloud.to_str().unwrap()]);
    tool("resize2fs", &[cloud.to_str().unwrap()]);
    failback!("diff", "--base", signature, cloud, "-o", delta).done();
    let before = root_of_file(&home);
    failback!("apply", delta, home, "--yes").refused("make the disk 16777216 bytes larger");
    failback!("apply", "-", home, "--yes").fed(fs::read(&delta).unwrap()).refused("bytes larger");
    assert_eq!(root_of_file(&home), before);
}

/// Writes that were made on site after signing are not lost to zeroes, wherever they are.
#[test]
fn free_space_is_made_zero_only_on_the_right_disk() {
    let place = Place::new();
    let source = ext4(&place, "source.img", UUID, 7, 8);
    let (signature, delta) = (place.path("source.sig"), place.path("none.delta"));
    failback!("sign", source, "-o", signature).done();
    failback!("diff", "--base", signature, source, "-o", delta).done();
    let target = changed(&place, &source, "target.img");
    let before = root_of_file(&target);
    for option in ["--zero-free", "--new-disk"] {
        failback!("apply", delta, target, "--yes", option).fails(4, "not at the base");
        failback!("apply", "-", target, "--yes", option).fed(fs::read(&delta).unwrap()).fails(4, "not at the base");
        assert_eq!(root_of_file(&target), before, "{option}");
    }
}

/// The same where the delta changes something else, so that the rest of the disk is compared with nothing.
#[test]
fn free_space_is_made_zero_only_where_all_else_is_the_result() {
    let place = Place::new();
    let (first, second) = (ext4(&place, "a.img", UUID, 8, 4), ext4(&place, "b.img", OTHER_UUID, 9, 4));
    let join = |name: &str, first: &Path, second: &Path| {
        let both = [fs::read(first).unwrap(), fs::read(second).unwrap()];
        let disk = place.sparse(name, 130 * MIB, &[(MIB, &both[0]), (65 * MIB, &both[1])]);
        let table =
            "label: dos\nlabel-id: 0x12345678\nstart=2048,size=131072,type=83\nstart=133120,size=131072,type=83\n";
        let table = place.file("table", table.as_bytes());
        let call = format!("sfdisk -q --no-reread --no-tell-kernel '{}' < '{}'", disk.display(), table.display());
        tool("sh", &["-c", &call]);
        disk
    };
    let base = join("base.img", &first, &second);
    let (signature, delta) = (place.path("base.sig"), place.path("change.delta"));
    failback!("sign", base, "-o", signature).done();
    // In the cloud the second file system changes; on site the first one did.
    let cloud = join("cloud.img", &first, &changed(&place, &second, "b2.img"));
    failback!("diff", "--base", signature, cloud, "-o", delta).done();
    let on_site = changed(&place, &first, "a2.img");
    let site = join("site.img", &on_site, &second);
    let error = failback!("apply", delta, site, "--yes", "--zero-free").fails(4, "no free space was made zero");
    assert!(error.contains("blocks outside the delta"), "{error}");
    let bytes = fs::read(&site).unwrap();
    let mib = usize::try_from(MIB).unwrap();
    let partition = place.file("p1.img", &bytes[mib..65 * mib]);
    assert_eq!(ext_files(&partition), ext_files(&on_site));
}

#[test]
fn a_mounted_source_has_no_free_space() {
    if !has_devices() {
        return;
    }
    if !is_inside() {
        return run_inside("a_mounted_source_has_no_free_space");
    }
    let place = Place::new();
    let disk = ext4(&place, "disk.img", UUID, 6, 4);
    let device = Loop::attach(&disk, &[]);
    let signed = failback!("sign", device.path, "-o", place.path("at-rest.sig")).json();
    assert_eq!(signed["coverage"], "used");
    let _mounted = Mount::device(&device.path, &place.directory("mnt"), "rw");
    let signed = failback!("sign", device.path, "-o", place.path("mounted.sig")).json();
    assert_eq!((&signed["coverage"], &signed["kind"]), (&"whole".into(), &"fuzzy".into()));
    assert_eq!(failback!("scan", device.path).json()["bytes_skipped"], 0);
}
