//! What is printed about recovery points.

use super::args::ExportFormat;
use crate::report::Lines;
use crate::text::with_causes;
use failback_orchestrate::{
    Catalogue, Copies, DiskIdentity, Forecast, FoundDisk, Gap, HumanBytes, JobError, Pending, Point, PointId,
    PointKind, Prune, Store, TravelReport, describe, is_unknown,
};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use time::OffsetDateTime;

/// Points as a list for people.
pub(crate) fn named(ids: &[PointId]) -> String {
    match ids {
        [] => "no recovery points".into(),
        ids => {
            let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
            format!("recovery point{} {}", if ids.len() == 1 { "" } else { "s" }, ids.join(", "))
        }
    }
}

/// Seconds since 1970 as a date and a time in UTC; as they are where no calendar reaches.
pub(crate) fn when(seconds: i64) -> String {
    let Ok(time) = OffsetDateTime::from_unix_timestamp(seconds) else { return format!("{seconds} s") };
    let (date, time) = (time.date(), time.time());
    let month = u8::from(date.month());
    let (hour, minute, second) = time.as_hms();
    format!("{:04}-{month:02}-{:02} {hour:02}:{minute:02}:{second:02}", date.year(), date.day())
}

/// A span of time for people.
pub(crate) fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// The points that cannot be reached, and why.
fn gap_lines(gaps: &[Gap]) -> Vec<String> {
    let line = |gap: &Gap| match gap.link {
        Some(_) => format!("{} cannot be reached: {gap}", named(&gap.unreachable)),
        None => format!("what was interrupted cannot be taken back: {gap}"),
    };
    gaps.iter().map(line).collect()
}

fn point_object(catalogue: &Catalogue, gaps: &[Gap], point: &Point) -> Value {
    let link = catalogue.link_to(point.id);
    json!({
        "id": point.id.0,
        "root": point.root.to_string(),
        "size": point.size.get(),
        "block_size": point.block_size.bytes(),
        "coverage": point.coverage.name(),
        "kind": point.kind.name(),
        "bootable": point.kind != PointKind::Fuzzy,
        "time": point.time,
        "recorded": point.recorded,
        "pinned": point.pinned,
        "proven": point.proven.name(),
        "present": point.id == catalogue.present().id,
        "committed": point.id == catalogue.committed(),
        "reachable": gaps.iter().all(|gap| !gap.unreachable.contains(&point.id)),
        "link_bytes": link.map(|link| link.bytes.get()),
        "link_content_bytes": link.map(|link| link.content_bytes.get()),
    })
}

/// What is said where only one copy of the catalogue is left.
const HALF_DAMAGED: &str = "one of the two copies of the catalogue is damaged: the next change of the recovery points writes both anew; look \
                            after the retention drive";

/// Whether only one copy of the catalogue is left.
fn is_damaged(store: &Store) -> bool {
    store.copies() != Copies::Intact
}

fn space_of(store: &Store) -> Value {
    let space = store.directory().space().ok();
    let forecast = Forecast::of(store.catalogue());
    let full = forecast.zip(space).and_then(|(forecast, space)| forecast.seconds_until_full(space.available));
    json!({
        "link_bytes": store.catalogue().link_bytes().get(),
        "available": space.map(|space| space.available.get()),
        "total": space.map(|space| space.total.get()),
        "bytes_per_second": forecast.map(|forecast| forecast.bytes_per_second()),
        "seconds_until_full": full,
    })
}

/// A sentence on how long the space lasts.
fn forecast_line(store: &Store) -> String {
    let Ok(space) = store.directory().space() else { return "unknown: the file system does not tell".into() };
    let used = store.catalogue().link_bytes().human();
    let free = space.available.human();
    match Forecast::of(store.catalogue()) {
        None => format!("{used} used, {free} left; too few points to say how long that lasts"),
        Some(forecast) => match forecast.seconds_until_full(space.available) {
            Some(seconds) => format!("{used} used, {free} left: full in {} at the present rate", span(seconds)),
            None => format!("{used} used, {free} left"),
        },
    }
}

/// What is under way, as an object and as a sentence.
pub(crate) fn under_way(catalogue: &Catalogue) -> Option<(&'static str, String)> {
    let present = catalogue.present().id;
    Some(match catalogue.pending()? {
        Pending::Apply(apply) => (
            "apply",
            format!("an apply that leads from recovery point {present} to {} was interrupted", apply.result.id),
        ),
        Pending::Rollback { goal, from, inverse, .. } => (
            "rollback",
            match inverse {
                Some(_) => format!("a rollback from recovery point {from} to {goal} was interrupted next to {present}"),
                None => format!("a rollback from recovery point {from} to {goal} was interrupted at {present}"),
            },
        ),
        Pending::Undo { goal, .. } => {
            ("undo", format!("an undo to recovery point {goal} was interrupted next to {present}"))
        }
    })
}

