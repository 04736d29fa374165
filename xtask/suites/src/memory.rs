//! Comparison of memory with the Image and the disk, byte for byte, after a few generations.
//!
//! The comparison runs after the last generation has powered the machine off. It covers the
//! read-only part of that generation's Image, and the loadables. The entry record must show the CPU
//! state that the boot protocol requires of the previous generation.

use std::{mem::offset_of, ops::Range};

use anyhow::{Context, Result, ensure};
use boot::{
    image::BASE_ALIGNMENT,
    record::EntryRecord,
    sysreg::{current_el, hcr, sctlr, spsr},
};

use harness::{
    cmdline::{Base, Cmdline, Restart},
    disk,
    invariants::{self, Modes, check},
    kernel_build::Built,
    postmortem::Qmp,
    relr,
    request::{Disk, Request},
    transcript::GenerationLog,
};
use protocol::fit::writer::{self as fit, Kind, Payload};

use super::{
    case::{Case, Trial, case},
    last_look::{last_look, memory},
};

const GENERATIONS: u32 = 4;

/// Destinations of the loadables: pages in the middle of RAM, none at the start of a block, where
/// an allocator would write.
const LOADS: [u64; 2] = [0x4a34_5000, 0x4b12_3000];

/// Returns two cases for each mode and restart.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (mode, modes) in invariants::MODES.map(|mode| (mode, Modes::All(mode))) {
        for restart in [Restart::Hot, Restart::Cold] {
            cases.push(case(format!("memory/image-{mode}-{restart}"), move |trial| {
                let cmdline = Cmdline {
                    generations: GENERATIONS,
                    base: Base::Random,
                    restart,
                    ..trial.cmdline()
                };
                let request = trial.request_psci(mode, &cmdline)?;
                image(trial, request, &cmdline, modes)
            }));
            cases.push(case(format!("memory/loadables-{mode}-{restart}"), move |trial| {
                let cmdline = Cmdline { generations: GENERATIONS, restart, ..trial.cmdline() };
                let mut request = trial.request_psci(mode, &cmdline)?;
                request.disk =
                    Disk::Bytes(fit::write(&with_loadables(&trial.kernel().image)).into());
                loadables(trial, request, &cmdline, modes)
            }));
        }
    }
    cases
}

/// Checks that the last generation's Image equals the one that was built, and that it was entered
/// as the boot protocol requires.
pub fn image(
    trial: &mut Trial<'_>,
    request: Request,
    cmdline: &Cmdline,
    modes: Modes,
) -> Result<()> {
    let kernel = trial.kernel();
    let of = |name: &str| kernel.symbol(name);
    let (rodata_end, image_end, record) =
        (of("rodata_end")?, of("_image_end")?, of("entry_record")?);
    let (logs, (base, found)) = last_look(trial, request, |qmp| {
        let base = program_counter(qmp)? & !(BASE_ALIGNMENT - 1);
        Ok((base, memory(qmp, base, image_end)?))
    })?;
    check(&logs, cmdline, modes)?;
    let [.., before, last] = logs.as_slice() else { anyhow::bail!("one generation alone") };
    ensure!(
        base == last.base,
        "the CPU ended in the slot {base:#x}, and the last generation is at {:#x}",
        last.base
    );
    same(kernel, &found, base, 0..rodata_end)?;
    entered_well(&found[usize::try_from(record)?..], before, last)
}

/// Checks that `found`, a copy of memory from `base` on, equals the Image in `range`.
pub fn same(kernel: &Built, found: &[u8], base: u64, range: Range<u64>) -> Result<()> {
    let expected = relr::applied(&kernel.elf, &kernel.image, base)?;
    let range = usize::try_from(range.start)?..usize::try_from(range.end)?;
    let differs = range.clone().find(|&at| expected.get(at) != found.get(at));
    if let Some(at) = differs {
        let word = at & !7;
        let of = |bytes: &[u8]| bytes.get(word..word + 8).map(|bytes| format!("{bytes:02x?}"));
        let more = range.filter(|&at| expected.get(at) != found.get(at)).count();
        anyhow::bail!(
            "memory differs from the Image in {more} bytes, first at {at:#x} (base {base:#x}): \
             {:?}, and should be {:?}",
            of(found),
            of(&expected)
        );
    }
    Ok(())
}

