//! Exit codes, which scripts rely on.

use crate::report::tell;
use crate::text::with_causes;
use failback_orchestrate::{JobError, Outcome};
use failback_replication::SessionError;
use std::io;
use std::process::ExitCode;

pub(crate) const HELP: &str = "Exit codes: 0 done; 1 unexpected error; 2 wrong usage; 3 refused; 4 content does\n\
                               not match; 5 input or output failed; 6 damaged or unknown file; 130 interrupted";

/// What `HELP` says, as pairs of a code and its meaning.
pub(crate) fn meanings() -> impl Iterator<Item = (&'static str, String)> {
    let codes = HELP.strip_prefix("Exit codes: ").unwrap_or(HELP).split("; ");
    codes.filter_map(|entry| entry.split_once(' ')).map(|(code, meaning)| (code, meaning.replace('\n', " ")))
}

/// The content of a disk is not what it should be.
pub(crate) const MISMATCH: u8 = 4;
/// A file is damaged.
pub(crate) const DAMAGED: u8 = 6;
/// Refused, nothing done.
pub(crate) const REFUSED: u8 = 3;

const fn code(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Refused => REFUSED,
        Outcome::Mismatch => MISMATCH,
        Outcome::Io => 5,
        Outcome::Damaged => DAMAGED,
        Outcome::Interrupted => 130,
    }
}

/// Prints an error with all its causes, and gives its exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    tell(&format!("failback: {}", with_causes(error.as_ref())));
    let outcome = error.chain().find_map(|cause| {
        let job = cause.downcast_ref::<JobError>().map(JobError::outcome);
        let session = cause.downcast_ref::<SessionError>().map(SessionError::outcome);
        job.or(session).or_else(|| cause.is::<io::Error>().then_some(Outcome::Io))
    });
    ExitCode::from(outcome.map_or(1, code))
}
