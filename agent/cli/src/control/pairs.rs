//! The verbs `pair` and `group`.

use super::args::{AskArgs, GroupArgs, GroupCommand, ListArgs, PairAddArgs, PairArgs, PairCommand};
use super::client::{Control, absolute, encoded, refused};
use crate::files;
use crate::points::open::needed_directory;
use crate::points::report::when;
use crate::report::{Lines, print};
use anyhow::Result;
use failback_control::api::types::{
    Group, Groups, Mark, MarkedPair, NewGroup, NewPair, Pair, Pairs, Peer, Peers, Turn,
};
use failback_credentials::{Fingerprint, TrustStore};
use failback_orchestrate::{JobError, hex};
use failback_transport::http::Method;
use std::path::Path;
use std::process::ExitCode;

pub(crate) fn pair(args: &PairArgs) -> Result<ExitCode> {
    match &args.command {
        PairCommand::Add(args) => add(args),
        PairCommand::List(args) => {
            let pairs: Pairs = Control::open(args)?.ask(Method::GET, "/v1/pairs", "")?;
            let mut lines = Lines::default();
            for pair in &pairs.pairs {
                lines.add(&pair.name, line(pair));
            }
            if pairs.pairs.is_empty() {
                lines.add("pairs", "none: failback pair add binds a source disk to a target disk");
            }
            print(args.list.json, &pairs, &lines)?;
            Ok(ExitCode::SUCCESS)
        }
        PairCommand::Show(args) => {
            shown(&Control::open(&args.ask)?.ask(Method::GET, &path_of(&args.name), "")?, &args.ask.list)
        }
        PairCommand::Remove(args) => {
            shown(&Control::open(&args.ask)?.ask(Method::DELETE, &path_of(&args.name), "")?, &args.ask.list)
        }
        PairCommand::Turn(args) => {
            let control = Control::at(&args.list.place)?;
            let turn = Turn { direction: args.to.clone() };
            shown(&control.ask_with(&format!("{}/direction", path_of(&args.name)), &turn)?, &args.list)
        }
    }
}

fn path_of(name: &str) -> String {
    format!("/v1/pairs/{}", encoded(name))
}

fn add(args: &PairAddArgs) -> Result<ExitCode> {
    let is_afar = args.ask.to.is_some();
    let key = args.trusted_key.as_deref().map(files::trusted_key).transpose()?;
    // The configuration of this machine says nothing of another one.
    let retention = match &args.retention.retention {
        Some(directory) => place_of(directory, is_afar)?,
        None if is_afar => {
            return Err(JobError::Refused("add --retention DIR, as it is called on that master target".into()).into());
        }
        None => absolute(&needed_directory(&args.retention)?)?,
    };
    let target = place_of(&args.target, is_afar)?;
    let control = Control::open(&args.ask)?;
    let new = NewPair {
        name: args.name.clone(),
        peer: args.peer.as_deref().map(|peer| peer_of(&control, &args.ask, peer)).transpose()?,
        source: args.source.clone(),
        target,
        retention,
        direction: None,
        new_disk: args.new_disk,
        signer: key.map(|key| hex(key.bytes())),
    };
    shown(&control.ask_with("/v1/pairs", &new)?, &args.ask.list)
}

/// A path as the master target will understand it: a relative one means something on this machine only.
fn place_of(path: &Path, is_afar: bool) -> Result<String> {
    if is_afar && path.is_relative() {
        let path = path.display();
        return Err(JobError::Refused(format!(
            "{path} is relative: give the whole path, as that master target has it"
        ))
        .into());
    }
    absolute(path)
}

/// The fingerprint of a peer that is named.
fn peer_of(control: &Control, asked: &AskArgs, peer: &str) -> Result<String> {
    if let Ok(key) = peer.parse::<Fingerprint>() {
        return Ok(key.to_string());
    }
    let known = if asked.to.is_some() {
        control.ask::<Peers>(Method::GET, "/v1/peers", "")?.peers
    } else {
        let trust = TrustStore::new(asked.list.place.credentials()?);
        trust.peers().map_err(|error| refused(&error))?.iter().map(Peer::from).collect()
    };
    let found = known.into_iter().find(|known| known.name == peer && known.revoked.is_none());
    Ok(found.map(|known| known.fingerprint).ok_or_else(|| {
        let peer = peer.escape_debug();
        JobError::Refused(format!(
            "no peer is called \"{peer}\": failback enroll list tells which there are, or give its fingerprint"
        ))
    })?)
}

