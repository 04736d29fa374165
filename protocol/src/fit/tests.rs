//! Tests of the FIT parser: what it reads and refuses, and that it never panics.

use std::fs;
use std::process::Command;

use dtoolkit::fdt::Fdt;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::{Node as _, Property as _, ToPropertyValue};
use proptest::prelude::*;

use super::*;

use super::writer;

use writer::Kind;

/// Returns bytes that differ everywhere, so that misplaced data are noticed.
fn data(bytes: usize, seed: u8) -> Vec<u8> {
    (0..bytes).map(|byte| (byte * 7 + byte / 251) as u8 ^ seed).collect()
}

fn payload(name: &str, data: Vec<u8>, kind: Kind) -> writer::Payload {
    writer::Payload {
        name: name.to_owned(),
        description: format!("the {name}"),
        data,
        kind,
        bootargs: None,
    }
}

/// Writes a disk as xtask does: one kernel and two loadables.
fn written() -> (Vec<u8>, Vec<writer::Payload>) {
    let payloads = vec![
        payload("kernel", data(5000, 1), Kind::KernelNoload { load: None }),
        payload("first", data(4096, 2), Kind::Loadable { load: 0x4800_0000 }),
        payload("second", data(1, 3), Kind::Loadable { load: 0x1_0000_0000 }),
    ];
    (writer::write(&payloads), payloads)
}

/// Reads a disk as the kernel does, with a slice in place of the disk.
fn read(disk: &[u8]) -> Result<Fit, Error> {
    let medium = Medium::disk(disk.len() as u64);
    let tree = &disk[..header_size(&disk[..disk.len().min(512)], medium)? as usize];
    let configuration = &configurations(tree)?[0];
    let fit = parse(tree, medium, Digests::Required, configuration)?;
    for payload in core::iter::once(&fit.kernel).chain(&fit.loadables) {
        // Split into pages, as if read into frames.
        verify(
            payload,
            disk[payload.place.start as usize..payload.place.end as usize].chunks(4096),
        )?;
    }
    Ok(fit)
}

/// Parses the tree of [`written`] after `edit`, with the same disk size.
fn edited(edit: impl FnOnce(&mut DeviceTreeNode)) -> Result<Fit, Error> {
    let (disk, _) = written();
    parse(&edited_tree(edit), Medium::disk(disk.len() as u64), Digests::Required, "conf-1")
}

/// Returns the tree of [`written`] after `edit`.
fn edited_tree(edit: impl FnOnce(&mut DeviceTreeNode)) -> Vec<u8> {
    let (disk, _) = written();
    let size = header_size(&disk, Medium::disk(disk.len() as u64)).unwrap() as usize;
    let mut tree = DeviceTree::from_fdt(&Fdt::new(&disk[..size]).unwrap());
    edit(&mut tree.root);
    tree.to_dtb()
}

fn at<'n>(root: &'n mut DeviceTreeNode, path: &str) -> &'n mut DeviceTreeNode {
    path.split('/').fold(root, |node, name| node.child_mut(name).unwrap())
}

fn set(node: &mut DeviceTreeNode, name: &str, value: impl ToPropertyValue) {
    node.add_property(DeviceTreeProperty::new_unchecked(name, value));
}

#[test]
fn what_xtask_writes_is_read() {
    let (disk, payloads) = written();
    assert_eq!(disk.len() % 512, 0);
    let fit = read(&disk).unwrap();
    assert_eq!(fit.description, "Ouroboros");
    let found: Vec<_> = core::iter::once(&fit.kernel).chain(&fit.loadables).collect();
    let wanted = [None, Some(PhysAddr::new(0x4800_0000)), Some(PhysAddr::new(0x1_0000_0000))];
    for ((found, payload), load) in found.iter().zip(&payloads).zip(wanted) {
        assert_eq!(found.name, payload.name);
        assert_eq!(found.load, load);
        assert_eq!(found.place.start % 4096, 0);
        assert_eq!(disk[found.place.start as usize..found.place.end as usize], payload.data);
    }
    assert_eq!(found.len(), 3);
}

/// Checks the seeds of the fuzz target `fit`: it would get nowhere from seeds that are refused at
/// once.
#[test]
fn the_fuzzers_disks_are_read() {
    let mut disks = 0;
    for entry in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/fit")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "itb") {
            assert!(read(&fs::read(&path).unwrap()).is_ok(), "{path:?}");
            disks += 1;
        }
    }
    assert!(disks > 2);
}

#[test]
fn a_kernel_that_wants_a_place_says_so() {
    let payloads = [payload("kernel", data(1, 0), Kind::KernelNoload { load: Some(0x4020_0000) })];
    assert_eq!(
        read(&writer::write(&payloads)).unwrap().kernel.load,
        Some(PhysAddr::new(0x4020_0000))
    );
}

