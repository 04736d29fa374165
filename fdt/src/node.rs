//! The reader of device trees: a blob as nodes, properties and paths.
//!
//! - Reads a [`Blob`], which [`Blob::new`] has checked once. No method fails or panics afterwards.
//! - Accepts names of any length and any bytes. The specification's 31 characters are advice;
//!   device trees of real boards have longer names, and dtc, libfdt and Linux take them.
//! - Copies and allocates nothing: names and values are slices of the blob.
//! - Takes time in proportion to the tokens that it passes over.

use crate::blob::{Blob, Event, Events, Kind};
use core::fmt;

/// A node of a device tree.
#[derive(Clone, Debug)]
pub struct Node<'a> {
    name: &'a [u8],
    depth: usize,
    /// The node's place in the blob, which identifies it.
    at: usize,
    /// The events after the node's begin.
    inside: Events<'a>,
}

/// A property of a node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Property<'a> {
    /// Its name, without the NUL.
    pub name: &'a [u8],
    /// Its value, without padding.
    pub value: &'a [u8],
}

impl<'a> Node<'a> {
    /// Returns the root, or `None` if the blob has no node.
    #[must_use]
    pub fn root(blob: &Blob<'a>) -> Option<Self> {
        nodes(blob).next()
    }

    fn new(blob: &Blob<'a>, event: &Event<'a>, inside: Events<'a>) -> Self {
        let Event { depth, range, .. } = event;
        // The name follows the token.
        let name = until_nul(blob.bytes(event).get(4..).unwrap_or_default());
        Self { name, depth: *depth, at: range.start, inside }
    }

    /// Returns the node's name, with its unit address.
    #[must_use]
    pub const fn name(&self) -> &'a [u8] {
        self.name
    }

    /// Returns the node's name without its unit address.
    #[must_use]
    pub fn base_name(&self) -> &'a [u8] {
        until(self.name, b'@')
    }

    /// Returns the node's depth: 1 for the root.
    #[must_use]
    pub const fn depth(&self) -> usize {
        self.depth
    }

    /// Returns whether both are the same node of one blob.
    #[must_use]
    pub const fn is(&self, other: &Self) -> bool {
        self.at == other.at
    }

    /// Returns the node's properties, in the blob's order.
    ///
    /// A property after a child is not one: the specification puts properties first, and libfdt
    /// stops there as well.
    pub fn properties(&self) -> impl Iterator<Item = Property<'a>> + use<'a> {
        self.inside.clone().map_while(|event| match event.kind {
            Kind::Property { name, value } => Some(Property { name, value }),
            Kind::Begin | Kind::End => None,
        })
    }

    /// Returns the value of the first property with this name.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&'a [u8]> {
        self.properties().find(|property| property.name == name.as_bytes()).map(|found| found.value)
    }

    /// Returns a property that holds one cell.
    #[must_use]
    pub fn cell(&self, name: &str) -> Option<u32> {
        self.property(name)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// Returns whether the list of strings in this property has this string.
    #[must_use]
    pub fn has_string(&self, property: &str, wanted: &str) -> bool {
        self.property(property)
            .is_some_and(|list| strings(list).any(|one| one == wanted.as_bytes()))
    }

    /// Returns the node's children, in the blob's order.
    pub fn children(&self) -> impl Iterator<Item = Self> + use<'a> {
        let depth = self.depth + 1;
        self.descendants().filter(move |node| node.depth == depth)
    }

    /// Returns every node below this one, each before its children.
    pub fn descendants(&self) -> impl Iterator<Item = Self> + use<'a> {
        let depth = self.depth;
        begins(self.inside.clone()).take_while(move |node| node.depth > depth)
    }

    /// Returns the child with exactly this name, or else the first whose name without its unit
    /// address this is.
    ///
    /// Paths are written both ways.
    #[must_use]
    pub fn child(&self, name: &[u8]) -> Option<Self> {
        let named = self.children().find(|child| child.name == name);
        named.or_else(|| self.children().find(|child| child.base_name() == name))
    }

    /// Returns the descendant at this path, which is relative to this node.
    #[must_use]
    pub fn find(&self, path: &[u8]) -> Option<Self> {
        let mut names = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty());
        names.try_fold(self.clone(), |node, name| node.child(name))
    }

    /// Returns whether the node's device may be used (Devicetree specification, 2.3.4).
    #[must_use]
    pub fn is_available(&self) -> bool {
        self.property("status").is_none_or(is_okay)
    }
}

/// Returns whether this value of `status` says that the device may be used.
pub(crate) fn is_okay(status: &[u8]) -> bool {
    matches!(until_nul(status), b"okay" | b"ok")
}

/// Prints the node's name; U+FFFD replaces bytes that are not UTF-8.
impl fmt::Display for Node<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Text(self.name).fmt(f)
    }
}

/// Bytes that are printed as text; U+FFFD replaces bytes that are not UTF-8.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a>(pub &'a [u8]);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            f.write_str(chunk.valid())?;
            if !chunk.invalid().is_empty() {
                f.write_str("\u{fffd}")?;
            }
        }
        Ok(())
    }
}

/// Returns every node of a blob, each before its children.
pub fn nodes<'a>(blob: &Blob<'a>) -> impl Iterator<Item = Node<'a>> + use<'a> {
    begins(blob.events())
}

fn begins<'a>(mut events: Events<'a>) -> impl Iterator<Item = Node<'a>> + use<'a> {
    core::iter::from_fn(move || {
        loop {
            let event = events.next()?;
            if let Kind::Begin = event.kind {
                return Some(Node::new(events.blob(), &event, events.clone()));
            }
        }
    })
}

/// Returns the strings of a list. A NUL ends each; the last one may lack it.
pub fn strings(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.strip_suffix(&[0]).unwrap_or(list).split(|&byte| byte == 0)
}

/// Returns the bytes up to the first NUL, or all.
#[must_use]
pub fn until_nul(bytes: &[u8]) -> &[u8] {
    until(bytes, 0)
}

/// Returns the bytes up to the first `end`, or all.
pub(crate) fn until(bytes: &[u8], end: u8) -> &[u8] {
    bytes.iter().position(|&byte| byte == end).map_or(bytes, |at| &bytes[..at])
}

/// Reads big-endian bytes as one number. The last eight count, if there are more.
#[must_use]
pub fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests;
