//! The connection options libpq knows, where each may come from, and what becomes of it here.

use std::collections::BTreeMap;

use super::error::SettingsError;

/// What pgmorph does with an option.
enum Support {
    Used,
    /// Has no effect here, and its absence weakens nothing.
    Ignored,
    /// Only these values can be honoured; any other is refused, since ignoring it would weaken a promise.
    Only(&'static [&'static str]),
}

struct Known {
    name: &'static str,
    env: Option<&'static str>,
    support: Support,
}

const fn used(name: &'static str, env: &'static str) -> Known {
    Known {
        name,
        env: Some(env),
        support: Support::Used,
    }
}

const fn unexported(name: &'static str) -> Known {
    Known {
        name,
        env: None,
        support: Support::Used,
    }
}

const fn ignored(name: &'static str) -> Known {
    Known {
        name,
        env: None,
        support: Support::Ignored,
    }
}

const fn only(name: &'static str, env: Option<&'static str>, values: &'static [&'static str]) -> Known {
    Known {
        name,
        env,
        support: Support::Only(values),
    }
}

const KNOWN: &[Known] = &[
    used("host", "PGHOST"),
    used("hostaddr", "PGHOSTADDR"),
    used("port", "PGPORT"),
    used("dbname", "PGDATABASE"),
    used("user", "PGUSER"),
    used("password", "PGPASSWORD"),
    used("passfile", "PGPASSFILE"),
    used("service", "PGSERVICE"),
    used("servicefile", "PGSERVICEFILE"),
    used("options", "PGOPTIONS"),
    used("application_name", "PGAPPNAME"),
    used("connect_timeout", "PGCONNECT_TIMEOUT"),
    used("channel_binding", "PGCHANNELBINDING"),
    used("target_session_attrs", "PGTARGETSESSIONATTRS"),
    used("load_balance_hosts", "PGLOADBALANCEHOSTS"),
    used("sslmode", "PGSSLMODE"),
    used("sslnegotiation", "PGSSLNEGOTIATION"),
    used("sslrootcert", "PGSSLROOTCERT"),
    used("sslcert", "PGSSLCERT"),
    used("sslkey", "PGSSLKEY"),
    used("sslcrl", "PGSSLCRL"),
    used("sslcrldir", "PGSSLCRLDIR"),
    used("sslsni", "PGSSLSNI"),
    used("require_auth", "PGREQUIREAUTH"),
    used("requirepeer", "PGREQUIREPEER"),
    used("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION"),
    used("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION"),
    unexported("keepalives"),
    unexported("keepalives_idle"),
    unexported("keepalives_interval"),
    unexported("keepalives_count"),
    unexported("tcp_user_timeout"),
    ignored("client_encoding"),
    ignored("fallback_application_name"),
    ignored("gssdelegation"),
    ignored("gsslib"),
    ignored("krbsrvname"),
    ignored("max_protocol_version"),
    ignored("sslcompression"),
    ignored("sslkeylogfile"),
    ignored("sslpassword"),
    ignored("tty"),
    ignored("authtype"),
    only("gssencmode", Some("PGGSSENCMODE"), &["disable", "prefer"]),
    only("replication", None, &["false", "off", "no", "0"]),
    only("requiressl", Some("PGREQUIRESSL"), &["0"]),
    only("scram_client_key", None, &[]),
    only("scram_server_key", None, &[]),
    only("sslcertmode", Some("PGSSLCERTMODE"), &["allow", "disable"]),
    only("min_protocol_version", Some("PGMINPROTOCOLVERSION"), &["3.0"]),
    only("oauth_issuer", None, &[]),
    only("oauth_client_id", None, &[]),
    only("oauth_client_secret", None, &[]),
    only("oauth_scope", None, &[]),
];

fn find(name: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.name == name)
}

/// The known option that a mistyped one probably means.
fn suggestion(name: &str) -> Option<&'static str> {
    closest(&name.to_ascii_lowercase(), KNOWN.iter().map(|known| known.name))
}

