//! Breadcrumbs: what was reached between "Bye!" and the next kernel's main, and when.
//!
//! *When:* the way out writes its phases into a page that lies in nobody's destination and that /chosen names; the way in keeps its
//! own in the entry record, because it runs before it can read a device tree. The next main prints both as phase times.
//!
//! A slot holds two words, the phase's number plus [`REACHED`] and CNTVCT_EL0. It is written by one store pair and then cleaned, or with the MMU off: no two slots share a cache line, so neither way of
//! writing can undo the other. The reader invalidates the page by VA first. \[I6\]

/// The property of /chosen that names the page: one 64-bit address.
pub const PROPERTY: &str = "ouroboros,breadcrumbs";

/// Bytes from one slot to the next: no less than any cache line or writeback granule that is built.
pub const SLOT_SIZE: usize = 256;

/// What the first word of a slot adds to its phase's number: any phase that was reached reads as non-zero.
pub const REACHED: u64 = 1;

/// The phases of the way out, in the order of a hot restart; a slot's number is its index.
pub const PHASES: &[&str] =
    &["Bye!", "in the control page", "copied", "maintained", "verified", "MMU off", "leaving"];

/// `PHASES`: the last act of Rust.
pub const BYE: usize = 0;
/// `PHASES`: the relocation code has its arguments in registers and its own vectors.
pub const CONTROL: usize = 1;
/// `PHASES`: every page lies at its destination.
pub const COPIED: usize = 2;
/// `PHASES`: the cache maintenance of this restart is complete.
pub const MAINTAINED: usize = 3;
/// `PHASES`: every destination matches its checksum.
pub const VERIFIED: usize = 4;
/// `PHASES`: the regime that this code ran in is off.
pub const MMU_OFF: usize = 5;
/// `PHASES`: the branch or the hypervisor call is next.
pub const LEAVING: usize = 6;

/// The phases that a page of breadcrumbs holds, each with its stamp, in the order in which they were reached: into `found`,
/// of which the used part is returned.
///
/// `page` is the page as 64-bit words. A slot that does not hold its own number was not reached.
pub fn reached<'a>(
    page: &[u64],
    found: &'a mut [(usize, u64); PHASES.len()],
) -> &'a [(usize, u64)] {
    let mut len = 0;
    for (number, slot) in
        page.chunks_exact(SLOT_SIZE / size_of::<u64>()).take(PHASES.len()).enumerate()
    {
        if slot[0] == number as u64 + REACHED {
            // Insertion: seven at most do not pay for a sort.
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
