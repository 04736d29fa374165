//! The stations: the moments at which a recording stops the guest, and how it gets there.
//!
//! A station is just before an instruction, or just after one that changes what the drawing shows.
//! The instructions are found by symbol and encoding in the linked kernel. Refuses a guest that
//! stops elsewhere, and an address without the expected Image or relocation code.

use anyhow::{Context, Result, ensure};
use boot::image::{MAGIC, MAGIC_AT};
use relocate::control::ARGUMENTS_OFFSET;

use harness::{
    cmdline::Restart,
    kernel_build::{self, Built},
    loader::Loader,
    postmortem::Gdb,
};

use super::{Places, Way};

/// Encodings of `ret`, `eret`, `msr ttbr0_el1, x9`.
const RET: u32 = 0xd65f_03c0;
const ERET: u32 = 0xd69f_03e0;
const SWITCH_TABLES: u32 = 0xd518_2009;

/// A moment at which the guest is stopped and read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stop {
    /// Name in the drawing.
    pub name: &'static str,
    place: Place,
    moment: Moment,
    /// Number of registers from x0 on that have a meaning here.
    pub arguments: usize,
}

/// The code in which a station is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    /// The CPU's reset address.
    Reset,
    /// The entered Image, or in a restart the one that leaves, at the same address.
    Image,
    /// The Image at the firmware's address.
    Loaded,
    /// The control pages.
    Control,
    /// kexec-tools' purgatory.
    Purgatory,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Moment {
    /// Before the instruction at this symbol.
    At(&'static str),
    /// After the first instruction with this encoding at or after the symbol.
    After(&'static str, u32),
}

const fn stop(name: &'static str, place: Place, moment: Moment, arguments: usize) -> Stop {
    Stop { name, place, moment, arguments }
}

const RESET: Stop = stop("reset", Place::Reset, Moment::At(""), 0);
const ENTRY: Stop = stop("_start", Place::Image, Moment::At("_start"), 4);
const EL2_SET_UP: Stop = stop("el2_setup: eret", Place::Image, Moment::After("el2_setup", ERET), 0);
const MMU_ON: Stop = stop("mmu_on: ret", Place::Image, Moment::After("mmu_on", RET), 0);
const MAIN: Stop = stop("kernel_main", Place::Image, Moment::At("kernel_main"), 0);
const FINALISED: Stop =
    stop("stub_finalise: eret", Place::Image, Moment::After("stub_finalise", ERET), 0);

const EFI_ENTRY: Stop = stop("efi_entry", Place::Loaded, Moment::At("efi_entry"), 2);
const EFI_LEAVE: Stop = stop("efi_leave", Place::Loaded, Moment::At("efi_leave"), 4);

const PURGATORY: Stop = stop("purgatory_start", Place::Purgatory, Moment::At(""), 0);

const BYE: Stop = stop("“Bye!”", Place::Image, Moment::At("relocate::control::code::enter"), 0);
const CONTROL: Stop =
    stop("relocate_new_kernel", Place::Control, Moment::At("relocate_new_kernel"), 0);
const TABLES: Stop =
    stop("msr ttbr0", Place::Control, Moment::After("relocate_new_kernel", SWITCH_TABLES), 0);
const COPIED: Stop = stop("verify", Place::Control, Moment::At("verify"), 0);
const MMU_OFF: Stop = stop("mmu_off: ret", Place::Control, Moment::After("mmu_off", RET), 0);
const STUB: Stop = stop("private_stub", Place::Control, Moment::At("private_stub"), 4);
const COLD_COPY: Stop = stop("cold_copy", Place::Control, Moment::At("cold_copy"), 0);

/// Returns the stations of a way, in order.
pub fn of(way: Way) -> Vec<Stop> {
    let mut stops = match (way.own, way.machine, way.loader) {
        (Some(Restart::Hot), "nvhe", _) => vec![BYE, CONTROL, TABLES, COPIED, MMU_OFF, STUB],
        (Some(Restart::Hot), ..) => vec![BYE, CONTROL, TABLES, COPIED, MMU_OFF],
        (Some(Restart::Cold), "nvhe", _) => vec![BYE, CONTROL, MMU_OFF, STUB, COLD_COPY, COPIED],
        (Some(Restart::Cold), ..) => vec![BYE, CONTROL, MMU_OFF, COPIED],
        (None, _, Loader::Uefi | Loader::UefiShell) => vec![RESET, EFI_ENTRY, EFI_LEAVE],
        (None, _, Loader::LinuxKexec) => vec![RESET, PURGATORY],
        (None, ..) => vec![RESET],
    };
    stops.push(ENTRY);
    stops.extend(way.has_el2().then_some(EL2_SET_UP));
    stops.extend([MMU_ON, MAIN]);
    stops.extend((way.machine == "vhe").then_some(FINALISED));
    stops
}

impl Stop {
    /// Reports whether this is the Image's first instruction.
    pub fn is_entry(self) -> bool {
        self == ENTRY
    }

    /// Reports whether the loader runs here, whatever is at that address later.
    pub fn is_loaders(self) -> bool {
        matches!(self.place, Place::Reset | Place::Purgatory)
    }

    /// Returns the name of the program, if the owner does not name it.
    pub fn runs(self) -> Option<&'static str> {
        (self.place == Place::Purgatory).then_some("kexec-tools")
    }

    /// Runs the guest to this station.
    pub fn reach(self, gdb: &mut Gdb, places: &mut Places, kernel: &Built) -> Result<()> {
        let of = || format!("on the way to {}", self.name);
        let (symbol, address) = match (self.place, self.moment) {
            (Place::Reset, _) => return Ok(()),
            (Place::Purgatory, _) => (self.name, 0),
            (_, Moment::At(symbol)) => (symbol, kernel.symbol(symbol)?),
            (_, Moment::After(symbol, word)) => {
                (symbol, kernel_build::first(kernel, symbol, word)?)
            }
        };
        let base = match self.place {
            Place::Reset | Place::Image => places.base,
            Place::Loaded => {
                places.loaded.context("no earlier run showed where the firmware loads the Image")?
            }
            Place::Purgatory => {
                places.purgatory.context("no earlier run showed where purgatory is")?
            }
            Place::Control => {
                let control = places
                    .control
                    .context("the station of the kernel's last function must come first")?;
                control
                    .checked_sub(places.page.start)
                    .context("the control page is below its link address")?
            }
        };
        gdb.run_to(base + address).with_context(of)?;
        if self == BYE {
            // x0 of `enter` is the address of the control pages; EL2's vectors are there already.
            places.control = Some(gdb.general()?[0]);
        }
        if self == ENTRY {
            let found = gdb.memory(base + MAGIC_AT as u64, 4)?;
            ensure!(
                found == MAGIC.to_le_bytes(),
                "no Image is at {base:#x}, where an earlier run entered it"
            );
        }
        if self == CONTROL {
            let linked = usize::try_from(places.page.start)?;
            let code = &kernel.image[linked..][..usize::try_from(ARGUMENTS_OFFSET)?];
            let found = gdb.memory(base + places.page.start, code.len())?;
            ensure!(found == code, "the control page does not hold the relocation code");
        }
        if let Moment::After(..) = self.moment {
            gdb.step().with_context(|| format!("after an instruction of {symbol}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{super::WAYS, *};

    #[test]
    fn each_way_comes_by_the_entry_once_and_ends_in_rust() {
        for way in WAYS {
            let stops = of(way);
            assert_eq!(stops.iter().filter(|stop| stop.is_entry()).count(), 1, "{}", way.name);
            let names: BTreeSet<_> = stops.iter().map(|stop| stop.name).collect();
            assert_eq!(names.len(), stops.len(), "{}", way.name);
            assert!(
                stops.contains(&MAIN) && stops.contains(&EL2_SET_UP) == way.has_el2(),
                "{}",
                way.name
            );
        }
    }
}
