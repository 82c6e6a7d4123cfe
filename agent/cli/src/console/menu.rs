//! What the keys of the console do.

use super::admit;
use super::daemon::DaemonLines;
use super::logs;
use super::terminal::{Terminal, read_line};
use super::watch::Watch;
use failback_machine::{Host, Job, has_systemd, is_live};
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The menu for the machine's address.
const NETWORK: &str = "/usr/libexec/failback/network";

/// As long it is asked what runs, before this machine may be switched off.
const PATIENCE: Duration = Duration::from_secs(5);

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
pub(super) fn act(key: u8, host: &Host, watch: &mut Watch, terminal: &mut Terminal) -> io::Result<Next> {
    match key.to_ascii_lowercase() {
        b'n' => network(host, terminal)?,
        b'l' => logs::show(host, terminal)?,
        b's' => shell(host, &watch.state.addresses, terminal)?,
        b'a' => admit::admit(watch, terminal)?,
        b'p' => power(host, watch, terminal)?,
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

fn shell(host: &Host, addresses: &[String], terminal: &mut Terminal) -> io::Result<()> {
    terminal.show("")?;
    terminal.lend(|| {
        // Whoever stands before such a system has it all.
        if is_live(host) {
            println!("A shell. `exit` leads back.");
            return run(Command::new("/bin/sh").arg("-l"));
        }
        let address = addresses.first().and_then(|line| line.split([' ', '/']).nth(1)).unwrap_or("ADDRESS");
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

fn power(host: &Host, watch: &mut Watch, terminal: &mut Terminal) -> io::Result<()> {
    terminal.show("")?;
    // What the screen shows may be old.
    let now = watch.jobs_now(PATIENCE);
    let daemon = of_daemon(watch.daemon_now());
    let seen = watch.state.jobs.as_deref();
    terminal.lend(|| {
        print!("{}{daemon}", of_jobs(now.as_deref(), seen));
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

/// What runs, and would be interrupted: what was told just now, or else what was seen before.
fn of_jobs(now: Option<&[Job]>, seen: Option<&[Job]>) -> String {
    let list = |what: &str, jobs: &[Job]| {
        let line = |job: &Job| format!("{what}, and would be interrupted: {} (process {})\n", job.call, job.pid);
        jobs.iter().map(line).collect::<String>()
    };
    match now {
        Some([]) => "No failback command runs now.\n".into(),
        Some(jobs) => list("This runs now", jobs),
        None => {
            let why = "What runs now is not known, since nothing answered: an apply may be under way.\n".to_owned();
            why + &list("This ran before", seen.unwrap_or_default())
        }
    }
}

/// What the daemon does, which goes on when it runs again.
fn of_daemon(told: &DaemonLines) -> String {
    match &told.working {
        Some(working) => {
            let line =
                |job: &String| format!("The daemon does this now, and would go on with it at the next start: {job}\n");
            working.iter().map(line).collect()
        }
        None => format!("What the daemon does is not known, since it {}.\n", told.state),
    }
}

/// Runs a program on the terminal; a program that cannot be started is told.
fn run(command: &mut Command) -> io::Result<()> {
    match command.status() {
        Ok(_) => Ok(()),
        Err(error) => pause(&format!("{} cannot be started: {error}", command.get_program().to_string_lossy())),
    }
}

pub(super) fn pause(sentence: &str) -> io::Result<()> {
    print!("{sentence}\nEnter leads back. ");
    io::stdout().flush()?;
    read_line().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_daemon_does_is_told_before_the_power_goes() {
        let told = |working| DaemonLines { state: "does not answer".into(), working, ..DaemonLines::default() };
        assert_eq!(of_daemon(&told(Some(vec![]))), "");
        let text = of_daemon(&told(Some(vec!["replicate running of web".into()])));
        assert!(text.ends_with("at the next start: replicate running of web\n"), "{text}");
        assert_eq!(of_daemon(&told(None)), "What the daemon does is not known, since it does not answer.\n");
    }

    #[test]
    fn nothing_runs_only_if_that_is_known() {
        let call = "apply new.delta /dev/sdb".to_owned();
        let job = Job { pid: 812, call, seconds: None, bytes_read: None, bytes_written: None, progress: None };
        assert_eq!(of_jobs(Some(&[]), Some(std::slice::from_ref(&job))), "No failback command runs now.\n");
        let text = of_jobs(Some(std::slice::from_ref(&job)), None);
        assert_eq!(text, "This runs now, and would be interrupted: apply new.delta /dev/sdb (process 812)\n");
        for seen in [None, Some([job].as_slice())] {
            let text = of_jobs(None, seen);
            assert!(text.starts_with("What runs now is not known"), "{text}");
            assert_eq!(text.contains("This ran before, and would"), seen.is_some(), "{text}");
        }
    }
}
