//! Requests to the API of a master target, from a thread that waits.

use crate::dial::secure;
use crate::http::{Bytes, Method, Request, StatusCode, header};
use crate::runtime::Runtime;
use crate::secured::{end_of, now};
use crate::unix::connect_unix;
use crate::{End, HostPort, Limits, dial};
use failback_credentials::{Fingerprint, Tls};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

/// Bytes of an answer.
const ANSWER_BYTES: usize = 16 << 20;

/// Asks the API of a master target. One request takes one connection.
#[derive(Clone)]
pub struct ApiClient {
    way: Way,
    limits: Limits,
    runtime: Arc<Runtime>,
}

#[derive(Clone)]
enum Way {
    Unix(PathBuf),
    Tls { address: HostPort, tls: Tls, server: Fingerprint },
}

/// What the API says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether it did what was asked.
    pub status: StatusCode,
    /// At most 16 MiB.
    pub body: Bytes,
}

impl ApiClient {
    /// For a daemon on this machine.
    #[must_use]
    pub const fn unix(path: PathBuf, limits: Limits, runtime: Arc<Runtime>) -> Self {
        Self { way: Way::Unix(path), limits, runtime }
    }

    /// For a server in the network that has a key and is a trusted peer.
    #[must_use]
    pub const fn tls(address: HostPort, tls: Tls, server: Fingerprint, limits: Limits, runtime: Arc<Runtime>) -> Self {
        Self { way: Way::Tls { address, tls, server }, limits, runtime }
    }

    /// Asks, and waits for the answer at most for a time. `path` begins with a slash and may have a query; a body is JSON.
    ///
    /// # Errors
    ///
    /// When the server cannot be reached, is not the right one, refuses this machine, or does not answer in time.
    pub fn call(&self, method: Method, path: &str, body: impl Into<Bytes>, within: Duration) -> Result<Answer, End> {
        if !path.starts_with('/') {
            return Err(End::Because(format!("{path:?} is no path of the API: it begins with a slash")));
        }
        let body = body.into();
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "failback");
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(body)).map_err(|error| End::Because(error.to_string()))?;
        let asked = match &self.way {
            Way::Unix(path) => {
                let connected = connect_unix(path, self.limits.connect).and_then(|stream| {
                    stream.set_nonblocking(true)?;
                    Ok(stream)
                });
                let stream = connected.map_err(|error| End::Because(error.to_string()))?;
                self.runtime.wait(async move {
                    let stream = tokio::net::UnixStream::from_std(stream).map_err(|error| broke(&error))?;
                    timely(within, ask(stream, request, broke)).await
                })
            }
            Way::Tls { address, tls, server } => {
                let attempt = tls.api(server, now()).map_err(|refusal| dial::refused(&refusal))?;
                let (address, connect) = (address.clone(), self.limits.connect);
                self.runtime.wait(async move {
                    let (stream, attempt) = secure(&address, attempt, connect).await?;
                    timely(within, ask(stream, request, |error| end_of(&attempt, error))).await
                })
            }
        };
        asked.map_err(|error| broke(&error))?
    }
}

fn broke(error: &io::Error) -> End {
    End::Because(format!("the connection broke: {error}"))
}

async fn timely(within: Duration, ask: impl Future<Output = Result<Answer, End>>) -> Result<Answer, End> {
    timeout(within, ask).await.unwrap_or(Err(End::Silent(within)))
}

/// One request over a connection. `explain` makes a sentence of the connection's error.
async fn ask<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    request: Request<Full<Bytes>>,
    explain: impl Fn(&io::Error) -> End,
) -> Result<Answer, End> {
    let reason = |error: &(dyn Error + 'static)| cause(error).map(&explain);
    let other = |error: &(dyn Error + 'static)| End::Because(End::sentence(error));
    let (mut sender, connection) = http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream))
        .await
        .map_err(|error| reason(&error).unwrap_or_else(|| other(&error)))?;
    let carried = tokio::spawn(connection);
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| (reason(&error), other(&error)))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| (reason(&*error), other(&*error)))?.to_bytes();
        Ok(Answer { status, body })
    };
    match exchange.await {
        Ok(answer) => {
            carried.abort();
            Ok(answer)
        }
        Err((Some(reason), _)) => Err(reason),
        // The one who carries it has met the reason, perhaps.
        Err((None, other)) => match timeout(Duration::from_secs(1), carried).await {
            Ok(Ok(Err(error))) => Err(reason(&error).unwrap_or(other)),
            _ => Err(other),
        },
    }
}

/// The connection's error below one of HTTP.
fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}
