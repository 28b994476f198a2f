//! `poll_oneoff`: how a guest sleeps, and asks whether its streams are ready. They always are.
//!
//! The library's own waits by the host's clock. This one waits as long, unless the guest is not made to, and moves the guest's own time by
//! exactly what it asked for; see [`time`](super::time). What is ready is told by one reading of the clock and by what was asked for, so
//! that a run from the record is told the same.

use std::time::Duration;

use wasmtime::{Caller, Linker};

use super::{
    clocks::GuestTime,
    engine::IMPORT_MODULE,
    memory,
    run::{Guest, HostCallError},
    time::{ClockId, Shown, errno},
};

/// The most subscriptions of one call. There are three streams, and of all clocks only the earliest end counts.
const SUBSCRIPTIONS_MAX: usize = 1_024;

/// The layout of WASI preview 1, in bytes.
const SUBSCRIPTION_BYTES: usize = 48;
const EVENT_BYTES: usize = 32;
/// The clock's time is one of the clock itself, and not from now on.
const IS_ABSOLUTE: u16 = 1;

/// What a guest waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    /// Until it has run for so long, in nanoseconds.
    Until { elapsed_ns: u64 },
    /// A stream to be read.
    Read,
    /// A stream to be written.
    Write,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Subscription {
    userdata: [u8; 8],
    awaited: Awaited,
}

/// Why a call is not answered as it was meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The guest is told this number, and goes on.
    Errno(i32),
    /// The guest ends.
    Call(HostCallError),
}

impl From<HostCallError> for Refused {
    fn from(error: HostCallError) -> Self {
        Self::Call(error)
    }
}

impl Subscription {
    /// Reads the one that begins at `at`. `now` is a reading of the clock, taken if one is awaited.
    fn read(bytes: &[u8], at: usize, now: impl FnOnce() -> Result<Shown, HostCallError>) -> Result<Self, Refused> {
        let field = |offset: usize| at + offset;
        let [tag] = memory::read(bytes, field(8))?;
        let number = u32::from_le_bytes(memory::read(bytes, field(16))?);
        let awaited = match (tag, number) {
            (0, clock) => {
                let clock = ClockId::of(clock).map_err(|_| Refused::Errno(errno::INVAL))?;
                let timeout_ns = u64::from_le_bytes(memory::read(bytes, field(24))?);
                let is_absolute = u16::from_le_bytes(memory::read(bytes, field(40))?) & IS_ABSOLUTE != 0;
                let now = now()?;
                let elapsed_ns =
                    if is_absolute { now.when(clock, timeout_ns) } else { now.elapsed_ns().saturating_add(timeout_ns) };
                Awaited::Until { elapsed_ns }
            }
            (1, 0) => Awaited::Read,
            (2, 1 | 2) => Awaited::Write,
            (1 | 2, _) => return Err(Refused::Errno(errno::BADF)),
            _ => return Err(Refused::Errno(errno::INVAL)),
        };
        Ok(Self { userdata: memory::read(bytes, at)?, awaited })
    }

    fn is_ready(&self, now_ns: u64) -> bool {
        match self.awaited {
            Awaited::Until { elapsed_ns } => elapsed_ns <= now_ns,
            Awaited::Read | Awaited::Write => true,
        }
    }

    /// What is told of it: no error, and of a stream that there is something, not how much.
    fn event(&self) -> [u8; EVENT_BYTES] {
        let (kind, size) = match self.awaited {
            Awaited::Until { .. } => (0, 0),
            Awaited::Read => (1, 1),
            Awaited::Write => (2, 1),
        };
        let mut event = [0; EVENT_BYTES];
        let (userdata, rest) = event.split_at_mut(8);
        userdata.copy_from_slice(&self.userdata);
        if let [_, _, at_kind, _, _, _, _, _, at_size, ..] = rest {
            (*at_kind, *at_size) = (kind, size);
        }
        event
    }
}

