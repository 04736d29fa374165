//! The seeds in `fuzz/corpus`: a test makes them and compares them with the committed files.
//!
//! After a change of a format: `BLESS=1 cargo test --package tools seeds`. Only
//! `fuzz/corpus/tree/virt.dtb` is not made here. It is QEMU's own tree (`-machine
//! virt,virtualization=on,gic-version=3,dtb-randomness=off,dumpdtb=…`), packed by dtc.

use boot::image::{FLAGS, Header, PLACE_ANYWHERE};
use dtoolkit::{
    ToPropertyValue,
    fdt::Fdt,
    memreserve::MemoryReservation,
    model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty},
};

use protocol::fit::writer::{self as fit, Kind, Payload};

#[test]
fn the_committed_seeds_are_those_that_code_makes() {
    let folder = harness::paths::root().join("fuzz").join("corpus");
    for (path, bytes) in images()
        .into_iter()
        .chain(cmdline())
        .chain(fits())
        .chain(gzips())
        .chain(trees())
        .chain(lists())
    {
        let file = folder.join(path);
        if std::env::var_os("BLESS").is_some() {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, &bytes).unwrap();
        }
        let is_same = std::fs::read(&file).is_ok_and(|found| found == bytes);
        assert!(is_same, "fuzz/corpus/{path} is not what code makes: BLESS=1 writes it anew");
    }
}

