//! Four /chosen properties that one generation passes to the next, edited in place.
//!
//! - When: [`Handover::read`] in the first lines of Rust; [`shrink`] once, in a generation that
//!   finds no such properties; [`Handover::write`] when the next generation is planned.
//! - Leaves: a blob of constant size, however many generations edit it.
//!
//! These are properties of fixed width, not parameters in bootargs: bootargs stay as the user wrote
//! them.

use crate::blob::{Blob, Kind, VALUE_AT};
use crate::chosen::{is_for_one_kernel, is_initrd, is_stale};
use crate::copy::{self, Chosen, Edits, Value};
use crate::machine::{Error, Tree};
use alloc::string::ToString;
use alloc::vec::Vec;
use boot::breadcrumb;
use boot::phys::PhysAddr;
use core::ops::Range;

const GENERATION: &str = "ouroboros,generation";
const SEED: &str = "ouroboros,seed";
const BASE: &str = "ouroboros,base";

/// The properties that the previous generation left in /chosen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Handover {
    /// `ouroboros,generation`: number of this generation; the first is 0.
    pub generation: u32,
    /// `ouroboros,seed`: seed of every generation's random numbers.
    pub seed: u64,
    /// `ouroboros,base`: address that this generation was meant to run at.
    pub base: PhysAddr,
    /// `ouroboros,breadcrumbs`: address of the breadcrumb page.
    pub breadcrumbs: PhysAddr,
}

impl Handover {
    /// Reads the previous generation's properties. Returns `None` if another loader started this
    /// one.
    #[must_use]
    pub fn read(tree: &Tree<'_>) -> Option<Self> {
        Some(Self {
            generation: tree.chosen_u64(GENERATION)?.try_into().ok()?,
            seed: tree.chosen_u64(SEED)?,
            base: PhysAddr::new(tree.chosen_u64(BASE)?),
            breadcrumbs: PhysAddr::new(tree.chosen_u64(breadcrumb::PROPERTY)?),
        })
    }

    /// Writes the properties into a valid blob in which [`shrink`] has made room for them.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Damaged`] if the blob lacks one of the properties.
    pub fn write(&self, bytes: &mut [u8]) -> Result<(), Error> {
        for (name, number) in self.properties() {
            let place = Blob::new(bytes).map_err(damaged)?.events().find_map(|event| {
                let Kind::Property { name: found, value } = event.kind else { return None };
                let is_ours = event.is_of_chosen() && found == name.as_bytes();
                (is_ours && value.len() == size_of_val(&number)).then_some(event.range)
            });
            let place =
                place.ok_or_else(|| Error::Damaged(alloc::format!("/chosen has no {name}")))?;
            bytes[place][VALUE_AT..].copy_from_slice(&number.to_be_bytes());
        }
        Ok(())
    }

    fn properties(&self) -> [(&'static str, u64); 4] {
        [
            (GENERATION, self.generation.into()),
            (SEED, self.seed),
            (BASE, self.base.get()),
            (breadcrumb::PROPERTY, self.breadcrumbs.get()),
        ]
    }
}

/// Changes that [`shrink`] makes only if they are asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shrink<'a> {
    /// Keeps the initrd, which every generation hands on.
    pub keeps_initrd: bool,
    /// RAM for a memory node in place of all others: UEFI's memory map described it so far.
    pub ram: Option<&'a [Range<PhysAddr>]>,
}

/// Copies the blob without padding and without the stale properties of /chosen. Adds the four
/// properties, all zero; later generations only edit them.
///
/// # Errors
///
/// Returns [`Error::Damaged`] or [`Error::NoChosen`].
pub fn shrink(blob: &[u8], how: Shrink<'_>) -> Result<Vec<u8>, Error> {
    let is_stale: fn(&[u8]) -> bool = match (how.keeps_initrd, how.ram.is_some()) {
        (false, false) => is_for_one_kernel,
        (false, true) => is_stale,
        (true, false) => |name| is_for_one_kernel(name) && !is_initrd(name),
        (true, true) => |name| is_stale(name) && !is_initrd(name),
    };
    let blob = Blob::new(blob).map_err(damaged)?;
    if !blob.events().any(|event| event.is_of_chosen()) {
        return Err(Error::NoChosen);
    }
    let none =
        Handover { generation: 0, seed: 0, base: PhysAddr::new(0), breadcrumbs: PhysAddr::new(0) };
    let new = none.properties().map(|(name, zero)| (name, Value::Number(zero)));
    let memory = |visit: &mut dyn FnMut(Range<PhysAddr>)| {
        how.ram.unwrap_or_default().iter().cloned().for_each(visit);
    };
    let edits = Edits {
        memory: how.ram.is_some().then_some(&memory),
        chosen: Some(Chosen { new: &new, is_stale }),
        reservations: None,
    };
    copy::to_vec(&blob, &edits).map_err(damaged)
}

