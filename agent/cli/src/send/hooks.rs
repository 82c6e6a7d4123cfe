//! The hooks of a source: which there are, and which belong together.

use crate::meter::Meter;
use failback_control::hook_failed;
use failback_hooks::Hooks as Found;
use failback_orchestrate::{JobError, Progress};
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

/// When a hook is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    /// Before a pass, and before the last one, which makes a point. If it fails, the job stops.
    BeforePass,
    BeforeFinal,
    /// After either, also if the pass failed.
    AfterPass,
    AfterFinal,
    /// Brings programs and file systems to rest, right before the mark.
    Quiesce,
    /// Lets them go on, once the mark is there, or the disk itself was read.
    Release,
    /// Freezes or takes a snapshot, and prints the path of the device to be read in the place of the disk, or nothing.
    Mark,
    /// Runs after every mark, however that ended.
    Unmark,
}

impl Hook {
    const ALL: [Self; 8] = [
        Self::BeforePass,
        Self::BeforeFinal,
        Self::AfterPass,
        Self::AfterFinal,
        Self::Quiesce,
        Self::Release,
        Self::Mark,
        Self::Unmark,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::BeforePass => "before-pass",
            Self::BeforeFinal => "before-final",
            Self::AfterPass => "after-pass",
            Self::AfterFinal => "after-final",
            Self::Quiesce => "quiesce",
            Self::Release => "release",
            Self::Mark => "mark",
            Self::Unmark => "unmark",
        }
    }

    /// Whether it has to run to its end even if the job is to stop: it takes back what another one did.
    const fn takes_back(self) -> bool {
        matches!(self, Self::AfterPass | Self::AfterFinal | Self::Release | Self::Unmark)
    }
}

/// A directory of hooks, or none.
pub(crate) struct Hooks(Found);

impl Hooks {
    /// Looks at a directory. What is in it and is no hook that can run is refused: a name that is misspelt would be a snapshot that is
    /// never taken.
    pub(crate) fn open(directory: Option<&Path>, patience: Duration) -> Result<Self, JobError> {
        let Some(directory) = directory else { return Ok(Self(Found::default())) };
        let hooks = Self(Found::open(directory, &Hook::ALL.map(Hook::name), patience).map_err(hook_failed)?);
        if hooks.has(Hook::Mark) && !hooks.has(Hook::Unmark) {
            return Err(JobError::Refused(format!(
                "{} has mark and no unmark, so snapshots would stay: add unmark",
                directory.display()
            )));
        }
        if hooks.has(Hook::Quiesce) && !hooks.has(Hook::Release) {
            return Err(JobError::Refused(format!(
                "{} has quiesce and no release, so programs would stay at rest: add release",
                directory.display()
            )));
        }
        Ok(hooks)
    }

    /// Whether there is a hook for this.
    pub(crate) fn has(&self, hook: Hook) -> bool {
        self.0.has(hook.name())
    }

    /// Whether there is one that may bring a disk to rest.
    pub(crate) fn may_bring_to_rest(&self) -> bool {
        [Hook::BeforeFinal, Hook::Quiesce, Hook::Mark].into_iter().any(|hook| self.has(hook))
    }

    /// Runs a hook, if there is one. Returns the first line that it printed, if it printed any.
    pub(crate) fn run(
        &self,
        hook: Hook,
        environment: &[(&str, OsString)],
        meter: &Meter,
    ) -> Result<Option<String>, JobError> {
        if !self.has(hook) {
            return Ok(None);
        }
        meter.phase("running a hook", None);
        let stop = || !hook.takes_back() && meter.stop_requested();
        self.0.run(hook.name(), environment, stop).map_err(hook_failed)
    }
}
