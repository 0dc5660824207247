use super::{Case, Comparison, case, since};
use crate::settings::Cluster;
use std::fs;
use std::os::unix::fs::PermissionsExt;

const OVER_TCP: &str = "secret postgres 127.0.0.1 plain primary parity 4MB";
const TLS: &str = "secret postgres 127.0.0.1 TLSv1.3 primary parity 4MB";
const SOCKET: &str = "secret postgres socket plain primary parity 4MB";

const STRINGS: &[Case] = &[
    case("postgresql://secret:hush@127.0.0.1:$PORT/postgres", &[], Ok(TLS)),
    case(
        "postgres://secret:hush@127.0.0.1:$PORT/postgres?sslmode=disable",
        &[],
        Ok(OVER_TCP),
    ),
    case(
        "postgresql://secret:h%75sh@localhost:$PORT/postgres?hostaddr=127.0.0.1",
        &[],
        Ok(TLS),
    ),
    case(
        "postgresql:///postgres?host=$DIR&port=$PORT&user=secret",
        &[],
        Ok(SOCKET),
    ),
    case("postgresql://secret@:$PORT/postgres?host=$DIR", &[], Ok(SOCKET)),
    case(
        "host=127.0.0.1 port=$PORT user=secret password=hush dbname=postgres",
        &[],
        Ok(TLS),
    ),
    case(
        "host = '127.0.0.1'   port=$PORT user=secret password='hu\\sh' dbname = postgres",
        &[],
        Ok(TLS),
    ),
    case(
        "host=$DIR port=$PORT user=secret dbname=postgres",
        &[],
        Ok(SOCKET),
    ),
    case(
        "host=$ABSTRACT port=$PORT user=secret dbname=postgres",
        &[],
        Ok(SOCKET),
    ),
    case(
        "host=$ABSTRACT-not port=$PORT user=secret dbname=postgres",
        &[],
        Err("cannot reach"),
    ),
    case(
        "hostaddr=127.0.0.1 port=$PORT user=secret password=hush dbname=postgres",
        &[],
        Ok(TLS),
    ),
    case(
        "host=127.0.0.1 port=$PORT user=secret password=hush dbname=template1 ssl=true",
        &[],
        Err("unknown connection option"),
    ),
    case(
        "postgresql://secret:hush@127.0.0.1:$PORT/template1?ssl=true",
        &[],
        Ok("secret template1 127.0.0.1 TLSv1.3"),
    ),
    case(
        "postgresql://secret:hush@127.0.0.1:$PORT/postgres?application_name=mine",
        &[],
        Ok("secret postgres 127.0.0.1 TLSv1.3 primary mine 4MB"),
    ),
    case(
        "host=$DIR port=$PORT user=secret dbname=postgres options='-c work_mem=5MB'",
        &[],
        Ok("secret postgres socket plain primary parity 5MB"),
    ),
    case(
        "postgresql://secret@/postgres?host=$DIR&port=$PORT&options=-c%20work_mem%3D6MB",
        &[],
        Ok("secret postgres socket plain primary parity 6MB"),
    ),
    case(
        "host=$DIR port=$PORT user=secret dbname=postgres options='-c nothing=1'",
        &[],
        Err("nothing"),
    ),
    case(
        "host=127.0.0.1 port=$PORT user=secret password=wrong dbname=postgres",
        &[],
        Err("the login was refused"),
    ),
    case(
        "host=127.0.0.1 port=$PORT user=secret dbname=postgres",
        &[],
        Err("password missing"),
    ),
    case(
        "host=127.0.0.1 port=$CLOSED user=secret dbname=postgres",
        &[],
        Err("connection refused"),
    ),
    case("host=127.0.0.1 port=0 user=secret", &[], Err("port")),
    case(
        "postgresql://secret:hush@127.0.0.1:$PORT/none",
        &[],
        Err("no such database"),
    ),
    case(
        "postgresql://secret:hush@[127.0.0.1:$PORT/postgres",
        &[],
        Err("IPv6"),
    ),
    case(
        "postgresql://secret:hush@127.0.0.1:$PORT/postgres?sslmode",
        &[],
        Err("lacks its \"=\""),
    ),
    case(
        "host=$DIR port=$PORT user=secret dbname=postgres connect_timeout=soon",
        &[],
        Err("connect_timeout"),
    ),
    case(
        "host=$DIR port=$PORT user=secret dbname=postgres keepalives=0 tcp_user_timeout=10000",
        &[],
        Ok(SOCKET),
    ),
    case(
        "host=127.0.0.1 port=$PORT user=secret password=hush dbname=postgres keepalives_idle=30 keepalives_interval=5 keepalives_count=3 tcp_user_timeout=10000",
        &[],
        Ok(TLS),
    ),
    case(
        "host=127.0.0.1 port=$PORT user=secret password=hush dbname=postgres keepalives_idle=x",
        &[],
        Err("keepalives_idle"),
    ),
    case(
        "host=$DIR port=$PORT user=secret dbname=postgres requirepeer=$PEER",
        &[],
        Ok(SOCKET),
    ),
    case(
        "host=$DIR port=$PORT user=secret dbname=postgres requirepeer=somebody",
        &[],
        Err("requirepeer"),
    ),
    case(
        "host=127.0.0.1 port=$PORT user=secret password=hush dbname=postgres requirepeer=somebody",
        &[],
        Ok(TLS),
    ),
    case(
        "host=$DIR port=$PORT user=secret dbname=postgres sslmode=verify-full",
        &[],
        Ok(SOCKET),
    ),
    case(
        "host=$DIR port=$PORT user=secret dbname=postgres gssencmode=disable client_encoding=UTF8",
        &[],
        Ok(SOCKET),
    ),
    case("sslmod=require", &[], Err("unknown connection option")),
];

