//! How far the value behind a name goes.

use std::ops::Range;

use super::forms::{is_key_material, looks_secret, ssh_key};
use super::marker;
use super::names::Strength;
use super::spans::{
    Quote, bare_end, block_end, brackets_end, is_blank, is_end, is_field, is_name, is_quote, line_end, open_end, skip,
    word_end,
};

/// What stands before a value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before {
    /// How surely its name names a secret.
    pub(super) strength: Strength,
    /// How far the line is indented, if the name is the first word on it.
    pub(super) indent: Option<usize>,
    /// The quote that the name stands in, and whether it begins with the name.
    pub(super) open: Option<(Quote, bool)>,
    /// Whether the name has quotes of its own, as in JSON.
    pub(super) is_quoted: bool,
}

/// What goes, and the quotes that the marker needs so that JSON stays JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) range: Range<usize>,
    pub(super) quoted: bool,
}

impl Value {
    fn of(range: Range<usize>) -> Option<Self> {
        (!range.is_empty()).then_some(Self { range, quoted: false })
    }
}

/// The `=` or `:` behind a name that ends at `at`, with what may stand between: quotes, brackets and blanks. Where the value's side
/// begins, whether it is a colon, whether blanks stand before it, and whether a quote is closed.
pub(super) fn separator(text: &str, at: usize) -> Option<(usize, bool, bool, bool)> {
    let bytes = text.as_bytes();
    let quotes = skip(text, at, |byte| byte == b'\\' || is_quote(byte));
    let is_quoted = bytes[at..quotes].iter().any(|byte| is_quote(*byte));
    // `d["password"] = `, `PASSWORD+=`.
    let near = skip(text, quotes, |byte| if is_quoted { byte == b']' } else { matches!(byte, b'+' | b'?') });
    let sign = skip(text, near, is_blank);
    match bytes.get(sign)? {
        b'=' => Some((sign + 1 + usize::from(bytes.get(sign + 1) == Some(&b'>')), false, sign > near, is_quoted)),
        b':' if bytes.get(sign + 1) == Some(&b'=') => Some((sign + 2, false, sign > near, is_quoted)),
        b':' => Some((sign + 1, true, sign > near, is_quoted)),
        b'%' if text
            .get(sign + 1..sign + 3)
            .is_some_and(|hex| hex.eq_ignore_ascii_case("3d") || hex.eq_ignore_ascii_case("3a")) =>
        {
            Some((sign + 3, false, false, false))
        }
        _ => None,
    }
}

