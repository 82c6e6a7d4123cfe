//! What an honest other side says: where a search begins.

use super::{source, target};
use std::time::Duration;

/// An input that comes to its end.
#[derive(Debug)]
pub struct Seed {
    /// The fuzzer's target.
    pub target: &'static str,
    /// Its name.
    pub name: String,
    /// The input.
    pub bytes: Vec<u8>,
}

/// Steps of a source: all at once; questions and a piece of the delta, and the rest over another connection; the same of a delta that
/// has free space.
const OF_SOURCE: [&[u8]; 3] = [
    &[19],
    &[1, 3, 5, 1, 64, 4, 1, 64, 0, 64, 16, 0, 5, 1, 10, 65, 9, 65, 20, 11, 6, 10, 18, 0, 19],
    &[16, 1, 1, 6, 40, 18, 0, 19],
];
/// Steps of a target, behind what kind of source it is: all at once; over two connections, the second from the beginning or from where the
/// first had come; as a relay; a refusal, and another pass that goes on.
const OF_TARGET: [&[u8]; 5] = [
    &[0, 0, 0],
    &[0, 0, 1, 0, 0, 2, 2, 13, 18, 0, 0],
    &[3, 0, 1, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2, 8, 0, 6, 18, 0, 1, 0, 1, 0],
    &[7, 0, 1, 4, 0, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 9, 11],
    &[8, 0, 1, 0, 0, 2, 2, 2, 2, 2, 2, 9, 6, 14, 3, b'n', b'o', b'.', 0, 1, 0, 1, 0],
];

/// Inputs of all targets of which the pass is done.
///
/// # Panics
///
/// When an honest side does not come to an end.
#[must_use]
pub fn seeds() -> Vec<Seed> {
    const PATIENCE: Duration = Duration::from_secs(60);
    let steps = |all: &[&[u8]]| -> Vec<_> { all.iter().map(|steps| steps.to_vec()).collect() };
    let said: Vec<_> = OF_TARGET.iter().map(|steps| source::said_in_steps(steps, PATIENCE)).collect();
    for (number, said) in said.iter().enumerate() {
        assert!(source::says(said, PATIENCE), "what target {number} said is said again");
    }
    let all = [
        ("protocol_target", vec![target::honest()]),
        ("protocol_target_steps", steps(&OF_SOURCE)),
        ("protocol_source", said),
        ("protocol_source_steps", steps(&OF_TARGET)),
    ];
    let numbered = |(target, all): (&'static str, Vec<Vec<u8>>)| {
        all.into_iter().enumerate().map(move |(number, bytes)| Seed { target, name: number.to_string(), bytes })
    };
    all.into_iter().flat_map(numbered).collect()
}
