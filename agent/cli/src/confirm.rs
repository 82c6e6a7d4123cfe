//! The question before anything is overwritten.

use crate::report::tell;
use failback_orchestrate::{DiskIdentity, JobError, describe};
use std::io::{self, BufRead, IsTerminal, Write};

/// Asks whether `disk` may be written; the answer is the disk's name. `more` says what else there is to know.
pub(crate) fn overwriting(disk: &DiskIdentity, yes: bool, more: Option<&str>) -> Result<(), JobError> {
    ask(disk, yes, &format!("This changes {}", describe(disk)), more, "may be written")
}

/// Asks whether recovery points of `disk` may go, of which `what` tells.
pub(crate) fn losing(disk: &DiskIdentity, yes: bool, what: &str) -> Result<(), JobError> {
    ask(
        disk,
        yes,
        &format!("This concerns the recovery points of {}", describe(disk)),
        Some(what),
        "may lose recovery points",
    )
}

fn ask(disk: &DiskIdentity, yes: bool, first: &str, more: Option<&str>, may: &str) -> Result<(), JobError> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(JobError::Refused(format!(
            "nobody can be asked whether {} {may}, since standard input is no terminal: add --yes if it may",
            disk.path.display()
        )));
    }
    let name = disk.path.display().to_string();
    tell(first);
    if let Some(more) = more {
        tell(more);
    }
    let _ = write!(io::stderr(), "Type {name} to go on: ");
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    if read.is_ok() && answer.trim_end_matches(['\n', '\r']) == name {
        return Ok(());
    }
    Err(JobError::Refused(format!("{name} was not confirmed, so nothing was written: type its name, or add --yes")))
}
