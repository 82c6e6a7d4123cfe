//! The file of peers and tokens.

use super::record::{OpenToken, Peer, ProofKey, Records, Use};
use super::{CLOCK_TOLERANCE, NewPeer, NewToken, PEERS_MAX, PeerName, TOKEN_LIFE_MAX, TOKENS_MAX};
use crate::directory::Directory;
use crate::enrol::EnrolRefusal;
use crate::tls::Refusal;
use crate::when::When;
use crate::{Fingerprint, StoreError, Token};
use std::sync::Arc;

/// The file with peers and tokens.
pub const TRUST_FILE: &str = "trust.json";

/// Room for [`PEERS_MAX`] peers and [`TOKENS_MAX`] tokens of at most 480 bytes each.
pub(crate) const TRUST_FILE_MAX: usize = 2 << 20;

/// Why something is not entered.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The file cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another key has the name.
    #[error("{name} is the name of another key, {fingerprint}: revoke that one first, or take another name")]
    NameTaken {
        /// The name.
        name: PeerName,
        /// Whose it is.
        fingerprint: Fingerprint,
    },
    /// The key has another name.
    #[error("this key is known as {name} already: revoke that first if it is to be known otherwise")]
    KeyKnown {
        /// Its name.
        name: PeerName,
    },
    /// The key was revoked.
    #[error("this key was known as {name} and revoked on {}: a machine that is to come back makes a new key", When(*.at))]
    KeyRevoked {
        /// Its name.
        name: PeerName,
        /// When.
        at: i64,
    },
    /// No such key.
    #[error("no key {0} is known: look at the list of peers")]
    Unknown(Fingerprint),
    /// No such token.
    #[error("there is no open token for {0}")]
    NoToken(PeerName),
    /// A time is not in the future, or too far.
    #[error(
        "an end on {} is not possible, since the clock says {}: a token's is at most 30 days away, a peer's in the future",
        When(*.expires), When(*.now)
    )]
    End {
        /// The time that was asked for.
        expires: i64,
        /// What the clock says.
        now: i64,
    },
    /// There are too many.
    #[error("there are {count} {what} already, and no more are kept: {instead}")]
    Full {
        /// How many there are.
        count: usize,
        /// Of what.
        what: &'static str,
        /// What to do.
        instead: &'static str,
    },
}

/// What came of a token.
pub(crate) enum Redeemed {
    /// It let the key in, now or before.
    Accepted(Peer),
    /// It did not.
    Refused(EnrolRefusal),
}

/// The peers that a machine knows, and the tokens that it gave out.
///
/// Every question reads the file, so what another process changed counts at once. Every change is one file that takes the place
/// of another, durably, while no other process changes it.
#[derive(Clone, Debug)]
pub struct TrustStore {
    directory: Directory,
}

impl TrustStore {
    /// The store in a directory; it need not be there yet.
    #[must_use]
    pub const fn new(directory: Directory) -> Self {
        Self { directory }
    }

    /// All peers, revoked ones too, in the order in which they were added.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or is not understood.
    pub fn peers(&self) -> Result<Vec<Peer>, StoreError> {
        Ok(self.read()?.peers)
    }

    /// All tokens, used and expired ones too.
    ///
    /// # Errors
    ///
    /// As [`Self::peers`].
    pub fn tokens(&self) -> Result<Vec<OpenToken>, StoreError> {
        Ok(self.read()?.tokens)
    }

    /// The peer with a key, if it is trusted now.
    ///
    /// # Errors
    ///
    /// When it is not, or nobody can tell.
    pub fn check(&self, key: &Fingerprint, now: i64) -> Result<Peer, Refusal> {
        let peers = self.peers().map_err(|error| Refusal::Store(Arc::new(error)))?;
        let peer = peers.into_iter().find(|peer| peer.fingerprint == *key).ok_or(Refusal::UnknownKey(*key))?;
        peer.check(now)?;
        Ok(peer)
    }

