//! The document of the protocol and the code say the same.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_replication::wire::{
    RawAccept, RawEnd, RawHead, RawMeet, RawOffer, RawPreface, RawProgress, RawQuestion, RawRelease, RawRun,
    SENTENCE_MAX, kind,
};
use std::mem::offset_of;

const DOCUMENT: &str = include_str!("../PROTOCOL.md");

/// The cells of the tables' rows, and where a table ends an empty row.
fn rows() -> Vec<Vec<String>> {
    let cells = |line: &str| match line.strip_prefix('|') {
        Some(line) => line.split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect(),
        None => Vec::new(),
    };
    DOCUMENT.lines().map(cells).collect()
}

#[test]
fn fields_stand_where_the_document_says() {
    let fields = rows().into_iter().filter_map(|cells| {
        let [offset, size, _, field, ..] = cells.as_slice() else { return None };
        Some((offset.parse::<usize>().ok()?, size.parse::<usize>().ok()?, field.clone()))
    });
    let mut code = Vec::new();
    macro_rules! fields {
        ($type:ident: $($field:ident),+) => {
            let places = [$((offset_of!($type, $field), stringify!($field))),+, (size_of::<$type>(), "")];
            for pair in places.windows(2) {
                code.push((pair[0].0, pair[1].0 - pair[0].0, pair[0].1.to_owned()));
            }
        };
    }
    fields!(RawPreface: magic, oldest, newest, role, reserved, program);
    fields!(RawHead: len, kind, reserved);
    fields!(RawOffer: size, pair_len, coverage, kind, source_len, scsi_uuid, delta, until, mark);
    fields!(RawAccept: size, block_shift, coverage, relayed, reserved, root, map, durable);
    fields!(RawQuestion: id, count);
    fields!(RawRun: first, count, level, reserved);
    code.push((0, 8, "at".to_owned()));
    fields!(RawEnd: len, root);
    fields!(RawProgress: compared, total);
    fields!(RawMeet: group_len, pair_len, source_len, reserved, scsi_uuid);
    fields!(RawRelease: mark, time);
    assert_eq!(fields.collect::<Vec<_>>(), code);
}

#[test]
fn kinds_have_the_numbers_and_limits_of_the_document() {
    use failback_replication::wire::{DATA_MAX, GROUP_MAX, MAP_MAX, MESSAGE_MAX, PAIR_MAX, RUNS_MAX, SOURCE_MAX};
    let kinds: Vec<_> = rows()
        .into_iter()
        .filter_map(|cells| {
            let [number, name, _, most, ..] = cells.as_slice() else { return None };
            name.chars().all(|letter| letter.is_ascii_uppercase() || letter == '_').then_some(())?;
            Some((number.parse::<u8>().ok()?, name.clone(), most.parse::<usize>().ok()?))
        })
        .collect();
    let code = [
        (kind::OFFER, "OFFER", size_of::<RawOffer>() + PAIR_MAX + SOURCE_MAX),
        (kind::ASK_MAP, "ASK_MAP", 0),
        (kind::ASK_VALUES, "ASK_VALUES", size_of::<RawQuestion>() + size_of::<RawRun>() * RUNS_MAX as usize),
        (kind::DATA, "DATA", 8 + DATA_MAX),
        (kind::END, "END", size_of::<RawEnd>()),
        (kind::PROGRESS, "PROGRESS", size_of::<RawProgress>()),
        (kind::MEET, "MEET", size_of::<RawMeet>() + GROUP_MAX + PAIR_MAX + SOURCE_MAX),
        (kind::QUIESCED, "QUIESCED", 0),
        (kind::MARKED, "MARKED", 0),
        (kind::ACCEPT, "ACCEPT", size_of::<RawAccept>()),
        (kind::MAP, "MAP", 1 + MAP_MAX),
        (kind::VALUES, "VALUES", MESSAGE_MAX),
        (kind::DURABLE, "DURABLE", 8),
        (kind::DONE, "DONE", 32),
        (kind::STORED, "STORED", 32),
        (kind::QUIESCE, "QUIESCE", 0),
        (kind::MARK, "MARK", 0),
        (kind::RELEASE, "RELEASE", size_of::<RawRelease>()),
        (kind::WAITS, "WAITS", SENTENCE_MAX),
        (kind::ALIVE, "ALIVE", 0),
        (kind::REFUSE, "REFUSE", SENTENCE_MAX),
    ];
    let code: Vec<_> = code.into_iter().map(|(number, name, most)| (number, name.to_owned(), most)).collect();
    assert_eq!(kinds, code);
}
