//! Four /chosen properties that one generation passes to the next, edited in place.
//!
//! - When: [`Handover::read`] in the first lines of Rust; [`shrink`] once, in a generation that finds
//!   no such properties; [`Handover::write`] when the next generation is planned.
//! - Leaves: a blob of constant size, however many generations edit it.
//!
//! These are properties of fixed width, not parameters in bootargs: bootargs stay as the user wrote
//! them.

use crate::blob;
use crate::chosen::STALE;
use crate::machine::{Error, Tree};
use alloc::string::ToString;
use alloc::vec::Vec;
use boot::breadcrumb;
use boot::phys::PhysAddr;
use dtoolkit::ToPropertyValue;
use dtoolkit::fdt_mut::{FdtBuffer, FdtMut, FdtNodeMut};

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
            base: PhysAddr(tree.chosen_u64(BASE)?),
            breadcrumbs: PhysAddr(tree.chosen_u64(breadcrumb::PROPERTY)?),
        })
    }

    /// Writes the properties into a valid blob in which [`shrink`] has made room for them.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Damaged`] if the blob lacks one of the properties, and
    /// [`Error::NoChosen`].
    pub fn write(&self, blob: &mut [u8]) -> Result<(), Error> {
        // Unchecked: this generation checked the blob when it opened it, and the next one will
        // check this result.
        let mut tree = FdtMut::from_slice_unchecked(blob);
        let mut chosen = tree.find_node_mut("/chosen").ok_or(Error::NoChosen)?;
        for (name, value) in self.properties() {
            let mut property = chosen
                .property_mut(name)
                .ok_or_else(|| Error::Damaged(alloc::format!("/chosen has no {name}")))?;
            property.set_value(value).map_err(|error| Error::Damaged(error.to_string()))?;
        }
        Ok(())
    }

    fn properties(&self) -> [(&'static str, u64); 4] {
        [
            (GENERATION, self.generation.into()),
            (SEED, self.seed),
            (BASE, self.base.0),
            (breadcrumb::PROPERTY, self.breadcrumbs.0),
        ]
    }
}

/// Copies the blob without padding and without the stale properties of /chosen. Adds the four
/// properties, all zero; later generations only edit them.
///
/// # Errors
///
/// Returns [`Error::Damaged`] or [`Error::NoChosen`].
pub fn shrink(blob: &[u8]) -> Result<Vec<u8>, Error> {
    const ZERO: u64 = 0;
    let damaged = |error: &dyn ToString| Error::Damaged(error.to_string());
    let mut copy = blob[..used(blob)?].to_vec();
    set_total_size(&mut copy)?;
    let numbers = Handover { generation: 0, seed: 0, base: PhysAddr(0), breadcrumbs: PhysAddr(0) }
        .properties();
    // Room for each: property header, value, and in the worst case its name in the strings block.
    let room = numbers
        .iter()
        .map(|(name, _)| 12 + ZERO.property_value_len() + name.len() + 1)
        .sum::<usize>();
    let size = copy.len();
    copy.resize(size + room, 0);
    let mut tree = FdtMut::from_slice(&mut copy).map_err(|error| damaged(&error))?;
    let mut chosen = tree.find_node_mut("/chosen").ok_or(Error::NoChosen)?;
    for name in STALE {
        while chosen.remove_property(name) {}
    }
    for (name, _) in numbers {
        if !has(&mut chosen, name) {
            chosen.add_property(name, ZERO).map_err(|error| damaged(&error))?;
        } else if let Some(mut property) = chosen.property_mut(name) {
            property.set_value(ZERO).map_err(|error| damaged(&error))?;
        }
    }
    let size = tree.as_read_only().data().len();
    copy.truncate(size);
    Ok(copy)
}

#[inline(never)]
fn has(node: &mut FdtNodeMut<'_, impl FdtBuffer>, name: &str) -> bool {
    node.property_mut(name).is_some()
}

/// Returns whether a previous generation started this one. Then the blob is shrunk already and has
/// room for the properties.
#[must_use]
#[inline(never)]
pub fn is_ours(handed: Option<&Handover>) -> bool {
    handed.is_some()
}

/// Returns the number of bytes up to the end of the blob's last block.
fn used(blob: &[u8]) -> Result<usize, Error> {
    Ok(blob::blocks(blob).map_err(|what| Error::Damaged(what.into()))?.end())
}

