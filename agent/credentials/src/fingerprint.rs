//! What people and machines know a key by.

use base64ct::{Base64, Encoding};
use rustls::pki_types::CertificateDer;
use rustls::server::ParsedCertificate;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;

/// How the `SubjectPublicKeyInfo` of an Ed25519 key begins (RFC 8410, section 4). The key's 32 bytes follow.
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2A, 0x30, 0x05, 0x06, 0x03, 0x2B, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The SHA-256 of a key's `SubjectPublicKeyInfo`.
///
/// Other programs show the same: `openssl x509 -pubkey -noout | openssl pkey -pubin -outform DER | sha256sum`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint([u8; 32]);

/// A text is no fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is no fingerprint, which is 64 hexadecimal digits, such as in 16 groups: compare it with what the machine shows"
)]
pub struct NoFingerprint;

impl Fingerprint {
    /// A fingerprint that was kept or sent.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// As `curl --pinnedpubkey` takes it: `sha256//` and the same bytes in base64 (RFC 7469 has that form too).
    #[must_use]
    pub fn pin(&self) -> String {
        format!("sha256//{}", Base64::encode_string(&self.0))
    }

    /// The fingerprint of an Ed25519 public key (32 bytes, as in RFC 8032).
    #[must_use]
    pub fn of_ed25519(public: &[u8; 32]) -> Self {
        let mut info = SPKI_PREFIX.to_vec();
        info.extend_from_slice(public);
        Self(Sha256::digest(&info).into())
    }

    /// The fingerprint of the key in a certificate; `None` if there is no Ed25519 key in it.
    pub(crate) fn of_certificate(certificate: &CertificateDer<'_>) -> Option<Self> {
        let parsed = ParsedCertificate::try_from(certificate).ok()?;
        let info = parsed.subject_public_key_info();
        let public = info.as_ref().strip_prefix(&SPKI_PREFIX)?;
        Some(Self::of_ed25519(public.try_into().ok()?))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, pair) in self.0.chunks_exact(2).enumerate() {
            let separator = if at == 0 { "" } else { ":" };
            write!(out, "{separator}{:02x}{:02x}", pair[0], pair[1])?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Fingerprint({self})")
    }
}

impl FromStr for Fingerprint {
    type Err = NoFingerprint;

    /// Digits of either case, in groups or not.
    fn from_str(text: &str) -> Result<Self, NoFingerprint> {
        let mut digits = text.trim().chars().filter(|c| !matches!(c, ':' | '-' | ' '));
        let mut digit = || digits.next().and_then(|c| c.to_digit(16)).and_then(|value| u8::try_from(value).ok());
        let mut bytes = [0; 32];
        for byte in &mut bytes {
            *byte = digit().ok_or(NoFingerprint)? << 4 | digit().ok_or(NoFingerprint)?;
        }
        if digits.next().is_some() { Err(NoFingerprint) } else { Ok(Self(bytes)) }
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = NoFingerprint;

    fn try_from(text: String) -> Result<Self, NoFingerprint> {
        text.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sixteen_groups_of_four_digits() {
        let text = Fingerprint([0xAB; 32]).to_string();
        assert_eq!(text, ["abab"; 16].join(":"));
        assert_eq!(text.to_uppercase().replace(':', " ").parse(), Ok(Fingerprint([0xAB; 32])));
        assert_eq!("ab".repeat(32).parse(), Ok(Fingerprint([0xAB; 32])));
    }

    #[test]
    fn what_is_too_long_short_or_strange_is_none() {
        for text in ["", "ab", &"ab".repeat(31), &"ab".repeat(33), &"xy".repeat(32), &"ab".repeat(1 << 20)] {
            assert_eq!(text.parse::<Fingerprint>(), Err(NoFingerprint));
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,100}") {
            if let Ok(fingerprint) = text.parse::<Fingerprint>() {
                prop_assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
            }
        }

        #[test]
        fn no_certificate_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(Fingerprint::of_certificate(&bytes.into()), None);
        }
    }
}
