//! Taking secrets out of texts before they leave the machine.
//!
//! What is looked for: private keys in PEM form, keys of ssh, values behind names that speak of secrets (in configuration
//! files, JSON, URLs and on the kernel's command line), names and passwords before the `@` of an address, bearer tokens and
//! password hashes. It errs to one side only: a value too many is removed rather than one too few.

/// What stands in place of a secret.
const REMOVED: &str = "[removed]";
/// A name with one of these in it has a secret behind it; letters only, in lower case.
const SECRET_NAMES: [&str; 14] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "apikey",
    "accesskey",
    "credential",
    "privatekey",
    "sshkey",
    "signingkey",
    "rootpw",
    "authorization",
    "cookie",
];
/// Names that have to be these to the letter: parts of longer words mean other things.
const SECRET_WORDS: [&str; 5] = ["pass", "pw", "pwd", "psk", "auth"];
/// Words behind which the key of an ssh stands.
const SSH_KEYS: [&str; 5] = ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-", "webauthn-sk-"];

/// A text without its secrets, and how many were taken out.
#[must_use]
pub fn without_secrets(text: &str) -> (String, usize) {
    let mut out = String::with_capacity(text.len());
    let (mut removed, mut in_key) = (0, false);
    for line in text.split_inclusive('\n') {
        if line.contains("-----BEGIN ") && line.contains("PRIVATE KEY") {
            in_key = true;
            removed += 1;
            out.push_str(REMOVED);
            out.push('\n');
        }
        if in_key {
            in_key = !line.contains("-----END ");
            continue;
        }
        let (line, found) = of_line(line);
        removed += found;
        out.push_str(&line);
    }
    (out, removed)
}

/// One line: values behind names first, so that a quoted value goes as a whole; then what shows itself by its form.
fn of_line(line: &str) -> (String, usize) {
    let (text, named) = behind_names(line);
    let (text, formed) = by_form(&text);
    (text, named + formed)
}

/// Removes the values of `name=value`, `name: value` and `"name": "value"` where the name speaks of a secret.
fn behind_names(line: &str) -> (String, usize) {
    let mut out = String::with_capacity(line.len());
    let (mut rest, mut removed) = (line, 0);
    while let Some(at) = rest.find(['=', ':']) {
        let (before, behind) = (&rest[..at], &rest[at + 1..]);
        out.push_str(&rest[..=at]);
        rest = behind;
        if !is_secret_name(before) {
            continue;
        }
        let blanks = behind.len() - behind.trim_start_matches([' ', '\t']).len();
        let (skipped, value) = behind.split_at(blanks);
        // The kernel quotes a parameter as a whole as well: "name=a value".
        let opened = before.rfind([' ', '\t', ',']).map_or(0, |blank| blank + 1);
        let quoted_whole = before[opened..].starts_with(['"', '\'']) && !before.trim_end().ends_with(['"', '\'']);
        let length = value_length(value, quoted_whole, skipped.is_empty());
        if length == 0 || value.starts_with(REMOVED) {
            continue;
        }
        out.push_str(skipped);
        out.push_str(REMOVED);
        removed += 1;
        rest = &value[length..];
    }
    out.push_str(rest);
    (out, removed)
}

/// How long a value is: to its closing quote, to the next blank, or (behind a colon and a blank, as in headers) to the end.
fn value_length(value: &str, quoted_whole: bool, tight: bool) -> usize {
    let end = |text: &str, of: &[char]| text.find(of).unwrap_or(text.trim_end_matches(['\n', '\r']).len());
    match value.chars().next() {
        Some(quote @ ('"' | '\'')) => value[1..].find(quote).map_or(end(value, &['\n']), |close| close + 2),
        Some(_) if quoted_whole => end(value, &['"', '\'', '\n']),
        Some(_) if tight => end(value, &[' ', '\t', ',', ';', '&', '\n', '\r']),
        Some(_) => end(value, &['\n', '\r']),
        None => 0,
    }
}

