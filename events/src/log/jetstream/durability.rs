//! Does what the servers acknowledged outlive a loss of power?
//!
//! It does when they sync before they acknowledge (`sync_interval: always`), which they say on their monitoring ports alone. They
//! are asked at each connection, and now and then while it lasts: a server that was started again may have other settings.
//!
//! A server that does not answer has no part in what is acknowledged now, so the answers of more than half of those that keep
//! a stream are enough; it is asked again. Of each stream by itself: a majority of all servers need not be one of those that keep
//! it, and a server that keeps no copy has no part in it. One that keeps a copy and does not sync is a warning, and not ready is a
//! node only when more than half cannot be such that do.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    JetstreamLogConfig,
    config::Acknowledged,
    link::{Standing, next_session},
};
use crate::nats::monitor::{self, Monitored, Syncs, Unsaid};

/// How often servers that are known to sync are asked again.
const AGAIN_EVERY: Duration = Duration::from_secs(60);

/// How often others are: a node waits for it to be ready.
const UNTIL_SYNCED_EVERY: Duration = Duration::from_secs(5);

/// So often in a row nobody may know what was known before, until that counts: a port that is slow once makes no node unready.
const DOUBTS_MAX: u32 = 2;

/// How often it is said in the log lines that what is acknowledged may be lost.
const SAID_EVERY: Duration = Duration::from_secs(3_600);

/// What is known of what the servers acknowledge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Durability {
    /// It is synced.
    Synced(String),
    /// More than half sync it, and a server does not.
    Partly(String),
    /// Nobody knows.
    Unverified(String),
    /// So many do not sync it that the others are no majority.
    Unsynced(String),
}

impl Durability {
    /// What is known when these servers keep the streams, by their names for each stream, and these answers came.
    pub fn of(streams: &[BTreeSet<String>], answers: &[Result<Monitored, Unsaid>]) -> Self {
        if answers.is_empty() {
            let what =
                "it is not known whether the servers sync what they acknowledge: log.jetstream.monitor_urls is empty";
            return Self::Unverified(what.to_owned());
        }
        let servers: BTreeSet<&str> = streams.iter().flatten().map(String::as_str).collect();
        let (mut synced, mut unsynced) = (BTreeSet::new(), BTreeMap::new());
        for said in answers.iter().flatten().filter(|said| servers.contains(said.name.as_str())) {
            match said.jetstream.map(|jetstream| jetstream.syncs) {
                Some(Syncs::Always) => {
                    synced.insert(said.name.as_str());
                }
                Some(Syncs::Every(every)) => {
                    unsynced.insert(said.name.as_str(), every.as_secs());
                }
                Some(Syncs::Unsaid) | None => {}
            }
        }
        // One that says both is two servers of one name, or was started again meanwhile.
        synced.retain(|name| !unsynced.contains_key(name));
        let more_than_half = |of: &BTreeSet<String>, are: &dyn Fn(&str) -> bool| {
            of.iter().filter(|name| are(name)).count().saturating_mul(2) > of.len()
        };
        let every: Vec<_> = unsynced.iter().map(|(name, every)| format!("{name} every {every} s")).collect();
        let every = every.join(", ");
        if streams.iter().any(|of| !of.is_empty() && !more_than_half(of, &|name| !unsynced.contains_key(name))) {
            return Self::Unsynced(format!(
                "servers sync what they acknowledged now and then ({every}), and a loss of power may take it: set sync_interval: \
                 always in the jetstream block of nats.conf"
            ));
        }
        let (seen, unseen): (Vec<_>, Vec<_>) = servers.iter().copied().partition(|server| synced.contains(server));
        let unseen: Vec<_> = unseen.into_iter().filter(|server| !unsynced.contains_key(server)).collect();
        if !streams.is_empty() && streams.iter().all(|of| more_than_half(of, &|name| synced.contains(name))) {
            let besides = if unseen.is_empty() { String::new() } else { format!("; not seen: {}", unseen.join(", ")) };
            let what = format!("what is acknowledged is synced by {}{besides}", seen.join(", "));
            return if every.is_empty() {
                Self::Synced(what)
            } else {
                Self::Partly(format!(
                    "{what}; now and then only by others ({every}), and a loss of power to several servers may take what \
                     one of those acknowledged: set sync_interval: always in the jetstream block of its nats.conf"
                ))
            };
        }
        let besides = if every.is_empty() { String::new() } else { format!("; others do now and then only ({every})") };
        let silent = answers.iter().filter(|answer| answer.is_err()).count();
        Self::Unverified(format!(
            "it is not known whether {} sync what they acknowledge: of {} addresses in log.jetstream.monitor_urls {silent} do not \
             answer, and the others are not those of these servers{besides}",
            unseen.join(", "),
            answers.len()
        ))
    }

