//! Translation: the walk through tables in memory and caches, and the TLB.
//!
//! The CPU uses it for each access while its level's MMU is on. Regimes and descriptors are those
//! of the Arm ARM, D8: 4 KiB granule, 48 bits, stage 1 through TTBR0.
//!
//! The TLB begins with the entries of a previous kernel: a regime that is
//! [stale](Tlb::leave_behind) has a foreign entry for any address until it is invalidated. The
//! model refuses a walk that faults, and a leaf that is global \[I4\].

use crate::failure::Violation;

/// A translation regime.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Regime {
    /// EL1&0.
    El10,
    /// EL2, E2H clear.
    El2,
    /// EL2&0, E2H set.
    El20,
}

/// The contents of a leaf descriptor.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[expect(missing_docs, reason = "they are what they are called")]
pub struct Leaf {
    pub page: u64,
    pub normal: bool,
    pub writable: bool,
    pub executable: bool,
}

/// The TLB.
#[derive(Clone, Debug, Default, Hash)]
pub struct Tlb {
    spaces: Vec<Space>,
    stale: Vec<Regime>,
}

/// The entries of one address space, by the low bits of the page number.
///
/// The pages that a scene uses are close together, so they do not collide.
#[derive(Clone, Debug, Hash)]
struct Space {
    regime: Regime,
    asid: u16,
    entries: Vec<Option<(u64, Leaf)>>,
}

const ENTRIES: usize = 512;

fn slot(page: u64) -> usize {
    (page >> 12) as usize % ENTRIES
}

impl Tlb {
    /// Adds a previous kernel's entries for these regimes.
    pub fn leave_behind(&mut self, regimes: &[Regime]) {
        self.stale.extend(regimes);
    }

    /// Returns a regime that still has a previous kernel's entries.
    #[must_use]
    pub fn left_behind(&self) -> Option<Regime> {
        self.stale.first().copied()
    }

    /// Returns the entry for a page of an address space.
    pub fn find(&self, regime: Regime, asid: u16, page: u64) -> Result<Option<Leaf>, Violation> {
        if self.stale.contains(&regime) {
            return Err(Violation::StaleTranslation(page));
        }
        let space = self.spaces.iter().find(|space| space.regime == regime && space.asid == asid);
        let entry = space.and_then(|space| space.entries[slot(page)]).filter(|(of, _)| *of == page);
        Ok(entry.map(|(_, leaf)| leaf))
    }

    /// Keeps the result of a walk.
    pub fn keep(&mut self, regime: Regime, asid: u16, page: u64, leaf: Leaf) {
        let known =
            self.spaces.iter().position(|space| space.regime == regime && space.asid == asid);
        let space = known.unwrap_or_else(|| {
            self.spaces.push(Space { regime, asid, entries: vec![None; ENTRIES] });
            self.spaces.len() - 1
        });
        self.spaces[space].entries[slot(page)] = Some((page, leaf));
    }

    /// Drops all entries, as a TLB may do at any time.
    pub fn lose(&mut self) {
        self.spaces.clear();
    }

    /// Invalidates a regime, as tlbi does.
    pub fn forget(&mut self, regime: Regime) {
        self.spaces.retain(|space| space.regime != regime);
        self.stale.retain(|of| *of != regime);
    }
}

/// Walks from the root table to the leaf for an address; `read` loads a descriptor.
pub fn walk(
    root: u64,
    mair: u64,
    address: u64,
    mut read: impl FnMut(u64) -> Result<u64, Violation>,
) -> Result<Leaf, Violation> {
    const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
    let mut table = root & ADDRESS & !1;
    for shift in [39, 30, 21, 12] {
        let descriptor = read(table + (address >> shift & 0x1ff) * 8)?;
        let fault = Violation::Translation(address, descriptor);
        match (descriptor & 0b11, shift) {
            (0b11, 21..) => table = descriptor & ADDRESS,
            (0b11, 12) | (0b01, 21 | 30) => {
                let (af, ng) = (descriptor >> 10 & 1, descriptor >> 11 & 1);
                if af == 0 {
                    return Err(fault);
                }
                if ng == 0 {
                    return Err(Violation::GlobalLeaf(address));
                }
                let within = address & ((1 << shift) - 1) & !0xfff;
                return Ok(Leaf {
                    page: (descriptor & ADDRESS & !((1 << shift) - 1)) | within,
                    normal: mair >> (8 * (descriptor >> 2 & 7)) & 0xff == 0xff,
                    writable: descriptor >> 7 & 1 == 0,
                    executable: descriptor >> 53 & 1 == 0,
                });
            }
            _ => return Err(fault),
        }
    }
    unreachable!("the last level is a leaf or a fault")
}
