//! The content of a simulated disk: pages that were written, everything else zero, shared between copies until changed.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

const PAGE: u64 = 4096;
const PAGE_LEN: usize = 4096;
/// The unit that a power loss never divides.
pub(super) const SECTOR: u64 = 512;

type Page = [u8; PAGE_LEN];

#[derive(Clone, Debug)]
pub(super) struct Store {
    pages: Arc<BTreeMap<u64, Arc<Page>>>,
    size: u64,
}

impl Store {
    pub(super) fn of(size: u64) -> Self {
        Self { pages: Arc::default(), size }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Changes the size alone; what lies behind the end is nobody's business but that of who makes it longer again.
    pub(super) fn resize(&mut self, size: u64) {
        self.size = size;
    }

    pub(super) fn read(&self, at: u64, into: &mut [u8]) {
        let mut at = at;
        let mut rest = into;
        while !rest.is_empty() {
            let (piece, more) = rest.split_at_mut(room(at, PAGE).min(rest.len()));
            match self.pages.get(&(at / PAGE)) {
                Some(page) => piece.copy_from_slice(&page[within(at)..][..piece.len()]),
                None => piece.fill(0),
            }
            at += len(piece);
            rest = more;
        }
    }

    pub(super) fn write(&mut self, at: u64, from: &[u8]) {
        let pages = Arc::make_mut(&mut self.pages);
        for (at, piece) in cut(at, from, PAGE) {
            let page = pages.entry(at / PAGE).or_insert_with(|| Arc::new([0; PAGE_LEN]));
            Arc::make_mut(page)[within(at)..][..piece.len()].copy_from_slice(piece);
        }
    }

    pub(super) fn zero(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let pages = Arc::make_mut(&mut self.pages);
        let touched: Vec<u64> =
            pages.range(range.start / PAGE..=(range.end - 1) / PAGE).map(|(page, _)| *page).collect();
        for number in touched {
            let start = range.start.max(number * PAGE);
            let end = range.end.min((number + 1) * PAGE);
            if end - start == PAGE {
                pages.remove(&number);
            } else if let Some(page) = pages.get_mut(&number) {
                let from = within(start);
                Arc::make_mut(page)[from..from + small(end - start)].fill(0);
            }
        }
    }

    /// The sectors of `range`, cut off at its ends, that lie in pages with content.
    pub(super) fn sectors(&self, range: Range<u64>) -> Vec<Range<u64>> {
        if range.is_empty() {
            return Vec::new();
        }
        let touched = self.pages.range(range.start / PAGE..=(range.end - 1) / PAGE);
        let sectors = touched.flat_map(|(page, _)| {
            let first = page * PAGE;
            (0..PAGE / SECTOR).map(move |sector| first + sector * SECTOR..first + (sector + 1) * SECTOR)
        });
        let cut_off = sectors.map(|sector| sector.start.max(range.start)..sector.end.min(range.end));
        cut_off.filter(|sector| sector.start < sector.end).collect()
    }

    /// The extent from `from` on, up to `end`: where it ends, and whether it is a hole.
    pub(super) fn extent(&self, from: u64, end: u64) -> (u64, bool) {
        let mut following = self.pages.range(from / PAGE..);
        let Some((first, _)) = following.next() else { return (end, true) };
        if *first > from / PAGE {
            return (end.min(first * PAGE), true);
        }
        let mut last = *first;
        for (page, _) in following {
            if *page != last + 1 {
                break;
            }
            last = *page;
        }
        (end.min((last + 1) * PAGE), false)
    }
}

/// Cuts `bytes`, which lie at `at`, at multiples of `unit`.
pub(super) fn cut(at: u64, bytes: &[u8], unit: u64) -> impl Iterator<Item = (u64, &[u8])> {
    let mut at = at;
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (piece, more) = rest.split_at(room(at, unit).min(rest.len()));
        let here = at;
        at += len(piece);
        rest = more;
        Some((here, piece))
    })
}

/// The bytes from `at` to the next multiple of `unit`.
fn room(at: u64, unit: u64) -> usize {
    small(unit - at % unit)
}

fn within(at: u64) -> usize {
    small(at % PAGE)
}

/// A number no greater than a page.
fn small(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(PAGE_LEN)
}

fn len(bytes: &[u8]) -> u64 {
    failback_units::ByteCount::of_memory(bytes.len()).get()
}
