//! Which disk it is: the SCSI identity that a hypervisor gives to a virtual disk.
//!
//! VMware shows a disk's UUID only when the VM has `disk.EnableUUID = TRUE`. It is then the 16-byte NAA designator on VPD
//! page 0x83; page 0x80 (the serial number) has the same 32 hex digits. The pages are parsed from bytes that the disk
//! itself supplied, so that nothing in them is believed: not a length, not an order, not a character.

use std::fmt;
use std::str::FromStr;

/// The UUID of a SCSI disk: 32 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScsiUuid([u8; 16]);

/// Why a text is not a SCSI UUID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScsiUuidError {
    /// It has 16 digits, the length of an 8-byte name.
    #[error(
        "\"{}\" is only half of a disk UUID, and two disks of one VM may share it: give all 32 hex digits that `failback disks` \
         shows",
        text.escape_debug()
    )]
    Half {
        /// What was given.
        text: String,
    },
    /// It is none at all.
    #[error(
        "\"{}\" is not a disk UUID: give the 32 hex digits that `failback disks` shows, or the value of ddb.uuid in the VMDK",
        text.escape_debug()
    )]
    NotAUuid {
        /// What was given.
        text: String,
    },
}

impl ScsiUuid {
    /// The UUID of these 16 bytes; `None` where all are equal, as an erased or unset identity is.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Option<Self> {
        bytes.iter().any(|byte| *byte != bytes[0]).then_some(Self(bytes))
    }

    /// Whether VMware made it: an NAA name of type 6 with VMware's company id, 00:0c:29, that begins with `6000c29`.
    #[must_use]
    pub const fn is_vmware(&self) -> bool {
        matches!(self.0, [0x60, 0x00, 0xc2, low, ..] if low >> 4 == 0x9)
    }

    /// Its 16 bytes, the most significant first.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The UUID on VPD page 0x83, device identification, as read from the disk with its header (SPC-4, 7.8.6).
    ///
    /// It is the first designator of the logical unit that is an IEEE registered extended NAA name: binary, 16 bytes,
    /// first digit 6. The 8-byte names are none: two disks of one VM may share their leading half.
    #[must_use]
    pub fn from_page_83(page: &[u8]) -> Option<Self> {
        const BINARY: u8 = 1;
        const NAA: u8 = 3;
        const REGISTERED_EXTENDED: u8 = 6;
        let mut rest = page_body(page, 0x83)?;
        while let [code_set, kind, _, length, after @ ..] = rest {
            let designator = after.get(..usize::from(*length))?;
            rest = &after[designator.len()..];
            let of_logical_unit = kind & 0x30 == 0;
            if of_logical_unit && code_set & 0x0f == BINARY && kind & 0x0f == NAA && designator.len() == 16 {
                let bytes: [u8; 16] = designator.try_into().ok()?;
                if bytes[0] >> 4 == REGISTERED_EXTENDED {
                    return Self::from_bytes(bytes);
                }
            }
        }
        None
    }

    /// The UUID on VPD page 0x80, unit serial number, as read from the disk with its header (SPC-4, 7.8.15).
    ///
    /// Only a serial number of exactly 32 hex digits is one; blanks around it are padding.
    #[must_use]
    pub fn from_page_80(page: &[u8]) -> Option<Self> {
        let serial = page_body(page, 0x80)?;
        let serial = serial.strip_suffix(b"\0").unwrap_or(serial).trim_ascii();
        Self::from_digits(serial.iter().copied())
    }

    fn from_digits(digits: impl Iterator<Item = u8>) -> Option<Self> {
        let mut bytes = [0_u8; 16];
        let mut count = 0;
        for digit in digits {
            let value = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                b'A'..=b'F' => digit - b'A' + 10,
                _ => return None,
            };
            let byte = bytes.get_mut(count / 2)?;
            *byte = *byte << 4 | value;
            count += 1;
        }
        if count == 32 { Self::from_bytes(bytes) } else { None }
    }
}

/// What follows the four bytes of header, cut to the length that the header states.
///
/// The kernel may store fewer bytes than stated; then what there is counts.
fn page_body(page: &[u8], code: u8) -> Option<&[u8]> {
    match page {
        [_, found, high, low, body @ ..] if *found == code => {
            let stated = usize::from(u16::from_be_bytes([*high, *low]));
            Some(&body[..stated.min(body.len())])
        }
        _ => None,
    }
}

impl fmt::Display for ScsiUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ScsiUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScsiUuid({self})")
    }
}

impl FromStr for ScsiUuid {
    type Err = ScsiUuidError;

