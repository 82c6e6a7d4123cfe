//! The verbs for recovery points.

pub(crate) mod args;
pub(crate) mod open;
pub(crate) mod report;
mod serve;

use crate::meter::Meter;
use crate::report::{Lines, print};
use crate::{confirm, exit, files};
use anyhow::Result;
use args::{
    CommitArgs, ExportArgs, ExportFormat, ListArgs, MoveArgs, PinArgs, PointArgs, PointCommand, PruneArgs, ResumeArgs,
    RollbackArgs, ShowArgs,
};
use failback_orchestrate::{
    ApplyOptions, Catalogue, ClaimedTarget, DiskIdentity, Engine, JobError, MoveOptions, NewImage, OpenPoint, Opened,
    Pending, Plan, PointId, Progress, Prune, PruneStep, ReadSeek, TargetDisk, TravelReport, all_points, binding_of,
    export_delta, export_image, intents_of, look_at_points, look_at_target, nothing_to_resume, nothing_to_undo,
    open_point, plan_prune, points_for_changes, points_for_reading, prune as prune_points, refuse_fuzzy,
    refuse_unrecorded,
};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// What moving a disk needs besides.
pub(crate) fn moving(disk: &DiskIdentity) -> Result<MoveOptions, JobError> {
    let certain = binding_of(disk).certain;
    Ok(MoveOptions { now: files::now(), seed: files::random()?, certain, ..MoveOptions::default() })
}

/// A target that is claimed, and its points, locked.
struct Ready {
    target: TargetDisk,
    points: Opened,
    meter: Meter,
    started: Instant,
}

/// Asks, claims the disk, and opens its points. `does` says what will be done, for the question.
fn ready(args: &MoveArgs, does: impl FnOnce(&Catalogue) -> Result<String, JobError>) -> Result<Ready> {
    let directory = open::needed_directory(&args.retention)?;
    let disk = look_at_target(&args.disk)?.identity;
    {
        // A look before the question, so that nobody is asked about what cannot be done.
        let points = points_for_reading(&directory, &disk)?;
        let does = does(points.store.catalogue())?;
        confirm::overwriting(&disk, args.yes, Some(&does))?;
    }
    let meter = Meter::new()?;
    let started = Instant::now();
    // What an apply without recovery points has left half written is in none of them.
    refuse_unrecorded(&mut intents_of(&disk, None))?;
    let claimed = ClaimedTarget::claim(&args.disk, args.common.engine.into(), &disk, None)?;
    let points = points_for_changes(&directory, &disk)?;
    let target = claimed.make_writable()?;
    for note in target.notes() {
        meter.note(&note);
    }
    Ok(Ready { target, points, meter, started })
}

impl Ready {
    /// Does the work, gives the disk back, and reports.
    fn go(
        mut self,
        args: &MoveArgs,
        work: impl FnOnce(&mut Self) -> Result<TravelReport, JobError>,
    ) -> Result<ExitCode> {
        let report = work(&mut self);
        self.meter.finish();
        let Self { target, points, started, .. } = self;
        let engine = target.device().engine();
        let released = target.release();
        let report = report?;
        released?;
        let seconds = started.elapsed().as_secs_f64();
        let (object, lines) = report::travelled(&args.disk, &report, points.store.catalogue(), seconds, engine);
        print(args.common.json, &object, &lines)?;
        Ok(ExitCode::SUCCESS)
    }
}

pub(crate) fn resume(args: &ResumeArgs) -> Result<ExitCode> {
    let moving_args = &args.moving;
    let ready = ready(moving_args, |catalogue| match catalogue.pending() {
        Some(pending) => Ok(format!("The {} that was interrupted is finished: {}", pending.name(), goal_of(catalogue))),
        None => Err(nothing_to_resume()),
    })?;
    let mut delta = args.delta.as_deref().map(files::open).transpose()?;
    let options = ApplyOptions {
        verify: args.verify,
        now: files::now(),
        disk: binding_of(ready.target.identity()),
        ..ApplyOptions::default()
    };
    let moving = moving(ready.target.identity())?;
    ready.go(moving_args, |Ready { target, points, meter, .. }| {
        let delta = delta.as_mut().map(|delta| delta as &mut dyn ReadSeek);
        failback_orchestrate::resume(target.device(), delta, &mut points.store, &options, &moving, meter)
    })
}