fn damaged(why: impl ToString) -> Error {
    Error::Damaged(why.to_string())
}

/// Returns whether a previous generation started this one. Then the blob is shrunk already and has
/// room for the properties.
#[must_use]
#[inline(never)]
pub fn is_ours(handed: Option<&Handover>) -> bool {
    handed.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::word;
    use crate::machine::tests::virt;
    use dtoolkit::fdt_mut::FdtMut;
    use dtoolkit::model::DeviceTreeProperty;

    fn set_total_size(blob: &mut [u8]) {
        let size = blob.len() as u32;
        blob[4..8].copy_from_slice(&size.to_be_bytes());
    }

    const WITH_INITRD: Shrink<'static> = Shrink { keeps_initrd: true, ram: None };

    const NUMBERS: Handover = Handover {
        generation: 7,
        seed: 0x1234_5678_9abc_def0,
        base: PhysAddr::new(0x4020_0000),
        breadcrumbs: PhysAddr::new(0x5ffc_2000),
    };

    /// Makes a blob like QEMU's: padded to 1 MiB.
    fn padded() -> Vec<u8> {
        let mut blob = virt().to_dtb();
        blob.resize(1 << 20, 0);
        set_total_size(&mut blob);
        blob
    }

    #[test]
    fn a_stranger_hands_over_no_numbers() {
        assert_eq!(Handover::read(&Tree::open(&padded()).unwrap()), None);
        assert!(!is_ours(None) && is_ours(Some(&NUMBERS)));
    }

    #[test]
    fn a_padded_blob_shrinks_and_keeps_what_it_says() {
        let blob = shrink(&padded(), Shrink::default()).unwrap();
        assert!(blob.len() < virt().to_dtb().len() + 256, "{}", blob.len());
        let before = crate::machine::Machine::read(&Tree::open(&padded()).unwrap());
        let tree = Tree::open(&blob).unwrap();
        assert_eq!(crate::machine::Machine::read(&tree), before);
        assert_eq!(tree.bootargs(), b"generations=3 base=random");
    }

    #[test]
    fn a_ramdisk_and_seeds_are_not_handed_on() {
        let mut tree = virt();
        let chosen = tree.root.child_mut("chosen").unwrap();
        for (name, value) in
            [("linux,initrd-start", 1_u64), ("linux,initrd-end", 2), ("kaslr-seed", 3)]
        {
            chosen.add_property(DeviceTreeProperty::new(name, value).unwrap());
        }
        let blob = tree.to_dtb();
        assert!(Tree::open(&blob).unwrap().initrd().is_some());
        let blob = shrink(&blob, Shrink::default()).unwrap();
        let tree = Tree::open(&blob).unwrap();
        assert_eq!((tree.initrd(), tree.chosen_u64("kaslr-seed")), (None, None));
        assert_eq!(tree.bootargs(), b"generations=3 base=random");
    }

    #[test]
    fn a_thousand_generations_do_not_make_it_grow() {
        let mut blob = shrink(&padded(), Shrink::default()).unwrap();
        let size = blob.len();
        for generation in 0..1000 {
            let numbers =
                Handover { generation, seed: u64::MAX - u64::from(generation), ..NUMBERS };
            numbers.write(&mut blob).unwrap();
            let tree = Tree::open(&blob).unwrap();
            assert_eq!(Handover::read(&tree), Some(numbers));
            blob = blob.to_vec();
        }
        assert_eq!(blob.len(), size);
        // Shrinking it once more keeps one property of each.
        assert_eq!(shrink(&blob, Shrink::default()).unwrap().len(), size);
    }

    #[test]
    fn numbers_of_a_stranger_are_made_zero_and_as_wide_as_ours() {
        for value in [&[][..], &[1_u8; 4], &[1; 8], &[1; 12]] {
            let mut blob = virt().to_dtb();
            blob.resize(blob.len() + 64, 0);
            let mut tree = FdtMut::from_slice(&mut blob).unwrap();
            tree.find_node_mut("/chosen").unwrap().add_property(SEED, value).unwrap();
            let mut blob = shrink(&blob, Shrink::default()).unwrap();
            let none = Handover {
                generation: 0,
                seed: 0,
                base: PhysAddr::new(0),
                breadcrumbs: PhysAddr::new(0),
            };
            assert_eq!(Handover::read(&Tree::open(&blob).unwrap()), Some(none), "{value:?}");
            NUMBERS.write(&mut blob).unwrap();
            assert_eq!(Handover::read(&Tree::open(&blob).unwrap()), Some(NUMBERS), "{value:?}");
        }
    }

    #[test]
    fn the_initrd_is_handed_on_only_where_it_is_asked_for() {
        let mut tree = virt();
        let chosen = tree.root.child_mut("chosen").unwrap();
        let start = 0x4800_0000_u32.to_be_bytes();
        chosen.add_property(DeviceTreeProperty::new("linux,initrd-start", start).unwrap());
        for (name, value) in [("linux,initrd-end", 0x4800_1001_u64), ("rng-seed", 7)] {
            chosen.add_property(DeviceTreeProperty::new(name, value.to_be_bytes()).unwrap());
        }
        let blob = tree.to_dtb();
        assert_eq!(Tree::open(&blob).unwrap().chosen_u64("rng-seed"), Some(7));
        for ram in [None, Some(&[][..])] {
            for keeps_initrd in [false, true] {
                let shrunk = shrink(&blob, Shrink { keeps_initrd, ram }).unwrap();
                let tree = Tree::open(&shrunk).unwrap();
                assert_eq!(tree.initrd().is_some(), keeps_initrd, "{ram:?}");
                assert_eq!(tree.chosen_u64("rng-seed"), None, "{ram:?} {keeps_initrd}");
            }
        }
        assert_eq!(Tree::open(&shrink(&blob, Shrink::default()).unwrap()).unwrap().initrd(), None);
        let mut kept = shrink(&blob, WITH_INITRD).unwrap();
        NUMBERS.write(&mut kept).unwrap();
        let tree = Tree::open(&kept).unwrap();
        assert_eq!(tree.initrd(), Some(PhysAddr::new(0x4800_0000)..PhysAddr::new(0x4800_1001)));
        assert_eq!(Handover::read(&tree), Some(NUMBERS));
        assert_eq!(tree.chosen_u64("rng-seed"), None);
        assert_eq!(shrink(&kept, WITH_INITRD).unwrap().len(), kept.len());
    }

    #[test]
    fn strings_that_name_no_property_end_in_nul_as_well() {
        let blob = virt().to_dtb();
        let (start, size) = (word(&blob, 12).unwrap(), word(&blob, 32).unwrap());
        for last in [*b"a\0", *b"\xff\0", *b"aa"] {
            let mut blob = blob.clone();
            blob.truncate(start + size);
            blob.extend(last);
            blob[32..36].copy_from_slice(&(size as u32 + 2).to_be_bytes());
            set_total_size(&mut blob);
            assert_eq!(Tree::open(&blob).is_ok(), last != *b"aa", "{last:?}");
            assert_eq!(shrink(&blob, Shrink::default()).is_ok(), last != *b"aa", "{last:?}");
        }
    }

    #[test]
    fn a_structure_stays_within_its_block() {
        let mut blob = virt().to_dtb();
        let size = word(&blob, 36).unwrap() as u32;
        blob[36..40].copy_from_slice(&(size - 4).to_be_bytes());
        assert!(matches!(Tree::open(&blob), Err(Error::Damaged(_))));
        assert!(matches!(shrink(&blob, Shrink::default()), Err(Error::Damaged(_))));
    }

    #[test]
    fn a_blob_without_room_is_refused() {
        let mut blob = virt().to_dtb();
        assert!(matches!(NUMBERS.write(&mut blob), Err(Error::Damaged(_))));
        assert!(matches!(shrink(&blob[..30], Shrink::default()), Err(Error::Damaged(_))));
        blob[36..40].copy_from_slice(&u32::MAX.to_be_bytes());
        assert!(matches!(shrink(&blob, Shrink::default()), Err(Error::Damaged(_))));
        assert!(
            matches!(shrink(&[0; 64], Shrink::default()), Err(Error::Damaged(_))),
            "blocks of no bytes, at 0"
        );
    }
}
