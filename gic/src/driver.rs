//! GICv2 and GICv3 behind one interface, chosen by the device tree.
//!
//! - When: while this kernel takes interrupts; `kernel::interrupts` decides what happens when.
//! - `arm-gic` does set-up, acknowledge and end of interrupt.
//! - This module does what only a kexec needs: it reads the state that a predecessor left, and
//!   leaves nothing enabled, pending, active or running.
#![expect(unsafe_code, reason = "claims the GIC's registers")]

mod bank;
mod provoke;

use self::bank::{Bank, GICR_SGI, wait_for_rwp, word};
use crate::intid::Kind;
use crate::lpi::{self, Lpis};
use crate::pointer;
use alloc::vec::Vec;
use arm_gic::gicv2::{self, GicV2};
use arm_gic::gicv3::{GicCpuInterface, GicDistributor};
use arm_gic::{IntId, InterruptGroup, UniqueMmioPointer};
use boot::phys::PhysAddr;
use core::arch::asm;
use core::fmt;
use core::ops::Range;
use core::ptr::NonNull;
use fdt::machine::{self, Redistributors};

// Registers by their offsets (GICv3: IHI 0069, 12.9 and 12.11; GICv2: IHI 0048, 4.3 and 4.4).
const GICD_CTLR: u64 = 0;
const GICD_TYPER: u64 = 4;
const GICD_ITARGETSR: u64 = 0x800;
const GICD_IPRIORITYR: u64 = 0x400;
const GICC_CTLR: u64 = 0;
const GICC_PMR: u64 = 4;
const GICC_RPR: u64 = 0x14;
const GICC_APR: u64 = 0xd0;
const GICR_TYPER: u64 = 8;

/// RWP: the register write is still in progress.
const GICD_RWP: u32 = 1 << 31;
const GICR_RWP: u32 = 1 << 3;

/// Enables of all interrupt groups in GICD_CTLR, in either security view.
const GICD_GROUPS: u32 = 0b111;
/// Bit 0 of GICC_CTLR: group 1 in the non-secure view, group 0 without security extensions.
const GICC_ENABLE: u32 = 0b1;
/// Bits 5 to 8 of GICC_CTLR, the bypass settings, which belong to firmware.
const GICC_BYPASS: u32 = 0x1e0;

/// Priority 0xa0 for four interrupts, which a priority mask of 0xff lets through.
const PRIORITY: u32 = 0xa0a0_a0a0;

/// Running priority when no interrupt is running.
const IDLE: u32 = 0xff;

/// The GIC of this machine.
pub struct Gic(pub machine::Gic);

impl fmt::Display for Gic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_v2() { "GICv2" } else { "GICv3" })
    }
}

impl Gic {
    /// Turns the distributor on, with every interrupt disabled.
    pub fn set_up(&self) {
        self.shared().for_each(|bank| bank.silence());
        if self.is_v2() {
            let mut gic = self.v2();
            gic.setup();
            // Bit 0 enables group 0 without security extensions. With them, we see the non-secure
            // view, where the same bit enables group 1.
            gic.enable_group0(true);
        } else {
            self.distributor().configure_default_settings();
        }
    }

    /// Sets up this CPU's banked registers and CPU interface, and enables these private interrupts.
    pub fn set_up_cpu(&self, mpidr: u64, enabled: impl IntoIterator<Item = IntId>) {
        let bank = self.private(mpidr);
        bank.silence();
        self.no_priority_runs();
        if self.is_v2() {
            (0..8).for_each(|nth| word(self.gicd(), GICD_IPRIORITYR + 4 * nth).write(PRIORITY));
            word(self.gicc(), GICC_PMR).write(0xff);
            self.set_interface_v2(GICC_ENABLE);
            for interrupt in enabled {
                must(self.v2().enable_interrupt(interrupt, true));
            }
        } else {
            let mut redistributor = bank.redistributor();
            // An error means that the redistributor is awake already.
            let _ = redistributor.mark_core_awake();
            redistributor.configure_default_settings();
            for interrupt in enabled {
                must(redistributor.enable_interrupt(interrupt, true));
            }
            GicCpuInterface::set_priority_mask(0xff);
            GicCpuInterface::enable_group1(true);
        }
    }

