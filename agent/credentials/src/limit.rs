//! How often somebody may try.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// One try from an address in this time, in the long run: far more than people need, and a token's 128 bits need no more help.
const EVERY: Duration = Duration::from_secs(10);
/// So many at once from one address: who mistypes tries again at once.
const BURST: u32 = 5;
/// The same for all addresses together, since whoever has many is one somebody.
const EVERY_OF_ALL: Duration = Duration::from_millis(200);
const BURST_OF_ALL: u32 = 50;
/// Addresses that are remembered: 64 KiB or so.
const ADDRESSES: usize = 1024;

/// Says who has to wait. Its memory is bounded, whatever comes.
///
/// Times are those of a clock that never goes back, from any beginning.
#[derive(Debug, Default)]
pub struct RateLimit {
    /// For each address, the moment when it has all its tries again.
    addresses: HashMap<IpAddr, Duration>,
    all: Duration,
}

impl RateLimit {
    /// Counts a try.
    ///
    /// # Errors
    ///
    /// How long to wait before the next one, if this one was too many. One that is too many is not counted.
    pub fn attempt(&mut self, from: IpAddr, now: Duration) -> Result<(), Duration> {
        let from = network_of(from);
        let known = self.addresses.get(&from).copied().unwrap_or_default();
        let next = count(known, now, EVERY, BURST)?;
        self.all = count(self.all, now, EVERY_OF_ALL, BURST_OF_ALL)?;
        if !self.addresses.contains_key(&from) && self.addresses.len() >= ADDRESSES {
            self.forget(now);
        }
        self.addresses.insert(from, next);
        Ok(())
    }

    /// Makes room for one address.
    fn forget(&mut self, now: Duration) {
        self.addresses.retain(|_, full_again| *full_again > now);
        // If all of them are busy, the limit for all together is what holds.
        let soonest = self.addresses.iter().min_by_key(|(_, full_again)| **full_again).map(|(address, _)| *address);
        if let Some(soonest) = soonest.filter(|_| self.addresses.len() >= ADDRESSES) {
            self.addresses.remove(&soonest);
        }
    }
}

/// When all tries are there again after one more, or how long until there is one.
fn count(full_again: Duration, now: Duration, every: Duration, burst: u32) -> Result<Duration, Duration> {
    let next = full_again.max(now).saturating_add(every);
    match next.saturating_sub(now).saturating_sub(every.saturating_mul(burst)) {
        Duration::ZERO => Ok(next),
        wait => Err(wait),
    }
}

/// What counts as one somebody: an address of IPv4, or a /64 of IPv6, since who has one address there has 2^64 of them.
#[must_use]
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn address(number: u32) -> IpAddr {
        Ipv4Addr::from(number).into()
    }

    #[test]
    fn five_at_once_and_then_one_every_ten_seconds() {
        let mut limit = RateLimit::default();
        let start = Duration::from_secs(1000);
        for _ in 0..5 {
            limit.attempt(address(1), start).unwrap();
        }
        assert_eq!(limit.attempt(address(1), start), Err(Duration::from_secs(10)));
        assert_eq!(limit.attempt(address(1), start + Duration::from_secs(4)), Err(Duration::from_secs(6)));
        limit.attempt(address(2), start).unwrap();
        limit.attempt(address(1), start + Duration::from_secs(10)).unwrap();
        assert_eq!(limit.attempt(address(1), start + Duration::from_secs(10)), Err(Duration::from_secs(10)));
        for _ in 0..5 {
            limit.attempt(address(1), start + Duration::from_secs(100)).unwrap();
        }
    }

    #[test]
    fn a_network_of_ipv6_is_one_somebody_and_a_mapped_address_is_its_own() {
        let mut limit = RateLimit::default();
        for host in 0..5 {
            limit.attempt(Ipv6Addr::new(0x2001, 0xDB8, 0, 1, 0, 0, 0, host).into(), Duration::ZERO).unwrap();
        }
        let sixth = Ipv6Addr::new(0x2001, 0xDB8, 0, 1, 9, 9, 9, 9).into();
        assert!(limit.attempt(sixth, Duration::ZERO).is_err());
        limit.attempt(Ipv6Addr::new(0x2001, 0xDB8, 0, 2, 0, 0, 0, 0).into(), Duration::ZERO).unwrap();
        limit.attempt(Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped().into(), Duration::ZERO).unwrap();
        limit.attempt(Ipv4Addr::new(192, 0, 2, 2).to_ipv6_mapped().into(), Duration::ZERO).unwrap();
        assert_eq!(limit.addresses.len(), 4);
    }

    #[test]
    fn many_addresses_share_a_limit_and_take_no_more_memory() {
        let mut limit = RateLimit::default();
        let allowed = (0..10_000).filter(|number| limit.attempt(address(*number), Duration::ZERO).is_ok()).count();
        assert_eq!(allowed, 50);
        let mut now = Duration::ZERO;
        for number in 0..5000 {
            now += Duration::from_millis(200);
            let _ = limit.attempt(address(number), now);
            assert!(limit.addresses.len() <= ADDRESSES);
        }
    }

    #[test]
    fn a_full_table_forgets_who_has_waited_longest() {
        let mut limit = RateLimit::default();
        for number in 0..1024 {
            limit.addresses.insert(address(number), Duration::from_secs(100 + u64::from(number)));
        }
        limit.attempt(address(5000), Duration::from_secs(99)).unwrap();
        assert_eq!(limit.addresses.len(), ADDRESSES);
        assert!(!limit.addresses.contains_key(&address(0)));
        limit.attempt(address(5001), Duration::from_secs(200)).unwrap();
        assert!(limit.addresses.len() < ADDRESSES, "whoever has all tries again needs no entry");
    }
}
