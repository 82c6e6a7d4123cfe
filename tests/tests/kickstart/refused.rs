//! What is refused, each with a sentence that says what to do, and with nothing touched.

use crate::prepared::{GIB, KEY, MIB, Machine};

const A: &str = "naa.6000c2990000000000000000000000aa";
const B: &str = "naa.6000c2990000000000000000000000bb";
const MISSING: &str = "naa.6000c2990000000000000000000000cc";

fn two_disks() -> Option<Machine> {
    Some(Machine::new(10)?.disk("sda", 20 * GIB, Some(A)).disk("sdb", 20 * GIB, Some(B)))
}

#[test]
fn a_system_disk_that_is_not_clear() {
    let Some(machine) = two_disks() else { return };
    machine.with_key("").refused("there are several disks, and none is named as the system disk");
    let machine = two_disks().unwrap().with_key(&format!("failback.system={MISSING}"));
    machine.refused(&format!("no disk has the WWID {MISSING}"));
    let machine = two_disks().unwrap().disk("sdc", 20 * GIB, Some(&A.to_uppercase().replace("NAA", "naa")));
    machine.with_key(&format!("failback.system={A}")).refused("several disks have the WWID");
    Machine::new(10).unwrap().with_key("").refused("there is no disk to install on");
    Machine::new(10).unwrap().disk("sda", 20 * GIB, None).with_key("").refused("shows no WWID");
    // A card reader without a card.
    Machine::new(10).unwrap().disk("sda", 0, Some(A)).with_key("").refused("there is no disk to install on");
}

#[test]
fn a_refusal_shows_the_disks() {
    let Some(machine) = two_disks() else { return };
    let mut machine =
        machine.ext4("sda", "11111111-2222-3333-4444-555555555555", "data").disk("sdc", GIB, None).with_key("");
    let outcome = machine.run("%pre ");
    assert_eq!(outcome.code, 1);
    for line in [
        format!("sda        20480 MiB  {A}  (a signature of ext4)"),
        format!("sdb        20480 MiB  {B}  (empty)"),
        "sdc         1024 MiB  no WWID  (empty)".to_owned(),
    ] {
        assert!(outcome.screen.contains(&line), "{line}\n{}", outcome.screen);
        assert!(outcome.serial.contains(&line), "{}", outcome.serial);
    }
    // It is said again every minute, and the installation does not go on.
    assert_eq!(outcome.calls, "sleep 60\n");
}

#[test]
fn a_system_disk_that_is_not_at_rest() {
    let Some(_) = two_disks() else { return };
    let named = || two_disks().unwrap().with_key(&format!("failback.system=erase:{A}"));
    let machine = named();
    machine.write("proc/mounts", "/dev/sda2 /mnt/data ext4 rw 0 0\n");
    machine.refused("names sda, which is in use (/dev/sda2 /mnt/data)");
    let machine = named();
    machine.write("proc/swaps", "Filename Type Size Used Priority\n/dev/sda partition 8388604 0 -2\n");
    machine.refused("is in use (/dev/sda partition)");
    for holder in ["sda/holders/dm-0", "sda/sda3/holders/md127"] {
        let machine = named();
        machine.write(&format!("sys/block/{holder}"), "");
        machine.refused("names sda, which is held by");
    }
    let machine = named();
    machine.write("sys/block/sda/ro", "1\n");
    machine.refused("names sda, which is read-only");
    // Another disk whose name begins so is another disk.
    let machine = named();
    machine.write("proc/mounts", "/dev/sdab1 /mnt/data ext4 rw 0 0\n");
    machine.chosen();
}

#[test]
fn a_system_disk_that_is_too_small() {
    let Some(machine) = Machine::new(9) else { return };
    machine.disk("sda", 20 * GIB - MIB, Some(A)).with_key("").refused("has less than 20480 MiB");
}

#[test]
fn arguments_that_are_not_understood() {
    let Some(_) = two_disks() else { return };
    let system = format!("failback.system={A}");
    for (arguments, words) in [
        ("failback.sytem=x", "the boot argument failback.sytem is not known"),
        ("failback.run=job", "the boot argument failback.run is not known"),
        ("failback.retention", "the boot argument failback.retention has no value"),
        ("failback.ip=", "the boot argument failback.ip has no value"),
        ("failback.ip=dhcp failback.ip=dhcp", "the boot argument failback.ip stands there twice"),
        ("failback.then=dance", "failback.then=dance is not understood"),
    ] {
        two_disks().unwrap().with_key(&format!("{system} {arguments}")).refused(words);
    }
    let twice = format!("failback.system={A} failback.system={B}");
    two_disks().unwrap().with_key(&twice).refused("failback.system stands there twice");
}

#[test]
fn keys_that_let_nobody_in() {
    let Some(_) = two_disks() else { return };
    let system = format!("failback.system={A}");
    two_disks().unwrap().arguments(&system).refused("no ssh key is named");
    for key in
        ["ssh-ed25519", "\"ssh-ed25519 AAAA\"", "\"-----BEGIN OPENSSH PRIVATE KEY-----\"", "/root/.ssh/id_ed25519.pub"]
    {
        let machine = two_disks().unwrap().arguments(&format!("{system} failback.sshkey={key}"));
        machine.refused("this is no public ssh key");
    }
    // Without quotes the key ends at its first blank.
    two_disks().unwrap().arguments(&format!("{system} failback.sshkey={KEY}")).refused("this is no public ssh key");
}

#[test]
fn an_installer_of_another_release() {
    let Some(machine) = Machine::new(10) else { return };
    machine.write("etc/os-release", "VERSION_ID=\"9\"\n");
    let machine = machine.disk("sda", 20 * GIB, Some(A)).with_key("");
    machine.refused("this kickstart is for CentOS Stream 10, and the installer is that of release 9");
}

#[test]
fn a_disk_that_cannot_be_protected() {
    let Some(mut machine) = two_disks() else { return };
    machine.stub("blockdev", "exit 1");
    machine = machine.with_key(&format!("failback.system={A}"));
    let outcome = machine.run("%pre ");
    assert_eq!(outcome.code, 1);
    assert!(outcome.screen.contains("the disk sdb cannot be set read-only"), "{}", outcome.screen);
    machine.is_untouched();
}

#[test]
fn an_error_that_nobody_foresaw() {
    let Some(machine) = two_disks() else { return };
    machine.stub("mkdir", "exit 1");
    let mut machine = machine.with_key(&format!("failback.system={A}"));
    let outcome = machine.run("%pre ");
    assert_eq!(outcome.code, 1);
    assert!(outcome.screen.contains("failback: an unexpected error in line "), "{}", outcome.screen);
    assert_eq!(outcome.calls, "mkdir -p /tmp/failback\nsleep 60\n");
    machine.is_untouched();
}
