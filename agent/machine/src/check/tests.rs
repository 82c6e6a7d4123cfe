use super::*;
use crate::{Findings, Level};
use failback_hostdev::inventory_of;
use std::collections::BTreeSet;
use std::os::unix::fs::{PermissionsExt, symlink};

/// A machine made of files.
struct Machine {
    directory: tempfile::TempDir,
    retention: Result<Option<PathBuf>, String>,
    io_uring: Option<String>,
}

fn check(host: &Host, retention: &Result<Option<PathBuf>, String>, io_uring: Option<&str>) -> Vec<Finding> {
    let mut found = Findings::default();
    let mut told = BTreeSet::new();
    let mut tell = |name: &str, findings: Vec<Finding>| {
        assert!(told.insert(name.to_owned()), "{name} is told twice");
        assert!(findings.iter().all(|it| it.check == name), "{findings:?}");
        found.answer(name, findings);
    };
    check_system(host, io_uring, &mut tell);
    check_disks(host, &inventory_of(host, &|_| {}), retention, &mut tell);
    assert!(found.is_complete(), "{found:?}");
    found.iter().cloned().collect()
}

impl Machine {
    fn new() -> Self {
        let machine = Self { directory: tempfile::tempdir().unwrap(), retention: Ok(None), io_uring: None };
        for directory in ["sys/dev/block", "sys/block", "proc/self", "dev", "etc/failback", "run/failback"] {
            fs::create_dir_all(machine.at(directory)).unwrap();
        }
        machine.write("proc/self/mountinfo", "1 0 0:1 / / rw - rootfs rootfs rw\n");
        machine.write("proc/sys/kernel/osrelease", "6.12.0-55.el10.x86_64\n");
        machine.write("program", "");
        symlink(machine.at("program"), machine.at("proc/self/exe")).unwrap();
        machine
    }

