//! Reading a descriptor.

use super::text::{self, Encoding, Line, Pair};
use super::{
    Descriptor, DescriptorError, ExtentAccess, ExtentKind, ExtentLine, MAX_DESCRIPTOR_BYTES, MAX_EXTENTS, NO_PARENT,
    names, sectors,
};
use failback_units::ByteCount;
use std::ops::Range;

impl Descriptor {
    /// Reads a descriptor. What follows the first zero byte is padding.
    ///
    /// # Errors
    ///
    /// When it is none, is too large, or says what cannot be or must not be.
    pub fn parse(bytes: &[u8]) -> Result<Self, DescriptorError> {
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        let bytes = &bytes[..end];
        if ByteCount::of_memory(bytes.len()).get() > MAX_DESCRIPTOR_BYTES {
            return Err(DescriptorError::TooLarge);
        }
        if !text::is_first_line(bytes) {
            return Err(DescriptorError::NotADescriptor);
        }
        let mut found = Found { encoding: encoding(bytes), ..Found::default() };
        for line in text::lines(bytes) {
            found.line(line)?;
        }
        found.finish(bytes)
    }
}

/// The encoding stands anywhere in the text, and holds for all of it.
fn encoding(bytes: &[u8]) -> Encoding {
    let pairs = text::lines(bytes).filter_map(|line| text::pair(line.text));
    let named = pairs.filter(|pair| pair.name.eq_ignore_ascii_case(b"encoding")).last();
    named.map_or_else(Encoding::default, |pair| Encoding::named(pair.value))
}

/// What was found so far.
#[derive(Default)]
struct Found {
    encoding: Encoding,
    version: Option<u32>,
    cid: Option<(u32, Range<usize>)>,
    parent_cid: Option<u32>,
    create_type: Option<String>,
    parent_hint: Option<String>,
    change_track: Option<String>,
    extents: Vec<ExtentLine>,
    uuid: Option<[u8; 16]>,
    adapter: Option<String>,
    hardware_version: Option<u32>,
}

fn wrong(line: Line<'_>, what: impl Into<String>) -> DescriptorError {
    DescriptorError::Line { number: line.number, what: what.into() }
}

/// Keeps a value that may be said only once: of two, nobody knows which another program believes.
fn once<T>(place: &mut Option<T>, line: Line<'_>, value: T) -> Result<(), DescriptorError> {
    if place.replace(value).is_some() {
        return Err(wrong(line, "says a second time what was said before"));
    }
    Ok(())
}

impl Found {
    fn line(&mut self, line: Line<'_>) -> Result<(), DescriptorError> {
        let trimmed = line.text.trim_ascii();
        if trimmed.is_empty() || trimmed.starts_with(b"#") {
            return Ok(());
        }
        if let Some(access) = extent_access(trimmed) {
            let extent = self.extent(line, access)?;
            self.extents.push(extent);
            if self.extents.len() > MAX_EXTENTS {
                return Err(wrong(line, format!("is one of more than {MAX_EXTENTS} extents")));
            }
            return Ok(());
        }
        match text::pair(line.text) {
            Some(pair) => self.pair(line, pair),
            // Somebody else's.
            None => Ok(()),
        }
    }

    fn pair(&mut self, line: Line<'_>, pair: Pair<'_>) -> Result<(), DescriptorError> {
        let is = |name: &str| pair.name.eq_ignore_ascii_case(name.as_bytes());
        let value = || self.encoding.decode(pair.value).ok_or_else(|| wrong(line, NOT_DECODED));
        if is("version") {
            let version = number(&value()?, 10).ok_or_else(|| wrong(line, "has no number as its version"))?;
            return once(&mut self.version, line, version);
        }
        if is("CID") {
            let cid = cid(&value()?).ok_or_else(|| wrong(line, NO_CID))?;
            let start = line.at + pair.value_at;
            return once(&mut self.cid, line, (cid, start..start + pair.value.len()));
        }
        if is("parentCID") {
            let cid = cid(&value()?).ok_or_else(|| wrong(line, NO_CID))?;
            return once(&mut self.parent_cid, line, cid);
        }
        let text = if is("createType") {
            &mut self.create_type
        } else if is("parentFileNameHint") {
            &mut self.parent_hint
        } else if is("changeTrackPath") {
            &mut self.change_track
        } else if is("ddb.adapterType") {
            &mut self.adapter
        } else if is("ddb.uuid") {
            let uuid = names::uuid(&value()?).ok_or_else(|| wrong(line, "has no UUID of 32 hexadecimal digits"))?;
            return once(&mut self.uuid, line, uuid);
        } else if is("ddb.virtualHWVersion") {
            self.hardware_version = number(&value()?, 10);
            return Ok(());
        } else {
            return Ok(());
        };
        let value = self.encoding.decode(pair.value).ok_or_else(|| wrong(line, NOT_DECODED))?;
        once(text, line, value)
    }