#[test]
fn each_kernel_opens_a_configuration() {
    let kernel = |name| payload(name, data(9, 0), Kind::KernelNoload { load: None });
    let loadable = |name| payload(name, data(9, 0), Kind::Loadable { load: 4096 });
    let disk = writer::write(&[
        kernel("a"),
        loadable("b"),
        kernel("c"),
        kernel("d"),
        loadable("e"),
        loadable("f"),
    ]);
    let tree = &disk[..header_size(&disk, Medium::disk(disk.len() as u64)).unwrap() as usize];
    assert_eq!(configurations(tree).unwrap(), ["conf-1", "conf-2", "conf-3"]);
    let names = |name| {
        let fit = parse(tree, Medium::disk(disk.len() as u64), Digests::Required, name).unwrap();
        let loadables: Vec<_> = fit.loadables.into_iter().map(|loadable| loadable.name).collect();
        (fit.kernel.name, loadables.join(" "))
    };
    assert_eq!(names("conf-1"), ("a".to_owned(), "b".to_owned()));
    assert_eq!(names("conf-2"), ("c".to_owned(), String::new()));
    assert_eq!(names("conf-3"), ("d".to_owned(), "e f".to_owned()));
}

/// Writes a disk with two kernels, the second with every companion that it can have.
fn with_companions() -> Vec<u8> {
    let linux = payload("linux", data(5000, 1), Kind::KernelNoload { load: None });
    writer::write(&[
        payload("kernel", data(9, 0), Kind::KernelNoload { load: None }),
        writer::Payload { bootargs: Some("console=ttyAMA0 quiet".into()), ..linux },
        payload("blob", data(700, 2), Kind::Fdt),
        payload("initrd", data(4097, 3), Kind::Initrd { load: None }),
        payload("more", data(1, 3), Kind::Loadable { load: 0x4800_0000 }),
    ])
}

/// Reads the companions on the disk of [`with_companions`] after `edit`.
fn companions_of(edit: impl FnOnce(&mut DeviceTreeNode)) -> Result<Companions, Error> {
    let disk = with_companions();
    let size = header_size(&disk, Medium::disk(disk.len() as u64)).unwrap() as usize;
    let mut tree = DeviceTree::from_fdt(&Fdt::new(&disk[..size]).unwrap());
    edit(&mut tree.root);
    companions(&tree.to_dtb(), Medium::disk(disk.len() as u64), Digests::Required, "conf-2")
}

#[test]
fn what_goes_with_a_payload_is_read() {
    let disk = with_companions();
    let Companions { initrd, fdt, bootargs } = companions_of(|_| ()).unwrap();
    assert_eq!(bootargs.as_deref(), Some("console=ttyAMA0 quiet"));
    for (found, bytes) in [(initrd.unwrap(), data(4097, 3)), (fdt.unwrap(), data(700, 2))] {
        let place = &disk[found.place.start as usize..found.place.end as usize];
        assert_eq!((place, found.load), (&bytes[..], None));
        assert_eq!(verify(&found, [place]), Ok(()));
    }
    let tree = &disk[..header_size(&disk, Medium::disk(disk.len() as u64)).unwrap() as usize];
    assert_eq!(
        companions(tree, Medium::disk(disk.len() as u64), Digests::Required, "conf-1"),
        Ok(Companions::default())
    );
    let fit = parse(tree, Medium::disk(disk.len() as u64), Digests::Required, "conf-2").unwrap();
    assert_eq!((fit.kernel.name.as_str(), fit.loadables.len()), ("linux", 1));
}

#[test]
fn a_ramdisk_may_say_where_and_0_says_nothing() {
    for (load, says) in [(0_u32, None), (0x4900_0000, Some(PhysAddr::new(0x4900_0000)))] {
        let found = companions_of(|root| set(at(root, "images/initrd"), "load", load)).unwrap();
        assert_eq!(found.initrd.unwrap().load, says);
    }
}

#[test]
fn what_is_wrong_with_what_goes_with_a_payload_is_named() {
    let missing =
        |node: &str, what: &str| Err(Error::Missing { node: node.into(), what: what.into() });
    let taken =
        |image: &'static str| companions_of(move |root| _ = at(root, "images").remove_child(image));
    assert_eq!(taken("initrd"), missing("/images", "initrd"));
    assert_eq!(taken("blob"), missing("/images", "blob"));
    let hash = companions_of(|root| _ = at(root, "images/initrd").remove_child("hash-1"));
    assert_eq!(hash, Err(Error::NoDigest { node: "/images/initrd".into() }));
    let packed = companions_of(|root| set(at(root, "images/blob"), "compression", "lzma"));
    assert!(matches!(packed, Err(Error::Compressed { .. })), "{packed:?}");
    let packed = companions_of(|root| set(at(root, "images/blob"), "compression", "gzip"));
    assert_eq!(packed.unwrap().fdt.unwrap().compression, Compression::Gzip { unpacked: None });
    let initrd = companions_of(|root| set(at(root, "images/initrd"), "compression", "lz4"))
        .unwrap()
        .initrd
        .unwrap();
    assert_eq!(initrd.compression, Compression::None, "a ramdisk is its kernel's to unpack");
    let cmdline = companions_of(|root| set(at(root, "configurations/conf-2"), "bootargs", 7_u32));
    assert!(matches!(cmdline, Err(Error::OddValue { .. })), "{cmdline:?}");
}

