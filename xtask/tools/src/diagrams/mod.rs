//! Recordings of each way into the Image, by a loader or our own kexec, and their drawings.
//!
//! The cases `diagrams/*` use it. A debugger stops the guest at a few *stations*, from its first
//! instruction at all to the first one of Rust, and reads the state that a boot protocol defines.
//! At the Image's first instruction it also reads the contents of RAM. The result is a
//! [`Recording`], which is the same in every run, and a drawing of it. A guest is refused if it
//! misses a station, or arrives in a state other than the one drawn.
//!
//! A recording leaves out what differs between runs or builds:
//!
//! - times, seeds, and general registers without a meaning;
//! - offsets in code and sizes that the build decides;
//! - the digits below 1 MiB of an address that an allocator chose.

mod drawing;
mod memory;
mod page;
mod state;
mod stops;

use std::fs;

use anyhow::{Result, ensure};
use sha2::{Digest, Sha256};

use crate::entry_state;
use harness::{
    cmdline::{Base, Cmdline, Restart},
    debian::Debian,
    kernel_build::Built,
    loader::Loader,
    postmortem::Gdb,
};

pub use self::{drawing::drawing, page::with_blocks};
use self::{
    memory::Region,
    state::{Owner, Places, State},
    stops::Stop,
};

/// A way into the Image: from a loader, or from a previous generation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Way {
    /// Name of its drawing.
    pub name: &'static str,
    /// Title of its drawing.
    pub title: &'static str,
    /// The machine's name in qemu.toml.
    pub machine: &'static str,
    /// The loader of generation 0.
    pub loader: Loader,
    /// The kind of restart, if generation 0 starts the Image by kexec.
    pub own: Option<Restart>,
    /// Name of the program before the Image: owner of code and vectors that are not ours.
    pub before: &'static str,
}

const fn loader(
    name: &'static str,
    title: &'static str,
    loader: Loader,
    before: &'static str,
) -> Way {
    Way { name, title, machine: "nvhe", loader, own: None, before }
}

const fn own(
    name: &'static str,
    title: &'static str,
    machine: &'static str,
    restart: Restart,
) -> Way {
    Way { name, title, machine, loader: Loader::Qemu, own: Some(restart), before: "QEMU" }
}

/// All ways that are drawn. Loaders are shown on a machine with EL2, which has the most state.
pub const WAYS: [Way; 9] = [
    loader("qemu", "QEMU’s own -kernel", Loader::Qemu, "QEMU"),
    loader("uefi", "UEFI: EDK2, then the stub in the Image", Loader::Uefi, "EDK2"),
    loader("u-boot-booti", "U-Boot: booti of the Image", Loader::UBootBooti, "U-Boot"),
    loader("u-boot-bootm", "U-Boot: bootm of our FIT", Loader::UBootBootm, "U-Boot"),
    loader("linux-kexec", "Linux’s kexec, from nVHE", Loader::LinuxKexec, "Linux"),
    own("kexec-el1", "Our own kexec at EL1, hot", "el1", Restart::Hot),
    own("kexec-nvhe", "Our own kexec at EL1 over the hyp-stub (nVHE), hot", "nvhe", Restart::Hot),
    own("kexec-vhe", "Our own kexec at EL2 (VHE), hot", "vhe", Restart::Hot),
    own(
        "kexec-nvhe-cold",
        "Our own kexec at EL1 over the hyp-stub (nVHE), cold",
        "nvhe",
        Restart::Cold,
    ),
];

impl Way {
    /// Reports whether the machine has EL2; its kernels are then entered there.
    pub fn has_el2(self) -> bool {
        self.machine != "el1"
    }

    /// Returns the path of its drawing.
    pub fn path(self) -> String {
        format!("docs/diagrams/{}.svg", self.name)
    }

    /// Returns the parameters: as many generations as the drawing needs.
    pub fn cmdline(self, seed: u64) -> Cmdline {
        let generations = if self.own.is_some() { 2 } else { 1 };
        let restart = self.own.unwrap_or(Restart::Hot);
        Cmdline { generations, base: Base::Same, restart, seed, append: Vec::new() }
    }

    /// Describes the software of the recording; a drawing made with other software is not compared.
    pub fn recorded_on(self, qemu: &str, cpu: &str) -> String {
        let firmware = self.loader.firmware().and_then(|firmware| fs::read(firmware.found()?).ok());
        let loader = match (firmware, self.loader) {
            (Some(bytes), _) => {
                let sum: String = Sha256::digest(bytes)
                    .iter()
                    .take(4)
                    .map(|byte| format!("{byte:02x}"))
                    .collect();
                format!("; {}, its file’s SHA-256 {sum}…", self.before)
            }
            (None, Loader::LinuxKexec) => {
                Debian::fetched().map_or(String::new(), |debian| format!("; {}", debian.release))
            }
            (None, _) => String::new(),
        };
        format!(
            "{}, virt, 512 MiB, {cpu}{loader}",
            entry_state::written_with(qemu).trim_end_matches('.')
        )
    }
}

/// The recorded states of one way.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Recording {
    /// The way.
    pub way: Way,
    /// The states at its stations, in order.
    seen: Vec<(Stop, State)>,
    /// The regions of RAM when the Image is entered, by address.
    regions: Vec<Region>,
}

/// Addresses that an earlier run found; for QEMU's own loader, its fixed ones.
#[derive(Clone, Copy, Debug)]
pub struct Scouted {
    /// Address of the entered Image.
    pub base: u64,
    /// Address of the Image as the UEFI firmware loaded it.
    pub loaded: Option<u64>,
    /// Start of kexec-tools' purgatory, if Linux's kexec is the loader.
    pub purgatory: Option<u64>,
}

/// Finds the start of kexec-tools' purgatory, which jumped to the Image at `base`; the guest then
/// continues.
pub fn purgatory(mut gdb: Gdb, base: u64) -> Result<u64> {
    /// The start of purgatory: `adr x19, …`, `mov sp, x19`, and its only call, whose return address
    /// x30 still holds.
    const BEGINS: [(u32, u32); 3] =
        [(0x9f00_001f, 0x1000_0013), (!0, 0x9100_027f), (0xfc00_0000, 0x9400_0000)];
    const SIZE: usize = BEGINS.len() * size_of::<u32>();
    gdb.run_to(base)?;
    let start = gdb.general()?[30] - SIZE as u64;
    let found = gdb.memory(start, SIZE)?;
    let words =
        found.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
    let is_it = words.zip(BEGINS).all(|(word, (mask, expected))| word & mask == expected);
    ensure!(
        is_it,
        "the code before x30, at {start:#x}, is not kexec-tools' purgatory: {found:02x?}"
    );
    gdb.detach()?;
    Ok(start)
}

/// Records a way; the guest must be stopped before its first instruction, and continues afterwards.
pub fn record(
    mut gdb: Gdb,
    way: Way,
    kernel: &Built,
    disk: &[u8],
    scouted: Scouted,
) -> Result<Recording> {
    let mut places = Places::new(way, kernel, scouted)?;
    let (mut seen, mut regions) = (Vec::new(), Vec::new());
    for stop in stops::of(way) {
        stop.reach(&mut gdb, &mut places, kernel)?;
        seen.push((stop, State::read(&mut gdb, &places, stop)?));
        if stop.is_entry() {
            regions = memory::regions(&mut gdb, &places, kernel, disk)?;
        }
    }
    gdb.detach()?;
    Ok(Recording { way, seen, regions })
}