    /// Leaves this CPU's private interrupts disabled, not pending, not active, not running, and its
    /// interface off.
    #[inline(never)]
    pub fn leave_cpu(&self, mpidr: u64) {
        self.private(mpidr).silence();
        self.no_priority_runs();
        if self.is_v2() {
            self.set_interface_v2(0);
        } else {
            GicCpuInterface::enable_group1(false);
            GicCpuInterface::set_priority_mask(0);
        }
    }

    /// Leaves the distributor off, with every shared interrupt disabled, not pending, not active.
    #[inline(never)]
    pub fn leave(&self) {
        self.shared().for_each(|bank| bank.silence());
        // Clear only the group enables: the affinity routing bits stay as they are.
        let control = word(self.gicd(), GICD_CTLR).read();
        word(self.gicd(), GICD_CTLR).write(control & !GICD_GROUPS);
        self.wait_for_rwp();
    }

    /// Acknowledges the pending interrupt of this CPU; `None` if it was withdrawn meanwhile.
    pub fn acknowledge(&self) -> Option<IntId> {
        if self.is_v2() {
            self.v2().get_and_acknowledge_interrupt(InterruptGroup::Group0)
        } else {
            GicCpuInterface::get_and_acknowledge_interrupt(InterruptGroup::Group1)
        }
    }

    /// Returns the acknowledged INTID. A GICv2 reports an SGI's sender in the upper bits.
    pub fn number(&self, interrupt: IntId) -> u32 {
        if self.is_v2() { interrupt.raw_value() & 0x3ff } else { interrupt.raw_value() }
    }

    /// Writes end-of-interrupt for an acknowledged interrupt.
    pub fn end(&self, interrupt: IntId) {
        if self.is_v2() {
            self.v2().end_interrupt(interrupt, InterruptGroup::Group0);
        } else {
            GicCpuInterface::end_interrupt(interrupt, InterruptGroup::Group1);
        }
    }

    /// Sends an SGI to the CPU with this affinity and, on a GICv2, with this
    /// [`target`](Self::target).
    pub fn send(&self, interrupt: IntId, mpidr: u64, target: u32) {
        if self.is_v2() {
            let target_list_filter = gicv2::SgiTargetListFilter::CPUTargetList;
            let target_list = target as u16;
            self.v2()
                .send_sgi(interrupt, gicv2::SgiTarget::List { target_list_filter, target_list });
        } else {
            let [affinity0, affinity1, affinity2, _, affinity3, ..] =
                mpidr.to_le_bytes().map(u64::from);
            // ICC_SGI1R_EL1. arm-gic's writer cannot set the range selector, which picks 16 CPUs of
            // one Aff1.
            let target =
                affinity3 << 48 | (affinity0 >> 4) << 44 | affinity2 << 32 | affinity1 << 16;
            let value = target | u64::from(interrupt.raw_value()) << 24 | 1 << (affinity0 & 0xf);
            // SAFETY: this only sends an SGI, which its receiver handles.
            unsafe { asm!("msr s3_0_c12_c11_5, {}", "isb", in(reg) value, options(nostack)) };
        }
    }

    /// Returns this CPU's bit in GICv2's target lists, which GICD_ITARGETSR0 reports for its
    /// private interrupts.
    pub fn target(&self) -> u32 {
        if self.is_v2() { word(self.gicd(), GICD_ITARGETSR).read() & 0xff } else { 0 }
    }

    /// Returns whether this CPU has an interrupt that was acknowledged and never ended.
    pub fn priority_runs(&self) -> bool {
        if self.is_v2() {
            return word(self.gicc(), GICC_RPR).read() & 0xff != IDLE;
        }
        system_registers();
        let priority: u64;
        // SAFETY: reading ICC_RPR_EL1 has no side effects; `system_registers` made it accessible.
        unsafe { asm!("mrs {}, s3_0_c12_c11_3", out(reg) priority, options(nomem, nostack)) };
        priority & 0xff != u64::from(IDLE)
    }

