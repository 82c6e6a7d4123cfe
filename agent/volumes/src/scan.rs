//! From disks to their layouts: tables, volume groups, file systems, and the free space of all of it together.
//!
//! The order matters: all disks are looked at before any volume group is, since its volumes may lie on several. What
//! cannot be read or contradicts itself is an entry in the tree and never an error: it is in use, and the tree says why.

use crate::lvm::{self, Assembled, Found};
use crate::partitions::{self, Place, Table};
use crate::pieces::{Piece, Pieced};
use crate::tree::{
    Content, DiskLayout, FileSystemFacts, Group, LogicalVolume, Partition, PartitionTable, PhysicalVolume, Segment,
};
use crate::{
    DeviceVolume, FileSystem, FreeMap, FreeMapBuilder, Kind, ReadError, State, Unclear, Volume, file_systems, recognise,
};
use failback_blockio::Device;
use failback_units::{ByteCount, ByteOffset, ByteRange};
use std::sync::Arc;

/// Free extents that are collected of a disk at most; with more the shortest are forgotten, and count as used.
const COLLECTED_MAX: usize = 4 << 20;
/// Physical volumes that are followed; others are in use.
const PHYSICAL_VOLUMES_MAX: usize = 256;

/// Looks at disks, together: a volume group may lie on several of them.
///
/// Never fails: what cannot be read is in use, and the tree says why. The layouts are in the order of `disks`.
#[must_use]
pub fn scan(disks: &[&dyn Device]) -> Vec<DiskLayout> {
    let opened: Vec<_> = disks.iter().map(|disk| DeviceVolume::new(*disk)).collect();
    let volumes: Vec<&dyn Volume> =
        opened.iter().map(|opened| opened.as_ref().map_or(&Nothing as _, |it| it as _)).collect();
    let mut scanner = Scanner::new(&volumes);
    let mut contents: Vec<_> = (0..volumes.len()).map(|disk| scanner.disk(disk)).collect();
    for (content, opened) in contents.iter_mut().zip(&opened) {
        if let Err(error) = opened {
            *content = Content::unclear(Vec::new(), &format!("it cannot be read: {error}"));
        }
    }
    let assembled = lvm::assemble(&scanner.found);
    let logical = scanner.logical(&assembled);
    for content in &mut contents {
        fill(content, &assembled, &logical, &scanner.found);
    }
    let maps: Vec<_> = scanner.free.into_iter().map(Collector::finish).collect();
    let failures = opened.into_iter().map(|opened| match opened {
        Ok(volume) => volume.into_failure(),
        Err(error) => Some(error),
    });
    let found = contents.into_iter().zip(maps).zip(failures);
    let layouts = disks.iter().zip(found).map(|(disk, ((content, free), failure))| DiskLayout {
        name: disk.name().to_owned(),
        size: disk.size(),
        sector_size: disk.logical_block(),
        content,
        free,
        failure: failure.map(Arc::new),
    });
    layouts.collect()
}

/// Stands for a disk that cannot be opened for reading.
struct Nothing;

impl Volume for Nothing {
    fn size(&self) -> ByteCount {
        ByteCount::ZERO
    }

    fn sector_size(&self) -> u32 {
        512
    }

    fn read(&self, _at: ByteOffset, _into: &mut [u8]) -> Result<(), ReadError> {
        Err(ReadError::Beyond)
    }
}

struct Scanner<'a> {
    disks: &'a [&'a dyn Volume],
    free: Vec<Collector>,
    found: Vec<Found>,
    texts: lvm::Texts,
}

/// Everything that claims to be on a volume.
struct Claims {
    systems: Vec<FileSystem>,
    label: Option<lvm::Labelled>,
    table: Option<Table>,
    others: Vec<&'static str>,
}

impl Claims {
    fn of(volume: &dyn Volume, place: Place) -> Result<Self, ReadError> {
        let others = recognise::others(volume)?;
        let boot_program = others.iter().any(|name| recognise::has_boot_program(name));
        let table = partitions::read(volume, place, boot_program)?;
        Ok(Self { systems: file_systems(volume), label: lvm::read(volume)?, table, others })
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.systems.iter().map(|system| system.kind.name().to_owned()).collect();
        names.extend(self.label.iter().map(|_| "LVM2".to_owned()));
        names.extend(self.table.iter().map(|table| format!("{} partition table", table.kind.name())));
        names.extend(self.others.iter().map(|name| (*name).to_owned()));
        names
    }
}

