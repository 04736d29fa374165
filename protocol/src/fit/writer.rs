//! Writer of the disk: a FIT image with external data.
//!
//! The same payloads always make the same bytes. The format is U-Boot's
//! (`doc/usage/fit/source_file_format.rst`). Readers are the kernel's `fit` module,
//! `mkimage -l`, `dumpimage` and U-Boot's `bootm`.

use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::{Node, ToPropertyValue};
use sha2::{Digest, Sha256};

/// The alignment of payloads on the disk: one page, so that the kernel reads whole blocks straight
/// into frames.
pub const ALIGNMENT: usize = 4096;

/// The unit of the disk's size: a virtio block device counts in sectors of 512 bytes.
pub const SECTOR: usize = 512;

/// The first bytes of a gzip file with deflate, the only method there is. No arm64 Image starts
/// with them.
const GZIP: [u8; 3] = [0x1f, 0x8b, 8];

/// The kind of a payload.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// An arm64 Image. With `load` it wants to be at that address; otherwise it may be anywhere.
    KernelNoload {
        /// A physical address, not 0.
        load: Option<u64>,
    },
    /// Data that is loaded next to a kernel.
    Loadable {
        /// A physical address.
        load: u64,
    },
    /// A kernel's initrd. With `load` it wants to be at that address; otherwise it may be anywhere.
    Initrd {
        /// A physical address, not 0.
        load: Option<u64>,
    },
    /// A kernel's own device tree.
    Fdt,
}

/// One payload on the disk.
#[derive(Clone, Debug)]
pub struct Payload {
    /// The name of its node: at most 31 letters, digits or `,._+-`, unique on the disk.
    pub name: String,
    /// A description for people.
    pub description: String,
    /// The bytes; those of a kernel or a device tree may be a gzip file.
    pub data: Vec<u8>,
    /// The kind.
    pub kind: Kind,
    /// A kernel's bootargs, written as the `bootargs` property of its configuration. The property
    /// is ours; other loaders ignore it.
    pub bootargs: Option<String>,
}

impl Payload {
    /// The size of a gzip file after unpacking, from the end of the gzip file. No loader
    /// unpacks other kinds of payload.
    fn unpacked(&self) -> Option<u32> {
        let is_packed = matches!(self.kind, Kind::KernelNoload { .. } | Kind::Fdt)
            && self.data.starts_with(&GZIP);
        self.data.last_chunk().filter(|_| is_packed).copied().map(u32::from_le_bytes)
    }
}

/// Writes the disk: the tree, then each payload on pages of its own.
///
/// Each kernel opens a configuration (`conf-1`, `conf-2`, …), to which the payloads after it
/// belong. The first configuration is the default. Loadables before any kernel make a configuration
/// without one.
///
/// # Panics
///
/// If a name breaks the rule of [`Payload::name`], or if the disk would exceed 4 GiB: FIT counts in
/// 32 bits.
pub fn write(payloads: &[Payload]) -> Vec<u8> {
    // Positions have the same width whatever their value, so a first tree with zeros has the size
    // of the final one.
    let unplaced = tree(payloads, &vec![0; payloads.len()]).len();
    let mut end = unplaced;
    let mut places = Vec::new();
    for payload in payloads {
        let place = end.next_multiple_of(ALIGNMENT);
        end = place + payload.data.len();
        places.push(place);
    }

    let mut disk = tree(payloads, &places);
    assert_eq!(disk.len(), unplaced, "the tree grew with its numbers");
    for (payload, place) in payloads.iter().zip(places) {
        disk.resize(place, 0);
        disk.extend(&payload.data);
    }
    disk.resize(disk.len().next_multiple_of(SECTOR), 0);
    disk
}

