//! In a tree that looks like an installed `CentOS` Stream: what is changed, that nothing is changed twice, and that each item which is
//! opened again by hand is found and named. No root is needed for it.

use failback_tests::lab::{Place, Run};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub(super) const OWN: &str = "# of this machine\nsystem naa.6000c2999176dd776e0123456789abcd\n\nretention  t10.ATA     QEMU  HARDDISK   7  # the drive\n";
pub(super) const GRUB: &str = "GRUB_TIMEOUT=5\nGRUB_CMDLINE_LINUX=\"crashkernel=1G-2G:192M,2G-:256M rd.auto=1 dyndbg='file  a.c +p' quiet\"\nGRUB_DISABLE_RECOVERY=\"true\"\n";
const ENTRY: &str = "title CentOS Stream 10\nversion 6.12.0\nlinux /vmlinuz-6.12.0\noptions root=UUID=1-2 ro  crashkernel=1G $tuned_params\ngrub_class kernel\n";
pub(super) const LVM_LOCAL: &str = "local {\n    system_id = \"mine\"\n}\n";
const MDADM: &str = "MAILADDR root\nAUTO +imsm +1.x -all\nARRAY /dev/md0 level=raid1\n   UUID=01234567:89abcdef:01234567:89abcdef\nHOMEHOST <system>\n";
const MULTIPATH: &str =
    "defaults {\n\tfind_multipaths yes\n}\nblacklist_exceptions {\n\tdevnode \"^sd\"\n\twwid \"35\"\n}\n";
const KDUMP: &str = "#raw /dev/vg/lv_kdump\nraw /dev/sdb\ncore_collector makedumpfile -l\n";
const FSTAB: &str = "UUID=1-2 / ext4 defaults 0 0\nUUID=3-4 none swap defaults 0 0\n# /dev/sdb1 /mnt ext4\n/dev/sdc1 /cd ext4 noauto 0 0\n";

/// A tree, and the script run on it.
pub(super) struct Tree {
    pub(super) place: Place,
}

impl Tree {
    /// As the kickstart leaves it. One that is not merged has directories where a merged one has links.
    pub(super) fn new(is_merged: bool) -> Self {
        let tree = Self { place: Place::new() };
        for directory in ["usr/lib/systemd/system", "usr/sbin", "usr/bin", "etc/systemd/system", "boot/loader/entries"]
        {
            fs::create_dir_all(tree.at(directory)).unwrap();
        }
        for name in ["lib", "sbin", "bin"] {
            if is_merged {
                symlink(format!("usr/{name}"), tree.at(name)).unwrap();
            } else {
                fs::create_dir(tree.at(name)).unwrap();
            }
        }
        for (path, content) in [
            ("etc/failback/own-disks", OWN),
            ("etc/default/grub", GRUB),
            ("boot/loader/entries/1.conf", ENTRY),
            ("etc/lvm/lvmlocal.conf", LVM_LOCAL),
            ("etc/mdadm.conf", MDADM),
            ("etc/multipath.conf", MULTIPATH),
            ("etc/kdump.conf", KDUMP),
            ("etc/fstab", FSTAB),
        ] {
            tree.write(path, content);
        }
        tree
    }

    pub(super) fn at(&self, path: &str) -> PathBuf {
        self.place.root().join(path)
    }

    pub(super) fn write(&self, path: &str, content: &str) {
        let at = self.at(path);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(at, content).unwrap();
    }

