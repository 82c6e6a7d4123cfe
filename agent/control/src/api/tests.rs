//! Requests and answers, without anything that carries them.

use super::types::{Jobs, NewGroup, NewPair, Pair, Pairs, Status};
use super::{BODY_MAX, ROUTES, Request, Response};
use crate::state::{JobKind, Subject};
use crate::{MasterTarget, Settings};
use failback_credentials::{Directory, Fingerprint, NewPeer, PeerName, Role, TrustStore};
use failback_orchestrate::{ByteCount, Engine, NewDisk, Subformat, create_vmdk};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tempfile::TempDir;

const DOCUMENT: &str = include_str!("../../openapi.json");

struct Lab {
    directory: TempDir,
    master: Arc<MasterTarget>,
}

impl Lab {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let credentials = Directory::open(directory.path().join("credentials")).unwrap();
        let trust = Some((TrustStore::new(credentials), Fingerprint::from_bytes([7; 32])));
        let settings = Settings { engine: Engine::Blocking, trust, ..Settings::default() };
        let master = MasterTarget::open(&directory.path().join("state"), settings).unwrap();
        Self { directory, master }
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Response {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(body).unwrap() };
        self.master.answer(&Request { method, path, query, body: &body, local: true }, Role::Admin)
    }

    fn get(&self, path: &str) -> Value {
        let answer = self.ask("GET", path, &Value::Null);
        assert_eq!(answer.status, 200, "{path}: {}", String::from_utf8_lossy(&answer.body));
        serde_json::from_slice(&answer.body).unwrap()
    }

    /// The status, and the sentence.
    fn refused(&self, method: &str, path: &str, body: &Value) -> (u16, String) {
        let answer = self.ask(method, path, body);
        let said: Value = serde_json::from_slice(&answer.body).unwrap();
        (answer.status, said["error"].as_str().unwrap_or_else(|| panic!("{said}")).to_owned())
    }

    fn new_pair(&self, name: &str) -> NewPair {
        let path = self.directory.path().join(format!("{}.vmdk", name.len()));
        let new = NewDisk {
            subformat: Subformat::MonolithicSparse,
            capacity: ByteCount::of_memory(1 << 20),
            adapter: "lsilogic".into(),
            hardware_version: 14,
            uuid: Some(*b"\x60\x00\xc2\x90123456789abc"),
            cid: 7,
            zeroed_grains: false,
        };
        if !path.exists() {
            create_vmdk(&path, &new, Engine::Blocking).unwrap();
        }
        NewPair {
            name: name.into(),
            peer: Some(Fingerprint::from_bytes([1; 32]).to_string()),
            source: "/dev/sdb".into(),
            target: path.to_str().unwrap().into(),
            retention: self.directory.path().to_str().unwrap().into(),
            direction: None,
            new_disk: true,
            signer: None,
        }
    }
}

#[test]
fn the_document_has_the_ways_that_there_are() {
    let document: Value = serde_json::from_str(DOCUMENT).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let methods = |path: &Value| -> Vec<String> {
        let names = path.as_object().unwrap().keys().filter(|name| *name != "parameters");
        names.map(|name| name.to_uppercase()).collect()
    };
    let told: BTreeSet<_> = paths
        .iter()
        .flat_map(|(path, what)| methods(what).into_iter().map(move |method| (method, path.clone())))
        .collect();
    let there: BTreeSet<_> =
        ROUTES.iter().map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned())).collect();
    assert_eq!(told, there);
}

/// The names of an object's fields, as the document has them for a type.
fn documented(name: &str) -> BTreeSet<String> {
    let document: Value = serde_json::from_str(DOCUMENT).unwrap();
    let fields = document["components"]["schemas"][name]["properties"].as_object();
    fields.unwrap_or_else(|| panic!("{name}")).keys().cloned().collect()
}

fn required(name: &str) -> BTreeSet<String> {
    let document: Value = serde_json::from_str(DOCUMENT).unwrap();
    let fields = document["components"]["schemas"][name]["required"].as_array().unwrap();
    fields.iter().map(|field| field.as_str().unwrap().to_owned()).collect()
}

fn names(value: &Value) -> BTreeSet<String> {
    value.as_object().unwrap().keys().cloned().collect()
}

