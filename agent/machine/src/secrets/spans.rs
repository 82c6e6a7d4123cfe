//! Where words, quotes and brackets begin and end: everything here counts in bytes, and goes over a text once.

use super::text::{MOST_DEPTH, Search, Text};

/// A quote, list or table that is not closed within as many lines was cut, as a log cuts its lines, and goes to the end of its own.
const MOST_LINES: usize = 32;

/// A quote, as deep as JSON within JSON puts it: `"`, `\"`, `\\\"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quote {
    pub(super) mark: u8,
    /// The backslashes before it.
    pub(super) depth: usize,
    /// Where the text within begins.
    pub(super) inside: usize,
}

impl Quote {
    /// The quote that begins here, with its backslashes.
    pub(super) fn at(text: &Text, at: usize) -> Option<Self> {
        let rest = text.as_bytes().get(at..)?;
        let depth = rest.iter().take_while(|byte| **byte == b'\\').count();
        text.look(depth + 1);
        let mark = *rest.get(depth).filter(|byte| is_quote(**byte))?;
        Some(Self { mark, depth, inside: at + depth + 1 })
    }

    /// Whether the mark behind so many backslashes closes it, or a quote around it. Every backslash within takes as many as it
    /// is deep, so that what is left tells how deep the mark is.
    pub(super) fn closes(&self, mark: u8, backslashes: usize) -> bool {
        mark == self.mark && self.depth <= MOST_DEPTH && backslashes % (2 * (self.depth + 1)) <= self.depth
    }
}

pub(super) fn is_quote(byte: u8) -> bool {
    matches!(byte, b'"' | b'\'')
}

/// Blanks within a line; control characters are none that a value could be trusted to hold.
pub(super) fn is_blank(byte: u8) -> bool {
    byte != b'\n' && (byte <= b' ' || byte == 0x7f)
}

/// What names are made of.
pub(super) fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')
}

/// What base64 is made of, in both alphabets.
pub(super) fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'_' | b'-')
}

/// What stands in a word without quotes, angles and brackets around it.
pub(super) fn is_bare(byte: u8) -> bool {
    byte > b' ' && byte != 0x7f && !is_quote(byte) && !b"<>\\".contains(&byte)
}

/// The first place from `at` on whose byte is none of these; the end of the text if there is none.
pub(super) fn skip(text: &Text, at: usize, of: impl Fn(u8) -> bool) -> usize {
    let rest = text.as_bytes().get(at..).unwrap_or_default();
    let length = rest.iter().position(|byte| !of(*byte)).unwrap_or(rest.len());
    text.look(length + 1);
    text.len().min(at + length)
}

/// Where the word that `at` is in ends: at a blank or at the end of its line.
pub(super) fn word_end(text: &Text, at: usize) -> usize {
    skip(text, at, |byte| byte != b'\n' && !is_blank(byte))
}

/// Where a word without quotes, angles and brackets around it ends.
pub(super) fn bare_end(text: &Text, at: usize) -> usize {
    text.reach(Search::Bare, at, || skip(text, at, is_bare))
}

/// Whether a value may end here: before a blank, a separator, or a bracket or quote that closes something around it.
pub(super) fn is_end(text: &Text, at: usize, in_quote: bool) -> bool {
    match text.as_bytes().get(at) {
        None => true,
        Some(b'/') => text.as_bytes().get(at + 1) == Some(&b'>'),
        Some(byte) if is_quote(*byte) => in_quote,
        Some(byte) => *byte == b'\n' || is_blank(*byte) || b",;)]}>&\\".contains(byte),
    }
}

/// Whether `name=` stands here, so that what stood before was another field.
pub(super) fn is_field(text: &Text, at: usize) -> bool {
    let end = skip(text, at, is_name);
    end > at && text.as_bytes()[at].is_ascii_alphabetic() && text.as_bytes().get(end) == Some(&b'=')
}

/// Where a quoted value that is not closed on its line ends: with the line that has the mark, or with its own.
pub(super) fn open_end(text: &Text, inside: usize, mark: u8) -> usize {
    let own = text.line_end(inside);
    let mut end = own;
    for _ in 0..MOST_LINES {
        if end >= text.len() {
            break;
        }
        let begin = end + 1;
        end = text.line_end(begin);
        text.look(end - begin);
        if text.as_bytes()[begin..end].contains(&mark) {
            return end;
        }
    }
    own
}

/// Where the list or table that begins here ends; `None` if its brackets are never closed.
pub(super) fn brackets_end(text: &Text, at: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut depth, mut lines, mut here) = (0_usize, 0, at);
    while here < bytes.len() && lines < MOST_LINES {
        text.look(1);
        match bytes[here] {
            b'\n' => lines += 1,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => {
                depth -= 1;
                if depth == 0 {
                    return Some(here + 1);
                }
            }
            byte if byte == b'\\' || is_quote(byte) => {
                if let Some(quote) = Quote::at(text, here) {
                    here = text.closing(&quote, quote.inside, false).map_or(quote.inside, |closing| closing.end);
                    continue;
                }
            }
            _ => {}
        }
        here += 1;
    }
    None
}

/// Where a block of YAML ends that begins with the line at `at` and belongs to a line indented by `indent`; `at` if none does.
pub(super) fn block_end(text: &Text, at: usize, indent: usize) -> usize {
    let (mut end, mut begin) = (at, at);
    while begin < text.len() {
        let (first, line) = (skip(text, begin, is_blank), text.line_end(begin));
        let inner = first - begin > indent || first - begin == indent && text[first..].starts_with("- ");
        if first < line && !inner {
            break;
        }
        if first < line {
            end = line;
        }
        begin = line + 1;
    }
    end
}