impl<'a> Scanner<'a> {
    fn new(disks: &'a [&'a dyn Volume]) -> Self {
        Self {
            disks,
            free: disks.iter().map(|_| Collector::default()).collect(),
            found: Vec::new(),
            texts: lvm::Texts::default(),
        }
    }

    fn disk(&mut self, disk: usize) -> Content {
        let whole = Piece { disk, on_disk: ByteRange::whole(self.disks[disk].size()) };
        self.volume(&[whole], Place::Disk, true)
    }

    /// What fills a volume. `follow` says whether a physical volume of LVM is taken into a group.
    fn volume(&mut self, pieces: &[Piece], place: Place, follow: bool) -> Content {
        let Some(volume) = Pieced::new(self.disks, pieces.iter().copied()) else {
            return Content::unclear(Vec::new(), &"it reaches beyond the end of the disk");
        };
        let claims = match Claims::of(&volume, place) {
            Ok(claims) => claims,
            Err(error) => return Content::unclear(Vec::new(), &Unclear::from(error)),
        };
        let names = claims.names();
        match names.as_slice() {
            [] => return Content::unclear(names, &"nothing that failback knows was found there"),
            [_] => {}
            [first @ .., last] => {
                let because = format!("it could be {} or {last}", first.join(", "));
                return Content::unclear(names, &because);
            }
        }
        let Claims { systems, label, table, others } = claims;
        match (systems.into_iter().next(), label, table, others.first()) {
            (Some(system), ..) => self.file_system(system, &volume),
            (_, Some(label), ..) => match pieces {
                [place] if follow => self.physical_volume(label, *place),
                _ => Content::unclear(names, &"LVM within a logical volume is not followed"),
            },
            (_, _, Some(table), _) => match pieces {
                [whole] if place == Place::Disk => self.partitions(table, whole.disk),
                _ => Content::unclear(names, &"a partition table that is not at the start of a disk is not followed"),
            },
            (.., Some(name)) => self.file_system(recognised(name), &volume),
            (None, None, None, None) => unreachable!("there is one name, so there is one claim"),
        }
    }

    fn file_system(&mut self, system: FileSystem, volume: &Pieced) -> Content {
        let (facts, map) = FileSystemFacts::of(system, volume.size());
        for piece in volume.on_disks(&map) {
            self.free[piece.disk].add(piece.on_disk);
        }
        Content::FileSystem(facts)
    }

    fn physical_volume(&mut self, label: lvm::Labelled, place: Piece) -> Content {
        let mut physical = PhysicalVolume { uuid: None, group: None, because: None, volumes: Vec::new(), index: None };
        match label {
            Ok(_) if self.found.len() >= PHYSICAL_VOLUMES_MAX => {
                physical.because = Some(format!("more than {PHYSICAL_VOLUMES_MAX} physical volumes are not followed"));
            }
            Ok(mut label) => {
                physical.uuid = Some(lvm::uuid(&label.uuid));
                if !self.texts.keep(&mut label.texts) {
                    physical.because = Some("the disks have more LVM metadata than is supported".into());
                    return Content::PhysicalVolume(physical);
                }
                physical.index = Some(self.found.len());
                self.found.push(Found { place, label });
            }
            Err(reason) => physical.because = Some(reason.to_string()),
        }
        Content::PhysicalVolume(physical)
    }

    fn partitions(&mut self, table: Table, disk: usize) -> Content {
        let understood = table.trouble.is_none();
        let partitions = table.entries.into_iter().map(|entry| Partition {
            content: match (understood, entry.extended) {
                (false, _) => None,
                (true, true) => Some(Content::Extended),
                (true, false) => Some(self.volume(&[Piece { disk, on_disk: entry.range }], Place::Within, true)),
            },
            number: entry.number,
            start: entry.range.start(),
            size: entry.range.count(),
            kind: entry.kind,
            type_name: entry.kind_name,
            name: entry.name,
            uuid: entry.uuid,
        });
        Content::PartitionTable(PartitionTable {
            table: table.kind,
            id: table.id,
            because: table.trouble.map(|trouble| trouble.to_string()),
            partitions: partitions.collect(),
            remarks: table.remarks,
        })
    }

    /// Looks into the logical volumes; for each, the physical volume under which it stands in the tree.
    fn logical(&mut self, assembled: &Assembled) -> Vec<(usize, LogicalVolume)> {
        let mut all = Vec::new();
        for volume in assembled.groups.iter().flat_map(|group| &group.volumes) {
            let (segments, content) = match &volume.pieces {
                Ok(pieces) => (segments(pieces), self.volume(pieces, Place::Within, false)),
                Err(reason) => (Vec::new(), Content::unclear(Vec::new(), reason)),
            };
            let (name, uuid, size) = (volume.name.clone(), volume.uuid.clone(), volume.size);
            all.push((volume.home, LogicalVolume { name, uuid, size, segments, content }));
        }
        all
    }
}

