//! TLS on the listener that faces clients: rustls with aws-lc-rs, and certificates that are read again while it serves.
//!
//! **Invariants**
//! - A pair of files that cannot be served never replaces one that can.
//! - Old connections keep the certificate they began with; new ones get the current one.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
        version::{TLS12, TLS13},
    },
    server::TlsStream,
};

use super::{ServerConfig, admission::Admission};
use crate::metrics;

/// The most that is read of one file, in bytes. A chain of certificates has some ten kilobytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where the certificate and its key are, in PEM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The certificate, followed by those that lead to its root.
    pub cert_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
    /// How often the files are looked at for a change, in milliseconds. SIGHUP makes it at once.
    #[serde(default = "check_every_ms")]
    pub check_every_ms: u64,
}

const fn check_every_ms() -> u64 {
    10_000
}

/// A certificate and its key cannot be served. The text names the file and what to do.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{} cannot be read: {source}; {key} names it", path.display())]
    Unreadable {
        /// The setting that names the file.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} holds no {what} in PEM; set {key} to one that does", path.display())]
    Empty {
        /// What was looked for.
        what: &'static str,
        /// The setting that names the file.
        key: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The two do not belong together, or are of a kind that is not served.
    #[error(
        "the certificate and the key of listen.tls cannot be served together: {0}; give the key of this certificate"
    )]
    Unfit(#[from] rustls::Error),
}

/// What became of a look at the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reloaded {
    /// They are as they were.
    Unchanged,
    /// New connections get the new certificate.
    Changed,
}

/// The certificate that is served. Clones share it.
#[derive(Clone)]
pub struct Tls(Arc<Shared>);

struct Shared {
    config: TlsConfig,
    current: RwLock<Served>,
}

#[derive(Clone)]
struct Served {
    acceptor: TlsAcceptor,
    /// Of both files: tells whether they have changed.
    fingerprint: [u8; 32],
}

impl Tls {
    /// Reads the files. Blocks.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn load(config: TlsConfig) -> Result<Self, TlsError> {
        let served = Files::read(&config)?.served(&config)?;
        Ok(Self(Arc::new(Shared { config, current: RwLock::new(served) })))
    }

    /// Reads the files again, and serves them from now on if they have changed. Blocks.
    ///
    /// # Errors
    /// [`TlsError`]; then what was served is served on.
    pub fn reload(&self) -> Result<Reloaded, TlsError> {
        let files = Files::read(&self.0.config)?;
        if files.fingerprint() == self.current().fingerprint {
            return Ok(Reloaded::Unchanged);
        }
        let served = files.served(&self.0.config)?;
        *self.0.current.write().unwrap_or_else(PoisonError::into_inner) = served;
        Ok(Reloaded::Changed)
    }

    /// How often to look at the files.
    pub fn check_every(&self) -> Duration {
        Duration::from_millis(self.0.config.check_every_ms.max(1))
    }

    fn current(&self) -> Served {
        self.0.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Both files, as they were at one time.
struct Files {
    cert: Vec<u8>,
    key: Vec<u8>,
}

impl Files {
    fn read(config: &TlsConfig) -> Result<Self, TlsError> {
        let cert = read(&config.cert_file, "listen.tls.cert_file")?;
        Ok(Self { cert, key: read(&config.key_file, "listen.tls.key_file")? })
    }

    fn fingerprint(&self) -> [u8; 32] {
        let whole = Sha256::new().chain_update((self.cert.len() as u64).to_le_bytes());
        whole.chain_update(&self.cert).chain_update(&self.key).finalize().into()
    }

    fn served(&self, config: &TlsConfig) -> Result<Served, TlsError> {
        let empty = |what, key, path: &Path| TlsError::Empty { what, key, path: path.to_owned() };
        let no_chain = || empty("certificate", "listen.tls.cert_file", &config.cert_file);
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.cert).collect();
        let chain = chain.ok().filter(|chain| !chain.is_empty()).ok_or_else(no_chain)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key);
        let key = key.map_err(|_| empty("private key", "listen.tls.key_file", &config.key_file))?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider);
        let builder = builder.with_protocol_versions(&[&TLS13, &TLS12])?.with_no_client_auth();
        let mut server = builder.with_single_cert(chain, key)?;
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Served { acceptor: TlsAcceptor::from(Arc::new(server)), fingerprint: self.fingerprint() })
    }
}

