//! The whole installation, with an ISO of CentOS's, which `FAILBACK_BASE_ISO` names. None can be had where these tests usually run.

use crate::isos::Workshop;
use failback_tests::lab::guest::{Firmware, has_firmware};
use failback_tests::lab::{hash_of, root_of_file, tool};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// What an installation may take where everything is emulated; with KVM it is some minutes.
const PATIENCE: Duration = Duration::from_secs(4 * 3600);
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJyOZn9vS4mPpW0hG1Zz4zqk0n7oR7QpBz1tH3uXgZ8k test";
const GIB: u64 = 1 << 30;

/// The ISO; `None`, with the reason printed, where there is none.
fn base_iso() -> Option<PathBuf> {
    let Some(iso) = env::var_os("FAILBACK_BASE_ISO").map(PathBuf::from) else {
        println!(
            "skipped: no CentOS ISO is here, such as CentOS-Stream-10-latest-x86_64-dvd1.iso; FAILBACK_BASE_ISO=FILE names one, and \
             `cargo test -p failback-tests --test installer_iso centos` installs it"
        );
        return None;
    };
    assert!(iso.is_file(), "FAILBACK_BASE_ISO names {}, which is no file", iso.display());
    Some(iso)
}

/// A machine with three disks on VMware's controller, which are told apart by their WWIDs only.
struct Machine {
    child: Child,
    console: PathBuf,
}

impl Machine {
    fn start(workshop: &Workshop, iso: Option<&Path>) -> Self {
        let console = workshop.place.path(if iso.is_some() { "installation.log" } else { "start.log" });
        let mut command = Command::new("qemu-system-x86_64");
        command.args([
            "-machine",
            "q35",
            "-accel",
            "kvm",
            "-accel",
            "tcg",
            "-cpu",
            "max",
            "-smp",
            "2",
            "-m",
            "4096",
            "-no-reboot",
        ]);
        command.args(["-display", "none", "-vga", "std", "-nic", "user,model=e1000e", "-device", "pvscsi,id=scsi0"]);
        command.args(["-serial", &format!("file:{}", console.display())]);
        // The system disk is the last one, so that a guess would take another.
        for (number, name) in ["data", "retention", "system"].iter().enumerate() {
            let image = workshop.place.path(name);
            command.args(["-drive", &format!("if=none,id={name},format=raw,discard=unmap,file={}", image.display())]);
            let boot = if *name == "system" { ",bootindex=1" } else { "" };
            command.args([
                "-device",
                &format!("scsi-hd,bus=scsi0.0,scsi-id={number},drive={name},wwn=0x5000c2900000000{number}{boot}"),
            ]);
        }
        if let Some(iso) = iso {
            command.args(["-drive", &format!("if=none,id=cd,format=raw,readonly=on,file={}", iso.display())]);
            command.args(["-device", "ide-cd,bus=ide.0,drive=cd,bootindex=0"]);
        }
        Self { child: command.stdin(Stdio::null()).spawn().unwrap(), console }
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.console).unwrap_or_default()).into_owned()
    }

    /// Waits until the machine has ended, or shows these words.
    #[track_caller]
    fn await_end_or(&mut self, words: Option<&str>) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ended = self.child.try_wait().unwrap().is_some();
            if words.map_or(ended, |words| self.said().contains(words)) {
                return;
            }
            let said = || self.said();
            assert!(
                !ended && !said().contains("nothing was written to any disk") && Instant::now() < deadline,
                "{}",
                said()
            );
            thread::sleep(Duration::from_secs(1));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn slow_a_whole_centos_is_installed_on_the_disk_that_is_named() {
    let Some(iso) = base_iso() else { return };
    if !has_firmware(Firmware::Bios) {
        return;
    }
    let Some(workshop) = Workshop::new() else { return };
    let data = workshop.place.ext4("data", GIB, &[Path::new("/etc/os-release")]);
    let before = root_of_file(&data);
    let system = workshop.place.sparse("system", 24 * GIB, &[]);
    let retention = workshop.place.sparse("retention", 2 * GIB, &[]);
    let arguments = format!(
        "inst.text console=ttyS0 failback.system=naa.5000c29000000002 failback.retention=format:naa.5000c29000000001 \
         failback.then=poweroff failback.sshkey=\"{KEY}\""
    );
    let output = workshop.place.path("installer.iso");
    let built = workshop.build(
        "installer",
        &["--boot-iso", iso.to_str().unwrap(), "--append", &arguments, "-o", output.to_str().unwrap()],
    );
    assert_eq!(built.code, 0, "{}", built.stderr);
    Machine::start(&workshop, Some(&output)).await_end_or(None);
    assert_eq!(before, hash_of(&data, None), "a disk of others was written to");
    let table = tool("sfdisk", &["--dump", system.to_str().unwrap()]);
    assert!(table.contains("label: gpt"), "{table}");
    let starts =
        table.lines().filter_map(|line| line.split_once("start=")?.1.split_once(',')).map(|(start, _)| start.trim());
    let offsets = starts.map(|start| start.parse::<u64>().unwrap() * 512);
    let probe =
        |at: u64| tool("sh", &["-c", &format!("blkid -p -O {at} -o value -s LABEL {} || true", system.display())]);
    let labels: Vec<_> = offsets.map(probe).collect();
    for label in ["boot", "root", "crash", "home", "swap"] {
        assert!(labels.iter().any(|found| found == label), "{label} is not in {labels:?}");
    }
    assert_eq!(tool("blkid", &["-p", "-o", "value", "-s", "LABEL", retention.to_str().unwrap()]), "FAILBACK_RET");
    // It starts by itself, and shows its state on the serial line.
    Machine::start(&workshop, None).await_end_or(Some("failback"));
    assert_eq!(before, hash_of(&data, None), "a disk of others was written to");
}
