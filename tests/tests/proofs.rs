//! The proof of a map is itself proven: it fails for a map that is wrong.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_tests::lab::{Place, lone, tool};
use failback_tests::proof::{
    assert_same_map, file_hashes, free_map, partclone_free, real_tree, survives, with_live, with_mounted,
};
use failback_volumes::FreeMap;

const SIZE: u64 = 64 << 20;

#[test]
fn a_wrong_map_does_not_pass() {
    let Some(_lone) = lone() else { return };
    let place = Place::new();
    let (tree, image, crashed) = (place.directory("tree"), place.path("image"), place.path("crashed"));
    real_tree(&tree, 8);
    let options = ["-q", "-t", "ext4", "-d"].map(AsRef::<std::ffi::OsStr>::as_ref);
    tool("mke2fs", &[&options[..], &[tree.as_os_str(), image.as_os_str(), "64M".as_ref()]].concat());
    let written = with_live(&image, "ext4", "rw", |live| {
        std::fs::write(live.root().join("more"), vec![7; 3 << 20]).unwrap();
        tool("sync", &["-f".as_ref(), live.root().as_os_str()]);
        live.crash_copy(&crashed);
        file_hashes(live.root())
    });
    assert_eq!(with_mounted(&crashed, "ext4", "rw", file_hashes), written);

    assert_eq!(survives(&crashed, "ext4", &FreeMap::nothing()), Ok(()));
    let half: FreeMap = free_map(std::iter::once(8 << 20..SIZE));
    survives(&crashed, "ext4", &half).unwrap_err();
    // What was free before the last file was written is not free now.
    let before = free_map(partclone_free("partclone.extfs", &image));
    assert!(before.bytes().get() > SIZE / 2);
    survives(&crashed, "ext4", &before).unwrap_err();
    survives(&image, "ext4", &before).unwrap();
    assert_same_map(&before, before.extents().iter().map(|extent| extent.start().get()..extent.end().get()));
}
