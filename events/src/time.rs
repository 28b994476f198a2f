//! Times and durations as the log writes them, and where "now" comes from.

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use jiff::{
    SignedDuration,
    civil::{self, DateTime},
    fmt::temporal::Pieces,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A moment in UTC with millisecond precision. Text form: RFC 3339, for instance `2026-11-23T20:41:31.250Z`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

/// The text is not an RFC 3339 date and time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a time is written as in RFC 3339, for instance 2026-11-23T20:41:31Z, in the years 0000 to 9999")]
pub struct NotATime;

impl Timestamp {
    /// 0000-01-01T00:00:00Z: RFC 3339 has four digits for a year and no sign, so no earlier time is read from a text.
    pub const EARLIEST: Self = Self(-62_167_219_200_000);

    /// 9999-12-31T23:59:59.999Z: no later time has four digits for its year.
    pub const LATEST: Self = Self(253_402_300_799_999);

    /// From milliseconds since 1970-01-01T00:00:00Z.
    pub const fn from_unix_ms(unix_ms: i64) -> Self {
        Self(unix_ms)
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub const fn unix_ms(self) -> i64 {
        self.0
    }

    /// This moment and `ms` milliseconds.
    #[must_use]
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add_unsigned(ms))
    }

    /// Milliseconds from `earlier` to this moment; 0 when `earlier` is not earlier.
    pub const fn ms_since(self, earlier: Self) -> u64 {
        let ms = self.0.saturating_sub(earlier.0);
        if ms < 0 { 0 } else { ms.unsigned_abs() }
    }

    /// Whole days since 1970-01-01 (UTC): quotas of a day reset when this number changes.
    pub const fn utc_day(self) -> i64 {
        self.0.div_euclid(86_400_000)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = UNIX_EPOCH.checked_add(SignedDuration::from_millis(self.0)).map_err(|_| fmt::Error)?;
        write!(f, "{moment:.3}Z")
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Timestamp {
    type Err = NotATime;

    fn from_str(text: &str) -> Result<Self, NotATime> {
        // A moment of jiff's ends a day before the year does, so that every offset can show it: here it is taken apart instead.
        let text = to_nanoseconds(text);
        let pieces = Pieces::parse(&*text).map_err(|_| NotATime)?;
        let (time, offset) = pieces.time().zip(pieces.to_numeric_offset()).ok_or(NotATime)?;
        if offset.seconds().abs() >= 86_400 {
            return Err(NotATime);
        }
        let local = pieces.date().to_datetime(time).duration_since(UNIX_EPOCH);
        let since_epoch = local - SignedDuration::from_secs(offset.seconds().into());
        // The whole milliseconds before it, also of what lies before 1970.
        let ms = since_epoch.as_nanos().div_euclid(1_000_000);
        let time = i64::try_from(ms).map(Self).map_err(|_| NotATime)?;
        (Self::EARLIEST..=Self::LATEST).contains(&time).then_some(time).ok_or(NotATime)
    }
}

const UNIX_EPOCH: DateTime = civil::date(1970, 1, 1).at(0, 0, 0, 0);

/// RFC 3339 has any number of digits in a fraction; those after the ninth are cut off, as jiff reads no more.
fn to_nanoseconds(text: &str) -> Cow<'_, str> {
    let Some((whole, fraction)) = text.split_once('.') else { return text.into() };
    let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
    match (fraction.get(..9), fraction.get(digits..)) {
        (Some(kept), Some(offset)) if digits > 9 => [whole, ".", kept, offset].concat().into(),
        _ => text.into(),
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A measured duration with microsecond precision, written as decimal milliseconds (`0.016`).
///
/// An integer inside, so that sums over any order of executions are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Millis {
    micros: u64,
}

impl Millis {
    /// From whole microseconds.
    pub const fn from_micros(micros: u64) -> Self {
        Self { micros }
    }

    /// Whole microseconds.
    pub const fn as_micros(self) -> u64 {
        self.micros
    }

    /// Decimal milliseconds, for people and JSON.
    #[expect(clippy::cast_precision_loss, reason = "exact below 2^53 us, which is 285 years")]
    pub fn as_ms(self) -> f64 {
        self.micros as f64 / 1_000.0
    }
}

impl From<Duration> for Millis {
    fn from(duration: Duration) -> Self {
        Self { micros: u64::try_from(duration.as_micros()).unwrap_or(u64::MAX) }
    }
}

impl Serialize for Millis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.as_ms())
    }
}

