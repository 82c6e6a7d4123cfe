//! The verb `state`: a backup of the control plane, and its restore.

use super::args::{BackupArgs, StateArgs, StateCommand};
use super::client::{Control, absolute, refused};
use crate::report::{Lines, print};
use anyhow::Result;
use failback_control::api::types::Backup;
use failback_control::state::restore;
use failback_credentials::{Directory, Identity};
use failback_orchestrate::JobError;
use serde_json::json;
use std::process::ExitCode;

pub(crate) fn state(args: &StateArgs) -> Result<ExitCode> {
    match &args.command {
        StateCommand::Backup(args) => backup(args),
        StateCommand::Restore(args) => put_back(args),
    }
}

fn backup(args: &BackupArgs) -> Result<ExitCode> {
    let place = &args.list.place;
    let credentials = place.credentials()?;
    // It has a key from now on, if it had none: whoever takes its place is the same machine to others.
    let identity = Identity::load_or_create(&credentials).map_err(|error| refused(&error))?;
    let directory = Directory::open(&args.directory).map_err(|error| refused(&error))?;
    let file = Backup { path: absolute(&args.directory.join("state"))? };
    let _: Backup = Control::at(place)?.ask_with("/v1/state/backup", &file)?;
    credentials.copy_to(&directory).map_err(|error| refused(&error))?;
    let mut lines = Lines::default();
    lines.add("backup", args.directory.display()).add("of", identity.fingerprint());
    lines.add("keep it", "where nobody else reads: it has this machine's key");
    let object =
        json!({ "directory": args.directory.display().to_string(), "fingerprint": identity.fingerprint().to_string() });
    print(args.list.json, &object, &lines)?;
    Ok(ExitCode::SUCCESS)
}

fn put_back(args: &BackupArgs) -> Result<ExitCode> {
    let place = &args.list.place;
    if !args.directory.join("state").is_file() {
        let directory = args.directory.display();
        return Err(JobError::Refused(format!(
            "{directory} is no backup: name a directory that failback state backup made"
        ))
        .into());
    }
    let from = Directory::open(&args.directory).map_err(|error| refused(&error))?;
    // Both are understood before anything is replaced.
    let identity = Identity::load(&from).map_err(|error| refused(&error))?;
    place.directory()?;
    let restored = restore(&place.state_file(), &args.directory.join("state")).map_err(|error| refused(&error))?;
    from.copy_to(&place.credentials()?).map_err(|error| refused(&error))?;
    let mut lines = Lines::default();
    lines.add("restored", args.directory.display()).add("this machine is now", identity.fingerprint());
    if let Some(previous) = &restored.previous {
        lines.add("the state before", previous.display());
    }
    let object = json!({
        "directory": args.directory.display().to_string(),
        "fingerprint": identity.fingerprint().to_string(),
        "previous": restored.previous.map(|previous| previous.display().to_string()),
    });
    print(args.list.json, &object, &lines)?;
    Ok(ExitCode::SUCCESS)
}
