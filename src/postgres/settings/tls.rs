//! TLS as libpq does it: six modes, the root file deciding whether the chain is checked.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    SupportedProtocolVersion,
};
use tokio_postgres::config::SslNegotiation;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::error::SettingsError;
use super::options::Options;
use super::revocation::Revocation;

/// libpq's `sslmode`, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

const MODES: &[(&str, SslMode)] = &[
    ("disable", SslMode::Disable),
    ("allow", SslMode::Allow),
    ("prefer", SslMode::Prefer),
    ("require", SslMode::Require),
    ("verify-ca", SslMode::VerifyCa),
    ("verify-full", SslMode::VerifyFull),
];

const VERSIONS: &[(&str, u8)] = &[("TLSv1", 0), ("TLSv1.1", 1), ("TLSv1.2", 2), ("TLSv1.3", 3)];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Roots {
    None,
    System,
    File(PathBuf),
}

#[derive(Debug, Clone)]
pub(super) struct TlsSettings {
    pub(super) mode: SslMode,
    pub(super) negotiation: SslNegotiation,
    roots: Roots,
    revocation: Revocation,
    /// Certificate and key, checked to exist only if they were named.
    identity: Option<(PathBuf, PathBuf)>,
    server_name_sent: bool,
    versions: (u8, u8),
}

impl TlsSettings {
    pub(super) fn resolve(
        options: &Options,
        env: &dyn Fn(&str) -> Option<String>,
        warnings: &mut Vec<String>,
    ) -> Result<Self, SettingsError> {
        let named = options.get("sslrootcert");
        let default = if named == Some("system") {
            SslMode::VerifyFull
        } else {
            SslMode::Prefer
        };
        let mode = options.word("sslmode", MODES)?.unwrap_or(default);
        let negotiation = options
            .word("sslnegotiation", &[("postgres", false), ("direct", true)])?
            .filter(|direct| *direct)
            .map_or(SslNegotiation::Postgres, |_| SslNegotiation::Direct);
        if negotiation == SslNegotiation::Direct && mode < SslMode::Require {
            return Err(SettingsError::Conflict(
                "sslnegotiation=direct needs sslmode=require or stronger".to_owned(),
            ));
        }
        let versions = (
            options.word("ssl_min_protocol_version", VERSIONS)?.unwrap_or(2),
            options.word("ssl_max_protocol_version", VERSIONS)?.unwrap_or(3),
        );
        if versions.1 < 2 || versions.0 > versions.1 {
            return Err(SettingsError::Conflict(
                "the allowed TLS versions must include TLSv1.2 or TLSv1.3".to_owned(),
            ));
        }
        let directory = env("HOME").map(|home| Path::new(&home).join(".postgresql"));
        let usual = |name: &str| directory.as_deref().map(|directory| directory.join(name));
        let roots = Self::roots(named, usual("root.crt"), mode, warnings)?;
        let certificate = options.get("sslcert").map(PathBuf::from);
        let key = options.get("sslkey").map(PathBuf::from);
        // Only a named certificate must exist; the usual one is taken when it is there.
        let shown = options.get("sslcertmode") != Some("disable");
        let identity = certificate
            .or_else(|| usual("postgresql.crt").filter(|path| path.exists()))
            .and_then(|certificate| Some((certificate, key.or_else(|| usual("postgresql.key"))?)))
            .filter(|_| shown);
        Ok(Self {
            mode,
            negotiation,
            roots,
            revocation: Revocation::resolve(options, usual("root.crl")),
            identity,
            server_name_sent: options.get("sslsni") != Some("0"),
            versions,
        })
    }

    fn roots(
        named: Option<&str>,
        usual: Option<PathBuf>,
        mode: SslMode,
        warnings: &mut Vec<String>,
    ) -> Result<Roots, SettingsError> {
        if named == Some("system") {
            // Anybody can get some certificate from a public authority; only the name tells servers apart.
            return if mode == SslMode::VerifyFull {
                Ok(Roots::System)
            } else {
                Err(SettingsError::Conflict(
                    "sslrootcert=system needs sslmode=verify-full".to_owned(),
                ))
            };
        }
        let Some(path) = named.map(PathBuf::from).or(usual) else {
            return match mode {
                SslMode::VerifyCa | SslMode::VerifyFull => Err(SettingsError::Conflict(
                    "sslmode=verify-ca and verify-full need sslrootcert=FILE".to_owned(),
                )),
                _ => Ok(Roots::None),
            };
        };
        if path.exists() {
            return Ok(Roots::File(path));
        }
        if mode >= SslMode::VerifyCa {
            return Err(SettingsError::File {
                path,
                reason: "root certificate file does not exist; name one with sslrootcert=FILE, use \
                         sslrootcert=system, or choose an sslmode that does not verify"
                    .to_owned(),
            });
        }
        if named.is_some() && mode > SslMode::Disable {
            warnings.push(format!(
                "root certificate file {} does not exist: the server's certificate is not verified",
                path.display()
            ));
        }
        Ok(Roots::None)
    }

