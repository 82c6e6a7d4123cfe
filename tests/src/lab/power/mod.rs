//! Power cuts under the real program: what it leaves behind on a real file system and a real block device.
//!
//! A [`PowerLab`] has two disks: a target, which is a loop device, and a retention drive with ext4, which is mounted. While a
//! workload is recorded, all writes and flushes of both go through QEMU's storage daemon, which logs them in one order; then the
//! disks are built anew as they may be after a power cut at any moment of it, and a check looks at them, and may run whatever it
//! likes. No kernel module takes part.
//!
//! ```text
//! recorded:   program ─┬─ loop ───────── FUSE ── log of the target ──────────┬── outer log
//!                      └─ ext4 ── loop ── FUSE ── log of the retention drive ─┘
//! seen:       the disks before + outer log ── images in memory ── loop, and ext4 on loop ── check
//! ```
//!
//! # What it shows, and what not
//!
//! - A disk keeps what it had completed when it was asked to flush. Of what it was asked to write later, any part may survive, in
//!   any order and torn at 512 bytes; each disk on its own, so that a flush of one is no flush of the other.
//! - What a program has in its memory, and the kernel in its page cache, is lost, as it is with real power.
//! - An operation comes to the log when it was completed. One that the power cut caught in flight is seen before it and after it,
//!   and torn once it is in the log.
//! - The disks do what they promise: nothing that was flushed is lost, no sector is half written, and no other is hurt.
//! - It is one run of the program that is cut at many moments. The simulated disks of `failback-blockio` show many more.

mod daemon;
mod format;
mod log;
mod recording;
mod replay;
mod stage;
mod states;

use super::device::skipped;
use super::{Place, has_devices, tool, try_tool};
use daemon::LoggedDisks;
use recording::Recording;
use replay::Replay;
use stage::Stage;
use states::{Cut, Images, Screen};
use std::cell::Cell;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;

pub use states::{CrashState, Limits};

const TARGET: usize = 0;
const RETENTION: usize = 1;

/// Whether this machine can have a power lab; `false`, with the reason printed, where a test has to be skipped. The test then runs
/// in a mount namespace of its own: see [`run_inside`](super::run_inside).
pub fn has_power_lab() -> bool {
    if !has_devices() {
        return false;
    }
    if !Path::new("/dev/fuse").exists() {
        return skipped("there is no FUSE");
    }
    let there = try_tool("sh", &["-c", &format!("command -v {}", daemon::PROGRAM)]).status.success();
    if !there {
        return skipped("qemu-storage-daemon is not installed; scripts/setup test installs it");
    }
    // Some distributions leave drivers out; one that is there wants to know its file.
    let told = try_tool(daemon::PROGRAM, &["--blockdev", "driver=blklogwrites,node-name=log"]).stderr;
    String::from_utf8_lossy(&told).contains("'file'") || skipped("this qemu-storage-daemon has no driver blklogwrites")
}

/// What a workload and a check work on: the same paths each time.
#[derive(Clone, Debug)]
pub struct Disks {
    devices: [PathBuf; 2],
    /// Where the second is mounted.
    retention: PathBuf,
}

impl Disks {
    /// The target disk: a loop device.
    pub fn target(&self) -> &Path {
        &self.devices[TARGET]
    }

    /// The retention drive: a directory on which its ext4 is mounted.
    pub fn retention(&self) -> &Path {
        &self.retention
    }
}

/// Two disks of which a workload is recorded, and seen after many power cuts.
///
/// It belongs into a mount namespace of its own. All that it took is given back when it goes, also when a test fails.
pub struct PowerLab {
    // In the order in which they are to end. Between its methods the devices are attached to the images, so that nobody else
    // takes them.
    stage: Cell<Option<Stage>>,
    /// On a real file system.
    place: Place,
    images: [PathBuf; 2],
    disks: Disks,
    recording: Option<Recording>,
}

