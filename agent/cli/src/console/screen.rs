//! The state as lines of text that fit on a screen.

use super::daemon::DaemonLines;
use super::state::{DiskRow, State};
use crate::look::FIX;
use crate::points::report::span;
use crate::text::{cut, hanging, wrapped};
use failback_machine::{Finding, Job};
use failback_orchestrate::HumanBytes;
use std::fmt::Write;

/// What every screen ends with.
const MENU: &str = "[n]etwork  [l]ogs  [s]hell  [a]dmit  [p]ower  [r]efresh  [q]uit";
/// The width of the names of sections.
const NAMES: usize = 11;
/// Where a look has not told yet.
const UNKNOWN: &str = "not known yet";
/// No screen is taken for narrower or lower than this.
const LEAST: (usize, usize) = (40, 14);

/// The size of a terminal, in characters; without a height everything is printed, and no menu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) width: usize,
    pub(super) height: Option<usize>,
}

/// A part of the screen, which may be shortened.
struct Section {
    name: &'static str,
    lines: Vec<String>,
    /// As many lines stay at least, if there are as many.
    least: usize,
    /// Where the rest is to be seen.
    more: &'static str,
}

/// The whole screen. What does not fit is left out and said: of the disks first, of the problems last.
pub(super) fn render(state: &State, size: Size) -> String {
    let width = size.width.max(LEAST.0);
    let title = format!("failback {}  {}  {} UTC", env!("CARGO_PKG_VERSION"), state.host_name, state.time);
    let mut sections = sections(state, width - NAMES);
    if let Some(height) = size.height {
        // Title and menu, with a blank line at each.
        fit(&mut sections, height.max(LEAST.1).saturating_sub(4));
    }
    let mut text = cut(&title, width) + "\n\n";
    for section in &sections {
        for (index, line) in section.lines.iter().enumerate() {
            let name = if index == 0 { section.name } else { "" };
            let _ = writeln!(text, "{}", cut(format!("{name:NAMES$}{line}").trim_end(), width));
        }
    }
    if size.height.is_some() {
        let _ = write!(text, "\n{}", cut(MENU, width));
    }
    text
}

fn sections(state: &State, width: usize) -> Vec<Section> {
    let addresses = match state.addresses.as_slice() {
        [] => vec!["none: nobody reaches this machine; n sets one".to_owned()],
        some => some.to_vec(),
    };
    let mut problems: Vec<_> = state.problems().into_iter().flat_map(|problem| problem_lines(problem, width)).collect();
    if !state.findings.is_complete() {
        problems.push("not everything has been looked at yet".into());
    } else if problems.is_empty() {
        problems.push("nothing".into());
    }
    let running = match state.jobs.as_deref() {
        None => vec![UNKNOWN.to_owned()],
        Some([]) => vec!["nothing".into()],
        Some(jobs) => jobs.iter().flat_map(|job| wrapped_lines(&job_line(job), width)).collect(),
    };
    let all_lines = |texts: &[String]| texts.iter().flat_map(|line| wrapped_lines(line, width)).collect::<Vec<_>>();
    let (retention, unfinished) = match &state.retention {
        None => (vec![UNKNOWN.to_owned()], Vec::new()),
        Some(told) => (all_lines(&told.lines), all_lines(&told.unfinished)),
    };
    let section = |name, lines, least, more| Section { name, lines, least, more };
    let mut all = Vec::new();
    if let Some(why) = &state.unanswered {
        let mut lines = wrapped_lines(why, width);
        lines.extend(hanging("  => ", FIX, width).lines().map(str::to_owned));
        all.push(section("no answer", lines, 4, "failback check"));
    }
    all.push(section("addresses", addresses, 1, "ip address"));
    all.push(section("retention", retention, 1, "failback point list"));
    all.push(section("runs now", running, 2, "ps"));
    let (daemon, pairs) = daemon_lines(state.daemon.as_ref(), width);
    all.push(section("serve", daemon, 1, "failback enroll show"));
    if !pairs.is_empty() {
        all.push(section("pairs", pairs, 1, "failback pair list, failback jobs"));
    }
    if !unfinished.is_empty() {
        all.push(section("unfinished", unfinished, 2, "failback point list"));
    }
    all.push(section("wrong", problems, 4, "failback check"));
    all.push(section("disks", disk_lines(state, width), 2, "failback disks"));
    all
}

fn wrapped_lines(text: &str, width: usize) -> Vec<String> {
    wrapped(text, width, 2).lines().map(str::to_owned).collect()
}

fn problem_lines(problem: &Finding, width: usize) -> Vec<String> {
    let mut text = hanging(&format!("{} ", problem.level), &problem.message, width);
    if let Some(fix) = &problem.fix {
        text += &hanging("  => ", fix, width);
    }
    text.lines().map(str::to_owned).collect()
}

