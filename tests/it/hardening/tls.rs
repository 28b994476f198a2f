//! TLS on the API's listener: what is spoken, what is refused, and certificates that change while a node serves.

use super::*;
use std::path::Path;

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;
use wasmwiz_tests::{harness::Launch, tls::Certificate};

/// A node that serves what is in a folder, and looks there only when it is told to.
fn launch(folder: &Path) -> anyhow::Result<Launch> {
    let config = format!(
        "[node]\ndata_dir = \"{{data}}\"\n[listen]\napi = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n\
         [listen.tls]\ncert_file = {:?}\nkey_file = {:?}\ncheck_every_ms = 3600000\n\
         [gateway.server]\ntls_handshake_timeout_ms = 500\n",
        folder.join("cert.pem"),
        folder.join("key.pem"),
    );
    Launch::node(&config)
}

async fn serving() -> anyhow::Result<(NodeProcess, Certificate, TempDir)> {
    let (folder, certificate) = (tempfile::tempdir()?, Certificate::ONE);
    certificate.write(folder.path())?;
    Ok((launch(folder.path())?.start().await?, certificate, folder))
}

async fn get(mut stream: TlsStream<TcpStream>) -> anyhow::Result<String> {
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await.context("no answer")??;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test]
async fn a_node_with_a_certificate_speaks_tls_and_nothing_else() -> anyhow::Result<()> {
    let (node, certificate, _folder) = serving().await?;
    let url = &node.ready().url;
    ensure!(url.starts_with("https://"), "{url}");
    for version in ["1.2", "1.3"] {
        let answer = get(certificate.connect(url, &["http/1.1"], version).await?).await?;
        ensure!(
            answer.starts_with("HTTP/1.1 200") && answer.contains("strict-transport-security: max-age="),
            "{answer}"
        );
    }
    for (offered, chosen) in
        [(&["h2", "http/1.1"][..], Some(&b"h2"[..])), (&["http/1.1"], Some(b"http/1.1")), (&[], None)]
    {
        let stream = certificate.connect(url, offered, "1.3").await?;
        ensure!(stream.get_ref().1.alpn_protocol() == chosen, "{offered:?}");
    }
    // The first frame of a server that speaks HTTP/2 is SETTINGS.
    let mut stream = certificate.connect(url, &["h2"], "1.3").await?;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
    let mut frame = [0; 9];
    tokio::time::timeout(SOON, stream.read_exact(&mut frame)).await??;
    ensure!(frame[3] == 4, "{frame:?}");

    let in_the_clear = url.replace("https://", "http://");
    let mut connection = Connection::open(&in_the_clear).await?;
    connection.send("GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await?;
    let got = String::from_utf8_lossy(&connection.read_to_end(SOON).await?).into_owned();
    ensure!(!got.contains("HTTP/1.1"), "{got}");
    let mut silent = Connection::open(&in_the_clear).await?;
    silent.read_to_end(SOON).await?;
    let admin = node.admin()?;
    ensure!(admin.url().starts_with("http://"), "{}", admin.url());
    ensure!(admin.get("/readyz").await?.header("strict-transport-security").is_none(), "HSTS in the clear");
    for reason in ["failed", "slow"] {
        until_counted(&admin, "wasmwiz_tls_handshakes_refused_total", reason, 1.0).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_new_certificate_is_served_without_a_restart_and_a_bad_one_never() -> anyhow::Result<()> {
    let (mut node, first, folder) = serving().await?;
    let (url, admin, second) = (node.ready().url.clone(), node.admin()?, Certificate::TWO);
    let mut old = first.connect(&url, &["http/1.1"], "1.3").await?;

    std::fs::write(folder.path().join("cert.pem"), "no certificate")?;
    node.signal(Signal::HUP)?;
    until_counted(&admin, "wasmwiz_tls_reloads_total", "failed", 1.0).await?;
    // What is logged is written by a thread of its own.
    wait::until("a warning", SOON, async || Ok(node.stderr().contains("cert.pem").then_some(()))).await?;
    get(first.connect(&url, &[], "1.3").await?).await?;

    second.write(folder.path())?;
    node.signal(Signal::HUP)?;
    until_counted(&admin, "wasmwiz_tls_reloads_total", "changed", 1.0).await?;
    ensure!(first.connect(&url, &[], "1.3").await.is_err(), "the old certificate is still served");
    ensure!(get(second.connect(&url, &[], "1.3").await?).await?.starts_with("HTTP/1.1 200"), "no answer");
    // Who was there before stays.
    old.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await?;
    let mut status = [0; 12];
    tokio::time::timeout(SOON, old.read_exact(&mut status)).await??;
    ensure!(&status == b"HTTP/1.1 200", "{status:?}");
    Ok(())
}

#[tokio::test]
async fn a_changed_file_is_seen_without_a_signal() -> anyhow::Result<()> {
    let (folder, certificate) = (tempfile::tempdir()?, Certificate::ONE);
    certificate.write(folder.path())?;
    let launch = launch(folder.path())?.variable("WASMWIZ_LISTEN__TLS__CHECK_EVERY_MS", "50");
    let node = launch.start().await?;
    let second = Certificate::TWO;
    second.write(folder.path())?;
    wait::until("the new certificate", SOON, async || Ok(second.connect(&node.ready().url, &[], "1.3").await.ok()))
        .await?;
    Ok(())
}

#[tokio::test]
async fn files_that_cannot_be_served_stop_the_start_with_a_remedy() -> anyhow::Result<()> {
    let (folder, certificate) = (tempfile::tempdir()?, Certificate::ONE);
    let missing = launch(folder.path())?.start_in_vain().await?;
    ensure!(missing.stderr.contains("listen.tls.cert_file") && missing.code != Some(0), "{missing:?}");
    certificate.write(folder.path())?;
    std::fs::write(folder.path().join("key.pem"), "no key")?;
    let broken = launch(folder.path())?.start_in_vain().await?;
    ensure!(broken.stderr.contains("holds no private key in PEM; set listen.tls.key_file"), "{broken:?}");
    Ok(())
}
