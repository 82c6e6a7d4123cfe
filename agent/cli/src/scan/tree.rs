//! The tree for people, in at most a hundred columns.

use crate::text::WIDTH;
use failback_orchestrate::{
    ByteCount, Content, FileSystemFacts, LogicalVolume, Partition, PartitionTable, PhysicalVolume, SeenDisk, State,
};
use std::fmt::Write;

/// What lies within is further in by this.
const STEP: usize = 2;

/// Lines, each further in or out.
#[derive(Default)]
struct Page {
    text: String,
    depth: usize,
    /// Whether somebody may write to the disk, so that nothing of it is skipped.
    moving: bool,
}

impl Page {
    /// One line, or several if it is too long; those after the first are further in.
    fn line(&mut self, text: &str) {
        let mut indent = self.depth * STEP;
        let mut column = 0;
        for word in text.split(' ') {
            let len = word.chars().count();
            if column > 0 && column + 1 + len > WIDTH {
                self.text.push('\n');
                column = 0;
                indent = (self.depth + 2) * STEP;
            }
            if column == 0 {
                let _ = write!(self.text, "{:indent$}{word}", "");
                column = indent + len;
            } else {
                let _ = write!(self.text, " {word}");
                column += 1 + len;
            }
        }
        self.text.push('\n');
    }

    fn within(&mut self, print: impl FnOnce(&mut Self)) {
        self.depth += 1;
        print(self);
        self.depth -= 1;
    }

    fn remarks(&mut self, remarks: &[String]) {
        for remark in remarks {
            self.line(&format!("note: {remark}"));
        }
    }
}

pub(super) fn print(disks: &[SeenDisk]) -> String {
    let mut page = Page::default();
    for disk in disks {
        print_disk(&mut page, disk, disks);
        page.text.push('\n');
    }
    if let [_, _, ..] = disks {
        let sum = |of: fn(&SeenDisk) -> ByteCount| disks.iter().map(|disk| of(disk).get()).fold(0, u64::saturating_add);
        let (size, skipped) = (sum(|disk| disk.layout.size), sum(SeenDisk::skipped));
        page.line(&format!("all {} disks: {}", disks.len(), carried(size, skipped)));
    } else {
        page.text.pop();
    }
    page.text
}

fn carried(size: u64, skipped: u64) -> String {
    let human = |bytes| ByteCount::new(bytes).unwrap_or_default().human();
    let used = size.saturating_sub(skipped);
    format!("{} in all, {} used, {} skipped", human(size), human(used), human(skipped))
}

fn print_disk(page: &mut Page, disk: &SeenDisk, all: &[SeenDisk]) {
    let layout = &disk.layout;
    let mut head = format!("{}  {}, sectors of {}", disk.identity.name(), layout.size.human(), layout.sector_size);
    if let Some(model) = &disk.identity.model {
        let _ = write!(head, ", {model}");
    }
    page.line(&head);
    page.moving = !disk.moving.is_empty();
    page.within(|page| {
        if let Some(uuid) = &disk.identity.scsi_uuid {
            page.line(&format!("SCSI UUID {uuid}"));
        }
        content(page, &layout.content, all);
        for reason in &disk.moving {
            page.line(&format!("=> nothing is skipped, because the disk is {reason}"));
        }
        page.line(&format!("total: {}", carried(layout.size.get(), disk.skipped().get())));
    });
}

fn content(page: &mut Page, content: &Content, all: &[SeenDisk]) {
    match content {
        Content::PartitionTable(table) => partitions(page, table, all),
        Content::FileSystem(system) => file_system(page, system),
        Content::PhysicalVolume(physical) => physical_volume(page, physical, all),
        Content::Extended => page.line("holds the logical partitions"),
        Content::Unclear { because, .. } => every_block(page, because),
    }
}

fn every_block(page: &mut Page, because: &str) {
    page.line(&format!("=> every block, because {because}"));
}

