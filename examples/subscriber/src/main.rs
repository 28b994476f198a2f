//! Prints executions as they finish, from the feed of events.
//!
//! Stop it and start it again, kill it, restart the bus: it continues where it was, and handles every event once and in
//! order. Three things make it so, and yours needs the same:
//!
//! - a durable consumer: the bus remembers what was acknowledged;
//! - one message at a time (`max_ack_pending` 1): the next one comes when this one is acknowledged, so nothing overtakes
//!   what is delivered again. Where the order does not matter, take more at once;
//! - the id of an event is kept in the same transaction as its effect: what comes again is known.

mod event;
mod handled;

use std::{io::Write as _, path::PathBuf, time::Duration};

use anyhow::Context;
use async_nats::{
    Client, ConnectOptions, ServerAddr,
    jetstream::{
        self,
        consumer::{PullConsumer, pull},
    },
};
use clap::Parser;
use futures_util::StreamExt as _;

use crate::{event::Event, handled::Handled};

/// The stream of the feed.
const STREAM: &str = "WASMWIZ_FEED";

/// How long to wait after something went wrong.
const PAUSE: Duration = Duration::from_secs(1);

/// How long one request for a message lasts; then another one follows.
const FETCH: Duration = Duration::from_secs(5);

/// Prints executions as they finish, from the feed of events
#[derive(Debug, Parser)]
struct Options {
    /// Servers, with commas between; `tls://` demands TLS
    #[arg(long, default_value = "nats://127.0.0.1:4222")]
    url: String,
    /// Which events
    #[arg(long, default_value = "wasmwiz.v1.*.executions.*.finished")]
    subject: String,
    /// Name of the durable consumer: who has it, continues
    #[arg(long, default_value = "subscriber-rs")]
    name: String,
    /// Where handled events are remembered
    #[arg(long, default_value = "subscriber-rs.sqlite")]
    state: PathBuf,
    /// End after so many new events
    #[arg(long)]
    count: Option<u64>,
    /// Seconds until what was not acknowledged comes again
    #[arg(long, default_value_t = 30.0)]
    ack_wait: f64,
    /// What the subjects of answers begin with
    #[arg(long, default_value = "_INBOX")]
    inbox: String,
    /// PEM file of the authorities that are trusted, instead of the system's
    #[arg(long)]
    ca: Option<PathBuf>,
    /// File with the seed of an nkey
    #[arg(long)]
    nkey: Option<PathBuf>,
    /// Credentials file
    #[arg(long)]
    creds: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let mut handled = Handled::open(&options.state)?;
    let bus = connect(&options).await?;
    let mut left = options.count;
    let mut consumer = None;
    while left != Some(0) {
        match step(&bus, &options, &mut consumer, &mut handled).await {
            Ok(is_new) => left = left.map(|left| left.saturating_sub(u64::from(is_new))),
            Err(error) => {
                // No stream yet, no permission, a bus that starts: what helps is not here.
                eprintln!("subscriber: {error:#}, trying again");
                consumer = None;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    bus.drain().await.context("the last acknowledgement may be lost, and the event come again")
}

async fn connect(options: &Options) -> anyhow::Result<Client> {
    let mut connect = ConnectOptions::new().name(&options.name).custom_inbox_prefix(&options.inbox).event_callback(say);
    if let Some(file) = &options.nkey {
        let seed = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        connect = connect.nkey(seed.trim().to_owned());
    }
    if let Some(file) = &options.creds {
        connect = connect.credentials_file(file).await?;
    }
    if let Some(file) = &options.ca {
        connect = connect.add_root_certificates(file.clone()).require_tls(true);
    }
    let servers = options.url.split(',').map(str::parse).collect::<Result<Vec<ServerAddr>, _>>()?;
    // It connects again by itself, for ever: the bus may be away for long.
    Ok(connect.retry_on_initial_connect().connect(servers).await?)
}

/// What becomes of the connection, and what the bus complains of.
async fn say(event: async_nats::Event) {
    eprintln!("subscriber: {event}");
}

/// Handles one event, if one comes in time. Was it new?
async fn step(
    bus: &Client,
    options: &Options,
    consumer: &mut Option<PullConsumer>,
    handled: &mut Handled,
) -> anyhow::Result<bool> {
    let current = match consumer {
        Some(current) => current,
        None => consumer.insert(subscribe(bus, options).await?),
    };
    let mut messages = current.fetch().max_messages(1).expires(FETCH).messages().await?;
    let Some(message) = messages.next().await else { return Ok(false) };
    let message = message.map_err(anyhow::Error::from_boxed)?;
    let event: Event = serde_json::from_slice(&message.payload).context("a message is no CloudEvent")?;
    let is_new = handled.once(&event, |event| {
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{event}").and_then(|()| stdout.flush()).context("cannot print")
    })?;
    message.ack().await.map_err(anyhow::Error::from_boxed)?;
    Ok(is_new)
}

/// Makes the consumer, or finds it as it was left.
async fn subscribe(bus: &Client, options: &Options) -> anyhow::Result<PullConsumer> {
    let config = pull::Config {
        durable_name: Some(options.name.clone()),
        filter_subject: options.subject.clone(),
        ack_wait: Duration::from_secs_f64(options.ack_wait),
        max_ack_pending: 1,
        ..Default::default()
    };
    Ok(jetstream::new(bus.clone()).create_consumer_on_stream(config, STREAM).await?)
}
