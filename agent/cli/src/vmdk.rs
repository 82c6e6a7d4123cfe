//! The verbs for VMDKs: info, check, create, convert.

use crate::args::{Common, parse_size};
use crate::meter::Meter;
use crate::report::{Lines, print};
use crate::{exit, files};
use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use failback_orchestrate::{
    Access, ByteCount, Device, DiskFacts, ExtentAccess, ExtentKind, JobError, NewDisk, NewImage, Progress, Severity,
    SourceDisk, SourceOptions, Subformat, VmdkDisk, check_vmdk, convert, create_vmdk, hex, names_vmdk,
};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

#[derive(Debug, Args)]
pub(crate) struct VmdkArgs {
    #[command(subcommand)]
    command: VmdkCommand,
}

#[derive(Debug, Subcommand)]
enum VmdkCommand {
    /// Say what a VMDK is and consists of
    Info(InfoArgs),
    /// Look for damage in the structure of a VMDK, and write nothing
    ///
    /// Looks at what `qemu-img check` looks at, and at the mark of a crash, both grain tables, grains that two entries lead to,
    /// entries that lead into metadata, lengths of files and content IDs of parents. Ends with 6 if it finds an error.
    Check(InfoArgs),
    /// Make a new, empty VMDK
    Create(CreateArgs),
    /// Copy a disk into a new VMDK or raw image
    Convert(ConvertArgs),
}

#[derive(Debug, Args)]
struct InfoArgs {
    /// The VMDK: its descriptor, or the file that has it
    disk: PathBuf,
    #[command(flatten)]
    common: Common,
}

/// What a new disk is.
#[derive(Debug, Args)]
struct Shape {
    /// The controller for which the disk is made, as in `ddb.adapterType`
    #[arg(long, value_enum, default_value_t = Adapter::Lsilogic)]
    adapter: Adapter,
    /// The virtual hardware version
    #[arg(long, value_name = "N", default_value_t = 14, value_parser = clap::value_parser!(u32).range(3..=99))]
    hardware_version: u32,
    /// The identifier that the guest sees: 32 hexadecimal digits that begin with 6000c29 on VMware
    #[arg(long, value_name = "HEX", value_parser = parse_uuid)]
    uuid: Option<[u8; 16]>,
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// The new VMDK; nothing that is there is overwritten
    disk: PathBuf,
    /// Its size in bytes, or such as 40G
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    size: ByteCount,
    /// How it is stored
    #[arg(long, value_enum, default_value_t = Format::MonolithicSparse)]
    subformat: Format,
    #[command(flatten)]
    shape: Shape,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct ConvertArgs {
    /// What is read: a block device, a raw image or a VMDK with its parents
    source: PathBuf,
    /// The new disk; nothing that is there is overwritten
    disk: PathBuf,
    /// How it is stored
    #[arg(long, value_enum, default_value_t = Format::MonolithicSparse)]
    subformat: Format,
    #[command(flatten)]
    shape: Shape,
    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    #[value(name = "monolithicSparse")]
    MonolithicSparse,
    #[value(name = "monolithicFlat")]
    MonolithicFlat,
    #[value(name = "twoGbMaxExtentSparse")]
    TwoGbMaxExtentSparse,
    #[value(name = "twoGbMaxExtentFlat")]
    TwoGbMaxExtentFlat,
    #[value(name = "streamOptimized")]
    StreamOptimized,
    #[value(name = "vmfs")]
    Vmfs,
    #[value(name = "raw")]
    Raw,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Adapter {
    Lsilogic,
    Buslogic,
    Pvscsi,
    Ide,
}

impl Format {
    /// The VMDK format; `None` for a raw image.
    const fn subformat(self) -> Option<Subformat> {
        match self {
            Self::MonolithicSparse => Some(Subformat::MonolithicSparse),
            Self::MonolithicFlat => Some(Subformat::MonolithicFlat),
            Self::TwoGbMaxExtentSparse => Some(Subformat::TwoGbMaxExtentSparse),
            Self::TwoGbMaxExtentFlat => Some(Subformat::TwoGbMaxExtentFlat),
            Self::StreamOptimized => Some(Subformat::StreamOptimized),
            Self::Vmfs => Some(Subformat::Vmfs),
            Self::Raw => None,
        }
    }
}

impl Adapter {
    const fn name(self) -> &'static str {
        match self {
            Self::Lsilogic => "lsilogic",
            Self::Buslogic => "buslogic",
            Self::Pvscsi => "pvscsi",
            Self::Ide => "ide",
        }
    }
}

fn parse_uuid(text: &str) -> Result<[u8; 16], String> {
    let wrong = || "give 32 hexadecimal digits, such as 6000c2999176dd776e010203040506ff".to_owned();
    let digits: Vec<u32> =
        text.chars().filter(|digit| !matches!(digit, ' ' | '-')).map_while(|digit| digit.to_digit(16)).collect();
    let bytes = digits.chunks_exact(2).filter_map(|pair| u8::try_from(pair[0] * 16 + pair[1]).ok());
    let bytes: Vec<u8> = bytes.collect();
    if digits.len() != 32 {
        return Err(wrong());
    }
    bytes.try_into().map_err(|_| wrong())
}

pub(crate) fn vmdk(args: &VmdkArgs) -> Result<ExitCode> {
    match &args.command {
        VmdkCommand::Info(args) => info(args),
        VmdkCommand::Check(args) => check(args),
        VmdkCommand::Create(args) => create(args),
        VmdkCommand::Convert(args) => convert_disk(args),
    }
}

const fn kind_name(kind: ExtentKind) -> &'static str {
    match kind {
        ExtentKind::Flat => "flat",
        ExtentKind::Sparse => "sparse",
        ExtentKind::Cowd => "vmfsSparse",
        ExtentKind::SeSparse => "seSparse",
        ExtentKind::Zero => "zero",
    }
}

