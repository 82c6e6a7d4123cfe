//! Which disks belong together, and who may send.

use crate::{Lab, NOW, file, names, pair, peer, sentence, uuid, vmdk};
use failback_control::state::{
    Direction, JobKind, Lookup, MAX_PAIRS, NewPair, SourceDisk, Subject, TargetDisk, Unbound, VmdkId,
};
use failback_credentials::Fingerprint;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

#[test]
fn what_was_added_is_there_after_a_restart() {
    let lab = Lab::new();
    let odd = PathBuf::from(std::ffi::OsString::from_vec(b"/mnt/\xff odd.vmdk".to_vec()));
    let all = [
        NewPair { signer: Some([9; 32]), ..pair(1) },
        NewPair { source: SourceDisk::Scsi(uuid(20)), ..pair(2) },
        NewPair {
            target: vmdk("/mnt/a.vmdk", VmdkId::Uuid(uuid(3))),
            direction: Direction::Send,
            peer: None,
            ..pair(3)
        },
        NewPair { target: TargetDisk::Vmdk { path: odd, id: file(u64::MAX) }, new_disk: true, ..pair(4) },
    ];
    let mut state = lab.open();
    for new in all.iter().rev() {
        state.add_pair(new, NOW).unwrap();
    }
    for again in 0..2 {
        if again == 1 {
            drop(state);
            state = lab.open();
        }
        let found = state.pairs().unwrap();
        assert!(found.iter().all(|pair| pair.created == NOW && pair.group.is_none()));
        assert_eq!(found.iter().map(|pair| pair.is.clone()).collect::<Vec<_>>(), all, "by name");
        assert_eq!(state.pair("pair 4").unwrap().is, all[3]);
    }
}

#[test]
fn a_disk_is_in_one_pair() {
    let lab = Lab::new();
    let mut state = lab.open();
    state.add_pair(&pair(1), NOW).unwrap();
    state.add_pair(&NewPair { source: SourceDisk::Scsi(uuid(20)), ..pair(2) }, NOW).unwrap();
    state.add_pair(&NewPair { target: vmdk("/mnt/a.vmdk", VmdkId::Uuid(uuid(3))), ..pair(3) }, NOW).unwrap();
    state.add_pair(&NewPair { target: vmdk("/mnt/b.vmdk", file(7)), ..pair(4) }, NOW).unwrap();
    let disk_1 = format!("the disk {}", uuid(1));
    let cases = [
        (
            NewPair { name: "pair 1".into(), ..pair(9) },
            "there is a pair \"pair 1\" already: give another name".to_owned(),
        ),
        (
            NewPair { target: TargetDisk::Scsi(uuid(1)), ..pair(9) },
            format!("{disk_1} belongs to the pair \"pair 1\": name"),
        ),
        (
            NewPair { source: SourceDisk::Scsi(uuid(1)), ..pair(9) },
            format!("{disk_1} belongs to the pair \"pair 1\": name"),
        ),
        (
            NewPair { target: TargetDisk::Scsi(uuid(20)), ..pair(9) },
            format!("the disk {} belongs to the pair \"pair 2\"", uuid(20)),
        ),
        (
            NewPair { source: SourceDisk::Scsi(uuid(20)), ..pair(9) },
            format!("the disk {} belongs to the pair \"pair 2\"", uuid(20)),
        ),
        (
            NewPair { source: pair(1).source, ..pair(9) },
            "the source disk \"/dev/disk 1\" of that peer belongs to the pair \"pair 1\"".to_owned(),
        ),
        (
            NewPair { target: vmdk("/mnt/b.vmdk", file(8)), ..pair(9) },
            "the VMDK /mnt/b.vmdk belongs to the pair \"pair 4\"".to_owned(),
        ),
        // The same VMDK, attached as a disk, or moved.
        (
            NewPair { target: TargetDisk::Scsi(uuid(3)), ..pair(9) },
            format!("the disk {} belongs to the pair \"pair 3\"", uuid(3)),
        ),
        (
            NewPair { target: vmdk("/mnt/c.vmdk", VmdkId::Uuid(uuid(3))), ..pair(9) },
            format!("the disk {} belongs to the pair \"pair 3\"", uuid(3)),
        ),
        (
            NewPair { source: SourceDisk::Scsi(uuid(9)), ..pair(9) },
            format!("the disk {} is given as the source and as the target", uuid(9)),
        ),
    ];
    for (new, says) in cases {
        let said = sentence(state.add_pair(&new, NOW), &lab);
        assert!(said.starts_with(&says), "{said}");
    }
    assert_eq!(names(&state).len(), 4, "nothing was added");
    // Another machine may call its disk the same.
    state.add_pair(&NewPair { source: pair(1).source, peer: Some(peer(2)), ..pair(9) }, NOW).unwrap();
}

