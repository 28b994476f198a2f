//! What a server of NATS says of itself on its monitoring port. Clients are not told whether it syncs what it acknowledges.
//!
//! A port is asked for one page, `/varz`, within a time and up to a size. No proxy of the environment comes between, and no
//! redirect is followed.

use std::{path::Path, time::Duration};

use futures_util::future::join_all;
use reqwest::{Certificate, Client, Url, redirect};
use serde::Deserialize;

use super::with_causes;
use crate::time::Timestamp;

/// The most addresses that are asked.
pub(crate) const ADDRESSES_MAX: usize = 16;

/// The most bytes that are read of a page: a usual one has some KiB.
const PAGE_BYTES_MAX: usize = 1 << 20;

/// What a server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Monitored {
    /// Its name, by which streams know it.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its clock.
    pub now: Option<Timestamp>,
    /// The largest message that it takes, in bytes.
    pub max_payload: usize,
    /// Its JetStream, unless that is switched off.
    pub jetstream: Option<JetStream>,
}

/// What it says of its JetStream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JetStream {
    /// When it syncs what it stores.
    pub syncs: Syncs,
    /// Bytes that it stores in files.
    pub stored_bytes: u64,
    /// The most of them, when there is a bound.
    pub stored_bytes_max: Option<u64>,
}

/// When a server syncs what it stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syncs {
    /// Before it acknowledges (`sync_interval: always`).
    Always,
    /// Now and then: what it acknowledged since is lost with its power.
    Every(Duration),
    /// It does not say.
    Unsaid,
}

/// A server has not said anything. For the operator's log: it names the address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{address} does not say how its server is: {why}")]
pub struct Unsaid {
    /// The address.
    pub address: String,
    /// Why.
    pub why: String,
}

/// Is it an address that can be asked: of http or https, with nothing secret in it?
pub(crate) fn is_address(text: &str) -> bool {
    page(text).is_some()
}

/// Asks all of these at the same time, each `within` this. `ca_file` has the authorities that are trusted, instead of the
/// system's.
pub async fn ask(addresses: &[String], ca_file: Option<&Path>, within: Duration) -> Vec<Result<Monitored, Unsaid>> {
    match client(addresses, ca_file, within).await {
        Ok(http) => join_all(addresses.iter().map(|address| Box::pin(one(&http, address)))).await,
        Err(why) => {
            let unsaid = |address: &String| Err(Unsaid { address: address.clone(), why: why.clone() });
            addresses.iter().map(unsaid).collect()
        }
    }
}

async fn client(addresses: &[String], ca_file: Option<&Path>, within: Duration) -> Result<Client, String> {
    let mut http = Client::builder().no_proxy().redirect(redirect::Policy::none()).timeout(within);
    if let Some(file) = ca_file {
        let pem = tokio::fs::read(file).await.map_err(|error| format!("{}: {error}", file.display()))?;
        let roots = Certificate::from_pem_bundle(&pem).map_err(|error| with_causes(&error))?;
        http = http.tls_certs_only(roots);
    } else if addresses.iter().all(|address| address.starts_with("http://")) {
        // A machine without the system's certificates can ask in the clear all the same.
        http = http.tls_certs_only([]);
    }
    http.build().map_err(|error| with_causes(&error))
}

