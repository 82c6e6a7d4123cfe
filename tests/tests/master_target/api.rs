//! The API over TLS and over the Unix socket, and what the log says.

use crate::site::{Daemon, MIB, Site};
use failback_credentials::{Directory, Identity, Role, Tls, TrustStore};
use failback_tests::failback;
use failback_tests::lab::{Program, has_programs, noise, skipped};
use failback_transport::http::Method;
use failback_transport::{Answer, ApiClient, HostPort, Limits, Runtime};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
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

/// Lets a machine in as an administrator.
fn admin(site: &Site, daemon: &Daemon, state: &str) {
    let token = site.on_site(failback!("enroll", "token", state, "--role", "admin")).json();
    let token = token["token"].as_str().unwrap().as_bytes().to_vec();
    failback!("enroll", "join", daemon.data, "--state", site.place.path(state)).fed(token).done();
}

/// As an administrator's machine has it: the key stays where it is, the certificate is written where it is wanted.
fn shown_by(site: &Site, state: &str) -> Value {
    let out = site.place.directory(&format!("{state}-certificate"));
    failback!("enroll", "certificate", "--state", site.place.path(state), "--out", out).json()
}

/// What curl prints for a path, and what for its errors.
fn curl(place: &str, shown: &Value, path: &str, more: &[&str]) -> (Option<i32>, String, String) {
    let text = |name: &str| shown[name].as_str().unwrap();
    let url = format!("https://{place}{path}");
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--show-error",
        "--max-time",
        "30",
        "--noproxy",
        "*",
        "--cert",
        text("file"),
        "--key",
        text("key"),
    ]);
    let output = curl.args(more).arg(&url).output().unwrap();
    let said = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), said(output.stdout), said(output.stderr))
}

#[test]
fn curl_reads_numbers_and_the_api_with_the_key_of_an_administrator() {
    if !has_programs(&["curl"]) {
        return;
    }
    let version = Command::new("curl").arg("--version").output().unwrap();
    if !String::from_utf8_lossy(&version.stdout).contains("OpenSSL/") {
        skipped("curl is built with another library than OpenSSL, which may not know Ed25519");
        return;
    }
    let site = Site::new();
    let daemon = site.serve();
    admin(&site, &daemon, "boss");
    site.enroll(&daemon, "web");
    let boss = shown_by(&site, "boss");
    let own = shown_by(&site, "site");
    let pin = boss["servers"][0]["pin"].as_str().unwrap();
    assert_eq!(pin, own["pin"].as_str().unwrap());
    // What is in the documents: the server by its pin, or by its certificate, whose name is always the same.
    let by_pin = ["--insecure", "--pinnedpubkey", pin];
    let (host, port) = daemon.control.rsplit_once(':').unwrap();
    let as_named = format!("failback:{port}:{host}:{port}");
    let by_certificate = ["--cacert", own["file"].as_str().unwrap(), "--connect-to", &as_named];
    let (code, said, error) = curl(&daemon.control, &boss, "/metrics", &by_pin);
    assert!(code == Some(0) && said.contains("failback_build_info{version="), "{code:?} {said} {error}");
    let (code, said, error) = curl(&format!("failback:{port}"), &boss, "/v1/status", &by_certificate);
    assert!(code == Some(0) && said.contains("\"running_jobs\": 0"), "{code:?} {said} {error}");
    for none in [&["--http1.1"][..], &["--no-alpn"]] {
        let (code, said, error) = curl(&daemon.control, &boss, "/v1/status", &[&by_pin[..], none].concat());
        assert!(code == Some(0) && said.contains("fingerprint"), "{none:?}: {code:?} {said} {error}");
    }
    // Another server, and who is no administrator.
    let other = boss["pin"].as_str().unwrap();
    let (code, said, _) = curl(&daemon.control, &boss, "/metrics", &["--insecure", "--pinnedpubkey", other]);
    assert_eq!((code, said.as_str()), (Some(90), ""), "SSL_PINNEDPUBKEYNOTMATCH");
    let (_, said, _) = curl(&daemon.control, &shown_by(&site, "elsewhere"), "/metrics", &by_pin);
    assert!(said.contains("this is for administrators"), "{said}");
    failback!("enroll", "show", "--state", site.place.path("stranger")).done();
    let (code, said, error) = curl(&daemon.control, &shown_by(&site, "stranger"), "/metrics", &by_pin);
    assert!(code != Some(0) && said.is_empty() && error.contains("unknown ca"), "{code:?} {said} {error}");
    let key = std::fs::metadata(boss["key"].as_str().unwrap()).unwrap();
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
}

#[test]
fn the_verbs_ask_a_master_target_elsewhere() {
    let site = Site::new();
    let daemon = site.serve();
    admin(&site, &daemon, "boss");
    site.enroll(&daemon, "web");
    site.pair("data", 4 * MIB, Some("web"));
    site.pair("logs", 4 * MIB, Some("web"));
    site.send("data", &daemon.data).done();
    let from = |state: &str, command: Program| {
        command.arg("--to").arg(&daemon.control).arg("--state").arg(site.place.path(state))
    };
    let afar = |command: Program| from("boss", command);
    let both = |command: fn() -> Program| (afar(command()).json(), site.on_site(command()).json());
    for command in [|| failback!("pair", "list"), || failback!("pair", "show", "data"), || failback!("jobs")] {
        let (there, here) = both(command);
        assert_eq!(there, here);
    }
    assert_eq!(afar(failback!("jobs")).json()["jobs"][0]["pair"], "data");
    afar(failback!("group", "add", "shop", "data", "logs")).done();
    for command in [|| failback!("group", "list"), || failback!("group", "show", "shop")] {
        let (there, here) = both(command);
        assert_eq!(there, here);
        assert!(there.to_string().contains("shop"), "{there}");
    }
    afar(failback!("group", "remove", "shop")).done();
    afar(failback!("pair", "remove", "logs")).done();
    let (target, retention) = (site.vmdk("logs"), site.place.path("retention"));
    let add = || failback!("pair", "add", "logs", "--source", site.source("logs"), "--peer", "web");
    afar(add().arg("--target").arg(&target)).refused("add --retention DIR");
    afar(add().args("--target logs.vmdk").arg("--retention").arg(&retention))
        .refused("is relative: give the whole path");
    afar(add().arg("--target").arg(&target).arg("--retention").arg(&retention)).done();
    assert_eq!(site.on_site(failback!("pair", "list")).json()["pairs"].as_array().unwrap().len(), 2);
    // Whoever is no administrator, and who has not joined.
    from("elsewhere", failback!("jobs")).refused("this is for administrators");
    from("stranger", failback!("jobs")).refused("--role admin");
    failback!("jobs", "--server", "site").misused();
}

#[test]
fn administrators_ask_from_afar_and_sources_do_not() {
    let site = Site::new();
    let daemon = site.serve();
    site.enroll(&daemon, "web");
    admin(&site, &daemon, "boss");
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
