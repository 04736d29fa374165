//! The post-mortem of a guest that hangs or died: where each CPU is, and why.
//!
//! It runs when a run's time is up, before its QEMU ends; QEMU has a monitor and a gdb stub on
//! sockets. It stops the machine and leaves it stopped. The report has:
//!
//! - the registers of each CPU, with the main ones decoded;
//! - symbols for addresses, in whichever copy of the kernel they are;
//! - the last breadcrumb of the exit path, from the breadcrumb page;
//! - the failure record of a kernel that has no console.
//!
//! If a part is not available, the report says so and continues with the rest.

mod gdb;
mod qmp;
mod symbols;
mod words;

use std::{fmt::Write, mem::offset_of, path::Path};

use anyhow::{Context, Result};
use boot::{
    breadcrumb,
    esr::{Esr, slot_name},
    failure_record::{Failure, FailureRecord, Reason},
    marker,
    phys::PAGE_SIZE,
    record::EntryRecord,
    sysreg::sctlr,
};

use self::words::describe_exception;
pub use self::{gdb::Gdb, qmp::Qmp, symbols::Symbols};

/// The start of RAM in QEMU's `virt`. Devices are below it, and reading them may change them.
const RAM: u64 = 1 << 30;

/// The number of the guest's fatal lines that the report decodes.
const EMERGENCIES: usize = 4;

/// The guest to examine.
pub struct Target<'a> {
    /// The monitor's socket. No other client may hold it.
    pub qmp: &'a Path,
    /// The gdb stub's socket. No other client may hold it.
    pub gdb: &'a Path,
    /// The kernel as linked, with its symbols.
    pub elf: &'a Path,
    /// The guest's console output so far.
    pub console: &'a str,
}

/// Stops the guest and reports its state: the first line is a summary, the rest is for experts.
pub fn postmortem(target: &Target<'_>) -> Result<String> {
    let mut notes = Vec::new();
    let symbols = Symbols::read(target.elf).unwrap_or_else(|error| {
        notes.push(format!("no symbols: {error:#}"));
        Symbols::default()
    });
    let mut qmp = Qmp::connect(target.qmp);
    let stopped = qmp.as_mut().map_err(|error| format!("{error:#}")).and_then(|qmp| {
        let state = qmp.stop().map_err(|error| format!("{error:#}"))?;
        let cpus = qmp.cpus().map_err(|error| format!("{error:#}"))?;
        Ok((state, cpus))
    });
    match &stopped {
        Ok((state, _)) if state == "running" => {}
        Ok((state, _)) => {
            notes.push(format!("QEMU was not running the guest: its state was '{state}'"))
        }
        Err(error) => notes.push(format!("monitor: {error}")),
    }

    let witness = |gdb| Witness { gdb, symbols: &symbols, console: target.console };
    let Report { first, rest } = match Gdb::connect(target.gdb)
        .and_then(|gdb| witness(gdb).report())
    {
        Ok((report, seen)) => {
            if let Ok((_, cpus)) = stopped
                && cpus != seen
            {
                notes.push(format!("the machine has {cpus} CPUs, its gdb stub shows {seen}"));
            }
            report
        }
        // Without the stub, use QEMU's own register dump, which has no system registers and no
        // memory.
        Err(error) => {
            let registers = qmp.and_then(|mut qmp| qmp.human("info registers -a"));
            let rest = registers
                .with_context(|| format!("neither gdb stub ({error:#}) nor monitor answered"))?;
            Report {
                first: format!(
                    "the gdb stub did not answer ({error:#}); QEMU's own view of the CPUs:"
                ),
                rest,
            }
        }
    };
    let mut text = first + "\n";
    // Take the last lines: a handler that faults prints without end.
    let said =
        target.console.lines().filter_map(|line| Some((line, describe_exception(line, &symbols)?)));
    let said: Vec<_> = said.collect();
    for (line, words) in &said[said.len().saturating_sub(EMERGENCIES)..] {
        let _ = writeln!(text, "the guest said: {}\n    which means: {words}", line.trim());
    }
    text += &rest;
    for note in notes {
        let _ = writeln!(text, "note: {note}");
    }
    Ok(text)
}

/// The stopped guest, with all inputs of the report.
struct Witness<'a> {
    gdb: Gdb,
    symbols: &'a Symbols,
    console: &'a str,
}

/// The report: a summary line and the full text.
struct Report {
    first: String,
    rest: String,
}

