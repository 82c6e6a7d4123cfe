//! What shows by its form that it is a secret, whatever its name is.

use std::ops::Range;

use super::marker;
use super::names::strength;
use super::spans::{bare_end, is_bare, is_base64, is_blank, is_name, is_quote, skip, word_end};
use super::text::{Search, Text};

/// Words behind which the public key of an ssh stands.
const SSH_KINDS: [&str; 5] = ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-", "webauthn-sk-"];
/// No name of a kind is as long as this.
const MOST_OF_KIND: usize = 64;
/// Every public key of an ssh begins so: with the length of its kind's name.
const SSH_KEY: &str = "AAAA";
/// Public keys of an ssh that stand alone are longer than this.
const LEAST_OF_KEY: usize = 40;
/// How tokens of well-known services begin, and how long they are at least.
const TOKENS: [(&str, usize); 23] = [
    // A token that lets a machine in: `agent/credentials/ENROLMENT.md`.
    ("FAILBACK1-", 11),
    ("AKIA", 20),
    ("ASIA", 20),
    ("ABIA", 20),
    ("ACCA", 20),
    ("AIza", 39),
    ("ghp_", 24),
    ("gho_", 24),
    ("ghu_", 24),
    ("ghs_", 24),
    ("ghr_", 24),
    ("github_pat_", 30),
    ("glpat-", 20),
    ("xoxb-", 20),
    ("xoxp-", 20),
    ("xoxa-", 20),
    ("hvs.", 20),
    ("sk_live_", 20),
    ("sk-ant-", 20),
    ("AGE-SECRET-KEY-", 40),
    ("grub.pbkdf2.", 40),
    ("eyJ", 30),
    ("ya29.", 20),
];
/// A user and a password before an `@` are not looked for further than this.
const MOST_OF_LOGIN: usize = 512;

/// The key of an ssh that begins at `at`, after its kind or without it, and the name of its owner behind it.
pub(super) fn ssh_key(text: &Text, at: usize, whole_line: bool) -> Option<Range<usize>> {
    let is_kind = SSH_KINDS.iter().any(|kind| text[at..].starts_with(kind));
    let begin = if is_kind {
        let near = &text.as_bytes()[at..text.len().min(at + MOST_OF_KIND)];
        let length = near.iter().position(|byte| !is_name(*byte) && *byte != b'@')?;
        text.look(length);
        skip(text, at + length, is_blank)
    } else {
        at
    };
    if !text[begin..].starts_with(SSH_KEY) {
        return None;
    }
    let end = skip(text, begin, is_base64);
    if !is_kind && end - begin < LEAST_OF_KEY {
        return None;
    }
    // The comment says whose it is. Other boot arguments may stand in its place.
    let comment = skip(text, end, is_blank);
    let comment_end = bare_end(text, comment);
    let word = &text[comment..comment_end];
    let is_last = skip(text, comment_end, is_blank) == text.line_end(comment_end)
        || text.as_bytes().get(comment_end).is_some_and(|byte| is_quote(*byte) || *byte == b'\\');
    let end = match () {
        () if whole_line && is_kind => text.line_end(end),
        () if comment > end && !word.is_empty() && !word.contains('=') && (word.contains('@') || is_last) => {
            comment_end
        }
        () => end,
    };
    Some(begin..end)
}

/// A token that begins at `at` as those of a well-known service do.
pub(super) fn token(text: &Text, at: usize) -> Option<Range<usize>> {
    let (_, least) = TOKENS.iter().find(|(begin, _)| text[at..].starts_with(begin))?;
    let end = skip(text, at, |byte| is_base64(byte) || byte == b'.');
    (end - at >= *least).then_some(at..end)
}