/// The value behind a separator: quoted, a list, a block of YAML, or bare.
pub(super) fn value(text: &str, before: &Before, (at, colon, spaced, _): (usize, bool, bool, bool)) -> Option<Value> {
    let begin = skip(text, at, is_blank);
    let line = line_end(text, begin);
    if begin == line || colon && is_block(&text[begin..line]) {
        let indent = before.indent.filter(|_| colon && line < text.len())?;
        let block = line + 1;
        let end = block_end(text, block, indent);
        return Value::of(skip(text, block.min(end), |byte| byte == b'\n' || is_blank(byte))..end);
    }
    if let Some(quote) = Quote::at(text, begin) {
        // The quote around the name and an empty value closes here.
        let closes = before.open.is_some_and(|(open, _)| open.closes(quote.mark, quote.depth));
        let behind = text.as_bytes().get(quote.inside);
        if closes && behind.is_none_or(|byte| matches!(byte, b'\n' | b'\r' | b',' | b'}' | b']' | b')')) {
            return None;
        }
        return quoted(text, begin, quote, before);
    }
    if let Some(end) = marked(text, begin) {
        return Value::of(begin..end);
    }
    if text[begin..].starts_with(['[', '{']) {
        if let Some(end) = brackets_end(text, begin) {
            return Some(Value { range: begin..bare_rest(text, end, before), quoted: before.is_quoted });
        }
        return Value::of(begin..line);
    }
    if before.is_quoted {
        let literal = skip(text, begin, |byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        if literal > begin && is_end(text, skip(text, literal, is_blank), false) && !text[literal..].starts_with(' ') {
            return Some(Value { range: begin..literal, quoted: true });
        }
    }
    let to_end = match before.strength {
        Strength::Header => true,
        Strength::Strong => spaced || begin > at,
        Strength::Weak => (spaced || begin > at) && (!colon || before.indent.is_some() || before.is_quoted),
    };
    Value::of(begin..bare(text, begin, to_end, before))
}

/// Behind the name of an option or between the words of a list: the next word, or what the next quotes hold.
pub(super) fn argument(text: &str, at: usize, before: &Before) -> Option<Value> {
    let near = skip(text, at, |byte| byte == b'\\' || is_quote(byte));
    if near > at {
        let blank = |byte| is_blank(byte) || byte == b'\n';
        let comma = skip(text, near, blank);
        let begin = skip(text, comma + usize::from(text[comma..].starts_with(',')), blank);
        let quote = Quote::at(text, begin).filter(|_| begin > near)?;
        return quoted(text, begin, quote, &Before { open: None, ..*before });
    }
    let begin = skip(text, at, is_blank);
    if begin == at || begin == line_end(text, begin) || text[begin..].starts_with("--") {
        return None;
    }
    if let Some(quote) = Quote::at(text, begin) {
        let closes = before.open.is_some_and(|(open, _)| open.closes(quote.mark, quote.depth));
        return if closes { None } else { quoted(text, begin, quote, before) };
    }
    let end = marked(text, begin).unwrap_or_else(|| bare(text, begin, false, &Before { indent: None, ..*before }));
    Value::of(begin..end)
}

/// Where the marker ends that a value is already.
fn marked(text: &str, begin: usize) -> Option<usize> {
    let end = begin + marker(&text[begin..])?.len();
    is_end(text, end, true).then_some(end)
}

/// Behind a name and a blank, without any sign between: only what looks like a secret, since this may be a sentence.
pub(super) fn spoken(text: &str, at: usize, before: &Before) -> Option<Value> {
    let mut begin = skip(text, at, is_blank);
    if begin == at {
        return None;
    }
    let is_strong = before.strength != Strength::Weak;
    // `password for root: …`, `password is: …`.
    let (first, rest) = text[begin..line_end(text, begin)].split_once(' ').unwrap_or_default();
    let said = if first == "for" { rest.split_once(' ').map_or("", |(whom, _)| whom) } else { first };
    if is_strong && said.len() > 1 && said.ends_with(':') && matches!(first, "for" | "is:" | "was:") {
        let skipped = if first == "for" { first.len() + 1 + said.len() } else { first.len() };
        let value = skip(text, begin + skipped, is_blank);
        return Value::of(value..marked(text, value).unwrap_or_else(|| bare(text, value, true, before)));
    }
    for joint in ["is ", "was ", "to "] {
        if text[begin..].starts_with(joint) {
            begin = skip(text, begin + joint.len(), is_blank);
        }
    }
    if let Some(quote) = Quote::at(text, begin).filter(|_| is_strong) {
        let closes = before.open.is_some_and(|(open, _)| open.closes(quote.mark, quote.depth));
        return if closes { None } else { quoted(text, begin, quote, before) };
    }
    let end = bare_end(text, begin);
    let word = text[begin..end].trim_end_matches([',', '.', ';', ':', ')', ']']);
    if marker(&text[begin..]).is_some() || word.is_empty() {
        return None;
    }
    let alone = before.indent.is_some() && skip(text, end, is_blank) == line_end(text, end);
    if is_key_material(word) || is_strong && (alone || looks_secret(word)) {
        return Value::of(begin..begin + word.len());
    }
    None
}

/// What follows a command on its line but for the options that it begins with.
pub(super) fn arguments(text: &str, at: usize, before: &Before) -> Option<Value> {
    let mut begin = skip(text, at, is_blank);
    if begin == at {
        return None;
    }
    loop {
        let end = word_end(text, begin);
        let word = &text[begin..end];
        let is_option = word.starts_with("--") && !word.contains('=') || word.len() == 2 && word.starts_with('-');
        if !is_option {
            break;
        }
        begin = skip(text, end, is_blank);
    }
    Value::of(begin..marked(text, begin).unwrap_or_else(|| bare(text, begin, true, before)))
}

/// A value in quotes, in three of them as TOML has it, or in one that is not closed on its line.
fn quoted(text: &str, begin: usize, quote: Quote, before: &Before) -> Option<Value> {
    let three = [quote.mark; 3];
    if quote.depth == 0 && text.as_bytes()[begin..].starts_with(&three) {
        let inside = begin + three.len();
        let end = triple_end(text, inside, quote.mark);
        let after = skip(text, end, |byte| byte == quote.mark);
        let rest = bare_rest(text, after, before);
        return if rest > after { Value::of(begin..rest) } else { Value::of(inside..end) };
    }
    let line = line_end(text, quote.inside);
    let Some(closing) = quote.closing(text, quote.inside, line) else {
        let end = if quote.depth == 0 { open_end(text, quote.inside, quote.mark) } else { line };
        return Value::of(begin..trimmed(text, begin, end));
    };
    let rest = bare_rest(text, closing.end, before);
    if rest > closing.end { Value::of(begin..rest) } else { Value::of(quote.inside..closing.start) }
}

/// Where three quotes close what begins at `at`.
fn triple_end(text: &str, at: usize, mark: u8) -> usize {
    let (bytes, mut here) = (text.as_bytes(), at);
    while here < bytes.len() {
        match bytes[here] {
            b'\\' if mark == b'"' => here += 1,
            _ if bytes[here..].starts_with(&[mark; 3]) => return here,
            _ => {}
        }
        here += 1;
    }
    text.len() - usize::from(text.ends_with('\n') && text.len() > at)
}

/// Where a value goes on that a shell would put together: `"ab"cd`.
fn bare_rest(text: &str, at: usize, before: &Before) -> usize {
    let mut end = at;
    while !is_end(text, end, before.open.is_some()) {
        end = match Quote::at(text, end).filter(|_| before.open.is_none()) {
            Some(quote) => {
                let line = line_end(text, quote.inside);
                quote.closing(text, quote.inside, line).map_or(line, |closing| closing.end)
            }
            None => skip(text, end + 1, |byte| {
                byte > b' ' && byte != 0x7f && !is_quote(byte) && !b",;)]}>&\\".contains(&byte)
            }),
        };
    }
    end
}

/// Where a value without quotes ends.
fn bare(text: &str, begin: usize, to_end: bool, before: &Before) -> usize {
    let line = line_end(text, begin);
    let mut most = line;
    if let Some((open, _)) = before.open {
        let mut from = begin;
        while let Some(closing) = open.closing(text, from, line) {
            most = closing.start;
            if is_end(text, closing.end, true) {
                break;
            }
            (from, most) = (closing.end, line);
        }
    }
    let whole = before.open.is_some_and(|(_, begins)| begins);
    let end = if to_end || whole {
        most
    } else if let Some(key) = ssh_key(text, begin, false) {
        first_end(text, key.end.min(most), most, before.indent.is_some())
    } else {
        first_end(text, begin, most, before.indent.is_some())
    };
    trimmed(text, begin, end)
}

/// The first place where a blank ends a value, or a separator before another field. What begins a line may hold blanks.
fn first_end(text: &str, begin: usize, most: usize, first: bool) -> usize {
    for (at, byte) in text.bytes().enumerate().take(most).skip(begin) {
        let ends = match byte {
            b',' | b';' | b'&' => is_field(text, at + 1),
            byte if is_blank(byte) => !first || is_field(text, skip(text, at, is_blank)),
            _ => false,
        };
        if ends {
            return at;
        }
    }
    most
}

fn trimmed(text: &str, begin: usize, end: usize) -> usize {
    begin + text[begin..end].trim_end_matches([' ', '\t', '\r']).len()
}

/// Whether this, behind a colon, says that a block of YAML follows.
fn is_block(rest: &str) -> bool {
    rest.strip_prefix(['|', '>'])
        .is_some_and(|rest| rest.trim_end().chars().all(|c| matches!(c, '+' | '-') || c.is_ascii_digit()))
}

/// Whether what begins at `at` is the text of an element of XML: behind the name of its tag, up to the next tag.
pub(super) fn element(text: &str, at: usize) -> Option<Value> {
    let inside = skip(text, at, |byte| !matches!(byte, b'<' | b'>' | b'\n'));
    if text.as_bytes().get(inside) != Some(&b'>') || text[at..inside].ends_with('/') {
        return None;
    }
    let end = skip(text, inside + 1, |byte| byte != b'<');
    (end < text.len()).then(|| Value::of(inside + 1..end))?
}

/// Whether a name begins with what an escape such as `\n` left before it, and where it begins then.
pub(super) fn after_escape(text: &str, at: usize, end: usize) -> usize {
    let escaped = at > 0 && text.as_bytes()[at - 1] == b'\\' && end > at + 1 && b"nrt".contains(&text.as_bytes()[at]);
    at + usize::from(escaped && is_name(text.as_bytes()[at + 1]))
}

/// The name of a field whose value is secret if a secret was named shortly before.
pub(super) fn is_value(name: &str) -> bool {
    name.rsplit(['.', '_', '-']).next().is_some_and(|last| last.eq_ignore_ascii_case("value"))
}
