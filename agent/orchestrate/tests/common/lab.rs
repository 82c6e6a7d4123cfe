//! A disk with a past, on simulated disks, and a command that is tried on it.

use super::drive::{Drive, Facts, LeftOut, Seen};
use super::points::Trail;
use failback_blockio::sim::Snapshot;
use failback_orchestrate::{
    Catalogue, DeltaSource, Device, Directory, JobError, Pending, PointId, Prune, ReadSeek, Reader, Root, Silent,
    Store, apply_recorded, plan_keeping, prune, resume, rollback, spool, undo, verify_point,
};
use std::collections::BTreeMap;
use std::fmt;
use std::io::Cursor;
use std::sync::{Arc, Mutex};

/// What an administrator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// The delta that leads to this state, from a file.
    Apply(usize),
    /// The same through a pipe, so that it is stored first.
    Pipe(usize),
    /// The same from a file, and the disk is read before the point is published.
    Verified(usize),
    Resume,
    Undo,
    Rollback(u64),
    Commit,
    Drop(u64),
    Merge(u64),
    Pin(u64),
    Unpin(u64),
    /// Reads the present point, and keeps its hash tree.
    Verify,
}

impl Command {
    /// The state that a delta leads to, if one is applied.
    pub const fn applies(self) -> Option<usize> {
        match self {
            Self::Apply(state) | Self::Pipe(state) | Self::Verified(state) => Some(state),
            _ => None,
        }
    }
}

/// What was before the command.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    Done(Command),
    /// Begun, and interrupted by a power loss after so many hundredths of what it changes on the target.
    Cut(Command, usize),
}

/// What kind of disk it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Content, zeroes and free space come and go.
    Mixed,
    /// The second change writes to free space alone.
    IntoFreeSpace,
    /// Content over content.
    Plain,
    /// It becomes longer and shorter.
    Resized,
    /// The first change changes nothing.
    Unchanged,
    /// The last change is one of every block, and the retention drive has less room than that may need, so that a point goes.
    Tight,
    /// Content over content on so many blocks, a third of which each delta changes: 256 make a frame.
    Wide(usize),
}

/// A disk, what was done to it before, and what is done now. Everything about it comes from here.
#[derive(Clone, Copy)]
pub struct Case {
    pub kind: Kind,
    pub seed: u64,
    pub before: &'static [Step],
    pub command: Command,
}

pub const fn case(kind: Kind, seed: u64, before: &'static [Step], command: Command) -> Case {
    Case { kind, seed, before, command }
}

/// As it stands in a test.
impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, seed, before, command } = self;
        write!(f, "case({kind:?}, {seed}, &{before:?}, {command:?})")
    }
}

/// Blocks of a small disk, and files that can be made on its retention drive.
const BLOCKS: usize = 28;
const CREATIONS: usize = 130;

impl Case {
    /// The disk before anything was done to it.
    pub fn trail(&self) -> Trail {
        let commands = self.before.iter().map(|step| match step {
            Step::Done(command) | Step::Cut(command, _) => *command,
        });
        let changes = commands.chain([self.command]).filter_map(Command::applies).max().unwrap_or_default();
        match self.kind {
            Kind::Tight => {
                let (states, free) = Trail::changed(self.seed, changes, BLOCKS);
                let mut trail = Trail::of(self.seed, states, free, CREATIONS);
                trail.rewrite_last();
                trail.policy.keep_points = Some(2);
                trail
            }
            Kind::Mixed => {
                let (states, free) = Trail::changed(self.seed, changes, BLOCKS);
                Trail::of(self.seed, states, free, CREATIONS)
            }
            Kind::IntoFreeSpace => Trail::into_free_space(self.seed, BLOCKS, CREATIONS),
            Kind::Plain => Trail::plain(self.seed, changes, BLOCKS, CREATIONS),
            Kind::Unchanged => {
                let (state, free) = Trail::changed(self.seed, 0, BLOCKS);
                Trail::of(self.seed, [&state[..], &state[..]].concat(), [&free[..], &free[..]].concat(), CREATIONS)
            }
            Kind::Resized => Trail::resized(self.seed, BLOCKS, CREATIONS),
            Kind::Wide(blocks) => Trail::plain(self.seed, changes, blocks, CREATIONS),
        }
    }

    pub fn lab(&self) -> Lab {
        Lab::new(*self)
    }
}

/// Where a command leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) present: u64,
    pub(super) points: Vec<u64>,
    pub(super) committed: u64,
}