    pub(super) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap()
    }

    pub(super) fn run(&self, arguments: &[&str]) -> Run {
        let root = self.place.root().to_str().unwrap();
        call(&[&["--root", root], arguments].concat())
    }

    #[track_caller]
    pub(super) fn apply(&self) -> String {
        let run = self.run(&[]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        String::from_utf8(run.stdout).unwrap()
    }

    #[track_caller]
    pub(super) fn refused(&self, words: &str) {
        let before = self.state();
        let run = self.run(&[]);
        assert_eq!((run.code, run.stderr.lines().count()), (3, 1), "{}", run.stderr);
        assert!(
            run.stderr.starts_with("apply-custom-changes: ") && run.stderr.contains(words),
            "{words:?}: {}",
            run.stderr
        );
        assert_eq!(self.state(), before, "something was changed before the refusal: {words}");
    }

    /// The items that the check finds open, with their problems in one string and their fix.
    #[track_caller]
    pub(super) fn open(&self) -> BTreeMap<String, (String, String)> {
        let run = self.run(&["--check", "--json"]);
        let report: Value = serde_json::from_slice(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run:?}"));
        let items = report["items"].as_array().unwrap();
        let open: BTreeMap<_, _> = items
            .iter()
            .filter(|item| item["state"] == "open")
            .map(|item| {
                let fix = item["fix"].as_str().unwrap().to_owned();
                (item["name"].as_str().unwrap().to_owned(), (item["problems"].to_string(), fix))
            })
            .collect();
        assert_eq!((report["open"].as_u64().unwrap(), run.code), (open.len() as u64, i32::from(!open.is_empty())));
        assert!(items.iter().all(|item| item["state"] == "open" || item["problems"] == serde_json::json!([])));
        open
    }

    /// Everything in the tree: kind and content, permissions, and when it was changed.
    pub(super) fn state(&self) -> BTreeMap<PathBuf, (String, u32, i64, i64)> {
        let mut all = BTreeMap::new();
        let mut pending = vec![self.place.root().to_owned()];
        while let Some(directory) = pending.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let about = fs::symlink_metadata(&path).unwrap();
                let content = if about.is_dir() {
                    pending.push(path.clone());
                    String::new()
                } else if about.is_symlink() {
                    fs::read_link(&path).unwrap().display().to_string()
                } else if about.is_file() {
                    fs::read_to_string(&path).unwrap_or_default()
                } else {
                    String::new()
                };
                all.insert(path, (content, about.mode(), about.mtime(), about.mtime_nsec()));
            }
        }
        all
    }
}

fn call(arguments: &[&str]) -> Run {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/apply-custom-changes");
    let output = Command::new(script).args(arguments).stdin(Stdio::null()).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    Run { code: output.status.code().unwrap(), stdout: output.stdout, stderr }
}

fn words(text: &str) -> Vec<&str> {
    text.split(' ').collect()
}

#[test]
fn a_second_run_changes_nothing() {
    for is_merged in [true, false] {
        let tree = Tree::new(is_merged);
        assert!(tree.apply().contains("masked lvm2-monitor.service"));
        let first = tree.state();
        assert_eq!(tree.apply(), "All of it was in order.\n");
        assert_eq!(tree.state(), first, "twice is not the same as once");
        assert_eq!(tree.open(), BTreeMap::new());
        assert_eq!(tree.state(), first, "a check changes nothing");
        let report = String::from_utf8(tree.run(&["--check"]).stdout).unwrap();
        assert!(report.lines().count() > 15 && report.lines().all(|line| line.starts_with("ok    ")), "{report}");
    }
}

#[test]
fn what_an_administrator_set_stays() {
    let tree = Tree::new(true);
    fs::set_permissions(tree.at("etc/default/grub"), fs::Permissions::from_mode(0o600)).unwrap();
    tree.apply();
    let grub = tree.read("etc/default/grub");
    let line = grub.lines().nth(1).unwrap();
    assert!(
        line.starts_with("GRUB_CMDLINE_LINUX=\"crashkernel=1G-2G:192M,2G-:256M dyndbg='file  a.c +p' quiet rd.auto=0 "),
        "{line}"
    );
    assert!(line.ends_with(" noresume\"") && !line.contains("rd.auto=1"), "{line}");
    assert!(grub.starts_with("GRUB_TIMEOUT=5\n") && grub.contains("\nGRUB_DISABLE_RECOVERY=\"true\"\n"), "{grub}");
    assert!(grub.ends_with("\nGRUB_DISABLE_OS_PROBER=true\n"), "{grub}");
    assert_eq!(fs::metadata(tree.at("etc/default/grub")).unwrap().mode() & 0o777, 0o600);
    let entry = tree.read("boot/loader/entries/1.conf");
    let options = entry.lines().nth(3).unwrap();
    assert!(
        options.starts_with("options root=UUID=1-2 ro  crashkernel=1G $tuned_params rd.auto=0 rd.lvm=0 "),
        "{options}"
    );
    for argument in ["rd.md=0", "rd.dm=0", "rd.luks=0", "nompath", "raid=noautodetect", "systemd.gpt_auto=0"] {
        assert!(words(options).contains(&argument), "{options}");
    }
    assert_eq!(entry.lines().count(), ENTRY.lines().count());
    assert!(tree.read("etc/lvm/lvmlocal.conf").starts_with(LVM_LOCAL));
    let mdadm = tree.read("etc/mdadm.conf");
    assert_eq!(
        mdadm.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>(),
        ["MAILADDR root", "HOMEHOST <system>"]
    );
    let multipath = tree.read("etc/multipath.conf");
    assert!(multipath.contains("\n#failback: \tdevnode \"^sd\"\n\twwid \"35\"\n"), "{multipath}");
    let kdump = tree.read("etc/kdump.conf");
    assert_eq!(kdump, KDUMP.replace("\nraw", "\n#failback: raw") + "path /var/crash\n");
    assert_eq!(tree.read("etc/fstab"), FSTAB);
    // What was there before is kept, once.
    let kept = |path: &str| tree.read(&format!("var/lib/failback/before-custom-changes/{path}"));
    assert_eq!((kept("etc/default/grub"), kept("etc/mdadm.conf")), (GRUB.to_owned(), MDADM.to_owned()));
    tree.write("etc/mdadm.conf", "AUTO all\n");
    tree.apply();
    assert_eq!(
        (tree.read("etc/mdadm.conf"), kept("etc/mdadm.conf")),
        ("#failback: AUTO all\n".to_owned(), MDADM.to_owned())
    );
}

