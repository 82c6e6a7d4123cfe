//! Connections in the network: until it is known who it is and what for, and then on.

use super::groups::{self, Arrived};
use super::registry::Ticket;
use super::{Caller, Door, Event, ServerError, Shared, api, told};
use crate::End;
use crate::bridge::bridged;
use crate::dial::{refused, tune};
use crate::secured::{end_of, now};
use failback_credentials::{Attempt, Enroller, Protocol, REQUEST_LEN, network_of, protocol_of};
use rustls::ServerConfig;
use rustls::server::Acceptor;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

/// How long whoever was refused may take to hear that.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long a listener pauses when the system gives it nothing.
const PAUSE: Duration = Duration::from_millis(100);

/// Listens at all addresses.
pub(super) fn listen_all(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, ServerError> {
    let listen = |address: &SocketAddr| {
        let listener = TcpListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        listener.map_err(|source| ServerError::Listen { address: *address, source })
    };
    addresses.iter().map(listen).collect()
}

/// Takes connections until the server stops.
pub(super) async fn accept(shared: Arc<Shared>, listener: TcpListener, door: Door, mut stop: watch::Receiver<bool>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return shared.event(Event::Trouble(error)),
    };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        // On to the thread whose turn it is, which has a reactor of its own.
        match accepted.and_then(|(stream, from)| Ok((stream.into_std()?, from))) {
            Ok((stream, from)) => match shared.registry.stranger(network_of(from.ip())) {
                Ok(ticket) => {
                    let serve = serve(Arc::clone(&shared), stream, from, door, ticket);
                    shared.spawner().spawn(serve);
                }
                Err(why) => shared.full(Some(from.ip()), why),
            },
            // Whoever has gone before it was taken is no trouble.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                shared.event(Event::Trouble(error));
                sleep(PAUSE).await;
            }
        }
    }
}

/// Everything about one connection.
async fn serve(shared: Arc<Shared>, stream: std::net::TcpStream, from: SocketAddr, door: Door, ticket: Ticket) {
    let ticket = Arc::new(ticket);
    let until = Instant::now() + shared.bounds.handshake;
    let refuse = |end: End| shared.event(Event::Refused { from, why: told(&end) });
    let stream = match TcpStream::from_std(stream) {
        Ok(stream) => stream,
        Err(error) => return shared.event(Event::Trouble(error)),
    };
    tune(&stream);
    let (broken, breaks) = watch::channel(false);
    let breaker = Arc::new(move || broken.send_modify(|broken| *broken = true));
    ticket.breaks_by(breaker.clone());
    let mut gone = breaks.clone();
    let greeted = tokio::select! {
        greeted = timeout_at(until, greet(&shared, stream, door)) => greeted,
        _ = gone.wait_for(|gone| *gone) => return,
    };
    let (stream, attempt) = match greeted {
        Ok(Ok(greeted)) => greeted,
        Ok(Err(end)) => return refuse(end),
        Err(_) => {
            let why = format!("nothing that fits was said within {} s", shared.bounds.handshake.as_secs());
            return refuse(End::Because(why));
        }
    };
    if attempt.protocol() == Protocol::Enrolment {
        let message = tokio::select! {
            message = timeout_at(until, enrolment_message(stream)) => message,
            _ = gone.wait_for(|gone| *gone) => return,
        };
        return match message {
            Ok(Ok((stream, message))) => enrol(&shared, stream, attempt, from, message).await,
            Ok(Err(error)) => refuse(end_of(&attempt, &error)),
            Err(_) => refuse(End::Silent(shared.bounds.handshake)),
        };
    }
    let key = match attempt.key(stream.get_ref().1) {
        Ok(key) => key,
        Err(refusal) => return refuse(refused(&refusal)),
    };
    if let Err(why) = ticket.becomes(key) {
        return shared.full(Some(from.ip()), why);
    }
    // Asked once more, now that whoever revokes it finds the connection.
    let peer = match attempt.peer(stream.get_ref().1, now()) {
        Ok(peer) => peer,
        Err(refusal) => return refuse(refused(&refusal)),
    };
    let caller = Caller::Peer(peer);
    if door == Door::Control {
        return api::serve(&shared, stream, caller, &ticket, breaks).await;
    }
    if attempt.protocol() == Protocol::Streams {
        let arrived = Arrived { stream, attempt, ticket };
        let joined = groups::join(&shared, arrived, key, caller, until, gone).await;
        return joined.unwrap_or_else(refuse);
    }
    match bridged(shared.limits, Vec::new()) {
        Ok((link, bridge)) => {
            ticket.breaks_by(Arc::clone(&link.breaker));
            shared.start_session(link, caller, Arc::clone(&ticket));
            bridge.carry(stream, |error| end_of(&attempt, error)).await;
        }
        Err(error) => shared.event(Event::Trouble(error)),
    }
}