/// Checks the entry record against the boot protocol and the contract of SOFT_RESTART.
fn entered_well(record: &[u8], before: &GenerationLog, last: &GenerationLog) -> Result<()> {
    let field = |at: usize| u64::from_le_bytes(record[at..at + 8].try_into().expect("eight bytes"));
    macro_rules! field {
        ($name:ident) => {
            field(offset_of!(EntryRecord, $name))
        };
    }
    let expect = |what: &str, found: u64, expected: u64| {
        ensure!(
            found == expected,
            "the last generation found {what} = {found:#x}, and should have {expected:#x}"
        );
        Ok(())
    };
    let off = |value: u64| value & (sctlr::M | sctlr::C);
    let tree = before.bye.as_ref().map_or(0, |bye| bye.tree);
    expect("x0", field!(x0), tree)?;
    expect("x1", field!(x1), 0)?;
    expect("x2", field!(x2), 0)?;
    expect("x3", field!(x3), 0)?;
    expect("its load address", field!(load_address), last.base)?;
    expect("DAIF", field!(daif), spsr::DAIF)?;
    expect("SPSel", field!(sp_sel), 1)?;
    expect("M and C of SCTLR_ELx", off(field!(sctlr)), 0)?;
    let level = if last.mode == "el1" { current_el::EL1 } else { current_el::EL2 };
    expect("CurrentEL", field!(current_el), level)?;
    if level == current_el::EL2 {
        let host = if before.mode == "vhe" { hcr::E2H } else { 0 };
        expect("HCR_EL2.E2H", field!(hcr_el2) & hcr::E2H, host)?;
        expect("CNTVOFF_EL2", field!(cntvoff_el2), 0)?;
    }
    Ok(())
}

/// Checks that each loadable is at its destination, and that the rest of its last page is zero.
pub fn loadables(
    trial: &mut Trial<'_>,
    request: Request,
    cmdline: &Cmdline,
    modes: Modes,
) -> Result<()> {
    let payloads = with_loadables(&[]);
    let sent = &payloads[1..];
    let (logs, found) = last_look(trial, request, |qmp| {
        let pages = |payload: &Payload| payload.data.len().next_multiple_of(4096) as u64;
        sent.iter()
            .zip(LOADS)
            .map(|(payload, load)| memory(qmp, load, pages(payload)))
            .collect::<Result<Vec<_>>>()
    })?;
    check(&logs, cmdline, modes)?;
    for (payload, found) in sent.iter().zip(found) {
        let (data, tail) = found.split_at(payload.data.len());
        let differs =
            data.iter().zip(&payload.data).position(|(found, expected)| found != expected);
        ensure!(
            differs.is_none(),
            "{} differs from the disk, first at byte {differs:x?}",
            payload.name
        );
        let nonzero = tail.iter().position(|byte| *byte != 0);
        ensure!(
            nonzero.is_none(),
            "{}'s last page is not zero at byte {nonzero:x?} behind its end",
            payload.name
        );
    }
    Ok(())
}

/// Returns the kernel and two loadables, neither a whole number of pages.
pub fn with_loadables(kernel: &[u8]) -> Vec<Payload> {
    let loadable = |(number, load): (usize, u64)| Payload {
        name: format!("loadable-{number}"),
        description: "numbers that no memory holds by chance".to_owned(),
        // The last run of frames must not fit into the heap's first arena: that is in bss, the only
        // memory that would be zero without zeroing it.
        data: (0..(number << 21) + (508 << 10) + 1)
            .map(|byte| (byte * 7 + byte / 251 + number) as u8 | 1)
            .collect(),
        kind: Kind::Loadable { load },
        bootargs: None,
    };
    let mut payloads = vec![disk::payload("kernel", kernel.to_vec(), None)];
    payloads.extend((1..).zip(LOADS).map(loadable));
    payloads
}

/// Returns the PC of the first CPU.
pub fn program_counter(qmp: &mut Qmp) -> Result<u64> {
    let registers = qmp.human("info registers")?;
    let digits = registers.split_once("PC=").context("QEMU shows no PC")?.1;
    Ok(u64::from_str_radix(digits.split_whitespace().next().unwrap_or_default(), 16)?)
}
