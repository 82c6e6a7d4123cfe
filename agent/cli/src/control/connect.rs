//! From an address on the command line to what connects to it.

use super::args::{ConnectArgs, Place};
use super::client::refused;
use anyhow::Result;
use failback_credentials::{Fingerprint, Identity, Peer, Role, Tls, TrustStore};
use failback_orchestrate::JobError;
use failback_transport::{Address, Connector, Limits, Network, Runtime};
use std::sync::Arc;

/// What connects to an address. In the network, the server has to be a peer that this machine trusts: the one that is named, or the only one that
/// there is.
pub(crate) fn connector(address: &Address, args: &ConnectArgs, limits: Limits) -> Result<Box<dyn Connector + Send>> {
    let network = if let Address::Tls(_) = address { Some(network(args)?) } else { None };
    address.connector(limits, network).map_err(|error| refused(&error))
}

/// This machine's key, and the server that is meant.
fn network(args: &ConnectArgs) -> Result<Network> {
    let (tls, server) = known(&args.place, args.server.as_deref())?;
    // One thread encrypts for one connection, so there are more of both.
    let runtimes = (0..args.streams.clamp(1, 4)).map(|_| Runtime::start().map(Arc::new)).collect::<Result<_, _>>()?;
    Ok(Network { tls, server, runtimes, streams: args.streams })
}

/// This machine's key with whom it trusts, and the server among these that is named, or the only one.
pub(super) fn known(place: &Place, server: Option<&str>) -> Result<(Tls, Fingerprint)> {
    let credentials = place.credentials()?;
    let trust = TrustStore::new(credentials.clone());
    let server = server_among(&trust.peers().map_err(|error| refused(&error))?, server)?;
    let identity = Identity::load_or_create(&credentials).map_err(|error| refused(&error))?;
    Ok((Tls::new(&identity, Arc::new(trust)), server))
}

/// Whether it is one that this machine may connect to.
pub(super) fn is_server(peer: &Peer) -> bool {
    matches!(peer.role, Role::Target | Role::Relay) && peer.revoked.is_none()
}

/// The key that the other side has to show.
fn server_among(peers: &[Peer], wanted: Option<&str>) -> Result<Fingerprint, JobError> {
    let key = wanted.and_then(|wanted| wanted.parse::<Fingerprint>().ok());
    let is_meant = |peer: &&Peer| {
        let is_named = wanted.is_none_or(|wanted| peer.name.as_str() == wanted || Some(peer.fingerprint) == key);
        is_server(peer) && is_named
    };
    let mut found = peers.iter().filter(is_meant);
    match (found.next(), found.next()) {
        (Some(peer), None) => Ok(peer.fingerprint),
        (Some(_), Some(_)) => Err(JobError::Refused(
            "this machine knows several servers: say which one with --server, failback enroll list shows them".into(),
        )),
        (None, _) => Err(JobError::Refused(
            "this machine knows no such server: run failback enroll token there (with --role admin, where its API is to be asked), and failback \
             enroll join here with what it prints"
                .into(),
        )),
    }
}
