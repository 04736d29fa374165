//! Turns off LPIs that a predecessor left on, with tables in RAM.
//!
//! - When: before any memory is allocated.
//! - Expects: the state that a kernel with an ITS leaves; Linux leaves LPIs on across kexec.
//! - Leaves: ITSs quiescent and LPIs disabled, and so no access to their tables.
//! - If a redistributor keeps LPIs enabled, returns the ranges of its tables, which must stay
//!   reserved permanently. Whether EnableLPIs can be cleared is IMPLEMENTATION DEFINED (IHI 0069,
//!   12.11.2).

use boot::phys::PhysAddr;
use core::ops::Range;

const GITS_CTLR: u64 = 0;
const GITS_ENABLED: u32 = 1 << 0;
const GITS_QUIESCENT: u32 = 1 << 31;

const GICR_CTLR: u64 = 0;
const ENABLE_LPIS: u32 = 1 << 0;
const RWP: u32 = 1 << 3;
const GICR_PROPBASER: u64 = 0x70;
const GICR_PENDBASER: u64 = 0x78;

/// The first LPI's INTID; the property table has one byte for each LPI.
const FIRST: u64 = 8192;

/// Number of reads before we give up on a register change; each read of a device takes its time.
const PATIENCE: u32 = 1_000_000;

/// Access to a GIC frame's registers by offset.
pub trait Registers {
    /// Reads a register.
    fn read(&self, offset: u64) -> u32;
    /// Writes a register.
    fn write(&mut self, offset: u64, value: u32);
}

/// The result of turning off a redistributor's LPIs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Lpis {
    /// LPIs were off already.
    Off,
    /// LPIs were on, and are off now.
    TurnedOff,
    /// LPIs stay on. Holds the property table and the pending table, which the redistributor
    /// accesses.
    Stuck([Range<PhysAddr>; 2]),
}

/// Disables an ITS. Returns whether it became quiescent.
pub fn quiesce(its: &mut impl Registers) -> bool {
    let control = its.read(GITS_CTLR);
    if control & GITS_ENABLED != 0 {
        its.write(GITS_CTLR, control & !GITS_ENABLED);
    }
    comes(|| its.read(GITS_CTLR) & GITS_QUIESCENT != 0)
}

/// Turns off a redistributor's LPIs. Expects the ITSs quiescent.
pub fn turn_off(redistributor: &mut impl Registers) -> Lpis {
    let control = redistributor.read(GICR_CTLR);
    if control & ENABLE_LPIS == 0 {
        return Lpis::Off;
    }
    redistributor.write(GICR_CTLR, control & !ENABLE_LPIS);
    let settled = comes(|| redistributor.read(GICR_CTLR) & RWP == 0);
    if settled && redistributor.read(GICR_CTLR) & ENABLE_LPIS == 0 {
        return Lpis::TurnedOff;
    }
    let base = |offset| {
        let (low, high) = (redistributor.read(offset), redistributor.read(offset + 4));
        u64::from(high) << 32 | u64::from(low)
    };
    let (properties, pending) = (base(GICR_PROPBASER), base(GICR_PENDBASER));
    // IDbits is one less than the number of INTID bits. At most 32 bits make sense.
    let interrupts = 1_u64 << ((properties & 0x1f) + 1);
    let table = |base: u64, mask: u64, bytes: u64| {
        PhysAddr::new(base & mask)..PhysAddr::new((base & mask) + bytes)
    };
    Lpis::Stuck([
        table(properties, 0x000f_ffff_ffff_f000, interrupts.saturating_sub(FIRST)),
        table(pending, 0x000f_ffff_ffff_0000, interrupts / 8),
    ])
}