    /// Returns the banks of shared interrupts, the extended ones last.
    pub fn shared(&self) -> impl Iterator<Item = Bank> {
        let typer = word(self.gicd(), GICD_TYPER).read();
        // Word 0 belongs to the CPU that reads it. A GICv2 has no extended interrupts and uses
        // those GICD_TYPER bits for something else.
        let kinds = [(Kind::Shared, 1), (Kind::Extended, 0)].into_iter().take(if self.is_v2() {
            1
        } else {
            2
        });
        kinds.map(move |(kind, first)| Bank {
            kind,
            words: first..kind.words(typer),
            ..self.bank(self.gicd())
        })
    }

    /// Returns whether this CPU has a redistributor, or the GIC needs none.
    pub fn has(&self, mpidr: u64) -> bool {
        match &self.0 {
            machine::Gic::V2 { .. } => true,
            machine::Gic::V3 { redistributors, .. } => {
                redistributor(redistributors, mpidr).is_some()
            }
        }
    }

    /// Returns the bank of one CPU's private interrupts; on a GICv2, of the CPU that executes this.
    ///
    /// # Panics
    ///
    /// If the GIC does not [have](Self::has) that CPU.
    pub fn private(&self, mpidr: u64) -> Bank {
        match &self.0 {
            machine::Gic::V2 { .. } => self.bank(self.gicd()),
            machine::Gic::V3 { redistributors, .. } => {
                let frame = redistributor(redistributors, mpidr).unwrap_or_else(|| {
                    panic!("no redistributor of the device tree is CPU {mpidr:#x}'s")
                });
                let words = 0..Kind::Private.words(word(frame, GICR_TYPER).read());
                Bank { words, control: Some((frame, GICR_RWP)), ..self.bank(frame + GICR_SGI) }
            }
        }
    }

    /// Disables an interrupt that this CPU has acknowledged.
    pub fn disable(&self, number: u32, mpidr: u64) {
        match Kind::of(number) {
            Some((Kind::Private, word, bit)) => self.private(mpidr).disable(word, bit),
            Some((kind, word, bit)) => {
                self.shared()
                    .filter(|bank| bank.kind == kind)
                    .for_each(|bank| bank.disable(word, bit));
            }
            // This is an LPI: LPIs are off already.
            None => {}
        }
    }

    /// Returns a bank of one word, with the distributor's RWP.
    fn bank(&self, base: PhysAddr) -> Bank {
        Bank {
            base,
            kind: Kind::Private,
            words: 0..1,
            control: self.control(),
            is_v2: self.is_v2(),
        }
    }

    fn is_v2(&self) -> bool {
        matches!(self.0, machine::Gic::V2 { .. })
    }

    fn gicd(&self) -> PhysAddr {
        let (machine::Gic::V2 { distributor, .. } | machine::Gic::V3 { distributor, .. }) = &self.0;
        distributor.start
    }

    fn gicc(&self) -> PhysAddr {
        match &self.0 {
            machine::Gic::V2 { cpu_interface, .. } => cpu_interface.start,
            machine::Gic::V3 { .. } => unreachable!("GICv3's CPU interface is system registers"),
        }
    }

    /// Returns the distributor's RWP register and bit.
    fn control(&self) -> Option<(PhysAddr, u32)> {
        (!self.is_v2()).then(|| (self.gicd(), GICD_RWP))
    }

    fn wait_for_rwp(&self) {
        wait_for_rwp(self.control());
    }

