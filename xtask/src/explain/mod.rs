//! What a guest that hangs, or died, can be made to tell.
//!
//! *When:* after a run's time is up, before its QEMU is ended; QEMU was started with a monitor and a gdb stub on sockets. The machine
//! is stopped by this and stays so. Each CPU is asked for its registers; addresses get symbols, whichever copy of the kernel they
//! stand in; registers get words; and the page of breadcrumbs tells the last phase that the way out reached. What cannot be had is
//! said, and the rest is told all the same.

mod demangle;
mod gdb;
mod qmp;
mod symbols;
mod words;

use std::{fmt::Write, mem::offset_of, path::Path};

use anyhow::{Context, Result};
use boot::{
    breadcrumb,
    esr::{Esr, slot_name},
    marker,
    phys::PAGE_SIZE,
    record::EntryRecord,
    sysreg::sctlr,
};

use self::words::emergency_in_words;
pub use self::{gdb::Gdb, qmp::Qmp, symbols::Symbols};

/// Where QEMU's `virt` has its RAM. Below lie devices, which a read may change.
const RAM: u64 = 1 << 30;

/// How many of the guest's emergency lines are put into words.
const EMERGENCIES: usize = 4;

/// A guest to explain.
pub struct Target<'a> {
    /// The monitor's socket. No other client may hold it.
    pub qmp: &'a Path,
    /// The gdb stub's socket. No other client may hold it.
    pub gdb: &'a Path,
    /// The kernel as linked, with its symbols.
    pub elf: &'a Path,
    /// What the guest has said so far.
    pub console: &'a str,
}

/// Stops the guest and says where it stands: the first line is the most telling, the rest is for experts.
pub fn explain(target: &Target<'_>) -> Result<String> {
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
    let Told { first, rest } = match Gdb::connect(target.gdb).and_then(|gdb| witness(gdb).tell()) {
        Ok((told, seen)) => {
            if let Ok((_, cpus)) = stopped
                && cpus != seen
            {
                notes.push(format!("the machine has {cpus} CPUs, its gdb stub shows {seen}"));
            }
            told
        }
        // Without the stub there are QEMU's own words, without system registers and memory.
        Err(error) => {
            let registers = qmp.and_then(|mut qmp| qmp.human("info registers -a"));
            let rest = registers
                .with_context(|| format!("neither gdb stub ({error:#}) nor monitor answered"))?;
            Told {
                first: format!(
                    "the gdb stub did not answer ({error:#}); QEMU's own view of the CPUs:"
                ),
                rest,
            }
        }
    };
    let mut text = first + "\n";
    // The last of them: a handler that faults says the same without end.
    let said =
        target.console.lines().filter_map(|line| Some((line, emergency_in_words(line, &symbols)?)));
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

/// The guest, stopped, with what is needed to understand it.
struct Witness<'a> {
    gdb: Gdb,
    symbols: &'a Symbols,
    console: &'a str,
}

/// What the guest's state tells: in one line, and in full.
struct Told {
    first: String,
    rest: String,
}

