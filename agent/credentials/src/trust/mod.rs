//! Who is trusted, and which tokens are open.

mod record;
mod store;

pub use record::{BadName, NewPeer, NewToken, OpenToken, Peer, PeerName, Role, Use};
pub(crate) use store::Redeemed;
pub(crate) use store::TRUST_FILE_MAX;
pub use store::{TRUST_FILE, TrustError, TrustStore};

/// Peers in a store, revoked ones counted: so many disks no master target has slots for.
pub const PEERS_MAX: usize = 4096;

/// Tokens in a store, of which used and expired ones go after [`TOKEN_LIFE_MAX`].
pub const TOKENS_MAX: usize = 256;

/// The longest that a token may be open, in seconds: 30 days. It is for a person who is about to use it.
pub const TOKEN_LIFE_MAX: i64 = 30 * 24 * 3600;

/// By how much a clock may be wrong without anybody being locked out, in seconds: a day.
///
/// That is more than any time zone that was set wrongly, and a peer's end is a date, not an hour.
pub const CLOCK_TOLERANCE: i64 = 24 * 3600;
