//! Points as new images, VMDKs and deltas: the same content as the state, by programs of others, and the disk stays where it is.

use crate::world::{Kind, MIB, SMALL, World, names_in};
use failback_tests::failback;
use failback_tests::lab::{Unchanged, hash_of, lone, tool};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

impl World {
    /// Exports a point into a new file of this name.
    #[track_caller]
    fn export(&self, id: u64, name: &str, more: &str) -> (PathBuf, Value) {
        let output = self.place.path(name);
        let report = self.call("point export", &format!("{id} {more} -o")).arg(&output).json();
        assert_eq!(report["point"], id, "{report}");
        (output, report)
    }
}

/// Whether QEMU reads the same from an image as from a raw one.
#[track_caller]
fn is_the_same(raw: &Path, format: &str, image: &Path) {
    let formats = ["compare", "-f", "raw", "-F", format].map(OsStr::new);
    tool("qemu-img", &[&formats[..], &[raw.as_os_str(), image.as_os_str()]].concat());
}

#[test]
fn images_hold_what_the_states_hold() {
    let world = World::of_bytes(Kind::Raw, 2 * MIB);
    world.apply_all();
    world.rollback(2);
    let untouched = Unchanged::since(&world.disk);
    for (id, state) in [(0, 0), (1, 1), (2, 2), (3, 3)] {
        let (raw, report) = world.export(id, &format!("{id}.img"), "");
        assert_eq!(report["root"], world.root(state));
        assert!(report["proven"].as_str().unwrap().contains("read back"), "{report}");
        assert_eq!(fs::read(&raw).unwrap(), fs::read(&world.states[state]).unwrap());
        let (vmdk, report) = world.export(id, &format!("{id}.vmdk"), "");
        assert_eq!(report["files"], serde_json::json!([vmdk.to_str().unwrap()]));
        is_the_same(&world.states[state], "vmdk", &vmdk);
        let about: Value =
            serde_json::from_str(&tool("qemu-img", &["info".as_ref(), "--output=json".as_ref(), vmdk.as_os_str()]))
                .unwrap();
        assert_eq!(about["virtual-size"], fs::metadata(&world.states[state]).unwrap().len());
        failback!("vmdk", "check", vmdk).done();
        // What is made does not follow from the name if something else is said.
        let (raw, _) = world.export(id, &format!("{id}.other.vmdk"), "--format raw");
        assert_eq!(hash_of(&raw, None), hash_of(&world.states[state], None));
    }
    untouched.check();
    assert_eq!(world.list()["present"], 2);
    world.has_links(3);
}

#[test]
fn images_hold_the_files_of_the_states() {
    let Some(_lone) = lone() else { return };
    for kind in [Kind::Vmdk, Kind::Device] {
        let world = World::of_files(kind);
        world.apply_all();
        world.rollback(1);
        let before = world.hash();
        for (id, state) in [(0, 0), (1, 1), (3, 3)] {
            let (raw, _) = world.export(id, &format!("{id}.img"), "");
            world.is_state(&raw, state);
            let (vmdk, _) = world.export(id, &format!("{id}.vmdk"), "");
            let copy = world.place.path("copy.img");
            let formats = ["convert", "-f", "vmdk", "-O", "raw"].map(OsStr::new);
            tool("qemu-img", &[&formats[..], &[vmdk.as_os_str(), copy.as_os_str()]].concat());
            world.is_state(&copy, state);
        }
        assert_eq!(world.hash(), before);
    }
}

/// From every point to every other, from wherever the disk is: it is a delta like any other.
#[test]
fn deltas_lead_from_any_point_to_any_other() {
    let world = World::at_the_end();
    for present in [3, 1] {
        if present != 3 {
            world.rollback(present);
        }
        for (from, to) in [(0, 1), (0, 3), (1, 2), (2, 1), (3, 0), (3, 1), (2, 3)] {
            let name = format!("{present}-{from}-{to}.delta");
            let (delta, report) = world.export(to, &name, &format!("--base {from}"));
            assert_eq!(report["bytes_written"], fs::metadata(&delta).unwrap().len());
            let known = failback!("inspect", delta).json();
            let number = |id: u64| usize::try_from(id).unwrap();
            assert_eq!(known["base_root"], world.root(number(from)));
            assert_eq!(known["result_root"], world.root(number(to)));
            // On a disk that never had recovery points.
            let copy = world.place.path("copy.img");
            // One that holds other things behind the end.
            let mut bytes = fs::read(&world.states[number(from)]).unwrap();
            bytes.resize(SMALL + 8192, 0x77);
            fs::write(&copy, bytes).unwrap();
            failback!("apply", delta, copy, "--yes", "--verify").done();
            world.is_state(&copy, number(to));
            // The same as the links carry, or less.
            let direct = fs::metadata(&world.deltas[0]).unwrap().len();
            assert!(known["file_bytes"].as_u64().unwrap() < 4 * direct, "{known}");
        }
    }
    // From the present point if no other is named.
    let (delta, _) = world.export(3, "forward.delta", "");
    assert_eq!(failback!("inspect", delta).json()["base_root"], world.root(1));
}

#[test]
fn deltas_of_used_space_lead_there_too() {
    let world = World::of_files(Kind::Raw);
    world.apply_all();
    world.rollback(2);
    for (from, to) in [(0, 3), (3, 0), (1, 2)] {
        let (delta, _) = world.export(to, &format!("{from}-{to}.delta"), &format!("--base {from}"));
        let copy = world.place.path("copy.img");
        let number = |id: u64| usize::try_from(id).unwrap();
        fs::copy(&world.states[number(from)], &copy).unwrap();
        failback!("apply", delta, copy, "--yes", "--verify").done();
        world.is_state(&copy, number(to));
    }
}

#[test]
fn nothing_is_replaced_and_nothing_is_left_behind() {
    let world = World::at_the_end();
    let there = world.place.noisy("there.img", 5000, 9);
    let guard = Unchanged::since(&there);
    world.call("point export", "0 -o").arg(&there).refused("there");
    world.call("point export", "0 --format delta -o").arg(&there).refused("name a new file");
    guard.check();
    let names = names_in(world.place.root());
    let out = world.place.path("out.img");
    world.call("point export", "7 -o").arg(&out).refused("there is no recovery point 7");
    world.call("point export", "3 --format delta -o").arg(&out).refused("name another base");
    world.call("point export", "0 --base 8 --format delta -o").arg(&out).refused("there is no recovery point 8");
    // A VMDK has whole sectors.
    world.call("point export", "1 --format vmdk -o").arg(&out).refused("multiple of 512");
    world.call("point export", "0 -o").arg(world.place.path("missing/out.img")).fails(5, "missing");
    // Onto the disk itself, by its own name or another.
    world.call("point export", "0 -o").arg(&world.disk).refused("there");
    assert_eq!(names_in(world.place.root()), names);
    world.is_at(3);
}

/// What is copied is compared with the root of the point: a disk that others changed is noticed.
#[test]
fn a_disk_that_others_changed_is_not_exported() {
    let world = World::at_the_end();
    crate::world::flip(&world.disk, 1_000_000);
    let image = world.place.path("out.img");
    let names = names_in(world.place.root());
    let sentence = world.call("point export", "3 -o").arg(&image).fails(4, "does not have the root");
    assert!(sentence.contains("verify --point"), "{sentence}");
    assert_eq!(names_in(world.place.root()), names);
}