/// Builds the tree; `places` holds the position of each payload's data.
fn tree(payloads: &[Payload], places: &[usize]) -> Vec<u8> {
    let mut images = node("images");
    for (payload, place) in payloads.iter().zip(places) {
        assert!(images.child(&payload.name).is_none(), "two payloads are named {}", payload.name);
        images.add_child(image(payload, *place));
    }
    let mut configurations = node("configurations");
    set(&mut configurations, "default", "conf-1");
    let opens = |_: &Payload, next: &Payload| !matches!(next.kind, Kind::KernelNoload { .. });
    for (payloads, number) in payloads.chunk_by(opens).zip(1..) {
        configurations.add_child(configuration(&format!("conf-{number}"), payloads));
    }

    let mut tree = DeviceTree::new();
    set(&mut tree.root, "description", "Ouroboros");
    // mkimage -l and U-Boot insist on a date. A true one would make every disk different.
    set(&mut tree.root, "timestamp", 0_u32);
    set(&mut tree.root, "#address-cells", 2_u32);
    tree.root.add_child(images);
    tree.root.add_child(configurations);
    tree.to_dtb()
}

/// Builds the node of one payload, with its data at byte `place` of the disk.
fn image(payload: &Payload, place: usize) -> DeviceTreeNode {
    // U-Boot's tools load `firmware` without looking into it.
    let (kind, load) = match payload.kind {
        Kind::KernelNoload { load } => ("kernel_noload", Some(load.unwrap_or(0))),
        Kind::Loadable { load } => ("firmware", Some(load)),
        Kind::Initrd { load } => ("ramdisk", load),
        Kind::Fdt => ("flat_dt", None),
    };
    let mut image = node(&payload.name);
    set(&mut image, "description", payload.description.as_str());
    set(&mut image, "type", kind);
    set(&mut image, "arch", "arm64");
    set(&mut image, "os", "linux");
    match payload.unpacked() {
        Some(bytes) => {
            set(&mut image, "compression", "gzip");
            set(&mut image, "uncomp-size", bytes);
        }
        None => set(&mut image, "compression", "none"),
    }
    if let Some(load) = load {
        set(&mut image, "load", load);
    }
    if let Kind::KernelNoload { .. } = payload.kind {
        // bootm refuses a kernel without load and entry, then uses the Image's header; 0 is
        // neutral. Our kernel reads entry as an offset.
        set(&mut image, "entry", 0_u64);
    }
    // Use data-position, not data-offset. mkimage -l, dumpimage, bootm and SPL read both, but an
    // offset counts from the end of the tree. Aligned data would then need a tree that is padded to
    // a page, and an edit that grows the tree would move its data.
    set(&mut image, "data-position", cell(place));
    set(&mut image, "data-size", cell(payload.data.len()));
    let mut hash = node("hash-1");
    set(&mut hash, "algo", "sha256");
    set(&mut hash, "value", Sha256::digest(&payload.data).as_slice());
    image.add_child(hash);
    image
}

/// Builds a configuration: its kernel, if `payloads` begins with one, and the rest.
fn configuration(name: &str, payloads: &[Payload]) -> DeviceTreeNode {
    let named = |is_it: fn(Kind) -> bool| -> Vec<&str> {
        payloads
            .iter()
            .filter(|payload| is_it(payload.kind))
            .map(|payload| payload.name.as_str())
            .collect()
    };
    let mut configuration = node(name);
    set(&mut configuration, "description", name);
    for (property, images) in [
        ("kernel", named(|kind| matches!(kind, Kind::KernelNoload { .. }))),
        ("fdt", named(|kind| matches!(kind, Kind::Fdt))),
        ("ramdisk", named(|kind| matches!(kind, Kind::Initrd { .. }))),
        ("loadables", named(|kind| matches!(kind, Kind::Loadable { .. }))),
    ] {
        if !images.is_empty() {
            set(&mut configuration, property, images);
        }
    }
    if let Some(bootargs) = payloads.iter().find_map(|payload| payload.bootargs.as_deref()) {
        set(&mut configuration, "bootargs", bootargs);
    }
    configuration
}

fn node(name: &str) -> DeviceTreeNode {
    DeviceTreeNode::new(name).expect("a name that a device tree's node may have")
}

fn set(node: &mut DeviceTreeNode, name: &str, value: impl ToPropertyValue) {
    node.add_property(
        DeviceTreeProperty::new(name, value).expect("a name that a property may have"),
    );
}

fn cell(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a disk below 4 GiB")
}
