//! Connections to NATS, for all that speaks to it: where, as whom, by which TLS, and what is in the way if there is none.
//!
//! A `Connection` ends with its first loss. Whoever holds it opens another and begins where it knows that it was
//! understood: a client that reconnects by itself repeats messages out of sight, and does not say why it fails.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use async_nats::{Client, ConnectOptions, Event};
use tokio_util::sync::CancellationToken;

mod config;
mod error;
pub mod monitor;
mod settings;
pub mod survey;

pub use config::NatsConfig;
pub(crate) use error::is_full;
pub use error::{Unconnected, with_causes};
pub(crate) use settings::{differences, servers_of};

/// Requests of a client that wait for the socket, at most. Whoever sends more waits.
const CLIENT_QUEUE: usize = 2_048;

/// How often an idle connection is tried. A server that vanished is noticed after two of these.
const PING_EVERY: Duration = Duration::from_secs(5);

/// What a connection is for.
#[derive(Debug, Clone, Copy)]
pub struct Purpose {
    /// The name that the server shows for it.
    pub name: &'static str,
    /// Where its settings are, for the remedies in errors: `feed.nats`.
    pub section: &'static str,
    /// How long one server may take to accept it, and any request to be answered.
    pub timeout: Duration,
}

/// A connection that ends with its first loss.
#[derive(Debug)]
pub struct Connection {
    client: Client,
    lost: CancellationToken,
}

impl Connection {
    /// Tries every server once. All files are read again.
    ///
    /// # Errors
    /// [`Unconnected`] says what is in the way, and what to do.
    pub async fn open(config: &NatsConfig, purpose: Purpose) -> Result<Self, Unconnected> {
        let Purpose { section, timeout, .. } = purpose;
        let (servers, lost) = (config.servers(), CancellationToken::new());
        let unusable = |why| Unconnected::File { section, why };
        let options = options(config, purpose, lost.clone()).await.map_err(unusable)?;
        // A name may have several addresses, each with its own time.
        let all = timeout.saturating_mul(2 * u32::try_from(servers.len()).unwrap_or(u32::MAX));
        match tokio::time::timeout(all, options.connect(servers)).await {
            Ok(Ok(client)) => Ok(Self { client, lost }),
            Ok(Err(error)) => Err(Unconnected::from_client(&error, section)),
            Err(_) => Err(Unconnected::Unreachable { section, why: "no answer in time".to_owned() }),
        }
    }

    /// To speak through it. A clone keeps the connection open.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Resolves once the connection is gone.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }
}

/// The error names the file.
async fn options(config: &NatsConfig, purpose: Purpose, lost: CancellationToken) -> Result<ConnectOptions, String> {
    let mut options = ConnectOptions::new();
    if let Some(file) = &config.credentials_file {
        options = options.credentials(&read(file).await?).map_err(|error| about(file, &error))?;
    }
    if let Some(file) = &config.nkey_file {
        options = options.nkey(read(file).await?.trim().to_owned());
    }
    if let (Some(user), Some(file)) = (&config.user, &config.password_file) {
        let password = read(file).await?;
        options = options.user_and_password(user.clone(), password.trim_end_matches(['\r', '\n']).to_owned());
    }
    if let Some(file) = &config.tls_ca_file {
        options = options.add_root_certificates(readable(file).await?);
    }
    if let (Some(certificate), Some(key)) = (&config.tls_cert_file, &config.tls_key_file) {
        options = options.add_client_certificate(readable(certificate).await?, readable(key).await?);
    }
    Ok(options
        .require_tls(config.demands_tls())
        .name(purpose.name)
        .client_capacity(CLIENT_QUEUE)
        .connection_timeout(purpose.timeout)
        .request_timeout(Some(purpose.timeout))
        .ping_interval(PING_EVERY)
        // Its own attempts end soon: nobody waits for them.
        .max_reconnects(config.servers().len())
        .event_callback(move |event| {
            let lost = lost.clone();
            async move {
                if matches!(event, Event::Disconnected | Event::Closed | Event::LameDuckMode) {
                    lost.cancel();
                }
            }
        }))
}

async fn read(file: &Path) -> Result<String, String> {
    tokio::fs::read_to_string(file).await.map_err(|error| about(file, &error))
}

/// The client reads this one itself, and would not say which it could not.
async fn readable(file: &Path) -> Result<PathBuf, String> {
    tokio::fs::read(file).await.map(|_| file.to_owned()).map_err(|error| about(file, &error))
}

fn about(file: &Path, error: &io::Error) -> String {
    format!("{}: {error}", file.display())
}
