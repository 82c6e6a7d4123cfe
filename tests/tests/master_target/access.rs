//! Who gets in, and how far.

use crate::site::{MIB, Site};
use failback_tests::failback;
use failback_tests::lab::{Unchanged, files_below, has_programs, noise, skipped};
use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn strangers_and_those_without_a_pair_are_refused_before_anything_is_kept() {
    let site = Site::new();
    let daemon = site.serve();
    fs::write(site.source("data"), noise(MIB, 1)).unwrap();
    site.send("data", &daemon.data).refused("failback enroll join");
    site.enroll(&daemon, "web");
    site.send("data", &daemon.data).refused("no pair of that name for this source");
    site.pair("data", 4 * MIB, None);
    site.send("data", &daemon.data).refused("no pair of that name for this source");
    // For another machine.
    site.on_site(failback!("pair", "remove", "data")).done();
    fs::remove_file(site.vmdk("data")).unwrap();
    fs::remove_file(site.target("data")).unwrap();
    site.pair("data", 4 * MIB, Some(&"00".repeat(32)));
    site.send("data", &daemon.data).refused("no pair of that name for this source");
    assert!(!site.place.path("retention/replication").exists(), "nothing was kept for it");
    assert!(site.jobs().is_empty());
}

#[test]
fn tokens_are_good_once_and_those_who_are_revoked_are_out() {
    let site = Site::new();
    let daemon = site.serve();
    let token = site.on_site(failback!("enroll", "token", "web")).json();
    let token = token["token"].as_str().unwrap().to_owned();
    let join = |state: &str, token: &str| {
        failback!("enroll", "join", daemon.data, "--state", site.place.path(state)).fed(token.as_bytes().to_vec())
    };
    join("elsewhere", &token).done();
    join("another", &token).refused("used");
    join("another", &token.replace("failback1-", "failback1-A")).refused("failback1-");
    site.pair("data", 16 * MIB, Some("web"));
    site.write("data", 0, &noise(8 * MIB, 5));
    // Slow enough to be revoked on the way.
    let sending = site.send("data", &daemon.data).args("--limit 1M --compression off --retry 5s").start();
    let began = Instant::now();
    while !site.jobs().iter().any(|job| job["state"] == "running") {
        assert!(began.elapsed() < Duration::from_secs(30));
    }
    site.on_site(failback!("enroll", "revoke", "web")).done();
    let run = sending.finish();
    assert!(run.code != 0, "{}", run.stderr);
    assert!(run.stderr.contains("revoked"), "{}", run.stderr);
    assert!(fs::read(site.target("data")).unwrap() == noise(16 * MIB, 4), "nothing was written");
    site.send("data", &daemon.data).refused("revoked this machine's key");
    // Nothing brings such a key back, so nothing is waited for.
    site.send("data", &daemon.data).args("--follow 1s").refused("revoked this machine's key");
    // A name is that of the key that is not revoked.
    let revoke = || site.on_site(failback!("enroll", "revoke", "web"));
    revoke().refused("is revoked already");
    let token = site.on_site(failback!("enroll", "token", "web")).json()["token"].as_str().unwrap().to_owned();
    join("anew", &token).done();
    let new = failback!("enroll", "show", "--state", site.place.path("anew")).json()["fingerprint"].clone();
    assert_eq!(revoke().json()["fingerprint"], new);
    revoke().refused("is revoked already");
}

#[test]
fn two_daemons_do_not_share_a_state_and_secrets_stay_secret() {
    let site = Site::new();
    let daemon = site.serve();
    let state = site.place.path("site");
    failback!("serve", "--local", "--state", state).refused("site");
    // Neither in the log nor in what is asked: the key's own text.
    let key = fs::read_to_string(state.join("credentials/key.pem")).unwrap();
    let secret = key.lines().nth(1).unwrap().to_owned();
    site.enroll(&daemon, "web");
    let told = [
        fs::read_to_string(site.place.path("site.log")).unwrap(),
        site.on_site(failback!("enroll", "list")).json().to_string(),
        site.on_site(failback!("enroll", "show")).json().to_string(),
    ];
    assert!(secret.len() > 40 && told.iter().all(|text| !text.contains(&secret)));
    assert!(told.iter().all(|text| !text.contains("failback1-")), "tokens are shown once");
}