impl PowerLab {
    /// With an empty target of `target` bytes and an empty file system in `retention` bytes, 16 MiB at least. Both are held in
    /// memory several times, so they are to be of a few hundred MiB at most.
    pub fn new(target: u64, retention: u64) -> Self {
        let place = Place::new();
        let images = [place.sparse("target.img", target, &[]), place.sparse("retention.img", retention, &[])];
        // Blocks as on a large drive; and nothing that the kernel would write later, on its own.
        let options = ["-q", "-b", "4096", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"];
        tool("mkfs.ext4", &[&options.map(AsRef::as_ref)[..], &[images[RETENTION].as_os_str()]].concat());
        let stage = Stage::attach(&images);
        let disks = Disks { devices: stage.names(), retention: place.directory("retention") };
        Self { stage: Cell::new(Some(stage)), place, images, disks, recording: None }
    }

    /// The paths that workloads and checks get.
    pub const fn disks(&self) -> &Disks {
        &self.disks
    }

    /// Attaches the devices to these images, and lets go of those that they are attached to.
    fn attach(&self, images: &[PathBuf; 2]) -> Stage {
        drop(self.stage.take());
        Stage::attach_as(&self.disks.devices, images)
    }

    /// Has something done that is not recorded: what the power cuts find there. All of it is durable afterwards.
    pub fn prepare(&self, work: impl FnOnce(&Disks)) {
        let mut stage = self.attach(&self.images);
        stage.mount(self.disks.retention());
        work(&self.disks);
        stage.unmount();
        self.stage.set(Some(stage));
    }

    /// Records what `work` has done to the disks. Power cuts happen while it runs, and at its end. What is recorded next begins
    /// where this ended.
    pub fn record(&mut self, work: impl FnOnce(&Disks)) {
        let base = self.images.each_ref().map(|image| fs::read(image).unwrap());
        let logged = LoggedDisks::over(&self.images, &self.place);
        let mut stage = self.attach(&logged.files);
        stage.mount(self.disks.retention());
        let start = logged.logged_by_now();
        work(&self.disks);
        let end = logged.logged_by_now();
        stage.unmount();
        drop(stage);
        self.stage.set(Some(self.attach(&self.images)));
        self.recording = Some(Recording::new(base, logged.end(), &(start..end)).unwrap());
    }

    fn recording(&self) -> &Recording {
        self.recording.as_ref().expect("nothing was recorded")
    }

    /// Shows `check` the disks after power cuts; returns how many there were, and prints it. A check that panics fails the test, and
    /// then its state is told.
    pub fn crash_states(&self, limits: Limits, mut check: impl FnMut(&CrashState)) -> u64 {
        let recording = self.recording();
        let memory = Place::in_memory();
        let images = Images::in_place(&memory, recording);
        let mut screen = Screen { recording, disks: &self.disks, stage: self.attach(&images.paths), images };
        let start = Instant::now();
        let mut shown = 0;
        'all: for group in limits.groups() {
            let mut cuts: Vec<_> = group.map(|seed| Cut::new(recording, seed)).collect();
            cuts.sort_by_key(|cut| cut.moment);
            let mut replay = Replay::new(recording);
            for cut in cuts {
                if start.elapsed() >= limits.time {
                    break 'all;
                }
                replay.advance(cut.moment);
                screen.show(&replay, cut, &mut check);
                shown += 1;
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        println!("{shown} of {} power cuts in {seconds:.1} s, seed {}", limits.states, limits.seed);
        drop(screen);
        self.stage.set(Some(self.attach(&self.images)));
        shown
    }

    /// Goes on from the state of this seed: what is prepared or recorded next begins with what that power cut left, its journal
    /// replayed. So a recovery can lose its power too.
    pub fn continue_from(&mut self, seed: u64) {
        let recording = self.recording();
        let mut cut = Cut::new(recording, seed);
        let mut replay = Replay::new(recording);
        replay.advance(cut.moment);
        for (disk, fate) in cut.fates(&replay).iter().enumerate() {
            replay.write(disk, fate, &File::options().write(true).open(&self.images[disk]).unwrap());
        }
        self.recording = None;
        self.prepare(|_| {});
    }
}
