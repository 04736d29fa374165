//! The target `fit`: any bytes as the kernel's disk.
//!
//! It checks that:
//!
//! - each accepted payload is on the disk, does not overlap the tree, and is not empty;
//! - each agrees with the one node of its name, as read by other means;
//! - the disk may end where the payloads do, but not one byte before;
//! - a digest is right or the payload is refused;
//! - a disk that xtask writes reads back as written.

use boot::phys::PhysAddr;
use dtoolkit::fdt::Fdt as Tree;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::{Node, ToPropertyValue};
use protocol::fit::{
    self, Algorithm, Companions, Compression, Digest, Digests, Error, Fit, MAX_LOADABLES, Medium,
    Payload,
};
use sha2::{Digest as _, Sha256};

use crate::choices::Choices;
use crate::lines::{Line, lines};
use crate::writer::{self, Kind};

/// Checks an input: a disk, or, without a disk's first bytes, choices for one.
///
/// xtask's writer makes the chosen disk, and edits spoil it.
pub fn hold(data: &[u8]) {
    if data.starts_with(&[0xd0, 0x0d]) || data.len() < 4 {
        disk(data);
    } else {
        written(&mut Choices(data));
    }
}

/// Runs the kernel's FIT reader on a disk and checks each result against the disk.
fn disk(disk: &[u8]) {
    let medium = Medium::disk(disk.len() as u64);
    let size = match fit::header_size(&disk[..disk.len().min(512)], medium) {
        Ok(size) => size as usize,
        Err(error) => return speaks(&error),
    };
    assert!(size <= disk.len());
    let tree = &disk[..size];
    let configurations = match fit::configurations(tree) {
        Ok(configurations) => configurations,
        Err(error) => return speaks(&error),
    };
    let said = lines(tree);
    for configuration in configurations.iter().take(4) {
        match fit::parse(tree, medium, Digests::Required, configuration) {
            Ok(fit) => taken(disk, size, configuration, &fit, &said),
            Err(error) => speaks(&error),
        }
        match fit::companions(tree, medium, Digests::Required, configuration) {
            Ok(companions) => accompanied(disk, size, configuration, &companions, &said),
            Err(error) => speaks(&error),
        }
    }
}

/// Checks the payloads that accompany a kernel against the configuration's lines.
fn accompanied(
    disk: &[u8],
    tree: usize,
    configuration: &str,
    companions: &Companions,
    said: &[Line],
) {
    let node = format!("/configurations/{configuration}");
    let text = |text: &str| [text.as_bytes(), &[0]].concat();
    assert_eq!(the_one(said, &node, "bootargs"), companions.bootargs.as_deref().map(text));
    for (property, payload) in [("ramdisk", &companions.initrd), ("fdt", &companions.fdt)] {
        assert_eq!(
            the_one(said, &node, property),
            payload.as_ref().map(|payload| text(&payload.name))
        );
        let is_initrd = property == "ramdisk";
        payload.iter().for_each(|payload| agrees(payload, is_initrd, disk, tree, said));
    }
}

fn speaks(error: &Error) {
    assert!(error.to_string().len() > 20, "{error}");
}

fn taken(disk: &[u8], tree: usize, configuration: &str, fit: &Fit, said: &[Line]) {
    let node = format!("/configurations/{configuration}");
    assert_eq!(the_one(said, &node, "kernel"), Some([fit.kernel.name.as_bytes(), &[0]].concat()));
    let names: Vec<_> =
        fit.loadables.iter().flat_map(|payload| [payload.name.as_bytes(), &[0]].concat()).collect();
    assert_eq!(the_one(said, &node, "loadables").unwrap_or_default(), names);
    assert!(
        fit.loadables.len() <= MAX_LOADABLES
            && fit.loadables.iter().all(|payload| payload.load.is_some())
    );

    let payloads: Vec<_> = std::iter::once(&fit.kernel).chain(&fit.loadables).collect();
    assert!(fit.loadables.iter().all(|payload| payload.compression == Compression::None));
    for payload in &payloads {
        agrees(payload, false, disk, tree, said);
    }
    let end = payloads.iter().map(|payload| payload.place.end).max().expect("there is a kernel");
    assert_eq!(
        fit::parse(&disk[..tree], Medium::disk(end), Digests::Required, configuration).as_ref(),
        Ok(fit)
    );
    assert!(matches!(
        fit::parse(&disk[..tree], Medium::disk(end - 1), Digests::Required, configuration),
        Err(Error::PastEnd { .. })
    ));
}

