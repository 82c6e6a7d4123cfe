//! Volume groups of LVM2, made by LVM itself without a device mapper.

use super::disk::{MIB, SWAP_UUID, all_used, free, layouts, peek, poke, put_swap};
use failback_tests::lab::{Loop, Place, lone, tool};
use failback_volumes::{Content, DiskLayout, LogicalVolume, PhysicalVolume};
use std::ops::Range;
use std::path::{Path, PathBuf};

const EXTENT: u64 = MIB;
const DISK: u64 = 64 * MIB;

/// LVM, with two disks and nothing else in sight.
struct Lvm {
    disks: [Loop; 2],
}

impl Lvm {
    fn run(&self, arguments: &[&str]) -> String {
        let filter = self.disks.iter().map(|disk| format!("\"a|^{}$|\"", disk.path.display())).collect::<Vec<_>>();
        let config = format!(
            "devices {{ filter=[{},\"r|.*|\"] use_devicesfile=0 }} backup {{ backup=0 archive=0 }}",
            filter.join(",")
        );
        tool("lvm", &[arguments, &["--config", &config, "--driverloaded", "n", "--quiet"]].concat())
    }

    fn name(&self, disk: usize) -> String {
        self.disks[disk].path.display().to_string()
    }

    /// A logical volume of these extents: `device:first-last`.
    fn volume(&self, name: &str, places: &[(usize, Range<u64>)]) {
        let count: u64 = places.iter().map(|(_, extents)| extents.end - extents.start).sum();
        let places: Vec<_> =
            places.iter().map(|(disk, it)| format!("{}:{}-{}", self.name(*disk), it.start, it.end - 1)).collect();
        let count = count.to_string();
        let mut arguments = vec!["lvcreate", "-an", "-Zn", "-Wn", "-l", &count, "-n", name, "vg0"];
        arguments.extend(places.iter().map(String::as_str));
        self.run(&arguments);
    }

    /// Where the extents of a disk begin, as LVM says.
    fn extents_at(&self, disk: usize) -> u64 {
        let name = self.name(disk);
        self.run(&["pvs", "--noheadings", "--nosuffix", "--units", "b", "-o", "pe_start", &name]).parse().unwrap()
    }

    /// The UUID of a volume, as LVM says.
    fn uuid(&self, volume: &str) -> String {
        self.run(&["lvs", "--noheadings", "-o", "lv_uuid", volume])
    }
}

/// A group on two disks: `near` on the first, `far` on both, `wide` striped over both, `gone` made and removed again.
struct Made {
    _place: Place,
    images: [PathBuf; 2],
    near_uuid: String,
    /// Where the extents begin.
    start: u64,
}

impl Made {
    fn new() -> Self {
        let place = Place::new();
        let images = [place.sparse("one.img", DISK, &[]), place.sparse("two.img", DISK, &[])];
        let lvm = Lvm { disks: [Loop::attach(&images[0], &[]), Loop::attach(&images[1], &[])] };
        let (one, two) = (lvm.name(0), lvm.name(1));
        lvm.run(&["vgcreate", "-s", "1M", "vg0", &one, &two]);
        lvm.volume("gone", &[(0, 0..20)]);
        lvm.run(&["lvremove", "-y", "vg0/gone"]);
        lvm.volume("near", &[(0, 4..12)]);
        lvm.volume("far", &[(1, 10..14), (0, 20..30)]);
        lvm.run(&["lvcreate", "-an", "-Zn", "-Wn", "-i", "2", "-l", "4", "-n", "wide", "vg0"]);
        let start = lvm.extents_at(0);
        assert_eq!(start, lvm.extents_at(1));
        let near_uuid = lvm.uuid("vg0/near");
        Self { _place: place, images, near_uuid, start }
    }

    fn layouts(&self) -> Vec<DiskLayout> {
        layouts(&self.images.each_ref().map(PathBuf::as_path))
    }