impl Witness<'_> {
    /// All there is to tell, and of how many CPUs.
    fn tell(mut self) -> Result<(Told, usize)> {
        let threads = self.gdb.threads()?;
        let mut crumbs = self.crumbs();
        // On the way in, the entry's own record is later than any breadcrumb. Where it is not, it is that of the generation on its way
        // out, which nothing has been copied over yet.
        if let Some((entered, last, all)) = self.stations()
            && crumbs.stamp.is_none_or(|stamp| stamp < entered)
        {
            crumbs.last = last;
            crumbs.all += &all;
        }
        let (mut first, mut body) = (None, String::new());
        for (number, thread) in threads.iter().enumerate() {
            self.gdb.select(thread)?;
            let (stands, details) = self.cpu(number)?;
            // A CPU that was never started tells nothing: the first that was has the first line.
            first = first.or(stands);
            body += &details;
        }
        let first = first.unwrap_or_else(|| "no CPU was ever started".into());
        Ok((
            Told { first: format!("{first}; {}", crumbs.last), rest: crumbs.all + &body },
            threads.len(),
        ))
    }

    /// One CPU: where it stands, in half a line, unless it is off; and its registers.
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
            // A CPU among its vectors took an exception that nobody handled, or whose handler could not be fetched.
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

    /// What EL`of` took last, and where its vectors are; `None` where the CPU has no such level.
    fn taken(&mut self, of: u64, names: Names) -> Result<Option<Taken>> {
        let [esr, elr, far, vbar] = names;
        let (Some(esr), Some(elr)) = (self.gdb.register(esr)?, self.gdb.register(elr)?) else {
            return Ok(None);
        };
        let (Some(far), Some(vbar)) = (self.gdb.register(far)?, self.gdb.register(vbar)?) else {
            return Ok(None);
        };
        let from = self.named(elr);
        // Even an UNDEFINED instruction sets ESR_ELx.IL. ELR may have been written for an ERET, without an exception.
        let what = if esr == 0 { "nothing yet".into() } else { Esr(esr).to_string() };
        let invalid = if Esr(esr).far_not_valid() { " (not valid)" } else { "" };
        let mut text = format!(
            "       EL{of} last took: {what}\n           ESR {esr:#x}  FAR {far:#x}{invalid}\n"
        );
        let _ = writeln!(text, "           ELR {from}\n           VBAR {}", self.named(vbar));
        Ok(Some(Taken { vbar, last: format!("{what}, at {from}"), text }))
    }

    /// An address, with what is known of it.
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
        // An address without a device or memory is an answer too: nothing.
        if address < RAM { None } else { self.gdb.memory(address, size as usize).ok() }
    }

    fn place(&mut self, address: u64) -> Option<String> {
        // As each generation says of itself, and as an emergency line does.
        let (symbols, mut bases) = (self.symbols, numbers_after(self.console, "base 0x"));
        bases.extend(numbers_after(self.console, "base="));
        symbols
            .place(address, &bases, &mut |address, size| self.memory(address, size))
            .map(|place| place.to_string())
    }

    /// When an entry began, and the stations that it has passed since, by its own record, unless its generation has come up and said so.
    fn stations(&mut self) -> Option<(u64, String, String)> {
        let since = self.console.rsplit("breadcrumbs 0x").next().unwrap_or_default();
        if since.contains(marker::GENERATION) {
            return None;
        }
        // Where the last "Bye!" went; before any, the slot that the first CPU stands in.
        let slot = self.gdb.register(&["pc"]).ok()?? & !(boot::image::BASE_ALIGNMENT - 1);
        let base = numbers_after(self.console, "entry 0x").last().copied().unwrap_or(slot);
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
            format!("last station of the entry at {base:#x}: '{last}'"),
            format!("entry record at {record:#x}, CNTVCT: {all}\n"),
        ))
    }

    /// The page that the last "Bye!" named, and the phases in it.
    fn crumbs(&mut self) -> Crumbs {
        let Some(&page) = numbers_after(self.console, "breadcrumbs 0x").last() else {
            return Crumbs {
                last: "no breadcrumbs: nobody has said Bye".into(),
                ..Crumbs::default()
            };
        };
        let Some(bytes) = self.memory(page, PAGE_SIZE) else {
            return Crumbs {
                last: format!("the breadcrumbs at {page:#x} cannot be read"),
                ..Crumbs::default()
            };
        };
        let words: Vec<u64> =
            bytes.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
        let mut found = Default::default();
        let reached = breadcrumb::reached(&words, &mut found);
        // A generation that came up after the last Bye has the page from its predecessor.
        let since = self.console.rsplit("breadcrumbs 0x").next().unwrap_or_default();
        let old = if since.contains(marker::GENERATION) {
            " of the restart before this generation"
        } else {
            ""
        };
        let Some(&(last, stamp)) = reached.last() else {
            let all = format!("breadcrumbs at {page:#x}: none\n");
            return Crumbs { last: format!("no phase reached{old}"), all, stamp: None };
        };
        let start = reached[0].1;
        let phases = reached.iter().map(|&(phase, stamp)| {
            format!("{} +{}", breadcrumb::PHASES[phase], stamp.wrapping_sub(start))
        });
        let all = format!(
            "breadcrumbs at {page:#x}, in ticks of CNTVCT: {}\n",
            phases.collect::<Vec<_>>().join(", ")
        );
        Crumbs {
            last: format!("last phase{old}: {last} '{}'", breadcrumb::PHASES[last]),
            all,
            stamp: Some(stamp),
        }
    }
}

/// A level's last exception.
struct Taken {
    vbar: u64,
    last: String,
    text: String,
}

/// The way out: its last phase, all of them, and when the last was reached.
#[derive(Default)]
struct Crumbs {
    last: String,
    all: String,
    stamp: Option<u64>,
}

/// ESR, ELR, FAR and VBAR of a level, by the names that versions of QEMU have for them.
type Names = [&'static [&'static str]; 4];
const EL1: Names = [&["ESR_EL1"], &["ELR_EL1"], &["FAR_EL1"], &["VBAR_EL1", "VBAR"]];
const EL2: Names = [&["ESR_EL2"], &["ELR_EL2"], &["FAR_EL2"], &["VBAR_EL2"]];

/// The hexadecimal numbers that follow `words` in `text`, in order.
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
        let console = "[0] Generation 0 of 3: base 0x40200000, EL1\r\n[0] Bye! breadcrumbs 0x48010000\r\n[1] base 0x4a600000";
        assert_eq!(numbers_after(console, "base 0x"), [0x4020_0000, 0x4a60_0000]);
        assert_eq!(numbers_after(console, "breadcrumbs 0x"), [0x4801_0000]);
        assert!(numbers_after("base 0x", "base 0x").is_empty());
    }
}
