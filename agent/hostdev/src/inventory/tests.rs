use super::*;
use crate::enable_uuid::UuidProblem;
use crate::synthetic::Machine;
use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::symlink;

const UUIDS: [&str; 2] = ["6000c2999176dd776e0123456789abcd", "6000c2999176dd776e0123456789abce"];

fn disks(machine: &Machine) -> Vec<AttachedDisk> {
    let lookout = Lookout::new(&machine.host).unwrap();
    list(&lookout, &|_| {}).unwrap().into_iter().map(|(disk, _)| disk).collect()
}

fn names(machine: &Machine) -> Vec<String> {
    disks(machine).into_iter().map(|disk| disk.name).collect()
}

fn refusals(machine: &Machine) -> Vec<String> {
    disks(machine).into_iter().map(|disk| disk.refusal.unwrap_or_default()).collect()
}

#[test]
fn all_that_is_attached_and_nothing_else() {
    let machine = Machine::new();
    for (index, name) in
        ["ram0", "zram0", "fd0", "sr0", "loop0", "sda", "sdz", "sdaa", "nvme0n1", "sdb"].iter().enumerate()
    {
        let disk = machine.disk(name, &format!("8:{index}"));
        machine.write(disk, "size", b"2048\n");
    }
    machine.partition("sda", "sda1", "8:100");
    let below = machine.disk("sdc", "8:101");
    let volume = machine.disk("dm-0", "253:0");
    machine.write(volume, "dm/name", b"vg-srv\n");
    machine.stack(below, volume);
    let array = machine.disk("md0", "9:0");
    machine.write(array, "md/level", b"raid1\n");
    let cache = machine.disk("bcache0", "252:0");
    machine.stack(below, cache);
    let hidden = machine.disk("nvme0c0n1", "8:102");
    machine.write(hidden, "hidden", b"1\n");
    let tape = machine.disk("sdx", "8:103");
    machine.write(tape, "device/type", b"5\n");
    let card = machine.disk("mmcblk0", "179:0");
    machine.write(card, "device/type", b"SD\n");
    let unconnected = machine.disk("nbd0", "43:0");
    machine.write(unconnected, "size", b"0\n");
    machine.attach("loop1", "7:1", &machine.file("disk.img"));
    assert_eq!(names(&machine), ["loop1", "mmcblk0", "nvme0n1", "sda", "sdb", "sdc", "sdz", "sdaa"]);
}

#[test]
fn what_is_told_of_a_disk() {
    let machine = Machine::new();
    let disk = machine.scsi("sdb", "8:16", "2:0:3:0", "vmw_pvscsi", Some(UUIDS[0]));
    for (name, content) in [
        ("size", "8192\n"),
        ("ro", "1\n"),
        ("queue/logical_block_size", "4096\n"),
        ("device/vendor", "VMware  \n"),
        ("device/model", "Virtual disk\n"),
    ] {
        machine.write(disk, name, content.as_bytes());
    }
    machine.partition("sdb", "sdb1", "8:17");
    let by_id = machine.host.dev.join("disk/by-id");
    fs::create_dir_all(&by_id).unwrap();
    symlink("../../sdb", by_id.join("wwn-0x6000")).unwrap();
    symlink("../../sdb1", by_id.join("wwn-0x6000-part1")).unwrap();
    let found = &disks(&machine)[0];
    let bytes = ByteCount::new(8192 * 512).unwrap();
    assert_eq!((found.size, found.logical_block, found.physical_block), (bytes, 4096, 4096));
    assert_eq!(found.links, [by_id.join("wwn-0x6000")]);
    assert_eq!(found.scsi_uuid.unwrap().to_string(), UUIDS[0]);
    assert_eq!(found.model.as_deref(), Some("VMware Virtual disk"));
    assert_eq!(found.transport, Transport::Scsi { driver: "vmw_pvscsi".into() });
    assert_eq!((found.address, found.partitions, found.read_only), ("2:0:3:0".parse().ok(), 1, true));
    assert!(found.refusal.as_ref().unwrap().contains("read-only"), "{found:?}");
    assert!(!found.is_system() && found.uuid_problem().is_none());
}

#[test]
fn transports() {
    let machine = Machine::new();
    for (index, (subsystem, wanted)) in
        [("nvme", Transport::Nvme), ("virtio", Transport::Virtio), ("mmc", Transport::Other("mmc".into()))]
            .into_iter()
            .enumerate()
    {
        let disk = machine.disk(&format!("x{index}"), &format!("250:{index}"));
        let bus = machine.host.sys.join("bus").join(subsystem);
        fs::create_dir_all(&bus).unwrap();
        fs::create_dir_all(machine.host.node(disk).join("device")).unwrap();
        symlink(bus, machine.host.node(disk).join("device/subsystem")).unwrap();
        assert_eq!(machine.host.transport(disk), wanted);
    }
    let nameless = machine.scsi("sda", "8:0", "1:0:0:0", "<NULL>", None);
    assert_eq!(machine.host.transport(nameless).name(), "scsi");
    let file = machine.attach("loop0", "7:0", &machine.file("disk.img"));
    assert_eq!(machine.host.transport(file), Transport::Loop);
    assert_eq!(disks(&machine)[0].backing, Some(machine.file("disk.img")));
    let unknown = machine.disk("y0", "250:99");
    assert_eq!(machine.host.transport(unknown), Transport::Other("unknown".into()));
}

