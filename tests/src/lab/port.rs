//! TCP ports that a test has for itself, however often what listens there is killed and started again.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Where reserved ports begin, if the system does not give them out itself.
const FIRST: u16 = 20_000;
/// With fewer than this, tests would stand in each other's way.
const ENOUGH: usize = 100;

/// A port that nobody else takes while this lives: the system gives it to no program that asks for any port, no other test reserves it, and
/// nothing listened there when it was reserved.
#[must_use]
pub struct Port {
    number: u16,
    /// An abstract Unix socket whose name is the port (unix(7)). It is seen by whoever has the same network, and by nobody else, as ports are;
    /// and it is gone with this process, however that ends.
    _name: UnixDatagram,
}

impl Port {
    /// Reserves one.
    pub fn reserve() -> Self {
        let ports = outside(&fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap());
        // A port that another test has just left is taken last: somebody may not have noticed yet that it is gone.
        let begin = std::process::id() as usize * 31 % ports.len();
        let free = ports[begin..].iter().chain(&ports[..begin]).find_map(|number| Self::take(*number));
        free.unwrap_or_else(|| panic!("all of {} ports are taken", ports.len()))
    }

    fn take(number: u16) -> Option<Self> {
        let name = SocketAddr::from_abstract_name(format!("failback-tests-port-{number}")).unwrap();
        let name = UnixDatagram::bind_addr(&name).ok()?;
        // Something that is no test may listen there.
        let is_free = TcpListener::bind((Ipv4Addr::UNSPECIFIED, number)).is_ok();
        is_free.then_some(Self { number, _name: name })
    }

    /// Its number.
    pub const fn number(&self) -> u16 {
        self.number
    }

    /// Where it is on this machine, as `ADDRESS:PORT`.
    pub fn address(&self) -> String {
        format!("{}:{}", Ipv4Addr::LOCALHOST, self.number)
    }
}

/// The ports that the system gives to nobody who asks for any: below its range, or else above.
fn outside(range: &str) -> Vec<u16> {
    let ends: Vec<u16> = range.split_ascii_whitespace().map(|end| end.parse().unwrap()).collect();
    let [first, last] = ends[..] else { panic!("no range of ports: {range}") };
    let below = (FIRST..first).collect::<Vec<_>>();
    let ports = if below.len() < ENOUGH { (FIRST.max(last)..=u16::MAX).skip(1).collect() } else { below };
    assert!(
        ports.len() >= ENOUGH,
        "the system gives out ports {first} to {last} and leaves none to tests: narrow net.ipv4.ip_local_port_range"
    );
    ports
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_lie_outside_of_what_the_system_gives_out() {
        let ends = |range: &str| {
            let ports = outside(range);
            (ports[0], *ports.last().unwrap())
        };
        assert_eq!(ends("32768\t60999\n"), (20_000, 32_767));
        assert_eq!(ends("1024 60999"), (61_000, 65_535));
        assert_eq!(ends("20050 60999"), (61_000, 65_535));
        assert!(std::panic::catch_unwind(|| outside("1024 65535")).is_err());
    }

    #[test]
    fn no_port_is_given_twice_nor_while_somebody_listens_there() {
        let ports: Vec<_> = (0..50).map(|_| Port::reserve()).collect();
        let mut numbers: Vec<_> = ports.iter().map(Port::number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 50);
        let number = ports[0].number();
        assert!(Port::take(number).is_none(), "it is reserved");
        drop(ports);
        let listening = TcpListener::bind((Ipv4Addr::LOCALHOST, number)).unwrap();
        assert!(Port::take(number).is_none(), "somebody listens there");
        drop(listening);
    }
}
