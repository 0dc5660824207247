//! Files made to take all memory, all stack or all day, given to the program under a limit of memory.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Kilobytes of address space. A connection, two threads and a plan take a fraction of it.
const MEMORY_KB: u32 = 2_000_000;
/// Of one command, on a machine under load.
const PATIENCE: Duration = Duration::from_secs(120);

struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// The program with this on its standard input.
fn fed(arguments: &[&str], input: &[u8]) -> Ended {
    let script = format!("ulimit -v {MEMORY_KB}; exec \"$0\" \"$@\"");
    let mut child = Command::new("/bin/sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_pgmorph")])
        .args(arguments)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // It may have said no before it has read everything.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let began = Instant::now();
    let output = child.wait_with_output().unwrap();
    assert!(
        began.elapsed() < PATIENCE,
        "{arguments:?} took {:?}",
        began.elapsed()
    );
    writer.join().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

fn catalog() -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(super::targets::CATALOG.as_bytes()).unwrap();
    file
}

const HEAD: &str = "name: p\nchanges:\n";
const CHANGE: &str = "  - set_default: {table: orders, column: note, default: \"'x'\"}\n";

/// What it is, the plan, and a part of the complaint.
fn plans() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let good = format!("{HEAD}{CHANGE}");
    let laughs = (1..12).fold("a0: &a0 [lol, lol]\n".to_owned(), |text, level| {
        let below = format!("*a{}, ", level - 1).repeat(9);
        format!("{text}a{level}: &a{level} [{below}lol]\n")
    });
    let long_alias = format!(
        "x: &x \"{}\"\ny: [{}]\n{good}",
        "x".repeat(1 << 20),
        "*x, ".repeat(50)
    );
    let mut indented = String::new();
    for level in 0..2_000 {
        indented.push_str(&" ".repeat(level));
        indented.push_str("- a:\n");
    }
    let keys: String = (0..9_000).map(|number| format!("key{number}: 1\n")).collect();
    let columns: String = (0..15_000).map(|number| format!("c{number}, ")).collect();
    let twice = "a, ".repeat(15_000);
    vec![
        ("nothing", Vec::new(), "error"),
        ("lists in lists", vec![b'['; 1_000_000], "error[invalid_yaml]"),
        (
            "maps in maps",
            "{a: ".repeat(500_000).into_bytes(),
            "error[invalid_yaml]",
        ),
        (
            "JSON in JSON",
            format!("{{\"a\":{}", "[".repeat(1_000_000)).into_bytes(),
            "error[invalid_yaml]",
        ),
        ("blocks in blocks", indented.into_bytes(), "error[invalid_yaml]"),
        ("anchors on anchors", laughs.into_bytes(), "error[invalid_yaml]"),
        (
            "a long text, often",
            long_alias.into_bytes(),
            "error[invalid_yaml]",
        ),
        (
            "10 MB of text",
            format!("{good}description: \"{}\"\n", "x".repeat(10 << 20)).into_bytes(),
            "4 MB of a plan file",
        ),
        (
            "3 MB of a name",
            format!("{HEAD}  - drop_table: {{table: {}}}\n", "x".repeat(3 << 20)).into_bytes(),
            "would silently cut it off",
        ),
        (
            "3 MB of a key",
            format!("{good}{}: 1\n", "x".repeat(3 << 20)).into_bytes(),
            "error",
        ),
        ("3 MB of lines", "a\n".repeat(3 << 19).into_bytes(), "error"),
        (
            "thousands of keys",
            format!("{good}{keys}").into_bytes(),
            "and 8950 more",
        ),
        (
            "thousands of columns",
            format!("{HEAD}  - create_index: {{table: orders, columns: [{columns}]}}\n").into_bytes(),
            "error",
        ),
        (
            "a column thousands of times",
            format!("{HEAD}  - create_index: {{table: orders, columns: [{twice}]}}\n").into_bytes(),
            "at most 32 columns",
        ),
        (
            "digits",
            format!("settings: {{lock_timeout: {}ms}}\n{good}", "9".repeat(1 << 20)).into_bytes(),
            "`lock_timeout` cannot be",
        ),
        (
            "more than a server's timeout",
            format!("settings: {{statement_timeout: 3000000s}}\n{good}").into_bytes(),
            "at most 24d",
        ),
        (
            "a number as size",
            format!("settings: {{small_table: 1e400GB}}\n{good}").into_bytes(),
            "`small_table` cannot be",
        ),
        ("zero bytes", vec![0; 100_000], "error"),
        (
            "a zero byte in a name",
            format!("{HEAD}  - drop_table: {{table: \"a\\0b\"}}\n").into_bytes(),
            "NUL",
        ),
        ("no UTF-8", b"name: \xff\xfe".to_vec(), "not UTF-8 at byte 6"),
        ("many documents", "--- a\n".repeat(100_000).into_bytes(), "error"),
    ]
}