impl End {
    pub(super) fn of(facts: Option<&Facts>) -> Self {
        let Some(facts) = facts else { return Self { present: 0, points: vec![0], committed: 0 } };
        let points: Vec<_> = facts.points.iter().map(|point| point.id.0).collect();
        Self { present: points[facts.present], points, committed: facts.committed.0 }
    }

    pub(super) fn at(&self, present: u64) -> Self {
        Self { present, ..self.clone() }
    }

    pub(super) fn up_to(&self, present: u64) -> Self {
        let points = self.points.iter().copied().filter(|point| *point <= present).collect();
        Self { present, points, ..self.clone() }
    }

    pub(super) fn with(&self, new: u64) -> Self {
        let points = self.points.iter().copied().chain([new]).collect();
        Self { present: new, points, ..self.clone() }
    }
}

/// A disk with a past, and a command that is tried on it.
pub struct Lab {
    pub case: Case,
    pub trail: Trail,
    pub(super) left_out: LeftOut,
    pub start: Snapshot,
    /// What all of the target holds at each point, byte for byte.
    pub contents: BTreeMap<u64, Vec<u8>>,
    /// The roots of the states.
    pub(super) roots: Vec<Root>,
    /// What a reader found on the retention drive after each catalogue that the command saved, from before the first one on.
    pub(super) history: Vec<Seen>,
    /// Changes that the command makes.
    pub(super) total: u64,
    /// How much the retention drive holds while the command runs, and not later.
    limit: Option<u64>,
}

impl Lab {
    fn new(case: Case) -> Self {
        let trail = case.trail();
        let start = trail.world.snapshot();
        let roots = (0..).take(trail.states.len()).map(|state| Root::of(&trail.counted(state))).collect();
        let mut lab = Self {
            case,
            trail,
            left_out: LeftOut::Nothing,
            start,
            contents: BTreeMap::new(),
            roots,
            history: Vec::new(),
            total: 0,
            limit: None,
        };
        lab.note_content();
        for step in case.before {
            match *step {
                Step::Done(command) => lab.run(command).unwrap(),
                Step::Cut(command, percent) => lab.cut(command, percent),
            }
            lab.note_content();
        }
        lab.start = lab.trail.world.snapshot();
        if case.kind == Kind::Tight {
            let delta = lab.trail.deltas.last().unwrap();
            let needed = plan_keeping(&mut Cursor::new(delta), None, &Silent).unwrap().bytes_to_keep;
            let space = lab.trail.directory.space().unwrap();
            lab.limit = Some(space.total.get() - space.available.get() + needed - 1);
        }
        lab.rehearse();
        lab
    }

    /// The same with something taken out of the program from now on.
    pub fn without(mut self, left_out: LeftOut) -> Self {
        self.left_out = left_out;
        self
    }

    /// Runs the command without trouble, and takes down what it does.
    fn rehearse(&mut self) {
        self.history = vec![Seen::now(&self.trail.directory).unwrap()];
        self.trail.world.reseed(0);
        let before = self.trail.world.mutations();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (inner, into) = (Arc::clone(&self.trail.directory), Arc::clone(&seen));
        let drive = Drive::watched(&inner.clone(), LeftOut::Nothing, move || {
            into.lock().unwrap().push(Seen::now(&inner).unwrap());
        });
        self.run_command(&self.trail.target, drive).unwrap();
        self.total = self.trail.world.mutations() - before;
        self.history.extend(std::mem::take(&mut *seen.lock().unwrap()));
        self.note_content();
    }

    /// Begins a command, and lets the power fail.
    fn cut(&mut self, command: Command, percent: usize) {
        let world = self.trail.world.clone();
        let (before, mutations) = (world.snapshot(), world.mutations());
        world.reseed(percent as u64);
        world.clear_trace();
        self.run(command).unwrap();
        self.note_content();
        let changes: Vec<_> = world
            .trace()
            .into_iter()
            .filter(|event| event.disk.as_ref() == "target")
            .map(|event| event.number)
            .collect();
        world.restore(&before);
        world.reseed(percent as u64);
        world.crash_after(changes[(changes.len() - 1) * percent / 100] - mutations);
        self.run(command).unwrap_err();
        world.reboot();
        let store = Store::open_for_reading(Arc::clone(&self.trail.directory) as Arc<dyn Directory>).unwrap();
        assert!(store.catalogue().pending().is_some(), "{command:?} at {percent}");
    }

