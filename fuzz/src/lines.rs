//! Device trees as lines, one for each node and property in the order of the blob.
//!
//! Two trees can be compared by their lines even if they have duplicate names.

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};

/// A node, or one property of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Line {
    /// The node's path; empty for the root.
    pub path: String,
    /// The property's name and value.
    pub property: Option<(String, Vec<u8>)>,
}

/// Returns the lines of a sound tree.
pub fn lines(tree: &Fdt<'_>) -> Vec<Line> {
    let mut lines = Vec::new();
    add(&tree.root(), String::new(), &mut lines);
    lines
}

fn add(node: &FdtNode<'_>, path: String, lines: &mut Vec<Line>) {
    lines.push(Line { path: path.clone(), property: None });
    for property in node.properties() {
        let value = property.value_as::<&[u8]>().expect("any value is bytes").to_vec();
        lines
            .push(Line { path: path.clone(), property: Some((property.name().to_owned(), value)) });
    }
    for child in node.children() {
        add(&child, format!("{path}/{}", child.name()), lines);
    }
}

/// Returns the entries of the memory reservation block: addresses and sizes.
pub fn reservations(tree: &Fdt<'_>) -> Vec<(u64, u64)> {
    tree.memory_reservations()
        .map(|reservation| (reservation.address(), reservation.size()))
        .collect()
}
