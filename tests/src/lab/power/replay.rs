//! What disks hold after a power cut, by the rules of disks with a volatile cache.
//!
//! What a disk was asked to flush is there. Of what it was asked to write since, each write may be there, or not, or in part, in
//! sectors of 512 bytes; and where such writes overlap, any of them may be the last. So every sector has, independently of all
//! others, its durable content or that of any later write to it.

use super::recording::{Action, Recording, SECTOR};
use crate::lab::Dice;
use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// What is looked at at once when holes are looked for.
const PIECE: usize = 1 << 16;

/// The recording at one moment.
pub(super) struct Replay<'a> {
    recording: &'a Recording,
    /// What is durable.
    durable: [Vec<u8>; 2],
    /// The events that are not.
    pending: [Vec<usize>; 2],
    /// The first event that did not happen yet.
    next: usize,
}

/// What became of the writes of a disk that were not durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fate {
    /// How many there were.
    unflushed: usize,
    /// Those that are there, in the order in which they came to be: the events, and which bytes of the disk.
    survived: Vec<(usize, Vec<Range<usize>>)>,
    torn: usize,
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "of {} unflushed writes {} survived, {} of them torn", self.unflushed, self.survived.len(), self.torn)
    }
}

impl<'a> Replay<'a> {
    /// Before the first event.
    pub(super) fn new(recording: &'a Recording) -> Self {
        Self { recording, durable: recording.base.clone(), pending: Default::default(), next: 0 }
    }

    /// Goes on until `moment` events have happened.
    pub(super) fn advance(&mut self, moment: usize) {
        assert!(moment >= self.next, "a replay does not go back");
        for number in self.next..moment {
            let event = &self.recording.events[number];
            if event.action == Action::Flush {
                for pending in std::mem::take(&mut self.pending[event.disk]) {
                    let action = &self.recording.events[pending].action;
                    let place = &mut self.durable[event.disk][action.range()];
                    match action {
                        Action::Write { data, .. } => place.copy_from_slice(self.recording.bytes(data)),
                        Action::Zero { .. } | Action::Flush => place.fill(0),
                    }
                }
            } else {
                self.pending[event.disk].push(number);
            }
        }
        self.next = moment;
    }

    /// Cuts the power: decides what becomes of the writes of a disk that are not durable.
    pub(super) fn cut(&self, disk: usize, dice: &mut Dice) -> Fate {
        let pending = &self.pending[disk];
        let mut fate = Fate { unflushed: pending.len(), ..Fate::default() };
        // Chance alone would hardly ever show the extremes, which find most: everything, nothing, all but one, only one.
        let (kind, one) = (dice.below(5), dice.below(pending.len()));
        for (place, number) in pending.iter().enumerate() {
            let survives = match kind {
                0 => false,
                1 => true,
                2 => place != one,
                3 => place == one,
                _ => dice.below(2) == 0,
            };
            if survives {
                let range = self.recording.events[*number].action.range();
                let is_torn = kind > 1 && dice.below(4) == 0;
                fate.torn += usize::from(is_torn);
                let kept = if is_torn { torn(&range, dice) } else { vec![range] };
                fate.survived.push((*number, kept));
            }
        }
        // In the order of their writing, as often as not.
        if dice.below(2) == 0 {
            for last in (1..fate.survived.len()).rev() {
                fate.survived.swap(last, dice.below(last + 1));
            }
        }
        fate
    }