/// Reads all of them. The clock is read once, whatever there is of it.
fn subscriptions(
    bytes: &[u8],
    at: i32,
    count: usize,
    time: &mut GuestTime,
) -> Result<(Vec<Subscription>, u64), Refused> {
    if !(1..=SUBSCRIPTIONS_MAX).contains(&count) {
        return Err(Refused::Errno(errno::INVAL));
    }
    let place = memory::range(bytes.len(), at, count * SUBSCRIPTION_BYTES)?;
    let mut read = None;
    let mut all = Vec::with_capacity(count);
    for at in place.step_by(SUBSCRIPTION_BYTES) {
        all.push(Subscription::read(bytes, at, || match read {
            Some(now) => Ok(now),
            None => Ok(*read.insert(time.read()?)),
        })?);
    }
    Ok((all, read.map(Shown::elapsed_ns).unwrap_or_default()))
}

/// How long the guest will have run when the call answers: as long as now if anything is ready.
fn answered_at(all: &[Subscription], now_ns: u64) -> u64 {
    let ready_at = all.iter().map(|one| match one.awaited {
        Awaited::Until { elapsed_ns } => elapsed_ns,
        Awaited::Read | Awaited::Write => 0,
    });
    ready_at.min().unwrap_or_default().max(now_ns)
}

async fn poll(caller: &mut Caller<'_, Guest>, ins: i32, outs: i32, count: i32, told: i32) -> Result<(), Refused> {
    let memory = memory::of(caller)?;
    let count = count.cast_unsigned() as usize;
    let (bytes, guest) = memory.data_and_store_mut(&mut *caller);
    let (all, now_ns) = subscriptions(bytes, ins, count, &mut guest.time)?;
    let until_ns = answered_at(&all, now_ns);
    if until_ns > now_ns {
        if guest.time.skips_sleep() {
            guest.pause.give_way().await;
        } else {
            tokio::time::sleep(Duration::from_nanos(until_ns - now_ns)).await;
        }
    }
    let (bytes, guest) = memory.data_and_store_mut(&mut *caller);
    guest.time.slept_until(until_ns);
    let events: Vec<_> = all.iter().filter(|one| one.is_ready(until_ns)).map(Subscription::event).collect();
    // There is room for as many events as subscriptions, also where fewer are written.
    let place = memory::range(bytes.len(), outs, count * EVENT_BYTES)?;
    let told = memory::range(bytes.len(), told, size_of::<u32>())?;
    for (at, event) in place.step_by(EVENT_BYTES).zip(&events) {
        memory::write(bytes, at, event)?;
    }
    let number = u32::try_from(events.len()).unwrap_or(u32::MAX);
    memory::write(bytes, told.start, &number.to_le_bytes())?;
    Ok(())
}

