//! Refusals of destinations that no segment may have.
//!
//! Most are loadables of the first configuration.

use anyhow::{Result, bail, ensure};

use harness::{
    cmdline::{Base, Cmdline},
    disk::{LOAD, payload},
    fit_edit::{node, set},
    kernel_build::Built,
    transcript::{self, GenerationLog},
    tree_edit::{edit_tree, reserve},
    verdict::Verdict,
};
use protocol::fit::writer::{self as fit, Kind, Payload};

use super::{
    super::case::{Case, Trial, case},
    PLAIN, Refusal,
};

/// A reservation in the middle of RAM.
const RESERVED: u64 = 0x5000_0000;
const RESERVED_SIZE: u64 = 0x10_0000;

/// The last MiB of 512 MiB of RAM. Every generation puts its control pages in the highest free
/// block.
const LAST_MIB: u64 = 0x5ff0_0000;

#[rustfmt::skip]
pub(super) const REFUSALS: &[Refusal] = &[
    Refusal { name: "over-a-device", disk: |kernel| at(kernel, &[(0x0900_0000, 64)]),
              says: &["segment \"loadable-0\": the destination 0x9000000..0x9001000 overlaps the \
                       device at 0x9000000..0x9001000"], ..PLAIN },
    Refusal { name: "over-reserved-memory",
              disk: |kernel| at(kernel, &[(RESERVED + 0xf_f000, 8192)]),
              alter: |request| edit_tree(request,
                  |tree| reserve(tree, "secret", RESERVED, RESERVED_SIZE, false)),
              says: &["segment \"loadable-0\": the destination 0x500ff000..0x50101000 overlaps \
                       reserved memory, \"secret@50000000\" at 0x50000000..0x50100000"], ..PLAIN },
    Refusal { name: "over-no-map-memory", disk: |kernel| at(kernel, &[(RESERVED - 4096, 8192)]),
              alter: |request| edit_tree(request,
                  |tree| reserve(tree, "firmware", RESERVED, RESERVED_SIZE, true)),
              says: &["overlaps reserved memory, \"firmware@50000000\" at 0x50000000..0x50100000"],
              ..PLAIN },
    Refusal { name: "over-memreserve", disk: |kernel| at(kernel, &[(RESERVED, 64)]),
              alter: |request| edit_tree(request, |tree| {
                  tree.memory_reservations.push(
                      dtoolkit::memreserve::MemoryReservation::new(RESERVED, RESERVED_SIZE));
                  Ok(())
              }),
              says: &["overlaps reserved memory, \"/memreserve/\" at 0x50000000..0x50100000"],
              ..PLAIN },
    Refusal { name: "kernel-over-reserved-memory", base: Base::Load, disk: |kernel| Ok(fit::write(&[
                  payload("first", kernel.image.clone(), Some(RESERVED)),
                  payload("second", kernel.image.clone(), Some(LOAD))])),
              alter: |request| edit_tree(request,
                  |tree| reserve(tree, "secret", RESERVED, RESERVED_SIZE, false)),
              says: &["segment \"first\": the destination 0x50000000..",
                      "overlaps reserved memory, \"secret@50000000\""], ..PLAIN },
    Refusal { name: "over-the-control-pages", disk: |kernel| at(kernel, &[(LAST_MIB, 1 << 20)]),
              says: &["segment \"loadable-0\": the destination 0x5ff00000..0x60000000 overlaps \
                       the control pages at 0x5ff"], ..PLAIN },
    Refusal { name: "misaligned", disk: |kernel| at(kernel, &[(0x4800_0800, 4096)]),
              says: &["segment \"loadable-0\": the destination 0x48000800..0x48001800 does not \
                       consist of whole pages"], ..PLAIN },
    Refusal { name: "overlap", disk: |kernel| at(kernel, &[(0x4800_0000, 8192), (0x4800_1000, 64)]),
              says: &["segments \"loadable-0\" and \"loadable-1\" overlap at 0x48001000"],
              ..PLAIN },
    Refusal { name: "overlap-with-the-kernel", disk: |kernel| at(kernel, &[(0x4020_0000, 64)]),
              says: &["segments \"first\" and \"loadable-0\" overlap at 0x40200000"], ..PLAIN },
    Refusal { name: "outside-ram", disk: |kernel| at(kernel, &[(0x1_0000_0000, 64)]),
              says: &["segment \"loadable-0\": the destination 0x100000000..0x100001000 is not \
                       wholly in one range of RAM"], ..PLAIN },
    Refusal { name: "across-the-end-of-ram", disk: |kernel| at(kernel, &[(0x5fff_f000, 8192)]),
              says: &["the destination 0x5ffff000..0x60001000 is not wholly in one range of RAM"],
              ..PLAIN },
    Refusal { name: "at-the-end-of-everything",
              disk: |kernel| at(kernel, &[(0xffff_ffff_ffff_f000, 8192)]),
              says: &["segment \"loadable-0\": the destination 0xfffffffffffff000.."], ..PLAIN },
    Refusal { name: "sixteen-loadables", disk: |kernel| at(kernel, &places(16)),
              says: &["the FIT's configuration has 16 loadables, "], ..PLAIN },
    // With the kernel and the device tree, 15 loadables exceed the limit of segments.
    Refusal { name: "seventeen-segments", disk: |kernel| at(kernel, &places(15)),
              says: &["17 segments, and 16 are the most"], ..PLAIN },
];