#[test]
fn a_kernel_and_a_loadable_may_be_in_a_gzip_file() {
    let file = [0x1f, 0x8b, 8, 0, 0x78, 0x56, 0x34, 0x12];
    let kernel = |data: &[u8]| payload("kernel", data.to_vec(), Kind::KernelNoload { load: None });
    let loadable = payload("second", file.to_vec(), Kind::Loadable { load: 0x4800_0000 });
    let fit = read(&writer::write(&[kernel(&file), loadable])).unwrap();
    assert_eq!(fit.kernel.compression, Compression::Gzip { unpacked: Some(0x1234_5678) });
    assert_eq!(fit.loadables[0].compression, Compression::None);
    assert_eq!(
        read(&writer::write(&[kernel(b"an Image")])).unwrap().kernel.compression,
        Compression::None
    );

    let of = |image: &'static str| edited(move |root| set(at(root, image), "compression", "gzip"));
    assert_eq!(
        of("images/kernel").unwrap().kernel.compression,
        Compression::Gzip { unpacked: None }
    );
    assert_eq!(
        of("images/second").unwrap().loadables[1].compression,
        Compression::Gzip { unpacked: None }
    );
}

#[test]
fn two_kernels_are_one_too_many() {
    let two =
        edited(|root| set(at(root, "configurations/conf-1"), "kernel", vec!["kernel", "first"]));
    let error = Error::ManyKernels { node: "/configurations/conf-1".into(), given: 2 };
    assert!(error.to_string().contains("/configurations/conf-1 names 2 kernels"), "{error}");
    assert_eq!(two, Err(error));
}

#[test]
fn the_default_configuration_comes_first() {
    let (disk, _) = written();
    let mut tree = DeviceTree::from_fdt(
        &Fdt::new(&disk[..header_size(&disk, Medium::disk(u64::MAX)).unwrap() as usize]).unwrap(),
    );
    let configurations_node = at(&mut tree.root, "configurations");
    configurations_node.add_child(DeviceTreeNode::new("z").unwrap());
    set(configurations_node, "default", "z");
    assert_eq!(configurations(&tree.to_dtb()).unwrap(), ["z", "conf-1"]);
}

#[test]
fn a_disk_without_a_fit_is_refused() {
    let (disk, _) = written();
    assert_eq!(header_size(&[], Medium::disk(0)), Err(Error::TooShort { medium: Medium::disk(0) }));
    let medium = Medium::initrd(39);
    let error = Error::TooShort { medium };
    assert!(error.to_string().starts_with("the initrd has 39 bytes, "), "{error}");
    assert_eq!(header_size(&disk[..39], medium), Err(error));
    let medium = Medium::disk(512);
    let error = Error::NotAFit { medium, magic: 0x5555_5555 };
    assert_eq!(header_size(&[0x55; 512], medium), Err(error));
    let mut large = disk[..512].to_vec();
    large[4..8].copy_from_slice(&[0, 0x10, 0, 1]);
    assert_eq!(
        header_size(&large, Medium::disk(1 << 30)),
        Err(Error::TreeTooLarge { bytes: 0x10_0001 })
    );
    large[4..8].copy_from_slice(&[0, 0x10, 0, 0]);
    assert_eq!(header_size(&large, Medium::disk(1 << 30)), Ok(0x10_0000));
    assert_eq!(
        header_size(&large, Medium::disk(0x10_0000)),
        Ok(0x10_0000),
        "a disk that ends with its tree"
    );
    let medium = Medium::initrd(1024);
    let error = Error::TreePastEnd { bytes: 0x10_0000, medium };
    assert!(error.to_string().contains("1048576 bytes, the initrd 1024: "), "{error}");
    assert_eq!(header_size(&large, medium), Err(error));
    // A tree whose size is smaller than its own header.
    large[4..8].copy_from_slice(&[0, 0, 0, 8]);
    let bytes = header_size(&large, medium).unwrap() as usize;
    assert!(matches!(configurations(&large[..bytes]), Err(Error::TreeDamaged { .. })));
}

#[test]
fn a_disk_that_ends_early_is_refused() {
    let (disk, _) = written();
    let start = read(&disk).unwrap().loadables[1].place.start;
    let node = || "/images/second".to_owned();
    let error = |medium| Error::PastEnd { node: node(), start, bytes: 1, medium };
    let (on_disk, in_initrd) = (error(Medium::disk(start)), error(Medium::initrd(start)));
    assert!(on_disk.to_string().contains(&format!("and the disk ends at byte {start}: ")));
    assert!(in_initrd.to_string().contains(&format!("and the initrd ends at byte {start}: ")));
    let error = on_disk;
    assert_eq!(read(&disk[..start as usize]), Err(error));
    assert!(read(&disk[..=start as usize]).is_ok(), "only the padding is missing");
}