fn goal_of(catalogue: &Catalogue) -> String {
    match catalogue.pending() {
        Some(Pending::Apply(apply)) => format!("the disk becomes recovery point {}", apply.result.id),
        Some(Pending::Rollback { goal, .. } | Pending::Undo { goal, .. }) => {
            format!("the disk goes to recovery point {goal}")
        }
        None => format!("the disk is at recovery point {}", catalogue.present().id),
    }
}

pub(crate) fn undo(args: &MoveArgs) -> Result<ExitCode> {
    let ready = ready(args, |catalogue| match catalogue.pending() {
        Some(Pending::Apply(_)) => Ok(format!(
            "The apply that was interrupted is taken back: the disk becomes recovery point {} again",
            catalogue.present().id
        )),
        Some(Pending::Rollback { from, .. }) => {
            Ok(format!("The rollback that was interrupted is taken back: the disk goes to recovery point {from} again"))
        }
        Some(Pending::Undo { goal, .. }) => Ok(format!("The undo goes on to recovery point {goal}")),
        None if catalogue.present().id == catalogue.committed() => Err(nothing_to_undo(catalogue.committed())),
        None => Ok(format!(
            "All changes since the last commit are given up: the disk goes back to recovery point {}, and newer points are removed",
            catalogue.committed()
        )),
    })?;
    let moving = moving(ready.target.identity())?;
    ready.go(args, |Ready { target, points, meter, .. }| {
        failback_orchestrate::undo(target.device(), &mut points.store, &moving, meter)
    })
}