type Seed = (&'static str, Vec<u8>);

/// Seeds of `image`: a header, a file size, the size of RAM.
fn images() -> Vec<Seed> {
    let image = |header: Header| {
        let sizes = [0x2_8000_u64, 0x2000_0000].map(u64::to_le_bytes).concat();
        [&header.to_bytes()[..], &sizes].concat()
    };
    let ours = Header {
        code: [0x1400_0010, 0],
        text_offset: 0,
        image_size: 0x8_0000,
        flags: FLAGS,
        pe_offset: 0,
    };
    let old = Header {
        code: [0x5a4d, 0],
        text_offset: 0x8_0000,
        flags: PLACE_ANYWHERE,
        pe_offset: 64,
        ..ours
    };
    vec![("image/ours", image(ours)), ("image/linux", image(old))]
}

fn cmdline() -> Vec<Seed> {
    let all = "generations=7 base=random seed=0x1F restart=cold el2=vhe alternate semihosting \
               on-refusal=continue restart-cpu=3 force selftest=stub";
    let other = "console=ttyAMA0 base=load base=same restart=hot el2=nvhe \
                 seed=18446744073709551615 generations=0 restart-cpu=random \
                 selftest=interrupts selftest=lpis selftest=storm";
    vec![("cmdline/all", all.into()), ("cmdline/other", other.into())]
}

fn fits() -> Vec<Seed> {
    let payload = |name: &str, data: &[u8], kind| Payload {
        name: name.to_owned(),
        description: String::new(),
        data: data.to_vec(),
        kind,
        bootargs: None,
    };
    let kernel = payload("kernel", b"kernel's bytes", Kind::KernelNoload { load: None });
    let loadable = payload("second", b"a loadable's", Kind::Loadable { load: 0x4800_0000 });
    let disk = fit::write(std::slice::from_ref(&kernel));
    // Choices for the target: a payload of each kind, then edits.
    let choices = b"\x02k\x04kern\x02s\x04seco\x00\x00\x00\x00\x48\x00\x00\x00\x00t\x00\x01";
    vec![
        ("fit/kernel.itb", disk.clone()),
        (
            "fit/data-inside.itb",
            tree_alone(&disk, |kernel| set(kernel, "data", b"kernel's bytes".as_slice())),
        ),
        ("fit/data-offset.itb", {
            let tree = tree_alone(&disk, |kernel| {
                set(kernel, "data-offset", 0_u32);
                set(kernel, "type", "kernel");
                set(kernel, "load", 0x4020_0000_u32);
                set(kernel, "entry", 0x4020_0000_u32);
            });
            [&tree[..], b"kernel's bytes"].concat()
        }),
        ("fit/companions.itb", {
            let kernel = Payload { bootargs: Some("console=ttyAMA0".to_owned()), ..kernel.clone() };
            let fdt = payload("fdt", b"another's tree", Kind::Fdt);
            fit::write(&[
                kernel,
                fdt,
                payload("ramdisk", b"another's", Kind::Initrd { load: None }),
            ])
        }),
        ("fit/two.itb", fit::write(&[kernel, loadable])),
        ("fit/choices", choices.to_vec()),
    ]
}

/// Returns a disk's tree with other places for its kernel's data, padded as `data-offset` requires.
fn tree_alone(disk: &[u8], edit: impl FnOnce(&mut DeviceTreeNode)) -> Vec<u8> {
    let bytes = u32::from_be_bytes(disk[4..8].try_into().unwrap()) as usize;
    let mut tree = DeviceTree::from_fdt(&Fdt::new(&disk[..bytes]).unwrap());
    let kernel = tree.find_node_mut("/images/kernel").unwrap();
    kernel.remove_property("data-position").unwrap();
    edit(kernel);
    let mut tree = tree.to_dtb();
    tree.resize(tree.len().next_multiple_of(4), 0);
    tree
}

/// Seeds of `gzip`: input chunks of 17 bytes, output buffers of 4, a limit of 256; then a file with
/// a name and one stored block.
fn gzips() -> Vec<Seed> {
    let file = b"\x1f\x8b\x08\x08\0\0\0\0\0\xffImage\0\x01\x09\0\xf6\xff123456789\
                 \x26\x39\xf4\xcb\x09\0\0\0";
    vec![("gzip/stored", [&[16, 3, 1][..], file].concat())]
}

/// Seeds of `tree` and `chosen`: a small machine with all that QEMU's own 7 KiB tree has.
fn trees() -> Vec<Seed> {
    let mut tree = DeviceTree::new();
    let root = &mut tree.root;
    set(root, "#address-cells", 2_u32);
    set(root, "#size-cells", 2_u32);
    let reg = |start: u32, bytes: u32| vec![0, start, 0, bytes];
    // Two adjacent ranges; the kernel merges them.
    let halves = [reg(0x5000_0000, 0x1000_0000), reg(0x4000_0000, 0x1000_0000)].concat();
    child(root, "memory@40000000", |node| set(node, "reg", halves));
    child(root, "psci", |node| {
        set(node, "compatible", "arm,psci-1.0");
        set(node, "method", "hvc");
    });
    child(root, "pl011@9000000", |node| {
        set(node, "compatible", "arm,pl011");
        set(node, "reg", reg(0x900_0000, 0x1000));
    });
    child(root, "cpus", |node| {
        set(node, "#address-cells", 1_u32);
        set(node, "#size-cells", 0_u32);
        child(node, "cpu@0", |node| set(node, "reg", 0_u32));
        child(node, "cpu@1", |node| set(node, "reg", 1_u32));
    });
    child(root, "intc@8000000", |node| {
        set(node, "compatible", "arm,gic-v3");
        set(node, "#interrupt-cells", 3_u32);
        set(node, "reg", [reg(0x800_0000, 0x1_0000), reg(0x80a_0000, 0xf6_0000)].concat());
    });
    child(root, "timer", |node| {
        set(node, "compatible", "arm,armv8-timer");
        // Secure and non-secure EL1 physical, EL1 virtual, EL2 physical timer: each as PPI, number,
        // level.
        set(node, "interrupts", [13, 14, 11, 10].map(|private| [1_u32, private, 4]).concat());
    });
    child(root, "reserved-memory", |node| {
        set(node, "#address-cells", 2_u32);
        set(node, "#size-cells", 2_u32);
        child(node, "secure@50000000", |node| {
            set(node, "reg", reg(0x5000_0000, 0x1000));
            set(node, "no-map", [0_u8; 0]);
        });
    });
    child(root, "soc", |node| {
        set(node, "#address-cells", 1_u32);
        set(node, "#size-cells", 1_u32);
        set(node, "ranges", [0_u8; 0]);
        child(node, "virtio_mmio@a000000", |node| {
            set(node, "compatible", "virtio,mmio");
            set(node, "reg", vec![0xa00_0000_u32, 0x200]);
        });
    });
    child(root, "moved", |node| {
        set(node, "#address-cells", 1_u32);
        set(node, "#size-cells", 1_u32);
        set(node, "ranges", vec![0_u32, 0, 0xb00_0000, 0x1000]);
        child(node, "virtio_mmio@200", |node| {
            set(node, "compatible", "virtio,mmio");
            set(node, "reg", vec![0x200_u32, 0x200]);
        });
    });
    child(root, "pcie@4010000000", |node| {
        set(node, "compatible", "pci-host-ecam-generic");
        set(node, "reg", vec![0x40_u32, 0x1000_0000, 0, 0x1000_0000]);
        // Memory below 4 GiB: space code, PCI address, CPU address, size.
        set(node, "ranges", vec![0x200_0000_u32, 0, 0x1000_0000, 0, 0x1000_0000, 0, 0x2eff_0000]);
    });
    child(root, "aliases", |node| set(node, "serial0", "/pl011@9000000"));
    child(root, "chosen", |node| {
        set(node, "bootargs", "generations=3");
        set(node, "stdout-path", "serial0:115200n8");
    });
    let stranger = tree.to_dtb();
    let chosen = tree.find_node_mut("/chosen").unwrap();
    for name in
        ["ouroboros,generation", "ouroboros,seed", "ouroboros,base", boot::breadcrumb::PROPERTY]
    {
        set(chosen, name, 7_u64);
    }
    let mut passing = stranger.clone();
    // The size_dt_struct of this seed excludes the last token.
    let size = u32::from_be_bytes(stranger[36..40].try_into().unwrap()) - 4;
    passing[36..40].copy_from_slice(&size.to_be_bytes());
    // For `chosen`: properties of an initrd that no longer exists; then new values for everything.
    let mut payload = tree.clone();
    let chosen = payload.find_node_mut("/chosen").unwrap();
    set(chosen, "linux,initrd-start", 0x4400_0000_u32);
    set(chosen, "linux,initrd-end", 0x4400_1234_u32);
    set(chosen, "kaslr-seed", 7_u64);
    let reservation = MemoryReservation::new(0x4400_0000, 0x2000);
    payload.memory_reservations.push(reservation);
    let payload = [&[1, 15, 1, 7, 1][..], &payload.to_dtb()].concat();
    vec![
        ("tree/stranger.dtb", stranger),
        ("tree/ours.dtb", tree.to_dtb()),
        ("tree/passes-its-block", passing),
        ("chosen/all", payload),
    ]
}

/// Seeds of `list`: choices as `fuzz/src/list.rs` reads them.
///
/// They are: the case; base, RAM, control pages, devices, reservations, segments.
fn lists() -> Vec<Seed> {
    let segments = [0, 0, 0, 0, 60, 3, 0, 0, 0, 2, 8, 3, 0, 20, 3, 0, 0, 16, 0, 0, 0, 0, 3];
    let words = [1, 1, 1, 2, 16, 7, 32, 2, 7, 64, 255, 6, 0, 1, 0, 3];
    vec![("list/segments", segments.to_vec()), ("list/words", words.to_vec())]
}

fn child(parent: &mut DeviceTreeNode, name: &str, fill: impl FnOnce(&mut DeviceTreeNode)) {
    let mut node = DeviceTreeNode::new(name).unwrap();
    fill(&mut node);
    parent.add_child(node);
}

fn set(node: &mut DeviceTreeNode, name: &str, value: impl ToPropertyValue) {
    node.add_property(DeviceTreeProperty::new(name, value).unwrap());
}
