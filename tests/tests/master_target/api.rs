//! The API over TLS and over the Unix socket, and what the log says.

use crate::site::{Daemon, MIB, Site};
use failback_credentials::{Directory, Identity, Role, Tls, TrustStore};
use failback_tests::failback;
use failback_tests::lab::noise;
use failback_transport::http::Method;
use failback_transport::{Answer, ApiClient, HostPort, Limits, Runtime};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

const WITHIN: Duration = Duration::from_secs(30);

/// Asks as the machine with that state, which joined the daemon.
fn ask(site: &Site, daemon: &Daemon, state: &str, path: &str) -> Answer {
    let credentials = Directory::open(site.place.path(state).join("credentials")).unwrap();
    let trust = TrustStore::new(credentials.clone());
    let server = trust.peers().unwrap().into_iter().find(|peer| peer.role == Role::Target).unwrap().fingerprint;
    let tls = Tls::new(&Identity::load(&credentials).unwrap(), Arc::new(trust));
    let address: HostPort = daemon.control.parse().unwrap();
    let client = ApiClient::tls(address, tls, server, Limits::default(), Arc::new(Runtime::start().unwrap()));
    client.call(Method::GET, path, Vec::new(), WITHIN).unwrap()
}

#[test]
fn administrators_ask_from_afar_and_sources_do_not() {
    let site = Site::new();
    let daemon = site.serve();
    site.enroll(&daemon, "web");
    let token = site.on_site(failback!("enroll", "token", "boss", "--role", "admin")).json();
    let token = token["token"].as_str().unwrap().as_bytes().to_vec();
    failback!("enroll", "join", daemon.data, "--state", site.place.path("boss")).fed(token).done();
    site.pair("data", 4 * MIB, Some("web"));
    site.write("data", 0, &noise(50_000, 3));
    site.send("data", &daemon.data).done();
    site.ended_jobs();
    let status = ask(&site, &daemon, "boss", "/v1/status");
    assert_eq!(status.status, 200);
    let status: Value = serde_json::from_slice(&status.body).unwrap();
    assert_eq!((&status["pairs"], &status["running_jobs"]), (&1.into(), &0.into()));
    let metrics = ask(&site, &daemon, "boss", "/metrics");
    let metrics = String::from_utf8(metrics.body.to_vec()).unwrap();
    assert!(metrics.contains("failback_pair_last_success_timestamp_seconds{pair=\"data\"} "), "{metrics}");
    let received = metrics.lines().find_map(|line| line.strip_prefix("failback_received_bytes_total "));
    assert!(received.unwrap().parse::<u64>().unwrap() > 50_000, "noise does not become less");
    let refused = ask(&site, &daemon, "elsewhere", "/v1/status");
    assert_eq!(refused.status, 403);
    assert!(String::from_utf8_lossy(&refused.body).contains("administrators"));
    // An administrator is no source.
    let journal = site.place.path("journal");
    let send = failback!("send", site.source("data"), "--to", daemon.data, "--pair", "data", "--journal", journal);
    send.arg("--state").arg(site.place.path("boss")).refused("only sources and relays send");
    let log = site.log();
    let has = |field: &str, value: &str| log.iter().any(|line| line[field] == value);
    assert!(has("message", "joined") && has("peer", "boss"), "{log:#?}");
    assert!(log.iter().any(|line| line["path"] == "/metrics" && line["status"] == 200));
    assert!(log.iter().any(|line| line["message"] == "the pass is complete" && line["pair"] == "data"));
}
