//! Names of files in a descriptor, of which none may lead away.

/// Whether a name is one plain component: it can name nothing but a file in the directory of the descriptor.
pub(super) fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name != "."
        && name != ".."
        && name.len() <= MAX_NAME_BYTES
        && !name.chars().any(|character| character == '/' || character.is_control())
}

/// No Linux file system has longer names of one component.
const MAX_NAME_BYTES: usize = 255;

/// A UUID of 32 hexadecimal digits, with blanks and hyphens anywhere between them.
pub(super) fn uuid(text: &str) -> Option<[u8; 16]> {
    let mut digits = text.chars().filter(|character| !matches!(character, ' ' | '-'));
    let mut uuid = [0; 16];
    for byte in &mut uuid {
        let high = digits.next()?.to_digit(16)?;
        let low = digits.next()?.to_digit(16)?;
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    digits.next().is_none().then_some(uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_away_are_not_plain() {
        for plain in ["disk-flat.vmdk", "a b.vmdk", "Müller.vmdk", "..vmdk", "a..b"] {
            assert!(is_plain(plain), "{plain}");
        }
        let long = "x".repeat(256);
        for other in ["", ".", "..", "/etc/passwd", "../x", "a/b", "a\0b", "a\nb", &long] {
            assert!(!is_plain(other), "{other}");
        }
    }

    #[test]
    fn uuids() {
        let wanted = Some([0x60, 0, 0xc2, 0x99, 0x91, 0x76, 0xdd, 0x77, 0x6e, 1, 2, 3, 4, 5, 6, 0xff]);
        assert_eq!(uuid("60 00 C2 99 91 76 dd 77-6e 01 02 03 04 05 06 ff"), wanted);
        assert_eq!(uuid("6000c2999176dd776e010203040506ff"), wanted);
        for wrong in ["", "60", "6000c2999176dd776e010203040506f", "6000c2999176dd776e010203040506ff0", "zz"] {
            assert_eq!(uuid(wrong), None, "{wrong}");
        }
    }
}
