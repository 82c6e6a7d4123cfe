//! Where recovery points are, from the command line and the configuration.

use super::args::{Keeping, Retention};
use crate::config::Config;
use crate::report::tell;
use failback_orchestrate::{DiskIdentity, JobError, Policy, SourceDisk, SourceOptions, Store, look_at_points};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The retention directory, from the command line or the configuration.
pub(crate) fn directory(retention: &Retention, config: &Config) -> Option<PathBuf> {
    retention.retention.clone().or_else(|| config.retention.directory.clone())
}

/// The same where there must be one.
pub(crate) fn needed_directory(retention: &Retention) -> Result<PathBuf, JobError> {
    directory(retention, &Config::load()?).ok_or_else(|| {
        JobError::Refused(
            "no retention directory is named: add --retention DIR, or name it in /etc/failback/failback.toml".into(),
        )
    })
}

/// The limits, from the command line or else the configuration.
pub(crate) fn policy(keeping: &Keeping, config: &Config) -> Result<Policy, JobError> {
    let configured = config.policy()?;
    Ok(Policy {
        keep_points: keeping.points.or(configured.keep_points),
        keep_for: keeping.age.or(configured.keep_for),
        keep_bytes: keeping.space.or(configured.keep_bytes),
    })
}

/// The same for an apply that keeps nothing there: a retention drive that is missing does not stop it, and is told of.
pub(crate) fn look_if_there(directory: &Path, disk: &DiskIdentity) -> Result<Option<(Store, bool)>, JobError> {
    if fs::metadata(directory).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        tell(&format!(
            "the retention directory {} does not exist, so nobody can tell whether it has recovery points of {}; this makes them worthless",
            directory.display(),
            disk.path.display()
        ));
        return Ok(None);
    }
    look_at_points(directory, disk)
}

/// A disk that is read for its points: nobody may write to it meanwhile.
pub(crate) fn quiet_disk(path: &Path, engine: failback_orchestrate::Engine) -> Result<SourceDisk, JobError> {
    let source = SourceDisk::open(path, SourceOptions { engine, fuzzy: false })?;
    if source.writers().is_empty() {
        return Ok(source);
    }
    Err(JobError::Refused(format!(
        "{} is {}, so what it holds is no recovery point: end that before",
        path.display(),
        source.writers().join(", and ")
    )))
}
