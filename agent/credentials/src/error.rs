//! What goes wrong with files.

use std::io;
use std::path::PathBuf;

/// Why a file or directory of ours cannot be used. Nothing of what is in it is ever told.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not the kind of file that belongs there.
    #[error("{} is no {expected} of its own: put the right one there, not a link to one", path.display())]
    Kind {
        /// What is not right.
        path: PathBuf,
        /// What belongs there.
        expected: &'static str,
    },
    /// Somebody else may read or write it.
    #[error(
        "{} may be used by others than its owner (mode {mode:04o}): set it to {wanted:04o}, and if others had time to read \
         a key there, remove the key and enrol with a new one",
        path.display()
    )]
    Exposed {
        /// What is open to others.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What they should be.
        wanted: u32,
    },
    /// It belongs to somebody else.
    #[error("{} belongs to user {owner}, not to user {user} who runs this: give it to the right one", path.display())]
    Owner {
        /// What belongs to another.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who runs this program.
        user: u32,
    },
    /// It is larger than anything written here.
    #[error("{} is larger than {limit} bytes and so was not written by failback: restore it from a backup", path.display())]
    TooLarge {
        /// What is too large.
        path: PathBuf,
        /// The most bytes that are read.
        limit: usize,
    },
    /// Its content is not what belongs there.
    #[error("{} is not understood: {why}; restore it from a backup", path.display())]
    NotUnderstood {
        /// What is not understood.
        path: PathBuf,
        /// Why, without any of its content.
        why: String,
    },
    /// There is no key.
    #[error("{} is not there: this machine has no key yet, and gets one when it is enrolled or serves", path.display())]
    NoKey {
        /// Where it would be.
        path: PathBuf,
    },
    /// Random bytes could not be had.
    #[error("the system gives no random bytes, without which no key can be made: {0}")]
    Random(getrandom::Error),
    /// The process could not be kept out of core dumps.
    #[error("core dumps of this process, which would hold the key, cannot be switched off")]
    Dumpable(#[source] io::Error),
    /// A key or a certificate could not be written down.
    #[error("the key cannot be written down as {0}")]
    Encoding(&'static str),
}
