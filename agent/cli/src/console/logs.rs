//! The logs, a page at a time.
//!
//! No pager of the system shows them: those can start a shell, and this console may stand before anybody.

use super::terminal::{self, Event, Terminal};
use crate::text::cut;
use failback_machine::{Host, Stays, plain, run_bounded};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::process::Command;
use std::time::Duration;

/// Where the log is without a journal.
const FILE: &str = "/var/log/failback.log";
/// As much of its end is shown.
const MOST: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(20);
/// A signal that comes just before a key is waited for is seen after that.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The lines of the log, made harmless.
fn read(host: &Host) -> Vec<String> {
    let mut journal = Command::new("journalctl");
    journal.args(["--boot", "--no-pager", "--output=short-iso", "--lines=2000", "--unit=failback*"]);
    let most = usize::try_from(MOST).unwrap_or(usize::MAX);
    let said = match run_bounded(&mut journal, most, Stays::End, PATIENCE) {
        Ok(ended) if ended.code == Some(0) => ended.said,
        _ => end_of(host).unwrap_or_default(),
    };
    let lines: Vec<_> = String::from_utf8_lossy(&said).lines().map(plain).collect();
    if lines.is_empty() { vec![format!("nothing: there is no journal of failback's, and no {FILE}")] } else { lines }
}

fn end_of(host: &Host) -> io::Result<Vec<u8>> {
    let mut file = File::open(host.path(FILE))?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MOST)))?;
    let mut said = Vec::new();
    file.take(MOST).read_to_end(&mut said)?;
    Ok(said)
}

/// Shows the logs until somebody leaves; begins at the end.
pub(super) fn show(host: &Host, terminal: &Terminal) -> io::Result<()> {
    let lines = read(host);
    let mut first = usize::MAX;
    let mut shown = String::new();
    loop {
        let size = terminal::size();
        let rows = size.height.unwrap_or(24).saturating_sub(2).max(1);
        first = first.min(lines.len().saturating_sub(rows));
        let text = page(&lines, first, rows, size.width);
        if text != shown {
            terminal.show(&text)?;
            shown = text;
        }
        match terminal.wait(LOOK_AGAIN)? {
            Event::Key(b' ' | b'\n' | b'\r') => first = first.saturating_add(rows),
            Event::Key(b'b') => first = first.saturating_sub(rows),
            Event::Key(b'g') => first = 0,
            Event::Key(b'G') => first = usize::MAX,
            Event::Key(b'q') | Event::Closed | Event::Signal(_) => return Ok(()),
            Event::Redraw => shown.clear(),
            Event::Key(_) | Event::Nothing => {}
        }
    }
}

fn page(lines: &[String], first: usize, rows: usize, width: usize) -> String {
    let shown = lines.iter().skip(first).take(rows);
    let text: String = shown.map(|line| cut(line, width) + "\n").collect();
    let last = (first + rows).min(lines.len());
    let keys = "space on  b back  g first  G last  q leave";
    text + "\n" + &cut(&format!("lines {} to {last} of {}   {keys}", first + 1, lines.len()), width)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages() {
        let lines: Vec<_> = (0..30).map(|number| format!("line {number}")).collect();
        let text = page(&lines, 20, 22, 80);
        assert!(text.starts_with("line 20\n") && text.contains("line 29\n\nlines 21 to 30 of 30"), "{text}");
        assert!(page(&lines, 0, 22, 80).lines().count() <= 24);
        assert!(page(&["x".repeat(200)], 0, 1, 40).lines().all(|line| line.chars().count() <= 40));
    }

    #[test]
    fn hostile_lines_are_harmless() {
        let base = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(base.path().join("var/log")).unwrap();
        std::fs::write(base.path().join("var/log/failback.log"), b"a\x1b[2Jb\n\xff\n").unwrap();
        let said = end_of(&Host::below(base.path())).unwrap();
        assert!(said.starts_with(b"a\x1b"), "as it is in the file");
        assert!(read(&Host::below(base.path())).iter().all(|line| !line.contains(char::is_control)));
    }
}
