//! A machine that the installer runs on, as far as its scripts see it: a root directory of its own with this machine's programs, and
//! with files in the places of disks, of sysfs and of the kernel's command line. What would change a device is only written down.

use failback_tests::lab::{Place, is_installed, tool};
use std::env;
use std::fs::{self, File, Metadata, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;
/// A key as it stands in a .pub file.
pub(crate) const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJyOZn9vS4mPpW0hG1Zz4zqk0n7oR7QpBz1tH3uXgZ8k admin@site";

/// Runs the script in the prepared root: this machine's programs, a null device, and nothing else of it.
const ENTER: &str = r#"
set -eu
root=$1
for name in bin sbin lib lib64 share; do
    [ -d /usr/$name ] || continue
    mkdir -p "$root/usr/$name"
    mount --bind /usr/$name "$root/usr/$name"
    [ -e "$root/$name" ] || ln -s usr/$name "$root/$name"
done
for name in sysctl.d systemd/system; do
    [ ! -d "$root/own/$name" ] || mount --bind "$root/own/$name" "$root/usr/lib/$name"
done
mount --bind /dev/null "$root/dev/null"
mount --bind /dev/urandom "$root/dev/urandom"
exec chroot "$root" /usr/bin/env -i PATH=/stubs:/usr/sbin:/usr/bin /usr/bin/bash /script
"#;

/// Programs of which a call is only written down. The loop of a refusal ends, since `sleep` fails.
const STUBS: [(&str, &str); 7] = [
    ("blockdev", ""),
    ("chattr", ""),
    ("mount", "[ ! -d /on-retention ] || cp /on-retention/* \"$(for last; do :; done; echo \"$last\")\""),
    ("setfiles", ""),
    ("sleep", "exit 1"),
    ("systemctl", ""),
    ("umount", ""),
];

/// Programs that this machine may have and the installer has not: lorax removes them from its image (runtime-cleanup.tmpl).
const LACKING: [&str; 22] = [
    "base64", "chcon", "cksum", "cmp", "comm", "csplit", "diff", "expand", "file", "fold", "install", "join", "mkfifo",
    "nohup", "nproc", "printenv", "stat", "stdbuf", "stty", "timeout", "truncate", "yes",
];

/// The kickstart of a release as one file.
pub(crate) fn flattened(release: u32) -> &'static str {
    static EL9: OnceLock<String> = OnceLock::new();
    static EL10: OnceLock<String> = OnceLock::new();
    (if release == 9 { &EL9 } else { &EL10 }).get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("kickstart/flatten");
        let output = Command::new("bash").arg(script).arg(format!("el{release}")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    })
}

/// The script of the kickstart whose header begins so.
pub(crate) fn script(release: u32, header: &str) -> String {
    let text = flattened(release);
    let from = text.find(&format!("\n{header}")).unwrap_or_else(|| panic!("there is no {header}"));
    let body = text[from + 1..].split_once('\n').unwrap().1;
    body.split_once("\n%end").unwrap().0.to_owned() + "\n"
}

/// A machine to be installed.
pub(crate) struct Machine {
    place: Place,
    release: u32,
    disks: Vec<(PathBuf, Metadata)>,
}

/// How a script ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: i32,
    /// What stands on the first screen.
    pub(crate) screen: String,
    /// What stands on the serial line.
    pub(crate) serial: String,
    /// What the script printed, which goes to its log.
    pub(crate) log: String,
    /// The calls of programs that would change a device, one on each line.
    pub(crate) calls: String,
    /// The commands that the kickstart goes on with.
    pub(crate) answers: String,
}