    /// Writes what the disk then holds into an image, which has that size. What is zero becomes a hole.
    pub(super) fn write(&self, disk: usize, fate: &Fate, image: &File) {
        let durable = &self.durable[disk];
        image.set_len(0).unwrap();
        image.set_len(durable.len() as u64).unwrap();
        let zeroes = vec![0; PIECE];
        for (number, piece) in durable.chunks(PIECE).enumerate() {
            if piece != &zeroes[..piece.len()] {
                image.write_all_at(piece, (number * PIECE) as u64).unwrap();
            }
        }
        for (number, kept) in &fate.survived {
            let action = &self.recording.events[*number].action;
            for part in kept {
                match action {
                    Action::Write { at, data } => {
                        let bytes = &self.recording.bytes(data)[part.start - at..part.end - at];
                        image.write_all_at(bytes, part.start as u64).unwrap();
                    }
                    Action::Zero { .. } | Action::Flush => {
                        image.write_all_at(&vec![0; part.len()], part.start as u64).unwrap();
                    }
                }
            }
        }
    }
}

/// The sectors of a write that are there after it was torn: its beginning, its end, or any.
fn torn(range: &Range<usize>, dice: &mut Dice) -> Vec<Range<usize>> {
    let sectors = range.len() / SECTOR;
    let (kind, place) = (dice.below(3), dice.below(sectors));
    let kept = (0..sectors).filter(|number| match kind {
        0 => *number < place,
        1 => *number > place,
        _ => dice.below(2) == 0,
    });
    let start = |number: usize| range.start + number * SECTOR;
    kept.map(|number| start(number)..start(number + 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::power::recording::Event;
    use std::collections::BTreeSet;

    /// The sectors of a disk, as the byte that each is full of; `?` for one that is torn itself.
    fn sectors(image: &File) -> String {
        let mut bytes = [0; 4 * SECTOR];
        image.read_exact_at(&mut bytes, 0).unwrap();
        let sectors = bytes.chunks(SECTOR);
        sectors
            .map(|sector| if sector.iter().all(|byte| *byte == sector[0]) { char::from(sector[0]) } else { '?' })
            .collect()
    }

    /// What a disk with these events may hold after so many of them.
    fn seen(recording: &Recording, moment: usize) -> BTreeSet<String> {
        let image = tempfile::tempfile().unwrap();
        let mut dice = Dice::new(1);
        let mut replay = Replay::new(recording);
        replay.advance(moment);
        let states = (0..10_000).map(|_| {
            replay.write(0, &replay.cut(0, &mut dice), &image);
            sectors(&image)
        });
        states.collect()
    }

    #[test]
    fn every_sector_has_any_of_its_contents_since_the_last_flush_and_no_other() {
        let log = [[b'a'; 1024], [b'b'; 1024], [b'c'; 1024]].concat();
        let write = |sector: usize, data: Range<usize>| Action::Write { at: sector * SECTOR, data };
        let actions = [
            (0, write(0, 0..1024)),
            (0, write(1, 1024..2048)),
            (1, Action::Flush),
            (0, Action::Flush),
            (0, write(1, 2048..2560)),
            (0, Action::Zero { range: 512..1536 }),
        ];
        let events = actions.map(|(disk, action)| Event { disk, action, entry: 0 }).into();
        let recording = Recording { base: [vec![b'-'; 2048], vec![]], log, events, workload: 0..6 };
        let product = |each: [&str; 4]| {
            let [first, second, third, fourth] = each.map(|letters| letters.chars().collect::<Vec<_>>());
            let mut all = BTreeSet::new();
            for a in &first {
                for b in &second {
                    for c in &third {
                        all.extend(fourth.iter().map(|d| [*a, *b, *c, *d].iter().collect::<String>()));
                    }
                }
            }
            all
        };
        assert_eq!(seen(&recording, 0), product(["-", "-", "-", "-"]));
        assert_eq!(seen(&recording, 1), product(["-a", "-a", "-", "-"]));
        // Another disk's flush is none.
        for moment in [2, 3] {
            assert_eq!(seen(&recording, moment), product(["-a", "-ab", "-b", "-"]));
        }
        assert_eq!(seen(&recording, 4), product(["a", "b", "b", "-"]));
        assert_eq!(seen(&recording, 5), product(["a", "bc", "b", "-"]));
        assert_eq!(seen(&recording, 6), product(["a", "bc\0", "b\0", "-"]));
    }
}
