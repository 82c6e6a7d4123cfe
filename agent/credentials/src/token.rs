//! The text that lets one key in, once.

use crate::base32::{decode, digits_of, encode};
use crate::{Fingerprint, StoreError};
use ed25519_dalek::{Signer, SigningKey};
use std::fmt;
use zeroize::Zeroizing;

/// How a token begins, so that people and scanners for secrets know one. The digit is the version.
const PREFIX: &str = "failback1-";
const SECRET_LEN: usize = 16;
const CHECK_LEN: usize = 4;
const LEN: usize = 32 + SECRET_LEN + CHECK_LEN;
/// Digits between two dashes: twelve groups in all.
const GROUP: usize = 7;
/// With a blank after each digit a token is shorter.
const TEXT_MAX: usize = 256;

/// What the key that proves a secret is derived for.
const PROOF_CONTEXT: &str = "failback enrolment 2026-11-25 version 1: the key that proves a token's secret";
/// What a token's check is derived for.
const CHECK_CONTEXT: &str = "failback enrolment 2026-11-25 version 1: the check of a token's text";

/// Which server a client may meet, and a secret that shows the server that it was sent.
///
/// It is shown to a person once, by [`Self::reveal`]; the server keeps only the public half of the key that follows from it.
#[derive(Clone)]
pub struct Token {
    server: Fingerprint,
    secret: Zeroizing<[u8; SECRET_LEN]>,
}

/// Why a text is no token. It tells nothing of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It begins otherwise.
    #[error("a token begins with failback1-: take the whole text that failback enroll showed on the server")]
    Prefix,
    /// It has more or fewer digits.
    #[error(
        "after failback1- a token has 12 groups of 7 letters and digits: take the whole text that failback enroll showed on \
         the server"
    )]
    Digits,
    /// A digit is another one than it was.
    #[error(
        "a character of the token is wrong: compare each group with the text that failback enroll showed on the server"
    )]
    Check,
}

impl Token {
    /// A token for a server with a new secret.
    ///
    /// # Errors
    ///
    /// When the system gives no random bytes.
    pub(crate) fn new(server: Fingerprint) -> Result<Self, StoreError> {
        let mut secret = Zeroizing::new([0; SECRET_LEN]);
        getrandom::fill(&mut *secret).map_err(StoreError::Random)?;
        Ok(Self { server, secret })
    }

