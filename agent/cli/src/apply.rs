//! The verbs for a target: plan and apply.

use crate::args::{ApplyArgs, Applying, PlanArgs};
use crate::config::Config;
use crate::files::Piped;
use crate::meter::Meter;
use crate::points::open;
use crate::report::{Lines, print, tell};
use crate::{confirm, exit, files, points};
use anyhow::Result;
use failback_orchestrate::{
    ApplyOptions, ApplyReport, ClaimedTarget, DeltaInput, DeltaSource, Directory, DiskIdentity, Engine, FileId,
    FsDirectory, HumanBytes, JobError, KeepingPlan, Medium, MoveOptions, Opened, PlanReport, PointReport, Policy,
    Progress, SeenTarget, SourceDisk, SourceOptions, TargetDisk, apply_recorded, binding_of, check_uuid, describe,
    intents_of, keep_to_limits, look_at_points, look_at_target, open_spool, plan_keeping, points_made_for_changes,
    refuse_unrecorded, spool,
};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::BufReader;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

fn options(applying: &Applying, verify: bool, disk: &DiskIdentity) -> Result<ApplyOptions, JobError> {
    let trusted = applying.trusted_key.as_deref().map(files::trusted_key).transpose()?;
    Ok(ApplyOptions {
        verify,
        discard_intent: applying.discard_intent,
        zero_free: applying.zero_free,
        new_disk: applying.new_disk,
        trusted,
        now: files::now(),
        disk: binding_of(disk),
        ..ApplyOptions::default()
    })
}

pub(crate) fn plan(args: &PlanArgs) -> Result<ExitCode> {
    let meter = Meter::new()?;
    let mut delta = files::open(&args.delta)?;
    let SeenTarget { identity: disk, reasons, .. } = look_at_target(&args.disk)?;
    let options = options(&args.applying, false, &disk)?;
    let source = SourceOptions { engine: args.applying.common.engine.into(), fuzzy: true };
    let target = SourceDisk::open(&args.disk, source)?;
    let mut intents = intents_of(&disk, args.applying.state.as_deref());
    let mut report = failback_orchestrate::plan(target.device(), &mut delta, &mut intents, &options, &meter)?;
    // A delta that does not fit on the disk may state any size; it is refused already.
    let retention =
        open::directory(&args.applying.retention, &Config::load()?).filter(|_| report.result_root.is_some());
    let keeping = retention.map(|directory| keeping(&directory, &disk, &mut delta, &meter)).transpose()?;
    meter.finish();
    if let Some(keeping) = &keeping {
        report.refusals.extend(keeping.plan.refusals.iter().cloned());
    }
    report.refusals.extend(check_uuid(&disk, args.applying.expect_uuid).err().map(|error| error.to_string()));
    report.refusals.extend(reasons);
    let (mut object, mut lines) = planned(&args.disk, &disk, &report, options.zeroes_free());
    object["bytes_to_keep"] = json!(keeping.as_ref().map(|keeping| keeping.plan.bytes_to_keep));
    object["retention_available"] = json!(keeping.as_ref().and_then(|keeping| keeping.available));
    if let Some(keeping) = &keeping {
        lines.add("to keep for undo", keeping.sentence());
    }
    print(args.applying.common.json, &object, &lines)?;
    Ok(if report.refusals.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(exit::REFUSED) })
}

/// What keeping the way back would need, and what there is for it.
struct Keeping {
    plan: KeepingPlan,
    available: Option<u64>,
}

fn keeping(
    directory: &Path,
    disk: &DiskIdentity,
    delta: &mut BufReader<File>,
    meter: &Meter,
) -> Result<Keeping, JobError> {
    let found = look_at_points(directory, disk)?;
    let mut plan = plan_keeping(delta, found.as_ref().map(|(store, _)| store), meter)?;
    if found.is_some_and(|(_, running)| running) {
        plan.refusals.push(format!("the recovery points of {} are in use: wait until that ends", disk.path.display()));
    }
    let space = FsDirectory::open(directory).and_then(|directory| directory.space());
    Ok(Keeping { plan, available: space.ok().map(|space| space.available.get()) })
}

