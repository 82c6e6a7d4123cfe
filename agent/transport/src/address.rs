//! Where the other side is, and how it is reached.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::str::FromStr;

/// The port of a master target.
pub const DEFAULT_PORT: u16 = 9443;

/// The port of a master target's API.
pub const API_PORT: u16 = 443;

/// `sun_path` of a Unix socket has 108 bytes, and one of them is the zero at its end (unix(7)).
const SOCKET_PATH_MAX: usize = 107;

/// A DNS name has at most 253 characters (RFC 1035, section 2.3.4, without the dot at its end).
const HOST_MAX: usize = 253;

/// Where the other side is, and how it is reached. What it shows is read as the same address again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// `ssh:[USER@]HOST[:PORT]`: failback runs there, started by ssh.
    Ssh(SshAddress),
    /// `exec:COMMAND`: a command for `sh -c` that speaks the protocol on its standard input and output.
    Exec(String),
    /// `unix:/PATH`: a daemon on this machine.
    Unix(PathBuf),
    /// `tls:HOST[:PORT]`, or the same without `tls:`.
    Tls(HostPort),
}

/// A machine that ssh reaches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SshAddress {
    user: Option<String>,
    host: String,
    port: Option<u16>,
}

/// A machine in the network, and a port there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    host: String,
    port: u16,
}

/// Why a text is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// There is nothing.
    #[error("an address is empty: write HOST, HOST:PORT, ssh:[USER@]HOST, unix:/PATH or exec:COMMAND")]
    Empty,
    /// It is a URL.
    #[error("{0:?} looks like the address of a web page: write HOST or HOST:PORT, without {1}://")]
    Url(String, String),
    /// There is no host.
    #[error("{0:?} names no machine: write a name or an IP address before the port")]
    NoHost(String),
    /// It begins with a dash.
    #[error(
        "{0:?} begins with a dash, and a program would take it for an option: write the machine's name or IP address"
    )]
    Dash(String),
    /// There are characters in it that no host has.
    #[error("{0:?} is no name of a machine: use letters, digits, dots, dashes and underscores, or an IP address")]
    Host(String),
    /// It is too long.
    #[error("the name of a machine has {0} characters and may have {HOST_MAX}: use its IP address")]
    Long(usize),
    /// Brackets that hold no IPv6 address.
    #[error("{0:?} is no IPv6 address: write it as [2001:db8::1] or [2001:db8::1]:9443")]
    Ipv6(String),
    /// An IPv6 address without brackets.
    #[error("{0:?} has more than one colon: put an IPv6 address into brackets, as [2001:db8::1]:9443")]
    Brackets(String),
    /// The port is none.
    #[error("{0:?} is no port: use a number from 1 to 65535")]
    Port(String),
    /// There are characters in it that no user's name has.
    #[error("{0:?} is no user for ssh: use letters, digits, dots, dashes and underscores, and no dash in front")]
    User(String),
    /// There is no command.
    #[error("exec: names no command: write it behind the colon, as for sh -c")]
    NoCommand,
    /// The path is relative, or there is none.
    #[error("{0:?} is no absolute path: write unix:/PATH with the whole path of the socket")]
    Relative(String),
    /// The path is too long.
    #[error("the path of a Unix socket has {0} bytes and may have {SOCKET_PATH_MAX}: use a shorter one")]
    LongPath(usize),
    /// A zero byte.
    #[error("an address has a zero byte in it: write it without")]
    Zero,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.contains('\0') {
            return Err(AddressError::Zero);
        }
        match text.split_once(':') {
            Some(("ssh", rest)) => rest.parse().map(Self::Ssh),
            Some(("exec", rest)) if rest.trim().is_empty() => Err(AddressError::NoCommand),
            Some(("exec", rest)) => Ok(Self::Exec(rest.to_owned())),
            Some(("unix", rest)) if !rest.starts_with('/') => Err(AddressError::Relative(rest.to_owned())),
            Some(("unix", rest)) if rest.len() > SOCKET_PATH_MAX => Err(AddressError::LongPath(rest.len())),
            Some(("unix", rest)) => Ok(Self::Unix(rest.into())),
            Some(("tls", rest)) => rest.parse().map(Self::Tls),
            _ => text.parse().map(Self::Tls),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ssh(address) => write!(f, "ssh:{address}"),
            Self::Exec(command) => write!(f, "exec:{command}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tls(address) => write!(f, "tls:{address}"),
        }
    }
}

