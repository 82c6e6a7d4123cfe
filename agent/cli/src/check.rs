//! The verb check: what is wrong with this machine as a master target, and what mends it.

use crate::args::CheckArgs;
use crate::config::Config;
use crate::exit;
use crate::report::print_bytes;
use crate::text::{WIDTH, hanging, with_causes};
use anyhow::Result;
use failback_machine::{Facts, Finding, Host, Level};
use failback_orchestrate::io_uring_refusal;
use serde_json::{Value, json};
use std::fmt::Write;
use std::process::ExitCode;

/// As many columns as the level takes, and the longest name of a check.
const INDENT: usize = 4 + 2 + 14 + 2;

pub(crate) fn check(args: &CheckArgs) -> Result<ExitCode> {
    let findings = findings();
    let report =
        if args.json { serde_json::to_string_pretty(&object(&findings))? + "\n" } else { lines(&findings, WIDTH) };
    print_bytes(report.as_bytes())?;
    Ok(if worst(&findings) == Level::Fail { ExitCode::from(exit::REFUSED) } else { ExitCode::SUCCESS })
}

/// Everything that is found on this machine.
pub(crate) fn findings() -> Vec<Finding> {
    let retention = Config::load().map(|config| config.retention.directory).map_err(|error| with_causes(&error));
    failback_machine::check(&Host::this(), &Facts { retention, io_uring: io_uring_refusal() })
}

pub(crate) fn object(findings: &[Finding]) -> Value {
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    json!({
        "result": worst(findings),
        "failures": count(Level::Fail),
        "warnings": count(Level::Warn),
        "checks": findings,
    })
}

fn worst(findings: &[Finding]) -> Level {
    findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
}

/// A line for each finding, and below it what mends it.
fn lines(findings: &[Finding], width: usize) -> String {
    let mut text = String::new();
    for finding in findings {
        let prefix = format!("{:4}  {:14}  ", finding.level, finding.check);
        debug_assert_eq!(prefix.len(), INDENT);
        text += &hanging(&prefix, &finding.message, width);
        if let Some(fix) = &finding.fix {
            text += &hanging(&format!("{:INDENT$}=> ", ""), fix, width);
        }
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let _ = writeln!(text, "\n{} failed, {} warned of", count(Level::Fail), count(Level::Warn));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_and_its_fix() {
        let findings = [
            Finding { check: "clock", level: Level::Ok, message: "right".into(), fix: None },
            Finding {
                check: "foreign-disks",
                level: Level::Fail,
                message: "word ".repeat(30).trim().into(),
                fix: Some("mend ".repeat(30).trim().into()),
            },
        ];
        let text = lines(&findings, WIDTH);
        assert!(text.starts_with("ok    clock           right\nFAIL  foreign-disks   word"), "{text}");
        assert!(text.contains("\n                      => mend mend"), "{text}");
        assert!(text.ends_with("\n\n1 failed, 0 warned of\n"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        let object = object(&findings);
        assert_eq!((&object["result"], &object["failures"]), (&json!("fail"), &json!(1)));
        assert_eq!(object["checks"][0], json!({ "check": "clock", "level": "ok", "message": "right", "fix": null }));
    }
}
