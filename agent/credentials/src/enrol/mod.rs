//! How a key that is not known yet is let in by a token: one message from the client, one from the server.
//!
//! The client proves that it has the token's secret by a signature with a key that follows from the secret. What is signed
//! names both ends' keys and this one connection, so nobody can use the message again, elsewhere or for another key. The server
//! checks it with the public half and has nothing that could be stolen and used; so there is nothing to compare in constant time.

mod refusal;
pub(crate) mod wire;

pub use refusal::{AnswerError, EnrolFailure, EnrolRefusal};

use crate::trust::Redeemed;
use crate::{Attempt, Fingerprint, NewPeer, Peer, PeerName, Protocol, RateLimit, Refusal, Role, Token, TrustStore};
use ed25519_dalek::{Signature, VerifyingKey};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use wire::{ANSWER_LEN, ANSWER_MAGIC, PROOF_LABEL, REQUEST_LEN, REQUEST_MAGIC, RawAnswer, RawRequest, VERSION};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// What is signed.
fn proven(server: &Fingerprint, client: &Fingerprint, exported: &[u8; 32]) -> Vec<u8> {
    [PROOF_LABEL, server.bytes(), client.bytes(), exported].concat()
}

/// The client's message, once the handshake of [`Tls::enrolment`](crate::Tls::enrolment) is through.
///
/// # Errors
///
/// When it is not through, or the server is not the token's.
pub fn request(
    token: &Token,
    attempt: &Attempt<ClientConfig>,
    connection: &ClientConnection,
) -> Result<[u8; REQUEST_LEN], Refusal> {
    let server = attempt.key(connection)?;
    if server != *token.server() {
        return Err(Refusal::OtherKey { expected: *token.server(), found: server });
    }
    if attempt.protocol() != Protocol::Enrolment {
        return Err(Refusal::OtherProtocol);
    }
    let exported = connection.export_keying_material([0; 32], wire::EXPORTER_LABEL, None)?;
    let raw = RawRequest {
        magic: REQUEST_MAGIC,
        version: VERSION.into(),
        reserved: [0; 6],
        proof_key: token.proof_key(),
        proof: token.prove(&proven(&server, attempt.own(), &exported)),
    };
    let mut message = [0; REQUEST_LEN];
    message.copy_from_slice(raw.as_bytes());
    Ok(message)
}

/// What a client is once the server has accepted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// What the server calls the client.
    pub name: PeerName,
    /// What the client is for the server.
    pub role: Role,
    /// When the server's trust in the client ends, in seconds since 1970.
    pub expires: Option<i64>,
    /// What the server's clock said, in seconds since 1970.
    pub server_time: i64,
    /// The server, to be added to the client's own store.
    pub server: NewPeer,
}

/// Understands the server's answer to a token.
///
/// # Errors
///
/// When the server refused, or it is no answer.
pub fn read_answer(token: &Token, answer: &[u8; ANSWER_LEN]) -> Result<Welcome, AnswerError> {
    let raw = RawAnswer::read_from_bytes(answer).map_err(|_| AnswerError::NotUnderstood)?;
    if raw.magic != ANSWER_MAGIC || raw.version.get() != VERSION {
        return Err(AnswerError::NotUnderstood);
    }
    if raw.verdict != wire::verdict::ACCEPTED {
        let refusal = EnrolRefusal::of_verdict(raw.verdict, raw.wait.get());
        return Err(refusal.map_or(AnswerError::NotUnderstood, AnswerError::Refused));
    }
    let understood = || {
        let server = NewPeer {
            name: name_of(&raw.server_name)?,
            fingerprint: *token.server(),
            role: role_of(raw.server_role)?,
            expires: None,
        };
        let expires = Some(raw.expires.get()).filter(|expires| *expires != 0);
        let (name, role) = (name_of(&raw.name)?, role_of(raw.role)?);
        Some(Welcome { name, role, expires, server_time: raw.now.get(), server })
    };
    understood().ok_or(AnswerError::NotUnderstood)
}

/// The server's side: what it is, and what it knows.
#[derive(Clone, Copy, Debug)]
pub struct Enroller<'a> {
    /// Where peers and tokens are.
    pub trust: &'a TrustStore,
    /// Who has to wait; one for all connections.
    pub limit: &'a Mutex<RateLimit>,
    /// What the server is called.
    pub name: &'a PeerName,
    /// What the server is.
    pub role: Role,
}

/// What the server answers, and why.
#[derive(Debug)]
pub struct Reply {
    /// What is to be sent.
    pub message: [u8; ANSWER_LEN],
    /// Who was let in, or why nobody was.
    pub outcome: Result<Peer, EnrolFailure>,
}

