//! Pairs.

use super::types::{NewPair, Pair, Pairs, Turn};
use super::{Answer, Refused, Request, body, found, json};
use crate::state::{self, Direction, SourceDisk, TargetDisk, VmdkId};
use crate::{MasterTarget, target_of};
use failback_credentials::Fingerprint;
use failback_hostdev::ScsiUuid;
use failback_orchestrate::hex;
use std::path::{Path, PathBuf};

fn told(pair: &state::Pair) -> Pair {
    let is = &pair.is;
    let (source_uuid, source_name) = match &is.source {
        SourceDisk::Scsi(uuid) => (Some(uuid.to_string()), None),
        SourceDisk::Named(name) => (None, Some(name.clone())),
    };
    let (target_uuid, target_path) = match &is.target {
        TargetDisk::Scsi(uuid) => (Some(uuid.to_string()), None),
        TargetDisk::Vmdk { path, id } => {
            let uuid = if let VmdkId::Uuid(uuid) = id { Some(uuid.to_string()) } else { None };
            (uuid, Some(path.to_string_lossy().into_owned()))
        }
    };
    Pair {
        name: is.name.clone(),
        peer: is.peer.map(|peer| peer.to_string()),
        source_uuid,
        source_name,
        target_uuid,
        target_path,
        direction: is.direction.as_str().into(),
        retention: is.retention.to_string_lossy().into_owned(),
        new_disk: is.new_disk,
        signer: is.signer.map(|key| hex(&key)),
        created: pair.created,
        points_since: pair.points_since,
        group: pair.group.clone(),
    }
}

pub(super) fn list(master: &MasterTarget, _: &Request<'_>, _: &str) -> Answer {
    let pairs = master.state().pairs()?.iter().map(told).collect();
    Ok(found(&Pairs { pairs }))
}

pub(super) fn show(master: &MasterTarget, _: &Request<'_>, name: &str) -> Answer {
    Ok(found(&told(&master.state().pair(name)?)))
}

pub(super) fn add(master: &MasterTarget, request: &Request<'_>, _: &str) -> Answer {
    let new: NewPair = body(request)?;
    // The disk is asked before the state is held.
    let (target, _) = target_of(Path::new(&new.target))?;
    let source = match new.source.parse::<ScsiUuid>() {
        Ok(uuid) => SourceDisk::Scsi(uuid),
        Err(_) => SourceDisk::Named(new.source),
    };
    let is = state::NewPair {
        name: new.name,
        peer: new.peer.as_deref().map(fingerprint).transpose()?,
        source,
        target,
        direction: new.direction.as_deref().map_or(Ok(Direction::Receive), direction)?,
        retention: PathBuf::from(new.retention),
        new_disk: new.new_disk,
        signer: new.signer.as_deref().map(key).transpose()?,
    };
    let mut state = master.state();
    state.add_pair(&is, crate::master::now())?;
    Ok(json(201, &told(&state.pair(&is.name)?)))
}

pub(super) fn remove(master: &MasterTarget, _: &Request<'_>, name: &str) -> Answer {
    let mut state = master.state();
    let pair = told(&state.pair(name)?);
    state.remove_pair(name)?;
    Ok(found(&pair))
}

pub(super) fn turn(master: &MasterTarget, request: &Request<'_>, name: &str) -> Answer {
    let turn: Turn = body(request)?;
    let mut state = master.state();
    state.set_direction(name, direction(&turn.direction)?)?;
    Ok(found(&told(&state.pair(name)?)))
}

pub(super) fn fingerprint(text: &str) -> Result<Fingerprint, Refused> {
    text.parse().map_err(|error: failback_credentials::NoFingerprint| Refused::new(400, error.to_string()))
}

fn direction(text: &str) -> Result<Direction, Refused> {
    let found = [Direction::Receive, Direction::Send].into_iter().find(|direction| direction.as_str() == text);
    found.ok_or_else(|| Refused::new(400, format!("\"{}\" is no direction: say receive or send", text.escape_debug())))
}

fn key(text: &str) -> Result<[u8; 32], Refused> {
    let wrong = || Refused::new(400, "this is no public key: give the 64 hexadecimal digits of an Ed25519 key");
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return Err(wrong());
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
    }
    match failback_orchestrate::VerifyingKey::from_bytes(&bytes) {
        Some(_) => Ok(bytes),
        None => Err(wrong()),
    }
}