/// All points of a disk.
pub(crate) fn list(disk: &DiskIdentity, store: &Store, running: bool) -> (Value, String) {
    let (catalogue, gaps) = (store.catalogue(), store.gaps());
    let unknown = is_unknown(catalogue);
    let points: Vec<_> = catalogue.points().iter().filter(|_| !unknown).collect();
    let object = json!({
        "disk": disk.path.display().to_string(),
        "place": store.directory().place(),
        "running": running,
        "present": (!unknown).then_some(catalogue.present().id.0),
        "committed": (!unknown).then_some(catalogue.committed().0),
        "under_way": under_way(catalogue).map(|(name, _)| name),
        "points": points.iter().map(|point| point_object(catalogue, &gaps, point)).collect::<Vec<_>>(),
        "catalogue_damaged": is_damaged(store),
        "space": space_of(store),
    });
    let mut text = format!("{}\n", describe(disk));
    if unknown {
        text.push_str("no recovery points yet\n");
        return (object, text);
    }
    let _ = writeln!(text, "{:>6}  {:19}  {:11}  {:>10}  root", "point", "time (UTC)", "kind", "link");
    for point in catalogue.points() {
        let is_present = point.id == catalogue.present().id;
        let mark = if is_present { ">" } else { " " };
        let link = catalogue.link_to(point.id);
        let bytes = link.map_or_else(|| "-".to_owned(), |link| link.bytes.human().to_string());
        let mut notes = String::new();
        for (is_so, note) in [
            (is_present, "present"),
            (point.id == catalogue.committed(), "committed"),
            (point.pinned, "pinned"),
            (point.kind == PointKind::Fuzzy, "not to be booted"),
            (gaps.iter().any(|gap| gap.unreachable.contains(&point.id)), "CANNOT BE REACHED"),
        ] {
            if is_so {
                let _ = write!(notes, "  {note}");
            }
        }
        let root = point.root.to_string();
        let _ = writeln!(
            text,
            "{mark}{:>5}  {}  {:11}  {bytes:>10}  {}{notes}",
            point.id.0,
            when(point.time),
            point.kind.name(),
            &root[..16]
        );
    }
    if let Some((_, sentence)) = under_way(catalogue) {
        let state = if running { "under way now" } else { "failback resume finishes it, failback undo takes it back" };
        let _ = writeln!(text, "{sentence}: {state}");
    }
    for line in gap_lines(&gaps) {
        let _ = writeln!(text, "{line}");
    }
    if is_damaged(store) {
        let _ = writeln!(text, "{HALF_DAMAGED}");
    }
    let _ = writeln!(text, "space: {}", forecast_line(store));
    (object, text)
}

/// All that is known of a point.
pub(crate) fn show(disk: &DiskIdentity, store: &Store, id: PointId) -> Result<(Value, Lines), JobError> {
    let (catalogue, gaps) = (store.catalogue(), store.gaps());
    let point = catalogue.point(id).ok_or_else(|| super::no_such_point(id))?;
    let object = point_object(catalogue, &gaps, point);
    let mut lines = Lines::default();
    lines.add("point", id).add("disk", describe(disk));
    lines.add("root", point.root).bytes("size", point.size.get());
    lines.add("coverage", point.coverage).add("block size", point.block_size);
    let kind = if point.kind == PointKind::Fuzzy { "fuzzy: not to be booted" } else { point.kind.name() };
    lines.add("kind", kind).add("time", format!("{} UTC", when(point.time)));
    lines.add("recorded", format!("{} UTC", when(point.recorded))).add("proven", point.proven.name());
    let mut is = Vec::new();
    if id == catalogue.present().id {
        is.push("present: the disk is there");
    }
    if id == catalogue.committed() {
        is.push("committed: an undo returns to it");
    }
    if point.pinned {
        is.push("pinned: it is not removed");
    }
    if !is.is_empty() {
        lines.add("state", is.join("\n"));
    }
    for line in gap_lines(&gaps).iter().filter(|_| gaps.iter().any(|gap| gap.unreachable.contains(&id))) {
        lines.add("unreachable", line);
    }
    Ok((object, lines))
}

