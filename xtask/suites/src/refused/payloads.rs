//! Refusals of payloads.
//!
//! Each FIT has a bad payload as its second configuration, and this kernel as a good one as its
//! third. One generation on machine nvhe must refuse the bad payload that `payload=` names, free
//! its memory and enter the good one. The success of that payload proves that the kernel still
//! worked.

use std::{io::Write, sync::Arc};

use anyhow::{Result, ensure};
use boot::{image::IMAGE_SIZE_AT, marker};

use dtoolkit::{
    ToPropertyValue,
    model::{DeviceTree, DeviceTreeNode},
};
use flate2::{Compression, write::GzEncoder};

use harness::{
    cmdline::{Base, Cmdline},
    disk::{self, FOREIGN, Foreign, LOAD},
    fit_edit::{edited, node, position, set},
    kernel_build::Built,
    request::{Disk, Request},
    transcript::{logs, parted},
    tree_edit::{edit_tree, reserve},
    verdict::Verdict,
};
use protocol::fit::writer::{self as fit, Kind, Payload};

use super::{
    super::case::{Case, Trial, case},
    alive,
};

/// A reservation in the middle of RAM.
const RESERVED: u64 = 0x5000_0000;

/// A bad payload, and the expected refusal.
#[derive(Clone, Copy)]
struct Bad {
    name: &'static str,
    base: Base,
    /// Damages the payloads: kernel, device tree, initrd.
    spoil: fn(&mut [Payload; 3]),
    /// Damages the disk.
    edit: fn(Vec<u8>) -> Result<Vec<u8>>,
    /// Makes other changes to the run.
    alter: fn(&mut Request) -> Result<()>,
    /// Parts of the expected refusal.
    says: &'static [&'static str],
}

const GOOD: Bad =
    Bad { name: "", base: Base::Same, spoil: |_| (), edit: Ok, alter: |_| Ok(()), says: &[] };

