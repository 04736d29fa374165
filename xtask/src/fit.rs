//! Writes the disk: a FIT image with external data.
//!
//! *When:* `image`, and before every run. Pure: payloads in, the disk's bytes out, the same for the same payloads.
//! The format is U-Boot's (`doc/usage/fit/source_file_format.rst`); the kernel's `fit` module reads it, and so do `mkimage -l`,
//! `dumpimage` and U-Boot's `bootm`.

use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::{Node, ToPropertyValue};
use sha2::{Digest, Sha256};

/// What payloads are aligned to on the disk: a page, so that the kernel reads whole blocks straight into frames.
pub const ALIGNMENT: usize = 4096;

/// What the disk's size is a multiple of: a virtio block device counts in sectors of 512 bytes.
pub const SECTOR: usize = 512;

/// What a gzip file starts with that is packed by the only method there is; no arm64 Image does.
const GZIP: [u8; 3] = [0x1f, 0x8b, 8];

/// What a payload is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// An arm64 Image. It may lie anywhere, or, with `load`, wants to lie there.
    KernelNoload {
        /// A physical address, not 0.
        load: Option<u64>,
    },
    /// What is put into memory beside a kernel.
    Loadable {
        /// A physical address.
        load: u64,
    },
    /// A kernel's ramdisk. It may lie anywhere, or, with `load`, wants to lie there.
    Ramdisk {
        /// A physical address, not 0.
        load: Option<u64>,
    },
    /// A kernel's own device tree.
    Fdt,
}

/// Something on the disk.
#[derive(Clone, Debug)]
pub struct Payload {
    /// Its node's name: at most 31 letters, digits or `,._+-`, and no other payload's.
    pub name: String,
    /// For people.
    pub description: String,
    /// Its bytes; a kernel's may be those of a gzip file.
    pub data: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// A kernel's orders: its configuration's `bootargs`, which is ours and passed over by other loaders.
    pub bootargs: Option<String>,
}

impl Payload {
    /// How many bytes a kernel in a gzip file unpacks to, as the file's end says. Nothing else is unpacked by a loader.
    fn unpacked(&self) -> Option<u32> {
        let is_packed =
            matches!(self.kind, Kind::KernelNoload { .. }) && self.data.starts_with(&GZIP);
        self.data.last_chunk().filter(|_| is_packed).copied().map(u32::from_le_bytes)
    }
}

/// The disk: the tree, then each payload on its own pages. Each kernel opens a configuration (`conf-1`, `conf-2`, …), to which
/// what comes after it belongs; the first is the default. Loadables before any kernel make a configuration that lacks one.
///
/// # Panics
///
/// Where a name is not what [`Payload::name`] asks for, or the disk would pass 4 GiB: FIT counts in 32 bits.
pub fn write(payloads: &[Payload]) -> Vec<u8> {
    // Places have the same width whatever they are, so a first tree tells how long the second will be.
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

/// The tree, with each payload's data at the place of the same index.
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
    // mkimage -l and U-Boot insist on a date; a true one would make every disk another.
    set(&mut tree.root, "timestamp", 0_u32);
    set(&mut tree.root, "#address-cells", 2_u32);
    tree.root.add_child(images);
    tree.root.add_child(configurations);
    tree.to_dtb()
}

/// One payload, with its data at byte `place` of the disk.
fn image(payload: &Payload, place: usize) -> DeviceTreeNode {
    // `firmware` is what U-Boot's tools know that is loaded and not looked into.
    let (kind, load) = match payload.kind {
        Kind::KernelNoload { load } => ("kernel_noload", Some(load.unwrap_or(0))),
        Kind::Loadable { load } => ("firmware", Some(load)),
        Kind::Ramdisk { load } => ("ramdisk", load),
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
        // bootm refuses a kernel without load and entry, then goes by the Image's header: 0 says nothing. Here entry is an offset.
        set(&mut image, "entry", 0_u64);
    }
    // data-position rather than data-offset: mkimage -l, dumpimage, bootm and SPL read both, but an offset counts from the end of the
    // tree, so aligned data would need a tree padded to a page, and one that grows by an edit would lose its data.
    set(&mut image, "data-position", cell(place));
    set(&mut image, "data-size", cell(payload.data.len()));
    let mut hash = node("hash-1");
    set(&mut hash, "algo", "sha256");
    set(&mut hash, "value", Sha256::digest(&payload.data).as_slice());
    image.add_child(hash);
    image
}

/// A kernel, where the first is one, and what belongs to it.
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
        ("ramdisk", named(|kind| matches!(kind, Kind::Ramdisk { .. }))),
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