pub(crate) fn commit(args: &CommitArgs) -> Result<ExitCode> {
    let directory = open::needed_directory(&args.points.retention)?;
    let disk = look_at_target(&args.points.disk)?.identity;
    let Opened { mut store, lock: _lock } = points_for_changes(&directory, &disk)?;
    let (before, after) = (store.catalogue().clone(), store.catalogue().commit().map_err(JobError::from)?);
    let gone: Vec<_> = before.points().iter().filter(|point| after.point(point.id).is_none()).map(|p| p.id).collect();
    let what = format!(
        "The present state is kept: nothing before recovery point {} can be undone any more, and {} are removed",
        after.committed(),
        report::named(&gone)
    );
    confirm::losing(&disk, args.yes, &what)?;
    store.save(after).map_err(JobError::from)?;
    let freed = before.link_bytes().saturating_sub(store.catalogue().link_bytes());
    let object = json!({
        "disk": args.points.disk.display().to_string(),
        "committed": store.catalogue().committed().0,
        "removed": gone.iter().map(|id| id.0).collect::<Vec<_>>(),
        "bytes_freed": freed.get(),
    });
    let mut lines = Lines::default();
    lines.add("committed", format!("recovery point {}", store.catalogue().committed()));
    lines.add("removed", report::named(&gone)).bytes("freed", freed.get());
    print(args.points.json, &object, &lines)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn point(args: &PointArgs) -> Result<ExitCode> {
    match &args.command {
        PointCommand::List(args) => list(args),
        PointCommand::Show(args) => show(args),
        PointCommand::Rollback(args) => rollback(args),
        PointCommand::Pin(args) => pin(args, true),
        PointCommand::Unpin(args) => pin(args, false),
        PointCommand::Prune(args) => prune(args),
        PointCommand::Export(args) => export(args),
        PointCommand::Serve(args) => serve::serve(args),
    }
}

fn list(args: &ListArgs) -> Result<ExitCode> {
    let directory = open::needed_directory(&args.retention)?;
    let Some(disk) = &args.disk else {
        let all = all_points(&directory)?;
        let damaged = all.iter().any(|(_, store)| store.is_err());
        let (object, lines) = report::all_disks(&directory, &all);
        print(args.json, &object, &lines)?;
        return Ok(if damaged { ExitCode::from(exit::DAMAGED) } else { ExitCode::SUCCESS });
    };
    let disk = look_at_target(disk)?.identity;
    let Some((store, running)) = look_at_points(&directory, &disk)? else {
        let object = json!({ "disk": disk.path.display().to_string(), "points": [] });
        let mut lines = Lines::default();
        lines.add("points", format!("none of {} in {}", disk.path.display(), directory.display()));
        print(args.json, &object, &lines)?;
        return Ok(ExitCode::SUCCESS);
    };
    let (object, text) = report::list(&disk, &store, running);
    if args.json {
        print(true, &object, &Lines::default())?;
    } else {
        crate::report::print_bytes(text.as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show(args: &ShowArgs) -> Result<ExitCode> {
    let directory = open::needed_directory(&args.points.retention)?;
    let disk = look_at_target(&args.points.disk)?.identity;
    let Opened { store, lock: _lock } = points_for_reading(&directory, &disk)?;
    let (object, lines) = report::show(&disk, &store, args.id)?;
    print(args.points.json, &object, &lines)?;
    Ok(ExitCode::SUCCESS)
}

fn rollback(args: &RollbackArgs) -> Result<ExitCode> {
    let ready = ready(&args.moving, |catalogue| {
        let point = catalogue.point(args.id).ok_or_else(|| no_such_point(args.id))?;
        refuse_fuzzy(point, args.fuzzy)?;
        Ok(format!("The disk goes from recovery point {} to {}; all points are kept", catalogue.present().id, args.id))
    })?;
    let moving = moving(ready.target.identity())?;
    ready.go(&args.moving, |Ready { target, points, meter, .. }| {
        failback_orchestrate::rollback(target.device(), &mut points.store, args.id, args.fuzzy, &moving, meter)
    })
}

fn no_such_point(id: PointId) -> JobError {
    JobError::Refused(format!("there is no recovery point {id}: failback point list tells which there are"))
}

fn pin(args: &PinArgs, pinned: bool) -> Result<ExitCode> {
    let directory = open::needed_directory(&args.points.retention)?;
    let disk = look_at_target(&args.points.disk)?.identity;
    let Opened { mut store, lock: _lock } = points_for_changes(&directory, &disk)?;
    let changed = store.change(|now| if pinned { now.pin(args.id) } else { now.unpin(args.id) });
    changed.map_err(JobError::from)?;
    let (object, lines) = report::show(&disk, &store, args.id)?;
    print(args.points.json, &object, &lines)?;
    Ok(ExitCode::SUCCESS)
}

fn prune(args: &PruneArgs) -> Result<ExitCode> {
    let directory = open::needed_directory(&args.retention)?;
    let config = crate::config::Config::load()?;
    let policy = open::policy(&args.keeping, &config)?;
    let disk = look_at_target(&args.disk)?.identity;
    let meter = Meter::new()?;
    let Opened { mut store, lock: _lock } = points_for_changes(&directory, &disk)?;
    let planned =
        if args.ids.is_empty() { plan_prune(store.catalogue(), &policy, files::now()) } else { Plan::default() };
    for remark in &planned.remarks {
        meter.note(&remark.to_string());
    }
    let steps = if args.ids.is_empty() {
        planned.steps.iter().map(|step| step.prune).collect()
    } else {
        named_steps(store.catalogue(), &args.ids)?
    };
    let reason = |prune: &Prune| planned.steps.iter().find(|step: &&PruneStep| step.prune == *prune);
    let said: Vec<_> =
        steps.iter().map(|prune| reason(prune).map_or_else(|| prune.to_string(), ToString::to_string)).collect();
    if args.dry_run || steps.is_empty() {
        let (object, lines) = report::pruned(&args.disk, &steps, &[], 0, true);
        print(args.common.json, &object, &lines)?;
        for line in &said {
            meter.note(line);
        }
        return Ok(ExitCode::SUCCESS);
    }
    confirm::losing(&disk, args.yes, &said.join("\n"))?;
    let source = open::quiet_disk(&args.disk, args.common.engine.into())?;
    let report = prune_points(source.device(), &mut store, &steps, &moving(&disk)?, &meter)?;
    source.check_unchanged()?;
    meter.finish();
    for line in &said {
        meter.note(line);
    }
    let (object, lines) = report::pruned(&args.disk, &report.removed, &report.kept, report.bytes_freed, false);
    print(args.common.json, &object, &lines)?;
    let refused = !args.ids.is_empty() && !report.kept.is_empty();
    Ok(if refused { ExitCode::from(exit::REFUSED) } else { ExitCode::SUCCESS })
}

/// How to remove points that were named: the oldest ones are dropped, others merged.
fn named_steps(catalogue: &Catalogue, ids: &[PointId]) -> Result<Vec<Prune>, JobError> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids.dedup();
    let mut steps = Vec::new();
    let mut rest = catalogue.points().iter();
    for id in ids {
        catalogue.point(id).ok_or_else(|| no_such_point(id))?;
        let is_oldest = rest.clone().next().is_some_and(|point| point.id == id);
        if is_oldest {
            rest.next();
        }
        steps.push(if is_oldest { Prune::Drop(id) } else { Prune::Merge(id) });
    }
    Ok(steps)
}

fn export(args: &ExportArgs) -> Result<ExitCode> {
    let directory = open::needed_directory(&args.retention)?;
    let engine: Engine = args.common.engine.into();
    let disk = look_at_target(&args.disk)?.identity;
    let started = Instant::now();
    let meter = Meter::new()?;
    let Opened { store, lock: _lock } = points_for_reading(&directory, &disk)?;
    let point = *store.catalogue().point(args.id).ok_or_else(|| no_such_point(args.id))?;
    refuse_fuzzy(&point, args.fuzzy)?;
    let source = open::quiet_disk(&args.disk, engine)?;
    let format = args.format.unwrap_or_else(|| format_of(&args.output));
    let before_end = || source.check_unchanged();
    let base = args.base.unwrap_or(store.catalogue().present().id);
    let (files, bytes): (Vec<PathBuf>, u64) = match format {
        ExportFormat::Delta => {
            let identity = source.identity_with(&source.content(&[]));
            let points = (base, args.id);
            let bytes =
                export_delta(source.device(), &store, points, &args.output, files::random()?, identity, &meter)?;
            before_end()?;
            (vec![args.output.clone()], bytes)
        }
        ExportFormat::Raw | ExportFormat::Vmdk => {
            let open: OpenPoint<_> = open_point(source.device(), &store, args.id)?;
            let image = match format {
                ExportFormat::Vmdk => NewImage::Vmdk(crate::vmdk::plain(point.size)?),
                _ => NewImage::Raw,
            };
            let report = export_image(&open, &args.output, &image, engine, &before_end, &meter)?;
            (report.files, report.bytes_written)
        }
    };
    meter.finish();
    let seconds = started.elapsed().as_secs_f64();
    let (object, lines) = report::exported(&point, format, &files, bytes, seconds);
    print(args.common.json, &object, &lines)?;
    Ok(ExitCode::SUCCESS)
}

fn format_of(path: &Path) -> ExportFormat {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("vmdk") => ExportFormat::Vmdk,
        Some("delta") => ExportFormat::Delta,
        _ => ExportFormat::Raw,
    }
}
