//! Device trees as lines, one for each node and property in the order of the blob.
//!
//! - Two trees can be compared by their lines even if they have duplicate names.
//! - The kernel's reader reads the lines. If dtoolkit takes the tree as well, it must read the same
//!   ones.

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node as _, Property as _};
use fdt::blob::Blob;
use fdt::node::Node;

/// A node, or one property of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Line {
    /// The node's path; empty for the root.
    pub path: String,
    /// The property's name and value.
    pub property: Option<(String, Vec<u8>)>,
}

/// Returns the lines of a sound tree.
pub fn lines(blob: &[u8]) -> Vec<Line> {
    let mut lines = Vec::new();
    let tree = Blob::new(blob).expect("a sound tree");
    let root = Node::root(&tree).expect("a tree with a root");
    add(&root, String::new(), &mut lines);
    // dtoolkit needs a `totalsize` that fits.
    if let Ok(theirs) = Fdt::new(blob) {
        let mut read = Vec::new();
        add_theirs(&theirs.root(), String::new(), &mut read);
        assert_eq!(lines, read);
    }
    lines
}

fn add(node: &Node<'_>, path: String, lines: &mut Vec<Line>) {
    let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    lines.push(Line { path: path.clone(), property: None });
    for property in node.properties() {
        let property = Some((text(property.name), property.value.to_vec()));
        lines.push(Line { path: path.clone(), property });
    }
    for child in node.children() {
        add(&child, format!("{path}/{}", text(child.name())), lines);
    }
}

fn add_theirs(node: &FdtNode<'_>, path: String, lines: &mut Vec<Line>) {
    lines.push(Line { path: path.clone(), property: None });
    for property in node.properties() {
        let value = property.value_as::<&[u8]>().expect("any value is bytes").to_vec();
        let property = Some((property.name().to_owned(), value));
        lines.push(Line { path: path.clone(), property });
    }
    for child in node.children() {
        add_theirs(&child, format!("{path}/{}", child.name()), lines);
    }
}

/// Returns the entries of the memory reservation block: addresses and sizes.
pub fn reservations(blob: &[u8]) -> Vec<(u64, u64)> {
    let number = |bytes: &[u8]| bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte));
    let tree = Blob::new(blob).expect("a sound tree");
    tree.reservations().iter().map(|pair| (number(&pair[..8]), number(&pair[8..]))).collect()
}