/// What crypt(5) makes, `$6$salt$hash` and its kin, or a directory, `{SSHA}hash`; `at` is that of the first sign.
pub(super) fn password_hash(text: &Text, at: usize) -> Option<Range<usize>> {
    if text[at..].starts_with('{') {
        let end = skip(text, at + 1, |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        let known = ["SSHA", "SHA", "SMD5", "MD5", "CRYPT", "PBKDF2", "ARGON2", "BCRYPT"];
        let is_known = known.iter().any(|kind| text[at + 1..end].to_ascii_uppercase().starts_with(kind));
        if !is_known || !text[end..].starts_with('}') {
            return None;
        }
        let hash_end = skip(text, end + 1, |byte| is_base64(byte) || matches!(byte, b'$' | b'.' | b','));
        return (hash_end > end + 1).then_some(at..hash_end);
    }
    let id_end = skip(text, at + 1, |byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let id = &text[at + 1..id_end];
    let known = matches!(id, "1" | "2a" | "2b" | "2x" | "2y" | "5" | "6" | "7" | "8" | "y" | "gy" | "apr1" | "sha1");
    if !(known || id.starts_with("argon2") || id.starts_with("pbkdf2") || id.starts_with("scrypt"))
        || text.as_bytes().get(id_end) != Some(&b'$')
    {
        return None;
    }
    let end = skip(text, id_end + 1, |byte| is_base64(byte) || matches!(byte, b'$' | b'.' | b','));
    (end > id_end + 1).then_some(at..end)
}

/// What stands before the `@` of `scheme://user:password@host`; `at` is that of the user. A user alone may be a token. Where no
/// `@` comes but something that is no port, the address was cut.
pub(super) fn login_of_url(text: &Text, at: usize) -> Option<Range<usize>> {
    let authority_end =
        skip(text, at, |byte| byte > b' ' && byte != 0x7f && !is_quote(byte) && !b"/?#<>\\[".contains(&byte));
    let authority = &text[at..authority_end];
    if let Some(sign) = authority.rfind('@') {
        return (sign > 0).then_some(at..at + sign);
    }
    let (_, port) = authority.split_once(':')?;
    let port = port.trim_end_matches([',', '.', ';', ':', ')', ']', '}']);
    if port.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let word_end = bare_end(text, at);
    let sign = text[authority_end..word_end].rfind('@').map_or(word_end, |sign| authority_end + sign);
    Some(at..sign)
}

/// What stands before the `@` of `user:password@host` in the word that begins at `at`. A name alone, as in root@host, is no secret.
pub(super) fn login(text: &Text, at: usize) -> Option<Range<usize>> {
    let ends_user = |byte| !is_bare(byte) || matches!(byte, b':' | b'@' | b'=' | b'/' | b'[');
    let colon = text.reach(Search::User, at, || skip(text, at, |byte| !ends_user(byte)));
    if text.as_bytes().get(colon) != Some(&b':') || colon - at > MOST_OF_LOGIN {
        return None;
    }
    let begin = colon + 1;
    let end = bare_end(text, begin).min(begin + MOST_OF_LOGIN);
    if text.reach(Search::Sign, begin, || skip(text, begin, |byte| byte != b'@')) >= end {
        return None;
    }
    let behind = &text.as_bytes()[begin..end];
    text.look(behind.len());
    let is_sign = |byte: &u8| *byte == b'@';
    let host = behind.iter().position(|byte| *byte == b'/').unwrap_or(behind.len());
    let sign = match behind[..host].iter().rposition(is_sign) {
        Some(sign) => sign,
        None if host == 0 => return None,
        None => behind.iter().rposition(is_sign)?,
    };
    // Where a field with a secret is in it, that is found by its name, and goes further than the @.
    let names_secret = text[begin..begin + sign].split('=').rev().skip(1).any(|field| {
        let name = field.bytes().rposition(|byte| !is_name(byte)).map_or(0, |before| before + 1);
        field.get(name..).is_some_and(|name| strength(name, false).is_some())
    });
    (!names_secret).then_some(at..begin + sign)
}

/// Whether a PEM block begins at `at`, which is that of its first dash.
pub(super) fn begins_pem(text: &Text, at: usize) -> bool {
    let begun = text[at..].strip_prefix("-----BEGIN ").or_else(|| text[at..].strip_prefix("---- BEGIN "));
    begun.is_some_and(|kind| kind.starts_with(|c: char| c.is_ascii_uppercase()))
}

/// Where the PEM block that begins at `at` ends; without an end it was cut, and everything behind may be part of it.
pub(super) fn pem_end(text: &Text, at: usize) -> usize {
    let ends = text[at..].match_indices("END ").map(|(end, _)| at + end);
    let mut ends = ends.filter_map(|end| {
        ["-----", "---- "].into_iter().find_map(|dashes| text[at..end].ends_with(dashes).then_some(end - dashes.len()))
    });
    let end = ends.next();
    text.look(end.unwrap_or(text.len()) - at);
    end.map_or(text.len() - usize::from(text.ends_with('\n')), |end| after_end(text, end))
}

/// Where the line of a PEM block that says END at `at` ends: behind its last dashes.
pub(super) fn after_end(text: &Text, at: usize) -> usize {
    let line = text.line_end(at);
    let from = skip(text, at, |byte| byte == b'-');
    let dashes = text.get(from..line).and_then(|rest| rest.find("----"));
    text.look(dashes.unwrap_or(line.saturating_sub(from)));
    dashes.map_or(line, |dashes| skip(text, from + dashes, |byte| byte == b'-'))
}

/// Where the body of a PEM block that lacks its beginning begins: how much stays of lines, of which those before `floor` stay in any
/// case. A log puts its own words before each line. And how many bytes were looked at.
pub(super) fn before_body(lines: &[u8], floor: usize) -> (usize, usize) {
    let (mut end, mut least, mut looked) = (lines.len(), 4, 0);
    while end > floor {
        let line = &lines[floor..end - 1];
        let word_end = line.iter().rposition(|byte| !is_blank(*byte)).map_or(0, |at| at + 1);
        let word = line[..word_end].iter().rposition(|byte| !is_base64(*byte)).map_or(0, |at| at + 1);
        looked += line.len() - word + 1;
        let is_word = word == 0 || matches!(line[word - 1], b' ' | b'\t' | b'\n');
        if !is_word || word_end - word < least {
            break;
        }
        let begin = line[..word].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        looked += word - begin;
        (end, least) = (floor + begin, LEAST_OF_KEY);
    }
    (end, looked)
}

/// Whether a word behind the name of a secret is one, and does not go on with a sentence.
pub(super) fn looks_secret(word: &str) -> bool {
    let letters = word.bytes().any(|byte| byte.is_ascii_alphabetic());
    let digits = word.bytes().any(|byte| byte.is_ascii_digit());
    let turns = word.as_bytes().windows(2).any(|two| two[0].is_ascii_lowercase() && two[1].is_ascii_uppercase());
    let signs = word.contains(['!', '#', '$', '%', '^', '&', '*', '+', '=', '~', '@']);
    word.len() >= 6 && !word.starts_with(['/', '[', '(']) && (letters && digits || turns || signs || word.len() >= 24)
}

/// A long run of base64, as keys are.
pub(super) fn is_key_material(word: &str) -> bool {
    word.len() >= LEAST_OF_KEY && word.bytes().all(is_base64)
}

/// The secret in a line of chrony.keys(5): `1 SHA256 HEX:1DC7…`; `at` is that of the number. Within a line, only what says how it is
/// written is known as a key.
pub(super) fn chrony_key(text: &Text, at: usize, first: bool) -> Option<Range<usize>> {
    let number_end = skip(text, at, |byte| byte.is_ascii_digit());
    let kind = skip(text, number_end, is_blank);
    if number_end == at || kind == number_end {
        return None;
    }
    let kind_end = word_end(text, kind);
    let known = [
        "MD5",
        "SHA1",
        "SHA256",
        "SHA384",
        "SHA512",
        "SHA3-224",
        "SHA3-256",
        "SHA3-384",
        "SHA3-512",
        "TIGER",
        "WHIRLPOOL",
        "AES128",
        "AES256",
    ];
    if !known.contains(&&text[kind..kind_end]) {
        return None;
    }
    let begin = skip(text, kind_end, is_blank);
    let end = bare_end(text, begin);
    let is_key = first || text[begin..end].starts_with("HEX:") || text[begin..end].starts_with("ASCII:");
    (is_key && end > begin && marker(&text[begin..]).is_none()).then_some(begin..end)
}
