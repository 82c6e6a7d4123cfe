//! A machine's own key.

use crate::directory::Directory;
use crate::{Fingerprint, StoreError};
use ed25519_dalek::pkcs8::spki::der::pem::{self, LineEnding};
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey, KeypairBytes};
use ed25519_dalek::{Signer as _, SigningKey};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyUsagePurpose, SanType, SerialNumber, date_time_ymd};
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use rustls::{SignatureAlgorithm, SignatureScheme};
use std::fmt;
use std::sync::Arc;
use zeroize::Zeroizing;

/// The file with the private key: PKCS#8 in PEM form (RFC 8410), as `openssl genpkey -algorithm ed25519` writes it.
pub const KEY_FILE: &str = "key.pem";

/// The name in every certificate, for programs that want one: it proves nothing.
const CERTIFICATE_NAME: &str = "failback";

/// More than any text around 32 bytes takes.
pub(crate) const KEY_FILE_MAX: usize = 4096;

/// A machine's Ed25519 key and the certificate that carries it in TLS.
///
/// The private key is in memory once, and overwritten when the last user lets go of it. A process that has one writes no core
/// dumps any more.
#[derive(Clone, Debug)]
pub struct Identity {
    key: MachineKey,
    certificate: CertificateDer<'static>,
    fingerprint: Fingerprint,
}

impl Identity {
    /// The key that is in a directory.
    ///
    /// # Errors
    ///
    /// When there is none, it may be read by others, or it is no Ed25519 key.
    pub fn load(directory: &Directory) -> Result<Self, StoreError> {
        let path = || directory.path().join(KEY_FILE);
        forbid_core_dumps()?;
        let content = directory.read(KEY_FILE, KEY_FILE_MAX)?.ok_or_else(|| StoreError::NoKey { path: path() })?;
        let key = std::str::from_utf8(&content).ok().and_then(|text| SigningKey::from_pkcs8_pem(text).ok());
        // What the parser says about it may repeat a part of it.
        let not_understood = || StoreError::NotUnderstood { path: path(), why: "no Ed25519 key in PEM form".into() };
        Self::of(key.ok_or_else(not_understood)?)
    }

    /// The key that is in a directory, or a new one that is durable there before it is used.
    ///
    /// # Errors
    ///
    /// As [`Self::load`], and when a key cannot be made or written.
    pub fn load_or_create(directory: &Directory) -> Result<Self, StoreError> {
        let locked = directory.lock()?;
        match Self::load(directory) {
            Err(StoreError::NoKey { .. }) => {}
            found => return found,
        }
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed).map_err(StoreError::Random)?;
        // Without the public key beside it, which programs that follow RFC 5208 only do not read.
        let mut pair = KeypairBytes { secret_key: *seed, public_key: None };
        let pem = pair.to_pkcs8_pem(LineEnding::LF);
        zeroize::Zeroize::zeroize(&mut pair.secret_key);
        let pem = pem.map_err(|_| StoreError::Encoding("PEM"))?;
        directory.replace(&locked, KEY_FILE, pem.as_bytes())?;
        Self::load(directory)
    }

    fn of(key: SigningKey) -> Result<Self, StoreError> {
        let public = key.verifying_key().to_bytes();
        let fingerprint = Fingerprint::of_ed25519(&public);
        let key = MachineKey { key: Arc::new(key), public };
        let certificate = certificate(&key, &fingerprint).map_err(|_| StoreError::Encoding("a certificate"))?;
        Ok(Self { key, certificate, fingerprint })
    }

    /// What others know this machine by.
    #[must_use]
    pub const fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// The public key (32 bytes, as in RFC 8032).
    #[must_use]
    pub const fn public(&self) -> &[u8; 32] {
        &self.key.public
    }

    /// The certificate that carries the key, in DER form: the same whenever it is made of the same key.
    #[must_use]
    pub const fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The certificate in PEM form (RFC 7468), for programs that show it with the key of [`KEY_FILE`], or compare what a server shows
    /// with it.
    ///
    /// # Errors
    ///
    /// Never, as far as is known: a certificate is small.
    pub fn certificate_pem(&self) -> Result<String, StoreError> {
        pem::encode_string("CERTIFICATE", LineEnding::LF, &self.certificate).map_err(|_| StoreError::Encoding("PEM"))
    }

    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::new(CertifiedKey::new(vec![self.certificate.clone()], Arc::new(self.key.clone())))
    }
}

/// Its own signature makes nobody trust a certificate, and neither do names and dates in it; so there is as little as possible.
fn certificate(key: &MachineKey, fingerprint: &Fingerprint) -> Result<CertificateDer<'static>, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.not_before = date_time_ymd(2000, 1, 1);
    // RFC 5280, section 4.1.2.5: no end. When a machine is not to be trusted any more is for those who trust it to say.
    params.not_after = date_time_ymd(9999, 12, 31) + time::Duration::seconds(24 * 3600 - 1);
    let mut serial = fingerprint.bytes()[..16].to_vec();
    // A positive number without leading zeroes.
    serial[0] = serial[0] & 0x7F | 0x40;
    params.serial_number = Some(SerialNumber::from(serial));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, CERTIFICATE_NAME);
    // Programs that know nothing of failback compare a name as well.
    params.subject_alt_names = vec![SanType::DnsName(CERTIFICATE_NAME.try_into()?)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    Ok(params.self_signed(key)?.der().clone())
}

/// Keeps this process out of core dumps, and from being looked into by processes of the same user: whoever loads any private key does it.
///
/// # Errors
///
/// When the system does not allow it.
pub fn forbid_core_dumps() -> Result<(), StoreError> {
    nix::sys::prctl::set_dumpable(false).map_err(|errno| StoreError::Dumpable(errno.into()))
}

/// The private key, for whoever signs with it; a copy of this is no copy of the key.
#[derive(Clone)]
struct MachineKey {
    key: Arc<SigningKey>,
    public: [u8; 32],
}

impl fmt::Debug for MachineKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("MachineKey(…)")
    }
}

impl MachineKey {
    fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.key.sign(message).to_bytes().to_vec()
    }
}

impl rcgen::PublicKeyData for MachineKey {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

impl rcgen::SigningKey for MachineKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.sign(message))
    }
}

impl rustls::sign::SigningKey for MachineKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn rustls::sign::Signer>> {
        offered.contains(&SignatureScheme::ED25519).then(|| Box::new(self.clone()) as Box<dyn rustls::sign::Signer>)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ED25519
    }
}

impl rustls::sign::Signer for MachineKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        Ok(self.sign(message))
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}