/// Replaces `poll_oneoff`.
pub(crate) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        IMPORT_MODULE,
        "poll_oneoff",
        |mut caller: Caller<'_, Guest>, (ins, outs, count, told): (i32, i32, i32, i32)| {
            Box::new(async move {
                match poll(&mut caller, ins, outs, count, told).await {
                    Ok(()) => Ok(errno::SUCCESS),
                    Err(Refused::Errno(errno)) => Ok(errno),
                    Err(Refused::Call(error)) => Err(error.into()),
                }
            })
        },
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use wasmwiz_events::time::Timestamp;

    use super::{
        super::{clocks::Told, time::VirtualTime},
        *,
    };

    const SECOND: u64 = 1_000_000_000;
    const START: u64 = 1_000 * SECOND;

    fn subscription(userdata: u8, tag: u8, number: u32, timeout_ns: u64, flags: u16) -> [u8; SUBSCRIPTION_BYTES] {
        let mut bytes = [0; SUBSCRIPTION_BYTES];
        bytes[0] = userdata;
        bytes[8] = tag;
        bytes[16..20].copy_from_slice(&number.to_le_bytes());
        bytes[24..32].copy_from_slice(&timeout_ns.to_le_bytes());
        bytes[40..42].copy_from_slice(&flags.to_le_bytes());
        bytes
    }

    fn time() -> GuestTime {
        GuestTime::by_rule(VirtualTime::starting_at(Timestamp::from_unix_ms(1_000_000)))
    }

    /// Which are ready, by their user data, and when the call answers.
    fn answered(subscribed: &[[u8; SUBSCRIPTION_BYTES]]) -> Result<(Vec<u8>, u64), Refused> {
        let (bytes, mut time) = (subscribed.concat(), time());
        let (all, now) = subscriptions(&bytes, 0, subscribed.len(), &mut time)?;
        let until = answered_at(&all, now);
        Ok((all.iter().filter(|one| one.is_ready(until)).map(|one| one.userdata[0]).collect(), until))
    }

    #[test]
    fn of_several_clocks_the_earliest_end_counts() {
        let relative = subscription(1, 0, 1, 3 * SECOND, 0);
        let at_wall = subscription(2, 0, 0, START + 2 * SECOND, IS_ABSOLUTE);
        let at_run = subscription(3, 0, 1, 2 * SECOND, IS_ABSOLUTE);
        assert_eq!(answered(&[relative, at_wall, at_run]), Ok((vec![2, 3], 2 * SECOND)));
        assert_eq!(answered(&[relative]), Ok((vec![1], 3 * SECOND + 1_000)));
    }

    #[test]
    fn streams_are_ready_and_nobody_sleeps_then() {
        let (input, output) = (subscription(1, 1, 0, 0, 0), subscription(2, 2, 1, 0, 0));
        let later = subscription(3, 0, 1, SECOND, 0);
        let past = subscription(4, 0, 0, 0, IS_ABSOLUTE);
        assert_eq!(answered(&[input, output]), Ok((vec![1, 2], 0)));
        assert_eq!(answered(&[input, later, past]), Ok((vec![1, 4], 1_000)));
    }

    #[test]
    fn only_a_clock_that_is_awaited_is_read() {
        let mut without = time();
        subscriptions(&subscription(1, 1, 0, 0, 0), 0, 1, &mut without).unwrap();
        assert_eq!(without.told(), Told::Nothing);
        let mut with = time();
        let two = [subscription(1, 0, 1, 5, 0), subscription(2, 0, 0, 5, 0)].concat();
        subscriptions(&two, 0, 2, &mut with).unwrap();
        assert_eq!((with.told(), with.read().map(Shown::elapsed_ns)), (Told::ByRule, Ok(2_000)));
    }

    #[test]
    fn what_cannot_be_waited_for_is_refused() {
        let refused = |subscribed| answered(&[subscribed]).unwrap_err();
        for (tag, number, errno) in
            [(0, 2, errno::INVAL), (0, 9, errno::INVAL), (1, 1, errno::BADF), (1, 3, errno::BADF)]
        {
            assert_eq!(refused(subscription(0, tag, number, 0, 0)), Refused::Errno(errno), "{tag} {number}");
        }
        assert_eq!(refused(subscription(0, 2, 0, 0, 0)), Refused::Errno(errno::BADF));
        assert_eq!(refused(subscription(0, 3, 0, 0, 0)), Refused::Errno(errno::INVAL));
        let bytes = vec![0; SUBSCRIPTION_BYTES];
        for count in [0, SUBSCRIPTIONS_MAX + 1, usize::MAX] {
            assert_eq!(subscriptions(&bytes, 0, count, &mut time()), Err(Refused::Errno(errno::INVAL)));
        }
        let outside = subscriptions(&bytes, 1, 1, &mut time());
        assert_eq!(outside, Err(Refused::Call(HostCallError::OutOfBounds)));
    }

    #[test]
    fn events_have_the_layout_of_preview_1() {
        let event = Subscription { userdata: *b"userdata", awaited: Awaited::Read }.event();
        assert_eq!(&event[..8], b"userdata");
        assert_eq!((event[8], event[10], event[16]), (0, 1, 1));
        let clock = Subscription { userdata: [0; 8], awaited: Awaited::Until { elapsed_ns: 0 } }.event();
        assert_eq!(clock, [0; EVENT_BYTES]);
    }
}
