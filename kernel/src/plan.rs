//! Plan: a verified image becomes segments that obey every rule, with the device tree that the next generation gets.
//!
//! *When:* after load, with the disk closed. *Leaves:* a [`Plan`] whose segments have passed `relocate::segment::check`. *Refuses:* whatever
//! that refuses.

use crate::load::{Image, Loaded};
use crate::memory::Frames;
use crate::refused::Refused;
use crate::stage::has_changed;
use alloc::vec::Vec;
use boot::phys::{PAGE_SIZE, PhysAddr};
use core::ops::Range;
use kernel::handover::Handed;
use kernel::tree::Machine;
use relocate::checksum::Crc32c;
use relocate::control::Check;
use relocate::segment::{self, MAX_SEGMENTS, Memory, Reserved, Segment};

/// What will happen, checked.
pub struct Plan {
    image: Image,
    tree: Frames,
    tree_range: Range<PhysAddr>,
    tree_crc32c: u32,
}

impl Plan {
    /// Makes the plan for `image`, handing on `blob` with `handed`, where there is any, written into it.
    ///
    /// # Errors
    ///
    /// A rule of the segments, no memory, or a blob that cannot be edited.
    pub fn new(
        image: Image,
        blob: &[u8],
        handed: Option<&Handed>,
        machine: &Machine,
        control: &Range<PhysAddr>,
    ) -> Result<Self, Refused> {
        let destinations = image.payloads.iter().map(|payload| payload.destination.clone());
        // None of our frames is reserved in our tree; a payload's own may reserve more.
        let avoid: Vec<_> =
            destinations.chain(machine.reserved.iter().map(|r| r.range.clone())).collect();
        let mut tree = Frames::contiguous(blob.len() as u64, &avoid).map_err(Refused::Memory)?;
        let start = tree.runs()[0].start;
        let memory = tree.slices_mut().next().expect("contiguous frames are one run");
        memory[..blob.len()].copy_from_slice(blob);
        handed.map_or(Ok(()), |handed| handed.write(&mut memory[..blob.len()]))?;
        memory[blob.len()..].fill(0);

        let tree_range = start..PhysAddr(start.0 + (blob.len() as u64).next_multiple_of(PAGE_SIZE));
        let bytes = (tree_range.end.0 - start.0) as usize;
        let tree_crc32c = Crc32c::default().update(&memory[..bytes]).value();
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

    /// The segments: the image's payloads, and the device tree, which stays where it is.
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

    /// The stretches of the payloads' destinations that are not in place.
    #[must_use]
    pub fn moved(&self) -> Vec<Range<PhysAddr>> {
        self.image.payloads.iter().flat_map(Loaded::moved).collect()
    }

    /// What must have arrived in the end: each stretch that is moved, and the device tree. A payload's frames that are in place already were held
    /// against their checksum by [`Plan::check_sources`], as the last act before, and nothing is copied there; where there are more stretches than
    /// checks, all are held again.
    #[must_use]
    pub fn checks(&self) -> Vec<Check> {
        let payloads = &self.image.payloads;
        let whole = |payload: &Loaded| Check::new(&payload.destination, payload.crc32c);
        let mut checks = Vec::new();
        for payload in payloads {
            for stretch in payload.moved() {
                // Taken at load already, where all is moved.
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

    /// Holds every source against its checksum once more.
    ///
    /// # Errors
    ///
    /// The first that has changed.
    pub fn check_sources(&self) -> Result<(), Refused> {
        for payload in &self.image.payloads {
            let now = payload.frames.slices().fold(Crc32c::default(), Crc32c::update).value();
            if has_changed(payload.crc32c, now) {
                let what = alloc::format!("the source of \"{}\"", payload.name);
                return Err(Refused::Changed(what, payload.crc32c, now));
            }
        }
        let bytes = (self.tree_range.end.0 - self.tree_range.start.0) as usize;
        let now = self
            .tree
            .slices()
            .fold(Crc32c::default(), |crc, slice| crc.update(&slice[..bytes]))
            .value();
        if has_changed(self.tree_crc32c, now) {
            return Err(Refused::Changed("the device tree".into(), self.tree_crc32c, now));
        }
        Ok(())
    }

    /// The next image's first instruction.
    #[must_use]
    pub fn entry(&self) -> PhysAddr {
        self.image.entry
    }

    /// Where the device tree lies.
    #[must_use]
    pub fn tree(&self) -> PhysAddr {
        self.tree_range.start
    }
}
