//! Which disk becomes the retention drive.

use crate::prepared::{GIB, KEY, MIB, Machine};

const SYSTEM: &str = "naa.6000c2990000000000000000000000aa";
const OTHER: &str = "naa.6000c2990000000000000000000000bb";
const DATA: &str = "naa.6000c2990000000000000000000000cc";
const UUID: &str = "11111111-2222-3333-4444-555555555555";

/// A system disk, an empty disk, and one with data on it.
fn machine() -> Option<Machine> {
    let machine = Machine::new(10)?.disk("sda", 20 * GIB, Some(SYSTEM)).disk("sdb", 2 * GIB, Some(OTHER));
    Some(machine.disk("sdc", 2 * GIB, Some(DATA)).ext4("sdc", UUID, "data"))
}

fn with(retention: &str) -> Machine {
    machine().unwrap().with_key(&format!("failback.system={SYSTEM} failback.retention={retention}"))
}

#[test]
fn an_empty_disk_is_kept_for_the_retention_drive() {
    let Some(_) = machine() else { return };
    let mut machine = with(&format!("format:{OTHER}"));
    let outcome = machine.run("%pre ");
    assert_eq!(outcome.code, 0, "{}", outcome.log);
    machine.is_untouched();
    assert_eq!(outcome.calls, "blockdev --setro /dev/sdc\n", "the disk with data is protected, the empty one is not");
    assert!(!outcome.answers.contains("sdb") && !outcome.answers.contains("sdc"), "{}", outcome.answers);
    let own = machine.read("tmp/failback/own-disks");
    let own: Vec<_> = own.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(own, [format!("system {SYSTEM}"), format!("retention {OTHER}")]);
    assert_eq!(machine.read("tmp/failback/retention"), "format\n");
    assert!(outcome.screen.contains(&format!("the retention disk is sdb ({OTHER})")), "{}", outcome.screen);
}

#[test]
fn a_retention_drive_that_is_there_is_found_by_its_file_system() {
    let Some(_) = machine() else { return };
    for named in [format!("UUID={UUID}"), "LABEL=data".to_owned()] {
        let mut machine = with(&named);
        let outcome = machine.run("%pre ");
        assert_eq!(outcome.code, 0, "{}", outcome.log);
        machine.is_untouched();
        assert_eq!(outcome.calls, "blockdev --setro /dev/sdb\n");
        assert_eq!(machine.read("tmp/failback/retention"), format!("{UUID} ext4\n"));
        assert!(machine.read("tmp/failback/own-disks").ends_with(&format!("\nretention {DATA}\n")));
    }
    let other = "22222222-2222-3333-4444-555555555555";
    let machine = with(&format!("UUID={other}")).partition("sdb", "sdb1").ext4("sdb1", other, "part");
    assert_eq!(machine.chosen().calls, "blockdev --setro /dev/sdc\n");
}

#[test]
fn a_disk_with_data_is_never_formatted() {
    let Some(_) = machine() else { return };
    let refused = "the retention disk sdc is not empty, it has a signature of ext4";
    with(&format!("format:{DATA}")).refused(refused);
    let words = "the retention disk sdb is not empty";
    let empty = || with(&format!("format:{OTHER}"));
    empty().partition("sdb", "sdb1").refused(words);
    empty().bytes("sdb", 512, &[1]).refused(words);
    empty().bytes("sdb", MIB - 1, &[1]).refused(words);
    empty().bytes("sdb", 2 * GIB - MIB, &[1]).refused(words);
    empty().bytes("sdb", 4096 - 10, b"SWAPSPACE2").refused(words);
    empty().bytes("sdb", 512, b"LABELONE\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0LVM2 001").refused(words);
    // There is no word that would allow it, unlike for the system disk.
    with(&format!("erase:{DATA}")).refused("is not understood; write UUID=…, LABEL=… or format:WWID");
}

