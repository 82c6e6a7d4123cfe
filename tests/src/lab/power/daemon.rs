//! QEMU's storage daemon, which shows both disks as files and logs what is done to them.

use super::recording::INNER_LOG;
use crate::lab::{Mount, Place, tool};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

pub(super) const PROGRAM: &str = "qemu-storage-daemon";
/// More than a daemon needs to start or to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// A daemon, which is killed when the test loses sight of it.
struct Daemon {
    child: Child,
    told: PathBuf,
}

impl Daemon {
    /// Starts a daemon and waits until all that it exports is there.
    fn start(place: &Path, name: &str, arguments: &[String]) -> Self {
        let (told, ready) = (place.join(format!("{name}.told")), place.join(format!("{name}.pid")));
        let mut command = Command::new(PROGRAM);
        command.args(arguments).arg("--pidfile").arg(&ready).current_dir(place);
        let (output, error) = (File::create(&told).unwrap(), File::options().append(true).open(&told).unwrap());
        let child = command.stdin(Stdio::null()).stdout(output).stderr(error).spawn().unwrap();
        let mut daemon = Self { child, told };
        let end = Instant::now() + PATIENCE;
        while !ready.exists() {
            assert!(daemon.is_running() && Instant::now() < end, "{PROGRAM} does not start: {}", daemon.told());
            thread::sleep(Duration::from_millis(2));
        }
        daemon
    }

    fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    fn told(&self) -> String {
        fs::read_to_string(&self.told).unwrap_or_default()
    }

    /// Has it end in order.
    fn end(mut self) {
        assert!(self.is_running(), "{PROGRAM} ended early: {}", self.told());
        // Not waited for yet, so its number cannot belong to somebody else.
        tool("kill", &[self.child.id().to_string()]);
        let end = Instant::now() + PATIENCE;
        while self.is_running() {
            assert!(Instant::now() < end, "{PROGRAM} does not end: {}", self.told());
            thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(self.told(), "", "{PROGRAM} complained");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two disks whose writes are logged, as files: whatever goes wrong, both are gone with it.
pub(super) struct LoggedDisks {
    /// The disks, as files in a file system of the daemon's.
    pub(super) files: [PathBuf; 2],
    log: PathBuf,
    // In the order in which they are to end.
    mounts: [Mount; 2],
    disks: Daemon,
    order: Daemon,
}

impl LoggedDisks {
    /// Over these images, with names in `place`.
    ///
    /// One daemon writes the outer log, the other the disks and, through the first, their logs: QEMU allows a log one writer only,
    /// and over NBD nobody sees that there are two. Nothing is ever waited for but the page cache (`no-flush`), and so the order in
    /// which operations come to the log is that in which they were completed, and a flush covers what was completed before it.
    pub(super) fn over(images: &[PathBuf; 2], place: &Place) -> Self {
        let root = place.root();
        let files = ["0.disk", "1.disk"].map(|name| place.file(name, b""));
        let log = place.file("log", b"");
        let text = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        let mut order = text(&["--nbd-server", "addr.type=unix,addr.path=socket", "--blockdev"]);
        order.push(format!("driver=null-co,node-name=nothing,read-zeroes=on,size={}", 2 * INNER_LOG));
        order.extend(text(&["--blockdev", "driver=file,node-name=log,filename=log,cache.no-flush=on", "--blockdev"]));
        order.push("driver=blklogwrites,node-name=outer,file=nothing,log=log,log-sector-size=512".into());
        let mut disks = Vec::new();
        for (number, image) in images.iter().enumerate() {
            let offset = number as u64 * INNER_LOG;
            order.push("--blockdev".into());
            order.push(format!("driver=raw,node-name=inner{number},file=outer,offset={offset},size={INNER_LOG}"));
            order.push("--export".into());
            order.push(format!("type=nbd,id=export{number},node-name=inner{number},name=inner{number},writable=on"));
            let image = image.display();
            disks.extend([
                "--blockdev".into(),
                format!("driver=file,node-name=image{number},filename={image},discard=unmap,cache.no-flush=on"),
                "--blockdev".into(),
                format!("driver=nbd,node-name=log{number},server.type=unix,server.path=socket,export=inner{number}"),
                "--blockdev".into(),
                format!(
                    "driver=blklogwrites,node-name=disk{number},file=image{number},log=log{number},log-sector-size=512,discard=unmap"
                ),
                "--export".into(),
                format!(
                    "type=fuse,id=export{number},node-name=disk{number},mountpoint={},writable=on,growable=off",
                    files[number].display()
                ),
            ]);
        }
        let order = Daemon::start(root, "order", &order);
        let disks = Daemon::start(root, "disks", &disks);
        let mounts = files.each_ref().map(|file| Mount::taken(file));
        Self { files, log, mounts, disks, order }
    }

    /// How long the outer log is: whatever was completed by now has an entry in this part of it. Its superblock may be behind.
    pub(super) fn logged_by_now(&self) -> u64 {
        fs::metadata(&self.log).unwrap().len()
    }

    /// Ends the daemons, which renews the outer log's superblock; returns that log.
    pub(super) fn end(self) -> Vec<u8> {
        let Self { log, mounts, disks, order, .. } = self;
        drop(mounts);
        disks.end();
        order.end();
        fs::read(log).unwrap()
    }
}
