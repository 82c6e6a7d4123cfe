//! Machines that boot an ISO: firmware, medium, VMware's SCSI controller and network card, all emulated.

use crate::iso::with_arguments;
use failback_tests::lab::guest::{Firmware, Limits, Medium, REPORT, Results, RunningGuest, boots_from};
use failback_tests::lab::{Place, Port};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// On a busy machine UEFI alone takes minutes, and GRUB reads kernel and initrd in silence. A test that starts several machines one
/// after the other has a deadline of its own in .config/nextest.toml: it must not come before this one, which shows the console.
const LIMITS: Limits = Limits { total: Duration::from_secs(400), silence: Duration::from_secs(150) };
/// How much memory it has. The target is 256 MiB when idle; this is what is then left for an apply.
const MEMORY: &str = "512";

/// The form of VMware's serial numbers: what the SCSI UUID of a VMDK looks like.
pub(crate) fn uuid(disk: u8) -> String {
    format!("6000c2999176dd776e01234567{:06x}", 0x0089_ab00 + u32::from(disk))
}

/// The WWID of a disk that is to be the appliance's own, as the kernel shows it.
pub(crate) fn wwid(disk: u8) -> String {
    format!("naa.{:016x}", wwn(disk))
}

fn wwn(disk: u8) -> u64 {
    0x5000_c290_0000_0000 + u64::from(disk)
}

/// What a job has for naming disks, beside [`REPORT`].
const DISK: &str = "disk() { readlink -f \"/dev/disk/by-scsi-uuid/$1\"; }\n";

/// What QEMU calls the network of a card.
fn card_name(number: usize) -> String {
    format!("net{number}")
}

/// A disk on the SCSI controller.
#[derive(Clone, Debug)]
pub(crate) struct Attached {
    image: PathBuf,
    target: u8,
    serial: Option<String>,
    writes_per_second: Option<u64>,
    own: bool,
    later: bool,
}

impl Attached {
    /// At this target, with the UUID of this number. The name says whether it is a VMDK.
    pub(crate) fn new(image: &Path, target: u8) -> Self {
        let serial = Some(uuid(target));
        Self { image: image.to_owned(), target, serial, writes_per_second: None, own: false, later: false }
    }

    /// As a VM shows it without `disk.EnableUUID`.
    pub(crate) fn without_uuid(mut self) -> Self {
        self.serial = None;
        self
    }

    /// With a [`wwid`] as well: QEMU shows a serial number in a form of which the kernel makes none, other than VMware.
    pub(crate) fn own(mut self) -> Self {
        self.own = true;
        self
    }

    /// As a disk that takes so many bytes in a second.
    pub(crate) fn slow(mut self, bytes_per_second: u64) -> Self {
        self.writes_per_second = Some(bytes_per_second);
        self
    }

    /// Not there at first: see [`RunningMachine::plug_in`].
    pub(crate) fn later(mut self) -> Self {
        self.later = true;
        self
    }

    fn drive(&self) -> String {
        let format = if self.image.extension().is_some_and(|it| it == "vmdk") { "vmdk" } else { "raw" };
        let slow = self.writes_per_second.map(|bytes| format!(",throttling.bps-write={bytes}")).unwrap_or_default();
        let image = self.image.display();
        format!("if=none,id=d{},format={format},cache=writeback,discard=unmap,file={image}{slow}", self.target)
    }

    fn device(&self) -> Vec<(&'static str, String)> {
        let mut properties = vec![
            ("driver", "scsi-hd".into()),
            ("id", format!("disk{}", self.target)),
            ("bus", "pvscsi.0".into()),
            ("drive", format!("d{}", self.target)),
            ("vendor", "VMware".into()),
            ("product", "Virtual disk".into()),
        ];
        properties.extend(self.serial.clone().map(|serial| ("serial", serial)));
        properties.extend(self.own.then(|| ("wwn", wwn(self.target).to_string())));
        properties
    }
}

/// A machine that is switched off.
#[must_use]
pub(crate) struct Machine {
    iso: PathBuf,
    firmware: Firmware,
    medium: Medium,
    disks: Vec<Attached>,
    cards: usize,
    ports: Option<Arc<[Port; 2]>>,
    place: TempDir,
}

impl Machine {
    /// With the live ISO and these boot arguments.
    pub(crate) fn new(iso: &Path, arguments: &str, firmware: Firmware, medium: Medium) -> Self {
        let place = tempfile::tempdir().unwrap();
        let with = place.path().join("live.iso");
        // On a busy machine an emulated timer looks broken to a kernel that checks it, which may then stop.
        with_arguments(iso, &format!("no_timer_check {arguments}"), &with);
        Self { iso: with, firmware, medium, disks: Vec::new(), cards: 1, ports: None, place }
    }

