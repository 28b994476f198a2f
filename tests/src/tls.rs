//! TLS by hand: certificates to serve, and a client that trusts one of them.

use std::{fs, path::Path, sync::Arc};

use anyhow::Context;
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore, SupportedProtocolVersion,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, ServerName, pem::PemObject as _},
        version::{TLS12, TLS13},
    },
};

/// A certificate for `localhost` that signs itself, with its key.
#[derive(Debug, Clone, Copy)]
pub struct Certificate {
    cert: &'static str,
    key: &'static str,
}

impl Certificate {
    /// One of them.
    pub const ONE: Self =
        Self { cert: include_str!("../certificates/one.cert.pem"), key: include_str!("../certificates/one.key.pem") };

    /// Another.
    pub const TWO: Self =
        Self { cert: include_str!("../certificates/two.cert.pem"), key: include_str!("../certificates/two.key.pem") };

    /// One that ended long ago.
    pub const EXPIRED: Self = Self {
        cert: include_str!("../certificates/expired.cert.pem"),
        key: include_str!("../certificates/expired.key.pem"),
    };

    /// The certificate, as PEM.
    pub const fn text(&self) -> &'static str {
        self.cert
    }

    /// Writes `cert.pem` and `key.pem` into a folder.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        fs::write(folder.join("key.pem"), self.key).context("cannot write key.pem")?;
        fs::write(folder.join("cert.pem"), self.cert).context("cannot write cert.pem")
    }

    /// Begins TLS with the node at `url`, if it serves this certificate. `protocols` are offered by ALPN; `version` is
    /// `"1.2"` or the newest.
    ///
    /// # Errors
    /// When the node serves another certificate, or no TLS.
    pub async fn connect(&self, url: &str, protocols: &[&str], version: &str) -> anyhow::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.cert.as_bytes())?).context("not a root")?;
        let versions: &[&SupportedProtocolVersion] = if version == "1.2" { &[&TLS12] } else { &[&TLS13] };
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_protocol_versions(versions)?.with_root_certificates(roots);
        let mut config = builder.with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let address = url.trim_start_matches("https://");
        let tcp = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
        let name = ServerName::try_from("localhost").context("not a name")?;
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await.context("no TLS")
    }
}
