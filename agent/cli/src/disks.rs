//! The verb disks: every attached disk, who uses it, and whether it can be a target.

use crate::args::DisksArgs;
use crate::exit;
use crate::report::{print_bytes, tell};
use crate::text::{WIDTH, cut, wrapped};
use anyhow::Result;
use failback_orchestrate::{AttachedDisk, HumanBytes, JobError, Use, UuidProblem, inventory};
use serde_json::{Value, json};
use std::fmt::Write;
use std::process::ExitCode;

/// As many columns as the UUID takes.
const UUID_WIDTH: usize = 32;
/// Names of drivers are cut to this.
const VIA_WIDTH: usize = 12;

/// How the setting is made that the UUIDs of all SCSI disks hang on.
const ENABLE_UUID: &str = "\
How to set disk.EnableUUID = TRUE on this VM, which has to be powered off for it:
  vSphere Client  Edit Settings > VM Options > Advanced > Configuration Parameters > Add:
                  disk.EnableUUID with the value TRUE
  govc            govc vm.change -vm NAME -e disk.enableUUID=TRUE
  PowerCLI        New-AdvancedSetting -Entity (Get-VM NAME) -Name disk.EnableUUID -Value TRUE
  .vmx file       disk.EnableUUID = \"TRUE\"
";

pub(crate) fn disks(args: &DisksArgs) -> Result<ExitCode> {
    let disks = inventory(&|_| {}).map_err(JobError::from)?;
    let report = if args.json {
        serde_json::to_string_pretty(&object(&disks))? + "\n"
    } else {
        table(&disks) + &reasons(&disks)
    };
    print_bytes(report.as_bytes())?;
    Ok(if args.check { check(&disks) } else { ExitCode::SUCCESS })
}