impl Witness<'_> {
    /// Makes the report; also returns the number of CPUs.
    fn report(mut self) -> Result<(Report, usize)> {
        let threads = self.gdb.threads()?;
        let mut breadcrumbs = self.breadcrumbs();
        // During an entry, its entry record is newer than any breadcrumb. If it is older, it
        // belongs to the generation that is leaving, and nothing has overwritten it yet.
        if let Some((entered, last, all)) = self.stations()
            && breadcrumbs.stamp.is_none_or(|stamp| stamp < entered)
        {
            breadcrumbs.last = last;
            breadcrumbs.all += &all;
        }
        let (mut first, mut body) = (None, String::new());
        for (number, thread) in threads.iter().enumerate() {
            self.gdb.select(thread)?;
            let (stands, details) = self.cpu(number)?;
            // A CPU that was never started has no state. The first one that was started gets the
            // summary.
            first = first.or(stands);
            body += &details;
        }
        let first = first.unwrap_or_else(|| "no CPU was ever started".into());
        Ok((
            Report {
                first: format!("{first}; {}", breadcrumbs.last),
                rest: breadcrumbs.all + &self.failure().unwrap_or_default() + &body,
            },
            threads.len(),
        ))
    }

    /// Returns one CPU's position as part of the summary, unless it is off, and its registers.
    fn cpu(&mut self, number: usize) -> Result<(Option<String>, String)> {
        let pc = self.required("pc")?;
        let pstate = self.required("cpsr")?;
        let lr = self.required("x30")?;
        let sp = self.required("sp")?;
        if pc == 0 && lr == 0 && sp == 0 {
            return Ok((None, format!("CPU {number}  off, or never started: PC is 0\n")));
        }
        let level = words::level(pstate);
        let live = [
            &["SCTLR_EL1", "SCTLR"],
            &["SCTLR_EL1", "SCTLR"],
            &["SCTLR_EL2"; 2],
            &["SCTLR_EL3"; 2],
        ][level as usize];
        let control = self.gdb.register(live)?;
        let mmu = match control {
            Some(control) if control & sctlr::M != 0 => "on",
            Some(_) => "off",
            None => "unknown",
        };
        let instruction =
            self.memory(pc, 4).and_then(|bytes| Some(u32::from_le_bytes(bytes.try_into().ok()?)));
        let place = self.place(pc);

        let mut stands = format!(
            "CPU {number} stands at EL{level}{}, MMU {mmu}, ",
            if pstate & 1 == 1 { "h" } else { "t" }
        );
        let _ = match &place {
            Some(place) => write!(stands, "at {place}"),
            None => write!(stands, "at {pc:#x}, in no copy of the kernel"),
        };
        let mut text = format!(
            "CPU {number}  PC {pc:#018x}  {}\n",
            place.unwrap_or_else(|| "in no copy of the kernel".into())
        );
        if let Some(word) = instruction {
            let words =
                words::instruction(word).map(|words| format!("  {words}")).unwrap_or_default();
            let _ = writeln!(text, "       instruction {word:#010x}{words}");
        }
        let _ = writeln!(text, "       LR {}", self.named(lr));
        let _ = writeln!(text, "       PSTATE {pstate:#x}: {}", words::pstate(pstate));
        if let Some(control) = control {
            let _ = writeln!(
                text,
                "       SCTLR_EL{} {control:#x}: {}",
                level.max(1),
                words::sctlr(control)
            );
        }
        if let Some(hcr) = self.gdb.register(&["HCR_EL2"])? {
            let _ = writeln!(text, "       HCR_EL2 {hcr:#x}: {}", words::hcr(hcr));
        }
        for (of, names) in [(1, EL1), (2, EL2)] {
            let Some(taken) = self.taken(of, names)? else { continue };
            text += &taken.text;
            // A PC inside the vector table means that no handler ran, or that its code could not be
            // fetched.
            if of == level && pc.wrapping_sub(taken.vbar) < 0x800 {
                let slot = (pc - taken.vbar) / 0x80;
                let _ = write!(
                    stands,
                    ", in vector {slot} of {:#x} ({}), after: {}",
                    taken.vbar,
                    slot_name(slot),
                    taken.last
                );
            }
        }
        for row in 0..8 {
            text += "      ";
            for number in (row * 4..row * 4 + 4).filter(|&number| number < 31) {
                let name = format!("x{number}");
                let _ = write!(text, " {name:>3} {:016x}", self.required(&name)?);
            }
            text += if row < 7 { "\n" } else { "" };
        }
        let _ = writeln!(text, "  sp {sp:016x}");
        Ok((Some(stands), text))
    }

    /// Returns the last exception that EL`of` took, and its VBAR; `None` if the CPU has no such
    /// level.
    fn taken(&mut self, of: u64, names: Names) -> Result<Option<Taken>> {
        let [esr, elr, far, vbar] = names;
        let (Some(esr), Some(elr)) = (self.gdb.register(esr)?, self.gdb.register(elr)?) else {
            return Ok(None);
        };
        let (Some(far), Some(vbar)) = (self.gdb.register(far)?, self.gdb.register(vbar)?) else {
            return Ok(None);
        };
        let from = self.named(elr);
        // ESR is 0 only before the first exception: even an UNDEFINED instruction sets ESR_ELx.IL.
        // ELR does not show it, since code may write it for an ERET.
        let what = if esr == 0 { "nothing yet".into() } else { Esr(esr).to_string() };
        let invalid = if Esr(esr).far_not_valid() { " (not valid)" } else { "" };
        let mut text = format!(
            "       EL{of} last took: {what}\n           ESR {esr:#x}  FAR {far:#x}{invalid}\n"
        );
        let _ = writeln!(text, "           ELR {from}\n           VBAR {}", self.named(vbar));
        Ok(Some(Taken { vbar, last: format!("{what}, at {from}"), text }))
    }

    /// Formats an address, with its symbol if known.
    fn named(&mut self, address: u64) -> String {
        let place = self.place(address).map(|place| format!("  {place}"));
        format!("{address:#x}{}", place.unwrap_or_default())
    }

    fn required(&mut self, name: &str) -> Result<u64> {
        self.gdb
            .register(&[name])?
            .with_context(|| format!("QEMU's gdb stub has no register {name}"))
    }

    fn memory(&mut self, address: u64, size: u64) -> Option<Vec<u8>> {
        // An address with neither device nor memory has no bytes; that is not an error.
        if address < RAM { None } else { self.gdb.memory(address, size as usize).ok() }
    }

    fn place(&mut self, address: u64) -> Option<String> {
        // Each generation prints its base; an fatal line does too.
        let (symbols, mut bases) = (self.symbols, numbers_after(self.console, "base 0x"));
        bases.extend(numbers_after(self.console, "base="));
        symbols
            .place(address, &bases, &mut |address, size| self.memory(address, size))
            .map(|place| place.to_string())
    }

    /// Returns when the current entry began, its last station, and all stations so far, from its
    /// entry record.
    ///
    /// Returns `None` if the generation has already come up and printed its first line.
    fn stations(&mut self) -> Option<(u64, String, String)> {
        let since = self.console.rsplit("breadcrumbs 0x").next().unwrap_or_default();
        if since.contains(marker::GENERATION) {
            return None;
        }
        let base = self.base()?;
        let record = base + self.symbols.address("entry_record")?;
        let bytes = self.memory(record, size_of::<EntryRecord>() as u64)?;
        let word = |at: usize| bytes.get(at..)?.first_chunk().map(|word| u64::from_le_bytes(*word));
        if word(offset_of!(EntryRecord, load_address)) != Some(base) {
            return None;
        }
        let passed = [
            ("first instruction", word(offset_of!(EntryRecord, entered))?),
            ("EL2 set up", word(offset_of!(EntryRecord, el2_ready))?),
            ("MMU on", word(offset_of!(EntryRecord, mmu_on))?),
        ];
        let passed: Vec<_> = passed.into_iter().filter(|&(_, stamp)| stamp != 0).collect();
        let (last, _) = passed.iter().max_by_key(|&&(_, stamp)| stamp)?;
        let all = passed
            .iter()
            .map(|(name, stamp)| format!("{name} {stamp}"))
            .collect::<Vec<_>>()
            .join(", ");
        Some((
            word(offset_of!(EntryRecord, entered))?,
            format!("last breadcrumb of the entry at {base:#x}: '{last}'"),
            format!("entry record at {record:#x}, CNTVCT: {all}\n"),
        ))
    }

    /// Returns the entry address that the last "Bye!" printed; before any, the 2 MiB slot of the
    /// selected CPU's PC.
    fn base(&mut self) -> Option<u64> {
        let slot = self.gdb.register(&["pc"]).ok()?? & !(boot::image::BASE_ALIGNMENT - 1);
        Some(numbers_after(self.console, "entry 0x").last().copied().unwrap_or(slot))
    }

    /// Describes the failure record, if the kernel has failed.
    fn failure(&mut self) -> Option<String> {
        let record = self.base()? + self.symbols.address("failure_record")?;
        let bytes = self.memory(record, size_of::<FailureRecord>() as u64)?;
        let failure = Failure::read(&bytes)?;
        Some(format!("failure record at {record:#x}: {}", describe_failure(&failure)))
    }

    /// Reads the breadcrumb page that the last "Bye!" named, and its phases.
    fn breadcrumbs(&mut self) -> Breadcrumbs {
        let Some(&page) = numbers_after(self.console, "breadcrumbs 0x").last() else {
            return Breadcrumbs {
                last: "no breadcrumbs: no generation has printed \"Bye!\"".into(),
                ..Breadcrumbs::default()
            };
        };
        let Some(bytes) = self.memory(page, PAGE_SIZE) else {
            return Breadcrumbs {
                last: format!("the breadcrumbs at {page:#x} cannot be read"),
                ..Breadcrumbs::default()
            };
        };
        let words: Vec<u64> =
            bytes.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
        let mut found = Default::default();
        let reached = breadcrumb::reached(&words, &mut found);
        // If a generation came up after the last "Bye!", the page describes the previous restart.
        let since = self.console.rsplit("breadcrumbs 0x").next().unwrap_or_default();
        let old = if since.contains(marker::GENERATION) {
            " of the restart before this generation"
        } else {
            ""
        };
        let Some(&(last, stamp)) = reached.last() else {
            let all = format!("breadcrumbs at {page:#x}: none\n");
            return Breadcrumbs { last: format!("no breadcrumb reached{old}"), all, stamp: None };
        };
        let start = reached[0].1;
        let phases = reached.iter().map(|&(phase, stamp)| {
            format!("{} +{}", breadcrumb::NAMES[phase], stamp.wrapping_sub(start))
        });
        let all = format!(
            "breadcrumbs at {page:#x}, in ticks of CNTVCT: {}\n",
            phases.collect::<Vec<_>>().join(", ")
        );
        Breadcrumbs {
            last: format!("last breadcrumb{old}: {last} '{}'", breadcrumb::NAMES[last]),
            all,
            stamp: Some(stamp),
        }
    }
}

