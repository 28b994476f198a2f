//! How the executions of a version of a module run: what was said when it was published, and is part of it for ever.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What sleeping is to a guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sleep {
    /// Its own time moves, and it waits as long in the host's.
    #[default]
    Wait,
    /// Its own time moves, and nobody waits.
    Skip,
}

impl Sleep {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Wait, Self::Skip];

    /// Its name in the API and in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::Skip => "skip",
        }
    }
}

impl fmt::Display for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no way to sleep.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is wait or skip; leave it out for wait")]
pub struct NotASleep;

impl std::str::FromStr for Sleep {
    type Err = NotASleep;

    fn from_str(text: &str) -> Result<Self, NotASleep> {
        Self::ALL.into_iter().find(|sleep| sleep.as_str() == text).ok_or(NotASleep)
    }
}

/// Which clocks a guest reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Clock {
    /// Its own, which begin at its acceptance and move by rule.
    #[default]
    Virtual,
    /// The host's. What they said is kept beside the record.
    Host,
}

impl Clock {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Virtual, Self::Host];

    /// Its name in the API and in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Virtual => "virtual",
            Self::Host => "host",
        }
    }
}

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no clock.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is virtual or host; leave it out for virtual")]
pub struct NotAClock;

impl std::str::FromStr for Clock {
    type Err = NotAClock;

    fn from_str(text: &str) -> Result<Self, NotAClock> {
        Self::ALL.into_iter().find(|clock| clock.as_str() == text).ok_or(NotAClock)
    }
}

/// How the executions of a version run. The default is what versions from before there were settings have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Settings {
    /// What sleeping is. Never [`Sleep::Skip`] beside [`Clock::Host`]: the host's clocks do not move for a sleep that nobody waits for.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sleep: Sleep,
    /// Which clocks are read.
    #[serde(default, skip_serializing_if = "is_default")]
    pub clock: Clock,
    /// Present when each execution is metered: how much fuel it has unless it asks for less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fuel: Option<u64>,
}

impl Settings {
    /// Is it as without a word about it?
    pub fn is_default(&self) -> bool {
        is_default(self)
    }
}

/// Is a field left out where it is written?
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_is_written_and_what_is_read() {
        for sleep in Sleep::ALL {
            assert_eq!(serde_json::to_string(&sleep).unwrap(), format!("\"{sleep}\""));
            assert_eq!(sleep.as_str().parse(), Ok(sleep));
        }
        for clock in Clock::ALL {
            assert_eq!(serde_json::to_string(&clock).unwrap(), format!("\"{clock}\""));
            assert_eq!(clock.as_str().parse(), Ok(clock));
        }
        assert_eq!(("Skip".parse::<Sleep>(), "".parse::<Clock>()), (Err(NotASleep), Err(NotAClock)));
    }

    #[test]
    fn only_what_is_not_the_default_is_written() {
        let written = |settings| serde_json::to_string(&settings).unwrap();
        assert_eq!(written(Settings::default()), "{}");
        let all = Settings { sleep: Sleep::Skip, clock: Clock::Host, fuel: Some(7) };
        assert_eq!(written(all), r#"{"sleep":"skip","clock":"host","fuel":7}"#);
        assert_eq!(serde_json::from_str::<Settings>(&written(all)).unwrap(), all);
        assert!(serde_json::from_str::<Settings>("{}").unwrap().is_default() && !all.is_default());
    }
}