/// A hand that opens an item again; the name of the item, and words of the problem.
type Opening<'a> = (&'a str, &'a str, &'a dyn Fn(&Tree));

#[test]
fn what_is_opened_by_hand_is_found_and_named() {
    let remove = |path: &'static str| move |tree: &Tree| fs::remove_file(tree.at(path)).unwrap();
    let write = |path: &'static str, content: &'static str| move |tree: &Tree| tree.write(path, content);
    let append =
        |path: &'static str, content: &'static str| move |tree: &Tree| tree.write(path, &(tree.read(path) + content));
    let drop_argument = |path: &'static str, word: &'static str| {
        move |tree: &Tree| tree.write(path, &tree.read(path).replace(word, ""))
    };
    let openings: [Opening<'_>; 28] = [
        (
            "udev-rules",
            "59-failback-foreign-disks.rules is missing",
            &remove("etc/udev/rules.d/59-failback-foreign-disks.rules"),
        ),
        (
            "udev-rules",
            "63-failback-foreign-disks.rules is not what belongs",
            &write("etc/udev/rules.d/63-failback-foreign-disks.rules", ""),
        ),
        ("udev-rules", "foreign-disk is not what belongs", &|tree| {
            fs::set_permissions(tree.at("usr/libexec/failback/foreign-disk"), fs::Permissions::from_mode(0o644))
                .unwrap();
        }),
        ("udev-rules", "wwid.sh is missing", &remove("usr/libexec/failback/wwid.sh")),
        ("lvm-devices", "system.devices is missing", &remove("etc/lvm/devices/system.devices")),
        (
            "lvm-devices",
            "not the appliance's own",
            &append("etc/lvm/devices/system.devices", "IDTYPE=sys_wwid IDNAME=naa.6 DEVNAME=/dev/sdb PVID=x\n"),
        ),
        ("lvm-settings", "lvmlocal.conf", &append("etc/lvm/lvmlocal.conf", "global/event_activation=1\n")),
        ("lvm-settings", "lvmlocal.conf", &remove("etc/lvm/lvmlocal.conf")),
        ("md-settings", "00-failback.conf is missing", &remove("etc/mdadm.conf.d/00-failback.conf")),
        ("md-settings", "ARRAY", &append("etc/mdadm.conf", "array /dev/md1 UUID=0:1:2:3\n")),
        ("md-settings", "more.conf", &write("etc/mdadm.conf.d/more.conf", "AUTO +all\n")),
        ("multipath-settings", "00-failback.conf", &write("etc/multipath/conf.d/00-failback.conf", "blacklist {\n}\n")),
        (
            "multipath-settings",
            "blacklist_exceptions",
            &write("etc/multipath/conf.d/z.conf", "blacklist_exceptions {\n  devnode \".*\"\n}\n"),
        ),
        ("lvm-units", "lvm2-monitor.service", &remove("etc/systemd/system/lvm2-monitor.service")),
        ("md-units", "mdmonitor.service", &|tree| {
            let at = tree.at("etc/systemd/system/mdmonitor.service");
            fs::remove_file(&at).unwrap();
            symlink("/usr/lib/systemd/system/mdmonitor.service", at).unwrap();
        }),
        ("multipath-units", "multipathd.socket", &remove("etc/systemd/system/multipathd.socket")),
        ("storage-units", "udisks2.service", &|tree| {
            fs::remove_file(tree.at("etc/systemd/system/udisks2.service")).unwrap();
            tree.write("etc/systemd/system/udisks2.service", "[Service]\nExecStart=/bin/true\n");
        }),
        ("network-units", "iscsid.socket", &remove("etc/systemd/system/iscsid.socket")),
        ("cloud-units", "cloud-init.service", &remove("etc/systemd/system/cloud-init.service")),
        ("health-units", "smartd.service", &remove("etc/systemd/system/smartd.service")),
        (
            "generators",
            "systemd-gpt-auto-generator",
            &remove("etc/systemd/system-generators/systemd-gpt-auto-generator"),
        ),
        ("kernel-arguments", "1.conf lacks rd.auto=0", &drop_argument("boot/loader/entries/1.conf", " rd.auto=0")),
        ("kernel-arguments", "grub lacks rd.md=0", &|tree| {
            let path = "etc/default/grub";
            tree.write(path, &tree.read(path).replace(" noresume\"", " noresume rd.md=1\""));
        }),
        ("os-prober", "GRUB_DISABLE_OS_PROBER", &append("etc/default/grub", "GRUB_DISABLE_OS_PROBER=false\n")),
        ("dracut-settings", "60-failback.conf", &write("etc/dracut.conf.d/60-failback.conf", "")),
        ("kdump", "dumps onto a disk", &append("etc/kdump.conf", "xfs /dev/sdb1\n")),
        ("fstrim", "failback.conf is missing", &remove("etc/systemd/system/fstrim.service.d/failback.conf")),
        (
            "generators",
            "lvm2-activation-generator",
            &write("etc/systemd/system-generators/lvm2-activation-generator", "#!/bin/sh\n"),
        ),
    ];
    let tree = Tree::new(true);
    tree.apply();
    for (item, words, hand) in openings {
        // What is a link to /dev/null would be written through.
        let link = tree.at("etc/systemd/system-generators/lvm2-activation-generator");
        if words == "lvm2-activation-generator" {
            fs::remove_file(link).unwrap();
        }
        hand(&tree);
        let open = tree.open();
        let (problem, fix) = open.get(item).unwrap_or_else(|| panic!("{item} ({words}) is not open: {open:?}"));
        assert_eq!(open.len(), 1, "{open:?}");
        assert!(problem.contains(words), "{words:?} is not in: {problem}");
        assert!(fix.starts_with("apply-custom-changes --root /"), "{fix}");
        tree.apply();
    }
    assert_eq!(tree.open(), BTreeMap::new(), "not all of it was closed");
    assert_eq!(openings.iter().map(|(item, ..)| *item).collect::<std::collections::BTreeSet<_>>().len(), 18);
}