/// Tells every disk that cannot be known by its UUID, and how to mend that.
fn check(disks: &[AttachedDisk]) -> ExitCode {
    let problems: Vec<_> = disks.iter().filter_map(|disk| Some((disk, disk.uuid_problem()?))).collect();
    for (disk, problem) in &problems {
        tell(&format!("failback: {} {problem}", disk.path.display()));
    }
    if problems.iter().any(|(_, problem)| matches!(problem, UuidProblem::Missing)) {
        tell(ENABLE_UUID.trim_end());
    }
    let data = disks.iter().filter(|disk| disk.is_data()).count();
    if data == 0 {
        tell("failback: no data disk is attached, so there is nothing to check: attach one, then run this again");
    }
    if problems.is_empty() && data > 0 {
        tell(&format!("{} can be told apart by SCSI UUID", count(data, "data disk")));
        return ExitCode::SUCCESS;
    }
    ExitCode::from(exit::REFUSED)
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// The list as an object for scripts.
pub(crate) fn object(disks: &[AttachedDisk]) -> Value {
    json!({
        "disks": disks.iter().map(disk_object).collect::<Vec<_>>(),
        "usable": disks.iter().filter(|disk| disk.refusal.is_none()).count(),
    })
}

fn disk_object(disk: &AttachedDisk) -> Value {
    let path = |path: &std::path::PathBuf| path.to_string_lossy().into_owned();
    let mut mounts = Vec::new();
    let (mut swap, mut holders, mut loops) = (Vec::new(), Vec::new(), Vec::new());
    for used in &disk.uses {
        match used {
            Use::Mounted { source, at, writable, elsewhere } => mounts.push(json!({
                "source": source, "at": path(at), "writable": writable, "namespace_of_process": elsewhere,
            })),
            Use::Swap { on } => swap.push(on),
            Use::Held { by } => holders.push(by),
            Use::Loop { device, .. } => loops.push(device),
            _ => {}
        }
    }
    let problem = disk.uuid_problem();
    json!({
        "name": disk.name,
        "path": path(&disk.path),
        "links": disk.links.iter().map(path).collect::<Vec<_>>(),
        "size": disk.size.get(),
        "logical_block": disk.logical_block,
        "physical_block": disk.physical_block,
        "scsi_uuid": disk.scsi_uuid.map(|uuid| uuid.to_string()),
        "same_uuid": disk.same_uuid,
        "uuid_problem": problem.map(|problem| problem.name()),
        "model": disk.model,
        "transport": disk.transport.name(),
        "scsi_address": disk.address.map(|address| address.to_string()),
        "backing": disk.backing.as_ref().map(path),
        "partitions": disk.partitions,
        "read_only": disk.read_only,
        "wwid": disk.wwid,
        "own": disk.own,
        "guarded": disk.guarded,
        "system": disk.is_system(),
        "mounts": mounts,
        "swap": swap,
        "holders": holders,
        "loops": loops,
        "usable": disk.refusal.is_none(),
        "refusal": disk.refusal,
    })
}

/// One line for each disk.
fn table(disks: &[AttachedDisk]) -> String {
    let rows: Vec<[String; 6]> = disks.iter().map(row).collect();
    let titles = ["DISK", "SIZE", "SCSI UUID", "VIA", "ADDRESS", "AS A TARGET"].map(str::to_owned);
    let width = |column: usize| rows.iter().chain([&titles]).map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut text = String::new();
    for row in std::iter::once(&titles).chain(&rows) {
        let mut line = String::new();
        for (index, (cell, width)) in row.iter().zip(widths).enumerate() {
            // Sizes stand below each other by their last digit.
            if index == 1 {
                let _ = write!(line, "{cell:>width$}  ");
            } else {
                let _ = write!(line, "{cell:width$}  ");
            }
        }
        text += cut(line.trim_end(), WIDTH).trim_end();
        text.push('\n');
    }
    text
}

fn row(disk: &AttachedDisk) -> [String; 6] {
    let uuid = disk.scsi_uuid.map_or_else(|| "-".into(), |uuid| uuid.to_string());
    debug_assert!(uuid.len() <= UUID_WIDTH);
    [
        disk.name.clone(),
        HumanBytes(disk.size.get()).to_string(),
        uuid,
        cut(&disk.transport.name(), VIA_WIDTH),
        disk.address.map_or_else(|| "-".into(), |address| address.to_string()),
        verdict(disk),
    ]
}

/// Whether it is a target, in a few words; the sentences stand below the table.
fn verdict(disk: &AttachedDisk) -> String {
    match (disk.uses.first(), &disk.refusal) {
        (None, None) => "usable".into(),
        (None, Some(_)) => "no, see below".into(),
        (Some(used), _) => match used {
            Use::RunsFrom { .. } => "no: system disk".into(),
            Use::Own { role } if role == "system" => "no: system disk".into(),
            Use::Own { .. } => "no: own disk".into(),
            Use::Mounted { .. } => "no: mounted".into(),
            Use::Swap { .. } => "no: swap".into(),
            Use::Held { .. } => "no: held".into(),
            Use::Loop { .. } => "no: loop device".into(),
            Use::Duplicate { .. } => "no: duplicate UUID".into(),
            Use::Locked { .. } => "no: claimed".into(),
            Use::ReadOnly => "no: read-only".into(),
            Use::Forbidden => "no: not permitted".into(),
            _ => "no: busy".into(),
        },
    }
}

/// The sentences of all refusals, and a line of totals.
fn reasons(disks: &[AttachedDisk]) -> String {
    let mut text = String::from("\n");
    for refusal in disks.iter().filter_map(|disk| disk.refusal.as_deref()) {
        text += &wrapped(refusal, WIDTH, 2);
    }
    let usable = disks.iter().filter(|disk| disk.refusal.is_none()).count();
    let _ = writeln!(text, "{}, {usable} usable as a target", count(disks.len(), "disk"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use failback_orchestrate::{ByteCount, Transport};

    fn disk(number: usize) -> AttachedDisk {
        let name = format!("sd{}{}", char::from(b'a' + u8::try_from(number / 26).unwrap()), number % 26);
        let used = Use::Mounted {
            source: format!("/dev/{name}1"),
            at: format!("/srv/{}", "long/".repeat(60)).into(),
            writable: true,
            elsewhere: None,
        };
        AttachedDisk {
            path: format!("/dev/{name}").into(),
            name,
            links: vec![],
            size: ByteCount::new(62 << 40).unwrap(),
            logical_block: 512,
            physical_block: 512,
            scsi_uuid: format!("6000c299{number:024x}").parse().ok(),
            same_uuid: vec![],
            model: Some("VMware Virtual disk".into()),
            transport: Transport::Scsi { driver: "a_driver_with_a_long_name".into() },
            address: "33:0:15:0".parse().ok(),
            backing: None,
            partitions: 3,
            read_only: false,
            wwid: None,
            own: None,
            guarded: false,
            refusal: number
                .is_multiple_of(2)
                .then(|| format!("/dev/x is {used}: unmount it first, then run this again")),
            uses: if number.is_multiple_of(2) { vec![used] } else { vec![] },
        }
    }

    #[test]
    fn a_table_of_sixty_disks_is_a_hundred_columns_wide() {
        let disks: Vec<_> = (0..60).map(disk).collect();
        let table = table(&disks);
        assert_eq!(table.lines().count(), 61);
        for line in table.lines() {
            assert!(line.chars().count() <= WIDTH, "{line}");
            assert!(!line.contains('…') || line.contains("a_driver_wi…"), "something else was cut: {line}");
        }
        assert!(table.contains("6000c29900000000000000000000003b"), "{table}");
        assert_eq!(table.matches("usable").count(), 30);
    }
}
