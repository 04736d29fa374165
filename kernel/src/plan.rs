//! The plan of a kexec: segments of the next image and its FDT, checked.
//!
//! - Runs after the image was loaded, with the disk closed.
//! - Leaves a [`Plan`] whose segments have passed `relocate::segment::check`.
//! - Refuses whatever that check refuses.

use crate::error::Error;
use crate::load::{Image, Loaded};
use crate::memory::Frames;
use alloc::vec::Vec;
use boot::phys::PhysAddr;
use core::ops::Range;
use fdt::handover::Handover;
use fdt::machine::Machine;
use protocol::record;
use relocate::checksum::Crc32c;
use relocate::control::Check;
use relocate::segment::{self, MAX_SEGMENTS, Memory, Reserved, Segment};

/// A checked plan: the image, the FDT for the next kernel, and where each of them goes.
pub struct Plan {
    image: Image,
    tree: Frames,
    tree_range: Range<PhysAddr>,
    tree_crc32c: u32,
}

impl Plan {
    /// Plans the kexec of `image` with a copy of the FDT `blob`.
    ///
    /// Writes `handed`, the `/chosen` properties for a generation of ours, into that copy if given.
    ///
    /// # Errors
    ///
    /// A broken segment rule, too little memory, or an FDT that cannot be edited.
    pub fn new(
        image: Image,
        blob: &[u8],
        handed: Option<&Handover>,
        machine: &Machine,
        control: &Range<PhysAddr>,
    ) -> Result<Self, Error> {
        let destinations = image.payloads.iter().map(|payload| payload.destination.clone());
        // No frame is in memory that our own device tree reserves. But `machine.reserved` may also
        // hold the reservations of a payload's device tree.
        let avoid: Vec<_> =
            destinations.chain(machine.reserved.iter().map(|r| r.range.clone())).collect();
        let mut tree = Frames::contiguous(blob.len() as u64, &avoid).map_err(Error::Memory)?;
        let tree_range = tree.runs()[0].clone();
        let memory = tree.slices_mut().next().expect("contiguous frames are one run");
        memory[..blob.len()].copy_from_slice(blob);
        handed.map_or(Ok(()), |handed| handed.write(&mut memory[..blob.len()]))?;
        memory[blob.len()..].fill(0);

        let tree_crc32c = Crc32c::default().update(memory).value();
        let plan = Self { image, tree, tree_range, tree_crc32c };
        let reserved: Vec<_> = machine
            .reserved
            .iter()
            .map(|r| Reserved { range: r.range.clone(), name: &r.name })
            .collect();
        let memory = Memory {
            ram: &machine.ram,
            reserved: &reserved,
            devices: &machine.devices,
            control: control.clone(),
        };
        segment::check(&plan.segments(), &memory)?;
        Ok(plan)
    }

    /// Returns the segments: the image's payloads, and the FDT, which stays where it is.
    #[must_use]
    pub fn segments(&self) -> Vec<Segment<'_>> {
        let payloads = self.image.payloads.iter().map(|payload| Segment {
            name: &payload.name,
            destination: payload.destination.clone(),
            source: payload.frames.runs(),
        });
        let tree = Segment {
            name: "device tree",
            destination: self.tree_range.clone(),
            source: core::slice::from_ref(&self.tree_range),
        };
        payloads.chain([tree]).collect()
    }

    /// Returns the parts of the payloads' destinations that still have to be copied.
    #[must_use]
    pub fn moved(&self) -> Vec<Range<PhysAddr>> {
        self.image.payloads.iter().flat_map(Loaded::moved).collect()
    }

    /// Returns the checks that the relocation code makes before the jump: each copied range, and
    /// the FDT.
    ///
    /// Frames that are already in place are left out. [`Plan::check_sources`] verifies them just
    /// before the point of no return, and nothing is copied there. If there are more ranges than
    /// the arguments have room for, each payload is checked as a whole instead.
    #[must_use]
    pub fn checks(&self) -> Vec<Check> {
        let payloads = &self.image.payloads;
        let whole = |payload: &Loaded| Check::new(&payload.destination, payload.crc32c);
        let mut checks = Vec::new();
        for payload in payloads {
            for stretch in payload.moved() {
                // If the whole payload is copied, use the checksum taken when it was loaded.
                let is_all = stretch == payload.destination;
                checks.push(if is_all {
                    whole(payload)
                } else {
                    Check::new(&stretch, payload.crc32c_of(&stretch))
                });
            }
        }
        if checks.len() >= MAX_SEGMENTS {
            checks = payloads.iter().map(whole).collect();
        }
        checks.push(Check::new(&self.tree_range, self.tree_crc32c));
        checks
    }

    /// Checks every source against its checksum once more. \[I8\]
    ///
    /// # Errors
    ///
    /// The first source that has changed.
    pub fn check_sources(&self) -> Result<(), Error> {
        for payload in &self.image.payloads {
            let now = payload.frames.slices().fold(Crc32c::default(), Crc32c::update).value();
            if has_changed(payload.crc32c, now) {
                let what = alloc::format!("the source of \"{}\"", payload.name);
                return Err(Error::Changed(what, payload.crc32c, now));
            }
        }
        let now = self.tree.slices().fold(Crc32c::default(), Crc32c::update).value();
        if has_changed(self.tree_crc32c, now) {
            return Err(Error::Changed(record::NEXT_FDT.into(), self.tree_crc32c, now));
        }
        Ok(())
    }

    /// Returns the image that is moved.
    #[must_use]
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// Returns the address of the next image's first instruction.
    #[must_use]
    pub fn entry(&self) -> PhysAddr {
        self.image.entry
    }

    /// Returns the address of the next kernel's FDT.
    #[must_use]
    pub fn tree(&self) -> PhysAddr {
        self.tree_range.start
    }
}

/// Returns whether a checksum has changed. Not inlined: a test patches it.
#[inline(never)]
pub fn has_changed(was: u32, now: u32) -> bool {
    was != now
}