impl SshAddress {
    /// The user there; as ssh has it, if there is none.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// A name, perhaps one of ssh's configuration, or an IP address without brackets. Never begins with a dash.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port; as ssh has it, if there is none.
    #[must_use]
    pub const fn port(&self) -> Option<u16> {
        self.port
    }
}

impl FromStr for SshAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (user, place) = match text.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, text),
        };
        let fits = |user: &&str| !user.is_empty() && !user.starts_with('-') && user.chars().all(is_of_name);
        if let Some(user) = user.filter(|user| !fits(user)) {
            return Err(AddressError::User(user.to_owned()));
        }
        let (host, port) = host_and_port(place)?;
        Ok(Self { user: user.map(str::to_owned), host, port })
    }
}

impl fmt::Display for SshAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        show_host(&self.host, f)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl HostPort {
    /// A name or an IP address, that of IPv6 without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// `HOST[:PORT]` of a master target's API, at [`API_PORT`] if none is named.
    ///
    /// # Errors
    ///
    /// When the text is no address.
    pub fn of_api(text: &str) -> Result<Self, AddressError> {
        let (host, port) = host_and_port(text)?;
        Ok(Self { host, port: port.unwrap_or(API_PORT) })
    }

    /// The port, [`DEFAULT_PORT`] or [`API_PORT`] if none was named.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for HostPort {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (host, port) = host_and_port(text)?;
        Ok(Self { host, port: port.unwrap_or(DEFAULT_PORT) })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show_host(&self.host, f)?;
        write!(f, ":{}", self.port)
    }
}

fn show_host(host: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if host.contains(':') { write!(f, "[{host}]") } else { f.write_str(host) }
}

/// What names of machines and users are made of. Nothing of it means anything to a shell: what ssh's configuration does with a name
/// (`ProxyCommand … %h`) goes through one.
const fn is_of_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '.' | '-' | '_')
}

/// `HOST`, `HOST:PORT`, `[IPV6]`, `[IPV6]:PORT`.
fn host_and_port(text: &str) -> Result<(String, Option<u16>), AddressError> {
    if text.is_empty() {
        return Err(AddressError::Empty);
    }
    if let Some((scheme, _)) = text.split_once("://") {
        return Err(AddressError::Url(text.to_owned(), scheme.to_owned()));
    }
    if let Some(rest) = text.strip_prefix('[') {
        let not_ipv6 = || AddressError::Ipv6(text.to_owned());
        let (host, rest) = rest.split_once(']').ok_or_else(not_ipv6)?;
        check_ipv6(host).ok_or_else(not_ipv6)?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host.to_owned(), Some(port_of(port)?))),
            None if rest.is_empty() => Ok((host.to_owned(), None)),
            None => Err(not_ipv6()),
        };
    }
    let (host, port) = match text.split_once(':') {
        Some((_, rest)) if rest.contains(':') => return Err(AddressError::Brackets(text.to_owned())),
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    if host.is_empty() {
        return Err(AddressError::NoHost(text.to_owned()));
    }
    if host.starts_with('-') {
        return Err(AddressError::Dash(host.to_owned()));
    }
    if !host.chars().all(is_of_name) || !host.contains(|character: char| character.is_ascii_alphanumeric()) {
        return Err(AddressError::Host(host.to_owned()));
    }
    if host.len() > HOST_MAX {
        return Err(AddressError::Long(host.len()));
    }
    Ok((host.to_owned(), port.map(port_of).transpose()?))
}

/// An IPv6 address, perhaps with a zone (`fe80::1%eth0`; RFC 4007, section 11).
fn check_ipv6(host: &str) -> Option<()> {
    let (address, zone) = host.split_once('%').map_or((host, None), |(address, zone)| (address, Some(zone)));
    address.parse::<Ipv6Addr>().ok()?;
    zone.is_none_or(|zone| !zone.is_empty() && zone.chars().all(is_of_name)).then_some(())
}