    fn extent(&self, line: Line<'_>, access: ExtentAccess) -> Result<ExtentLine, DescriptorError> {
        let (_, rest) = word(line.text);
        let (size, rest) = word(rest);
        let (kind, rest) = word(rest);
        let size = decimal(size).ok_or_else(|| wrong(line, "has no number of sectors"))?;
        let size = sectors(size).ok_or_else(|| wrong(line, "describes an extent larger than any disk"))?;
        let kind = extent_kind(kind)
            .ok_or_else(|| wrong(line, "describes an extent of a kind that is not known here, such as a raw device"))?;
        if kind == ExtentKind::Zero {
            return Ok(ExtentLine { access, size, kind, file: None, offset: 0 });
        }
        let (name, rest) = quoted(rest).ok_or_else(|| wrong(line, "has no file name in quotes"))?;
        let name = self.encoding.decode(name).ok_or_else(|| wrong(line, NOT_DECODED))?;
        if !names::is_plain(&name) {
            let name = name.escape_debug();
            return Err(wrong(
                line,
                format!("names the file \"{name}\", which is no plain name beside the descriptor"),
            ));
        }
        let (offset, _) = word(rest);
        let offset = match (offset.is_empty(), decimal(offset).and_then(sectors)) {
            (true, _) => 0,
            (false, Some(offset)) => offset.get(),
            (false, None) => return Err(wrong(line, "has no number of sectors as its offset")),
        };
        if offset != 0 && kind != ExtentKind::Flat {
            return Err(wrong(line, "gives an offset to an extent that is not flat"));
        }
        Ok(ExtentLine { access, size, kind, file: Some(name), offset })
    }

    fn finish(self, bytes: &[u8]) -> Result<Descriptor, DescriptorError> {
        let (cid, cid_at) = self.cid.ok_or(DescriptorError::Missing("CID="))?;
        let create_type = self.create_type.ok_or(DescriptorError::Missing("createType="))?;
        if self.extents.is_empty() {
            return Err(DescriptorError::Missing("that describes an extent"));
        }
        let parent_cid = self.parent_cid.unwrap_or(NO_PARENT);
        if parent_cid != NO_PARENT && self.parent_hint.is_none() {
            return Err(DescriptorError::Missing("parentFileNameHint=, although it has a parent"));
        }
        let mut capacity = ByteCount::ZERO;
        for extent in &self.extents {
            let contradiction = || DescriptorError::Contradiction("the extents are larger than any disk".into());
            capacity = capacity.checked_add(extent.size).ok_or_else(contradiction)?;
        }
        no_overlap(&self.extents)?;
        Ok(Descriptor {
            bytes: bytes.to_vec(),
            cid_at,
            cid,
            parent_cid,
            create_type,
            parent_hint: self.parent_hint,
            change_track: self.change_track,
            extents: self.extents,
            capacity,
            uuid: self.uuid,
            adapter: self.adapter,
            hardware_version: self.hardware_version,
        })
    }
}

const NO_CID: &str = "has no content ID of 1 to 8 hexadecimal digits";
const NOT_DECODED: &str = "has characters that the descriptor's encoding does not explain";

/// Two extents on the same bytes would be two places of the disk that change together.
fn no_overlap(extents: &[ExtentLine]) -> Result<(), DescriptorError> {
    let mut ends: Vec<(&str, u64, u64)> = extents
        .iter()
        .filter_map(|extent| {
            let end = match extent.kind {
                ExtentKind::Flat => extent.offset.saturating_add(extent.size.get()),
                _ => u64::MAX,
            };
            Some((extent.file.as_deref()?, extent.offset, end))
        })
        .collect();
    ends.sort_unstable();
    for pair in ends.windows(2) {
        if let [(name, _, end), (next_name, next_start, _)] = pair
            && name == next_name
            && next_start < end
        {
            let name = name.escape_debug();
            return Err(DescriptorError::Contradiction(format!("two extents lie on the same bytes of {name}")));
        }
    }
    Ok(())
}

pub(super) fn extent_access(line: &[u8]) -> Option<ExtentAccess> {
    let (word, rest) = word(line);
    // A pair whose name looks so is none; everything else that begins so is meant to be an extent.
    if rest.trim_ascii_start().starts_with(b"=") {
        return None;
    }
    if word.eq_ignore_ascii_case(b"RW") {
        Some(ExtentAccess::ReadWrite)
    } else if word.eq_ignore_ascii_case(b"RDONLY") {
        Some(ExtentAccess::ReadOnly)
    } else if word.eq_ignore_ascii_case(b"NOACCESS") {
        Some(ExtentAccess::None)
    } else {
        None
    }
}

