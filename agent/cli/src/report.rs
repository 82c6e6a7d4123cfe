//! What is printed at the end: lines for people, or one JSON object with stable names.

use anyhow::{Context, Result};
use failback_orchestrate::HumanBytes;
use serde::Serialize;
use std::fmt::{self, Display};
use std::io::{self, Write};

/// Lines of a name and a value, with the values below each other.
#[derive(Default)]
pub(crate) struct Lines(Vec<(String, String)>);

impl Lines {
    pub(crate) fn add(&mut self, name: &str, value: impl Display) -> &mut Self {
        self.0.push((name.to_owned(), value.to_string()));
        self
    }

    pub(crate) fn bytes(&mut self, name: &str, bytes: u64) -> &mut Self {
        let text =
            if bytes < 1024 { format!("{bytes} bytes") } else { format!("{bytes} bytes ({})", HumanBytes(bytes)) };
        self.add(name, text)
    }

    /// Bytes, the time they took and the rate.
    pub(crate) fn rate(&mut self, bytes: u64, seconds: f64) -> &mut Self {
        let rate = HumanBytes(rate(bytes, seconds));
        self.add("time", format!("{seconds:.2} s ({rate}/s)"))
    }
}

impl Display for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.0.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        for (name, value) in &self.0 {
            let mut rows = value.lines();
            writeln!(f, "{name:width$}  {}", rows.next().unwrap_or_default())?;
            for row in rows {
                writeln!(f, "{:width$}  {row}", "")?;
            }
        }
        Ok(())
    }
}

fn rate(bytes: u64, seconds: f64) -> u64 {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate for people to read"
    )]
    let rate = (bytes as f64 / seconds.max(1e-6)) as u64;
    rate
}

/// Tells something on standard error. Where that cannot be written, as when the log's file system is full, nothing is told:
/// a job is not given up in the middle of a disk for that.
pub(crate) fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Prints a report in the form that was asked for.
pub(crate) fn print(json: bool, object: &impl Serialize, lines: &Lines) -> Result<()> {
    let text = if json { serde_json::to_string_pretty(object)? + "\n" } else { lines.to_string() };
    print_bytes(text.as_bytes())
}

/// Prints to standard output. A reader that went away (a closed pipe) is no error of ours.
pub(crate) fn print_bytes(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}
