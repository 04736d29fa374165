//! Tests of the page tables: ranges and attributes; no page is both writable and executable.
//!
//! A debugger stops the booted kernel in `kernel_main` (early idmap), at the entry of the control
//! page (kernel map), and there before the copy (relocation idmap). Each time the test walks the
//! tables at TTBR0 and checks the range and the attributes of every leaf.

use std::ops::Range;

use anyhow::{Context, Result, ensure};
use boot::sysreg::{ROOT_LEVEL, descriptor};

use harness::{
    cmdline::Cmdline,
    config::Virtio,
    invariants,
    postmortem::Gdb,
    request::Request,
    tree_edit::{edit_tree, reserve},
    verdict::Verdict,
};

use super::{
    case::{Case, Trial, case},
    debugger::{LOADED, debugged},
};

/// The machine's 512 MiB of RAM.
const RAM: Range<u64> = 0x4000_0000..0x6000_0000;
/// The no-map reservation in RAM.
const FIRMWARE: Range<u64> = 0x5012_3000..0x5034_5000;
/// Devices of `virt`: PL011, virtio-mmio slots, distributor, ITS, the whole region of
/// redistributors, and PCI configuration space.
const DEVICES: [Range<u64>; 6] = [
    0x0900_0000..0x0900_1000,
    0x0a00_0000..0x0a00_4000,
    0x0800_0000..0x0801_0000,
    0x0808_0000..0x080a_0000,
    0x080a_0000..0x0900_0000,
    0x40_1000_0000..0x40_2000_0000,
];
/// The window of the PCI functions' BARs.
const WINDOW: Range<u64> = 0x1000_0000..0x3eff_0000;

/// Attribute bits of a leaf: all but the address, the contiguous hint, the bits for software, and
/// the bit that distinguishes block and page.
const ATTRIBUTES: u64 = !ADDRESS & !(1 << 52) & !(0xf << 55) & !0b10;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// Returns one case for each mode.
pub fn cases() -> Vec<Case> {
    invariants::MODES
        .into_iter()
        .map(|mode| case(format!("map/{mode}"), move |trial| pass(trial, mode)))
        .collect()
}

fn pass(trial: &mut Trial<'_>, machine: &str) -> Result<()> {
    let kernel = trial.kernel();
    let of = |name: &str| kernel.symbol(name);
    let (main, walk, page) = (of("kernel_main")?, of("walk_kimage")?, of("relocate_page_start")?);
    let image = Image {
        whole: LOADED..LOADED + of("_image_end")?,
        text: LOADED + of("text_start")?..LOADED + of("text_end")?,
        constants: LOADED + of("text_end")?..LOADED + of("rodata_end")?,
        guards: ["boot_stack_guard", "exception_stack_guard"]
            .into_iter()
            .map(|name| of(name).map(|at| LOADED + at..LOADED + at + 4096))
            .collect::<Result<_>>()?,
    };
    let reserved = |request: &mut Request| {
        request.virtio = Some(Virtio::Pci);
        edit_tree(request, |tree| {
            reserve(tree, "firmware", FIRMWARE.start, FIRMWARE.end - FIRMWARE.start, true)
        })
    };
    // A run of one generation prints where the control pages are.
    let mut request = trial.request(machine, &Cmdline { generations: 1, ..trial.cmdline() })?;
    reserved(&mut request)?;
    let control = trial.logs(&request)?.first().context("no generation")?.control;

    let mut request = trial.request(machine, &trial.cmdline())?;
    reserved(&mut request)?;
    let at_el2 = machine == "vhe";
    let outcome = debugged(trial, request, |mut gdb| {
        gdb.run_to(LOADED + main)?;
        image.check_early(&leaves(&mut gdb, false)?).context("the early idmap")?;
        // The entry of the control page still runs on the kernel map.
        gdb.run_to(control + (of("relocate_new_kernel")? - page))?;
        let code = control..control + 2 * 4096;
        image.check_kernel_map(&leaves(&mut gdb, at_el2)?, &code).context("the kernel's map")?;
        gdb.run_to(control + (walk - page))?;
        check_copy(&leaves(&mut gdb, at_el2)?, &code).context("the relocation idmap")?;
        gdb.detach()
    })?;
    ensure!(outcome.verdict == Verdict::Success, "{}", outcome.verdict.words());
    Ok(())
}

/// Ranges of the running image.
struct Image {
    whole: Range<u64>,
    text: Range<u64>,
    constants: Range<u64>,
    guards: Vec<Range<u64>>,
}