fn extent_kind(word: &[u8]) -> Option<ExtentKind> {
    let kinds: [(&[u8], ExtentKind); 6] = [
        (b"FLAT", ExtentKind::Flat),
        (b"VMFS", ExtentKind::Flat),
        (b"SPARSE", ExtentKind::Sparse),
        (b"VMFSSPARSE", ExtentKind::Cowd),
        (b"SESPARSE", ExtentKind::SeSparse),
        (b"ZERO", ExtentKind::Zero),
    ];
    kinds.into_iter().find(|(name, _)| word.eq_ignore_ascii_case(name)).map(|(_, kind)| kind)
}

/// The first word of a text and what follows it.
fn word(text: &[u8]) -> (&[u8], &[u8]) {
    let text = text.trim_ascii_start();
    let end = text.iter().position(u8::is_ascii_whitespace).unwrap_or(text.len());
    text.split_at(end)
}

/// What stands in quotes at the beginning of a text, blanks included, and what follows it.
fn quoted(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = text.trim_ascii_start().strip_prefix(b"\"")?;
    let end = text.iter().position(|byte| *byte == b'"')?;
    Some((&text[..end], &text[end + 1..]))
}

fn decimal(word: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(word).ok().filter(|word| word.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok()
}

fn number(text: &str, radix: u32) -> Option<u32> {
    u32::from_str_radix(text, radix).ok().filter(|_| !text.starts_with('+'))
}

fn cid(text: &str) -> Option<u32> {
    number(text, 16).filter(|_| text.len() <= 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# Disk DescriptorFile\nversion=1\nCID=1a2b3c4d\nparentCID=ffffffff\n\
        createType=\"twoGbMaxExtentFlat\"\nunknown line\n\n# Extent description\n\
        RW 4192256 FLAT \"a disk-f001.vmdk\" 0\nRDONLY 100 ZERO\n RW 28 flat \"b.vmdk\" 2\n\n\
        ddb.uuid = \"60 00 C2 99 91 76 dd 77-6e 01 02 03 04 05 06 ff\"\nddb.adapterType = \"lsilogic\"\n";

    #[test]
    fn a_descriptor() {
        let found = Descriptor::parse(GOOD.replace('\n', "\r\n").as_bytes()).unwrap();
        assert_eq!((found.cid, found.parent_cid, found.has_parent()), (0x1a2b_3c4d, NO_PARENT, false));
        assert_eq!(found.extents[0].file.as_deref(), Some("a disk-f001.vmdk"));
        assert_eq!((found.extents[1].kind, found.extents[1].access), (ExtentKind::Zero, ExtentAccess::ReadOnly));
        assert_eq!(found.extents[2].offset, 1024);
        assert_eq!(found.capacity.get(), (4_192_256 + 128) * 512);
        assert_eq!(found.uuid.unwrap()[2], 0xc2);
        let (place, digits) = found.next_cid(0xffff_ffff);
        assert_eq!(&found.bytes()[place], b"1a2b3c4d");
        assert_eq!(digits, "00000001");
        let short = Descriptor::parse(GOOD.replace("1a2b3c4d", "7").as_bytes()).unwrap();
        assert_eq!(short.next_cid(0x17).1, "8");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let refused = |from: &str, to: &str, words: &str| {
            let error = Descriptor::parse(GOOD.replacen(from, to, 1).as_bytes()).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        };
        refused("# Disk", "# disc", "no VMDK descriptor");
        refused("CID=1a2b3c4d\n", "", "no line CID=");
        refused("1a2b3c4d", "1a2b3c4d0", "line 3");
        refused("1a2b3c4d", "+1", "line 3");
        refused("version=1", "CID=1", "a second time");
        refused("parentCID=ffffffff", "parentCID=00000001", "parentFileNameHint");
        refused("b.vmdk", "../../../../etc/passwd", "no plain name");
        refused("b.vmdk", "/etc/passwd", "no plain name");
        refused("b.vmdk", "a disk-f001.vmdk", "same bytes");
        refused("4192256", "99999999999999999999", "number of sectors");
        refused("4192256", "9223372036854775807", "larger than any disk");
        refused("4192256", "18014398509481983", "larger than any disk");
        refused("FLAT", "FULLDEVICE", "of a kind");
        refused("ff\"", "f\"", "UUID");
        refused("RW 28", "RW x28", "number of sectors");
    }
}
