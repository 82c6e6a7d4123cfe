//! Asking the master target: the daemon, where one runs, or else the state itself. Both understand the same requests.

use super::args::{AskArgs, Place};
use super::connect::known;
use anyhow::{Context, Result, anyhow};
use failback_control::MasterTarget;
use failback_control::Settings;
use failback_control::api::types::Failure;
use failback_control::api::{Request, Response};
use failback_credentials::{Directory, Fingerprint, Identity, Role, TrustStore};
use failback_orchestrate::JobError;
use failback_transport::http::Method;
use failback_transport::{ApiClient, Limits, Runtime};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long an answer may take: a disk is looked at for a new pair, and one that does not answer takes 30 s.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(90);

/// What may not stand in a part of a path or in a value of a query as it is (RFC 3986).
const ENCODED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'&')
    .add(b'+')
    .add(b'/')
    .add(b'<')
    .add(b'=')
    .add(b'>')
    .add(b'?');

/// A text as it stands in an address.
pub(super) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

impl Place {
    /// The directory, which is made if it is not there.
    pub(crate) fn directory(&self) -> Result<Directory> {
        if let Some(above) = self.state.parent() {
            std::fs::create_dir_all(above).with_context(|| format!("cannot make {}", above.display()))?;
        }
        Directory::open(&self.state).map_err(|error| refused(&error))
    }

    /// The state's file.
    pub(super) fn state_file(&self) -> PathBuf {
        self.state.join("state")
    }

    /// Where sources on this machine, and those that come through ssh, are handed on to the daemon.
    pub(super) fn data_socket(&self) -> PathBuf {
        self.state.join("data.sock")
    }

    /// Where the daemon's API is.
    pub(crate) fn control_socket(&self) -> PathBuf {
        self.state.join("control.sock")
    }

    /// Where keys and known peers are.
    pub(crate) fn credentials(&self) -> Result<Directory> {
        self.directory()?;
        Directory::open(self.state.join("credentials")).map_err(|error| refused(&error))
    }

    /// This machine's key, if it has one; nothing is made to know that.
    pub(crate) fn fingerprint(&self) -> Option<Fingerprint> {
        let directory = self.state.join("credentials");
        let directory = directory.is_dir().then(|| Directory::open(directory))?.ok()?;
        Some(*Identity::load(&directory).ok()?.fingerprint())
    }
}

/// An error that is a sentence on what to do.
pub(super) fn refused(error: &(dyn std::error::Error + 'static)) -> anyhow::Error {
    JobError::Refused(crate::text::with_causes(error)).into()
}

/// Opens the state, for this process alone.
pub(super) fn open_master(place: &Place, settings: Settings) -> Result<Arc<MasterTarget>> {
    place.directory()?;
    let mut settings = settings;
    let credentials = place.credentials()?;
    if let Ok(identity) = Identity::load(&credentials) {
        settings.trust = Some((TrustStore::new(credentials), *identity.fingerprint()));
    }
    MasterTarget::open(&place.state_file(), settings).map_err(|error| refused(&error))
}

/// Who answers.
pub(crate) enum Control {
    /// The daemon that has the state.
    Daemon(ApiClient),
    /// The state itself, which nobody else has.
    Here(Arc<MasterTarget>),
}

impl Control {
    /// The master target that is named, or the one on this machine.
    pub(super) fn open(asked: &AskArgs) -> Result<Self> {
        let Some(address) = &asked.to else { return Self::at(&asked.list.place) };
        let (tls, server) = known(&asked.list.place, asked.server.as_deref())?;
        let runtime = Arc::new(Runtime::start()?);
        Ok(Self::Daemon(ApiClient::tls(address.clone(), tls, server, Limits::default(), runtime)))
    }

    /// The master target on this machine.
    pub(super) fn at(place: &Place) -> Result<Self> {
        let socket = place.control_socket();
        if socket.exists() && UnixStream::connect(&socket).is_ok() {
            return Ok(Self::Daemon(ApiClient::unix(socket, Limits::default(), Arc::new(Runtime::start()?))));
        }
        Ok(Self::Here(open_master(place, Settings::default())?))
    }

    /// The daemon, if one takes connections.
    ///
    /// # Errors
    ///
    /// When that cannot be known. This waits for a daemon that has stopped taking them.
    pub(crate) fn of_daemon(place: &Place) -> io::Result<Option<Self>> {
        let socket = place.control_socket();
        match UnixStream::connect(&socket) {
            Ok(_) => Ok(Some(Self::Daemon(ApiClient::unix(socket, Limits::default(), Arc::new(Runtime::start()?))))),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn send(&self, method: Method, path: &str, query: &str, body: &[u8], within: Duration) -> Result<Response> {
        match self {
            Self::Here(master) => {
                Ok(master.answer(&Request { method: method.as_str(), path, query, body, local: true }, Role::Admin))
            }
            Self::Daemon(client) => {
                let path = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
                let answer = client
                    .call(method, &path, body.to_vec(), within)
                    .map_err(|error| JobError::Refused(error.to_string()))?;
                let (status, body) = (answer.status.as_u16(), answer.body.to_vec());
                Ok(Response { status, content_type: "application/json", body })
            }
        }
    }

    /// Asks, and understands the answer.
    pub(super) fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, query: &str) -> Result<T> {
        understood(&self.send(method, path, query, &[], ANSWER_WITHIN)?)
    }

    /// Asks what is so, and does not wait longer for the answer.
    pub(crate) fn look<T: DeserializeOwned>(&self, path: &str, query: &str, within: Duration) -> Result<T> {
        understood(&self.send(Method::GET, path, query, &[], within)?)
    }

    /// Asks with a body.
    pub(super) fn ask_with<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        understood(&self.send(Method::POST, path, "", &serde_json::to_vec(body)?, ANSWER_WITHIN)?)
    }
}

fn understood<T: DeserializeOwned>(response: &Response) -> Result<T> {
    if (200..300).contains(&response.status) {
        return serde_json::from_slice(&response.body)
            .context("the master target's answer is not understood: is it of another version?");
    }
    let failure: Failure = serde_json::from_slice(&response.body).map_err(|_| {
        anyhow!("the master target answers with status {} and no reason: look at its log", response.status)
    })?;
    Err(match failure.outcome.as_str() {
        "mismatch" => JobError::Mismatch(failure.error),
        "damaged" => JobError::DamagedDisk(failure.error),
        "interrupted" => JobError::Interrupted(failure.error),
        _ => JobError::Refused(failure.error),
    }
    .into())
}

/// A path as the daemon will understand it, whatever its working directory.
pub(super) fn absolute(path: &Path) -> Result<String> {
    let path = std::path::absolute(path).with_context(|| format!("cannot find {}", path.display()))?;
    path.into_os_string().into_string().map_err(|path| {
        JobError::Refused(format!("{} is no UTF-8, which this needs: give it another name", path.display())).into()
    })
}