#[test]
fn what_is_missing_is_named() {
    let missing =
        |node: &str, what: &str| Err(Error::Missing { node: node.into(), what: what.into() });
    let without = |path: &str, what: &str| {
        edited(|root| {
            let node = if path.is_empty() { root } else { at(root, path) };
            assert!(node.remove_property(what).is_some() || node.remove_child(what).is_some());
        })
    };
    assert_eq!(without("", "images"), missing("/", "images"));
    assert_eq!(without("", "configurations"), missing("/", "configurations"));
    assert_eq!(without("configurations", "conf-1"), missing("/configurations", "conf-1"));
    assert_eq!(
        without("configurations/conf-1", "kernel"),
        missing("/configurations/conf-1", "kernel")
    );
    assert_eq!(without("images", "kernel"), missing("/images", "kernel"));
    assert_eq!(without("images", "second"), missing("/images", "second"));
    assert_eq!(without("images/kernel", "arch"), missing("/images/kernel", "arch"));
    assert_eq!(without("images/kernel", "type"), missing("/images/kernel", "type"));
    assert_eq!(without("images/kernel", "data-size"), missing("/images/kernel", "data-size"));
    assert_eq!(without("images/kernel", "data-position"), missing("/images/kernel", "data"));
    assert_eq!(
        without("images/kernel", "hash-1"),
        Err(Error::NoDigest { node: "/images/kernel".into() })
    );
    assert_eq!(without("images/kernel/hash-1", "algo"), missing("/images/kernel/hash-1", "algo"));
    assert_eq!(without("images/kernel/hash-1", "value"), missing("/images/kernel/hash-1", "value"));
    assert_eq!(without("images/first", "load"), missing("/images/first", "load"));
    for unneeded in ["arch", "type", "os", "compression", "description"] {
        assert!(without("images/first", unneeded).is_ok(), "{unneeded}");
    }
    for unneeded in ["load", "entry", "os", "compression", "description"] {
        assert!(without("images/kernel", unneeded).is_ok(), "{unneeded}");
    }

    let (disk, _) = written();
    let mut tree = DeviceTree::from_fdt(
        &Fdt::new(&disk[..header_size(&disk, Medium::disk(u64::MAX)).unwrap() as usize]).unwrap(),
    );
    assert_eq!(default(&tree.to_dtb()), Ok(()));
    let configurations_node = at(&mut tree.root, "configurations");
    configurations_node.add_child(DeviceTreeNode::new("z").unwrap());
    configurations_node.remove_property("default");
    let error = Error::Missing { node: "/configurations".into(), what: "default".into() };
    assert_eq!(default(&tree.to_dtb()), Err(error));
    assert_eq!(configurations(&tree.to_dtb()).unwrap(), ["conf-1", "z"]);
}

#[test]
fn a_description_may_be_in_any_encoding() {
    let latin_1 = b"f\xfcr alle\0".as_slice();
    let fit = edited(|root| set(root, "description", latin_1)).unwrap();
    assert_eq!(fit.description, "");
}

#[test]
fn what_is_encrypted_is_refused() {
    let encrypted = edited(|root| {
        at(root, "images/first").add_child(DeviceTreeNode::new("cipher-1").unwrap());
    });
    assert_eq!(encrypted, Err(Error::Encrypted { node: "/images/first".into() }));
}

#[test]
fn an_overlay_is_named_as_such() {
    let two = companions_of(|root| {
        set(at(root, "configurations/conf-2"), "fdt", vec!["blob", "more"]);
    });
    let error = Error::Overlay { node: "/configurations/conf-2".into(), overlay: "more".into() };
    assert!(error.to_string().contains("\"more\" as an overlay"), "{error}");
    assert_eq!(two, Err(error));
}

#[test]
fn what_the_kernel_may_not_be_is_refused() {
    let kernel = || "/images/kernel".to_owned();
    let with = |name: &str, value: &str| edited(|root| set(at(root, "images/kernel"), name, value));
    assert_eq!(with("arch", "arm"), Err(Error::WrongArch { node: kernel(), arch: "arm".into() }));
    assert_eq!(
        with("type", "ramdisk"),
        Err(Error::NotAKernel { node: kernel(), kind: "ramdisk".into() })
    );
    assert_eq!(
        with("compression", "lzma"),
        Err(Error::Compressed { node: kernel(), compression: "lzma".into() })
    );
    let with_entry = |entry: u64| {
        edited(|root| {
            let kernel = at(root, "images/kernel");
            set(kernel, "type", "kernel");
            set(kernel, "load", 0x4020_0000_u32);
            set(kernel, "entry", entry);
        })
    };
    assert_eq!(
        with_entry(0x4020_0000).unwrap().kernel.load,
        Some(PhysAddr::new(0x4020_0000)),
        "one cell, two cells"
    );
    let (load, entry) = (PhysAddr::new(0x4020_0000), PhysAddr::new(0x4020_0040));
    assert_eq!(with_entry(0x4020_0040), Err(Error::EntryElsewhere { node: kernel(), load, entry }));
}

