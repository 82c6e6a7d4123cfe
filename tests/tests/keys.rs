//! Deltas that are signed with Ed25519, by keys that OpenSSL made.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_tests::failback;
use failback_tests::lab::{Place, Unchanged, root_of_file, tool};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A key pair: the private and the public key, in PEM form.
fn key_pair(place: &Place, name: &str, algorithm: &str) -> (PathBuf, PathBuf) {
    let (private, public) = (place.path(&format!("{name}.key")), place.path(&format!("{name}.pub")));
    let words = |words: &[&str], paths: [&Path; 2]| {
        let mut arguments: Vec<_> = words.iter().map(std::ffi::OsStr::new).collect();
        arguments.extend(["-out".as_ref(), paths[0].as_os_str()]);
        if paths[1] != paths[0] {
            arguments.extend(["-in".as_ref(), paths[1].as_os_str()]);
        }
        tool("openssl", &arguments);
    };
    words(&["genpkey", "-quiet", "-algorithm", algorithm], [&private, &private]);
    words(&["pkey", "-pubout"], [&public, &private]);
    (private, public)
}

struct Job {
    place: Place,
    target: PathBuf,
    result: PathBuf,
    signature: PathBuf,
}

impl Job {
    fn new() -> Self {
        let place = Place::new();
        let (target, result) = (place.noisy("target.img", 200_000, 1), place.noisy("result.img", 200_000, 2));
        let signature = place.signature("target.sig", &target, "4K");
        Self { place, target, result, signature }
    }

    fn delta_signed_with(&self, key: &Path) -> PathBuf {
        let delta = self.place.path("signed.delta");
        failback!("diff", "--base", self.signature, self.result, "-o", delta, "--signing-key", key).json();
        delta
    }
}

#[test]
fn a_delta_signed_by_the_trusted_key_is_applied() {
    let job = Job::new();
    let (private, public) = key_pair(&job.place, "a", "ed25519");
    let delta = job.delta_signed_with(&private);
    // The last 32 bytes of an Ed25519 public key in DER form are the key itself (RFC 8410).
    let der = job.place.path("a.der");
    let arguments = ["pkey".as_ref(), "-pubin".as_ref(), "-outform".as_ref(), "DER".as_ref(), "-in".as_ref()];
    tool("openssl", &[&arguments[..], &[public.as_os_str(), "-out".as_ref(), der.as_os_str()]].concat());
    let raw = fs::read(der).unwrap();
    let signed_by = failback!("inspect", delta).json()["signed_by"].as_str().unwrap().to_owned();
    let digits = |byte: usize| u8::from_str_radix(&signed_by[2 * byte..2 * byte + 2], 16).unwrap();
    assert_eq!((0..32).map(digits).collect::<Vec<_>>(), raw[raw.len() - 32..]);
    assert_eq!(failback!("plan", delta, job.target, "--trusted-key", public).json()["signed_by"], true);
    failback!("apply", delta, job.target, "--yes", "--trusted-key", public).json();
    assert_eq!(root_of_file(&job.target), root_of_file(&job.result));
}

#[test]
fn a_delta_signed_by_nobody_or_another_is_refused() {
    let job = Job::new();
    let (private, _) = key_pair(&job.place, "a", "ed25519");
    let (_, other) = key_pair(&job.place, "b", "ed25519");
    let untouched = Unchanged::since(&job.target);
    let delta = job.delta_signed_with(&private);
    let apply = failback!("apply", delta, job.target, "--yes", "--trusted-key", other);
    apply.refused("is signed by another key than the trusted one");
    let planned = failback!("plan", delta, job.target, "--trusted-key", other).json_of(3);
    assert!(planned["refusals"][0].as_str().unwrap().contains("another key"));
    let unsigned = job.place.delta("unsigned.delta", &job.target, &job.result, "4K");
    failback!("apply", unsigned, job.target, "--yes", "--trusted-key", other).refused("is not signed");
    untouched.check();
    // Nobody asked for a key: a signed delta is as good as another.
    failback!("apply", delta, job.target, "--yes").done();
}

#[test]
fn a_signature_cannot_be_checked_in_a_pipe() {
    let job = Job::new();
    let (private, public) = key_pair(&job.place, "a", "ed25519");
    let delta = fs::read(job.delta_signed_with(&private)).unwrap();
    let untouched = Unchanged::since(&job.target);
    let apply = failback!("apply", "-", job.target, "--yes", "--trusted-key", public).fed(delta);
    apply.refused("store it in a file first");
    untouched.check();
}

#[test]
fn a_signature_is_bound_to_its_delta() {
    let job = Job::new();
    let (private, public) = key_pair(&job.place, "a", "ed25519");
    let delta = job.delta_signed_with(&private);
    let mut bytes = fs::read(&delta).unwrap();
    // Into the 64 bytes of the signature, which lie before the trailer's last hash and the values behind it.
    let trailer = bytes.windows(4).rposition(|window| window == b"FBDE").unwrap();
    bytes[trailer + 130] ^= 1;
    let forged = job.place.file("forged.delta", &bytes);
    let untouched = Unchanged::since(&job.target);
    failback!("apply", forged, job.target, "--yes", "--trusted-key", public).fails(6, "is damaged");
    untouched.check();
}

#[test]
fn what_is_no_ed25519_key_is_refused() {
    let job = Job::new();
    let (private, public) = key_pair(&job.place, "a", "ed25519");
    let (x25519, x25519_public) = key_pair(&job.place, "x", "x25519");
    let delta = job.delta_signed_with(&private);
    let output = job.place.path("out.delta");
    for file in [&public, &x25519, &job.target, &job.signature] {
        // Their owner's alone, so that what is in them is looked at.
        let wrong = job.place.file("wrong.pem", &fs::read(file).unwrap());
        fs::set_permissions(&wrong, fs::Permissions::from_mode(0o600)).unwrap();
        let run = failback!("diff", "--base", job.signature, job.result, "-o", output, "--signing-key", wrong).run();
        assert!([3, 5].contains(&run.code), "{} {}", run.code, run.sentence());
        assert!(!output.exists() && !run.sentence().contains("chmod"), "{}", run.sentence());
        fs::set_permissions(&wrong, fs::Permissions::from_mode(0o644)).unwrap();
        failback!("diff", "--base", job.signature, job.result, "-o", output, "--signing-key", wrong)
            .refused("chmod 600");
    }
    let untouched = Unchanged::since(&job.target);
    for wrong in [&private, &x25519_public, &job.target] {
        let run = failback!("apply", delta, job.target, "--yes", "--trusted-key", wrong).run();
        assert!([3, 5].contains(&run.code), "{} {}", run.code, run.sentence());
    }
    let missing = job.place.path("missing.pub");
    failback!("apply", delta, job.target, "--yes", "--trusted-key", missing).fails(5, "No such file");
    untouched.check();
}
