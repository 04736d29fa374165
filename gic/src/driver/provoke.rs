//! Interrupt states for the self-tests, which the next kernel must not find.
//!
//! - When: just before a restart, with `selftest=interrupts`, `lpis` or `storm` only.

use super::bank::{ISPENDR, register, word};
use super::{GICD_ITARGETSR, GICD_TYPER, Gic, must, redistributor};
use crate::intid::Kind;
use arm_gic::IntId;
use boot::phys::PhysAddr;
use fdt::machine;

impl Gic {
    /// Acknowledges a shared interrupt on this CPU and never ends it. Takes the distributor's last
    /// one, which no device is likely to use. Expects IRQs masked. Returns its INTID.
    pub fn take_and_keep(&self, mpidr: u64) -> u32 {
        let number = self.end_of_shared() - 1;
        self.send_shared(number, mpidr);
        let interrupt = IntId::spi(number - 32);
        loop {
            match self.acknowledge() {
                Some(other) if other != interrupt => self.end(other),
                Some(_) => return number,
                None => core::hint::spin_loop(),
            }
        }
    }

    /// Makes the distributor's last 32 interrupts pending for this CPU.
    pub fn raise(&self, mpidr: u64) {
        let end = self.end_of_shared();
        (end - 32..end).for_each(|number| self.send_shared(number, mpidr));
    }

    /// Makes a shared interrupt pending for this CPU, whose affinity is `mpidr`.
    fn send_shared(&self, number: u32, mpidr: u64) {
        let interrupt = IntId::spi(number - 32);
        if self.is_v2() {
            register::<u8>(self.gicd(), GICD_ITARGETSR + u64::from(number))
                .write(self.target() as u8);
            must(self.v2().enable_interrupt(interrupt, true));
        } else {
            must(self.distributor().set_routing(interrupt, Some(mpidr)));
            must(self.distributor().enable_interrupt(interrupt, true));
        }
        word(self.gicd(), ISPENDR + 4 * u64::from(number / 32)).write(1 << (number % 32));
    }

    /// Turns on the LPIs of this CPU's redistributor, with tables in `memory`: 128 KiB, 64 KiB
    /// aligned.
    pub fn keep_tables(&self, mpidr: u64, memory: PhysAddr) {
        let machine::Gic::V3 { redistributors, .. } = &self.0 else { return };
        let Some(frame) = redistributor(redistributors, mpidr) else { return };
        // 14 bits of INTIDs: 8192 LPIs.
        for (offset, value) in
            [(0x70, memory.get() as u32 | 13), (0x78, memory.get() as u32 + 0x1_0000)]
        {
            word(frame, offset).write(value);
            word(frame, offset + 4).write((memory.get() >> 32) as u32);
        }
        word(frame, 0).write(1);
    }

    /// Returns the first INTID after the plain SPIs that this distributor has.
    fn end_of_shared(&self) -> u32 {
        (32 * Kind::Shared.words(word(self.gicd(), GICD_TYPER).read()) as u32).min(1020)
    }
}
