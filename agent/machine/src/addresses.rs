//! The way to this machine.

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The addresses of this machine as `NAME ADDRESS/PREFIX`, without loopback and link-local ones.
///
/// # Errors
///
/// When the kernel does not tell.
pub fn addresses() -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for interface in getifaddrs()? {
        if interface.flags.contains(InterfaceFlags::IFF_LOOPBACK) {
            continue;
        }
        let ip = |address: Option<nix::sys::socket::SockaddrStorage>| {
            let address = address?;
            let v4 = address.as_sockaddr_in().map(|it| IpAddr::V4(it.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|it| IpAddr::V6(it.ip())))
        };
        let Some(address) = ip(interface.address) else { continue };
        if is_link_local(address) {
            continue;
        }
        let prefix = ip(interface.netmask).map(prefix_of);
        found.push(match prefix {
            Some(prefix) => format!("{} {address}/{prefix}", interface.interface_name),
            None => format!("{} {address}", interface.interface_name),
        });
    }
    Ok(found)
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

fn prefix_of(mask: IpAddr) -> u32 {
    match mask {
        IpAddr::V4(mask) => Ipv4Addr::to_bits(mask).leading_ones(),
        IpAddr::V6(mask) => Ipv6Addr::to_bits(mask).leading_ones(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_and_addresses_of_the_link() {
        assert_eq!(prefix_of("255.255.254.0".parse().unwrap()), 23);
        assert_eq!(prefix_of("ffff:ffff::".parse().unwrap()), 32);
        assert_eq!(prefix_of("0.0.0.0".parse().unwrap()), 0);
        assert!(is_link_local("fe80::1".parse().unwrap()) && is_link_local("169.254.1.1".parse().unwrap()));
        assert!(!is_link_local("2001:db8::1".parse().unwrap()) && !is_link_local("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn this_machine() {
        for line in addresses().unwrap() {
            assert!(!line.starts_with("lo ") && !line.contains("fe80:"), "{line}");
        }
    }
}