impl Machine {
    /// A machine without disks, with one network interface, on which the installer of this release runs from its DVD; `None`, with the
    /// reason printed, where there cannot be a root of its own.
    pub(crate) fn new(release: u32) -> Option<Self> {
        let able = Command::new("unshare").args(unshare()).arg("true").stderr(Stdio::null()).status();
        let missing = ["wipefs", "blkid"]
            .into_iter()
            .find(|program| !is_installed(program))
            .map(|name| format!("{name} is not installed"));
        let reason = match able {
            Ok(status) if status.success() => missing,
            _ => Some("there is no mount namespace to be had".to_owned()),
        };
        if let Some(reason) = reason {
            println!("skipped: {reason}");
            let demanded = env::var_os("FAILBACK_REQUIRE_ROOT_TESTS").is_some_and(|value| value == "1");
            assert!(!demanded, "FAILBACK_REQUIRE_ROOT_TESTS is set, but {reason}");
            return None;
        }
        let machine = Self { place: Place::new(), release, disks: Vec::new() };
        machine.write("etc/os-release", &format!("NAME=\"CentOS Stream\"\nVERSION_ID=\"{release}\"\n"));
        machine.write("sys/class/tty/console/active", "tty0 ttyS0\n");
        machine.write("sys/class/tty/tty0/active", "tty1\n");
        for file in ["proc/swaps", "dev/null", "dev/urandom", "dev/tty1", "dev/ttyS0", "calls", "tmp/failback-pre.log"]
        {
            machine.write(file, "");
        }
        machine.write("proc/mounts", "/dev/sr0 /run/install/repo iso9660 ro 0 0\n");
        for directory in ["run/install/repo/BaseOS/repodata", "run/install/repo/failback/repodata", "sys/block", "root"]
        {
            fs::create_dir_all(machine.path(directory)).unwrap();
        }
        for (name, action) in STUBS {
            machine.stub(name, action);
        }
        // Changes nothing, and there is nobody to wait for.
        machine.write("stubs/udevadm", "#!/bin/sh\n");
        tool("chmod", &["+x".as_ref(), machine.path("stubs/udevadm").as_os_str()]);
        Some(machine.interface("ens192", "00:50:56:00:00:01"))
    }

    /// What the installer writes down instead of running it.
    pub(crate) fn stub(&self, name: &str, action: &str) {
        let text = format!("#!/bin/sh\necho \"{name} $*\" >>/calls\n{action}\n");
        self.write(&format!("stubs/{name}"), &text);
        fs::set_permissions(self.path(&format!("stubs/{name}")), Permissions::from_mode(0o755)).unwrap();
    }

