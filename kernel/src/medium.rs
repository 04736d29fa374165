//! The boot medium that holds the FIT: the disk, or the initrd that the loader named.
//!
//! - The disk is the default. The initrd serves if the machine has no virtio-blk device, or if
//!   `fit=initrd` is on the command line.
//! - Every generation keeps an initrd with a FIT reserved, and hands it on in /chosen.
//! - Refuses `fit=initrd` without an initrd that begins with a FIT.
#![expect(unsafe_code, reason = "reads the initrd where the loader put it")]

use crate::devices::{Devices, DriverError};
use crate::disk::{self, Disk};
use crate::memory::pointer;
use alloc::boxed::Box;
use boot::phys::{PhysAddr, PhysRange};
use core::ops::Range;
use fdt::blob::MAGIC;
use fdt::machine::{Machine, Reservation};
use log::info;
use protocol::cmdline::FitSource;
use protocol::fit;

/// The name of the initrd's reservation.
const NAME: &str = "the FIT in the initrd";

/// The reason why the initrd holds no FIT.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NoFit {
    /// /chosen has no initrd.
    #[error("the device tree names no initrd")]
    NotNamed,
    /// The initrd is not in one range of RAM that this kernel may read, or has less than a word.
    #[error(
        "the initrd at {}..{} is shorter than 4 bytes, outside of RAM, in no-map memory, or \
         overlaps the Image",
        .0.start, .0.end
    )]
    OutOfReach(Range<PhysAddr>),
    /// The initrd begins with this word, not with [`MAGIC`].
    #[error("the initrd at {0} begins with {1:#010x}, and a FIT with {MAGIC:#010x}")]
    NotAFit(PhysAddr, u32),
}

/// The reason why the FIT's medium cannot be opened or read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The disk cannot be opened or read.
    #[error(transparent)]
    Disk(#[from] disk::Error),
    /// There is no disk among this number of devices, and no initrd with a FIT.
    #[error(
        "no disk: none of {0} devices is one that can be driven: attach one, or hand over a FIT as \
         the initrd ({1})"
    )]
    NoMedium(usize, NoFit),
    /// The command line has `fit=initrd`, and the initrd holds no FIT.
    #[error("fit=initrd, but {0}: hand over a FIT as the initrd, or leave that parameter out")]
    NoInitrd(NoFit),
}

/// The range that /chosen names as the initrd. Its content has not been read.
pub struct Candidate(Range<PhysAddr>);

impl Candidate {
    /// Returns the range, if this kernel may read it.
    ///
    /// # Errors
    ///
    /// [`NoFit::NotNamed`], [`NoFit::OutOfReach`].
    pub fn of(
        initrd: Option<&Range<PhysAddr>>,
        machine: &Machine,
        image: &Range<PhysAddr>,
    ) -> Result<Self, NoFit> {
        let range = initrd.cloned().ok_or(NoFit::NotNamed)?;
        let is_unmapped = |r: &Reservation| r.no_map && r.range.whole_pages().overlaps(&range);
        let is_readable = range.start < range.end
            && range.bytes() >= size_of_val(&MAGIC) as u64
            && machine.ram.iter().any(|ram| ram.covers(&range))
            && !machine.reserved.iter().any(is_unmapped)
            && !range.whole_pages().overlaps(image);
        if is_readable { Ok(Self(range)) } else { Err(NoFit::OutOfReach(range)) }
    }

    /// Returns the reservation that keeps the range out of heap, frames and images.
    pub fn reservation(&self) -> Reservation {
        Reservation { range: self.0.clone(), name: NAME.into(), no_map: false }
    }

    /// Reads the first word.
    ///
    /// # Errors
    ///
    /// [`NoFit::NotAFit`].
    ///
    /// # Safety
    ///
    /// The range must be mapped. If this succeeds, nothing may write to it from here on.
    pub unsafe fn open(self) -> Result<Initrd, NoFit> {
        let Self(range) = self;
        // SAFETY: `from_raw_parts` requires mapped, initialized memory that is not written
        // meanwhile. Our caller guarantees that, and any byte is valid.
        let bytes = unsafe {
            core::slice::from_raw_parts(pointer(range.start).cast_const(), range.bytes() as usize)
        };
        let magic = bytes.first_chunk().copied().map(u32::from_be_bytes).unwrap_or_default();
        if magic == MAGIC {
            Ok(Initrd { start: range.start, bytes })
        } else {
            Err(NoFit::NotAFit(range.start, magic))
        }
    }
}