    /// Accepts 32 hex digits, in upper or lower case, as they are found by an administrator:
    ///
    /// - alone, or behind `naa.` (ESXi), `wwn-0x` or `0x` (udev, multipath), `scsi-3` or `3` (udev, `scsi_id`);
    /// - in pairs or groups with single blanks or hyphens between them: VMware's `60 00 C2 99 91 76 dd 77-6e …`.
    fn from_str(text: &str) -> Result<Self, ScsiUuidError> {
        let lower = text.trim().to_ascii_lowercase();
        let digits = match PREFIXES.iter().find_map(|prefix| lower.strip_prefix(prefix)) {
            Some(rest) => rest.to_owned(),
            None => match lower.strip_prefix(NAA_DESIGNATOR) {
                Some(rest) if rest.len() == DIGITS || rest.len() == DIGITS / 2 => rest.to_owned(),
                _ => without_separators(&lower).unwrap_or_default(),
            },
        };
        match Self::from_digits(digits.bytes()) {
            Some(uuid) => Ok(uuid),
            None if digits.len() == DIGITS / 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()) => {
                Err(ScsiUuidError::Half { text: text.to_owned() })
            }
            None => Err(ScsiUuidError::NotAUuid { text: text.to_owned() }),
        }
    }
}

/// How many hex digits a UUID has.
const DIGITS: usize = 32;
/// What tools write before the digits.
const PREFIXES: [&str; 4] = ["naa.", "wwn-0x", "0x", "scsi-3"];
/// What `scsi_id` and multipath write before them: the type of the designator, which is NAA.
const NAA_DESIGNATOR: &str = "3";

