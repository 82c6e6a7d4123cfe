//! From an address in the network to a connection.

use crate::runtime::Runtime;
use crate::secured::{end_of, now};
use crate::streams::{RawPreface, STREAMS_MAX, Streams, read_preface, send_preface, verdict};
use crate::{Connector, End, HostPort, Limits, Link, bridge};
use failback_credentials::{Attempt, Fingerprint, Refusal, Tls, server_name};
use nix::sys::socket::{setsockopt, sockopt};
use rustls::ClientConfig;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector as Handshake;
use tokio_rustls::client::TlsStream;

/// Connects to a master target in the network. Its key has to be the one that is expected.
#[derive(Clone)]
pub struct TlsConnector {
    address: HostPort,
    tls: Tls,
    server: Fingerprint,
    limits: Limits,
    runtimes: Vec<Arc<Runtime>>,
    streams: u8,
}

impl TlsConnector {
    /// For a server that has a key and is a trusted peer.
    #[must_use]
    pub fn new(address: HostPort, tls: Tls, server: Fingerprint, limits: Limits, runtime: Arc<Runtime>) -> Self {
        Self { address, tls, server, limits, runtimes: vec![runtime], streams: 1 }
    }

    /// With so many connections for each link, at least 1 and at most 16, which go round over this runtime and some more.
    #[must_use]
    pub fn streams(mut self, streams: u8, more: Vec<Arc<Runtime>>) -> Self {
        self.streams = streams.clamp(1, STREAMS_MAX);
        self.runtimes.extend(more);
        self
    }

    fn connect_one(&self) -> io::Result<Link> {
        let attempt = self.tls.client(&self.server, now()).map_err(|refusal| refused(&refusal).error())?;
        let (address, within) = (self.address.clone(), self.limits.connect);
        let secured = self.runtimes[0].wait(async move { secure(&address, attempt, within).await })?;
        let (stream, attempt) = secured.map_err(End::error)?;
        let (link, bridge) = bridge::bridged(self.limits, vec![Arc::clone(&self.runtimes[0])])?;
        self.runtimes[0].spawn(async move { bridge.carry(stream, |error| end_of(&attempt, error)).await });
        Ok(link)
    }

    fn connect_many(&self) -> io::Result<Link> {
        let mut group = [0; 16];
        getrandom::fill(&mut group).map_err(io::Error::other)?;
        let mut tasks = Vec::new();
        for (index, runtime) in (0..self.streams).zip(self.runtimes.iter().cycle()) {
            let attempt = self.tls.stream(&self.server, now()).map_err(|refusal| refused(&refusal).error())?;
            let preface = RawPreface::new(self.streams, index, group);
            let (address, within) = (self.address.clone(), self.limits.connect);
            tasks.push(runtime.start_task(async move { one_of_many(&address, attempt, within, preface).await }));
        }
        let all = self.runtimes[0].wait(async move {
            let mut all = Vec::new();
            for task in tasks {
                all.push(task.await.map_err(|error| End::Because(error.to_string()))??);
            }
            Ok::<_, End>(all)
        })?;
        let all = all.map_err(End::error)?;
        let (link, bridge) = bridge::bridged(self.limits, self.runtimes.clone())?;
        let count = all.len();
        // It belongs to the thread where its socket is made.
        let streams = self.runtimes[0].wait(async move { Streams::new(bridge, count) })??;
        for ((stream, attempt), runtime) in all.into_iter().zip(self.runtimes.iter().cycle()) {
            let streams = Arc::clone(&streams);
            runtime.spawn(async move { streams.carry(stream, |error| end_of(&attempt, error)).await });
        }
        Ok(link)
    }
}

impl Connector for TlsConnector {
    fn connect(&self) -> io::Result<Link> {
        if self.streams == 1 { self.connect_one() } else { self.connect_many() }
    }
}

