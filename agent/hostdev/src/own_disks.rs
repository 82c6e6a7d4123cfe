//! `/etc/failback/own-disks`: which disks are the machine's own.
//!
//! `apply-custom-changes` refuses the same lines, in `own-disks.sh`; `tests/tests/disk_names` holds both to one table. It refuses more: the
//! role `job`, which only the live system records, and a list without a system disk, since it runs on installed systems only.

use std::io;

use crate::plain_file::{Links, read_plain_file};
use crate::topology::Host;
use crate::vpd::ScsiUuid;

/// Where this file is, all other disks are guarded.
pub(crate) const OWN_DISKS: &str = "/etc/failback/own-disks";
/// A line for each disk that a machine can have, many times over. In bytes.
const MOST_BYTES: u64 = 64 << 10;
/// What a machine can have a disk for. The live system has `job` for the disk with the script that it runs, while it does.
const ROLES: [&str; 3] = ["system", "retention", "job"];
/// As much of a word is shown in a message, in bytes.
const MOST_SHOWN: usize = 64;

/// One of the machine's own disks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnDisk {
    pub(crate) role: String,
    pub(crate) wwid: String,
    /// The same, where it is a SCSI UUID: that stays what it is whether the kernel makes a WWID of it or not.
    pub(crate) uuid: Option<ScsiUuid>,
}

impl OwnDisk {
    fn is_also(&self, other: &Self) -> bool {
        self.wwid == other.wwid || self.uuid.is_some() && self.uuid == other.uuid
    }
}

/// The recorded disks; `None` only if nothing has the file's name. A line that is not understood is an error: an own disk that is
/// overlooked is one that is overwritten.
pub(crate) fn recorded(host: &Host) -> io::Result<Option<Vec<OwnDisk>>> {
    let bytes = read_plain_file(&host.path(OWN_DISKS), MOST_BYTES, Links::Refused)?;
    bytes.map(|bytes| parse(&bytes)).transpose()
}

fn parse(bytes: &[u8]) -> io::Result<Vec<OwnDisk>> {
    let mut found: Vec<OwnDisk> = Vec::new();
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let wrong = |why: String| io::Error::new(io::ErrorKind::InvalidData, format!("line {} {why}", index + 1));
        let Some(own) = own_disk(line).map_err(wrong)? else { continue };
        if found.iter().any(|other| other.is_also(&own)) {
            return Err(wrong(format!("names {} once more: remove one of the two", shown(&own.wwid))));
        }
        found.push(own);
    }
    Ok(found)
}

/// What a line `ROLE WWID` names; a WWID may hold blanks. Where a disk has none, its SCSI UUID stands in its place.
fn own_disk(line: &[u8]) -> Result<Option<OwnDisk>, String> {
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'~' | b'\t');
    let text = str::from_utf8(line).ok().filter(|_| line.iter().all(is_plain));
    let text = text
        .ok_or("holds a character that is no plain text: write it again, with LF at its end and nothing before it")?;
    let text = text.trim();
    let (role, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    if role.is_empty() || role.starts_with('#') {
        return Ok(None);
    }
    if !ROLES.contains(&role) {
        return Err(format!("begins with '{}', which is neither system nor retention: correct that word", shown(role)));
    }
    // A serial number may have such a sign in it; a comment has a blank before it.
    let wwid = [" #", "\t#"].iter().filter_map(|sign| rest.find(sign)).min().map_or(rest, |at| &rest[..at]);
    let wwid = single_spaced(wwid);
    let uuid = wwid.parse().ok();
    if !is_wwid(&wwid) && (uuid.is_none() || !is_plain_uuid(&wwid)) {
        return Err(format!(
            "names '{}', which is neither a WWID of the kernel's nor a SCSI UUID: write what failback disks --json tells",
            shown(&wwid)
        ));
    }
    Ok(Some(OwnDisk { role: role.to_owned(), uuid, wwid }))
}

/// As much of plain text as a message has room for.
fn shown(text: &str) -> &str {
    text.get(..MOST_SHOWN).unwrap_or(text)
}

/// Whether a text has the form of a WWID: one of those that Linux makes for SCSI (`scsi_vpd_lun_id`) and `NVMe` (`wwid_show`), or
/// what stands for one with virtio. Only where vendors put names and serial numbers in it may it have blanks.
pub(crate) fn is_wwid(text: &str) -> bool {
    const FORMS: [&str; 5] = ["naa.", "eui.", "iqn.", "uuid.", "nvme."];
    const WITH_BLANKS: [&str; 2] = ["t10.", "virtio-"];
    let is_behind = |forms: &[&str], unwanted: fn(&str) -> bool| {
        let rest = forms.iter().find_map(|form| text.strip_prefix(form));
        rest.is_some_and(|rest| !rest.is_empty() && !unwanted(rest))
    };
    is_behind(&FORMS, |rest| rest.contains(' ')) || is_behind(&WITH_BLANKS, |rest| rest.starts_with(' '))
}

/// Whether a text that is a SCSI UUID is written without what tools put before it: other readers of the file know no such form.
fn is_plain_uuid(text: &str) -> bool {
    text.chars().filter(|c| !matches!(c, ' ' | '-')).count() == 32
}

/// Names of the form `t10` are padded with blanks, which are easily lost where they are copied.
pub(crate) fn single_spaced(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_every_shape() {
        let text = "# the disks of this machine\n\nsystem naa.6000c291\n  retention\tt10.ATA     QEMU  HARDDISK\t# big #1\n \
                    \t # indented\nretention virtio-a#1\njob eui.1";
        let own = parse(text.as_bytes()).unwrap();
        let words: Vec<_> = own.iter().map(|own| (&*own.role, &*own.wwid)).collect();
        let retention = [("retention", "t10.ATA QEMU HARDDISK"), ("retention", "virtio-a#1")];
        assert_eq!(words, [&[("system", "naa.6000c291")], &retention[..], &[("job", "eui.1")]].concat());
        assert_eq!(parse(b"").unwrap(), []);
    }

    #[test]
    fn what_is_not_understood_is_named_by_its_line() {
        for (wrong, why) in [
            (&b"naa.6000c291"[..], "begins with 'naa.6000c291', which is neither system nor retention"),
            (b"systm naa.1", "begins with 'systm'"),
            (b"Retention naa.1", "begins with 'Retention'"),
            (b"system", "names ''"),
            (b"system naa.1 retention", "names 'naa.1 retention', which is neither a WWID"),
            (b"system wwn-0x6000c2999176dd776e0123456789abcd", "names 'wwn-0x"),
            (b"\xef\xbb\xbfsystem naa.1", "holds a character that is no plain text"),
            (b"system naa.1\r", "no plain text"),
            (b"system naa.1\x1b[2J", "no plain text"),
            (b"system naa.1\0", "no plain text"),
            (b"# \xff", "no plain text"),
            (b"retention naa.2", "names naa.2 once more"),
        ] {
            let error = parse(&[b"system naa.2\n", wrong, b"\n"].concat()).unwrap_err();
            let text = error.to_string();
            assert!(text.starts_with("line 2 ") && text.contains(why) && text.contains(": "), "{text}");
            assert!(!text.contains(|c: char| c.is_control()), "{text}");
        }
        let long = parse(&[b"system naa.", &[b'x'; 9000][..], b" y"].concat()).unwrap_err();
        assert!(long.to_string().len() < 250, "{long}");
    }
}