    fn at(&self, extent: u64) -> u64 {
        self.start + extent * EXTENT
    }
}

fn physical(layout: &DiskLayout) -> &PhysicalVolume {
    match &layout.content {
        Content::PhysicalVolume(physical) => physical,
        other => panic!("{other:?}"),
    }
}

fn volume<'a>(layouts: &'a [DiskLayout], name: &str) -> &'a LogicalVolume {
    let mut all = layouts.iter().flat_map(|layout| &physical(layout).volumes);
    all.find(|volume| volume.name == name).unwrap_or_else(|| panic!("no {name}"))
}

#[track_caller]
fn unclear(layouts: &[DiskLayout], name: &str, words: &str) {
    match &volume(layouts, name).content {
        Content::Unclear { because, .. } => assert!(because.contains(words), "{name}: {because}"),
        other => panic!("{name}: {other:?}"),
    }
}

/// Swap space that lies in two pieces: LVM's order of extents decides where its pages are.
fn put_far_swap(made: &Made) -> [Range<u64>; 2] {
    let space = tempfile::NamedTempFile::new().unwrap();
    space.as_file().set_len(14 * EXTENT).unwrap();
    tool("mkswap", &["-q", "-p", "4096", "-U", SWAP_UUID, space.path().to_str().unwrap()]);
    // Where the first extent is, LVM knows: it may take the disks in either order.
    let far = made.layouts();
    let first = volume(&far, "far").segments[0];
    poke(&made.images[first.disk], first.start.get(), &peek(space.path(), 0, 4096));
    let mut free = [made.at(20)..made.at(30), made.at(10)..made.at(14)];
    free[first.disk].start += 4096;
    free
}

#[test]
fn linear_volumes_on_one_and_on_two_disks() {
    let Some(_lone) = lone() else { return };
    let made = Made::new();
    let near = put_swap(&made.images[0], made.at(4), 8 * EXTENT);
    let [far_one, far_two] = put_far_swap(&made);
    // What was removed left its text in the ring, and its content where it was.
    put_swap(&made.images[0], made.at(0), EXTENT);
    let both = made.layouts();
    assert_eq!(free(&both[0]), [near.clone(), far_one]);
    assert_eq!(free(&both[1]), [far_two]);
    assert_eq!(volume(&both, "near").uuid.as_deref(), Some(made.near_uuid.as_str()));
    assert_eq!(volume(&both, "near").size.get(), 8 * EXTENT);
    assert_eq!(volume(&both, "far").segments.len(), 2);
    unclear(&both, "wide", "striped over 2 physical volumes");
    assert!(both.iter().all(|layout| physical(layout).volumes.iter().all(|volume| volume.name != "gone")));
    let group = physical(&both[1]).group.as_ref().unwrap();
    assert_eq!((group.name.as_str(), group.physical_volumes, group.missing), ("vg0", 2, 0));

    // One of the disks alone: only what lies on it.
    let one = layouts(&[&made.images[0]]);
    assert_eq!(free(&one[0]), [near]);
    unclear(&one, "far", "on a disk that was not given");
    let two = layouts(&[&made.images[1]]);
    assert!(two[0].free.is_empty());
    assert_eq!(physical(&two[0]).group.as_ref().unwrap().missing, 1);

    // A disk and a copy of it: nobody can say which of them the volumes lie on.
    let copied = layouts(&[&made.images[0], &made.images[1], &made.images[0]]);
    assert!(copied.iter().all(|layout| layout.free.is_empty()));
    unclear(&copied, "near", "found twice");
}

