//! The content of a disk: what is read, what is durable, and what lies between.

use super::{
    FaultOn,
    random::Random,
    store::{SECTOR, Store, cut},
};
use failback_units::{ByteOffset, ByteRange};
use std::sync::Arc;

#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) on: FaultOn,
    pub(super) range: ByteRange,
    pub(super) errno: i32,
    pub(super) times: u32,
}

/// A change that is not yet durable.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    /// Its place in the order of completions on this disk; `u64::MAX` if it never completed.
    pub(super) sequence: u64,
    pub(super) change: Change,
}

#[derive(Clone, Debug)]
pub(super) enum Change {
    Write {
        at: u64,
        bytes: Arc<[u8]>,
    },
    Zero {
        start: u64,
        end: u64,
    },
    /// A new size, from the old one.
    Resize {
        from: u64,
        to: u64,
    },
}

/// How much of a change is there after a power loss, in percent of its sectors.
pub(super) const WHOLE: u8 = 100;
const NOTHING: u8 = 0;

impl Change {
    pub(super) fn of(at: ByteOffset, bytes: &[u8]) -> Self {
        Self::Write { at: at.get(), bytes: Arc::from(bytes) }
    }

    pub(super) fn zero(range: ByteRange) -> Self {
        Self::Zero { start: range.start().get(), end: range.end().get() }
    }

    pub(super) fn apply(&self, store: &mut Store) {
        match self {
            Self::Write { at, bytes } => store.write(*at, bytes),
            Self::Zero { start, end } => store.zero(*start..*end),
            Self::Resize { from, to } => {
                // Where it ended before, zeroes begin; where it ends now, nothing is kept.
                let (start, end) = (from.min(to), from.max(to));
                store.zero(*start..*end);
                store.resize(*to);
            }
        }
    }

    /// The change as it comes about when each sector has a chance of `percent`.
    pub(super) fn torn(&self, percent: u8, on: &Store, random: &mut Random) -> Vec<Self> {
        match self {
            _ if percent == NOTHING => Vec::new(),
            _ if percent == WHOLE => vec![self.clone()],
            Self::Write { at, bytes } => {
                let sectors = cut(*at, bytes, SECTOR).filter(|_| random.percent(percent));
                sectors.map(|(at, bytes)| Self::Write { at, bytes: Arc::from(bytes) }).collect()
            }
            // A size is the old or the new one.
            Self::Resize { .. } if random.percent(percent) => vec![self.clone()],
            Self::Resize { .. } => Vec::new(),
            Self::Zero { start, end } => {
                // Where there is no page there are zeroes already.
                let sectors = on.sectors(*start..*end).into_iter().filter(|_| random.percent(percent));
                sectors.map(|sector| Self::Zero { start: sector.start, end: sector.end }).collect()
            }
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Disk {
    pub(super) name: Arc<str>,
    /// What reads see.
    pub(super) current: Store,
    /// What a power loss cannot touch.
    pub(super) durable: Store,
    pub(super) pending: Vec<Pending>,
    /// How many changes completed.
    pub(super) sequence: u64,
    pub(super) faults: Vec<Fault>,
    /// How many bytes can still be written before `ENOSPC`.
    pub(super) space: Option<u64>,
    pub(super) short_percent: u8,
}

impl Disk {
    pub(super) fn new(name: &Arc<str>, size: u64) -> Self {
        Self {
            name: Arc::clone(name),
            current: Store::of(size),
            durable: Store::of(size),
            pending: Vec::new(),
            sequence: 0,
            faults: Vec::new(),
            space: None,
            short_percent: 0,
        }
    }

    pub(super) fn complete(&mut self, change: Change) {
        change.apply(&mut self.current);
        self.sequence += 1;
        self.pending.push(Pending { sequence: self.sequence, change });
    }

    /// The errno of an injected fault that hits, which is then used up by one.
    pub(super) fn fault(&mut self, on: FaultOn, range: ByteRange) -> Option<i32> {
        let hit = |fault: &Fault| {
            let overlap = range.start() < fault.range.end() && fault.range.start() < range.end();
            fault.on == on && fault.times > 0 && (on == FaultOn::Flushes || overlap)
        };
        let index = self.faults.iter().position(hit)?;
        let fault = &mut self.faults[index];
        // u32::MAX stands for "always".
        if fault.times != u32::MAX {
            fault.times -= 1;
        }
        Some(fault.errno)
    }
}

/// How much of one change survives: nothing, all of it, or a part.
pub(super) fn fate(random: &mut Random) -> u8 {
    match random.below(8) {
        0 | 1 => NOTHING,
        2 | 3 => WHOLE,
        4 | 5 => 50,
        _ => [5, 20, 80, 95][random.index(4)],
    }
}

/// Decides what a power loss left of a disk.
pub(super) fn settle(disk: &mut Disk, random: &mut Random) {
    let pending = std::mem::take(&mut disk.pending);
    // Besides the free mixture, the outcomes that real disks favour: everything lost, everything kept, a prefix kept.
    let mood = random.below(8);
    let kept = random.index(pending.len() + 1);
    for (index, Pending { change, .. }) in pending.into_iter().enumerate() {
        let percent = match mood {
            0 => NOTHING,
            1 => WHOLE,
            2 if index < kept => WHOLE,
            2 if index > kept => NOTHING,
            _ => fate(random),
        };
        for change in change.torn(percent, &disk.durable, random) {
            change.apply(&mut disk.durable);
        }
    }
    disk.current = disk.durable.clone();
}