#[test]
fn plans_are_refused_within_bounds() {
    let catalog = catalog();
    let path = catalog.path().to_str().unwrap();
    for (number, (what, input, complaint)) in plans().into_iter().enumerate() {
        let ended = fed(&["plan", "-", "--catalog", path], &input);
        let said: String = ended.stderr.chars().take(2_000).collect();
        assert_eq!(ended.code, Some(2), "{what}: {said}");
        assert!(
            ended.stderr.contains(complaint),
            "{what} lacks {complaint:?}: {said}"
        );
        assert_eq!(ended.stdout, "", "{what}");
        assert!(
            ended.stderr.len() < 16 << 20,
            "{what} is answered with {} bytes",
            ended.stderr.len()
        );
        // For machines it is refused just so.
        if !number.is_multiple_of(4) {
            continue;
        }
        let ended = fed(&["plan", "-", "--catalog", path, "--format", "json"], &input);
        assert_eq!(ended.code, Some(2), "{what} as JSON");
        let answer: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
        assert_eq!(answer["error"]["kind"], "usage", "{what}");
    }
}

#[test]
fn a_byte_order_mark_and_windows_lines_are_no_mistake() {
    let catalog = catalog();
    let path = catalog.path().to_str().unwrap();
    for text in [
        format!("\u{feff}{HEAD}{CHANGE}"),
        format!("{HEAD}{CHANGE}").replace('\n', "\r\n"),
    ] {
        let ended = fed(&["plan", "-", "--catalog", path], text.as_bytes());
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    }
}

#[test]
fn files_without_an_end_are_refused_within_bounds() {
    let catalog = catalog();
    let path = catalog.path().to_str().unwrap();
    let ended = fed(&["plan", "/dev/zero", "--catalog", path], b"");
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    assert!(ended.stderr.contains("it has more than"), "{}", ended.stderr);
    let ended = fed(&["status", "--url", "service=x&servicefile=/dev/zero"], b"");
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    let ended = fed(&["status", "--url", "service=x servicefile=/dev/zero"], b"");
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    assert!(ended.stderr.contains("it has more than"), "{}", ended.stderr);
}

#[test]
fn catalogs_are_refused_within_bounds() {
    let good: serde_json::Value = serde_json::from_str(super::targets::CATALOG).unwrap();
    let with = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut catalog = good.clone();
        change(&mut catalog);
        catalog.to_string().into_bytes()
    };
    let children = |table: &str, child: &str| {
        let (table, child) = (table.to_owned(), child.to_owned());
        with(&move |catalog| catalog["tables"][&table]["children"] = serde_json::json!([child]))
    };
    let plan = format!("{HEAD}{CHANGE}");
    let mut plan_file = tempfile::NamedTempFile::new().unwrap();
    plan_file.write_all(plan.as_bytes()).unwrap();
    let path = plan_file.path().to_str().unwrap();
    for (what, catalog, complaint) in [
        ("nothing", Vec::new(), "not a catalog snapshot"),
        ("depth", vec![b'['; 1_000_000], "not a catalog snapshot"),
        (
            "another format",
            with(&|it| it["format"] = 99.into()),
            "format 99",
        ),
        (
            "a table in itself",
            children("public.events_rest", "public.events_rest"),
            "contain each other",
        ),
        (
            "tables in each other",
            children("public.events_rest", "public.events"),
            "contain each other",
        ),
        (
            "too many rows",
            with(&|it| it["tables"]["public.orders"]["size"]["rows"] = i64::MAX.into()),
            "cannot have",
        ),
        ("no UTF-8", b"{\"format\": \"\xff\"}".to_vec(), "not UTF-8"),
        (
            "a name without an end",
            with(&|it| it["tables"]["public.orders"]["columns"][0]["name"] = "x".repeat(5 << 20).into()),
            "cut it off",
        ),
    ] {
        let ended = fed(&["plan", path, "--catalog", "-"], &catalog);
        let said: String = ended.stderr.chars().take(2_000).collect();
        assert_eq!(ended.code, Some(2), "{what}: {said}");
        assert!(ended.stderr.contains(complaint), "{what}: {said}");
    }
}
