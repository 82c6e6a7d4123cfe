//! The verb console: what an administrator who stands before the machine has to see, and a few keys.

mod admit;
mod daemon;
mod logs;
mod menu;
mod screen;
mod state;
mod terminal;
mod watch;

pub(crate) use state::{DiskRow, RetentionLines, rows};

use crate::args::ConsoleArgs;
use crate::control::Place;
use crate::look::{LIMIT, Looking, Part};
use crate::report::print_bytes;
use anyhow::{Context, Result};
use failback_machine::Host;
use failback_orchestrate::JobError;
use menu::Next;
use screen::{Size, render};
use state::State;
use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;
use terminal::{Event, Terminal};
use watch::Watch;

/// How long a key is waited for while answers are on their way, and while none are.
const WAITS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1));

pub(crate) fn console(args: &ConsoleArgs) -> Result<ExitCode> {
    let host = Host::this();
    if args.once {
        let width = terminal::size().width;
        let text = render(&look_once(&host, &args.place)?, Size { width, height: None });
        print_bytes(text.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        let sentence = "the console needs a terminal for its keys: run it on one, or add --once to print it and end";
        return Err(JobError::Refused(sentence.into()).into());
    }
    let mut terminal = Terminal::open()?;
    let ended = show(&host, &args.place, &mut terminal);
    drop(terminal);
    Ok(ended?)
}

/// What one look tells.
fn look_once(host: &Host, place: &Place) -> Result<State> {
    let looking = Looking::at(&[Part::Jobs, Part::Screen, Part::Checks]).context("cannot look at this machine")?;
    let mut state = State::default();
    state.ask_kernel(host);
    state.daemon = Some(daemon::ask_now(place));
    state.unanswered = looking.all(LIMIT, None, |answer| state.take(answer));
    Ok(state)
}

/// Shows the state until somebody leaves.
fn show(host: &Host, place: &Place, terminal: &mut Terminal) -> io::Result<ExitCode> {
    let mut watch = Watch::new(place);
    let mut shown = String::new();
    loop {
        watch.step(host);
        let text = render(&watch.state, terminal::size());
        if text != shown {
            terminal.show(&text)?;
            shown = text;
        }
        match terminal.wait(if watch.is_looking() { WAITS.0 } else { WAITS.1 })? {
            Event::Nothing => {}
            Event::Key(key) => match menu::act(key, host, &mut watch, terminal)? {
                Next::Stay => {}
                Next::Leave => return Ok(ExitCode::SUCCESS),
                Next::Look => {
                    watch.hurry();
                    shown.clear();
                }
            },
            Event::Redraw => shown.clear(),
            Event::Closed => return Ok(ExitCode::SUCCESS),
            Event::Signal(signal) => return Ok(ExitCode::from(128_u8.saturating_add(signal))),
        }
    }
}