/// An initrd that begins with a FIT's magic. Its memory stays reserved.
#[derive(Clone, Copy)]
#[doc(alias = "ramdisk")]
pub struct Initrd {
    start: PhysAddr,
    bytes: &'static [u8],
}

impl Initrd {
    fn read(&self, from: u64, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.bytes[from as usize..][..buffer.len()]);
    }
}

/// The open medium that holds the FIT.
pub enum Medium {
    /// A virtio-blk device.
    Disk(Box<Disk>),
    /// The initrd.
    Initrd(Initrd),
}

impl Medium {
    /// Opens the medium that holds the FIT: the one that `fit` names, otherwise the disk, or the
    /// initrd of a machine without a disk.
    ///
    /// # Errors
    ///
    /// [`Error::Disk`], [`Error::NoMedium`], [`Error::NoInitrd`].
    pub fn open(
        devices: &Devices,
        initrd: &Result<Initrd, NoFit>,
        fit: Option<FitSource>,
    ) -> Result<Self, Error> {
        let why = match fit {
            Some(FitSource::Initrd) => "fit=initrd",
            None => match (Disk::open(devices), initrd) {
                (Err(disk::Error::DriverError(DriverError::None(_))), Ok(_)) => "no disk",
                (Err(disk::Error::DriverError(DriverError::None(count))), Err(why)) => {
                    return Err(Error::NoMedium(count, why.clone()));
                }
                (disk, _) => return Ok(Self::Disk(Box::new(disk?))),
            },
        };
        let initrd = initrd.clone().map_err(Error::NoInitrd)?;
        info!("{why}: the FIT is the initrd, {} bytes at {}", initrd.bytes.len(), initrd.start);
        Ok(Self::Initrd(initrd))
    }

    /// Returns the medium's name and size, for the FIT's parser.
    #[must_use]
    pub fn described(&self) -> fit::Medium {
        match self {
            Self::Disk(disk) => fit::Medium::disk(disk.bytes()),
            Self::Initrd(initrd) => fit::Medium::initrd(initrd.bytes.len() as u64),
        }
    }

    /// Returns the counter ticks spent waiting for requests, all together.
    #[must_use]
    pub fn waited(&self) -> u64 {
        match self {
            Self::Disk(disk) => disk.waited(),
            Self::Initrd(_) => 0,
        }
    }

    /// Returns the number of requests made.
    #[must_use]
    pub fn requests(&self) -> u64 {
        match self {
            Self::Disk(disk) => disk.requests(),
            Self::Initrd(_) => 0,
        }
    }

    /// Reads `buffer.len()` bytes, starting at byte `from`.
    ///
    /// # Errors
    ///
    /// [`Error::Disk`].
    ///
    /// # Panics
    ///
    /// If an initrd ends before that: the FIT's parser has checked every place.
    pub fn read(&mut self, from: u64, buffer: &mut [u8]) -> Result<(), Error> {
        match self {
            Self::Disk(disk) => Ok(disk.read(from, buffer)?),
            Self::Initrd(initrd) => {
                initrd.read(from, buffer);
                Ok(())
            }
        }
    }

    /// Does the same as [`Self::read`] for a buffer of frames, which a device may write to
    /// directly.
    ///
    /// # Errors
    ///
    /// [`Error::Disk`].
    ///
    /// # Panics
    ///
    /// As [`Self::read`].
    pub fn read_frames(&mut self, from: u64, frames: &mut [u8]) -> Result<(), Error> {
        match self {
            Self::Disk(disk) => Ok(disk.read_frames(from, frames)?),
            Self::Initrd(initrd) => {
                initrd.read(from, frames);
                Ok(())
            }
        }
    }
}
