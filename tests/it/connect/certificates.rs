//! Servers that show good and bad certificates, clients that show theirs, and lists of revoked ones.

use super::{Case, Comparison, case, since};
use crate::settings::{Cluster, own, run};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// A line of `openssl ca`'s own book-keeping.
const AUTHORITY: &str = "\
[ca]
default_ca = here
[here]
database = index
crlnumber = number
serial = serial
new_certs_dir = .
default_md = sha256
default_crl_days = 2
policy = any
unique_subject = no
copy_extensions = copy
[any]
commonName = supplied
";

fn openssl(at: &Path, arguments: &str) {
    run(Command::new("openssl")
        .current_dir(at)
        .args(arguments.split_whitespace()));
}

/// Beside those of every cluster: servers whose time is over or not yet come, or that are somebody else; one that is
/// revoked; a client that a stranger vouches for.
fn more_certificates(at: &Path) {
    fs::write(at.join("authority.cnf"), AUTHORITY).unwrap();
    for (file, text) in [("index", ""), ("number", "01\n"), ("serial", "1000\n")] {
        fs::write(at.join(file), text).unwrap();
    }
    let request = |name: &str, subject: &str, extension: &str| {
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        openssl(
            at,
            &format!(
                "req -new {key} -subj /CN={subject} -addext {extension} -keyout {name}.key -out {name}.csr"
            ),
        );
    };
    let signed = |name: &str, authority: &str, dates: &str| {
        openssl(
            at,
            &format!(
                "ca -batch -config authority.cnf -cert {authority}.crt -keyfile {authority}.key {dates} -in {name}.csr -out {name}.crt -notext"
            ),
        );
    };
    let localhost = "subjectAltName=DNS:localhost";
    for (name, host, authority, dates) in [
        ("current", localhost, "ca", "-days 2"),
        (
            "expired",
            localhost,
            "ca",
            "-startdate 20200101000000Z -enddate 20210101000000Z",
        ),
        (
            "future",
            localhost,
            "ca",
            "-startdate 20400101000000Z -enddate 20410101000000Z",
        ),
        (
            "elsewhere",
            "subjectAltName=DNS:elsewhere.example",
            "ca",
            "-days 2",
        ),
        ("wildcard", "subjectAltName=DNS:*.example.org", "ca", "-days 2"),
        ("address", "subjectAltName=IP:127.0.0.1", "ca", "-days 2"),
        ("foreign", localhost, "other", "-days 2"),
        ("revoked", localhost, "ca", "-days 2"),
    ] {
        // Without a DNS name in the certificate psql would go by the subject.
        request(name, if name == "address" { "server" } else { "localhost" }, host);
        signed(name, authority, dates);
    }
    request("stranger", "certified", "extendedKeyUsage=clientAuth");
    signed("stranger", "other", "-days 2");
    request("expired-client", "certified", "extendedKeyUsage=clientAuth");
    signed(
        "expired-client",
        "ca",
        "-startdate 20200101000000Z -enddate 20210101000000Z",
    );
    let authority = "-config authority.cnf -cert ca.crt -keyfile ca.key";
    openssl(at, &format!("ca {authority} -gencrl -crldays 2 -out before.crl"));
    openssl(at, &format!("ca {authority} -revoke revoked.crt"));
    openssl(at, &format!("ca {authority} -gencrl -crldays 2 -out after.crl"));
    openssl(
        at,
        "pkey -in client.key -aes256 -passout pass:hush -out encrypted.key",
    );
    fs::create_dir(at.join("lists")).unwrap();
    fs::copy(at.join("after.crl"), at.join("lists/any.r0")).unwrap();
    // OpenSSL finds it by the hash of the authority's name.
    let output = Command::new("openssl")
        .current_dir(at)
        .args(["crl", "-hash", "-noout", "-in", "after.crl"])
        .output();
    let hash = String::from_utf8(output.unwrap().stdout).unwrap();
    fs::rename(
        at.join("lists/any.r0"),
        at.join(format!("lists/{}.r0", hash.trim())),
    )
    .unwrap();
    for entry in fs::read_dir(at).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "key" || extension == "crt")
        {
            own(&path);
        }
    }
}