#[test]
fn data_that_cannot_be_are_refused() {
    let with = |position: u64, size: u64| {
        edited(|root| {
            let kernel = at(root, "images/kernel");
            set(kernel, "data-position", position);
            set(kernel, "data-size", size);
        })
    };
    let (disk, _) = written();
    let (node, disk) = ("/images/kernel".to_owned(), disk.len() as u64);
    let medium = Medium::disk(disk);
    assert_eq!(with(disk - 7, 7).unwrap().kernel.place, disk - 7..disk);
    for (start, bytes) in [(disk - 7, 8), (u64::MAX, 2), (2, u64::MAX)] {
        assert_eq!(
            with(start, bytes),
            Err(Error::PastEnd { node: node.clone(), start, bytes, medium })
        );
    }
    assert_eq!(with(4096, 0), Err(Error::Empty { node: node.clone() }));
    assert!(matches!(with(40, 4096), Err(Error::OverTree { place, .. }) if place == (40..4136)));
    let offset = edited(|root| {
        let kernel = at(root, "images/kernel");
        kernel.remove_property("data-position");
        set(kernel, "data-offset", u64::MAX);
    });
    assert_eq!(offset, Err(Error::PastEnd { node, start: u64::MAX, bytes: 5000, medium }));
}

#[test]
fn data_may_begin_where_the_tree_ends_and_no_sooner() {
    let tree_with = |position: usize| {
        edited_tree(|root| set(at(root, "images/kernel"), "data-position", position as u64))
    };
    let end = tree_with(0).len();
    let start = |position| {
        let fit = parse(&tree_with(position), Medium::disk(1 << 20), Digests::Required, "conf-1")?;
        Ok(fit.kernel.place.start)
    };
    assert_eq!(start(end), Ok(end as u64));
    assert_eq!(start(end + 1), Ok(end as u64 + 1));
    assert!(matches!(start(end - 1), Err(Error::OverTree { .. })));
}

#[test]
fn an_offset_counts_from_the_word_after_the_tree() {
    let tree = edited_tree(|root| {
        let kernel = at(root, "images/kernel");
        kernel.remove_property("data-position");
        set(kernel, "data-offset", 12_u32);
    });
    let start = (tree.len() as u64).next_multiple_of(4) + 12;
    let fit = parse(&tree, Medium::disk(1 << 20), Digests::Required, "conf-1").unwrap();
    assert_eq!(fit.kernel.place, start..start + 5000);
}

#[test]
fn data_may_be_in_the_tree() {
    let tree = edited_tree(|root| {
        let kernel = at(root, "images/kernel");
        kernel.remove_property("data-position");
        set(kernel, "data", b"an Image".as_slice());
    });
    let start = tree.windows(8).position(|bytes| bytes == b"an Image").unwrap() as u64;
    let fit = parse(&tree, Medium::disk(1 << 20), Digests::Required, "conf-1").unwrap();
    assert_eq!(fit.kernel.place, start..start + 8);
}

/// Adds a hash node to an image.
fn add_hash(image: &mut DeviceTreeNode, name: &str, algorithm: &str, value: &[u8]) {
    let mut hash = DeviceTreeNode::new(name).unwrap();
    set(&mut hash, "algo", algorithm);
    set(&mut hash, "value", value);
    image.add_child(hash);
}

#[test]
fn digests_that_cannot_be_are_refused() {
    let hash = "images/kernel/hash-1";
    let error =
        Error::UnknownHash { node: "/images/kernel/hash-1".into(), algorithm: "crc16".into() };
    assert_eq!(edited(|root| set(at(root, hash), "algo", "crc16")), Err(error));
    let error = Error::DigestSize {
        node: "/images/kernel/hash-1".into(),
        algorithm: Algorithm::Sha256,
        bytes: 32,
        given: 20,
    };
    assert!(error.to_string().contains("of 20 bytes, and sha256 makes 32"), "{error}");
    assert_eq!(edited(|root| set(at(root, hash), "value", [0_u8; 20].as_slice())), Err(error));

    let beside = |algorithm: &str| {
        edited(|root| add_hash(at(root, "images/kernel"), "hash-0", algorithm, &[0; 32]))
    };
    let digests = beside("crc16").unwrap().kernel.digests;
    assert_eq!(digests.len(), 1, "an unknown one beside one that is known");
    let error =
        Error::TwoDigests { node: "/images/kernel/hash-0".into(), algorithm: Algorithm::Sha256 };
    assert_eq!(beside("sha256"), Err(error));
    let again = edited(|root| {
        let kernel = at(root, "images/kernel");
        let value = kernel.child("hash-1").unwrap().property("value").unwrap().value().to_vec();
        add_hash(kernel, "hash-2", "sha256", &value);
    });
    assert_eq!(again.unwrap().kernel.digests.len(), 1, "the same digest twice");
}

