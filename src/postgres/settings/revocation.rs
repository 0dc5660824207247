//! Revocation lists: `sslcrl`, `sslcrldir`, and the usual file.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject;

use super::files::reason;
use super::options::Options;

/// Where the lists are; none of them in use is the default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Revocation {
    file: Option<PathBuf>,
    directory: Option<PathBuf>,
}

impl Revocation {
    /// A list that is named must be there; the usual one is used when it is.
    pub(super) fn resolve(options: &Options, usual: Option<PathBuf>) -> Self {
        let named = |option| options.get(option).map(PathBuf::from);
        let (file, directory) = (named("sslcrl"), named("sslcrldir"));
        let usual = usual.filter(|path| directory.is_none() && path.exists());
        Self {
            file: file.or(usual),
            directory,
        }
    }

    /// What asks the lists, as OpenSSL does for libpq: each certificate of the chain must have one, not outdated.
    /// `None` where there are no lists. The error is a fragment that says which file is wrong and how.
    pub(super) fn verifier(
        &self,
        roots: &RootCertStore,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Option<Arc<WebPkiServerVerifier>>, String> {
        let mut lists = Vec::new();
        if let Some(file) = &self.file {
            lists.extend(read(file)?);
        }
        if let Some(directory) = &self.directory {
            let wrong = |error: &std::io::Error| {
                format!(
                    "revocation list directory {}: {}",
                    directory.display(),
                    reason(error)
                )
            };
            let mut paths = fs::read_dir(directory)
                .and_then(|entries| {
                    entries
                        .map(|entry| entry.map(|it| it.path()))
                        .collect::<Result<Vec<_>, _>>()
                })
                .map_err(|error| wrong(&error))?;
            paths.sort();
            for path in paths.iter().filter(|path| path.is_file()) {
                lists.extend(read(path)?);
            }
        }
        if self.file.is_none() && self.directory.is_none() {
            return Ok(None);
        }
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots.clone()), Arc::clone(provider))
            .with_crls(lists)
            .enforce_revocation_expiration()
            .build()
            .map(Some)
            .map_err(|error| format!("revocation lists: {error}"))
    }
}

fn read(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let wrong = |why: String| format!("revocation list {}: {why}", path.display());
    let lists = CertificateRevocationListDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| wrong(error.to_string()))?;
    if lists.is_empty() {
        return Err(wrong("no list in it".to_owned()));
    }
    Ok(lists)
}