    /// Adds a peer whose fingerprint a person compared, or that was met by a token of its own. What is there already stays.
    ///
    /// # Errors
    ///
    /// When its name or key is another's, it was revoked, its end has come, or the file cannot be changed.
    pub fn add(&self, new: &NewPeer, now: i64) -> Result<Peer, TrustError> {
        check_end(new.expires, now, i64::MAX)?;
        self.change(|records| {
            if let Some(known) = records.peers.iter().find(|peer| peer.fingerprint == new.fingerprint) {
                let name = known.name.clone();
                return match known.revoked {
                    Some(at) => Err(TrustError::KeyRevoked { name, at }),
                    None if known.name == new.name && known.role == new.role && known.expires == new.expires => {
                        Ok((known.clone(), Changed::No))
                    }
                    None => Err(TrustError::KeyKnown { name }),
                };
            }
            check_name(records, &new.name, None)?;
            make_room(records)?;
            let (name, fingerprint) = (new.name.clone(), new.fingerprint);
            let (role, expires) = (new.role, new.expires);
            let peer = Peer { name, fingerprint, role, added: now, expires, revoked: None };
            records.peers.push(peer.clone());
            Ok((peer, Changed::Yes))
        })
    }

    /// Trusts a key no more, for good. One that was revoked before stays as it was.
    ///
    /// # Errors
    ///
    /// When it is not known, or the file cannot be changed.
    pub fn revoke(&self, key: &Fingerprint, now: i64) -> Result<Peer, TrustError> {
        self.change(|records| {
            let known = records.peers.iter_mut().find(|peer| peer.fingerprint == *key);
            let peer = known.ok_or(TrustError::Unknown(*key))?;
            let changed = if peer.revoked.is_none() { Changed::Yes } else { Changed::No };
            peer.revoked.get_or_insert(now);
            Ok((peer.clone(), changed))
        })
    }

    /// Knows a key no more, as if it had never been here: it may join again by another token. Nothing happens if it is not known.
    ///
    /// # Errors
    ///
    /// When the file cannot be changed.
    pub fn forget(&self, key: &Fingerprint) -> Result<(), TrustError> {
        self.change(|records| {
            let known = records.peers.len();
            records.peers.retain(|peer| peer.fingerprint != *key);
            Ok(((), if records.peers.len() < known { Changed::Yes } else { Changed::No }))
        })
    }

    /// Gives out a token for a server with this key. An open one for the same name ends.
    ///
    /// # Errors
    ///
    /// When the name is a peer's, an end is not possible, or the file cannot be changed.
    pub fn issue(&self, server: &Fingerprint, new: &NewToken, now: i64) -> Result<Token, TrustError> {
        check_end(Some(new.expires), now, now.saturating_add(TOKEN_LIFE_MAX))?;
        check_end(new.peer_expires, now, i64::MAX)?;
        let token = Token::new(*server)?;
        let open = OpenToken {
            name: new.name.clone(),
            role: new.role,
            proof: ProofKey(token.proof_key()),
            created: now,
            expires: new.expires,
            peer_expires: new.peer_expires,
            used: None,
        };
        self.change(|records| {
            let trusted = records.peers.iter().filter(|peer| peer.check(now).is_ok());
            if let Some(peer) = trusted.into_iter().find(|peer| peer.name == new.name) {
                return Err(TrustError::NameTaken { name: peer.name.clone(), fingerprint: peer.fingerprint });
            }
            let is_old = |token: &OpenToken| token.end() < now.saturating_sub(TOKEN_LIFE_MAX);
            records.tokens.retain(|token| !is_old(token) && (token.used.is_some() || token.name != new.name));
            make_room_for_token(records, now)?;
            records.tokens.push(open);
            Ok((token, Changed::Yes))
        })
    }

    /// Takes the open token for a name back.
    ///
    /// # Errors
    ///
    /// When there is none, or the file cannot be changed.
    pub fn withdraw(&self, name: &PeerName) -> Result<(), TrustError> {
        self.change(|records| {
            let before = records.tokens.len();
            records.tokens.retain(|token| token.used.is_some() || token.name != *name);
            if records.tokens.len() == before {
                return Err(TrustError::NoToken(name.clone()));
            }
            Ok(((), Changed::Yes))
        })
    }

