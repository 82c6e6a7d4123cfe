//! What finishes the new system.

use crate::prepared::{GIB, KEY, Machine, Outcome};
use failback_tests::lab::{has_programs, tool};

const SYSTEM: &str = "naa.6000c2990000000000000000000000aa";
const OTHER: &str = "naa.6000c2990000000000000000000000bb";
const UUID: &str = "11111111-2222-3333-4444-555555555555";
const CHANGES: &str = "usr/libexec/failback/apply-custom-changes";

/// A new system as it is when the packages are installed, with what was handed over to it.
fn installed(retention: &str) -> Option<Machine> {
    let machine = Machine::new(10)?.disk("sda", 20 * GIB, Some(SYSTEM)).disk("sdb", 2 * GIB, Some(OTHER));
    let from = "var/tmp/failback-install";
    machine.write(&format!("{from}/own-disks"), &format!("# Own.\nsystem {SYSTEM}\nretention {OTHER}\n"));
    machine.write(&format!("{from}/authorized_keys"), &format!("{KEY}\n"));
    machine.write(&format!("{from}/retention"), &format!("{retention}\n"));
    machine.write("own/sysctl.d/60-failback.conf", "kernel.io_uring_disabled = 1\n");
    machine.write("own/systemd/system/failback-console@.service", "");
    machine.write("own/systemd/system/failback-check.service", "");
    machine.write("own/systemd/system/failback-serve.service", "");
    machine.write("etc/fstab", "UUID=0 / ext4 defaults 1 1\n");
    // It needs the list of own disks.
    let changes = "#!/bin/sh\n[ -s /etc/failback/own-disks ] || exit 1\necho apply-custom-changes >>/calls\n";
    machine.write(CHANGES, changes);
    tool("chmod", &["+x".as_ref(), machine.path(CHANGES).as_os_str()]);
    Some(machine)
}

#[track_caller]
fn finished(machine: &mut Machine) -> Outcome {
    let outcome = machine.run("%post --interpreter");
    assert_eq!(outcome.code, 0, "{}", outcome.log);
    assert!(outcome.screen.contains("the appliance is complete"), "{}", outcome.screen);
    assert!(!machine.path("var/tmp/failback-install").exists());
    outcome
}

#[track_caller]
fn fails(machine: &mut Machine, words: &str) {
    let outcome = machine.run("%post --interpreter");
    assert_eq!(outcome.code, 1, "{}", outcome.log);
    assert!(outcome.screen.contains(words) && outcome.serial.contains(words), "{}", outcome.screen);
    assert!(outcome.screen.contains("the new system is not complete"), "{}", outcome.screen);
}

#[test]
fn what_was_chosen_is_handed_over() {
    let Some(mut machine) = Machine::new(9) else { return };
    for file in ["own-disks", "authorized_keys", "retention", "answers.ks"] {
        machine.write(&format!("tmp/failback/{file}"), file);
    }
    machine.write("mnt/sysroot/etc/hostname", "failback\n");
    assert_eq!(machine.run("%post --nochroot ").code, 0);
    for file in ["own-disks", "authorized_keys", "retention"] {
        assert_eq!(machine.read(&format!("mnt/sysroot/var/tmp/failback-install/{file}")), file);
    }
    assert_eq!(machine.read("mnt/sysroot/var/log/failback-install/answers.ks"), "answers.ks");
}

#[test]
fn a_system_without_a_retention_drive_is_finished() {
    let Some(mut machine) = installed("") else { return };
    let outcome = finished(&mut machine);
    machine.is_untouched();
    assert_eq!(machine.read("root/.ssh/authorized_keys"), format!("{KEY}\n"));
    assert!(machine.read("etc/ssh/sshd_config.d/40-failback.conf").contains("PasswordAuthentication no\n"));
    assert!(machine.read("etc/failback/own-disks").contains(&format!("\nsystem {SYSTEM}\n")));
    assert_eq!(machine.read("etc/fstab"), "UUID=0 / ext4 defaults 1 1\n");
    let calls: Vec<_> = outcome.calls.lines().collect();
    assert!(calls.contains(&"systemctl enable failback-check.service failback-serve.service"), "{calls:?}");
    assert!(calls.contains(&"apply-custom-changes"), "{calls:?}");
    assert!(calls.iter().all(|call| !call.starts_with("mount ") && !call.starts_with("mkfs")), "{calls:?}");
}

