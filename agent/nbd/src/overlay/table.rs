//! Which blocks of a disk were changed: two bits each, and only where something was.

use std::collections::BTreeMap;
use std::ops::Range;

/// What holds the content of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The device below.
    Below,
    /// Nothing: it is zeroes.
    Zero,
    /// The overlay's file.
    Here,
}

/// Blocks in a leaf: 128 MiB of the disk.
const LEAF_BLOCKS: u64 = 1 << 15;
const WORD_BITS: u64 = 64;
const WORDS: usize = 512;
const _: () = assert!(LEAF_BLOCKS == WORD_BITS * 512 && WORDS == 512);

/// The states of all blocks. A leaf takes 8 KiB, but for one whose blocks all have the same state: so the whole of a large
/// disk can be zeroed without taking memory.
#[derive(Debug, Default)]
pub(super) struct Table {
    leaves: BTreeMap<u64, Leaf>,
}

#[derive(Debug)]
enum Leaf {
    All(State),
    Mixed(Box<Bits>),
}

#[derive(Clone, Debug)]
struct Bits {
    /// Not the device below.
    changed: [u64; WORDS],
    /// The overlay's file. Only where `changed` is set too.
    here: [u64; WORDS],
}

impl Table {
    pub(super) fn state(&self, block: u64) -> State {
        match self.leaves.get(&(block / LEAF_BLOCKS)) {
            None => State::Below,
            Some(Leaf::All(state)) => *state,
            Some(Leaf::Mixed(bits)) => bits.state(block % LEAF_BLOCKS),
        }
    }

    /// Where the run of blocks with the state of `block` ends, at most at `end`, which lies behind `block`.
    pub(super) fn run_end(&self, block: u64, end: u64) -> u64 {
        let state = self.state(block);
        let mut at = block;
        while at < end {
            let leaf = at / LEAF_BLOCKS;
            let leaf_end = (leaf + 1).saturating_mul(LEAF_BLOCKS);
            match self.leaves.get(&leaf) {
                None if state == State::Below => {
                    // Nothing changed up to the next leaf there is.
                    let next = self.leaves.range(leaf..).next().map(|(next, _)| next.saturating_mul(LEAF_BLOCKS));
                    at = next.unwrap_or(end);
                }
                Some(Leaf::All(all)) if *all == state => at = leaf_end,
                Some(Leaf::Mixed(bits)) => {
                    let within = bits.run_end(state, at % LEAF_BLOCKS);
                    at = leaf * LEAF_BLOCKS + within;
                    if within < LEAF_BLOCKS {
                        break;
                    }
                }
                _ => break,
            }
        }
        at.min(end)
    }

    /// Whether any of the blocks has a state.
    pub(super) fn any(&self, blocks: Range<u64>, state: State) -> bool {
        let mut at = blocks.start;
        while at < blocks.end {
            if self.state(at) == state {
                return true;
            }
            at = self.run_end(at, blocks.end);
        }
        false
    }

    pub(super) fn set(&mut self, blocks: Range<u64>, state: State) {
        let mut at = blocks.start;
        while at < blocks.end {
            let number = at / LEAF_BLOCKS;
            let start = number * LEAF_BLOCKS;
            let end = blocks.end.min(start.saturating_add(LEAF_BLOCKS));
            let leaf = self.leaves.entry(number).or_insert(Leaf::All(State::Below));
            if end - at == LEAF_BLOCKS {
                *leaf = Leaf::All(state);
            } else {
                leaf.set(at - start..end - start, state);
            }
            at = end;
        }
    }
}

impl Leaf {
    fn set(&mut self, blocks: Range<u64>, state: State) {
        if let Self::All(all) = self {
            if *all == state {
                return;
            }
            *self = Self::Mixed(Box::new(Bits::all(*all)));
        }
        if let Self::Mixed(bits) = self {
            bits.set(blocks, state);
            // A disk is zeroed piece by piece.
            if bits.run_end(state, 0) == LEAF_BLOCKS {
                *self = Self::All(state);
            }
        }
    }
}

impl Bits {
    fn all(state: State) -> Self {
        let (changed, here) = words_of(state);
        Self { changed: [changed; WORDS], here: [here; WORDS] }
    }

    fn state(&self, block: u64) -> State {
        let (word, bit) = place(block);
        let has = |words: &[u64; WORDS]| words[word] >> bit & 1 == 1;
        match (has(&self.changed), has(&self.here)) {
            (false, _) => State::Below,
            (true, false) => State::Zero,
            (true, true) => State::Here,
        }
    }

