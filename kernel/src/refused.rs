//! Why a generation would not restart: one sentence for each rule, with the value that broke it.
//!
//! *When:* anywhere between the disk and the point of no return. Whoever refuses has given back what it took; `main` alone prints.

use crate::devices::Busy;
use crate::{cpus, disk};
use alloc::string::{String, ToString};
use boot::phys::PhysAddr;
use core::fmt;
use core::ops::Range;
use kernel::{chosen, fit, gzip, tree};

/// A restart that does not happen.
#[derive(Debug)]
pub enum Refused {
    /// The disk cannot be read.
    Disk(disk::Refused),
    /// What it holds is not to be used.
    Fit(fit::Refused),
    /// A kernel on it cannot be unpacked: its name, and why.
    Gzip(String, gzip::Refused),
    /// The kernel on it is no Image for this machine.
    Image(boot::image::Refused),
    /// A rule of the segments is broken: its sentence, which names what the segments no longer do.
    Segments(String),
    /// Frames for so many bytes cannot be had.
    Memory(u64),
    /// No slot of RAM holds so many bytes.
    NoSlot(u64),
    /// The FIT has no configuration of that number, counted from the default one.
    NoConfiguration(usize),
    /// `payload=` names a configuration that the FIT has not.
    NoPayload(String),
    /// No place for a ramdisk of so many bytes where the kernel, at that place, can reach it.
    NoRoom(u64, Range<PhysAddr>),
    /// A ramdisk too far from the kernel: where both are to be.
    Window(Range<PhysAddr>, Range<PhysAddr>),
    /// The payload's own device tree has no RAM where this is to lie.
    NotItsRam(String, Range<PhysAddr>),
    /// No device tree for the payload.
    Chosen(chosen::Refused),
    /// `base=load`, and the FIT says no load address.
    NoLoadAddress,
    /// `base=load`, and the FIT's load address is not that far above a 2 MiB boundary.
    Misplaced(PhysAddr, u64),
    /// More list pages than the control block has.
    List(relocate::list::TooFewPages),
    /// The device tree cannot be handed on.
    Tree(tree::Refused),
    /// The CPU has no FEAT_CRC32, which the relocation code checks with.
    NoCrc32,
    /// The list does not say what the segments say.
    Unfaithful(relocate::list::Unfaithful),
    /// A device could write to memory after the jump.
    Busy(Busy),
    /// A CPU would go on running.
    Cpu(cpus::Refused),
    /// What the restart depends on has changed since it was made: which, and both checksums.
    Changed(String, u32, u32),
    /// The stub would not install the private vectors: its answer.
    Vectors(u64),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(refused) => refused.fmt(f),
            Self::Fit(refused) => refused.fmt(f),
            Self::Gzip(name, refused) => write!(f, "\"{name}\" cannot be unpacked: {refused}"),
            Self::Image(refused) => refused.fmt(f),
            Self::Segments(refused) => refused.fmt(f),
            Self::Memory(bytes) => {
                write!(f, "not enough memory: {bytes} more bytes of frames cannot be had: give the machine more")
            }
            Self::NoSlot(bytes) => {
                write!(f, "not enough memory: no 2 MiB slot of RAM has {bytes} bytes that are free to land on")
            }
            Self::NoConfiguration(number) => {
                write!(f, "the FIT has no configuration after the {number} that were refused")
            }
            Self::NoPayload(name) => {
                write!(f, "payload={name}: the FIT has no configuration of that name: name one that it has")
            }
            Self::NoRoom(bytes, kernel) => write!(
                f,
                "not enough memory: no {bytes} bytes for the ramdisk are free where a kernel at {}..{} could reach them",
                kernel.start, kernel.end
            ),
            Self::Window(ramdisk, kernel) => write!(
                f,
                "the ramdisk at {}..{} and the kernel at {}..{} do not lie in one window of 32 GiB from a multiple of 1 GiB on: \
                 write another load address, or none",
                ramdisk.start, ramdisk.end, kernel.start, kernel.end
            ),
            Self::NotItsRam(name, place) => write!(
                f,
                "the payload's device tree names no RAM at {}..{}, where \"{name}\" is to lie: give one of this machine",
                place.start, place.end
            ),
            Self::Chosen(refused) => refused.fmt(f),
            Self::NoLoadAddress => {
                f.write_str("base=load, but the FIT's kernel has no load address: write one, or order another base")
            }
            Self::Misplaced(load, text_offset) => write!(
                f,
                "base=load, but the FIT's kernel cannot lie at {load}: its header asks for {text_offset:#x} above a multiple of 2 MiB: \
                 write such a load address"
            ),
            Self::List(refused) => refused.fmt(f),
            Self::Tree(refused) => refused.fmt(f),
            Self::NoCrc32 => f.write_str("this CPU has no FEAT_CRC32: the copy could not be verified"),
            Self::Unfaithful(refused) => refused.fmt(f),
            Self::Busy(busy) => busy.fmt(f),
            Self::Cpu(refused) => refused.fmt(f),
            Self::Changed(what, was, is) => write!(
                f,
                "{what} changed between load and jump (CRC-32C {was:#010x} then, {is:#010x} now): something writes to memory"
            ),
            Self::Vectors(answer) => {
                write!(f, "the stub refused the private EL2 vectors: HVC_SET_VECTORS answered {answer:#x}")
            }
        }
    }
}

impl From<disk::Refused> for Refused {
    fn from(refused: disk::Refused) -> Self {
        Self::Disk(refused)
    }
}

impl From<cpus::Refused> for Refused {
    fn from(refused: cpus::Refused) -> Self {
        Self::Cpu(refused)
    }
}

impl From<Busy> for Refused {
    fn from(busy: Busy) -> Self {
        Self::Busy(busy)
    }
}

impl From<chosen::Refused> for Refused {
    fn from(refused: chosen::Refused) -> Self {
        Self::Chosen(refused)
    }
}

impl From<fit::Refused> for Refused {
    fn from(refused: fit::Refused) -> Self {
        Self::Fit(refused)
    }
}

impl From<boot::image::Refused> for Refused {
    fn from(refused: boot::image::Refused) -> Self {
        Self::Image(refused)
    }
}

impl From<relocate::segment::Refused<'_>> for Refused {
    fn from(refused: relocate::segment::Refused<'_>) -> Self {
        Self::Segments(refused.to_string())
    }
}

impl From<relocate::list::TooFewPages> for Refused {
    fn from(refused: relocate::list::TooFewPages) -> Self {
        Self::List(refused)
    }
}

impl From<tree::Refused> for Refused {
    fn from(refused: tree::Refused) -> Self {
        Self::Tree(refused)
    }
}
