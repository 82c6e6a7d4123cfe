//! The first phase: options, and how it ends.

use super::client::{ACK, Client, INVALID, UNKNOWN, UNSUP, contexts, disk, info, string, talk, well};
use failback_nbd::{Breach, Export, Overlay, SessionError};
use std::path::Path;

const SIZE: u64 = (10 << 20) + 77;

/// What an export says of itself, as GO does.
fn export_info(flags: u16) -> Vec<u8> {
    [&[0, 0][..], &SIZE.to_be_bytes(), &flags.to_be_bytes()].concat()
}

fn served<R>(say: impl FnOnce(&mut Client) -> R) -> (R, Result<(), SessionError>) {
    let disk = disk(SIZE, &[(0, 512)]);
    talk(&Export::read_only("state", &disk).unwrap(), say)
}

fn breach(ended: Result<(), SessionError>) -> Breach {
    match ended {
        Err(SessionError::Breach(breach)) => breach,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_old_way_in() {
    for (flags, zeroes) in [(0, 124), (1, 124), (2, 0), (3, 0)] {
        for name in [&b"state"[..], b""] {
            let ((), ended) = served(|client| {
                client.greet(flags);
                client.say_option(1, name);
                // Read-only, flush, FUA, many connections, cache; no DF, since nothing was agreed on.
                assert_eq!(client.receive(10), [&SIZE.to_be_bytes()[..], &[0x05, 0x0f]].concat());
                assert_eq!(client.receive(zeroes), vec![0; zeroes]);
                assert_eq!(client.read_simply(0, 1).unwrap().len(), 1);
                client.leave();
            });
            ended.unwrap();
        }
    }
}

#[test]
fn the_new_way_in() {
    let ((), ended) = served(|client| {
        client.greet(3);
        // Looking does not enter.
        assert_eq!(client.option(6, &info(b"", &[])), [(3, export_info(0x050f)), (ACK, vec![])]);
        assert_eq!(client.option(8, &[]), [(ACK, vec![])]);
        let replies = client.option(7, &info(b"state", &[1, 3, 2, 99]));
        let name = (3, [&[0, 1], &b"state"[..]].concat());
        // At least 1 byte, best 4 KiB, at most 32 MiB.
        let sizes = (3, vec![0, 3, 0, 0, 0, 1, 0, 0, 0x10, 0, 2, 0, 0, 0]);
        assert_eq!(replies, [(3, export_info(0x058f)), name, sizes, (ACK, vec![])]);
        client.leave();
    });
    ended.unwrap();
}

#[test]
fn an_overlay_can_be_written() {
    let overlay = Overlay::new(disk(SIZE, &[]), Path::new("/dev/shm")).unwrap();
    well(&Export::throw_away("", &overlay).unwrap(), |client| {
        client.greet(3);
        assert_eq!(client.option(6, &info(b"", &[])), [(3, export_info(0x046d)), (ACK, vec![])]);
        assert_eq!(client.option(2, &[]), [(ACK, vec![])]);
    });
}

#[test]
fn who_asks_for_another_export() {
    let ((), ended) = served(|client| {
        client.greet(3);
        for option in [6, 7] {
            let replies = client.option(option, &info(b"stat", &[]));
            assert_eq!((replies.len(), replies[0].0), (1, UNKNOWN));
        }
        client.option(8, &[]);
        for option in [9, 10] {
            assert_eq!(client.option(option, &contexts(b"other", &[]))[0].0, UNKNOWN);
        }
        client.say_option(1, b"State");
        assert!(client.is_closed());
    });
    assert_eq!(breach(ended), Breach::UnknownExport);
}

#[test]
fn the_list_has_one_name() {
    served(|client| {
        client.greet(3);
        assert_eq!(client.option(3, &[]), [(2, string(b"state")), (ACK, vec![])]);
        assert_eq!(client.option(3, b"x")[0].0, INVALID);
    })
    .1
    .unwrap();
}

#[test]
fn what_is_unknown_ends_nothing() {
    served(|client| {
        client.greet(3);
        // Among them TLS, the withdrawn PEEK_EXPORT, and extended headers.
        for option in [0, 4, 5, 11, 12, 1000, u32::MAX] {
            for data in [&[][..], &[7; 5000]] {
                assert_eq!(client.option(option, data)[0].0, UNSUP);
            }
        }
        assert_eq!(client.option(8, &[1])[0].0, INVALID);
        for data in [&[][..], &[0; 5], &[0, 0, 0, 9, 1], &info(b"state", &[])[..10], &[0xff; 100]] {
            assert_eq!(client.option(6, data)[0].0, INVALID);
            assert_eq!(client.option(7, data)[0].0, INVALID);
            assert_eq!(client.option(9, data)[0].0, INVALID);
        }
        assert_eq!(client.option(7, &info(b"state", &[])).last(), Some(&(ACK, vec![])));
        client.leave();
    })
    .1
    .unwrap();
}

#[test]
fn contexts_are_listed_and_set() {
    const NAME: &[u8] = b"base:allocation";
    let context = |id: u8| (4, [&[0, 0, 0, id], NAME].concat());
    let nothing = vec![(ACK, vec![])];
    served(|client| {
        client.greet(3);
        assert_eq!(client.option(10, &contexts(b"", &[NAME]))[0].0, INVALID, "structured replies come first");
        assert_eq!(client.option(9, &contexts(b"", &[])), [context(0), (ACK, vec![])]);
        client.option(8, &[]);
        assert_eq!(client.option(9, &contexts(b"state", &[b"base:"])), [context(0), (ACK, vec![])]);
        assert_eq!(client.option(9, &contexts(b"", &[b"qemu:"])), nothing);
        assert_eq!(client.option(10, &contexts(b"", &[])), nothing);
        assert_eq!(client.option(10, &contexts(b"", &[b"base:"])), nothing);
        assert_eq!(client.option(10, &contexts(b"", &[b"qemu:x", NAME, NAME])), [context(1), (ACK, vec![])]);
        client.option(7, &info(b"state", &[]));
        assert_eq!(client.status(0, 0, 10), [(10, 0)]);
        client.leave();
    })
    .1
    .unwrap();
}

#[test]
fn a_later_choice_of_contexts_counts() {
    for later in [contexts(b"", &[]), contexts(b"other", &[b"base:allocation"]), vec![0]] {
        served(|client| {
            client.greet(3);
            client.option(8, &[]);
            client.option(10, &contexts(b"", &[b"base:allocation"]));
            client.option(10, &later);
            client.option(7, &info(b"", &[]));
            assert_eq!(client.ask(0, super::client::BLOCK_STATUS, 0, 512), super::client::EINVAL);
            client.leave();
        })
        .1
        .unwrap();
    }
}

#[test]
fn a_client_may_leave_at_any_border() {
    served(|_| ()).1.unwrap();
    served(|client| client.greet(3)).1.unwrap();
    served(|client| {
        client.greet(3);
        client.option(3, &[]);
    })
    .1
    .unwrap();
    served(|client| {
        client.greet(3);
        assert_eq!(client.option(2, b"data that is ignored"), [(ACK, vec![])]);
        assert!(client.is_closed());
    })
    .1
    .unwrap();
    // Without waiting for the reply.
    served(|client| {
        client.greet(3);
        client.say_option(2, &[]);
    })
    .1
    .unwrap();
}

#[test]
fn a_client_that_goes_in_the_middle_is_gone() {
    let ((), ended) = served(|client| {
        client.greet(3);
        client.send(b"IHAVEO");
    });
    assert!(matches!(ended, Err(SessionError::Gone)), "{ended:?}");
    let ((), ended) = served(|client| {
        client.greet(3);
        client.send(&[b"IHAVEOPT", &7_u32.to_be_bytes()[..], &100_u32.to_be_bytes(), b"half"].concat());
    });
    assert!(matches!(ended, Err(SessionError::Gone)), "{ended:?}");
}

#[test]
fn breaches_end_the_connection() {
    let ((), ended) = served(|client| {
        client.greet(4);
        assert!(client.is_closed());
    });
    assert_eq!(breach(ended), Breach::UnknownFlags(4));
    let ((), ended) = served(|client| {
        client.greet(3);
        client.send(b"GET / HTTP/1.1\r\n\r\n");
        assert!(client.is_closed());
    });
    assert_eq!(breach(ended), Breach::NotAnOption(u64::from_be_bytes(*b"GET / HT")));
    let ((), ended) = served(|client| {
        client.greet(3);
        client.send(&[b"IHAVEOPT", &9_u32.to_be_bytes()[..], &u32::MAX.to_be_bytes()].concat());
        assert!(client.is_closed());
    });
    assert_eq!(breach(ended), Breach::OptionTooLong { option: 9, length: u32::MAX });
}

#[test]
fn names_of_exports() {
    let disk = disk(512, &[]);
    for name in ["", "a disk", "Üben", &"x".repeat(4096)] {
        well(&Export::read_only(name, &disk).unwrap(), |client| {
            client.greet(3);
            assert_eq!(client.option(3, &[]), [(2, string(name.as_bytes())), (ACK, vec![])]);
            let replies = client.option(6, &info(name.as_bytes(), &[1]));
            assert_eq!(replies[1], (3, [&[0, 1], name.as_bytes()].concat()));
        });
    }
    for name in ["a\0b", &"x".repeat(4097)] {
        let error = Export::read_only(name, &disk).unwrap_err();
        assert!(error.to_string().contains("choose another"), "{error}");
    }
}