const SOCKET_VARIABLES: &[(&str, &str)] = &[
    ("PGHOST", "$DIR"),
    ("PGPORT", "$PORT"),
    ("PGUSER", "secret"),
    ("PGDATABASE", "postgres"),
];

const VARIABLES: &[Case] = &[
    case("", SOCKET_VARIABLES, Ok(SOCKET)),
    case(
        "",
        &[
            ("PGHOST", "localhost"),
            ("PGHOSTADDR", "127.0.0.1"),
            ("PGPORT", "$PORT"),
            ("PGUSER", "secret"),
            ("PGPASSWORD", "hush"),
            ("PGDATABASE", "postgres"),
            ("PGSSLMODE", "disable"),
        ],
        Ok(OVER_TCP),
    ),
    case("template1", SOCKET_VARIABLES, Ok("secret template1 socket")),
    case(
        "dbname=template1 user=old",
        SOCKET_VARIABLES,
        Ok("old template1 socket"),
    ),
    case(
        "postgresql:///template1",
        SOCKET_VARIABLES,
        Ok("secret template1 socket"),
    ),
    case(
        "",
        &[("PGHOST", "$DIR"), ("PGPORT", "$PORT"), ("PGUSER", "postgres")],
        Ok("postgres postgres socket"),
    ),
    case(
        "",
        &[
            ("PGHOST", "$DIR"),
            ("PGPORT", "$PORT"),
            ("PGUSER", "secret"),
            ("PGDATABASE", "postgres"),
            ("PGOPTIONS", "-c work_mem=7MB"),
            ("PGAPPNAME", "other"),
        ],
        Ok("secret postgres socket plain primary other 7MB"),
    ),
    case(
        "",
        &[("PGHOST", "$DIR"), ("PGPORT", "x"), ("PGUSER", "secret")],
        Err("port"),
    ),
    case(
        "host=$DIR port=$PORT user=secret dbname=postgres",
        &[("PGSSLMODE", "sometimes")],
        Err("sslmode"),
    ),
    case(
        "host=$DIR port=$PORT user=secret dbname=postgres",
        &[("PGTARGETSESSIONATTRS", "best")],
        Err("target_session_attrs"),
    ),
    case(
        "host=$DIR port=$PORT user=secret dbname=postgres",
        &[("PGREQUIREPEER", "somebody")],
        Err("requirepeer"),
    ),
    // Services: the file that is named, that of the home, that of the system; files say what variables do not.
    case("service=one", &[("PGSERVICEFILE", "$DIR/services")], Ok(SOCKET)),
    case(
        "",
        &[
            ("PGSERVICE", "one"),
            ("PGSERVICEFILE", "$DIR/services"),
            ("PGUSER", "old"),
        ],
        Ok(SOCKET),
    ),
    case(
        "postgresql:///template1?service=one",
        &[("PGSERVICEFILE", "$DIR/services")],
        Ok("secret template1 socket"),
    ),
    case("service=at-home", &[], Ok("old postgres socket")),
    case("service=of-system", &[], Ok("plain postgres socket")),
    case("service=none", &[], Err("\"none\"")),
    case(
        "service=broken",
        &[("PGSERVICEFILE", "$DIR/services")],
        Err("hosst"),
    ),
    case("service=one", &[("PGSERVICEFILE", "$DIR/absent")], Err("absent")),
    // Password files: of the home and the named one, for the right host and port only, and for nobody else to read.
    case(
        "host=localhost hostaddr=127.0.0.1 port=$PORT user=secret dbname=postgres",
        &[],
        Ok(TLS),
    ),
    case(
        "host=127.0.0.1 port=$PORT user=secret dbname=postgres",
        &[("PGPASSFILE", "$DIR/passwords")],
        Ok(TLS),
    ),
    case(
        "host=127.0.0.1 port=$PORT user=secret dbname=postgres passfile=$DIR/passwords",
        &[],
        Ok(TLS),
    ),
    case(
        "host=127.0.0.1 port=$PORT user=secret dbname=postgres passfile=$DIR/passwords password=wrong",
        &[],
        Err("refused"),
    ),
    case(
        "host=127.0.0.1 port=$PORT user=plain dbname=postgres passfile=$DIR/passwords",
        &[],
        Err("password missing"),
    ),
    case(
        "host=127.0.0.1 port=$PORT user=secret dbname=postgres passfile=$DIR/readable",
        &[],
        Err("password missing"),
    ),
    case(
        "host=127.0.0.1 port=$PORT user=secret dbname=postgres passfile=$DIR/absent",
        &[],
        Err("password missing"),
    ),
];

