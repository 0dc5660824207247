use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

/// Resolves with nothing but these variables; HOME is a place without files unless given.
fn resolve(url: &str, variables: &[(&str, &str)]) -> Result<ConnectionSettings, SettingsError> {
    let mut all = HashMap::from([
        ("HOME", "/nonexistent"),
        ("USER", "os"),
        ("PGSYSCONFDIR", "/nonexistent"),
    ]);
    all.extend(variables.iter().copied());
    let url = Some(url).filter(|url| !url.is_empty());
    ConnectionSettings::resolve(url, &|name| all.get(name).map(|value| (*value).to_owned()))
}

fn shown(url: &str, variables: &[(&str, &str)]) -> String {
    resolve(url, variables).unwrap().redacted()
}

fn password(settings: &ConnectionSettings, at: usize) -> Option<&str> {
    settings.endpoints[at]
        .password
        .as_ref()
        .map(|password| password.0.as_str())
}

#[test]
fn each_source_gives_way_to_the_stronger_one() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("services");
    fs::write(&file, "[s]\nhost=service\nport=2\ndbname=service\n").unwrap();
    let variables = [
        ("PGSERVICEFILE", file.to_str().unwrap()),
        ("PGSERVICE", "s"),
        ("PGHOST", "env"),
        ("PGPORT", "3"),
        ("PGDATABASE", "env"),
        ("PGUSER", "env"),
    ];
    assert_eq!(shown("host=url", &variables), "postgresql://env@url:2/service");
    assert_eq!(shown("", &variables), "postgresql://env@service:2/service");
    assert_eq!(shown("host=url", &variables[2..]), "postgresql://env@url:3/env");
    assert_eq!(
        shown("host=url service=s", &[variables[0]]),
        "postgresql://os@url:2/service"
    );
    assert_eq!(shown("host=url", &[]), "postgresql://os@url:5432/os");
    assert_eq!(
        shown("host=url", &[("USER", ""), ("LOGNAME", "log")]),
        "postgresql://log@url:5432/log"
    );
}

#[test]
fn the_url_comes_before_database_url() {
    let variables = [("DATABASE_URL", "postgresql://h1/d1"), ("PGHOST", "env")];
    assert_eq!(shown("", &variables), "postgresql://os@h1:5432/d1");
    assert_eq!(
        shown("postgresql://h2/d2", &variables),
        "postgresql://os@h2:5432/d2"
    );
    assert_eq!(shown("shop", &variables), "postgresql://os@env:5432/shop");
}

#[test]
fn no_user_is_an_error() {
    let error = ConnectionSettings::resolve(Some("host=h"), &|_| None).unwrap_err();
    assert_eq!(error, SettingsError::NoUser);
    assert!(error.help().contains("PGUSER"));
}

#[test]
fn hosts_ports_and_addresses() {
    assert_eq!(
        shown("postgresql://u@a:1,[::1]:2,b/d", &[]),
        "postgresql://u@a:1,[::1]:2,b:5432/d"
    );
    assert_eq!(shown("host=a,b port=7 user=u", &[]), "postgresql://u@a:7,b:7/u");
    assert_eq!(
        shown("hostaddr=10.0.0.1 user=u", &[]),
        "postgresql://u@10.0.0.1:5432/u"
    );
    assert_eq!(
        shown("host=/s/x user=u port=9", &[]),
        "postgresql://u@/u?host=/s/x&port=9"
    );
    assert_eq!(
        shown("host=/s,b user=u dbname='d b'", &[]),
        "postgresql://u@%2Fs:5432,b:5432/d%20b"
    );
    assert!(matches!(
        resolve("user=u", &[]).unwrap().endpoints[0].host,
        Host::Unix(_)
    ));
    for url in [
        "host=a,b port=1,2,3",
        "host=a,b hostaddr=10.0.0.1",
        "host=/s hostaddr=10.0.0.1",
    ] {
        assert!(
            matches!(resolve(url, &[]), Err(SettingsError::Conflict(_))),
            "{url}"
        );
    }
    for url in [
        "host=a port=0",
        "host=a port=70000",
        "host=a port=x",
        "hostaddr=host.example",
    ] {
        assert!(
            matches!(resolve(url, &[]), Err(SettingsError::Invalid { .. })),
            "{url}"
        );
    }
}

