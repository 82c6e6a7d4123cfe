//! What the keys of the console do.

use super::logs;
use super::state::State;
use super::terminal::{Terminal, read_line};
use failback_machine::{Host, has_systemd, is_live};
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;

/// The menu for the machine's address.
const NETWORK: &str = "/usr/libexec/failback/network";

/// What comes after a key.
pub(super) enum Next {
    /// Nothing has changed.
    Stay,
    /// The screen is to be drawn anew, with what is so now.
    Look,
    /// The console ends.
    Leave,
}

/// Does what a key says.
pub(super) fn act(key: u8, host: &Host, state: &State, terminal: &mut Terminal) -> io::Result<Next> {
    match key.to_ascii_lowercase() {
        b'n' => network(host, terminal)?,
        b'l' => logs::show(host, terminal)?,
        b's' => shell(host, state, terminal)?,
        b'p' => power(host, state, terminal)?,
        b'r' => {}
        b'q' => return Ok(Next::Leave),
        _ => return Ok(Next::Stay),
    }
    Ok(Next::Look)
}

fn network(host: &Host, terminal: &mut Terminal) -> io::Result<()> {
    terminal.show("")?;
    terminal.lend(|| {
        let program = host.path(NETWORK);
        if !program.exists() {
            return pause(&format!("There is no {NETWORK} here: set the address with the tools of this system."));
        }
        run(&mut Command::new(program))
    })
}

fn shell(host: &Host, state: &State, terminal: &mut Terminal) -> io::Result<()> {
    terminal.show("")?;
    terminal.lend(|| {
        // Whoever stands before such a system has it all.
        if is_live(host) {
            println!("A shell. `exit` leads back.");
            return run(Command::new("/bin/sh").arg("-l"));
        }
        let address = state.addresses.first().and_then(|line| line.split([' ', '/']).nth(1)).unwrap_or("ADDRESS");
        println!(
            "Root has no password on an appliance: with the key that was given at its installation, `ssh root@{address}` leads to a\n\
             shell. Here, other users can log in; ending the input (Ctrl-D) leads back."
        );
        let login = ["/usr/bin/login", "/bin/login"].into_iter().find(|path| Path::new(path).exists());
        match login {
            Some(login) => run(&mut Command::new(login)),
            None => pause("There is no login on this system."),
        }
    })
}

fn power(host: &Host, state: &State, terminal: &mut Terminal) -> io::Result<()> {
    terminal.show("")?;
    terminal.lend(|| {
        for job in &state.jobs {
            println!("This runs now, and would be interrupted: {} (process {})", job.call, job.pid);
        }
        print!("Type `off` to switch this machine off, `reboot` to start it again, or only Enter to go back: ");
        io::stdout().flush()?;
        let systemd = has_systemd(host);
        match (read_line()?.as_str(), systemd) {
            ("off", true) => run(Command::new("systemctl").arg("poweroff")),
            ("reboot", true) => run(Command::new("systemctl").arg("reboot")),
            ("off", false) => run(&mut Command::new("poweroff")),
            ("reboot", false) => run(&mut Command::new("reboot")),
            _ => Ok(()),
        }
    })
}

/// Runs a program on the terminal; a program that cannot be started is told.
fn run(command: &mut Command) -> io::Result<()> {
    match command.status() {
        Ok(_) => Ok(()),
        Err(error) => pause(&format!("{} cannot be started: {error}", command.get_program().to_string_lossy())),
    }
}

fn pause(sentence: &str) -> io::Result<()> {
    print!("{sentence}\nEnter leads back. ");
    io::stdout().flush()?;
    read_line().map(drop)
}
