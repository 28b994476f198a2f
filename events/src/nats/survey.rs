//! Which servers and streams are there, and how they are: for who looks at a deployment. Nothing is made, and nothing changed.

use async_nats::jetstream::{
    self, Context, ErrorCode,
    context::GetStreamErrorKind,
    stream::{Config, Info},
};
use futures_util::future::join_all;

use super::{Connection, NatsConfig, Purpose, Unconnected, servers_of, with_causes};

/// The oldest server that compares the end of a subject in a replicated stream as it should: nats-server 2.11 fences proposals
/// of leaders that were.
pub const SERVER_MIN: (u64, u64) = (2, 11);

/// Is a server of this version at least of [`SERVER_MIN`]?
pub fn is_new_enough(version: &str) -> bool {
    let mut numbers = version.split(['.', '-']).map(|part| part.parse::<u64>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) => (major, minor) >= SERVER_MIN,
        _ => false,
    }
}

/// A server that lets this program in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Its name, by which streams know it.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The largest message that it takes, in bytes.
    pub max_payload: usize,
}

/// Asks each server of the list by itself. Gives their addresses with what came of it.
pub async fn servers(config: &NatsConfig, purpose: Purpose) -> Vec<(String, Result<Server, Unconnected>)> {
    join_all(config.each().into_iter().map(|one| Box::pin(server(one, purpose)))).await
}

async fn server(config: NatsConfig, purpose: Purpose) -> (String, Result<Server, Unconnected>) {
    let opened = Box::pin(Connection::open(&config, purpose)).await;
    let server = opened.map(|connection| {
        let info = connection.client().server_info();
        Server { name: info.server_name, version: info.version, max_payload: info.max_payload }
    });
    (config.url, server)
}

/// What is other than it should be of a stream that is set up so, in a sentence each.
type Differences = Box<dyn Fn(&Config) -> Vec<String> + Send + Sync>;

/// A stream that there should be.
pub struct Wanted {
    /// Its name.
    pub stream: String,
    /// Servers that should keep a copy.
    pub replicas: usize,
    differences: Differences,
}

/// A stream that is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stream {
    /// In what it is not as it should be.
    pub differences: Vec<String>,
    /// The servers that keep it, as far as they are known.
    pub servers: Vec<String>,
    /// Those of them that are away.
    pub offline: Vec<String>,
    /// Those of them that are there and lack something.
    pub behind: Vec<String>,
}

impl Wanted {
    /// With this name, and as many copies; `differences` says in what one that is there differs otherwise.
    pub fn new(
        stream: impl Into<String>,
        replicas: usize,
        differences: impl Fn(&Config) -> Vec<String> + Send + Sync + 'static,
    ) -> Self {
        Self { stream: stream.into(), replicas, differences: Box::new(differences) }
    }

    /// Of which nothing matters but its copies.
    pub fn copies(stream: impl Into<String>, replicas: usize) -> Self {
        Self::new(stream, replicas, move |found| {
            let is = found.num_replicas;
            if is == replicas { Vec::new() } else { vec![format!("num_replicas is {is}, should be {replicas}")] }
        })
    }

    async fn find(&self, context: &Context) -> Result<Option<Stream>, String> {
        match context.get_stream(&self.stream).await {
            Ok(stream) => Ok(Some(self.seen(stream.cached_info()))),
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(refusal) if refusal.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                    Ok(None)
                }
                _ => Err(with_causes(&error)),
            },
        }
    }

    fn seen(&self, info: &Info) -> Stream {
        let copies = || info.cluster.iter().flat_map(|cluster| &cluster.replicas);
        let offline = copies().filter(|copy| copy.offline).map(|copy| copy.name.clone()).collect();
        let behind = copies().filter(|copy| !copy.offline && !copy.current).map(|copy| copy.name.clone()).collect();
        let differences = (self.differences)(&info.config);
        Stream { differences, servers: servers_of(info).collect(), offline, behind }
    }
}

/// Looks for these streams. `None`: there is none of that name.
///
/// # Errors
/// [`Unconnected`] when no server lets this program in.
pub async fn streams(
    config: &NatsConfig,
    purpose: Purpose,
    wanted: &[Wanted],
) -> Result<Vec<Result<Option<Stream>, String>>, Unconnected> {
    let connection = Box::pin(Connection::open(config, purpose)).await?;
    let context = jetstream::ContextBuilder::new().timeout(purpose.timeout).ack_timeout(purpose.timeout);
    let context = context.build(connection.client().clone());
    let mut found = Vec::new();
    for wanted in wanted {
        found.push(wanted.find(&context).await);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_server_is_told_from_a_new_one() {
        for version in ["2.11.0", "2.15.1", "2.12.0-RC.1", "3.0.0"] {
            assert!(is_new_enough(version), "{version}");
        }
        for version in ["2.10.29", "2.9.0", "1.99.0", "", "dev"] {
            assert!(!is_new_enough(version), "{version}");
        }
    }

    #[test]
    fn copies_that_are_away_or_behind_are_named() {
        let info: Info = serde_json::from_value(serde_json::json!({
            "config": {"name": "LOG", "subjects": ["log.*"], "retention": "limits", "storage": "file", "num_replicas": 3,
                       "max_consumers": -1, "max_msgs": -1, "max_bytes": -1, "max_age": 0, "max_msgs_per_subject": -1,
                       "max_msg_size": -1, "discard": "new", "duplicate_window": 120_000_000_000_u64},
            "created": "2026-11-30T14:43:15.478468417Z",
            "state": {"messages": 0, "bytes": 0, "first_seq": 0, "first_ts": "0001-01-01T00:00:00Z", "last_seq": 0,
                      "last_ts": "0001-01-01T00:00:00Z", "consumer_count": 0},
            "cluster": {"name": "c", "leader": "b", "replicas": [
                {"name": "a", "current": false, "active": 1, "lag": 7},
                {"name": "c", "current": false, "offline": true, "active": 1}
            ]}
        }))
        .unwrap();
        let wanted = Wanted::new("LOG", 3, |config| vec![format!("{} copies", config.num_replicas)]);
        let seen = wanted.seen(&info);
        assert_eq!((seen.servers, seen.offline, seen.behind), (names(&["b", "a", "c"]), names(&["c"]), names(&["a"])));
        assert_eq!(seen.differences, ["3 copies"]);
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }
}
