//! How many passes are made before the last one.

use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

/// When to stop making passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// After this number.
    Number(NonZeroU32),
    /// When what a pass brought was little, or when a pass no longer brings less than the one before.
    UntilSmall(Small),
}

/// What is little: the next pass, which makes a point, will hold things up for about as long as the last one needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Small {
    /// At most so many bytes of delta.
    pub bytes: u64,
    /// Or as many as are sent in this time.
    pub time: Duration,
}

impl Default for Small {
    fn default() -> Self {
        Self { bytes: 64 << 20, time: Duration::from_secs(60) }
    }
}

impl FromStr for Plan {
    type Err = String;

    /// A number from 1 on, or `until-small`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "until-small" {
            return Ok(Self::UntilSmall(Small::default()));
        }
        text.parse().map(Self::Number).map_err(|_| "write a number from 1 on, or until-small".into())
    }
}

/// What a pass came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassDone {
    /// The length of its delta in bytes.
    pub delta_bytes: u64,
    /// How long the link was busy with it.
    pub sending: Duration,
}

/// Why there is no further pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enough {
    /// It was the last one of the number.
    Number,
    /// What it brought was little.
    Small,
    /// It did not bring a fifth less than the one before: the source changes as fast as it is sent.
    DoesNotHelp,
}

/// Decides after each pass whether there is another one.
#[derive(Clone, Copy, Debug)]
pub struct Passes {
    plan: Plan,
    made: u32,
    last: Option<PassDone>,
}

impl Passes {
    /// None was made yet.
    #[must_use]
    pub const fn new(plan: Plan) -> Self {
        Self { plan, made: 0, last: None }
    }

    /// Whether a pass was the last one, and why.
    pub fn done(&mut self, pass: PassDone) -> Option<Enough> {
        self.made = self.made.saturating_add(1);
        let last = self.last.replace(pass);
        match self.plan {
            Plan::Number(number) => (self.made >= number.get()).then_some(Enough::Number),
            Plan::UntilSmall(small) if pass.delta_bytes <= small.bytes || pass.sending <= small.time => {
                Some(Enough::Small)
            }
            // Four fifths of it, without a sum that could pass the largest number.
            Plan::UntilSmall(_) => {
                let helps = |last: PassDone| pass.delta_bytes <= last.delta_bytes - last.delta_bytes.div_ceil(5);
                last.filter(|last| !helps(*last)).map(|_| Enough::DoesNotHelp)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    fn pass(mib: u64, sending: Duration) -> PassDone {
        PassDone { delta_bytes: mib << 20, sending }
    }

    #[test]
    fn a_number_of_passes() {
        let mut one = Passes::new("1".parse().unwrap());
        assert_eq!(one.done(pass(9000, LONG)), Some(Enough::Number));
        let mut three = Passes::new("3".parse().unwrap());
        let ends: Vec<_> = (0..3).map(|_| three.done(pass(1, Duration::ZERO))).collect();
        assert_eq!(ends, [None, None, Some(Enough::Number)]);
        for wrong in ["0", "-1", "", "small", "4294967296"] {
            assert!(wrong.parse::<Plan>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn until_it_is_small() {
        let ends = |passes: &[PassDone]| {
            let mut until = Passes::new("until-small".parse().unwrap());
            passes.iter().map(|pass| until.done(*pass)).collect::<Vec<_>>()
        };
        let minute = Duration::from_secs(60);
        assert_eq!(ends(&[pass(64, LONG)]), [Some(Enough::Small)]);
        assert_eq!(ends(&[pass(90_000, LONG), pass(65, LONG), pass(64, LONG)]), [None, None, Some(Enough::Small)]);
        assert_eq!(ends(&[pass(90_000, LONG), pass(6000, minute)]), [None, Some(Enough::Small)]);
        let long = minute + Duration::from_nanos(1);
        assert_eq!(ends(&[pass(90_000, LONG), pass(6000, long)]), [None, None]);
        let mut own = Passes::new(Plan::UntilSmall(Small { bytes: 1 << 20, time: Duration::from_secs(1) }));
        assert_eq!((own.done(pass(64, LONG)), own.done(pass(1, LONG))), (None, Some(Enough::Small)));
    }

    #[test]
    fn until_it_does_not_help() {
        let mut until = Passes::new("until-small".parse().unwrap());
        assert_eq!(until.done(pass(1000, LONG)), None);
        assert_eq!(until.done(pass(800, LONG)), None, "a fifth less");
        assert_eq!(until.done(pass(641, LONG)), Some(Enough::DoesNotHelp), "not quite a fifth less");
        let mut grows = Passes::new("until-small".parse().unwrap());
        assert_eq!(grows.done(pass(1000, LONG)), None);
        assert_eq!(grows.done(PassDone { delta_bytes: u64::MAX, sending: LONG }), Some(Enough::DoesNotHelp));
    }
}
