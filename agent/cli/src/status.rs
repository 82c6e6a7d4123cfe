//! The verb status: where a disk is, from its intent record and its recovery points.

use crate::args::StatusArgs;
use crate::config::Config;
use crate::points::{open, report};
use crate::report::{Lines, print};
use anyhow::Result;
use failback_orchestrate::{
    Catalogue, DeltaSource, DiskIdentity, Intent, IntentStore, JobError, Pending, Store, intents_of, is_unknown,
    look_at_points, look_at_target,
};
use serde_json::{Value, json};
use std::path::Path;
use std::process::ExitCode;

pub(crate) fn status(args: &StatusArgs) -> Result<ExitCode> {
    let seen = look_at_target(&args.disk)?;
    let points = match open::directory(&args.retention, &Config::load()?) {
        Some(directory) => look_at_points(&directory, &seen.identity)?,
        None => None,
    };
    // A store that was made for an apply that was then refused tells nothing.
    let points = points.filter(|(store, _)| !is_unknown(store.catalogue()));
    let mut intents = intents_of(&seen.identity, args.state.as_deref());
    let intent = intents.load().map_err(JobError::from)?;
    let (mut object, lines) = match (&intent, &points) {
        (None, Some((store, running))) => of_points(store, *running || seen.claimed),
        (intent, _) => of_intent(intent.as_ref(), seen.claimed, &intents.place()),
    };
    object["disk"] = json!(args.disk.display().to_string());
    if let Some((store, _)) = &points {
        object["points"] = points_of(&seen.identity, store);
    }
    print(args.json, &object, &lines)?;
    Ok(ExitCode::SUCCESS)
}

/// Without recovery points an intent record tells.
fn of_intent(intent: Option<&Intent>, claimed: bool, place: &str) -> (Value, Lines) {
    let (state, meaning, next) = match (intent, claimed) {
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
        "state": state,
        "next": next,
        "base_root": intent.map(|intent| intent.base_root.to_string()),
        "result_root": intent.and_then(|intent| intent.result_root).map(|root| root.to_string()),
        "window_start": intent.map(|intent| window(intent).0),
        "window_bytes": intent.map(|intent| window(intent).1),
        "started": intent.map(|intent| intent.started),
        "record": place,
    });
    let mut lines = Lines::default();
    lines.add("state", meaning);
    if let Some(next) = next {
        lines.add("next", next);
    }
    if let Some(intent) = intent {
        lines.add("base root", intent.base_root);
        let result = intent.result_root.map_or("unknown: the delta came from a pipe".into(), |root| root.to_string());
        lines.add("result root", result);
        let (start, bytes) = window(intent);
        lines.add("half written", format!("at most {bytes} bytes, from {start} on"));
        lines.add("record", place);
    }
    (object, lines)
}

/// With recovery points their catalogue tells.
fn of_points(store: &Store, running: bool) -> (Value, Lines) {
    let catalogue = store.catalogue();
    let present = catalogue.present();
    let under_way = report::under_way(catalogue);
    let ways = Ways::of(store);
    let (state, meaning, next) = match (&under_way, running) {
        (None, false) => ("at-rest", format!("the disk is at recovery point {}", present.id), None),
        (None, true) => (
            "in-use",
            format!("the disk is at recovery point {}, and another program uses it or its recovery points", present.id),
            None,
        ),
        (Some((what, _)), true) => ("running", format!("an {what} is under way now: the disk is not to be used"), None),
        (Some((_, sentence)), false) => {
            ("interrupted", format!("{sentence}: the disk is not to be used as it is"), Some(ways.sentence()))
        }
    };
    let (base, result) = ends(catalogue);
    let object = json!({
        "state": state,
        "next": next,
        "under_way": under_way.as_ref().map(|(what, _)| what),
        "can_resume": under_way.is_some() && !running && ways.resume,
        "can_undo": !running && ways.undo,
        "present": present.id.0,
        "root": under_way.is_none().then(|| present.root.to_string()),
        "base_root": base,
        "result_root": result,
        "committed": catalogue.committed().0,
        "record": store.directory().place(),
    });
    let mut lines = Lines::default();
    lines.add("state", meaning);
    if let Some(next) = next {
        lines.add("next", next);
    }
    if under_way.is_none() {
        lines.add("root", present.root).add("kind", present.kind);
    }
    for (name, root) in [("base root", base), ("result root", result)] {
        if let Some(root) = root {
            lines.add(name, root);
        }
    }
    lines.add("undo leads to", format!("recovery point {}", catalogue.committed()));
    lines.add("recovery points", store.directory().place());
    (object, lines)
}

/// The roots of what is under way.
fn ends(catalogue: &Catalogue) -> (Option<String>, Option<String>) {
    let root = |id| catalogue.point(id).map(|point| point.root.to_string());
    match catalogue.pending() {
        None => (None, None),
        Some(Pending::Apply(apply)) => (root(catalogue.present().id), Some(apply.result.root.to_string())),
        Some(Pending::Rollback { goal, from, .. }) => (root(*from), root(*goal)),
        Some(Pending::Undo { goal, .. }) => (None, root(*goal)),
    }
}

/// Which ways there are from where the disk is, as far as the files for them are there.
struct Ways {
    resume: bool,
    undo: bool,
    /// Whether the delta of an apply has to be named.
    delta_is_gone: bool,
}

impl Ways {
    fn of(store: &Store) -> Self {
        let catalogue = store.catalogue();
        let gaps = store.gaps();
        let open = |goal| gaps.iter().all(|gap| gap.link.is_none() || !gap.unreachable.contains(&goal));
        let back = gaps.iter().all(|gap| gap.link.is_some());
        match catalogue.pending() {
            None => {
                let committed = catalogue.committed();
                let undo = catalogue.present().id != committed && open(committed);
                Self { resume: false, undo, delta_is_gone: false }
            }
            Some(Pending::Apply(apply)) => {
                let delta_is_gone = match &apply.source {
                    DeltaSource::Spooled(file) => store.open_spool(*file).is_err(),
                    DeltaSource::Path(path) => !Path::new(path).is_file(),
                };
                Self { resume: true, undo: back, delta_is_gone }
            }
            Some(Pending::Rollback { goal, from, .. }) => {
                Self { resume: open(*goal), undo: back && open(*from), delta_is_gone: false }
            }
            Some(Pending::Undo { goal, .. }) => Self { resume: open(*goal), undo: open(*goal), delta_is_gone: false },
        }
    }

    fn sentence(&self) -> &'static str {
        match (self.resume, self.delta_is_gone, self.undo) {
            (true, false, true) => "failback resume finishes it, failback undo goes back to where it began",
            (true, true, true) => {
                "failback undo goes back to where it began; failback resume --delta FILE finishes it, the delta is not where it was"
            }
            (true, false, false) => "failback resume finishes it; what leads back is missing",
            (true, true, false) => "failback resume --delta FILE finishes it; what leads back is missing",
            (false, _, true) => "failback undo goes back to where it began; what leads on is missing",
            (false, _, false) => {
                "restore the missing files of its recovery points from a backup: no way leads on or back"
            }
        }
    }
}

fn points_of(disk: &DiskIdentity, store: &Store) -> Value {
    report::list(disk, store, false).0["points"].take()
}

/// The first byte and the length of the blocks that may be half written.
fn window(intent: &Intent) -> (u64, u64) {
    let bytes = |blocks: u64| blocks.saturating_mul(1 << intent.block_shift);
    (bytes(intent.window.start().get()), bytes(intent.window.count().get()))
}
