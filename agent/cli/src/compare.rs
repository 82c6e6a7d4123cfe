//! The verbs that read disks: sign, diff, inspect, verify.

use crate::args::{DiffArgs, InspectArgs, Reading, SignArgs, VerifyArgs};
use crate::meter::Meter;
use crate::points::open;
use crate::report::{Lines, print};
use crate::{exit, files};
use anyhow::Result;
use failback_orchestrate::{
    Against, ByteCount, Content, Coverage, DeltaFacts, DiffOptions, Difference, DiskLayout, ExpectedRoot, Facts,
    FileKind, FreeMap, HumanBytes, Identity, JobError, Output, Progress, Proven, Root, ScanReport, SignOptions,
    SignatureFacts, SignatureReader, SourceDisk, SourceOptions, free_blocks_of, hex, points_for_changes,
    points_for_reading, verify_point,
};
use serde::Serialize;
use serde_json::json;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Ranges that are listed for people; JSON has up to a thousand.
const RANGES_SHOWN: usize = 20;

fn output(path: &Path, kind: FileKind) -> Result<Output, JobError> {
    if files::is_dash(path) {
        files::check_stdout()?;
        return Ok(Output::stdout());
    }
    Output::file(path, kind)
}

/// Opens a source and says what the user should know of it before it is read.
pub(crate) fn open_source(path: &Path, options: SourceOptions, meter: &dyn Progress) -> Result<SourceDisk, JobError> {
    let source = SourceDisk::open(path, options)?;
    if let Some(note) = source.engine_note() {
        meter.note(note);
    }
    for writer in source.writers() {
        meter.note(&format!("{} is {writer}: what is read is no moment of its life (fuzzy)", path.display()));
    }
    Ok(source)
}

/// Disks that are looked at because a volume may lie on them and on the disk that is meant. One that moves tells nothing.
pub(crate) fn companions(
    paths: &[PathBuf],
    options: SourceOptions,
    meter: &dyn Progress,
) -> Result<Vec<SourceDisk>, JobError> {
    let mut opened = Vec::new();
    for path in paths {
        let companion = SourceDisk::open(path, options)?;
        match companion.writers().first() {
            Some(writer) => {
                meter.note(&format!("{} is {writer}: volumes on it are read in full", path.display()));
            }
            None => opened.push(companion),
        }
    }
    Ok(opened)
}

/// Fails if one of these disks was written to since it was opened.
pub(crate) fn check_unchanged(source: &SourceDisk, companions: &[SourceDisk]) -> Result<(), JobError> {
    source.check_unchanged()?;
    companions.iter().try_for_each(SourceDisk::check_unchanged)
}

/// The free space that may be left out, unless all is to be read; says what was decided.
pub(crate) fn free_of<'a>(
    source: &SourceDisk,
    content: &'a DiskLayout,
    reading: &Reading,
    meter: &dyn Progress,
) -> Option<&'a FreeMap> {
    if reading.whole {
        return None;
    }
    let free = source.free_space(content);
    let nothing_found = matches!(&content.content, Content::Unclear { found, .. } if found.is_empty());
    if free.is_empty() && source.writers().is_empty() && !nothing_found {
        meter.note("no free space is known on this disk, so all of it is read; failback scan says why");
    }
    Some(free).filter(|free| !free.is_empty())
}

#[derive(Serialize)]
struct SignJson<'a> {
    disk: String,
    size: u64,
    block_size: u64,
    coverage: &'a str,
    kind: &'a str,
    root: String,
    #[serde(flatten)]
    scan: ScanReport,
    output_bytes: u64,
    seconds: f64,
    engine: &'a str,
}

pub(crate) fn sign(args: &SignArgs) -> Result<ExitCode> {
    let started = Instant::now();
    let meter = Meter::new()?;
    let options = SourceOptions { engine: args.common.engine.into(), fuzzy: args.fuzzy };
    let source = open_source(&args.disk, options, &meter)?;
    let companions = companions(&args.reading.with, options, &meter)?;
    let content = source.content(&companions);
    let free = free_of(&source, &content, &args.reading, &meter);
    let mut out = output(&args.output, FileKind::Signature)?;
    let options = SignOptions {
        block_size: args.block_size,
        free,
        kind: source.kind(),
        created: files::now(),
        identity: source.identity_with(&content),
        threads: args.reading.threads,
        before_end: &|| check_unchanged(&source, &companions),
    };
    let report = failback_orchestrate::sign(source.device(), &mut out, &options, &meter)?;
    out.commit()?;
    meter.finish();
    let seconds = started.elapsed().as_secs_f64();
    let size = source.device().size().get();
    let object = SignJson {
        disk: args.disk.display().to_string(),
        size,
        block_size: args.block_size.bytes(),
        coverage: report.coverage.name(),
        kind: source.kind().name(),
        root: report.root.to_string(),
        scan: report.scan,
        output_bytes: report.output_bytes,
        seconds,
        engine: source.device().engine(),
    };
    let mut lines = Lines::default();
    lines.add("root", report.root).bytes("disk", size).bytes("read", report.scan.bytes_read);
    lines.bytes("holes, not read", report.scan.bytes_hole).bytes("free, not read", report.scan.bytes_free);
    lines.bytes("signature", report.output_bytes);
    lines.add("block size", args.block_size).add("coverage", report.coverage).add("kind", source.kind());
    lines.rate(size, seconds).add("engine", source.device().engine());
    print_beside(&args.output, args.common.json, &object, &lines)
}

