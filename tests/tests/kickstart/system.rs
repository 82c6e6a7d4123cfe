//! Which disk is chosen to install on.

use crate::prepared::{GIB, KEY, Machine, Outcome};

const A: &str = "naa.6000c2990000000000000000000000aa";
const B: &str = "naa.6000c2990000000000000000000000bb";
const NVME: &str = "eui.0025385971b0a1b2";
const VENDOR: &str = "t10.ATA     QEMU HARDDISK                           QM00001";
const UUID: &str = "11111111-2222-3333-4444-555555555555";

/// The commands that name a disk all name this one.
#[track_caller]
fn is_on(outcome: &Outcome, disk: &str) {
    let answers = &outcome.answers;
    assert!(answers.contains(&format!("ignoredisk --only-use={disk}\n")), "{answers}");
    assert!(answers.contains(&format!("clearpart --all --initlabel --disklabel=gpt --drives={disk}\n")), "{answers}");
    assert!(answers.contains(&format!("--boot-drive={disk} ")), "{answers}");
    for line in answers.lines().filter(|line| line.starts_with("part ")) {
        assert!(line.ends_with(&format!(" --ondisk={disk}")), "{line}");
    }
    for (place, kind) in [("/", "ext4"), ("/boot", "ext4"), ("/var/crash", "ext4"), ("/home", "ext4"), ("swap", "swap")]
    {
        assert!(answers.contains(&format!("\npart {place} --fstype={kind} ")), "{place}\n{answers}");
    }
    assert!(outcome.screen.contains(&format!("the system disk is {disk} (")), "{}", outcome.screen);
}

#[test]
fn the_disk_that_is_named_is_chosen_and_all_others_are_made_read_only() {
    for release in [9, 10] {
        let Some(machine) = Machine::new(release) else { return };
        let machine = machine.disk("sda", 30 * GIB, Some(A)).ext4("sda", UUID, "data");
        let machine = machine.disk("sdb", 20 * GIB, Some(B)).disk("nvme0n1", GIB, Some(NVME));
        let machine = machine.disk("sr0", GIB, None).disk("loop0", GIB, None).disk("dm-0", GIB, None);
        let outcome = machine.with_key(&format!("failback.system={B}")).chosen();
        is_on(&outcome, "sdb");
        assert_eq!(outcome.calls, "blockdev --setro /dev/nvme0n1\nblockdev --setro /dev/sda\n");
        assert!(outcome.screen.contains("there is no retention disk"), "{}", outcome.screen);
    }
}

#[test]
fn the_only_disk_needs_no_name() {
    let Some(machine) = Machine::new(10) else { return };
    is_on(&machine.disk("nvme0n1", 20 * GIB, Some(NVME)).with_key("").chosen(), "nvme0n1");
    let machine = Machine::new(10).unwrap().disk("vda", 20 * GIB, Some("virtio-system"));
    is_on(&machine.with_key("failback.system=virtio-system").chosen(), "vda");
}

#[test]
fn a_wwid_is_understood_in_the_forms_that_administrators_meet() {
    let Some(_) = Machine::new(10) else { return };
    let machine = || Machine::new(10).unwrap().disk("sda", 20 * GIB, Some(A)).disk("sdb", 20 * GIB, Some(VENDOR));
    for form in [A, "6000C2990000000000000000000000AA", "wwn-0x6000c2990000000000000000000000aa"] {
        is_on(&machine().with_key(&format!("failback.system={form}")).chosen(), "sda");
    }
    let outcome = machine().with_key("failback.system=t10.ATA_QEMU_HARDDISK_QM00001").chosen();
    is_on(&outcome, "sdb");
    // In quotes, where GRUB puts them and where it does not.
    is_on(&machine().with_key("\"failback.system=t10.ATA QEMU HARDDISK QM00001\"").chosen(), "sdb");
    let mut machine = machine().with_key("failback.system=\"t10.ATA QEMU HARDDISK QM00001\"");
    assert_eq!(machine.run("%pre ").code, 0);
    // With single blanks, by which all compare who read it.
    assert!(machine.read("tmp/failback/own-disks").ends_with("\nsystem t10.ATA QEMU HARDDISK QM00001\n"));
}

