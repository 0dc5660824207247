//! The text of `--url`: a URI, a list of `keyword=value`, or a bare database name.
//!
//! Errors never repeat the text itself: a password that was not percent-encoded may stand anywhere in it.

use super::error::SettingsError;
use super::options::Options;

pub(super) fn parse(text: &str) -> Result<Options, SettingsError> {
    let text = text.trim();
    if let Some(rest) = text
        .strip_prefix("postgresql://")
        .or_else(|| text.strip_prefix("postgres://"))
    {
        return uri(rest);
    }
    if text
        .split_once("://")
        .is_some_and(|(scheme, _)| !scheme.contains('='))
    {
        return Err(SettingsError::syntax(
            "the connection URI must start with postgresql:// or postgres://",
        ));
    }
    if text.contains('=') {
        return keywords(text);
    }
    let mut options = Options::default();
    if !text.is_empty() {
        options.set("dbname", text)?;
    }
    Ok(options)
}

/// `[user[:password]@][host[:port],…][/dbname][?option=value&…]`, every part percent-encoded.
fn uri(rest: &str) -> Result<Options, SettingsError> {
    let mut options = Options::default();
    // As in libpq the first '@' ends the credentials, unless a '/' comes before it.
    let rest = match rest.find(['@', '/']).filter(|at| rest[*at..].starts_with('@')) {
        Some(at) => {
            let credentials = &rest[..at];
            let (user, password) = match credentials.split_once(':') {
                Some((user, password)) => (user, Some(password)),
                None => (credentials, None),
            };
            if !user.is_empty() {
                options.set("user", decode(user)?)?;
            }
            if let Some(password) = password.filter(|password| !password.is_empty()) {
                options.set("password", decode(password)?)?;
            }
            &rest[at + 1..]
        }
        None => rest,
    };
    let (location, query) = match rest.split_once('?') {
        Some((location, query)) => (location, Some(query)),
        None => (rest, None),
    };
    let (authority, dbname) = match location.split_once('/') {
        Some((authority, dbname)) => (authority, Some(dbname)),
        None => (location, None),
    };
    if location.contains('@') {
        return Err(SettingsError::syntax(
            "the connection URI has an unexpected \"@\"; in a user name or password write \"@\" as %40, \
             \"/\" as %2F and \":\" as %3A",
        ));
    }
    hosts(authority, &mut options)?;
    if let Some(dbname) = dbname.filter(|dbname| !dbname.is_empty()) {
        options.set("dbname", decode(dbname)?)?;
    }
    for pair in query
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
    {
        let (name, value) = pair.split_once('=').ok_or_else(|| {
            SettingsError::syntax("an option after \"?\" in the connection URI lacks its \"=\"")
        })?;
        let (name, value) = (decode(name)?, decode(value)?);
        // JDBC's spelling, which libpq takes too.
        if name == "ssl" && value == "true" {
            options.set("sslmode", "require")?;
        } else {
            options.set(&name, value)?;
        }
    }
    Ok(options)
}

fn hosts(authority: &str, options: &mut Options) -> Result<(), SettingsError> {
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for entry in authority.split(',') {
        let (name, port) = if let Some(rest) = entry.strip_prefix('[') {
            let (name, after) = rest.split_once(']').ok_or_else(|| {
                SettingsError::syntax("an IPv6 address in the connection URI lacks its \"]\"")
            })?;
            match after {
                "" => (name, ""),
                _ => (name, after.strip_prefix(':').ok_or_else(bad_port)?),
            }
        } else {
            entry.split_once(':').unwrap_or((entry, ""))
        };
        if !port.is_empty() && port.parse::<u16>().is_err() {
            return Err(bad_port());
        }
        names.push(decode(name)?);
        ports.push(port);
    }
    if names.iter().any(|name| !name.is_empty()) {
        options.set("host", names.join(","))?;
    }
    if ports.iter().any(|port| !port.is_empty()) {
        options.set("port", ports.join(","))?;
    }
    Ok(())
}

fn bad_port() -> SettingsError {
    SettingsError::syntax(
        "the port in the connection URI is not a number from 1 to 65535; in a user name or password write \
         \"/\" as %2F, \":\" as %3A and \"@\" as %40",
    )
}

fn decode(text: &str) -> Result<String, SettingsError> {
    let invalid = || {
        SettingsError::syntax(
            "the connection URI has an invalid percent-encoding; a \"%\" itself is written %25",
        )
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first != b'%' {
            bytes.push(*first);
            rest = tail;
            continue;
        }
        let digit = |at: usize| tail.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            return Err(invalid());
        };
        let byte = u8::try_from(high * 16 + low).map_err(|_| invalid())?;
        if byte == 0 {
            return Err(SettingsError::syntax("the connection URI must not contain %00"));
        }
        bytes.push(byte);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).map_err(|_| invalid())
}

/// Makes `text` safe inside a URI, so that what is printed can be pasted back.
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || " %@/:?#[],&=".contains(c) {
            for byte in c.to_string().bytes() {
                encoded.push_str(&format!("%{byte:02X}"));
            }
        } else {
            encoded.push(c);
        }
    }
    encoded
}