fn source_of(pair: &Pair) -> &str {
    pair.source_uuid.as_deref().or(pair.source_name.as_deref()).unwrap_or_default()
}

fn target_of(pair: &Pair) -> &str {
    pair.target_path.as_deref().or(pair.target_uuid.as_deref()).unwrap_or_default()
}

/// What a pair binds to what.
pub(crate) fn line(pair: &Pair) -> String {
    let arrow = if pair.direction == "send" { "<-" } else { "->" };
    format!("{} {arrow} {}", source_of(pair), target_of(pair))
}

fn shown(pair: &Pair, args: &ListArgs) -> Result<ExitCode> {
    let mut lines = Lines::default();
    lines.add("pair", &pair.name).add("source", source_of(pair)).add("target", target_of(pair));
    if let (Some(uuid), Some(_)) = (&pair.target_uuid, &pair.target_path) {
        lines.add("target's UUID", uuid);
    }
    let nobody = match pair.signer {
        Some(_) => "none: callers on this machine, such as through ssh, and relays",
        None => "none: callers on this machine, such as through ssh",
    };
    lines.add("peer", pair.peer.as_deref().unwrap_or(nobody));
    lines.add("direction", &pair.direction).add("retention", &pair.retention);
    if pair.new_disk {
        lines.add("new disk", "a target that was never this disk is taken");
    }
    if let Some(signer) = &pair.signer {
        lines.add("signed by", signer);
    }
    if let Some(group) = &pair.group {
        lines.add("group", group);
    }
    print(args.json, pair, &lines)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn group(args: &GroupArgs) -> Result<ExitCode> {
    let path = |name: &str| format!("/v1/groups/{}", encoded(name));
    match &args.command {
        GroupCommand::Add(args) => {
            let quiesce_ms = u64::try_from(args.quiesce.as_millis()).unwrap_or(u64::MAX);
            let new = NewGroup { name: args.name.clone(), pairs: args.pairs.clone(), quiesce_ms };
            group_shown(&Control::open(&args.ask)?.ask_with("/v1/groups", &new)?, &args.ask.list)
        }
        GroupCommand::List(args) => {
            let groups: Groups = Control::open(args)?.ask(Method::GET, "/v1/groups", "")?;
            let mut lines = Lines::default();
            for group in &groups.groups {
                lines.add(&group.name, group.pairs.join(", "));
            }
            if groups.groups.is_empty() {
                lines.add("groups", "none: failback group add puts pairs together");
            }
            print(args.list.json, &groups, &lines)?;
            Ok(ExitCode::SUCCESS)
        }
        GroupCommand::Show(args) => {
            group_shown(&Control::open(&args.ask)?.ask(Method::GET, &path(&args.name), "")?, &args.ask.list)
        }
        GroupCommand::Remove(args) => {
            let ask = &args.named.ask;
            let path = format!("{}?force={}", path(&args.named.name), args.force);
            group_shown(&Control::open(ask)?.ask(Method::DELETE, &path, "")?, &ask.list)
        }
    }
}

fn group_shown(group: &Group, args: &ListArgs) -> Result<ExitCode> {
    let mut lines = Lines::default();
    lines.add("group", &group.name).add("pairs", group.pairs.join(", "));
    lines.add("time to come to rest", format!("{} ms", group.quiesce_ms));
    if !group.waiting.is_empty() {
        lines.add("waiting for the others", group.waiting.join(", "));
    }
    for mark in &group.marks {
        lines.add(&format!("mark of {}", when(mark.time)), line_of(mark));
    }
    print(args.json, group, &lines)?;
    Ok(ExitCode::SUCCESS)
}

/// What became of a mark.
fn line_of(mark: &Mark) -> String {
    let missing = |is_there: fn(&MarkedPair) -> bool| {
        let missing: Vec<_> = mark.pairs.iter().filter(|pair| !is_there(pair)).map(|pair| pair.pair.as_str()).collect();
        missing.join(", ")
    };
    match mark.state.as_str() {
        "marked" => format!("nothing of it is applied: it waits for the passes of {}", missing(|pair| pair.complete)),
        "decided" => format!("being applied: not yet {}", missing(|pair| pair.point.is_some())),
        "whole" => {
            let points = mark.pairs.iter().map(|pair| format!("{} at {}", pair.pair, pair.point.unwrap_or_default()));
            format!("whole: {}", points.collect::<Vec<_>>().join(", "))
        }
        state => state.to_owned(),
    }
}
