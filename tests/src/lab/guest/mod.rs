//! Guests: a real kernel with real SCSI disks, started by QEMU for one test and gone after it.
//!
//! A guest boots Debian's kernel with an initramfs made of busybox and of what the test brings along: no distribution, no
//! network, and nothing of it is installed on this machine. It runs one script of the test, which reports with
//! `result NAME COMMAND…`. Everything is emulated (TCG), so that it runs wherever the tests do.

mod debian;
mod initramfs;
mod kernel;
mod medium;
mod results;
mod running;

use super::{has_programs, skipped, tool};
use crate::lab::program::program;
pub use debian::debian;
use initramfs::Initramfs;
use kernel::Kernel;
pub use medium::{ARGUMENTS as MEDIUM_ARGUMENTS, Firmware, Medium, boot, boots_from, has_firmware};
pub use results::Results;
pub use running::{Limits, RunningGuest};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const QEMU: &str = "qemu-system-x86_64";
/// A busy machine needs half a minute, and none of these scripts is silent for long.
const LIMITS: Limits = Limits { total: Duration::from_secs(110), silence: Duration::from_secs(80) };
const INIT: &str = include_str!("init.sh");
/// `result NAME COMMAND…` for scripts of the shell, which reports to the test over the second serial line.
pub const REPORT: &str = include_str!("report.sh");

/// How a disk is attached to a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    /// VMware's paravirtual SCSI controller; module `vmw_pvscsi`.
    Pvscsi,
    /// virtio's SCSI controller; modules `virtio_pci` and `virtio_scsi`.
    VirtioScsi,
    /// virtio's block device; modules `virtio_pci` and `virtio_blk`.
    VirtioBlock,
    /// `NVMe`; module `nvme`.
    Nvme,
}

/// A disk of a guest.
#[derive(Clone, Debug)]
#[must_use]
pub struct GuestDisk {
    image: PathBuf,
    bus: Bus,
    serial: Option<String>,
    wwn: Option<u64>,
    scsi_version: Option<u8>,
    writes_per_second: Option<u64>,
    is_kept: bool,
    is_inserted: bool,
}

impl GuestDisk {
    /// A raw image, which the guest writes to.
    pub fn new(bus: Bus, image: &Path) -> Self {
        let image = image.to_owned();
        let (is_kept, is_inserted) = (true, true);
        Self { image, bus, serial: None, wwn: None, scsi_version: None, writes_per_second: None, is_kept, is_inserted }
    }

    /// As a SCSI reader of cards, in which the image is only when the test has [inserted](RunningGuest::insert) it.
    pub fn empty(mut self) -> Self {
        self.is_inserted = false;
        self
    }

    /// What the guest writes is thrown away at its end; the image stays as it is.
    pub fn throwaway(mut self) -> Self {
        self.is_kept = false;
        self
    }

    /// As a SCSI disk with a name on VPD page 0x83 (NAA): what sysfs has as its `wwid`.
    pub fn wwn(mut self, wwn: u64) -> Self {
        self.wwn = Some(wwn);
        self
    }

    /// With a serial number: what a SCSI disk shows on VPD page 0x80.
    pub fn serial(mut self, serial: &str) -> Self {
        self.serial = Some(serial.to_owned());
        self
    }

    /// As a SCSI disk that calls itself of this version of the standard: of one below 3, Linux does not ask for VPD pages.
    pub fn scsi_version(mut self, version: u8) -> Self {
        self.scsi_version = Some(version);
        self
    }

    /// As a slow disk that takes so many bytes in a second: what is written stays in flight for a while.
    pub fn slow(mut self, bytes_per_second: u64) -> Self {
        self.writes_per_second = Some(bytes_per_second);
        self
    }

    /// QEMU's arguments for the disk that is attached at place `index`.
    fn arguments(&self, index: usize) -> [String; 4] {
        let serial = self.serial.as_ref().map(|serial| format!(",serial={serial}")).unwrap_or_default();
        let image = self.image.display();
        let slow = self.writes_per_second.map(|bytes| format!(",throttling.bps-write={bytes}")).unwrap_or_default();
        let kept = if self.is_kept { "" } else { ",snapshot=on" };
        let drive = if self.is_inserted {
            format!("if=none,id=drive{index},format=raw,cache=writeback,discard=unmap,file={image}{slow}{kept}")
        } else {
            format!("if=none,id=drive{index}")
        };
        let removable = if self.is_inserted { "" } else { ",removable=on" };
        let version = self.scsi_version.map(|version| format!(",scsi_version={version}")).unwrap_or_default();
        let wwn = self.wwn.map(|wwn| format!(",wwn={wwn:#x}")).unwrap_or_default();
        let on_scsi = |bus| {
            format!(
                "scsi-hd,bus={bus}.0,channel=0,scsi-id={index},lun=0,drive=drive{index},vendor=VMware,product=Virtual disk{serial}{wwn}{version}{removable}"
            )
        };
        let device = match self.bus {
            Bus::Pvscsi => on_scsi("pvscsi"),
            Bus::VirtioScsi => on_scsi("virtioscsi"),
            Bus::VirtioBlock => format!("virtio-blk-pci,drive=drive{index}{serial}"),
            // QEMU demands a serial number here.
            Bus::Nvme => format!("nvme,drive=drive{index},serial={}", self.serial.as_deref().unwrap_or("none")),
        };
        ["-drive".into(), drive, "-device".into(), device]
    }
}

