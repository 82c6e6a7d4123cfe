//! Keys in files, and that they stay there.

use crate::machine::{Machine, NOW};
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::DecodePrivateKey;
use failback_credentials::{Directory, Fingerprint, Identity, KEY_FILE, StoreError};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

fn new() -> (tempfile::TempDir, Directory) {
    let temp = tempfile::tempdir().unwrap();
    let directory = Directory::open(temp.path().join("keys")).unwrap();
    (temp, directory)
}

#[test]
fn a_key_is_made_once_and_then_the_same() {
    let (_temp, directory) = new();
    let missing = Identity::load(&directory).unwrap_err();
    assert!(matches!(missing, StoreError::NoKey { .. }), "{missing}");
    let made = Identity::load_or_create(&directory).unwrap();
    let metadata = fs::metadata(directory.path().join(KEY_FILE)).unwrap();
    assert_eq!(metadata.mode() & 0o7777, 0o600);
    for loaded in [Identity::load(&directory).unwrap(), Identity::load_or_create(&directory).unwrap()] {
        assert_eq!(loaded.fingerprint(), made.fingerprint());
        assert_eq!(loaded.certificate(), made.certificate());
    }
    assert_eq!(*made.fingerprint(), Fingerprint::of_ed25519(made.public()));
    let (_temp, other) = new();
    assert_ne!(Identity::load_or_create(&other).unwrap().fingerprint(), made.fingerprint());
}

#[test]
fn many_at_once_make_one_key() {
    let (_temp, directory) = new();
    let made: Vec<_> = std::thread::scope(|scope| {
        let made: Vec<_> = (0..8).map(|_| scope.spawn(|| Identity::load_or_create(&directory).unwrap())).collect();
        made.into_iter().map(|thread| *thread.join().unwrap().fingerprint()).collect()
    });
    assert!(made.iter().all(|key| *key == made[0]));
}

#[test]
fn a_key_of_openssl_is_taken_and_no_other_text() {
    // RFC 8410, section 10.3, with the public key of section 10.1.
    const KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
                       MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
                       -----END PRIVATE KEY-----\n";
    const PUBLIC: &str = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";
    // printf %s 302a300506032b6570032100$PUBLIC | xxd -r -p | sha256sum
    const FINGERPRINT: &str = "a1e9:1560:54e0:4fac:899a:e9f2:7513:2cdc:07a5:dbc4:ea2c:2ad3:a1ff:c6e0:d253:681f";
    let (_temp, directory) = new();
    let path = directory.path().join(KEY_FILE);
    let put = |text: &[u8]| {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    };
    put(KEY.as_bytes());
    let identity = Identity::load(&directory).unwrap();
    // Written alike: 32 bytes.
    assert_eq!(*identity.public(), *PUBLIC.parse::<Fingerprint>().unwrap().bytes());
    assert_eq!(identity.fingerprint().to_string(), FINGERPRINT);
    for text in [&b""[..], b"MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK", b"\xFF\xFE", &KEY.as_bytes()[..90], &[b'-'; 4096]] {
        put(text);
        for error in [Identity::load(&directory).unwrap_err(), Identity::load_or_create(&directory).unwrap_err()] {
            assert!(matches!(error, StoreError::NotUnderstood { .. }), "{error}");
            assert!(!error.to_string().contains("MC4C"), "{error}");
        }
        assert_eq!(fs::read(&path).unwrap(), text, "what is not understood is not replaced");
    }
    put(&[b'-'; 4097]);
    assert!(matches!(Identity::load(&directory), Err(StoreError::TooLarge { .. })));
    put(KEY.as_bytes());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(Identity::load(&directory), Err(StoreError::Exposed { mode: 0o644, .. })));
}

#[test]
fn whoever_has_a_key_writes_no_core_dumps() {
    nix::sys::prctl::set_dumpable(true).unwrap();
    let (_temp, directory) = new();
    Identity::load_or_create(&directory).unwrap();
    assert!(!nix::sys::prctl::get_dumpable().unwrap());
}

#[test]
fn nothing_that_is_shown_holds_a_byte_of_a_key() {
    let machine = Machine::new();
    let pem = fs::read_to_string(machine.keys().join(KEY_FILE)).unwrap();
    let seed = SigningKey::from_pkcs8_pem(&pem).unwrap().to_bytes();
    let token = machine.issue("web-1");
    let server = machine.tls.server(failback_credentials::Protocol::Data, NOW).unwrap();
    let shown = [
        format!("{:?} {:#?}", machine.identity, machine.identity),
        format!("{:?} {:?} {:?}", server.config(), machine.trust, token),
        fs::read_to_string(machine.keys().join("trust.json")).unwrap(),
    ]
    .concat();
    let decimal: Vec<_> = seed[..4].iter().map(u8::to_string).collect();
    let hexadecimal: Vec<_> = seed[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    for secret in [pem.lines().nth(1).unwrap(), &decimal.join(", "), &decimal.join(",\n"), &hexadecimal.concat()] {
        assert!(!shown.contains(secret));
    }
    // The groups of the token after those of the server, whose key is no secret.
    for group in token.reveal().split('-').skip(9) {
        assert!(!shown.contains(group), "{group}");
    }
}

#[test]
fn other_programs_understand_the_certificate_and_the_pin() {
    let (_temp, directory) = new();
    let identity = Identity::load_or_create(&directory).unwrap();
    let pem = identity.certificate_pem().unwrap();
    assert!(
        pem.starts_with("-----BEGIN CERTIFICATE-----\n") && pem.ends_with("\n-----END CERTIFICATE-----\n"),
        "{pem}"
    );
    assert_eq!(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap(), *identity.certificate());
    // As `openssl pkey -pubout -outform DER | openssl dgst -sha256 -binary | base64` has it, of the key of RFC 8410 that is used above.
    let fingerprint =
        "a1e9156054e04fac899ae9f275132cdc07a5dbc4ea2c2ad3a1ffc6e0d253681f".parse::<Fingerprint>().unwrap();
    assert_eq!(fingerprint.pin(), "sha256//oekVYFTgT6yJmunydRMs3Ael28TqLCrTof/G4NJTaB8=");
}