fn partitions(page: &mut Page, table: &PartitionTable, all: &[SeenDisk]) {
    let mut head = table.table.name().to_owned();
    if let Some(id) = &table.id {
        let _ = write!(head, " {id}");
    }
    page.line(&head);
    page.remarks(&table.remarks);
    for partition in &table.partitions {
        page.within(|page| {
            page.line(&described(partition));
            if let Some(inner) = &partition.content {
                page.within(|page| content(page, inner, all));
            }
        });
    }
    if let Some(because) = &table.because {
        every_block(page, because);
    }
}

fn described(partition: &Partition) -> String {
    let kind = partition.type_name.unwrap_or(&partition.kind);
    let mut text = format!("{}  {}, {kind}", partition.number, partition.size.human());
    if let Some(name) = &partition.name {
        let _ = write!(text, ", \"{name}\"");
    }
    text
}

fn file_system(page: &mut Page, system: &FileSystemFacts) {
    let mut head = system.kind.to_owned();
    if let Some(version) = system.version {
        let _ = write!(head, " {version}");
    }
    if let Some(label) = &system.label {
        let _ = write!(head, " \"{label}\"");
    }
    if let Some(uuid) = &system.uuid {
        let _ = write!(head, " {uuid}");
    }
    page.line(&head);
    page.within(|page| {
        match &system.because {
            None => {
                page.line(&format!("{} used, {} free; {}", system.used.human(), system.free.human(), state(system)));
                if page.moving {
                    every_block(page, "somebody may write to the disk now");
                } else {
                    page.line(&format!("=> {} bytes are skipped", system.free));
                }
            }
            Some(because) => {
                if system.state == State::NotUnderstood {
                    page.line("dirty, and not understood");
                }
                every_block(page, because);
            }
        }
        page.remarks(&system.remarks);
    });
}

fn state(system: &FileSystemFacts) -> String {
    let state = match system.state {
        State::Clean => "clean".to_owned(),
        State::Replayed { transactions } => format!("dirty, and replayed ({transactions} transactions)"),
        State::NotUnderstood => "dirty, and not understood".to_owned(),
        State::Unknown => "in an unknown state".to_owned(),
    };
    let unchecked = if system.checked { "" } else { ", unchecked (no checksums vouch for its free space)" };
    // Swap space has no map that could be wrong.
    if system.kind == "swap" { state } else { state + unchecked }
}

fn physical_volume(page: &mut Page, physical: &PhysicalVolume, all: &[SeenDisk]) {
    let uuid = physical.uuid.as_deref().unwrap_or("of an unknown UUID");
    page.line(&format!("LVM2 physical volume {uuid}"));
    page.within(|page| {
        if let Some(group) = &physical.group {
            let mut head = format!("volume group {}", group.name);
            if group.physical_volumes > 1 {
                let _ = write!(head, ", on {} physical volumes", group.physical_volumes);
            }
            if group.missing > 0 {
                let _ = write!(head, ", {} of them missing", group.missing);
            }
            page.line(&head);
            page.remarks(&group.remarks);
        }
        if let Some(because) = &physical.because {
            every_block(page, because);
        }
        for volume in &physical.volumes {
            logical_volume(page, volume, all);
        }
    });
}

fn logical_volume(page: &mut Page, volume: &LogicalVolume, all: &[SeenDisk]) {
    let mut head = format!("{}  {}", volume.name, volume.size.human());
    let mut disks: Vec<_> = volume.segments.iter().map(|segment| segment.disk).collect();
    disks.sort_unstable();
    disks.dedup();
    if let [_, _, ..] = disks.as_slice() {
        let names = disks.iter().filter_map(|disk| all.get(*disk)).map(|disk| disk.identity.name().to_string());
        let _ = write!(head, ", on {}", names.collect::<Vec<_>>().join(" and "));
    }
    page.line(&head);
    page.within(|page| content(page, &volume.content, all));
}