/// A guest to be started.
#[must_use]
pub struct Guest {
    kernel: Kernel,
    limits: Limits,
    arguments: Vec<String>,
    modules: Vec<String>,
    disks: Vec<GuestDisk>,
    files: BTreeMap<String, Vec<u8>>,
}

impl Guest {
    /// A guest with busybox and nothing else; `None`, with the reason printed, where this machine cannot have one.
    pub fn new() -> Option<Self> {
        if !has_programs(&[QEMU, "busybox", "modinfo", "strip"]) {
            return None;
        }
        let kernel = Kernel::get().map_err(|reason| skipped(&reason)).ok()?;
        let (arguments, modules, disks) = (Vec::new(), Vec::new(), Vec::new());
        let guest = Self { kernel, limits: LIMITS, arguments, modules, disks, files: BTreeMap::new() };
        Some(guest.program("/bin/busybox", &which("busybox")))
    }

    /// Loads these kernel modules and what they need, in this order, before the script runs.
    pub fn modules(mut self, names: &[&str]) -> Self {
        self.modules.extend(names.iter().map(ToString::to_string));
        self
    }

    /// Takes longer than others until its end, and may be silent for half of that.
    pub fn patience(mut self, total: Duration) -> Self {
        self.limits = Limits { total, silence: total / 2 };
        self
    }

    /// Gives the kernel one more argument.
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// One more disk.
    pub fn disk(mut self, disk: GuestDisk) -> Self {
        self.disks.push(disk);
        self
    }

    /// Brings a file along, which can be run.
    pub fn file(mut self, path: &str, content: &[u8]) -> Self {
        self.files.insert(path.to_owned(), content.to_vec());
        self
    }

    /// Brings a program of this machine along, with the libraries that it is linked with and without its debug information.
    pub fn program(mut self, path: &str, program: &Path) -> Self {
        let place = tempfile::tempdir().unwrap();
        let stripped = place.path().join("stripped");
        tool("strip", &[OsStr::new("--strip-debug"), "-o".as_ref(), stripped.as_os_str(), program.as_os_str()]);
        self.files.insert(path.to_owned(), fs::read(stripped).unwrap());
        // Fails for a program that is linked with none.
        let told = super::try_tool("ldd", &[program]);
        let told = String::from_utf8(told.stdout).unwrap();
        for library in told.split_ascii_whitespace().filter(|word| word.starts_with('/')) {
            self.files.entry(library.to_owned()).or_insert_with(|| fs::read(library).unwrap());
        }
        self
    }

    /// Brings the program that is tested along, as `failback`.
    pub fn failback(self) -> Self {
        self.program("/bin/failback", program())
    }

    /// Starts it with this script of the shell, for tests that do something to it while it runs.
    pub fn start(self, script: &str) -> RunningGuest {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        fs::write(at("initramfs"), self.initramfs(script)).unwrap();
        let mut command = Command::new(which(QEMU));
        command.args(["-machine", "q35", "-cpu", "max", "-accel", "tcg", "-smp", "1", "-m", "512"]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        command.args(["-kernel".as_ref(), self.kernel.image.as_os_str()]);
        command.args(["-initrd".as_ref(), at("initramfs").as_os_str()]);
        // On a busy machine the kernel finds a sound timer broken, does without it, and hangs when it is idle.
        let always = "console=ttyS0 quiet panic=-1 no_timer_check rdinit=/init";
        let arguments = format!("{always} {}", self.arguments.join(" "));
        command.args(["-append", &arguments]);
        for (bus, controller) in [(Bus::Pvscsi, "pvscsi,id=pvscsi"), (Bus::VirtioScsi, "virtio-scsi-pci,id=virtioscsi")]
        {
            if self.disks.iter().any(|disk| disk.bus == bus) {
                command.args(["-device", controller]);
            }
        }
        for (index, disk) in self.disks.iter().enumerate() {
            command.args(disk.arguments(index));
        }
        RunningGuest::start(command, place, self.limits)
    }

    /// Runs it with this script of the shell to its end.
    #[track_caller]
    pub fn run(self, script: &str) -> Results {
        self.start(script).finish()
    }

    /// A kernel, and an initramfs that runs this script of the shell, for a medium that a machine [boots](boot) from. Disks are the
    /// machine's.
    pub fn for_medium(&self, script: &str) -> (PathBuf, Vec<u8>) {
        (self.kernel.image.clone(), self.initramfs(script))
    }

    fn initramfs(&self, script: &str) -> Vec<u8> {
        let mut archive = Initramfs::new();
        archive.file("init", INIT.as_bytes());
        archive.file("report", REPORT.as_bytes());
        archive.file("script", script.as_bytes());
        let mut order = String::new();
        for path in self.kernel.with_dependencies(&self.modules) {
            let name = path.file_name().unwrap().to_str().unwrap();
            archive.file(&format!("modules/{name}"), &fs::read(&path).unwrap());
            order.push_str(name);
            order.push('\n');
        }
        archive.file("modules/order", order.as_bytes());
        for (path, content) in &self.files {
            archive.file(path, content);
        }
        archive.finish()
    }
}

fn which(program: &str) -> PathBuf {
    PathBuf::from(tool("sh", &["-c", &format!("command -v {program}")]))
}
