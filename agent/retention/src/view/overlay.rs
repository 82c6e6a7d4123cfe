//! Runs of several links, laid over each other: which part of a point comes from which link, and which from the disk.

use crate::LinkReader;
use failback_delta::{Content, Shapes};
use std::cmp::Ordering;

/// What a run tells of each of its places.
pub(crate) trait Told: Copy {
    /// What it tells of the places from the one on that is `by` behind the first.
    fn behind(self, by: u64) -> Self;
}

/// Where the content of a run comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// It is zero, or free, which counts as zero.
    Zero,
    /// The content of a frame of a link, from some byte on.
    Link { link: u32, frame: u32, at: u32 },
}

impl Told for Source {
    fn behind(self, by: u64) -> Self {
        match self {
            // The content of a frame has 1 MiB at most.
            Self::Link { link, frame, at } => {
                Self::Link { link, frame, at: at.saturating_add(u32::try_from(by).unwrap_or(u32::MAX)) }
            }
            Self::Zero => Self::Zero,
        }
    }
}

/// A stretch of places, of which something is told. Runs in a list are in order and do not overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run<T> {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) told: T,
}

impl<T: Told> Run<T> {
    /// The part from `start` to `end`, which lie within.
    pub(crate) fn part(&self, start: u64, end: u64) -> Self {
        Self { start, end, told: self.told.behind(start - self.start) }
    }
}

/// What the delta of a link makes of a disk, in bytes.
pub(super) fn runs_of(link: &LinkReader, number: u32) -> Vec<Run<Source>> {
    let shapes: Shapes = link.header().shapes;
    let mut runs: Vec<Run<Source>> = Vec::with_capacity(link.index().extents.len());
    for extent in &link.index().extents {
        let shape = if extent.new == Content::Kept { shapes.larger() } else { shapes.result };
        let bytes = shape.bytes_of(extent.blocks);
        let source = match extent.new {
            Content::Absent => continue,
            Content::Zero | Content::Free => Source::Zero,
            Content::Data | Content::Kept => Source::Link { link: number, frame: extent.frame, at: extent.data },
        };
        let run = Run { start: bytes.start().get(), end: bytes.end().get(), told: source };
        // What is kept of the last block may reach over the start of what follows behind the end.
        let start = runs.last().map_or(run.start, |last| last.end.max(run.start));
        if start < run.end {
            runs.push(run.part(start, run.end));
        }
    }
    runs
}

/// The runs of several lists, of which earlier ones hide later ones.
pub(crate) fn stacked<T: Told>(mut layers: Vec<Vec<Run<T>>>) -> Vec<Run<T>> {
    // Neighbours are merged pairwise, so that each run is moved only as often as the number of layers can be halved.
    while layers.len() > 1 {
        let mut merged = Vec::with_capacity(layers.len().div_ceil(2));
        let mut rest = layers.into_iter();
        while let Some(upper) = rest.next() {
            merged.push(match rest.next() {
                Some(lower) => over(&upper, &lower),
                None => upper,
            });
        }
        layers = merged;
    }
    layers.pop().unwrap_or_default()
}

/// All runs of `upper`, and what they leave visible of `lower`.
fn over<T: Told>(upper: &[Run<T>], lower: &[Run<T>]) -> Vec<Run<T>> {
    let mut result = Vec::with_capacity(upper.len() + lower.len());
    let mut above = upper.iter().peekable();
    for run in lower {
        let mut at = run.start;
        while at < run.end {
            match above.peek() {
                Some(next) if next.end <= at => result.extend(above.next().copied()),
                Some(next) if next.start <= at => at = next.end,
                Some(next) if next.start < run.end => {
                    result.push(run.part(at, next.start));
                    at = next.start;
                }
                _ => {
                    result.push(run.part(at, run.end));
                    at = run.end;
                }
            }
        }
    }
    result.extend(above.copied());
    result
}

/// The first run that ends behind `at`.
pub(super) fn first_behind<T>(runs: &[Run<T>], at: u64) -> usize {
    runs.binary_search_by(|run| if run.end <= at { Ordering::Less } else { Ordering::Greater }).unwrap_or_else(|at| at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn layer(link: u32, cuts: &[(u64, u64)]) -> Vec<Run<Source>> {
        let mut at = 0;
        let mut runs = Vec::new();
        for (gap, len) in cuts {
            let start = at + gap;
            at = start + len + 1;
            let first = u32::try_from(start).unwrap();
            runs.push(Run { start, end: at, told: Source::Link { link, frame: 0, at: first } });
        }
        runs
    }

    proptest! {
        #[test]
        fn each_byte_comes_from_the_first_layer_that_has_it(
            cuts in prop::collection::vec(prop::collection::vec((0_u64..9, 0_u64..9), 0..12), 0..7)
        ) {
            let layers: Vec<_> = (0..).zip(&cuts).map(|(link, cuts)| layer(link, cuts)).collect();
            let merged = stacked(layers.clone());
            prop_assert!(merged.windows(2).all(|pair| pair[0].end <= pair[1].start));
            for at in 0..300 {
                let has = |runs: &[Run<Source>]| {
                    let run = runs.iter().find(|run| run.start <= at && at < run.end)?;
                    Some(run.part(at, at + 1).told)
                };
                prop_assert_eq!(has(&merged), layers.iter().find_map(|runs| has(runs)));
                let found = first_behind(&merged, at);
                prop_assert!(merged[..found].iter().all(|run| run.end <= at));
                prop_assert!(merged.get(found).is_none_or(|run| run.end > at));
            }
        }
    }
}