fn port_of(text: &str) -> Result<u16, AddressError> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|port| digits && *port != 0);
    port.ok_or_else(|| AddressError::Port(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(text: &str) -> String {
        match text.parse::<Address>() {
            Ok(address) => address.to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn every_form_is_read_and_shown() {
        for (text, expected) in [
            ("mt.example", "tls:mt.example:9443"),
            ("mt.example:443", "tls:mt.example:443"),
            ("tls:mt.example", "tls:mt.example:9443"),
            ("tls:192.0.2.7:1", "tls:192.0.2.7:1"),
            ("[2001:db8::1]", "tls:[2001:db8::1]:9443"),
            ("tls:[fe80::1%eth0]:65535", "tls:[fe80::1%eth0]:65535"),
            ("ssh:mt", "ssh:mt"),
            ("ssh:root@mt:22", "ssh:root@mt:22"),
            ("ssh:ad.min@[2001:db8::1]:22", "ssh:ad.min@[2001:db8::1]:22"),
            ("unix:/run/failback/data.sock", "unix:/run/failback/data.sock"),
            ("exec:nc 'a b' 7 | tee x:y", "exec:nc 'a b' 7 | tee x:y"),
            ("tls:exec:22", "tls:exec:22"),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
        let Ok(Address::Ssh(address)) = "ssh:me@[::1]:7".parse() else { panic!("an address of ssh") };
        assert_eq!((address.user(), address.host(), address.port()), (Some("me"), "::1", Some(7)));
        let Ok(Address::Tls(address)) = "mt".parse() else { panic!("an address of TLS") };
        assert_eq!((address.host(), address.port()), ("mt", DEFAULT_PORT));
        let api = |text| HostPort::of_api(text).map(|address| address.to_string());
        assert_eq!((api("mt"), api("[::1]:7")), (Ok("mt:443".into()), Ok("[::1]:7".into())));
        assert!(api("https://mt").is_err());
    }

    #[test]
    fn every_refusal_says_what_to_do() {
        let long = format!("{}:1", "a".repeat(254));
        let long_path = format!("unix:/{}", "a".repeat(107));
        for (text, expected) in [
            ("", "an address is empty"),
            ("ssh:", "an address is empty"),
            ("tls:", "an address is empty"),
            ("https://mt:9443", "without https://"),
            (":9443", "names no machine"),
            ("ssh:root@:22", "names no machine"),
            ("-oProxyCommand=x", "begins with a dash"),
            ("ssh:-oProxyCommand=x", "begins with a dash"),
            ("ssh:root@-x", "begins with a dash"),
            ("ssh:-l@mt", "no user for ssh"),
            ("ssh:@mt", "no user for ssh"),
            ("ssh:a b@mt", "no user for ssh"),
            ("ssh:mt;reboot", "no name of a machine"),
            ("ssh:$(reboot)", "no name of a machine"),
            ("mt example", "no name of a machine"),
            ("m\u{fc}nchen", "no name of a machine"),
            ("...", "no name of a machine"),
            (long.as_str(), "has 254 characters"),
            ("2001:db8::1", "into brackets"),
            ("mt:1:2", "into brackets"),
            ("[mt]:1", "no IPv6 address"),
            ("[::1", "no IPv6 address"),
            ("[::1]1", "no IPv6 address"),
            ("[fe80::1%]", "no IPv6 address"),
            ("[fe80::1%a;b]", "no IPv6 address"),
            ("mt:0", "no port"),
            ("mt:", "no port"),
            ("mt:65536", "no port"),
            ("mt:+1", "no port"),
            ("mt:https", "no port"),
            ("exec:", "names no command"),
            ("exec:  ", "names no command"),
            ("unix:", "no absolute path"),
            ("unix:run/x", "no absolute path"),
            (long_path.as_str(), "has 108 bytes"),
            ("exec:a\0b", "a zero byte"),
        ] {
            let shown = shown(text);
            assert!(shown.contains(expected), "{text}: {shown}");
            assert!(text.parse::<Address>().is_err(), "{text} is refused");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_as_the_same(text in "(ssh:|exec:|unix:/|tls:)?[-a-z0-9.@:\\[\\] %/$]{0,20}") {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert_eq!(address.to_string().parse::<Address>(), Ok(address));
            }
        }
    }
}
