//! Files that are named on the command line, and where intent records are.

use crate::meter::Meter;
use crate::text::with_causes;
use anyhow::Result;
use failback_credentials::forbid_core_dumps;
use failback_orchestrate::{JobError, Progress, SigningKey, VerifyingKey};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::{self, File};
use std::io::{self, BufReader, IsTerminal, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};
use zeroize::Zeroizing;

/// Whether a name stands for standard input or output.
pub(crate) fn is_dash(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// More than any text around a private key of 32 bytes takes.
const KEY_MAX: usize = 4096;

/// How often whoever waits for standard input looks whether it is to stop, in ms.
const WAIT: u16 = 200;

/// Standard input, of which nothing comes any more once the user wants to stop: a pipe may be silent for hours, and a signal does not end a
/// read.
pub(crate) struct Piped<'a>(&'a Meter);

impl<'a> Piped<'a> {
    pub(crate) const fn new(meter: &'a Meter) -> Self {
        Self(meter)
    }
}

impl Read for Piped<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let stdin = io::stdin();
        while !self.0.stop_requested() {
            let mut watched = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
            match poll(&mut watched, PollTimeout::from(WAIT)) {
                Ok(0) | Err(nix::Error::EINTR) => continue,
                polled => polled?,
            };
            // Past the buffer of std: what waited there would not be polled.
            match nix::unistd::read(stdin.as_fd(), buffer) {
                Err(nix::Error::EINTR | nix::Error::EAGAIN) => {}
                read => return Ok(read?),
            }
        }
        // Of another kind than what a reader tries again.
        Err(io::Error::other("this is to stop"))
    }
}

/// A signature or delta for reading. Never a device: reading one would take for ever.
pub(crate) fn open(path: &Path) -> Result<BufReader<File>, JobError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => JobError::Refused(format!("{} does not exist: check the name", path.display())),
        _ => JobError::File { action: "read", path: path.to_owned(), source },
    };
    let about = fs::metadata(path).map_err(failed)?;
    if !about.is_file() {
        return Err(JobError::Refused(format!(
            "{} is no regular file: name a signature or delta file",
            path.display()
        )));
    }
    Ok(BufReader::with_capacity(1 << 20, File::open(path).map_err(failed)?))
}

/// Refuses to fill a terminal with binary data.
pub(crate) fn check_stdout() -> Result<(), JobError> {
    if io::stdout().is_terminal() {
        let sentence = "standard output is a terminal: send it to a pipe or a file, or name a file with -o";
        return Err(JobError::Refused(sentence.into()));
    }
    Ok(())
}

/// A private key, in a file that is its owner's alone. From here on this process writes no core dumps, and what was read of the key is
/// overwritten.
pub(crate) fn signing_key(path: &Path) -> Result<SigningKey, JobError> {
    forbid_core_dumps().map_err(|error| JobError::Refused(with_causes(&error)))?;
    let text = read_private(path)?;
    SigningKey::from_pem(&text).map_err(|error| unusable_key(path, &error))
}

fn read_private(path: &Path) -> Result<Zeroizing<String>, JobError> {
    let failed = |source| JobError::File { action: "read", path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        let path = path.display();
        return Err(JobError::Refused(format!(
            "others than its owner may use the signing key {path} (mode {mode:04o}): run chmod 600 {path}, and if others had time to read it, make a \
             new key"
        )));
    }
    // As large as it may become from the start: one that grew would leave copies behind.
    let mut text = Zeroizing::new(String::with_capacity(KEY_MAX));
    let most = u64::try_from(KEY_MAX).unwrap_or(u64::MAX);
    file.take(most).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

pub(crate) fn trusted_key(path: &Path) -> Result<VerifyingKey, JobError> {
    VerifyingKey::from_pem(&read_key(path)?).map_err(|error| unusable_key(path, &error))
}

fn read_key(path: &Path) -> Result<String, JobError> {
    fs::read_to_string(path).map_err(|source| JobError::File { action: "read", path: path.to_owned(), source })
}

fn unusable_key(path: &Path, error: &dyn std::error::Error) -> JobError {
    JobError::Refused(format!("{}: {error}", path.display()))
}

/// Bytes that nobody else has.
pub(crate) fn random() -> Result<[u8; 16], JobError> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; 16];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|source| JobError::File { action: "read", path: path.to_owned(), source })?;
    Ok(bytes)
}

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_private_key_is_its_owners_alone_and_in_no_core_dump() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("key.pem");
        // RFC 8410, section 10.3.
        let key = "-----BEGIN PRIVATE KEY-----\n\
                   MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
                   -----END PRIVATE KEY-----\n";
        fs::write(&path, key).unwrap();
        for bits in [0o640, 0o604, 0o644, 0o666, 0o620, 0o602, 0o610] {
            fs::set_permissions(&path, fs::Permissions::from_mode(bits)).unwrap();
            let refused = signing_key(&path).err().unwrap().to_string();
            let sentence = format!("(mode {bits:04o}): run chmod 600 {}", path.display());
            assert!(refused.contains(&sentence) && !refused.contains("MC4C"), "{refused}");
        }
        nix::sys::prctl::set_dumpable(true).unwrap();
        for bits in [0o600, 0o400] {
            fs::set_permissions(&path, fs::Permissions::from_mode(bits)).unwrap();
            signing_key(&path).unwrap();
        }
        assert!(!nix::sys::prctl::get_dumpable().unwrap());
        fs::write(place.path().join("long.pem"), "x".repeat(1 << 20)).unwrap();
        fs::set_permissions(place.path().join("long.pem"), fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(read_private(&place.path().join("long.pem")).unwrap().len(), KEY_MAX);
    }
}
