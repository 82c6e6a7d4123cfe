//! Handshakes that do not come about, and what both sides say of them.

use crate::machine::{DAY, HOUR, Machine, NOW, Session, friends, meet, name};
use ed25519_dalek::pkcs8::DecodePrivateKey;
use ed25519_dalek::{Signer, SigningKey};
use failback_credentials::{KEY_FILE, Protocol, Refusal, Role};
use rcgen::{CertificateParams, SerialNumber, date_time_ymd};
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{AlertDescription, ClientConfig, ServerConfig};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

#[test]
fn an_unknown_client_is_refused_in_a_sentence_on_both_sides() {
    let (source, target) = (Machine::new(), Machine::new());
    source.knows(&target, "site", Role::Target, None);
    let session = Session::data(&source, &target, NOW);
    let (client, server) = session.sentences();
    assert!(client.starts_with("the other side does not know this machine's key: enrol it there"), "{client}");
    assert_eq!(
        server,
        format!(
            "the other side's key {} is not known here: enrol that machine, or add the key after \
        comparing it",
            source.key()
        )
    );
    assert!(session.server.peer(&session.met.server, NOW).is_err());
    assert!(!target.keys().join("trust.json").exists(), "nothing has changed");
}

#[test]
fn a_revoked_client_is_refused_in_a_sentence_on_both_sides() {
    let (source, target) = friends();
    target.trust.revoke(&source.key(), NOW).unwrap();
    let (client, server) = Session::data(&source, &target, NOW + 1).sentences();
    assert!(client.starts_with("the other side has revoked this machine's key: "), "{client}");
    assert!(server.starts_with("web-1 was revoked here on 2026-11-25 22:00:01 UTC: if that machine"), "{server}");
}

#[test]
fn a_client_whose_time_is_over_is_refused_in_a_sentence_on_both_sides() {
    let (source, target) = (Machine::new(), Machine::new());
    source.knows(&target, "site", Role::Target, None);
    target.knows(&source, "web-1", Role::Source, Some(NOW + HOUR));
    let (client, server) = Session::data(&source, &target, NOW + HOUR + DAY + 1).sentences();
    assert!(client.starts_with("the other side's trust in this machine has ended: if the clock there"), "{client}");
    let ended =
        "trust in web-1 ended on 2026-11-25 23:00:01 UTC, and it is 2026-11-26 23:00:02 UTC by this machine's clock";
    assert!(server.starts_with(ended), "{server}");
    let (client, server) = Session::data(&source, &target, 0).sentences();
    assert!(client.contains("look at its log, its clock"), "{client}");
    assert!(server.contains("it is 1970-01-01 00:00:00 UTC by this machine's clock, which must be wrong"), "{server}");
}

#[test]
fn a_server_with_another_key_is_refused_in_a_sentence_on_both_sides() {
    let (source, target) = friends();
    let stranger = Machine::new();
    stranger.knows(&source, "web-1", Role::Source, None);
    let client = source.tls.client(&target.key(), NOW).unwrap();
    let session = Session::of(client, stranger.tls.server(Protocol::Data, NOW).unwrap());
    let (client, server) = session.sentences();
    let (found, expected) = (stranger.key(), target.key());
    assert!(client.starts_with(&format!("the server has the key {found}, and {expected} is expected: ")), "{client}");
    assert!(server.starts_with("the other side expects another key of this machine: "), "{server}");
}

#[test]
fn a_server_that_the_client_revoked_or_never_knew_is_refused() {
    let (source, target) = friends();
    source.trust.revoke(&target.key(), NOW).unwrap();
    let (client, server) = Session::data(&source, &target, NOW).sentences();
    assert!(client.starts_with("site was revoked here on "), "{client}");
    assert!(server.starts_with("the other side has revoked this machine's key: "), "{server}");
    let newcomer = Machine::new();
    let (client, _) = Session::data(&newcomer, &target, NOW).sentences();
    assert!(client.contains("is not known here"), "{client}");
}

#[test]
fn a_list_that_is_not_understood_lets_nobody_in() {
    let (source, target) = friends();
    let path = target.keys().join("trust.json");
    for (text, mode) in [("{\"version\":1,", 0o600), ("{\"version\":1,\"peers\":[],\"tokens\":[]}", 0o644)] {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let session = Session::data(&source, &target, NOW);
        let (client, server) = session.sentences();
        assert!(client.starts_with("the other side cannot tell whether it trusts this machine"), "{client}");
        assert_eq!(server, "nobody can tell whether the other side is trusted");
    }
}

