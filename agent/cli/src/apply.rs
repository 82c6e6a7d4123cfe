//! The verbs for a target: plan and apply.

use crate::args::{ApplyArgs, Applying, PlanArgs};
use crate::meter::Meter;
use crate::report::{Lines, print, tell};
use crate::{confirm, exit, files};
use anyhow::Result;
use failback_orchestrate::{
    ApplyOptions, ApplyReport, DeltaInput, DiskIdentity, Engine, JobError, Medium, PlanReport, Progress, SeenTarget,
    SourceDisk, SourceOptions, TargetDisk, check_uuid, look_at_target,
};
use serde_json::{Value, json};
use std::io;
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
        disk: files::binding(disk),
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
    let mut intents = files::intents(&disk, args.applying.state.as_deref());
    let mut report = failback_orchestrate::plan(target.device(), &mut delta, &mut intents, &options, &meter)?;
    meter.finish();
    report.refusals.extend(check_uuid(&disk, args.applying.expect_uuid).err().map(|error| error.to_string()));
    report.refusals.extend(reasons);
    let (object, lines) = planned(&args.disk, &disk, &report, options.zeroes_free());
    print(args.applying.common.json, &object, &lines)?;
    Ok(if report.refusals.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(exit::REFUSED) })
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
    lines.add("disk", confirm::describe(disk));
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
    let mut file = if piped { None } else { Some(files::open(&args.delta)?) };
    let disk = look_at_target(&args.disk)?.identity;
    let options = options(applying, args.verify, &disk)?;
    check_uuid(&disk, applying.expect_uuid)?;
    check_undo(args, &disk)?;
    let loses =
        options.zeroes_free().then_some("All space that is free in the result becomes zero, whatever it holds now");
    confirm::overwriting(&disk, args.yes, loses)?;
    // Only from here on is SIGINT asked to wait for a safe place: it ends the question at once.
    let meter = Meter::new()?;
    let started = Instant::now();
    let engine: Engine = applying.common.engine.into();
    let target = TargetDisk::claim(&args.disk, engine, applying.expect_uuid)?;
    if files::binding(target.identity()) != options.disk || target.identity().size != disk.size {
        let name = args.disk.display();
        return Err(
            JobError::Refused(format!("{name} became another disk while it was looked at: run this again")).into()
        );
    }
    let disk = target.identity().clone();
    for note in target.notes() {
        meter.note(&note);
    }
    let mut intents = files::intents(&disk, applying.state.as_deref());
    intents.prepare()?;
    let mut stdin = io::stdin().lock();
    let input = match &mut file {
        Some(file) => DeltaInput::File(file),
        None => DeltaInput::Stream(&mut stdin),
    };
    let report = failback_orchestrate::apply(target.device(), input, &mut intents, &options, &meter);
    meter.finish();
    let engine = target.device().engine();
    let released = target.release();
    let report = report?;
    released?;
    let seconds = started.elapsed().as_secs_f64();
    let (object, lines) = applied(&args.disk, &report, seconds, engine);
    print(applying.common.json, &object, &lines)?;
    Ok(ExitCode::SUCCESS)
}

/// An original disk is not overwritten before it was said that there is no way back.
fn check_undo(args: &ApplyArgs, disk: &DiskIdentity) -> Result<(), JobError> {
    match disk.medium {
        _ if args.no_undo => {}
        Medium::Image => {
            tell("what this overwrites is kept nowhere: there is no undo (--no-undo is implied for images)");
        }
        Medium::BlockDevice { .. } => {
            return Err(JobError::Refused(format!(
                "what this overwrites on {} would be kept nowhere: keep a copy and add --no-undo if that is what you want",
                args.disk.display()
            )));
        }
    }
    Ok(())
}

fn applied(path: &Path, report: &ApplyReport, seconds: f64, engine: &str) -> (Value, Lines) {
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
    lines.add("proven", report.proven.name());
    lines.rate(totals.data_bytes + totals.zero_bytes, seconds).add("engine", engine);
    (object, lines)
}