/// Describes a failure: its reason and syndrome, then its text.
fn describe_failure(failure: &Failure<'_>) -> String {
    let Failure { reason, esr, elr, far, text } = *failure;
    let mut words = format!("{reason:?}");
    if reason == Reason::Exception {
        let _ = write!(words, ": {}, ESR {esr:#x}, ELR {elr:#x}, FAR {far:#x}", Esr(esr));
    }
    words.push('\n');
    for line in String::from_utf8_lossy(text).lines().filter(|line| !line.is_empty()) {
        let _ = writeln!(words, "    {}", line.trim_end());
    }
    words
}

/// The last exception taken to one exception level.
struct Taken {
    vbar: u64,
    last: String,
    text: String,
}

/// The exit path: its last breadcrumb, all phases, and the time of the last one.
#[derive(Default)]
struct Breadcrumbs {
    last: String,
    all: String,
    stamp: Option<u64>,
}

/// ESR, ELR, FAR and VBAR of one level, by their names in all versions of QEMU.
type Names = [&'static [&'static str]; 4];
const EL1: Names = [&["ESR_EL1"], &["ELR_EL1"], &["FAR_EL1"], &["VBAR_EL1", "VBAR"]];
const EL2: Names = [&["ESR_EL2"], &["ELR_EL2"], &["FAR_EL2"], &["VBAR_EL2"]];

