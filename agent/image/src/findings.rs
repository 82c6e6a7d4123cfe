//! What a check finds.

use std::fmt;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Unusual, and harmless.
    Note,
    /// What a crash leaves behind: opening the disk for writing puts it right.
    Repairable,
    /// Content is lost or in doubt.
    Error,
}

impl Severity {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Repairable => "repairable",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One thing that a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is, in one sentence that names the file.
    pub sentence: String,
}

/// How many findings are kept: a damaged table can make millions.
const MAX_KEPT: usize = 200;

/// All that was found, the first few in words.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// In the order in which they were found; at most 200.
    pub list: Vec<Finding>,
    /// How many more there are.
    pub more: u64,
    worst: Option<Severity>,
}

impl Findings {
    /// Keeps one more.
    pub fn add(&mut self, severity: Severity, sentence: impl FnOnce() -> String) {
        self.worst = self.worst.max(Some(severity));
        if self.list.len() < MAX_KEPT {
            self.list.push(Finding { severity, sentence: sentence() });
        } else {
            self.more += 1;
        }
    }

    /// The gravest severity found; `None` if nothing was.
    #[must_use]
    pub const fn worst(&self) -> Option<Severity> {
        self.worst
    }

    /// The first finding of this severity.
    #[must_use]
    pub fn first(&self, severity: Severity) -> Option<&Finding> {
        self.list.iter().find(|finding| finding.severity == severity)
    }
}