/// One of the connections of a link, up to where the link begins.
async fn one_of_many(
    address: &HostPort,
    attempt: Attempt<ClientConfig>,
    within: Duration,
    preface: RawPreface,
) -> Result<(TlsStream<TcpStream>, Attempt<ClientConfig>), End> {
    let (mut stream, attempt) = secure(address, attempt, within).await?;
    let exchange = async {
        send_preface(&mut stream, &preface).await?;
        read_preface(&mut stream).await
    };
    let answer = match timeout(within, exchange).await {
        Ok(answer) => answer.map_err(|error| end_of(&attempt, &error))?,
        Err(_) => return Err(End::Silent(within)),
    };
    let same = answer.is_understood() && (answer.index, answer.group) == (preface.index, preface.group);
    match answer.verdict {
        verdict::BEGINS if same => Ok((stream, attempt)),
        verdict::INCOMPLETE => Err(End::Because(format!(
            "not all of {} connections came to {address} in time: use fewer streams, or look at what is between",
            preface.count
        ))),
        _ => Err(End::Refused(format!(
            "{address} does not take several streams as this side wants them: use the same version of failback on both"
        ))),
    }
}

/// A refusal of TLS as the end of a connection.
pub(crate) fn refused(refusal: &Refusal) -> End {
    End::Refused(End::sentence(refusal))
}

/// Connects and shows keys, within a time.
pub(crate) async fn secure(
    address: &HostPort,
    attempt: Attempt<ClientConfig>,
    within: Duration,
) -> Result<(TlsStream<TcpStream>, Attempt<ClientConfig>), End> {
    let until = Instant::now() + within;
    let stream = dial(address, until, within).await?;
    let handshake = Handshake::from(attempt.config()).connect(server_name(), stream);
    match timeout_at(until, handshake).await {
        Ok(Ok(stream)) => {
            attempt.key(stream.get_ref().1).map_err(|refusal| refused(&refusal))?;
            Ok((stream, attempt))
        }
        Ok(Err(error)) => Err(match end_of(&attempt, &error) {
            End::Because(why) => End::Because(format!("{address} answers, but not as failback does: {why}")),
            end => end,
        }),
        Err(_) => Err(End::Because(format!(
            "{address} takes connections and says nothing for {} s: check that it is failback, and look at its log",
            within.as_secs()
        ))),
    }
}

/// Connects to one of the addresses that a name has.
async fn dial(address: &HostPort, until: Instant, within: Duration) -> Result<TcpStream, End> {
    let (host, port) = (address.host(), address.port());
    let unknown = |why: &str| {
        End::Because(format!("no address is known for {host} ({why}): check the name, or use the machine's IP address"))
    };
    let found = match timeout_at(until, lookup_host((host, port))).await {
        Ok(found) => found.map_err(|error| unknown(&error.to_string()))?,
        Err(_) => return Err(unknown("the name servers do not answer")),
    };
    let addresses: Vec<SocketAddr> = found.collect();
    let mut tried = Vec::new();
    for (number, one) in addresses.iter().enumerate() {
        // Each gets its share of the time that is left, so that one that is dead does not take it from those behind it.
        let left = until.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - number).unwrap_or(u32::MAX);
        match timeout_at(Instant::now() + share, TcpStream::connect(one)).await {
            Ok(Ok(stream)) => {
                tune(&stream);
                return Ok(stream);
            }
            Ok(Err(error)) => tried.push(format!("{one}: {error}")),
            Err(_) => tried.push(format!("{one}: no answer")),
        }
    }
    if tried.is_empty() {
        return Err(unknown("the name is there, and has no address"));
    }
    Err(End::Because(format!(
        "{address} cannot be reached within {} s ({}): check that failback serve runs there, the port, and firewalls between",
        within.as_secs(),
        tried.join("; ")
    )))
}

/// What every connection in the network gets: small messages at once, and a dead other side noticed also while nothing is sent.
/// What the system does not know of that is not worth a connection.
pub(crate) fn tune(stream: &TcpStream) {
    drop(stream.set_nodelay(true));
    let _ = setsockopt(stream, sockopt::KeepAlive, &true);
    let _ = setsockopt(stream, sockopt::TcpKeepIdle, &15);
    let _ = setsockopt(stream, sockopt::TcpKeepInterval, &10);
    let _ = setsockopt(stream, sockopt::TcpKeepCount, &3);
}