const LOGINS: &[Case] = &[
    case(
        "host=127.0.0.1 port=$PORT user=old password=hush dbname=postgres",
        &[],
        Ok("old postgres 127.0.0.1"),
    ),
    case(
        "host=127.0.0.1 port=$PORT user=plain password=hush dbname=postgres",
        &[],
        Ok("plain postgres 127.0.0.1"),
    ),
    case(
        "host=127.0.0.1 port=$PORT user=free dbname=postgres",
        &[],
        Ok("free postgres 127.0.0.1"),
    ),
    // Channel binding: SCRAM over TLS proves the server, nothing else does.
    case(
        "host=127.0.0.1 port=$PORT user=secret password=hush dbname=postgres channel_binding=require",
        &[],
        Ok(TLS),
    ),
    case(
        "host=127.0.0.1 port=$PORT user=secret password=hush dbname=postgres channel_binding=prefer",
        &[],
        Ok(TLS),
    ),
    case(
        "host=127.0.0.1 port=$PORT user=secret password=hush dbname=postgres channel_binding=disable",
        &[],
        Ok(TLS),
    ),
    case(
        "host=127.0.0.1 port=$PORT user=secret password=hush dbname=postgres sslmode=disable channel_binding=require",
        &[],
        Err("refused"),
    ),
    case(
        "host=127.0.0.1 port=$PORT user=old password=hush dbname=postgres channel_binding=require",
        &[],
        Err("refused"),
    ),
    case(
        "host=127.0.0.1 port=$PORT user=plain password=hush dbname=postgres channel_binding=require",
        &[],
        Err("refused"),
    ),
    case(
        "host=127.0.0.1 port=$PORT user=free dbname=postgres channel_binding=require",
        &[],
        Err("refused"),
    ),
    case(
        "host=127.0.0.1 port=$PORT user=secret password=hush dbname=postgres channel_binding=perhaps",
        &[],
        Err("channel_binding"),
    ),
    // What the server may ask for.
    since(
        16,
        case(
            "host=127.0.0.1 port=$PORT user=secret password=hush dbname=postgres require_auth=scram-sha-256",
            &[],
            Ok(TLS),
        ),
    ),
    since(
        16,
        case(
            "host=127.0.0.1 port=$PORT user=secret password=hush dbname=postgres sslmode=disable require_auth=scram-sha-256",
            &[],
            Ok(OVER_TCP),
        ),
    ),
    since(
        16,
        case(
            "host=127.0.0.1 port=$PORT user=plain password=hush dbname=postgres require_auth=scram-sha-256",
            &[],
            Err("asks for password"),
        ),
    ),
    since(
        16,
        case(
            "host=127.0.0.1 port=$PORT user=plain password=hush dbname=postgres sslmode=disable require_auth=scram-sha-256,md5",
            &[],
            Err("asks for password"),
        ),
    ),
    since(
        16,
        case(
            "host=127.0.0.1 port=$PORT user=old password=hush dbname=postgres require_auth=!password,!md5",
            &[],
            Err("asks for md5"),
        ),
    ),
    since(
        16,
        case(
            "host=127.0.0.1 port=$PORT user=old password=hush dbname=postgres require_auth=md5,scram-sha-256",
            &[],
            Ok("old"),
        ),
    ),
    since(
        16,
        case(
            "host=127.0.0.1 port=$PORT user=free dbname=postgres require_auth=scram-sha-256",
            &[],
            Err("without asking"),
        ),
    ),
    since(
        16,
        case(
            "host=127.0.0.1 port=$PORT user=free dbname=postgres require_auth=none",
            &[],
            Ok("free"),
        ),
    ),
    since(
        16,
        case(
            "host=127.0.0.1 port=$PORT user=secret password=hush dbname=postgres",
            &[("PGREQUIREAUTH", "none")],
            Err("asks for scram-sha-256"),
        ),
    ),
    since(
        16,
        case(
            "host=127.0.0.1 port=$PORT user=secret dbname=postgres require_auth=scram",
            &[],
            Err("require_auth"),
        ),
    ),
];

