use super::*;
use crate::synthetic::Machine;

fn told(machine: &Machine, disk: DevNum) -> Vec<String> {
    let uses = Lookout::new(&machine.host).unwrap().uses(Object::Block(disk)).unwrap();
    uses.iter().map(ToString::to_string).collect()
}

#[test]
fn a_mount_three_floors_up_is_found() {
    let machine = Machine::new();
    let disk = machine.disk("sdb", "8:16");
    let partition = machine.partition("sdb", "sdb1", "8:17");
    let other = machine.partition("sdb", "sdb2", "8:18");
    let array = machine.disk("md127", "9:127");
    machine.write(array, "md/level", b"raid1\n");
    let volume = machine.disk("dm-0", "253:0");
    machine.write(volume, "dm/name", b"vg-srv\n");
    machine.write(volume, "dm/uuid", b"LVM-abc\n");
    let innocent = machine.disk("sdc", "8:32");
    machine.stack(partition, array);
    machine.stack(array, volume);
    let held = ["in use by the RAID array md127", "in use by the LVM volume vg-srv"];
    assert_eq!(told(&machine, disk), held);
    machine.mounts("self", "30 1 253:0 / /srv rw - ext4 /dev/mapper/vg-srv rw\n");
    let mounted = "mounted at /srv (from /dev/mapper/vg-srv)";
    for device in [disk, partition, array] {
        assert!(told(&machine, device).contains(&mounted.to_owned()));
    }
    assert_eq!(told(&machine, volume), [mounted]);
    assert_eq!(told(&machine, innocent), [""; 0]);
    // The sibling of a partition in use is free, though the disk is not.
    assert_eq!(told(&machine, other), [""; 0]);
}

#[test]
fn a_partition_of_a_mounted_disk_is_in_use() {
    let machine = Machine::new();
    let disk = machine.disk("sdb", "8:16");
    let partition = machine.partition("sdb", "sdb1", "8:17");
    machine.mounts("self", "30 1 8:16 / /srv rw - ext4 /dev/sdb rw\n");
    assert_eq!(told(&machine, partition), told(&machine, disk));
    let path = machine.disk("dm-0", "253:0");
    machine.stack(disk, path);
    assert_eq!(told(&machine, partition).len(), 2);
}

#[test]
fn other_namespaces_are_looked_into_once() {
    let machine = Machine::new();
    let disk = machine.disk("sdb", "8:16");
    machine.mounts("self", "30 1 8:32 / / rw - ext4 /dev/sdc rw\n");
    machine.mounts("40", "30 1 8:16 / /data rw - ext4 /dev/sdb rw\n31 1 8:16 / /again rw - ext4 /dev/sdb rw\n");
    machine.mounts("50", "30 1 8:16 / /data rw - ext4 /dev/sdb rw\n");
    let wanted =
        ["/data", "/again"].map(|at| format!("mounted at {at} (from /dev/sdb) in the mount namespace of process 40"));
    assert_eq!(told(&machine, disk), wanted);
}

#[test]
fn every_member_of_a_btrfs_is_in_use() {
    let machine = Machine::new();
    let disks = [machine.disk("sdb", "8:16"), machine.disk("sdc", "8:32")];
    for disk in disks {
        machine.btrfs("0123-4567", disk);
        machine.mounts("self", "30 1 0:44 / /srv rw - btrfs /dev/sdb rw\n");
    }
    for disk in disks {
        assert_eq!(told(&machine, disk), ["in use by the btrfs file system 0123-4567"]);
    }
}

#[test]
fn a_loop_device_is_seen_through() {
    let machine = Machine::new();
    let image = machine.file("disk with blank.img");
    fs::write(&image, "").unwrap();
    let device = machine.attach("loop0", "7:0", &image);
    machine.partition("loop0", "loop0p1", "259:0");
    machine.mounts("self", "30 1 259:0 / /mnt ro - ext4 /dev/loop0p1 ro\n");
    let lookout = Lookout::new(&machine.host).unwrap();
    let uses = lookout.uses(Object::at(&image).unwrap()).unwrap();
    let told: Vec<String> = uses.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["mounted at /mnt (from /dev/loop0p1)", "attached as loop device /dev/loop0"]);
    assert!(lookout.writers(Object::Block(device)).unwrap().is_empty());
}

/// A loop device over a block device of the machine, as the path in sysfs tells it where the driver cannot be asked.
fn over(machine: &Machine, name: &str, number: &str, under: &str) -> LoopDevice {
    let device = machine.disk(name, number);
    let under = Object::Block(under.parse().unwrap());
    LoopDevice { device, name: name.into(), backing: Some(under), backing_path: "/dev/any".into(), writable: true }
}

