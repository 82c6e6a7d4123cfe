//! Jobs, those of the history among them.

use super::types::{Job, Jobs};
use super::{Answer, Refused, Request, found, query};
use crate::state::{self, JobId, JobQuery, JobState, Subject};
use crate::{LiveJob, MasterTarget};
use failback_units::ByteCount;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How many are listed if nobody says how many, and at most.
const LISTED: usize = 100;
const LISTED_MOST: usize = 1000;

fn told(job: state::Job, live: &BTreeMap<JobId, Arc<LiveJob>>) -> Job {
    let facts = live.get(&job.id).map(|live| live.facts());
    let (pair, group) = match job.subject {
        Subject::Pair(name) => (Some(name), None),
        Subject::Group(name) => (None, Some(name)),
    };
    Job {
        id: job.id.get(),
        kind: job.kind.as_str().into(),
        pair,
        group,
        state: job.state.as_str().into(),
        phase: facts.map_or(job.phase, |facts| facts.phase.to_owned()),
        durable: facts.map_or(job.durable.get(), |facts| facts.done),
        total: facts.map_or(job.total.map(ByteCount::get), |facts| facts.total),
        rate: facts.and_then(|facts| facts.rate),
        eta_seconds: facts.and_then(|facts| facts.eta).map(|eta| eta.as_secs()),
        source_compared: facts.and_then(|facts| facts.compared).map(|(compared, _)| compared),
        source_size: facts.and_then(|facts| facts.compared).map(|(_, size)| size),
        queued: job.queued,
        started: job.started,
        updated: job.updated,
        ended: job.ended,
        error: job.error,
    }
}

pub(super) fn list(master: &MasterTarget, request: &Request<'_>, _: &str) -> Answer {
    let wrong = |what: &str| Refused::new(400, format!("{what} in the address is not understood: see openapi.json"));
    let number = |name: &str| -> Result<Option<i64>, Refused> {
        query(request, name)?.map(|text| text.parse().map_err(|_| wrong(name))).transpose()
    };
    let subject = match (query(request, "pair")?, query(request, "group")?) {
        (Some(pair), None) => Some(Subject::Pair(pair)),
        (None, Some(group)) => Some(Subject::Group(group)),
        (None, None) => None,
        (Some(_), Some(_)) => return Err(Refused::new(400, "a pair and a group are named: name one of them")),
    };
    let states = match query(request, "state")? {
        None => Vec::new(),
        Some(names) => names
            .split(',')
            .map(|name| {
                JobState::ALL.iter().copied().find(|state| state.as_str() == name).ok_or_else(|| wrong("state"))
            })
            .collect::<Result<_, _>>()?,
    };
    let limit = number("limit")?.map_or(Ok(LISTED), |limit| usize::try_from(limit).map_err(|_| wrong("limit")))?;
    let before = number("before")?.map(JobId::new);
    let query = JobQuery { subject, states, before, limit: Some(limit.min(LISTED_MOST)) };
    let jobs = master.state().jobs(&query)?;
    let live = master.live_jobs();
    Ok(found(&Jobs { jobs: jobs.into_iter().map(|job| told(job, &live)).collect() }))
}

fn id(name: &str) -> Result<JobId, Refused> {
    name.parse().map(JobId::new).map_err(|_| Refused::new(400, "a job has a number: failback jobs lists them"))
}

pub(super) fn show(master: &MasterTarget, _: &Request<'_>, name: &str) -> Answer {
    let job = master.state().job(id(name)?)?;
    Ok(found(&told(job, &master.live_jobs())))
}

pub(super) fn cancel(master: &MasterTarget, _: &Request<'_>, name: &str) -> Answer {
    let id = id(name)?;
    if let Some(live) = master.live_jobs().get(&id) {
        live.cancel();
    } else {
        let mut state = master.state();
        state.job_cancelled(id, crate::master::now())?;
        if let Subject::Pair(pair) = state.job(id)?.subject {
            state.give_up_marks(&pair)?;
        }
    }
    let job = master.state().job(id)?;
    Ok(found(&told(job, &master.live_jobs())))
}