#[test]
fn the_password_file_serves_each_host_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join(".pgpass");
    fs::write(&file, "a:*:d:u:one\nb:7:*:*:two\nlocalhost:*:*:*:three\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let home = [("HOME", directory.path().to_str().unwrap())];
    let settings = resolve("host=a,b,c,/tmp port=7 user=u dbname=d", &home).unwrap();
    let found: Vec<_> = (0..4).map(|at| password(&settings, at)).collect();
    assert_eq!(found, [Some("one"), Some("two"), None, Some("three")]);
    let named = [("PGPASSFILE", file.to_str().unwrap())];
    assert_eq!(
        password(&resolve("host=a user=u dbname=d", &named).unwrap(), 0),
        Some("one")
    );
    let given = resolve("host=a user=u dbname=d password=mine", &home).unwrap();
    assert_eq!(password(&given, 0), Some("mine"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let settings = resolve("host=a user=u dbname=d", &home).unwrap();
    assert_eq!(password(&settings, 0), None);
    assert!(
        settings.warnings()[0].contains("chmod 0600"),
        "{:?}",
        settings.warnings()
    );
}

#[test]
fn the_password_is_never_shown() {
    for url in [
        "postgresql://u:hush@h/d",
        "host=/tmp user=u password=hush",
        "host=a,b password='hush'",
    ] {
        let settings = resolve(url, &[("PGPASSWORD", "hush")]).unwrap();
        assert_eq!(password(&settings, 0), Some("hush"));
        assert!(!format!("{settings} {settings:?} {settings:#?} {}", settings.redacted()).contains("hush"));
    }
    for url in [
        "postgresql://u:hush@h:x/d",
        "postgresql://u:hush@h/d?sslmode=no",
        "host=h password=hush port=x",
        "host=h password=hush colour=red",
        "host=h password=hush sslmode=verify-full",
        "host=h password=hush service=none",
        "host=h password='hush",
        "postgresql://u:hush@h@h/d",
    ] {
        let error = resolve(url, &[("PGPASSWORD", "hush")]).unwrap_err();
        assert!(
            !format!("{error} {error:?} {}", error.help()).contains("hush"),
            "{url}: {error:?}"
        );
    }
}

#[test]
fn times() {
    let seconds = |url: &str| {
        resolve(url, &[])
            .unwrap()
            .connect_timeout
            .map(|timeout| timeout.as_secs())
    };
    assert_eq!(seconds("host=h"), Some(10));
    assert_eq!(seconds("host=h connect_timeout=0"), None);
    assert_eq!(seconds("host=h connect_timeout=-1"), None);
    assert_eq!(seconds("host=h connect_timeout=1"), Some(2));
    assert_eq!(seconds("host=h connect_timeout=30"), Some(30));
    assert!(resolve("host=h connect_timeout=soon", &[]).is_err());
    let keepalives = resolve("host=h keepalives_idle=5", &[])
        .unwrap()
        .tcp
        .keepalives
        .unwrap();
    assert_eq!(
        (
            keepalives.idle.as_secs(),
            keepalives.interval.as_secs(),
            keepalives.count
        ),
        (5, 10, 6)
    );
    assert!(
        resolve("host=h keepalives=0", &[])
            .unwrap()
            .tcp
            .keepalives
            .is_none()
    );
}

#[test]
fn sockets_need_no_certificates() {
    let over_socket = resolve("host=/tmp sslmode=verify-full", &[]).unwrap();
    assert_eq!(over_socket.ssl_mode(), SslMode::Disable);
    assert!(resolve("host=h sslmode=verify-full", &[]).is_err());
    assert!(resolve("host=/tmp sslmode=verify", &[]).is_err());
}

#[test]
fn words_from_the_environment_are_checked() {
    let cases = [
        ("PGTARGETSESSIONATTRS", "read-wrote", "read-write"),
        ("PGCHANNELBINDING", "required", "require"),
        ("PGLOADBALANCEHOSTS", "randm", "random"),
    ];
    for (name, value, meant) in cases {
        let error = resolve("host=h", &[(name, value)]).unwrap_err();
        assert!(
            error.help().contains(&format!("did you mean \"{meant}\"")),
            "{}",
            error.help()
        );
    }
    assert_eq!(
        resolve("host=h", &[("PGAPPNAME", "mine")])
            .unwrap()
            .application_name
            .as_deref(),
        Some("mine")
    );
}