    /// In words.
    pub fn what(&self) -> &str {
        match self {
            Self::Synced(what) | Self::Partly(what) | Self::Unverified(what) | Self::Unsynced(what) => what,
        }
    }

    /// Is it enough for who accepts this?
    pub const fn is_enough(&self, accepted: Acknowledged) -> bool {
        match self {
            Self::Synced(_) | Self::Partly(_) => true,
            Self::Unverified(_) => matches!(accepted, Acknowledged::Unverified | Acknowledged::Unsynced),
            Self::Unsynced(_) => matches!(accepted, Acknowledged::Unsynced),
        }
    }

    /// Does a majority sync?
    const fn is_of_most(&self) -> bool {
        matches!(self, Self::Synced(_) | Self::Partly(_))
    }

    /// What it says to who accepts this.
    fn told(&self, accepted: Acknowledged) -> Result<Arc<str>, Arc<str>> {
        let what = self.what();
        match self {
            Self::Synced(_) | Self::Partly(_) => Ok(what.into()),
            Self::Unverified(_) | Self::Unsynced(_) if self.is_enough(accepted) => {
                Ok(format!("{what}; log.jetstream.acknowledged accepts that").into())
            }
            Self::Unverified(_) => Err(format!(
                "{what}. Set log.jetstream.monitor_urls to where the servers are monitored, or accept it with \
                 log.jetstream.acknowledged = \"unverified\""
            )
            .into()),
            Self::Unsynced(_) => {
                Err(format!("{what}, or accept it with log.jetstream.acknowledged = \"unsynced\"").into())
            }
        }
    }
}

/// What is known, as it changes.
pub(super) struct Watched {
    known: watch::Receiver<Durability>,
    accepted: Acknowledged,
}

impl Watched {
    /// Begins to look, until `stopping`.
    pub(super) fn begin(
        config: &JetstreamLogConfig,
        standing: watch::Receiver<Standing>,
        stopping: CancellationToken,
    ) -> Self {
        let unasked = "it is not known yet whether the servers sync what they acknowledge: they are being asked";
        let (told, known) = watch::channel(Durability::Unverified(unasked.to_owned()));
        let looking = Box::pin(look(config.clone(), standing, told));
        tokio::spawn(stopping.run_until_cancelled_owned(looking));
        Self { known, accepted: config.acknowledged }
    }

    /// For a health check.
    pub(super) fn told(&self) -> Result<Arc<str>, Arc<str>> {
        self.known.borrow().told(self.accepted)
    }
}

