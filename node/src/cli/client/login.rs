//! `wasmwiz login`: keeps a node's address and a key, once the node has let the key in.

use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use clap::Args;
use reqwest::StatusCode;
use serde_json::Value;

use super::{
    Connect, block_on, connect,
    failure::{EXIT_CODES, Failure},
    http::Api,
    profile::{Profile, Profiles},
    prompt, render,
};
use crate::cli::output;

/// Keep a node's address and an API key in a profile. The key is asked for and not shown, or read from WASMWIZ_API_KEY or
/// standard input; it is kept only when the node lets it in.
#[derive(Debug, Args)]
#[command(after_help = format!("{EXIT_CODES}\n\nExamples:\n  wasmwiz login --url http://127.0.0.1:8080\n  \
                        wasmwiz login --profile staging --url https://wiz.example.com < key.txt"))]
pub struct Login {
    #[command(flatten)]
    connect: Connect,
}

impl Login {
    /// Runs it.
    ///
    /// # Errors
    /// When the node does not let the key in, or the profile cannot be kept.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let file = self.connect.file()?;
        let mut profiles = Profiles::read(&file)?;
        let url = match &self.connect.url {
            Some(url) => url.clone(),
            None => prompt::line("Address of the node")?,
        };
        let url = connect::address(&url)?.to_string();
        let key = match connect::key_of_environment()? {
            Some(key) => key,
            None => prompt::secret("API key")?,
        };
        let scopes = block_on(who(&connect::open(&url, Some(key.clone()))?, &key))?;
        profiles.put(&self.connect.profile, Profile { url: url.clone(), api_key: key });
        profiles.write(&file)?;
        let profile = render::plain(&self.connect.profile);
        output::progress(format_args!("logged in to {url} as profile {profile}, {scopes}"));
        Ok(ExitCode::SUCCESS)
    }
}

/// Asks the node about the key itself. One that may not read keys is let in and refused there, which tells as much.
async fn who(api: &Api, key: &str) -> anyhow::Result<String> {
    let id = key.strip_prefix("ww_").and_then(|rest| rest.split('_').next()).filter(|id| !id.is_empty());
    let id =
        id.context("that is no API key: one is written ww_<key id>_<secret>, as it was shown when it was issued")?;
    match api.get(&["v1", "keys", id], &[]).await {
        Ok(key) => {
            let scopes = key.get("scopes").and_then(Value::as_array).is_some_and(|scopes| !scopes.is_empty());
            ensure!(scopes, Failure::Strange { url: api.url().to_owned() });
            Ok(format!("with the scopes {}", render::plain(&render::at(&key, "/scopes"))))
        }
        Err(refused) if refused.is_refused_with(StatusCode::FORBIDDEN) && refused.is_about("missing-scope") => {
            Ok("with a key that may not read keys".to_owned())
        }
        Err(other) => Err(other.into()),
    }
}
