//! From a volume to the LVM2 label on it, and to the texts that are in force.
//!
//! The texts of the past stay in the ring, whole and with right checksums. So nothing is ever searched for: a text counts
//! because a header with a right checksum points to it.

use super::layout::{
    AREA_CRC_FROM, AREA_HEADER, AREA_MAGIC, AREA_VERSION, CRC_INITIAL, LABEL_CRC_FROM, LABEL_ID, LABEL_KIND,
    LABEL_SECTORS, LOCATION_IGNORED, RawArea, RawAreaHeader, RawLabel, RawLocation, RawPhysicalVolume, SECTOR,
};
use crate::crc32::remainder;
use crate::volume::bytes;
use crate::{ReadError, Unclear, Volume};
use std::collections::VecDeque;
use zerocopy::FromBytes;

/// The longest text that is read. LVM needs some 400 bytes for a logical volume, and its default area is 1 MiB.
const TEXT_MAX: u64 = 8 << 20;
/// Areas of one kind; LVM makes at most one data area and two for metadata.
const AREAS_MAX: usize = 4;

/// A physical volume as its label describes it.
#[derive(Debug)]
pub(crate) struct Label {
    /// 32 letters and digits.
    pub(crate) uuid: String,
    /// In bytes; 0 where it does not say.
    pub(crate) size: u64,
    /// Where the data begins, in bytes.
    pub(crate) data_at: u64,
    /// The metadata areas: first byte and the byte behind.
    pub(crate) areas: Vec<(u64, u64)>,
    /// The text of each area that is kept up to date.
    pub(crate) texts: Vec<Vec<u8>>,
}

/// What a label led to.
pub(crate) type Labelled = Result<Label, Unclear>;

/// The LVM2 physical volume on a volume, or `None` where there is no label.
pub(crate) fn read(volume: &dyn Volume) -> Result<Option<Labelled>, ReadError> {
    let mut found = None;
    for sector in 0..LABEL_SECTORS {
        let read = match bytes(volume, sector * SECTOR, 512) {
            Ok(read) => read,
            Err(ReadError::Beyond) => break,
            Err(error) => return Err(error),
        };
        if read.starts_with(&LABEL_ID) && found.replace((sector, read)).is_some() {
            return Ok(Some(Err(Unclear::because("it has more than one LVM label"))));
        }
    }
    let Some((sector, read)) = found else { return Ok(None) };
    Ok(Some(label(volume, sector, &read)))
}

fn damaged() -> Unclear {
    Unclear::because("its LVM label is damaged")
}

fn label(volume: &dyn Volume, sector: u64, read: &[u8]) -> Labelled {
    let (label, _) = RawLabel::read_from_prefix(read).map_err(|_| damaged())?;
    let covered = read.get(LABEL_CRC_FROM..).ok_or_else(damaged)?;
    if label.sector.get() != sector || remainder(CRC_INITIAL, covered) != label.crc.get() {
        return Err(damaged());
    }
    if label.kind != LABEL_KIND {
        return Err(Unclear::because("its LVM label is of an unknown kind"));
    }
    let header = usize::try_from(label.header_at.get()).ok().and_then(|at| read.get(at..)).ok_or_else(damaged)?;
    let (header, lists) = RawPhysicalVolume::read_from_prefix(header).map_err(|_| damaged())?;
    let (data, lists) = areas(lists)?;
    let (metadata, _) = areas(lists)?;
    let [data] = data.as_slice() else {
        return Err(Unclear::because("its LVM label does not name one place for data"));
    };
    let uuid =
        String::from_utf8(header.uuid.to_vec()).ok().filter(|uuid| uuid.bytes().all(|c| c.is_ascii_alphanumeric()));
    let mut found = Label {
        uuid: uuid.ok_or_else(damaged)?,
        size: header.size.get(),
        data_at: data.at.get(),
        areas: Vec::new(),
        texts: Vec::new(),
    };
    for area in metadata {
        let (from, size) = (area.at.get(), area.size.get());
        found.areas.push((from, from.checked_add(size).ok_or_else(damaged)?));
        found.texts.extend(text(volume, from, size)?);
    }
    Ok(found)
}

/// A list of areas up to its end, and what is behind.
fn areas(mut list: &[u8]) -> Result<(Vec<RawArea>, &[u8]), Unclear> {
    let mut areas = Vec::new();
    loop {
        let (area, rest) = RawArea::read_from_prefix(list).map_err(|_| damaged())?;
        list = rest;
        if area.at.get() == 0 {
            return Ok((areas, list));
        }
        areas.push(area);
        if areas.len() > AREAS_MAX {
            return Err(damaged());
        }
    }
}

/// The text that is in force in a metadata area; `None` where there is none, or where it is not kept up to date.
fn text(volume: &dyn Volume, from: u64, size: u64) -> Result<Option<Vec<u8>>, Unclear> {
    let damaged = || Unclear::because("an LVM metadata area of it is damaged");
    let read = bytes(volume, from, size_of::<RawAreaHeader>())?;
    let header = RawAreaHeader::read_from_bytes(&read).map_err(|_| damaged())?;
    let fits = header.magic == AREA_MAGIC && header.start.get() == from && header.size.get() == size;
    if !fits || remainder(CRC_INITIAL, &read[AREA_CRC_FROM..]) != header.crc.get() || size <= AREA_HEADER {
        return Err(damaged());
    }
    if header.version.get() != AREA_VERSION {
        return Err(Unclear::because("an LVM metadata area of it has an unknown version"));
    }
    if header.precommitted.at.get() != 0 {
        return Err(Unclear::because("a change of its LVM metadata was begun and not finished"));
    }
    let location = header.committed;
    if location.flags.get() & !LOCATION_IGNORED != 0 {
        return Err(Unclear::because("an LVM metadata area of it has an unknown flag"));
    }
    if location.at.get() == 0 || location.flags.get() == LOCATION_IGNORED {
        return Ok(None);
    }
    let text = ring(volume, from, size, &location)?;
    if remainder(CRC_INITIAL, &text) != location.crc.get() {
        return Err(Unclear::because("the checksum of its LVM metadata is wrong"));
    }
    Ok(Some(text))
}

/// A text out of the ring of an area of `size` bytes.
fn ring(volume: &dyn Volume, from: u64, size: u64, location: &RawLocation) -> Result<Vec<u8>, Unclear> {
    let damaged = || Unclear::because("its LVM metadata lies outside of its area");
    let (at, len) = (location.at.get(), location.size.get());
    if len > TEXT_MAX {
        return Err(Unclear::because(format!("its LVM metadata has {len} bytes, more than is supported")));
    }
    if at < AREA_HEADER || at >= size || len == 0 || len > size - AREA_HEADER {
        return Err(damaged());
    }
    let first = len.min(size - at);
    let mut pieces = VecDeque::from([(at, first)]);
    if len > first {
        pieces.push_back((AREA_HEADER, len - first));
    }
    let mut text = Vec::new();
    for (at, len) in pieces {
        let at = from.checked_add(at).ok_or_else(damaged)?;
        text.extend(bytes(volume, at, usize::try_from(len).map_err(|_| damaged())?)?);
    }
    Ok(text)
}
