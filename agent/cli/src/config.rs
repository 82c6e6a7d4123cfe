//! The configuration file: what need not be said on every command line.

use crate::args::parse_size;
use failback_machine::{Links, plain, read_plain_file};
use failback_orchestrate::{JobError, Policy};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, io};

/// Where it is, unless `FAILBACK_CONFIG` names another file.
const PLACE: &str = "/etc/failback/failback.toml";
/// Far more than all settings and their comments take. In bytes.
const MOST_BYTES: u64 = 64 << 10;

/// All that it can say. What it does not know is refused: a misspelt limit would be none.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    #[serde(default)]
    pub(crate) retention: RetentionConfig,
}

/// Where recovery points are kept, and how many.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RetentionConfig {
    pub(crate) directory: Option<PathBuf>,
    pub(crate) keep_points: Option<usize>,
    pub(crate) keep_for: Option<String>,
    pub(crate) keep_space: Option<String>,
}

impl Config {
    /// Reads the file; nothing is configured where there is none. All that it says is looked at here, whoever needs it.
    pub(crate) fn load() -> Result<Self, JobError> {
        let named = env::var_os("FAILBACK_CONFIG").map(PathBuf::from);
        let path = named.as_deref().unwrap_or(Path::new(PLACE));
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::InvalidData => JobError::Refused(format!("{} cannot be read: {source}", path.display())),
            _ => JobError::File { action: "read", path: path.to_owned(), source },
        };
        match read_plain_file(path, MOST_BYTES, Links::Followed).map_err(failed)? {
            Some(bytes) => Self::parse(&bytes, path),
            None if named.is_none() => Ok(Self::default()),
            None => Err(failed(io::ErrorKind::NotFound.into())),
        }
    }

    fn parse(bytes: &[u8], path: &Path) -> Result<Self, JobError> {
        let unclear = |before: &[u8], why: &str| {
            let line = before.split(|byte| *byte == b'\n').count();
            JobError::Refused(format!("{} cannot be understood, in line {line}: {why}", path.display()))
        };
        let text = str::from_utf8(bytes)
            .map_err(|error| unclear(&bytes[..error.valid_up_to()], "it is no UTF-8, so write that line again"))?;
        let config: Self = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|at| bytes.get(..at.start)).unwrap_or_default();
            unclear(before, &error.message().replace('\n', ", "))
        })?;
        config.policy()?;
        if let Some(directory) = config.retention.directory.as_deref().filter(|it| !it.is_absolute()) {
            return Err(JobError::Refused(format!(
                "directory in the configuration: '{}' would be another one in each working directory: write it from / on",
                plain(&directory.display().to_string())
            )));
        }
        Ok(config)
    }

    /// The limits that it sets.
    pub(crate) fn policy(&self) -> Result<Policy, JobError> {
        let RetentionConfig { keep_points, keep_for, keep_space, .. } = &self.retention;
        let wrong = |name: &'static str| move |why| JobError::Refused(format!("{name} in the configuration: {why}"));
        Ok(Policy {
            keep_points: *keep_points,
            keep_for: keep_for.as_deref().map(parse_age).transpose().map_err(wrong("keep_for"))?,
            keep_bytes: keep_space.as_deref().map(parse_size).transpose().map_err(wrong("keep_space"))?,
        })
    }
}

/// A time such as `90`, `15m`, `36h` or `7d`.
pub(crate) fn parse_age(text: &str) -> Result<Duration, String> {
    const UNITS: [(char, u64); 4] = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)];
    let unit = UNITS.into_iter().find(|(letter, _)| text.ends_with(*letter));
    let digits = if unit.is_some() { &text[..text.len() - 1] } else { text };
    let seconds = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit.map_or(1, |(_, unit)| unit)));
    seconds.map(Duration::from_secs).ok_or_else(|| "write it like 90s, 15m, 36h or 7d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_says() {
        let text =
            "[retention]\ndirectory = '/mnt/retention'\nkeep_points = 48\nkeep_for = '7d'\nkeep_space = '500G'\n";
        let config: Config = toml::from_str(text).unwrap();
        assert_eq!(config.retention.directory.as_deref(), Some(Path::new("/mnt/retention")));
        let policy = config.policy().unwrap();
        assert_eq!(policy.keep_for, Some(Duration::from_secs(7 * 86_400)));
        assert_eq!(policy.keep_bytes.map(failback_orchestrate::ByteCount::get), Some(500 << 30));
        assert_eq!(policy.keep_points, Some(48));
        assert!(toml::from_str::<Config>("[retention]\nkeep_point = 3\n").is_err());
        let wrong: Config = toml::from_str("[retention]\nkeep_for = 'soon'\n").unwrap();
        assert!(wrong.policy().unwrap_err().to_string().contains("keep_for"));
    }

    #[test]
    fn what_is_not_taken() {
        let parse = |text: &[u8]| Config::parse(text, Path::new("the file"));
        assert!(parse(b"").is_ok() && parse(b"[retention]\ndirectory = '/a'\nkeep_for = '7d'\n").is_ok());
        for (text, why) in [
            (&b"[retention]\ndirectory = 'a/b'\n"[..], "'a/b' would be another one in each working directory"),
            (b"[retention]\ndirectory = './a'\n", "write it from / on"),
            (b"[retention]\ndirectory = ''\n", "write it from / on"),
            (b"[retention]\ndirectory = '/a'\nkeep_for = 'soon'\n", "keep_for in the configuration: write it like"),
            (b"[retention]\nkeep_space = 'much'\n", "keep_space in the configuration: "),
            (b"[retention]\n\nkeep_point = 3\n", "the file cannot be understood, in line 3: "),
            (b"[retention]\n# \xff\n", "the file cannot be understood, in line 2: it is no UTF-8"),
        ] {
            let said = parse(text).unwrap_err().to_string();
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn ages() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("15m", 900), ("36h", 129_600), ("7d", 604_800), ("0", 0)] {
            assert_eq!(parse_age(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for wrong in ["", "d", "-1d", "1w", "99999999999999999999", "18446744073709551615d"] {
            assert!(parse_age(wrong).is_err(), "{wrong}");
        }
    }
}