#[rustfmt::skip]
const TABLE: &[Bad] = &[
    Bad { name: "no-image", spoil: |[kernel, ..]| kernel.data[56] ^= 1,
          says: &["not an arm64 Image: 0x644d5240 at byte 56"], ..GOOD },
    Bad { name: "damaged", edit: |disk| damaged(disk, "payload"),
          says: &["\"payload\" is not what the FIT says: sha256 "], ..GOOD },
    Bad { name: "larger-than-ram", spoil: |[kernel, ..]| image_size(kernel, (512 << 20) + 4096),
          says: &["needs 536875008 bytes (image_size)", "RAM has 536870912"], ..GOOD },
    Bad { name: "no-slot", spoil: |[kernel, ..]| image_size(kernel, (512 << 20) - 4096),
          says: &["no 2 MiB slot of RAM has 536866816 bytes"], ..GOOD },
    Bad { name: "over-reserved-memory", base: Base::Load,
          spoil: |[kernel, ..]| kernel.kind = Kind::KernelNoload { load: Some(RESERVED) },
          alter: |request| edit_tree(request,
              |tree| reserve(tree, "secret", RESERVED, 0x10_0000, false)),
          says: &["segment \"payload\": the destination 0x50000000..",
                  "overlaps reserved memory, \"secret@50000000\""], ..GOOD },
    Bad { name: "compression", edit: |disk| of_image(disk, "payload", "compression", "lzma"),
          says: &["/images/payload is compressed with \"lzma\""], ..GOOD },
    Bad { name: "gzip-none", edit: |disk| of_image(disk, "payload", "compression", "gzip"),
          says: &["\"payload\" cannot be unpacked: it is no gzip file",
                  "but starts with 0x4d 0x5a"], ..GOOD },
    Bad { name: "gzip-damaged", spoil: |[kernel, ..]| broken(kernel),
          says: &["\"payload\" cannot be unpacked: its gzip data are damaged after 65536 unpacked \
                   bytes"], ..GOOD },
    Bad { name: "gzip-crc", spoil: |[kernel, ..]| packed(kernel, |file| *from_end(file, 8) ^= 1),
          says: &["\"payload\" cannot be unpacked: it unpacks to bytes with CRC-32 0x",
                  "and its gzip trailer says 0x"], ..GOOD },
    Bad { name: "gzip-size", spoil: |[kernel, ..]| packed(kernel, |file| *from_end(file, 4) ^= 1),
          edit: |disk| not_stated(disk),
          says: &["\"payload\" cannot be unpacked: it unpacks to ", "and its gzip trailer says "],
          ..GOOD },
    Bad { name: "gzip-cut-short",
          spoil: |[kernel, ..]| packed(kernel, |file| file.truncate(file.len() - 5)),
          edit: |disk| not_stated(disk),
          says: &["\"payload\" cannot be unpacked: its gzip data end too early, after "], ..GOOD },
    Bad { name: "gzip-continues", spoil: |[kernel, ..]| packed(kernel, |file| file.push(1)),
          edit: |disk| not_stated(disk),
          says: &["\"payload\" cannot be unpacked: other bytes come behind its gzip data, after "],
          ..GOOD },
    // 64 MiB of zeroes after an Image compress to some 64 KiB.
    Bad { name: "gzip-bomb",
          spoil: |[kernel, ..]| { kernel.data.resize(64 << 20, 0); packed(kernel, |_| ()) },
          edit: |disk| not_stated(disk),
          says: &["\"payload\" cannot be unpacked: it unpacks to more than ", "image_size"],
          ..GOOD },
    Bad { name: "gzip-more-than-stated", spoil: |[kernel, ..]| packed(kernel, |_| ()),
          edit: |disk| of_image(disk, "payload", "uncomp-size", 4096_u32),
          says: &["\"payload\" cannot be unpacked: it unpacks to more than 4096 bytes"], ..GOOD },
    Bad { name: "gzip-less-than-stated",
          spoil: |[kernel, ..]| { image_size(kernel, 2 << 20); packed(kernel, |_| ()) },
          edit: |disk| of_image(disk, "payload", "uncomp-size", 1_u32 << 20),
          says: &["\"payload\" cannot be unpacked: it unpacks to ",
                  "and the FIT's uncomp-size says 1048576"], ..GOOD },
    Bad { name: "gzip-states-too-much", spoil: |[kernel, ..]| packed(kernel, |_| ()),
          edit: |disk| of_image(disk, "payload", "uncomp-size", 0x4000_0000_u32),
          says: &["the Image's image_size is ", "the file has 1073741824"], ..GOOD },
    Bad { name: "gzip-wrong-sha256", spoil: |[kernel, ..]| packed(kernel, |_| ()),
          edit: |disk| damaged_at(disk, "payload", 0x1_0000),
          says: &["\"payload\" is not what the FIT says: sha256 "], ..GOOD },
    Bad { name: "ramdisk-damaged", edit: |disk| damaged(disk, "ramdisk"),
          says: &["\"ramdisk\" is not what the FIT says: sha256 "], ..GOOD },
    Bad { name: "ramdisk-outside-the-window", spoil: |[.., initrd]| at(initrd, 0x8_4000_0000),
          says: &["the ramdisk at 0x840000000..0x840001389 and the kernel at 0x40000000..",
                  "one window of 32 GiB"], ..GOOD },
    Bad { name: "ramdisk-over-the-kernel", spoil: |[.., initrd]| at(initrd, 0x4000_1000),
          says: &["segments \"payload\" and \"ramdisk\" overlap at 0x40001000"], ..GOOD },
    Bad { name: "ramdisk-over-reserved-memory", spoil: |[.., initrd]| at(initrd, RESERVED),
          alter: |request| edit_tree(request,
              |tree| reserve(tree, "secret", RESERVED, 0x10_0000, true)),
          says: &["segment \"ramdisk\": the destination 0x50000000..0x50002000 overlaps reserved \
                   memory"], ..GOOD },
    Bad { name: "ramdisk-without-room",
          spoil: |[kernel, _, initrd]| {
              image_size(kernel, 60 << 20);
              initrd.data.resize(5 << 20, 1)
          },
          alter: |request| { request.memory = Some("64M".to_owned()); Ok(()) },
          says: &["no 5242880 bytes for the ramdisk are free where a kernel at \
                   0x40000000..0x43c00000 could reach them"], ..GOOD },
    Bad { name: "tree-damaged", spoil: |[_, tree, _]| tree.data[3] ^= 1,
          says: &["the payload's device tree is damaged: "], ..GOOD },
    Bad { name: "tree-cut-short", spoil: |[_, tree, _]| tree.data.truncate(60),
          says: &["the payload's device tree is damaged: "], ..GOOD },
    Bad { name: "tree-of-another-machine", spoil: |[_, tree, _]| tree.data = memory_at(0x8000_0000),
          says: &["the payload's device tree names no RAM at 0x40000000..",
                  "where \"payload\" is to be placed"], ..GOOD },
    Bad { name: "tree-reserves-it",
          spoil: |[_, tree, initrd]| { tree.data = reserving(); at(initrd, RESERVED + 0x1000) },
          says: &["segment \"ramdisk\": the destination 0x50001000..0x50003000 overlaps reserved \
                   memory, \"secret@50000000 of the payload's own device tree\""], ..GOOD },
    Bad { name: "tree-wrong-sha256", edit: |disk| damaged(disk, "fdt"),
          says: &["\"fdt\" is not what the FIT says: sha256 "], ..GOOD },
    Bad { name: "tree-too-large", spoil: |[_, tree, _]| tree.data.resize((2 << 20) + 1, 0),
          says: &["the payload's device tree has 2097153 bytes, 2097152 are the most"], ..GOOD },
];

/// Returns the cases of this suite.
pub(super) fn cases() -> Vec<Case> {
    let table = TABLE
        .iter()
        .map(|bad| case(format!("refused/payload-{}", bad.name), |trial| bad.pass(trial)));
    table.chain([case("refused/payload-unknown", unknown)]).collect()
}

