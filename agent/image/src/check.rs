//! Checking a disk without reading its content: what `qemu-img check` looks at, and what it does not.

use crate::OpenError;
use crate::descriptor::ExtentKind;
use crate::disk::{Body, Opened, open_layer, parent};
use crate::extent::Extent;
use crate::files::{Access, Files};
use crate::findings::{Findings, Severity};
use std::path::{Path, PathBuf};

/// What a check found.
#[derive(Clone, Debug)]
pub struct CheckReport {
    /// What is wrong, or unusual.
    pub findings: Findings,
    /// The descriptors that were looked at: of the disk, and of its parents.
    pub chain: Vec<PathBuf>,
    /// Bytes of grains that the extents of the chain have in their files.
    pub allocated: u64,
    /// Grains that are zero by their table entry.
    pub zeroed_grains: u64,
}

/// Looks at the descriptor, at the headers and every table entry of the sparse extents, at the lengths of files, and at the
/// same of all parents. The content of grains is not read. Memory is one bit for each grain of one file.
///
/// # Errors
///
/// When a file cannot be opened, or is so damaged that nothing more can be looked at.
pub fn check(path: &Path, files: &dyn Files) -> Result<CheckReport, OpenError> {
    let mut report =
        CheckReport { findings: Findings::default(), chain: vec![path.to_owned()], allocated: 0, zeroed_grains: 0 };
    let mut slots = Vec::new();
    let mut layer = open_layer(path, Access::Read, files, &mut slots)?;
    loop {
        check_layer(&layer, &slots, &mut report)?;
        // The files of one layer at a time.
        slots.clear();
        if !layer.descriptor.has_parent() {
            return Ok(report);
        }
        let below = match parent(&report.chain, &layer.descriptor, files) {
            Ok(below) => below,
            Err(OpenError::Refused(sentence) | OpenError::Damaged(sentence)) => {
                report.findings.add(Severity::Error, || sentence);
                return Ok(report);
            }
            Err(error) => return Err(error),
        };
        let opened = open_layer(&below, Access::Read, files, &mut slots)?;
        let (cid, wanted) = (opened.descriptor.cid, layer.descriptor.parent_cid);
        if cid != wanted {
            let child = &report.chain[report.chain.len() - 1];
            let sentence = format!(
                "{} was made of a parent with content ID {wanted:08x}, but {} has {cid:08x}: the parent was changed since",
                child.display(),
                below.display()
            );
            report.findings.add(Severity::Error, || sentence);
        }
        report.chain.push(below);
        layer = opened;
    }
}

fn check_layer(opened: &Opened, slots: &[crate::disk::FileSlot], report: &mut CheckReport) -> Result<(), OpenError> {
    let path = report.chain[report.chain.len() - 1].display().to_string();
    let findings = &mut report.findings;
    if let Some(track) = &opened.descriptor.change_track {
        let track = track.escape_debug();
        findings.add(Severity::Note, || {
            format!("{path} has changed block tracking in {track}: after writing the disk outside of ESXi, reset CBT")
        });
    }
    let lines = opened.descriptor.extents.iter().filter(|line| !line.size.is_zero());
    for (line, part) in lines.zip(&opened.layer.parts) {
        let name = |file: usize| slots[file].device.name().to_owned();
        match &part.body {
            Body::Zero => {}
            Body::Flat { file, offset } => {
                let (length, end) = (slots[*file].device.size().get(), offset + line.size.get());
                let alone = opened.descriptor.extents.iter().filter(|other| other.file == line.file).count() == 1;
                if length > end && alone {
                    let file = name(*file);
                    findings.add(Severity::Note, || {
                        format!("{file} is longer than its extent: {length} bytes, of which {end} count")
                    });
                }
            }
            Body::Sparse { file, extent } => {
                let capacity = extent.capacity();
                if capacity > line.size {
                    let (file, size) = (name(*file), line.size);
                    // By less than a grain, or the disk would not have been opened.
                    findings.add(Severity::Note, || {
                        format!("{file} holds {capacity} bytes of the disk, of which {path} uses {size}")
                    });
                }
                let facts = extent.check(findings)?;
                report.allocated += facts.allocated * extent.shape().grain;
                report.zeroed_grains += facts.zeroed;
            }
            Body::Grains { file, extent } => {
                let facts = check_grains(extent.as_ref(), &name(*file), line.kind, findings);
                report.allocated += facts.0 * u64::from(extent.grain_size());
                report.zeroed_grains += facts.1;
            }
        }
    }
    Ok(())
}

/// Looks at every entry of an extent in another format: how many grains it has, and how many are zeroes.
fn check_grains(extent: &dyn Extent, name: &str, kind: ExtentKind, findings: &mut Findings) -> (u64, u64) {
    use crate::extent::Place;
    let grains = extent.capacity().get().div_ceil(u64::from(extent.grain_size()));
    let (mut allocated, mut zeroed) = (0, 0);
    for grain in 0..grains {
        match extent.place(grain) {
            Ok(Place::Absent) => {}
            Ok(Place::Zero) => zeroed += 1,
            Ok(Place::At(_) | Place::Compressed(_)) => allocated += 1,
            Err(error) => findings.add(Severity::Error, || format!("grain {grain} of {name}: {error}")),
        }
    }
    if kind != ExtentKind::Sparse {
        findings.add(Severity::Note, || {
            format!("{name} is part of an ESXi snapshot, of which entries were looked at and nothing more")
        });
    }
    (allocated, zeroed)
}
