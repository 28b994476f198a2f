//! The certificate of the API's listener: read at the start, and again whenever its files change or SIGHUP asks for it.

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use wasmwiz_gateway::{
    auth::{config::TokensConfig, issuer_certificates},
    metrics::TLS_RELOADS_TOTAL,
    server::{Reloaded, Tls, TlsConfig},
};

/// Reads what the settings name; `None` when they name nothing.
///
/// # Errors
/// When it cannot be served, with the setting to change.
pub(crate) async fn load(config: Option<&TlsConfig>) -> anyhow::Result<Option<Tls>> {
    let Some(config) = config.cloned() else { return Ok(None) };
    let loaded = tokio::task::spawn_blocking(move || Tls::load(config)).await;
    Ok(Some(loaded.context("the certificate cannot be read")??))
}

/// Can the certificates be read that issuers' own must lead to?
///
/// # Errors
/// The first that cannot, with the setting to change.
pub(crate) async fn check_issuers(config: &TokensConfig) -> anyhow::Result<()> {
    let config = config.clone();
    Ok(tokio::task::spawn_blocking(move || issuer_certificates::check(&config)).await??)
}

/// Looks for changes, beside everything else, until the node stops.
///
/// # Errors
/// When the signal cannot be heard.
pub(crate) fn keep_current(tls: Option<&Tls>, stopping: &CancellationToken) -> anyhow::Result<()> {
    let Some(tls) = tls.cloned() else { return Ok(()) };
    let hangups = signal(SignalKind::hangup()).context("SIGHUP cannot be heard")?;
    tokio::spawn(stopping.clone().run_until_cancelled_owned(look(tls, hangups)));
    Ok(())
}

async fn look(tls: Tls, mut hangups: Signal) {
    // An error is told once, and again when asked for: the files may be wrong for long.
    let mut told = None;
    loop {
        let asked = tokio::select! {
            _ = hangups.recv() => true,
            () = tokio::time::sleep(tls.check_every()) => false,
        };
        let looked = {
            let tls = tls.clone();
            tokio::task::spawn_blocking(move || tls.reload()).await
        };
        let result = match looked {
            Ok(Ok(Reloaded::Unchanged)) => {
                told = None;
                if asked {
                    tracing::info!("the certificate is as it was");
                }
                continue;
            }
            Ok(Ok(Reloaded::Changed)) => {
                told = None;
                tracing::info!("new connections get the new certificate");
                "changed"
            }
            Ok(Err(error)) => {
                let error = error.to_string();
                if asked || told.as_ref() != Some(&error) {
                    tracing::warn!(error, "the certificate cannot be replaced; the one that is served is served on");
                    told = Some(error);
                }
                "failed"
            }
            Err(error) => {
                tracing::error!(%error, "looking at the certificate failed");
                "failed"
            }
        };
        metrics::counter!(TLS_RELOADS_TOTAL, "result" => result).increment(1);
    }
}
