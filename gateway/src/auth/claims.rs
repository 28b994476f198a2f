//! What a token says, and the rules that hold for every one, whoever signed it: for whom it is, and when it is good.

use serde_json::{Map, Value};
use wasmwiz_events::time::Timestamp;

use super::jose::Flaw;

/// Audiences that are looked at.
const AUDIENCES_MAX: usize = 16;

/// The last moment that a claim of time may name, in seconds since 1970: the end of the year 9999.
const SECONDS_MAX: i64 = 253_402_300_799;

/// The claims of a token.
#[derive(Debug)]
pub(crate) struct Claims(Map<String, Value>);

/// How far clocks may differ, and how long a token may be good at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) leeway_seconds: i64,
    pub(crate) lifetime_seconds_max: i64,
}

/// When a token is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Good {
    /// When it was given.
    pub(crate) given_at: Timestamp,
    /// From when on it is good no more.
    pub(crate) until: Timestamp,
}

impl Claims {
    pub(crate) const fn new(members: Map<String, Value>) -> Self {
        Self(members)
    }

    /// A claim that must be there and be text.
    pub(crate) fn text(&self, name: &str) -> Result<&str, Flaw> {
        self.0.get(name).and_then(Value::as_str).ok_or(Flaw::Claim)
    }

    /// The words of a claim: a text of words with blanks between them, as in OAuth, or a list of texts.
    pub(crate) fn words(&self, name: &str) -> Result<Vec<&str>, Flaw> {
        match self.0.get(name) {
            Some(Value::String(text)) => Ok(text.split(' ').filter(|word| !word.is_empty()).collect()),
            Some(Value::Array(items)) => items.iter().map(|item| item.as_str().ok_or(Flaw::Claim)).collect(),
            _ => Err(Flaw::Claim),
        }
    }

    /// Refuses what is not for `audience`.
    pub(crate) fn check_audience(&self, audience: &str) -> Result<(), Flaw> {
        let is_for_us = match self.0.get("aud") {
            Some(Value::String(one)) => one == audience,
            Some(Value::Array(several)) => {
                let texts = several.iter().map(Value::as_str).collect::<Option<Vec<_>>>();
                texts.is_some_and(|texts| texts.len() <= AUDIENCES_MAX && texts.contains(&audience))
            }
            _ => false,
        };
        if is_for_us { Ok(()) } else { Err(Flaw::Audience) }
    }

    /// Refuses what is not good at `now`, was good too long, or does not say when it is good. Gives when it
    /// is.
    pub(crate) fn check_times(&self, now: Timestamp, times: Times) -> Result<Good, Flaw> {
        let now = now.unix_ms().div_euclid(1_000);
        let issued = self.seconds("iat")?.ok_or(Flaw::Time)?;
        let ends = self.seconds("exp")?.ok_or(Flaw::Time)?;
        let begins = self.seconds("nbf")?.unwrap_or(issued);
        let until = ends.saturating_add(times.leeway_seconds);
        let is_good = begins.max(issued) <= now.saturating_add(times.leeway_seconds)
            && now < until
            && (1..=times.lifetime_seconds_max).contains(&ends.saturating_sub(issued));
        let at = |seconds: i64| Timestamp::from_unix_ms(seconds.saturating_mul(1_000));
        if is_good { Ok(Good { given_at: at(issued), until: at(until) }) } else { Err(Flaw::Time) }
    }

    /// Whole seconds since 1970.
    fn seconds(&self, name: &str) -> Result<Option<i64>, Flaw> {
        match self.0.get(name) {
            None => Ok(None),
            Some(value) => {
                let seconds = value.as_i64().filter(|seconds| (0..=SECONDS_MAX).contains(seconds));
                seconds.map(Some).ok_or(Flaw::Time)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_ms(1_000_000_999);
    const TIMES: Times = Times { leeway_seconds: 30, lifetime_seconds_max: 3_600 };

    fn claims(value: Value) -> Claims {
        match value {
            Value::Object(members) => Claims::new(members),
            _ => unreachable!("claims are an object"),
        }
    }

    #[test]
    fn a_token_is_good_from_its_beginning_to_its_end_give_or_take_the_leeway() {
        for (iat, nbf, exp, good) in [
            (1_000_000, 1_000_000, 1_000_900, true),
            (999_000, 999_000, 999_971, true),
            (999_000, 999_000, 999_970, false),
            (1_000_030, 1_000_030, 1_000_900, true),
            (1_000_031, 1_000_000, 1_000_900, false),
            (1_000_000, 1_000_031, 1_000_900, false),
            (1_000_000, 1_000_000, 1_003_601, false),
            (1_000_000, 1_000_000, 1_000_000, false),
        ] {
            let claims = claims(json!({"iat": iat, "nbf": nbf, "exp": exp}));
            assert_eq!(claims.check_times(NOW, TIMES).is_ok(), good, "{iat} {nbf} {exp}");
        }
        for flawed in [
            json!({"iat": 1_000_000}),
            json!({"exp": 1_000_100}),
            json!({"iat": 1_000_000, "exp": 1_000_100.5}),
            json!({"iat": 1_000_000, "exp": "1000100"}),
            json!({"iat": -1, "exp": 1_000_100}),
            json!({"iat": 1_000_000, "exp": u64::MAX}),
        ] {
            assert_eq!(claims(flawed.clone()).check_times(NOW, TIMES), Err(Flaw::Time), "{flawed}");
        }
    }

    #[test]
    fn an_audience_is_named_alone_or_among_few() {
        let good = [json!("us"), json!(["them", "us"])];
        let bad = [json!("them"), json!([]), json!([1, "us"]), json!(null), json!(vec!["us"; 17])];
        for aud in good {
            assert_eq!(claims(json!({"aud": aud})).check_audience("us"), Ok(()), "{aud}");
        }
        for aud in bad {
            assert_eq!(claims(json!({"aud": aud})).check_audience("us"), Err(Flaw::Audience), "{aud}");
        }
    }
}