#[test]
fn a_payload_without_a_digest_needs_permission() {
    let disk = with_companions();
    let medium = Medium::disk(disk.len() as u64);
    let size = header_size(&disk, medium).unwrap() as usize;
    let mut tree = DeviceTree::from_fdt(&Fdt::new(&disk[..size]).unwrap());
    for image in ["linux", "more", "blob", "initrd"] {
        at(&mut tree.root, &format!("images/{image}")).remove_child("hash-1").unwrap();
    }
    let tree = tree.to_dtb();
    let read = |digests| {
        let fit = parse(&tree, medium, digests, "conf-2")?;
        Ok((fit, companions(&tree, medium, digests, "conf-2")?))
    };
    let error = Error::NoDigest { node: "/images/linux".into() };
    assert!(error.to_string().contains("order \"unverified\""), "{error}");
    assert_eq!(read(Digests::Required), Err(error));
    let (fit, companions) = read(Digests::Optional).unwrap();
    let [more] = &fit.loadables[..] else { panic!("{fit:?}") };
    for payload in [&fit.kernel, more, &companions.initrd.unwrap(), &companions.fdt.unwrap()] {
        assert_eq!(payload.digests, []);
        assert_eq!(verify(payload, [b"anything".as_slice()]), Ok(()));
    }
    let unknown = edited_tree(|root| set(at(root, "images/kernel/hash-1"), "algo", "crc16"));
    let fit = parse(&unknown, Medium::disk(1 << 20), Digests::Optional, "conf-1").unwrap();
    assert_eq!(fit.kernel.digests, [], "one that is not known does not count");
    let size = edited_tree(|root| set(at(root, "images/kernel/hash-1"), "value", 7_u32));
    let fit = parse(&size, Medium::disk(1 << 20), Digests::Optional, "conf-1");
    assert!(matches!(fit, Err(Error::DigestSize { .. })), "{fit:?}");
}

#[test]
fn two_of_the_same_name_are_refused() {
    // Rename properties and children in place, to names of the same length.
    let renamed = |from: &[u8], to: &[u8]| {
        let (mut disk, _) = written();
        let place =
            disk.windows(from.len()).position(|initrd_window| initrd_window == from).unwrap();
        disk[place..place + to.len()].copy_from_slice(to);
        read(&disk)
    };
    assert_eq!(
        renamed(b"second\0\0\0\0\0\x03", b"kernel"),
        Err(Error::Twice { path: "/images/kernel".into() })
    );
    assert_eq!(
        renamed(b"entry\0", b"load\0\0"),
        Err(Error::Twice { path: "/images/kernel/load".into() })
    );
}

#[test]
fn a_unit_address_is_part_of_the_name() {
    let beside =
        edited(|root| at(root, "images").add_child(DeviceTreeNode::new("kernel@1").unwrap()));
    assert!(beside.is_ok());
}

#[test]
fn values_that_are_no_values_are_refused() {
    let odd = |path: &str, bytes, wanted| Err(Error::OddValue { path: path.into(), bytes, wanted });
    let with =
        |path: &str, name: &str, value: &[u8]| edited(|root| set(at(root, path), name, value));
    let conf = "configurations/conf-1";
    assert_eq!(
        with(conf, "kernel", b"kernel"),
        odd("/configurations/conf-1/kernel", 6, "a list of strings")
    );
    assert_eq!(
        with(conf, "kernel", b"\xff\0"),
        odd("/configurations/conf-1/kernel", 2, "a list of strings")
    );
    assert_eq!(with("images/kernel", "type", b"a\0b\0"), odd("/images/kernel/type", 4, "a string"));
    assert_eq!(
        with(conf, "loadables", b""),
        odd("/configurations/conf-1/loadables", 0, "a list of strings")
    );
    assert_eq!(
        with(conf, "loadables", b"first"),
        odd("/configurations/conf-1/loadables", 5, "a list of strings")
    );
    assert_eq!(
        with("images/first", "load", &[0; 12]),
        odd("/images/first/load", 12, "a number of 4 or 8 bytes")
    );
    let error = Error::Missing { node: "/images".into(), what: String::new() };
    assert_eq!(with(conf, "loadables", b"first\0\0"), Err(error));
}

#[test]
fn the_limits_are_these_numbers() {
    assert_eq!((MAX_TREE_BYTES, MAX_LOADABLES), (0x10_0000, 15));
}

#[test]
fn loadables_are_counted() {
    let with = |given: usize| {
        edited(|root| set(at(root, "configurations/conf-1"), "loadables", vec!["first"; given]))
    };
    assert_eq!(with(15).unwrap().loadables.len(), 15);
    assert_eq!(with(16), Err(Error::TooManyLoadables { given: 16 }));
}