    /// One bit for each block of a word: whether it has the state.
    fn matches(&self, word: usize, state: State) -> u64 {
        let (changed, here) = (self.changed[word], self.here[word]);
        match state {
            State::Below => !changed,
            State::Zero => changed & !here,
            State::Here => changed & here,
        }
    }

    fn run_end(&self, state: State, from: u64) -> u64 {
        let mut at = from;
        while at < LEAF_BLOCKS {
            let (word, bit) = place(at);
            // What is shifted in at the top is no match.
            let run = u64::from((self.matches(word, state) >> bit).trailing_ones());
            at += run;
            if bit + run < WORD_BITS {
                break;
            }
        }
        at
    }

    fn set(&mut self, blocks: Range<u64>, state: State) {
        let (changed, here) = words_of(state);
        let mut at = blocks.start;
        while at < blocks.end {
            let (word, bit) = place(at);
            let count = (WORD_BITS - bit).min(blocks.end - at);
            let mask = (u64::MAX >> (WORD_BITS - count)) << bit;
            self.changed[word] = self.changed[word] & !mask | changed & mask;
            self.here[word] = self.here[word] & !mask | here & mask;
            at += count;
        }
    }
}

/// A word of `changed` and one of `here` where all blocks have a state.
fn words_of(state: State) -> (u64, u64) {
    match state {
        State::Below => (0, 0),
        State::Zero => (u64::MAX, 0),
        State::Here => (u64::MAX, u64::MAX),
    }
}

/// The word and the bit of a block of a leaf.
fn place(block: u64) -> (usize, u64) {
    (usize::try_from(block / WORD_BITS).unwrap_or(WORDS), block % WORD_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BLOCKS: u64 = 3 * LEAF_BLOCKS + 100;

    fn any_state() -> impl Strategy<Value = State> {
        prop_oneof![Just(State::Below), Just(State::Zero), Just(State::Here)]
    }

    /// Starts and lengths around the borders of words and leaves.
    fn any_range() -> impl Strategy<Value = Range<u64>> {
        let start = prop_oneof![0..BLOCKS, (0..4_u64, 0..140_u64).prop_map(|(leaf, near)| leaf * LEAF_BLOCKS + near)];
        let length = prop_oneof![1..70_u64, 1..BLOCKS, Just(LEAF_BLOCKS), Just(64)];
        (start, length).prop_map(|(start, length)| {
            let start = start.min(BLOCKS - 1);
            start..(start + length).min(BLOCKS)
        })
    }

    proptest! {
        #[test]
        fn agrees_with_a_list(steps in proptest::collection::vec((any_range(), any_state()), 1..12)) {
            let mut table = Table::default();
            let mut list = vec![State::Below; usize::try_from(BLOCKS).unwrap()];
            for (range, state) in steps {
                table.set(range.clone(), state);
                list[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()].fill(state);
                let mut at = 0;
                while at < BLOCKS {
                    let here = usize::try_from(at).unwrap();
                    prop_assert_eq!(table.state(at), list[here]);
                    let run = list[here..].iter().take_while(|other| **other == list[here]).count();
                    let end = at + u64::try_from(run).unwrap();
                    prop_assert_eq!(table.run_end(at, BLOCKS), end);
                    prop_assert_eq!(table.run_end(at, end - (end - at) / 2), end - (end - at) / 2);
                    at = end;
                }
                for state in [State::Below, State::Zero, State::Here] {
                    let any = list[usize::try_from(range.start).unwrap()..].contains(&state);
                    prop_assert_eq!(table.any(range.start..BLOCKS, state), any);
                }
            }
        }
    }

    #[test]
    fn a_large_disk_of_zeroes_takes_no_memory() {
        let mut table = Table::default();
        let blocks = (16 << 40) / 4096;
        for start in (0..blocks).step_by(10_000) {
            table.set(start..blocks.min(start + 10_000), State::Zero);
        }
        assert_eq!(table.run_end(0, blocks), blocks);
        assert!(table.leaves.values().all(|leaf| matches!(leaf, Leaf::All(State::Zero))));
        // The whole of what Linux can address, and nothing of it changed.
        assert_eq!(Table::default().run_end(5, 1 << 51), 1 << 51);
    }
}