impl Image {
    /// Checks the early idmap: image, device tree and UART. Only code is executable, the device
    /// tree is read-only, and the rest is writable.
    fn check_early(&self, leaves: &[Leaf]) -> Result<()> {
        for leaf in leaves {
            let expected = match &leaf.range {
                range if within(range, &self.text) => descriptor::TEXT,
                range if within(range, &self.whole) => descriptor::DATA,
                range if within(range, &DEVICES[0]) => descriptor::DEVICE,
                _ => descriptor::READ,
            };
            leaf.expect(expected)?;
        }
        covered(leaves, &self.whole)?;
        covered(leaves, &DEVICES[0])
    }

    /// Checks the kernel map: all of RAM except guard pages and no-map memory, and the devices in
    /// use.
    fn check_kernel_map(&self, leaves: &[Leaf], code: &Range<u64>) -> Result<()> {
        for leaf in leaves {
            let expected = match &leaf.range {
                range if within(range, &self.text) || within(range, code) => descriptor::TEXT,
                range if within(range, &self.constants) => descriptor::READ,
                range if DEVICES.iter().chain([&WINDOW]).any(|device| within(range, device)) => {
                    descriptor::DEVICE
                }
                range => {
                    ensure!(within(range, &RAM), "{range:#x?} is mapped, and nothing is there");
                    for hole in self.guards.iter().chain([&FIRMWARE]) {
                        ensure!(
                            !overlap(range, hole),
                            "{range:#x?} is mapped, over the hole at {hole:#x?}"
                        );
                    }
                    descriptor::DATA
                }
            };
            leaf.expect(expected)?;
        }
        [&self.text, &self.constants, code]
            .into_iter()
            .chain(&DEVICES)
            .try_for_each(|range| covered(leaves, range))?;
        // Disk and entropy device are PCI functions with two BARs each, of 4 and 16 KiB.
        let bars =
            leaves.iter().filter(|leaf| within(&leaf.range, &WINDOW)).map(Leaf::bytes).sum::<u64>();
        ensure!(
            bars == 2 * (0x1000 + 0x4000),
            "{bars:#x} bytes of the functions' memory are mapped"
        );
        let holes =
            self.guards.iter().chain([&FIRMWARE]).map(|hole| hole.end - hole.start).sum::<u64>();
        let ram =
            leaves.iter().filter(|leaf| within(&leaf.range, &RAM)).map(Leaf::bytes).sum::<u64>();
        let all = RAM.end - RAM.start;
        ensure!(
            ram + holes == all,
            "{ram:#x} bytes of RAM are mapped, and should be {:#x}",
            all - holes
        );
        Ok(())
    }
}

/// Checks the relocation idmap: RAM to copy in, the relocation code, and its UART.
fn check_copy(leaves: &[Leaf], code: &Range<u64>) -> Result<()> {
    for leaf in leaves {
        let expected = match &leaf.range {
            range if within(range, code) => descriptor::TEXT,
            range if within(range, &DEVICES[0]) => descriptor::DEVICE,
            range => {
                ensure!(within(range, &RAM), "{range:#x?} is mapped, and nothing is there");
                ensure!(
                    !overlap(range, &FIRMWARE),
                    "{range:#x?} is mapped, over the hole at {FIRMWARE:#x?}"
                );
                descriptor::DATA
            }
        };
        leaf.expect(expected)?;
    }
    [RAM.start..FIRMWARE.start, FIRMWARE.end..RAM.end, code.clone(), DEVICES[0].clone()]
        .iter()
        .try_for_each(|range| covered(leaves, range))
}

/// A block or page descriptor and the range that it maps.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Leaf {
    range: Range<u64>,
    descriptor: u64,
}

impl Leaf {
    fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Checks that the leaf maps its range to itself, with the attributes of `expected`.
    fn expect(&self, expected: u64) -> Result<()> {
        let Self { range, descriptor } = self;
        let (found, expected) = (descriptor & ATTRIBUTES, expected & ATTRIBUTES);
        ensure!(
            found == expected,
            "{range:#x?} has the attributes {found:#x}, and should have {expected:#x}"
        );
        let output = descriptor & ADDRESS & !(self.bytes() - 1);
        ensure!(output == range.start, "{range:#x?} is mapped to {output:#x}, and not to itself");
        Ok(())
    }
}

/// Walks the tables that TTBR0 names and returns their leaves.
fn leaves(gdb: &mut Gdb, at_el2: bool) -> Result<Vec<Leaf>> {
    let name = if at_el2 { "TTBR0_EL2" } else { "TTBR0_EL1" };
    let root =
        gdb.register(&[name])?.with_context(|| format!("QEMU's gdb stub has no {name}"))? & ADDRESS;
    let mut leaves = Vec::new();
    walk(root, ROOT_LEVEL, 0, &mut |table| gdb.memory(table, 4096), &mut leaves)?;
    Ok(leaves)
}

