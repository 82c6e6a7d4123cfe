//! Which names have a secret behind them.

/// A name with one of these in it is strong; letters and digits only, in lower case.
const STRONG: [&str; 32] = [
    "password",
    "passwd",
    "passwort",
    "kennwort",
    "passphrase",
    "passcode",
    "secret",
    "token",
    "authtok",
    "credential",
    "authorization",
    "cookie",
    "sessionid",
    "apikey",
    "accesskey",
    "privatekey",
    "presharedkey",
    "accountkey",
    "authkey",
    "sshkey",
    "signingkey",
    "authorizedkeys",
    "publickey",
    "pubkey",
    "rootpw",
    "sshpw",
    "amzsignature",
    "googsignature",
    "accesssignature",
    "guestinfo",
    "userdata",
    "snmpcommunity",
];
/// Strong as a part of a name: within longer words they mean other things.
const STRONG_PARTS: [&str; 8] = ["pass", "pw", "pwd", "psk", "jwt", "otp", "passwords", "community"];
/// Weak as the last part of a name.
const WEAK_PARTS: [&str; 2] = ["keys", "auth"];
/// What the last part of a name ends with if it is strong, or weak.
const STRONG_ENDS: [&str; 3] = ["pass", "pw", "pwd"];
const WEAK_END: &str = "key";
/// They end so as well, and are ordinary words.
const ORDINARY: [&str; 13] = [
    "bypass",
    "compass",
    "encompass",
    "surpass",
    "trespass",
    "monkey",
    "donkey",
    "turkey",
    "hockey",
    "jockey",
    "whiskey",
    "hotkey",
    "maxkey",
];
/// They name a secret in the query of a URL only: elsewhere failback itself speaks of signatures.
const QUERY: [&str; 4] = ["sig", "signature", "hmac", "code"];
/// Lines of headers: blanks and semicolons are part of the value.
const HEADERS: [&str; 2] = ["authorization", "cookie"];
/// Programs and commands of a kickstart whose arguments are secrets.
const COMMANDS: [&str; 4] = ["rootpw", "sshpw", "sshpass", "chpasswd"];

/// How surely a name has a secret behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strength {
    /// As the last part of a name: `key` is an ordinary word, too.
    Weak,
    /// `password` and the like.
    Strong,
    /// The same, and the value goes to the end of the line.
    Header,
}

/// What a name says of the value behind it; `None`: nothing. `in_query`: whether a `?` or `&` stands before it.
pub(super) fn strength(name: &str, in_query: bool) -> Option<Strength> {
    let letters: Vec<u8> =
        name.bytes().filter(u8::is_ascii_alphanumeric).map(|letter| letter.to_ascii_lowercase()).collect();
    if has_one_of(&letters, &HEADERS) {
        return Some(Strength::Header);
    }
    let is_one_of = |part: &str, of: &[&str]| of.iter().any(|one| part.eq_ignore_ascii_case(one));
    let last = parts(name).last().unwrap_or_default();
    let ends = |of: &[&str]| {
        let tail = |end: &str| last.len().checked_sub(end.len()).and_then(|from| last.get(from..));
        of.iter().any(|end| tail(end).is_some_and(|tail| tail.eq_ignore_ascii_case(end)))
    };
    let is_ordinary = is_one_of(last, &ORDINARY);
    if has_one_of(&letters, &STRONG)
        || parts(name).any(|part| is_one_of(part, &STRONG_PARTS))
        || !is_ordinary && ends(&STRONG_ENDS)
        || in_query && is_one_of(name, &QUERY)
    {
        return Some(Strength::Strong);
    }
    (!is_ordinary && ends(&[WEAK_END]) || is_one_of(last, &WEAK_PARTS)).then_some(Strength::Weak)
}

/// Names are short and many: what prepares a search for each of these would take longer than the search.
fn has_one_of(letters: &[u8], of: &[&str]) -> bool {
    (0..letters.len())
        .any(|at| of.iter().any(|one| one.as_bytes()[0] == letters[at] && letters[at..].starts_with(one.as_bytes())))
}

/// Whether what stands behind this word on its line is secret.
pub(super) fn is_command(word: &str) -> bool {
    COMMANDS.contains(&word)
}

/// The parts of `wep_key0`, `rd.luks.key` and `PresharedKey`, without the digits at their ends.
fn parts(name: &str) -> impl Iterator<Item = &str> {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).flat_map(|word| {
        let mut rest = word;
        std::iter::from_fn(move || {
            let turn =
                rest.as_bytes().windows(2).position(|two| two[0].is_ascii_lowercase() && two[1].is_ascii_uppercase());
            let (part, behind) = rest.split_at(turn.map_or(rest.len(), |turn| turn + 1));
            rest = behind;
            (!part.is_empty()).then_some(part)
        })
    });
    words.map(|part| part.trim_end_matches(|c: char| c.is_ascii_digit())).filter(|part| !part.is_empty())
}