const fn access_name(access: ExtentAccess) -> &'static str {
    match access {
        ExtentAccess::ReadWrite => "read-write",
        ExtentAccess::ReadOnly => "read-only",
        ExtentAccess::None => "no access",
    }
}

fn paths(paths: &[PathBuf]) -> Vec<String> {
    paths.iter().map(|path| path.display().to_string()).collect()
}

/// Extents that are listed for people; JSON has all of them.
const EXTENTS_SHOWN: usize = 20;

fn info(args: &InfoArgs) -> Result<ExitCode> {
    let disk = VmdkDisk::open(&args.disk, Access::Read, args.common.engine.into())?;
    let facts = disk.disk().facts();
    let uuid = facts.uuid.map(|uuid| hex(&uuid));
    let object = json!({
        "disk": args.disk.display().to_string(),
        "create_type": facts.create_type,
        "size": facts.capacity.get(),
        "cid": format!("{:08x}", facts.cid),
        "parent_cid": facts.parent_cid.map(|cid| format!("{cid:08x}")),
        "uuid": uuid,
        "adapter_type": facts.adapter,
        "hardware_version": facts.hardware_version,
        "change_track_path": facts.change_track,
        "unclean": facts.unclean,
        "chain": paths(&facts.chain),
        "extents": extents(facts),
    });
    let plain = |text: &Option<String>| text.as_deref().unwrap_or("not said").escape_debug().to_string();
    let mut lines = Lines::default();
    lines.add("type", facts.create_type.escape_debug()).bytes("disk", facts.capacity.get());
    lines.add("UUID", uuid.as_deref().unwrap_or("none")).add("content ID", format!("{:08x}", facts.cid));
    lines.add("adapter", plain(&facts.adapter));
    if facts.chain.len() > 1 {
        lines.add("parents", paths(&facts.chain[1..]).join("\n"));
    }
    lines.add("closed", if facts.unclean { "not cleanly: `failback vmdk check` tells more" } else { "cleanly" });
    if facts.change_track.is_some() {
        lines.add("CBT", "on: after writing this disk outside of ESXi, reset it");
    }
    let rows = facts.extents.iter().take(EXTENTS_SHOWN).map(|extent| {
        let file = extent.file.as_deref().unwrap_or("no file").escape_debug();
        format!("{} bytes, {}, {}, {file}", extent.size, kind_name(extent.kind), access_name(extent.access))
    });
    let mut rows: Vec<_> = rows.collect();
    if facts.extents.len() > EXTENTS_SHOWN {
        rows.push(format!("and {} more: --json lists all", facts.extents.len() - EXTENTS_SHOWN));
    }
    lines.add("extents", rows.join("\n"));
    print(args.common.json, &object, &lines)?;
    Ok(ExitCode::SUCCESS)
}

