//! The contents of RAM when the Image is entered: the lower half of a drawing.
//!
//! The guest is stopped at the Image's first instruction. The device tree says where RAM is. The
//! rest is found through registers, the address to which the loader read the disk, and the list of
//! a restart. A guest is refused if x0 holds no device tree, or if its RAM is not the machine's.
//!
//! An address is shown in full if every build has it: a multiple of 2 MiB, as for the Image, or a
//! fixed choice. An allocator's address depends on its earlier allocations, so another build moves
//! it; it is shown to the MiB.

use std::{collections::BTreeSet, ops::Range};

use anyhow::{Context, Result, ensure};
use boot::{
    image::{BASE_ALIGNMENT, HEADER_BYTES},
    phys::{PAGE_SIZE, PhysAddr},
};
use dtoolkit::{Node, fdt::Fdt};
use fdt::blob;
use relocate::{
    control::{ARGUMENTS_OFFSET, Arguments},
    list,
};

use harness::{kernel_build::Built, loader::Loader, postmortem::Gdb};

use super::Places;

/// The RAM of the recorded machines: `virt`, 512 MiB.
pub const RAM: Range<u64> = 0x4000_0000..0x6000_0000;

/// The granule to which an allocator's addresses are shown.
const GRANULE: u64 = 1 << 20;

/// The kinds of regions, in the order in which those at one shown address are drawn.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// The entered Image.
    Image,
    /// The Image's device tree.
    DeviceTree,
    /// Pages from which the Image was copied.
    Source,
    /// The control pages.
    Control,
    /// A region of the loader.
    Loader,
}

/// A region of memory.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Region {
    /// Start address, rounded down as far as it is shown.
    pub start: u64,
    /// Kind.
    pub kind: Kind,
    /// Name in the drawing.
    pub name: String,
    /// Start address as text.
    pub shown: String,
    /// Size, or another note.
    pub note: String,
}

impl Region {
    /// Makes a region; an address that is no multiple of 2 MiB is shown to the MiB.
    fn new(kind: Kind, name: &str, start: u64, note: &str) -> Self {
        if start.is_multiple_of(BASE_ALIGNMENT) {
            return Self::chosen(kind, name, start, note);
        }
        let shown = format!("0x{:03x}x_xxxx", start >> GRANULE.ilog2());
        Self {
            start: start & !(GRANULE - 1),
            kind,
            name: name.to_owned(),
            shown,
            note: note.to_owned(),
        }
    }

    /// Makes a region whose address is the same in each build, and shown in full.
    fn chosen(kind: Kind, name: &str, start: u64, note: &str) -> Self {
        Self { start, kind, name: name.to_owned(), shown: address(start), note: note.to_owned() }
    }
}

/// Formats a 32-bit address.
pub fn address(at: u64) -> String {
    format!("0x{:04x}_{:04x}", at >> 16, at & 0xffff)
}

/// Returns the regions of RAM, sorted by address.
pub fn regions(gdb: &mut Gdb, places: &Places, kernel: &Built, disk: &[u8]) -> Result<Vec<Region>> {
    let mut found =
        BTreeSet::from([Region::new(Kind::Image, "Image", places.base, "image_size bytes")]);

    let tree_at = gdb.general()?[0];
    let size = blob::size(&gdb.memory(tree_at, 8)?);
    let size = size.with_context(|| format!("x0 is {tree_at:#x}, and no device tree is there"))?;
    let tree = gdb.memory(tree_at, size)?;
    let kib = (size as u64).next_multiple_of(PAGE_SIZE) >> 10;
    let note = if kib < 1024 { format!("{kib} KiB") } else { format!("{} MiB", kib >> 10) };
    let mut region = Region::new(Kind::DeviceTree, "device tree", tree_at, &note);
    if tree_at == places.base + places.image_size {
        (region.start, region.shown) = (places.base, "after the Image".to_owned());
    }
    found.insert(region);

    let holes = holes(&ram(&tree)?)?;
    ensure!(
        holes.is_empty() || places.loaded.is_some(),
        "the device tree leaves RAM out, at {holes:x?}"
    );
    for hole in holes {
        found.insert(Region::new(
            Kind::Loader,
            &format!("{} keeps", places.way.before),
            hole.start,
            "hidden from the Image",
        ));
    }
    match (places.way.own, places.way.loader) {
        (Some(_), _) => found.extend(of_a_restart(gdb, places)?),
        (None, loader) => found.extend(of_a_loader(gdb, places, loader, kernel, disk)?),
    }
    Ok(found.into_iter().collect())
}

/// Returns the ranges of RAM that a device tree names.
fn ram(tree: &[u8]) -> Result<Vec<Range<u64>>> {
    let tree = Fdt::new(tree)
        .map_err(|error| anyhow::anyhow!("x0 names a device tree that is damaged: {error}"))?;
    let mut ranges = Vec::new();
    for node in tree.root().children().filter(|node| node.name_without_address() == "memory") {
        for reg in node.reg().ok().flatten().context("a memory node without reg")? {
            let (start, size): (u64, u64) = (reg.address()?, reg.size()?);
            ranges.push(start..start + size);
        }
    }
    ranges.sort_by_key(|range| range.start);
    Ok(ranges)
}

