//! A machine made of files, which the scripts take for the one that they run on, and the agent as well.

use failback_tests::lab::{Place, has_programs, skipped};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Runs the shell with these arguments in the machine: with the programs of this one, a null device, and nothing else of it.
const ENTER: &str = r#"
set -eu
root=$1
shift
for name in bin sbin lib lib64; do
    [ -d /usr/$name ] || continue
    mkdir -p "$root/usr/$name"
    mount --bind /usr/$name "$root/usr/$name"
    [ -e "$root/$name" ] || ln -s usr/$name "$root/$name"
done
mount --bind /dev/null "$root/dev/null"
mount --bind "$root/files/blockdev" "$root/usr/sbin/blockdev"
exec chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin LANG=C.UTF-8 "$@"
"#;

/// All shells that the scripts have to run in: Debian's and the installer's, the appliance's, and the live ISO's.
pub(crate) const SHELLS: [&[&str]; 4] = [&["dash"], &["bash"], &["bash", "--posix"], &["busybox", "sh"]];

/// Those in which it is udev that runs a script: busybox has programs of its own in the place of those that are called.
pub(crate) const SHELLS_OF_UDEV: [&[&str]; 3] = [SHELLS[0], SHELLS[1], SHELLS[2]];

pub(crate) struct Machine {
    place: Place,
    disks: u32,
}

/// A file of the source tree.
pub(crate) fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path)
}

impl Machine {
    /// One without disks; `None`, with the reason printed, where there cannot be such.
    pub(crate) fn new() -> Option<Self> {
        if !has_programs(&["unshare", "chroot", "busybox", "dash", "blockdev"]) {
            return None;
        }
        let able = Command::new("unshare").args(unshare()).arg("true").stderr(Stdio::null()).status();
        if !able.is_ok_and(|status| status.success()) && !skipped("there is no mount namespace to be had") {
            return None;
        }
        let machine = Self { place: Place::new(), disks: 0 };
        for directory in ["sys/dev/block", "sys/block", "sys/class/block", "run/failback"] {
            fs::create_dir_all(machine.path(directory)).unwrap();
        }
        for (path, content) in [
            ("dev/null", ""),
            ("files/program", ""),
            ("files/blockdev", "#!/bin/sh\necho \"$*\" >>/files/called\n"),
            ("proc/self/mountinfo", "1 0 0:1 / / rw - rootfs rootfs rw\n"),
            ("proc/swaps", "Filename Type Size Used Priority\n"),
        ] {
            machine.write(path, content.as_bytes());
        }
        symlink(machine.path("files/program"), machine.path("proc/self/exe")).unwrap();
        let shipped = "appliance/custom/files/usr/libexec/failback";
        for (from, to) in [
            (format!("{shipped}/foreign-disk"), "foreign-disk"),
            (format!("{shipped}/wwid.sh"), "wwid.sh"),
            ("appliance/live/root/usr/libexec/failback/common.sh".into(), "common.sh"),
            ("appliance/live/root/usr/libexec/failback/guard".into(), "guard"),
            ("appliance/live/root/usr/libexec/failback/arguments.sh".into(), "arguments.sh"),
            ("appliance/lib/keys-and-names.sh".into(), "keys-and-names.sh"),
            ("kickstart/pre/disks.sh".into(), "disks.sh"),
        ] {
            machine.write(&format!("usr/libexec/failback/{to}"), &fs::read(source(&from)).unwrap());
        }
        for program in ["usr/libexec/failback/foreign-disk", "usr/libexec/failback/guard", "files/blockdev"] {
            fs::set_permissions(machine.path(program), fs::Permissions::from_mode(0o755)).unwrap();
        }
        Some(machine)
    }

    pub(crate) fn root(&self) -> &Path {
        self.place.root()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.place.path(name)
    }

    pub(crate) fn write(&self, name: &str, content: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// One more disk, or anything else that is no partition, with these files in its directory of sysfs. Returns its number.
    pub(crate) fn disk(&mut self, name: &str, files: &[(&str, &[u8])]) -> String {
        let number = self.device(&format!("sys/devices/{name}"));
        self.write(&format!("sys/devices/{name}/size"), b"2048\n");
        symlink(format!("../devices/{name}"), self.path(&format!("sys/block/{name}"))).unwrap();
        for (path, content) in files {
            self.write(&format!("sys/devices/{name}/{path}"), content);
        }
        number
    }

    pub(crate) fn partition(&mut self, disk: &str, name: &str) -> String {
        self.write(&format!("sys/devices/{disk}/{name}/partition"), b"1\n");
        self.device(&format!("sys/devices/{disk}/{name}"))
    }

    fn device(&mut self, place: &str) -> String {
        self.disks += 1;
        let number = format!("8:{}", self.disks);
        self.write(&format!("{place}/dev"), format!("{number}\n").as_bytes());
        for directory in ["holders", "slaves"] {
            fs::create_dir_all(self.path(&format!("{place}/{directory}"))).unwrap();
        }
        symlink(self.path(place), self.path(&format!("sys/dev/block/{number}"))).unwrap();
        number
    }

    /// What a shell prints in it, and says.
    #[track_caller]
    pub(crate) fn run(&self, shell: &[&str], arguments: &[&str]) -> (String, String) {
        let mut command = Command::new("unshare");
        command.args(unshare()).args(["sh", "-c", ENTER, "sh"]).arg(self.root()).args(shell).args(arguments);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let (told, said) = (text(output.stdout), text(output.stderr));
        assert!(output.status.success(), "{shell:?} {arguments:?}: {told}{said}");
        (told, said)
    }

    /// Has udev's helper guard a disk. Returns how it called blockdev, and of which of these places in sysfs it asked for an event.
    #[track_caller]
    pub(crate) fn guard<'a>(&self, shell: &[&str], name: &str, places: &[&'a str]) -> (Vec<String>, Vec<&'a str>) {
        self.write("files/called", b"");
        for place in places {
            self.write(&format!("sys/devices/{place}/uevent"), b"");
        }
        self.run(shell, &["/usr/libexec/failback/foreign-disk", "guard", &format!("/dev/{name}")]);
        let called = fs::read_to_string(self.path("files/called")).unwrap();
        let is_asked =
            |place: &&str| fs::read(self.path(&format!("sys/devices/{place}/uevent"))).unwrap() == b"change\n";
        (called.lines().map(str::to_owned).collect(), places.iter().copied().filter(is_asked).collect())
    }

    /// Whose udev's helper takes a disk or partition for, and what it says about it.
    #[track_caller]
    pub(crate) fn owner(&self, shell: &[&str], place: &str) -> (String, String) {
        let (told, said) = self.run(shell, &["/usr/libexec/failback/foreign-disk", "identify", place]);
        (told.strip_prefix("FAILBACK_DISK=").unwrap().trim_end().to_owned(), said)
    }
}

/// How a root of its own is made: root can, and others where the kernel lets them.
fn unshare() -> &'static [&'static str] {
    if nix::unistd::geteuid().is_root() {
        &["--mount", "--propagation", "private", "--"]
    } else {
        &["--user", "--map-root-user", "--mount", "--propagation", "private", "--"]
    }
}
