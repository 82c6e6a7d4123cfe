//! A target, a retention drive, and a trail of changes, in one simulated world.

use super::{delta_used, noise, signature_used};
use failback_blockio::sim::{SimDisk, Snapshot, World};
use failback_blockio::{Buffer, Device, Operation, run};
use failback_delta::{Content, DeltaReader, Identity, Item};
use failback_orchestrate::{
    ApplyOptions, DeltaSource, DiskBinding, JobError, MoveOptions, Pace, PointId, PointReport, Policy, Proven, Root,
    Silent, Store, TravelReport, apply_recorded, export_delta, resume, rollback, undo, unknown_point,
};
use failback_retention::sim::SimDirectory;
use failback_retention::{Direction, Directory, Disk, StoreError};
use failback_units::{ByteCount, ByteOffset};
use std::io::Cursor;
use std::sync::Arc;

const BLOCK: usize = 4096;
/// Bytes of the target behind every state, which nobody may touch.
const TAIL: usize = 2 * BLOCK;
pub const BINDING: [u8; 32] = [7; 32];

/// States of a disk, from the base on, and the deltas between neighbours.
pub struct Trail {
    pub world: World,
    pub target: SimDisk,
    pub directory: Arc<SimDirectory>,
    pub states: Vec<Vec<u8>>,
    /// For each state which blocks are free; what those hold in `states` is what they hold on a disk that nothing touched.
    pub free: Vec<Vec<bool>>,
    pub deltas: Vec<Vec<u8>>,
    pub start: Snapshot,
    pub pace: Pace,
    pub policy: Policy,
    /// Whether an apply reads the disk in the end.
    pub verify: bool,
}

impl Trail {
    pub fn new(seed: u64, changes: usize) -> Self {
        Self::sized(seed, changes, 120)
    }

    /// Disks of so many blocks and a ragged end, changed in about a third of their blocks each time: content, zeroes, free space.
    pub fn sized(seed: u64, changes: usize, blocks: usize) -> Self {
        let (states, free) = Self::changed(seed, changes, blocks);
        Self::of(seed, states, free, 400)
    }

    /// The states of such disks, and which of their blocks are free.
    pub fn changed(seed: u64, changes: usize, blocks: usize) -> (Vec<Vec<u8>>, Vec<Vec<bool>>) {
        let len = blocks * BLOCK + 777;
        let all = blocks + 1;
        let dice = noise(seed ^ 0xD1CE, all * (changes + 1) * 2);
        let roll = |state: usize, block: usize, sides: u8| dice[(state * all + block) * 2] % sides;
        let mut states = vec![noise(seed, len)];
        let mut free = vec![(0..all).map(|block| roll(0, block, 6) == 0).collect::<Vec<_>>()];
        for state in 1..=changes {
            let (mut disk, mut map) = (states[state - 1].clone(), free[state - 1].clone());
            for (block, content) in disk.chunks_mut(BLOCK).enumerate() {
                let fresh = noise(seed.wrapping_mul(1000) + (state * all + block) as u64, content.len());
                match roll(state, block, 15) {
                    0..=2 => {
                        map[block] = false;
                        content.copy_from_slice(&fresh);
                    }
                    3 => {
                        map[block] = false;
                        content.fill(0);
                    }
                    4 => map[block] = true,
                    _ => {}
                }
            }
            states.push(disk);
            free.push(map);
        }
        (states, free)
    }

    /// The disks of `states`, with these blocks free, and a retention drive on which so many files can be made.
    pub fn of(seed: u64, states: Vec<Vec<u8>>, free: Vec<Vec<bool>>, creations: usize) -> Self {
        let deltas = (1..states.len())
            .map(|state| {
                let signature = signature_used(&states[state - 1], Some(&free[state - 1]));
                delta_used(&signature, &states[state], Some(&free[state]))
            })
            .collect();
        let len = states.iter().map(Vec::len).max().unwrap();
        let world = World::new(seed);
        let target = world.disk("target", ByteCount::of_memory(len + TAIL), 512);
        target.write_durably(ByteOffset::ZERO, &states[0]);
        target.write_durably(ByteOffset::new(len as u64).unwrap(), &[0xEE; TAIL]);
        let directory = Arc::new(SimDirectory::new(&world, "retention", creations));
        let start = world.snapshot();
        let pace = Pace { frames_in_batch: 1, batches_in_window: 2 };
        let policy = Policy::default();
        Self { world, target, directory, states, free, deltas, start, pace, policy, verify: false }
    }

