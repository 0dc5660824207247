//! What reading asks of a document: which keys each map may have and must have, and what stands there. The JSON Schema
//! of the plan file is made of it, so that it cannot say anything else than the reader does.

use super::Node;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::mem::take;

/// How a value was read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Text, a number, a truth value: taken as it stands.
    Scalar,
    /// `true` or `false`.
    Flag,
    /// One of a few words, of which this is one.
    Word(String),
    List,
    /// A map with keys of its own.
    Map,
    /// A map whose keys are free.
    Pairs,
}

/// One place in a document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shape {
    pub kinds: BTreeSet<Kind>,
    /// Of a map: all keys that were asked for.
    pub keys: BTreeSet<String>,
    /// Of a map: those that were required whenever one was read here.
    pub required: Option<BTreeSet<String>>,
}

/// Places are paths: `.settings.workers`, `create_index.columns[].order`; `{}` are the values of free keys.
#[derive(Debug, Default)]
pub struct Shapes {
    shapes: RefCell<BTreeMap<String, Shape>>,
    /// Where a node stands, by its address: a tree of nodes is not moved while it is read.
    places: RefCell<HashMap<usize, String>>,
}

impl Shapes {
    pub(super) fn put(&self, node: &Node, path: String) {
        self.places.borrow_mut().insert(address(node), path);
    }

    pub(super) fn place(&self, node: &Node) -> Option<String> {
        self.places.borrow().get(&address(node)).cloned()
    }

    pub(super) fn note(&self, path: &str, kind: Kind) {
        let mut shapes = self.shapes.borrow_mut();
        shapes.entry(path.to_owned()).or_default().kinds.insert(kind);
    }

    pub(super) fn finished(&self, path: &str, asked: &[&str], required: &[&str]) {
        let mut shapes = self.shapes.borrow_mut();
        let shape = shapes.entry(path.to_owned()).or_default();
        shape.keys.extend(asked.iter().map(|key| (*key).to_owned()));
        shape.narrow(required.iter().map(|key| (*key).to_owned()).collect());
    }

    /// Takes over what was noted in another document.
    pub fn merge(&mut self, other: Self) {
        for (path, shape) in other.shapes.into_inner() {
            let into = self.shapes.get_mut().entry(path).or_default();
            into.kinds.extend(shape.kinds);
            into.keys.extend(shape.keys);
            if let Some(required) = shape.required {
                into.narrow(required);
            }
        }
    }

    pub fn into_shapes(self) -> BTreeMap<String, Shape> {
        self.shapes.into_inner()
    }
}

impl Shape {
    fn narrow(&mut self, required: BTreeSet<String>) {
        self.required = Some(match take(&mut self.required) {
            None => required,
            Some(known) => known.intersection(&required).cloned().collect(),
        });
    }
}

fn address(node: &Node) -> usize {
    std::ptr::from_ref(node).addr()
}
