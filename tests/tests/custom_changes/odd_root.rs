//! In a tree that is not as it should be: what is refused changes nothing, in the tree or outside of it, and a run that was stopped in the
//! middle is brought to its end by the next one.

use super::fake_root::{GRUB, LVM_LOCAL, OWN, Tree};
use failback_tests::lab::{Place, tool};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

const KEPT: &str = "var/lib/failback/before-custom-changes";

fn is_empty(place: &Place) -> bool {
    fs::read_dir(place.root()).unwrap().next().is_none()
}

/// The names of what a run that was killed leaves behind, wherever it is in the tree.
fn temporaries(tree: &Tree) -> Vec<String> {
    let all = tree.state().into_keys().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()));
    all.filter(|name| name.starts_with(".failback.")).collect()
}

#[test]
fn nothing_is_kept_outside_of_the_tree() {
    for link in ["var", "var/lib", KEPT, "var/lib/failback/before-custom-changes/etc/lvm"] {
        let elsewhere = Place::new();
        let tree = Tree::new(true);
        fs::create_dir_all(tree.at(link).parent().unwrap()).unwrap();
        symlink(elsewhere.root(), tree.at(link)).unwrap();
        tree.refused("leads out of");
        assert!(is_empty(&elsewhere), "{link} was followed");
    }
    // One that stays inside is as good as a directory.
    let tree = Tree::new(true);
    fs::create_dir(tree.at("srv")).unwrap();
    symlink("srv", tree.at("var")).unwrap();
    tree.apply();
    assert_eq!(tree.read("srv/lib/failback/before-custom-changes/etc/default/grub"), GRUB);
}

#[test]
fn own_disks_of_another_machine_are_not_read() {
    let elsewhere = Place::new();
    elsewhere.file("own-disks", OWN.as_bytes());
    let tree = Tree::new(true);
    fs::remove_dir_all(tree.at("etc/failback")).unwrap();
    symlink(elsewhere.root(), tree.at("etc/failback")).unwrap();
    tree.refused("/etc/failback leads out of");
    let (problem, fix) = &tree.open()["own-disks"];
    assert!(
        problem.contains("/etc/failback leads out of")
            && fix.starts_with("do what its problem says, then apply-custom-changes --root /"),
        "{fix}"
    );
}

#[test]
fn a_command_line_outside_of_the_tree_is_no_success() {
    for (link, words) in
        [("etc/kernel", "/etc/kernel leads out of"), ("boot/loader", "/boot/loader/entries leads out of")]
    {
        let elsewhere = Place::new();
        fs::create_dir(elsewhere.root().join("entries")).unwrap();
        let tree = Tree::new(true);
        if tree.at(link).exists() {
            fs::remove_dir_all(tree.at(link)).unwrap();
        }
        symlink(elsewhere.root(), tree.at(link)).unwrap();
        tree.refused(words);
        let open = tree.open();
        assert!(open["kernel-arguments"].0.contains(words), "{open:?}");
        // All else is reported too.
        assert!(open["lvm-units"].0.contains("lvm2-monitor.service"), "{open:?}");
    }
    let tree = Tree::new(true);
    let outside = Place::new().file("1.conf", b"options root=/dev/sda1\n");
    symlink(outside, tree.at("boot/loader/entries/2.conf")).unwrap();
    tree.refused("/boot/loader/entries/2.conf leads out of");
}

#[test]
fn lines_of_grub_that_are_no_plain_assignment_stay_as_they_are() {
    for line in [
        "GRUB_CMDLINE_LINUX+=\" console=ttyS0\"",
        "export GRUB_CMDLINE_LINUX=\"console=ttyS0\"",
        "export GRUB_CMDLINE_LINUX",
        "unset GRUB_CMDLINE_LINUX",
        "GRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX console=ttyS0\"",
        "GRUB_CMDLINE_LINUX=\"${GRUB_CMDLINE_LINUX} console=ttyS0\"",
        "GRUB_TIMEOUT=1 GRUB_CMDLINE_LINUX=console=ttyS0",
        "if true; then GRUB_CMDLINE_LINUX=\"console=ttyS0\"; fi",
        "GRUB_CMDLINE_LINUX=a;GRUB_CMDLINE_LINUX=b",
        "GRUB_CMDLINE_LINUX=a\\",
        "GRUB_CMDLINE_LINUX=\"a\"#b",
        ": \"${GRUB_CMDLINE_LINUX:=console=ttyS0}\"",
    ] {
        let tree = Tree::new(true);
        let text = format!("GRUB_CMDLINE_LINUX=\"crashkernel=1G\"\n{line}\nGRUB_DISABLE_OS_PROBER=true\n");
        tree.write("etc/default/grub", &text);
        let run = tree.run(&[]);
        assert_eq!(run.code, 1, "{line}: {}", run.stderr);
        assert_eq!(run.stderr.lines().filter(|words| words.starts_with("open ")).count(), 1, "{line}: {}", run.stderr);
        assert!(run.stderr.contains("is written in a way that is not understood"), "{line}: {}", run.stderr);
        assert_eq!(tree.read("etc/default/grub"), text);
    }
    let harmless = [
        "# GRUB_CMDLINE_LINUX+=\" a\"",
        "GRUB_TIMEOUT=5 # not GRUB_CMDLINE_LINUX",
        "GRUB_CMDLINE_LINUX_DEFAULT=\"$GRUB_CMDLINE_LINUX quiet\"",
        "  GRUB_CMDLINE_LINUX='a'  # GRUB_CMDLINE_LINUX",
    ];
    let tree = Tree::new(true);
    tree.write("etc/default/grub", &(harmless.join("\n") + "\n"));
    tree.apply();
    assert_eq!(tree.read("etc/default/grub").lines().count(), harmless.len() + 1);
    // Volumes that such a line names are the appliance's own all the same.
    let tree = Tree::new(true);
    tree.write("etc/default/grub", "GRUB_CMDLINE_LINUX+=\" rd.lvm.lv=cs/root\"\n");
    assert_eq!(tree.run(&[]).code, 1);
    assert!(tree.read("etc/lvm/lvmlocal.conf").contains("auto_activation_volume_list = [ \"cs\" ]"));
    assert!(!tree.at("etc/lvm/devices/system.devices").exists());
}

