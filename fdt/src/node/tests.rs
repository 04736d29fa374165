//! Tests of the reader of nodes, on hand-made trees and on damaged ones.

use super::*;
use crate::machine::tests::{node, text, virt};
use alloc::string::ToString;
use alloc::vec::Vec;
use dtoolkit::model::DeviceTree;

/// A tree with two nodes of one base name, and names that no specification allows.
fn tree() -> DeviceTree {
    let mut tree = DeviceTree::new();
    for (name, value) in [("b@1", "first"), ("b@2", "second"), ("b", "exact")] {
        let mut child = node(name, &[("value", text(value))]);
        child.add_child(node("inner@7", &[("value", text(value)), ("list", text("x\0okay"))]));
        tree.root.add_child(child);
    }
    let long = "a-property-whose-name-is-longer-than-31-characters";
    tree.root.add_child(node("a-node-with-a-name-longer-than-31-characters", &[(long, text(""))]));
    tree
}

fn names<'a>(nodes: impl Iterator<Item = Node<'a>>) -> Vec<&'a [u8]> {
    nodes.map(|node| node.name()).collect()
}

#[test]
fn children_and_descendants_are_in_the_blobs_order() {
    let blob = tree().to_dtb();
    let root = Node::root(&Blob::new(&blob).unwrap()).unwrap();
    let long = &b"a-node-with-a-name-longer-than-31-characters"[..];
    assert_eq!((root.name(), root.depth()), (&b""[..], 1));
    assert_eq!(names(root.children()), [b"b@1", b"b@2", &b"b"[..], long]);
    let all = [&b"b@1"[..], b"inner@7", b"b@2", b"inner@7", b"b", b"inner@7", long];
    assert_eq!(names(root.descendants()), all);
    let last = root.children().last().unwrap();
    let properties: Vec<_> = last.properties().collect();
    let name = &b"a-property-whose-name-is-longer-than-31-characters"[..];
    assert_eq!(properties, [Property { name, value: &b"\0"[..] }]);
    assert_eq!(names(last.children()), [&[][..]; 0]);
    let middle = root.child(b"b@2").unwrap();
    assert_eq!(names(middle.children()), [b"inner@7"], "and not the next node's");
}

#[test]
fn a_path_may_leave_the_unit_address_out() {
    let blob = tree().to_dtb();
    let root = Node::root(&Blob::new(&blob).unwrap()).unwrap();
    let value = |path: &[u8]| Some(until_nul(root.find(path)?.property("value")?));
    assert_eq!(value(b"/b@2/inner@7"), Some(&b"second"[..]));
    assert_eq!(value(b"/b@2/inner"), Some(&b"second"[..]));
    assert_eq!(value(b"/b/inner"), Some(&b"exact"[..]), "the exact name comes first");
    assert_eq!(value(b"b@1"), Some(&b"first"[..]));
    assert_eq!(value(b"/b@3"), None);
    assert_eq!(value(b"/b@1/inner@7/x"), None);
    assert!(root.find(b"/").unwrap().is(&root));
    let [one, two] = [&b"/b@1"[..], b"/b@2"].map(|path| root.find(path).unwrap());
    assert!(one.is(&root.find(b"/b@1").unwrap()) && !one.is(&two));
}

#[test]
fn lists_and_status_are_read() {
    let mut tree = tree();
    for (name, status) in [("on", "okay"), ("ok", "ok"), ("off", "disabled"), ("odd", "okays")] {
        tree.root.add_child(node(name, &[("status", text(status))]));
    }
    let blob = tree.to_dtb();
    let root = Node::root(&Blob::new(&blob).unwrap()).unwrap();
    let inner = root.find(b"b/inner").unwrap();
    assert!(inner.has_string("list", "okay") && inner.has_string("list", "x"));
    assert!(!inner.has_string("list", "oka") && !inner.has_string("none", "x"));
    let on = |name: &[u8]| root.child(name).unwrap().is_available();
    assert_eq!(
        [on(b"on"), on(b"ok"), on(b"off"), on(b"odd"), on(b"b")],
        [true, true, false, false, true]
    );
    assert_eq!(strings(b"a\0bc\0").collect::<Vec<_>>(), [&b"a"[..], b"bc"]);
    assert_eq!(strings(b"a\0bc").collect::<Vec<_>>(), [&b"a"[..], b"bc"]);
    assert_eq!((number(&[1, 2]), number(&[]), number(&[0xff; 8])), (0x102, 0, u64::MAX));
}

