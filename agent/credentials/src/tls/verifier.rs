//! Whether a key that was shown in a handshake is the right one.

use super::Refusal;
use crate::{Fingerprint, Peer, TrustStore};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible, SignatureScheme,
};
use std::sync::{Arc, Mutex, PoisonError};

/// Knows what is expected of the other end of one connection.
#[derive(Debug)]
pub(super) struct Verifier {
    /// The one key that is expected; any, if there is none.
    expected: Option<Fingerprint>,
    /// Who knows which keys are trusted; without it, all that are expected are.
    trust: Option<Arc<TrustStore>>,
    /// The time at which the connection began.
    now: i64,
    algorithms: WebPkiSupportedAlgorithms,
    /// Why the other end was refused.
    pub(super) refused: Mutex<Option<Refusal>>,
}

impl Verifier {
    pub(super) fn new(
        provider: &CryptoProvider,
        expected: Option<Fingerprint>,
        trust: Option<Arc<TrustStore>>,
        now: i64,
    ) -> Self {
        let algorithms = provider.signature_verification_algorithms;
        Self { expected, trust, now, algorithms, refused: Mutex::new(None) }
    }

    /// The key in a certificate, if it may be the one that is expected.
    pub(super) fn expected(&self, shown: &CertificateDer<'_>) -> Result<Fingerprint, Refusal> {
        let found = Fingerprint::of_certificate(shown).ok_or(Refusal::NoKey)?;
        match self.expected {
            Some(expected) if expected != found => Err(Refusal::OtherKey { expected, found }),
            _ => Ok(found),
        }
    }

    /// The peer that has a key; none, if nobody has to be known.
    pub(super) fn trusted(&self, key: &Fingerprint, now: i64) -> Result<Option<Peer>, Refusal> {
        self.trust.as_ref().map(|trust| trust.check(key, now)).transpose()
    }

    fn verify(&self, shown: &CertificateDer<'_>) -> Result<(), Error> {
        let verified = self.expected(shown).and_then(|key| self.trusted(&key, self.now));
        verified.map(drop).map_err(|refusal| {
            let error = Error::InvalidCertificate(told(&refusal));
            *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
            error
        })
    }

    fn verify_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, shown, signed, &self.algorithms)
    }
}

/// What the other end is told: TLS has no words but these.
fn told(refusal: &Refusal) -> CertificateError {
    match refusal {
        Refusal::UnknownKey(_) => CertificateError::UnknownIssuer,
        Refusal::Revoked { .. } => CertificateError::Revoked,
        Refusal::Expired { .. } => CertificateError::Expired,
        Refusal::OtherKey { .. } => CertificateError::ApplicationVerificationFailure,
        Refusal::NoKey => CertificateError::BadEncoding,
        other => CertificateError::Other(OtherError(Arc::new(other.clone()))),
    }
}

/// Nothing below TLS 1.3 is ever agreed on.
const TOO_OLD: Error = Error::PeerIncompatible(PeerIncompatible::SupportedVersionsExtensionRequired);

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        _above: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(shown).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _shown: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(TOO_OLD)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, shown, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _above: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(shown).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _shown: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(TOO_OLD)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, shown, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}
