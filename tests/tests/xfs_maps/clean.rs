//! File systems that were unmounted.

use crate::fixtures::{SIZE, V4, can_mount, fill, made, prototype};
use crate::oracle::{on_disk, partclone, shape};
use failback_tests::lab::{Place, lone, tool};
use failback_tests::proof::{assert_same_map, mapped, with_mounted};
use failback_volumes::{FreeMap, Kind, State};
use std::path::Path;

/// Options of `mkfs.xfs`, with the version that they make.
const V5: &[&[&str]] = &[
    &[],
    &["-b", "size=1024"],
    &["-b", "size=2048", "-m", "finobt=0,inobtcount=0"],
    &["-b", "size=8192"],
    &["-b", "size=65536"],
    &["-s", "size=4096"],
    &["-d", "agcount=7"],
    &["-d", "agsize=20004k"],
    &["-l", "su=256k,size=20m"],
    &["-l", "su=32k,size=20m", "-m", "rmapbt=1"],
    &["-m", "rmapbt=1,reflink=1"],
    &["-m", "reflink=0,bigtime=0", "-i", "sparse=0"],
    &["-i", "nrext64=1,size=2048"],
    &["-d", "su=64k,sw=4", "-l", "size=20m", "-L", "two\twords"],
    &["-l", "agnum=2", "-n", "size=16384", "-b", "size=1024", "-m", "rmapbt=1"],
];

const V4_MORE: &[&[&str]] = &[
    &[],
    &["-b", "size=512", "-l", "version=1"],
    &["-s", "size=4096", "-l", "su=32k"],
    &["-l", "lazy-count=0", "-n", "ftype=0"],
    &["-d", "agcount=5", "-b", "size=1024"],
    &["-b", "size=65536"],
];

fn same(ours: &FreeMap, theirs: &FreeMap) {
    assert_same_map(ours, theirs.extents().iter().map(|extent| extent.start().get()..extent.end().get()));
}

/// Looks at one image; `version` is what it must be found to be.
fn check(image: &Path, version: &'static str) {
    let found = mapped(image);
    assert_eq!((found.kind, found.version, found.state), (Kind::Xfs, Some(version), State::Clean), "{found:?}");
    assert_eq!(found.checked, version == "v5");
    assert!(found.remarks.is_empty(), "{:?}", found.remarks);
    let shape = shape(image);
    assert_eq!(u64::from(found.block_size.unwrap()), shape.block_size);
    let map = found.map.unwrap();
    assert!(map.bytes().get() > SIZE / 3, "{} bytes are free", map.bytes());
    same(&map, &on_disk(image));
    same(&map, &partclone(image));
}

#[test]
fn version_5() {
    let Some(_lone) = lone() else { return };
    let place = Place::new();
    let mut filled = 0;
    for (number, options) in V5.iter().enumerate() {
        println!("{options:?}");
        let image = made(&place, &format!("{number}"), SIZE, options);
        check(&image, "v5");
        if can_mount(&image) {
            with_mounted(&image, "xfs", "rw", |root| fill(root, 6));
            check(&image, "v5");
            filled += 1;
        } else {
            println!("this kernel cannot mount {options:?}");
        }
        std::fs::remove_file(image).unwrap();
    }
    assert!(filled >= 10);
}

#[test]
fn version_4() {
    let Some(_lone) = lone() else { return };
    let place = Place::new();
    let prototype = prototype(&place, 8);
    for (number, options) in V4_MORE.iter().enumerate() {
        let image =
            made(&place, &format!("{number}"), SIZE, &[V4, options, &["-p", prototype.to_str().unwrap()]].concat());
        check(&image, "v4");
        std::fs::remove_file(image).unwrap();
    }
}

#[test]
fn another_uuid_and_a_label() {
    let Some(_lone) = lone() else { return };
    let place = Place::new();
    let image = made(&place, "image", SIZE, &["-L", "data"]);
    tool("xfs_admin", &["-U", "00000000-1111-2222-3333-444444444444", image.to_str().unwrap()]);
    check(&image, "v5");
    let found = mapped(&image);
    assert_eq!(found.uuid.as_deref(), Some("00000000-1111-2222-3333-444444444444"));
    assert_eq!(found.label.as_deref(), Some("data"));
    assert_eq!(found.size.unwrap().get() / 4096, SIZE / 4096);
}
