//! The entry of a secondary CPU: from PSCI CPU_ON to its first line of Rust.
//!
//! - *When:* entered at EL1, and at EL2 with and without the features that the EL2 set-up checks
//!   for.
//! - *Expects:* the first CPU's map, and this CPU's own page, clean to PoC as the starting CPU
//!   promises; a TLB with a previous kernel's entries.
//! - *Leaves:* the CPU at EL1, in the map of the CPU that started it.

use core::mem::offset_of;

use boot::percpu::{Entered, PerCpu};
use boot::sysreg::{asid, mair, sctlr, spsr, tcr};

use crate::adversary::Adversary;
use crate::cpu::Cpu;
use crate::entry::{self, BASE, JUNK};
use crate::failure::Violation;
use crate::kernel::Kernel;
use crate::memory::Access;
use crate::scene::{Scene, expect, put};
use crate::system::Level;
use crate::system::registers::*;

/// Returns all secondary scenes.
///
/// # Panics
///
/// Panics if the first CPU's entry fails even against the eager adversary.
#[must_use]
pub fn scenes(kernel: &Kernel) -> Vec<Scene> {
    entry::scenes(kernel).iter().map(|entry| scene(kernel, entry)).collect()
}

fn scene(kernel: &Kernel, entry: &Scene) -> Scene {
    let placed = |name| BASE + kernel.symbol(name);
    let (entered, _) = entry.play(Adversary::eager()).expect("the entry, undisturbed");
    let mut memory = entered.memory.clone();
    memory.settle();
    // This CPU starts with the TLB that the first CPU had at its entry.
    memory.tlb = entry.start.memory.tlb.clone();
    let own = placed("bss_start");
    let root = placed("early_tables") | asid::KERNEL << asid::SHIFT;
    let page = memory.beneath_mut(&(own..own + size_of::<PerCpu>() as u64));
    put(page, offset_of!(PerCpu, ttbr0), root);
    put(page, offset_of!(PerCpu, stack), JUNK);
    memory.allow(Access::Read, own..own + size_of::<PerCpu>() as u64);
    let entered = own + offset_of!(PerCpu, entered) as u64;
    memory.allow(Access::Write, entered..entered + size_of::<Entered>() as u64);

    let start = &entry.start;
    let mut start = Cpu::new(start.system.clone(), memory, start.level, placed("secondary_entry"));
    start.x = [JUNK; 31];
    start.x[0] = own;
    // PSCI enters the CPU with its caller's byte order, which is ours.
    let live = if start.level == Level::El1 { SCTLR_EL1 } else { SCTLR_EL2 };
    start.system.set(live, start.system.get(live) & !sctlr::EE);
    let contract = {
        let vectors = placed("exception_vectors");
        move |cpu: &mut Cpu| {
            if !cpu.memory.is_quiet() {
                return Err(Violation::Pending);
            }
            if let Some(regime) = cpu.memory.tlb.left_behind() {
                return Err(Violation::LeftBehind(regime));
            }
            expect("the exception level", u64::from(cpu.level != Level::El1), 0)?;
            expect("DAIF", cpu.daif, spsr::DAIF & !(1 << 8))?;
            expect("x0", cpu.x[0], own)?;
            expect("SP", cpu.system.get(SP_EL1), JUNK)?;
            for (name, register, value) in [
                ("SCTLR_EL1", SCTLR_EL1, sctlr::MMU_ON),
                ("TTBR0_EL1", TTBR0_EL1, root),
                ("TTBR1_EL1", TTBR1_EL1, 0),
                ("MAIR_EL1", MAIR_EL1, mair::VALUE),
                ("VBAR_EL1", VBAR_EL1, vectors),
                ("TPIDR_EL1", TPIDR_EL1, own),
            ] {
                expect(name, cpu.system.get(register), value)?;
                expect(
                    "a register that is not in effect",
                    u64::from(!cpu.system.is_settled(register)),
                    0,
                )?;
            }
            expect("TCR_EL1", cpu.system.get(TCR_EL1) & !(7 << tcr::IPS_SHIFT), tcr::VALUE)
        }
    };
    Scene {
        name: entry.name.replace("entry", "secondary"),
        code: 0..kernel.symbol("text_end"),
        placed: BASE,
        start,
        stop: BASE + kernel.into_rust("secondary").unwrap_or_default(),
        milestones: Vec::new(),
        contract: Box::new(contract),
    }
}
