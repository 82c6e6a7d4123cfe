//! The failback program: from the command line to a job and back to an exit code.
#![forbid(unsafe_code)]

mod apply;
mod args;
mod check;
mod compare;
mod config;
mod confirm;
mod console;
mod control;
mod disks;
mod exit;
mod files;
mod look;
mod man;
mod meter;
mod points;
mod published;
mod report;
mod scan;
mod send;
mod signals;
mod status;
mod support;
mod text;
mod vmdk;

use args::{Arguments, Command};
use clap::Parser;
use std::env;
use std::process::ExitCode;

fn main() -> ExitCode {
    // No verb: this program asks itself so, in a process that may be left behind.
    if let Some(parts) = look::parts(env::args_os().map(|word| word.to_string_lossy().into_owned())) {
        return look::look(&parts).unwrap_or_else(|error| exit::report(&error));
    }
    // A panic ends this program at once: no claim is dropped then.
    failback_orchestrate::protect_on_panic();
    let arguments = Arguments::parse();
    let result = match &arguments.command {
        Command::Disks(args) => disks::disks(args),
        Command::Scan(args) => scan::scan(args),
        Command::Sign(args) => compare::sign(args),
        Command::Diff(args) => compare::diff(args),
        Command::Inspect(args) => compare::inspect(args),
        Command::Verify(args) => compare::verify(args),
        Command::Plan(args) => apply::plan(args),
        Command::Apply(args) => apply::apply(args),
        Command::Send(args) => send::send(args),
        Command::Status(args) => status::status(args),
        Command::Resume(args) => points::resume(args),
        Command::Undo(args) => points::undo(args),
        Command::Commit(args) => points::commit(args),
        Command::Point(args) => points::point(args),
        Command::Vmdk(args) => vmdk::vmdk(args),
        Command::Pair(args) => control::pair(args),
        Command::Group(args) => control::group(args),
        Command::Serve(args) => control::serve(args),
        Command::Receive(args) => control::receive(args),
        Command::Relay(args) => control::relay(args),
        Command::Jobs(args) => control::jobs(args),
        Command::Enroll(args) => control::enroll(args),
        Command::State(args) => control::state(args),
        Command::Check(args) => check::check(args),
        Command::Console(args) => console::console(args),
        Command::SupportBundle(args) => support::support_bundle(args),
        Command::Completions(args) => args::completions(args.shell),
        Command::Man(args) => man::man_pages(&args.directory),
    };
    match result {
        Ok(code) => code,
        Err(error) => exit::report(&error),
    }
}
