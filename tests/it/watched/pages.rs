//! What needs no browser to be known of the pages: that they are whole, alone, and can be walked by ear and by keys.
//! `scripts/check-pages` looks at the same pages with one.

use crate::harness::{TestServer, pgmorph};
use crate::monitor::Stage;
use std::collections::BTreeSet;

const VOID: [&str; 3] = ["meta", "br", "!doctype"];

/// A tag with its attributes as they stand.
struct Tag<'a> {
    name: &'a str,
    closes: bool,
    /// `<line …/>`
    is_whole: bool,
    attributes: &'a str,
}

impl Tag<'_> {
    fn has(&self, attribute: &str) -> bool {
        self.attributes.contains(attribute)
    }
}

fn tags(page: &str) -> Vec<Tag<'_>> {
    let body = page.split("<style>").next().unwrap().len();
    let style = page[body..].find("</style>").map_or(body, |end| body + end);
    let outside = |(at, _): &(usize, &str)| *at <= body || *at >= style;
    page.match_indices('<')
        .filter(outside)
        .map(|(at, _)| {
            let text = &page[at + 1..];
            let text = &text[..text.find('>').unwrap()];
            let (closes, is_whole) = (text.starts_with('/'), text.ends_with('/'));
            let text = text.trim_start_matches('/').trim_end_matches('/');
            let (name, attributes) = text.split_once(' ').unwrap_or((text, ""));
            Tag {
                name,
                closes,
                is_whole,
                attributes,
            }
        })
        .collect()
}

#[track_caller]
pub fn assert_sound(page: &str) {
    assert!(page.starts_with("<!doctype html>\n<html lang=\"en\">"));
    for foreign in [
        "<script",
        "http:",
        "https:",
        "src=",
        "href=",
        "url(",
        "@import",
        "javascript:",
    ] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    assert!(page.contains("default-src 'none'") && page.contains("name=\"viewport\""));
    for style in ["prefers-color-scheme:dark", "@media print", "max-width:36rem"] {
        assert!(page.contains(style), "{style}");
    }
    let tags = tags(page);
    let mut open: Vec<&str> = Vec::new();
    let (mut level, mut titles) = (0, 0);
    for tag in &tags {
        if tag.closes {
            assert_eq!(open.pop(), Some(tag.name), "a tag is closed that was not open");
            continue;
        }
        if !VOID.contains(&tag.name) && !tag.is_whole {
            open.push(tag.name);
        }
        match tag.name {
            "h1" | "h2" | "h3" | "h4" => {
                let next = u32::from(tag.name.as_bytes()[1] - b'0');
                titles += u32::from(next == 1);
                assert!(next <= level + 1, "{} after a heading of level {level}", tag.name);
                level = next;
            }
            "svg" => assert!(
                open[..open.len() - 1].contains(&"svg")
                    || tag.has("role=\"img\"") && tag.has("aria-label=\""),
                "a picture without words"
            ),
            "th" => assert!(tag.has("scope="), "a heading of what?"),
            "div" => assert!(
                tag.has("tabindex=\"0\"") && tag.has("aria-label=\""),
                "what scrolls is reached by keys"
            ),
            "img" | "iframe" | "object" | "embed" | "link" | "form" => {
                panic!("<{}> in a page of one file", tag.name)
            }
            _ => {}
        }
    }
    assert!(open.is_empty(), "{open:?}");
    assert_eq!(titles, 1, "one title");
    let labels: Vec<&str> = page
        .split("role=\"region\" aria-label=\"")
        .skip(1)
        .map(|it| it.split('"').next().unwrap())
        .collect();
    assert_eq!(
        labels.len(),
        labels.iter().collect::<BTreeSet<_>>().len(),
        "landmarks of one name: {labels:?}"
    );
}

/// For `scripts/check-pages`, which says where.
pub fn keep(name: &str, page: &str) {
    if let Some(folder) = std::env::var_os("PGMORPH_PAGES") {
        std::fs::write(std::path::Path::new(&folder).join(format!("{name}.html")), page).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_a_plan_is_sound() {
    let server = TestServer::start(&[]);
    let stage = Stage::new(&server, 3_000).await;
    let rich = "name: rich\ndescription: Widens <b>what</b> & 'overflows'\nsettings: {small_table: 0}\n\
                before:\n  - {name: none below 0, query: SELECT id FROM orders WHERE version < 0}\n\
                changes:\n  - widen_column: {table: orders, column: version, type: bigint}\n\
                \u{20} - create_index: {name: orders_note_idx, table: orders, columns: [note]}\n\
                \u{20} - add_check: {table: orders, name: positive, expression: id > 0}\n\
                \u{20} - drop_column: {table: orders, column: created_at}\n\
                \u{20} - set_default: {table: later, column: a, default: 1, when: {table_exists: later}}\n\
                after:\n  - {name: still none, query: SELECT id FROM orders WHERE version < 0}\n";
    let path = stage.path("rich.yaml");
    std::fs::write(&path, rich).unwrap();
    let page = pgmorph(&stage.url, &["plan", &path, "--format", "html"])
        .await
        .expect(0)
        .stdout;
    assert_sound(&page);
    assert!(
        page.contains("Point of no return")
            && page.contains("&lt;b&gt;what&lt;/b&gt; &amp;")
            && page.contains("later")
    );
    keep("plan", &page);
    let empty = "name: empty\nchanges:\n  - set_default: {table: later, column: a, default: 1, when: {table_exists: later}}\n";
    std::fs::write(&path, empty).unwrap();
    let page = pgmorph(&stage.url, &["plan", &path, "--format", "html"])
        .await
        .expect(0)
        .stdout;
    assert_sound(&page);
    assert!(page.contains("Nothing to do"), "{page}");
}
