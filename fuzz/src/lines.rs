//! A device tree as lines, one for each node and each property in the order of the blob: what two trees can be compared by, whatever
//! they have twice.

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};

/// One node, or one property of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Line {
    /// The node's path; the root's is empty.
    pub path: String,
    /// The property's name and value.
    pub property: Option<(String, Vec<u8>)>,
}

/// The lines of a sound tree.
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

/// The memory reservation block: addresses and sizes.
pub fn reservations(tree: &Fdt<'_>) -> Vec<(u64, u64)> {
    tree.memory_reservations()
        .map(|reservation| (reservation.address(), reservation.size()))
        .collect()
}
