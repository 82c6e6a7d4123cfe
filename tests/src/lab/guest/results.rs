//! What guests report: a line for each result, on a serial line of their own.

use crate::lab::Run;
use std::collections::BTreeMap;

/// What a guest reported.
#[derive(Debug)]
pub struct Results {
    results: BTreeMap<String, Run>,
    log: String,
}

impl Results {
    /// What stands in the text that came over the line for results, and what the console showed.
    pub(super) fn read(text: &str, log: String) -> Self {
        Self { results: reported(text), log }
    }

    /// The result of this name. That there is none is a failure.
    #[track_caller]
    pub fn of(&self, name: &str) -> &Run {
        self.results.get(name).unwrap_or_else(|| panic!("there is no result {name}\n{}", self.log))
    }

    /// The result of this name, which must have the exit code `code`, as JSON.
    #[track_caller]
    pub fn json(&self, name: &str, code: i32) -> serde_json::Value {
        let run = self.of(name);
        assert_eq!(run.code, code, "{name}: {}", run.stderr);
        serde_json::from_slice(&run.stdout).unwrap()
    }

    /// What the guest's console showed.
    pub fn log(&self) -> &str {
        &self.log
    }
}

/// All results so far: a line that is still being written has no end yet.
pub(super) fn reported(text: &str) -> BTreeMap<String, Run> {
    let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    lines.filter_map(|line| parse(line.trim())).collect()
}

/// `RESULT NAME CODE STDOUT- STDERR-`, both in base64; the hyphens keep what is empty from vanishing.
fn parse(line: &str) -> Option<(String, Run)> {
    let fields: Vec<_> = line.strip_prefix("RESULT ")?.split(' ').collect();
    let [name, code, stdout, stderr] = fields[..] else { panic!("a result is not understood: {line}") };
    let text = |field: &str| decode(field.strip_suffix('-').unwrap());
    let run = Run {
        code: code.parse().unwrap(),
        stdout: text(stdout),
        stderr: String::from_utf8_lossy(&text(stderr)).into_owned(),
    };
    Some((name.to_owned(), run))
}

/// What base64 stands for (RFC 4648, section 4).
fn decode(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for digit in text.bytes().filter(|digit| *digit != b'=') {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => panic!("{digit} is no digit of base64"),
        };
        bits = (bits << 6) | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count).unwrap());
            bits &= (1 << count) - 1;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_back() {
        let (name, run) = parse("RESULT disks 3 aGVsbG8K- w7Y=-").unwrap();
        assert_eq!((&*name, run.code, &*run.stdout, &*run.stderr), ("disks", 3, &b"hello\n"[..], "ö"));
        let (_, run) = parse("RESULT nothing 0 - -").unwrap();
        assert!(run.stdout.is_empty() && run.stderr.is_empty());
        assert!(parse("guest: something else").is_none());
        let every: Vec<u8> = (0..=255).collect();
        assert_eq!(decode("AAECAwQFBgcICQoLDA0ODw=="), every[..16]);
        assert_eq!(decode("/+/A"), [0xff, 0xef, 0xc0]);
    }
}