#[test]
fn damaged_metadata_makes_everything_used() {
    let Some(_lone) = lone() else { return };
    let made = Made::new();
    let near = put_swap(&made.images[0], made.at(4), 8 * EXTENT);
    assert_eq!(free(&made.layouts()[0]), std::slice::from_ref(&near));
    let one = &made.images[0];
    let area = 4096;
    let location = peek(one, area + 40, 24);
    let text_at = area + u64::from_le_bytes(location[..8].try_into().unwrap());
    for (at, words) in [
        (512 + 24, "label is damaged"),
        (512 + 40, "label is damaged"),
        (512 + 100, "label is damaged"),
        (area + 20, "metadata area of it is damaged"),
        (area + 40, "metadata area of it is damaged"),
        (area + 60, "metadata area of it is damaged"),
        (area + 300, "metadata area of it is damaged"),
        (text_at + 50, "checksum of its LVM metadata is wrong"),
    ] {
        let byte = peek(one, at, 1);
        poke(one, at, &[byte[0] ^ 4]);
        let layouts = made.layouts();
        assert!(layouts[0].free.is_empty(), "{at}");
        let because = physical(&layouts[0]).because.as_deref().unwrap_or_default();
        assert!(because.contains(words), "{at}: {because}");
        // The other disk still knows of the group, and that a part of it is not to be had.
        assert!(layouts[1].free.is_empty());
        poke(one, at, &byte);
    }
    // A second label, and a file system beside the label.
    let label = peek(one, 512, 512);
    poke(one, 1024, &label);
    assert!(physical(&made.layouts()[0]).because.as_deref().unwrap().contains("more than one LVM label"));
    poke(one, 1024, &[0; 512]);
    poke(one, 0x1_0040, b"_BHRfS_M");
    let both = made.layouts();
    all_used(&both[0], "it could be LVM2 or btrfs");
    poke(one, 0x1_0040, &[0; 8]);
    // A disk that was cut.
    std::fs::File::options().write(true).open(one).unwrap().set_len(DISK - 4096).unwrap();
    let cut = made.layouts();
    assert!(cut[0].free.is_empty());
    unclear(&cut, "near", "has 67108864 bytes, and 67104768 are there");
}

/// Disks whose states have different numbers are of different moments; two states with one number contradict each other.
#[test]
fn copies_of_metadata_that_differ() {
    let Some(_lone) = lone() else { return };
    let made = Made::new();
    let near = put_swap(&made.images[0], made.at(4), 8 * EXTENT);
    let (one, two) = (&made.images[0], &made.images[1]);
    let before = peek(one, 4096, usize::try_from(made.start - 4096).unwrap());
    {
        let lvm = Lvm { disks: [Loop::attach(one, &[]), Loop::attach(two, &[])] };
        lvm.volume("late", &[(1, 30..38)]);
    }
    let late = put_swap(two, made.at(30), 8 * EXTENT);
    let after = peek(one, 4096, before.len());
    // The first disk was away when `late` was made.
    poke(one, 4096, &before);
    let both = made.layouts();
    for (layout, name) in both.iter().zip(["near", "late"]) {
        assert!(layout.free.is_empty());
        unclear(&both, name, "its disks are not of one moment");
        let because = physical(layout).because.as_deref().unwrap_or_default();
        let (older, newer) = (seqno(&before), seqno(&after));
        assert!(
            older < newer && because.contains(&format!("has seqno {older}, that of another has {newer}")),
            "{because}"
        );
    }
    // Each alone is of one moment, and both are once the first has caught up.
    assert_eq!(free(&layouts(&[one])[0]), std::slice::from_ref(&near));
    assert_eq!(free(&layouts(&[two])[0]), std::slice::from_ref(&late));
    poke(one, 4096, &after);
    let both = made.layouts();
    assert_eq!((free(&both[0]), free(&both[1])), (vec![near], vec![late]));
    // Both disks went on, apart from each other.
    poke(one, 4096, &before);
    poke(two, 4096, &before);
    {
        let alone = [Loop::attach(one, &[]), Loop::attach(two, &[])];
        let lvm = Lvm { disks: alone };
        lvm.volume("other", &[(1, 40..44)]);
    }
    poke(one, 4096, &after);
    let both = made.layouts();
    assert!(both.iter().all(|layout| layout.free.is_empty()));
    let because = physical(&both[0]).because.as_deref().unwrap_or_default();
    assert!(because.contains("contradict each other"), "{because}");
}

