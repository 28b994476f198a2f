//! Which node, and who asks: flags over the environment over the profile.

use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use reqwest::Url;

use super::{
    http::Api,
    profile::{Profiles, default_file},
};
use crate::{cli::output, here::is_here};

/// The variable that holds a key. No flag does: other users of a machine see the arguments of a process.
const KEY_VARIABLE: &str = "WASMWIZ_API_KEY";

/// Which node to ask, and as whom.
#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
pub struct Connect {
    /// The profile that `wasmwiz login` has stored.
    #[arg(
        long,
        global = true,
        env = "WASMWIZ_PROFILE",
        hide_env_values = true,
        value_name = "NAME",
        default_value = "default"
    )]
    pub(super) profile: String,
    /// The file of the profiles, instead of wasmwiz/profiles.toml in the folder of configurations.
    #[arg(long, global = true, env = "WASMWIZ_PROFILES", hide_env_values = true, value_name = "FILE")]
    profiles: Option<PathBuf>,
    /// The node's address, instead of the profile's. The key is then that of WASMWIZ_API_KEY.
    #[arg(long, global = true, env = "WASMWIZ_URL", hide_env_values = true, value_name = "URL")]
    pub(super) url: Option<String>,
}

impl Connect {
    /// The file of the profiles.
    pub(super) fn file(&self) -> anyhow::Result<PathBuf> {
        match &self.profiles {
            Some(file) => Ok(file.clone()),
            None => default_file().context("there is no home folder; name the file of the profiles with --profiles"),
        }
    }

    /// A client with a key.
    pub(super) fn api(&self) -> anyhow::Result<Api> {
        let given = key_of_environment()?;
        if let (Some(url), Some(key)) = (&self.url, &given) {
            return open(url, Some(key.clone()));
        }
        let file = self.file()?;
        let profiles = Profiles::read(&file)?;
        let stored = profiles.get(&self.profile);
        let Some(stored) = stored else {
            bail!(
                "there is no profile {} in {}: `wasmwiz login` makes one, or set WASMWIZ_URL and {KEY_VARIABLE}",
                self.profile,
                file.display()
            );
        };
        // The key of a profile goes to the node that it was stored for, and to no other.
        let same = self.url.as_deref().is_none_or(|url| stored.is_for(url));
        ensure!(
            same || given.is_some(),
            "the profile {} is for {}, and its key is not sent elsewhere: set {KEY_VARIABLE}, or name another profile",
            self.profile,
            stored.url
        );
        let url = self.url.as_deref().unwrap_or(&stored.url);
        open(url, Some(given.unwrap_or_else(|| stored.api_key.clone())))
    }

    /// A client without a key, for what everybody may ask.
    pub(super) fn anonymous(&self) -> anyhow::Result<Api> {
        match &self.url {
            Some(url) => open(url, None),
            None => {
                let profiles = Profiles::read(&self.file()?)?;
                let stored = profiles.get(&self.profile);
                let stored = stored.context("which node? Give its address with --url, or make a profile with login")?;
                open(&stored.url, None)
            }
        }
    }
}

/// A client of `url`. Warns when a key would go over a network in the clear.
pub(super) fn open(url: &str, key: Option<String>) -> anyhow::Result<Api> {
    let url = address(url)?;
    let sendable = key.as_ref().is_none_or(|key| key.bytes().all(|byte| byte.is_ascii_graphic()));
    ensure!(sendable, "the key holds a space or a letter that no key has; give it as it was shown when it was issued");
    if key.is_some() && url.scheme() == "http" && !is_here(&url) {
        output::progress(format_args!("warning: the key goes to {url} unencrypted; use https where others can listen"));
    }
    Api::new(url, key)
}

/// Reads the address of a node.
pub(super) fn address(text: &str) -> anyhow::Result<Url> {
    let url: Url = text.parse().with_context(|| format!("{text} is no address; write http://host:port"))?;
    ensure!(
        matches!(url.scheme(), "http" | "https") && url.has_host() && url.query().is_none() && url.fragment().is_none(),
        "{text} is not the address of a node; write http://host:port or https://host"
    );
    ensure!(
        url.username().is_empty() && url.password().is_none(),
        "an address holds no password; `login` asks for the key"
    );
    Ok(url)
}

/// The key in the environment, if there is one.
pub(super) fn key_of_environment() -> anyhow::Result<Option<String>> {
    let key = std::env::var_os(KEY_VARIABLE).map(std::ffi::OsString::into_string).transpose();
    let key = key.map_err(|_| anyhow::anyhow!("{KEY_VARIABLE} is not text"))?;
    Ok(key.map(|key| key.trim().to_owned()).filter(|key| !key.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_nothing_secret() {
        for good in ["http://127.0.0.1:8080", "https://wiz.example.com", "https://example.com/wiz/"] {
            address(good).expect(good);
        }
        for bad in ["localhost:8080", "ftp://x", "http://", "https://u:p@x", "https://x/?a=b", "x"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_key_that_no_header_can_hold_is_refused_before_it_is_sent_and_is_not_shown() {
        for bad in ["ww_a_se\ncret", "ww_a_se cret", "ww_a_secr\u{e9}t"] {
            let error = format!("{:#}", open("http://127.0.0.1:9", Some(bad.to_owned())).unwrap_err());
            assert!(error.contains("as it was shown") && !error.contains("ww_a"), "{error}");
        }
        let api = open("http://127.0.0.1:9", Some("ww_a_secret".to_owned())).unwrap();
        assert!(!format!("{api:?}").contains("secret"), "a key is shown");
    }
}
