//! Hand-overs as they are seen: each way in, and our own way out and in again, from a guest that is stopped on its way.
//!
//! *When:* by the cases `hand-over/*`. A debugger stops the guest at a few *stations*, from its first instruction at all to the first of Rust, and reads there what
//! a boot protocol is about; at the Image's first instruction it reads what lies where in memory as well. *Leaves* a [`Recording`] with nothing in it that differs from run to run, and a
//! drawing of that. *Refuses* a guest that does not come by, or comes by in another state than is drawn.
//!
//! Left out, since runs or builds differ in it: times, seeds, contents of general registers that carry nothing, offsets in code, sizes that a build decides, and of
//! an address that an allocator chose all below 1 MiB.

mod drawing;
mod memory;
mod page;
mod state;
mod stations;

use std::fs;

use anyhow::{Result, ensure};
use sha2::{Digest, Sha256};

use crate::{
    debian::Debian,
    entry_state,
    explain::Gdb,
    kernel_build::Built,
    loader::Loader,
    orders::{Base, Orders, Restart},
};

pub use self::{drawing::drawing, page::with_blocks};
use self::{
    memory::Region,
    state::{Owner, Places, State},
    stations::Station,
};

/// A way from one program to the next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Way {
    /// Its drawing's name.
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
    /// Of qemu.toml.
    pub machine: &'static str,
    /// Who starts generation 0.
    pub loader: Loader,
    /// Where it is generation 0 that hands over, how.
    pub own: Option<Restart>,
    /// Who runs, and whose vectors are in force, where it is not us.
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

/// All that are drawn. What loads generation 0 is shown with EL2, which leaves most to be seen.
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
    /// The machine has an EL2, where its kernels are entered.
    pub fn has_el2(self) -> bool {
        self.machine != "el1"
    }

    /// Where its drawing lies.
    pub fn path(self) -> String {
        format!("docs/diagrams/{}.svg", self.name)
    }

    /// What the generations are told: as many as are needed to see the hand-over.
    pub fn orders(self, seed: u64) -> Orders {
        let generations = if self.own.is_some() { 2 } else { 1 };
        let restart = self.own.unwrap_or(Restart::Hot);
        Orders { generations, base: Base::Same, restart, seed, append: Vec::new() }
    }

    /// What it was recorded on, in words; with another one its drawing is not compared.
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

/// What was seen of a way.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Recording {
    /// Which.
    pub way: Way,
    /// In order.
    seen: Vec<(Station, State)>,
    /// What lies in RAM when the Image is entered, by address.
    regions: Vec<Region>,
}

/// Where an earlier run saw the loader put the Image; without one, where QEMU's own loader does.
#[derive(Clone, Copy, Debug)]
pub struct Scouted {
    /// The Image that is entered.
    pub base: u64,
    /// By UEFI: the Image as the firmware loaded it.
    pub loaded: Option<u64>,
    /// By Linux's kexec: where kexec-tools' code between the kernels begins.
    pub purgatory: Option<u64>,
}

/// Where kexec-tools' code begins that was left for the Image, which lies at `base`; lets the guest go.
pub fn purgatory(mut gdb: Gdb, base: u64) -> Result<u64> {
    /// What it begins with: `adr x19, …`, `mov sp, x19`, and its only call, behind which x30 still points.
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
        "what x30 points behind, at {start:#x}, is not kexec-tools' purgatory: {found:02x?}"
    );
    gdb.detach()?;
    Ok(start)
}

/// Goes along the way with the guest, which is stopped before its first instruction, and lets it go in the end.
pub fn record(
    mut gdb: Gdb,
    way: Way,
    kernel: &Built,
    disk: &[u8],
    scouted: Scouted,
) -> Result<Recording> {
    let mut places = Places::new(way, kernel, scouted)?;
    let (mut seen, mut regions) = (Vec::new(), Vec::new());
    for station in stations::of(way) {
        station.reach(&mut gdb, &mut places, kernel)?;
        seen.push((station, State::read(&mut gdb, &places, station)?));
        if station.is_entry() {
            regions = memory::regions(&mut gdb, &places, kernel, disk)?;
        }
    }
    gdb.detach()?;
    Ok(Recording { way, seen, regions })
}