impl Enroller<'_> {
    /// Answers a client's message. If it lets somebody in, that is durable before this returns.
    ///
    /// `from` is where the client is, `clock` the reading of a clock that never goes back, and `now` the time in seconds since
    /// 1970. A token that is refused as too often tried was not looked at.
    #[must_use]
    pub fn answer(
        &self,
        attempt: &Attempt<ServerConfig>,
        connection: &ServerConnection,
        from: IpAddr,
        message: &[u8; REQUEST_LEN],
        clock: Duration,
        now: i64,
    ) -> Reply {
        let outcome = self.limited(from, clock).and_then(|()| self.redeem(attempt, connection, message, now));
        let mut raw = RawAnswer::new_zeroed();
        raw.magic = ANSWER_MAGIC;
        raw.version = VERSION.into();
        raw.now = now.into();
        match &outcome {
            Ok(peer) => {
                raw.verdict = wire::verdict::ACCEPTED;
                (raw.role, raw.server_role) = (role_code(peer.role), role_code(self.role));
                raw.expires = peer.expires.unwrap_or_default().into();
                (raw.name, raw.server_name) = (name_field(&peer.name), name_field(self.name));
            }
            Err(failure) => {
                raw.verdict = failure.told().verdict();
                if let EnrolRefusal::TooOften { wait } = failure.told() {
                    raw.wait = wait.into();
                }
            }
        }
        let mut message = [0; ANSWER_LEN];
        message.copy_from_slice(raw.as_bytes());
        Reply { message, outcome }
    }

    fn limited(&self, from: IpAddr, clock: Duration) -> Result<(), EnrolFailure> {
        let mut limit = self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        limit.attempt(from, clock).map_err(|wait| {
            let seconds = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0));
            EnrolRefusal::TooOften { wait: u32::try_from(seconds).unwrap_or(u32::MAX) }.into()
        })
    }

    fn redeem(
        &self,
        attempt: &Attempt<ServerConfig>,
        connection: &ServerConnection,
        message: &[u8; REQUEST_LEN],
        now: i64,
    ) -> Result<Peer, EnrolFailure> {
        let client = attempt.key(connection).map_err(EnrolFailure::Connection)?;
        if attempt.protocol() != Protocol::Enrolment {
            return Err(EnrolFailure::Connection(Refusal::OtherProtocol));
        }
        let raw = RawRequest::read_from_bytes(message).map_err(|_| EnrolRefusal::NotUnderstood)?;
        if raw.magic != REQUEST_MAGIC || raw.version.get() != VERSION || raw.reserved != [0; 6] {
            return Err(EnrolRefusal::NotUnderstood.into());
        }
        let exported = connection.export_keying_material([0; 32], wire::EXPORTER_LABEL, None);
        let exported = exported.map_err(|error| EnrolFailure::Connection(error.into()))?;
        let signed = proven(attempt.own(), &client, &exported);
        let key = VerifyingKey::from_bytes(&raw.proof_key).map_err(|_| EnrolRefusal::Wrong)?;
        // Before anything is looked up: who has no secret learns of no token whether it is used or expired.
        key.verify_strict(&signed, &Signature::from_bytes(&raw.proof)).map_err(|_| EnrolRefusal::Wrong)?;
        match self.trust.redeem(&raw.proof_key, &client, now).map_err(EnrolFailure::Store)? {
            Redeemed::Accepted(peer) => Ok(peer),
            Redeemed::Refused(refusal) => Err(refusal.into()),
        }
    }
}

const fn role_code(role: Role) -> u8 {
    match role {
        Role::Source => wire::role::SOURCE,
        Role::Relay => wire::role::RELAY,
        Role::Admin => wire::role::ADMIN,
        Role::Target => wire::role::TARGET,
    }
}

const fn role_of(code: u8) -> Option<Role> {
    match code {
        wire::role::SOURCE => Some(Role::Source),
        wire::role::RELAY => Some(Role::Relay),
        wire::role::ADMIN => Some(Role::Admin),
        wire::role::TARGET => Some(Role::Target),
        _ => None,
    }
}

fn name_field(name: &PeerName) -> [u8; wire::NAME_LEN] {
    let mut field = [0; wire::NAME_LEN];
    field[..name.as_str().len()].copy_from_slice(name.as_str().as_bytes());
    field
}

fn name_of(field: &[u8; wire::NAME_LEN]) -> Option<PeerName> {
    let len = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    let (name, rest) = field.split_at(len);
    let name = std::str::from_utf8(name).ok().and_then(|name| PeerName::new(name).ok())?;
    rest.iter().all(|byte| *byte == 0).then_some(name)
}