    /// A name in its root.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.place.path(name)
    }

    /// A file in its root, and the directories above it.
    pub(crate) fn write(&self, name: &str, content: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// What a file in its root holds.
    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// One more network interface.
    pub(crate) fn interface(self, name: &str, address: &str) -> Self {
        self.write(&format!("sys/class/net/{name}/address"), &format!("{address}\n"));
        fs::create_dir_all(self.path(&format!("sys/class/net/{name}/device"))).unwrap();
        self
    }

    /// One more empty disk, with or without a WWID, in the place where its kind of disk shows it.
    pub(crate) fn disk(self, name: &str, size: u64, wwid: Option<&str>) -> Self {
        let sys = format!("sys/block/{name}");
        self.write(&format!("{sys}/size"), &format!("{}\n", size / 512));
        self.write(&format!("{sys}/ro"), "0\n");
        fs::create_dir_all(self.path(&format!("{sys}/holders"))).unwrap();
        if let Some(wwid) = wwid {
            let (file, text) = match name.get(..2) {
                Some("vd") => ("serial", wwid.trim_start_matches("virtio-")),
                Some("nv") => ("wwid", wwid),
                _ => ("device/wwid", wwid),
            };
            self.write(&format!("{sys}/{file}"), &format!("{text}\n"));
        }
        let device = format!("dev/{name}");
        File::create(self.path(&device)).unwrap().set_len(size).unwrap();
        self
    }

    /// Bytes on a disk.
    pub(crate) fn bytes(self, disk: &str, at: u64, bytes: &[u8]) -> Self {
        File::options().write(true).open(self.path(&format!("dev/{disk}"))).unwrap().write_all_at(bytes, at).unwrap();
        self
    }

    /// An ext4 on a disk or partition of this size, with this UUID and label.
    pub(crate) fn ext4(self, device: &str, uuid: &str, label: &str) -> Self {
        let path = self.path(&format!("dev/{device}"));
        tool("mkfs.ext4", &["-q", "-F", "-U", uuid, "-L", label, path.to_str().unwrap(), "64M"]);
        self
    }

    /// A partition of a disk.
    pub(crate) fn partition(self, disk: &str, name: &str) -> Self {
        self.write(&format!("sys/block/{disk}/{name}/partition"), "1\n");
        File::create(self.path(&format!("dev/{name}"))).unwrap().set_len(64 * MIB).unwrap();
        self
    }

    /// The arguments that the kernel was started with, after those that the boot menu has anyway.
    pub(crate) fn arguments(self, arguments: &str) -> Self {
        self.write("proc/cmdline", &format!("BOOT_IMAGE=vmlinuz inst.stage2=hd:LABEL=CentOS quiet {arguments}\n"));
        self
    }

    /// The arguments, and a key.
    pub(crate) fn with_key(self, arguments: &str) -> Self {
        self.arguments(&format!("{arguments} failback.sshkey=\"{KEY}\""))
    }

    /// Runs the script of the kickstart whose header begins so, to its end.
    pub(crate) fn run(&mut self, header: &str) -> Outcome {
        let in_installer = !header.starts_with("%post --interpreter");
        for name in LACKING.iter().filter(|_| in_installer) {
            self.stub(name, "echo >>/lacking; exit 127");
        }
        self.disks = self.devices();
        self.write("script", &script(self.release, header));
        let mut command = Command::new("unshare");
        command.args(unshare()).args(["sh", "-c", ENTER, "sh"]).arg(self.place.root());
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(!self.path("lacking").exists(), "the installer lacks a program: {}", self.read("calls"));
        let said = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Outcome {
            code: output.status.code().unwrap(),
            screen: self.read("dev/tty1"),
            serial: self.read("dev/ttyS0"),
            log: said(output.stdout) + &said(output.stderr),
            calls: self.read("calls"),
            answers: self.read("tmp/failback/answers.ks"),
        }
    }

    /// Runs the script before the installation, which must make its choice.
    #[track_caller]
    pub(crate) fn chosen(mut self) -> Outcome {
        let outcome = self.run("%pre ");
        assert_eq!(outcome.code, 0, "{}", outcome.log);
        self.is_untouched();
        outcome
    }

    /// Runs it; it must refuse with a sentence that has these words in it, on the screen and on the serial line, and touch nothing.
    #[track_caller]
    pub(crate) fn refused(mut self, words: &str) {
        let outcome = self.run("%pre ");
        assert_ne!(outcome.code, 0, "{}", outcome.log);
        let sentence =
            outcome.screen.lines().find(|line| line.starts_with("failback: ")).unwrap_or_else(|| panic!("{outcome:?}"));
        assert!(sentence.contains(words), "{words:?} is not in: {sentence}");
        for terminal in [&outcome.screen, &outcome.serial] {
            assert_eq!(terminal.matches(sentence.trim()).count(), 1, "{terminal}");
        }
        assert!(outcome.screen.contains("nothing was written to any disk"), "{}", outcome.screen);
        let others: Vec<_> = outcome.calls.lines().filter(|call| !call.starts_with("sleep ")).collect();
        assert!(others.is_empty(), "{others:?}");
        self.is_untouched();
    }

    /// No disk was written to since the script began.
    #[track_caller]
    pub(crate) fn is_untouched(&self) {
        for (path, before) in &self.disks {
            let now = fs::metadata(path).unwrap();
            let times = |about: &Metadata| {
                (about.mtime(), about.mtime_nsec(), about.ctime(), about.ctime_nsec(), about.blocks(), about.len())
            };
            assert_eq!(times(before), times(&now), "{} was written to", path.display());
        }
    }

    /// The files that stand for disks and partitions.
    fn devices(&self) -> Vec<(PathBuf, Metadata)> {
        let names = fs::read_dir(self.path("dev")).unwrap().map(|entry| entry.unwrap().path());
        let names = names.filter(|path| !["null", "urandom", "tty1", "ttyS0"].iter().any(|name| path.ends_with(name)));
        names.map(|path| (path.clone(), fs::metadata(&path).unwrap())).collect()
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
