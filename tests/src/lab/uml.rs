//! A Linux kernel that runs as a process: real file systems that the machine's own kernel does not have, and power cuts
//! that hit nobody else.
//!
//! Debian's `user-mode-linux` has `ReiserFS`, XFS of both versions, JFS and btrfs built in. Its root is a directory of the
//! machine with nothing but a static busybox in it, so that a script there can reach no file but those that it was given.
//! All of it lives in a process namespace of its own: with the one process that a test started, everything is gone.

use super::device::skipped;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use std::{env, thread};
use tempfile::TempDir;

/// More than any guest may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// The kernel, and a shell and its tools in one file that needs no libraries.
const KERNEL: &str = "/usr/bin/linux.uml";
const BUSYBOX: &str = "/bin/busybox";

/// What the guest prints when its script has ended, before the exit code.
const ENDED: &str = "@@ script ended with ";

/// What the kernel prints last: the devices are shut down, and there is nothing more that it would write.
///
/// The process that it is ends all its others then, and once in 450 times (measured) goes round for ever alone afterwards.
/// So it is killed when it has said this.
const POWERED_DOWN: &str = "reboot: Power down";

/// Runs before every script. `power_cut` ends the guest at once: nothing is unmounted, and of the images nothing is written
/// that was not; only what is shared is brought home first.
const PRELUDE: &str = r"#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mkdir -p /tools /mnt /tmp
/bin/busybox mount -t tmpfs tools /tools
/bin/busybox --install -s /tools
export PATH=/tools
mount -t tmpfs tmp /tmp
power_cut() { find /share -type f -exec sync {} +; echo '@@ power cut'; echo o > /proc/sysrq-trigger; sleep 100; }
";

/// Whether there is such a kernel; `false`, with the reason printed, where a test has to be skipped.
pub fn has_uml() -> bool {
    let reason = if !nix::unistd::geteuid().is_root() {
        "this needs root"
    } else if !Path::new(KERNEL).exists() {
        "there is no user-mode kernel (package user-mode-linux)"
    } else if !is_static(Path::new(BUSYBOX)) {
        "there is no static busybox (package busybox-static)"
    } else {
        return true;
    };
    skipped(reason)
}

/// Whether a program needs no libraries: one that does names its loader in its first page.
fn is_static(program: &Path) -> bool {
    let mut page = Vec::new();
    let read = File::open(program).and_then(|file| file.take(4096).read_to_end(&mut page));
    read.is_ok() && !page.windows(8).any(|part| part == b"ld-linux")
}

/// A machine that is switched off.
pub struct Uml {
    root: TempDir,
}

/// How a script in a guest ended.
#[derive(Debug)]
pub struct GuestRun {
    /// The script's exit code; `None` where the power went first.
    pub code: Option<i32>,
    /// All that the kernel and the script printed.
    pub log: String,
}

impl Uml {
    /// With an empty directory to share.
    pub fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for directory in ["bin", "dev", "proc", "mnt", "tmp", "tools", "share"] {
            fs::create_dir(root.path().join(directory)).unwrap();
        }
        fs::copy(BUSYBOX, root.path().join("bin/busybox")).unwrap();
        Self { root }
    }

    /// A directory of the machine that the guest has as `/share`. Before a guest is killed, its script has to `sync FILE`
    /// what it wrote there.
    pub fn share(&self) -> PathBuf {
        self.root.path().join("share")
    }

    /// Boots with these images as `/dev/ubda`, `/dev/ubdb` and so on, and runs a shell script; an empty `/mnt` is there to
    /// mount on. Any command of it that fails ends it.
    #[track_caller]
    pub fn start(&self, images: &[&Path], script: &str) -> Guest {
        let init = self.root.path().join("init");
        fs::write(self.root.path().join("script"), script).unwrap();
        // Written in full and closed before it is made executable: nobody may hold it open for writing when it starts.
        let text = format!("{PRELUDE}(set -e; . /script); echo \"{ENDED}$?\"\npoweroff -f\n");
        fs::write(&init, text).unwrap();
        fs::set_permissions(&init, Permissions::from_mode(0o755)).unwrap();
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", KERNEL, "init=/init", "quiet", "mem=192M", "rw"]);
        command.args(["rootfstype=hostfs", "con=null", "con0=null,fd:1", &without_wide_registers()]);
        command.arg(format!("rootflags={}", self.root.path().display()));
        command.arg(format!("uml_dir={}", self.root.path().join("tmp").display()));
        for (number, image) in images.iter().enumerate() {
            // Opened as it will be, so that a missing image is not found out from a puzzling log.
            OpenOptions::new().read(true).write(true).open(image).unwrap();
            command.arg(format!("ubd{number}={}", image.display()));
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        Guest::start(command)
    }

    /// Boots, and waits until the script has ended or cut the power.
    #[track_caller]
    pub fn run(&self, images: &[&Path], script: &str) -> GuestRun {
        self.start(images, script).finish()
    }

    /// Boots, and wants all commands of the script to succeed.
    #[track_caller]
    pub fn done(&self, images: &[&Path], script: &str) -> String {
        let run = self.run(images, script);
        assert_eq!(run.code, Some(0), "{}", run.log);
        run.log
    }

    /// Boots, and wants the script to get as far as its `power_cut`.
    #[track_caller]
    pub fn cut(&self, images: &[&Path], script: &str) -> String {
        let run = self.run(images, script);
        assert!(run.code.is_none() && run.log.contains("@@ power cut"), "{}", run.log);
        run.log
    }
}