    /// Makes the last change one of every block.
    pub fn rewrite_last(&mut self) {
        let last = self.states.len() - 1;
        self.states[last] = noise(last as u64, self.states[0].len());
        self.free[last].fill(false);
        let signature = signature_used(&self.states[last - 1], Some(&self.free[last - 1]));
        self.deltas[last - 1] = delta_used(&signature, &self.states[last], Some(&self.free[last]));
    }

    /// The length of the target: the largest state fits, with a tail behind it.
    /// A trail whose second change writes nothing but what was free: nothing that its delta replaces tells of the disk.
    pub fn into_free_space(seed: u64, blocks: usize, creations: usize) -> Self {
        let (mut states, mut free) = Self::changed(seed, 1, blocks);
        let (mut disk, mut map) = (states[1].clone(), free[1].clone());
        for (number, (block, free)) in disk.chunks_mut(BLOCK).zip(&mut map).enumerate() {
            if std::mem::take(free) {
                block.copy_from_slice(&noise(seed + 77 + number as u64, block.len()));
            }
        }
        states.push(disk);
        free.push(map);
        Self::of(seed, states, free, creations)
    }

    /// A trail whose changes are content over content alone, every third block of all.
    pub fn plain(seed: u64, changes: usize, blocks: usize, creations: usize) -> Self {
        let (mut states, free) = Self::changed(seed, 0, blocks);
        for change in 1..=changes {
            let mut disk = states[change - 1].clone();
            for (number, block) in disk.chunks_mut(BLOCK).enumerate().filter(|(number, _)| number % 3 == change % 3) {
                block.copy_from_slice(&noise(seed + (number * 7 + change) as u64, block.len()));
            }
            states.push(disk);
        }
        let free = vec![vec![false; free[0].len()]; states.len()];
        Self::of(seed, states, free, creations)
    }

    /// A trail on which the disk becomes longer, and shorter again, each time with a ragged end.
    pub fn resized(seed: u64, blocks: usize, creations: usize) -> Self {
        let (mut states, mut free) = Self::changed(seed, 2, blocks);
        for (state, shorter) in [(0, 9), (2, 5)] {
            states[state].truncate((blocks - shorter) * BLOCK + 500 + 750 * state);
            free[state].truncate(states[state].len().div_ceil(BLOCK));
        }
        Self::of(seed, states, free, creations)
    }

    /// The length of the target: the largest state fits, with a tail behind it.
    pub fn len(&self) -> usize {
        self.target.size().to_usize().unwrap()
    }

    pub fn options(&self) -> ApplyOptions {
        let (pace, verify, disk) = (self.pace, self.verify, DiskBinding { id: BINDING, certain: true });
        ApplyOptions { pace, verify, disk, ..ApplyOptions::default() }
    }

    pub fn moving(&self) -> MoveOptions {
        MoveOptions { now: 1_700_000_000, seed: [9; 16], certain: true, pace: self.pace, policy: self.policy }
    }

    /// The store, open for changes; it is made if there is none.
    pub fn try_open(&self) -> Result<Store, StoreError> {
        self.open_in(Arc::clone(&self.directory) as Arc<dyn Directory>)
    }

    /// The same in a directory that is not quite what it should be.
    pub fn open_in(&self, directory: Arc<dyn Directory>) -> Result<Store, StoreError> {
        match Store::open_for_changes(Arc::clone(&directory), &BINDING) {
            Err(StoreError::Empty(_)) => {
                let size = self.target.size();
                let disk = Disk { binding: BINDING, description: "a simulated disk".into(), size };
                Store::create(directory, disk, unknown_point(size, 0))
            }
            opened => opened,
        }
    }

