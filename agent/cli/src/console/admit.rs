//! Lets a machine in: a token that can be used once, and how.

use super::daemon::DaemonLines;
use super::menu::pause;
use super::terminal::{Terminal, read_line};
use super::watch::Watch;
use crate::control::issue;
use crate::text::with_causes;
use failback_credentials::Role;
use failback_machine::plain;
use std::io::{self, Write};
use std::time::Duration;

/// How long the token can be used.
const EXPIRES: Duration = Duration::from_secs(60 * 60);

/// Asks what the machine is to be called, and shows a token for it. It may join as a source then, and no more: what it sends is taken
/// only for pairs that somebody with a shell here binds to it.
pub(super) fn admit(watch: &mut Watch, terminal: &mut Terminal) -> io::Result<()> {
    terminal.show("")?;
    let daemon = watch.daemon_now().clone();
    let (place, addresses) = (watch.place().clone(), watch.state.addresses.clone());
    terminal.lend(|| {
        print!(
            "A machine that is let in may send disks here, each to the pair that an administrator binds it to (failback pair add).\n\
             What is it to be called here: letters, digits, dots and dashes; only Enter to go back: "
        );
        io::stdout().flush()?;
        let name = read_line()?;
        if name.is_empty() {
            return Ok(());
        }
        match issue(&place, &name, Role::Source, EXPIRES, None) {
            Ok(issued) => {
                let key = issued.fingerprint.to_string();
                pause(&instructions(&plain(&name), &issued.token.reveal(), &key, &addresses, &daemon))
            }
            Err(error) => pause(&plain(&with_causes(error.as_ref()))),
        }
    })
}

fn instructions(name: &str, token: &str, key: &str, addresses: &[String], daemon: &DaemonLines) -> String {
    let address = addresses.first().and_then(|line| line.split([' ', '/']).nth(1)).unwrap_or("ADDRESS");
    let trouble =
        if daemon.runs { String::new() } else { format!("\nIt cannot join now: failback serve {}.\n", daemon.state) };
    format!(
        "\nThe token, for one machine, once, within {} min; whoever has it can join as {name}:\n\n  {token}\n\n\
         On that machine, as root, call this, give it the token and end the input (Ctrl-D):\n\n  failback enroll join {address}\n\n\
         It says then that it has joined a machine with this fingerprint:\n\n  {key}\n{trouble}",
        EXPIRES.as_secs() / 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_to_use_a_token_and_whether_it_can_be_used_now() {
        let runs = DaemonLines { runs: true, ..DaemonLines::default() };
        let addresses = ["ens192 192.0.2.10/24 2001:db8::1/64".to_owned()];
        let text = instructions("web", "TOKEN", "KEY", &addresses, &runs);
        assert!(text.contains("\n  failback enroll join 192.0.2.10\n") && text.contains("\n  TOKEN\n"), "{text}");
        assert!(text.contains("within 60 min") && text.contains("as web:") && !text.contains("cannot join"), "{text}");
        let ended = DaemonLines { state: "does not run".into(), ..DaemonLines::default() };
        let text = instructions("web", "TOKEN", "KEY", &[], &ended);
        assert!(text.contains("cannot join now: failback serve does not run."), "{text}");
        assert!(text.contains("enroll join ADDRESS\n"), "{text}");
    }
}