impl Default for Uml {
    fn default() -> Self {
        Self::new()
    }
}

/// What a guest sees on each of these images after it has recovered it: names, kinds, owners, sizes and contents. `kind`
/// is that of their file systems.
///
/// Panics where the first image could not be looked at.
pub fn recovered(kind: &str, images: &[PathBuf]) -> Vec<String> {
    let uml = Uml::new();
    let mut script = String::from("set +e\n");
    for (number, device) in (0..images.len()).zip('a'..) {
        // Whatever ends a guest early leaves its file empty.
        let text = format!(
            "if mount -t {kind} /dev/ubd{device} /mnt; then
                cd /mnt
                find . ! -type d -exec stat -c '%N %f %u:%g %s' {{}} + > /tmp/found
                find . -type f -exec md5sum {{}} + >> /tmp/found 2>&1
                cd /
                umount /mnt
                sort /tmp/found > /share/{number}
            fi
            sync\n"
        );
        script.push_str(&text);
    }
    script.push_str("true\n");
    let images: Vec<&Path> = images.iter().map(PathBuf::as_path).collect();
    // A kernel that meets garbage may stop; what it had to say until then is there.
    let run = uml.run(&images, &script);
    let seen = (0..images.len()).map(|number| fs::read_to_string(uml.share().join(number.to_string())));
    let seen: Vec<_> = seen.map(Result::unwrap_or_default).collect();
    assert!(!seen[0].is_empty(), "{}", run.log);
    seen
}

/// A machine that runs. It is killed when the test loses sight of it.
#[must_use]
pub struct Guest {
    child: Child,
    output: Receiver<Vec<u8>>,
    log: String,
    end: Instant,
}

impl Guest {
    fn start(mut command: Command) -> Self {
        let filter = old_registers_only();
        // A filter holds for the thread that asks for it and for what that starts, so this thread ends right away.
        let starting = thread::spawn(move || {
            seccompiler::apply_filter(&filter).unwrap();
            command.spawn().unwrap()
        });
        let mut child = starting.join().unwrap();
        let mut console = child.stdout.take().unwrap();
        let (sender, output) = mpsc::channel();
        thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(len @ 1..) = console.read(&mut piece) {
                if sender.send(piece[..len].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { child, output, log: String::new(), end: Instant::now() + PATIENCE }
    }

    /// Reads on; `false` at the end.
    fn read_on(&mut self) -> bool {
        match self.output.recv_timeout(self.end.saturating_duration_since(Instant::now())) {
            Ok(bytes) => {
                self.log.push_str(&String::from_utf8_lossy(&bytes));
                if self.log.contains(POWERED_DOWN) {
                    let _ = self.child.kill();
                }
            }
            Err(RecvTimeoutError::Disconnected) => return false,
            Err(RecvTimeoutError::Timeout) => panic!("the guest did not end: {}", self.log),
        }
        true
    }

    /// Waits until the guest has printed this.
    #[track_caller]
    pub fn wait_for(&mut self, words: &str) {
        while !self.log.contains(words) {
            assert!(self.read_on(), "the guest ended without {words:?}: {}", self.log);
        }
    }

    /// Takes the power away, now.
    pub fn kill(mut self) -> String {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        while self.read_on() {}
        std::mem::take(&mut self.log)
    }

    /// Waits for the end.
    pub fn finish(mut self) -> GuestRun {
        while self.read_on() {}
        self.child.wait().unwrap();
        let log = std::mem::take(&mut self.log);
        if env::var_os("FAILBACK_SHOW_GUESTS").is_some() {
            let _ = std::io::stdout().write_all(log.as_bytes());
        }
        let code = log.split_once(ENDED).and_then(|(_, rest)| rest.lines().next()?.trim().parse().ok());
        GuestRun { code, log }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lets the kernel believe that the machine can save the 512 bytes of the x87 and SSE registers only.
///
/// Linux 6.1 as a process has room for AVX at most, and ends with its first process on a machine with AVX-512, whose
/// state is larger. Where asking for that state fails it uses the old call, which works everywhere.
fn old_registers_only() -> BpfProgram {
    /// `<linux/ptrace.h>` and `<linux/elf.h>`.
    const PTRACE_GETREGSET: u64 = 0x4204;
    const NT_X86_XSTATE: u64 = 0x202;
    /// On `x86_64`, the only machine for which there is such a kernel.
    const SYS_PTRACE: i64 = 101;
    const ENODEV: u32 = 19;
    let is =
        |argument, value| SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, value).unwrap();
    let rule = SeccompRule::new(vec![is(0, PTRACE_GETREGSET), is(2, NT_X86_XSTATE)]).unwrap();
    let filter = SeccompFilter::new(
        BTreeMap::from([(SYS_PTRACE, vec![rule])]),
        SeccompAction::Allow,
        SeccompAction::Errno(ENODEV),
        seccompiler::TargetArch::x86_64,
    );
    filter.unwrap().try_into().unwrap()
}

/// The guest's programs must then not use the wider registers, which nobody saves: a word for glibc in their environment.
fn without_wide_registers() -> String {
    let features = ["XSAVE", "XSAVEC", "AVX", "AVX2", "AVX512F", "AVX512VL", "AVX512BW", "AVX_Fast_Unaligned_Load"];
    format!("GLIBC_TUNABLES=glibc.cpu.hwcaps=-{}", features.join(",-"))
}