    fn v2(&self) -> GicV2<'static> {
        // SAFETY: the device tree says that a GICv2 is at these addresses; `register` says who else
        // accesses it.
        unsafe { GicV2::new(pointer(self.gicd()).cast(), pointer(self.gicc()).cast()) }
    }

    /// Turns this CPU's interface on or off. Keeps only the bypass settings.
    ///
    /// A predecessor's EOImode would leave our interrupts active: Linux at EL2 sets it on every
    /// CPU, and then ends an interrupt by GICC_EOIR and GICC_DIR (IHI 0048, 4.4.5).
    fn set_interface_v2(&self, enable: u32) {
        let control = word(self.gicc(), GICC_CTLR).read();
        word(self.gicc(), GICC_CTLR).write(control & GICC_BYPASS | enable);
    }

    fn distributor(&self) -> GicDistributor<'static> {
        let registers = NonNull::new(pointer(self.gicd()).cast()).expect("a GIC at address 0");
        // SAFETY: as for `v2`, of a GICv3's distributor.
        GicDistributor::new(unsafe { UniqueMmioPointer::new(registers) })
    }

    /// Clears this CPU's active priorities, which interrupts that were never ended have left. On a
    /// GICv3 also clears EOImode, so that one end-of-interrupt write drops the priority and
    /// deactivates.
    #[inline(never)]
    fn no_priority_runs(&self) {
        if self.is_v2() {
            (0..4).for_each(|nth| word(self.gicc(), GICC_APR + 4 * nth).write(0));
        } else {
            system_registers();
            let control: u64;
            // SAFETY: reading ICC_CTLR_EL1 has no side effects.
            unsafe { asm!("mrs {}, s3_0_c12_c12_4", out(reg) control, options(nomem, nostack)) };
            // PRIbits: ICC_AP1R0_EL1 alone for 5 bits of preemption; also R1 for 6 bits; R0 to R3
            // for 7.
            let bits = (control >> 8 & 7) + 1;
            if bits >= 6 {
                // SAFETY: writes ICC_AP1R1_EL1, which 6 bits imply; no interrupt of ours is
                // running.
                unsafe { asm!("msr s3_0_c12_c9_1, xzr", options(nostack)) };
            }
            if bits >= 7 {
                // SAFETY: as above, ICC_AP1R2_EL1 and ICC_AP1R3_EL1, which 7 bits imply.
                unsafe {
                    asm!("msr s3_0_c12_c9_2, xzr", "msr s3_0_c12_c9_3, xzr", options(nostack))
                };
            }
            // SAFETY: as above, ICC_AP1R0_EL1; and ICC_CTLR_EL1, in effect after the ISB.
            unsafe {
                asm!("msr s3_0_c12_c9_0, xzr", "msr s3_0_c12_c12_4, xzr", "isb", options(nostack))
            };
        }
    }
}

/// The control frame of a redistributor or of an ITS.
struct Frame(PhysAddr);

impl lpi::Registers for Frame {
    fn read(&self, offset: u64) -> u32 {
        word(self.0, offset).read()
    }

    fn write(&mut self, offset: u64, value: u32) {
        word(self.0, offset).write(value);
    }
}

/// Sets ICC_SRE_EL1.SRE: from the next instruction on, the CPU interface is system registers.
fn system_registers() {
    GicCpuInterface::enable_system_register_el1();
    // SAFETY: an ISB only synchronises: it puts SRE into effect before the next ICC_* access.
    unsafe { asm!("isb", options(nostack)) };
}

/// Makes the ITSs quiescent. Returns how many do not become quiescent.
pub fn quiesce(its: &[Range<PhysAddr>]) -> usize {
    its.iter().filter(|its| !lpi::quiesce(&mut Frame(its.start))).count()
}

/// Turns off the LPIs of every redistributor. Returns the result for each.
pub fn turn_lpis_off(all: &Redistributors) -> Vec<Lpis> {
    redistributors(all).map(|frame| lpi::turn_off(&mut Frame(frame))).collect()
}

/// Returns the redistributor whose GICR_TYPER names this affinity.
fn redistributor(all: &Redistributors, mpidr: u64) -> Option<PhysAddr> {
    let affinity = (mpidr >> 8 & 0xff00_0000) as u32 | (mpidr & 0x00ff_ffff) as u32;
    redistributors(all).find(|&frame| word(frame, GICR_TYPER + 4).read() == affinity)
}

/// Returns the first frame of every redistributor.
fn redistributors(all: &Redistributors) -> impl Iterator<Item = PhysAddr> {
    const LAST: u32 = 1 << 4;
    const VLPIS: u32 = 1 << 1;
    all.regions.iter().flat_map(move |region| {
        let in_region = move |frame: PhysAddr| (frame < region.end).then_some(frame);
        core::iter::successors(in_region(region.start), move |&frame| {
            let typer = word(frame, GICR_TYPER).read();
            let frames = if typer & VLPIS != 0 { 0x4_0000 } else { 0x2_0000 };
            if typer & LAST != 0 {
                None
            } else {
                in_region(frame.saturating_add(all.stride.unwrap_or(frames)))
            }
        })
    })
}

/// Panics if arm-gic has no such interrupt. (`expect` would print the error too, with a kilobyte of
/// code.)
fn must<E>(done: Result<(), E>) {
    assert!(done.is_ok(), "arm-gic refuses the interrupt");
}
