//! Numbers for Prometheus, in its text format (version 0.0.4).

use super::{Answer, Request, Response};
use crate::MasterTarget;
use crate::state::{JobQuery, JobState, Subject};
use std::fmt::Write;

pub(super) fn show(master: &MasterTarget, _: &Request<'_>, _: &str) -> Answer {
    let state = master.state();
    let pairs = state.pairs()?;
    let jobs = state.jobs(&JobQuery::default())?;
    drop(state);
    let mut out = head("failback_build_info", "gauge", "The version of the program.");
    let _ = writeln!(out, "failback_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
    out += &head("failback_uptime_seconds", "counter", "How long the master target has been running.");
    let _ = writeln!(out, "failback_uptime_seconds {}", master.uptime().as_secs());
    out += &head("failback_pairs", "gauge", "Replication pairs.");
    let _ = writeln!(out, "failback_pairs {}", pairs.len());
    out += &head("failback_jobs", "gauge", "Jobs by state, those of the history among them.");
    for state in JobState::ALL {
        let count = jobs.iter().filter(|job| job.state == *state).count();
        let _ = writeln!(out, "failback_jobs{{state=\"{}\"}} {count}", state.as_str());
    }
    let traffic = master.traffic();
    out += &head("failback_received_bytes_total", "counter", "Bytes that came over connections of sources.");
    let _ = writeln!(out, "failback_received_bytes_total {}", traffic.0);
    out += &head("failback_sent_bytes_total", "counter", "Bytes that went over connections of sources.");
    let _ = writeln!(out, "failback_sent_bytes_total {}", traffic.1);
    out += &head("failback_job_durable_bytes", "gauge", "Bytes that are done of the phase that a running job is in.");
    let live = master.live_jobs();
    for job in live.values() {
        let facts = job.facts();
        let (name, phase) = (escaped(job.subject().name()), escaped(facts.phase));
        let _ = writeln!(out, "failback_job_durable_bytes{{subject=\"{name}\",phase=\"{phase}\"}} {}", facts.done);
    }
    out += &head("failback_pair_last_success_timestamp_seconds", "gauge", "When the last pass of a pair was applied.");
    for pair in &pairs {
        let of_pair = Subject::Pair(pair.is.name.clone());
        let done = jobs.iter().find(|job| job.subject == of_pair && job.state == JobState::Done);
        if let Some(ended) = done.and_then(|job| job.ended) {
            let name = escaped(&pair.is.name);
            let _ = writeln!(out, "failback_pair_last_success_timestamp_seconds{{pair=\"{name}\"}} {ended}");
        }
    }
    Ok(Response { status: 200, content_type: "text/plain; version=0.0.4", body: out.into_bytes() })
}

/// What stands before the values of a number.
fn head(name: &str, kind: &str, help: &str) -> String {
    format!("# HELP {name} {help}\n# TYPE {name} {kind}\n")
}

/// The value of a label: backslash, quotation mark and line feed are escaped, as the format wants it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
