//! Why a connection did not come about, in sentences.

use crate::when::When;
use crate::{Fingerprint, PeerName, StoreError};
use rustls::{AlertDescription, Error, PeerIncompatible};
use std::io;
use std::sync::Arc;

/// Why a connection did not come about.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refusal {
    /// The other end's key is not known here.
    #[error("the other side's key {0} is not known here: enrol that machine, or add the key after comparing it")]
    UnknownKey(Fingerprint),
    /// It was revoked here.
    #[error(
        "{name} was revoked here on {}: if that machine is to be trusted again, it makes a new key and is enrolled again",
        When(*.at)
    )]
    Revoked {
        /// What the peer was called.
        name: PeerName,
        /// Its key.
        fingerprint: Fingerprint,
        /// When it was revoked.
        at: i64,
    },
    /// Trust in it has ended here.
    #[error(
        "trust in {name} ended on {}, and it is {} by this machine's clock: if the clock is right, enrol that machine with a \
         new token",
        When(*.expired), When(*.now)
    )]
    Expired {
        /// What the peer is called.
        name: PeerName,
        /// When trust ended.
        expired: i64,
        /// What the clock says.
        now: i64,
    },
    /// The clock says that a peer with an end was not yet added.
    #[error(
        "{name} was added on {}, and it is {} by this machine's clock, which must be wrong: set it, since trust in {name} has \
         an end",
        When(*.added), When(*.now)
    )]
    ClockBehind {
        /// What the peer is called.
        name: PeerName,
        /// When it was added.
        added: i64,
        /// What the clock says.
        now: i64,
    },
    /// The server has another key than the one that is expected.
    #[error(
        "the server has the key {found}, and {expected} is expected: this is another machine, one that was installed anew, or \
         somebody between; compare the keys before trusting it"
    )]
    OtherKey {
        /// The key that was asked for.
        expected: Fingerprint,
        /// The key that was shown.
        found: Fingerprint,
    },
    /// The other end showed no key, or none of our kind.
    #[error("the other side shows no Ed25519 key: it is no failback, or one that has no key yet")]
    NoKey,
    /// The other end has no TLS 1.3.
    #[error(
        "the other side offers no TLS 1.3 as failback speaks it: it is no failback, or something between changes what is said"
    )]
    TooOld,
    /// The other end wants something else than this connection is for.
    #[error(
        "the other side speaks another protocol or another version of it: use the same version of failback on both"
    )]
    OtherProtocol,
    /// The handshake is not through.
    #[error("the handshake is not through yet")]
    NotThrough,
    /// The list of peers cannot be read.
    #[error("nobody can tell whether the other side is trusted")]
    Store(#[source] Arc<StoreError>),
    /// The other end refused this one.
    #[error("{}", sentence_of(*.0))]
    Told(AlertDescription),
    /// Something else went wrong with TLS.
    #[error("the connection cannot be secured")]
    Tls(#[source] Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        match error {
            Error::AlertReceived(alert) => Self::Told(alert),
            Error::NoCertificatesPresented => Self::NoKey,
            Error::NoApplicationProtocol => Self::OtherProtocol,
            Error::PeerIncompatible(
                PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
            ) => Self::TooOld,
            other => Self::Tls(other),
        }
    }
}

/// What the other end's alert means in the words of this side.
fn sentence_of(alert: AlertDescription) -> String {
    let sentence = match alert {
        AlertDescription::UnknownCA => {
            "the other side does not know this machine's key: enrol it there, or have it added after comparing it"
        }
        AlertDescription::CertificateRevoked => {
            "the other side has revoked this machine's key: to be trusted again it makes a new key and is enrolled again"
        }
        AlertDescription::CertificateExpired => {
            "the other side's trust in this machine has ended: if the clock there is right, have a new token made there"
        }
        AlertDescription::AccessDenied => {
            "the other side expects another key of this machine: compare the key that it expects with this machine's"
        }
        AlertDescription::CertificateUnknown => {
            "the other side cannot tell whether it trusts this machine: look at its log, its clock and its list of peers"
        }
        AlertDescription::BadCertificate | AlertDescription::CertificateRequired => {
            "the other side takes only Ed25519 keys, and was shown none"
        }
        AlertDescription::ProtocolVersion => "the other side wants TLS 1.3, which this side does not offer",
        AlertDescription::NoApplicationProtocol => {
            "the other side speaks another protocol or another version of it: use the same version of failback on both"
        }
        other => return format!("the other side refused the connection ({other:?}): look at its log"),
    };
    sentence.to_owned()
}

/// Whether a sentence of a [`Refusal`] says that a key was revoked, here or there: it never is taken again.
#[must_use]
pub fn tells_of_revocation(sentence: &str) -> bool {
    sentence.contains(" was revoked here on ") || sentence.contains("the other side has revoked this machine's key")
}

/// The error of TLS in one of reading or writing, if that is what it is.
#[must_use]
pub fn explain(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revocation_is_known_by_its_sentence() {
        let name = PeerName::new("web").unwrap();
        let fingerprint = Fingerprint::from_bytes([7; 32]);
        let told = |refusal: Refusal| tells_of_revocation(&refusal.to_string());
        assert!(told(Refusal::Revoked { name: name.clone(), fingerprint, at: 7 }));
        assert!(told(Refusal::Told(AlertDescription::CertificateRevoked)));
        for other in [
            Refusal::UnknownKey(fingerprint),
            Refusal::Expired { name, expired: 7, now: 8 },
            Refusal::OtherKey { expected: fingerprint, found: Fingerprint::from_bytes([8; 32]) },
            Refusal::Told(AlertDescription::UnknownCA),
            Refusal::Told(AlertDescription::CertificateExpired),
            Refusal::OtherProtocol,
        ] {
            assert!(!told(other.clone()), "{other}");
        }
    }
}