    /// Refuses a mistyped mode where the mode itself does not matter.
    pub(super) fn check_mode(options: &Options) -> Result<(), SettingsError> {
        options.word("sslmode", MODES).map(|_| ())
    }

    /// A connector that needs no file, for connections that never use TLS.
    pub(super) fn unused() -> Self {
        Self {
            mode: SslMode::Disable,
            negotiation: SslNegotiation::Postgres,
            roots: Roots::None,
            revocation: Revocation::default(),
            identity: None,
            server_name_sent: true,
            versions: (2, 3),
        }
    }

    /// Reads the certificates; the error is a fragment that says which file is wrong and how.
    pub(super) fn connector(&self) -> Result<MakeRustlsConnect, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Arc::new(self.verifier(&provider)?);
        let versions: Vec<&SupportedProtocolVersion> =
            [(2, &rustls::version::TLS12), (3, &rustls::version::TLS13)]
                .into_iter()
                .filter(|(number, _)| (self.versions.0..=self.versions.1).contains(number))
                .map(|(_, version)| version)
                .collect();
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                refuse_exposed_key(key)?;
                let chain = read_certificates(certificate)?;
                let secret =
                    PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable_key(key, &error))?;
                builder.with_client_auth_cert(chain, secret).map_err(|error| {
                    format!(
                        "client certificate {} and its key: {error}",
                        certificate.display()
                    )
                })?
            }
        };
        config.enable_sni = self.server_name_sent;
        // Servers from PostgreSQL 17 on insist on it for direct negotiation.
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        Ok(MakeRustlsConnect::new(config))
    }

    fn verifier(&self, provider: &Arc<CryptoProvider>) -> Result<Verifier, String> {
        let mut roots = RootCertStore::empty();
        let mut trusted = Vec::new();
        match &self.roots {
            Roots::None => {
                return Ok(Verifier {
                    provider: Arc::clone(provider),
                    check: Check::Nothing,
                });
            }
            Roots::System => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                if roots.is_empty() {
                    return Err("the system has no trusted root certificates".to_owned());
                }
            }
            Roots::File(path) => {
                trusted = read_certificates(path)?;
                let (added, _) = roots.add_parsable_certificates(trusted.iter().cloned());
                if added == 0 {
                    return Err(format!(
                        "root certificate file {}: no usable certificate",
                        path.display()
                    ));
                }
            }
        }
        Ok(Verifier {
            provider: Arc::clone(provider),
            check: Check::Chain {
                revoked: self.revocation.verifier(&roots, provider)?,
                roots,
                trusted,
                name: self.mode == SslMode::VerifyFull,
            },
        })
    }
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |why: String| format!("certificate file {}: {why}", path.display());
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| wrong(error.to_string()))?;
    if certificates.is_empty() {
        return Err(wrong("no certificate in it".to_owned()));
    }
    Ok(certificates)
}

/// As in libpq: only the owner may read a key, or the group too when it is root's.
fn refuse_exposed_key(path: &Path) -> Result<(), String> {
    use std::os::unix::fs::MetadataExt;
    let metadata =
        std::fs::metadata(path).map_err(|error| format!("client key {}: {error}", path.display()))?;
    let open = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if metadata.mode() & open != 0 {
        return Err(format!(
            "client key {} can be read by others; run chmod 0600 on it",
            path.display()
        ));
    }
    Ok(())
}

#[derive(Debug)]
enum Check {
    Nothing,
    Chain {
        roots: RootCertStore,
        trusted: Vec<CertificateDer<'static>>,
        /// Asks the revocation lists as well.
        revoked: Option<Arc<WebPkiServerVerifier>>,
        name: bool,
    },
}

