//! What a disk says in words, made fit to be printed.
//!
//! A label can hold anything, also what moves the cursor of a terminal or forges a line of a log.

use std::fmt::Write;

/// A label as it stands on the disk: up to its first zero byte, spaces at its end left out, everything that is not a
/// printable character escaped. `None` where nothing is left.
pub(crate) fn label(bytes: &[u8]) -> Option<String> {
    let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if is_printable(character) {
                text.push(character);
            } else {
                text.extend(character.escape_unicode());
            }
        }
        for byte in chunk.invalid() {
            write!(text, "\\x{byte:02x}").expect("a string takes what is written to it");
        }
    }
    let text = text.trim_end();
    (!text.is_empty()).then(|| text.to_owned())
}

/// Whether a character shows as itself and leaves its neighbours alone: no control character, no mark that turns the
/// direction of writing or hides itself, and not the backslash that begins an escape.
fn is_printable(character: char) -> bool {
    let hidden =
        matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    !character.is_control() && !hidden && character != '\\'
}

/// A UUID in its usual form, `None` where it is all zeroes.
pub(crate) fn uuid(bytes: &[u8; 16]) -> Option<String> {
    /// Before which bytes a dash stands.
    const DASHES: [usize; 4] = [4, 6, 8, 10];
    if *bytes == [0; 16] {
        return None;
    }
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        if DASHES.contains(&at) {
            text.push('-');
        }
        write!(text, "{byte:02x}").expect("a string takes what is written to it");
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels() {
        for (bytes, text) in [
            (&b"root\0\0\0rest"[..], Some("root")),
            (b"two words  ", Some("two words")),
            (b"\0\0", None),
            (b"", None),
            (b"   ", None),
            (b"a\x1b[2Jb\nc", Some("a\\u{1b}[2Jb\\u{a}c")),
            (b"back\\slash", Some("back\\u{5c}slash")),
            ("Gr\u{fc}n".as_bytes(), Some("Gr\u{fc}n")),
            ("a\u{202e}b".as_bytes(), Some("a\\u{202e}b")),
            (b"\xff\xfea", Some("\\xff\\xfea")),
        ] {
            assert_eq!(label(bytes).as_deref(), text, "{bytes:?}");
        }
    }

    #[test]
    fn uuids() {
        assert_eq!(uuid(&[0; 16]), None);
        let bytes = std::array::from_fn(|at| u8::try_from(at).unwrap() * 17);
        assert_eq!(uuid(&bytes).as_deref(), Some("00112233-4455-6677-8899-aabbccddeeff"));
    }
}
