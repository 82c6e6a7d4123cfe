//! The verb check: what is wrong with this machine as a master target, and what mends it.

use crate::args::CheckArgs;
use crate::exit;
use crate::look::{self, Answer, Looking, Part};
use crate::report::print_bytes;
use crate::text::{WIDTH, hanging};
use anyhow::{Context, Result};
use failback_machine::{Finding, Findings, Level};
use serde_json::{Value, json};
use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

/// As many columns as the level takes, and the longest name of a check.
const INDENT: usize = 4 + 2 + 14 + 2;

pub(crate) fn check(args: &CheckArgs) -> Result<ExitCode> {
    let looking = Looking::at(&[Part::Checks]).context("cannot look at this machine")?;
    let findings: Vec<_> = findings(looking, look::LIMIT).iter().cloned().collect();
    let report =
        if args.json { serde_json::to_string_pretty(&object(&findings))? + "\n" } else { lines(&findings, WIDTH) };
    print_bytes(report.as_bytes())?;
    Ok(if worst(&findings) == Level::Fail { ExitCode::from(exit::REFUSED) } else { ExitCode::SUCCESS })
}

/// Everything that a look finds; what does not answer fails.
fn findings(looking: Looking, limit: Duration) -> Findings {
    let mut found = Findings::default();
    let missing = looking.all(limit, Some(look::LIMIT_OF_ALL), |answer| {
        if let Answer::Check(name, findings) = answer {
            found.answer(&name, findings);
        }
    });
    if let Some(why) = missing {
        found.fail_the_rest(&why, look::FIX);
    }
    found
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
    use std::process::Command;

    #[test]
    fn what_does_not_answer_fails_and_all_else_is_told() {
        let script = r#"echo '{"Check":["kernel",[{"check":"kernel","level":"ok","message":"Linux 6.12","fix":null}]]}'
                        echo '{"Check":["start",[]]}'; echo '{"At":"/dev/sdb"}'; exec sleep 60"#;
        let looking = Looking::by(Command::new("sh").args(["-c", script])).unwrap();
        let found: Vec<_> = findings(looking, Duration::from_secs(1)).iter().cloned().collect();
        let text = lines(&found, WIDTH);
        assert!(text.contains("\nok    kernel          Linux 6.12\n"), "{text}");
        assert!(text.starts_with("FAIL  disk-uuid       no answer after 1 s from /dev/sdb\n"), "{text}");
        assert!(text.contains("=> see what the kernel says of it (`dmesg`)"), "{text}");
        assert!(text.ends_with("\n9 failed, 0 warned of\n"), "{text}");
    }

    #[test]
    fn a_line_and_its_fix() {
        let findings = [
            Finding { check: "clock".into(), level: Level::Ok, message: "right".into(), fix: None },
            Finding {
                check: "foreign-disks".into(),
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