/// Checks a payload against the lines of its node. An initrd may be compressed in any way: its
/// kernel unpacks it.
fn agrees(payload: &Payload, is_initrd: bool, disk: &[u8], tree: usize, said: &[Line]) {
    let node = format!("/images/{}", payload.name);
    let property = |name: &str| the_one(said, &node, name);
    let number = |name: &str| {
        property(name)
            .map(|bytes| bytes.iter().fold(0_u128, |number, byte| number << 8 | u128::from(*byte)))
    };
    assert!([None, Some(b"arm64\0".to_vec())].contains(&property("arch")), "{payload:?}");
    match payload.compression {
        Compression::None if is_initrd => {}
        Compression::None => {
            assert!(
                [None, Some(b"none\0".to_vec())].contains(&property("compression")),
                "{payload:?}"
            )
        }
        Compression::Gzip { unpacked } => {
            assert_eq!(property("compression").as_deref(), Some(&b"gzip\0"[..]));
            assert_eq!(number("uncomp-size"), unpacked.map(u128::from));
        }
    }

    let (start, end) = (payload.place.start as usize, payload.place.end as usize);
    assert!(start < end && end <= disk.len(), "{payload:?}");
    let offset = number("data-offset").map(|offset| offset + tree.next_multiple_of(4) as u128);
    match number("data-position").or(offset) {
        Some(position) => {
            assert!((tree..).contains(&start), "{payload:?}");
            assert_eq!(
                (start as u128, Some((end - start) as u128)),
                (position, number("data-size"))
            );
        }
        None => assert!(
            end <= tree && property("data").as_deref() == Some(&disk[start..end]),
            "{payload:?}"
        ),
    }
    match payload.load {
        Some(load) => assert_eq!(number("load"), Some(load.get().into())),
        None => assert!(number("load").is_none_or(|load| load == 0)),
    }

    let hash = said.iter().filter(|line| {
        let below =
            line.path.strip_prefix(node.as_str()).and_then(|rest| rest.strip_prefix("/hash"));
        below.is_some_and(|name| !name.contains('/')) && line.property.is_none()
    });
    let mut stated = Vec::new();
    for line in hash {
        let algorithm = the_one(said, &line.path, "algo").unwrap_or_default();
        let name = str::from_utf8(&algorithm).unwrap_or_default().trim_end_matches('\0');
        let Some((algorithm, _)) = Algorithm::of(name) else { continue };
        let value = the_one(said, &line.path, "value").expect("a digest that was read");
        let digest = Digest { algorithm, value };
        if !stated.contains(&digest) {
            stated.push(digest);
        }
    }
    assert!(!stated.is_empty() && stated == payload.digests, "{payload:?}");
    let verdict = fit::verify(payload, disk[start..end].chunks(7));
    // Only SHA-256 is computed here. The others are in what is accepted, and checked with examples.
    let sha256 = Sha256::digest(&disk[start..end]);
    let is_sha256 = |digest: &&Digest| digest.algorithm == Algorithm::Sha256;
    let mut stated = stated.iter().filter(is_sha256);
    if let Some(stated) = stated.next() {
        assert!(verdict.is_err() || stated.value == sha256.as_slice());
        assert!(
            payload.digests.len() > 1 || verdict.is_ok() == (stated.value == sha256.as_slice())
        );
    }
    verdict.err().iter().for_each(speaks);
}

/// Returns the value of a property; neither the property nor its node may be there twice.
fn the_one(said: &[Line], path: &str, name: &str) -> Option<Vec<u8>> {
    let here: Vec<_> = said.iter().filter(|line| line.path == path).collect();
    // Hash nodes are identified by their contents, so two of them may share a name.
    assert!(
        path.contains("/hash") || here.iter().filter(|line| line.property.is_none()).count() == 1,
        "{path} twice"
    );
    let mut values =
        here.iter().filter_map(|line| line.property.as_ref()).filter(|(found, _)| found == name);
    let value = values.next().map(|(_, value)| value.clone());
    assert!(values.next().is_none(), "{path}/{name} twice");
    value
}

/// Writes a disk with xtask's writer and reads it; then edits its tree and reads it again.
fn written(choices: &mut Choices<'_>) {
    let names = ["kernel", "second", "third", "fourth"];
    let payloads: Vec<_> = (names.iter().take(1 + choices.below(4) as usize).enumerate())
        .map(|(number, name)| writer::Payload {
            name: (*name).to_owned(),
            description: "any".to_owned(),
            data: [&[choices.byte()], choices.run(8)].concat(),
            kind: match choices.below(3) {
                0 if number > 0 => Kind::Loadable { load: u64::from_le_bytes(choices.bytes()) },
                1 => Kind::KernelNoload { load: Some(1 + choices.below(u64::MAX)) },
                _ => Kind::KernelNoload { load: None },
            },
            bootargs: None,
        })
        .collect();
    let mut bytes = writer::write(&payloads);
    disk(&bytes);
    as_written(&bytes, &payloads);

    let size = fit::header_size(&bytes, Medium::disk(bytes.len() as u64));
    let size = size.expect("just written") as usize;
    let mut tree = DeviceTree::from_fdt(&Tree::new(&bytes[..size]).expect("just written"));
    let named_otherwise = choices.byte();
    while !choices.0.is_empty() {
        edit(&mut tree.root, choices);
    }
    let edited = twice(tree.to_dtb(), named_otherwise);
    // Overwrite whatever is there, as editing tools do.
    bytes.resize(bytes.len().max(edited.len()), 0);
    bytes[..edited.len()].copy_from_slice(&edited);
    disk(&bytes);
}