#[test]
fn what_cannot_be_changed_is_refused_before_the_first_change() {
    let lvm = "etc/lvm/lvmlocal.conf";
    let unit = "etc/systemd/system/lvm2-monitor.service";
    let directory = |path: &str, words: &str| {
        let tree = Tree::new(true);
        let _ = fs::remove_file(tree.at(path));
        fs::create_dir_all(tree.at(path)).unwrap();
        tree.refused(words);
    };
    directory(unit, "/etc/systemd/system/lvm2-monitor.service is a directory, where a file belongs");
    directory(lvm, "/etc/lvm/lvmlocal.conf is a directory, where a file belongs");
    directory("usr/libexec/failback/wwid.sh", "wwid.sh is a directory");
    directory("etc/mdadm.conf", "/etc/mdadm.conf is a directory");
    for path in [lvm, unit, "etc/udev/rules.d/59-failback-foreign-disks.rules"] {
        let tree = Tree::new(true);
        let _ = fs::remove_file(tree.at(path));
        fs::create_dir_all(tree.at(path).parent().unwrap()).unwrap();
        tool("mkfifo", &[&tree.at(path)]);
        tree.refused(&format!("/{path} is a fifo, where a file belongs; move it away"));
        assert!(tree.run(&["--check"]).stdout.starts_with(b"ok    own-disks\n"));
    }
    for (path, words) in [
        ("var", "lvmlocal.conf cannot be made: /var is no directory; move it away"),
        ("usr/libexec", "foreign-disk cannot be made: /usr/libexec is no directory"),
        ("etc/dracut.conf.d", "60-failback.conf cannot be made: /etc/dracut.conf.d is no directory"),
    ] {
        let tree = Tree::new(true);
        tree.write(path, "a file\n");
        tree.refused(words);
    }
    let tree = Tree::new(true);
    symlink("udev", tree.at("etc/udev")).unwrap();
    tree.refused("foreign-disks.rules cannot be made: /etc/udev is no directory");
}

/// What forbids the change is not to be seen before: here that a file grows beyond 64 KiB.
#[test]
fn a_run_that_stops_in_the_middle_says_so_and_can_be_run_again() {
    let tree = Tree::new(true);
    let large = LVM_LOCAL.to_owned() + &"# a comment of the machine's own\n".repeat(4000);
    tree.write("etc/lvm/lvmlocal.conf", &large);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/apply-custom-changes");
    let output = Command::new("bash")
        .args(["-c", "trap '' XFSZ; ulimit -f 64; exec \"$0\" --root \"$1\""])
        .args([&script, tree.place.root()])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), stderr.lines().count()), (Some(1), 1), "{stderr}");
    assert!(
        stderr.contains("lvmlocal.conf cannot be changed (File too large): mend that, and run this again"),
        "{stderr}"
    );
    // The half of it is neither what was kept nor left behind.
    assert!(!tree.at(KEPT).join("etc/lvm/lvmlocal.conf").exists());
    assert_eq!(temporaries(&tree), Vec::<String>::new());
    tree.apply();
    assert_eq!(tree.read(&format!("{KEPT}/etc/lvm/lvmlocal.conf")), large);
    assert_eq!(tree.open(), BTreeMap::new());
}

#[test]
fn what_a_killed_run_left_is_removed_by_the_next_one() {
    let tree = Tree::new(true);
    for path in [
        "etc/lvm/.failback.aB3dE6",
        "etc/udev/rules.d/.failback.000000",
        &format!("{KEPT}/etc/lvm/.failback.zzzzzz"),
        "etc/lvm/.failback.conf",
        "etc/lvm/.failback.settings",
    ] {
        tree.write(path, "half of");
    }
    let before = tree.state();
    assert!(tree.run(&["--check"]).code == 1 && tree.state() == before);
    assert!(tree.apply().contains("removed /etc/lvm/.failback.aB3dE6, which a run that was killed left there\n"));
    assert_eq!(temporaries(&tree), [".failback.conf", ".failback.settings"]);
    assert_eq!(tree.read(&format!("{KEPT}/etc/lvm/lvmlocal.conf")), LVM_LOCAL);
    tree.write("etc/systemd/system/.failback.111111", "");
    tree.apply();
    assert_eq!(temporaries(&tree).len(), 2);
}
