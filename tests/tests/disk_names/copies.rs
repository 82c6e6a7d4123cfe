//! Two disks that show one name of the appliance's own: udev's helper takes neither for it, but for the one that is in use.

use crate::OWN_DISKS;
use crate::machine::{Machine, SHELLS, SHELLS_OF_UDEV};
use std::os::unix::fs::symlink;

const NAME: &[u8] = b"naa.6000c2999176dd776e0123456789abcd\n";
const PAGE: &[u8] = b"\0\x80\0\x206000c2999176dd776e0123456789abcd";

/// A machine whose system disk, sda, has a partition and is not in use; with the numbers of both.
fn machine() -> Option<(Machine, String, String)> {
    let mut machine = Machine::new()?;
    let disk = machine.disk("sda", &[("device/wwid", NAME)]);
    let partition = machine.partition("sda", "sda1");
    machine.write(OWN_DISKS, b"system naa.6000c2999176dd776e0123456789abcd\n");
    Some((machine, disk, partition))
}

/// Whose the disks and partitions are, in every shell.
#[track_caller]
fn check(machine: &Machine, wanted: &[(&str, &str)]) {
    for shell in SHELLS {
        for (place, owner) in wanted {
            let (told, said) = machine.owner(shell, &format!("/sys/devices/{place}"));
            assert_eq!(told, *owner, "{shell:?} {place}: {said}");
            assert_eq!(said.contains("the name of a disk of this machine's own"), told == "foreign", "{said}");
        }
    }
}

fn mounted(machine: &Machine, line: &str) {
    machine.write("proc/self/mountinfo", format!("1 0 0:1 / / rw - rootfs rootfs rw\n{line}\n").as_bytes());
}

#[test]
fn of_two_that_are_not_in_use_neither_is_own() {
    let Some((mut machine, ..)) = machine() else { return };
    check(&machine, &[("sda", "system"), ("sda/sda1", "system")]);
    machine.disk("sdb", &[("device/wwid", NAME)]);
    check(&machine, &[("sda", "foreign"), ("sda/sda1", "foreign"), ("sdb", "foreign")]);
    let (_, said) = machine.owner(SHELLS[0], "/sys/block/sda");
    assert!(said.starts_with("failback: sda and sdb both show naa.6000c2999176dd776e0123456789abcd, "), "{said}");
    assert!(said.ends_with("detach the copy, and restart\n"), "{said}");
}

#[test]
fn the_one_that_is_mounted_stays_own() {
    let Some((mut machine, _, partition)) = machine() else { return };
    machine.disk("sdb", &[("device/wwid", NAME)]);
    machine.partition("sdb", "sdb1");
    mounted(&machine, &format!("20 1 {partition} / /sysroot rw - ext4 /dev/disk/by-uuid/1 rw"));
    check(&machine, &[("sda", "system"), ("sda/sda1", "system"), ("sdb", "foreign"), ("sdb/sdb1", "foreign")]);
}

/// The first that appears may be the copy: it was own when it was judged, since nothing else was there.
#[test]
fn one_that_comes_later_has_the_first_judged_again() {
    for is_mounted in [false, true] {
        let Some((mut machine, _, partition)) = machine() else { return };
        machine.write("dev/sda", b"");
        check(&machine, &[("sda", "system"), ("sda/sda1", "system")]);
        machine.disk("sdb", &[("device/wwid", NAME)]);
        machine.disk("sdc", &[("device/wwid", b"naa.1\n")]);
        machine.write("sys/devices/dm-0/dev", b"254:0\n");
        symlink("/sys/devices/dm-0", machine.path("sys/devices/sda/sda1/holders/dm-0")).unwrap();
        if is_mounted {
            mounted(&machine, &format!("20 1 {partition} / /sysroot rw - ext4 /dev/disk/by-uuid/1 rw"));
        }
        let first = if is_mounted { "system" } else { "foreign" };
        for shell in SHELLS_OF_UDEV {
            let (called, asked) = machine.guard(shell, "sdb", &["sda", "sda/sda1", "sdb", "sdc"]);
            if is_mounted {
                assert_eq!((&*called, &*asked), (&["--setro /dev/sdb".to_owned()][..], &[][..]), "{shell:?}");
            } else {
                assert_eq!(called, ["--setro /dev/sdb", "--setro /dev/dm-0", "--setro /dev/sda"], "{shell:?}");
                assert_eq!(asked, ["sda", "sda/sda1"], "{shell:?}");
            }
        }
        check(&machine, &[("sda", first), ("sda/sda1", first), ("sdb", "foreign")]);
    }
}

