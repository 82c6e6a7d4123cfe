//! States after power cuts, one at a time.

use super::recording::Recording;
use super::replay::{Fate, Replay};
use super::stage::Stage;
use super::{Disks, RETENTION, TARGET};
use crate::lab::{Dice, Place};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fmt, thread};

/// States are made in groups of so many, each group from the start of the recording to its end: so that a time limit leaves out
/// moments here and there, and not the end.
const GROUP: u64 = 32;

const IMAGES: [&str; 2] = ["target.img", "retention.img"];

/// Where to keep the images of a state in which a check failed, as they were before the check.
const KEEP: &str = "FAILBACK_KEEP_POWER_STATE";

/// How many states are looked at, how long at most, and from which seed on.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// So many states, with the seeds `seed`, `seed + 1` and so on.
    pub states: u64,
    /// Whatever the number, no state is begun after so long.
    pub time: Duration,
    /// The seed of the first state. A failure tells the seed of its state.
    pub seed: u64,
}

impl Limits {
    /// The seeds of all states, in groups.
    pub(super) fn groups(self) -> impl Iterator<Item = Range<u64>> {
        let end = self.seed + self.states;
        let starts = (self.seed..end).step_by(usize::try_from(GROUP).unwrap());
        starts.map(move |start| start..end.min(start + GROUP))
    }
}

/// Both disks as they may be after a power cut: attached, mounted, and there to be changed.
#[derive(Debug)]
pub struct CrashState {
    disks: Disks,
    seed: u64,
    moment: usize,
    events: usize,
    fates: [Fate; 2],
}

impl CrashState {
    /// The target disk: a loop device.
    pub fn target(&self) -> &Path {
        self.disks.target()
    }

    /// The retention drive, mounted: its journal was replayed.
    pub fn retention(&self) -> &Path {
        self.disks.retention()
    }

    /// The seed that brings this state back.
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// Whether the power was cut after the workload had ended.
    pub fn is_after_the_workload(&self) -> bool {
        self.moment == self.events
    }
}

impl fmt::Display for CrashState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, moment, events, fates: [target, retention], .. } = self;
        write!(
            f,
            "seed {seed}: power cut after {moment} of {events} events; target: {target}; retention drive: {retention}"
        )
    }
}

/// A power cut to come.
pub(super) struct Cut {
    seed: u64,
    dice: Dice,
    /// How many events have happened by then.
    pub(super) moment: usize,
}

impl Cut {
    pub(super) fn new(recording: &Recording, seed: u64) -> Self {
        // Seeds that follow each other would have much in common.
        let mut dice = Dice::new(seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let moment = recording.moment(&mut dice);
        Self { seed, dice, moment }
    }

    /// What becomes of both disks, when its moment has come.
    pub(super) fn fates(&mut self, replay: &Replay<'_>) -> [Fate; 2] {
        [TARGET, RETENTION].map(|disk| replay.cut(disk, &mut self.dice))
    }
}

/// The images of states, one state after the other.
pub(super) struct Images {
    pub(super) paths: [PathBuf; 2],
    files: [File; 2],
}

impl Images {
    /// New ones, as large as the disks.
    pub(super) fn in_place(place: &Place, recording: &Recording) -> Self {
        let paths = IMAGES.map(|name| place.path(name));
        let files = [TARGET, RETENTION].map(|disk| {
            let file = File::create_new(&paths[disk]).unwrap();
            file.set_len(recording.base[disk].len() as u64).unwrap();
            file
        });
        Self { paths, files }
    }
}

/// Where states are shown.
pub(super) struct Screen<'a> {
    pub(super) recording: &'a Recording,
    pub(super) disks: &'a Disks,
    /// The images, attached.
    pub(super) stage: Stage,
    pub(super) images: Images,
}

impl Screen<'_> {
    /// Shows what the disks hold if the power is cut now.
    pub(super) fn show(&mut self, replay: &Replay<'_>, mut cut: Cut, check: &mut dyn FnMut(&CrashState)) {
        let fates = cut.fates(replay);
        for disk in [TARGET, RETENTION] {
            replay.write(disk, &fates[disk], &self.images.files[disk]);
        }
        let Range { start, end } = self.recording.workload;
        let (moment, events) = (cut.moment - start, end - start);
        let state = CrashState { disks: self.disks.clone(), seed: cut.seed, moment, events, fates };
        let _told = Told { state: &state, replay };
        self.stage.mount(state.retention());
        check(&state);
        self.stage.unmount();
    }
}

/// Tells of a state if its check fails, and keeps it if that is wished.
struct Told<'a> {
    state: &'a CrashState,
    replay: &'a Replay<'a>,
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        eprintln!("{}", self.state);
        let Some(directory) = env::var_os(KEEP) else {
            eprintln!("with {KEEP}=DIRECTORY the images of such a state are kept there");
            return;
        };
        for (disk, name) in IMAGES.into_iter().enumerate() {
            let path = Path::new(&directory).join(name);
            match File::create(&path) {
                Ok(file) => self.replay.write(disk, &self.state.fates[disk], &file),
                Err(error) => eprintln!("{} is not kept: {error}", path.display()),
            }
        }
    }
}
