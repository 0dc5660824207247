//! A strict reader of OpenMetrics text 1.0, as far as the format says what is wrong.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Default)]
pub struct Exposition {
    /// Values by sample name and labels.
    samples: BTreeMap<String, BTreeMap<Vec<(String, String)>, f64>>,
}

impl Exposition {
    /// # Errors
    /// The first line that is wrong, and why.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some(body) = text.strip_suffix("# EOF\n") else {
            return Err("it does not end with # EOF".into());
        };
        let mut found = Self::default();
        let mut known = BTreeSet::new();
        let mut family = (String::new(), String::new());
        for line in body.lines() {
            let wrong = |why: &str| Err(format!("{line}: {why}"));
            if let Some(comment) = line.strip_prefix("# ") {
                let words: Vec<&str> = comment.splitn(3, ' ').collect();
                let [kind, name, rest] = words.as_slice() else {
                    return wrong("a comment is TYPE, HELP or UNIT");
                };
                match *kind {
                    "TYPE" => {
                        if !known.insert((*name).to_owned()) {
                            return wrong("the family is there twice");
                        }
                        if !["counter", "gauge", "info", "stateset"].contains(rest) {
                            return wrong("unknown type");
                        }
                        family = ((*name).to_owned(), (*rest).to_owned());
                    }
                    "HELP" | "UNIT" if *name != family.0 => return wrong("of another family"),
                    "UNIT" if !name.ends_with(&format!("_{rest}")) => {
                        return wrong("the name does not end with it");
                    }
                    "HELP" | "UNIT" => {}
                    _ => return wrong("a comment is TYPE, HELP or UNIT"),
                }
                continue;
            }
            let (name, labels, value) = sample(line)?;
            let suffix = match family.1.as_str() {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            if name != format!("{}{suffix}", family.0) {
                return wrong("not a sample of the family before it");
            }
            let is_bad = match family.1.as_str() {
                "counter" => value < 0.0 || value.is_nan(),
                "info" => value != 1.0,
                "stateset" => {
                    ![0.0, 1.0].contains(&value) || !labels.iter().any(|(label, _)| *label == family.0)
                }
                _ => false,
            };
            if is_bad {
                return wrong("a value that the type cannot have");
            }
            if found
                .samples
                .entry(name)
                .or_default()
                .insert(labels, value)
                .is_some()
            {
                return wrong("the same sample twice");
            }
        }
        Ok(found)
    }

    /// The only value of that name.
    #[track_caller]
    pub fn value(&self, name: &str) -> f64 {
        let values = &self.samples[name];
        assert_eq!(values.len(), 1, "{name}");
        *values.values().next().unwrap()
    }

    /// The state that the run is in.
    pub fn state(&self) -> String {
        let states = self.samples["pgmorph_run_state"].iter();
        let on: Vec<&Vec<_>> = states
            .filter(|(_, value)| **value == 1.0)
            .map(|(labels, _)| labels)
            .collect();
        assert_eq!(on.len(), 1, "{on:?}");
        let label = on[0].iter().find(|(label, _)| label == "pgmorph_run_state");
        label.unwrap().1.clone()
    }

    pub fn label(&self, name: &str, label: &str) -> String {
        let (labels, _) = self.samples[name].iter().next().unwrap();
        labels.iter().find(|(known, _)| known == label).unwrap().1.clone()
    }
}

type Sample = (String, Vec<(String, String)>, f64);

fn sample(line: &str) -> Result<Sample, String> {
    let wrong = || format!("{line}: not a sample");
    let (name, rest) = line.split_once('{').ok_or_else(wrong)?;
    let is_name = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    if !is_name(name) {
        return Err(wrong());
    }
    let mut labels = Vec::new();
    let mut rest = rest;
    loop {
        let (label, tail) = rest.split_once("=\"").ok_or_else(wrong)?;
        if !is_name(label) {
            return Err(wrong());
        }
        let mut value = String::new();
        let mut characters = tail.char_indices();
        let end = loop {
            match characters.next().ok_or_else(wrong)? {
                (at, '"') => break at + 1,
                (_, '\\') => match characters.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, same @ ('\\' | '"'))) => value.push(same),
                    _ => return Err(wrong()),
                },
                (_, other) => value.push(other),
            }
        };
        labels.push((label.to_owned(), value));
        match tail.as_bytes().get(end) {
            Some(b',') => rest = &tail[end + 1..],
            Some(b'}') => {
                let value = tail[end + 1..].strip_prefix(' ').ok_or_else(wrong)?;
                let value = value.parse().map_err(|_| wrong())?;
                labels.sort();
                return Ok((name.to_owned(), labels, value));
            }
            _ => return Err(wrong()),
        }
    }
}

#[test]
fn the_reader_is_strict() {
    let good = "# TYPE a counter\n# HELP a b\na_total{x=\"1\\\"\",y=\"\"} 1\n# EOF\n";
    assert_eq!(Exposition::parse(good).unwrap().value("a_total"), 1.0);
    for bad in [
        "",
        "# TYPE a counter\na_total{x=\"1\"} 1\n",
        "# TYPE a counter\na{x=\"1\"} 1\n# EOF\n",
        "# TYPE a counter\na_total{x=\"1\"} 1\na_total{x=\"1\"} 1\n# EOF\n",
        "# TYPE a counter\na_total{x=\"1} 1\n# EOF\n",
        "# TYPE a gauge\n# UNIT a seconds\na{x=\"1\"} 1\n# EOF\n",
        "# TYPE a gauge\n# TYPE a gauge\n# EOF\n",
        "# TYPE a gauge\na{x=\"1\"} one\n# EOF\n",
    ] {
        assert!(Exposition::parse(bad).is_err(), "{bad}");
    }
}