impl Bad {
    fn pass(&self, trial: &mut Trial<'_>) -> Result<()> {
        let append = vec![format!("payload={FOREIGN}"), "on-refusal=continue".to_owned()];
        let cmdline = Cmdline { generations: 1, base: self.base, append, ..trial.cmdline() };
        let mut request = trial.request_psci("nvhe", &cmdline)?;
        request.disk = Disk::Bytes(Arc::new((self.edit)(self.disk(trial.kernel()))?));
        (self.alter)(&mut request)?;
        let console = trial.ends(&request, Verdict::Success)?.console.clone();
        let (before, after) = parted(&console, 1)?;
        let [before, after] = [logs(before)?, logs(after)?];
        ensure!(
            before.len() == 1 && after.len() == 1,
            "{} generations, then {}",
            before.len(),
            after.len()
        );
        alive(&before[0], self.says)?;
        ensure!(after[0].says(marker::SUCCESS), "the other payload did not end well");
        Ok(())
    }

    fn disk(&self, kernel: &Built) -> Vec<u8> {
        let image = || kernel.image.clone();
        let (initrd, fdt) = (Some(vec![0x5a; 5001]), Some(memory_at(0x4000_0000)));
        let bad = Foreign { image: image(), initrd, fdt, bootargs: None };
        let payloads = disk::both(kernel, self.base == Base::Load, bad);
        let [own, kernel, tree, initrd] =
            payloads.try_into().expect("two kernels, a device tree and a ramdisk");
        let mut bad = [kernel, tree, initrd];
        (self.spoil)(&mut bad);
        let bootargs = Some("el2=nvhe generations=1".to_owned());
        let load = (self.base == Base::Load).then_some(LOAD);
        let good = Payload { bootargs, ..disk::payload("good", image(), load) };
        let [kernel, tree, initrd] = bad;
        fit::write(&[own, kernel, tree, initrd, good])
    }
}

/// Names a configuration that the FIT lacks. The run must fail, since there is no next
/// configuration.
fn unknown(trial: &mut Trial<'_>) -> Result<()> {
    let append = vec!["payload=absent".to_owned(), "on-refusal=continue".to_owned()];
    let request = trial.request("nvhe", &Cmdline { generations: 1, append, ..trial.cmdline() })?;
    super::failed(trial, &request, &["payload=absent: the FIT has no configuration of that name"])
}

/// Returns the device tree of [`memory_at`] with a reservation.
fn reserving() -> Vec<u8> {
    let mut tree = memory(0x4000_0000);
    reserve(&mut tree, "secret", RESERVED, 0x10_0000, false).expect("a node's name");
    tree.to_dtb()
}

/// Returns a device tree that describes only 512 MiB of RAM.
fn memory_at(start: u32) -> Vec<u8> {
    memory(start).to_dtb()
}

fn memory(start: u32) -> DeviceTree {
    let mut tree = DeviceTree::new();
    let mut memory = DeviceTreeNode::new("memory").expect("a node's name");
    set(&mut memory, "reg", vec![0, start, 0x2000_0000]).expect("a property's name");
    tree.root.add_child(memory);
    tree
}

fn image_size(kernel: &mut Payload, bytes: u64) {
    kernel.data[IMAGE_SIZE_AT..IMAGE_SIZE_AT + 8].copy_from_slice(&bytes.to_le_bytes());
}

/// Compresses a kernel with gzip, then damages the file.
fn packed(kernel: &mut Payload, spoil: fn(&mut Vec<u8>)) {
    kernel.data = disk::packed(&kernel.data);
    spoil(&mut kernel.data);
}

/// Compresses a kernel with gzip, and gives the second block the reserved block type.
fn broken(kernel: &mut Payload) {
    let mut packer = GzEncoder::new(Vec::new(), Compression::default());
    let (first, second) = kernel.data.split_at(0x1_0000);
    let mut pack = || -> std::io::Result<usize> {
        packer.write_all(first)?;
        packer.flush()?;
        let block = packer.get_ref().len();
        packer.write_all(second)?;
        Ok(block)
    };
    let block = pack().expect("a Vec takes everything");
    kernel.data = packer.finish().expect("a Vec takes everything");
    kernel.data[block] |= 6;
}

fn from_end(file: &mut [u8], bytes: usize) -> &mut u8 {
    let at = file.len() - bytes;
    &mut file[at]
}

/// Removes the payload's uncompressed size from the FIT.
fn not_stated(disk: Vec<u8>) -> Result<Vec<u8>> {
    edited(&disk, |tree| {
        node(tree, "/images/payload")?.remove_property("uncomp-size");
        Ok(())
    })
}

fn at(initrd: &mut Payload, load: u64) {
    initrd.kind = Kind::Initrd { load: Some(load) };
}

/// Flips a bit of an image and leaves its digest unchanged.
fn damaged(disk: Vec<u8>, name: &str) -> Result<Vec<u8>> {
    damaged_at(disk, name, 40)
}

fn damaged_at(mut disk: Vec<u8>, name: &str, at: usize) -> Result<Vec<u8>> {
    let start = position(&disk, name)?;
    disk[start + at] ^= 0x10;
    Ok(disk)
}

fn of_image(
    disk: Vec<u8>,
    name: &str,
    property: &str,
    value: impl ToPropertyValue,
) -> Result<Vec<u8>> {
    edited(&disk, |tree| set(node(tree, &format!("/images/{name}"))?, property, value))
}
