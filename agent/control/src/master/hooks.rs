//! Programs of the administrator's that run around what is received and applied.
//!
//! | hook | when |
//! |---|---|
//! | `before-receive` | an offer is taken so far, and nothing is changed for it |
//! | `after-receive` | the session that `before-receive` let begin is over, and its disk is given back |
//! | `before-apply` | a pass is complete and durable; of a group's mark it is proven as well, and the group has not decided |
//! | `after-apply` | what `before-apply` let begin is over, however it ended, and the disk is given back |
//!
//! That an `after-apply` is due is written down beside the recovery points before `before-apply` runs: see [`Due`](super::desk::Due). So it also runs after
//! this program was killed. The state is not held while a hook runs.

use super::desk::{Desk, Due};
use super::{LiveJob, MasterTarget};
use failback_hooks::{HookError, Hooks};
use failback_orchestrate::{JobError, PointKind, Progress, Root, with_causes};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// When a hook is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    BeforeReceive,
    AfterReceive,
    BeforeApply,
    AfterApply,
}

impl Hook {
    const ALL: [Self; 4] = [Self::BeforeReceive, Self::AfterReceive, Self::BeforeApply, Self::AfterApply];

    const fn name(self) -> &'static str {
        match self {
            Self::BeforeReceive => "before-receive",
            Self::AfterReceive => "after-receive",
            Self::BeforeApply => "before-apply",
            Self::AfterApply => "after-apply",
        }
    }
}

/// Looks at a directory of hooks of a master target, each of which may run for `patience`.
///
/// # Errors
///
/// When there is anything in it that is no such hook, cannot be run, or that others can write to: what is misspelt would never be asked.
pub fn open_hooks(directory: &Path, patience: Duration) -> Result<Hooks, JobError> {
    Hooks::open(directory, &Hook::ALL.map(Hook::name), patience).map_err(hook_failed)
}

/// What the failure of a hook is for the job that it belongs to, here and on a source.
#[must_use]
pub fn hook_failed(error: HookError) -> JobError {
    match error {
        HookError::File { action, path, source } => JobError::File { action, path, source },
        error @ HookError::Stopped { .. } => JobError::Interrupted(error.to_string()),
        error => JobError::Refused(error.to_string()),
    }
}

/// What a hook is told of the pass that it runs for.
#[derive(Clone, Debug)]
pub(super) struct About {
    pub(super) pair: String,
    /// The target, where it was found.
    pub(super) disk: PathBuf,
    pub(super) kind: PointKind,
    /// The group of whose mark the pass is; empty if it is of none.
    pub(super) group: String,
}

impl About {
    fn environment(&self) -> Vec<(&'static str, OsString)> {
        vec![
            ("FAILBACK_PAIR", self.pair.clone().into()),
            ("FAILBACK_DISK", self.disk.clone().into()),
            ("FAILBACK_KIND", self.kind.name().into()),
            ("FAILBACK_GROUP", self.group.clone().into()),
        ]
    }
}

impl MasterTarget {
    pub(super) fn has_hook(&self, hook: Hook) -> bool {
        self.settings.hooks.has(hook.name())
    }

    /// How long the end of a session may take for hooks that run to their end.
    #[must_use]
    pub fn hooks_at_end(&self) -> Duration {
        let count = [Hook::AfterApply, Hook::AfterReceive].into_iter().filter(|hook| self.has_hook(*hook)).count();
        self.settings.hooks.patience().saturating_mul(u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// Says in the log which hooks there are, if any.
    pub(super) fn tell_hooks(&self) {
        let names = self.settings.hooks.names();
        if !names.is_empty() {
            tracing::info!(
                limit_s = self.settings.hooks.patience().as_secs(),
                "hooks that run here: {}",
                names.join(", ")
            );
        }
    }

    /// Runs a hook that may refuse. It is ended once the job is to stop, or `is_over` says that nobody waits for it.
    ///
    /// # Errors
    ///
    /// When it refuses, in its own last words, or could not be asked.
    pub(super) fn ask_hook(
        &self,
        hook: Hook,
        about: &About,
        job: &LiveJob,
        is_over: impl Fn() -> bool,
    ) -> Result<(), JobError> {
        if !self.has_hook(hook) {
            return Ok(());
        }
        let stop = || job.stop_requested() || is_over();
        let asked =
            job.meanwhile("running a hook", || self.settings.hooks.run(hook.name(), &about.environment(), stop));
        match asked {
            Err(HookError::Stopped { name }) if job.is_cancelled() => Err(JobError::Refused(format!(
                "this pass was cancelled on the master target while its hook {name} ran: when it is wanted again, failback send --anew begins \
                 a new one"
            ))),
            asked => asked.map(drop).map_err(hook_failed),
        }
    }

    /// Runs a hook that is told how something ended: the root that the disk has, or a sentence that says why not. It runs to its end
    /// within its time, and that it fails changes nothing.
    pub(super) fn tell_hook(&self, hook: Hook, about: &About, job: &LiveJob, ended: &Result<Option<Root>, String>) {
        if !self.has_hook(hook) {
            return;
        }
        let mut environment = about.environment();
        let (outcome, root, error) = match ended {
            Ok(root) => ("done", root.map(|root| root.to_string()).unwrap_or_default(), String::new()),
            Err(error) => ("failed", String::new(), error.replace(char::is_control, " ")),
        };
        environment.push(("FAILBACK_OUTCOME", outcome.into()));
        environment.push(("FAILBACK_ROOT", root.into()));
        environment.push(("FAILBACK_ERROR", error.into()));
        let run = || self.settings.hooks.run(hook.name(), &environment, || false);
        if let Err(error) = job.meanwhile("running a hook", run) {
            let error = with_causes(&hook_failed(error));
            tracing::warn!(
                job = job.id().get(),
                pair = about.pair,
                "what {name} is told of is over, but {error}",
                name = hook.name()
            );
        }
    }

    /// Writes down that `after-apply` will have to run, and asks `before-apply`.
    pub(super) fn ask_before_apply(
        &self,
        desk: &Desk,
        delta: [u8; 32],
        about: &About,
        job: &LiveJob,
    ) -> Result<(), JobError> {
        if self.has_hook(Hook::AfterApply) {
            desk.note_due(&Due { delta, kind: about.kind, group: about.group.clone() })?;
        }
        let asked = self.ask_hook(Hook::BeforeApply, about, job, || false);
        if asked.is_err() {
            desk.forget_due();
        }
        asked
    }

    /// Runs `after-apply`, which is not due any longer.
    pub(super) fn tell_after_apply(
        &self,
        desk: &Desk,
        about: &About,
        job: &LiveJob,
        ended: &Result<Option<Root>, String>,
    ) {
        self.tell_hook(Hook::AfterApply, about, job, ended);
        desk.forget_due();
    }
}