#[test]
fn no_other_disk_is_judged_again() {
    let Some((mut machine, ..)) = machine() else { return };
    machine.disk("sdb", &[("device/wwid", b"naa.1\n")]);
    machine.disk("sdc", &[("device/wwid", b"naa.1\n")]);
    for name in ["sda", "sdb"] {
        machine.write(&format!("dev/{name}"), b"");
    }
    for shell in SHELLS_OF_UDEV {
        let (called, asked) = machine.guard(shell, "sdc", &["sda", "sdb"]);
        assert_eq!((&*called, &*asked), (&["--setro /dev/sdc".to_owned()][..], &[][..]), "nobody's: {shell:?}");
    }
    // One that the agent has claimed, whatever it is called.
    machine.disk("sdd", &[("device/wwid", NAME)]);
    let claimed = std::fs::File::open(machine.path("dev/sda")).unwrap();
    let claim = nix::fcntl::Flock::lock(claimed, nix::fcntl::FlockArg::LockExclusiveNonblock).unwrap();
    for shell in SHELLS_OF_UDEV {
        let (called, asked) = machine.guard(shell, "sdd", &["sda"]);
        assert_eq!((&*called, &*asked), (&["--setro /dev/sdd".to_owned()][..], &[][..]), "{shell:?}");
    }
    drop(claim);
    assert_eq!(machine.guard(SHELLS[0], "sdd", &["sda"]).1, ["sda"]);
}

#[test]
fn all_ways_of_being_in_use_count() {
    let Some((mut machine, disk, _)) = machine() else { return };
    machine.disk("sdb", &[("device/wwid", NAME)]);
    let alike = [("sda", "foreign"), ("sdb", "foreign")];
    let first = [("sda", "system"), ("sdb", "foreign")];
    mounted(&machine, &format!("20 1 {disk} / /retention rw - xfs /dev/sda rw"));
    check(&machine, &first);
    // A volume on an encrypted partition.
    let volume = machine.disk("dm-1", &[]);
    machine.disk("dm-0", &[]);
    for (holder, below) in [("dm-0", "sda/sda1"), ("dm-1", "dm-0")] {
        let at = machine.path(&format!("sys/devices/{below}/holders/{holder}"));
        symlink(format!("/sys/devices/{holder}"), at).unwrap();
    }
    mounted(&machine, &format!("20 1 {volume}0 / / rw - ext4 /dev/mapper/cs-root rw"));
    check(&machine, &alike);
    mounted(&machine, &format!("20 1 {volume} / / rw - ext4 /dev/mapper/cs-root rw"));
    check(&machine, &first);
    mounted(&machine, "20 1 0:35 / / rw - btrfs /dev/somewhere rw");
    check(&machine, &alike);
    machine.write("sys/fs/btrfs/6a0b/devices/sda1/size", b"");
    check(&machine, &first);
    std::fs::remove_dir_all(machine.path("sys/fs/btrfs")).unwrap();
    let swaps = |name: &str| format!("Filename Type Size Used Priority\n{name} partition 1 0 -2\n");
    machine.write("proc/swaps", swaps("/dev/sda10").as_bytes());
    check(&machine, &alike);
    machine.write("proc/swaps", swaps("/dev/sda1").as_bytes());
    check(&machine, &first);
}

#[test]
fn a_copy_may_have_the_name_in_another_form() {
    let Some((mut machine, ..)) = machine() else { return };
    machine.disk("sdb", &[("device/wwid", b"t10.VMware\n"), ("device/vpd_pg80", PAGE)]);
    check(&machine, &[("sda", "foreign"), ("sdb", "foreign")]);
}

#[test]
fn what_is_no_other_disk_is_no_copy() {
    let Some(mut machine) = Machine::new() else { return };
    machine.write(OWN_DISKS, b"system eui.1\nretention virtio-R\n");
    machine.disk("nvme0n1", &[("wwid", b"eui.1\n")]);
    machine.disk("nvme0c0n1", &[("wwid", b"eui.1\n"), ("hidden", b"1\n")]);
    machine.disk("loop0", &[("wwid", b"eui.1\n")]);
    machine.disk("vda", &[("serial", b"R")]);
    machine.disk("sda", &[("device/wwid", b"t10.R\n")]);
    machine.disk("sdb", &[]);
    machine.disk("vdb", &[]);
    check(&machine, &[("nvme0n1", "system"), ("vda", "retention")]);
}

#[test]
fn without_the_script_of_names_every_disk_is_foreign() {
    let Some((machine, ..)) = machine() else { return };
    std::fs::remove_file(machine.path("usr/libexec/failback/wwid.sh")).unwrap();
    for shell in SHELLS {
        let call =
            format!("{} /usr/libexec/failback/foreign-disk identify /sys/block/sda || echo failed", shell.join(" "));
        assert_eq!(machine.run(&["sh"], &["-c", &call]).0, "failed\n");
    }
    // They are guarded all the same.
    for shell in SHELLS_OF_UDEV {
        let call = format!("{} /usr/libexec/failback/foreign-disk guard /dev/sda; cat /files/called", shell.join(" "));
        machine.write("files/called", b"");
        assert_eq!(machine.run(&["sh"], &["-c", &call]).0, "--setro /dev/sda\n");
    }
}
