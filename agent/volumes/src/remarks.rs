//! Remarks about groups, of which there can be millions.

/// How many are told.
const MOST: usize = 16;

/// The first remarks, and how many more there were.
#[derive(Debug, Default)]
pub(crate) struct Remarks {
    lines: Vec<String>,
    more: u64,
}

impl Remarks {
    /// Adds one; it is put into words only if it is told.
    pub(crate) fn push(&mut self, line: impl FnOnce() -> String) {
        if self.lines.len() < MOST { self.lines.push(line()) } else { self.more += 1 }
    }

    /// All lines.
    pub(crate) fn finish(mut self) -> Vec<String> {
        if self.more > 0 {
            self.lines.push(format!("and {} more", self.more));
        }
        self.lines
    }
}