    /// Lets the key in whose owner proved the secret of a token.
    ///
    /// That the token is used and that the key is known become durable in one step, so that neither is ever there without the
    /// other. The same key may ask again, since its answer may have got lost; it gets what it has, and nothing more.
    pub(crate) fn redeem(&self, proof: &[u8; 32], key: &Fingerprint, now: i64) -> Result<Redeemed, TrustError> {
        self.change(|records| {
            let refused = |refusal| Ok((Redeemed::Refused(refusal), Changed::No));
            let proof = ProofKey(*proof);
            let Some(at) = records.tokens.iter().position(|token| token.proof == proof) else {
                return refused(EnrolRefusal::Wrong);
            };
            let token = &records.tokens[at];
            let known = records.peers.iter().position(|peer| peer.fingerprint == *key);
            let peer = known.map(|at| &records.peers[at]);
            if peer.is_some_and(|peer| peer.revoked.is_some()) {
                return refused(EnrolRefusal::Revoked);
            }
            if let Some(used) = &token.used {
                let again = peer.filter(|peer| used.by == *key && peer.name == token.name && peer.check(now).is_ok());
                return match again {
                    Some(peer) => Ok((Redeemed::Accepted(peer.clone()), Changed::No)),
                    None => refused(EnrolRefusal::Used),
                };
            }
            if now >= token.expires {
                return refused(EnrolRefusal::Expired);
            }
            if now < token.created.saturating_sub(CLOCK_TOLERANCE) {
                return refused(EnrolRefusal::ClockBehind);
            }
            if check_name(records, &token.name, Some(key)).is_err() {
                return refused(EnrolRefusal::NameTaken);
            }
            let peer = Peer {
                name: token.name.clone(),
                fingerprint: *key,
                role: token.role,
                added: now,
                expires: token.peer_expires,
                revoked: None,
            };
            if let Some(at) = known {
                // A new token for a known key gives it another end, name or role.
                records.peers[at] = peer.clone();
            } else {
                make_room(records)?;
                records.peers.push(peer.clone());
            }
            records.tokens[at].used = Some(Use { by: *key, at: now });
            Ok((Redeemed::Accepted(peer), Changed::Yes))
        })
    }

    fn read(&self) -> Result<Records, StoreError> {
        let Some(text) = self.directory.read(TRUST_FILE, TRUST_FILE_MAX)? else { return Ok(Records::default()) };
        let path = || self.directory.path().join(TRUST_FILE);
        Records::parse(&text).map_err(|why| StoreError::NotUnderstood { path: path(), why })
    }

    fn change<T>(
        &self,
        change: impl FnOnce(&mut Records) -> Result<(T, Changed), TrustError>,
    ) -> Result<T, TrustError> {
        let locked = self.directory.lock()?;
        let mut records = self.read()?;
        let (result, changed) = change(&mut records)?;
        if changed == Changed::Yes {
            let text = records.to_text().map_err(|_| StoreError::Encoding("JSON"))?;
            self.directory.replace(&locked, TRUST_FILE, &text)?;
        }
        Ok(result)
    }
}

/// Whether there is something to write.
#[derive(PartialEq, Eq)]
enum Changed {
    Yes,
    No,
}

fn check_end(expires: Option<i64>, now: i64, latest: i64) -> Result<(), TrustError> {
    match expires {
        Some(expires) if expires <= now || expires > latest => Err(TrustError::End { expires, now }),
        _ => Ok(()),
    }
}

/// Whether a name is free, or its owner's.
fn check_name(records: &Records, name: &PeerName, owner: Option<&Fingerprint>) -> Result<(), TrustError> {
    let mut others = records.peers.iter().filter(|peer| peer.revoked.is_none() && Some(&peer.fingerprint) != owner);
    match others.find(|peer| peer.name == *name) {
        Some(peer) => Err(TrustError::NameTaken { name: name.clone(), fingerprint: peer.fingerprint }),
        None => Ok(()),
    }
}

/// Makes room for one more peer: what was revoked first is forgotten, since a key that is not known is refused as well.
fn make_room(records: &mut Records) -> Result<(), TrustError> {
    if records.peers.len() < PEERS_MAX {
        return Ok(());
    }
    let revoked = records.peers.iter().enumerate().filter_map(|(at, peer)| Some((peer.revoked?, at)));
    let Some((_, at)) = revoked.min() else {
        let instead = "revoke those that are not needed";
        return Err(TrustError::Full { count: records.peers.len(), what: "peers", instead });
    };
    records.peers.remove(at);
    Ok(())
}

/// Makes room for one more token: the one whose end is longest ago is forgotten, since an unknown one is refused as well.
fn make_room_for_token(records: &mut Records, now: i64) -> Result<(), TrustError> {
    if records.tokens.len() < TOKENS_MAX {
        return Ok(());
    }
    let ended = records.tokens.iter().enumerate().map(|(at, token)| (token.end(), at)).filter(|(end, _)| *end <= now);
    let Some((_, at)) = ended.min() else {
        let instead = "withdraw those that are not needed";
        return Err(TrustError::Full { count: records.tokens.len(), what: "tokens", instead });
    };
    records.tokens.remove(at);
    Ok(())
}
