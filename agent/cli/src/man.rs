//! The man pages: one for each verb, from what the command line says of itself.

use crate::args::Arguments;
use crate::exit;
use anyhow::Context;
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use std::path::Path;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};
use std::{env, fs, io};
use time::OffsetDateTime;

/// Writes all pages into `directory`. The day on them is that of `SOURCE_DATE_EPOCH`, so that packages are the same each time,
/// or else today.
pub(crate) fn man_pages(directory: &Path) -> anyhow::Result<ExitCode> {
    let mut program = Arguments::command();
    program.build();
    write_pages(&program, None, &day(), directory)
        .with_context(|| format!("cannot write man pages into {}", directory.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// The page of a command and those of the commands below it.
fn write_pages(command: &Command, above: Option<&str>, day: &str, directory: &Path) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    fs::write(directory.join(format!("{name}.1")), page(command, name, above, day)?)?;
    command.get_subcommands().try_for_each(|below| write_pages(below, Some(name), day, directory))
}

fn page(command: &Command, name: &str, above: Option<&str>, day: &str) -> io::Result<String> {
    let program = concat!("failback ", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).title(name.to_uppercase()).date(day).source(program).manual("failback");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let mut rest = Roff::new();
    exit_status(&mut rest);
    see_also(&mut rest, above);
    rest.to_writer(&mut page)?;
    // Each section comes with the same definitions; they belong at the top only.
    let definitions = Roff::new().render();
    let text = String::from_utf8(page).map_err(io::Error::other)?;
    Ok(definitions.clone() + &text.replace(&definitions, ""))
}

fn exit_status(roff: &mut Roff) {
    roff.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in exit::meanings() {
        roff.control("TP", []);
        roff.text([bold(code)]);
        roff.text([roman(meaning)]);
    }
}

fn see_also(roff: &mut Roff, above: Option<&str>) {
    roff.control("SH", ["SEE ALSO"]);
    let reference = |name: &str, section| [bold(name), roman(section)];
    let mut pages = Vec::new();
    if let Some(above) = above {
        pages.extend(reference(above, "(1), "));
    }
    pages.extend(reference("failback.toml", "(5)"));
    roff.text(pages);
}

/// A day as man pages have it: `2026-11-25`.
fn day() -> String {
    let given = env::var("SOURCE_DATE_EPOCH").ok().and_then(|seconds| seconds.parse::<i64>().ok());
    let seconds = given.or_else(|| i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs()).ok());
    let date = seconds.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    let date = date.unwrap_or(OffsetDateTime::UNIX_EPOCH).date();
    format!("{:04}-{:02}-{:02}", date.year(), u8::from(date.month()), date.day())
}
