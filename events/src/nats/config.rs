//! Where NATS is, as whom to speak to it, and whom to trust.

use std::path::PathBuf;

use async_nats::ServerAddr;
use serde::{Deserialize, Serialize};

/// The most servers of a list. A cluster tells its other members by itself.
const SERVERS_MAX: usize = 16;

/// Settings of a connection to NATS. There is none while `url` is empty. No secret is among them: those are in files of
/// their own, which are read at every connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct NatsConfig {
    /// The servers, such as `nats://one:4222,nats://two:4222`; `tls://` demands TLS. No user or password in it.
    pub url: String,
    /// A credentials file (JWT and seed).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials_file: Option<PathBuf>,
    /// A file that holds the seed of a user's nkey (`SU…`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nkey_file: Option<PathBuf>,
    /// A user, with the password in `password_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// A file that holds the password; its trailing newline is ignored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// PEM file of the authorities that are trusted, instead of the system's; demands TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_ca_file: Option<PathBuf>,
    /// PEM file of the certificate that is shown to the server, with its key in `tls_key_file`; demands TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_cert_file: Option<PathBuf>,
    /// PEM file of that key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key_file: Option<PathBuf>,
}

impl NatsConfig {
    /// Is there a NATS to speak to?
    pub fn is_on(&self) -> bool {
        !self.url.is_empty()
    }

    /// The servers, one by one.
    pub(super) fn servers(&self) -> Vec<&str> {
        self.url.split(',').map(str::trim).collect()
    }

    /// A configuration of each server alone.
    pub(super) fn each(&self) -> Vec<Self> {
        self.servers().into_iter().map(|server| Self { url: server.to_owned(), ..self.clone() }).collect()
    }

    pub(super) fn demands_tls(&self) -> bool {
        self.tls_ca_file.is_some() || self.tls_cert_file.is_some()
    }

    /// The key that is wrong, and what would be right. Neither has the value: it may hold a secret.
    ///
    /// # Errors
    /// The first such key.
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        if self.url.contains('@') {
            return Err((
                "url",
                "holds a user or password; give credentials_file, nkey_file, or user and password_file",
            ));
        }
        let servers = self.servers();
        if self.is_on() && (servers.len() > SERVERS_MAX || !servers.iter().all(|server| is_server(server))) {
            return Err(("url", "is 1 to 16 servers with commas between, such as nats://one:4222,tls://two:4222"));
        }
        if self.user.is_some() != self.password_file.is_some() {
            return Err(("user and password_file", "come together; give both or none"));
        }
        if self.tls_cert_file.is_some() != self.tls_key_file.is_some() {
            return Err(("tls_cert_file and tls_key_file", "come together; give both or none"));
        }
        let identities = [self.credentials_file.is_some(), self.nkey_file.is_some(), self.user.is_some()];
        if identities.into_iter().filter(|given| *given).count() > 1 {
            return Err(("credentials_file, nkey_file and user", "exclude each other; give one"));
        }
        Ok(())
    }
}

fn is_server(text: &str) -> bool {
    text.parse().is_ok_and(|server: ServerAddr| matches!(server.scheme(), "nats" | "tls") && !server.host().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(config: NatsConfig) -> &'static str {
        config.check().unwrap_err().0
    }

    #[test]
    fn the_default_is_off_and_servers_are_a_list() {
        assert_eq!((NatsConfig::default().is_on(), NatsConfig::default().check()), (false, Ok(())));
        let two = NatsConfig { url: "nats://one:4222, tls://[::1]:4223".into(), ..Default::default() };
        assert_eq!((two.check(), two.servers()), (Ok(()), vec!["nats://one:4222", "tls://[::1]:4223"]));
        assert_eq!(two.each().iter().map(|one| one.url.as_str()).collect::<Vec<_>>(), two.servers());
    }

    #[test]
    fn what_is_no_server_or_holds_a_secret_is_refused() {
        for url in ["nats://a:b@c", "http://one", "nats://one,,nats://two", "nats://one,", "nats://one two"] {
            assert_eq!(wrong(NatsConfig { url: url.into(), ..Default::default() }), "url", "{url}");
        }
    }

    #[test]
    fn one_identity_and_it_is_whole() {
        let file = || Some(PathBuf::from("x"));
        assert_eq!(wrong(NatsConfig { user: Some("a".into()), ..Default::default() }), "user and password_file");
        assert_eq!(wrong(NatsConfig { tls_key_file: file(), ..Default::default() }), "tls_cert_file and tls_key_file");
        assert_eq!(
            wrong(NatsConfig { nkey_file: file(), credentials_file: file(), ..Default::default() }),
            "credentials_file, nkey_file and user"
        );
    }
}