/// Returns the cases that do not fit the table.
pub(super) fn cases() -> Vec<Case> {
    vec![case("refused/sent-elsewhere", sent_elsewhere)]
}

/// Boots with /chosen properties of an earlier kexec, whose base is not this generation's address.
fn sent_elsewhere(trial: &mut Trial<'_>) -> Result<()> {
    let mut request = trial.request("nvhe", &Cmdline { generations: 9, ..trial.cmdline() })?;
    edit_tree(&mut request, |tree| {
        let chosen = node(tree, "/chosen")?;
        let numbers = [
            ("generation", 3_u64),
            ("seed", 7),
            ("base", 0x4400_0000),
            ("breadcrumbs", 0x5000_0000),
        ];
        numbers
            .into_iter()
            .try_for_each(|(name, number)| set(chosen, &format!("ouroboros,{name}"), number))
    })?;
    let outcome = trial.ends(&request, Verdict::Failed(1))?;
    let logs = transcript::logs(&outcome.console)?;
    let [GenerationLog { number: 3, refused, bye: None, .. }] = logs.as_slice() else {
        bail!("one generation should have started, number 3, and refused to run: {logs:#?}")
    };
    let [reason] = refused.as_slice() else { bail!("not one refusal: {refused:#?}") };
    for base in ["base 0x44000000", "is at 0x40200000"] {
        ensure!(reason.contains(base), "the refusal does not say \"{base}\": {reason}");
    }
    Ok(())
}

/// Returns a disk whose first configuration has loadables of these addresses and sizes, and whose
/// second is good.
fn at(kernel: &Built, loadables: &[(u64, usize)]) -> Result<Vec<u8>> {
    let mut payloads = vec![payload("first", kernel.image.clone(), None)];
    payloads.extend((0..).zip(loadables).map(|(number, &(load, bytes)): (usize, _)| Payload {
        kind: Kind::Loadable { load },
        ..payload(&format!("loadable-{number}"), vec![number as u8 | 0x80; bytes], None)
    }));
    payloads.push(payload("second", kernel.image.clone(), None));
    Ok(fit::write(&payloads))
}

/// Returns `count` destinations of one page each.
fn places(count: u64) -> Vec<(u64, usize)> {
    (0..count).map(|number| (0x4800_0000 + number * 8192, 64)).collect()
}