    pub fn open(&self) -> Store {
        self.try_open().unwrap()
    }

    /// Applies the delta that leads to a state.
    pub fn apply(&mut self, state: usize) -> Result<PointReport, JobError> {
        self.apply_on(&self.target, state)
    }

    pub fn apply_on(&self, device: &dyn Device, state: usize) -> Result<PointReport, JobError> {
        let mut store = self.try_open()?;
        let mut delta = Cursor::new(&self.deltas[state - 1]);
        let source = DeltaSource::Path(format!("{state}.delta"));
        apply_recorded(device, &mut delta, source, &mut store, &self.options(), &self.moving(), &Silent)
    }

    pub fn apply_all(&mut self) {
        for state in 1..self.states.len() {
            let report = self.apply(state).unwrap();
            assert_eq!(report.point.id, PointId(state as u64));
            assert_eq!(report.applied.proven, Proven::ChangedBlocks);
            self.is_at(state as u64);
            self.is_sound();
        }
    }

    pub fn rollback(&mut self, goal: u64) -> Result<TravelReport, JobError> {
        let mut store = self.try_open()?;
        rollback(&self.target, &mut store, PointId(goal), false, &self.moving(), &Silent)
    }

    pub fn undo(&mut self) -> Result<TravelReport, JobError> {
        self.undo_on(&self.target)
    }

    pub fn undo_on(&self, device: &dyn Device) -> Result<TravelReport, JobError> {
        undo(device, &mut self.try_open()?, &self.moving(), &Silent)
    }

    /// Goes on; a delta is given if one was being applied, that of the state after the present one.
    pub fn resume(&mut self) -> Result<TravelReport, JobError> {
        self.resume_on(&self.target)
    }

    pub fn resume_on(&self, device: &dyn Device) -> Result<TravelReport, JobError> {
        let mut store = self.try_open()?;
        let next = usize::try_from(store.catalogue().present().id.0).unwrap();
        let mut delta = self.deltas.get(next).map(Cursor::new);
        let delta = delta.as_mut().map(|delta| delta as &mut dyn failback_orchestrate::ReadSeek);
        resume(device, delta, &mut store, &self.options(), &self.moving(), &Silent)
    }

    pub fn merge(&mut self, id: u64) -> Result<failback_orchestrate::PruneReport, JobError> {
        let step = failback_orchestrate::Prune::Merge(PointId(id));
        failback_orchestrate::prune(&self.target, &mut self.try_open()?, &[step], &self.moving(), &Silent)
    }

    pub fn export(&self, from: u64, to: u64) -> Result<Vec<u8>, JobError> {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("between.delta");
        let points = (PointId(from), PointId(to));
        export_delta(&self.target, &self.try_open()?, points, &path, [1; 16], Identity::default(), &Silent)?;
        Ok(std::fs::read(path).unwrap())
    }

    /// What the disk holds at a state, free space included.
    pub fn disk(&self, state: u64) -> Vec<u8> {
        self.states[usize::try_from(state).unwrap()].clone()
    }

    /// The same with free space as zeroes.
    pub fn counted(&self, state: u64) -> Vec<u8> {
        let disk = self.disk(state);
        self.masked(&disk, state)
    }

    /// A disk with what is free at a state as zeroes.
    pub fn masked(&self, disk: &[u8], state: u64) -> Vec<u8> {
        super::counted(disk, Some(&self.free[usize::try_from(state).unwrap()]))
    }

    /// What is wrong with the target if it should hold a state.
    pub fn wrong_at(&self, state: u64) -> Option<String> {
        let content = self.target.content();
        let disk = &content[..self.disk(state).len()];
        let tail = &content[content.len() - TAIL..];
        if self.masked(disk, state) != self.counted(state) {
            return Some(format!("the target does not hold state {state}"));
        }
        if tail != [0xEE; TAIL] {
            return Some("bytes behind the disk were touched".into());
        }
        // Nothing stood there before: so it can be grown over again.
        let same_block = disk.len().next_multiple_of(BLOCK).min(content.len() - TAIL);
        let ragged = &content[disk.len()..same_block];
        ragged.iter().any(|byte| *byte != 0).then(|| format!("something stands behind the ragged end of state {state}"))
    }

