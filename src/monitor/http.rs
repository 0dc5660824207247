//! Posting JSON, with certificates checked against those that the machine trusts.

use crate::error::{Error, ErrorKind};
use std::sync::Arc;
use std::time::Duration;
use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// One client for all posts; nothing is ever waited for longer than `timeout`.
pub fn agent(timeout: Duration) -> Agent {
    let native = rustls_native_certs::load_native_certs();
    let certificates: Vec<Certificate<'static>> = native
        .certs
        .iter()
        .map(|certificate| Certificate::from_der(certificate).to_owned())
        .collect();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&certificates))
        .unversioned_rustls_crypto_provider(provider)
        .build();
    Agent::config_builder()
        .timeout_global(Some(timeout))
        .max_redirects(0)
        .user_agent(concat!("pgmorph/", env!("CARGO_PKG_VERSION")))
        .tls_config(tls)
        .build()
        .into()
}

/// # Errors
/// What is no URL of http or https.
pub fn check_url(url: &str) -> Result<(), Error> {
    let uri: Option<ureq::http::Uri> = url.parse().ok();
    let is_http = |uri: &ureq::http::Uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
    if uri.as_ref().is_some_and(is_http) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Usage, format!("{:?} is no URL of http or https", redacted(url))))
}

/// Without what may be a secret: user, password, query.
pub fn redacted(url: &str) -> String {
    let uri: Option<ureq::http::Uri> = url.parse().ok();
    uri.and_then(|uri| Some(format!("{}://{}{}", uri.scheme_str()?, uri.host()?, uri.path())))
        .unwrap_or_else(|| "what is given".into())
}

/// # Errors
/// The failure in words; an answer other than 2xx is one.
pub fn post(agent: &Agent, url: &str, headers: &[(String, String)], body: &str) -> Result<(), String> {
    let mut request = agent.post(url).header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(name, value);
    }
    match request.send(body) {
        Ok(answer) if answer.status().is_success() => Ok(()),
        Ok(answer) => Err(format!("answered {}", answer.status())),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_and_no_secrets_in_messages() {
        assert!(check_url("http://127.0.0.1:9/x").is_ok());
        for wrong in ["", "ftp://a/b", "file:///etc/passwd", "localhost:80", "http://"] {
            assert!(check_url(wrong).is_err(), "{wrong}");
        }
        assert_eq!(redacted("https://u:hush@h.example/p?token=hush"), "https://h.example/p");
    }
}
