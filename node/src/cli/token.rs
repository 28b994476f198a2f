//! `wasmwiz token`: keys that sign tokens, and operators' tokens, without a node.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use wasmwiz_actors::ids::Ids;
use wasmwiz_events::time::{Clock as _, SystemClock};
use wasmwiz_gateway::auth::{keyring::Keyring, token};

use super::output;
use crate::{config::Config, token_keys};

/// Keys that sign tokens, and operators' tokens.
#[derive(Debug, Subcommand)]
pub enum Token {
    /// Draw a key that signs tokens.
    Keygen(Keygen),
    /// Sign a token, offline.
    Mint(Mint),
}

/// Draw a key that signs tokens (Ed25519) into a new file that only its owner may read, and print its name.
#[derive(Debug, Args)]
#[command(after_help = "To exchange a key without refusing a token:\n  1. wasmwiz token keygen --out \
                        token-keys/002.pem, set auth.token_signing_key to the old file, and restart every node: the new \
                        key verifies everywhere\n  2. remove that setting and restart: the new key, the last by name, \
                        signs\n  3. once the last token of the old key has ended, remove its file and restart")]
pub struct Keygen {
    /// The new file. `*.pem` in the folder of auth.token_keys_dir, or in token-keys below the data folder.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Sign a token for an operator, with the key that signs the platform's tokens. It cannot be taken back, only its signing key
/// can: keep it short.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  wasmwiz token mint --operator --sub ada@example.com --ttl 15m\n  wasmwiz token mint \
                        --operator --sub ci --ttl 1h --key token-keys/001.pem --config wasmwiz.toml"
)]
pub struct Mint {
    /// For an operator of the platform: there are no others.
    #[arg(long, required = true)]
    operator: bool,
    /// Who it is for. The events that it causes say `operator:<NAME>`.
    #[arg(long, value_name = "NAME")]
    sub: String,
    /// How long it is good: a number and s, m or h.
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = seconds)]
    ttl: u32,
    /// The key that signs. Without it, the one that the node of the configuration signs with.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// The node's configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Token {
    /// Does it.
    ///
    /// # Errors
    /// When the key cannot be read or written, or the token would be none.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Keygen(Keygen { out }) => {
                token_keys::draw(&out)?;
                output::line(ring_of(&out)?.signer_kid());
            }
            Self::Mint(mint) => output::line(mint.sign()?),
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Mint {
    fn sign(self) -> anyhow::Result<String> {
        let config = Config::load(self.config.as_deref())?.config;
        let ring = match &self.key {
            Some(file) => ring_of(file)?,
            None if config.auth.token_keys_dir.is_none() && !token_keys::folder_of(&config).is_dir() => {
                bail!(
                    "there is no key in {}; name one with --key, or the node's configuration with --config",
                    token_keys::folder_of(&config).display()
                )
            }
            None => token_keys::ring(&config)?,
        };
        let (id, now) = (Ids.command().to_string(), SystemClock.now());
        Ok(token::of_operator(&ring, &config.gateway.tokens, &self.sub, self.ttl, &id, now)?)
    }
}

fn ring_of(file: &std::path::Path) -> anyhow::Result<Keyring> {
    let pem = token_keys::read(file)?;
    Keyring::new(&[(file.display().to_string(), pem)], None).context("the token cannot be signed")
}

/// Reads `90s`, `15m` or `1h`.
fn seconds(text: &str) -> Result<u32, String> {
    let wrong = || "a time is a number and s, m or h, such as 15m".to_owned();
    let (number, each) = [('s', 1), ('m', 60), ('h', 3_600)]
        .into_iter()
        .find_map(|(unit, each)| text.strip_suffix(unit).map(|number| (number, each)))
        .ok_or_else(wrong)?;
    number.parse::<u32>().ok().and_then(|number| number.checked_mul(each)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit() {
        assert_eq!((seconds("90s"), seconds("15m"), seconds("2h")), (Ok(90), Ok(900), Ok(7_200)));
        for wrong in ["", "15", "m", "-1m", "1d", "99999999h"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