    pub fn is_at(&self, state: u64) {
        assert_eq!(self.wrong_at(state), None);
        let store = self.open();
        assert_eq!(store.catalogue().present().id, PointId(state));
        assert!(store.catalogue().pending().is_none());
    }

    /// Links lead away from the disk, roots are those of the states, and every file is there.
    pub fn is_sound(&self) {
        let store = self.open();
        let catalogue = store.catalogue();
        for (number, link) in catalogue.links().iter().enumerate() {
            let reverse = number < catalogue.present_index();
            assert_eq!(link.direction, if reverse { Direction::Reverse } else { Direction::Forward });
        }
        for point in catalogue.points() {
            assert_eq!(point.root, Root::of(&self.counted(point.id.0)));
        }
        assert_eq!(store.gaps(), []);
        let files = self.directory.names().unwrap().len();
        assert_eq!(files, 1 + 2 * catalogue.links().len(), "nothing is left behind: {:?}", self.directory.names());
    }

    /// A block with content that a delta changes.
    pub fn changed_block(&self, state: usize) -> usize {
        let (old, new) = (&self.states[state - 1], &self.states[state]);
        let changed = |block: &usize| {
            let range = block * BLOCK..(block + 1) * BLOCK;
            old[range.clone()] != new[range] && !self.free[state - 1][*block] && !self.free[state][*block]
        };
        (0..self.free[0].len() - 1).find(changed).unwrap()
    }

    /// A block that is in use at every state and never changes.
    pub fn quiet_block(&self) -> usize {
        let quiet = |block: &usize| {
            let range = block * BLOCK..(block + 1) * BLOCK;
            let same = self.states.iter().all(|state| state[range.clone()] == self.states[0][range.clone()]);
            same && self.free.iter().all(|free| !free[*block])
        };
        (0..self.free[0].len() - 1).find(quiet).unwrap()
    }

    /// Others write to a block of the disk.
    pub fn scribble(&self, block: usize) {
        self.target.write_durably(ByteOffset::new((block * BLOCK) as u64).unwrap(), b"others were here");
    }
}

/// All that a device holds.
pub fn content_of(device: &dyn Device) -> Vec<u8> {
    let mut content = Vec::new();
    let size = device.size().to_usize().unwrap();
    // In pieces of an odd length, so that reads begin and end anywhere.
    for at in (0..size).step_by(10_007) {
        let len = 10_007.min(size - at);
        let into = Buffer::zeroed(len);
        let at = ByteOffset::new(at as u64).unwrap();
        content.extend_from_slice(&run(device, Operation::Read { at, into }).unwrap().unwrap());
    }
    content
}

/// A stretch of a disk, and what a delta makes of it.
pub type Change = (usize, Vec<u8>);

/// What each frame of a delta writes.
pub fn changes_of(delta: &[u8]) -> Vec<Vec<Change>> {
    let mut reader = DeltaReader::open(delta).unwrap();
    let shapes = reader.header().shapes;
    let mut hasher = failback_hashtree::LeafHasher::new();
    let mut frames = Vec::new();
    while let Item::Frame(frame) = reader.next_item().unwrap() {
        let mut data = vec![0; frame.table.data_len()];
        frame.open(&shapes, &mut hasher, &mut data).unwrap();
        let changes = frame.table.extents.iter().filter(|extent| extent.new.is_written()).map(|extent| {
            let bytes = extent.new_bytes(&shapes);
            let content = match extent.new {
                Content::Zero => vec![0; bytes.count().to_usize().unwrap()],
                _ => data[extent.data.clone()].to_vec(),
            };
            (usize::try_from(bytes.start().get()).unwrap(), content)
        });
        frames.push(changes.collect());
    }
    frames
}

/// Applies a delta in memory, without any check.
pub fn patch(delta: &[u8], disk: &mut [u8]) {
    for (at, content) in changes_of(delta).into_iter().flatten() {
        disk[at..at + content.len()].copy_from_slice(&content);
    }
}