fn comes(mut done: impl FnMut() -> bool) -> bool {
    (0..PATIENCE).any(|_| done())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::collections::BTreeMap;
    use std::vec::Vec;

    /// Registers that can be slow or refuse to change.
    #[derive(Default)]
    struct Mock {
        words: BTreeMap<u64, u32>,
        written: Vec<(u64, u32)>,
        /// Bits of the control register that cannot be cleared.
        sticky: u32,
        /// Number of reads after a write for which RWP stays set, or Quiescent clear.
        slow: Cell<u32>,
        /// RWP never clears, and Quiescent is never set.
        never: bool,
        is_its: bool,
    }

    impl Registers for Mock {
        fn read(&self, offset: u64) -> u32 {
            let mut value = self.words.get(&offset).copied().unwrap_or(0);
            if offset == 0 {
                let waiting = self.never || self.slow.get() > 0;
                self.slow.set(self.slow.get().saturating_sub(1));
                let (bit, is_set) = if self.is_its {
                    (GITS_QUIESCENT, !waiting && value & 1 == 0)
                } else {
                    (RWP, waiting)
                };
                value = if is_set { value | bit } else { value & !bit };
            }
            value
        }

        fn write(&mut self, offset: u64, value: u32) {
            self.written.push((offset, value));
            let kept = self.words.get(&offset).copied().unwrap_or(0) & self.sticky;
            self.words.insert(offset, value | kept);
            self.slow.set(3);
        }
    }

    fn redistributor(control: u32) -> Mock {
        // 16 bits of INTIDs; tables at 0x4567_8000 and 0x1_89ab_0000, surrounded by attribute bits.
        let words = [
            (0, control),
            (0x70, 0x4567_8000 | 7 << 7 | 15),
            (0x74, 0),
            (0x78, 0x89ab_0000 | 7 << 7),
            (0x7c, 1),
        ];
        Mock { words: words.into(), ..Mock::default() }
    }

    #[test]
    fn what_is_off_is_not_touched() {
        let mut mock = redistributor(1 << 24);
        assert_eq!(turn_off(&mut mock), Lpis::Off);
        assert_eq!(mock.written, []);
    }

    #[test]
    fn what_can_be_turned_off_is_and_other_bits_stay() {
        let mut mock = redistributor(1 << 24 | ENABLE_LPIS);
        assert_eq!(turn_off(&mut mock), Lpis::TurnedOff);
        assert_eq!(mock.written, [(0, 1 << 24)]);
        assert_eq!(mock.slow.get(), 0, "RWP was waited for");
    }

    #[test]
    fn what_sticks_keeps_its_tables() {
        let tables = [
            PhysAddr::new(0x4567_8000)..PhysAddr::new(0x4567_8000 + 0x1_0000 - 8192),
            PhysAddr::new(0x1_89ab_0000)..PhysAddr::new(0x1_89ab_0000 + 8192),
        ];
        let mut mock = Mock { sticky: ENABLE_LPIS, ..redistributor(ENABLE_LPIS) };
        assert_eq!(turn_off(&mut mock), Lpis::Stuck(tables.clone()));
        let mut mock = Mock { never: true, ..redistributor(ENABLE_LPIS) };
        assert_eq!(
            turn_off(&mut mock),
            Lpis::Stuck(tables),
            "a write that is never done may not be done"
        );
    }

    #[test]
    fn absurd_sizes_do_not_overflow() {
        let mut mock = Mock { sticky: ENABLE_LPIS, ..redistributor(ENABLE_LPIS) };
        mock.words.extend([(0x70, u32::MAX), (0x74, u32::MAX), (0x78, u32::MAX), (0x7c, u32::MAX)]);
        assert!(matches!(turn_off(&mut mock), Lpis::Stuck(_)));
        mock.words.insert(0x70, 0);
        assert!(
            matches!(turn_off(&mut mock), Lpis::Stuck([properties, _]) if properties.is_empty())
        );
    }

    #[test]
    fn a_translation_service_is_disabled_and_waited_for() {
        let its = |control| Mock { words: [(0, control)].into(), is_its: true, ..Mock::default() };
        let mut running = its(GITS_ENABLED);
        assert!(quiesce(&mut running));
        assert_eq!(running.written, [(0, 0)]);
        assert_eq!(running.slow.get(), 0, "Quiescent was waited for");
        let mut off = its(0);
        assert!(quiesce(&mut off) && off.written.is_empty());
        assert!(!quiesce(&mut Mock { never: true, ..its(GITS_ENABLED) }));
    }
}