#[test]
fn what_only_an_administrator_can_close_is_named_too() {
    let tree = Tree::new(true);
    tree.apply();
    tree.write(
        "etc/fstab",
        &(FSTAB.to_owned() + "/dev/sdb1 /data xfs defaults 0 0\n/dev/mapper/vg--0-data /data ext4 defaults 0 0\n"),
    );
    tree.write("etc/crypttab", "data /dev/nvme0n1p2 none luks\n");
    tree.write("boot/initramfs-6.12.img", "made before");
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
    fs::File::options().write(true).open(tree.at("boot/initramfs-6.12.img")).unwrap().set_modified(old).unwrap();
    tree.write("boot/initramfs-6.12kdump.img", "");
    let open = tree.open();
    assert_eq!(open.keys().collect::<Vec<_>>(), ["device-tables", "initramfs"]);
    let (problems, _) = &open["device-tables"];
    for words in ["/etc/fstab names /dev/sdb1", "/etc/crypttab names /dev/nvme0n1p2", "rd.lvm.vg=vg-0", "UUID="] {
        assert!(problems.contains(words), "{words:?} is not in: {problems}");
    }
    assert!(!problems.contains("sdc1"), "{problems}");
    assert!(open["initramfs"].0.contains("/boot/initramfs-6.12.img is older"), "{open:?}");
    assert!(open["initramfs"].1.starts_with("dracut --force --regenerate-all"), "{open:?}");
    // A run says so as well, and is no success.
    let run = tree.run(&[]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert!(run.stderr.contains("open  device-tables") && run.stderr.contains("to close it: "), "{}", run.stderr);
    // A command line that cannot be edited by a program stays as it is.
    let tree = Tree::new(true);
    tree.write("etc/default/grub", "GRUB_CMDLINE_LINUX=\"a\"' b'\n");
    assert_eq!(tree.run(&[]).code, 1);
    assert!(tree.open()["kernel-arguments"].0.contains("written in a way that is not understood"));
    assert!(tree.read("etc/default/grub").starts_with("GRUB_CMDLINE_LINUX=\"a\"' b'\n"));
}

/// An appliance whose own system lies on LVM and software RAID goes on working.
#[test]
fn its_own_volumes_stay_active() {
    let tree = Tree::new(true);
    let own = "options root=/dev/mapper/cs-root rd.lvm.lv=cs/root rd.lvm.lv=cs/swap rd.md.uuid=01234567:89abcdef:01234567:89abcdef ro\n";
    tree.write("boot/loader/entries/1.conf", own);
    tree.write("etc/fstab", "/dev/mapper/cs-root / xfs defaults 0 0\n");
    // Its disks are not named for LVM: nothing must be taken from it before they are.
    let run = tree.run(&[]);
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("open  lvm-devices") && run.stderr.contains("lvmdevices --adddev"), "{}", run.stderr);
    assert!(!tree.at("etc/lvm/devices/system.devices").exists());
    let devices = "VERSION=1.1.1\nIDTYPE=sys_wwid IDNAME=naa.6000c2999176dd776e0123456789abcd DEVNAME=/dev/sda2 PVID=a PART=2\n\
                   IDTYPE=sys_wwid IDNAME=t10.ATA_____QEMU__HARDDISK___7 DEVNAME=/dev/sdc PVID=b\n\
                   IDTYPE=sys_wwid IDNAME=naa.6000c2999176dd776e0123456789abce DEVNAME=/dev/sdb PVID=c\n";
    tree.write("etc/lvm/devices/system.devices", devices);
    tree.apply();
    assert_eq!(tree.open(), BTreeMap::new());
    let kept = devices.replace(
        "IDTYPE=sys_wwid IDNAME=naa.6000c2999176dd776e0123456789abce",
        "#failback: IDTYPE=sys_wwid IDNAME=naa.6000c2999176dd776e0123456789abce",
    );
    assert_eq!(tree.read("etc/lvm/devices/system.devices"), kept);
    let lvm = tree.read("etc/lvm/lvmlocal.conf");
    assert!(lvm.contains("auto_activation_volume_list = [ \"cs\" ]") && lvm.contains("event_activation = 1"), "{lvm}");
    let entry = tree.read("boot/loader/entries/1.conf");
    let options = words(entry.lines().next().unwrap());
    assert!(
        !options.contains(&"rd.lvm=0") && !options.contains(&"rd.md=0") && options.contains(&"rd.luks=0"),
        "{options:?}"
    );
    let dracut = tree.read("etc/dracut.conf.d/60-failback.conf");
    let omitted = dracut.lines().find(|line| line.starts_with("omit_dracutmodules")).unwrap();
    assert!(!omitted.contains(" lvm ") && !omitted.contains(" mdraid ") && omitted.contains(" crypt "), "{omitted}");
    let array = "\nARRAY /dev/md0 level=raid1\n   UUID=01234567:89abcdef:01234567:89abcdef\n";
    assert!(tree.read("etc/mdadm.conf").contains(array), "{}", tree.read("etc/mdadm.conf"));
}

