//! The API: what can be asked of a master target and what can be changed, as JSON over HTTP. `openapi.json` beside this crate describes it.
//!
//! Here is what a request means. What carries it, a Unix socket or TLS, and the verbs of the command line where no daemon runs, all come here
//! with the same [`Request`].

mod backup;
mod groups;
mod jobs;
mod metrics;
mod pairs;
mod peers;
mod status;
pub mod types;

use crate::MasterTarget;
use crate::state::{Refusal, StateError};
use failback_credentials::Role;
use failback_orchestrate::{JobError, Outcome};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde::de::DeserializeOwned;
use types::Failure;

/// The longest body of a request, in bytes: a pair has two paths and a few names.
pub const BODY_MAX: usize = 64 << 10;

/// A request.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// `GET`, `POST` or `DELETE`.
    pub method: &'a str,
    /// The path, as it was sent.
    pub path: &'a str,
    /// What stands behind the question mark, as it was sent.
    pub query: &'a str,
    /// The body.
    pub body: &'a [u8],
    /// Whether it comes from this machine, over the Unix socket.
    pub local: bool,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// What the body is.
    pub content_type: &'static str,
    /// The body.
    pub body: Vec<u8>,
}

/// Why a request is not answered as it was meant.
struct Refused {
    status: u16,
    failure: Failure,
}

type Answer = Result<Response, Refused>;

impl Refused {
    fn new(status: u16, error: impl Into<String>) -> Self {
        Self { status, failure: Failure { error: error.into(), outcome: "refused".into() } }
    }
}

impl From<StateError> for Refused {
    fn from(error: StateError) -> Self {
        let (status, outcome) = match &error {
            StateError::Refused(Refusal::NoPair { .. } | Refusal::NoGroup { .. } | Refusal::NoJob { .. }) => {
                (404, "refused")
            }
            StateError::Refused(_) => (409, "refused"),
            StateError::Damaged { .. } | StateError::Newer { .. } | StateError::NotOurs { .. } => (500, "damaged"),
            _ => (500, "io"),
        };
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
        Self {
            status,
            failure: Failure { error: format!("{error}{}", cause.unwrap_or_default()), outcome: outcome.into() },
        }
    }
}

impl From<JobError> for Refused {
    fn from(error: JobError) -> Self {
        let (status, outcome) = match error.outcome() {
            Outcome::Refused => (409, "refused"),
            Outcome::Mismatch => (409, "mismatch"),
            Outcome::Io => (500, "io"),
            Outcome::Damaged => (500, "damaged"),
            Outcome::Interrupted => (503, "interrupted"),
        };
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
        Self {
            status,
            failure: Failure { error: format!("{error}{}", cause.unwrap_or_default()), outcome: outcome.into() },
        }
    }
}

fn json(status: u16, value: &impl Serialize) -> Response {
    let mut body = serde_json::to_vec_pretty(value).expect("what is answered can be written as JSON");
    body.push(b'\n');
    Response { status, content_type: "application/json", body }
}

fn found(value: &impl Serialize) -> Response {
    json(200, value)
}

fn body<T: DeserializeOwned>(request: &Request<'_>) -> Result<T, Refused> {
    serde_json::from_slice(request.body).map_err(|error| {
        Refused::new(400, format!("the body of the request is not understood ({error}): see openapi.json"))
    })
}

/// A value of the query, decoded.
fn query(request: &Request<'_>, name: &str) -> Result<Option<String>, Refused> {
    let mut values = request.query.split('&').filter_map(|part| part.split_once('='));
    let Some((_, value)) = values.find(|(key, _)| *key == name) else { return Ok(None) };
    decoded(value).map(Some)
}

fn decoded(text: &str) -> Result<String, Refused> {
    let text = percent_decode_str(text).decode_utf8();
    Ok(text.map_err(|_| Refused::new(400, "the address of the request is no UTF-8: encode it anew"))?.into_owned())
}

/// What an API call may do: everything for an administrator and on this machine; others are told that it is not for them.
fn admit(role: Role) -> Result<(), Refused> {
    match role {
        Role::Admin => Ok(()),
        Role::Source | Role::Relay | Role::Target => {
            Err(Refused::new(403, "this is for administrators: enroll this key with --role admin on the master target"))
        }
    }
}

/// The ways there are: method, path with the places of names, and what answers.
type Handler = fn(&MasterTarget, &Request<'_>, &str) -> Answer;
const ROUTES: &[(&str, &str, Handler)] = &[
    ("GET", "/v1/status", status::show),
    ("GET", "/v1/pairs", pairs::list),
    ("POST", "/v1/pairs", pairs::add),
    ("GET", "/v1/pairs/{name}", pairs::show),
    ("DELETE", "/v1/pairs/{name}", pairs::remove),
    ("POST", "/v1/pairs/{name}/direction", pairs::turn),
    ("GET", "/v1/groups", groups::list),
    ("POST", "/v1/groups", groups::add),
    ("GET", "/v1/groups/{name}", groups::show),
    ("DELETE", "/v1/groups/{name}", groups::remove),
    ("GET", "/v1/jobs", jobs::list),
    ("GET", "/v1/jobs/{name}", jobs::show),
    ("POST", "/v1/jobs/{name}/cancel", jobs::cancel),
    ("GET", "/v1/peers", peers::list),
    ("DELETE", "/v1/peers/{name}", peers::revoke),
    ("POST", "/v1/state/backup", backup::make),
    ("GET", "/metrics", metrics::show),
];

/// Whether `path` is of the form `pattern`: the name in it, or an empty one where the form has none.
fn matched<'a>(pattern: &str, path: &'a str) -> Option<&'a str> {
    let Some((before, after)) = pattern.split_once("{name}") else { return (pattern == path).then_some("") };
    let name = path.strip_prefix(before)?.strip_suffix(after)?;
    (!name.is_empty() && !name.contains('/')).then_some(name)
}

impl MasterTarget {
    /// Answers a request of somebody with that role.
    #[must_use]
    pub fn answer(&self, request: &Request<'_>, role: Role) -> Response {
        self.try_answer(request, role).unwrap_or_else(|refused| json(refused.status, &refused.failure))
    }

    fn try_answer(&self, request: &Request<'_>, role: Role) -> Answer {
        admit(role)?;
        if request.body.len() > BODY_MAX {
            return Err(Refused::new(
                413,
                format!("the body is longer than {BODY_MAX} bytes: it is none of a request here"),
            ));
        }
        let mut is_there = false;
        for (method, pattern, handler) in ROUTES {
            let Some(name) = matched(pattern, request.path) else { continue };
            if *method == request.method {
                return handler(self, request, &decoded(name)?);
            }
            is_there = true;
        }
        Err(if is_there {
            Refused::new(405, "this cannot be done with that: see openapi.json for the methods that there are")
        } else {
            Refused::new(404, "there is nothing at this path: see openapi.json for what there is")
        })
    }
}

#[cfg(test)]
mod tests;