/// What psql cannot be asked: pgmorph refuses it rather than ignoring it.
const REFUSED: &[Case] = &[
    since(
        99,
        case("host=$DIR port=$PORT gssencmode=require", &[], Err("gssencmode")),
    ),
    since(
        99,
        case(
            "host=$DIR port=$PORT",
            &[("PGSSLCERTMODE", "require")],
            Err("sslcertmode"),
        ),
    ),
    since(
        99,
        case(
            "host=$DIR port=$PORT min_protocol_version=3.2",
            &[],
            Err("min_protocol_version"),
        ),
    ),
    since(
        99,
        case(
            "host=$DIR port=$PORT replication=database",
            &[],
            Err("replication"),
        ),
    ),
    since(
        99,
        case(
            "host=$DIR port=$PORT oauth_issuer=https://example.org",
            &[],
            Err("oauth_issuer"),
        ),
    ),
];

#[tokio::test]
async fn the_same_strings_and_variables_lead_to_the_same_place_as_with_psql() {
    let cluster = Cluster::shared().await;
    let write = |name: &str, text: &str, mode: u32| {
        let path = cluster.file(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let text = text
            .replace(
                "$DIR",
                cluster.file("").display().to_string().trim_end_matches('/'),
            )
            .replace("$PORT", &cluster.port.to_string());
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let service =
        |name: &str, user: &str| format!("[{name}]\nhost=$DIR\nport=$PORT\nuser={user}\ndbname=postgres\n");
    write(
        "services",
        &(service("one", "secret") + "[broken]\nhosst=x\n"),
        0o644,
    );
    write("home/.pg_service.conf", &service("at-home", "old"), 0o644);
    write(
        "system/pg_service.conf",
        &(service("at-home", "free") + &service("of-system", "plain")),
        0o644,
    );
    write("home/.pgpass", "localhost:$PORT:postgres:secret:hush\n", 0o600);
    let passwords = "127.0.0.1:1:*:*:wrong\n127.0.0.1:$PORT:*:secret:hush\n";
    write("passwords", passwords, 0o600);
    write("readable", passwords, 0o644);
    let comparison = Comparison::new(&cluster);
    let mut compared = 0;
    for cases in [STRINGS, VARIABLES, LOGINS, REFUSED] {
        compared += comparison.try_all(cases).await;
    }
    println!("{compared} connections are as psql's");
}