#[test]
fn buses_are_told_by_the_way_to_the_disk() {
    let machine = Machine::new();
    for (name, number, address, bus, wanted) in [
        ("usb1/sda", "8:0", "1:0:0:0", "usb-storage", Transport::Usb),
        ("ata3/sdb", "8:16", "2:0:0:0", "ahci", Transport::Ata),
        ("data/sdc", "8:32", "3:0:0:0", "mptspi", Transport::Scsi { driver: "mptspi".into() }),
    ] {
        let disk = machine.scsi(name, number, address, bus, None);
        assert_eq!(machine.host.transport(disk), wanted, "{name}");
    }
}

#[test]
fn two_disks_of_one_uuid_are_both_refused() {
    let machine = Machine::new();
    machine.scsi("sda", "8:0", "2:0:0:0", "vmw_pvscsi", Some(UUIDS[0]));
    machine.scsi("sdb", "8:16", "2:0:1:0", "vmw_pvscsi", Some(UUIDS[1]));
    machine.scsi("sdc", "8:32", "2:0:2:0", "vmw_pvscsi", None);
    machine.scsi("sdd", "8:48", "2:0:3:0", "vmw_pvscsi", None);
    assert_eq!(refusals(&machine), [""; 4], "without a UUID there is nothing that is the same");
    machine.scsi("sde", "8:64", "3:0:0:0", "vmw_pvscsi", Some(UUIDS[1]));
    let found = refusals(&machine);
    assert_eq!((&*found[0], &*found[2], &*found[3]), ("", "", ""));
    for (index, own, other) in [(1, "sdb", "sde"), (4, "sde", "sdb")] {
        let dev = machine.host.dev.display();
        let wanted = format!("{dev}/{own} is of the same SCSI UUID ({}) as /dev/{other}: detach all but one", UUIDS[1]);
        assert!(found[index].starts_with(&wanted), "{}", found[index]);
    }
    // A partition is refused with the disk that it is part of.
    let partition = machine.partition("sde", "sde1", "8:65");
    let uses = Lookout::new(&machine.host).unwrap().uses(Object::Block(partition)).unwrap();
    assert!(matches!(uses[..], [Use::Duplicate { .. }]), "{uses:?}");
    // All of three are named.
    machine.scsi("sdf", "8:80", "3:0:1:0", "vmw_pvscsi", Some(UUIDS[1]));
    assert!(refusals(&machine)[1].contains("as /dev/sde and /dev/sdf: "));
}

#[test]
fn either_page_makes_a_duplicate() {
    let machine = Machine::new();
    machine.scsi("sda", "8:0", "2:0:0:0", "vmw_pvscsi", Some(UUIDS[0]));
    let other = machine.scsi("sdb", "8:16", "2:0:1:0", "vmw_pvscsi", None);
    machine.write(other, "device/vpd_pg80", &[b"\0\x80\0\x20", UUIDS[0].to_uppercase().as_bytes()].concat());
    assert_eq!(disks(&machine)[0].same_uuid, ["sdb"]);
    assert_eq!(disks(&machine)[1].same_uuid, ["sda"]);
}

#[test]
fn paths_to_one_disk_are_held_and_not_duplicates() {
    let machine = Machine::new();
    let paths = ["sda", "sdb"].map(|name| {
        (name, machine.scsi(name, if name == "sda" { "8:0" } else { "8:16" }, "2:0:0:0", "qla2xxx", Some(UUIDS[0])))
    });
    let both = machine.disk("dm-0", "253:0");
    machine.write(both, "dm/name", b"mpatha\n");
    machine.write(both, "dm/uuid", b"mpath-36000c2999176dd776e0123456789abcd\n");
    machine.stack(paths[0].1, both);
    // One of them is not put together with the other yet.
    assert!(refusals(&machine).iter().all(|it| it.contains("same SCSI UUID")), "{:?}", refusals(&machine));
    machine.stack(paths[1].1, both);
    for disk in disks(&machine) {
        assert!(matches!(disk.uses[..], [Use::Held { .. }]), "{disk:?}");
        assert!(disk.same_uuid.is_empty() && disk.uuid_problem().is_none());
    }
}

