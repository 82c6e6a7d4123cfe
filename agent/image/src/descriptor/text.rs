//! Lines of a descriptor, and the characters that its bytes stand for.

/// What the first line says.
const FIRST_LINE: &[u8] = b"# Disk DescriptorFile";

/// Whether the text begins as a descriptor must.
pub(super) fn is_first_line(bytes: &[u8]) -> bool {
    bytes.get(..FIRST_LINE.len()).is_some_and(|start| start.eq_ignore_ascii_case(FIRST_LINE))
}

/// A line without its end, and where it begins.
#[derive(Clone, Copy)]
pub(super) struct Line<'a> {
    pub(super) number: usize,
    pub(super) at: usize,
    pub(super) text: &'a [u8],
}

/// The lines of a text, which end with a line feed or the text, and may have a carriage return before that.
pub(super) fn lines(bytes: &[u8]) -> impl Iterator<Item = Line<'_>> {
    let mut at = 0;
    bytes.split(|byte| *byte == b'\n').enumerate().map(move |(index, text)| {
        let line = Line { number: index + 1, at, text: text.strip_suffix(b"\r").unwrap_or(text) };
        at += text.len() + 1;
        line
    })
}

/// A name and its value: what stands left and right of the first `=`, without blanks and quotes around.
#[derive(Clone, Copy)]
pub(super) struct Pair<'a> {
    pub(super) name: &'a [u8],
    pub(super) value: &'a [u8],
    /// Where the value begins in the line.
    pub(super) value_at: usize,
}

/// The pair that a line consists of, if it is one.
pub(super) fn pair(line: &[u8]) -> Option<Pair<'_>> {
    let equals = line.iter().position(|byte| *byte == b'=')?;
    let name = line[..equals].trim_ascii();
    let right = &line[equals + 1..];
    let mut value = right.trim_ascii();
    let mut value_at = equals + 1 + (right.len() - right.trim_ascii_start().len());
    if let Some(inner) = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")) {
        value = inner;
        value_at += 1;
    }
    (!name.is_empty()).then_some(Pair { name, value, value_at })
}

/// How the bytes of a text stand for characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Encoding {
    /// UTF-8, and what is written where nothing is said.
    #[default]
    Utf8,
    /// ISO 8859-1: each byte is the character of that number.
    Latin1,
    /// Windows 1252: the same but for 0x80 to 0x9f.
    Windows1252,
    /// Another one, of which only the ASCII half is understood.
    Unknown,
}

/// The characters 0x80 to 0x9f of Windows code page 1252; U+FFFD where there is none (Unicode's CP1252.TXT).
const WINDOWS_1252: [char; 32] = [
    '€', '\u{fffd}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{fffd}', 'Ž', '\u{fffd}', '\u{fffd}',
    '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{fffd}', 'ž', 'Ÿ',
];

impl Encoding {
    /// The encoding that a descriptor calls by this name.
    pub(super) fn named(name: &[u8]) -> Self {
        let is = |known: &[&str]| known.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()));
        if is(&["UTF-8", "UTF8", "US-ASCII"]) {
            Self::Utf8
        } else if is(&["ISO-8859-1", "ISO8859-1", "LATIN1"]) {
            Self::Latin1
        } else if is(&["windows-1252", "CP1252"]) {
            Self::Windows1252
        } else {
            Self::Unknown
        }
    }

    /// The characters of a value; `None` where the bytes stand for none.
    pub(super) fn decode(self, bytes: &[u8]) -> Option<String> {
        if bytes.is_ascii() {
            return String::from_utf8(bytes.to_vec()).ok();
        }
        match self {
            Self::Utf8 => String::from_utf8(bytes.to_vec()).ok(),
            Self::Latin1 => Some(bytes.iter().map(|byte| char::from(*byte)).collect()),
            Self::Windows1252 => {
                let text: String = bytes.iter().map(|byte| windows_1252(*byte)).collect();
                (!text.contains('\u{fffd}')).then_some(text)
            }
            Self::Unknown => None,
        }
    }
}

fn windows_1252(byte: u8) -> char {
    match byte.checked_sub(0x80).and_then(|index| WINDOWS_1252.get(usize::from(index))) {
        Some(character) => *character,
        None => char::from(byte),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs() {
        let of = |text: &'static str| pair(text.as_bytes()).map(|pair| (pair.name, pair.value, pair.value_at));
        assert_eq!(of("CID=fffffffe"), Some((&b"CID"[..], &b"fffffffe"[..], 4)));
        assert_eq!(of("  ddb.uuid =  \"60 00\"  "), Some((&b"ddb.uuid"[..], &b"60 00"[..], 15)));
        assert_eq!(of("a=\""), Some((&b"a"[..], &b"\""[..], 2)));
        assert_eq!(of("=x"), None);
        assert_eq!(of("nothing"), None);
    }

    #[test]
    fn encodings() {
        assert_eq!(Encoding::named(b"windows-1252").decode(b"M\xfcller \x80").unwrap(), "Müller €");
        assert_eq!(Encoding::named(b"utf-8").decode("Müller".as_bytes()).unwrap(), "Müller");
        assert_eq!(Encoding::named(b"UTF-8").decode(b"M\xfcller"), None);
        assert_eq!(Encoding::named(b"GBK").decode(b"plain").unwrap(), "plain");
        assert_eq!(Encoding::named(b"GBK").decode(b"M\xfcller"), None);
    }

    #[test]
    fn lines_know_where_they_begin() {
        let all: Vec<_> = lines(b"ab\r\n\ncd").map(|line| (line.number, line.at, line.text)).collect();
        assert_eq!(all, [(1, 0, &b"ab"[..]), (2, 4, &b""[..]), (3, 5, &b"cd"[..])]);
    }
}
