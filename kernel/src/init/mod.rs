//! The start of a generation, in typed steps: `Parsed → Mapped → Owned → Running`.
//!
//! | step | leaves |
//! |---|---|
//! | [`Parsed`] | the FDT and the command line read, the mode entered; still on the early idmap |
//! | [`Mapped`](mapped::Mapped) | the kernel's idmap with image, FDT and devices; the console; LPIs off |
//! | [`Owned`](owned::Owned) | all RAM mapped, heap and frames; the FDT copied, so its memory is free |
//! | [`Running`] | interrupts taken over, CPUs described, devices found and reset |
//!
//! Each step consumes the one before it, so no step can run early or twice. A step that fails
//! returns [`Error`]: this generation cannot run without what it asked for.

mod mapped;
mod owned;
mod parsed;
mod running;

pub use self::running::{Found, Running};

use self::parsed::Parsed;
use boot::record::EntryRecord;
use fdt::machine;

/// A reason why this generation cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// x0 names no FDT that the entry code could map. Holds x0 and the size found there.
    #[error(
        "x0 = {0:#x}, size {1}: a loader must hand over an 8-byte aligned device tree of at most \
         2 MiB, outside of the Image"
    )]
    NoTree(u64, u64),
    /// The FDT cannot be used.
    #[error(transparent)]
    Tree(#[from] machine::Error),
    /// No range of RAM is free for the control pages.
    #[error("RAM has no free range for the control pages: give the machine more")]
    NoControlPages,
}

/// Takes the machine over from `boot`'s entry code.
///
/// # Errors
///
/// [`Error`], if there is no usable FDT, or too little RAM.
pub fn init(record: &'static EntryRecord) -> Result<Running, Error> {
    Ok(Parsed::read(record)?.map()?.own()?.run())
}