async fn one(http: &Client, address: &str) -> Result<Monitored, Unsaid> {
    let unsaid = |why: String| Unsaid { address: address.to_owned(), why };
    let failed = |error: reqwest::Error| unsaid(with_causes(&error.without_url()));
    let page = page(address).ok_or_else(|| unsaid("it is no address of a monitoring port".to_owned()))?;
    let mut response = http.get(page).send().await.map_err(failed)?;
    if !response.status().is_success() {
        return Err(unsaid(format!("it answers {}", response.status())));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len().saturating_add(chunk.len()) > PAGE_BYTES_MAX {
            return Err(unsaid(format!("it answers with more than {PAGE_BYTES_MAX} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    read(&body).map_err(|error| unsaid(format!("it answers what no server of NATS does: {error}")))
}

/// The address of the page.
fn page(address: &str) -> Option<Url> {
    let mut page = Url::parse(address).ok()?;
    let is_plain = matches!(page.scheme(), "http" | "https")
        && page.has_host()
        && page.username().is_empty()
        && page.password().is_none()
        && page.query().is_none()
        && page.fragment().is_none();
    page.path_segments_mut().ok()?.pop_if_empty().push("varz");
    is_plain.then_some(page)
}

#[derive(Deserialize)]
struct Varz {
    server_name: String,
    version: String,
    now: Option<String>,
    #[serde(default)]
    max_payload: usize,
    jetstream: Option<JetStreamVarz>,
}

#[derive(Deserialize)]
struct JetStreamVarz {
    config: Option<ConfigVarz>,
    #[serde(default)]
    stats: StatsVarz,
}

#[derive(Deserialize)]
struct ConfigVarz {
    #[serde(default)]
    max_storage: i64,
    /// Nanoseconds.
    #[serde(default)]
    sync_interval: u64,
    /// Left out where it is not so.
    #[serde(default)]
    sync_always: bool,
}

#[derive(Default, Deserialize)]
struct StatsVarz {
    #[serde(default)]
    storage: u64,
}

fn read(page: &[u8]) -> serde_json::Result<Monitored> {
    let Varz { server_name, version, now, max_payload, jetstream } = serde_json::from_slice(page)?;
    let jetstream = jetstream.and_then(|JetStreamVarz { config, stats }| {
        let ConfigVarz { max_storage, sync_interval, sync_always } = config?;
        let syncs = match (sync_always, sync_interval) {
            (true, _) => Syncs::Always,
            (false, 0) => Syncs::Unsaid,
            (false, nanoseconds) => Syncs::Every(Duration::from_nanos(nanoseconds)),
        };
        let stored_bytes_max = u64::try_from(max_storage).ok().filter(|bytes| *bytes > 0);
        Some(JetStream { syncs, stored_bytes: stats.storage, stored_bytes_max })
    });
    let now = now.and_then(|now| now.parse().ok());
    Ok(Monitored { name: server_name, version, now, max_payload, jetstream })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page of nats-server 2.15.1, without what is not read.
    fn varz(config: &str) -> String {
        format!(
            r#"{{"server_id": "NCDG", "server_name": "nats-1", "version": "2.15.1", "max_payload": 2097152,
                "jetstream": {{{config}"stats": {{"memory": 0, "storage": 4096, "api": {{"level": 5}}}}, "limits": {{}}}},
                "now": "2026-11-30T14:31:13.933397224Z"}}"#
        )
    }

    #[test]
    fn a_server_says_whether_it_syncs_what_it_acknowledges() {
        let syncs = |config: &str| {
            let said = read(varz(&format!("\"config\": {config},")).as_bytes()).unwrap();
            said.jetstream.unwrap().syncs
        };
        assert_eq!(syncs(r#"{"sync_interval": 120000000000, "sync_always": true, "strict": true}"#), Syncs::Always);
        let two_minutes = Syncs::Every(Duration::from_secs(120));
        assert_eq!(syncs(r#"{"max_storage": 46717943808, "sync_interval": 120000000000}"#), two_minutes);
        assert_eq!(syncs(r#"{"sync_interval": 120000000000, "sync_always": false}"#), two_minutes);
        assert_eq!(syncs("{}"), Syncs::Unsaid);
    }

    #[test]
    fn it_says_its_name_its_clock_and_how_full_it_is() {
        let said = read(varz(r#""config": {"max_storage": 8192, "sync_always": true},"#).as_bytes()).unwrap();
        assert_eq!((said.name.as_str(), said.version.as_str(), said.max_payload), ("nats-1", "2.15.1", 2 << 20));
        assert_eq!(said.now.unwrap().to_string(), "2026-11-30T14:31:13.933Z");
        let jetstream = said.jetstream.unwrap();
        assert_eq!((jetstream.stored_bytes, jetstream.stored_bytes_max), (4_096, Some(8_192)));
    }

    #[test]
    fn a_server_without_jetstream_and_a_page_of_something_else_are_told_apart() {
        let off = br#"{"server_name": "edge", "version": "2.15.1", "jetstream": {}}"#;
        assert_eq!(read(off).unwrap().jetstream, None);
        assert!(read(b"{}").is_err() && read(b"<html>").is_err());
    }

    #[test]
    fn an_address_is_one_of_http_without_a_secret() {
        for good in ["http://127.0.0.1:8222", "https://nats-1.example.org:8222/", "http://[::1]:8222/nats"] {
            assert!(is_address(good), "{good}");
        }
        assert_eq!(page("http://one:8222/nats/").unwrap().as_str(), "http://one:8222/nats/varz");
        for bad in ["nats://one:4222", "one:8222", "http://a:b@one", "http://one/?a=b", "http://", ""] {
            assert!(!is_address(bad), "{bad}");
        }
    }

    #[tokio::test]
    async fn nobody_who_does_not_answer_keeps_the_others_from_it() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addresses =
            [format!("http://{closed}"), format!("http://{}", silent.local_addr().unwrap()), "nonsense".to_owned()];
        let answers = ask(&addresses, None, Duration::from_millis(200)).await;
        assert_eq!(answers.len(), 3);
        for (answer, address) in answers.iter().zip(&addresses) {
            assert_eq!(&answer.as_ref().unwrap_err().address, address);
        }
    }
}
