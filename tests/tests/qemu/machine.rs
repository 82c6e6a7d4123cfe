//! Machines that boot an ISO: firmware, medium, VMware's SCSI controller and network card, all emulated.

use crate::iso::with_arguments;
use failback_tests::lab::Place;
use failback_tests::lab::guest::{Firmware, Medium, Results, boots_from};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A machine that takes longer has hung: on a busy machine, UEFI alone takes minutes.
const DEADLINE: Duration = Duration::from_secs(400);
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

/// What a job or an administrator has for naming disks and for reporting: a line of its own.
pub(crate) const TOOLS: &str = "\
    stty -F /dev/ttyS1 raw -echo\n\
    result() {\n\
        name=$1; shift; code=0\n\
        \"$@\" >/tmp/.out 2>/tmp/.err </dev/null || code=$?\n\
        sed \"s/^/$name: /\" /tmp/.err\n\
        echo \"RESULT $name $code $(base64 -w 0 /tmp/.out)- $(base64 -w 0 /tmp/.err)-\" >/dev/ttyS1\n\
    }\n\
    disk() { readlink -f \"/dev/disk/by-scsi-uuid/$1\"; }\n";

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
    place: TempDir,
}

impl Machine {
    /// With the live ISO and these boot arguments.
    pub(crate) fn new(iso: &Path, arguments: &str, firmware: Firmware, medium: Medium) -> Self {
        let place = tempfile::tempdir().unwrap();
        let with = place.path().join("live.iso");
        // On a busy machine an emulated timer looks broken to a kernel that checks it, which may then stop.
        with_arguments(iso, &format!("no_timer_check {arguments}"), &with);
        Self { iso: with, firmware, medium, disks: Vec::new(), place }
    }

    pub(crate) fn disk(mut self, disk: Attached) -> Self {
        self.disks.push(disk);
        self
    }

    /// Switches it on.
    pub(crate) fn start(self) -> RunningMachine {
        let at = |name: &str| self.place.path().join(name);
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-machine", "q35", "-cpu", "max", "-accel", "tcg", "-smp", "1", "-m", MEMORY]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        for name in ["console", "results"] {
            command.args(["-serial", &format!("file:{}", at(name).display())]);
        }
        command.args(["-qmp", &format!("unix:{},server=on,wait=off", at("qmp").display())]);
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
        // Nobody listens there for long; a test that runs beside this one asks for its own.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let network = format!("user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22");
        command.args(["-netdev", &network, "-device", "vmxnet3,netdev=net"]);
        let told = File::create(at("qemu")).unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(told).spawn().unwrap();
        RunningMachine { child, place: self.place, disks: self.disks, port, deadline: Instant::now() + DEADLINE }
    }

    /// Switches it on, and waits until it has switched itself off. Returns what was reported.
    #[track_caller]
    pub(crate) fn run(self) -> Results {
        self.start().finish()
    }
}

/// A machine under way; it loses its power when the test loses sight of it.
#[must_use]
pub(crate) struct RunningMachine {
    child: Child,
    place: TempDir,
    disks: Vec<Attached>,
    /// Where its SSH server is reached on 127.0.0.1.
    pub(crate) port: u16,
    deadline: Instant,
}

impl RunningMachine {
    /// Waits until these words stand on its console; panics if it ends or hangs before.
    #[track_caller]
    pub(crate) fn await_printed(&mut self, words: &str) {
        self.await_that(&format!("words {words:?}"), |machine| machine.console().contains(words));
    }

    /// Waits for anything; panics if the machine ends or hangs before.
    #[track_caller]
    pub(crate) fn await_that(&mut self, what: &str, mut found: impl FnMut(&Self) -> bool) {
        while !found(self) {
            assert!(self.child.try_wait().unwrap().is_none(), "it ended without {what}\n{}", self.log());
            assert!(Instant::now() < self.deadline, "it has no {what}\n{}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Plugs a disk in that was said to come later.
    pub(crate) fn plug_in(&mut self, target: u8) {
        let disk = self.disks.iter().find(|disk| disk.target == target).unwrap();
        let mut properties: serde_json::Map<_, _> =
            disk.device().into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        properties.insert("scsi-id".into(), target.into());
        let mut line = UnixStream::connect(self.place.path().join("qmp")).unwrap();
        line.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let plug = serde_json::json!({ "execute": "device_add", "arguments": properties });
        write!(line, "{{\"execute\":\"qmp_capabilities\"}}\n{plug}\n").unwrap();
        // A greeting, and one answer for each.
        let (mut told, mut byte) = (String::new(), [0]);
        while told.matches("\"return\"").count() < 2 {
            assert!(!told.contains("\"error\""), "{told}");
            line.read_exact(&mut byte).unwrap();
            told.push(byte[0].into());
        }
    }

    /// Cuts its power, with SIGKILL.
    pub(crate) fn cut_power(mut self) -> String {
        self.kill();
        self.log()
    }

    /// Waits until it has switched itself off. Returns what was reported.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Results {
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < self.deadline, "it does not end\n{}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
        Results::read(&self.read("results"), self.log())
    }

    /// What its serial line has shown.
    pub(crate) fn console(&self) -> String {
        self.read("console")
    }

    fn kill(&mut self) {
        // Not waited for yet, or ended already: its number cannot belong to somebody else.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.place.path().join(name)).unwrap_or_default()).into_owned()
    }

    fn log(&self) -> String {
        format!("{}{}", self.read("qemu"), self.console())
    }
}

impl Drop for RunningMachine {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A disk labelled `FAILBACK_JOB` with these files and the script `job`, which begins with [`TOOLS`].
pub(crate) fn job_disk(place: &Place, name: &str, script: &str, files: &[&Path]) -> PathBuf {
    let job = place.directory(&format!("{name}.job")).join("job");
    fs::write(&job, format!("{TOOLS}{script}")).unwrap();
    let files: Vec<&Path> = files.iter().copied().chain([job.as_path()]).collect();
    let disk = place.ext4(name, 96 << 20, &files);
    failback_tests::lab::tool("e2label", &[disk.as_os_str(), "FAILBACK_JOB".as_ref()]);
    disk
}
