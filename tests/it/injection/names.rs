//! What is nasty, and random names made of it.

use proptest::prelude::*;

/// Names, all of which PostgreSQL takes once they are quoted.
pub const NASTY: [&str; 22] = [
    "x\"; DROP TABLE public.canary; CREATE TABLE pwned(); --",
    "x'; DROP TABLE public.canary; CREATE TABLE pwned(); --",
    "x\\'; DROP TABLE public.canary; --",
    "$pgmorph$; DROP TABLE public.canary; $pgmorph$",
    "$$; DROP TABLE public.canary; $$",
    "*/ DROP TABLE public.canary; /*",
    "\nDROP TABLE public.canary; CREATE TABLE pwned();\n--",
    "\rDROP TABLE public.canary;\r--",
    "\\! touch pwned \\q \\gexec",
    ":name :'name' :\"name\" %I %s {} {0}",
    "U&\"\\0022",
    "\"",
    "'",
    "\\",
    ".",
    " ",
    "a.b.c",
    "SELECT",
    "user",
    "\u{1b}]0;title\u{7}\u{1b}[2J",
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "ééééééééééééééééééééééééééééééé1",
];

/// Up to 63 bytes, made of what means something to a lexer.
pub fn name() -> impl Strategy<Value = String> {
    let piece = proptest::sample::select(vec![
        "\"", "\"\"", "'", "''", "\\", "\\\\", ";", "--", "/*", "*/", "$$", "$a$", " ", "\n", "\t", "\r",
        ".", ",", "(", ")", "%s", "%I", "{}", "U&", "E'", "é", "ß", "A", "select", "null", "0", "_",
        "~pgmorph", "@", ":x", "[1]", "\u{7f}", "\u{1}",
    ]);
    proptest::collection::vec(piece, 1..40).prop_map(|pieces| {
        let name = pieces.concat();
        name[..name.floor_char_boundary(63)].to_owned()
    })
}