fn set_total_size(blob: &mut [u8]) -> Result<(), Error> {
    let size = u32::try_from(blob.len()).map_err(|_| Error::Damaged("larger than 4 GiB".into()))?;
    // Fails if all blocks end within the header: then there are no blocks.
    let field = blob.get_mut(4..8).ok_or(Error::Damaged("blocks within the header".into()))?;
    field.copy_from_slice(&size.to_be_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::word;
    use crate::machine::tests::virt;
    use dtoolkit::model::DeviceTreeProperty;

    const NUMBERS: Handover = Handover {
        generation: 7,
        seed: 0x1234_5678_9abc_def0,
        base: PhysAddr(0x4020_0000),
        breadcrumbs: PhysAddr(0x5ffc_2000),
    };

    /// Makes a blob like QEMU's: padded to 1 MiB.
    fn padded() -> Vec<u8> {
        let mut blob = virt().to_dtb();
        blob.resize(1 << 20, 0);
        set_total_size(&mut blob).unwrap();
        blob
    }

    #[test]
    fn a_stranger_hands_over_no_numbers() {
        assert_eq!(Handover::read(&Tree::open(&padded()).unwrap()), None);
    }

    #[test]
    fn a_padded_blob_shrinks_and_keeps_what_it_says() {
        let blob = shrink(&padded()).unwrap();
        assert!(blob.len() < virt().to_dtb().len() + 256, "{}", blob.len());
        let before = crate::machine::Machine::read(&Tree::open(&padded()).unwrap());
        let tree = Tree::open(&blob).unwrap();
        assert_eq!(crate::machine::Machine::read(&tree), before);
        assert_eq!(tree.bootargs(), "generations=3 base=random");
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
        let blob = shrink(&blob).unwrap();
        let tree = Tree::open(&blob).unwrap();
        assert_eq!((tree.initrd(), tree.chosen_u64("kaslr-seed")), (None, None));
        assert_eq!(tree.bootargs(), "generations=3 base=random");
    }

    #[test]
    fn a_thousand_generations_do_not_make_it_grow() {
        let mut blob = shrink(&padded()).unwrap();
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
        assert_eq!(shrink(&blob).unwrap().len(), size);
    }

    #[test]
    fn numbers_of_a_stranger_are_made_zero_and_as_wide_as_ours() {
        for value in [&[][..], &[1_u8; 4], &[1; 8], &[1; 12]] {
            let mut blob = virt().to_dtb();
            blob.resize(blob.len() + 64, 0);
            let mut tree = FdtMut::from_slice(&mut blob).unwrap();
            tree.find_node_mut("/chosen").unwrap().add_property(SEED, value).unwrap();
            let mut blob = shrink(&blob).unwrap();
            let none =
                Handover { generation: 0, seed: 0, base: PhysAddr(0), breadcrumbs: PhysAddr(0) };
            assert_eq!(Handover::read(&Tree::open(&blob).unwrap()), Some(none), "{value:?}");
            NUMBERS.write(&mut blob).unwrap();
            assert_eq!(Handover::read(&Tree::open(&blob).unwrap()), Some(NUMBERS), "{value:?}");
        }
    }

    #[test]
    fn strings_that_nobody_is_named_by_are_text_as_well() {
        let blob = virt().to_dtb();
        let (start, size) = (word(&blob, 12).unwrap(), word(&blob, 32).unwrap());
        for last in [*b"a\0", *b"\xff\0", *b"aa"] {
            let mut blob = blob.clone();
            blob.truncate(start + size);
            blob.extend(last);
            blob[32..36].copy_from_slice(&(size as u32 + 2).to_be_bytes());
            set_total_size(&mut blob).unwrap();
            assert!(Tree::open(&blob).is_ok());
            assert_eq!(shrink(&blob).is_ok(), last == *b"a\0", "{last:?}");
        }
    }

    #[test]
    fn a_structure_stays_within_its_block() {
        let mut blob = virt().to_dtb();
        let size = word(&blob, 36).unwrap() as u32;
        blob[36..40].copy_from_slice(&(size - 4).to_be_bytes());
        assert!(Tree::open(&blob).is_ok(), "dtoolkit reads on to the end");
        assert!(matches!(shrink(&blob), Err(Error::Damaged(_))));
    }

    #[test]
    fn a_blob_without_room_is_refused() {
        let mut blob = virt().to_dtb();
        assert!(matches!(NUMBERS.write(&mut blob), Err(Error::Damaged(_))));
        assert!(matches!(shrink(&blob[..30]), Err(Error::Damaged(_))));
        blob[36..40].copy_from_slice(&u32::MAX.to_be_bytes());
        assert!(matches!(shrink(&blob), Err(Error::Damaged(_))));
        assert!(matches!(shrink(&[0; 64]), Err(Error::Damaged(_))), "blocks of no bytes, at 0");
    }
}