#[test]
fn a_changed_byte_is_found() {
    let (mut disk, _) = written();
    let place = read(&disk).unwrap().kernel.place;
    disk[place.end as usize - 1] ^= 1;
    let error = read(&disk).unwrap_err();
    let Error::DigestDiffers { ref name, ref expected, ref found } = error else {
        panic!("{error}")
    };
    assert_eq!((name.as_str(), expected.algorithm), ("kernel", Algorithm::Sha256));
    assert_ne!(&expected.value, found);
    let sentence = error.to_string();
    let [a, b, c, ..] = expected.value[..] else { panic!("{expected:?}") };
    assert!(sentence.contains(&format!("{a:02x}{b:02x}{c:02x}")), "{sentence}");
}

/// Each algorithm's digest of "abc": of FIPS 180-4, RFC 1321 and zlib.
const OF_ABC: [(&str, &str); 6] = [
    ("crc32", "352441c2"),
    ("md5", "900150983cd24fb0d6963f7d28e17f72"),
    ("sha1", "a9993e364706816aba3e25717850c26c9cd0d89d"),
    ("sha256", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    (
        "sha384",
        "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed\
         8086072ba1e7cc2358baeca134c825a7",
    ),
    (
        "sha512",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
         2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
    ),
];

fn digest(name: &str, hex: &str) -> Digest {
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    let value = (0..hex.len()).step_by(2).map(byte).collect();
    Digest { algorithm: Algorithm::of(name).unwrap().0, value }
}

fn abc(digests: Vec<Digest>) -> Payload {
    Payload { name: "abc".into(), place: 0..3, digests, compression: Compression::None, load: None }
}

#[test]
fn each_algorithm_is_the_one_of_its_name() {
    assert_eq!(Algorithm::ALL.len(), OF_ABC.len());
    for (name, hex) in OF_ABC {
        let (algorithm, bytes) = Algorithm::of(name).unwrap();
        assert_eq!((algorithm.to_string().as_str(), bytes * 2), (name, hex.len()));
        let payload = abc(vec![digest(name, hex)]);
        assert_eq!(verify(&payload, [b"ab".as_slice(), b"", b"c"]), Ok(()), "{name}");
        let error = verify(&payload, [b"abd".as_slice()]).unwrap_err();
        let start = format!("\"abc\" is not what the FIT says: {name} ");
        assert!(error.to_string().starts_with(&start), "{error}");
        let end = match hex.get(..16) {
            Some(start) => format!("it should be {start}…: write the FIT anew"),
            None => format!("it should be {hex}: write the FIT anew"),
        };
        assert!(error.to_string().ends_with(&end), "{error}");
    }
    assert_eq!(Algorithm::of("crc16"), None);
}

#[test]
fn every_digest_of_a_payload_is_checked() {
    let all = || OF_ABC.map(|(name, hex)| digest(name, hex)).to_vec();
    assert_eq!(verify(&abc(all()), [b"abc".as_slice()]), Ok(()));
    for (at, (name, _)) in OF_ABC.iter().enumerate() {
        let mut digests = all();
        *digests[at].value.last_mut().unwrap() ^= 1;
        let error = verify(&abc(digests), [b"abc".as_slice()]).unwrap_err();
        assert!(error.to_string().contains(&format!("the FIT says: {name} ")), "{error}");
    }
}

#[test]
fn every_digest_in_the_tree_is_read() {
    let tree = edited_tree(|root| {
        let kernel = at(root, "images/kernel");
        kernel.remove_child("hash-1");
        for (name, hex) in OF_ABC {
            add_hash(kernel, &format!("hash-{name}"), name, &digest(name, hex).value);
        }
    });
    let fit = parse(&tree, Medium::disk(1 << 20), Digests::Required, "conf-1").unwrap();
    assert_eq!(fit.kernel.digests, OF_ABC.map(|(name, hex)| digest(name, hex)));
}

#[test]
fn sentences_name_the_value() {
    let sentence = read(&[0x7f; 512]).unwrap_err().to_string();
    assert!(sentence.starts_with(
        "the disk does not start with a FIT: 0x7f7f7f7f where the magic 0xd00dfeed belongs"
    ));
    let sentence = edited(|root| drop(at(root, "configurations/conf-1").remove_property("kernel")))
        .unwrap_err()
        .to_string();
    assert_eq!(sentence, "the FIT's /configurations/conf-1 has no \"kernel\": add it");
    let (mut disk, _) = written();
    disk[56] = 0xff;
    let sentence = read(&disk).unwrap_err().to_string();
    assert_eq!(
        sentence,
        "the FIT's tree is damaged: a structure that passes its block: write it anew"
    );
}

proptest! {
    // Miri has no current directory to keep failures in.
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(if cfg!(miri) { 8 } else { 20_000 })
    })]

    /// Checks that damage anywhere in the tree never causes a panic. It is refused, or the digests
    /// still match.
    #[test]
    fn damage_never_panics(flips in proptest::collection::vec((0_usize..1200, any::<u8>()), 1..8)) {
        let (mut disk, _) = written();
        for (place, byte) in flips {
            disk[place] = byte;
        }
        if let Err(error) = read(&disk) {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    /// Checks that replaced tokens never cause a panic. Such trees are odd rather than broken.
    #[test]
    fn odd_tokens_never_panic(
        words in proptest::collection::vec(
            (0_usize..300, prop_oneof![1_u32..10, 0_u32..64, Just(u32::MAX)]),
            1..6,
        )
    ) {
        let (mut disk, _) = written();
        for (place, word) in words {
            disk[place * 4..place * 4 + 4].copy_from_slice(&word.to_be_bytes());
        }
        if let Err(error) = read(&disk) {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn what_is_written_is_read(sizes in proptest::collection::vec(1_usize..9000, 1..8)) {
        let kind = |index: usize| match index {
            0 => Kind::KernelNoload { load: None },
            _ => Kind::Loadable { load: index as u64 * 0x10_0000 },
        };
        let payloads: Vec<_> = (sizes.iter().enumerate())
            .map(|(index, bytes)| {
                payload(&format!("p{index}"), data(*bytes, index as u8), kind(index))
            })
            .collect();
        let disk = writer::write(&payloads);
        let fit = read(&disk).unwrap();
        for (found, payload) in core::iter::once(&fit.kernel).chain(&fit.loadables).zip(&payloads) {
            prop_assert_eq!(
                &disk[found.place.start as usize..found.place.end as usize],
                payload.data.as_slice()
            );
        }
    }
}

/// Runs `mkimage` with `arguments` on this image source, and returns what it writes. mkimage calls
/// dtc.
fn mkimage(its: &str, arguments: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("kernel"), data(20_000, 5)).unwrap();
    fs::write(folder.path().join("loadable"), data(3333, 6)).unwrap();
    fs::write(folder.path().join("its"), its).unwrap();
    let mut command = Command::new("mkimage");
    command.current_dir(folder.path()).args(["-f", "its"]).args(arguments).arg("itb");
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    fs::read(folder.path().join("itb")).unwrap()
}

const ITS: &str = r#"
    /dts-v1/;
    / {
        description = "made by mkimage";
        #address-cells = <1>;
        images {
            kernel-1 {
                data = /incbin/("kernel");
                type = "kernel_noload"; arch = "arm64"; os = "linux"; compression = "none";
                load = <0>; entry = <0>;
                hash-1 { algo = "crc32"; };
                hash-2 { algo = "sha256"; };
            };
            more {
                data = /incbin/("loadable");
                type = "firmware"; arch = "arm64"; os = "linux"; compression = "none";
                load = <0x48000000>;
                hash-1 { algo = "sha256"; };
            };
        };
        configurations {
            default = "second";
            first { kernel = "more"; };
            second { kernel = "kernel-1"; loadables = "more"; };
        };
    };
"#;

/// Reads what `mkimage` made and compares all of it with its source. Returns the kernel's start.
fn read_mkimage(arguments: &[&str]) -> u64 {
    let disk = mkimage(ITS, arguments);
    let fit = read(&disk).unwrap_or_else(|error| panic!("mkimage {arguments:?}: {error}"));
    assert_eq!(fit.description, "made by mkimage");
    assert_eq!((fit.kernel.name.as_str(), fit.kernel.load), ("kernel-1", None));
    assert_eq!(
        disk[fit.kernel.place.start as usize..fit.kernel.place.end as usize],
        data(20_000, 5)
    );
    let [more] = fit.loadables.as_slice() else { panic!("{:?}", fit.loadables) };
    assert_eq!((more.name.as_str(), more.load), ("more", Some(PhysAddr::new(0x4800_0000))));
    assert_eq!(disk[more.place.start as usize..more.place.end as usize], data(3333, 6));
    fit.kernel.place.start
}

#[test]
#[ignore = "starts mkimage; `cargo xtask test host/mkimage` runs it"]
fn what_mkimage_makes_is_read() {
    let start = read_mkimage(&["-E"]);
    assert_ne!(start % 512, 0, "data whose start is not aligned to a block");
    assert_eq!(start % 4, 0);
}

#[test]
#[ignore = "starts mkimage; `cargo xtask test host/mkimage` runs it"]
fn what_mkimage_aligns_is_read() {
    assert_eq!(read_mkimage(&["-E", "-B", "0x1000"]), 0x1000);
}

#[test]
#[ignore = "starts mkimage; `cargo xtask test host/mkimage` runs it"]
fn what_mkimage_puts_at_a_position_is_read() {
    assert_eq!(read_mkimage(&["-E", "-p", "0x3000"]), 0x3000);
}

#[test]
#[ignore = "starts mkimage; `cargo xtask test host/mkimage` runs it"]
fn data_within_the_tree_are_read() {
    let start = read_mkimage(&[]);
    assert!(start < 1200, "{start}");
}

#[test]
fn sharing_data_is_no_mistake() {
    let (disk, _) = written();
    let place = read(&disk).unwrap().kernel.place;
    let fit = edited(|root| {
        let first = at(root, "images/first");
        set(first, "data-position", place.start);
        set(first, "data-size", 4_u32);
    });
    assert_eq!(fit.unwrap().loadables[0].place, place.start..place.start + 4);
}
