//! Does what the servers acknowledged outlive a loss of power?
//!
//! It does when they sync before they acknowledge (`sync_interval: always`), which they say on their monitoring ports alone. They
//! are asked at each connection, and now and then while it lasts: a server that was started again may have other settings.
//!
//! A server that does not answer has no part in what is acknowledged now, so the answers of more than half of those that keep
//! the stream are enough; it is asked again. One that is known not to sync is enough to the contrary.

use std::{
    collections::BTreeSet,
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
    /// Nobody knows.
    Unverified(String),
    /// A server at least does not sync it.
    Unsynced(String),
}

impl Durability {
    /// What is known when so many servers keep the stream, by their names, and these answers came.
    pub fn of(servers: &BTreeSet<String>, answers: &[Result<Monitored, Unsaid>]) -> Self {
        if answers.is_empty() {
            let what =
                "it is not known whether the servers sync what they acknowledge: log.jetstream.monitor_urls is empty";
            return Self::Unverified(what.to_owned());
        }
        let (mut synced, mut others) = (BTreeSet::new(), Vec::new());
        for said in answers.iter().flatten() {
            match said.jetstream.map(|jetstream| jetstream.syncs) {
                Some(Syncs::Always) => {
                    synced.insert(said.name.as_str());
                }
                Some(Syncs::Every(every)) => others.push(format!("{} every {} s", said.name, every.as_secs())),
                Some(Syncs::Unsaid) | None => {}
            }
        }
        if !others.is_empty() {
            return Self::Unsynced(format!(
                "servers sync what they acknowledged now and then ({}), and a loss of power may take it: set sync_interval: always \
                 in the jetstream block of nats.conf",
                others.join(", ")
            ));
        }
        let (seen, unseen): (Vec<_>, Vec<_>) =
            servers.iter().map(String::as_str).partition(|server| synced.contains(server));
        if seen.len().saturating_mul(2) > servers.len() {
            let besides = if unseen.is_empty() { String::new() } else { format!("; not seen: {}", unseen.join(", ")) };
            return Self::Synced(format!("what is acknowledged is synced by {}{besides}", seen.join(", ")));
        }
        let silent = answers.iter().filter(|answer| answer.is_err()).count();
        Self::Unverified(format!(
            "it is not known whether {} sync what they acknowledge: of {} addresses in log.jetstream.monitor_urls {silent} do not \
             answer, and the others are not those of these servers",
            unseen.join(", "),
            answers.len()
        ))
    }

    /// In words.
    pub fn what(&self) -> &str {
        match self {
            Self::Synced(what) | Self::Unverified(what) | Self::Unsynced(what) => what,
        }
    }

    /// Is it enough for who accepts this?
    pub const fn is_enough(&self, accepted: Acknowledged) -> bool {
        match self {
            Self::Synced(_) => true,
            Self::Unverified(_) => matches!(accepted, Acknowledged::Unverified | Acknowledged::Unsynced),
            Self::Unsynced(_) => matches!(accepted, Acknowledged::Unsynced),
        }
    }

    /// What it says to who accepts this.
    fn told(&self, accepted: Acknowledged) -> Result<Arc<str>, Arc<str>> {
        let what = self.what();
        match self {
            Self::Synced(_) => Ok(what.into()),
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
        loop {
            let asking = Box::pin(monitor::ask(&config.monitor_urls, ca_file, within));
            let answers = tokio::select! {
                answers = asking => answers,
                () = session.lost() => break,
            };
            let known = Durability::of(session.servers(), &answers);
            let pause = if matches!(known, Durability::Synced(_)) { AGAIN_EVERY } else { UNTIL_SYNCED_EVERY };
            let was_synced = matches!(*told.borrow(), Durability::Synced(_));
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
        Durability::of(&servers.iter().map(|server| (*server).to_owned()).collect(), answers)
    }

    const EVERY: Syncs = Syncs::Every(Duration::from_secs(120));

    #[test]
    fn it_is_synced_when_more_than_half_of_the_servers_say_so_and_none_the_contrary() {
        let always = |name| said(name, Syncs::Always);
        let all = of(&["a", "b", "c"], &[always("a"), always("b"), always("c")]);
        assert_eq!(all.what(), "what is acknowledged is synced by a, b, c");
        let two = of(&["a", "b", "c"], &[always("a"), silent(), always("c")]);
        assert_eq!(two, Durability::Synced("what is acknowledged is synced by a, c; not seen: b".to_owned()));
        assert!(matches!(of(&["a", "b", "c"], &[always("a"), silent(), silent()]), Durability::Unverified(_)));
        assert!(matches!(of(&["a"], &[always("a")]), Durability::Synced(_)));
    }

    #[test]
    fn one_server_that_does_not_is_enough_to_the_contrary_and_is_named() {
        let mixed = of(&["a", "b", "c"], &[said("a", Syncs::Always), said("b", EVERY), said("c", Syncs::Always)]);
        assert!(matches!(mixed, Durability::Unsynced(_)) && mixed.what().contains("b every 120 s"), "{mixed:?}");
        assert!(mixed.what().contains("sync_interval: always"), "{mixed:?}");
    }

    #[test]
    fn other_servers_answers_and_none_say_nothing() {
        let others =
            of(&["a", "b", "c"], &[said("x", Syncs::Always), said("y", Syncs::Always), said("a", Syncs::Unsaid)]);
        assert!(matches!(&others, Durability::Unverified(what) if what.contains("a, b, c")), "{others:?}");
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
