//! Structures that carry a hash of themselves and of what follows, and reading them from a stream.

use crate::layout::{
    IDENTITY_MAX, RawDeltaEnd, RawDeltaHeader, RawFrame, RawMapPage, RawPage, RawSignatureEnd, RawSignatureHeader,
};
use crate::{FileKind, FormatError};
use std::io::{self, Read};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A structure with a hash field.
pub(crate) trait Sealed: IntoBytes + FromBytes + Immutable + Copy {
    fn hash_mut(&mut self) -> &mut [u8; 32];

    /// The hash of this structure with its hash field zero, followed by `rest`.
    fn digest(mut self, key: Option<&[u8; 32]>, rest: &[&[u8]]) -> [u8; 32] {
        *self.hash_mut() = [0; 32];
        let mut hasher = key.map_or_else(blake3::Hasher::new, blake3::Hasher::new_keyed);
        hasher.update(self.as_bytes());
        for part in rest {
            hasher.update(part);
        }
        hasher.finalize().into()
    }

    fn seal(&mut self, key: Option<&[u8; 32]>, rest: &[&[u8]]) {
        *self.hash_mut() = self.digest(key, rest);
    }

    fn is_intact(mut self, key: Option<&[u8; 32]>, rest: &[&[u8]]) -> bool {
        let stated = *self.hash_mut();
        self.digest(key, rest) == stated
    }
}

macro_rules! sealed {
    ($($type:ty),+) => { $(impl Sealed for $type {
        fn hash_mut(&mut self) -> &mut [u8; 32] {
            &mut self.hash
        }
    })+ };
}
sealed!(RawSignatureHeader, RawPage, RawSignatureEnd, RawDeltaHeader, RawMapPage, RawFrame, RawDeltaEnd);

/// A stream that is read in parts of known length.
#[derive(Debug)]
pub(crate) struct Input<R> {
    pub(crate) inner: R,
    pub(crate) kind: FileKind,
    /// Bytes read so far.
    pub(crate) position: u64,
}

impl<R: Read> Input<R> {
    pub(crate) const fn new(inner: R, kind: FileKind) -> Self {
        Self { inner, kind, position: 0 }
    }

    pub(crate) fn fill(&mut self, buffer: &mut [u8], part: &'static str) -> Result<(), FormatError> {
        self.inner.read_exact(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => FormatError::Truncated(self.kind, part),
            _ => FormatError::Read(self.kind, error),
        })?;
        self.position += buffer.len() as u64;
        Ok(())
    }

    pub(crate) fn structure<T: FromBytes + IntoBytes>(&mut self, part: &'static str) -> Result<T, FormatError> {
        let mut value = T::new_zeroed();
        self.fill(value.as_mut_bytes(), part)?;
        Ok(value)
    }

    pub(crate) fn bytes(&mut self, len: usize, part: &'static str) -> Result<Vec<u8>, FormatError> {
        let mut bytes = vec![0; len];
        self.fill(&mut bytes, part)?;
        Ok(bytes)
    }

    /// The identity of `len` bytes that follows a header; the header's hash covers both.
    pub(crate) fn identity(&mut self, header: impl Sealed, len: u32) -> Result<Vec<u8>, FormatError> {
        let kind = self.kind;
        let damaged = |why| FormatError::damaged(kind, "header", why);
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if len > IDENTITY_MAX {
            return Err(damaged("its identity is too long"));
        }
        let identity = self.bytes(len, "the identity")?;
        if header.is_intact(None, &[&identity]) { Ok(identity) } else { Err(damaged("its hash does not fit")) }
    }

    /// Fails unless the stream ends here.
    pub(crate) fn end(&mut self) -> Result<(), FormatError> {
        let mut one = [0];
        loop {
            return match self.inner.read(&mut one) {
                Ok(0) => Ok(()),
                Ok(_) => Err(FormatError::damaged(self.kind, "end", "something follows the trailer")),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(FormatError::Read(self.kind, error)),
            };
        }
    }
}

/// Refuses a reserved field that is not zero: a later version may have given it a meaning.
pub(crate) fn reserved_is_zero(kind: FileKind, part: &str, reserved: &[&[u8]]) -> Result<(), FormatError> {
    if reserved.iter().all(|field| field.iter().all(|byte| *byte == 0)) {
        return Ok(());
    }
    Err(FormatError::damaged(kind, part, "a reserved field is not zero"))
}

/// What both headers begin with: the checks that must come before anything else is believed.
pub(crate) fn check_start(
    kind: FileKind,
    magic_fits: bool,
    version: u16,
    flags: u32,
    header_len: (u16, usize),
) -> Result<(), FormatError> {
    if !magic_fits {
        return Err(FormatError::NotOurs(kind));
    }
    if version != crate::layout::VERSION {
        return Err(FormatError::UnknownVersion { kind, version });
    }
    if flags != 0 {
        return Err(FormatError::UnknownFeature { kind, what: "flags", value: u64::from(flags) });
    }
    if usize::from(header_len.0) != header_len.1 {
        return Err(FormatError::damaged(kind, "header", "its length is not that of version 1"));
    }
    Ok(())
}
