//! What is kept of peers and tokens, and how it stands in the file.

use super::{CLOCK_TOLERANCE, PEERS_MAX, TOKENS_MAX};
use crate::Fingerprint;
use crate::tls::Refusal;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fmt;

/// The version of the file.
const VERSION: u32 = 1;

/// What a peer may be. Which disks it may reach in that role is for the pairs to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It sends what its own disks hold.
    Source,
    /// It forwards what sources send.
    Relay,
    /// A person who steers.
    Admin,
    /// It receives and writes disks.
    Target,
}

impl Role {
    /// Its name in files and on the shell.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Relay => "relay",
            Self::Admin => "admin",
            Self::Target => "target",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// What people call a peer: 1 to 64 letters, digits, dots, dashes and underscores of ASCII, the first one a letter or a digit.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PeerName(String);

/// A text is no name. It tells nothing of the text, which may hold anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a peer's name has 1 to 64 letters, digits, dots, dashes and underscores, and begins with a letter or a digit")]
pub struct BadName;

impl PeerName {
    /// The most bytes of a name.
    pub const MAX: usize = 64;

    /// Takes a name.
    ///
    /// # Errors
    ///
    /// When it is none.
    pub fn new(name: &str) -> Result<Self, BadName> {
        let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric());
        let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if begins && name.len() <= Self::MAX && name.bytes().all(is_fine) {
            Ok(Self(name.to_owned()))
        } else {
            Err(BadName)
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl TryFrom<String> for PeerName {
    type Error = BadName;

    fn try_from(name: String) -> Result<Self, BadName> {
        Self::new(&name)
    }
}

impl From<PeerName> for String {
    fn from(name: PeerName) -> Self {
        name.0
    }
}

/// A machine or person whose key is known. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// What people call it.
    pub name: PeerName,
    /// Its key.
    pub fingerprint: Fingerprint,
    /// What it may be.
    pub role: Role,
    /// Since when it is known.
    pub added: i64,
    /// When it is not trusted any more; without it, trust ends by being revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<i64>,
    /// Since when it is not trusted any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<i64>,
}

impl Peer {
    /// Whether it is trusted at a time.
    ///
    /// # Errors
    ///
    /// When it was revoked, its end has come, or the clock is so wrong that nobody can tell.
    pub fn check(&self, now: i64) -> Result<(), Refusal> {
        let (name, fingerprint) = (self.name.clone(), self.fingerprint);
        if let Some(at) = self.revoked {
            return Err(Refusal::Revoked { name, fingerprint, at });
        }
        let Some(expired) = self.expires else { return Ok(()) };
        if now > expired.saturating_add(CLOCK_TOLERANCE) {
            return Err(Refusal::Expired { name, expired, now });
        }
        if now < self.added.saturating_sub(CLOCK_TOLERANCE) {
            return Err(Refusal::ClockBehind { name, added: self.added, now });
        }
        Ok(())
    }
}

/// A peer to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPeer {
    /// What people call it.
    pub name: PeerName,
    /// Its key.
    pub fingerprint: Fingerprint,
    /// What it may be.
    pub role: Role,
    /// When it is not trusted any more.
    pub expires: Option<i64>,
}

/// A token to be given out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewToken {
    /// What the peer that uses it will be called.
    pub name: PeerName,
    /// What it will be.
    pub role: Role,
    /// Until when it can be used: at most [`TOKEN_LIFE_MAX`](super::TOKEN_LIFE_MAX) from now.
    pub expires: i64,
    /// When the peer that used it is not trusted any more.
    pub peer_expires: Option<i64>,
}

/// Who used a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Use {
    /// The key that it let in.
    pub by: Fingerprint,
    /// When.
    pub at: i64,
}

/// What is kept of a token: nothing that could be used in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenToken {
    /// What the peer that uses it will be called.
    pub name: PeerName,
    /// What it will be.
    pub role: Role,
    /// Whoever proves to have the private half of this key has the secret.
    pub(super) proof: ProofKey,
    /// When it was given out.
    pub created: i64,
    /// Until when it can be used.
    pub expires: i64,
    /// When the peer that used it is not trusted any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_expires: Option<i64>,
    /// Who used it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<Use>,
}

impl OpenToken {
    /// When it was used, or could be for the last time.
    pub(super) fn end(&self) -> i64 {
        self.used.as_ref().map_or(self.expires, |used| used.at)
    }
}

/// An Ed25519 public key, in the file as 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct ProofKey(pub(super) [u8; 32]);

impl TryFrom<String> for ProofKey {
    type Error = crate::NoFingerprint;

    fn try_from(text: String) -> Result<Self, crate::NoFingerprint> {
        // Written alike: 32 bytes.
        text.parse::<Fingerprint>().map(|bytes| Self(*bytes.bytes()))
    }
}

impl From<ProofKey> for String {
    fn from(key: ProofKey) -> Self {
        Fingerprint::from_bytes(key.0).to_string()
    }
}

/// All of the file.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Records {
    version: u32,
    pub(super) peers: Vec<Peer>,
    pub(super) tokens: Vec<OpenToken>,
}

impl Default for Records {
    fn default() -> Self {
        Self { version: VERSION, peers: Vec::new(), tokens: Vec::new() }
    }
}

impl Records {
    /// Understands a file, or says in a few words why not. What stands in it is not repeated.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        /// What every version has.
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let misses = |error: serde_json::Error| {
            let (line, column) = (error.line(), error.column());
            format!("line {line}, column {column} is not what belongs there")
        };
        let Versioned { version } = serde_json::from_slice(text).map_err(misses)?;
        if version != VERSION {
            return Err(format!("it has version {version}, and this failback knows version {VERSION}"));
        }
        let records: Self = serde_json::from_slice(text).map_err(misses)?;
        records.check()?;
        Ok(records)
    }

    /// What holds of all records together.
    fn check(&self) -> Result<(), String> {
        if self.peers.len() > PEERS_MAX || self.tokens.len() > TOKENS_MAX {
            return Err(format!("it has more than {PEERS_MAX} peers or {TOKENS_MAX} tokens"));
        }
        let (mut keys, mut names, mut proofs) = (HashSet::new(), HashSet::new(), HashSet::new());
        if !self.peers.iter().all(|peer| keys.insert(peer.fingerprint)) {
            return Err("a key stands in it twice".into());
        }
        if !self.peers.iter().filter(|peer| peer.revoked.is_none()).all(|peer| names.insert(&peer.name)) {
            return Err("two peers have one name".into());
        }
        if !self.tokens.iter().all(|token| proofs.insert(token.proof)) {
            return Err("a token stands in it twice".into());
        }
        Ok(())
    }

    pub(super) fn to_text(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        Ok(text)
    }
}