    fn at(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn mounts(&self, more: &str) {
        self.write("proc/self/mountinfo", &format!("1 0 0:1 / / rw - rootfs rootfs rw\n{more}"));
    }

    /// A SCSI disk on a host with this driver.
    fn disk(&self, name: &str, minor: u32, driver: &str, wwid: Option<&str>) {
        let (number, address) = (format!("8:{minor}"), format!("{minor}:0:0:0"));
        let place = self.at(&format!("sys/devices/{name}"));
        let unit = self.at(&format!("sys/units/{name}/{address}"));
        for directory in [place.join("holders"), place.join("slaves"), unit.clone()] {
            fs::create_dir_all(directory).unwrap();
        }
        symlink(&unit, place.join("device")).unwrap();
        symlink(&place, self.at(&format!("sys/dev/block/{number}"))).unwrap();
        symlink(&place, self.at(&format!("sys/block/{name}"))).unwrap();
        fs::write(place.join("dev"), format!("{number}\n")).unwrap();
        fs::write(place.join("size"), "2048\n").unwrap();
        fs::write(place.join("ro"), "1\n").unwrap();
        if let Some(wwid) = wwid {
            fs::write(unit.join("wwid"), format!("{wwid}\n")).unwrap();
        }
        self.write(&format!("sys/class/scsi_host/host{minor}/proc_name"), &format!("{driver}\n"));
    }

    fn found(&self) -> Vec<Finding> {
        check(&Host::below(self.directory.path()), &self.retention, self.io_uring.as_deref())
    }

    /// The findings of one check.
    fn of(&self, name: &str) -> Vec<Finding> {
        self.found().into_iter().filter(|finding| finding.check == name).collect()
    }

    /// The one finding of a check.
    #[track_caller]
    fn one(&self, name: &str, level: Level) -> (String, String) {
        let found = self.of(name);
        assert_eq!(found.iter().map(|it| it.level).collect::<Vec<_>>(), [level], "{found:?}");
        let Finding { message, fix, .. } = found.into_iter().next().unwrap();
        (message, fix.unwrap_or_default())
    }
}

#[test]
fn every_check_says_something_and_every_trouble_has_a_fix() {
    let machine = Machine::new();
    let found = machine.found();
    let names: Vec<_> = found.iter().map(|finding| finding.check.to_string()).collect();
    let wanted = "disk-uuid controllers retention io_uring clock ports custom-changes kernel free-space foreign-disks";
    assert_eq!(names, wanted.split(' ').collect::<Vec<_>>());
    for finding in found {
        assert_eq!(finding.fix.is_some(), finding.level != Level::Ok, "{finding:?}");
    }
}

#[test]
fn disks_without_a_name_of_their_own() {
    let machine = Machine::new();
    machine.disk("sda", 0, "vmw_pvscsi", None);
    let (message, fix) = machine.one("disk-uuid", Level::Fail);
    assert!(message.contains("/dev/sda shows neither") && fix.contains("serial number"), "{message} {fix}");
    machine.write("sys/class/dmi/id/sys_vendor", "VMware, Inc.\n");
    let (message, fix) = machine.one("disk-uuid", Level::Fail);
    assert!(message.ends_with("shows no SCSI UUID") && fix.contains("disk.EnableUUID = TRUE"), "{message} {fix}");
    machine.write("sys/class/dmi/id/sys_vendor", "QEMU\n");
    machine.disk("sdb", 1, "virtio_scsi", Some("naa.5000c500a1b2c3d4"));
    assert_eq!(machine.of("disk-uuid").len(), 1, "another hypervisor's names will do");
}

#[test]
fn controllers_of_vmware() {
    let machine = Machine::new();
    machine.disk("sda", 0, "mptspi", Some("naa.1"));
    let (message, fix) = machine.one("controllers", Level::Warn);
    assert!(message.contains("mptspi carries sda") && fix.contains("VMware Paravirtual"), "{message} {fix}");
    machine.write("sys/class/dmi/id/sys_vendor", "VMware, Inc.\n");
    assert_eq!(machine.of("controllers").len(), 2, "and there is no PVSCSI controller");
    let good = Machine::new();
    good.disk("sda", 0, "vmw_pvscsi", Some("naa.1"));
    good.write("sys/class/dmi/id/sys_vendor", "VMware, Inc.\n");
    assert_eq!(good.one("controllers", Level::Ok).0, "SCSI controllers: vmw_pvscsi");
}

#[test]
fn a_retention_drive_in_every_state() {
    let mut machine = Machine::new();
    machine.one("retention", Level::Warn);
    machine.retention = Err("line 3 is wrong".into());
    assert_eq!(machine.one("retention", Level::Fail).0, "line 3 is wrong");
    machine.retention = Ok(Some("/mnt/retention".into()));
    assert!(machine.one("retention", Level::Fail).0.ends_with("is not there"));
    fs::create_dir_all(machine.at("mnt/retention")).unwrap();
    assert!(machine.one("retention", Level::Fail).0.contains("on the system's own file system"));
    machine.mounts("2 1 0:9 / /mnt rw - tmpfs none rw\n");
    assert!(machine.one("retention", Level::Fail).0.contains("in memory"));
    machine.mounts("2 1 8:16 / /mnt rw - xfs /dev/sdb ro\n");
    assert!(machine.one("retention", Level::Fail).1.contains("remount,rw /mnt"));
    machine.mounts("2 1 8:16 / /mnt rw - xfs /dev/sdb rw\n");
    let before: Vec<_> = machine.of("retention").iter().map(|it| it.level).collect();
    assert!(!before.contains(&Level::Fail), "whatever room the machine of this test has: {before:?}");
    // A link to it is as good as its own name.
    symlink("mnt/retention", machine.at("link")).unwrap();
    machine.retention = Ok(Some("/link".into()));
    let found = machine.of("retention");
    assert!(found.iter().all(|it| it.level != Level::Fail), "{found:?}");
    // On a machine that guards disks its disk has to be among the own ones.
    machine.disk("sdb", 16, "vmw_pvscsi", Some("naa.2"));
    machine.write("run/failback/guard", "");
    let found = machine.of("retention");
    let fix = found.iter().filter_map(|it| it.fix.as_deref()).find(|fix| fix.contains("own-disks")).unwrap();
    assert!(fix.contains("`retention naa.2`"), "{fix}");
    assert_eq!(machine.one("foreign-disks", Level::Ok).0, "no foreign disk is attached");
    machine.write("etc/failback/own-disks", "retention naa.2\n");
    assert!(machine.of("retention").iter().all(|it| !it.fix.as_deref().unwrap_or_default().contains("own-disks")));
}

#[test]
fn a_retention_drive_on_the_disk_of_the_system() {
    let mut machine = Machine::new();
    machine.retention = Ok(Some("/mnt".into()));
    fs::create_dir_all(machine.at("mnt")).unwrap();
    machine.disk("sda", 0, "vmw_pvscsi", Some("naa.1"));
    machine.mounts("2 1 8:0 / /mnt rw - xfs /dev/sda rw\n");
    let on_system = |machine: &Machine| {
        let found = machine.of("retention").into_iter().filter(|it| it.message.contains("the disk of the system"));
        found.map(|it| (it.level, it.fix.unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(on_system(&machine), []);
    machine.write("etc/failback/own-disks", "system naa.1\n");
    let found = on_system(&machine);
    assert!(matches!(&*found, [(Level::Warn, fix)] if fix.starts_with("attach a disk")), "{found:?}");
}

#[test]
fn the_line_that_records_a_retention_drive() {
    const UUID: &str = "6000c2999176dd776e0123456789abcd";
    let mut machine = Machine::new();
    machine.retention = Ok(Some("/mnt".into()));
    fs::create_dir_all(machine.at("mnt")).unwrap();
    machine.disk("sda", 0, "vmw_pvscsi", None);
    machine.mounts("2 1 8:0 / /mnt rw - xfs /dev/sda rw\n");
    machine.write("run/failback/guard", "");
    let fix = |machine: &Machine| {
        let found = machine.of("retention").into_iter().filter_map(|it| it.fix);
        found.filter(|fix| fix.contains("/etc/failback/own-disks")).collect::<Vec<_>>()
    };
    let found = fix(&machine);
    assert!(matches!(&*found, [fix] if fix.contains("disk.EnableUUID = TRUE") && !fix.contains('`')), "{found:?}");
    // A SCSI UUID is told as the kernel would tell it, and as what guards the machine understands it.
    let bytes: Vec<_> = (0..16).map(|at| u8::from_str_radix(&UUID[2 * at..2 * at + 2], 16).unwrap()).collect();
    let page = [&[0, 0x83, 0, 20, 1, 3, 0, 16], bytes.as_slice()].concat();
    fs::write(machine.at("sys/units/sda/0:0:0:0/vpd_pg83"), page).unwrap();
    assert_eq!(fix(&machine), [format!("add the line `retention naa.{UUID}` to /etc/failback/own-disks")]);
    machine.write("etc/failback/own-disks", &format!("retention naa.{UUID}\n"));
    assert_eq!(fix(&machine), Vec::<String>::new());
}

#[test]
fn a_foreign_disk_that_the_kernel_says_is_taken() {
    let machine = Machine::new();
    machine.disk("sda", 0, "vmw_pvscsi", Some("naa.1"));
    machine.write("run/failback/guard", "");
    let host = Host::below(machine.directory.path());
    let mut disks = inventory_of(&host, &|_| {}).unwrap();
    disks[0].uses = vec![Use::Busy];
    let found = disks::foreign(None, &disks);
    let [Finding { level: Level::Fail, message, fix: Some(fix), .. }] = &*found else { panic!("{found:?}") };
    assert!(message.ends_with("sda is foreign and in use by the kernel or by another program"), "{message}");
    assert!(fix.contains("fuser -v ") && fix.contains("/usr/libexec/failback/apply-custom-changes"), "{fix}");
}

#[test]
fn foreign_disks_that_somebody_has() {
    let machine = Machine::new();
    machine.disk("sda", 0, "vmw_pvscsi", Some("naa.1"));
    machine.disk("sdb", 16, "vmw_pvscsi", Some("naa.2"));
    machine.one("foreign-disks", Level::Warn);
    machine.write("etc/failback/own-disks", "system naa.1\n");
    let (message, _) = machine.one("foreign-disks", Level::Ok);
    assert!(message.starts_with("of 1 foreign disk, 0 claimed"), "{message}");
    machine.write("sys/devices/sdb/ro", "0\n");
    let (message, fix) = machine.one("foreign-disks", Level::Warn);
    assert!(message.contains("idle and writable") && fix.starts_with("blockdev --setro "), "{message} {fix}");
    machine.mounts("2 1 8:16 / /srv/\\033[2J rw - ext4 /dev/sdb rw\n");
    let (message, fix) = machine.one("foreign-disks", Level::Fail);
    assert!(message.contains("is foreign and mounted at /srv/"), "{message}");
    assert!(!message.contains('\x1b') && !fix.contains('\x1b') && fix.starts_with("umount "), "{fix}");
    machine.write("etc/failback/own-disks", "naa.1\n");
    let (message, fix) = machine.one("disk-uuid", Level::Fail);
    assert!(message.contains("own-disks") && message.contains("line 1") && fix.contains("a WWID"), "{message} {fix}");
    assert!(machine.of("foreign-disks").is_empty());
}

#[test]
fn copies_of_an_own_disk_by_either_name() {
    const UUID: &str = "6000c2999176dd776e0123456789abcd";
    let machine = Machine::new();
    let serial = |disk: &str, minor: u32| {
        let page = [b"\0\x80\0\x20", UUID.as_bytes()].concat();
        fs::write(machine.at(&format!("sys/units/{disk}/{minor}:0:0:0/vpd_pg80")), page).unwrap();
    };
    for (name, minor, wwid) in [
        ("sda", 0, format!("naa.{UUID}")),
        ("sdb", 16, "t10.VMware".to_owned()),
        ("sdc", 32, "naa.5000c29000000001".to_owned()),
        ("sdd", 48, "naa.5000c29000000001".to_owned()),
        ("sde", 64, "naa.5000c29000000002".to_owned()),
    ] {
        machine.disk(name, minor, "vmw_pvscsi", Some(&wwid));
    }
    let own = format!("system {UUID}\nretention naa.5000c29000000001\nretention naa.5000c29000000002\n");
    machine.write("etc/failback/own-disks", &own);
    let groups = |machine: &Machine| {
        let found = machine.of("foreign-disks").into_iter().filter(|it| it.level == Level::Fail);
        found.map(|it| it.message.split(", the name of").next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let by_wwid = "sdc, sdd all show naa.5000c29000000001".to_owned();
    assert_eq!(groups(&machine), std::slice::from_ref(&by_wwid), "sdb shows no UUID, and is nobody's");
    // The kernel makes a WWID of one's UUID, and not of the other's.
    serial("sda", 0);
    serial("sdb", 16);
    assert_eq!(groups(&machine), [format!("sda, sdb all show {UUID}"), by_wwid]);
    // Those that are alike by both names are told of once.
    serial("sdc", 32);
    serial("sdd", 48);
    assert_eq!(groups(&machine), [format!("sda, sdb, sdc, sdd all show {UUID}")]);
}

#[test]
fn io_uring_as_the_kernel_has_it() {
    let mut machine = Machine::new();
    assert_eq!(machine.one("io_uring", Level::Ok).0, "io_uring is in use");
    machine.io_uring = Some("this kernel has no io_uring".into());
    assert_eq!(machine.one("io_uring", Level::Warn).0, "this kernel has no io_uring");
    let administrator = "CapInh:\t0000000000000000\nCapEff:\t000001ffffffffff\n";
    let user = "CapEff:\t0000000000000000\n";
    for (setting, status, said, advice) in [
        ("2", administrator, "switched off by kernel.io_uring_disabled = 2", "kernel.io_uring_disabled=1"),
        ("2", user, "switched off by kernel.io_uring_disabled = 2", "kernel.io_uring_disabled=1"),
        ("1", user, "leaves io_uring to root", "run failback as root"),
        ("1", administrator, "kernel.io_uring_disabled = 1 does not forbid it", "system call filter"),
        ("0", user, "kernel.io_uring_disabled = 0 does not forbid it", "system call filter"),
    ] {
        machine.write("proc/sys/kernel/io_uring_disabled", &format!("{setting}\n"));
        machine.write("proc/self/status", status);
        let (message, fix) = machine.one("io_uring", Level::Warn);
        assert!(message.contains(said) && fix.contains(advice), "{setting} {message} {fix}");
    }
}

#[test]
fn ports_that_are_taken() {
    let machine = Machine::new();
    assert_eq!(machine.one("ports", Level::Ok).0, "ports 443 and 9443: free, failback does not listen");
    let line = |port, inode| format!("  1: 0000000000000000:{port} 0:0000 0A 0:0 0:0 0 0 0 {inode} 1\n");
    machine.write("proc/net/tcp6", &format!("title\n{}{}", line("01BB", 4711), line("24E3", 4712)));
    let unseen = machine.of("ports");
    assert_eq!(unseen.len(), 2);
    assert!(unseen.iter().all(|found| found.level == Level::Warn && found.message.contains("may not see")));
    // The daemon, in whatever state its file is.
    let process = |pid: u32, exe: &str, comm: &str, inodes: &[u32]| {
        let place = format!("proc/{pid}");
        fs::create_dir_all(machine.at(&place).join("fd")).unwrap();
        symlink(exe, machine.at(&place).join("exe")).unwrap();
        machine.write(&format!("{place}/comm"), comm);
        for inode in inodes {
            symlink(format!("socket:[{inode}]"), machine.at(&place).join("fd").join(inode.to_string())).unwrap();
        }
    };
    process(76, "/usr/bin/failback (deleted)", "failback\n", &[4711, 4712]);
    assert_eq!(machine.one("ports", Level::Ok).0, "ports 443 and 9443: failback listens");
    // Another one, also one that calls itself so.
    machine.write("proc/net/tcp", &format!("title\n{}", line("01BB", 4713)));
    process(77, "/usr/sbin/nginx", "nginx\x1b[2J\n", &[4713]);
    let found = machine.of("ports");
    assert!(found[0].message.starts_with(r"port 443 is taken by nginx\u{1b}[2J (process 77)"), "{found:?}");
    assert!(found[0].level == Level::Warn && found[0].fix.as_ref().is_some_and(|fix| fix.contains("--control")));
    assert_eq!((found[1].level, found[1].message.as_str()), (Level::Ok, "port 9443: failback listens"));
    machine.write("proc/77/comm", "failback\n");
    assert!(machine.of("ports")[0].message.starts_with("port 443 is taken by failback (process 77)"));
}

#[test]
fn custom_changes_are_asked_about() {
    let machine = Machine::new();
    machine.one("custom-changes", Level::Warn);
    let script = "usr/libexec/failback/apply-custom-changes";
    for (body, level, said) in [
        ("exit 0", Level::Ok, "is switched off"),
        (
            "echo 'ok    lvm'; echo 'open  mdadm'; echo '      why'; echo 'open  kdump'; exit 1",
            Level::Fail,
            ": mdadm, kdump",
        ),
        ("echo 'something else'; exit 1", Level::Fail, ": something else"),
        ("echo 'run this as root' >&2; exit 2", Level::Fail, "failed: run this as root"),
    ] {
        machine.write(script, &format!("#!/bin/sh\n[ \"$*\" = --check ] || exit 9\n{body}\n"));
        fs::set_permissions(machine.at(script), fs::Permissions::from_mode(0o755)).unwrap();
        let (message, _) = machine.one("custom-changes", level);
        assert!(message.contains(said), "{message}");
    }
    fs::set_permissions(machine.at(script), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(machine.one("custom-changes", Level::Fail).0.contains("cannot be run"));
    machine.write("run/failback/live", "");
    assert!(machine.one("custom-changes", Level::Ok).0.contains("live system"));
}

#[test]
fn what_went_wrong_at_the_start_is_told() {
    let machine = Machine::new();
    assert!(machine.of("start").is_empty());
    machine.write("run/failback/problems", "the retention disk \x1b[2J is missing: attach it\n\n");
    let (message, _) = machine.one("start", Level::Warn);
    assert_eq!(message, r"at the start: the retention disk \u{1b}[2J is missing: attach it");
}

#[test]
fn kernels() {
    let machine = Machine::new();
    for (release, level) in [
        ("6.12.0-55.el10.x86_64", Level::Ok),
        ("5.14.0-1.el9", Level::Ok),
        ("5.10.0-8-amd64", Level::Warn),
        ("4.19", Level::Warn),
        ("", Level::Warn),
        ("six", Level::Warn),
    ] {
        machine.write("proc/sys/kernel/osrelease", release);
        machine.one("kernel", level);
    }
}

#[test]
fn this_machine_is_looked_at_without_harm() {
    let found = check(&Host::this(), &Ok(None), None);
    assert!(found.len() >= 10, "{found:?}");
    assert!(found.iter().all(|it| !it.message.contains(char::is_control)));
    assert_eq!(super::system::free_space(&Host::below(Path::new("/nonexistent")))[0].level, Level::Ok);
}
