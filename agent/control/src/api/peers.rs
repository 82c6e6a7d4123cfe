//! Machines and persons that are known by their keys.

use super::types::{Peer, Peers};
use super::{Answer, Refused, Request, found, pairs};
use crate::MasterTarget;
use failback_credentials::TrustStore;

impl From<&failback_credentials::Peer> for Peer {
    fn from(peer: &failback_credentials::Peer) -> Self {
        Self {
            name: peer.name.to_string(),
            fingerprint: peer.fingerprint.to_string(),
            role: peer.role.name().into(),
            added: peer.added,
            expires: peer.expires,
            revoked: peer.revoked,
        }
    }
}

fn trust(master: &MasterTarget) -> Result<&TrustStore, Refused> {
    master.trust().ok_or_else(|| Refused::new(404, "this machine has no key yet: failback enroll makes one"))
}

pub(super) fn list(master: &MasterTarget, _: &Request<'_>, _: &str) -> Answer {
    let peers = trust(master)?.peers().map_err(|error| Refused::new(500, error.to_string()))?;
    Ok(found(&Peers { peers: peers.iter().map(Peer::from).collect() }))
}

pub(super) fn revoke(master: &MasterTarget, _: &Request<'_>, name: &str) -> Answer {
    let key = pairs::fingerprint(name)?;
    let peer =
        trust(master)?.revoke(&key, crate::master::now()).map_err(|error| Refused::new(409, error.to_string()))?;
    Ok(found(&Peer::from(&peer)))
}