#[test]
fn answers_are_as_the_document_says() {
    let lab = Lab::new();
    let added = lab.ask("POST", "/v1/pairs", &serde_json::to_value(lab.new_pair("web 1/ü")).unwrap());
    assert_eq!(added.status, 201);
    let group = NewGroup { name: "shop".into(), pairs: vec!["web 1/ü".into()], quiesce_ms: 500 };
    assert_eq!(lab.ask("POST", "/v1/groups", &serde_json::to_value(group).unwrap()).status, 201);
    let subject = Subject::Pair("web 1/ü".into());
    let job = lab.master.state().queue_job(JobKind::Replicate, &subject, 5).unwrap();
    let trust = lab.master.trust().unwrap();
    let name = PeerName::new("web").unwrap();
    let key = Fingerprint::from_bytes([1; 32]);
    trust.add(&NewPeer { name, fingerprint: key, role: Role::Source, expires: None }, 5).unwrap();
    lab.master.state().begin_mark("shop", [1; 16], 5).unwrap();
    lab.master.state().pair_is_complete([1; 16], "web 1/ü", [2; 32]).unwrap();
    assert_eq!(lab.refused("DELETE", "/v1/groups/shop?force=perhaps", &Value::Null).0, 400);
    let (status, why) = lab.refused("DELETE", "/v1/groups/shop", &Value::Null);
    assert!(status == 409 && why.contains("not applied as a whole"), "{why}");
    let found = BTreeMap::from([
        ("Mark", lab.get("/v1/groups/shop")["marks"][0].clone()),
        ("MarkedPair", lab.get("/v1/groups/shop")["marks"][0]["pairs"][0].clone()),
        ("Status", lab.get("/v1/status")),
        ("Pair", lab.get("/v1/pairs/web%201%2F%C3%BC")),
        ("Pairs", lab.get("/v1/pairs")),
        ("Group", lab.get("/v1/groups/shop")),
        ("Groups", lab.get("/v1/groups")),
        ("Job", lab.get(&format!("/v1/jobs/{job}"))),
        ("Jobs", lab.get("/v1/jobs?pair=web%201%2F%C3%BC&state=queued,running&limit=5")),
        ("Peers", lab.get("/v1/peers")),
        ("Peer", lab.get("/v1/peers")["peers"][0].clone()),
    ]);
    for (name, value) in &found {
        let (told, known) = (names(value), documented(name));
        assert!(told.is_subset(&known), "{name}: {:?}", told.difference(&known));
        assert!(required(name).is_subset(&told), "{name}: {:?}", required(name).difference(&told));
    }
    let pair: Pair = serde_json::from_value(found["Pair"].clone()).unwrap();
    assert_eq!((pair.group.as_deref(), pair.new_disk), (Some("shop"), true));
    assert!(pair.target_uuid.is_some() && pair.target_path.is_some(), "the VMDK has a UUID");
    let jobs: Jobs = serde_json::from_value(found["Jobs"].clone()).unwrap();
    assert_eq!(jobs.jobs.len(), 1);
    let status: Status = serde_json::from_value(found["Status"].clone()).unwrap();
    assert_eq!((status.pairs, status.fingerprint.is_some()), (1, true));
    let pairs: Pairs = serde_json::from_value(found["Pairs"].clone()).unwrap();
    assert_eq!(pairs.pairs, [pair]);
    // What was revoked is told as that, and is known no longer as a friend.
    let revoked = lab.ask("DELETE", &format!("/v1/peers/{key}"), &Value::Null);
    assert_eq!(revoked.status, 200);
    assert!(lab.get("/v1/peers")["peers"][0]["revoked"].is_i64());
    let cancelled = lab.ask("POST", &format!("/v1/jobs/{job}/cancel"), &Value::Null);
    let cancelled: Value = serde_json::from_slice(&cancelled.body).unwrap();
    assert_eq!(cancelled["state"], "cancelled");
}