/// Checks what the mode asks for. The handshake's signature is always checked, so that even an unverified
/// server must hold the key of the certificate it shows.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    check: Check,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Check::Chain {
            roots,
            trusted,
            revoked,
            name,
        } = &self.check
        else {
            return Ok(ServerCertVerified::assertion());
        };
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        let chain =
            verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, algorithms);
        if let Err(error) = chain {
            // A self-signed server certificate that is itself the root file is marked as an authority, which
            // webpki refuses for a server and OpenSSL accepts. Its dates still count.
            let pinned = trusted.iter().any(|root| root == end_entity);
            if !pinned || outdated(&error) {
                return Err(error);
            }
        }
        if let Some(revoked) = revoked {
            let asked =
                revoked.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
            // The name is looked at last there, and below.
            if let Err(error) = asked
                && !is_about_name(&error)
            {
                return Err(error);
            }
        }
        if *name {
            verify_server_name(&certificate, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn unreadable_key(path: &Path, error: &rustls::pki_types::pem::Error) -> String {
    let encrypted = std::fs::read_to_string(path).is_ok_and(|text| text.contains("ENCRYPTED"));
    let why = if encrypted {
        "it is encrypted, which is not supported; decrypt it with openssl pkey, and keep it to yourself"
            .to_owned()
    } else {
        error.to_string()
    };
    format!("client key {}: {why}", path.display())
}

fn is_about_name(error: &rustls::Error) -> bool {
    matches!(
        error,
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
        )
    )
}

fn outdated(error: &rustls::Error) -> bool {
    matches!(
        error,
        rustls::Error::InvalidCertificate(
            CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. }
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(pairs: &[(&str, &str)], home: &Path) -> Result<(TlsSettings, Vec<String>), SettingsError> {
        let mut options = Options::default();
        for (name, value) in pairs {
            options.set(name, *value).unwrap();
        }
        let home = home.display().to_string();
        let mut warnings = Vec::new();
        TlsSettings::resolve(
            &options,
            &|name| (name == "HOME").then(|| home.clone()),
            &mut warnings,
        )
        .map(|tls| (tls, warnings))
    }

    #[test]
    fn all_six_modes() {
        let home = tempfile::tempdir().unwrap();
        for (word, mode) in &MODES[..4] {
            let (tls, _) = resolve(&[("sslmode", word)], home.path()).unwrap();
            assert_eq!((tls.mode, tls.roots), (*mode, Roots::None));
        }
        for word in ["verify-ca", "verify-full"] {
            let error = resolve(&[("sslmode", word)], home.path()).err().unwrap();
            assert!(error.to_string().contains("root.crt"), "{error}");
        }
        assert_eq!(resolve(&[], home.path()).unwrap().0.mode, SslMode::Prefer);
        let error = resolve(&[("sslmode", "verify_full")], home.path()).err().unwrap();
        assert!(
            error.help().ends_with("did you mean \"verify-full\"?"),
            "{}",
            error.help()
        );
    }

    #[test]
    fn a_root_file_is_used_in_every_mode() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join(".postgresql/root.crt");
        std::fs::create_dir(home.path().join(".postgresql")).unwrap();
        std::fs::write(&root, "").unwrap();
        for (word, _) in MODES {
            assert_eq!(
                resolve(&[("sslmode", word)], home.path()).unwrap().0.roots,
                Roots::File(root.clone())
            );
        }
        let named = [("sslrootcert", "/nonexistent/root.crt"), ("sslmode", "require")];
        let (tls, warnings) = resolve(&named, home.path()).unwrap();
        assert_eq!(tls.roots, Roots::None);
        assert!(warnings[0].contains("not verified"), "{warnings:?}");
    }

    #[test]
    fn system_roots_need_the_name_check() {
        let home = tempfile::tempdir().unwrap();
        let (tls, _) = resolve(&[("sslrootcert", "system")], home.path()).unwrap();
        assert_eq!((tls.mode, tls.roots), (SslMode::VerifyFull, Roots::System));
        let weak = resolve(&[("sslrootcert", "system"), ("sslmode", "require")], home.path());
        assert!(matches!(weak, Err(SettingsError::Conflict(_))));
    }

    #[test]
    fn contradictions_are_refused() {
        let home = tempfile::tempdir().unwrap();
        for pairs in [
            [("sslnegotiation", "direct"), ("sslmode", "prefer")],
            [
                ("ssl_min_protocol_version", "TLSv1"),
                ("ssl_max_protocol_version", "TLSv1.1"),
            ],
            [
                ("ssl_min_protocol_version", "TLSv1.3"),
                ("ssl_max_protocol_version", "TLSv1.2"),
            ],
        ] {
            assert!(
                matches!(resolve(&pairs, home.path()), Err(SettingsError::Conflict(_))),
                "{pairs:?}"
            );
        }
    }

    #[test]
    fn a_client_key_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        let key = home.path().join("key");
        std::fs::write(&key, "").unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(refuse_exposed_key(&key).unwrap_err().contains("chmod 0600"));
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(refuse_exposed_key(&key), Ok(()));
    }
}
