//! The API's connections: one request each. So there is no connection that somebody keeps open with nothing on it, every stage has
//! its own limit of time, and a request's memory has one too.

use super::registry::Ticket;
use super::{Caller, Shared};
use crate::http::{Bytes, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::timeout;

/// Bytes of a request's head, and of what is read ahead of its body.
const HEAD_BYTES: usize = 32 << 10;
/// Lines of a request's head.
const HEAD_LINES: usize = 64;

/// Serves one request.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    shared: &Arc<Shared>,
    stream: S,
    caller: Caller,
    ticket: &Arc<Ticket>,
    mut breaks: watch::Receiver<bool>,
) {
    let (answering, mut answered) = watch::channel(false);
    let service = service_fn(|request| {
        let answer = answer(Arc::clone(shared), request, caller.clone(), Arc::clone(ticket));
        let answering = answering.clone();
        async move {
            let response = answer.await;
            answering.send_replace(true);
            Ok::<_, Infallible>(response.map(Full::new))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.bounds.head)
        .keep_alive(false)
        .max_headers(HEAD_LINES)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    // How it ends is the client's business: it has an answer or none.
    tokio::select! {
        ended = &mut connection => return drop(ended),
        _ = breaks.wait_for(|broken| *broken) => return,
        _ = answered.wait_for(|answered| *answered) => {}
    }
    tokio::select! {
        ended = timeout(shared.bounds.answer, &mut connection) => drop(ended),
        _ = breaks.wait_for(|broken| *broken) => {}
    }
}

/// Reads the whole request and has it answered.
async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
    caller: Caller,
    ticket: Arc<Ticket>,
) -> Response<Bytes> {
    let (head, body) = request.into_parts();
    // A page that somebody looks at must not ask with the key that the browser has. No page comes from here, so none asks rightly.
    if head.headers.contains_key(header::ORIGIN) {
        return sentence(StatusCode::FORBIDDEN, "a page in a browser asks this: use the API from a program");
    }
    let limit = shared.bounds.body_bytes;
    let too_long = || {
        sentence(StatusCode::PAYLOAD_TOO_LARGE, &format!("the body is longer than {limit} bytes: send less at once"))
    };
    // Where its length is told, nobody waits for it first.
    if body.size_hint().lower() > limit as u64 {
        return too_long();
    }
    let body = match timeout(shared.bounds.body, Limited::new(body, limit).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return too_long(),
        Ok(Err(_)) => return sentence(StatusCode::BAD_REQUEST, "the body is not whole"),
        Err(_) => return sentence(StatusCode::REQUEST_TIMEOUT, "the body did not come in time"),
    };
    let request = Request::from_parts(head, body);
    // The place is taken as long as the request is worked on, also when the client has gone.
    let answered = tokio::task::spawn_blocking(move || {
        let _ticket = ticket;
        shared.handler.request(request, caller)
    });
    answered.await.unwrap_or_else(|_| {
        sentence(StatusCode::INTERNAL_SERVER_ERROR, "the request could not be answered: look at the log")
    })
}

fn sentence(status: StatusCode, sentence: &str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(format!("{sentence}\n")));
    *response.status_mut() = status;
    response
}