#[test]
fn an_unclear_list_of_own_disks_is_refused() {
    let tree = Tree::new(true);
    let own = "etc/failback/own-disks";
    let system = "system naa.6000c2999176dd776e0123456789abcd\n";
    for (content, sentence) in [
        ("", "names no system disk"),
        ("# nothing\n\n", "names no system disk"),
        ("retention naa.6000c2999176dd776e0123456789abcd\n", "names no system disk"),
        ("system\n", "line 1 of /etc/failback/own-disks names ''"),
        ("system /dev/sda\n", "names '/dev/sda', which is neither a WWID of the kernel's nor a SCSI UUID"),
        ("system sda\n", "names 'sda'"),
        ("system 0x6000c2999176dd77\n", "names '0x6000c2999176dd77'"),
        ("system wwn-0x6000c2999176dd77\n", "which is neither a WWID"),
        ("system *\n", "names '*'"),
        ("system naa.\n", "names 'naa.'"),
        ("system virtio-\n", "names 'virtio-'"),
        ("System naa.6000c2999176dd776e0123456789abcd\n", "begins with 'System'"),
        ("target naa.6000c2999176dd776e0123456789abcd\n", "begins with 'target'"),
        (
            &(system.to_owned() + &system.replace("system", "retention")),
            "line 2 of /etc/failback/own-disks names naa.6000c2999176dd776e0123456789abcd once more",
        ),
        (
            &(system.to_owned() + "retention 6000C299-9176-dd77-6e01-23456789abcd\n"),
            "line 2 of /etc/failback/own-disks names naa.6000c2999176dd776e0123456789abcd once more",
        ),
        (&system.replace('\n', "\r\n"), "line 1 of /etc/failback/own-disks holds a character that is no plain text"),
        (&system.replace("naa", "n\u{e4}a"), "no plain text"),
        ("system naa.$(touch /tmp/x)`id`;\u{1b}[2J\n", "no plain text"),
        (&"system naa.6\n".replace("naa.6", "naa.6\0"), "bytes that are no text"),
        (&("#".repeat(70_000) + "\n" + system), "larger than 65536 bytes"),
    ] {
        tree.write(own, content);
        tree.refused(sentence);
        let open = tree.open();
        assert!(open["own-disks"].0.contains(sentence.split('\'').next().unwrap()), "{open:?}");
    }
    // Words that a shell could take for more than words.
    tree.write(own, &(system.to_owned() + "retention t10.$(touch /tmp/failback-x) `id` ; * \" ' \\ end\n"));
    tree.apply();
    assert!(!Path::new("/tmp/failback-x").exists());
    let at = tree.at(own);
    fs::set_permissions(&at, fs::Permissions::from_mode(0o666)).unwrap();
    tree.refused("others than root may change");
    fs::remove_file(&at).unwrap();
    tree.refused("own-disks is missing");
    symlink("/etc/passwd", &at).unwrap();
    tree.refused("no plain file");
    fs::remove_file(&at).unwrap();
    fs::create_dir(&at).unwrap();
    tree.refused("no plain file");
}