fn job_line(job: &Job) -> String {
    let mut line = format!("{} (process {})", job.call, job.pid);
    if let Some(seconds) = job.seconds {
        let _ = write!(line, ", for {}", span(seconds));
    }
    if let Some(progress) = &job.progress {
        let _ = write!(line, ", {} {}", progress.what, HumanBytes(progress.done));
        if let Some(total) = progress.total.filter(|total| *total > 0) {
            let percent = u128::from(progress.done) * 100 / u128::from(total);
            let _ = write!(line, " of {} ({percent} %)", HumanBytes(total));
        }
    }
    if let (Some(read), Some(written)) = (job.bytes_read, job.bytes_written) {
        let _ = write!(line, ", {} read and {} written in all", HumanBytes(read), HumanBytes(written));
    }
    line
}

/// What is told of the daemon, and of its pairs.
fn daemon_lines(told: Option<&DaemonLines>, width: usize) -> (Vec<String>, Vec<String>) {
    let Some(told) = told else { return (vec![UNKNOWN.to_owned()], Vec::new()) };
    let mut daemon = wrapped_lines(&told.state, width);
    match &told.key {
        Some(key) => daemon.extend(key_lines(key, width)),
        None => daemon.push("this machine has no key yet: the daemon makes one when it starts".into()),
    }
    (daemon, told.pairs.iter().flat_map(|pair| wrapped_lines(pair, width)).collect())
}

/// A fingerprint in full, however narrow the screen is: it is compared by eye.
fn key_lines(key: &str, width: usize) -> Vec<String> {
    let mut lines = vec!["key ".to_owned()];
    for group in key.split_inclusive(':') {
        let last = lines.last().map_or(0, |line| line.chars().count());
        if last + group.chars().count() > width {
            lines.push("    ".into());
        }
        if let Some(line) = lines.last_mut() {
            line.push_str(group);
        }
    }
    lines
}

