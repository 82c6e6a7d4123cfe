//! The verb console: what an administrator who stands before the machine has to see, and a few keys.

mod logs;
mod menu;
mod screen;
mod state;
mod terminal;

use crate::args::ConsoleArgs;
use crate::report::print_bytes;
use anyhow::Result;
use failback_machine::Host;
use failback_orchestrate::JobError;
use menu::Next;
use screen::{Size, render};
use state::State;
use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use terminal::{Event, Terminal};

/// How often the state is looked at. A look opens every disk for a moment.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How often everything is checked, which takes longer.
const CHECK_EVERY: Duration = Duration::from_secs(60);

pub(crate) fn console(args: &ConsoleArgs) -> Result<ExitCode> {
    let host = Host::this();
    if args.once {
        let width = terminal::size().width;
        let text = render(&State::read(&host, None), Size { width, height: None });
        print_bytes(text.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        let sentence = "the console needs a terminal for its keys: run it on one, or add --once to print it and end";
        return Err(JobError::Refused(sentence.into()).into());
    }
    let mut terminal = Terminal::open()?;
    let ended = watch(&host, &mut terminal);
    drop(terminal);
    Ok(ended?)
}

/// Shows the state until somebody leaves.
fn watch(host: &Host, terminal: &mut Terminal) -> io::Result<ExitCode> {
    let mut state = State::read(host, None);
    let (mut looked, mut checked) = (Instant::now(), Instant::now());
    let mut shown = String::new();
    loop {
        let text = render(&state, terminal::size());
        if text != shown {
            terminal.show(&text)?;
            shown = text;
        }
        match terminal.wait(Duration::from_secs(1))? {
            Event::Nothing => {}
            Event::Key(key) => {
                match menu::act(key, host, &state, terminal)? {
                    Next::Stay => continue,
                    Next::Leave => return Ok(ExitCode::SUCCESS),
                    Next::Look => {}
                }
                shown.clear();
                (state, looked, checked) = (State::read(host, None), Instant::now(), Instant::now());
            }
            Event::Redraw => shown.clear(),
            Event::Closed => return Ok(ExitCode::SUCCESS),
            Event::Signal(signal) => return Ok(ExitCode::from(128_u8.saturating_add(signal))),
        }
        if checked.elapsed() >= CHECK_EVERY {
            (state, looked, checked) = (State::read(host, None), Instant::now(), Instant::now());
        } else if looked.elapsed() >= LOOK_EVERY {
            let findings = std::mem::take(&mut state.findings);
            (state, looked) = (State::read(host, Some(findings)), Instant::now());
        }
    }
}