/// `name = value` pairs; values with spaces stand in single quotes, `\` escapes the next character.
fn keywords(text: &str) -> Result<Options, SettingsError> {
    let mut options = Options::default();
    let mut chars = text.chars().peekable();
    let mut previous = String::new();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return Ok(options);
        }
        let mut name = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && !c.is_whitespace()) {
            name.push(c);
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.next() != Some('=') || name.is_empty() {
            // The word itself is not shown: it may be the rest of an unquoted password.
            return Err(SettingsError::syntax(if previous.is_empty() {
                "the connection string starts with a word that lacks its \"=\"".to_owned()
            } else {
                format!(
                    "the connection string has a word without \"=\" after option \"{previous}\"; put a value \
                     with spaces in single quotes"
                )
            }));
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let value = value(&mut chars, &name)?;
        options.set(&name, value)?;
        previous = name;
    }
}

fn value(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, name: &str) -> Result<String, SettingsError> {
    let quoted = chars.next_if_eq(&'\'').is_some();
    let mut value = String::new();
    loop {
        match chars.peek().copied() {
            Some('\'') if quoted => {
                chars.next();
                return Ok(value);
            }
            Some(c) if !quoted && c.is_whitespace() => return Ok(value),
            Some('\\') => {
                chars.next();
                value.extend(chars.next());
            }
            Some(c) => {
                chars.next();
                value.push(c);
            }
            None if quoted => {
                return Err(SettingsError::syntax(format!(
                    "the value of option \"{name}\" lacks its closing quote"
                )));
            }
            None => return Ok(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: &[&str] = &[
        "user",
        "password",
        "host",
        "port",
        "dbname",
        "sslmode",
        "application_name",
        "options",
    ];

    fn shown(text: &str) -> String {
        let options = parse(text).unwrap();
        let pairs = SHOWN
            .iter()
            .filter_map(|name| Some(format!("{name}={}", options.get(name)?)));
        pairs.collect::<Vec<_>>().join("|")
    }

    fn refused(text: &str) -> String {
        parse(text).err().unwrap().to_string()
    }

    #[test]
    fn uris() {
        for (text, expected) in [
            ("postgresql://", ""),
            ("postgres:///shop", "dbname=shop"),
            ("postgresql://u@h", "user=u|host=h"),
            (
                "postgresql://u:p%40%2F%3A%25@h:1/d",
                "user=u|password=p@/:%|host=h|port=1|dbname=d",
            ),
            ("postgresql://u:a?b@h/d", "user=u|password=a?b|host=h|dbname=d"),
            ("postgresql://u:@h", "user=u|host=h"),
            ("postgresql://[::1]:5/d", "host=::1|port=5|dbname=d"),
            ("postgresql://a:1,b,[::2]:3/d", "host=a,b,::2|port=1,,3|dbname=d"),
            ("postgresql://%2Ftmp%2Fs:5433/d", "host=/tmp/s|port=5433|dbname=d"),
            (
                "postgresql:///d?host=/tmp&port=7&sslmode=allow",
                "host=/tmp|port=7|dbname=d|sslmode=allow",
            ),
            ("postgresql://h?ssl=true", "host=h|sslmode=require"),
            (
                "postgresql://h/d?application_name=a+b%20c",
                "host=h|dbname=d|application_name=a+b c",
            ),
            (
                "postgresql://h/d?options=-c%20geqo%3Doff",
                "host=h|dbname=d|options=-c geqo=off",
            ),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }

    #[test]
    fn keyword_strings() {
        for (text, expected) in [
            ("host=h  port = 5 user='a b'", "user=a b|host=h|port=5"),
            (r"password='it\'s' user=a\ b", "user=a b|password=it's"),
            (r"password=a\\b", r"password=a\b"),
            ("host='' dbname=d dbname=e", "dbname=e"),
            ("shop", "dbname=shop"),
            ("", ""),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }

    #[test]
    fn mistakes_are_explained_without_repeating_the_text() {
        for (text, expected) in [
            ("postgresql://u:pa/hush@h/d", "unexpected \"@\""),
            ("postgresql://u:pa@hush@h/d", "unexpected \"@\""),
            ("postgresql://u:hush/d", "port"),
            ("postgresql://u:hush%zz@h", "%25"),
            ("postgresql://u:hush%0@h", "%25"),
            ("postgresql://u:hush%00@h", "%00"),
            ("postgresql://u:hush@[::1", "\"]\""),
            ("mysql://u:hush@h", "postgresql://"),
            ("password=my hush", "after option \"password\""),
            ("password='hush", "closing quote"),
            ("hush host=h", "lacks its \"=\""),
            ("postgresql://h/d?hush", "lacks its \"=\""),
        ] {
            let message = refused(text);
            assert!(message.contains(expected), "{text}: {message}");
            assert!(!message.contains("hush"), "{text}: {message}");
        }
    }

    #[test]
    fn encoding_is_undone_by_decoding() {
        for text in ["plain", "a b@c/d:e?f#g%h", "grüße", "/var/run"] {
            assert_eq!(decode(&encode(text)).unwrap(), text);
        }
    }
}
