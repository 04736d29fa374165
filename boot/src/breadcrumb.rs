//! Breadcrumbs: what the CPU reached after "Bye!", and when.
//!
//! - The leaving kernel and the relocation code leave breadcrumbs in a page that no destination
//!   covers. A property of /chosen names the page.
//! - The entry path stores its own times in the entry record, because it runs before it can read an
//!   FDT.
//! - The next kernel prints both as the boot trace, from "Bye!" to its first line of Rust.
//!
//! A slot holds two words: the breadcrumb's number plus [`REACHED`], and CNTVCT_EL0. One `stp`
//! writes both; the line is then cleaned, or the MMU is off. No two slots share a cache line, so
//! neither way of writing can undo the other. The reader invalidates the page by VA first. \[I6\]

/// Property of /chosen that names the page: one 64-bit address.
pub const PROPERTY: &str = "ouroboros,breadcrumbs";

/// Bytes from one slot to the next: at least any existing cache line or writeback granule.
pub const SLOT_SIZE: usize = 256;

/// Offset that the first word of a slot adds to the breadcrumb's number, so that it is never zero.
pub const REACHED: u64 = 1;

/// Breadcrumbs of the kexec path, in the order of a hot restart. The index is the slot's number.
pub const NAMES: &[&str] =
    &["Bye!", "in the control page", "copied", "maintained", "verified", "MMU off", "leaving"];

/// Index in `NAMES`: Rust's checks are done and "Bye!" is printed; in nvhe SET_VECTORS follows.
pub const BYE: usize = 0;
/// Index in `NAMES`: the relocation code has its arguments in registers and its own vectors.
pub const CONTROL: usize = 1;
/// Index in `NAMES`: every page is at its destination.
pub const COPIED: usize = 2;
/// Index in `NAMES`: the cache maintenance of this kexec is complete.
pub const MAINTAINED: usize = 3;
/// Index in `NAMES`: every range that was copied, and the FDT, match their checksums.
pub const VERIFIED: usize = 4;
/// Index in `NAMES`: the regime that the relocation code ran in is off.
pub const MMU_OFF: usize = 5;
/// Index in `NAMES`: the branch or the hypervisor call comes next.
pub const LEAVING: usize = 6;

/// Collects the breadcrumbs that a page holds, each with its time, in the order of their times.
///
/// Fills `found`, and returns the part of it that is used. `page` is the page as 64-bit words. A
/// slot that does not hold its own number was not reached.
pub fn reached<'a>(page: &[u64], found: &'a mut [(usize, u64); NAMES.len()]) -> &'a [(usize, u64)] {
    let mut len = 0;
    for (number, slot) in
        page.chunks_exact(SLOT_SIZE / size_of::<u64>()).take(NAMES.len()).enumerate()
    {
        if slot[0] == number as u64 + REACHED {
            // Insertion sort: there are seven at most.
            let before = found[..len].iter().take_while(|&&(_, stamp)| stamp <= slot[1]).count();
            found.copy_within(before..len, before + 1);
            found[before] = (number, slot[1]);
            len += 1;
        }
    }
    &found[..len]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_come_in_the_order_of_their_stamps() {
        let mut page = [0; 512];
        for (number, stamp) in [(BYE, 10), (CONTROL, 20), (MMU_OFF, 30), (COPIED, 40)] {
            page[number * SLOT_SIZE / 8] = number as u64 + REACHED;
            page[number * SLOT_SIZE / 8 + 1] = stamp;
        }
        page[VERIFIED * SLOT_SIZE / 8] = 99;
        let mut found = Default::default();
        assert_eq!(
            reached(&page, &mut found),
            [(BYE, 10), (CONTROL, 20), (MMU_OFF, 30), (COPIED, 40)]
        );
    }

    #[test]
    fn an_empty_page_holds_no_phase() {
        assert!(reached(&[0; 512], &mut Default::default()).is_empty());
    }
}