impl Keeping {
    fn sentence(&self) -> String {
        let needed = HumanBytes(self.plan.bytes_to_keep);
        match self.available {
            Some(available) if available < self.plan.bytes_to_keep => {
                format!(
                    "at most {needed} before compression, and {} are left: that may not be enough",
                    HumanBytes(available)
                )
            }
            Some(available) => format!("at most {needed}, of {} that are left", HumanBytes(available)),
            None => format!("at most {needed}"),
        }
    }
}

fn planned(path: &Path, disk: &DiskIdentity, report: &PlanReport, zeroes_free: bool) -> (Value, Lines) {
    let (examined, shapes) = (&report.examined, &report.header.shapes);
    let object = json!({
        "disk": path.display().to_string(),
        "disk_size": disk.size.get(),
        "base_root": report.header.base_root.to_string(),
        "result_root": report.result_root.map(|root| root.to_string()),
        "base_size": shapes.base.size().get(),
        "result_size": shapes.result.size().get(),
        "base_coverage": report.header.base_coverage.name(),
        "result_coverage": report.header.result_coverage.name(),
        "kind": report.header.kind.name(),
        "signed_by": report.signed_by.is_some(),
        "bytes_to_read": examined.bytes_read,
        "bytes_hole": examined.bytes_hole,
        "bytes_in_place": examined.bytes_in_place,
        "bytes_to_write": examined.bytes_to_write,
        "bytes_to_zero": examined.bytes_to_zero,
        "bytes_free": report.bytes_free,
        "zeroes_free": zeroes_free,
        "extents": report.totals.extents,
        "finishes_interrupted_apply": report.resumes,
        "torn": examined.torn,
        "seconds_estimated": report.seconds_estimated,
        "refusals": report.refusals,
    });
    let mut lines = Lines::default();
    lines.add("disk", describe(disk));
    lines.add("base root", report.header.base_root);
    if let Some(root) = report.result_root {
        lines.add("result root", root);
    }
    lines.add("coverage", format!("{} -> {}", report.header.base_coverage, report.header.result_coverage));
    lines.add("kind", report.header.kind);
    lines.bytes("to read", examined.bytes_read).bytes("to write", examined.bytes_to_write);
    lines.bytes("to make zero", examined.bytes_to_zero).bytes("in place already", examined.bytes_in_place);
    lines.bytes(if zeroes_free { "free, to make zero" } else { "free, left alone" }, report.bytes_free);
    if report.resumes {
        lines.add("resumes", "an apply of this change that was interrupted");
    }
    match report.seconds_estimated {
        Some(seconds) => {
            let rest = if zeroes_free { "; reading what is in use and zeroing what is free come on top" } else { "" };
            lines.add("time", format!("about {seconds:.1} s, at the rate at which the old content was read{rest}"))
        }
        None => lines.add("time", "unknown: nothing was read that a rate could be measured from"),
    };
    match report.refusals.as_slice() {
        [] => lines.add("apply would", "go ahead"),
        refusals => lines.add("apply would refuse", refusals.join("\n")),
    };
    (object, lines)
}