#[test]
fn names_and_paths_that_are_none() {
    let lab = Lab::new();
    let mut state = lab.open();
    for name in ["", " a", "a ", "a\nb", "\u{1b}[2J", "a\u{85}", "\u{e4}".repeat(33).as_str(), "a".repeat(65).as_str()]
    {
        let said = sentence(state.add_pair(&NewPair { name: name.into(), ..pair(1) }, NOW), &lab);
        assert!(said.contains("is no name: use 1 to 64 bytes"), "{said}");
        assert!(!said.contains(char::is_control), "{said:?}");
    }
    for name in ["", "a\tb", "a".repeat(256).as_str()] {
        let said = sentence(state.add_pair(&NewPair { source: SourceDisk::Named(name.into()), ..pair(1) }, NOW), &lab);
        assert!(said.contains("is no name of a source disk: use 1 to 255 bytes"), "{said}");
    }
    let long = format!("/{}", "a".repeat(4095));
    for path in ["", "a", "./a", "/a/../b", "/a\nb", long.as_str()] {
        let targets = NewPair { target: vmdk(path, file(1)), ..pair(1) };
        for new in [targets, NewPair { retention: path.into(), ..pair(1) }] {
            let said = sentence(state.add_pair(&new, NOW), &lab);
            assert!(said.contains("give one that begins with /") && said.len() < 500, "{said}");
            assert!(!said.contains(char::is_control), "{said:?}");
        }
    }
    assert!(names(&state).is_empty());
    // The longest of all.
    let longest = NewPair {
        name: "\u{e4}".repeat(32),
        source: SourceDisk::Named("a".repeat(255)),
        target: vmdk(&long[..4095], VmdkId::Uuid(uuid(1))),
        retention: long[..4095].into(),
        ..pair(1)
    };
    state.add_pair(&longest, NOW).unwrap();
    assert_eq!(state.pair(&longest.name).unwrap().is, longest);
}

#[test]
fn what_is_removed_is_free_again() {
    let lab = Lab::new();
    let mut state = lab.open();
    state.add_pair(&pair(1), NOW).unwrap();
    let job = state.queue_job(JobKind::Replicate, &Subject::Pair("pair 1".into()), NOW).unwrap();
    let said = sentence(state.remove_pair("pair 1"), &lab);
    assert_eq!(said, "the job 1 of \"pair 1\" is not over: wait for it, or cancel it");
    let said = sentence(state.set_direction("pair 1", Direction::Send), &lab);
    assert!(said.starts_with("the job 1 of \"pair 1\" is not over"), "{said}");
    state.job_cancelled(job, NOW).unwrap();
    state.remove_pair("pair 1").unwrap();
    assert!(names(&state).is_empty());
    assert_eq!(state.job(job).unwrap().subject, Subject::Pair("pair 1".into()), "the history stays");
    state.add_pair(&pair(1), NOW).unwrap();
    for said in [sentence(state.remove_pair("none"), &lab), sentence(state.pair("none"), &lab)] {
        assert_eq!(said, "there is no pair \"none\": `failback pair list` shows which there are");
    }
}

