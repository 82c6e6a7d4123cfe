//! What a file says about the disk it was made from.

use crate::layout::{IDENTITY_MAX, identity_tag};
use crate::{FileKind, FormatError};
use std::fmt;

/// Which bytes of a disk count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// All of them.
    Whole,
    /// Free space of file systems that are understood counts as zeroes, whatever it holds.
    Used,
}

/// What moment of the disk's life its content is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PointKind {
    /// Applications and file systems were asked to come to rest.
    Application,
    /// File systems were frozen.
    Filesystem,
    /// One instant, as after a power cut.
    Crash,
    /// Read while it was being written: a base for the next pass, never to be booted.
    Fuzzy,
}

macro_rules! coded {
    ($type:ident, $what:literal, $($variant:ident = $code:literal $name:literal),+) => {
        impl $type {
            /// The number that stands for it in a file: see `FORMAT.md`.
            #[must_use]
            pub const fn code(self) -> u8 {
                match self { $(Self::$variant => $code),+ }
            }

            /// What a number stands for; `None` if for nothing.
            #[must_use]
            pub const fn from_code(code: u8) -> Option<Self> {
                match code {
                    $($code => Some(Self::$variant),)+
                    _ => None,
                }
            }

            pub(crate) fn read(kind: FileKind, code: u8) -> Result<Self, FormatError> {
                let unknown = FormatError::UnknownFeature { kind, what: $what, value: u64::from(code) };
                Self::from_code(code).ok_or(unknown)
            }

            /// The word that stands for it in reports.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }
    };
}

coded!(Coverage, "coverage", Whole = 1 "whole", Used = 2 "used");
coded!(PointKind, "kind", Application = 1 "application", Filesystem = 2 "filesystem", Crash = 3 "crash", Fuzzy = 4 "fuzzy");

/// Which disk it was, as far as its host could tell.
///
/// It is stored as tagged items. Items with a tag that this program does not know are kept out of sight: they describe
/// and do not change what the file means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The name by which the disk was opened, such as `/dev/sda`.
    pub name: Option<String>,
    /// The SCSI UUID, 16 bytes.
    pub scsi_uuid: Option<[u8; 16]>,
    /// The UUID of the partition table, in the order in which its digits are printed.
    pub partition_table: Option<[u8; 16]>,
    /// UUIDs of file systems, in the order of their place on the disk.
    pub file_systems: Vec<[u8; 16]>,
}

impl Identity {
    /// The bytes of the identity section. A name that would not fit is cut.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut put = |tag: u16, value: &[u8]| {
            let Ok(len) = u16::try_from(value.len()) else { return };
            if bytes.len() + 4 + value.len() > IDENTITY_MAX {
                return;
            }
            bytes.extend_from_slice(&tag.to_le_bytes());
            bytes.extend_from_slice(&len.to_le_bytes());
            bytes.extend_from_slice(value);
        };
        if let Some(uuid) = &self.scsi_uuid {
            put(identity_tag::SCSI_UUID, uuid);
        }
        if let Some(uuid) = &self.partition_table {
            put(identity_tag::PARTITION_TABLE, uuid);
        }
        if let Some(name) = &self.name {
            put(identity_tag::NAME, cut(name, 1024).as_bytes());
        }
        for uuid in &self.file_systems {
            put(identity_tag::FILE_SYSTEM, uuid);
        }
        bytes
    }

    pub(crate) fn from_bytes(kind: FileKind, mut bytes: &[u8]) -> Result<Self, FormatError> {
        let wrong = || FormatError::damaged(kind, "identity", "an item does not fit");
        // Which of two names or UUIDs counts must not depend on who reads them.
        let twice = || FormatError::damaged(kind, "identity", "an item occurs twice");
        let mut identity = Self::default();
        while let Some(([tag_low, tag_high, len_low, len_high], rest)) = bytes.split_first_chunk() {
            let len = usize::from(u16::from_le_bytes([*len_low, *len_high]));
            let (value, rest) = rest.split_at_checked(len).ok_or_else(wrong)?;
            bytes = rest;
            let uuid = || <[u8; 16]>::try_from(value).map_err(|_| wrong());
            match u16::from_le_bytes([*tag_low, *tag_high]) {
                identity_tag::NAME if identity.name.is_none() => {
                    identity.name = Some(String::from_utf8(value.to_vec()).map_err(|_| wrong())?);
                }
                identity_tag::SCSI_UUID if identity.scsi_uuid.is_none() => identity.scsi_uuid = Some(uuid()?),
                identity_tag::PARTITION_TABLE if identity.partition_table.is_none() => {
                    identity.partition_table = Some(uuid()?);
                }
                identity_tag::NAME | identity_tag::SCSI_UUID | identity_tag::PARTITION_TABLE => return Err(twice()),
                identity_tag::FILE_SYSTEM => identity.file_systems.push(uuid()?),
                _ => {}
            }
        }
        if bytes.is_empty() { Ok(identity) } else { Err(wrong()) }
    }
}

/// The longest start of `text` that has at most `limit` bytes.
fn cut(text: &str, limit: usize) -> &str {
    let end = (0..=limit.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_survives_and_unknown_items_are_passed_over() {
        let identity = Identity {
            name: Some("/dev/disk/by-id/wwn-ü".into()),
            scsi_uuid: Some([7; 16]),
            partition_table: None,
            file_systems: vec![[1; 16], [2; 16]],
        };
        let mut bytes = identity.to_bytes();
        bytes.extend_from_slice(&[0xfe, 0xff, 3, 0, 1, 2, 3]);
        assert_eq!(Identity::from_bytes(FileKind::Delta, &bytes).unwrap(), identity);
        for len in 0..bytes.len() {
            let _ = Identity::from_bytes(FileKind::Delta, &bytes[..len]);
        }
        assert!(Identity::from_bytes(FileKind::Delta, &[2, 0, 15, 0]).is_err());
        let name = [1, 0, 1, 0, b'a'];
        assert_eq!(Identity::from_bytes(FileKind::Delta, &name).unwrap().name.as_deref(), Some("a"));
        let error = Identity::from_bytes(FileKind::Delta, &[name, name].concat()).unwrap_err();
        assert!(error.to_string().contains("twice"), "{error}");
    }
}
