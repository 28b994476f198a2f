//! How often somebody may guess.
//!
//! What fails is counted for the address that it came from and, when it names a live key, for that key. Over the address's limit
//! the answer is 429 instead of 401, and a credential that names nothing known is not looked at any more; a good one works as
//! before. Over the key's limit nobody is let in by it, wherever from, but addresses that it was used from before: whoever knows
//! a key's id, which is no secret, cannot keep its holder out.
//!
//! Memory is bounded: what was seen longest ago is forgotten first.

use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
};

use lru::LruCache;
use poem::Addr;
use wasmwiz_events::{id::KeyId, time::Steady};

use super::config::AttemptsConfig;
use crate::client;

/// Where a request comes from: an IPv4 address, or the /64 of an IPv6 one, which is what one customer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Origin(IpAddr);

impl Origin {
    pub(crate) fn of(address: &Addr) -> Self {
        let ip = address.as_socket_addr().map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |address| address.ip());
        Self(client::behind(ip))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Who {
    Address(Origin),
    Key(KeyId),
    /// A key that was used from an address.
    Pair(Origin, KeyId),
}

/// A bucket that drains: only the moment at which it will be empty again is kept.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    empty_at: Steady,
    /// Until when a pair is remembered.
    known_until: Steady,
}

const BEGIN: Steady = Steady::from_ms(0);

/// What is let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rate {
    per_minute: u32,
    burst: u32,
}

impl Rate {
    fn each_ms(self) -> u64 {
        60_000 / u64::from(self.per_minute.max(1))
    }

    /// How long until one more may fail; 0: now.
    fn wait_ms(self, bucket: Bucket, now: Steady) -> u64 {
        if self.per_minute == 0 {
            return 0;
        }
        let room = self.each_ms().saturating_mul(u64::from(self.burst.max(1)) - 1);
        bucket.empty_at.ms_since(now).saturating_sub(room)
    }

    fn fail(self, bucket: &mut Bucket, now: Steady) {
        let full = self.each_ms().saturating_mul(u64::from(self.burst.max(1)));
        bucket.empty_at = bucket.empty_at.max(now).plus_ms(self.each_ms()).min(now.plus_ms(full));
    }
}

/// When to come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wait {
    pub(crate) ms: u64,
}

/// Who has failed lately.
pub(crate) struct Attempts {
    config: AttemptsConfig,
    seen: Mutex<LruCache<Who, Bucket>>,
}

impl Attempts {
    pub(crate) fn new(config: AttemptsConfig) -> Self {
        let entries = NonZeroUsize::new(config.entries_max).unwrap_or(NonZeroUsize::MIN);
        Self { config, seen: Mutex::new(LruCache::new(entries)) }
    }

    const fn of_address(&self) -> Rate {
        Rate { per_minute: self.config.per_minute_of_address, burst: self.config.burst_of_address }
    }

    const fn at_key(&self) -> Rate {
        Rate { per_minute: self.config.per_minute_at_key, burst: self.config.burst_at_key }
    }