fn told_with(machine: &Machine, loops: &[LoopDevice], device: &str) -> Vec<String> {
    let lookout = Lookout { loops: loops.to_vec(), ..Lookout::new(&machine.host).unwrap() };
    let uses = lookout.uses(Object::Block(device.parse().unwrap())).unwrap();
    uses.iter().map(ToString::to_string).collect()
}

#[test]
fn whoever_uses_a_disk_uses_the_loop_devices_over_it() {
    let machine = Machine::new();
    machine.disk("sdb", "8:16");
    let parts = [machine.partition("sdb", "sdb1", "8:17"), machine.partition("sdb", "sdb2", "8:18")];
    let volume = machine.disk("dm-0", "253:0");
    machine.stack(parts[1], volume);
    let loops = [
        over(&machine, "loop0", "7:0", "8:16"),
        over(&machine, "loop1", "7:1", "7:0"),
        over(&machine, "loop2", "7:2", "8:17"),
        over(&machine, "loop3", "7:3", "8:18"),
    ];
    machine.partition("loop1", "loop1p1", "259:0");
    machine.mounts("self", "30 1 8:17 / /srv rw - ext4 /dev/sdb1 rw\n");
    let told = |loops: &[LoopDevice], device: &str| told_with(&machine, loops, device);
    let (mounted, held) = ("mounted at /srv (from /dev/sdb1)", "in use by dm-0");
    for device in ["7:0", "7:1", "259:0"] {
        assert_eq!(told(&loops[..2], device)[..2], [mounted, held], "{device}");
    }
    // Only what is shown counts: of a partition, not its sibling.
    assert_eq!(told(&loops[2..3], "7:2"), [mounted]);
    assert_eq!(told(&loops[3..], "7:3"), [held]);
    // What is made of a loop device is over what that shows, and does not stand in its own way.
    let above = machine.disk("dm-1", "253:1");
    machine.stack("7:2".parse().unwrap(), above);
    assert_eq!(told(&loops[2..3], "253:1"), [mounted]);
    assert_eq!(told(&loops[2..3], "7:2"), [mounted, "in use by dm-1"]);
    machine.mounts("self", "");
    assert_eq!(told(&loops[2..3], "253:1"), [""; 0]);
    // A second loop device over the same is another way to write to it.
    assert_eq!(
        told(&loops[..3], "7:2"),
        ["in use by dm-1", "attached as loop device /dev/loop0", "attached as loop device /dev/loop1"]
    );
    // A disk that was pulled out blinds nobody.
    assert_eq!(told(&[over(&machine, "loop4", "7:4", "8:99")], "7:4"), [""; 0]);
    // One over nothing that is known might be over anything.
    let unknown = [LoopDevice { backing: None, ..loops[0].clone() }];
    let lookout = Lookout { loops: unknown.to_vec(), ..Lookout::new(&machine.host).unwrap() };
    assert_eq!(lookout.devices_under_loops(Object::Block(unknown[0].device)).unwrap_err().what, LOOP_BACKING);
}

#[test]
fn a_loop_device_is_over_the_same_as_another_and_over_the_system() {
    let machine = Machine::new();
    let image = machine.file("rootfs.img");
    fs::write(&image, "").unwrap();
    machine.attach("loop0", "7:0", &image);
    machine.attach("loop1", "7:1", &image);
    assert_eq!(told(&machine, "7:1".parse().unwrap()), ["attached as loop device /dev/loop0"]);
    // What holds the program is refused through a loop device as it is without one. Where temporary files lie on tmpfs, there is none.
    let program = DevNum::new(fs::metadata(machine.file("program")).unwrap().dev());
    if !program.is_anonymous() {
        let name = program.to_string();
        let device = machine.disk("vda", &name);
        let loops = [over(&machine, "loop2", "7:2", &name)];
        let wanted = "the disk that this program runs from";
        assert_eq!(told_with(&machine, &loops, &device.to_string())[0], wanted);
        assert_eq!(told_with(&machine, &loops, "7:2")[0], wanted);
    }
}

#[test]
fn swap_files_are_found_by_what_they_are() {
    let machine = Machine::new();
    let (image, other) = (machine.file("swap file"), machine.file("other"));
    fs::write(&image, "").unwrap();
    fs::write(&other, "").unwrap();
    let line = format!("Filename Type\n{}\tfile\t4\n", image.display().to_string().replace(' ', "\\040"));
    fs::write(machine.host.proc.join("swaps"), line).unwrap();
    let lookout = Lookout::new(&machine.host).unwrap();
    assert_eq!(lookout.uses(Object::at(&image).unwrap()).unwrap().len(), 1);
    assert_eq!(lookout.uses(Object::at(&other).unwrap()).unwrap().len(), 0);
}

