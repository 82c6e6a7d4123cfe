//! The two kinds of 32 bytes, which must not be taken for each other.

use std::{fmt, str::FromStr};

/// The value of a node within a tree. It depends on the content below the node and on where the node lies.
///
/// In a tree of one block the only leaf is the root itself, and its value is the root's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChainingValue(pub [u8; 32]);

/// The BLAKE3 hash of a disk: what `b3sum` prints for the same bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Root(pub [u8; 32]);

impl ChainingValue {
    /// The value of the node above `left` and `right`, which is not the root.
    #[must_use]
    pub fn parent(left: &Self, right: &Self) -> Self {
        Self(blake3::hazmat::merge_subtrees_non_root(&left.0, &right.0, blake3::hazmat::Mode::Hash))
    }
}

impl Root {
    /// The root of a disk of no bytes.
    #[must_use]
    pub fn of_nothing() -> Self {
        Self::of(&[])
    }

    /// The root of a disk that holds just `content`.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        Self(blake3::hash(content).into())
    }

    /// The root above the two children of a tree.
    #[must_use]
    pub fn above(left: &ChainingValue, right: &ChainingValue) -> Self {
        Self(blake3::hazmat::merge_subtrees_root(&left.0, &right.0, blake3::hazmat::Mode::Hash).into())
    }
}

fn write_hex(bytes: &[u8; 32], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for ChainingValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

/// Why a text is not a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a root is 64 hexadecimal digits, as b3sum prints them: give all of them and nothing else")]
pub struct ParseRootError;

impl FromStr for Root {
    type Err = ParseRootError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hash = blake3::Hash::from_hex(text).map_err(|_| ParseRootError)?;
        Ok(Self(hash.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form() {
        // The hash of the empty input, from the official test vectors of BLAKE3.
        let empty = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        assert_eq!(Root::of_nothing().to_string(), empty);
        assert_eq!(empty.parse(), Ok(Root::of_nothing()));
        for wrong in ["", "af", &empty[1..], &format!("{empty}0"), &empty.replace('a', "g")] {
            assert_eq!(wrong.parse::<Root>(), Err(ParseRootError));
        }
    }
}
