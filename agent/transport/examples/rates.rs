//! How fast bytes go over a link, one way: a Unix socket, and TLS on loopback with a server that throws them away.
//!
//! `cargo run --release -p failback-transport --example rates [GIB]`

use failback_credentials::{Directory, Identity, NewPeer, PeerName, Role, Tls, TrustStore};
use failback_transport::http::{Bytes, Request, Response};
use failback_transport::{
    Caller, Connector, Handler, Kind, Limits, Link, Runtime, Server, ServerOptions, TlsConnector, UnixConnector,
};
use std::error::Error;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Takes all and says at the end that it has.
struct Sink;

impl Handler for Sink {
    fn session(&self, mut link: Link, _: Caller) {
        let mut buffer = vec![0; 256 << 10];
        while let Ok(1..) = link.reader.read(&mut buffer) {}
        drop(link.writer.write_all(b"."));
    }

    fn request(&self, _: Request<Bytes>, _: Caller) -> Response<Bytes> {
        Response::default()
    }
}

/// CPU time of this process in seconds.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks: f64 = [11, 12].iter().filter_map(|at| fields.get(*at)?.parse::<f64>().ok()).sum();
    ticks / 100.0
}

fn measure(what: &str, mut link: Link, gib: u32) -> Result<(), Box<dyn Error>> {
    let block = vec![0x5A; 1 << 20];
    let (began, used) = (Instant::now(), cpu());
    for _ in 0..gib * 1024 {
        link.writer.write_all(&block)?;
    }
    drop(link.writer);
    link.reader.read_exact(&mut [0])?;
    let (seconds, used) = (began.elapsed().as_secs_f64(), cpu() - used);
    let megabytes = f64::from(gib) * 1_073.741_824;
    println!("{what:28} {:8.0} MB/s {:8.0} MB for a second of a processor", megabytes / seconds, megabytes / used);
    Ok(())
}

fn machine(at: &Path) -> Result<(Identity, Arc<TrustStore>), Box<dyn Error>> {
    let directory = Directory::open(at)?;
    Ok((Identity::load_or_create(&directory)?, Arc::new(TrustStore::new(directory))))
}

fn main() -> Result<(), Box<dyn Error>> {
    let gib = std::env::args().nth(1).map_or(Ok(4), |gib| gib.parse())?;
    let temp = std::env::temp_dir().join(format!("failback-rates-{}", std::process::id()));
    std::fs::create_dir(&temp)?;
    let ((source, sources), (target, targets)) = (machine(&temp.join("a"))?, machine(&temp.join("b"))?);
    let peer = |identity: &Identity, name, role| -> Result<NewPeer, Box<dyn Error>> {
        Ok(NewPeer { name: PeerName::new(name)?, fingerprint: *identity.fingerprint(), role, expires: None })
    };
    sources.add(&peer(&target, "site", Role::Target)?, 0)?;
    targets.add(&peer(&source, "web", Role::Source)?, 0)?;
    for kind in [Kind::Tokio, Kind::IoUring] {
        let mut options = ServerOptions::new(Tls::new(&target, Arc::clone(&targets)));
        options.data.push("127.0.0.1:0".parse()?);
        options.unix_data = Some(temp.join("data"));
        options.runtime = Some(kind);
        let server = Server::start(options, Arc::new(Sink))?;
        let limits = Limits::default();
        measure("Unix socket", UnixConnector::new(temp.join("data"), limits).connect()?, gib)?;
        let (tls, runtime) = (Tls::new(&source, Arc::clone(&sources)), Arc::new(Runtime::start_as(kind)?));
        let address = server.data()[0].to_string().parse()?;
        let connector = TlsConnector::new(address, tls, *target.fingerprint(), limits, runtime);
        measure(&format!("TLS, {kind:?}"), connector.connect()?, gib)?;
        let more = vec![Arc::new(Runtime::start_as(kind)?)];
        measure(&format!("TLS, 4 streams, {kind:?}"), connector.streams(4, more).connect()?, gib)?;
    }
    std::fs::remove_dir_all(temp)?;
    Ok(())
}
