//! LVM2: from the physical volumes that were found to the logical volumes on them.
//!
//! Extents that belong to no logical volume stay in use. LVM keeps no promise about them: a volume that was removed by
//! mistake comes back with `vgcfgrestore` as long as nobody wrote there, and on the worst day that may be what is needed.

mod config;
mod group;
mod label;
mod layout;

use crate::pieces::Piece;
use crate::{Unclear, text};
use failback_units::{ByteCount, ByteOffset, ByteRange};
use group::{Group, Logical};
pub(crate) use label::{Label, Labelled, read};
use std::collections::{BTreeMap, BTreeSet};

/// All texts that are kept of all disks, in bytes; equal ones are kept once.
const TEXTS_MAX: usize = 64 << 20;

/// A physical volume and where it was found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) place: Piece,
    pub(crate) label: Label,
}

/// What became of the physical volumes.
#[derive(Debug, Default)]
pub(crate) struct Assembled {
    /// Of each physical volume, in the order in which they were given: which group it belongs to, or why it is unclear.
    pub(crate) membership: Vec<Result<usize, Unclear>>,
    pub(crate) groups: Vec<VolumeGroup>,
}

/// A volume group whose metadata was read.
#[derive(Debug)]
pub(crate) struct VolumeGroup {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) seqno: u64,
    pub(crate) extent_size: u64,
    /// How many physical volumes it has, and how many of them are not here.
    pub(crate) physical_volumes: usize,
    pub(crate) missing: usize,
    pub(crate) trouble: Option<Unclear>,
    pub(crate) volumes: Vec<LogicalVolume>,
    pub(crate) remarks: Vec<String>,
}

/// A logical volume, and where it lies or why that is unclear.
#[derive(Debug)]
pub(crate) struct LogicalVolume {
    pub(crate) name: String,
    pub(crate) uuid: Option<String>,
    pub(crate) size: ByteCount,
    /// The physical volume that its first extent lies on, as an index; the first of the group where that is unknown.
    pub(crate) home: usize,
    pub(crate) pieces: Result<Vec<Piece>, Unclear>,
}

/// A UUID of LVM with the dashes that LVM prints.
pub(crate) fn uuid(plain: &str) -> String {
    const GROUPS: [usize; 7] = [6, 4, 4, 4, 4, 4, 6];
    if plain.len() != GROUPS.iter().sum::<usize>() || !plain.is_ascii() {
        return text::label(plain.as_bytes()).unwrap_or_default();
    }
    let (mut groups, mut rest) = (Vec::new(), plain);
    for len in GROUPS {
        let (group, behind) = rest.split_at(len);
        groups.push(group);
        rest = behind;
    }
    groups.join("-")
}

/// Brings physical volumes of all disks together.
pub(crate) fn assemble(found: &[Found]) -> Assembled {
    let (mut texts, mut kept) = (BTreeSet::<&[u8]>::new(), 0_usize);
    for text in found.iter().flat_map(|found| &found.label.texts) {
        if kept + text.len() <= TEXTS_MAX && texts.insert(text) {
            kept += text.len();
        }
    }
    let (mut states, mut broken) = (BTreeMap::<String, BTreeMap<u64, Vec<&[u8]>>>::new(), BTreeSet::new());
    for text in texts {
        match group::head(text) {
            Some((id, seqno)) => states.entry(id).or_default().entry(seqno).or_default().push(text),
            None => {
                broken.insert(text);
            }
        }
    }
    let mut assembled = Assembled::default();
    let mut owners = BTreeMap::<String, Vec<usize>>::new();
    for states in states.into_values() {
        let older = states.len() - 1;
        let Some((_, newest)) = states.into_iter().next_back() else { continue };
        let Some(mut group) = newest.first().and_then(|text| group::read(text)) else { continue };
        if newest.len() > 1 {
            group.trouble = Some("the copies of its LVM metadata contradict each other".into());
        }
        for member in &group.members {
            owners.entry(member.uuid.clone()).or_default().push(assembled.groups.len());
        }
        assembled.groups.push(laid(group, found, older));
    }
    assembled.membership = found.iter().map(|found| membership(found, &owners, &broken)).collect();
    assembled
}

/// Which group a physical volume belongs to.
fn membership(
    found: &Found,
    owners: &BTreeMap<String, Vec<usize>>,
    broken: &BTreeSet<&[u8]>,
) -> Result<usize, Unclear> {
    if found.label.texts.iter().any(|text| broken.contains(text.as_slice())) {
        return Err(Unclear::because("its LVM metadata is not understood"));
    }
    match owners.get(&found.label.uuid).map(Vec::as_slice) {
        Some([group]) => Ok(*group),
        Some(_) => Err(Unclear::because("two volume groups claim it")),
        None if found.label.texts.is_empty() => {
            Err(Unclear::because("no metadata that was found says which volume group it belongs to"))
        }
        None => Err(Unclear::because("its volume group does not know it")),
    }
}