/// Whether the last word before a `=` or `:` names a secret.
fn is_secret_name(before: &str) -> bool {
    let before = before.trim_end_matches([' ', '\t', '"', '\'']);
    let start = before
        .rfind(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')))
        .map_or(0, |at| at + before[at..].chars().next().map_or(1, char::len_utf8));
    let name = before[start..].to_ascii_lowercase();
    let letters: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    SECRET_NAMES.iter().any(|secret| letters.contains(secret))
        || name.split(['_', '-', '.']).any(|word| SECRET_WORDS.contains(&word))
}

/// Removes what shows by its form that it is a secret.
fn by_form(line: &str) -> (String, usize) {
    let mut out = String::with_capacity(line.len());
    let (mut removed, mut after_key_word, mut after_bearer) = (0, false, false);
    for word in line.split_inclusive([' ', '\t', '\n', '"', '\'', ',']) {
        let core = word.trim_end_matches([' ', '\t', '\n', '\r', '"', '\'', ',']);
        let tail = &word[core.len()..];
        let is_key = after_key_word && core.starts_with("AAAA");
        let is_token = after_bearer && !core.is_empty();
        // A word that quotes or blanks alone made keeps what was said before it.
        if !core.is_empty() {
            after_key_word =
                SSH_KEYS.iter().any(|kind| core.rsplit(['=', ':']).next().unwrap_or(core).starts_with(kind));
            after_bearer = core.eq_ignore_ascii_case("bearer") || core.eq_ignore_ascii_case("basic");
        }
        if is_key || is_token || is_password_hash(core) {
            out.push_str(REMOVED);
            removed += 1;
        } else if let Some(clean) = without_user(core) {
            out.push_str(&clean);
            removed += 1;
        } else {
            out.push_str(core);
        }
        out.push_str(tail);
    }
    (out, removed)
}

/// What crypt(5) makes: `$6$salt$hash` and its kin.
fn is_password_hash(word: &str) -> bool {
    word.find('$').is_some_and(|at| {
        let mut parts = word[at + 1..].split('$');
        let id = parts.next().unwrap_or_default();
        let known = matches!(id, "1" | "2a" | "2b" | "2y" | "5" | "6" | "7" | "y" | "gy") || id.starts_with("argon2");
        known && parts.next().is_some_and(|part| !part.is_empty())
    })
}

/// `scheme://user:password@host` and `user:password@host` without what stands before the `@`.
fn without_user(word: &str) -> Option<String> {
    let start = word.find("://").map_or(0, |at| at + 3);
    let authority = &word[start..];
    let end = authority.find('/').filter(|_| start > 0).unwrap_or(authority.len());
    let at = authority[..end].rfind('@')?;
    let before = &authority[..at];
    // Without a scheme only a colon tells a password from a plain name, as in root@host.
    before.contains(':').then(|| format!("{}{REMOVED}{}", &word[..start], &authority[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIJd0secretkeysecretkeysecretkey";

    fn clean(text: &str) -> String {
        without_secrets(text).0
    }

    #[test]
    fn the_kernel_command_line() {
        let line = format!(
            "quiet failback.ip=10.0.0.2/24 failback.sshkey=\"ssh-ed25519 {KEY} me@office\" \"failback.sshkey=ssh-rsa {KEY} you\" \
             inst.rootpw=hunter2 rd.iscsi.password=hunter3 inst.ks=https://kick:hunter4@host/ks.cfg root=LABEL=x failback.run=job\n"
        );
        let (text, removed) = without_secrets(&line);
        assert!(!text.contains("hunter") && !text.contains(KEY) && !text.contains("me@office"), "{text}");
        for kept in ["failback.ip=10.0.0.2/24", "root=LABEL=x", "failback.run=job", "https://[removed]@host/ks.cfg"] {
            assert!(text.contains(kept), "{kept}: {text}");
        }
        assert_eq!(removed, 5, "{text}");
    }

    #[test]
    fn configuration_files() {
        for (text, wanted) in [
            ("directory = \"/mnt/retention\"\n", "directory = \"/mnt/retention\"\n"),
            ("keep_points = 48 # token\n", "keep_points = 48 # token\n"),
            ("token = \"abc def\" # of the relay\n", "token = [removed] # of the relay\n"),
            ("  \"api_key\": \"abc\", \"size\": 5\n", "  \"api_key\": [removed], \"size\": 5\n"),
            ("password: open sesame\n", "password: [removed]\n"),
            ("PGPASSWORD=x y=z\n", "PGPASSWORD=[removed] y=z\n"),
            ("https://h/?access-token=abc&x=1\n", "https://h/?access-token=[removed]&x=1\n"),
            ("Authorization: Bearer abc.def\n", "Authorization: [removed]\n"),
            ("sent Bearer abc.def to it\n", "sent Bearer [removed] to it\n"),
            ("root:$6$salt$hash:19000:0\n", "[removed]\n"),
            (
                "//nas/x /m cifs username=u,password=p,ro 0 0\n",
                "//nas/x /m cifs username=u,password=[removed],ro 0 0\n",
            ),
            (
                "no secret here: it compasses, bypass=1 authors=2\n",
                "no secret here: it compasses, bypass=1 authors=2\n",
            ),
            ("token=\n", "token=\n"),
        ] {
            assert_eq!(clean(text), wanted);
        }
    }

    #[test]
    fn what_support_needs_stays() {
        let root = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        let text = format!("root {root}\nsdb 6000c2999176dd776e0123456789abcd 2:0:3:0\nmounted at /srv, root@host\n");
        assert_eq!(without_secrets(&text), (text.clone(), 0));
    }

    #[test]
    fn private_keys_go_as_a_whole() {
        let text = "a\n-----BEGIN OPENSSH PRIVATE KEY-----\nb3Blbn\nNhAAAA\n-----END OPENSSH PRIVATE KEY-----\nb\n";
        assert_eq!(without_secrets(text), ("a\n[removed]\nb\n".into(), 1));
        let cut = "a\n-----BEGIN PRIVATE KEY-----\nb3Blbn\n";
        assert_eq!(clean(cut), "a\n[removed]\n", "a key that has no end is one all the same");
        assert_eq!(clean(&format!("ssh-ed25519 {KEY} me\n")), "ssh-ed25519 [removed] me\n");
    }

    proptest! {
        #[test]
        fn nothing_makes_it_fail(text in "[ -~äß=:\"'@/$\n]{0,200}") {
            prop_assert!(clean(&text).lines().count() <= text.lines().count());
        }

        #[test]
        fn a_secret_never_stays(name in "(root|my_|x\\.|)(password|token|api_key|sshkey)", value in "[A-Za-z0-9+/]{12,40}",
                                quote in prop::sample::select(vec!["", "\"", "'"]), joint in prop::sample::select(vec!["=", ": ", " = "])) {
            let text = format!("a b {name}{joint}{quote}{value}{quote} c\n");
            prop_assert!(!clean(&text).contains(&value), "{}", clean(&text));
        }
    }
}
