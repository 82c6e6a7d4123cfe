//! The verb scan: what is on disks, as a tree.

mod tree;

use crate::args::ScanArgs;
use crate::report::print_bytes;
use anyhow::Result;
use failback_orchestrate::{DiskLayout, LayoutIdentity, SeenDisk, look_at};
use serde::Serialize;
use std::process::ExitCode;

#[derive(Serialize)]
struct ScanJson<'a> {
    disks: Vec<DiskJson<'a>>,
    bytes_total: u64,
    bytes_used: u64,
    bytes_skipped: u64,
}

#[derive(Serialize)]
struct DiskJson<'a> {
    #[serde(flatten)]
    layout: &'a DiskLayout,
    scsi_uuid: Option<String>,
    identity: LayoutIdentity,
    /// Why nothing is skipped although the layout is known.
    moving: &'a [String],
    bytes_free: u64,
    bytes_used: u64,
    bytes_skipped: u64,
}

pub(crate) fn scan(args: &ScanArgs) -> Result<ExitCode> {
    let disks = look_at(&args.disks, args.common.engine.into())?;
    let text = if args.common.json { json(&disks)? } else { tree::print(&disks) };
    print_bytes(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn json(disks: &[SeenDisk]) -> Result<String> {
    let sum = |of: fn(&SeenDisk) -> u64| disks.iter().map(of).fold(0, u64::saturating_add);
    let report = ScanJson {
        bytes_total: sum(|disk| disk.layout.size.get()),
        bytes_used: sum(used),
        bytes_skipped: sum(|disk| disk.skipped().get()),
        disks: disks.iter().map(disk_json).collect(),
    };
    Ok(serde_json::to_string_pretty(&report)? + "\n")
}

fn disk_json(disk: &SeenDisk) -> DiskJson<'_> {
    DiskJson {
        layout: &disk.layout,
        scsi_uuid: disk.identity.scsi_uuid.map(|uuid| uuid.to_string()),
        identity: disk.layout.identity(),
        moving: &disk.moving,
        bytes_free: disk.layout.free.bytes().get(),
        bytes_used: used(disk),
        bytes_skipped: disk.skipped().get(),
    }
}

/// What is carried of a disk.
fn used(disk: &SeenDisk) -> u64 {
    disk.layout.size.saturating_sub(disk.skipped()).get()
}
