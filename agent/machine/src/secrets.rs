//! Taking secrets out of texts before they leave the machine.
//!
//! # Rules
//!
//! A text is read from its beginning to its end, and at each word it is asked in this order:
//!
//! 1. Does a PEM block begin or end here? It goes with all that stands between, also what a log puts before each line. One without an
//!    end goes to the end of the text, one without a beginning goes as far back as lines end in base64.
//! 2. Is it a secret by its form: a key of ssh (a public one says whose it is), a password hash, a token as well-known services give
//!    them, a key of chrony?
//! 3. Does it name a secret ([`names`])? Then its value goes ([`values`]): behind `=` or `:`, as the argument of an option, in a list
//!    of arguments, in an element of XML, or, if it looks like a secret, behind a blank. A value is what quotes of any depth
//!    hold, also three of them and over lines, a list, a block of YAML, or what stands up to a blank or to the end of the line.
//!    Behind a command such as `rootpw`, all of the line goes but options.
//! 4. Is it an address? User and password go; so does a user alone behind `scheme://`, who may be a token. Or `Bearer` and the like?
//!
//! Where it is not clear how far a secret goes, more is removed rather than less. What is removed leaves a marker with its kind,
//! `[removed:value]`; markers stay as they are, so that a text can be cleaned twice. Quotes stay, so that JSON remains JSON.
//!
//! A secret that nothing names and that has no known form is not found: an administrator has to look.
//!
//! Time grows with the length of a text, whatever is in it, and memory is the text and two copies: who asks has to bound the text.
//! What a search from one place of a line has found is not searched for again from the next ([`text`]), and how far lines ahead are
//! searched is bounded. Should a text be made that takes too long all the same, its rest goes, with the marker `[removed:rest]`.

mod forms;
mod names;
mod spans;
#[cfg(test)]
mod tests;
mod text;
mod values;

use std::ops::Range;

use names::{Strength, is_command, strength};
use spans::{Quote, bare_end, is_blank, is_name, is_quote, skip};
use text::Text;
use values::{Before, Value, after_escape, argument, arguments, element, is_value, separator, spoken, value};

/// How every marker begins.
const MARK: &str = "[removed:";
/// What was removed may have stood between the parts of another secret, so that a text is read until nothing more is found; not
/// more often than this, whatever somebody has made up.
const MOST_PASSES: usize = 4;
/// How often each byte of a text may be looked at, on average. Texts as there are need some 15 times, those that were made to take
/// long less than 64.
const MOST_LOOKS: usize = 256;
/// The same for a text of a few bytes, each of which may be a part of something that is looked for at some more.
const LEAST_LOOKS: usize = 1 << 16;
/// For how many lines the name of a secret tells what the `value` behind it is.
const NEAR: usize = 3;

/// What a secret was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Named by what stands before it.
    Value,
    /// Before the `@` of an address.
    Login,
    Pem,
    SshKey,
    Hash,
    /// By its form, or behind `Bearer` and the like.
    Token,
    /// What nobody looked at.
    Rest,
}

impl Kind {
    const ALL: [Self; 7] = [Self::Value, Self::Login, Self::Pem, Self::SshKey, Self::Hash, Self::Token, Self::Rest];

    fn marker(self) -> &'static str {
        match self {
            Self::Value => "[removed:value]",
            Self::Login => "[removed:login]",
            Self::Pem => "[removed:pem]",
            Self::SshKey => "[removed:ssh-key]",
            Self::Hash => "[removed:hash]",
            Self::Token => "[removed:token]",
            Self::Rest => "[removed:rest]",
        }
    }
}

/// A text without its secrets, and how many were taken out.
#[must_use]
pub fn without_secrets(text: &str) -> (String, usize) {
    let cleaned = all(text);
    (cleaned.text, cleaned.removed)
}

struct Cleaned {
    text: String,
    removed: usize,
    /// How many bytes were looked at, each as often as it was.
    looked: usize,
}

fn all(text: &str) -> Cleaned {
    let most = |text: &str| text.len().saturating_mul(MOST_LOOKS).saturating_add(LEAST_LOOKS);
    let mut cleaned = once(text, most(text));
    let mut found = cleaned.removed;
    for _ in 1..MOST_PASSES {
        if found == 0 {
            break;
        }
        let next = once(&cleaned.text, most(&cleaned.text));
        found = next.removed;
        cleaned = Cleaned { text: next.text, removed: cleaned.removed + found, looked: cleaned.looked + next.looked };
    }
    cleaned
}

/// Reads a text once. When more than so many bytes were looked at, the rest goes.
fn once(text: &str, most: usize) -> Cleaned {
    let text = Text::new(text);
    let mut reader = Reader::new(&text);
    while reader.at < text.len() {
        if text.looked() > most {
            // On a line of its own it is a part of no value, and stays when the text is read again.
            reader.keep(reader.at);
            reader.out.push('\n');
            reader.remove(reader.at..text.len(), Kind::Rest, false);
            break;
        }
        reader.step();
    }
    reader.keep(text.len());
    Cleaned { text: reader.out, removed: reader.removed, looked: text.looked() }
}