/// Lays the logical volumes of a group onto the disks.
fn laid(group: Group, found: &[Found], older: usize) -> VolumeGroup {
    let members: Vec<Result<usize, Unclear>> =
        group.members.iter().map(|member| place(member, &group, found)).collect();
    let here = |uuid: &str| found.iter().any(|found| found.label.uuid == uuid);
    let first = found.iter().position(|found| group.members.iter().any(|member| member.uuid == found.label.uuid));
    let mut volumes = Vec::new();
    for logical in &group.volumes {
        let home = logical.segments.first().and_then(|segment| members.get(segment.member)?.as_ref().ok()).copied();
        volumes.push(LogicalVolume {
            name: text::label(logical.name.as_bytes()).unwrap_or_default(),
            uuid: logical.uuid.as_deref().map(|id| uuid(&group::plain(id))),
            size: ByteCount::new(logical.extents.saturating_mul(group.extent)).unwrap_or_default(),
            home: home.or(first).unwrap_or_default(),
            pieces: pieces(logical, &group, &members, found),
        });
    }
    let mut remarks = Vec::new();
    if older > 0 {
        remarks.push(format!("{older} older states of its LVM metadata were found and left aside"));
    }
    VolumeGroup {
        name: text::label(group.name.as_bytes()).unwrap_or_default(),
        id: uuid(&group::plain(&group.id)),
        seqno: group.seqno,
        extent_size: group.extent,
        physical_volumes: group.members.len(),
        missing: group.members.iter().filter(|member| !here(&member.uuid)).count(),
        trouble: group.trouble.map(Unclear::because),
        volumes,
        remarks,
    }
}

/// Finds a member among the physical volumes, as an index, and checks that it is what the group takes it for.
fn place(member: &group::Member, group: &Group, found: &[Found]) -> Result<usize, Unclear> {
    let mut same = found.iter().enumerate().filter(|(_, found)| found.label.uuid == member.uuid);
    let Some((index, it)) = same.next() else {
        return Err(Unclear::because("a part of it lies on a disk that was not given"));
    };
    if same.next().is_some() {
        return Err(Unclear::because("a physical volume of it was found twice"));
    }
    if let Some(trouble) = &member.trouble {
        return Err(Unclear::because(format!("of a physical volume of it, {trouble}")));
    }
    let size = it.place.on_disk.count().get();
    let end = member.extents.checked_mul(group.extent).and_then(|len| len.checked_add(member.data_at));
    let Some(end) = end.filter(|end| *end <= size && it.label.size <= size) else {
        let wanted = it.label.size.max(end.unwrap_or(u64::MAX));
        return Err(Unclear::because(format!("a physical volume of it has {wanted} bytes, and {size} are there")));
    };
    let clear = |area: &(u64, u64)| area.1 <= member.data_at || area.0 >= end;
    let labels = layout::LABEL_SECTORS * layout::SECTOR;
    if member.data_at != it.label.data_at || member.data_at < labels || !it.label.areas.iter().all(clear) {
        return Err(Unclear::because("label and metadata of a physical volume of it contradict each other"));
    }
    Ok(index)
}

/// Where a logical volume lies on the disks.
fn pieces(
    logical: &Logical,
    group: &Group,
    members: &[Result<usize, Unclear>],
    found: &[Found],
) -> Result<Vec<Piece>, Unclear> {
    if let Some(reason) = group.trouble.as_ref().or(logical.trouble.as_ref()) {
        return Err(Unclear::because(reason));
    }
    let beyond = || Unclear::because("it reaches beyond the end of a disk");
    let piece = |segment: &group::Segment| {
        let (member, index) = (group.members.get(segment.member), members.get(segment.member));
        let (Some(member), Some(index)) = (member, index) else { return Err(beyond()) };
        let it = found.get(index.clone()?).ok_or_else(beyond)?;
        let on_member = segment.first.checked_mul(group.extent).and_then(|at| at.checked_add(member.data_at));
        let at = on_member.and_then(|at| at.checked_add(it.place.on_disk.start().get())).and_then(ByteOffset::new);
        let len = segment.extents.checked_mul(group.extent).and_then(ByteCount::new);
        let on_disk = at.zip(len).and_then(|(at, len)| ByteRange::new(at, len)).ok_or_else(beyond)?;
        if on_disk.end() > it.place.on_disk.end() {
            return Err(beyond());
        }
        Ok(Piece { disk: it.place.disk, on_disk })
    };
    logical.segments.iter().map(piece).collect()
}