#[test]
fn a_retention_disk_that_is_not_clear() {
    let Some(_) = machine() else { return };
    with(&format!("format:{SYSTEM}")).refused("name the same disk, sda");
    with("format:naa.6000c2990000000000000000000000dd")
        .refused("no disk has the WWID naa.6000c2990000000000000000000000dd");
    with(&format!("format:{OTHER}")).disk("sdd", 2 * GIB, Some(OTHER)).refused("several disks have the WWID");
    with(OTHER).refused("is not understood; write UUID=…, LABEL=… or format:WWID");
    with("format:").refused("is not understood");
    let machine = with(&format!("format:{OTHER}"));
    machine.write("sys/block/sdb/holders/md0", "");
    machine.refused("names sdb, which is held by md0");
    let machine = Machine::new(10).unwrap().disk("sda", 20 * GIB, Some(SYSTEM)).disk("sdb", GIB - MIB, Some(OTHER));
    let machine = machine.with_key(&format!("failback.system={SYSTEM} failback.retention=format:{OTHER}"));
    machine.refused("has less than 1024 MiB");
    // Naming one disk does not name the other.
    let machine = machine_without_system();
    machine.refused("there are several disks, and none is named as the system disk");
}

fn machine_without_system() -> Machine {
    machine().unwrap().with_key(&format!("failback.retention=format:{OTHER}"))
}

#[test]
fn a_file_system_that_is_not_clear() {
    let Some(_) = machine() else { return };
    with("UUID=00000000-0000-0000-0000-000000000000")
        .refused("no file system has the UUID 00000000-0000-0000-0000-000000000000");
    with("LABEL=data")
        .ext4("sdb", "33333333-2222-3333-4444-555555555555", "data")
        .refused("several file systems have the LABEL data");
    let machine = machine().unwrap().ext4("sda", "44444444-2222-3333-4444-555555555555", "old");
    let machine = machine.with_key(&format!("failback.system=erase:{SYSTEM} failback.retention=LABEL=old"));
    machine.refused("names a file system on the system disk sda");
    let machine = with("LABEL=anonymous").disk("sdd", 2 * GIB, None).ext4(
        "sdd",
        "55555555-2222-3333-4444-555555555555",
        "anonymous",
    );
    machine.refused("the retention disk sdd shows no WWID");
    // Swap space with a label.
    let swap = [&1_u32.to_le_bytes()[..], &15_u32.to_le_bytes(), &[0; 4], &[7; 16], b"cache\0"].concat();
    let machine = with("LABEL=cache").bytes("sdb", 1024, &swap).bytes("sdb", 4096 - 10, b"SWAPSPACE2");
    machine.refused("which has swap; the retention drive is an xfs or an ext4");
}

#[test]
fn keys_from_the_retention_drive() {
    let Some(_) = machine() else { return };
    let named = |retention: &str| {
        machine().unwrap().arguments(&format!("failback.system={SYSTEM} failback.sshkey=disk {retention}"))
    };
    let retention = format!("failback.retention=UUID={UUID}");
    let mut machine = named(&retention);
    let limited = format!("from=\"10.0.0.0/8\" {KEY}");
    machine.write("on-retention/authorized_keys", &format!("# Who may log in.\n\n{limited}\n"));
    let outcome = machine.run("%pre ");
    assert_eq!(outcome.code, 0, "{}", outcome.log);
    assert_eq!(machine.read("tmp/failback/authorized_keys"), format!("{limited}\n"));
    // Its journal is left alone too.
    assert!(outcome.calls.contains("mount -r -o noload /dev/sdc /run/failback-retention\n"), "{}", outcome.calls);
    assert!(outcome.calls.contains("umount /run/failback-retention\n"), "{}", outcome.calls);
    machine.is_untouched();
    for retention in [String::new(), format!("failback.retention=format:{OTHER}")] {
        named(&retention).refused("failback.sshkey=disk wants a retention drive that is there already");
    }
    let mut machine = named(&retention);
    assert_ne!(machine.run("%pre ").code, 0);
    assert!(
        machine
            .read("dev/tty1")
            .contains("there is no file authorized_keys with a key on the retention drive /dev/sdc")
    );
}
