//! The two messages of an enrolment. `ENROLMENT.md` has them field by field.

use zerocopy::little_endian::{I64, U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of the client's message.
pub const REQUEST_LEN: usize = 112;

/// Bytes of the server's answer, whatever it says.
pub const ANSWER_LEN: usize = 168;

/// The client's message begins with this.
pub(crate) const REQUEST_MAGIC: [u8; 8] = *b"FBENROLQ";

/// The server's answer begins with this.
pub(crate) const ANSWER_MAGIC: [u8; 8] = *b"FBENROLA";

/// The version of both messages. Another one has another ALPN name too.
pub(crate) const VERSION: u16 = 1;

/// Bytes for a name, as many as the longest has.
pub(crate) const NAME_LEN: usize = 64;

/// What the exporter of TLS is asked for (RFC 8446, section 7.5). It gives both ends the same 32 bytes, and no other connection.
pub(crate) const EXPORTER_LABEL: &[u8] = b"EXPERIMENTAL failback enrolment 1";

/// What every proof begins with, so that a signature for something else is none.
pub(crate) const PROOF_LABEL: &[u8] = b"failback enrolment version 1\0";

/// Roles, as they are sent.
pub(crate) mod role {
    pub(crate) const SOURCE: u8 = 1;
    pub(crate) const RELAY: u8 = 2;
    pub(crate) const ADMIN: u8 = 3;
    pub(crate) const TARGET: u8 = 4;
}

/// What the server says.
pub(crate) mod verdict {
    pub(crate) const ACCEPTED: u8 = 0;
    pub(crate) const WRONG: u8 = 1;
    pub(crate) const USED: u8 = 2;
    pub(crate) const EXPIRED: u8 = 3;
    pub(crate) const REVOKED: u8 = 4;
    pub(crate) const NAME_TAKEN: u8 = 5;
    pub(crate) const TOO_OFTEN: u8 = 6;
    pub(crate) const CLOCK_BEHIND: u8 = 7;
    pub(crate) const FAILED: u8 = 8;
    pub(crate) const NOT_UNDERSTOOD: u8 = 9;
}

/// From the client.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawRequest {
    /// [`REQUEST_MAGIC`].
    pub(crate) magic: [u8; 8],
    /// [`VERSION`].
    pub(crate) version: U16,
    /// Zero.
    pub(crate) reserved: [u8; 6],
    /// The public key that follows from the token's secret.
    pub(crate) proof_key: [u8; 32],
    /// A signature by that key over [`PROOF_LABEL`], the server's fingerprint, the client's, and the exporter's 32 bytes.
    pub(crate) proof: [u8; 64],
}

/// From the server.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawAnswer {
    /// [`ANSWER_MAGIC`].
    pub(crate) magic: [u8; 8],
    /// [`VERSION`].
    pub(crate) version: U16,
    /// One of [`verdict`].
    pub(crate) verdict: u8,
    /// One of [`role`]: what the client is now. Zero in a refusal.
    pub(crate) role: u8,
    /// One of [`role`]: what the server is. Zero in a refusal.
    pub(crate) server_role: u8,
    /// Zero.
    pub(crate) reserved: [u8; 3],
    /// What the server's clock says, in seconds since 1970.
    pub(crate) now: I64,
    /// When the server's trust in the client ends, in seconds since 1970; zero if it has no end.
    pub(crate) expires: I64,
    /// Seconds to wait before the next try; zero but for [`verdict::TOO_OFTEN`].
    pub(crate) wait: U32,
    /// Zero.
    pub(crate) reserved2: [u8; 4],
    /// What the client is called now, filled up with zeroes. Zero in a refusal.
    pub(crate) name: [u8; NAME_LEN],
    /// What the server is called, filled up with zeroes. Zero in a refusal.
    pub(crate) server_name: [u8; NAME_LEN],
}

const _: () = assert!(size_of::<RawRequest>() == REQUEST_LEN);
const _: () = assert!(size_of::<RawAnswer>() == ANSWER_LEN);
const _: () = assert!(NAME_LEN == crate::PeerName::MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;
    use zerocopy::FromZeros;

    #[test]
    fn the_document_says_the_same() {
        let document = include_str!("../../ENROLMENT.md");
        let rows: Vec<(usize, usize, &str)> = document
            .lines()
            .filter_map(|line| {
                let cells: Vec<&str> = line.split('|').map(str::trim).collect();
                let [_, offset, size, _, field, _, _] = cells.as_slice() else { return None };
                Some((offset.parse().ok()?, size.parse().ok()?, field.trim_matches('`')))
            })
            .collect();
        macro_rules! fields {
            ($raw:ident: $($name:ident)*) => {
                [$((offset_of!($raw, $name), size_of_val(&$raw::new_zeroed().$name), stringify!($name))),*].to_vec()
            };
        }
        let request = fields!(RawRequest: magic version reserved proof_key proof);
        let answer = fields!(RawAnswer: magic version verdict role server_role reserved now expires wait reserved2 name
            server_name);
        assert_eq!(rows, [request, answer].concat());
        assert!(document.contains(std::str::from_utf8(EXPORTER_LABEL).unwrap()));
        assert!(document.contains(&format!("signed, {} bytes", PROOF_LABEL.len() + 3 * 32)));
    }
}