    /// Takes down what the target holds, if it is at a point: from then on it must always be the same.
    fn note_content(&mut self) {
        let seen = Seen::now(&self.trail.directory).unwrap();
        if seen.facts.as_ref().is_some_and(|facts| facts.pending.is_some()) {
            return;
        }
        let present = End::of(seen.facts.as_ref()).present;
        assert_eq!(self.trail.wrong_at(present), None);
        let content = self.trail.target.content();
        let known = self.contents.entry(present).or_insert_with(|| content.clone());
        assert!(*known == content, "another content at point {present}");
    }

    /// Goes back to where the command begins.
    pub fn start_over(&self, seed: u64) {
        self.trail.world.restore(&self.start);
        self.trail.world.reseed(seed);
        self.trail.world.clear_trace();
    }

    /// What the catalogue says now.
    pub fn facts(&self) -> Facts {
        Seen::now(&self.trail.directory).unwrap().facts.unwrap()
    }

    /// Runs the command from its start; `watcher` is called when a catalogue has taken the place of another.
    pub fn run_watched(&self, watcher: impl FnMut() + Send + 'static) -> Result<(), JobError> {
        self.start_over(0);
        let drive = Drive::watched(&self.trail.directory, self.left_out, watcher);
        self.run_command(&*self.left_out.target(&self.trail.target), drive)
    }

    /// Gives the command that is tried.
    pub fn run_command(&self, target: &dyn Device, drive: Arc<dyn Directory>) -> Result<(), JobError> {
        self.trail.directory.limit_space(self.limit);
        let result = self.run_on(self.case.command, target, drive);
        self.trail.directory.limit_space(None);
        result
    }

    pub fn run(&self, command: Command) -> Result<(), JobError> {
        let drive = Drive::new(&self.trail.directory, self.left_out);
        self.run_on(command, &*self.left_out.target(&self.trail.target), drive)
    }

    /// Gives a command to a program that knows nothing of what was before.
    pub fn run_on(&self, command: Command, target: &dyn Device, drive: Arc<dyn Directory>) -> Result<(), JobError> {
        let trail = &self.trail;
        let (mut options, moving) = (trail.options(), trail.moving());
        options.verify = matches!(command, Command::Verified(_));
        let mut store = trail.open_in(drive)?;
        match command {
            Command::Apply(state) | Command::Verified(state) => {
                let mut delta = Cursor::new(&trail.deltas[state - 1]);
                let source = DeltaSource::Path(format!("{state}.delta"));
                apply_recorded(target, &mut delta, source, &mut store, &options, &moving, &Silent).map(drop)
            }
            Command::Pipe(state) => {
                let file = spool(&mut store, &mut trail.deltas[state - 1].as_slice(), &Silent)?;
                let stored = store.open_spool(file)?;
                let mut delta = Reader::new(stored).unwrap();
                let source = DeltaSource::Spooled(file);
                apply_recorded(target, &mut delta, source, &mut store, &options, &moving, &Silent).map(drop)
            }
            Command::Resume => {
                let by_path = match store.catalogue().pending() {
                    Some(Pending::Apply(apply)) => matches!(apply.source, DeltaSource::Path(_)),
                    _ => false,
                };
                let next = usize::try_from(store.catalogue().present().id.0).unwrap();
                let mut delta = trail.deltas.get(next).filter(|_| by_path).map(Cursor::new);
                let delta = delta.as_mut().map(|delta| delta as &mut dyn ReadSeek);
                resume(target, delta, &mut store, &options, &moving, &Silent).map(drop)
            }
            Command::Verify => {
                let present = store.catalogue().present().id;
                let check = verify_point(target, &mut store, present, true, 1, &Silent)?;
                assert!(check.report.matches());
                Ok(())
            }
            Command::Undo => undo(target, &mut store, &moving, &Silent).map(drop),
            Command::Rollback(goal) => rollback(target, &mut store, PointId(goal), false, &moving, &Silent).map(drop),
            Command::Commit => Ok(store.change(Catalogue::commit)?),
            Command::Pin(point) => Ok(store.change(|catalogue| catalogue.pin(PointId(point)))?),
            Command::Unpin(point) => Ok(store.change(|catalogue| catalogue.unpin(PointId(point)))?),
            Command::Drop(point) => {
                prune(target, &mut store, &[Prune::Drop(PointId(point))], &moving, &Silent).map(drop)
            }
            Command::Merge(point) => {
                prune(target, &mut store, &[Prune::Merge(PointId(point))], &moving, &Silent).map(drop)
            }
        }
    }
}
