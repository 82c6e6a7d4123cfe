//! Version 4 after a power cut, by a kernel in a process: few kernels still mount it.

use crate::fixtures::{SIZE, V4, made};
use failback_tests::lab::{Place, Uml, has_uml, lone, recovered};
use failback_tests::proof::{copy_image, mapped, only_used, real_tree};
use failback_volumes::State;
use std::thread;

/// Options of `mkfs.xfs` and of the mount.
const KINDS: [(&[&str], &str); 3] = [
    (&["-l", "size=10m"], "rw,logbsize=32k"),
    (&["-l", "version=1,size=10m", "-b", "size=1024"], "rw"),
    (&["-l", "size=20m,su=64k", "-d", "agcount=6", "-n", "ftype=0"], "rw,logbsize=128k"),
];

const CHANGES: &str = "
    cp -r /share/tree /mnt/tree
    sync
    mkdir /mnt/some
    for number in 1 2 3 4 5 6 7 8 9 10 11 12; do cp -r /share/tree/texts /mnt/some/$number; done
    rm -rf /mnt/some/3 /mnt/some/6 /mnt/some/9 /mnt/tree/programs
    sync
    cp -r /share/tree/texts /mnt/last
    sync
    power_cut";

#[test]
fn slow_loses_nothing_by_a_power_cut() {
    if !has_uml() {
        return;
    }
    let Some(_lone) = lone() else { return };
    let place = &Place::new();
    thread::scope(|scope| {
        for (number, (options, mount)) in KINDS.iter().enumerate() {
            scope.spawn(move || loses_nothing(place, number, options, mount));
        }
    });
}

fn loses_nothing(place: &Place, number: usize, options: &[&str], mount: &str) {
    let image = made(place, &format!("{number}"), SIZE, &[V4, options].concat());
    let uml = Uml::new();
    real_tree(&uml.share().join("tree"), 3);
    uml.cut(&[&image], &format!("mount -t xfs -o {mount} /dev/ubda /mnt\n{CHANGES}"));
    let found = mapped(&image);
    assert!(matches!(found.state, State::Replayed { .. }), "{found:?}");
    assert!(found.version == Some("v4") && !found.checked && found.remarks.is_empty(), "{found:?}");
    let map = found.map.unwrap();
    println!("{options:?}: {:?}, {} free", found.state, map.bytes());
    assert!(map.bytes().get() > 100 << 20);
    let [whole, used] = ["whole", "used"].map(|name| place.path(&format!("{name}-{number}")));
    copy_image(&image, &whole);
    only_used(&image, &map, &used);
    let seen = recovered("xfs", &[whole.clone(), used]);
    assert!(seen[0].lines().count() > 100, "{}", seen[0]);
    assert!(seen[0] == seen[1], "files were lost");
    let after = mapped(&whole);
    assert_eq!(after.state, State::Clean);
    let lost = map.bytes().get() - map.intersection(&after.map.unwrap()).bytes().get();
    assert_eq!(lost, 0, "bytes that are free here are used after recovery");
}