#[test]
fn the_root_is_followed_down_to_every_disk() {
    let machine = Machine::new();
    // A live system: the root is an overlay over a file system on a loop device over a file on a partition.
    let stick = machine.disk("sda", "8:0");
    let partition = machine.partition("sda", "sda1", "8:1");
    let innocent = machine.disk("sdb", "8:16");
    let image = machine.file("rootfs.img");
    fs::write(&image, "").unwrap();
    let on = DevNum::new(fs::metadata(&image).unwrap().dev());
    let device = machine.attach("loop0", "7:0", &image);
    let lookout = |text: &str| {
        machine.mounts("self", text);
        Lookout::new(&machine.host).unwrap()
    };
    let anchor = |device: &str, path: &str| Anchor {
        what: "the root file system",
        device: device.parse().unwrap(),
        path: path.into(),
    };
    let below = lookout("").below(&anchor("7:0", "/")).unwrap();
    assert!(below.contains(&Object::Block(device)));
    assert!(below.contains(&Object::at(&image).unwrap()));
    // Where temporary files lie on tmpfs, there is no device below them.
    let on = (!on.is_anonymous()).then_some(Object::Block(on));
    assert!(on.is_none_or(|on| below.contains(&on)), "what holds the backing file is below as well");

    let below = lookout("").below(&anchor("8:1", "/")).unwrap();
    assert!(below.contains(&Object::Block(partition)) && below.contains(&Object::Block(stick)));
    assert!(!below.contains(&Object::Block(innocent)));

    let layer = machine.file("lower");
    fs::create_dir(&layer).unwrap();
    let line = format!("30 1 0:50 / / rw - overlay overlay rw,lowerdir=/absent:{}\n", layer.display());
    let found = lookout(&line).below(&anchor("0:50", "/")).unwrap();
    assert!(on.is_none_or(|on| found.contains(&on)), "the layers of an overlay are below");

    // An overlay that is its own layer ends the walk, too; so does a number that no mount has.
    let circle = "30 1 0:50 / / rw - overlay overlay rw,lowerdir=/\n";
    lookout(circle).below(&anchor("0:50", "/")).unwrap();
    assert!(lookout("").below(&anchor("0:99", "/")).unwrap().is_empty());
}

#[test]
fn stacked_slaves_lead_to_all_disks() {
    let machine = Machine::new();
    let disks = [machine.disk("sda", "8:0"), machine.disk("sdb", "8:16")];
    let partitions = [machine.partition("sda", "sda2", "8:2"), machine.partition("sdb", "sdb2", "8:18")];
    let (array, volume) = (machine.disk("md0", "9:0"), machine.disk("dm-0", "253:0"));
    for partition in partitions {
        machine.stack(partition, array);
    }
    machine.stack(array, volume);
    let anchor = Anchor { what: "the root file system", device: volume, path: "/".into() };
    let below = Lookout::new(&machine.host).unwrap().below(&anchor).unwrap();
    let wanted = disks.into_iter().chain(partitions).chain([array, volume]).map(Object::Block);
    assert_eq!(below, wanted.collect());
}

#[test]
fn blindness_is_an_error() {
    let machine = Machine::new();
    let disk = machine.disk("sdb", "8:16");
    let lookout = Lookout::new(&machine.host).unwrap();
    let unknown = DevNum { major: 8, minor: 99 };
    assert_eq!(lookout.uses(Object::Block(unknown)).unwrap_err().what, "/sys/dev/block");
    machine.mounts("self", "not a mount\n");
    assert_eq!(Lookout::new(&machine.host).err().unwrap().what, "/proc/self/mountinfo");
    machine.mounts("self", "");
    fs::remove_file(machine.host.proc.join("self/exe")).unwrap();
    let error = Lookout::new(&machine.host).unwrap().uses(Object::Block(disk)).unwrap_err();
    assert_eq!(error.what, "/proc/self/exe");
}

#[test]
fn holders_of_locks_are_named() {
    let machine = Machine::new();
    let image = machine.file("disk.img");
    fs::write(&image, "").unwrap();
    let metadata = fs::metadata(&image).unwrap();
    let device = DevNum::new(metadata.dev());
    let file = format!("{:02x}:{:02x}:{}", device.major, device.minor, metadata.ino());
    let text = format!(
        "1: FLOCK  ADVISORY  READ 812 {file} 0 EOF\n2: OFDLCK ADVISORY  READ -1 {file} 100 100\n3: OFDLCK ADVISORY  READ -1 {file} 103 103\n"
    );
    fs::write(machine.host.proc.join("locks"), text).unwrap();
    fs::create_dir(machine.host.proc.join("812")).unwrap();
    fs::write(machine.host.proc.join("812/comm"), "failback\n").unwrap();
    let named = Use::Locked { by: Some("failback (process 812)".into()) };
    let unnamed = Use::Locked { by: None };
    assert_eq!(machine.host.locked(&metadata, false), [unnamed.clone(), named]);
    // On a device the shared lock of the whole is udev's, but that of a range is not.
    assert_eq!(machine.host.locked(&metadata, true), [unnamed]);
}