/// Returns the parts of the machine's RAM that these ranges leave out.
fn holes(ranges: &[Range<u64>]) -> Result<Vec<Range<u64>>> {
    let (mut holes, mut end) = (Vec::new(), RAM.start);
    for range in ranges {
        ensure!(
            range.start >= end && range.end <= RAM.end,
            "the device tree says that RAM is {ranges:x?}"
        );
        holes.extend((range.start > end).then_some(end..range.start));
        end = range.end;
    }
    holes.extend((RAM.end > end).then_some(end..RAM.end));
    Ok(holes)
}

/// Returns the control pages, and the sources of the copy: both are still unchanged.
fn of_a_restart(gdb: &mut Gdb, places: &Places) -> Result<Vec<Region>> {
    let control = places.control.context("no control page was seen")?;
    let arguments = gdb.memory(control + ARGUMENTS_OFFSET, size_of::<Arguments>())?;
    let at = std::mem::offset_of!(Arguments, head);
    let head = u64::from_le_bytes(arguments[at..at + 8].try_into()?);
    let mut found =
        vec![Region::chosen(Kind::Control, "control pages", control, "never overwritten")];
    let mut sources = Vec::new();
    list::walk(
        head,
        |at: PhysAddr| word(gdb, at.get()).unwrap_or_default(),
        |pages| sources.push(pages),
    )?;
    for pages in sources.iter().filter(|pages| pages.source != pages.destination) {
        found.push(Region::new(Kind::Source, "sources", pages.source.get(), "free from here on"));
    }
    Ok(found)
}

/// Returns what is left of a loader: memory that registers still point to, and the source of the
/// Image.
fn of_a_loader(
    gdb: &mut Gdb,
    places: &Places,
    loader: Loader,
    kernel: &Built,
    disk: &[u8],
) -> Result<Vec<Region>> {
    let mut found = Vec::new();
    if let Some(loaded) = places.loaded {
        ensure!(
            kernel.image.starts_with(&gdb.memory(loaded, HEADER_BYTES)?),
            "no Image is at {loaded:#x}, where EDK2 reported it"
        );
        found.push(Region::new(Kind::Loader, "Image as loaded", loaded, "the stub runs here"));
    }
    let vectors = gdb.register(&["VBAR_EL2"])?.filter(|at| RAM.contains(at));
    match loader {
        Loader::Qemu => {
            // Six instructions, then the values for x0 and the jump.
            let code = [gdb.general()?[0], places.base].map(u64::to_le_bytes).concat();
            ensure!(
                gdb.memory(RAM.start + 24, 16)? == code,
                "QEMU's boot code is not at {:#x}",
                RAM.start
            );
            found.push(Region::new(Kind::Loader, "QEMU’s boot code", RAM.start, "10 words"));
        }
        Loader::Uefi | Loader::UefiShell => {}
        Loader::UBootBooti | Loader::UBootBootm => {
            let vectors = vectors.context("U-Boot has no vectors in RAM")?;
            found.push(Region::new(Kind::Loader, "U-Boot", vectors, "at VBAR_EL2"));
        }
        Loader::LinuxKexec | Loader::UefiLinuxKexec => {
            let stack = gdb.general()?[31];
            ensure!(RAM.contains(&stack), "SP is {stack:#x}: where is kexec-tools' purgatory?");
            found.push(Region::new(Kind::Loader, "purgatory", stack, "at SP"));
        }
    }
    for slot in RAM.step_by(usize::try_from(BASE_ALIGNMENT)?) {
        if disk.starts_with(&gdb.memory(slot, HEADER_BYTES)?) {
            found.push(Region::new(Kind::Loader, "disk.itb, the FIT", slot, "as read"));
        }
    }
    Ok(found)
}

fn word(gdb: &mut Gdb, at: u64) -> Result<u64> {
    Ok(u64::from_le_bytes(gdb.memory(at, 8)?.try_into().ok().context("eight bytes")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allocators_choice_is_shown_to_the_mib() {
        let shown = |start| {
            let region = Region::new(Kind::Image, "", start, "");
            (region.start, region.shown)
        };
        assert_eq!(shown(0x4020_0000), (0x4020_0000, "0x4020_0000".to_owned()));
        assert_eq!(shown(0x5c2b_8000), (0x5c20_0000, "0x5c2x_xxxx".to_owned()));
    }

    #[test]
    fn what_the_device_tree_leaves_out_is_a_hole() {
        assert_eq!(holes(&[RAM]).unwrap(), [0..0; 0]);
        let ranges = [0x4010_0000..0x5000_0000, 0x5100_0000..0x5200_0000];
        let expected =
            [0x4000_0000..0x4010_0000, 0x5000_0000..0x5100_0000, 0x5200_0000..0x6000_0000];
        assert_eq!(holes(&ranges).unwrap(), expected);
        let (below, above) = (0x3000_0000..RAM.end, RAM.start..0x7000_0000);
        for wrong in [vec![below], vec![above], vec![RAM, RAM]] {
            assert!(holes(&wrong).is_err(), "{wrong:x?}");
        }
    }
}
