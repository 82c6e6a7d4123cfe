//! Protection groups.

use super::types::{Group, Groups, Mark, MarkedPair, NewGroup};
use super::{Answer, Refused, Request, body, found, json, query};
use crate::{MasterTarget, state};
use failback_orchestrate::hex;
use std::time::Duration;

/// Marks that are told of one group.
const MARKS_TOLD: usize = 100;

fn told(master: &MasterTarget, group: state::Group, marks: usize) -> Result<Group, Refused> {
    let quiesce_ms = u64::try_from(group.quiesce.as_millis()).unwrap_or(u64::MAX);
    let waiting = master.meeting(&group.name);
    let marks = master.state().marks(&group.name, marks)?.into_iter().map(mark).collect();
    Ok(Group { name: group.name, pairs: group.pairs, quiesce_ms, waiting, marks })
}

fn mark(mark: state::Mark) -> Mark {
    let pair =
        |pair: state::MarkedPair| MarkedPair { pair: pair.pair, complete: pair.delta.is_some(), point: pair.point };
    Mark {
        id: hex(&mark.id),
        time: mark.time,
        state: mark.state.as_str().into(),
        pairs: mark.pairs.into_iter().map(pair).collect(),
    }
}

pub(super) fn list(master: &MasterTarget, _: &Request<'_>, _: &str) -> Answer {
    let groups = master.state().groups()?;
    let groups = groups.into_iter().map(|group| told(master, group, 1)).collect::<Result<_, _>>()?;
    Ok(found(&Groups { groups }))
}

pub(super) fn show(master: &MasterTarget, _: &Request<'_>, name: &str) -> Answer {
    let group = master.state().group(name)?;
    Ok(found(&told(master, group, MARKS_TOLD)?))
}

pub(super) fn add(master: &MasterTarget, request: &Request<'_>, _: &str) -> Answer {
    let new: NewGroup = body(request)?;
    let group = state::Group { name: new.name, pairs: new.pairs, quiesce: Duration::from_millis(new.quiesce_ms) };
    master.state().add_group(&group, crate::master::now())?;
    Ok(json(201, &told(master, group, 0)?))
}

pub(super) fn remove(master: &MasterTarget, request: &Request<'_>, name: &str) -> Answer {
    let forced = match query(request, "force")?.as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(Refused::new(400, "force is true or false: see openapi.json")),
    };
    let group = master.state().group(name)?;
    let group = told(master, group, MARKS_TOLD)?;
    master.state().remove_group(name, forced)?;
    master.dissolve(name);
    Ok(found(&group))
}
