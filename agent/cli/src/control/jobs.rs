//! The verb `jobs`.

use super::args::JobsArgs;
use super::client::{Control, encoded};
use crate::report::{Lines, print, print_bytes};
use crate::signals::stop_flag;
use anyhow::Result;
use failback_control::api::types::{Job, Jobs};
use failback_orchestrate::HumanBytes;
use failback_transport::http::Method;
use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);

pub(crate) fn jobs(args: &JobsArgs) -> Result<ExitCode> {
    if let Some(id) = args.cancel {
        let job: Job = Control::open(&args.ask)?.ask(Method::POST, &format!("/v1/jobs/{id}/cancel"), "")?;
        let mut lines = Lines::default();
        lines.add(&title(&job), line(&job));
        print(args.ask.list.json, &job, &lines)?;
        return Ok(ExitCode::SUCCESS);
    }
    let stop = stop_flag()?;
    let of_pair = args.pair.as_ref().map(|pair| format!("&pair={}", encoded(pair)));
    let query = format!("limit={}{}", args.limit, of_pair.unwrap_or_default());
    loop {
        let jobs: Jobs = Control::open(&args.ask)?.ask(Method::GET, "/v1/jobs", &query)?;
        if args.watch && !args.ask.list.json && io::stdout().is_terminal() {
            // To the top, and nothing below.
            print_bytes(b"\x1b[H\x1b[2J")?;
        }
        show(&jobs, args.ask.list.json)?;
        if !args.watch || stop.load(Ordering::Relaxed) {
            return Ok(ExitCode::SUCCESS);
        }
        thread::sleep(EVERY);
        if stop.load(Ordering::Relaxed) {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

fn show(jobs: &Jobs, json: bool) -> Result<()> {
    let mut lines = Lines::default();
    for job in &jobs.jobs {
        lines.add(&title(job), line(job));
    }
    if jobs.jobs.is_empty() {
        lines.add("jobs", "none");
    }
    print(json, jobs, &lines)
}

fn title(job: &Job) -> String {
    let subject = job.pair.as_deref().or(job.group.as_deref()).unwrap_or_default();
    format!("{} {subject}", job.id)
}

/// How a job stands; what went wrong comes in a line of its own.
pub(crate) fn line(job: &Job) -> String {
    let mut parts = vec![format!("{} {}", job.kind, job.state)];
    if job.ended.is_none() && !job.phase.is_empty() {
        let total = job.total.map(|total| format!(" of {}", HumanBytes(total))).unwrap_or_default();
        parts.push(format!("{}: {}{total}", job.phase, HumanBytes(job.durable)));
    }
    if let (Some(compared), Some(size)) = (job.source_compared, job.source_size) {
        parts.push(format!("{} of {} of the source compared", HumanBytes(compared), HumanBytes(size)));
    }
    parts.extend(job.rate.map(|rate| format!("{}/s", HumanBytes(rate))));
    parts.extend(job.eta_seconds.map(|eta| format!("{eta} s left")));
    let error = job.error.as_ref().map(|error| format!("\n{error}"));
    parts.join(", ") + &error.unwrap_or_default()
}