#[test]
fn a_peer_gets_its_own_and_learns_of_no_other() {
    let lab = Lab::new();
    let mut state = lab.open();
    state.add_pair(&pair(1), NOW).unwrap();
    assert!(matches!(state.pair_for(Some(&peer(1)), "pair 1").unwrap(), Lookup::Bound(found) if found.is == pair(1)));
    assert!(matches!(state.pair_for(None, "pair 1").unwrap(), Lookup::Bound(found) if found.is == pair(1)));
    state.add_pair(&NewPair { peer: None, ..pair(3) }, NOW).unwrap();
    let Lookup::Unbound(ours) = state.pair_for(Some(&peer(1)), "pair 3").unwrap() else { panic!() };
    assert_eq!((ours, ours.for_the_log().contains("this machine")), (Unbound::Another { peer: None }, true));
    let unbound = |peer: &Fingerprint, name| match state.pair_for(Some(peer), name).unwrap() {
        Lookup::Unbound(why) => why,
        Lookup::Bound(pair) => panic!("{pair:?}"),
    };
    let (unknown, another) = (unbound(&peer(2), "pair 2"), unbound(&peer(2), "pair 1"));
    assert_eq!((unknown, another), (Unbound::Unknown, Unbound::Another { peer: Some(peer(1)) }));
    assert_eq!(unknown.to_string(), another.to_string());
    assert_ne!(unknown.for_the_log(), another.for_the_log());
    assert!(another.for_the_log().ends_with(&peer(1).to_string()));
    state.set_direction("pair 1", Direction::Send).unwrap();
    let turned = |peer: &Fingerprint| match state.pair_for(Some(peer), "pair 1").unwrap() {
        Lookup::Unbound(why) => why,
        Lookup::Bound(pair) => panic!("{pair:?}"),
    };
    assert_eq!(turned(&peer(1)), Unbound::OtherWay);
    assert!(matches!(state.pair_for(None, "pair 1").unwrap(), Lookup::Unbound(Unbound::OtherWay)));
    assert_eq!(turned(&peer(2)), another, "what goes the other way is another's all the same");
    assert!(Unbound::OtherWay.to_string().contains("turn it round"));
    assert_eq!(Unbound::OtherWay.for_the_log(), "the pair is replicated the other way");
}

#[test]
fn there_and_back() {
    let lab = Lab::new();
    let mut state = lab.open();
    state.add_pair(&pair(1), NOW).unwrap();
    state.add_group(&crate::group("all", &[1]), NOW).unwrap();
    let job = state.queue_job(JobKind::Final, &Subject::Group("all".into()), NOW).unwrap();
    let said = sentence(state.set_direction("pair 1", Direction::Send), &lab);
    assert!(said.starts_with("the job 1 of \"all\" is not over"), "{said}");
    state.job_cancelled(job, NOW).unwrap();
    for direction in [Direction::Send, Direction::Send, Direction::Receive] {
        state.set_direction("pair 1", direction).unwrap();
        assert_eq!(state.pair("pair 1").unwrap().is.direction, direction);
    }
    assert!(sentence(state.set_direction("none", Direction::Send), &lab).starts_with("there is no pair \"none\""));
}

#[test]
fn there_are_so_many_at_most() {
    let lab = Lab::new();
    drop(lab.open());
    let mut file = crate::raw(&lab.path());
    let rows = file.transaction().unwrap();
    for number in 0..MAX_PAIRS {
        let mut target = [1; 16];
        target[..8].copy_from_slice(&(number as u64).to_be_bytes());
        let insert = "INSERT INTO pair VALUES (NULL, ?1, ?2, NULL, ?1, ?3, NULL, NULL, 'receive', CAST('/r' AS BLOB), 0, 0, NULL, NULL)";
        rows.execute(insert, rusqlite::params![format!("n{number}"), [1_u8; 32], target]).unwrap();
    }
    rows.commit().unwrap();
    drop(file);
    let mut state = lab.open();
    let said = sentence(state.add_pair(&pair(1), NOW), &lab);
    assert_eq!(
        said,
        "there are 4096 pairs already, which is the most: remove those that are not needed, or add a master target"
    );
    state.remove_pair("n0").unwrap();
    state.add_pair(&pair(1), NOW).unwrap();
}
