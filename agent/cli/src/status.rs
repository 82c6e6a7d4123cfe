//! The verb status: what state a target is in, from its intent record.

use crate::args::StatusArgs;
use crate::files;
use crate::report::{Lines, print};
use anyhow::Result;
use failback_orchestrate::{Intent, IntentStore, JobError, look_at_target};
use serde_json::json;
use std::process::ExitCode;

pub(crate) fn status(args: &StatusArgs) -> Result<ExitCode> {
    let seen = look_at_target(&args.disk)?;
    let mut intents = files::intents(&seen.identity, args.state.as_deref());
    let intent = intents.load().map_err(JobError::from)?;
    let (state, meaning, next) = match (&intent, seen.claimed) {
        (None, false) => ("at-rest", "no apply is under way, and none was interrupted", None),
        (None, true) => {
            ("in-use", "another program has claimed this disk, and has changed nothing that is on record", None)
        }
        (Some(_), true) => ("running", "an apply is under way now: a part of the change is on the disk", None),
        (Some(_), false) => (
            "interrupted",
            "an apply was interrupted: a part of the change is on the disk, which is not to be used as it is",
            Some("run failback apply again with the same delta to finish"),
        ),
    };
    let object = json!({
        "disk": args.disk.display().to_string(),
        "state": state,
        "next": next,
        "base_root": intent.map(|intent| intent.base_root.to_string()),
        "result_root": intent.and_then(|intent| intent.result_root).map(|root| root.to_string()),
        "window_start": intent.map(|intent| window(&intent).0),
        "window_bytes": intent.map(|intent| window(&intent).1),
        "started": intent.map(|intent| intent.started),
        "record": intents.place(),
    });
    let mut lines = Lines::default();
    lines.add("state", meaning);
    if let Some(next) = next {
        lines.add("next", next);
    }
    if let Some(intent) = &intent {
        lines.add("base root", intent.base_root);
        let result = intent.result_root.map_or("unknown: the delta came from a pipe".into(), |root| root.to_string());
        lines.add("result root", result);
        let (start, bytes) = window(intent);
        lines.add("half written", format!("at most {bytes} bytes, from {start} on"));
        lines.add("record", intents.place());
    }
    print(args.json, &object, &lines)?;
    Ok(ExitCode::SUCCESS)
}

/// The first byte and the length of the blocks that may be half written.
fn window(intent: &Intent) -> (u64, u64) {
    let bytes = |blocks: u64| blocks.saturating_mul(1 << intent.block_shift);
    (bytes(intent.window.start().get()), bytes(intent.window.count().get()))
}