#[test]
fn links_that_lead_out_of_the_tree_are_not_followed() {
    let elsewhere = Place::new();
    for (directory, words) in [
        ("etc/udev", "/etc/udev/rules.d leads out of"),
        ("etc/dracut.conf.d", "leads out of"),
        ("usr/libexec", "leads out of"),
    ] {
        let tree = Tree::new(true);
        symlink(elsewhere.root(), tree.at(directory)).unwrap();
        tree.refused(words);
    }
    let tree = Tree::new(true);
    let outside = elsewhere.file("grub", GRUB.as_bytes());
    fs::remove_file(tree.at("etc/default/grub")).unwrap();
    symlink(&outside, tree.at("etc/default/grub")).unwrap();
    tree.refused("/etc/default/grub leads out of");
    assert_eq!(fs::read_to_string(&outside).unwrap(), GRUB);
    // One that stays inside is written through, and stays a link.
    fs::remove_file(tree.at("etc/default/grub")).unwrap();
    tree.write("etc/grub.here", GRUB);
    symlink("../grub.here", tree.at("etc/default/grub")).unwrap();
    tree.apply();
    assert!(tree.at("etc/default/grub").is_symlink() && tree.read("etc/grub.here").contains("rd.auto=0"));
    assert_eq!(tree.open(), BTreeMap::new());
}

#[test]
fn files_with_bytes_that_are_no_text_are_refused() {
    for path in
        ["etc/default/grub", "etc/mdadm.conf", "etc/lvm/lvmlocal.conf", "etc/fstab", "boot/loader/entries/1.conf"]
    {
        let tree = Tree::new(true);
        tree.write(path, "a\0b\n");
        tree.refused("holds bytes that are no text");
    }
}

#[test]
fn a_wrong_call_is_explained() {
    for arguments in [&["--rot"][..], &["--root"], &["--json"], &["now"]] {
        let run = call(arguments);
        assert_eq!(run.code, 2);
        assert!(run.stderr.contains("usage: apply-custom-changes"), "{}", run.stderr);
    }
    let help = call(&["--help"]);
    assert_eq!((help.code, help.stderr.as_str()), (0, ""));
    assert!(String::from_utf8(help.stdout).unwrap().contains("Exit codes: 0 all is switched off"));
    assert_eq!(call(&["--root", "/nowhere/at/all"]).code, 3);
}
