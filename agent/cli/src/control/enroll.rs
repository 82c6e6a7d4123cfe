//! The verb `enroll`: who may speak to whom.

use super::args::{CertificateArgs, EnrollArgs, EnrollCommand, JoinArgs, ListArgs, Place, RevokeArgs, TokenArgs};
use super::client::refused;
use super::connect::is_server;
use crate::files;
use crate::report::{Lines, print, print_bytes, tell};
use anyhow::{Context, Result};
use failback_control::api::types::{Peer as PeerJson, Peers};
use failback_credentials::{
    Directory, Fingerprint, Identity, KEY_FILE, NewToken, Peer, PeerName, Role, Tls, Token, TrustStore,
};
use failback_orchestrate::JobError;
use failback_transport::{Address, Limits, Runtime, enrol};
use serde_json::json;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// The most that a token with blanks has, in bytes.
const TOKEN_MAX: u64 = 1024;

pub(crate) fn enroll(args: &EnrollArgs) -> Result<ExitCode> {
    match &args.command {
        EnrollCommand::Token(args) => token(args),
        EnrollCommand::Join(args) => join(args),
        EnrollCommand::List(args) => list(args),
        EnrollCommand::Revoke(args) => revoke(args),
        EnrollCommand::Show(args) => show(args),
        EnrollCommand::Certificate(args) => certificate(args),
    }
}

fn opened(args: &ListArgs) -> Result<(Directory, Identity)> {
    let directory = args.place.credentials()?;
    let identity = Identity::load_or_create(&directory).map_err(|error| refused(&error))?;
    Ok((directory, identity))
}

fn role(name: &str) -> Role {
    match name {
        "relay" => Role::Relay,
        "admin" => Role::Admin,
        _ => Role::Source,
    }
}

fn name(text: &str) -> Result<PeerName, JobError> {
    PeerName::new(text).map_err(|error| JobError::Refused(error.to_string()))
}

/// A token, and the key of the machine that gave it out.
pub(crate) struct Issued {
    pub(crate) token: Token,
    pub(crate) fingerprint: Fingerprint,
    /// When it ends, in seconds since 1970.
    pub(super) expires: i64,
}

/// Gives out a token that lets a machine of this name in, once.
pub(crate) fn issue(
    place: &Place,
    called: &str,
    role: Role,
    expires: Duration,
    trusted_for: Option<Duration>,
) -> Result<Issued> {
    let called = name(called)?;
    let directory = place.credentials()?;
    let identity = Identity::load_or_create(&directory).map_err(|error| refused(&error))?;
    let now = files::now();
    let seconds = |time: Duration| now.saturating_add(i64::try_from(time.as_secs()).unwrap_or(i64::MAX));
    let expires = seconds(expires);
    let new = NewToken { name: called, role, expires, peer_expires: trusted_for.map(seconds) };
    let token = TrustStore::new(directory).issue(identity.fingerprint(), &new, now).map_err(|error| refused(&error))?;
    Ok(Issued { token, fingerprint: *identity.fingerprint(), expires })
}

fn token(args: &TokenArgs) -> Result<ExitCode> {
    let issued = issue(&args.list.place, &args.name, role(&args.role), args.expires, args.trusted_for)?;
    let text = issued.token.reveal();
    let object = json!({
        "token": &**text,
        "name": args.name,
        "role": args.role,
        "expires": issued.expires,
        "fingerprint": issued.fingerprint.to_string(),
    });
    let mut lines = Lines::default();
    lines.add("token", &*text).add("for", format!("{} ({})", args.name, args.role));
    lines.add("ends in", format!("{} min, or when it is used", args.expires.as_secs() / 60));
    lines.add("fingerprint of this machine", issued.fingerprint);
    lines.add("next", "failback enroll join ADDRESS on the other machine, with the token on its standard input");
    print(args.list.json, &object, &lines)?;
    Ok(ExitCode::SUCCESS)
}

fn join(args: &JoinArgs) -> Result<ExitCode> {
    let Address::Tls(host) = &args.address else {
        return Err(JobError::Refused("a machine joins a server in the network: name HOST or HOST:PORT".into()).into());
    };
    // Not an argument: others on this machine see those.
    let mut text = String::new();
    let read = if let Some(path) = &args.token_file {
        std::fs::File::open(path).and_then(|file| file.take(TOKEN_MAX).read_to_string(&mut text))
    } else {
        io::stdin().lock().take(TOKEN_MAX).read_to_string(&mut text)
    };
    read.context("cannot read the token")?;
    let token = Token::parse(text.trim()).map_err(|error| JobError::Refused(error.to_string()))?;
    drop(text);
    let (directory, identity) = opened(&args.list)?;
    let trust = Arc::new(TrustStore::new(directory));
    let tls = Tls::new(&identity, Arc::clone(&trust));
    let welcome = enrol(host, &tls, &token, Limits::default(), &Runtime::start()?)
        .map_err(|error| JobError::Refused(crate::text::with_causes(&error)))?;
    let server = trust.add(&welcome.server, files::now()).map_err(|error| refused(&error))?;
    let object = json!({
        "server": server.name.as_str(),
        "server_fingerprint": server.fingerprint.to_string(),
        "name": welcome.name.as_str(),
        "role": welcome.role.name(),
        "expires": welcome.expires,
        "fingerprint": identity.fingerprint().to_string(),
    });
    let mut lines = Lines::default();
    lines.add("joined", format!("{} at {}", server.name, args.address));
    lines.add("its fingerprint", server.fingerprint);
    lines.add("this machine is", format!("{} ({}) there", welcome.name, welcome.role.name()));
    lines.add("its own fingerprint", identity.fingerprint());
    print(args.list.json, &object, &lines)?;
    Ok(ExitCode::SUCCESS)
}