    /// The token in a text that was typed or pasted: the case of letters, blanks, line ends and dashes do not matter.
    ///
    /// # Errors
    ///
    /// When it is none, or has a mistake in it.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let (prefix, rest) = text.split_at_checked(PREFIX.len()).ok_or(TokenError::Prefix)?;
        if !prefix.eq_ignore_ascii_case(PREFIX) {
            return Err(TokenError::Prefix);
        }
        if rest.len() > TEXT_MAX {
            return Err(TokenError::Digits);
        }
        let digits = || rest.chars().filter(|digit| !digit.is_ascii_whitespace() && *digit != '-');
        if digits().count() != digits_of(LEN) {
            return Err(TokenError::Digits);
        }
        // As many as there have to be: one of them is none, or the last one has bits that none has.
        let bytes =
            decode::<LEN>(digits().map(|digit| u8::try_from(digit).unwrap_or_default())).ok_or(TokenError::Check)?;
        let (told, check) = bytes.split_at(LEN - CHECK_LEN);
        let (server, secret) = told.split_at(32);
        let mut token = Self { server: Fingerprint::from_bytes([0; 32]), secret: Zeroizing::default() };
        token.secret.copy_from_slice(secret);
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(server);
        token.server = Fingerprint::from_bytes(fingerprint);
        if token.check() == check { Ok(token) } else { Err(TokenError::Check) }
    }

    /// The text for a person. It is as good as the secret: show it once, and keep it nowhere.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new([0; LEN]);
        bytes[..32].copy_from_slice(self.server.bytes());
        bytes[32..32 + SECRET_LEN].copy_from_slice(&*self.secret);
        bytes[32 + SECRET_LEN..].copy_from_slice(&self.check());
        let digits = encode(&*bytes);
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + digits_of(LEN) * 2));
        text.push_str(PREFIX);
        for (at, digit) in digits.chars().enumerate() {
            if at > 0 && at % GROUP == 0 {
                text.push('-');
            }
            text.push(digit);
        }
        text
    }

    /// The server that the token is for.
    #[must_use]
    pub const fn server(&self) -> &Fingerprint {
        &self.server
    }

    /// Finds typing errors: of two billion wrong texts one passes. It is derived from the secret like any hash of it, and
    /// stands nowhere but in the token.
    fn check(&self) -> [u8; CHECK_LEN] {
        let mut hasher = blake3::Hasher::new_derive_key(CHECK_CONTEXT);
        hasher.update(self.server.bytes()).update(&*self.secret);
        let mut check = [0; CHECK_LEN];
        hasher.finalize_xof().fill(&mut check);
        check
    }

    /// The key that only who has the secret has. It is overwritten when it goes.
    fn key(&self) -> SigningKey {
        let mut seed = Zeroizing::new([0; 32]);
        let mut hasher = blake3::Hasher::new_derive_key(PROOF_CONTEXT);
        hasher.update(self.server.bytes()).update(&*self.secret);
        hasher.finalize_xof().fill(&mut *seed);
        SigningKey::from_bytes(&seed)
    }

    /// What the server keeps: with it a proof is checked, and none can be made.
    pub(crate) fn proof_key(&self) -> [u8; 32] {
        self.key().verifying_key().to_bytes()
    }

    /// Proves the secret for one message.
    pub(crate) fn prove(&self, message: &[u8]) -> [u8; 64] {
        self.key().sign(message).to_bytes()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Token").field("server", &self.server).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token(server: [u8; 32], secret: [u8; 16]) -> Token {
        Token { server: Fingerprint::from_bytes(server), secret: Zeroizing::new(secret) }
    }

    #[test]
    fn the_text_is_the_one_that_is_documented() {
        let text = token([0; 32], [0xFF; 16]).reveal();
        assert_eq!(text.len(), 10 + 84 + 11);
        assert!(text.starts_with("failback1-0000000-0000000-"), "{}", *text);
        assert_eq!(text.matches('-').count(), 12);
        let document = include_str!("../ENROLMENT.md");
        assert!([CHECK_CONTEXT, PROOF_CONTEXT].iter().all(|context| document.contains(context)));
    }

    #[test]
    fn debug_shows_no_secret() {
        let token = token([1; 32], [0xD7; 16]);
        let (shown, text) = (format!("{token:?}"), token.reveal());
        assert!(shown.starts_with("Token { server: Fingerprint(0101:"), "{shown}");
        assert!(!shown.contains("215") && !shown.contains("d7") && !shown.contains(&text[10..]), "{shown}");
    }

    #[test]
    fn two_tokens_are_not_the_same() {
        let server = Fingerprint::from_bytes([7; 32]);
        let (one, other) = (Token::new(server).unwrap(), Token::new(server).unwrap());
        assert_ne!(*one.reveal(), *other.reveal());
        assert_ne!(one.proof_key(), other.proof_key());
    }

    #[test]
    fn what_is_no_token_is_told_apart() {
        assert_eq!(Token::parse("").unwrap_err(), TokenError::Prefix);
        assert_eq!(Token::parse("failback2-0000000").unwrap_err(), TokenError::Prefix);
        assert_eq!(Token::parse("failbac\u{e4}\u{e4}-").unwrap_err(), TokenError::Prefix);
        assert_eq!(Token::parse("failback1-").unwrap_err(), TokenError::Digits);
        assert_eq!(Token::parse(&format!("failback1-{}", "0".repeat(84))).unwrap_err(), TokenError::Check);
        assert_eq!(Token::parse(&format!("failback1-{}", "-".repeat(1 << 20))).unwrap_err(), TokenError::Digits);
        // One that is mistyped, at the end too: there are as many as there have to be.
        let text = token([1; 32], [2; 16]).reveal();
        for wrong in ["1", "Z", "U", "?", "\u{e4}"] {
            let mistyped = format!("{}{wrong}", &text[..text.len() - 1]);
            assert_eq!(Token::parse(&mistyped).unwrap_err(), TokenError::Check, "{wrong}");
        }
        assert_eq!(Token::parse(&text[..text.len() - 1]).unwrap_err(), TokenError::Digits);
    }

    proptest! {
        #[test]
        fn what_is_shown_is_understood(server: [u8; 32], secret: [u8; 16]) {
            let token = token(server, secret);
            let text = token.reveal();
            let spoken = text.to_lowercase().replace('-', " \n").replacen(" \n", "-", 1);
            for text in [text.as_str(), &spoken, &format!("  {}\n", *text)] {
                let parsed = Token::parse(text).unwrap();
                prop_assert_eq!(parsed.server(), token.server());
                prop_assert_eq!(&*parsed.secret, &*token.secret);
            }
        }

        #[test]
        fn a_mistake_is_found(server: [u8; 32], secret: [u8; 16], at in 10_usize..105, digit in "[0-9A-HJKMNP-TV-Z]") {
            let text = token(server, secret).reveal();
            let mut wrong = text.to_string();
            wrong.replace_range(at..=at, &digit);
            if wrong != *text {
                prop_assert!(Token::parse(&wrong).is_err());
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in "(failback1-)?\\PC{0,120}") {
            let _ = Token::parse(&text);
        }
    }
}
