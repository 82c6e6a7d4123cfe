//! What a target asks of a delta that comes through somebody else's hands.

use failback_orchestrate::{JobError, VerifyingKey};

/// What the other side of a connection may do with a pair, as whoever carries the protocol knows it: by the key that the
/// connection was made with, not by anything that is said over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is the pair's own source.
    Source,
    /// It may forward what the pair's source has made.
    Relay,
    /// It has nothing to do with this pair.
    None,
}

/// Whose signature a delta has to bear that comes from a side with this standing: for
/// [`ApplyOptions::trusted`](failback_orchestrate::ApplyOptions::trusted). `known` is the key of the pair's source, if there is one.
///
/// A relay is believed nothing. What it forwards has to be signed by the source, so a pair whose source has no key takes nothing
/// from a relay: without a signature it could make up content of its own.
///
/// # Errors
///
/// When the other side may not send for this pair.
pub fn required_signer(
    standing: Standing,
    pair: &str,
    known: Option<VerifyingKey>,
) -> Result<Option<VerifyingKey>, JobError> {
    match (standing, known) {
        (Standing::Source, known) => Ok(known),
        (Standing::Relay, Some(known)) => Ok(Some(known)),
        (Standing::Relay, None) => Err(JobError::Refused(format!(
            "pair {pair} knows no key of its source, and takes from a relay only what the source has signed: give the pair its \
             source's public key, and let the source sign"
        ))),
        (Standing::None, _) => Err(JobError::Refused(format!(
            "this machine may not send for pair {pair}: allow it on the master target first"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "-----BEGIN PUBLIC KEY-----\n\
        MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";

    #[test]
    fn a_relay_needs_a_signer_and_a_stranger_is_refused() {
        let key = VerifyingKey::from_pem(KEY).unwrap();
        assert_eq!(required_signer(Standing::Source, "web", None).unwrap(), None);
        assert_eq!(required_signer(Standing::Source, "web", Some(key)).unwrap(), Some(key));
        assert_eq!(required_signer(Standing::Relay, "web", Some(key)).unwrap(), Some(key));
        let refused = |standing, key| required_signer(standing, "web", key).unwrap_err().to_string();
        assert!(refused(Standing::Relay, None).contains("pair web knows no key"));
        assert!(refused(Standing::None, Some(key)).contains("may not send for pair web"));
    }
}
