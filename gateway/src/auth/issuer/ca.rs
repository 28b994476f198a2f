//! The certificates that an issuer's own must lead to, where those of the machine are not meant.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use reqwest::Certificate;

use crate::auth::config::TokensConfig;

/// The most that is read of one file, in bytes: all roots of a usual machine take a quarter of it.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The certificates of an issuer's authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The file cannot be read.
    #[error("{} cannot be read: {source}; ca_file of an issuer in gateway.tokens.issuers names it", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is no bundle of certificates.
    #[error("{} has no certificate in PEM, or more than {FILE_BYTES_MAX} bytes; ca_file of an issuer in gateway.tokens.issuers names it", file.display())]
    NotOne {
        /// The file.
        file: PathBuf,
    },
    /// The thread that reads it was lost.
    #[error("the certificates of an issuer's authority were not read; they are read again at the next look")]
    Lost,
}

/// Can the files of all issuers be used? Blocks.
///
/// # Errors
/// The first that cannot.
pub fn check(config: &TokensConfig) -> Result<(), CaError> {
    config.issuers.iter().filter_map(|issuer| issuer.ca_file.as_deref()).try_for_each(|file| roots(file).map(drop))
}

/// The certificates in `file`; at least one. Blocks.
pub(super) fn roots(file: &Path) -> Result<Vec<Certificate>, CaError> {
    let unreadable = |source| CaError::Unreadable { file: file.to_owned(), source };
    let mut pem = Vec::new();
    File::open(file).map_err(unreadable)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut pem).map_err(unreadable)?;
    let found = Certificate::from_pem_bundle(&pem).ok().filter(|found| !found.is_empty());
    let found = found.filter(|_| pem.len() as u64 <= FILE_BYTES_MAX);
    found.ok_or_else(|| CaError::NotOne { file: file.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_missing_or_holds_no_certificate_is_named_with_its_setting() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        assert!(matches!(roots(&file), Err(CaError::Unreadable { .. })));
        for text in ["", "nonsense", "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"] {
            std::fs::write(&file, text).unwrap();
            let error = roots(&file).unwrap_err().to_string();
            assert!(error.contains("ca.pem") && error.contains("ca_file"), "{text}: {error}");
        }
        std::fs::write(&file, include_str!("../../../../tests/certificates/one.cert.pem")).unwrap();
        assert_eq!(roots(&file).unwrap().len(), 1);
    }
}
