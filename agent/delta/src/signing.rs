//! Ed25519 signatures over a delta: who made it, not only that it is whole.

use crate::FreeBlocks;
use crate::delta::FrameTable;
use crate::layout::{SignedExtent, content};
use ed25519_dalek::pkcs8::{DecodePrivateKey, DecodePublicKey};
use ed25519_dalek::{Signature, Signer};
use failback_hashtree::Root;
use zerocopy::IntoBytes;

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("this is no Ed25519 {0} key in PEM form: make one with openssl genpkey -algorithm ed25519")]
pub struct KeyError(&'static str);

/// What is signed: this text, the delta's header hash, its result root, the hash of its extents.
///
/// The header hash stands for sizes, coverage, kind, source identity and base root, since it is a hash of all of them. The
/// roots do not tell zero from free, nor does anything else that is signed, hence the map and the extents.
fn message(header_hash: &[u8; 32], result: &Root, extents: &[u8; 32]) -> Vec<u8> {
    [b"failback delta version 1\0".as_slice(), header_hash, &result.0, extents].concat()
}

/// The hash of the map and of all extents of a delta, keyed with its header's hash: where each lies, and what it was and
/// becomes.
#[derive(Clone, Debug)]
pub(crate) struct ExtentsHash(blake3::Hasher);

impl ExtentsHash {
    pub(crate) fn new(header_hash: &[u8; 32]) -> Self {
        Self(blake3::Hasher::new_keyed(header_hash))
    }

    /// Adds the map of the result's free space, before all frames.
    pub(crate) fn absorb_map(&mut self, free: &FreeBlocks) {
        for run in free.runs() {
            let signed = SignedExtent {
                first: run.start().get().into(),
                count: run.count().get().into(),
                new: content::FREE,
                old: content::ANY,
            };
            self.0.update(signed.as_bytes());
        }
    }

    /// Adds the extents of the next frame.
    pub(crate) fn absorb(&mut self, table: &FrameTable) {
        for extent in &table.extents {
            let signed = SignedExtent {
                first: extent.blocks.start().get().into(),
                count: extent.blocks.count().get().into(),
                new: extent.new.code(),
                old: extent.old.code(),
            };
            self.0.update(signed.as_bytes());
        }
    }

    pub(crate) fn finish(&self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// A private key that signs deltas.
#[derive(Debug)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// The key in a PKCS#8 PEM text (RFC 8410), as `openssl genpkey -algorithm ed25519` writes it.
    ///
    /// # Errors
    ///
    /// When the text is not that.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        ed25519_dalek::SigningKey::from_pkcs8_pem(text).map(Self).map_err(|_| KeyError("private"))
    }

    pub(crate) fn public(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }

    pub(crate) fn sign(&self, header_hash: &[u8; 32], result: &Root, extents: &ExtentsHash) -> [u8; 64] {
        self.0.sign(&message(header_hash, result, &extents.finish())).to_bytes()
    }
}

/// A public key that deltas are checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyingKey([u8; 32]);

impl VerifyingKey {
    /// The key in a PEM text (RFC 8410), as `openssl pkey -pubout` writes it.
    ///
    /// # Errors
    ///
    /// When the text is not that.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let key = ed25519_dalek::VerifyingKey::from_public_key_pem(text).map_err(|_| KeyError("public"))?;
        Ok(Self(key.to_bytes()))
    }

    /// The key of these 32 bytes; `None` if they are no point of the curve.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 32]) -> Option<Self> {
        ed25519_dalek::VerifyingKey::from_bytes(bytes).ok().map(|_| Self(*bytes))
    }

    /// The key's 32 bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key that signed, if the signature is good.
    pub(crate) fn of_signature(
        public: &[u8; 32],
        signature: &[u8; 64],
        header_hash: &[u8; 32],
        result: &Root,
        extents: &ExtentsHash,
    ) -> Option<Self> {
        let key = ed25519_dalek::VerifyingKey::from_bytes(public).ok()?;
        key.verify_strict(&message(header_hash, result, &extents.finish()), &Signature::from_bytes(signature)).ok()?;
        Some(Self(*public))
    }
}