impl<'de> Deserialize<'de> for Millis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let ms = f64::deserialize(deserializer)?;
        if !ms.is_finite() || ms < 0.0 {
            return Err(serde::de::Error::custom("a duration is a finite number of milliseconds, not negative"));
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked finite and not negative")]
        Ok(Self { micros: (ms * 1_000.0).round() as u64 })
    }
}

/// A moment of this life of the process, on a clock that only goes forward at an even pace: what durations and deadlines are
/// measured by. In milliseconds from a beginning of the process's own: it means nothing to another process. What is kept for
/// the next one is shifted onto the wall clock before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Steady(i64);

impl Steady {
    /// From milliseconds since the clock's beginning; what was before that is negative.
    pub const fn from_ms(ms: i64) -> Self {
        Self(ms)
    }

    /// Milliseconds since the clock's beginning.
    pub const fn as_ms(self) -> i64 {
        self.0
    }

    /// This moment and `ms` milliseconds.
    #[must_use]
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add_unsigned(ms))
    }

    /// This moment less `ms` milliseconds.
    #[must_use]
    pub const fn minus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_sub_unsigned(ms))
    }

    /// This moment on a clock that is ahead by `ms` milliseconds.
    #[must_use]
    pub const fn shifted_ms(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to this moment; 0 when `earlier` is not earlier.
    pub const fn ms_since(self, earlier: Self) -> u64 {
        let ms = self.0.saturating_sub(earlier.0);
        if ms < 0 { 0 } else { ms.unsigned_abs() }
    }
}

/// One reading of both clocks: the wall's, which is a fact to be recorded, and the steady one, which measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Moment {
    /// What the wall clock said. It may have stepped since the last reading, either way.
    pub wall: Timestamp,
    /// When that was in this life of the process.
    pub steady: Steady,
}

impl Moment {
    /// When something that was recorded at `wall` happened, seen from this reading: as long ago as the wall clock says, and
    /// never in the future. Whatever is measured from there waits at most as long as if it had happened now.
    #[must_use]
    pub const fn of_record(self, wall: Timestamp) -> Self {
        Self { wall, steady: self.steady.minus_ms(self.wall.ms_since(wall)) }
    }
}

/// Where "now" comes from. The shells hold one; pure code is given the value.
pub trait Clock: Send + Sync + 'static {
    /// What the wall clock says. It steps: for facts and dates, never for durations, deadlines or order.
    fn now(&self) -> Timestamp;

    /// The moment on a clock that does not step.
    fn steady(&self) -> Steady;

    /// Both at once.
    fn moment(&self) -> Moment {
        Moment { wall: self.now(), steady: self.steady() }
    }
}

/// The machine's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