pub(crate) fn apply(args: &ApplyArgs) -> Result<ExitCode> {
    let applying = &args.applying;
    let piped = files::is_dash(&args.delta);
    let file = if piped { None } else { Some(files::open(&args.delta)?) };
    let disk = look_at_target(&args.disk)?.identity;
    let options = options(applying, args.verify, &disk)?;
    check_uuid(&disk, applying.expect_uuid)?;
    let config = Config::load()?;
    let retention = if args.no_undo { None } else { open::directory(&applying.retention, &config) };
    check_undo(args, &disk, retention.as_deref(), &config)?;
    let loses =
        options.zeroes_free().then_some("All space that is free in the result becomes zero, whatever it holds now");
    confirm::overwriting(&disk, args.yes, loses)?;
    // Only from here on is SIGINT asked to wait for a safe place: it ends the question at once.
    let meter = Meter::new()?;
    let started = Instant::now();
    let engine: Engine = applying.common.engine.into();
    let mut intents = intents_of(&disk, applying.state.as_deref());
    let mut policy = Policy::default();
    if let Some(directory) = &retention {
        policy = open::policy(&args.keeping, &config)?;
        refuse_unrecorded(&mut intents)?;
        // Points that are another disk's, or that cannot be used, are no reason to claim anything.
        look_at_points(directory, &disk)?;
    }
    let claimed = ClaimedTarget::claim(&args.disk, engine, &disk, applying.expect_uuid)?;
    let points =
        retention.as_deref().map(|directory| points_made_for_changes(directory, &disk, files::now())).transpose()?;
    let mut stdin = Piped::new(&meter);
    let mut prepared = match (points, file) {
        // However long a slow line takes, the disk is not writable meanwhile.
        (Some(mut points), None) => {
            let spooled = spool(&mut points.store, &mut stdin, &meter)?;
            Prepared::Recorded(Box::new(points), Stored::Spooled(spooled))
        }
        (Some(points), Some(file)) => Prepared::Recorded(Box::new(points), Stored::File(file)),
        (None, file) => {
            intents.prepare()?;
            Prepared::Unrecorded(file)
        }
    };
    let target = claimed.make_writable()?;
    for note in target.notes() {
        meter.note(&note);
    }
    let report = match &mut prepared {
        Prepared::Recorded(points, delta) => recorded(&target, args, delta, points, &options, &policy, &meter)
            .map(|report| (report.applied.clone(), Some(report))),
        Prepared::Unrecorded(file) => {
            let input = match file {
                Some(file) => DeltaInput::File(file),
                None => DeltaInput::Stream(&mut stdin),
            };
            failback_orchestrate::apply(target.device(), input, &mut intents, &options, &meter)
                .map(|report| (report, None))
        }
    };
    meter.finish();
    let engine = target.device().engine();
    let released = target.release();
    let (report, kept) = report?;
    released?;
    let seconds = started.elapsed().as_secs_f64();
    let (object, lines) = applied(&args.disk, &report, kept.as_ref(), seconds, engine);
    print(applying.common.json, &object, &lines)?;
    Ok(ExitCode::SUCCESS)
}

/// What is ready to be written.
enum Prepared {
    /// With recovery points.
    Recorded(Box<Opened>, Stored),
    /// Without; from a pipe, if there is no file.
    Unrecorded(Option<BufReader<File>>),
}

/// A delta that can be read more than once.
enum Stored {
    File(BufReader<File>),
    /// It came through a pipe, and is kept with the recovery points.
    Spooled(FileId),
}

/// Applies with recovery points, and removes older ones as the limits say.
fn recorded(
    target: &TargetDisk,
    args: &ApplyArgs,
    delta: &mut Stored,
    points: &mut Opened,
    options: &ApplyOptions,
    policy: &Policy,
    meter: &Meter,
) -> Result<PointReport, JobError> {
    let device = target.device();
    let moving = MoveOptions { policy: *policy, ..points::moving(target.identity())? };
    let report = match delta {
        Stored::File(file) => {
            let path = fs::canonicalize(&args.delta);
            let path = path.map_err(|source| JobError::File { action: "find", path: args.delta.clone(), source })?;
            let source = DeltaSource::Path(path.to_string_lossy().into_owned());
            apply_recorded(device, file, source, &mut points.store, options, &moving, meter)?
        }
        Stored::Spooled(spooled) => {
            let spooled = *spooled;
            let mut delta = open_spool(&points.store, spooled)?;
            let source = DeltaSource::Spooled(spooled);
            let report = apply_recorded(device, &mut delta, source, &mut points.store, options, &moving, meter);
            if points.store.catalogue().pending().is_none() {
                // What is not under way needs no delta; if it stays, it goes when the points are next opened.
                let _ = points.store.discard(spooled);
            }
            report?
        }
    };
    if let Err(error) = keep_to_limits(device, &mut points.store, &moving, meter) {
        meter.note(&format!("the change is applied, but older recovery points could not be removed: {error}"));
    }
    Ok(report)
}

