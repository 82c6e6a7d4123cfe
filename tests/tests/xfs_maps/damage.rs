//! Damaged and hostile images: never a panic, and with checksums never a used byte that is called free.

use crate::fixtures::{V4, fill, made, prototype, write_synced};
use failback_tests::fuzz_xfs::{Changed, look, pieces};
use failback_tests::lab::{Dice, Place, lone, noise, tool};
use failback_tests::proof::{survives, with_live, with_mounted};
use failback_volumes::{FreeMap, State};
use std::fs;
use std::path::Path;
use std::time::Instant;

/// Small enough to be held and looked at thousands of times.
const SMALL: u64 = 32 << 20;
const OPTIONS: &[&str] = &["-d", "agcount=2", "-l", "size=6m"];
const SECTOR: usize = 512;
const ROUNDS: usize = 1500;

/// A file system that was copied while it was in use.
fn dirty(place: &Place) -> Vec<u8> {
    let (image, crashed) = (made(place, "image", SMALL, OPTIONS), place.path("crashed"));
    with_live(&image, "xfs", "rw,logbsize=16k", |live| {
        fill(live.root(), 1);
        tool("sync", &["-f".as_ref(), live.root().as_os_str()]);
        for number in 0..60_u64 {
            write_synced(&live.root().join(format!("{number}")), &noise(20_000, number));
        }
        for number in 0..30 {
            fs::remove_file(live.root().join(format!("{}", number * 2))).unwrap();
        }
        tool("sync", &["-f".as_ref(), live.root().as_os_str()]);
        live.crash_copy(&crashed);
    });
    fs::read(crashed).unwrap()
}

/// Sectors that hold what a map comes from: headers, trees, and the log's records.
fn places(image: &[u8]) -> [Vec<usize>; 3] {
    let [mut headers, mut trees, mut log] = [const { Vec::new() }; 3];
    let mut left = 0;
    for (number, sector) in image.chunks_exact(SECTOR).enumerate() {
        let at = number * SECTOR;
        match &sector[..4] {
            b"XFSB" if at > 0 => {}
            b"XFSB" | b"XAGF" | b"XAFL" => headers.push(at),
            b"AB3B" | b"ABTB" if number.is_multiple_of(8) => trees.extend([at, at + SECTOR, at + 7 * SECTOR]),
            magic if u32::from_be_bytes(magic.try_into().unwrap()) == 0xFEED_BABE => left = 6,
            _ => {}
        }
        if left > 0 {
            left -= 1;
            log.push(at);
        }
    }
    [headers, trees, log]
}

/// Up to four flipped bits or overwritten words.
fn changes(image: &[u8], places: &[Vec<usize>; 3], dice: &mut Dice) -> Vec<(usize, u8)> {
    const WORDS: [u32; 7] = [0, 1, 2, 0x7fff_ffff, u32::MAX, 0x1000, 0xFEED_BABE];
    let mut changes = Vec::new();
    for _ in 0..=dice.below(3) {
        // Most of what matters stands in the first quarter of a sector.
        let reach = if dice.below(3) == 0 { SECTOR } else { SECTOR / 4 };
        let places = &places[dice.below(3)];
        let at = places[dice.below(places.len())] + dice.below(reach);
        if dice.below(3) > 0 {
            changes.push((at, image[at] ^ 1 << dice.below(8)));
        } else {
            let at = at / 4 * 4;
            let word = WORDS[dice.below(WORDS.len())].to_be_bytes();
            changes.extend((at..).zip(word));
        }
    }
    changes
}

fn is_within(map: &FreeMap, of: &FreeMap) -> bool {
    map.intersection(of) == *map
}

/// Looks at many damaged versions of an image; returns those whose log was found to end elsewhere.
#[track_caller]
fn damaged(image: &[u8], seed: u64, checked: bool) -> Vec<Vec<(usize, u8)>> {
    let whole = look(&Changed { base: image, changes: Vec::new(), end: image.len() }).unwrap();
    let truth = whole.map.unwrap();
    assert!(truth.bytes().get() > SMALL / 8 && whole.remarks.is_empty());
    let places = places(image);
    let (mut refused, mut smaller, mut same, mut elsewhere) = (0, 0, 0, Vec::new());
    for round in 0..ROUNDS {
        let mut dice = Dice::new(seed << 32 | (round as u64 + 1));
        let changes = changes(image, &places, &mut dice);
        let Some(found) = look(&Changed { base: image, changes: changes.clone(), end: image.len() }) else { continue };
        match found.map {
            Err(_) => refused += 1,
            Ok(_) if found.state != whole.state => elsewhere.push(changes),
            Ok(map) if map == truth => same += 1,
            Ok(map) => {
                assert!(!checked || is_within(&map, &truth), "{changes:?}");
                smaller += 1;
            }
        }
    }
    println!("{refused} refused, {smaller} smaller, {same} the same, {} with another end", elsewhere.len());
    assert!(refused > ROUNDS / 30 && smaller > ROUNDS / 30, "the damage does harm");
    elsewhere
}