#[test]
fn a_name_that_is_no_text_is_printed() {
    let mut blob = tree().to_dtb();
    let at = blob.windows(4).position(|four| four == b"b@2\0").unwrap();
    blob[at + 2] = 0xfc;
    let root = Node::root(&Blob::new(&blob).unwrap()).unwrap();
    let odd = root.children().nth(1).unwrap();
    assert_eq!((odd.name(), odd.to_string()), (&b"b@\xfc"[..], "b@\u{fffd}".into()));
}

#[test]
fn a_property_after_a_child_is_none() {
    // The root's end and the END token, then a property between them.
    let mut tree = DeviceTree::new();
    tree.root.add_child(node("child", &[("value", text("x"))]));
    let mut blob = tree.to_dtb();
    let at = blob.windows(8).position(|two| two == [0, 0, 0, 2, 0, 0, 0, 2]).unwrap() + 4;
    blob.splice(at..at, [0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0]);
    for offset in [4, 12, 36] {
        let size = u32::from_be_bytes(blob[offset..offset + 4].try_into().unwrap()) + 12;
        blob[offset..offset + 4].copy_from_slice(&size.to_be_bytes());
    }
    let root = Node::root(&Blob::new(&blob).unwrap()).unwrap();
    assert_eq!((root.properties().count(), root.children().count()), (0, 1));
    assert_eq!(root.child(b"child").unwrap().properties().count(), 1);
}

#[test]
fn a_blob_without_a_node_has_no_root() {
    let end = crate::blob::token::END.to_be_bytes();
    let blob = [&crate::blob::header(56, 60, 60, 0)[..], &[0; 16], &end].concat();
    assert!(Node::root(&Blob::new(&blob).unwrap()).is_none());
}

/// Both readers see the same, where dtoolkit takes the tree at all.
#[test]
fn dtoolkit_sees_the_same() {
    fn compare(ours: &Node<'_>, theirs: &dtoolkit::fdt::FdtNode<'_>) {
        use dtoolkit::{Node as _, Property as _};
        assert_eq!(ours.name(), theirs.name().as_bytes());
        let said: Vec<_> = ours.properties().map(|one| (one.name, one.value)).collect();
        let values = theirs.properties().map(|one| (one.name().to_owned(), one.value().to_owned()));
        let values: Vec<_> = values.collect();
        assert!(
            said.into_iter().eq(values.iter().map(|(name, value)| (name.as_bytes(), &value[..])))
        );
        let (ours, theirs): (Vec<_>, Vec<_>) =
            (ours.children().collect(), theirs.children().collect());
        assert_eq!(ours.len(), theirs.len());
        ours.iter().zip(&theirs).for_each(|(ours, theirs)| compare(ours, theirs));
    }
    let blob = virt().to_dtb();
    let theirs = dtoolkit::fdt::Fdt::new(&blob).unwrap();
    compare(&Node::root(&Blob::new(&blob).unwrap()).unwrap(), &theirs.root());
}

#[test]
fn no_damage_makes_a_reader_panic() {
    let good = tree().to_dtb();
    for at in 0..good.len() {
        for flip in [0xff, 0x01, 0x80] {
            let mut blob = good.clone();
            blob[at] ^= flip;
            let Ok(blob) = Blob::new(&blob) else { continue };
            for node in nodes(&blob) {
                let _ = (node.children().count(), node.find(b"b/inner"), node.to_string());
                let _ =
                    (node.properties().count(), node.is_available(), node.has_string("list", "x"));
            }
        }
    }
}
