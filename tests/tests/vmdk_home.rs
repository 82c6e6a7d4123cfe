//! A VMDK wherever a disk can be named: as source, as target, and recognised by its UUID.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_tests::failback;
use failback_tests::lab::{Place, changed, noise, root_of_file, tool};
use std::fs;
use std::path::Path;

const SIZE: usize = 20 << 20;
const UUID: &str = "6000c2999176dd776e0123456789abcd";

fn vmdk(place: &Place, raw: &Path, name: &str, subformat: &str) -> std::path::PathBuf {
    let vmdk = place.directory(&format!("{name}-{subformat}")).join(name);
    failback!("vmdk", "convert", raw, vmdk, "--subformat", subformat, "--uuid", UUID).json();
    vmdk
}

/// The content of a VMDK, as qemu-img reads it.
fn by_qemu(place: &Place, vmdk: &Path) -> String {
    let raw = place.path("by-qemu.raw");
    tool("qemu-img", &["convert", "-f", "vmdk", "-O", "raw", vmdk.to_str().unwrap(), raw.to_str().unwrap()]);
    root_of_file(&raw)
}

#[test]
fn a_change_travels_from_vmdk_to_vmdk() {
    let place = Place::new();
    let mut bytes = noise(SIZE, 1);
    bytes[8 << 20..12 << 20].fill(0);
    let (base, result) = (place.file("base.raw", &bytes), place.file("result.raw", &changed(&bytes, SIZE, 3)));
    let source = vmdk(&place, &result, "source.vmdk", "streamOptimized");
    for subformat in ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "vmfs"] {
        let target = vmdk(&place, &base, "target.vmdk", subformat);
        let (signature, delta) = (place.path("t.sig"), place.path("t.delta"));
        let signed = failback!("sign", target, "-o", signature).json();
        assert_eq!((&signed["root"], &signed["size"]), (&root_of_file(&base).into(), &SIZE.into()), "{subformat}");
        let diffed = failback!("diff", "--base", signature, source, "-o", delta).json();
        assert_eq!(diffed["result_root"], root_of_file(&result));
        assert_eq!(failback!("plan", delta, target, "--expect-uuid", UUID).json()["disk_size"], SIZE);
        let applied = failback!("apply", delta, target, "--yes", "--verify", "--expect-uuid", UUID).json();
        assert_eq!(applied["proven"], "whole disk read");
        assert_eq!(failback!("verify", target, "--signature", signature).json_of(4)["matches"], false);
        assert_eq!(by_qemu(&place, &target), root_of_file(&result), "{subformat}");
        failback!("vmdk", "check", target).done();
    }
}

#[test]
fn a_vmdk_is_recognised_by_its_uuid() {
    let place = Place::new();
    let (base, result) = (place.noisy("base.raw", 1 << 20, 4), place.noisy("result.raw", 1 << 20, 5));
    let delta = place.delta("x.delta", &base, &result, "4K");
    let target = vmdk(&place, &base, "target.vmdk", "monolithicSparse");
    let before = fs::read(&target).unwrap();
    let other = "6000c2999176dd776e0123456789abce";
    failback!("apply", delta, target, "--yes", "--expect-uuid", other).refused("and not");
    assert!(failback!("plan", delta, target, "--expect-uuid", other).json_of(3)["refusals"][0].is_string());
    failback!("apply", delta, base, "--yes", "--expect-uuid", UUID).refused("image without a UUID");
    failback!("apply", delta, target, "--yes", "--expect-uuid", "6000c2999176dd77").misused();
    assert!(fs::read(&target).unwrap() == before);
    failback!("apply", delta, target, "--yes", "--expect-uuid", "60 00 C2 99 91 76 dd 77-6e 01 23 45 67 89 ab cd")
        .done();
}