#[test]
fn a_disk_with_content_is_taken_only_where_that_is_allowed() {
    let Some(_) = Machine::new(10) else { return };
    let with_disk = || Machine::new(10).unwrap().disk("sda", 20 * GIB, Some(A));
    for named in ["", "failback.system=6000c2990000000000000000000000aa"] {
        let refused = "the system disk sda is not empty";
        with_disk()
            .ext4("sda", UUID, "data")
            .with_key(named)
            .refused(&format!("{refused}, it has a signature of ext4"));
        with_disk().partition("sda", "sda1").with_key(named).refused("it has a partition table");
        // A table that the kernel has not read.
        let table = [&[0, 0, 2, 0, 0x83, 0, 0, 8, 0, 0, 8, 0, 0, 0, 8, 0], &[0; 48][..], &[0x55, 0xaa]].concat();
        with_disk().bytes("sda", 446, &table).with_key(named).refused("it has a partition table (dos)");
        with_disk().bytes("sda", 4096, b"LABELONE").bytes("sda", 70_000, &[1]).with_key(named).refused("it has data");
        with_disk().bytes("sda", 20 * GIB - 1, &[1]).with_key(named).refused("it has data at its begin or its end");
        // The member of an array, whose signature is at its end.
        let member = [&0xa92b_4efc_u32.to_le_bytes()[..], &[0, 0, 0, 0]].concat();
        with_disk().bytes("sda", 20 * GIB - 64 * 1024, &member).with_key(named).refused("it has ");
    }
    let machine = with_disk().ext4("sda", UUID, "data").disk("sdb", 20 * GIB, Some(B));
    is_on(&machine.with_key(&format!("failback.system=erase:{A}")).chosen(), "sda");
}

#[test]
fn what_the_installation_runs_from_is_no_disk() {
    let Some(machine) = Machine::new(10) else { return };
    // A stick with the ISO on it, as the kernel and blkid see it.
    let descriptor = [&[1][..], b"CD001", &[1]].concat();
    let machine = machine.disk("sda", 2 * GIB, Some(A)).bytes("sda", 32768, &descriptor).partition("sda", "sda1");
    let machine = machine.disk("sdb", 20 * GIB, Some(B));
    // One that only looks like it is as foreign as any.
    let outcome = machine.with_key("").chosen();
    is_on(&outcome, "sdb");
    assert_eq!(outcome.calls, "blockdev --setro /dev/sda\n");
    let machine = Machine::new(10).unwrap();
    let machine = machine.disk("sda", 2 * GIB, Some(A)).bytes("sda", 32768, &descriptor).partition("sda", "sda1");
    let machine = machine.disk("sdb", 20 * GIB, Some(B));
    machine.write("proc/mounts", "/dev/sda1 /run/install/repo iso9660 ro 0 0\n");
    let outcome = machine.with_key("").chosen();
    is_on(&outcome, "sdb");
    assert_eq!(outcome.calls, "", "the installer's own medium is left alone");
    let machine = Machine::new(10).unwrap().disk("sda", 30 * GIB, Some(A)).disk("sdb", 20 * GIB, Some(B));
    machine.write("proc/mounts", "/dev/sda1 /run/install/repo iso9660 ro 0 0\n");
    machine.with_key(&format!("failback.system={A}")).refused("names sda, which this installation runs from");
}

#[test]
fn the_way_it_ends_and_where_packages_come_from() {
    let Some(machine) = Machine::new(9) else { return };
    let outcome = machine.disk("sda", 20 * GIB, Some(A)).with_key("failback.then=poweroff").chosen();
    assert!(outcome.answers.ends_with("\npoweroff\n"), "{}", outcome.answers);
    assert!(outcome.answers.contains("url --url=file:///run/install/repo/BaseOS\n"), "{}", outcome.answers);
    assert!(
        outcome.answers.contains("repo --name=failback --baseurl=file:///run/install/repo/failback\n"),
        "{}",
        outcome.answers
    );
    // A medium without packages, and a seed beside it.
    let machine = Machine::new(9).unwrap().disk("sda", 20 * GIB, Some(A));
    std::fs::remove_dir_all(machine.path("run/install/repo")).unwrap();
    let outcome = machine.with_key("").chosen();
    assert!(outcome.answers.ends_with("\nreboot --eject\n"), "{}", outcome.answers);
    assert!(outcome.answers.contains("repo=centos-baseos-9-stream\n"), "{}", outcome.answers);
    assert!(
        outcome.answers.contains("repo --name=failback --baseurl=file:///run/failback-seed/failback\n"),
        "{}",
        outcome.answers
    );
    assert!(
        outcome.calls.contains("mount -r -t iso9660 /dev/disk/by-label/OEMDRV /run/failback-seed"),
        "{}",
        outcome.calls
    );
}

#[test]
fn keys_are_handed_over() {
    let Some(machine) = Machine::new(10) else { return };
    let second = KEY.replace("admin@site", "other person");
    let mut machine = machine.disk("sda", 20 * GIB, Some(A)).with_key(&format!("\"failback.sshkey={second}\""));
    assert_eq!(machine.run("%pre ").code, 0);
    assert_eq!(machine.read("tmp/failback/authorized_keys"), format!("{second}\n{KEY}\n"));
}