/// Asks at each connection, and again and again while it lasts.
async fn look(config: JetstreamLogConfig, mut standing: watch::Receiver<Standing>, told: watch::Sender<Durability>) {
    let (ca_file, within) = (config.nats.tls_ca_file.as_deref(), config.answer_within());
    let (mut said, mut doubts, mut before) = (None, 0, Weak::new());
    while let Some(session) = next_session(&mut standing, &before).await {
        before = Arc::downgrade(&session);
        let mut keepers = session.keepers_at_first();
        loop {
            let asking = Box::pin(async {
                tokio::join!(Box::pin(monitor::ask(&config.monitor_urls, ca_file, within)), session.keepers())
            });
            let (answers, found) = tokio::select! {
                answers = asking => answers,
                () = session.lost() => break,
            };
            // Without an answer they are those of before.
            if let Some(found) = found {
                keepers = found;
            }
            let known = Durability::of(&keepers, &answers);
            let pause = if known.is_of_most() { AGAIN_EVERY } else { UNTIL_SYNCED_EVERY };
            let was_synced = told.borrow().is_of_most();
            if was_synced && matches!(known, Durability::Unverified(_)) && doubts < DOUBTS_MAX {
                doubts += 1;
            } else {
                doubts = 0;
                let is_news = *told.borrow() != known;
                if is_news || said.is_none_or(|said: Instant| said.elapsed() >= SAID_EVERY) {
                    say(&known, &answers, config.acknowledged);
                    said = Some(Instant::now());
                }
                told.send_replace(known);
            }
            tokio::select! {
                () = sleep(pause) => {}
                () = session.lost() => break,
            }
        }
    }
}