/// Returns the hexadecimal numbers that follow `words` in `text`, in order.
fn numbers_after(text: &str, words: &str) -> Vec<u64> {
    let after = text.split(words).skip(1);
    let digits = after.map(|rest| {
        &rest[..rest.find(|digit: char| !digit.is_ascii_hexdigit()).unwrap_or(rest.len())]
    });
    digits.filter_map(|digits| u64::from_str_radix(digits, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_behind_their_words() {
        let console = "[0] Generation 0 of 3: base 0x40200000, EL1\r\n\
                       [0] Bye! breadcrumbs 0x48010000\r\n[1] base 0x4a600000";
        assert_eq!(numbers_after(console, "base 0x"), [0x4020_0000, 0x4a60_0000]);
        assert_eq!(numbers_after(console, "breadcrumbs 0x"), [0x4801_0000]);
        assert!(numbers_after("base 0x", "base 0x").is_empty());
    }

    #[test]
    fn a_failure_is_its_reason_its_syndrome_and_its_text() {
        let text = &b"\r\n!! panic at main.rs: why\r\n!! stopped\r\n"[..];
        let mut failure = Failure { reason: Reason::Panic, esr: 0, elr: 0, far: 0, text };
        assert_eq!(
            describe_failure(&failure),
            "Panic\n    !! panic at main.rs: why\n    !! stopped\n"
        );
        failure = Failure { reason: Reason::Exception, esr: 0x200_0000, elr: 0x10, ..failure };
        let words = describe_failure(&failure);
        assert!(words.starts_with("Exception: "), "{words}");
        assert!(words.contains(", ESR 0x2000000, ELR 0x10, FAR 0x0\n    !! panic"), "{words}");
    }
}