type Secured = (TlsStream<TcpStream>, Attempt<ServerConfig>);

/// The handshake. Whoever is refused is told so.
async fn greet(shared: &Shared, stream: TcpStream, door: Door) -> Result<Secured, End> {
    let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await;
    let hello = hello.map_err(|error| End::Because(format!("this is no client of failback: {error}")))?;
    let protocol = match (protocol_of(&hello.client_hello()), door) {
        (Protocol::Enrolment, _) if shared.enrolment.is_some() => Protocol::Enrolment,
        (Protocol::Streams, Door::Data) => Protocol::Streams,
        (_, Door::Data) => Protocol::Data,
        (Protocol::Api, Door::Control) => Protocol::Api,
        // Whoever offers neither this nor nothing is told so by TLS.
        (_, Door::Control) => Protocol::Http,
    };
    let attempt = shared.tls.server(protocol, now()).map_err(|refusal| refused(&refusal))?;
    match hello.into_stream(attempt.config()).into_fallible().await {
        Ok(stream) => Ok((stream, attempt)),
        Err((error, stream)) => {
            linger(stream).await;
            Err(end_of(&attempt, &error))
        }
    }
}

/// Closes a connection so that what was said last is heard: with something unread left, the system would take it back.
pub(super) async fn linger(mut stream: TcpStream) {
    let read = async {
        drop(stream.shutdown().await);
        let mut buffer = [0; 1024];
        while let Ok(1..) = stream.read(&mut buffer).await {}
    };
    drop(timeout(LAST_WORDS, read).await);
}

async fn enrolment_message(mut stream: TlsStream<TcpStream>) -> io::Result<(TlsStream<TcpStream>, [u8; REQUEST_LEN])> {
    let mut message = [0; REQUEST_LEN];
    stream.read_exact(&mut message).await?;
    Ok((stream, message))
}

/// Answers a token.
async fn enrol(
    shared: &Arc<Shared>,
    stream: TlsStream<TcpStream>,
    attempt: Attempt<ServerConfig>,
    from: SocketAddr,
    message: [u8; REQUEST_LEN],
) {
    let own = Arc::clone(shared);
    // It waits for a lock and for the disk.
    let answered = tokio::task::spawn_blocking(move || {
        let enrolment = own.enrolment.as_ref()?;
        let enroller =
            Enroller { trust: &enrolment.trust, limit: &own.tries, name: &enrolment.name, role: enrolment.role };
        let connection = stream.get_ref().1;
        let reply = enroller.answer(&attempt, connection, from.ip(), &message, own.began.elapsed(), now());
        Some((stream, reply))
    });
    let Ok(Some((mut stream, reply))) = answered.await else { return };
    shared.event(match reply.outcome {
        Ok(peer) => Event::Enrolled { from, peer },
        Err(failure) => Event::Refused { from, why: End::sentence(&failure) },
    });
    let send = async {
        stream.write_all(&reply.message).await?;
        stream.shutdown().await
    };
    if let Ok(Ok(())) = timeout(shared.bounds.handshake, send).await {
        linger(stream.into_inner().0).await;
    }
}
