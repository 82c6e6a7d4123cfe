//! Who may speak to whom: keys, known peers, one-time tokens, and what TLS makes of them.
//!
//! - A machine has one key, its [`Identity`], in a [`Directory`] of its own. People compare its [`Fingerprint`].
//! - Whom it trusts is in its [`TrustStore`]: the key's fingerprint, a name, a [`Role`], perhaps an end; and what was revoked.
//! - [`Tls`] makes of both a configuration for one connection, an [`Attempt`]. TLS 1.3, both sides show their key, and nothing
//!   but the fingerprint decides: there is no authority that could vouch for a stranger, and no name that could be taken.
//! - A [`Token`] lets a key in that is not known yet, once. The client's side of that is [`request`] and [`read_answer`], the
//!   server's is [`Enroller`].
//!
//! `ENROLMENT.md` describes files, the token and the messages field by field. Nothing here opens a connection or reads a clock:
//! bytes and times are handed in.
#![forbid(unsafe_code)]

mod base32;
mod directory;
mod enrol;
mod error;
mod fingerprint;
mod identity;
mod limit;
mod tls;
mod token;
mod trust;
mod when;

pub use directory::Directory;
pub use enrol::wire::{ANSWER_LEN, REQUEST_LEN};
pub use enrol::{AnswerError, EnrolFailure, EnrolRefusal, Enroller, Reply, Welcome, read_answer, request};
pub use error::StoreError;
pub use fingerprint::{Fingerprint, NoFingerprint};
pub use identity::{Identity, KEY_FILE, forbid_core_dumps};
pub use limit::{RateLimit, network_of};
pub use tls::{Attempt, Protocol, Refusal, Tls, explain, protocol_of, server_name, tells_of_revocation};
pub use token::{Token, TokenError};
pub use trust::{
    BadName, CLOCK_TOLERANCE, NewPeer, NewToken, OpenToken, PEERS_MAX, Peer, PeerName, Role, TOKEN_LIFE_MAX,
    TOKENS_MAX, TRUST_FILE, TrustError, TrustStore, Use,
};