fn read(path: &Path, key: &'static str) -> Result<Vec<u8>, TlsError> {
    use io::Read as _;
    let unreadable = |source| TlsError::Unreadable { key, path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(unreadable)?;
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

/// Handshakes of one listener.
#[derive(Clone)]
pub(super) struct Handshakes {
    tls: Tls,
    deadline: Duration,
    /// Those under way. Nobody waits for a place: a client that stalls would make the others wait.
    admission: Admission,
}

impl Handshakes {
    pub(super) fn new(tls: Tls, config: &ServerConfig) -> Self {
        let admission = Admission::new(config.tls_handshakes_max, config.tls_handshakes_per_address_max);
        Self { tls, deadline: Duration::from_millis(config.tls_handshake_timeout_ms), admission }
    }

    /// Begins TLS on a connection; `None` when the client does not, or not in time, or too many do.
    pub(super) async fn begin<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        socket: S,
        address: IpAddr,
    ) -> Option<TlsStream<S>> {
        let reason = match self.admission.enter(address) {
            Err(_) => "too_many",
            Ok(_seat) => match tokio::time::timeout(self.deadline, self.tls.current().acceptor.accept(socket)).await {
                Ok(Ok(stream)) => return Some(stream),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a client does not speak our TLS");
                    "failed"
                }
                Err(_) => "slow",
            },
        };
        ::metrics::counter!(metrics::TLS_HANDSHAKES_REFUSED_TOTAL, "reason" => reason).increment(1);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two certificates with their keys, in PEM.
    const ONE: (&str, &str) = (
        include_str!("../../../tests/certificates/one.cert.pem"),
        include_str!("../../../tests/certificates/one.key.pem"),
    );
    const TWO: (&str, &str) = (
        include_str!("../../../tests/certificates/two.cert.pem"),
        include_str!("../../../tests/certificates/two.key.pem"),
    );

    fn files(dir: &Path, (cert, key): (&str, &str)) -> TlsConfig {
        let config = TlsConfig {
            cert_file: dir.join("cert.pem"),
            key_file: dir.join("key.pem"),
            check_every_ms: check_every_ms(),
        };
        fs::write(&config.cert_file, cert).unwrap();
        fs::write(&config.key_file, key).unwrap();
        config
    }

    #[test]
    fn what_cannot_be_served_is_refused_with_the_setting_to_change() {
        let dir = tempfile::tempdir().unwrap();
        for ((cert, key), named) in [
            (("", ONE.1), "cert_file"),
            ((ONE.0, ""), "key_file"),
            ((ONE.1, ONE.1), "cert_file"),
            ((ONE.0, ONE.0), "key_file"),
            ((ONE.0, TWO.1), "the key of this certificate"),
            (("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", ONE.1), "listen.tls"),
        ] {
            let config = files(dir.path(), (cert, key));
            let error = Tls::load(config).err().unwrap().to_string();
            assert!(error.contains(named), "{named}: {error}");
        }
        let mut config = files(dir.path(), ONE);
        config.key_file = dir.path().join("nowhere.pem");
        let error = Tls::load(config).err().unwrap().to_string();
        assert!(error.contains("nowhere.pem") && error.contains("listen.tls.key_file"), "{error}");
    }

    #[test]
    fn files_that_cannot_be_served_leave_the_old_ones_in_place() {
        let dir = tempfile::tempdir().unwrap();
        let tls = Tls::load(files(dir.path(), ONE)).unwrap();
        let first = tls.current().fingerprint;
        assert_eq!(tls.reload().unwrap(), Reloaded::Unchanged);
        // Half of the change is there already.
        files(dir.path(), (TWO.0, ONE.1));
        assert!(tls.reload().is_err());
        assert_eq!(tls.current().fingerprint, first);
        files(dir.path(), TWO);
        assert_eq!(tls.reload().unwrap(), Reloaded::Changed);
        assert_ne!(tls.current().fingerprint, first);
    }
}
