//! One line of a check, and all of them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use failback_hostdev::plain;
use serde::{Deserialize, Serialize};

/// How grave a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, but not as well or as safely as it could.
    Warn,
    /// A disk is in danger, or the machine cannot do its job.
    Fail,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        })
    }
}

/// What was looked at, how it is, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The name of the check, for scripts.
    pub check: Cow<'static, str>,
    /// How grave it is.
    pub level: Level,
    /// What was found, as one sentence without control characters.
    pub message: String,
    /// What mends it; `None` where nothing has to be mended.
    pub fix: Option<String>,
}

impl Finding {
    pub(crate) fn ok(check: &'static str, message: impl AsRef<str>) -> Self {
        Self { check: check.into(), level: Level::Ok, message: plain(message.as_ref()), fix: None }
    }

    pub(crate) fn warn(check: &'static str, message: impl AsRef<str>, fix: impl AsRef<str>) -> Self {
        Self { level: Level::Warn, fix: Some(plain(fix.as_ref())), ..Self::ok(check, message) }
    }

    pub(crate) fn fail(check: &'static str, message: impl AsRef<str>, fix: impl AsRef<str>) -> Self {
        Self { level: Level::Fail, ..Self::warn(check, message, fix) }
    }
}

/// The names of all checks, in the order of a report.
pub const CHECKS: [&str; 11] = [
    "disk-uuid",
    "controllers",
    "retention",
    "io_uring",
    "clock",
    "ports",
    "custom-changes",
    "kernel",
    "free-space",
    "foreign-disks",
    "start",
];

/// What the checks found so far, each check on its own: they come as they are made, and some may never come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings(BTreeMap<usize, Vec<Finding>>);

impl Findings {
    /// Takes what a check found, in place of what it found before. A check that there is not is left out.
    pub fn answer(&mut self, check: &str, found: Vec<Finding>) {
        if let Some(place) = CHECKS.iter().position(|name| *name == check) {
            self.0.insert(place, found);
        }
    }

    /// Whether every check has told what it found.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.0.len() == CHECKS.len()
    }

    /// A failure for every check that has told nothing, with why, and what to do.
    pub fn fail_the_rest(&mut self, why: &str, fix: &str) {
        for (place, name) in CHECKS.into_iter().enumerate() {
            self.0.entry(place).or_insert_with(|| vec![Finding::fail(name, why, fix)]);
        }
    }

    /// All that is found, in the order of a report.
    pub fn iter(&self) -> impl Iterator<Item = &Finding> {
        self.0.values().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_the_order_of_a_report_whenever_they_come() {
        let mut found = Findings::default();
        found.answer("kernel", vec![Finding::ok("kernel", "Linux")]);
        found.answer("no such check", vec![Finding::ok("x", "y")]);
        found.answer("disk-uuid", vec![Finding::ok("disk-uuid", "one"), Finding::warn("disk-uuid", "two", "mend")]);
        found.answer("start", vec![]);
        let names = |found: &Findings| found.iter().map(|it| it.check.to_string()).collect::<Vec<_>>();
        assert_eq!(names(&found), ["disk-uuid", "disk-uuid", "kernel"]);
        assert!(!found.is_complete());
        found.fail_the_rest("no answer after 30 s", "look at the messages of the kernel");
        assert!(found.is_complete());
        let names = names(&found);
        assert_eq!(names.len(), CHECKS.len(), "start had nothing to tell, and disk-uuid told two: {names:?}");
        let fails = found.iter().filter(|it| it.level == Level::Fail && it.message.starts_with("no answer"));
        assert_eq!(fails.count(), CHECKS.len() - 3);
        found.answer("clock", vec![Finding::ok("clock", "right")]);
        assert!(found.iter().any(|it| it.check == "clock" && it.level == Level::Ok), "a later answer counts");
    }
}
