//! Programs of the administrator's that run around what failback does.
//!
//! A directory holds them by the names that whoever runs them knows; any other name in it is refused, since a misspelt one would be something
//! that is never done. A hook runs with the rights of failback, so nobody else may write to it. It has no standard input, a time limit, and a
//! process group of its own, which is ended as a whole.
#![forbid(unsafe_code)]

mod run;

use nix::unistd::geteuid;
use run::How;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

/// Why a directory of hooks is refused, or a hook did not do what it is for. But for [`File`](Self::File), each is a sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// Something in the directory has no name of a hook.
    #[error("{} is no hook: call it one of {names}, or take it out of this directory", path.display())]
    NoHook {
        /// What it is.
        path: PathBuf,
        /// The names that there are.
        names: String,
    },
    /// A hook is no plain file, or cannot be executed.
    #[error("{0} cannot be run: chmod +x {0}, or remove it", path.display())]
    NotExecutable {
        /// The hook.
        path: PathBuf,
    },
    /// Somebody else could change what is run.
    #[error("others can write to {0}, and what is in it would be run: chown root {0}; chmod go-w {0}", path.display())]
    OthersCanWrite {
        /// The hook, or the directory.
        path: PathBuf,
    },
    /// A hook said by its exit status that it failed.
    #[error("the hook {name} failed ({status}){}; mend what it says and run this again", said(last_words))]
    Failed {
        /// Its name.
        name: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// The last line that it wrote to its standard error; empty if there was none.
        last_words: String,
    },
    /// A hook took too long, and was ended with all that it started.
    #[error(
        "the hook {name} did not end within {} s and was ended{}; mend it, or give it more by --hook-timeout",
        patience.as_secs(),
        said(last_words)
    )]
    TimedOut {
        /// Its name.
        name: &'static str,
        /// How long it had.
        patience: Duration,
        /// As for `Failed`.
        last_words: String,
    },
    /// A hook was ended with all that it started, since nobody wants it any longer.
    #[error("while the hook {name} ran; run this again to go on")]
    Stopped {
        /// Its name.
        name: &'static str,
    },
    /// A hook or the directory cannot be read, or a hook cannot be started.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

fn said(last_words: &str) -> String {
    if last_words.is_empty() { String::new() } else { format!(": {last_words}") }
}

/// The hooks of a directory, or none.
#[derive(Clone, Debug, Default)]
pub struct Hooks {
    found: Vec<(&'static str, PathBuf)>,
    patience: Duration,
}

impl Hooks {
    /// Looks at a directory, which may hold hooks of the names in `known`, and what begins with a dot or README. Each may run for `patience`.
    ///
    /// # Errors
    ///
    /// When there is anything else in it, a hook cannot be run, others can write to it or to the directory, or it cannot be read.
    pub fn open(directory: &Path, known: &[&'static str], patience: Duration) -> Result<Self, HookError> {
        let mut found = Vec::new();
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| HookError::File { action: "read", path, source }
        };
        check_owner(directory, &fs::metadata(directory).map_err(failed(directory))?)?;
        for entry in fs::read_dir(directory).map_err(failed(directory))? {
            let path = entry.map_err(failed(directory))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with('.') || name.starts_with("README") {
                continue;
            }
            let Some(hook) = known.iter().copied().find(|known| *known == name) else {
                return Err(HookError::NoHook { path, names: known.join(", ") });
            };
            let about = fs::metadata(&path).map_err(failed(&path))?;
            if !about.is_file() || about.mode() & 0o111 == 0 {
                return Err(HookError::NotExecutable { path });
            }
            check_owner(&path, &about)?;
            found.push((hook, path));
        }
        found.sort_unstable();
        Ok(Self { found, patience })
    }

    /// Whether there is a hook of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.found.iter().any(|(found, _)| *found == name)
    }

    /// The names of those that there are, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        self.found.iter().map(|(name, _)| *name).collect()
    }

    /// How long each may run.
    #[must_use]
    pub const fn patience(&self) -> Duration {
        self.patience
    }

    /// Runs a hook, if there is one, with `environment` and `FAILBACK_HOOK`, its name, beside the environment of this process. It is ended
    /// with all that it started once `stop` says so. Returns the first line that it printed, if it printed any.
    ///
    /// # Errors
    ///
    /// When it cannot be started, says that it failed, takes longer than it may, or was stopped.
    pub fn run(
        &self,
        name: &'static str,
        environment: &[(&str, OsString)],
        stop: impl Fn() -> bool,
    ) -> Result<Option<String>, HookError> {
        let Some((_, path)) = self.found.iter().find(|(found, _)| *found == name) else { return Ok(None) };
        let mut command = Command::new(path);
        command.envs(environment.iter().map(|(name, value)| (name, value))).env("FAILBACK_HOOK", name);
        let ended = run::run(&mut command, self.patience, stop).map_err(|source| HookError::File {
            action: "run",
            path: path.clone(),
            source,
        })?;
        let last_words = ended.last_words;
        match ended.how {
            How::Exited(status) if status.success() => Ok(Some(ended.first_line).filter(|line| !line.is_empty())),
            How::Exited(status) => Err(HookError::Failed { name, status, last_words }),
            How::TimedOut => Err(HookError::TimedOut { name, patience: self.patience, last_words }),
            How::Stopped => Err(HookError::Stopped { name }),
        }
    }
}

/// Whoever can write to a hook can do what this program can.
fn check_owner(path: &Path, about: &fs::Metadata) -> Result<(), HookError> {
    let is_ours = about.uid() == 0 || about.uid() == geteuid().as_raw();
    if is_ours && about.mode() & 0o022 == 0 { Ok(()) } else { Err(HookError::OthersCanWrite { path: path.to_owned() }) }
}
