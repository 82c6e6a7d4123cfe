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
use std::sync::Arc;

/// All different texts of all disks together, in bytes.
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
    if plain.len() != GROUPS.iter().sum::<usize>() || !plain.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
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

/// Keeps the texts of many physical volumes: usually all of a group have the same.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    kept: BTreeSet<Arc<[u8]>>,
    bytes: usize,
}

impl Texts {
    /// Puts what is kept already in place of texts that are equal to it; `false` if they are too many for us.
    pub(crate) fn keep(&mut self, texts: &mut [Arc<[u8]>]) -> bool {
        for text in texts {
            if let Some(same) = self.kept.get(text) {
                *text = Arc::clone(same);
            } else {
                self.bytes = self.bytes.saturating_add(text.len());
                if self.bytes > TEXTS_MAX {
                    return false;
                }
                self.kept.insert(Arc::clone(text));
            }
        }
        true
    }
}

/// Brings physical volumes of all disks together.
pub(crate) fn assemble(found: &[Found]) -> Assembled {
    let heads = heads(found);
    let moments = moments(found, &heads);
    let mut states = BTreeMap::<&str, BTreeMap<u64, Vec<&[u8]>>>::new();
    for (text, head) in &heads {
        if let Some((id, seqno)) = head {
            states.entry(id).or_default().entry(*seqno).or_default().push(text);
        }
    }
    let mut groups = Vec::new();
    for (id, states) in states {
        let mut older = states.len() - 1;
        let Some((_, newest)) = states.into_iter().next_back() else { continue };
        let Some(mut group) = newest.first().and_then(|text| group::read(text)) else { continue };
        if newest.len() > 1 {
            group.trouble = Some("the copies of its LVM metadata contradict each other".into());
        }
        if let Some(trouble) = moments.get(id).and_then(apart) {
            (group.trouble, older) = (Some(trouble), 0);
        }
        groups.push((group, older));
    }
    let mut owners = BTreeMap::<&str, Vec<usize>>::new();
    for (index, (group, _)) in groups.iter().enumerate() {
        group.members.iter().for_each(|member| owners.entry(&member.uuid).or_default().push(index));
    }
    let membership: Vec<_> = found.iter().map(|found| membership(found, &owners, &heads)).collect();
    drop(owners);
    let lay = |(index, (group, older))| laid(index, group, found, &membership, older);
    let groups = groups.into_iter().enumerate().map(lay).collect();
    Assembled { membership, groups }
}

/// Which group each text describes, and which of its states; `None` for what is no text of a group.
type Heads<'a> = BTreeMap<&'a [u8], Option<(String, u64)>>;

fn heads(found: &[Found]) -> Heads<'_> {
    let mut heads = Heads::new();
    for text in found.iter().flat_map(|found| &found.label.texts) {
        heads.entry(text).or_insert_with(|| group::head(text));
    }
    heads
}

/// The states in which physical volumes left each group, one for each of them: LVM changes all of them together.
///
/// Two metadata areas of one physical volume may differ, since they are written one after the other; the newer one counts.
fn moments<'a>(found: &[Found], heads: &'a Heads) -> BTreeMap<&'a str, BTreeSet<u64>> {
    let mut moments = BTreeMap::<_, BTreeSet<u64>>::new();
    for found in found {
        let mut newest = BTreeMap::new();
        for (id, seqno) in found.label.texts.iter().filter_map(|text| heads.get(text.as_ref())?.as_ref()) {
            let newest = newest.entry(id.as_str()).or_insert(*seqno);
            *newest = (*newest).max(*seqno);
        }
        for (id, seqno) in newest {
            moments.entry(id).or_default().insert(seqno);
        }
    }
    moments
}

/// Why physical volumes in these states make no group. Where the logical volumes lay is known then; but what lies there now is
/// of two moments, and the map of one half is none for the other.
fn apart(moments: &BTreeSet<u64>) -> Option<String> {
    let (oldest, newest) = (moments.first()?, moments.last()?);
    (oldest != newest).then(|| {
        format!(
            "its disks are not of one moment: the LVM metadata of one has seqno {oldest}, that of another has {newest}"
        )
    })
}

/// Which group a physical volume belongs to.
fn membership(found: &Found, owners: &BTreeMap<&str, Vec<usize>>, heads: &Heads) -> Result<usize, Unclear> {
    if found.label.texts.iter().any(|text| heads.get(text.as_ref()).is_none_or(Option::is_none)) {
        return Err(Unclear::because("its LVM metadata is not understood"));
    }
    match owners.get(found.label.uuid.as_str()).map(Vec::as_slice) {
        Some([group]) => Ok(*group),
        Some(_) => Err(Unclear::because("its volume group, or another one, claims it twice")),
        None if found.label.texts.is_empty() => {
            Err(Unclear::because("no metadata that was found says which volume group it belongs to"))
        }
        None => Err(Unclear::because("its volume group does not know it")),
    }
}

