//! From any address to what connects to it.

use crate::{Address, CommandConnector, Connector, End, Limits, Runtime, TlsConnector, UnixConnector};
use failback_credentials::{Fingerprint, Tls};
use std::sync::Arc;

/// What it takes to connect in the network.
#[derive(Clone)]
pub struct Network {
    /// This machine's key, and whom it trusts.
    pub tls: Tls,
    /// The key that the server has to have.
    pub server: Fingerprint,
    /// What connections run on, at least one; streams go round over them.
    pub runtimes: Vec<Arc<Runtime>>,
    /// Connections for each link, 1 to 16.
    pub streams: u8,
}

impl Address {
    /// What connects to this address.
    ///
    /// # Errors
    ///
    /// When it is one in the network, and nothing is known of that.
    pub fn connector(&self, limits: Limits, network: Option<Network>) -> Result<Box<dyn Connector + Send>, End> {
        Ok(match self {
            Self::Ssh(address) => Box::new(CommandConnector::ssh(address, limits)),
            Self::Exec(command) => Box::new(CommandConnector::exec(command, limits)),
            Self::Unix(path) => Box::new(UnixConnector::new(path.clone(), limits)),
            Self::Tls(address) => {
                let needs = || {
                    End::Because(format!(
                        "the key of {address} is not known here: enrol this machine there with a token, or use ssh:{}",
                        address.host()
                    ))
                };
                let Network { tls, server, runtimes, streams } = network.ok_or_else(needs)?;
                let mut runtimes = runtimes.into_iter();
                let first = runtimes.next().ok_or_else(needs)?;
                let connector = TlsConnector::new(address.clone(), tls, server, limits, first);
                Box::new(connector.streams(streams, runtimes.collect()))
            }
        })
    }
}