#[test]
fn volumes_that_are_no_multipath_excuse_nothing() {
    let machine = Machine::new();
    let first = machine.scsi("sda", "8:0", "2:0:0:0", "vmw_pvscsi", Some(UUIDS[0]));
    let second = machine.scsi("sdb", "8:16", "2:0:1:0", "vmw_pvscsi", Some(UUIDS[0]));
    let volume = machine.disk("dm-0", "253:0");
    machine.write(volume, "dm/name", b"vg-srv\n");
    machine.write(volume, "dm/uuid", b"LVM-abc\n");
    machine.stack(first, volume);
    machine.stack(second, volume);
    assert!(disks(&machine).iter().all(|disk| disk.same_uuid.len() == 1));
}

#[test]
fn what_keeps_a_disk_from_being_known() {
    let machine = Machine::new();
    machine.scsi("sda", "8:0", "2:0:0:0", "vmw_pvscsi", Some(UUIDS[0]));
    machine.scsi("sdb", "8:16", "2:0:1:0", "vmw_pvscsi", None);
    machine.scsi("sdc", "8:32", "2:0:2:0", "vmw_pvscsi", Some("60014052999176dd776e0123456789ab"));
    machine.scsi("sdd", "8:48", "2:0:3:0", "vmw_pvscsi", Some(UUIDS[1]));
    machine.scsi("sde", "8:64", "2:0:4:0", "vmw_pvscsi", Some(UUIDS[1]));
    machine.disk("nvme0n1", "259:0");
    machine.attach("loop0", "7:0", &machine.file("disk.img"));
    let found = disks(&machine);
    let problems: Vec<_> = found.iter().map(|disk| disk.uuid_problem().map_or("", |problem| problem.name())).collect();
    assert_eq!(problems, ["", "not-scsi", "", "missing", "foreign", "duplicate", "duplicate"]);
    assert!(UuidProblem::Missing.to_string().contains("disk.EnableUUID = TRUE"));
}

#[test]
fn a_disk_in_use_says_by_whom() {
    let machine = Machine::new();
    machine.scsi("sda", "8:0", "2:0:0:0", "vmw_pvscsi", None);
    machine.partition("sda", "sda1", "8:1");
    machine.mounts("self", "30 1 8:1 / /srv rw - ext4 /dev/sda1 rw\n");
    assert!(
        refusals(&machine)[0].ends_with("is mounted at /srv (from /dev/sda1): unmount it first, then run this again")
    );
}

/// What is named in a list, with what becomes of its node at that moment.
fn named(machine: &Machine, then: impl Fn(&str, usize)) -> (Vec<String>, Vec<AttachedDisk>) {
    let told = RefCell::new(Vec::new());
    let found = inventory_of(&machine.host, &|path| {
        let name = path.strip_prefix(&machine.host.dev).unwrap().to_str().unwrap().to_owned();
        told.borrow_mut().push(name.clone());
        then(&name, told.borrow().iter().filter(|it| **it == name).count());
    });
    (told.into_inner(), found.unwrap())
}

/// A disk whose node goes when it is named for the last time is not found by whoever opens it after that.
#[test]
fn each_is_named_before_it_is_opened() {
    let machine = Machine::new();
    machine.scsi("sda", "8:0", "2:0:0:0", "vmw_pvscsi", Some(UUIDS[0]));
    machine.scsi("sdb", "8:16", "2:0:1:0", "vmw_pvscsi", None);
    machine.disk("sr0", "11:0");
    machine.attach("loop3", "7:3", &machine.file("disk.img"));
    for name in ["sda", "sdb", "sr0", "loop3"] {
        fs::write(machine.host.dev.join(name), b"no device").unwrap();
    }
    let refusals = |found: &[AttachedDisk]| found.iter().filter_map(|disk| disk.refusal.clone()).collect::<Vec<_>>();
    let (told, found) = named(&machine, |_, _| {});
    assert!(refusals(&found).iter().all(|it| !it.contains("does not exist")), "{found:?}");
    assert_eq!(told.first().unwrap(), "loop3", "it is asked what it is attached to");
    assert_eq!(told[told.len() - 3..], ["loop3", "sda", "sdb"]);
    assert!(!told.contains(&"sr0".to_owned()));
    let times = |name: &str| told.iter().filter(|it| *it == name).count();
    let (_, found) = named(&machine, |name, time| {
        if time == times(name) {
            fs::remove_file(machine.host.dev.join(name)).unwrap();
        }
    });
    assert_eq!(refusals(&found).iter().filter(|it| it.contains("does not exist")).count(), 3, "{found:?}");
}

#[test]
fn this_machine() {
    // Whatever it has: no disk twice, and none that is in use as a target.
    let found = inventory(&|_| {}).unwrap();
    for disk in &found {
        assert!(!disk.name.starts_with("ram") && !disk.name.starts_with("dm-"), "{disk:?}");
        assert_eq!(found.iter().filter(|other| other.name == disk.name).count(), 1);
        assert!(disk.uses.is_empty() || disk.refusal.is_some(), "in use and not refused: {disk:?}");
    }
}
