//! How far the value behind a name goes.

use std::ops::Range;

use super::forms::{is_key_material, looks_secret, ssh_key};
use super::marker;
use super::names::Strength;
use super::spans::{
    Quote, bare_end, block_end, brackets_end, is_blank, is_end, is_field, is_name, is_quote, open_end, skip, word_end,
};
use super::text::{Search, Text};

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
pub(super) fn separator(text: &Text, at: usize) -> Option<(usize, bool, bool, bool)> {
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
pub(super) fn value(text: &Text, before: &Before, (at, colon, spaced, _): (usize, bool, bool, bool)) -> Option<Value> {
    let begin = skip(text, at, is_blank);
    let line = text.line_end(begin);
    if begin == line || colon && is_block(text, begin, line) {
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
pub(super) fn argument(text: &Text, at: usize, before: &Before) -> Option<Value> {
    let near = skip(text, at, |byte| byte == b'\\' || is_quote(byte));
    let alone = Before { open: None, indent: None, ..*before };
    if let Some(begin) = next_item(text, at, near) {
        if text[begin..].starts_with("--") {
            return None;
        }
        if let Some(quote) = Quote::at(text, begin) {
            return quoted(text, begin, quote, &alone);
        }
        return Value::of(begin..marked(text, begin).unwrap_or_else(|| bare(text, begin, true, &alone)));
    }
    if near > at || text.as_bytes().get(at) == Some(&b',') {
        let blank = |byte| is_blank(byte) || byte == b'\n';
        let comma = skip(text, near, blank);
        let begin = skip(text, comma + usize::from(text[comma..].starts_with(',')), blank);
        if let Some(quote) = Quote::at(text, begin).filter(|_| begin > near) {
            return quoted(text, begin, quote, &alone);
        }
        if begin == comma || text[begin..].starts_with("--") {
            return None;
        }
        return Value::of(begin..flow_end(text, begin, is_item(text, at)));
    }
    let begin = skip(text, at, is_blank);
    if begin == at || begin == text.line_end(begin) || text[begin..].starts_with("--") {
        return None;
    }
    if let Some(quote) = Quote::at(text, begin) {
        let closes = before.open.is_some_and(|(open, _)| open.closes(quote.mark, quote.depth));
        return if closes { None } else { quoted(text, begin, quote, before) };
    }
    let end = marked(text, begin).unwrap_or_else(|| bare(text, begin, false, &Before { indent: None, ..*before }));
    Value::of(begin..end)
}

/// The sign before the word that ends at `at`, but for quotes and blanks: in a list `-`, `[` or `,`.
fn sign_before(text: &Text, at: usize) -> Option<usize> {
    let bytes = &text.as_bytes()[..at];
    let word = bytes.iter().rposition(|byte| !is_name(*byte))? + 1;
    let sign = bytes[..word].iter().rposition(|byte| !is_blank(*byte) && *byte != b'\\' && !is_quote(*byte));
    text.look(at - sign.unwrap_or(0));
    sign
}

fn is_item(text: &Text, at: usize) -> bool {
    sign_before(text, at).is_some_and(|sign| matches!(text.as_bytes()[sign], b'[' | b','))
}

/// What the next item of a list in YAML is, `- --token` and below it `- value`, if the word that ends at `at`, and at `near` with its
/// quotes, is one and is all that its line holds.
fn next_item(text: &Text, at: usize, near: usize) -> Option<usize> {
    let line = text.line_end(near);
    if skip(text, near, is_blank) != line || line == text.len() {
        return None;
    }
    let sign = sign_before(text, at)?;
    let before = text.as_bytes()[..sign].iter().rev().take_while(|byte| is_blank(**byte)).count();
    let next = skip(text, line + 1, is_blank);
    let is_item = |at: usize| text.as_bytes()[at..].starts_with(b"- ");
    (is_item(sign) && is_item(next) && next - line - 1 == before).then(|| skip(text, next + 1, is_blank))
}

/// Where a word in a list such as `[--token, value]` ends, which may hold blanks; outside of one, at a blank.
fn flow_end(text: &Text, begin: usize, in_list: bool) -> usize {
    let from = begin + marker(&text[begin..]).map_or(0, str::len);
    let end = skip(text, from, |byte| {
        let ends = if in_list { b",]}".contains(&byte) } else { is_blank(byte) };
        byte != b'\n' && byte != b'\\' && !is_quote(byte) && !ends
    });
    trimmed(text, begin, end)
}

/// Where the marker ends that a value is already.
fn marked(text: &Text, begin: usize) -> Option<usize> {
    let end = begin + marker(&text[begin..])?.len();
    is_end(text, end, true).then_some(end)
}

/// Behind a name and a blank, without any sign between: only what looks like a secret, since this may be a sentence.
pub(super) fn spoken(text: &Text, at: usize, before: &Before) -> Option<Value> {
    let mut begin = skip(text, at, is_blank);
    if begin == at {
        return None;
    }
    let is_strong = before.strength != Strength::Weak;
    // `password for root: …`, `password is: …`.
    let is_told = |end: usize| text[..end].ends_with(':') && text[end..].starts_with(' ');
    let said = ["for ", "is: ", "was: "].into_iter().find(|said| text[begin..].starts_with(said));
    let said = said.map(|said| match said {
        "for " => skip(text, begin + said.len(), |byte| !matches!(byte, b' ' | b'\n')),
        _ => begin + said.len() - 1,
    });
    if let Some(end) = said.filter(|end| is_strong && is_told(*end)) {
        let value = skip(text, end, is_blank);
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
    let alone = before.indent.is_some() && skip(text, end, is_blank) == text.line_end(end);
    if is_key_material(word) || is_strong && (alone || looks_secret(word)) {
        return Value::of(begin..begin + word.len());
    }
    None
}

/// What follows a command on its line but for the options that it begins with.
pub(super) fn arguments(text: &Text, at: usize, before: &Before) -> Option<Value> {
    let mut begin = skip(text, at, is_blank);
    if begin == at {
        return None;
    }
    let first = begin;
    begin = text.reach(Search::Argument, first, || {
        let mut begin = first;
        loop {
            let end = word_end(text, begin);
            let word = &text[begin..end];
            let is_option = word.starts_with("--") && !word.contains('=') || word.len() == 2 && word.starts_with('-');
            if !is_option {
                return begin;
            }
            begin = skip(text, end, is_blank);
        }
    });
    Value::of(begin..marked(text, begin).unwrap_or_else(|| bare(text, begin, true, before)))
}

/// A value in quotes, in three of them as TOML has it, or in one that is not closed on its line.
fn quoted(text: &Text, begin: usize, quote: Quote, before: &Before) -> Option<Value> {
    let three = [quote.mark; 3];
    if quote.depth == 0 && text.as_bytes()[begin..].starts_with(&three) {
        let inside = begin + three.len();
        let end = triple_end(text, inside, quote.mark);
        let after = skip(text, end, |byte| byte == quote.mark);
        let rest = bare_rest(text, after, before);
        return if rest > after { Value::of(begin..rest) } else { Value::of(inside..end) };
    }
    let Some(closing) = text.closing(&quote, quote.inside, false) else {
        let is_plain = quote.depth == 0;
        let end = if is_plain { open_end(text, quote.inside, quote.mark) } else { text.line_end(quote.inside) };
        return Value::of(begin..trimmed(text, begin, end));
    };
    let rest = bare_rest(text, closing.end, before);
    if rest > closing.end { Value::of(begin..rest) } else { Value::of(quote.inside..closing.start) }
}

/// Where three quotes close what begins at `at`.
fn triple_end(text: &Text, at: usize, mark: u8) -> usize {
    let (bytes, mut here) = (text.as_bytes(), at);
    while here < bytes.len() {
        text.look(1);
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
fn bare_rest(text: &Text, at: usize, before: &Before) -> usize {
    let mut end = at;
    while !is_end(text, end, before.open.is_some()) {
        end = match Quote::at(text, end).filter(|_| before.open.is_none()) {
            Some(quote) => {
                let closing = text.closing(&quote, quote.inside, false);
                closing.map_or_else(|| text.line_end(quote.inside), |closing| closing.end)
            }
            None => skip(text, end + 1, |byte| {
                byte > b' ' && byte != 0x7f && !is_quote(byte) && !b",;)]}>&\\".contains(&byte)
            }),
        };
    }
    end
}

/// Where a value without quotes ends.
fn bare(text: &Text, begin: usize, to_end: bool, before: &Before) -> usize {
    let line = text.line_end(begin);
    let mut most = line;
    if let Some((open, _)) = before.open {
        most = text.closing(&open, begin, true).map_or(line, |closing| closing.start);
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
fn first_end(text: &Text, begin: usize, most: usize, first: bool) -> usize {
    let mut at = begin;
    while at < most {
        text.look(1);
        let byte = text.as_bytes()[at];
        let next = if is_blank(byte) { skip(text, at, is_blank) } else { at + 1 };
        let ends = match byte {
            b',' | b';' | b'&' => is_field(text, next),
            byte if is_blank(byte) => !first || is_field(text, next),
            _ => false,
        };
        if ends {
            return at;
        }
        at = next;
    }
    most
}

fn trimmed(text: &Text, begin: usize, end: usize) -> usize {
    begin + text[begin..end].trim_end_matches([' ', '\t', '\r']).len()
}

/// Whether what is at `begin`, behind a colon, says that a block of YAML follows.
fn is_block(text: &Text, begin: usize, line: usize) -> bool {
    let is_sign = text[begin..].starts_with(['|', '>']);
    is_sign && skip(text, skip(text, begin + 1, |byte| matches!(byte, b'+' | b'-' | b'0'..=b'9')), is_blank) == line
}

/// Whether what begins at `at` is the text of an element of XML: behind the name of its tag, up to the next tag.
pub(super) fn element(text: &Text, at: usize) -> Option<Value> {
    let inside = text.reach(Search::Angle, at, || skip(text, at, |byte| !matches!(byte, b'<' | b'>' | b'\n')));
    if text.as_bytes().get(inside) != Some(&b'>') || text[at..inside].ends_with('/') {
        return None;
    }
    let end = text.reach(Search::Element, inside + 1, || skip(text, inside + 1, |byte| byte != b'<'));
    (end < text.len()).then(|| Value::of(inside + 1..end))?
}

/// Whether a name begins with what an escape such as `\n` left before it, and where it begins then.
pub(super) fn after_escape(text: &Text, at: usize, end: usize) -> usize {
    let escaped = at > 0 && text.as_bytes()[at - 1] == b'\\' && end > at + 1 && b"nrt".contains(&text.as_bytes()[at]);
    at + usize::from(escaped && is_name(text.as_bytes()[at + 1]))
}

/// The name of a field whose value is secret if a secret was named shortly before.
pub(super) fn is_value(name: &str) -> bool {
    name.rsplit(['.', '_', '-']).next().is_some_and(|last| last.eq_ignore_ascii_case("value"))
}