/// Takes single blanks and hyphens out that stand between pairs of digits; `None` where one stands elsewhere.
fn without_separators(text: &str) -> Option<String> {
    let mut digits = String::with_capacity(text.len());
    let mut after_pair = false;
    for c in text.chars() {
        if !matches!(c, ' ' | '-') {
            digits.push(c);
            after_pair = digits.len().is_multiple_of(2);
        } else if !std::mem::take(&mut after_pair) {
            return None;
        }
    }
    (!text.ends_with([' ', '-'])).then_some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "6000c2999176dd776e0123456789abcd";
    const NAA: [u8; 16] = [0x60, 0, 0xc2, 0x99, 0x91, 0x76, 0xdd, 0x77, 0x6e, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd];

    fn page(code: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&[0, code, length[0], length[1]], body].concat()
    }

    fn designator(code_set: u8, kind: u8, bytes: &[u8]) -> Vec<u8> {
        [&[code_set, kind, 0, u8::try_from(bytes.len()).unwrap()], bytes].concat()
    }

    #[test]
    fn the_extended_name_is_found_behind_others() {
        let body = [
            designator(2, 1, b"VMware  some text"),
            designator(1, 3, &[0x50, 0, 0xc2, 0x99, 1, 2, 3, 4]),
            designator(1, 0x13, &[0x66; 16]),
            designator(1, 3, &NAA),
        ]
        .concat();
        assert_eq!(ScsiUuid::from_page_83(&page(0x83, &body)).unwrap().to_string(), UUID);
    }

    #[test]
    fn what_is_not_a_16_byte_name_of_the_logical_unit_is_refused() {
        for body in [
            designator(1, 3, &NAA[..8]),
            designator(1, 0x13, &NAA),
            designator(1, 0x23, &NAA),
            designator(2, 3, &NAA),
            designator(1, 2, &NAA),
            designator(1, 3, &[0x50; 16]),
            designator(1, 3, &[0x66; 16]),
            vec![],
        ] {
            assert_eq!(ScsiUuid::from_page_83(&page(0x83, &body)), None, "{body:?}");
        }
        assert_eq!(ScsiUuid::from_page_83(&page(0x80, &designator(1, 3, &NAA))), None);
    }

    #[test]
    fn cut_and_lying_pages_are_not_believed() {
        let whole = page(0x83, &designator(1, 3, &NAA));
        for length in 0..whole.len() {
            assert_eq!(ScsiUuid::from_page_83(&whole[..length]), None);
        }
        let mut more = whole.clone();
        more[2] = 0xff;
        assert_eq!(ScsiUuid::from_page_83(&more).unwrap().to_string(), UUID, "a length past the end is cut");
        let mut less = whole.clone();
        less[3] = 10;
        assert_eq!(ScsiUuid::from_page_83(&less), None);
        let mut long = whole;
        long[7] = 0xff;
        assert_eq!(ScsiUuid::from_page_83(&long), None);
    }

    #[test]
    fn any_bytes_are_survived() {
        // A fixed xorshift sequence: no seed to lose, the same bytes on every run.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for round in 0..20_000_usize {
            let bytes: Vec<u8> = (0..round % 80)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    state.to_le_bytes()[3]
                })
                .collect();
            for code in [0x80, 0x83] {
                let framed = page(code, &bytes);
                let _ = (ScsiUuid::from_page_83(&framed), ScsiUuid::from_page_80(&framed));
            }
            let _ = (ScsiUuid::from_page_83(&bytes), ScsiUuid::from_page_80(&bytes));
        }
    }

    #[test]
    fn serial_numbers() {
        let serial = |text: &[u8]| ScsiUuid::from_page_80(&page(0x80, text)).map(|uuid| uuid.to_string());
        assert_eq!(serial(UUID.as_bytes()).as_deref(), Some(UUID));
        assert_eq!(serial(format!("  {} ", UUID.to_uppercase()).as_bytes()).as_deref(), Some(UUID));
        for bad in ["", "6000c2999176dd77", "WD-WCC1234567", &"0".repeat(32), &format!("{UUID}0"), &UUID[1..]] {
            assert_eq!(serial(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(serial(&[0xff; 32]), None);
        assert_eq!(ScsiUuid::from_page_80(&page(0x83, UUID.as_bytes())), None);
    }

    #[test]
    fn uuids_of_vmware() {
        assert!(UUID.parse::<ScsiUuid>().unwrap().is_vmware());
        for other in
            ["6000c2a99176dd776e0123456789abcd", "6000d2999176dd776e0123456789abcd", "5000c2999176dd776e0123456789abcd"]
        {
            assert!(!other.parse::<ScsiUuid>().unwrap().is_vmware(), "{other}");
        }
    }

    #[test]
    fn texts() {
        for text in [
            UUID,
            "60 00 C2 99 91 76 dd 77-6e 01 23 45 67 89 ab cd",
            "naa.6000c2999176dd776e0123456789abcd",
            "0x6000C2999176DD776E0123456789ABCD\n",
        ] {
            assert_eq!(text.parse::<ScsiUuid>().unwrap().to_string(), UUID);
        }
        for text in [
            "wwn-0x6000c2999176dd776e0123456789abcd",
            "scsi-36000c2999176dd776e0123456789abcd",
            "36000C2999176DD776E0123456789ABCD",
            "NAA.6000C2999176DD776E0123456789ABCD",
            "6000c299-9176-dd77-6e01-23456789abcd",
            "  6000c2999176dd776e0123456789abcd ",
        ] {
            assert_eq!(text.parse::<ScsiUuid>().unwrap().to_string(), UUID, "{text}");
        }
        let missing_digit = &UUID[1..];
        for text in [
            "",
            "3",
            "naa.",
            "6000c299",
            missing_digit,
            &format!("{UUID}0"),
            &format!("3{UUID}0"),
            &format!("scsi-{missing_digit}"),
            &format!("wwn-0x-{UUID}"),
            &format!("naa.0x{UUID}"),
            &format!("t10.{UUID}"),
            "6000c2999176dd776e0123456789abcg",
            "6 0 00 c2 99 91 76 dd 77 6e 01 23 45 67 89 ab cd",
            "60  00 c2 99 91 76 dd 77 6e 01 23 45 67 89 ab cd",
            "-6000c2999176dd776e0123456789abcd",
            "6000c2999176dd776e0123456789abcd-",
            "scsi-6000c2999176dd776e0123456789abcd",
            "naa.36000c2999176dd776e0123456789abcd",
            "6000c2999176dd776e0123456789abcd/6000c2999176dd776e0123456789abcd",
            "ünïcödé",
            &"f".repeat(32),
            &"60".repeat(17),
        ] {
            assert!(matches!(text.parse::<ScsiUuid>(), Err(ScsiUuidError::NotAUuid { .. })), "{text}");
        }
        for text in [
            "6000c2999176dd77",
            "0x6000C2999176DD77",
            "wwn-0x6000c2999176dd77",
            "36000c2999176dd77",
            "60 00 C2 99 91 76 dd 77",
        ] {
            let error = text.parse::<ScsiUuid>().unwrap_err();
            assert!(error.to_string().contains("only half of a disk UUID"), "{error}");
        }
        let message = "a\u{1b}[2J".parse::<ScsiUuid>().unwrap_err().to_string();
        assert!(!message.contains('\u{1b}'), "{message}");
    }
}
