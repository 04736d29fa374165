//! The first step: reads the FDT and the command line, and enters the mode.
//!
//! - Expects the early idmap, which maps the image and the FDT.
//! - Leaves: a heap that has only its arena; the CPU in the mode that the command line requests, or
//!   the nearest that it has.
#![expect(unsafe_code, reason = "reads the FDT that the loader handed over")]

use super::Error;
use crate::enter_mode::enter_mode;
use crate::layout::handed_over_tree;
use crate::memory::Heap;
use crate::{clock, cpus, end, firmware};
use alloc::string::{String, ToString};
use boot::phys::{PhysAddr, PhysRange};
use boot::record::EntryRecord;
use core::ops::Range;
use fdt::handover::Handover;
use fdt::machine::{Machine, Tree};
use frames::layout::usable;
use protocol::cmdline::{Cmdline, Error as CmdlineError};
use protocol::mode::{Mode, Note};

/// The FDT and the command line, read; the mode, entered.
pub struct Parsed {
    /// The entry code's record.
    pub record: &'static EntryRecord,
    /// CNTVCT at the start of this step.
    pub main: u64,
    /// The heap, which has only its arena.
    pub heap: Heap,
    /// The FDT where the loader put it. Must not be used once its memory is handed out as frames.
    pub handed_over: &'static [u8],
    /// The content of the FDT and the command line.
    pub facts: Facts,
}

/// The content of the FDT and the command line, and the mode that follows from them.
pub struct Facts {
    /// The previous kernel's properties of /chosen. `None` after another loader.
    pub handed: Option<Handover>,
    /// This generation's number.
    pub generation: u32,
    /// The parameters on the command line.
    pub cmdline: Cmdline,
    /// The error for the first parameter that could not be parsed.
    pub cmdline_error: Option<String>,
    /// The machine. Its RAM is whole pages, without page 0.
    pub machine: Machine,
    /// The FDT does not name this CPU: `machine.cpus` is this CPU alone.
    pub is_unnamed: bool,
    /// The loader's initrd.
    pub initrd: Option<Range<PhysAddr>>,
    /// The mode that this kernel runs in.
    pub mode: Mode,
    /// The reason if that is not the mode that the command line requests.
    pub note: Option<Note>,
}

impl Parsed {
    /// Reads the FDT in x0, and enters the mode.
    ///
    /// # Errors
    ///
    /// [`Error::NoTree`], [`Error::Tree`].
    pub fn read(record: &'static EntryRecord) -> Result<Self, Error> {
        let main = clock::now();
        let heap = Heap::begin();
        // SAFETY: `handed_over_tree` requires that its result is unused once its memory is handed
        // out as frames. `Mapped::own` drops it before that.
        let handed_over = unsafe { handed_over_tree(record) };
        let handed_over = handed_over.ok_or(Error::NoTree(record.x0, record.dtb_size))?;
        let tree = Tree::open(handed_over)?;
        let (cmdline, parsed) = Cmdline::parse(tree.bootargs());
        let cmdline_error = parsed.err().map(|error: CmdlineError| error.to_string());
        let handed = Handover::read(&tree);
        let generation = handed.map_or(0, |handed| handed.generation);
        let mut machine = Machine::read(&tree)?;
        machine.ram = usable(&machine.ram);
        let is_unnamed = cpus::stay_alone_if_unnamed(&mut machine.cpus);
        let initrd = tree.initrd();

        let (mode, note) = enter_mode(record, cmdline.el2(generation));
        firmware::prepare(machine.psci.as_ref());
        end::prepare(cmdline.semihosting);
        let facts = Facts {
            handed,
            generation,
            cmdline,
            cmdline_error,
            machine,
            is_unnamed,
            initrd,
            mode,
            note,
        };
        Ok(Self { record, main, heap, handed_over, facts })
    }

    /// Returns the pages that hold the FDT.
    pub fn fdt_pages(&self) -> Range<PhysAddr> {
        let start = PhysAddr::new(self.record.x0);
        (start..start + self.handed_over.len() as u64).whole_pages()
    }
}
