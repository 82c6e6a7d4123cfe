//! What the metadata of a volume group says, as far as it is understood.
//!
//! A logical volume is understood if all of it is laid end to end on physical volumes, nothing else refers to it, and
//! none of its flags is unknown. All others only keep their name and size.

use super::config::{Section, Value, parse};
use super::layout::SECTOR;
use failback_units::MAX_DISK_BYTES;
use std::collections::{BTreeMap, BTreeSet};

/// What LVM writes at the top of every text of a volume group.
const CONTENTS: &str = "Text Format Volume Group";
const VERSION: u64 = 1;
/// Flags that change nothing about where data lies. One that is not here may.
const GROUP_FLAGS: [&str; 3] = ["RESIZEABLE", "READ", "WRITE"];
const PHYSICAL_FLAGS: [&str; 1] = ["ALLOCATABLE"];
const LOGICAL_FLAGS: [&str; 4] = ["READ", "WRITE", "VISIBLE", "FIXED_MINOR"];
const VISIBLE: &str = "VISIBLE";
/// The type of a segment that lies on `stripe_count` physical volumes; with one of them it is linear.
const STRIPED: &str = "striped";

/// A volume group.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) seqno: u64,
    /// In bytes.
    pub(crate) extent: u64,
    pub(crate) members: Vec<Member>,
    pub(crate) volumes: Vec<Logical>,
    /// Why nothing of it is understood.
    pub(crate) trouble: Option<String>,
}

/// A physical volume as its group knows it.
#[derive(Debug)]
pub(crate) struct Member {
    /// Without dashes, as in the label.
    pub(crate) uuid: String,
    /// Where its extents begin, in bytes.
    pub(crate) data_at: u64,
    /// How many extents.
    pub(crate) extents: u64,
    pub(crate) trouble: Option<String>,
}

/// A logical volume that an administrator sees.
#[derive(Debug)]
pub(crate) struct Logical {
    pub(crate) name: String,
    pub(crate) uuid: Option<String>,
    /// In extents.
    pub(crate) extents: u64,
    /// What it lies on, from its start; empty where that is not understood.
    pub(crate) segments: Vec<Segment>,
    pub(crate) trouble: Option<String>,
}

/// Extents of one physical volume.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    /// Which member.
    pub(crate) member: usize,
    pub(crate) first: u64,
    pub(crate) extents: u64,
}

/// Which group a text describes, and which of its states: `None` where it is no text of a group.
pub(crate) fn head(text: &[u8]) -> Option<(String, u64)> {
    let all = parse(text)?;
    let (_, group) = only_group(&all)?;
    Some((group.text("id")?.to_owned(), group.number("seqno")?))
}

fn only_group(all: &Section) -> Option<(&str, &Section)> {
    if all.text("contents") != Some(CONTENTS) || all.number("version") != Some(VERSION) {
        return None;
    }
    let mut groups = all.sections();
    groups.next().filter(|_| groups.next().is_none())
}

/// Reads a text; `None` where it is no text of a group.
pub(crate) fn read(text: &[u8]) -> Option<Group> {
    let all = parse(text)?;
    let (name, section) = only_group(&all)?;
    let mut group = Group {
        name: name.to_owned(),
        id: section.text("id")?.to_owned(),
        seqno: section.number("seqno")?,
        extent: section.number("extent_size")?.checked_mul(SECTOR).filter(|size| *size > 0)?,
        members: Vec::new(),
        volumes: Vec::new(),
        trouble: flags(section, &GROUP_FLAGS),
    };
    if section.value("lock_type").is_some_and(|kind| *kind != Value::Text("none".into())) {
        group.trouble = Some("it is shared between machines".into());
    }
    let mut names = BTreeMap::new();
    for (index, (name, member)) in section.section("physical_volumes")?.sections().enumerate() {
        names.insert(name.to_owned(), index);
        group.members.push(Member {
            uuid: plain(member.text("id")?),
            data_at: member.number("pe_start")?.checked_mul(SECTOR)?,
            extents: member.number("pe_count")?,
            trouble: flags(member, &PHYSICAL_FLAGS),
        });
    }
    if let Some(volumes) = section.section("logical_volumes") {
        fill(&mut group, volumes, &names)?;
    }
    Some(group)
}

/// A UUID without its dashes.
pub(crate) fn plain(uuid: &str) -> String {
    uuid.chars().filter(|c| *c != '-').collect()
}

/// The first flag of a section that is not known, as a reason.
fn flags(section: &Section, known: &[&str]) -> Option<String> {
    let list = |name: &str| match section.value(name) {
        None => Some(Vec::new()),
        Some(_) => section.texts(name),
    };
    let (Some(status), Some(flags)) = (list("status"), list("flags")) else {
        return Some("its flags make no sense".into());
    };
    // What is in `flags` may be ignored by programs that do not know it; we do not.
    let unknown = status.into_iter().find(|flag| !known.contains(flag)).or(flags.first().copied());
    unknown.map(|flag| format!("its flag {flag} is not understood"))
}

