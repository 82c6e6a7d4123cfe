//! A text that remembers what was looked for in it, so that nothing is looked for twice, and counts how much was looked at.

use std::cell::Cell;
use std::ops::{Deref, Range};

use super::spans::{Quote, is_end, skip};

/// Quotes are known up to this depth: JSON in JSON in JSON in JSON. What deeper ones hold goes to the end of its line.
pub(super) const MOST_DEPTH: usize = 7;
/// Two marks, each as deep as it may be, and whether any mark will do or only one behind which a value may end.
const CLOSINGS: usize = 2 * (MOST_DEPTH + 1) * 2;

/// From every place between these two, a search ends at the second. While nothing is known, no place is between them.
#[derive(Clone, Copy, Debug)]
struct Reach {
    from: usize,
    until: usize,
}

impl Reach {
    const NONE: Self = Self { from: 1, until: 0 };

    fn of(self, at: usize) -> Option<usize> {
        (self.from <= at && at <= self.until).then_some(self.until)
    }
}

/// What is searched for from many places of a line, or of a text.
#[derive(Clone, Copy, Debug)]
pub(super) enum Search {
    /// The end of the line.
    Line,
    /// An angle, or the end of the line.
    Angle,
    /// The next element.
    Element,
    /// What is behind the options of a command.
    Argument,
    /// What ends the name of a user.
    User,
    /// What ends a word without quotes.
    Bare,
    /// The next `@`.
    Sign,
}

impl Search {
    const COUNT: usize = 7;
}

/// What was found for a quote: its mark, and where the backslashes before it begin that are a part of it.
#[derive(Clone, Copy, Debug)]
struct Closing {
    reach: Reach,
    start: Option<usize>,
}

/// A text with what is known of it.
#[derive(Debug)]
pub(super) struct Text<'a> {
    whole: &'a str,
    looked: Cell<usize>,
    found: [Cell<Reach>; Search::COUNT],
    closings: [Cell<Closing>; CLOSINGS],
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        self.whole
    }
}

impl<'a> Text<'a> {
    pub(super) fn new(whole: &'a str) -> Self {
        let none = Closing { reach: Reach::NONE, start: None };
        let (found, closings) =
            ([(); Search::COUNT].map(|()| Cell::new(Reach::NONE)), [(); CLOSINGS].map(|()| Cell::new(none)));
        Self { whole, looked: Cell::new(0), found, closings }
    }

    /// Counts bytes that were looked at.
    pub(super) fn look(&self, bytes: usize) {
        self.looked.set(self.looked.get().saturating_add(bytes));
    }

    /// How many bytes were looked at, each as often as it was.
    pub(super) fn looked(&self) -> usize {
        self.looked.get()
    }

    /// Where a search ends, which ends at the same place from wherever between `at` and there it begins.
    pub(super) fn reach(&self, of: Search, at: usize, search: impl FnOnce() -> usize) -> usize {
        let found = &self.found[of as usize];
        self.look(1);
        found.get().of(at).unwrap_or_else(|| {
            let until = search();
            found.set(Reach { from: at, until });
            until
        })
    }

    /// Where the line that `at` is in ends: at its `\n`, or at the end of the text.
    pub(super) fn line_end(&self, at: usize) -> usize {
        self.reach(Search::Line, at, || skip(self, at, |byte| byte != b'\n'))
    }

    /// Where a quote is closed on the line of `from`, which no backslash stands before: the range of the closing mark with its
    /// backslashes. `last`: only where a value may end behind it.
    pub(super) fn closing(&self, quote: &Quote, from: usize, last: bool) -> Option<Range<usize>> {
        if quote.depth > MOST_DEPTH {
            return None;
        }
        let index = (quote.depth * 2 + usize::from(quote.mark == b'"')) * 2 + usize::from(last);
        let known = self.closings[index].get();
        self.look(1);
        let closing = if known.reach.of(from).is_some() { known } else { self.search_closing(quote, from, last) };
        self.closings[index].set(closing);
        closing.start.map(|start| start..closing.reach.until + 1)
    }

    fn search_closing(&self, quote: &Quote, from: usize, last: bool) -> Closing {
        let (to, mut backslashes) = (self.line_end(from), 0);
        for (at, byte) in self.whole.as_bytes()[..to].iter().enumerate().skip(from) {
            if *byte == b'\\' {
                backslashes += 1;
                continue;
            }
            if quote.closes(*byte, backslashes) && (!last || is_end(self, at + 1, true)) {
                self.look(at - from);
                let start = Some(at - backslashes % (2 * (quote.depth + 1)));
                return Closing { reach: Reach { from, until: at }, start };
            }
            backslashes = 0;
        }
        self.look(to - from);
        Closing { reach: Reach { from, until: to }, start: None }
    }
}