/// A client as another program would make it, with any key and certificate.
fn foreign_client(versions: &[&'static rustls::SupportedProtocolVersion], key: Option<CertifiedKey>) -> ClientConfig {
    let accept_any = Arc::new(AcceptAny);
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(accept_any);
    let mut config = match key {
        Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![Protocol::Data.alpn().to_vec()];
    config.resumption = Resumption::disabled();
    config
}

#[derive(Debug)]
struct AcceptAny;

impl rustls::client::danger::ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![rustls::SignatureScheme::ED25519]
    }
}

/// A machine's key as another program has it, with a certificate of its own making.
struct Foreign {
    key: SigningKey,
    public: Vec<u8>,
    algorithm: &'static rcgen::SignatureAlgorithm,
}

impl Foreign {
    fn of(machine: &Machine) -> Self {
        let key = SigningKey::from_pkcs8_pem(&fs::read_to_string(machine.keys().join(KEY_FILE)).unwrap()).unwrap();
        Self { public: key.verifying_key().to_bytes().to_vec(), key, algorithm: &rcgen::PKCS_ED25519 }
    }

    fn certificate(&self, first_year: i32, last_year: i32) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from(1));
        params.not_before = date_time_ymd(first_year, 1, 1);
        params.not_after = date_time_ymd(last_year, 1, 1);
        params.self_signed(self).unwrap().der().clone()
    }
}

impl rcgen::PublicKeyData for Foreign {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.algorithm
    }
}

impl rcgen::SigningKey for Foreign {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.key.sign(message).to_bytes().to_vec())
    }
}

fn private(machine: &Machine) -> Arc<dyn rustls::sign::SigningKey> {
    use rustls::pki_types::pem::PemObject;
    let der = PrivateKeyDer::from_pem_file(machine.keys().join(KEY_FILE)).unwrap();
    ring::sign::any_eddsa_type(&match der {
        PrivateKeyDer::Pkcs8(der) => der,
        _ => panic!("not PKCS#8"),
    })
    .unwrap()
}

#[test]
fn the_dates_of_a_certificate_decide_nothing() {
    let (source, target) = friends();
    for (first, last) in [(1990, 1999), (2990, 2999)] {
        let certificate = Foreign::of(&source).certificate(first, last);
        let key = CertifiedKey::new(vec![certificate], private(&source));
        let client = foreign_client(&[&rustls::version::TLS13], Some(key));
        let server = target.tls.server(Protocol::Data, NOW).unwrap();
        let met = meet(Arc::new(client), server.config());
        assert_eq!(server.peer(&met.server, NOW).unwrap().name, name("web-1"));
    }
}

#[test]
fn a_certificate_without_its_key_is_worth_nothing() {
    let (source, target) = friends();
    let thief = Machine::new();
    let key = CertifiedKey::new(vec![source.identity.certificate().clone()], private(&thief));
    let server = target.tls.server(Protocol::Data, NOW).unwrap();
    let met = meet(Arc::new(foreign_client(&[&rustls::version::TLS13], Some(key))), server.config());
    let error = met.at_server.unwrap_err();
    assert!(matches!(error, rustls::Error::InvalidCertificate(rustls::CertificateError::BadSignature)), "{error}");
    assert!(server.peer(&met.server, NOW).is_err());
    assert_eq!(server.explain(&error).to_string(), "the connection cannot be secured");
}

#[test]
fn a_key_of_another_kind_and_none_at_all_are_refused() {
    let (source, target) = friends();
    let mut foreign = Foreign::of(&source);
    // A point of P-256 in form; nobody looks at it.
    foreign.public = [vec![4], vec![7; 64]].concat();
    foreign.algorithm = &rcgen::PKCS_ECDSA_P256_SHA256;
    let other_kind = CertifiedKey::new(vec![foreign.certificate(2000, 2100)], private(&source));
    let no_certificate = CertifiedKey::new(vec![CertificateDer::from(vec![0x30; 100])], private(&source));
    for key in [Some(other_kind), Some(no_certificate), None] {
        let server = target.tls.server(Protocol::Data, NOW).unwrap();
        let met = meet(Arc::new(foreign_client(&[&rustls::version::TLS13], key)), server.config());
        assert!(matches!(server.explain(&met.at_server.unwrap_err()), Refusal::NoKey));
        let told = Refusal::from(met.at_client.unwrap_err()).to_string();
        assert_eq!(told, "the other side takes only Ed25519 keys, and was shown none");
    }
}

