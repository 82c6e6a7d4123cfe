//! How hard the content of a delta is compressed.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// How the content of one frame is compressed: not at all, or by zstd at a level from 1 to 19.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Compression(u8);

impl Compression {
    /// The content is stored as it is.
    pub const OFF: Self = Self(0);
    /// The lightest that compresses.
    pub const LIGHTEST: Self = Self(1);
    /// The hardest: zstd's levels above it need more memory to unpack than a target promises.
    pub const HARDEST: Self = Self(19);

    /// By zstd's level, 1 to 19; 0 for none. `None` for all else.
    #[must_use]
    pub const fn of_level(level: u8) -> Option<Self> {
        if level <= Self::HARDEST.0 { Some(Self(level)) } else { None }
    }

    /// zstd's level; 0 where nothing is compressed.
    #[must_use]
    pub fn level(self) -> i32 {
        self.0.into()
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::OFF { f.pad("off") } else { self.0.fmt(f) }
    }
}

/// A text that names no compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write off, or a level from 1 to 19")]
pub struct CompressionError;

impl FromStr for Compression {
    type Err = CompressionError;

    /// `off`, or a level from 1 to 19.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" {
            return Ok(Self::OFF);
        }
        let level = text.parse().ok().filter(|level| *level != 0).and_then(Self::of_level);
        level.ok_or(CompressionError)
    }
}

/// What compressing a frame came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed {
    /// How it was compressed.
    pub compression: Compression,
    /// Bytes of its content, at most 1 MiB.
    pub content: u64,
    /// Bytes of them that are in the delta: as many where compressing did not pay.
    pub stored: u64,
    /// How long one thread was at it.
    pub took: Duration,
}

/// Decides how hard each frame is compressed. Both methods are called from several threads.
pub trait Effort: Sync {
    /// How the next frame is compressed.
    fn next(&self) -> Compression;

    /// What came of a frame.
    fn packed(&self, frame: &Packed) {
        let _ = frame;
    }
}

/// The same for every frame.
impl Effort for Compression {
    fn next(&self) -> Compression {
        *self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_a_compression() {
        for (text, level) in [("off", 0), ("1", 1), ("3", 3), ("19", 19)] {
            let compression: Compression = text.parse().unwrap();
            assert_eq!((compression.level(), compression.to_string().as_str()), (level, text));
        }
        for wrong in ["", "0", "20", "-1", "Off", "adaptive", "3 "] {
            assert_eq!(wrong.parse::<Compression>(), Err(CompressionError), "{wrong}");
        }
    }
}