fn walk(
    table: u64,
    level: usize,
    from: u64,
    read: &mut impl FnMut(u64) -> Result<Vec<u8>>,
    leaves: &mut Vec<Leaf>,
) -> Result<()> {
    let size = 1 << (39 - 9 * level);
    let bytes = read(table)?;
    for (index, word) in (0..).zip(bytes.as_chunks().0) {
        let (descriptor, start) = (u64::from_le_bytes(*word), from + index * size);
        match (descriptor & 0b11, level) {
            (0b11, 0..=2) => walk(descriptor & ADDRESS, level + 1, start, read, leaves)?,
            (0b11, _) | (0b01, 1 | 2) => {
                leaves.push(Leaf { range: start..start + size, descriptor })
            }
            (0b00 | 0b10, _) => {}
            _ => anyhow::bail!("a descriptor that is none at level {level}: {descriptor:#x}"),
        }
    }
    Ok(())
}

fn within(inner: &Range<u64>, outer: &Range<u64>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

/// Checks that all of `range` is mapped.
fn covered(leaves: &[Leaf], range: &Range<u64>) -> Result<()> {
    let mapped =
        leaves.iter().filter(|leaf| within(&leaf.range, range)).map(Leaf::bytes).sum::<u64>();
    // A larger leaf may map it together with its surroundings.
    let held = leaves.iter().any(|leaf| within(range, &leaf.range));
    ensure!(
        held || mapped == range.end - range.start,
        "of {range:#x?} only {mapped:#x} bytes are mapped"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const CODE: Range<u64> = 0x5ffc_0000..0x5ffc_2000;

    fn leaf(range: Range<u64>, descriptor: u64) -> Leaf {
        Leaf { descriptor: descriptor | range.start, range }
    }

    /// Returns a correct relocation idmap.
    fn copy() -> Vec<Leaf> {
        let ram = [RAM.start..FIRMWARE.start, FIRMWARE.end..CODE.start, CODE.end..RAM.end];
        let pages = ram.into_iter().flat_map(|range| {
            range.step_by(4096).map(|page| leaf(page..page + 4096, descriptor::DATA))
        });
        let code = CODE.step_by(4096).map(|page| leaf(page..page + 4096, descriptor::TEXT));
        pages.chain(code).chain([leaf(DEVICES[0].clone(), descriptor::DEVICE)]).collect()
    }

    #[test]
    fn each_rule_of_a_map_can_fail() {
        check_copy(&copy(), &CODE).unwrap();
        let doctored = |change: &dyn Fn(&mut Vec<Leaf>)| {
            let mut leaves = copy();
            change(&mut leaves);
            check_copy(&leaves, &CODE).unwrap_err().to_string()
        };
        // Writable code, executable data, a global page, a wrong output address, a hole, and memory
        // that must not be mapped.
        assert!(
            doctored(&|leaves| leaves.iter_mut().for_each(|leaf| leaf.descriptor &= !(1 << 7)))
                .contains("attributes")
        );
        assert!(doctored(&|leaves| leaves[7].descriptor &= !(1 << 53)).contains("attributes"));
        assert!(doctored(&|leaves| leaves[7].descriptor &= !(1 << 11)).contains("attributes"));
        assert!(doctored(&|leaves| leaves[7].descriptor += 4096).contains("not to itself"));
        assert!(doctored(&|leaves| leaves.truncate(leaves.len() - 1)).contains("only"));
        let firmware = leaf(FIRMWARE.start..FIRMWARE.start + 4096, descriptor::DATA);
        assert!(doctored(&|leaves| leaves.push(firmware.clone())).contains("over the hole"));
        assert!(
            doctored(&|leaves| leaves.push(leaf(0..4096, descriptor::DATA)))
                .contains("nothing is there")
        );
    }

    #[test]
    fn tables_are_walked_to_blocks_and_pages() {
        let mut tables: HashMap<u64, Vec<u8>> = HashMap::new();
        for (table, index, descriptor) in [
            (0x1000_u64, 0_usize, 0x2003_u64),
            (0x2000, 1, 0x3003),
            (0x2000, 2, 0x8000_0701),
            (0x3000, 3, 0x4003),
            (0x4000, 5, 0x4060_5703),
        ] {
            let bytes = tables.entry(table).or_insert_with(|| vec![0; 4096]);
            bytes[index * 8..index * 8 + 8].copy_from_slice(&descriptor.to_le_bytes());
        }
        let mut leaves = Vec::new();
        walk(0x1000, 0, 0, &mut |table| Ok(tables[&table].clone()), &mut leaves).unwrap();
        let page = Leaf { range: 0x4060_5000..0x4060_6000, descriptor: 0x4060_5703 };
        let block = Leaf { range: 0x8000_0000..0xc000_0000, descriptor: 0x8000_0701 };
        assert_eq!(leaves, [page, block]);
        leaves.iter().for_each(|leaf| leaf.expect(0x703).unwrap());
    }
}
