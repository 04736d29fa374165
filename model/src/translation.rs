//! Translation: the walk through the tables as they lie in memory and caches, and what the TLB keeps of it.
//!
//! *When:* each access of a level whose MMU is on. Regimes and descriptors: Arm ARM, D8; 4 KiB granule, 48 bits, stage 1 through TTBR0. The
//! TLB begins with whatever a former kernel left there: a regime that is [stale](Tlb::leave_behind) answers any address with an entry
//! of somebody else's until it is invalidated. *Refuses* a walk that faults, and a leaf that is global \[I4\].

use crate::failure::Wrong;

/// Whose translations.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Regime {
    /// EL1&0.
    El10,
    /// EL2, E2H clear.
    El2,
    /// EL2&0, E2H set.
    El20,
}

/// What a leaf says.
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

/// What is kept of one address space, by the low bits of the page's number: what a scene uses lies closely together.
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
    /// Sets the scene: a former kernel's entries.
    pub fn leave_behind(&mut self, regimes: &[Regime]) {
        self.stale.extend(regimes);
    }

    /// The regime that still has them, if one has.
    #[must_use]
    pub fn left_behind(&self) -> Option<Regime> {
        self.stale.first().copied()
    }

    /// An entry for a page of an address space.
    pub fn find(&self, regime: Regime, asid: u16, page: u64) -> Result<Option<Leaf>, Wrong> {
        if self.stale.contains(&regime) {
            return Err(Wrong::StaleTranslation(page));
        }
        let space = self.spaces.iter().find(|space| space.regime == regime && space.asid == asid);
        let entry = space.and_then(|space| space.entries[slot(page)]).filter(|(of, _)| *of == page);
        Ok(entry.map(|(_, leaf)| leaf))
    }

    /// Keeps what a walk found.
    pub fn keep(&mut self, regime: Regime, asid: u16, page: u64, leaf: Leaf) {
        let known =
            self.spaces.iter().position(|space| space.regime == regime && space.asid == asid);
        let space = known.unwrap_or_else(|| {
            self.spaces.push(Space { regime, asid, entries: vec![None; ENTRIES] });
            self.spaces.len() - 1
        });
        self.spaces[space].entries[slot(page)] = Some((page, leaf));
    }

    /// A TLB may lose entries at any time.
    pub fn lose(&mut self) {
        self.spaces.clear();
    }

    /// tlbi.
    pub fn forget(&mut self, regime: Regime) {
        self.spaces.retain(|space| space.regime != regime);
        self.stale.retain(|of| *of != regime);
    }
}

/// Walks from the root table to the leaf of an address. `read` gives the descriptor at a physical address.
pub fn walk(
    root: u64,
    mair: u64,
    address: u64,
    mut read: impl FnMut(u64) -> Result<u64, Wrong>,
) -> Result<Leaf, Wrong> {
    const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
    let mut table = root & ADDRESS & !1;
    for shift in [39, 30, 21, 12] {
        let descriptor = read(table + (address >> shift & 0x1ff) * 8)?;
        let fault = Wrong::Translation(address, descriptor);
        match (descriptor & 0b11, shift) {
            (0b11, 21..) => table = descriptor & ADDRESS,
            (0b11, 12) | (0b01, 21 | 30) => {
                let (af, ng) = (descriptor >> 10 & 1, descriptor >> 11 & 1);
                if af == 0 {
                    return Err(fault);
                }
                if ng == 0 {
                    return Err(Wrong::GlobalLeaf(address));
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