/// The highest number of all texts in a metadata area: that of the one in force.
fn seqno(area: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(area);
    let numbers = text.split("seqno = ").skip(1).filter_map(|rest| rest.split_whitespace().next()?.parse().ok());
    numbers.max().unwrap()
}

/// Only one of the disks keeps metadata, twice; nothing is there that could differ from it.
#[test]
fn a_physical_volume_without_a_metadata_area() {
    let Some(_lone) = lone() else { return };
    let place = Place::new();
    let images = [place.sparse("one.img", DISK, &[]), place.sparse("two.img", DISK, &[])];
    let start = {
        let lvm = Lvm { disks: [Loop::attach(&images[0], &[]), Loop::attach(&images[1], &[])] };
        let (one, two) = (lvm.name(0), lvm.name(1));
        lvm.run(&["pvcreate", "--metadatacopies", "2", &one]);
        lvm.run(&["pvcreate", "--metadatacopies", "0", &two]);
        lvm.run(&["vgcreate", "-s", "1M", "vg0", &one, &two]);
        lvm.volume("near", &[(1, 4..12)]);
        lvm.extents_at(1)
    };
    let near = put_swap(&images[1], start + 4 * EXTENT, 8 * EXTENT);
    let both = layouts(&images.each_ref().map(PathBuf::as_path));
    assert_eq!((free(&both[0]), free(&both[1])), (vec![], vec![near]));
}

/// In a partition, beside others.
#[test]
fn a_physical_volume_in_a_partition() {
    let Some(_lone) = lone() else { return };
    let made = Made::new();
    put_swap(&made.images[0], made.at(4), 8 * EXTENT);
    let place = Place::new();
    let disk = place.sparse("disk.img", DISK + 4 * MIB, &[]);
    let last = format!("2:2M:+{}M", DISK / MIB);
    let path = disk.to_str().unwrap();
    tool("sgdisk", &["-a", "1", "-o", "-n", "1:1M:+1M", "-n", &last, "-t", "2:8e00", path]);
    super::disk::copy_to(&made.images[0], &disk, 2 * MIB);
    let layouts = layouts(&[&disk]);
    let start = 2 * MIB + made.at(4);
    let moved = start + 4096..start + 8 * EXTENT;
    assert_eq!(free(&layouts[0]), [moved]);
    assert!(layouts[0].identity().file_systems.contains(&SWAP_UUID.to_owned()));
}

/// An ext4 in two pieces on two disks: what it calls free is what its own tool calls free, brought back to the disks.
#[test]
fn a_file_system_on_two_disks() {
    let Some(_lone) = lone() else { return };
    let made = Made::new();
    let segments = volume(&made.layouts(), "far").segments.clone();
    let size: u64 = segments.iter().map(|segment| segment.size.get()).sum();
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(size).unwrap();
    let path: &Path = image.path();
    let arguments = ["-q", "-F", "-b", "1024", "-E", "lazy_itable_init=0", "-d", "/etc/default"];
    tool("mke2fs", &[&["-t", "ext4"], &arguments[..], &[path.to_str().unwrap()]].concat());
    let mut at = 0;
    let mut wanted = [Vec::new(), Vec::new()];
    let alone = super::disk::layout(path);
    assert!(alone.free.bytes().get() > 8 * MIB);
    for segment in segments {
        let (disk, start, len) = (segment.disk, segment.start.get(), segment.size.get());
        poke(&made.images[disk], start, &peek(path, at, usize::try_from(len).unwrap()));
        for extent in free(&alone) {
            let (from, to) = (extent.start.max(at), extent.end.min(at + len));
            if from < to {
                wanted[disk].push(from - at + start..to - at + start);
            }
        }
        at += len;
    }
    let both = made.layouts();
    assert_eq!([free(&both[0]), free(&both[1])], wanted);
}
