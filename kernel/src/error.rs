//! The reasons why a kexec is refused: one sentence for each rule.
//!
//! Each sentence carries the value that broke the rule. Code that refuses has freed what it
//! allocated. Only `main` prints the sentence.

use crate::devices::Busy;
use crate::{cpus, disk};
use alloc::string::{String, ToString};
use boot::phys::PhysAddr;
use core::fmt;
use core::ops::Range;
use fdt::{chosen, machine};
use protocol::{fit, gzip};

/// The reason why this generation does not kexec.
#[derive(Debug)]
pub enum Error {
    /// The disk cannot be read.
    Disk(disk::Error),
    /// The FIT or a payload on the disk cannot be used.
    Fit(fit::Error),
    /// The kernel with this name cannot be unpacked, for this reason.
    Gzip(String, gzip::Error),
    /// The kernel is no Image for this machine.
    Image(boot::image::Error),
    /// A segment rule is broken. Holds its sentence, since the error borrows from the plan.
    Segments(String),
    /// The heap lacks frames for this many bytes.
    Memory(u64),
    /// No 2 MiB slot of RAM has this many free bytes.
    NoSlot(u64),
    /// The FIT has no configuration with this number, counted from the first one tried.
    NoConfiguration(usize),
    /// The FIT has no configuration with the name in `payload=`.
    NoPayload(String),
    /// An initrd of this many bytes does not fit anywhere in reach of the kernel, which is at this
    /// range.
    NoRoom(u64, Range<PhysAddr>),
    /// The initrd's range is too far from the kernel's range.
    Window(Range<PhysAddr>, Range<PhysAddr>),
    /// The payload's own device tree has no RAM at this segment's destination.
    NotItsRam(String, Range<PhysAddr>),
    /// The payload's FDT cannot be written.
    Chosen(chosen::Error),
    /// The command line has `base=load`, but the FIT has no load address.
    NoLoadAddress,
    /// With `base=load`, this load address is not this `text_offset` above a 2 MiB boundary.
    Misplaced(PhysAddr, u64),
    /// The list needs more pages than the control pages have.
    List(relocate::list::TooFewPages),
    /// The FDT for the next kernel cannot be edited.
    Tree(machine::Error),
    /// The CPU lacks FEAT_CRC32, which the relocation code needs to verify its copy.
    NoCrc32,
    /// The list does not match the segments.
    ListMismatch(relocate::list::ListMismatch),
    /// A device could write to memory after the jump.
    Busy(Busy),
    /// A CPU does not stop.
    Cpu(cpus::Error),
    /// This part of what the kexec depends on has changed: checksum then, checksum now.
    Changed(String, u32, u32),
    /// The hyp-stub did not install the private vectors, and returned this.
    Vectors(u64),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(error) => error.fmt(f),
            Self::Fit(error) => error.fmt(f),
            Self::Gzip(name, error) => write!(f, "\"{name}\" cannot be unpacked: {error}"),
            Self::Image(error) => error.fmt(f),
            Self::Segments(error) => error.fmt(f),
            Self::Memory(bytes) => {
                write!(
                    f,
                    "not enough memory: {bytes} more bytes of frames cannot be had: \
                     give the machine more"
                )
            }
            Self::NoSlot(bytes) => {
                write!(
                    f,
                    "not enough memory: no 2 MiB slot of RAM has {bytes} bytes that are free to \
                     land on"
                )
            }
            Self::NoConfiguration(number) => {
                write!(f, "the FIT has no configuration after the {number} that were refused")
            }
            Self::NoPayload(name) => {
                write!(
                    f,
                    "payload={name}: the FIT has no configuration of that name: \
                     name one that it has"
                )
            }
            Self::NoRoom(bytes, kernel) => write!(
                f,
                "not enough memory: no {bytes} bytes for the ramdisk are free where a kernel at \
                 {}..{} could reach them",
                kernel.start, kernel.end
            ),
            Self::Window(initrd, kernel) => write!(
                f,
                "the ramdisk at {}..{} and the kernel at {}..{} do not fit into one window of \
                 32 GiB that starts at a multiple of 1 GiB: write another load address, or none",
                initrd.start, initrd.end, kernel.start, kernel.end
            ),
            Self::NotItsRam(name, place) => write!(
                f,
                "the payload's device tree names no RAM at {}..{}, where \"{name}\" is to lie: \
                 give one of this machine",
                place.start, place.end
            ),
            Self::Chosen(error) => error.fmt(f),
            Self::NoLoadAddress => f.write_str(
                "base=load, but the FIT's kernel has no load address: write one, or order \
                     another base",
            ),
            Self::Misplaced(load, text_offset) => write!(
                f,
                "base=load, but the FIT's kernel cannot lie at {load}: its header asks for \
                 {text_offset:#x} above a multiple of 2 MiB: write such a load address"
            ),
            Self::List(error) => error.fmt(f),
            Self::Tree(error) => error.fmt(f),
            Self::NoCrc32 => {
                f.write_str("this CPU has no FEAT_CRC32: the copy could not be verified")
            }
            Self::ListMismatch(error) => error.fmt(f),
            Self::Busy(busy) => busy.fmt(f),
            Self::Cpu(error) => error.fmt(f),
            Self::Changed(what, was, is) => write!(
                f,
                "{what} changed between load and jump (CRC-32C {was:#010x} then, {is:#010x} now): \
                 something writes to memory"
            ),
            Self::Vectors(answer) => {
                write!(
                    f,
                    "the stub refused the private EL2 vectors: HVC_SET_VECTORS answered \
                     {answer:#x}"
                )
            }
        }
    }
}

impl From<disk::Error> for Error {
    fn from(error: disk::Error) -> Self {
        Self::Disk(error)
    }
}

impl From<cpus::Error> for Error {
    fn from(error: cpus::Error) -> Self {
        Self::Cpu(error)
    }
}

impl From<Busy> for Error {
    fn from(busy: Busy) -> Self {
        Self::Busy(busy)
    }
}

impl From<chosen::Error> for Error {
    fn from(error: chosen::Error) -> Self {
        Self::Chosen(error)
    }
}

impl From<fit::Error> for Error {
    fn from(error: fit::Error) -> Self {
        Self::Fit(error)
    }
}

impl From<boot::image::Error> for Error {
    fn from(error: boot::image::Error) -> Self {
        Self::Image(error)
    }
}

impl From<relocate::segment::Error<'_>> for Error {
    fn from(error: relocate::segment::Error<'_>) -> Self {
        Self::Segments(error.to_string())
    }
}

impl From<relocate::list::TooFewPages> for Error {
    fn from(error: relocate::list::TooFewPages) -> Self {
        Self::List(error)
    }
}

impl From<machine::Error> for Error {
    fn from(error: machine::Error) -> Self {
        Self::Tree(error)
    }
}