/// Something that only its name is known of.
fn recognised(name: &'static str) -> FileSystem {
    FileSystem {
        kind: Kind::Other(name),
        version: None,
        label: None,
        uuid: None,
        size: None,
        block_size: None,
        state: State::Unknown,
        checked: false,
        map: Err(Unclear::because(format!("failback does not read the free space of {name}"))),
        remarks: Vec::new(),
    }
}

/// Pieces for people: neighbours as one.
fn segments(pieces: &[Piece]) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::new();
    for piece in pieces {
        let (start, size) = (piece.on_disk.start(), piece.on_disk.count());
        if let Some(last) = segments.last_mut()
            && last.disk == piece.disk
            && last.start.checked_add(last.size) == Some(start)
            && let Some(both) = last.size.checked_add(size)
        {
            last.size = both;
        } else {
            segments.push(Segment { disk: piece.disk, start, size });
        }
    }
    segments
}

/// Puts what was found out about volume groups into the tree.
fn fill(content: &mut Content, assembled: &Assembled, logical: &[(usize, LogicalVolume)], found: &[Found]) {
    let physical: Vec<&mut PhysicalVolume> = match content {
        Content::PhysicalVolume(physical) => vec![physical],
        Content::PartitionTable(table) => {
            let contents = table.partitions.iter_mut().filter_map(|partition| partition.content.as_mut());
            let physical = contents.filter_map(|content| match content {
                Content::PhysicalVolume(physical) => Some(physical),
                _ => None,
            });
            physical.collect()
        }
        _ => Vec::new(),
    };
    for physical in physical {
        let Some(index) = physical.index else { continue };
        match assembled.membership.get(index) {
            Some(Ok(group)) => {
                let Some(group) = assembled.groups.get(*group) else { continue };
                physical.because = group.trouble.as_ref().map(ToString::to_string);
                physical.group = Some(Group {
                    name: group.name.clone(),
                    uuid: group.id.clone(),
                    seqno: group.seqno,
                    extent_size: group.extent_size,
                    physical_volumes: group.physical_volumes,
                    missing: group.missing,
                    remarks: group.remarks.clone(),
                });
                let here = logical.iter().filter(|(home, _)| *home == index && index < found.len());
                physical.volumes = here.map(|(_, volume)| volume.clone()).collect();
            }
            Some(Err(reason)) => physical.because = Some(reason.to_string()),
            None => {}
        }
    }
}

/// Free extents of one disk, in any order.
#[derive(Default)]
struct Collector {
    extents: Vec<ByteRange>,
    /// Shorter ones are forgotten; 0 until there are too many.
    least: u64,
}

impl Collector {
    fn add(&mut self, extent: ByteRange) {
        if extent.is_empty() || extent.count().get() < self.least {
            return;
        }
        while self.extents.len() >= COLLECTED_MAX {
            self.least = (self.least * 2).max(4096);
            let least = self.least;
            self.extents.retain(|extent| extent.count().get() >= least);
        }
        self.extents.push(extent);
    }

    fn finish(mut self) -> FreeMap {
        self.extents.sort_unstable();
        // Volumes of one disk do not overlap: that was checked of partitions and of logical volumes. If they did all the
        // same, whoever wrote that check was wrong, and then nothing is free.
        if self.extents.windows(2).any(|pair| pair[0].end() > pair[1].start()) {
            return FreeMap::nothing();
        }
        let mut map = FreeMapBuilder::new();
        self.extents.into_iter().for_each(|extent| map.push(extent));
        map.finish()
    }
}