    /// With more arguments, as somebody types them in GRUB's menu: no builder has seen them. They take no quotes.
    pub(crate) fn typed(self, arguments: &str) -> Self {
        let mut bytes = fs::read(&self.iso).unwrap();
        let line = b"linux $kernel 'no_timer_check'";
        let at = bytes.windows(line.len()).position(|found| found == line).unwrap() + line.len();
        // What is added takes the place of padding: the file keeps its length.
        let end = at + bytes[at..].iter().position(|byte| *byte == b'}').unwrap() + 2;
        let more = format!(" {arguments}");
        assert!(bytes[end..end + more.len()].iter().all(|byte| *byte == b' '), "there is no room");
        bytes.copy_within(at..end, at + more.len());
        bytes[at..at + more.len()].copy_from_slice(more.as_bytes());
        fs::write(&self.iso, bytes).unwrap();
        self
    }

    pub(crate) fn disk(mut self, disk: Attached) -> Self {
        self.disks.push(disk);
        self
    }

    /// With so many network cards.
    pub(crate) fn cards(mut self, cards: usize) -> Self {
        self.cards = cards;
        self
    }

    /// Reached at these ports of 127.0.0.1: its SSH server, and where sources connect.
    pub(crate) fn at(mut self, ports: Arc<[Port; 2]>) -> Self {
        self.ports = Some(ports);
        self
    }

    /// Switches it on.
    pub(crate) fn start(self) -> RunningMachine {
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-machine", "q35", "-cpu", "max", "-accel", "tcg", "-smp", "1", "-m", MEMORY]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        boots_from(&mut command, &self.iso, self.firmware, self.medium, self.place.path());
        command.args(["-device", "pvscsi,id=pvscsi"]);
        for disk in &self.disks {
            command.args(["-drive", &disk.drive()]);
            if !disk.later {
                let properties = disk.device().into_iter().map(|(name, value)| format!("{name}={value}"));
                let properties: Vec<_> = properties.chain([format!("scsi-id={}", disk.target)]).collect();
                command.args(["-device", &properties.join(",")]);
            }
        }
        let ports = self.ports.unwrap_or_else(|| Arc::new([Port::reserve(), Port::reserve()]));
        let [port, data_port] = [&ports[0], &ports[1]].map(Port::number);
        for number in 0..self.cards {
            let forward = |from, to| format!(",hostfwd=tcp:127.0.0.1:{from}-:{to}");
            let forwarded = if number == 0 { forward(port, 22) + &forward(data_port, 9443) } else { String::new() };
            let name = card_name(number);
            command.args(["-netdev", &format!("user,id={name},restrict=on{forwarded}")]);
            command.args(["-device", &format!("vmxnet3,netdev={name}")]);
        }
        let guest = RunningGuest::start(command, self.place, LIMITS);
        RunningMachine { guest, disks: self.disks, ports, port, data_port }
    }

    /// Switches it on, and waits until it has switched itself off. Returns what was reported.
    #[track_caller]
    pub(crate) fn run(self) -> Results {
        self.start().guest.await_end()
    }
}

/// A machine under way; it loses its power when the test loses sight of it.
#[must_use]
pub(crate) struct RunningMachine {
    pub(crate) guest: RunningGuest,
    disks: Vec<Attached>,
    /// What it holds of this machine's ports: those below.
    pub(crate) ports: Arc<[Port; 2]>,
    /// Where its SSH server is reached on 127.0.0.1.
    pub(crate) port: u16,
    /// Where sources connect to it.
    pub(crate) data_port: u16,
}

impl RunningMachine {
    /// Plugs a disk in that was said to come later.
    pub(crate) fn plug_in(&mut self, target: u8) {
        let disk = self.disks.iter().find(|disk| disk.target == target).unwrap();
        let mut properties: serde_json::Map<_, _> =
            disk.device().into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        properties.insert("scsi-id".into(), target.into());
        self.guest.tell_qemu("device_add", &properties.into());
    }

    /// Plugs the cable of a network card in, or takes it out.
    pub(crate) fn cable(&mut self, card: usize, is_in: bool) {
        self.guest.tell_qemu("set_link", &serde_json::json!({ "name": card_name(card), "up": is_in }));
    }

    /// Presses keys on its keyboard, all at once; names are those of QEMU.
    pub(crate) fn press(&mut self, keys: &[&str]) {
        let keys: Vec<_> = keys.iter().map(|key| serde_json::json!({ "type": "qcode", "data": key })).collect();
        self.guest.tell_qemu("send-key", &serde_json::json!({ "keys": keys }));
    }
}

/// A disk labelled `FAILBACK_JOB` with these files and the script `job`, which can report and name disks.
pub(crate) fn job_disk(place: &Place, name: &str, script: &str, files: &[&Path]) -> PathBuf {
    let job = place.directory(&format!("{name}.job")).join("job");
    fs::write(&job, format!("stty -F /dev/ttyS1 raw -echo\n{REPORT}{DISK}{script}")).unwrap();
    let files: Vec<&Path> = files.iter().copied().chain([job.as_path()]).collect();
    let disk = place.ext4(name, 96 << 20, &files);
    failback_tests::lab::tool("e2label", &[disk.as_os_str(), "FAILBACK_JOB".as_ref()]);
    disk
}
