//! Protection groups.

use super::types::{Group, Groups};
use super::{Answer, Request, body, found, json};
use crate::{MasterTarget, state};
use std::time::Duration;

fn told(group: &state::Group) -> Group {
    let quiesce_ms = u64::try_from(group.quiesce.as_millis()).unwrap_or(u64::MAX);
    Group { name: group.name.clone(), pairs: group.pairs.clone(), quiesce_ms }
}

pub(super) fn list(master: &MasterTarget, _: &Request<'_>, _: &str) -> Answer {
    let groups = master.state().groups()?.iter().map(told).collect();
    Ok(found(&Groups { groups }))
}

pub(super) fn show(master: &MasterTarget, _: &Request<'_>, name: &str) -> Answer {
    Ok(found(&told(&master.state().group(name)?)))
}

pub(super) fn add(master: &MasterTarget, request: &Request<'_>, _: &str) -> Answer {
    let new: Group = body(request)?;
    let group = state::Group { name: new.name, pairs: new.pairs, quiesce: Duration::from_millis(new.quiesce_ms) };
    let mut state = master.state();
    state.add_group(&group, crate::master::now())?;
    Ok(json(201, &told(&state.group(&group.name)?)))
}

pub(super) fn remove(master: &MasterTarget, _: &Request<'_>, name: &str) -> Answer {
    let mut state = master.state();
    let group = told(&state.group(name)?);
    state.remove_group(name)?;
    Ok(found(&group))
}
