//! The hyp-stub scenes: the two calls that turn a translation regime on or off.
//!
//! - *When:* FINALISE_EL2, from the state that the entry leaves, on CPUs with VHE; SOFT_RESTART,
//!   from EL1 and from EL2h, with EL2's MMU as a hypervisor may have left it.
//! - *Expects:* a regime that may have been used before.
//! - *Leaves:* the state that the ABI promises.

use boot::hyp::{FINALISE_EL2, SOFT_RESTART};
use boot::sysreg::{hcr, mair, sctlr, spsr, tcr};

use crate::adversary::Adversary;
use crate::cpu::Cpu;
use crate::entry::{self, BASE};
use crate::failure::Violation;
use crate::kernel::Kernel;
use crate::memory::Access;
use crate::scene::{Scene, expect};
use crate::system::registers::*;
use crate::system::{E2H, Level};
use crate::translation::Regime;

/// Returns all hyp-stub scenes.
///
/// # Panics
///
/// Panics if the entry fails even against the eager adversary.
#[must_use]
pub fn scenes(kernel: &Kernel) -> Vec<Scene> {
    let mut scenes = Vec::new();
    for entry in entry::scenes(kernel).iter().filter(|entry| entry.name.starts_with("entry el2")) {
        let (entered, _) = entry.play(Adversary::eager()).expect("the entry, undisturbed");
        // FINALISE_EL2 is accepted only on a CPU with VHE.
        if entered.system.get(ID_AA64MMFR1_EL1) >> 8 & 0xf != 0 {
            scenes.push(finalise(kernel, &entered, &entry.name.replace("entry", "finalise after")));
        }
        for level in [Level::El1, Level::El2] {
            let from = if level == Level::El1 { "el1" } else { "el2" };
            let name = format!("soft restart from {from}, after {}", entry.name);
            scenes.push(soft_restart(kernel, &entered, level, &name));
        }
    }
    scenes
}

fn call(kernel: &Kernel, entered: &Cpu, x: [u64; 5]) -> (Cpu, u64) {
    let mut start = entered.clone();
    let stop = start.pc;
    start.x[..5].copy_from_slice(&x);
    start.flags = 0;
    start.steps = 0;
    assert!(
        kernel.symbol("hyp_stub_vectors") + BASE == start.system.get(VBAR_EL2),
        "the stub's vectors"
    );
    (start, stop)
}

fn finalise(kernel: &Kernel, entered: &Cpu, name: &str) -> Scene {
    let (mut start, stop) = call(kernel, entered, [FINALISE_EL2, 0, 0, 0, 0]);
    let masked = spsr::DAIF;
    start.daif = masked;
    let before = start.clone();
    // Take the exception as `hvc` does. The contract is checked at the caller's next instruction.
    start.pc = start.call(stop);
    start.memory.tlb.leave_behind(&[Regime::El20]);
    Scene {
        name: name.to_owned(),
        code: 0..kernel.symbol("text_end"),
        placed: BASE,
        start,
        stop,
        milestones: Vec::new(),
        contract: Box::new(move |cpu| finalised(cpu, &before)),
    }
}

/// Checks that the caller continues at EL2, in the same map.
fn finalised(cpu: &mut Cpu, before: &Cpu) -> Result<(), Violation> {
    if !cpu.memory.is_quiet() {
        return Err(Violation::Pending);
    }
    if let Some(regime) = cpu.memory.tlb.left_behind() {
        return Err(Violation::LeftBehind(regime));
    }
    expect("the exception level", u64::from(cpu.level != Level::El2), 0)?;
    expect("x0", cpu.x[0], 0)?;
    expect("HCR_EL2", cpu.system.get(HCR_EL2) & (E2H | hcr::TGE), E2H | hcr::TGE)?;
    expect("SP", cpu.sp_el2, before.system.get(SP_EL1))?;
    expect("DAIF", cpu.daif, before.daif)?;
    for (name, at_el2, at_el1) in [
        ("SCTLR_EL2", SCTLR_EL2, SCTLR_EL1),
        ("TTBR0_EL2", TTBR0_EL2, TTBR0_EL1),
        ("TTBR1_EL2", TTBR1_EL2, TTBR1_EL1),
        ("TCR_EL2", TCR_EL2, TCR_EL1),
        ("MAIR_EL2", MAIR_EL2, MAIR_EL1),
        ("VBAR_EL2", VBAR_EL2, VBAR_EL1),
        ("CPTR_EL2", CPTR_EL2, CPACR_EL1),
    ] {
        expect(name, cpu.system.get(at_el2), before.system.get(at_el1))?;
        expect("a register that is not in effect", u64::from(!cpu.system.is_settled(at_el2)), 0)?;
    }
    expect("SCTLR_EL1", cpu.system.get(SCTLR_EL1), sctlr::EL1_MMU_OFF)?;
    // The map works for code and for data.
    cpu.translate(Access::Execute, cpu.pc)?;
    cpu.read(cpu.x[30] & !7)?;
    Ok(())
}

fn soft_restart(kernel: &Kernel, entered: &Cpu, level: Level, name: &str) -> Scene {
    let (mut start, stop) = call(kernel, entered, [SOFT_RESTART, entered.pc, 0x11, 0x12, 0x13]);
    // The caller has turned its own regime off. EL2's regime is on, in the caller's map, as a
    // hypervisor may leave it.
    let on = sctlr::EL2_MMU_OFF | sctlr::M | sctlr::C | sctlr::I;
    for (register, value) in [
        (SCTLR_EL1, sctlr::EL1_MMU_OFF),
        (SCTLR_EL2, on),
        (TTBR0_EL2, start.system.get(TTBR0_EL1)),
        (TCR_EL2, tcr::VALUE),
        (MAIR_EL2, mair::VALUE),
    ] {
        start.system.set(register, value);
    }
    start.level = level;
    start.pc = start.call(stop);
    Scene {
        name: name.to_owned(),
        code: 0..kernel.symbol("text_end"),
        placed: BASE,
        start,
        stop,
        milestones: Vec::new(),
        contract: Box::new(|cpu| {
            expect("the exception level", u64::from(cpu.level != Level::El2), 0)?;
            expect("SCTLR_EL2", cpu.system.get(SCTLR_EL2), sctlr::EL2_MMU_OFF)?;
            expect(
                "a register that is not in effect",
                u64::from(!cpu.system.is_settled(SCTLR_EL2)),
                0,
            )?;
            expect("DAIF", cpu.daif, spsr::DAIF)?;
            (0..3)
                .try_for_each(|index| expect("x0, x1 or x2", cpu.x[index], 0x11 + index as u64))?;
            if cpu.memory.is_quiet() { Ok(()) } else { Err(Violation::Pending) }
        }),
    }
}