/// Lays the logical volumes of a group onto the disks. `index` is its place among the groups.
fn laid(
    index: usize,
    group: Group,
    found: &[Found],
    membership: &[Result<usize, Unclear>],
    older: usize,
) -> VolumeGroup {
    let place = |member: &group::Member| {
        let place = place(member, &group, found)?;
        match membership.get(place) {
            Some(Ok(owner)) if *owner == index => Ok(place),
            _ => Err(Unclear::because("it is unclear to which group a physical volume of it belongs")),
        }
    };
    let members: Vec<Result<usize, Unclear>> = group.members.iter().map(place).collect();
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
        return Err(Unclear::because("a part of it lies on a disk that was not given, or is damaged"));
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

#[cfg(test)]
mod tests {
    use super::*;

    const EXTENT: u64 = 1 << 20;

    /// The text of a group with the members `pv0` to `pvN`, and a volume of one extent at the start of `pv0`.
    fn text(id: &str, seqno: u64, members: &[&str]) -> Arc<[u8]> {
        let member = |(number, uuid): (usize, &&str)| {
            format!("pv{number} {{ id = \"{uuid}\" status = [\"ALLOCATABLE\"] pe_start = 2048 pe_count = 3 }}")
        };
        let members: Vec<_> = members.iter().enumerate().map(member).collect();
        let text = format!(
            "vg {{ id = \"{id}\" seqno = {seqno} status = [\"READ\"] extent_size = 2048 physical_volumes {{ {} }}\n\
             logical_volumes {{ lv {{ id = \"l\" status = [\"READ\", \"VISIBLE\"] segment_count = 1 segment1 {{\n\
             start_extent = 0 extent_count = 1 type = \"striped\" stripe_count = 1 stripes = [\"pv0\", 0] }} }} }} }}\n\
             contents = \"Text Format Volume Group\" version = 1\n",
            members.join(" ")
        );
        text.as_bytes().into()
    }

    /// A physical volume of four extents on its disk, behind another one.
    fn found(uuid: &str, disk: usize, texts: &[Arc<[u8]>]) -> Found {
        let start = ByteOffset::new(EXTENT).unwrap();
        let on_disk = ByteRange::new(start, ByteCount::new(4 * EXTENT).unwrap()).unwrap();
        let (data_at, areas, texts) = (EXTENT, vec![(4096, EXTENT)], texts.to_vec());
        let label = Label { uuid: uuid.into(), size: 4 * EXTENT, data_at, areas, texts };
        Found { place: Piece { disk, on_disk }, label }
    }

    /// Where the first volume of each group lies: the disk and the first byte, or why that is unclear.
    fn laid(found: &[Found]) -> Vec<Result<(usize, u64), String>> {
        let first = |group: VolumeGroup| match &group.volumes[0].pieces {
            Ok(pieces) => Ok((pieces[0].disk, pieces[0].on_disk.start().get())),
            Err(reason) => Err(reason.to_string()),
        };
        assemble(found).groups.into_iter().map(first).collect()
    }

    #[test]
    fn a_volume_lies_where_its_physical_volume_does() {
        let text = text("g", 1, &["a", "b"]);
        let both = [found("b", 0, &[]), found("a", 7, &[Arc::clone(&text)])];
        assert_eq!(laid(&both), [Ok((7, 2 * EXTENT))]);
        assert_eq!(assemble(&both).membership.into_iter().collect::<Result<Vec<_>, _>>(), Ok(vec![0, 0]));
        assert!(laid(&both[..1]).is_empty());
    }

    #[test]
    fn who_belongs_where_must_be_clear() {
        let [one, two] = [text("g", 1, &["a"]), text("h", 1, &["a"])];
        let claimed = laid(&[found("a", 0, &[Arc::clone(&one), two])]);
        assert!(claimed.len() == 2 && claimed.iter().all(|laid| laid.as_ref().is_err_and(|it| it.contains("unclear"))));
        let twice = laid(&[found("a", 0, &[text("g", 1, &["a", "a"])])]);
        assert!(twice[0].as_ref().is_err_and(|it| it.contains("unclear")), "{twice:?}");
        let broken = laid(&[found("a", 0, &[Arc::clone(&one), b"vg {".as_slice().into()])]);
        assert!(broken[0].as_ref().is_err_and(|it| it.contains("unclear")), "{broken:?}");
        let copied = laid(&[found("a", 0, &[Arc::clone(&one)]), found("a", 1, &[one])]);
        assert!(copied[0].as_ref().is_err_and(|it| it.contains("found twice")), "{copied:?}");
    }

    #[test]
    fn the_newest_state_of_a_physical_volume_counts_if_there_is_only_one() {
        let [old, new] = [text("g", 8, &["b"]), text("g", 9, &["a", "b"])];
        let other = text("g", 9, &["b", "a"]);
        let both = |one: &Arc<[u8]>, two: &Arc<[u8]>| {
            let twice = found("a", 0, &[Arc::clone(one), Arc::clone(two)]);
            laid(&[twice, found("b", 1, &[Arc::clone(&new)])]).remove(0)
        };
        assert_eq!(both(&old, &new), Ok((0, 2 * EXTENT)));
        assert_eq!(both(&new, &old), Ok((0, 2 * EXTENT)));
        assert!(both(&other, &new).is_err_and(|reason| reason.contains("contradict")));
    }

    #[test]
    fn disks_of_two_moments_make_no_group() {
        let [old, new, elsewhere] = [text("g", 8, &["a", "b"]), text("g", 9, &["a", "b"]), text("h", 3, &["c"])];
        let with = |one: &[&Arc<[u8]>], two: &[&Arc<[u8]>]| {
            let texts = |texts: &[&Arc<[u8]>]| texts.iter().map(|text| Arc::clone(text)).collect::<Vec<_>>();
            let (one, two) = (found("a", 0, &texts(one)), found("b", 1, &texts(two)));
            laid(&[one, two, found("c", 2, &[Arc::clone(&elsewhere)])])
        };
        let is_apart = |laid: &[Result<(usize, u64), String>]| {
            let words = "not of one moment: the LVM metadata of one has seqno 8, that of another has 9";
            // The other group is none of it.
            assert_eq!(laid[1], Ok((2, 2 * EXTENT)));
            laid[0].as_ref().is_err_and(|reason| reason.contains(words))
        };
        assert!(is_apart(&with(&[&old], &[&new])) && is_apart(&with(&[&new], &[&old])));
        assert!(is_apart(&with(&[&old, &new], &[&old])));
        // The same disk twice, of two moments, beside one that keeps no metadata.
        let copies = [found("a", 0, &[Arc::clone(&old)]), found("a", 1, &[Arc::clone(&new)]), found("b", 2, &[])];
        assert!(laid(&copies)[0].is_err());
        for (one, two) in [(&[&new][..], &[&new][..]), (&[&new], &[]), (&[], &[&new]), (&[&old, &new], &[&new, &old])] {
            assert_eq!(with(one, two)[0], Ok((0, 2 * EXTENT)));
        }
    }

    #[test]
    fn label_and_metadata_must_agree() {
        let with = |change: fn(&mut Found)| {
            let mut found = found("a", 0, &[text("g", 1, &["a"])]);
            change(&mut found);
            laid(&[found]).remove(0)
        };
        assert!(with(|_| {}).is_ok());
        assert!(with(|found| found.label.data_at += 512).is_err());
        assert!(with(|found| found.label.areas.push((3 * EXTENT, 4 * EXTENT))).is_err());
        assert!(with(|found| found.label.size += 1).is_err());
        let shorter = |found: &mut Found| {
            let (start, count) = (found.place.on_disk.start(), ByteCount::new(4 * EXTENT - 1).unwrap());
            found.place.on_disk = ByteRange::new(start, count).unwrap();
            found.label.size = 0;
        };
        assert!(with(shorter).is_err());
    }

    #[test]
    fn texts_are_kept_once_and_not_without_end() {
        let mut texts = Texts::default();
        let large: Arc<[u8]> = vec![1; TEXTS_MAX / 2 + 1].into();
        let copy: Arc<[u8]> = large.to_vec().into();
        let mut both = [Arc::clone(&large), copy];
        assert!(texts.keep(&mut both) && Arc::ptr_eq(&both[0], &both[1]));
        assert!(!texts.keep(&mut [vec![2; TEXTS_MAX / 2].into()]));
    }

    #[test]
    fn uuids_have_the_dashes_of_lvm() {
        assert_eq!(uuid("mxTFpSJb7I17GoDNeA6hS8ffBsNiDWvq"), "mxTFpS-Jb7I-17Go-DNeA-6hS8-ffBs-NiDWvq");
        for (hostile, shown) in [
            ("a\u{1b}", "a\\u{1b}"),
            ("mxTFpSJb7I17GoDNeA6hS8ffBsNiDWv\u{14}", "mxTFpSJb7I17GoDNeA6hS8ffBsNiDWv\\u{14}"),
        ] {
            assert_eq!(uuid(hostile), shown);
        }
    }
}