#[test]
fn only_administrators_get_answers() {
    let lab = Lab::new();
    for role in [Role::Source, Role::Relay, Role::Target] {
        for (method, path, _) in ROUTES {
            let answer = lab.master.answer(&Request { method, path, query: "", body: b"", local: false }, role);
            assert_eq!(answer.status, 403, "{role:?} {method} {path}");
        }
    }
    // Not even an administrator makes this machine write a file from afar.
    let (request, admin) = (json!({ "path": lab.directory.path().join("copy") }).to_string(), Role::Admin);
    let request =
        Request { method: "POST", path: "/v1/state/backup", query: "", body: request.as_bytes(), local: false };
    assert_eq!(lab.master.answer(&request, admin).status, 403);
    assert!(!lab.directory.path().join("copy").exists());
    assert_eq!(lab.master.answer(&Request { local: true, ..request }, admin).status, 200);
    assert!(lab.directory.path().join("copy").exists());
}

#[test]
fn what_makes_no_sense_is_refused_in_a_sentence() {
    let lab = Lab::new();
    let refused = |method: &str, path: &str, body: Value| lab.refused(method, path, &body);
    assert_eq!(refused("GET", "/v1/pairs/none", Value::Null).0, 404);
    assert_eq!(refused("GET", "/v1/jobs/7", Value::Null).0, 404);
    assert_eq!(refused("GET", "/v1/jobs/seven", Value::Null).0, 400);
    assert_eq!(refused("GET", "/v1/jobs?state=flying", Value::Null).0, 400);
    assert_eq!(refused("GET", "/v1/jobs?limit=-1", Value::Null).0, 400);
    assert_eq!(refused("GET", "/v1/jobs?pair=a&group=b", Value::Null).0, 400);
    assert_eq!(refused("GET", "/v1/pairs/%ff", Value::Null).0, 400);
    assert_eq!(refused("GET", "/v1/pairs/a/b", Value::Null).0, 404);
    assert_eq!(refused("PUT", "/v1/pairs", Value::Null).0, 405);
    assert_eq!(refused("GET", "/", Value::Null).0, 404);
    assert_eq!(refused("POST", "/v1/pairs", json!({ "name": "a" })).0, 400);
    assert_eq!(refused("DELETE", "/v1/peers/me", Value::Null).0, 400);
    let pair = |change: fn(&mut NewPair)| {
        let mut pair = lab.new_pair("a");
        change(&mut pair);
        refused("POST", "/v1/pairs", serde_json::to_value(pair).unwrap())
    };
    assert_eq!(pair(|pair| pair.peer = Some("nobody".into())).0, 400);
    assert_eq!(pair(|pair| pair.signer = Some("aa".into())).0, 400);
    assert_eq!(pair(|pair| pair.direction = Some("up".into())).0, 400);
    assert_eq!(pair(|pair| pair.name = "\n".into()).0, 409);
    let (status, said) = pair(|pair| pair.target = "/dev/null".into());
    assert!(status >= 400 && said.contains("/dev/null"), "{status} {said}");
    let long = json!({ "name": "x".repeat(BODY_MAX) });
    assert_eq!(refused("POST", "/v1/pairs", long).0, 413);
    assert_eq!(lab.get("/v1/pairs"), json!({ "pairs": [] }), "nothing was added");
}

#[test]
fn numbers_are_as_prometheus_wants_them() {
    let lab = Lab::new();
    lab.ask("POST", "/v1/pairs", &serde_json::to_value(lab.new_pair("a\"b")).unwrap());
    let subject = Subject::Pair("a\"b".into());
    let job = {
        let mut state = lab.master.state();
        let job = state.queue_job(JobKind::Replicate, &subject, 5).unwrap();
        state.start_job(job, 6).unwrap();
        state.job_done(job, 7).unwrap();
        job
    };
    assert_eq!(job.get(), 1);
    let answer = lab.ask("GET", "/metrics", &Value::Null);
    assert_eq!((answer.status, answer.content_type), (200, "text/plain; version=0.0.4"));
    let text = String::from_utf8(answer.body).unwrap();
    let mut known = BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE ")) {
            known.insert(rest.split(' ').next().unwrap().to_owned());
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
        let name = name.split('{').next().unwrap();
        assert!(known.contains(name), "{line} has no help");
    }
    assert!(text.contains("failback_pair_last_success_timestamp_seconds{pair=\"a\\\"b\"} 7\n"), "{text}");
    assert!(text.contains("failback_jobs{state=\"done\"} 1\n"));
}
