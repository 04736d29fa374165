//! The reasons why a kexec is refused: one sentence for each rule.
//!
//! Each sentence carries the value that broke the rule. Code that refuses has freed what it
//! allocated. Only `main` prints the sentence.

use crate::devices::Busy;
use crate::{cpus, medium};
use alloc::string::{String, ToString};
use boot::phys::PhysAddr;
use core::ops::Range;
use fdt::{chosen, machine};
use protocol::{fit, gzip, record};

/// The reason why this generation does not kexec.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The medium that holds the FIT cannot be opened or read.
    #[error(transparent)]
    Medium(#[from] medium::Error),
    /// The FIT or a payload in it cannot be used.
    #[error(transparent)]
    Fit(#[from] fit::Error),
    /// The kernel with this name cannot be unpacked, for this reason.
    #[error("\"{0}\" cannot be unpacked: {1}")]
    Gzip(String, gzip::Error),
    /// The kernel is no Image for this machine.
    #[error(transparent)]
    Image(#[from] boot::image::Error),
    /// A segment rule is broken. Holds its sentence, since the error borrows from the plan.
    #[error("{0}")]
    Segments(String),
    /// This many bytes of frames are missing.
    #[error("not enough memory: {0} more bytes of frames cannot be had: give the machine more")]
    Memory(u64),
    /// The heap has no room for this many bytes.
    #[error("not enough memory: the heap has no room for {0} bytes: give the machine more")]
    Heap(u64),
    /// No 2 MiB slot of RAM has this many free bytes.
    #[error("not enough memory: no 2 MiB slot of RAM has {0} bytes that are free to land on")]
    NoSlot(u64),
    /// The FIT has no configuration with this number, counted from the first one tried.
    #[error("the FIT has no configuration after the {0} that were refused")]
    NoConfiguration(usize),
    /// The FIT has no configuration with the name in `payload=`.
    #[error("payload={0}: the FIT has no configuration of that name: name one that it has")]
    NoPayload(String),
    /// An initrd of this many bytes does not fit anywhere in reach of the kernel, which is at this
    /// range.
    #[error(
        "not enough memory: no {0} bytes for the ramdisk are free where a kernel at {start}..{end} \
         could reach them",
        start = .1.start, end = .1.end
    )]
    NoRoom(u64, Range<PhysAddr>),
    /// The initrd's range is too far from the kernel's range.
    #[error(
        "the ramdisk at {}..{} and the kernel at {}..{} do not fit into one window of 32 GiB that \
         starts at a multiple of 1 GiB: write another load address, or none",
        .0.start, .0.end, .1.start, .1.end
    )]
    Window(Range<PhysAddr>, Range<PhysAddr>),
    /// The payload's own device tree has no RAM at this segment's destination.
    #[error(
        "the payload's device tree names no RAM at {start}..{end}, where \"{0}\" is to be placed: \
         give one of this machine",
        start = .1.start, end = .1.end
    )]
    NotItsRam(String, Range<PhysAddr>),
    /// The payload's FDT cannot be written.
    #[error(transparent)]
    Chosen(#[from] chosen::Error),
    /// The command line has `base=load`, but the FIT has no load address.
    #[error(
        "base=load, but the FIT's kernel has no load address: write one, or order another base"
    )]
    NoLoadAddress,
    /// With `base=load`, this load address is not this `text_offset` above a 2 MiB boundary.
    #[error(
        "base=load, but the FIT's kernel cannot be at {0}: its header asks for {1:#x} above a \
         multiple of 2 MiB: write such a load address"
    )]
    Misplaced(PhysAddr, u64),
    /// The list needs more pages than the control pages have.
    #[error(transparent)]
    List(#[from] relocate::list::TooFewPages),
    /// The relocation idmap needs more tables than the control pages have left.
    #[error(
        "the relocation idmap needs {needed} page tables, and the control pages have {given} left: \
         RAM is in too many pieces"
    )]
    Tables {
        /// The number of tables that it needs.
        needed: usize,
        /// The number of control pages left for tables.
        given: usize,
    },
    /// The FDT for the next kernel cannot be edited.
    #[error(transparent)]
    Tree(#[from] machine::Error),
    /// The CPU lacks FEAT_CRC32, which the relocation code needs to verify its copy.
    #[error("this CPU has no FEAT_CRC32: the copy could not be verified")]
    NoCrc32,
    /// The list does not match the segments.
    #[error(transparent)]
    ListMismatch(relocate::list::ListMismatch),
    /// A device could write to memory after the jump.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The GIC cannot be silenced. \[I9\]
    #[error(
        "the GIC that the device tree names is not one that we drive: its interrupts would reach \
         the next kernel; `force` continues nevertheless"
    )]
    Gic,
    /// A CPU does not stop.
    #[error(transparent)]
    Cpu(#[from] cpus::Error),
    /// This part of what the kexec depends on has changed: checksum then, checksum now.
    #[error(
        "{0} {changed} (CRC-32C {1:#010x} then, {2:#010x} now): something writes to memory",
        changed = record::CHANGED
    )]
    Changed(String, u32, u32),
    /// The hyp-stub did not install the private vectors, and returned this.
    #[error("the stub refused the private EL2 vectors: HVC_SET_VECTORS answered {0:#x}")]
    Vectors(u64),
}

impl From<relocate::segment::Error<'_>> for Error {
    fn from(error: relocate::segment::Error<'_>) -> Self {
        Self::Segments(error.to_string())
    }
}