#[test]
fn a_client_below_tls_1_3_is_refused_in_a_sentence_on_both_sides() {
    let (source, target) = friends();
    let key = || CertifiedKey::new(vec![source.identity.certificate().clone()], private(&source));
    let server = target.tls.server(Protocol::Data, NOW).unwrap();
    let met = meet(Arc::new(foreign_client(&[&rustls::version::TLS12], Some(key()))), server.config());
    assert!(matches!(server.explain(&met.at_server.unwrap_err()), Refusal::TooOld));
    let told = Refusal::from(met.at_client.unwrap_err());
    assert!(matches!(told, Refusal::Told(AlertDescription::ProtocolVersion)));
    assert_eq!(told.to_string(), "the other side wants TLS 1.3, which this side does not offer");
    // With both versions offered it is the newer one.
    let server = target.tls.server(Protocol::Data, NOW).unwrap();
    let both = [&rustls::version::TLS12, &rustls::version::TLS13];
    let met = meet(Arc::new(foreign_client(&both, Some(key()))), server.config());
    server.peer(&met.server, NOW).unwrap();
}

#[test]
fn a_server_below_tls_1_3_is_refused() {
    let (source, target) = friends();
    let key = CertifiedKey::new(vec![target.identity.certificate().clone()], private(&target));
    let mut server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    server.alpn_protocols = vec![Protocol::Data.alpn().to_vec()];
    let client = source.tls.client(&target.key(), NOW).unwrap();
    let met = meet(client.config(), Arc::new(server));
    assert!(met.client.is_handshaking());
    assert!(matches!(client.explain(&met.at_client.unwrap_err()), Refusal::Told(AlertDescription::ProtocolVersion)));
}

#[test]
fn another_protocol_and_none_are_refused() {
    let (source, target) = friends();
    for (offered, told) in [(vec![b"h2".to_vec()], true), (vec![], false)] {
        let mut client = (*source.tls.client(&target.key(), NOW).unwrap().config()).clone();
        client.alpn_protocols = offered;
        let server = target.tls.server(Protocol::Data, NOW).unwrap();
        let met = meet(Arc::new(client), server.config());
        if told {
            assert!(matches!(server.explain(&met.at_server.unwrap_err()), Refusal::OtherProtocol));
            let refusal = Refusal::from(met.at_client.unwrap_err());
            assert!(refusal.to_string().starts_with("the other side speaks another protocol"), "{refusal}");
        } else {
            assert!(matches!(server.peer(&met.server, NOW), Err(Refusal::OtherProtocol)));
        }
    }
}

#[test]
fn an_enrolment_makes_nobody_a_peer() {
    let (source, target) = friends();
    let token = target.issue("web-2");
    let session = Session::enrolment(&source, &target, &token);
    assert_eq!(session.server.key(&session.met.server).unwrap(), source.key());
    assert!(matches!(session.server.peer(&session.met.server, NOW), Err(Refusal::UnknownKey(_))));
    // Nor does a configuration for data take a client that asks for enrolment.
    let server = target.tls.server(Protocol::Data, NOW).unwrap();
    let session = Session::of(source.tls.enrolment(&token).unwrap(), server);
    assert!(matches!(session.server.explain(&session.met.at_server.unwrap_err()), Refusal::OtherProtocol));
}

#[test]
fn a_handshake_that_is_not_through_tells_of_nobody() {
    let (source, target) = friends();
    let server = target.tls.server(Protocol::Data, NOW).unwrap();
    let connection = rustls::ServerConnection::new(server.config()).unwrap();
    assert!(matches!(server.peer(&connection, NOW), Err(Refusal::NotThrough)));
    let client = source.tls.client(&target.key(), NOW).unwrap();
    let connection = rustls::ClientConnection::new(client.config(), failback_credentials::server_name()).unwrap();
    assert!(matches!(client.key(&connection), Err(Refusal::NotThrough)));
}

#[test]
fn the_error_of_tls_is_found_in_one_of_reading() {
    let alert = rustls::Error::AlertReceived(AlertDescription::UnknownCA);
    let wrapped = std::io::Error::other(alert.clone());
    assert_eq!(failback_credentials::explain(&wrapped), Some(&alert));
    assert_eq!(failback_credentials::explain(&std::io::Error::other("another")), None);
    let other = Refusal::from(rustls::Error::AlertReceived(AlertDescription::InternalError)).to_string();
    assert_eq!(other, "the other side refused the connection (InternalError): look at its log");
}