#[derive(Serialize)]
struct DiffJson<'a> {
    source: String,
    base_root: String,
    result_root: String,
    base_size: u64,
    result_size: u64,
    block_size: u64,
    base_coverage: &'a str,
    result_coverage: &'a str,
    kind: &'a str,
    #[serde(flatten)]
    scan: ScanReport,
    changed_blocks: u64,
    bytes_data: u64,
    bytes_zero: u64,
    delta_bytes: u64,
    seconds: f64,
    engine: &'a str,
}

pub(crate) fn diff(args: &DiffArgs) -> Result<ExitCode> {
    let started = Instant::now();
    let meter = Meter::new()?;
    let base = SignatureReader::open(files::open(&args.base)?).map_err(JobError::from)?;
    let base_coverage = base.header().coverage;
    let signer = args.signing_key.as_deref().map(files::signing_key).transpose()?;
    let options = SourceOptions { engine: args.common.engine.into(), fuzzy: args.fuzzy };
    let source = open_source(&args.source, options, &meter)?;
    let companions = companions(&args.reading.with, options, &meter)?;
    let content = source.content(&companions);
    let free = free_of(&source, &content, &args.reading, &meter);
    let mut out = output(&args.output, FileKind::Delta)?;
    let options = DiffOptions {
        free,
        kind: source.kind(),
        created: files::now(),
        id: files::random()?,
        identity: source.identity_with(&content),
        compression: &args.compression,
        threads: args.reading.threads,
        signer: signer.as_ref(),
        before_end: &|| check_unchanged(&source, &companions),
    };
    let report = failback_orchestrate::diff(base, source.device(), &mut out, &options, &meter)?;
    out.commit()?;
    meter.finish();
    let seconds = started.elapsed().as_secs_f64();
    let block_size = report.shapes.block_size();
    let object = DiffJson {
        source: args.source.display().to_string(),
        base_root: report.base_root.to_string(),
        result_root: report.result_root.to_string(),
        base_size: report.shapes.base.size().get(),
        result_size: report.shapes.result.size().get(),
        block_size: block_size.bytes(),
        base_coverage: base_coverage.name(),
        result_coverage: report.result_coverage.name(),
        kind: source.kind().name(),
        scan: report.scan,
        changed_blocks: report.changed_blocks,
        bytes_data: report.totals.data_bytes,
        bytes_zero: report.totals.zero_bytes,
        delta_bytes: report.delta_bytes,
        seconds,
        engine: source.device().engine(),
    };
    let mut lines = Lines::default();
    lines.add("base root", report.base_root).add("result root", report.result_root);
    lines.bytes("read", report.scan.bytes_read).bytes("holes, not read", report.scan.bytes_hole);
    lines.bytes("free, not read", report.scan.bytes_free);
    lines.add("coverage", format!("{base_coverage} -> {}", report.result_coverage));
    lines.add("changed", format!("{} blocks of {block_size}", report.changed_blocks));
    lines.bytes("new content", report.totals.data_bytes).bytes("becomes zero", report.totals.zero_bytes);
    lines.bytes("delta", report.delta_bytes).add("kind", source.kind());
    lines.rate(object.result_size, seconds).add("engine", source.device().engine());
    print_beside(&args.output, args.common.json, &object, &lines)
}

