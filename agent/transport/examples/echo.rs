//! Sends back what comes on standard input, as `failback serve --stdio` would speak there. Tests run it as the other side.

use failback_transport::{Limits, stdio_link};
use std::io::{self, Write};
use std::time::Duration;

fn main() -> std::process::ExitCode {
    let argument = std::env::args().nth(1).and_then(|millis| millis.parse().ok());
    let silence = argument.map_or(Limits::default().silence, Duration::from_millis);
    let mut link = match stdio_link(Limits { silence, ..Limits::default() }) {
        Ok(link) => link,
        Err(error) => {
            eprintln!("{error}");
            return 2.into();
        }
    };
    println!("this is not part of any message");
    drop(io::stdout().flush());
    match io::copy(&mut link.reader, &mut link.writer) {
        Ok(_) => 0.into(),
        Err(error) => {
            eprintln!("{error}");
            3.into()
        }
    }
}
