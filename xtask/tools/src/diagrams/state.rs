//! The CPU state at a station: owner of the code, exception level, MMU and caches, vectors.
//!
//! Addresses become names here: the owner of the code or vectors there. Anything that is not ours
//! is the loader's. Refuses a QEMU that does not show a register.

use std::ops::Range;

use anyhow::{Context, Result};
use boot::{
    image::Header,
    sysreg::{hcr, sctlr},
};
use fdt::blob;

use crate::entry_state::Registers;
use harness::{
    kernel_build::Built,
    postmortem::{Gdb, Symbols},
};

use super::{Scouted, Stop, Way};

/// The first eight bytes of UEFI's system table.
const SYSTEM_TABLE: &[u8] = b"IBI SYST";

/// The addresses found so far.
pub struct Places {
    /// The recorded way.
    pub way: Way,
    /// Address of the entered Image; in a restart also of the Image that leaves.
    pub base: u64,
    /// Address of the Image as the firmware loaded it.
    pub loaded: Option<u64>,
    /// Address of the control pages, once the kernel has passed it on.
    pub control: Option<u64>,
    /// Start of kexec-tools' purgatory.
    pub purgatory: Option<u64>,
    /// Link addresses of the moved code.
    pub page: Range<u64>,
    /// Bytes of memory that the Image header requests.
    pub image_size: u64,
    /// Bytes of its file.
    file: u64,
    symbols: Symbols,
}

/// The owner of code, vectors or memory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Owner {
    /// No owner: a register that holds zero.
    Nobody,
    /// The loader: QEMU, firmware, Linux.
    Loader,
    /// The EFI stub: the Image at the firmware's address.
    Stub,
    /// The relocation code or its vectors.
    Control,
    /// The Image at its own address.
    Image,
}

/// The meaning of a general register.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Value {
    /// A small number.
    Number(u64),
    /// The address of this symbol, in the control pages or `_start`.
    Code(String),
    /// A device tree.
    DeviceTree,
    /// The end of what the previous register points to: the device tree or the Image's file.
    End,
    /// UEFI's system table.
    SystemTable,
    /// Any other value.
    Other,
}

/// The state at a station.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct State {
    /// Owner of the next instruction.
    pub who: Owner,
    /// The exception level, 1 or 2.
    pub level: u64,
    /// SPSel = 1: the level's own stack pointer is in use.
    pub own_stack_pointer: bool,
    /// Masked bits, in the order D, A, I, F.
    pub daif: [bool; 4],
    /// M, C and I of the level's SCTLR.
    pub on: [bool; 3],
    /// HCR_EL2's E2H and TGE, if there is an EL2.
    pub host: Option<[bool; 2]>,
    /// VBAR_EL1 and, if there is an EL2, VBAR_EL2: owner and symbol.
    pub vectors: Vec<(Owner, String)>,
    /// Values of x0 up to x3, as far as they have a meaning here.
    pub arguments: Vec<Value>,
}

impl Places {
    /// Makes the addresses known at the start of a run.
    pub fn new(way: Way, kernel: &Built, scouted: Scouted) -> Result<Self> {
        let page = kernel.symbol("relocate_page_start")?..kernel.symbol("relocate_page_end")?;
        let image_size = Header::parse(&kernel.image)?.image_size;
        let symbols = Symbols::read(&kernel.elf)?;
        let Scouted { base, loaded, purgatory } = scouted;
        let file = kernel.image.len() as u64;
        Ok(Self { way, base, loaded, control: None, purgatory, page, image_size, file, symbols })
    }

    /// Returns an address's owner, and its symbol if it is ours.
    fn owner(&self, address: u64) -> (Owner, String) {
        let within = |base: u64, linked: &Range<u64>| {
            address.checked_sub(base).map(|at| at + linked.start).filter(|at| linked.contains(at))
        };
        let image = 0..self.image_size;
        let places = [
            (Owner::Control, self.control, &self.page),
            (Owner::Image, Some(self.base), &image),
            (Owner::Stub, self.loaded, &image),
        ];
        let found = places
            .into_iter()
            .find_map(|(owner, base, linked)| Some((owner, within(base?, linked)?)));
        match found {
            // Return the symbol without its offset, which depends on the build.
            Some((owner, at)) => {
                let name = self.symbols.name(at).unwrap_or_default();
                (owner, name.split('+').next().unwrap_or_default().to_owned())
            }
            None if address == 0 => (Owner::Nobody, "0".to_owned()),
            None => (Owner::Loader, self.way.before.to_owned()),
        }
    }
}

impl State {
    /// Reads the state at a station.
    pub fn read(gdb: &mut Gdb, places: &Places, stop: Stop) -> Result<Self> {
        let Registers(found) = Registers::read(gdb)?;
        let register =
            |name: &str| found.get(name).copied().with_context(|| format!("QEMU shows no {name}"));
        let pc = gdb.register(&["pc"])?.context("QEMU shows no pc")?;
        let level = register("CurrentEL")? >> 2;
        let live = register(if level == 2 { "SCTLR_EL2" } else { "SCTLR_EL1" })?;
        let daif = register("DAIF")? >> 6;
        let host =
            found.get("HCR_EL2").map(|value| [hcr::E2H, hcr::TGE].map(|bit| value & bit != 0));
        let mut vectors = vec![places.owner(register("VBAR_EL1")?)];
        if places.way.has_el2() {
            vectors.push(places.owner(register("VBAR_EL2")?));
        }
        let who = if stop.is_loaders() { Owner::Loader } else { places.owner(pc).0 };
        let mut arguments = Vec::new();
        let mut before = None;
        for name in ["x0", "x1", "x2", "x3"].into_iter().take(stop.arguments) {
            let register = register(name)?;
            arguments.push(value(gdb, places, before, register));
            before = Some(register);
        }
        Ok(Self {
            who,
            level,
            own_stack_pointer: register("SPSel")? == 1,
            daif: [3, 2, 1, 0].map(|bit| daif >> bit & 1 == 1),
            on: [sctlr::M, sctlr::C, sctlr::I].map(|bit| live & bit != 0),
            host: host.filter(|_| places.way.has_el2()),
            vectors,
            arguments,
        })
    }
}

/// Classifies a register's value; `before` is the previous register's value.
fn value(gdb: &mut Gdb, places: &Places, before: Option<u64>, value: u64) -> Value {
    let mut tree_size = |at: u64| gdb.memory(at, 8).ok().and_then(|start| blob::size(&start));
    let tree_end = before.and_then(|tree| Some(tree + tree_size(tree)? as u64));
    let image_end = before.filter(|&base| base == places.base).map(|base| base + places.file);
    match value {
        0..=9 => Value::Number(value),
        value if value == places.base => Value::Code("_start".to_owned()),
        value if places.owner(value).0 == Owner::Control => Value::Code(places.owner(value).1),
        _ if [tree_end, image_end].contains(&Some(value)) => Value::End,
        _ if tree_size(value).is_some() => Value::DeviceTree,
        _ if gdb.memory(value, SYSTEM_TABLE.len()).is_ok_and(|found| found == SYSTEM_TABLE) => {
            Value::SystemTable
        }
        _ => Value::Other,
    }
}
