//! States that the next kernel must not find, made on purpose.
//!
//! *When:* by the self-tests alone (`selftest=interrupts`, `lpis`, `storm`), just before a restart.

use super::bank::{ISPENDR, register, word};
use super::{GICD_ITARGETSR, GICD_TYPER, Gic, redistributor};
use arm_gic::IntId;
use boot::phys::PhysAddr;
use kernel::intid::Kind;
use kernel::tree;

impl Gic {
    /// Takes a shared interrupt on this CPU and never ends it: the last one that the distributor has, which no device is likely to use. IRQs are
    /// masked. Returns its INTID.
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

    /// Makes the last 32 interrupts that the distributor has come to this CPU.
    pub fn raise(&self, mpidr: u64) {
        let end = self.end_of_shared();
        (end - 32..end).for_each(|number| self.send_shared(number, mpidr));
    }

    /// Makes a shared interrupt come to the CPU of this affinity, which is this one.
    fn send_shared(&self, number: u32, mpidr: u64) {
        let interrupt = IntId::spi(number - 32);
        if self.is_v2() {
            register::<u8>(self.gicd(), GICD_ITARGETSR + u64::from(number))
                .write(self.target() as u8);
            self.v2()
                .enable_interrupt(interrupt, true)
                .expect("the distributor says that it has it");
        } else {
            self.distributor().set_routing(interrupt, Some(mpidr)).expect("a shared interrupt");
            self.distributor().enable_interrupt(interrupt, true).expect("a shared interrupt");
        }
        word(self.gicd(), ISPENDR + 4 * u64::from(number / 32)).write(1 << (number % 32));
    }

    /// Turns the LPIs of this CPU's redistributor on, with tables in `memory`, 128 KiB on 64 KiB.
    pub fn keep_tables(&self, mpidr: u64, memory: PhysAddr) {
        let tree::Gic::V3 { redistributors, .. } = &self.0 else { return };
        let Some(frame) = redistributor(redistributors, mpidr) else { return };
        // 14 bits of INTIDs: 8192 LPIs.
        for (offset, value) in [(0x70, memory.0 as u32 | 13), (0x78, memory.0 as u32 + 0x1_0000)] {
            word(frame, offset).write(value);
            word(frame, offset + 4).write((memory.0 >> 32) as u32);
        }
        word(frame, 0).write(1);
    }

    /// The number behind the last plain SPI.
    fn end_of_shared(&self) -> u32 {
        (32 * Kind::Shared.words(word(self.gicd(), GICD_TYPER).read()) as u32).min(1020)
    }
}