fn extents(facts: &DiskFacts) -> Vec<Value> {
    let extent = |extent: &failback_orchestrate::ExtentFacts| {
        json!({
            "file": extent.file,
            "kind": kind_name(extent.kind),
            "access": access_name(extent.access),
            "size": extent.size.get(),
            "grain_size": extent.grain,
        })
    };
    facts.extents.iter().map(extent).collect()
}

fn check(args: &InfoArgs) -> Result<ExitCode> {
    let report = check_vmdk(&args.disk, args.common.engine.into())?;
    let worst = report.findings.worst();
    let findings = report.findings.list.iter();
    let object = json!({
        "disk": args.disk.display().to_string(),
        "chain": paths(&report.chain),
        "worst": worst.map(Severity::name),
        "findings": findings
            .clone()
            .map(|finding| json!({"severity": finding.severity.name(), "sentence": finding.sentence}))
            .collect::<Vec<_>>(),
        "more_findings": report.findings.more,
        "bytes_allocated": report.allocated,
        "zeroed_grains": report.zeroed_grains,
    });
    let mut lines = Lines::default();
    let result = match worst {
        None | Some(Severity::Note) => "no damage found",
        Some(Severity::Repairable) => "not closed cleanly: opening it for writing puts it right",
        Some(Severity::Error) => "THE DISK IS DAMAGED",
    };
    lines.add("result", result).bytes("allocated", report.allocated);
    // Names in a file may be anything, escape sequences included.
    for finding in findings {
        lines.add(finding.severity.name(), finding.sentence.escape_debug());
    }
    if report.findings.more > 0 {
        lines.add("and", format!("{} more", report.findings.more));
    }
    print(args.common.json, &object, &lines)?;
    Ok(if worst == Some(Severity::Error) { ExitCode::from(exit::DAMAGED) } else { ExitCode::SUCCESS })
}

/// A new disk of this size.
/// A growing VMDK of this size, as VMware makes one for a hosted machine.
pub(crate) fn plain(size: ByteCount) -> Result<NewDisk, JobError> {
    new_disk(Subformat::MonolithicSparse, size, &Shape { adapter: Adapter::Lsilogic, hardware_version: 14, uuid: None })
}

fn new_disk(subformat: Subformat, size: ByteCount, shape: &Shape) -> Result<NewDisk, JobError> {
    let chance = files::random()?;
    let cid = u32::from_le_bytes([chance[0], chance[1], chance[2], chance[3]]);
    Ok(NewDisk {
        subformat,
        capacity: size,
        adapter: shape.adapter.name().to_owned(),
        hardware_version: shape.hardware_version,
        uuid: shape.uuid,
        // Never 0 or one of the two greatest.
        cid: cid.clamp(1, u32::MAX - 2),
        zeroed_grains: false,
    })
}