/// The marker that a text begins with.
fn marker(text: &str) -> Option<&'static str> {
    let begun = text.starts_with(MARK);
    Kind::ALL.into_iter().filter(|_| begun).map(Kind::marker).find(|marker| text.starts_with(marker))
}

/// How far a text has been read, and what is known of its present line.
struct Reader<'a> {
    text: &'a Text<'a>,
    out: String,
    /// Where the present line begins in `out`.
    line: usize,
    /// What is before it in `out` belongs to no PEM block that ends behind it.
    floor: usize,
    removed: usize,
    at: usize,
    /// Up to here, the text is in `out`, or removed.
    kept: usize,
    /// The byte before `at`, as it is in `out`.
    last: u8,
    /// How far the line is indented; nothing behind its first word.
    indent: Option<usize>,
    /// The quote that is open.
    open: Option<Quote>,
    /// How many lines ago a secret was named.
    named: usize,
}

impl<'a> Reader<'a> {
    fn new(text: &'a Text<'a>) -> Self {
        let out = String::with_capacity(text.len());
        let (last, indent) = (b'\n', Some(0));
        Self { text, out, line: 0, floor: 0, removed: 0, at: 0, kept: 0, last, indent, open: None, named: NEAR }
    }

    /// Puts into `out` what stands before `to`.
    fn keep(&mut self, to: usize) {
        let piece = &self.text[self.kept..to];
        if let Some(line) = piece.rfind('\n') {
            self.line = self.out.len() + line + 1;
        }
        self.out.push_str(piece);
        self.kept = to;
    }

    /// Goes on at `to`, which is behind `at`.
    fn go(&mut self, to: usize) {
        self.at = to;
        self.last = self.text.as_bytes()[to - 1];
    }

    /// Replaces a range that does not begin before what is in `out`.
    fn remove(&mut self, range: Range<usize>, kind: Kind, quoted: bool) {
        self.keep(range.start);
        let quote = if quoted { "\"" } else { "" };
        let marker = kind.marker();
        if &self.text[range.clone()] != marker {
            self.removed += 1;
        }
        self.out.extend([quote, marker, quote]);
        self.kept = range.end;
        self.at = range.end;
        self.last = if quoted { b'"' } else { b']' };
        self.indent = None;
    }

    fn step(&mut self) {
        let (text, at) = (self.text, self.at);
        text.look(1);
        let byte = text.as_bytes()[at];
        if let Some(marker) = marker(&text[at..]) {
            self.indent = None;
            return self.go(at + marker.len());
        }
        if byte == b'\n' {
            (self.indent, self.open) = (Some(0), None);
            self.named = self.named.saturating_add(1);
            return self.go(at + 1);
        }
        if is_blank(byte) {
            self.indent = self.indent.map(|indent| indent + 1);
            return self.go(at + 1);
        }
        if byte == b'\\' || is_quote(byte) {
            return self.quote();
        }
        if matches!(byte, b'$' | b'{')
            && let Some(hash) = forms::password_hash(text, at)
        {
            return self.remove(hash, Kind::Hash, false);
        }
        if is_name(byte) && !is_name(self.last) {
            return self.word();
        }
        if self.begins_word()
            && let Some(login) = forms::login(text, at)
        {
            return self.remove(login, Kind::Login, false);
        }
        if !matches!(byte, b'{' | b'#') {
            self.indent = None;
        }
        self.go(at + text[at..].chars().next().map_or(1, char::len_utf8));
    }

    /// Whether what stands before `at` ends a word.
    fn begins_word(&self) -> bool {
        self.last == b'\n' || is_blank(self.last) || is_quote(self.last) || b"=(<,[]{>\\".contains(&self.last)
    }

    /// A quote, or backslashes without one.
    fn quote(&mut self) {
        let Some(quote) = Quote::at(self.text, self.at) else {
            let end = skip(self.text, self.at, |byte| byte == b'\\');
            self.indent = None;
            return self.go(end);
        };
        match self.open {
            Some(open) if open.closes(quote.mark, quote.depth) => self.open = None,
            // An apostrophe within a word opens nothing.
            None if self.last != b']' && (self.begins_word() || self.last == b':') => self.open = Some(quote),
            _ => {}
        }
        self.go(quote.inside);
    }

    /// A word, and all that may show that it is a secret or has one behind it.
    fn word(&mut self) {
        let (text, whole) = (self.text, self.at);
        let end = skip(text, whole, is_name);
        let at = if whole == self.kept { whole } else { after_escape(text, whole, end) };
        if self.pem(at, end) || self.by_form(at) || self.by_name(at, end) || self.by_place(at, end) {
            return;
        }
        // A dash or a number may stand before the first word of a line.
        if text[whole..end].bytes().any(|byte| byte != b'-') {
            self.indent = None;
        }
        self.go(end);
    }