fn list(args: &ListArgs) -> Result<ExitCode> {
    let peers = TrustStore::new(args.place.credentials()?).peers().map_err(|error| refused(&error))?;
    let mut lines = Lines::default();
    for peer in &peers {
        lines.add(peer.name.as_str(), line(peer));
    }
    if peers.is_empty() {
        lines.add("peers", "none: failback enroll token NAME lets one in");
    }
    print(args.json, &Peers { peers: peers.iter().map(PeerJson::from).collect() }, &lines)?;
    Ok(ExitCode::SUCCESS)
}

fn line(peer: &Peer) -> String {
    let state = match peer.check(files::now()) {
        Ok(()) => String::new(),
        Err(_) if peer.revoked.is_some() => ", revoked".into(),
        Err(error) => format!(", {error}"),
    };
    format!("{}, {}{state}", peer.role.name(), peer.fingerprint)
}

fn revoke(args: &RevokeArgs) -> Result<ExitCode> {
    let trust = TrustStore::new(args.list.place.credentials()?);
    let peers = trust.peers().map_err(|error| refused(&error))?;
    let key = match args.peer.parse::<Fingerprint>() {
        Ok(key) => key,
        Err(_) => key_of(&peers, &args.peer)?,
    };
    let peer = trust.revoke(&key, files::now()).map_err(|error| refused(&error))?;
    let mut lines = Lines::default();
    lines.add("revoked", peer.name.as_str()).add("fingerprint", peer.fingerprint);
    lines.add("its connections", "are refused from now on, and ended within seconds where failback serve runs");
    print(args.list.json, &PeerJson::from(&peer), &lines)?;
    Ok(ExitCode::SUCCESS)
}

/// The key that a name means: of those that had it, each after the one before was revoked, the one that is not.
fn key_of(peers: &[Peer], name: &str) -> Result<Fingerprint, JobError> {
    let mut called = peers.iter().filter(|peer| peer.name.as_str() == name).peekable();
    let ever = called.peek().is_some();
    let live = called.find(|peer| peer.revoked.is_none());
    live.map(|peer| peer.fingerprint).ok_or_else(|| {
        let name = name.escape_debug();
        JobError::Refused(if ever {
            format!("every key that was called \"{name}\" is revoked already: failback enroll list shows them")
        } else {
            format!("no peer is called \"{name}\": failback enroll list tells which there are")
        })
    })
}

fn show(args: &ListArgs) -> Result<ExitCode> {
    let (_, identity) = opened(args)?;
    let mut lines = Lines::default();
    lines.add("fingerprint", identity.fingerprint());
    print(args.json, &json!({ "fingerprint": identity.fingerprint().to_string() }), &lines)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the certificate that goes with this machine's key. The key stays where it is.
fn certificate(args: &CertificateArgs) -> Result<ExitCode> {
    let (directory, identity) = opened(&args.list)?;
    let pem = identity.certificate_pem().map_err(|error| refused(&error))?;
    let key = directory.path().join(KEY_FILE);
    let peers = TrustStore::new(directory).peers().map_err(|error| refused(&error))?;
    let servers: Vec<_> = peers.iter().filter(|peer| is_server(peer)).collect();
    let file = args.out.as_deref().map(|out| write_certificate(out, &pem)).transpose()?;
    let mut lines = Lines::default();
    if let Some(file) = &file {
        lines.add("certificate", file.display());
    }
    lines.add("its key, which stays there", key.display());
    lines
        .add("fingerprint of this machine", identity.fingerprint())
        .add("pin of this machine", identity.fingerprint().pin());
    for server in &servers {
        lines.add(&format!("pin of {}", server.name), server.fingerprint.pin());
    }
    if file.is_none() && !args.list.json {
        print_bytes(pem.as_bytes())?;
        tell(lines.to_string().trim_end());
        return Ok(ExitCode::SUCCESS);
    }
    let told = |server: &&Peer| {
        json!({
            "name": server.name.as_str(),
            "fingerprint": server.fingerprint.to_string(),
            "pin": server.fingerprint.pin(),
        })
    };
    let object = json!({
        "certificate": pem,
        "file": file.map(|file| file.display().to_string()),
        "key": key.display().to_string(),
        "fingerprint": identity.fingerprint().to_string(),
        "pin": identity.fingerprint().pin(),
        "servers": servers.iter().map(told).collect::<Vec<_>>(),
    });
    print(args.list.json, &object, &lines)?;
    Ok(ExitCode::SUCCESS)
}

/// Puts a certificate into a directory, in the place of the one that may be there.
fn write_certificate(directory: &Path, pem: &str) -> Result<PathBuf, JobError> {
    let (file, new) = (directory.join("certificate.pem"), directory.join("certificate.pem.new"));
    // What an earlier run may have left, or somebody may have put there to be written through.
    drop(fs::remove_file(&new));
    let made = OpenOptions::new().write(true).create_new(true).open(&new);
    let written = made.and_then(|mut made| made.write_all(pem.as_bytes())).and_then(|()| fs::rename(&new, &file));
    written.map_err(|source| JobError::File { action: "write", path: file.clone(), source })?;
    Ok(file)
}