/// The server shows this certificate from now on.
async fn shows(cluster: &Cluster, name: &str) {
    let loaded = async || -> std::time::SystemTime {
        let admin = cluster.admin().await;
        admin
            .client
            .query_one("SELECT pg_conf_load_time()", &[])
            .await
            .unwrap()
            .get(0)
    };
    let before = loaded().await;
    let admin = cluster.admin().await;
    for option in ["cert:crt", "key:key"] {
        let (what, extension) = option.split_once(':').unwrap();
        let path = cluster.file(&format!("{name}.{extension}"));
        let sql = format!("ALTER SYSTEM SET ssl_{what}_file = '{}'", path.display());
        admin.client.batch_execute(&sql).await.unwrap();
    }
    admin
        .client
        .batch_execute("SELECT pg_reload_conf()")
        .await
        .unwrap();
    let began = Instant::now();
    while loaded().await <= before {
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "the server does not reload"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

const TLS: Result<&str, &str> = Ok("secret postgres 127.0.0.1 TLSv1.3");
const LOCALHOST: &str =
    "host=localhost hostaddr=127.0.0.1 port=$PORT user=secret password=hush dbname=postgres";

/// What is appended to a connection to localhost, and what becomes of it.
type Short = (&'static str, Result<&'static str, &'static str>);

const EXPIRED: Result<&str, &str> = Err("expired or is not valid yet");
const UNTRUSTED: Result<&str, &str> = Err("trusted authority");
const MISNAMED: Result<&str, &str> = Err("another name");
const REVOKED: Result<&str, &str> = Err("has been revoked");

/// Certificates of the server, and how clients take them.
const SERVERS: &[(&str, &[Short])] = &[
    (
        "current",
        &[
            ("", TLS),
            ("sslmode=disable", Ok("secret postgres 127.0.0.1 plain")),
            ("sslmode=allow", Ok("secret postgres 127.0.0.1 plain")),
            ("sslmode=prefer", TLS),
            ("sslmode=require", TLS),
            ("sslmode=verify-ca sslrootcert=$DIR/ca.crt", TLS),
            ("sslmode=verify-full sslrootcert=$DIR/ca.crt", TLS),
            (
                "sslmode=verify-full sslrootcert=$DIR/ca.crt host=127.0.0.1",
                MISNAMED,
            ),
            ("sslmode=verify-ca sslrootcert=$DIR/ca.crt host=127.0.0.1", TLS),
            ("sslmode=verify-full sslrootcert=$DIR/other.crt", UNTRUSTED),
            ("sslmode=verify-ca sslrootcert=$DIR/other.crt", UNTRUSTED),
            ("sslmode=require sslrootcert=$DIR/other.crt", UNTRUSTED),
            (
                "sslmode=verify-full sslrootcert=$DIR/absent.crt",
                Err("absent.crt"),
            ),
            ("sslmode=verify-full", Err("root.crt")),
            (
                "sslmode=verify-full sslrootcert=$DIR/ca.crt ssl_max_protocol_version=TLSv1.2",
                Ok("secret postgres 127.0.0.1 TLSv1.2"),
            ),
            ("sslmode=require ssl_min_protocol_version=TLSv1.3", TLS),
            (
                "sslmode=require ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.2",
                Err("contradict"),
            ),
            (
                "sslmode=require ssl_min_protocol_version=TLSv2",
                Err("ssl_min_protocol_version"),
            ),
            ("sslmode=require sslsni=0", TLS),
            ("sslmode=require user=plain_only", Err("refused")),
            ("sslmode=disable user=tls_only", Err("refused")),
            (
                "sslmode=prefer user=plain_only",
                Ok("plain_only postgres 127.0.0.1 plain"),
            ),
            (
                "sslmode=allow user=tls_only",
                Ok("tls_only postgres 127.0.0.1 TLSv1.3"),
            ),
            // Lists of what is revoked.
            (
                "sslmode=verify-full sslrootcert=$DIR/ca.crt sslcrl=$DIR/after.crl",
                TLS,
            ),
            (
                "sslmode=verify-full sslrootcert=$DIR/ca.crt sslcrldir=$DIR/lists",
                TLS,
            ),
            (
                "sslmode=verify-ca sslrootcert=$DIR/ca.crt sslcrl=$DIR/after.crl host=127.0.0.1",
                TLS,
            ),
            (
                "sslmode=verify-full sslrootcert=$DIR/ca.crt sslcrl=$DIR/after.crl host=127.0.0.1",
                MISNAMED,
            ),
            // Clients: by a certificate, by a wrong one, by none.
            (
                "user=certified password='' sslmode=verify-full sslrootcert=$DIR/ca.crt sslcert=$DIR/client.crt sslkey=$DIR/client.key",
                Ok("certified postgres 127.0.0.1 TLSv1.3"),
            ),
            ("user=certified password='' sslmode=require", Err("refused")),
            (
                "user=certified password='' sslmode=require sslcert=$DIR/absent sslkey=$DIR/client.key",
                Err("absent"),
            ),
            (
                "user=certified password='' sslmode=require sslcert=$DIR/client.crt sslkey=$DIR/absent",
                Err("absent"),
            ),
            (
                "user=certified password='' sslmode=require sslcert=$DIR/client.crt sslkey=$DIR/server.key",
                Err("client.crt"),
            ),
            (
                "user=certified password='' sslmode=require sslcert=$DIR/client.crt sslkey=$DIR/exposed.key",
                Err("chmod 0600"),
            ),
            (
                "user=certified password='' sslmode=require sslcert=$DIR/stranger.crt sslkey=$DIR/stranger.key",
                Err(""),
            ),
            (
                "user=certified password='' sslmode=require sslcert=$DIR/expired-client.crt sslkey=$DIR/expired-client.key",
                Err(""),
            ),
            (
                "user=free password='' sslmode=require sslcert=$DIR/client.crt sslkey=$DIR/client.key",
                Ok("free"),
            ),
        ],
    ),
    (
        "expired",
        &[
            ("sslmode=require", TLS),
            ("sslmode=verify-ca sslrootcert=$DIR/ca.crt", EXPIRED),
            ("sslmode=verify-full sslrootcert=$DIR/ca.crt", EXPIRED),
            ("sslmode=require sslrootcert=$DIR/ca.crt", EXPIRED),
        ],
    ),
    (
        "future",
        &[("sslmode=verify-full sslrootcert=$DIR/ca.crt", EXPIRED)],
    ),
    (
        "elsewhere",
        &[
            ("sslmode=verify-full sslrootcert=$DIR/ca.crt", MISNAMED),
            ("sslmode=verify-ca sslrootcert=$DIR/ca.crt", TLS),
            (
                "sslmode=verify-full sslrootcert=$DIR/ca.crt host=elsewhere.example",
                TLS,
            ),
        ],
    ),
    (
        "wildcard",
        &[
            (
                "sslmode=verify-full sslrootcert=$DIR/ca.crt host=db.example.org",
                TLS,
            ),
            (
                "sslmode=verify-full sslrootcert=$DIR/ca.crt host=a.db.example.org",
                MISNAMED,
            ),
            (
                "sslmode=verify-full sslrootcert=$DIR/ca.crt host=example.org",
                MISNAMED,
            ),
        ],
    ),
    (
        "address",
        &[
            ("sslmode=verify-full sslrootcert=$DIR/ca.crt host=127.0.0.1", TLS),
            ("sslmode=verify-full sslrootcert=$DIR/ca.crt", MISNAMED),
        ],
    ),
    (
        "foreign",
        &[
            ("sslmode=verify-full sslrootcert=$DIR/ca.crt", UNTRUSTED),
            ("sslmode=verify-full sslrootcert=$DIR/other.crt", TLS),
        ],
    ),
    (
        "self",
        &[
            (
                "sslmode=verify-full sslrootcert=$DIR/ca.crt",
                Err("certificate cannot be used"),
            ),
            ("sslmode=verify-full sslrootcert=$DIR/self.crt", TLS),
            ("sslmode=require", TLS),
        ],
    ),
    (
        "revoked",
        &[
            ("sslmode=verify-full sslrootcert=$DIR/ca.crt", TLS),
            (
                "sslmode=verify-full sslrootcert=$DIR/ca.crt sslcrl=$DIR/before.crl",
                TLS,
            ),
            (
                "sslmode=verify-full sslrootcert=$DIR/ca.crt sslcrl=$DIR/after.crl",
                REVOKED,
            ),
            (
                "sslmode=verify-ca sslrootcert=$DIR/ca.crt sslcrl=$DIR/after.crl host=127.0.0.1",
                REVOKED,
            ),
            (
                "sslmode=require sslrootcert=$DIR/ca.crt sslcrldir=$DIR/lists",
                REVOKED,
            ),
        ],
    ),
];

/// Where psql is more lenient, or cannot be asked, or only its later releases know.
const OWN: &[Case] = &[
    since(17, case("$LOCAL sslmode=require sslnegotiation=direct", &[], TLS)),
    since(
        17,
        case(
            "$LOCAL sslmode=prefer sslnegotiation=direct",
            &[],
            Err("contradict"),
        ),
    ),
    since(16, case("$LOCAL sslrootcert=system", &[], UNTRUSTED)),
    since(
        16,
        case(
            "$LOCAL sslrootcert=system sslmode=require",
            &[],
            Err("contradict"),
        ),
    ),
    since(
        16,
        case(
            "$LOCAL user=certified password='' sslmode=require sslcertmode=disable sslcert=$DIR/client.crt sslkey=$DIR/client.key",
            &[],
            Err("refused"),
        ),
    ),
    // psql silently does without a list that is not there.
    since(
        99,
        case(
            "$LOCAL sslmode=verify-full sslrootcert=$DIR/ca.crt sslcrl=$DIR/absent.crl",
            &[],
            Err("absent.crl"),
        ),
    ),
    since(
        99,
        case(
            "$LOCAL sslmode=verify-full sslrootcert=$DIR/ca.crt sslcrl=$DIR/ca.crt",
            &[],
            Err("no list in it"),
        ),
    ),
    // psql would ask for the passphrase.
    since(
        99,
        case(
            "$LOCAL user=certified sslmode=require sslcert=$DIR/client.crt sslkey=$DIR/encrypted.key",
            &[],
            Err("encrypted"),
        ),
    ),
    // The usual files of a home.
    case("$LOCAL sslmode=verify-full", &[("HOME", "$DIR/trusting")], TLS),
    case(
        "$LOCAL sslmode=verify-full user=certified password=''",
        &[("HOME", "$DIR/trusting")],
        Ok("certified"),
    ),
    case(
        "$LOCAL sslmode=require",
        &[("HOME", "$DIR/mistrusting")],
        UNTRUSTED,
    ),
    case(
        "$LOCAL",
        &[
            ("PGSSLMODE", "verify-full"),
            ("PGSSLROOTCERT", "$DIR/ca.crt"),
            ("PGSSLCRL", "$DIR/after.crl"),
        ],
        TLS,
    ),
    case(
        "$LOCAL user=certified password=''",
        &[
            ("PGSSLMODE", "require"),
            ("PGSSLCERT", "$DIR/client.crt"),
            ("PGSSLKEY", "$DIR/client.key"),
        ],
        Ok("certified"),
    ),
    case(
        "$LOCAL",
        &[
            ("PGSSLMINPROTOCOLVERSION", "TLSv1.2"),
            ("PGSSLMAXPROTOCOLVERSION", "TLSv1.2"),
        ],
        Ok("secret postgres 127.0.0.1 TLSv1.2"),
    ),
];

#[tokio::test]
async fn wrong_ones_are_refused_and_right_ones_are_not_as_psql_does() {
    let cluster = Cluster::start("server").await;
    let at = cluster.file("");
    more_certificates(&at);
    fs::copy(at.join("client.key"), at.join("exposed.key")).unwrap();
    run(Command::new("chmod").arg("0644").arg(at.join("exposed.key")));
    for (home, root) in [("trusting", "ca.crt"), ("mistrusting", "other.crt")] {
        let folder = at.join(home).join(".postgresql");
        fs::create_dir_all(&folder).unwrap();
        fs::copy(at.join(root), folder.join("root.crt")).unwrap();
    }
    for (from, to) in [("client.crt", "postgresql.crt"), ("client.key", "postgresql.key")] {
        fs::copy(at.join(from), at.join("trusting/.postgresql").join(to)).unwrap();
    }
    let comparison =
        Comparison::new(&cluster).with("$LOCAL", LOCALHOST.replace("$PORT", &cluster.port.to_string()));
    let mut compared = 0;
    for (certificate, cases) in SERVERS {
        shows(&cluster, certificate).await;
        for (more, outcome) in *cases {
            let string: &'static str = Box::leak(format!("{LOCALHOST} {more}").into_boxed_str());
            compared += comparison.try_all(&[case(string, &[], *outcome)]).await;
        }
    }
    shows(&cluster, "current").await;
    // Servers know direct negotiation from PostgreSQL 17 on.
    let admin = cluster.admin().await;
    let version: String = admin
        .client
        .query_one("SHOW server_version_num", &[])
        .await
        .unwrap()
        .get(0);
    let knows_direct = version.parse::<u32>().unwrap() >= 170_000;
    let cases: Vec<Case> = OWN
        .iter()
        .filter(|it| knows_direct || !it.string.contains("require sslnegotiation"))
        .copied()
        .collect();
    compared += comparison.try_all(&cases).await;
    println!("{compared} connections are as psql's");
}
