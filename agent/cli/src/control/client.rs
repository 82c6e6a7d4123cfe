//! Asking the master target: the daemon, where one runs, or else the state itself. Both understand the same requests.

use super::args::Place;
use anyhow::{Context, Result, anyhow};
use failback_control::MasterTarget;
use failback_control::Settings;
use failback_control::api::types::Failure;
use failback_control::api::{Request, Response};
use failback_credentials::{Directory, Identity, Role, TrustStore};
use failback_orchestrate::JobError;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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

    /// Where keys and known peers are.
    pub(crate) fn credentials(&self) -> Result<Directory> {
        self.directory()?;
        Directory::open(self.state.join("credentials")).map_err(|error| refused(&error))
    }
}

/// An error that is a sentence on what to do.
fn refused(error: &(dyn std::error::Error + 'static)) -> anyhow::Error {
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
pub(super) struct Control(Arc<MasterTarget>);

impl Control {
    pub(super) fn open(place: &Place) -> Result<Self> {
        Ok(Self(open_master(place, Settings::default())?))
    }

    fn send(&self, method: &str, path: &str, query: &str, body: &[u8]) -> Response {
        self.0.answer(&Request { method, path, query, body }, Role::Admin)
    }

    /// Asks, and understands the answer.
    pub(super) fn ask<T: DeserializeOwned>(&self, method: &str, path: &str, query: &str) -> Result<T> {
        understood(&self.send(method, path, query, &[]))
    }

    /// Asks with a body.
    pub(super) fn ask_with<T: DeserializeOwned>(&self, method: &str, path: &str, body: &impl Serialize) -> Result<T> {
        understood(&self.send(method, path, "", &serde_json::to_vec(body)?))
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