/// An original disk is not overwritten before it was said that there is no way back, and never behind the back of its points.
fn check_undo(
    args: &ApplyArgs,
    disk: &DiskIdentity,
    retention: Option<&Path>,
    config: &Config,
) -> Result<(), JobError> {
    if retention.is_some() {
        return Ok(());
    }
    if let Some(directory) = &config.retention.directory
        && let Some((store, _)) = open::look_if_there(directory, disk)?
        && (!store.catalogue().links().is_empty() || store.catalogue().pending().is_some())
    {
        return Err(JobError::Refused(format!(
            "{} has recovery points in {}, which an apply without them would make worthless: leave out --no-undo, or failback commit \
             first",
            args.disk.display(),
            directory.display()
        )));
    }
    match disk.medium {
        _ if args.no_undo => {}
        Medium::Image => {
            tell("what this overwrites is kept nowhere: there is no undo (--no-undo is implied for images)");
        }
        Medium::BlockDevice { .. } => {
            return Err(JobError::Refused(format!(
                "what this overwrites on {} would be kept nowhere: add --retention DIR to keep it, or --no-undo if that is not \
                 wanted",
                args.disk.display()
            )));
        }
    }
    Ok(())
}

fn applied(
    path: &Path,
    report: &ApplyReport,
    kept: Option<&PointReport>,
    seconds: f64,
    engine: &str,
) -> (Value, Lines) {
    let (examined, totals) = (&report.examined, &report.totals);
    let in_place = report.already_in_place();
    let object = json!({
        "disk": path.display().to_string(),
        "base_root": report.header.base_root.to_string(),
        "result_root": report.result_root.to_string(),
        "result_size": report.header.shapes.result.size().get(),
        "base_coverage": report.header.base_coverage.name(),
        "result_coverage": report.header.result_coverage.name(),
        "kind": report.header.kind.name(),
        "bytes_read": examined.bytes_read,
        "bytes_hole": examined.bytes_hole,
        "bytes_in_place": examined.bytes_in_place,
        "bytes_written": report.bytes_written,
        "bytes_zeroed": report.bytes_zeroed,
        "bytes_free": report.bytes_free,
        "bytes_free_zeroed": report.bytes_free_zeroed,
        "delta_bytes": totals.stored_bytes,
        "already_in_place": in_place,
        "resumed": report.resumed,
        "torn_rewritten": examined.torn,
        "proven": report.proven.name(),
        "point": kept.map(|kept| kept.point.id.0),
        "retention_bytes": kept.and_then(|kept| kept.link).map(|link| link.bytes.get()),
        "retention_content_bytes": kept.and_then(|kept| kept.link).map(|link| link.content_bytes.get()),
        "verified_bytes_read": report.verified.map(|scan| scan.bytes_read),
        "seconds": seconds,
        "engine": engine,
    });
    let mut lines = Lines::default();
    let outcome = if in_place { "already in place: nothing was written" } else { "applied and durable" };
    lines.add("result", outcome);
    lines.add("base root", report.header.base_root).add("result root", report.result_root);
    lines.add("kind", report.header.kind);
    lines.bytes("read", examined.bytes_read).bytes("written", report.bytes_written);
    lines.bytes("made zero", report.bytes_zeroed).bytes("in place before", examined.bytes_in_place);
    lines.add("coverage", format!("{} -> {}", report.header.base_coverage, report.header.result_coverage));
    lines.bytes("free space", report.bytes_free).bytes("of that made zero", report.bytes_free_zeroed);
    if report.resumed {
        lines.add(
            "resumed",
            format!("an interrupted apply was finished; {} half-written runs rewritten", examined.torn),
        );
    }
    if let Some(kept) = kept {
        lines.add("recovery point", format!("{}, {}", kept.point.id, kept.point.kind));
        if let Some(link) = kept.link {
            let (stored, content) = (link.bytes.human(), link.content_bytes.human());
            lines.add("kept for undo", format!("{content} in {stored}"));
        }
    }
    lines.add("proven", report.proven.name());
    lines.rate(totals.data_bytes + totals.zero_bytes, seconds).add("engine", engine);
    (object, lines)
}