/// Checks the first configuration: the first kernel, and the loadables up to the next kernel.
fn as_written(disk: &[u8], payloads: &[writer::Payload]) {
    let medium = Medium::disk(disk.len() as u64);
    let size = fit::header_size(disk, medium).expect("just written") as usize;
    let fit = fit::parse(&disk[..size], medium, Digests::Required, "conf-1")
        .expect("xtask writes what the kernel reads");
    let loadables =
        payloads[1..].iter().take_while(|payload| matches!(payload.kind, Kind::Loadable { .. }));
    let wanted: Vec<_> = std::iter::once(&payloads[0]).chain(loadables).collect();
    let found: Vec<_> = std::iter::once(&fit.kernel).chain(&fit.loadables).collect();
    assert_eq!(found.len(), wanted.len());
    for (found, wanted) in found.into_iter().zip(wanted) {
        let bytes = &disk[found.place.start as usize..found.place.end as usize];
        assert_eq!((&found.name, bytes), (&wanted.name, wanted.data.as_slice()));
        let load = match wanted.kind {
            Kind::KernelNoload { load } => load,
            Kind::Loadable { load } => Some(load),
            Kind::Initrd { load } => load,
            Kind::Fdt => None,
        };
        assert_eq!((found.load, fit::verify(found, [bytes])), (load.map(PhysAddr::new), Ok(())));
    }
}

/// Replaces names by others of the same length, one pair for each bit of `pairs`.
///
/// This makes duplicate names, which a `DeviceTree` cannot hold.
fn twice(mut tree: Vec<u8>, pairs: u8) -> Vec<u8> {
    const PAIRS: [(&[u8], &[u8]); 6] = [
        (b"hash-2\0", b"hash-1\0"),
        (b"second\0", b"kernel\0"),
        (b"conf-2\0", b"conf-1\0"),
        (b"type\0", b"arch\0"),
        (b"load\0", b"data\0"),
        (b"entry\0", b"value\0"),
    ];
    for (_, (from, to)) in PAIRS.iter().enumerate().filter(|(bit, _)| pairs >> bit & 1 != 0) {
        for at in 0..tree.len() - from.len() {
            if tree[at..].starts_with(from) {
                tree[at..at + to.len()].copy_from_slice(to);
            }
        }
    }
    tree
}

/// Makes one edit: sets or removes a property; removes, adds or copies a node.
fn edit(root: &mut DeviceTreeNode, choices: &mut Choices<'_>) {
    const PLACES: [&[&str]; 9] = [
        &[],
        &["images"],
        &["configurations"],
        &["images", "kernel"],
        &["images", "kernel", "hash-1"],
        &["images", "second"],
        &["images", "second", "hash-1"],
        &["configurations", "conf-1"],
        &["configurations", "conf-2"],
    ];
    const NAMES: [&str; 19] = [
        "default",
        "kernel",
        "loadables",
        "type",
        "arch",
        "compression",
        "load",
        "entry",
        "data-position",
        "data-offset",
        "data-size",
        "data",
        "algo",
        "value",
        "description",
        "hash-1",
        "hash-2",
        "second",
        "uncomp-size",
    ];
    const TEXTS: [&str; 15] = [
        "conf-1\0",
        "conf-2\0",
        "kernel\0",
        "second\0",
        "second\0third\0",
        "\0",
        "arm64\0",
        "none\0",
        "sha256\0",
        "crc32\0",
        "md5\0",
        "kernel\0\0",
        "kernel_noload\0",
        "firmware\0",
        "gzip\0",
    ];
    let mut place = Some(root);
    for name in choices.one_of(&PLACES) {
        place = place.and_then(|node| node.child_mut(name));
    }
    let name = choices.one_of(&NAMES);
    let action = choices.below(8);
    let Some(node) = place else { return };
    let mut set = |value: &dyn Fn() -> DeviceTreeProperty| node.add_property(value());
    match action {
        0 => set(&|| property(name, choices.clone().one_of(&TEXTS).as_bytes())),
        1 => set(&|| property(name, u32::from(choices.clone().byte()) << 4)),
        2 => set(&|| property(name, u64::from_be_bytes(choices.clone().bytes()))),
        3 => set(&|| property(name, choices.clone().run(40))),
        4 => drop(node.remove_property(name)),
        5 => drop(node.remove_child(name)),
        6 => node.add_child(DeviceTreeNode::new(name).expect("a name for a node")),
        _ => {
            let Some(model) = node.children().next().cloned() else { return };
            let mut twin = DeviceTreeNode::new(name).expect("a name for a node");
            model.properties().for_each(|property| twin.add_property(property.clone()));
            model.children().for_each(|child| twin.add_child(child.clone()));
            node.add_child(twin);
        }
    }
    // Skip the choice that the value used.
    choices.bytes::<1>();
}

fn property(name: &str, value: impl ToPropertyValue) -> DeviceTreeProperty {
    DeviceTreeProperty::new_unchecked(name, value)
}