/// All disks of a retention directory.
pub(crate) fn all_disks(directory: &Path, all: &[FoundDisk]) -> (Value, Lines) {
    let mut lines = Lines::default();
    let disks: Vec<_> = all
        .iter()
        .map(|(name, store)| match store {
            Ok(store) => {
                let (catalogue, gaps) = (store.catalogue(), store.gaps());
                let unknown = is_unknown(catalogue);
                let count = if unknown { 0 } else { catalogue.points().len() };
                let mut text = format!(
                    "{} recovery points; {}; was {}",
                    count,
                    forecast_line(store),
                    catalogue.disk().description.escape_debug()
                );
                let damaged = is_damaged(store).then(|| HALF_DAMAGED.to_owned());
                let under_way_now = under_way(catalogue).map(|(_, line)| line);
                for line in under_way_now.into_iter().chain(gap_lines(&gaps)).chain(damaged) {
                    let _ = write!(text, "\n{line}");
                }
                lines.add(name, text);
                json!({
                    "name": name,
                    "description": catalogue.disk().description,
                    "points": catalogue.points().iter().filter(|_| !unknown)
                        .map(|point| point_object(catalogue, &gaps, point)).collect::<Vec<_>>(),
                    "under_way": under_way(catalogue).map(|(name, _)| name),
                    "catalogue_damaged": is_damaged(store),
                    "space": space_of(store),
                })
            }
            Err(error) => {
                let why = with_causes(error);
                lines.add(name, format!("DAMAGED: {why}"));
                json!({ "name": name, "error": why })
            }
        })
        .collect();
    if all.is_empty() {
        lines.add("points", format!("none in {}", directory.display()));
    }
    (json!({ "directory": directory.display().to_string(), "disks": disks }), lines)
}

/// Where a disk went.
pub(crate) fn travelled(
    path: &Path,
    report: &TravelReport,
    catalogue: &Catalogue,
    seconds: f64,
    engine: &str,
) -> (Value, Lines) {
    let point = catalogue.present();
    let proven = report.applied.as_ref().map_or("changed blocks", |applied| applied.applied.proven.name());
    let object = json!({
        "disk": path.display().to_string(),
        "from": report.from.0,
        "point": point.id.0,
        "root": point.root.to_string(),
        "coverage": point.coverage.name(),
        "kind": point.kind.name(),
        "steps": report.steps,
        "bytes_read": report.bytes_read,
        "bytes_written": report.bytes_written,
        "bytes_zeroed": report.bytes_zeroed,
        "proven": proven,
        "seconds": seconds,
        "engine": engine,
    });
    let mut lines = Lines::default();
    lines.add("result", format!("the disk is at recovery point {}, durably", point.id));
    lines.add("root", point.root).add("coverage", point.coverage).add("kind", point.kind);
    lines.add("steps", report.steps).bytes("read", report.bytes_read);
    lines.bytes("written", report.bytes_written).bytes("made zero", report.bytes_zeroed);
    lines.add("proven", proven).rate(report.bytes_written, seconds).add("engine", engine);
    (object, lines)
}

/// What pruning did, or would do.
pub(crate) fn pruned(
    path: &Path,
    removed: &[Prune],
    kept: &[(PointId, String)],
    freed: u64,
    dry_run: bool,
) -> (Value, Lines) {
    let ids: Vec<_> = removed.iter().map(|prune| prune.point()).collect();
    let object = json!({
        "disk": path.display().to_string(),
        "dry_run": dry_run,
        "removed": ids.iter().map(|id| id.0).collect::<Vec<_>>(),
        "kept": kept.iter().map(|(id, why)| json!({ "id": id.0, "why": why })).collect::<Vec<_>>(),
        "bytes_freed": freed,
    });
    let mut lines = Lines::default();
    lines.add(if dry_run { "would remove" } else { "removed" }, named(&ids));
    for (id, why) in kept {
        lines.add("kept", format!("recovery point {id}: {why}"));
    }
    if !dry_run {
        lines.add("freed", HumanBytes(freed));
    }
    (object, lines)
}

/// What was exported.
pub(crate) fn exported(
    point: &Point,
    format: ExportFormat,
    files: &[PathBuf],
    bytes: u64,
    seconds: f64,
) -> (Value, Lines) {
    let proven = match format {
        ExportFormat::Delta => "both roots recomputed from the stored values",
        ExportFormat::Raw | ExportFormat::Vmdk => "the copy was read back and has the root of the point",
    };
    let object = json!({
        "point": point.id.0,
        "root": point.root.to_string(),
        "coverage": point.coverage.name(),
        "files": files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>(),
        "bytes_written": bytes,
        "proven": proven,
        "seconds": seconds,
    });
    let mut lines = Lines::default();
    lines.add("point", point.id).add("root", point.root).add("coverage", point.coverage);
    let names: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
    lines.add("files", names.join("\n")).bytes("written", bytes).add("proven", proven).rate(bytes, seconds);
    (object, lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        // What `date -u -d @SECONDS '+%F %T'` prints.
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00"),
            (-1, "1969-12-31 23:59:59"),
            (951_782_400, "2000-02-29 00:00:00"),
            (1_700_000_000, "2023-11-14 22:13:20"),
        ] {
            assert_eq!(when(seconds), text);
        }
        assert_eq!(when(i64::MAX), format!("{} s", i64::MAX));
    }
}