/// The candidate nearest to `text`, if any is near enough to be worth naming.
pub(super) fn closest(text: &str, candidates: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    candidates
        .map(|candidate| (strsim::jaro_winkler(text, candidate), candidate))
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// Option values of one source, or of several merged. No `Debug`: it holds the password.
#[derive(Default)]
pub(super) struct Options(BTreeMap<&'static str, String>);

impl Options {
    /// Sets a value; within one source the last one counts, as in libpq.
    pub(super) fn set(&mut self, name: &str, value: impl Into<String>) -> Result<(), SettingsError> {
        let value = value.into();
        let known = find(name).ok_or_else(|| SettingsError::UnknownOption {
            option: name.to_owned(),
            suggestion: suggestion(name),
        })?;
        if let Support::Only(values) = known.support
            && !value.is_empty()
            && !values.contains(&value.as_str())
        {
            return Err(SettingsError::Unsupported {
                option: known.name,
                supported: values,
            });
        }
        if !matches!(known.support, Support::Ignored) {
            self.0.insert(known.name, value);
        }
        Ok(())
    }

    /// Takes over what `lower` has and this lacks. An empty value counts as set: it asks for the default.
    pub(super) fn fill(&mut self, lower: Options) {
        for (name, value) in lower.0 {
            self.0.entry(name).or_insert(value);
        }
    }

    /// The value, unless it is absent or empty.
    pub(super) fn get(&self, name: &'static str) -> Option<&str> {
        debug_assert!(find(name).is_some(), "unknown option {name}");
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// What the PG* variables say.
    pub(super) fn from_env(env: &dyn Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let mut options = Options::default();
        for known in KNOWN {
            if let Some(value) = known.env.and_then(env) {
                options.set(known.name, value)?;
            }
        }
        Ok(options)
    }

    /// As the variables from which libpq's own programs read them.
    pub(super) fn variables(self) -> impl Iterator<Item = (&'static str, String)> {
        let variable = |(name, value)| Some((find(name)?.env?, value));
        self.0.into_iter().filter_map(variable)
    }

    /// A comma-separated list; no entry at all when the option is absent.
    pub(super) fn list(&self, name: &'static str) -> Vec<&str> {
        self.get(name)
            .map(|value| value.split(',').map(str::trim).collect())
            .unwrap_or_default()
    }

    pub(super) fn integer(&self, name: &'static str) -> Result<Option<i64>, SettingsError> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        text.trim()
            .parse::<i32>()
            .map(|number| Some(i64::from(number)))
            .map_err(|_| SettingsError::invalid(name, text, "an integer"))
    }

    /// One of the words of `table`, or `None` when the option is absent.
    pub(super) fn word<T: Copy>(
        &self,
        name: &'static str,
        table: &[(&'static str, T)],
    ) -> Result<Option<T>, SettingsError> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        if let Some((_, value)) = table.iter().find(|(word, _)| *word == text) {
            return Ok(Some(*value));
        }
        let words: Vec<&str> = table.iter().map(|(word, _)| *word).collect();
        Err(SettingsError::Invalid {
            option: name,
            value: text.to_owned(),
            expected: format!("one of {}", words.join(", ")),
            suggestion: closest(text, table.iter().map(|(word, _)| *word)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_options_are_named_with_the_probable_one() {
        let error = Options::default().set("sslmod", "require").unwrap_err();
        assert_eq!(error.to_string(), "unknown connection option \"sslmod\"");
        assert_eq!(error.help(), "did you mean \"sslmode\"?");
        assert!(
            Options::default()
                .set("zzzz", "1")
                .unwrap_err()
                .help()
                .contains("libpq")
        );
    }

    #[test]
    fn harmless_options_are_ignored_and_promises_are_not() {
        let mut options = Options::default();
        for (name, value) in [
            ("gssencmode", "prefer"),
            ("sslcompression", "1"),
            ("krbsrvname", "x"),
            ("oauth_issuer", ""),
        ] {
            options.set(name, value).unwrap();
        }
        for (name, value) in [
            ("gssencmode", "require"),
            ("sslcertmode", "require"),
            ("oauth_issuer", "https://example.org"),
        ] {
            assert!(
                matches!(options.set(name, value), Err(SettingsError::Unsupported { .. })),
                "{name}"
            );
        }
    }

    #[test]
    fn an_empty_value_hides_the_lower_source() {
        let mut upper = Options::default();
        upper.set("host", "").unwrap();
        let mut lower = Options::default();
        lower.set("host", "env").unwrap();
        lower.set("port", "1").unwrap();
        upper.fill(lower);
        assert_eq!((upper.get("host"), upper.get("port")), (None, Some("1")));
    }

    #[test]
    fn words_are_checked_with_a_suggestion() {
        let mut options = Options::default();
        options.set("channel_binding", "requir").unwrap();
        let error = options
            .word("channel_binding", &[("disable", 1), ("require", 2)])
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "invalid value \"requir\" for connection option \"channel_binding\""
        );
        assert_eq!(
            error.help(),
            "expected one of disable, require; did you mean \"require\"?"
        );
    }
}