    /// May a credential that names this live key be looked at? One that names none may while its address is not over its limit.
    pub(crate) fn admit(&self, from: Origin, key: Option<&KeyId>, now: Steady) -> Result<(), Wait> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut wait = |who: &Who, rate: Rate| seen.get(who).map_or(0, |bucket| rate.wait_ms(*bucket, now));
        let ms = match key {
            None => wait(&Who::Address(from), self.of_address()),
            Some(key) => {
                let for_all = wait(&Who::Key(key.clone()), self.at_key());
                if for_all == 0 {
                    return Ok(());
                }
                let pair = Who::Pair(from, key.clone());
                // Behind a proxy whoever guesses has the holder's address, and must not keep it out either.
                if seen.get(&pair).is_some_and(|pair| now < pair.known_until) { 0 } else { for_all }
            }
        };
        if ms == 0 { Ok(()) } else { Err(Wait { ms }) }
    }

    /// Counts a failure. Says when to come back if that was one too many.
    pub(crate) fn failed(&self, from: Origin, key: Option<&KeyId>, now: Steady) -> Option<Wait> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = Bucket { empty_at: BEGIN, known_until: BEGIN };
        let address = seen.get_or_insert_mut(Who::Address(from), || bucket);
        let ms = self.of_address().wait_ms(*address, now);
        self.of_address().fail(address, now);
        if let Some(key) = key {
            self.at_key().fail(seen.get_or_insert_mut(Who::Key(key.clone()), || bucket), now);
        }
        (ms > 0).then_some(Wait { ms })
    }

    /// Remembers that a key was used from there.
    pub(crate) fn succeeded(&self, from: Origin, key: &KeyId, now: Steady) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let pair = Who::Pair(from, key.clone());
        let bucket = seen.get_or_insert_mut(pair, || Bucket { empty_at: BEGIN, known_until: BEGIN });
        bucket.known_until = now.plus_ms(self.config.remember_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Steady = Steady::from_ms(1_000_000);

    fn attempts() -> Attempts {
        Attempts::new(AttemptsConfig {
            per_minute_of_address: 60,
            burst_of_address: 3,
            per_minute_at_key: 60,
            burst_at_key: 5,
            ..Default::default()
        })
    }

    fn from(last: u8) -> Origin {
        Origin(IpAddr::from([127, 0, 0, last]))
    }

    fn fail(attempts: &Attempts, times: usize, from: Origin, key: Option<&KeyId>) {
        for _ in 0..times {
            attempts.failed(from, key, NOW);
        }
    }

    fn key(id: &str) -> KeyId {
        KeyId::new(id).unwrap()
    }

    #[test]
    fn an_address_that_fails_too_often_is_told_when_to_come_back() {
        let attempts = attempts();
        for _ in 0..3 {
            assert_eq!(attempts.failed(from(1), None, NOW), None);
        }
        assert_eq!(attempts.failed(from(1), None, NOW), Some(Wait { ms: 1_000 }));
        assert_eq!(attempts.admit(from(1), None, NOW), Err(Wait { ms: 1_000 }));
        assert_eq!(attempts.admit(from(2), None, NOW), Ok(()));
        assert_eq!(attempts.admit(from(1), None, NOW.plus_ms(1_000)), Ok(()));
        // However long it goes on, the wait stays the same.
        fail(&attempts, 1_000, from(1), None);
        assert_eq!(attempts.admit(from(1), None, NOW), Err(Wait { ms: 1_000 }));
    }

    #[test]
    fn a_good_key_works_from_an_address_that_guesses_at_others() {
        let (attempts, good) = (attempts(), key("good"));
        fail(&attempts, 100, from(1), None);
        fail(&attempts, 100, from(1), Some(&key("other")));
        assert_eq!(attempts.admit(from(1), Some(&good), NOW), Ok(()));
        assert!(attempts.admit(from(1), Some(&key("other")), NOW).is_err());
    }

    #[test]
    fn a_key_that_is_guessed_at_works_on_where_it_was_used_before() {
        let (attempts, good) = (attempts(), key("good"));
        attempts.succeeded(from(1), &good, NOW);
        fail(&attempts, 100, from(2), Some(&good));
        assert!(attempts.admit(from(2), Some(&good), NOW).is_err());
        assert!(attempts.admit(from(3), Some(&good), NOW).is_err());
        assert_eq!(attempts.admit(from(1), Some(&good), NOW), Ok(()));
        // Also when it is guessed at from there: a proxy's address is everybody's.
        fail(&attempts, 100, from(1), Some(&good));
        assert_eq!(attempts.admit(from(1), Some(&good), NOW), Ok(()));
        assert!(attempts.failed(from(1), Some(&good), NOW).is_some(), "a guess is not told apart");
        assert_eq!(attempts.admit(from(3), Some(&good), NOW.plus_ms(60_000)), Ok(()));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let attempts = Attempts::new(AttemptsConfig { entries_max: 10, ..Default::default() });
        for n in 0..=u8::MAX {
            attempts.failed(from(n), Some(&key(&format!("key{n:04}"))), NOW);
            attempts.succeeded(from(n), &key("good"), NOW);
        }
        assert_eq!(attempts.seen.lock().unwrap().len(), 10);
    }

    #[test]
    fn no_limit_is_no_limit() {
        let none = AttemptsConfig { per_minute_of_address: 0, per_minute_at_key: 0, ..Default::default() };
        let attempts = Attempts::new(none);
        assert!((0..1_000).all(|_| attempts.failed(from(1), Some(&key("k001")), NOW).is_none()));
        assert_eq!(attempts.admit(from(1), Some(&key("k001")), NOW), Ok(()));
    }

    #[test]
    fn a_network_of_version_6_counts_as_one_address() {
        let of = |text: &str| Origin::of(&Addr::SocketAddr(format!("[{text}]:1").parse().unwrap()));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:127.0.0.1"), from(1));
    }
}