/// Prints a report, unless the output itself went to standard output.
fn print_beside(output: &Path, json: bool, object: &impl Serialize, lines: &Lines) -> Result<ExitCode> {
    if !files::is_dash(output) {
        print(json, object, lines)?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn inspect(args: &InspectArgs) -> Result<ExitCode> {
    let meter = Meter::new()?;
    let facts = failback_orchestrate::inspect(files::open(&args.file)?, &args.file, &meter)?;
    meter.finish();
    let (object, lines) = match &facts {
        Facts::Signature(facts) => signature_facts(facts),
        Facts::Delta(facts) => delta_facts(facts),
    };
    print(args.json, &object, &lines)?;
    Ok(ExitCode::SUCCESS)
}

/// The name of a source for a terminal: a file may claim any, escape sequences included.
fn made_from(identity: &Identity) -> String {
    identity.name.as_ref().map_or_else(|| "unknown".to_owned(), |name| name.escape_debug().to_string())
}

fn signature_facts(facts: &SignatureFacts) -> (serde_json::Value, Lines) {
    let SignatureFacts { header, root, file_bytes } = facts;
    let object = json!({
        "what": "signature",
        "root": root.to_string(),
        "size": header.shape.size().get(),
        "block_size": header.shape.block_size().bytes(),
        "coverage": header.coverage.name(),
        "kind": header.kind.name(),
        "created": header.created,
        "source_name": header.identity.name,
        "source_scsi_uuid": header.identity.scsi_uuid.map(|uuid| hex(&uuid)),
        "source_partition_table": header.identity.partition_table.map(|uuid| hex(&uuid)),
        "source_file_systems": header.identity.file_systems.iter().map(|uuid| hex(uuid)).collect::<Vec<_>>(),
        "file_bytes": file_bytes,
        "proven": "root recomputed from the stored values",
    });
    let mut lines = Lines::default();
    lines.add("what", "signature, intact").add("root", root).bytes("disk", header.shape.size().get());
    lines.add("block size", header.shape.block_size()).add("coverage", header.coverage).add("kind", header.kind);
    lines.add("made from", made_from(&header.identity));
    lines.bytes("file", *file_bytes).add("proven", "root recomputed from the stored values");
    (object, lines)
}

fn delta_facts(facts: &DeltaFacts) -> (serde_json::Value, Lines) {
    let DeltaFacts { header, trailer, bytes_free, file_bytes } = facts;
    let (shapes, totals) = (&header.shapes, &trailer.totals);
    let proven = "both roots recomputed from the stored values; every payload has its stated value";
    let signed_by = trailer.signed_by.map(|key| hex(key.bytes()));
    let object = json!({
        "what": "delta",
        "base_root": header.base_root.to_string(),
        "result_root": trailer.result_root.to_string(),
        "base_size": shapes.base.size().get(),
        "result_size": shapes.result.size().get(),
        "block_size": shapes.block_size().bytes(),
        "base_coverage": header.base_coverage.name(),
        "result_coverage": header.result_coverage.name(),
        "kind": header.kind.name(),
        "created": header.created,
        "source_name": header.identity.name,
        "source_scsi_uuid": header.identity.scsi_uuid.map(|uuid| hex(&uuid)),
        "source_partition_table": header.identity.partition_table.map(|uuid| hex(&uuid)),
        "source_file_systems": header.identity.file_systems.iter().map(|uuid| hex(uuid)).collect::<Vec<_>>(),
        "bytes_free": bytes_free,
        "frames": totals.frames,
        "extents": totals.extents,
        "bytes_data": totals.data_bytes,
        "bytes_zero": totals.zero_bytes,
        "bytes_stored": totals.stored_bytes,
        "file_bytes": file_bytes,
        "signed_by": signed_by,
        "proven": proven,
    });
    let mut lines = Lines::default();
    lines.add("what", "delta, intact").add("base root", header.base_root).add("result root", trailer.result_root);
    lines.bytes("base", shapes.base.size().get()).bytes("result", shapes.result.size().get());
    lines.add("block size", shapes.block_size());
    lines.add("coverage", format!("{} -> {}", header.base_coverage, header.result_coverage)).add("kind", header.kind);
    lines.add("made from", made_from(&header.identity));
    lines.add("changes", format!("{} runs in {} frames", totals.extents, totals.frames));
    lines.bytes("new content", totals.data_bytes).bytes("becomes zero", totals.zero_bytes);
    lines.bytes("free in the result", *bytes_free);
    lines.bytes("file", *file_bytes).add("signed by", signed_by.as_deref().unwrap_or("nobody")).add("proven", proven);
    (object, lines)
}

pub(crate) fn verify(args: &VerifyArgs) -> Result<ExitCode> {
    let started = Instant::now();
    let meter = Meter::new()?;
    let options = SourceOptions { engine: args.common.engine.into(), fuzzy: false };
    let source = open_source(&args.disk, options, &meter)?;
    let companions = companions(&args.with, options, &meter)?;
    let report = match (&args.root, &args.signature, args.point) {
        (_, Some(path), _) => {
            let open = || Ok::<_, anyhow::Error>(SignatureReader::open(files::open(path)?).map_err(JobError::from)?);
            let free = free_blocks_of(open()?)?;
            let against = Against::Signature(Box::new(open()?), free);
            failback_orchestrate::verify(source.device(), against, args.threads, &meter)?
        }
        (Some(root), None, _) => {
            let against = Against::<File>::Root(expected_root(args, *root, &source, &companions)?);
            failback_orchestrate::verify(source.device(), against, args.threads, &meter)?
        }
        (None, None, Some(id)) => {
            let directory = open::needed_directory(&args.retention)?;
            // Others may serve a point meanwhile, or the drive be read-only: then nothing is kept of what is read.
            let (mut points, keep) = match points_for_changes(&directory, source.identity()) {
                Err(JobError::Lock(_) | JobError::Refused(_)) => {
                    (points_for_reading(&directory, source.identity())?, false)
                }
                opened => (opened?, true),
            };
            verify_point(source.device(), &mut points.store, id, keep, args.threads, &meter)?.report
        }
        (None, None, None) => unreachable!("clap demands one of them"),
    };
    check_unchanged(&source, &companions)?;
    meter.finish();
    let seconds = started.elapsed().as_secs_f64();
    let matches = report.matches();
    let proven = match (matches, report.coverage) {
        (false, _) => "the disk differs",
        (true, Coverage::Whole) => Proven::WholeDisk.name(),
        (true, Coverage::Used) => Proven::UsedSpace.name(),
    };
    let object = json!({
        "disk": args.disk.display().to_string(),
        "root": report.root.to_string(),
        "expected_root": report.expected.to_string(),
        "matches": matches,
        "size": report.size.get(),
        "coverage": report.coverage.name(),
        "bytes_read": report.scan.bytes_read,
        "bytes_hole": report.scan.bytes_hole,
        "bytes_free": report.scan.bytes_free,
        "bytes_different": report.bytes_different,
        "differences": report.differences,
        "proven": proven,
        "seconds": seconds,
        "engine": source.device().engine(),
    });
    let mut lines = Lines::default();
    lines.add("result", if matches { "the disk has the expected root" } else { "THE DISK DIFFERS" });
    lines.add("root", report.root).add("expected", report.expected);
    lines.add("coverage", report.coverage).add("proven", proven);
    lines.bytes("read", report.scan.bytes_read).bytes("holes, not read", report.scan.bytes_hole);
    lines.bytes("free, not read", report.scan.bytes_free);
    if !matches && args.root.is_some() && !args.used {
        lines.add("hint", "a root of coverage used, as deltas may have, is verified with --used or a signature");
    }
    if !matches && args.used {
        lines.add("hint", "a root of used space depends on the block size: give that of the delta with --block-size");
    }
    if !report.differences.is_empty() {
        lines.bytes("different", report.bytes_different).add("ranges", ranges(&report.differences));
    }
    lines.rate(report.size.get(), seconds).add("engine", source.device().engine());
    print(args.common.json, &object, &lines)?;
    Ok(if matches { ExitCode::SUCCESS } else { ExitCode::from(exit::MISMATCH) })
}

/// The root that was given on the command line, with what it is of.
fn expected_root(
    args: &VerifyArgs,
    root: Root,
    source: &SourceDisk,
    companions: &[SourceDisk],
) -> Result<ExpectedRoot, JobError> {
    let size = args.size.map(byte_count).transpose()?;
    if !args.used {
        return Ok(ExpectedRoot::whole(root, size));
    }
    let content = source.content(companions);
    let free = source.free_space(&content);
    if free.is_empty() {
        return Err(JobError::Refused(format!(
            "no free space is known on {}, so a root of used space says nothing about it: unmount it if it is mounted, let failback \
             scan say why, or compare it with a signature",
            args.disk.display()
        )));
    }
    let size = size.unwrap_or(source.device().size());
    Ok(ExpectedRoot::of_used(root, size, args.block_size, free))
}

fn byte_count(bytes: u64) -> Result<ByteCount, JobError> {
    ByteCount::new(bytes).ok_or_else(|| JobError::Refused(format!("no disk has {bytes} bytes: give a smaller --size")))
}

fn ranges(differences: &[Difference]) -> String {
    let mut rows: Vec<_> = differences
        .iter()
        .take(RANGES_SHOWN)
        .map(|range| format!("{} bytes at {} ({})", range.length, range.start, HumanBytes(range.start)))
        .collect();
    if differences.len() > RANGES_SHOWN {
        rows.push("and more: --json lists up to 1000".to_owned());
    }
    rows.join("\n")
}