fn say(known: &Durability, answers: &[Result<Monitored, Unsaid>], accepted: Acknowledged) {
    let unsaid: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).map(ToString::to_string).collect();
    let unsaid = unsaid.join("; ");
    match known.told(accepted) {
        // Most of the servers sync it.
        Ok(what) if matches!(known, Durability::Partly(_)) => {
            tracing::warn!(%what, %unsaid, "a server of the log does not sync what it acknowledges");
        }
        Ok(what) if matches!(known, Durability::Synced(_)) => {
            tracing::info!(%what, %unsaid, "what the log's servers acknowledge is synced");
        }
        Ok(what) => tracing::warn!(%what, %unsaid, "A LOSS OF POWER MAY TAKE WHAT THE LOG HAS ACKNOWLEDGED"),
        Err(what) => {
            tracing::error!(%what, %unsaid, "A LOSS OF POWER MAY TAKE WHAT THE LOG HAS ACKNOWLEDGED: the node is not ready");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nats::monitor::JetStream;

    fn said(name: &str, syncs: Syncs) -> Result<Monitored, Unsaid> {
        let jetstream = Some(JetStream { syncs, stored_bytes: 0, stored_bytes_max: None });
        Ok(Monitored { name: name.to_owned(), version: "2.15.1".to_owned(), now: None, max_payload: 0, jetstream })
    }

    fn silent() -> Result<Monitored, Unsaid> {
        Err(Unsaid { address: "http://one:8222".to_owned(), why: "connection refused".to_owned() })
    }

    fn of(servers: &[&str], answers: &[Result<Monitored, Unsaid>]) -> Durability {
        of_two(servers, servers, answers)
    }

    fn of_two(log: &[&str], blobs: &[&str], answers: &[Result<Monitored, Unsaid>]) -> Durability {
        let streams: [BTreeSet<String>; 2] =
            [log, blobs].map(|keepers| keepers.iter().map(|server| (*server).to_owned()).collect());
        Durability::of(&streams, answers)
    }

    const EVERY: Syncs = Syncs::Every(Duration::from_secs(120));

    #[test]
    fn it_is_synced_when_more_than_half_of_the_servers_say_so() {
        let always = |name| said(name, Syncs::Always);
        let all = of(&["a", "b", "c"], &[always("a"), always("b"), always("c")]);
        assert_eq!(all.what(), "what is acknowledged is synced by a, b, c");
        let two = of(&["a", "b", "c"], &[always("a"), silent(), always("c")]);
        assert_eq!(two, Durability::Synced("what is acknowledged is synced by a, c; not seen: b".to_owned()));
        assert!(matches!(of(&["a", "b", "c"], &[always("a"), silent(), silent()]), Durability::Unverified(_)));
        assert!(matches!(of(&["a"], &[always("a")]), Durability::Synced(_)));
    }

    #[test]
    fn one_server_that_does_not_is_a_warning_and_most_of_them_are_enough_to_the_contrary() {
        let always = |name| said(name, Syncs::Always);
        let one = of(&["a", "b", "c"], &[always("a"), said("b", EVERY), always("c")]);
        assert!(matches!(one, Durability::Partly(_)) && one.what().contains("b every 120 s"), "{one:?}");
        assert!(one.what().contains("sync_interval: always"), "{one:?}");
        assert!(one.told(Acknowledged::Synced).is_ok());
        let unknown = of(&["a", "b", "c"], &[always("a"), said("b", EVERY), silent()]);
        assert!(matches!(&unknown, Durability::Unverified(what) if what.contains("b every 120 s")), "{unknown:?}");
        let most = of(&["a", "b", "c"], &[always("a"), said("b", EVERY), said("c", EVERY)]);
        assert!(
            matches!(&most, Durability::Unsynced(what) if what.contains("b every 120 s, c every 120 s")),
            "{most:?}"
        );
        let half = of(&["a", "b"], &[always("a"), said("b", EVERY)]);
        assert!(matches!(half, Durability::Unsynced(_)), "{half:?}");
    }

    #[test]
    fn a_majority_of_all_is_none_of_a_stream_that_others_keep() {
        let always = |name| said(name, Syncs::Always);
        let (log, blobs) = (["a", "b", "c"], ["c", "d", "e"]);
        let blobs_only = of_two(&log, &blobs, &[always("c"), always("d"), always("e")]);
        assert!(matches!(&blobs_only, Durability::Unverified(what) if what.contains("a, b")), "{blobs_only:?}");
        let both = of_two(&log, &blobs, &[always("a"), always("c"), always("d")]);
        assert!(matches!(both, Durability::Synced(_)), "{both:?}");
        let of_blobs = of_two(&log, &blobs, &[always("a"), always("b"), said("d", EVERY), said("e", EVERY)]);
        assert!(matches!(of_blobs, Durability::Unsynced(_)), "{of_blobs:?}");
        assert!(matches!(Durability::of(&[], &[always("a")]), Durability::Unverified(_)));
    }

    #[test]
    fn other_servers_answers_and_none_say_nothing() {
        let others =
            of(&["a", "b", "c"], &[said("x", Syncs::Always), said("y", Syncs::Always), said("a", Syncs::Unsaid)]);
        assert!(matches!(&others, Durability::Unverified(what) if what.contains("a, b, c")), "{others:?}");
        let kept_by_none = of(&["a"], &[said("a", Syncs::Always), said("x", EVERY), said("y", EVERY)]);
        assert!(matches!(kept_by_none, Durability::Synced(_)), "{kept_by_none:?}");
        let none = of(&["a"], &[]);
        assert!(matches!(&none, Durability::Unverified(what) if what.contains("monitor_urls is empty")), "{none:?}");
    }

    #[test]
    fn who_accepts_less_is_told_that_it_is_less_and_everybody_else_what_to_do() {
        let accepts = |known: &Durability| {
            let all = [Acknowledged::Synced, Acknowledged::Unverified, Acknowledged::Unsynced];
            all.map(|accepted| known.told(accepted).is_ok())
        };
        let (synced, unknown) = (of(&["a"], &[said("a", Syncs::Always)]), of(&["a"], &[]));
        let unsynced = of(&["a"], &[said("a", EVERY)]);
        assert_eq!(accepts(&synced), [true, true, true]);
        assert_eq!(accepts(&unknown), [false, true, true]);
        assert_eq!(accepts(&unsynced), [false, false, true]);
        let told = unknown.told(Acknowledged::Unverified).unwrap();
        assert!(told.contains("log.jetstream.acknowledged accepts that"), "{told}");
        let told = unknown.told(Acknowledged::Synced).unwrap_err();
        assert!(told.contains("monitor_urls") && told.contains("acknowledged = \"unverified\""), "{told}");
        let told = unsynced.told(Acknowledged::Unverified).unwrap_err();
        assert!(told.contains("sync_interval: always") && told.contains("\"unsynced\""), "{told}");
    }
}