/// Reads the logical volumes, and looks for what they have in common.
fn fill(group: &mut Group, volumes: &Section, members: &BTreeMap<String, usize>) -> Option<()> {
    let (mut referred, mut taken) = (BTreeSet::new(), Vec::new());
    for (name, volume) in volumes.sections() {
        let visible = volume.texts("status").is_some_and(|status| status.contains(&VISIBLE));
        let mut logical = Logical {
            name: name.to_owned(),
            uuid: volume.text("id").map(str::to_owned),
            extents: 0,
            segments: Vec::new(),
            trouble: flags(volume, &LOGICAL_FLAGS),
        };
        segments(group, &mut logical, volume, members, &mut taken)?;
        refer(volume, members, &mut referred);
        if visible {
            group.volumes.push(logical);
        }
    }
    for logical in &mut group.volumes {
        if referred.contains(&logical.name) && logical.trouble.is_none() {
            logical.trouble = Some("another logical volume is made of it (a snapshot, a pool or a mirror)".into());
        }
    }
    taken.sort_unstable();
    let overlap = taken.windows(2).any(|pair| pair[0].0 == pair[1].0 && pair[0].2 > pair[1].1);
    if overlap {
        group.trouble = Some("two of its logical volumes overlap".into());
    }
    Some(())
}

/// Reads the segments of a logical volume. `taken` is told of every extent of a member: which, first, the one behind.
fn segments(
    group: &Group,
    logical: &mut Logical,
    volume: &Section,
    members: &BTreeMap<String, usize>,
    taken: &mut Vec<(usize, u64, u64)>,
) -> Option<()> {
    let mut found = BTreeMap::new();
    for (name, segment) in volume.sections().filter(|(name, _)| name.starts_with("segment")) {
        let start = segment.number("start_extent")?;
        if found.insert(start, segment).is_some() {
            logical.trouble = Some(format!("two segments of it begin at one place ({name})"));
        }
    }
    if volume.number("segment_count") != Some(found.len() as u64) || found.is_empty() {
        logical.trouble = Some("it does not have the segments that it should".into());
    }
    for (start, segment) in found {
        let extents = segment.number("extent_count")?;
        if start != logical.extents {
            logical.trouble = Some("its segments do not follow each other".into());
        }
        logical.extents = start.checked_add(extents)?;
        logical.extents.checked_mul(group.extent).filter(|size| *size <= MAX_DISK_BYTES)?;
        let kind = segment.text("type").unwrap_or("unknown");
        let stripes = stripes(segment, members);
        if let (STRIPED, Some(stripes)) = (kind, &stripes) {
            let each = extents.div_ceil((stripes.len() as u64).max(1));
            for (member, first) in stripes {
                let end = first.checked_add(each)?;
                taken.push((*member, *first, end));
                if group.members.get(*member).is_none_or(|member| end > member.extents) {
                    logical.trouble = Some("it reaches beyond the end of a physical volume".into());
                }
            }
        }
        match (kind, stripes.as_deref()) {
            (STRIPED, Some([(member, first)])) => {
                logical.segments.push(Segment { member: *member, first: *first, extents });
            }
            (STRIPED, Some(stripes)) => {
                logical.trouble = Some(format!("it is striped over {} physical volumes", stripes.len()));
            }
            (STRIPED, None) => logical.trouble = Some("it lies on other logical volumes".into()),
            (kind, _) => logical.trouble = Some(format!("it is of LVM's type {kind}")),
        }
    }
    if logical.trouble.is_some() {
        logical.segments.clear();
    }
    Some(())
}

/// The members, and the first extent on each, that a segment lies on; `None` where it does not lie on members alone.
fn stripes(segment: &Section, members: &BTreeMap<String, usize>) -> Option<Vec<(usize, u64)>> {
    let Value::List(list) = segment.value("stripes")? else { return None };
    let (pairs, []) = list.as_chunks::<2>() else { return None };
    if pairs.is_empty() || segment.number("stripe_count") != Some(pairs.len() as u64) {
        return None;
    }
    let stripe = |pair: &[Value; 2]| match pair {
        [Value::Text(name), Value::Number(first)] => Some((*members.get(name)?, *first)),
        _ => None,
    };
    pairs.iter().map(stripe).collect()
}

/// Collects every name in a volume's segments that is no member's: that of another logical volume.
fn refer(volume: &Section, members: &BTreeMap<String, usize>, referred: &mut BTreeSet<String>) {
    for (_, segment) in volume.sections() {
        for value in segment.values() {
            let values = if let Value::List(list) = value { list.as_slice() } else { std::slice::from_ref(value) };
            for value in values {
                if let Value::Text(name) = value
                    && !members.contains_key(name)
                {
                    referred.insert(name.clone());
                }
            }
        }
    }
}