    fn pem(&mut self, at: usize, end: usize) -> bool {
        let text = self.text;
        let dashes = text[at..end].find("----").map(|dashes| at + dashes);
        let Some(dashes) = dashes else { return false };
        if forms::begins_pem(text, dashes) {
            self.remove(dashes..forms::pem_end(text, dashes), Kind::Pem, false);
            return true;
        }
        let rest = text[dashes..].trim_start_matches('-');
        if rest.starts_with("END ") || text[dashes..].starts_with("-----END ") {
            self.keep(dashes);
            let (body, looked) = forms::before_body(&self.out.as_bytes()[..self.line], self.floor);
            text.look(looked);
            self.out.truncate(body);
            (self.line, self.floor) = (body, body);
            self.remove(dashes..forms::after_end(text, dashes), Kind::Pem, false);
            return true;
        }
        false
    }

    fn by_form(&mut self, at: usize) -> bool {
        let (text, first) = (self.text, self.indent.is_some());
        let found = forms::ssh_key(text, at, first).map(|range| (range, Kind::SshKey));
        let found = found.or_else(|| forms::token(text, at).map(|range| (range, Kind::Token)));
        let found = found.or_else(|| forms::chrony_key(text, at, first).map(|range| (range, Kind::Value)));
        let Some((range, kind)) = found else { return false };
        self.remove(range, kind, false);
        true
    }

    /// What is behind a name that speaks of secrets.
    fn by_name(&mut self, at: usize, end: usize) -> bool {
        let text = self.text;
        let name = &text[at..end];
        text.look(name.len());
        let named = strength(name, matches!(self.last, b'?' | b'&'));
        if named.is_some_and(|named| named != Strength::Weak) {
            self.named = 0;
        }
        let is_named = is_command(name) || is_value(name) && self.named < NEAR;
        let named = named.or(is_named.then_some(Strength::Strong));
        let Some(strength) = named else { return false };
        let open = self.open.map(|open| (open, open.inside == at));
        let mut before = Before { strength, indent: self.indent, open, is_quoted: false };
        let found = if let Some(separator) = separator(text, end) {
            if separator.3 && self.open.is_some() {
                // The quote around the name is closed before the value begins.
                (before.open, before.is_quoted) = (None, true);
                self.open = None;
            }
            self.look_into(separator.0);
            value(text, &before, separator)
        } else if name.starts_with('-') {
            argument(text, end, &before)
        } else if is_command(name) {
            arguments(text, end, &before)
        } else if self.last == b'<' || self.last == b':' && text[..at].ends_with(':') {
            element(text, end)
        } else {
            spoken(text, end, &before)
        };
        let Some(Value { mut range, quoted }) = found else { return false };
        // A key goes on below the line that it begins on.
        text.look(range.len());
        let key = text[range.clone()].find("----").map(|dashes| range.start + dashes);
        if let Some(dashes) = key.filter(|dashes| forms::begins_pem(text, *dashes)) {
            range.end = range.end.max(forms::pem_end(text, dashes));
        }
        self.remove(range, Kind::Value, quoted);
        true
    }

    /// A value that names a secret itself, as in `key="password" value="…"`, which goes although it is none.
    fn look_into(&mut self, at: usize) {
        let begin = skip(self.text, at, |byte| byte == b'\\' || is_quote(byte) || is_blank(byte));
        let end = skip(self.text, begin, is_name);
        if strength(&self.text[begin..end], false).is_some_and(|named| named != Strength::Weak) {
            self.named = 0;
        }
    }

    /// The logins of addresses, and words that tell what the next one is.
    fn by_place(&mut self, at: usize, end: usize) -> bool {
        let text = self.text;
        let user = text[end..].starts_with("://").then_some(end + 3);
        let login = match user {
            Some(user) if marker(&text[user..]).is_none() => forms::login_of_url(text, user),
            None if self.begins_word() => forms::login(text, at),
            _ => None,
        };
        if let Some(login) = login {
            self.remove(login, Kind::Login, false);
            return true;
        }
        let begin = skip(text, end, is_blank);
        if begin == end || marker(&text[begin..]).is_some() {
            return false;
        }
        let word = &text[begin..bare_end(text, begin)];
        let is_secret = match text[at..end].to_ascii_lowercase().as_str() {
            "bearer" => !word.is_empty(),
            "basic" | "digest" | "negotiate" | "ntlm" => forms::looks_secret(word),
            "-u" | "--user" | "--proxy-user" => word.replace(MARK, "").contains(':'),
            _ => false,
        };
        if is_secret {
            self.remove(begin..begin + word.len(), Kind::Token, false);
        }
        is_secret
    }
}
