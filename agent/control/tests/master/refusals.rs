//! What is refused, before anything is changed.

use crate::{Lab, Near, noise, send, send_by_name};
use failback_control::Caller;
use failback_control::state::{Direction, JobQuery, NewPair};
use failback_credentials::{Fingerprint, Role};
use failback_orchestrate::PointKind;
use std::fs;

fn refusal(near: &Near, lab: &Lab) -> String {
    let before = lab.target();
    let refused = send(near, &lab.path("source.img"), PointKind::Crash).unwrap_err().to_string();
    assert!(lab.target() == before);
    refused
}

#[test]
fn only_whom_a_pair_is_for_may_send_and_only_its_own_disk() {
    let lab = Lab::new();
    let master = lab.master();
    let key = |number| Fingerprint::from_bytes([number; 32]);
    let known = |number, role| Caller::Peer { key: key(number), name: "web".into(), role };
    let peer = |number| known(number, Role::Source);
    let mut near = Near::new(&master);
    near.caller = peer(1);
    assert!(refusal(&near, &lab).contains("no pair of that name for this source"), "a pair for this machine alone");
    master.state().remove_pair("pair").unwrap();
    near.caller = Caller::Local;
    assert!(refusal(&near, &lab).contains("no pair of that name for this source"), "no pair");
    master.state().add_pair(&NewPair { peer: Some(key(1)), ..lab.pair() }, 0).unwrap();
    near.caller = peer(2);
    assert!(refusal(&near, &lab).contains("no pair of that name for this source"), "another's pair");
    near.caller = peer(1);
    for role in [Role::Admin, Role::Target] {
        near.caller = known(1, role);
        assert!(refusal(&near, &lab).contains("only sources and relays send"), "{role:?}");
    }
    near.caller = known(3, Role::Relay);
    assert!(refusal(&near, &lab).contains("only what the source has signed"), "a relay could make up content");
    near.caller = peer(1);
    let other = send_by_name(&near, &lab.path("source.img"), PointKind::Crash, "/dev/other").unwrap_err().to_string();
    assert!(other.contains("the source of the pair \"pair\" is") && other.contains("this is /dev/other"), "{other}");
    assert!(!lab.path("retention/replication").exists(), "nothing was kept for any of them");
    assert!(master.state().jobs(&JobQuery::default()).unwrap().is_empty(), "and no job was begun");
    master.state().set_direction("pair", Direction::Send).unwrap();
    assert!(refusal(&near, &lab).contains("the other way"));
    master.state().set_direction("pair", Direction::Receive).unwrap();
    lab.write_source(0, &noise(2, 5000));
    send(&near, &lab.path("source.img"), PointKind::Crash).unwrap();
    assert!(lab.target() == lab.source());
}

#[test]
fn another_disk_in_the_place_of_the_target_is_not_written() {
    let lab = Lab::new();
    let near = Near::new(&lab.master());
    let text = fs::read(lab.path("target.vmdk")).unwrap();
    fs::rename(lab.path("target.vmdk"), lab.path("away.vmdk")).unwrap();
    assert!(refusal(&near, &lab).contains("target.vmdk"), "it is gone");
    fs::write(lab.path("target.vmdk"), text).unwrap();
    assert!(refusal(&near, &lab).contains("is another disk than the one that this pair was made for"));
    fs::rename(lab.path("away.vmdk"), lab.path("target.vmdk")).unwrap();
    send(&near, &lab.path("source.img"), PointKind::Crash).unwrap();
}

#[test]
fn a_source_that_is_larger_is_refused_before_it_sends() {
    let lab = Lab::new();
    let near = Near::new(&lab.master());
    lab.write_source(crate::SIZE as u64, &noise(9, 4096));
    let refused = refusal(&near, &lab);
    assert!(refused.contains("enlarge the target disk"), "{refused}");
}

#[test]
fn a_pair_that_asks_for_a_signature_gets_one_or_nothing() {
    let lab = Lab::new();
    let master = lab.master();
    master.state().remove_pair("pair").unwrap();
    // The point of RFC 8032, section 7.1, test 1.
    let key = [
        0xd7, 0x5a, 0x98, 0x01, 0x82, 0xb1, 0x0a, 0xb7, 0xd5, 0x4b, 0xfe, 0xd3, 0xc9, 0x64, 0x07, 0x3a, 0x0e, 0xe1,
        0x72, 0xf3, 0xda, 0xa6, 0x23, 0x25, 0xaf, 0x02, 0x1a, 0x68, 0xf7, 0x07, 0x51, 0x1a,
    ];
    master.state().add_pair(&NewPair { signer: Some(key), ..lab.pair() }, 0).unwrap();
    let near = Near::new(&master);
    lab.write_source(0, &noise(2, 5000));
    assert!(refusal(&near, &lab).contains("not signed"));
    assert_eq!(lab.points().len(), 1, "no point was made");
}