#[test]
fn one_source_reaches_for_the_pair_of_another_and_changes_nothing() {
    let site = Site::new();
    let daemon = site.serve();
    site.enroll(&daemon, "web");
    site.pair("data", 16 * MIB, Some("web"));
    site.write("data", 0, &noise(8 * MIB, 5));
    let token = site.on_site(failback!("enroll", "token", "other")).json();
    let token = token["token"].as_str().unwrap().as_bytes().to_vec();
    failback!("enroll", "join", daemon.data, "--state", site.place.path("other")).fed(token).done();
    let journal = site.place.path("other-journal");
    let reach = || {
        let send = failback!("send", site.source("data"), "--to", daemon.data, "--pair", "data", "--journal", journal);
        send.arg("--state").arg(site.place.path("other")).refused("no pair of that name for this source")
    };
    let retention = || files_below(&site.place.path("retention"));
    let (disk, kept) = (Unchanged::since(&site.target("data")), retention());
    reach();
    disk.check();
    assert_eq!((retention(), site.jobs().len()), (kept, 0), "nothing was begun for it");
    // Nor does it take the place of the one that has the pair.
    let mut sending = site.send("data", &daemon.data).args("--limit 1M --compression off --json").start();
    assert!(sending.wait_until(|| site.jobs().iter().any(|job| job["state"] == "running")));
    reach();
    assert!(sending.is_running(), "it was too quick to be reached for");
    let run = sending.finish();
    assert_eq!(run.code, 0, "{}", run.stderr);
    let report: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(report[0]["connections"], 1, "{report}");
    site.is_home("data");
    assert_eq!(site.jobs().len(), 1);
}

#[test]
fn who_comes_back_with_another_key_is_a_stranger() {
    let site = Site::new();
    let daemon = site.serve();
    site.enroll(&daemon, "web");
    site.pair("data", 4 * MIB, Some("web"));
    site.write("data", 0, &noise(50_000, 5));
    let key = site.place.path("elsewhere/credentials/key.pem");
    let kept = fs::read(&key).unwrap();
    fs::remove_file(&key).unwrap();
    let disk = Unchanged::since(&site.target("data"));
    let sentence = site.send("data", &daemon.data).refused("does not know this machine's key");
    disk.check();
    assert!(site.jobs().is_empty(), "{sentence}");
    fs::write(&key, kept).unwrap();
    site.send("data", &daemon.data).done();
    site.is_home("data");
}

/// A client that offers one version of TLS only. What is old is refused by the library itself unless it is told to take it.
fn tls_client(address: &str, version: &str, protocol: &str) -> Command {
    let mut client = Command::new("openssl");
    client.args(["s_client", "-connect", address, version, "-cipher", "ALL:@SECLEVEL=0", "-alpn", protocol]);
    client.stdin(Stdio::null());
    client
}

/// Whether the system's openssl begins a handshake of this version: there are builds that leave old ones out.
fn openssl_offers(version: &str) -> bool {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let heard = thread::spawn(move || {
        let mut first = [0];
        let read = listener.accept().and_then(|(mut stream, _)| stream.read(&mut first));
        // A record of a handshake (RFC 8446, 5.1).
        read.is_ok_and(|len| len == 1) && first == [22]
    });
    let _ = tls_client(&address.to_string(), version, "failback/1").output().unwrap();
    // One that did not even connect is not waited for.
    drop(TcpStream::connect(address));
    heard.join().unwrap()
}

/// Both ports end a handshake of this version, and say why in the log.
fn is_refused(version: &str, expected: &str) {
    let site = Site::new();
    let daemon = site.serve();
    for (address, protocol) in [(&daemon.data, "failback/1"), (&daemon.control, "failback-api/1")] {
        let before = site.log().len();
        let output = tls_client(address, version, protocol).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // With TLS 1.3 a client is through before the server has seen its key.
        assert!(version == "-tls1_3" || said.contains("alert"), "{version}: {said}");
        let began = Instant::now();
        let is_told = || site.log()[before..].iter().any(|line| line.to_string().contains(expected));
        while !is_told() {
            assert!(began.elapsed() < Duration::from_secs(10), "{version}: {:#?}", &site.log()[before..]);
        }
    }
}

#[test]
fn tls_below_1_3_is_refused_and_so_is_who_shows_no_key() {
    if has_programs(&["openssl"]) {
        is_refused("-tls1_2", "offers no TLS 1.3");
        is_refused("-tls1_3", "shows no Ed25519 key");
    }
}

#[test]
fn tls_1_1_is_refused() {
    if has_programs(&["openssl"])
        && (openssl_offers("-tls1_1") || skipped("the openssl of this machine does not speak TLS 1.1"))
    {
        is_refused("-tls1_1", "this is no client of failback");
    }
}