#[test]
fn a_dirty_one() {
    let Some(_lone) = lone() else { return };
    let place = Place::new();
    let image = dirty(&place);
    let started = Instant::now();
    let elsewhere = damaged(&image, 1, true);
    println!("{:?}", started.elapsed());
    // A log that ends earlier is what the kernel sees too: it must come to the same files.
    let mut proven = 0;
    for changes in &elsewhere {
        let mut bytes = image.clone();
        for (at, byte) in changes {
            bytes[*at] = *byte;
        }
        let found = look(&Changed { base: &bytes, changes: Vec::new(), end: bytes.len() }).unwrap();
        if proven < 3 && matches!(found.state, State::Replayed { .. }) {
            let path = place.file("torn", &bytes);
            // Where even the kernel cannot recover a whole copy there is nothing to compare with.
            if recovers(&place, &path) {
                survives(&path, "xfs", &found.map.unwrap()).unwrap();
                proven += 1;
            }
        }
    }
    assert!(proven > 0, "a torn end was proven");
}

/// Whether the kernel recovers an image and its checker finds nothing.
fn recovers(place: &Place, image: &Path) -> bool {
    let copy = place.path("copy");
    fs::copy(image, &copy).unwrap();
    let mounted = std::panic::catch_unwind(|| with_mounted(&copy, "xfs", "rw", |_| ())).is_ok();
    mounted && failback_tests::lab::try_tool("xfs_repair", &["-n".as_ref(), copy.as_os_str()]).status.success()
}

#[test]
fn clean_ones() {
    let Some(_lone) = lone() else { return };
    let place = Place::new();
    let image = made(&place, "v5", SMALL, OPTIONS);
    with_mounted(&image, "xfs", "rw", |root| fill(root, 1));
    damaged(&fs::read(&image).unwrap(), 2, true);
    let prototype = prototype(&place, 2);
    let image = made(&place, "v4", SMALL, &[V4, OPTIONS, &["-p", prototype.to_str().unwrap()]].concat());
    damaged(&fs::read(&image).unwrap(), 3, false);
}

#[test]
fn cut_off() {
    let Some(_lone) = lone() else { return };
    let place = Place::new();
    let base = fs::read(made(&place, "image", SMALL, OPTIONS)).unwrap();
    for end in [0, 1, 511, 512, 1024, 4096, 1 << 20, 20 << 20, base.len() - 4096] {
        let found = look(&Changed { base: &base, changes: Vec::new(), end });
        assert!(found.is_none_or(|found| found.map.is_err()), "{end}");
    }
}

/// An image as the fuzzer's input: its first metadata, in pieces.
fn as_pieces(image: &[u8]) -> Vec<u8> {
    let [headers, trees, log] = places(image);
    let sectors = headers.into_iter().chain(trees).chain(log).map(|at| at / SECTOR);
    let mut out = Vec::new();
    for sector in sectors.take(200) {
        out.extend(u16::try_from(sector).unwrap().to_le_bytes());
        out.push(1);
        out.extend_from_slice(&image[sector * SECTOR..][..SECTOR]);
    }
    out
}

#[test]
fn resealed() {
    let Some(_lone) = lone() else { return };
    let place = Place::new();
    let empty = made(&place, "image", SMALL, OPTIONS);
    let old = made(&place, "old", SMALL, &[V4, OPTIONS].concat());
    for (seed, image) in [empty, old].iter().enumerate() {
        let bytes = as_pieces(&fs::read(image).unwrap());
        assert!(pieces(&bytes), "what is not changed is understood");
        let mut accepted = 0;
        for round in 0..400 {
            let mut dice = Dice::new((seed as u64 + 9) << 32 | (round + 1));
            let mut changed = bytes.clone();
            for _ in 0..=dice.below(3) {
                let at = dice.below(changed.len());
                changed[at] ^= 1 << dice.below(8);
            }
            accepted += u32::from(pieces(&changed));
        }
        println!("{accepted} of 400 with some free space");
    }
}