#[test]
fn the_retention_drive_is_made_on_the_empty_disk_of_that_wwid() {
    if !has_programs(&["mkfs.xfs"]) {
        return;
    }
    let Some(mut machine) = installed("format") else { return };
    let outcome = finished(&mut machine);
    let disk = machine.path("dev/sdb");
    let probe = |what| tool("blkid", &["-p", "-o", "value", "-s", what, disk.to_str().unwrap()]);
    assert_eq!((probe("TYPE").as_str(), probe("LABEL").as_str()), ("xfs", "FAILBACK_RET"));
    let (place, options) =
        ("/var/lib/failback/retention", "nofail,nodev,nosuid,noexec,x-systemd.device-timeout=30s 0 2");
    assert!(machine.read("etc/fstab").ends_with(&format!("\nUUID={} {place} xfs {options}\n", probe("UUID"))));
    assert!(machine.read("etc/failback/failback.toml").ends_with(&format!("[retention]\ndirectory = \"{place}\"\n")));
    let calls: Vec<_> = outcome.calls.lines().collect();
    let at = |call: &str| {
        calls.iter().position(|other| other.starts_with(call)).unwrap_or_else(|| panic!("no {call} in {calls:?}"))
    };
    // Nothing can be written in its place when it is missing, nor labelled then.
    assert!(at("chattr +i /var/lib/failback/retention") < at("mount -t xfs /dev/sdb "));
    assert!(
        at("setfiles -F ") < at("chattr ") && at("mount -t xfs /dev/sdb ") < at("umount /var/lib/failback/retention")
    );
    assert!(at("umount ") < at("apply-custom-changes"));
}

#[test]
fn a_retention_drive_that_cannot_be_made_is_an_error() {
    let Some(_) = installed("format") else { return };
    for (program, words) in
        [("mkfs.xfs", "no file system could be made"), ("mount", "the retention disk sdb cannot be mounted")]
    {
        let mut machine = installed("format").unwrap();
        machine.stub(program, "exit 1");
        if program == "mount" && !has_programs(&["mkfs.xfs"]) {
            continue;
        }
        fails(&mut machine, words);
        assert!(!machine.read("etc/fstab").contains("retention"));
    }
}

#[test]
fn a_retention_drive_that_was_there_is_not_made_anew() {
    let Some(machine) = installed(&format!("{UUID} ext4")) else { return };
    let mut machine = machine.ext4("sdb", UUID, "kept");
    let outcome = finished(&mut machine);
    machine.is_untouched();
    // Not even its journal is replayed.
    assert!(!outcome.calls.contains("mount"), "{}", outcome.calls);
    assert!(machine.read("etc/fstab").contains(&format!("\nUUID={UUID} /var/lib/failback/retention ext4 nofail,")));
}

#[test]
fn a_disk_that_has_changed_meanwhile_is_not_formatted() {
    let Some(machine) = installed("format") else { return };
    let mut machine = machine.ext4("sdb", UUID, "data");
    fails(&mut machine, "the retention disk sdb is not empty any more, it has a signature of ext4");
    machine.is_untouched();
    let mut machine = installed("format").unwrap().disk("sdc", 2 * GIB, Some(OTHER));
    fails(&mut machine, &format!("the retention disk {OTHER} is not there any more, or there are two of it"));
    machine.is_untouched();
    let mut machine = installed("format").unwrap();
    machine.write("proc/mounts", "/dev/sdb /mnt ext4 rw 0 0\n");
    fails(&mut machine, "the retention disk sdb is in use");
    machine.is_untouched();
}

#[test]
fn a_system_that_is_not_complete_is_an_error() {
    let Some(mut machine) = installed("") else { return };
    std::fs::remove_file(machine.path(CHANGES)).unwrap();
    fails(&mut machine, "the package failback-appliance is not installed");
    let mut machine = installed("").unwrap();
    std::fs::remove_file(machine.path("own/sysctl.d/60-failback.conf")).unwrap();
    fails(&mut machine, "the package failback is not installed");
    let mut machine = installed("").unwrap();
    std::fs::remove_file(machine.path("own/systemd/system/failback-check.service")).unwrap();
    fails(&mut machine, "the package failback-appliance has no unit failback-check.service");
    let mut machine = installed("").unwrap();
    std::fs::remove_file(machine.path("own/systemd/system/failback-serve.service")).unwrap();
    fails(&mut machine, "the package failback-appliance has no unit failback-serve.service");
    let mut machine = installed("").unwrap();
    machine.write(CHANGES, "#!/bin/sh\nexit 1\n");
    fails(&mut machine, "apply-custom-changes failed");
    let mut machine = installed("").unwrap();
    machine.stub("setfiles", "exit 1");
    fails(&mut machine, "an unexpected error in line ");
}
