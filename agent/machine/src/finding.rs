//! One line of a check.

use std::fmt;

use failback_hostdev::plain;
use serde::Serialize;

/// How grave a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The name of the check, for scripts.
    pub check: &'static str,
    /// How grave it is.
    pub level: Level,
    /// What was found, as one sentence without control characters.
    pub message: String,
    /// What mends it; `None` where nothing has to be mended.
    pub fix: Option<String>,
}

impl Finding {
    pub(crate) fn ok(check: &'static str, message: impl AsRef<str>) -> Self {
        Self { check, level: Level::Ok, message: plain(message.as_ref()), fix: None }
    }

    pub(crate) fn warn(check: &'static str, message: impl AsRef<str>, fix: impl AsRef<str>) -> Self {
        Self { level: Level::Warn, fix: Some(plain(fix.as_ref())), ..Self::ok(check, message) }
    }

    pub(crate) fn fail(check: &'static str, message: impl AsRef<str>, fix: impl AsRef<str>) -> Self {
        Self { level: Level::Fail, ..Self::warn(check, message, fix) }
    }
}