fn create(args: &CreateArgs) -> Result<ExitCode> {
    let Some(subformat) = args.subformat.subformat() else {
        return Err(JobError::Refused("a raw image is no VMDK: make it with truncate(1)".into()).into());
    };
    let new = new_disk(subformat, args.size, &args.shape)?;
    let files = create_vmdk(&args.disk, &new, args.common.engine.into())?;
    let object = json!({
        "disk": args.disk.display().to_string(),
        "create_type": subformat.name(),
        "size": args.size.get(),
        "files": paths(&files),
    });
    let mut lines = Lines::default();
    lines.add("type", subformat.name()).bytes("disk", args.size.get()).add("files", paths(&files).join("\n"));
    print(args.common.json, &object, &lines)?;
    Ok(ExitCode::SUCCESS)
}

/// What is read, and how to know at the end that it was at rest.
enum Source {
    Plain(SourceDisk),
    Vmdk(VmdkDisk),
}

impl Source {
    fn open(path: &Path, common: &Common, meter: &Meter) -> Result<Self, JobError> {
        if names_vmdk(path) {
            let disk = VmdkDisk::open(path, Access::Read, common.engine.into())?;
            for writer in disk.files().writers()? {
                meter.note(&format!(
                    "a file of {} is {writer}: what is read may be no moment of its life",
                    path.display()
                ));
            }
            return Ok(Self::Vmdk(disk));
        }
        let options = SourceOptions { engine: common.engine.into(), fuzzy: false };
        let disk = SourceDisk::open(path, options)?;
        for writer in disk.writers() {
            meter.note(&format!("{} is {writer}: what is read is no moment of its life (fuzzy)", path.display()));
        }
        Ok(Self::Plain(disk))
    }

    fn device(&self) -> &dyn Device {
        match self {
            Self::Plain(disk) => disk.device(),
            Self::Vmdk(disk) => disk.disk(),
        }
    }

    fn check_unchanged(&self) -> Result<(), JobError> {
        match self {
            Self::Plain(disk) => disk.check_unchanged(),
            Self::Vmdk(disk) => disk.files().check_unchanged(),
        }
    }
}

fn convert_disk(args: &ConvertArgs) -> Result<ExitCode> {
    let started = Instant::now();
    let meter = Meter::new()?;
    let source = Source::open(&args.source, &args.common, &meter)?;
    let size = source.device().size();
    let image = match args.subformat.subformat() {
        None => NewImage::Raw,
        Some(subformat) => {
            // A VMDK has whole sectors.
            let sectors = size.get().checked_next_multiple_of(512).and_then(ByteCount::new);
            let sectors = sectors.ok_or_else(|| JobError::Refused("the source is too large for any VMDK".into()))?;
            NewImage::Vmdk(new_disk(subformat, sectors, &args.shape)?)
        }
    };
    let engine = args.common.engine.into();
    let report = convert(source.device(), &args.disk, &image, engine, &|| source.check_unchanged(), &meter)?;
    meter.finish();
    let seconds = started.elapsed().as_secs_f64();
    let subformat = args.subformat.subformat().map_or("raw", Subformat::name);
    let object = json!({
        "source": args.source.display().to_string(),
        "disk": args.disk.display().to_string(),
        "subformat": subformat,
        "size": report.size,
        "bytes_read": report.bytes_read,
        "bytes_hole": report.bytes_hole,
        "bytes_written": report.bytes_written,
        "files": paths(&report.files),
        "seconds": seconds,
        "engine": source.device().engine(),
    });
    let mut lines = Lines::default();
    lines.add("subformat", subformat).bytes("disk", report.size).bytes("read", report.bytes_read);
    lines.bytes("holes, not read", report.bytes_hole).bytes("written", report.bytes_written);
    lines.add("files", paths(&report.files).join("\n"));
    lines.rate(report.size, seconds).add("engine", source.device().engine());
    print(args.common.json, &object, &lines)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids() {
        assert_eq!(parse_uuid("60 00 C2 99 91 76 dd 77-6e 01 02 03 04 05 06 ff").unwrap()[15], 0xff);
        for wrong in ["", "6000c2999176dd776e010203040506f", "6000c2999176dd776e010203040506ff0", "x"] {
            assert!(parse_uuid(wrong).is_err(), "{wrong}");
        }
    }
}