/// Where the steady clock of this process begins: at its first reading.
static BEGINNING: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn now(&self) -> Timestamp {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock for everybody")]
    fn steady(&self) -> Steady {
        let since =
            std::time::Instant::now().saturating_duration_since(*BEGINNING.get_or_init(std::time::Instant::now));
        Steady(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

/// Clocks that a test moves by hand.
#[cfg(any(test, feature = "test-util"))]
#[derive(Debug, Default)]
pub struct ManualClock {
    wall: std::sync::atomic::AtomicI64,
    steady: std::sync::atomic::AtomicI64,
}

#[cfg(any(test, feature = "test-util"))]
impl ManualClock {
    /// Clocks of which the wall's stands at `now`.
    pub fn at(now: Timestamp) -> Self {
        Self { wall: std::sync::atomic::AtomicI64::new(now.0), ..Self::default() }
    }

    /// Lets `ms` milliseconds pass, on both.
    pub fn advance_ms(&self, ms: u64) {
        self.step_wall_ms(i64::try_from(ms).unwrap_or(i64::MAX));
        self.steady.fetch_add(i64::try_from(ms).unwrap_or(i64::MAX), std::sync::atomic::Ordering::SeqCst);
    }

    /// Sets the wall clock on by `ms` milliseconds, or back, while no time passes.
    pub fn step_wall_ms(&self, ms: i64) {
        self.wall.fetch_add(ms, std::sync::atomic::Ordering::SeqCst);
    }
}

#[cfg(any(test, feature = "test-util"))]
impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.wall.load(std::sync::atomic::Ordering::SeqCst))
    }

    fn steady(&self) -> Steady {
        Steady(self.steady.load(std::sync::atomic::Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_survives_its_text_form() {
        let time = Timestamp::from_unix_ms(1_795_466_491_250);
        assert_eq!(time.to_string(), "2026-11-23T20:41:31.250Z");
        assert_eq!("2026-11-23T20:41:31.250Z".parse(), Ok(time));
        assert_eq!("2026-11-23T21:41:31.25+01:00".parse(), Ok(time));
        assert_eq!("yesterday".parse::<Timestamp>(), Err(NotATime));
    }

    #[test]
    fn a_time_has_a_year_of_four_digits_without_a_sign() {
        assert_eq!(Timestamp::EARLIEST.to_string(), "0000-01-01T00:00:00.000Z");
        assert_eq!(Timestamp::LATEST.to_string(), "9999-12-31T23:59:59.999Z");
        for text in ["0000-01-01T00:00:00.000Z", "9999-12-30T22:00:00.000Z", "9999-12-31T23:59:59.999Z"] {
            assert_eq!(text.parse::<Timestamp>().map(|time| time.to_string()), Ok(text.to_owned()));
        }
        for text in [
            "-009999-01-02T01:59:59Z",
            "-000001-12-31T23:59:59.999Z",
            "0000-01-01T00:00:00+01:00",
            "+010000-01-01T00:00:00Z",
            "10000-01-01T00:00:00Z",
            "9999-12-31T23:59:59-00:01",
            "9999-12-31T23:59:59.999-23:59",
        ] {
            assert_eq!(text.parse::<Timestamp>(), Err(NotATime), "{text}");
        }
    }

    #[test]
    fn every_form_of_rfc_3339_is_read() {
        for (text, written) in [
            ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59.000Z"),
            ("9999-12-31t23:59:59.9999999z", "9999-12-31T23:59:59.999Z"),
            ("9999-12-31T23:59:59+23:59", "9999-12-31T00:00:59.000Z"),
            ("9999-12-31T23:59:59.999-00:00", "9999-12-31T23:59:59.999Z"),
            ("9999-12-31T00:00:00-23:59", "9999-12-31T23:59:00.000Z"),
            ("0000-01-01T23:59:00+23:59", "0000-01-01T00:00:00.000Z"),
            ("0000-01-01T00:00:00-23:59", "0000-01-01T23:59:00.000Z"),
            ("1969-12-31T23:59:59.9999Z", "1969-12-31T23:59:59.999Z"),
            ("2026-11-23T20:41:31.1234567890123456789+00:00", "2026-11-23T20:41:31.123Z"),
            ("2026-11-23 20:41:31Z", "2026-11-23T20:41:31.000Z"),
            ("2024-02-29T12:00:00Z", "2024-02-29T12:00:00.000Z"),
            ("2016-12-31T23:59:60Z", "2016-12-31T23:59:59.000Z"),
        ] {
            assert_eq!(text.parse::<Timestamp>().map(|time| time.to_string()), Ok(written.to_owned()), "{text}");
        }
        for text in [
            "",
            "2026-11-23",
            "2026-11-23T20:41:31",
            "2026-11-23T20:41:31[UTC]",
            "2026-02-29T12:00:00Z",
            "2026-13-01T12:00:00Z",
            "2026-11-23T24:00:00Z",
            "2026-11-23T20:41:31.Z",
            "2026-11-23T20:41:31+24:00",
            "2026-11-23T20:41:31Zjunk",
            "1795466491",
        ] {
            assert_eq!(text.parse::<Timestamp>(), Err(NotATime), "{text}");
        }
    }

    #[test]
    fn what_was_recorded_is_as_old_as_the_wall_clock_says_and_never_in_the_future() {
        let noon = Timestamp::from_unix_ms(1_795_435_200_000);
        let now = Moment { wall: noon, steady: Steady::from_ms(5_000) };
        let steady_of = |recorded: Timestamp| now.of_record(recorded).steady;
        assert_eq!(steady_of(noon), Steady::from_ms(5_000));
        assert_eq!(steady_of(Timestamp::from_unix_ms(noon.unix_ms() - 7_000)), Steady::from_ms(-2_000));
        // A clock was ahead when it was recorded, or is behind now.
        assert_eq!(steady_of(noon.plus_ms(86_400_000)), Steady::from_ms(5_000));
    }

    #[test]
    fn the_steady_clock_does_not_go_back() {
        let (first, second) = (SystemClock.steady(), SystemClock.steady());
        assert!(first <= second && second.ms_since(first) < 60_000);
    }

    #[test]
    fn a_duration_survives_json_to_the_microsecond() {
        for micros in [0, 1, 16, 999, 1_000, 1_234_567, 300_000_000, 9_007_199_254_000] {
            let json = serde_json::to_string(&Millis::from_micros(micros)).unwrap();
            assert_eq!(serde_json::from_str::<Millis>(&json).unwrap().as_micros(), micros, "{json}");
        }
        assert!(serde_json::from_str::<Millis>("-1").is_err());
    }
}