fn disk_lines(state: &State, width: usize) -> Vec<String> {
    let disks = match state.disks.as_deref() {
        None => return vec![UNKNOWN.into()],
        Some([]) => return vec!["none is attached, or none can be seen".into()],
        Some(disks) => disks,
    };
    let widest = |of: fn(&DiskRow) -> &str| disks.iter().map(|row| of(row).chars().count()).max().unwrap_or(0).min(32);
    let (name, size, uuid) = (widest(|row| &row.name), widest(|row| &row.size), widest(|row| &row.uuid));
    let lines = |row: &DiskRow| {
        let prefix = format!("{:name$} {:>size$} {:uuid$} ", cut(&row.name, 32), row.size, cut(&row.uuid, 32));
        hanging(&prefix, &row.state, width)
    };
    disks.iter().flat_map(|row| lines(row).lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// Shortens the sections, from the last to the first, until they have no more lines than that; if even the least is too much, lines go
/// from the end.
fn fit(sections: &mut [Section], room: usize) {
    let total = |sections: &[Section]| sections.iter().map(|section| section.lines.len()).sum::<usize>();
    for index in (0..sections.len()).rev() {
        let over = total(sections).saturating_sub(room);
        if over == 0 {
            return;
        }
        let section = &mut sections[index];
        let keep = section.lines.len().saturating_sub(over).max(section.least);
        shorten(section, keep);
    }
    for index in (0..sections.len()).rev() {
        let over = total(sections).saturating_sub(room);
        let section = &mut sections[index];
        let keep = section.lines.len().saturating_sub(over).max(1);
        shorten(section, keep);
    }
}

/// Leaves as many lines; the last of them says how many are missing.
fn shorten(section: &mut Section, keep: usize) {
    let missing = section.lines.len().saturating_sub(keep);
    if missing == 0 {
        return;
    }
    section.lines.truncate(keep.saturating_sub(1));
    section.lines.push(format!("... {} more lines: {}", missing + 1, section.more));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::state::RetentionLines;
    use failback_machine::{CHECKS, Findings, JobProgress, Level};

    fn state(disks: usize, problems: usize) -> State {
        let disk = |number| DiskRow {
            name: format!("sd{number}"),
            size: "40.0 GiB".into(),
            uuid: format!("6000c299{number:024x}"),
            state: "usable, kept read-only".into(),
        };
        let problem = |number| Finding {
            check: "clock".into(),
            level: if number == 2 { Level::Fail } else { Level::Warn },
            message: format!(
                "problem {number} with a sentence that is longer than a line of a terminal is wide, by far"
            ),
            fix: Some("mend it".into()),
        };
        let job = Job {
            pid: 812,
            call: "apply new.delta /dev/sdb".into(),
            seconds: Some(200),
            bytes_read: Some(1 << 30),
            bytes_written: Some(1 << 20),
            progress: Some(JobProgress { what: "writing".into(), done: 1 << 20, total: Some(4 << 20) }),
        };
        let mut findings = Findings::default();
        for name in CHECKS {
            findings.answer(name, if name == "clock" { (0..problems).map(problem).collect() } else { vec![] });
        }
        let lines = vec!["/var/lib/failback/retention, 1.0 TiB of 2.0 TiB free".into()];
        State {
            host_name: "target".into(),
            time: "2026-11-25 17:30".into(),
            addresses: vec!["ens192 192.0.2.10/24".into()],
            retention: Some(RetentionLines { lines, unfinished: vec![] }),
            jobs: Some(vec![job]),
            daemon: Some(DaemonLines {
                runs: true,
                state: "runs, version 1, 2 machines let in, 1 job at work".into(),
                key: Some(["0f1e"; 16].join(":")),
                pairs: vec!["web: nvme1n1 -> 6000c29; replicate running".into()],
                working: Some(vec!["replicate running of web".into()]),
            }),
            disks: Some((0..disks).map(disk).collect()),
            findings,
            unanswered: None,
        }
    }

    fn on(state: &State, width: usize, height: usize) -> String {
        let text = render(state, Size { width, height: Some(height) });
        assert!(text.lines().count() <= height.max(LEAST.1), "{height}\n{text}");
        assert!(text.lines().all(|line| line.chars().count() <= width.max(LEAST.0)), "{text}");
        text
    }

    #[test]
    fn everything_where_there_is_room() {
        let text = on(&state(2, 1), 80, 24);
        let wanted =
            format!("failback {}  target  2026-11-25 17:30 UTC\n\naddresses  ens192", env!("CARGO_PKG_VERSION"));
        assert!(text.starts_with(&wanted), "{text}");
        for part in [
            "sd1 40.0 GiB 6000c299",
            "warn problem 0",
            "  => mend it",
            "(process 812), for 3 min",
            "4.0 MiB (25 %)",
            "[p]ower",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains("more lines"), "{text}");
        assert!(on(&state(0, 0), 80, 24).contains("wrong      nothing\n"));
        // A fingerprint is there in full.
        for width in [40, 80, 132] {
            let text: String = on(&state(0, 0), width, 50).split_whitespace().collect();
            assert!(text.contains(&["0f1e"; 16].join(":")), "{text}");
            assert!(text.contains("pairsweb:nvme1n1->6000c29;replicaterunning"), "{text}");
        }
    }

    #[test]
    fn what_has_no_room_is_said() {
        let text = on(&state(60, 8), 80, 24);
        assert!(text.contains("more lines: failback disks") && text.contains("more lines: failback check"), "{text}");
        assert!(text.find("FAIL problem 2").unwrap() < text.find("warn problem 0").unwrap(), "the gravest is first");
        for (width, height) in [(80, 25), (40, 12), (132, 50), (10, 3), (0, 0)] {
            assert!(on(&state(60, 8), width, height).contains("FAIL problem 2"));
        }
    }

    #[test]
    fn what_is_not_known_is_not_said_to_be_nothing() {
        let text = on(&State::default(), 80, 24);
        assert_eq!(text.matches("not known yet").count(), 4, "{text}");
        assert!(text.contains("wrong      not everything has been looked at yet\n"), "{text}");
        assert!(!text.contains("nothing") && !text.contains("no answer"), "{text}");
    }

    #[test]
    fn a_disk_that_does_not_answer_is_told_first_and_all_else_stays() {
        let why = Some("nothing from /dev/sdb since 2026-11-25 17:29 UTC; what is shown is older".to_owned());
        for (width, height) in [(80, 24), (132, 50), (40, 12)] {
            let text = on(&State { unanswered: why.clone(), ..state(60, 8) }, width, height);
            let first = text.lines().nth(2).unwrap();
            assert!(first.starts_with("no answer  nothing from /dev/sdb"), "{text}");
            assert!(height < 24 || text.contains("FAIL problem 2"), "{text}");
        }
        let text = on(&State { unanswered: why, ..state(2, 1) }, 80, 30);
        assert!(
            text.contains("  => see what the kernel says of it (`dmesg`)") && text.contains("sd1 40.0 GiB"),
            "{text}"
        );
    }

    #[test]
    fn without_a_height_nothing_is_left_out() {
        let text = render(&state(60, 8), Size { width: 80, height: None });
        assert_eq!(text.matches("6000c299").count(), 60);
        assert_eq!(text.matches("=> mend it").count(), 8);
        assert!(!text.contains("[q]uit"));
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'));
    }
}
