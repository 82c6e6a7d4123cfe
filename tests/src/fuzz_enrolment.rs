//! What must hold of any text that claims to be a token, and of any bytes that claim to answer one.
//!
//! Called by the fuzzer and by a test on the stable toolchain, as in [`crate::fuzz`]. To search, from the top of the repository:
//! `cargo +nightly fuzz run --fuzz-dir tests/fuzz enrolment /tmp/found`

use failback_credentials::{ANSWER_LEN, Directory, Identity, NewToken, PeerName, Role, Token, TrustStore, read_answer};
use std::sync::LazyLock;

/// A token that a machine has issued, as it is shown.
static ISSUED: LazyLock<String> = LazyLock::new(issued);

fn issued() -> String {
    let directory = tempfile::tempdir().expect("there is room for a key");
    let directory = Directory::open(directory.path().join("keys")).expect("it can be made");
    let server = *Identity::load_or_create(&directory).expect("a key can be made").fingerprint();
    let name = PeerName::new("web").expect("it is a name");
    let new = NewToken { name, role: Role::Source, expires: 60, peer_expires: None };
    TrustStore::new(directory).issue(&server, &new, 0).expect("a token can be issued").reveal().to_string()
}

/// A token, and an answer to one, that are understood.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    vec![[&[0], ISSUED.as_bytes()].concat(), [&[1], &answer()[..]].concat()]
}

/// The answer that lets a client in.
fn answer() -> Vec<u8> {
    let mut answer = b"FBENROLA\x01\0\0\x01\x04\0\0\0".to_vec();
    answer.resize(ANSWER_LEN, 0);
    answer[16] = 77;
    answer[40..43].copy_from_slice(b"web");
    answer[104..108].copy_from_slice(b"site");
    answer
}

/// A text if the first byte is even, else an answer; what is missing of one is zero. Returns whether it was understood.
///
/// # Panics
///
/// When something does not hold that must.
#[must_use]
pub fn enrolment(bytes: &[u8]) -> bool {
    let (which, bytes) = bytes.split_first().unwrap_or((&0, &[]));
    if which % 2 == 0 { token(&String::from_utf8_lossy(bytes)) } else { answered(bytes) }
}

fn token(text: &str) -> bool {
    match Token::parse(text) {
        Ok(token) => {
            // However it was typed, it is shown in one way, which is the same token.
            let shown = token.reveal();
            let again = Token::parse(&shown).expect("what is shown can be typed");
            assert!(again.server() == token.server() && again.reveal() == shown);
            let digits = |text: &str| text.chars().filter(char::is_ascii_alphanumeric).count();
            assert!(digits(text) == digits(&shown) && shown.starts_with("failback1-"));
            true
        }
        Err(error) => {
            // It may be typed almost right: nothing of it is told.
            let told = error.to_string();
            let is_told = |part: &str| part.len() > 11 && told.contains(part);
            assert!(!text.split_whitespace().any(is_told) || text.len() < 12, "{told}");
            false
        }
    }
}

fn answered(bytes: &[u8]) -> bool {
    let mut answer = [0; ANSWER_LEN];
    let len = bytes.len().min(ANSWER_LEN);
    answer[..len].copy_from_slice(&bytes[..len]);
    let token = Token::parse(&ISSUED).expect("it was issued");
    match read_answer(&token, &answer) {
        Ok(welcome) => {
            // The server is known by the token, whatever it says; names can be printed and are names for everybody.
            assert!(welcome.server.fingerprint == *token.server() && welcome.server.expires.is_none());
            for name in [&welcome.name, &welcome.server.name] {
                assert!(PeerName::new(name.as_str()).is_ok() && !name.as_str().contains(char::is_control));
            }
            true
        }
        Err(error) => {
            let told = error.to_string();
            assert!(!told.is_empty() && !told.contains(char::is_control), "{told:?}");
            false
        }
    }
}
