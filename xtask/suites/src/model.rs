//! A comparison of the model's interpreter with QEMU, instruction by instruction.
//!
//! A debugger stops the guest before its first instruction, at EL2 with the MMU off. For each trial
//! it writes instructions, registers and memory; then both sides step, and must agree. The trials
//! are:
//!
//! - all instructions that compute, load, store or branch in the code that the model runs;
//! - random instructions of each pattern of the model's closed list;
//! - short sequences that access system registers or change the exception level.
//!
//! Caches and barriers cannot be compared: QEMU has no caches, which is why the model exists.

use std::{collections::BTreeSet, mem::discriminant};

use anyhow::{Context, Result, ensure};
use boot::sysreg::spsr;
use model::{
    cpu::Cpu,
    decode::{Instruction, PATTERNS, Place, ZERO, decode},
    memory::{Access, Memory},
    system::{Level, Processor, System},
};
use relocate::random::SplitMix64;

use harness::{cmdline::Cmdline, postmortem::Gdb, verdict::Verdict};

use super::{
    case::{Case, Trial, case},
    debugger::debugged,
};

/// The code page, then the data page, in RAM that the loader left free.
const CODE: u64 = 0x5000_0000;
const DATA: u64 = CODE + 0x1000;
const END: u64 = DATA + 0x1000;

/// Number of kinds of instructions that the patterns cover.
const KINDS: usize = 20;

const HVC: u32 = 0xd400_0002;

/// Trials of each pattern, and of each instruction of the kernel's own code.
const RANDOM: usize = 24;
const OWN: usize = 2;

/// Returns the one case of this suite.
pub fn cases() -> Vec<Case> {
    vec![case("model/qemu", pass)]
}

fn pass(trial: &mut Trial<'_>) -> Result<()> {
    let kernel = trial.kernel();
    let own =
        own_words(&kernel.image, kernel.symbol("text_start")?..kernel.symbol("exception_to_rust")?);
    let mut random = SplitMix64::new(trial.seed());
    let request = trial.request("nvhe", &Cmdline { generations: 1, ..trial.cmdline() })?;
    let outcome = debugged(trial, request, |mut gdb| {
        // Keep the loader's registers and PC: the guest boots after the trials.
        let before = gdb.general()?;
        for word in own.iter().flat_map(|word| [*word; OWN]) {
            compare(&mut gdb, &mut random, &[word])?;
        }
        let mut kinds = BTreeSet::new();
        for (name, value, mask) in PATTERNS {
            for _ in 0..RANDOM {
                let word = (0..100_000)
                    .map(|_| random.next_u64() as u32 & !mask | value)
                    .find(|word| is_comparable(*word));
                let word = word.with_context(|| format!("{name}: the model accepts none"))?;
                kinds.insert(format!(
                    "{:?}",
                    decode(word).map(|instruction| discriminant(&instruction))
                ));
                compare(&mut gdb, &mut random, &[word]).with_context(|| (*name).to_owned())?;
            }
        }
        // All that `decode` knows, except hvc, eret, mrs, msr, SPSel and maintenance, which the
        // sequences cover.
        ensure!(
            kinds.len() == KINDS,
            "{} kinds of instructions were compared, and there are {KINDS}",
            kinds.len()
        );
        for sequence in SEQUENCES {
            for _ in 0..RANDOM {
                compare(&mut gdb, &mut random, sequence)?;
            }
        }
        gdb.set_general(&before)?;
        gdb.detach()
    })?;
    ensure!(
        outcome.verdict == Verdict::Success,
        "the guest's own run, afterwards: {}",
        outcome.verdict.words()
    );
    Ok(())
}

/// Tests that take several instructions: system registers, vector registers, exceptions. x1, x2 and
/// x3 point to data.
const SEQUENCES: &[&[u32]] = &[
    // ldp q0, q1, [x1], #32; stp q1, q0, [x2], #32
    &[0xacc1_0420, 0xac81_0041],
    // msr tpidr_el2, x4; mrs x5, tpidr_el2; mrs x6, CurrentEL; mrs x7, daif
    &[0xd51c_d044, 0xd53c_d045, 0xd538_4246, 0xd53b_4227],
    // msr sp_el1, x4; mrs x5, sp_el1; mov x6, sp; mov sp, x7
    &[0xd51c_4104, 0xd53c_4105, 0x9100_03e6, 0x9100_00ff],
    // and x4, x1, #~0xfff; msr vbar_el2, x4; hvc #0; no instruction runs at the vector
    &[0x9274_cc24, 0xd51c_c004, 0xd400_0002],
    // the same, then mrs of esr_el2, elr_el2 and spsr_el2 at the vector
    &[0x9274_cc24, 0xd51c_c004, 0xd400_0002, 0xd53c_5205, 0xd53c_4026, 0xd53c_4007],
    // the same vectors; mov x5, #1 << 31; msr hcr_el2, x5; mov x5, #0x3c5; msr spsr_el2, x5;
    // adr x6, .+12; msr elr_el2, x6; eret; mrs x7, CurrentEL; hvc #0
    &[
        0x9274_cc24,
        0xd51c_c004,
        0xd2b0_0005,
        0xd51c_1105,
        0xd280_78a5,
        0xd51c_4005,
        0x1000_0066,
        0xd51c_4026,
        0xd69f_03e0,
        0xd538_4247,
        0xd400_0002,
    ],
    // dc civac, x1; dc cvac, x1; dc ivac, x1; dsb sy; dsb ish; dsb nsh; dmb sy; isb; ic iallu;
    // ic ialluis
    &[
        0xd50b_7e21,
        0xd50b_7a21,
        0xd508_7621,
        0xd503_3f9f,
        0xd503_3b9f,
        0xd503_379f,
        0xd503_3fbf,
        0xd503_3fdf,
        0xd508_751f,
        0xd508_711f,
    ],
    // tlbi alle2; tlbi alle1; tlbi vmalle1; msr SPSel, #1
    &[0xd50c_871f, 0xd50c_879f, 0xd508_871f, 0xd500_41bf],
];

/// Returns the distinct instructions of the kernel's own code that can be compared one by one.
fn own_words(image: &[u8], code: std::ops::Range<u64>) -> BTreeSet<u32> {
    let words = image[code.start as usize..code.end as usize]
        .as_chunks()
        .0
        .iter()
        .copied()
        .map(u32::from_le_bytes);
    words.filter(|word| is_comparable(*word)).collect()
}

/// Returns whether an instruction affects only general registers, flags, and memory at an address
/// that the test can choose.
fn is_comparable(word: u32) -> bool {
    use Instruction::*;
    match decode(word) {
        None | Some(Hvc | Eret | ReadSystem { .. } | WriteSystem { .. } | SelectStack { .. }) => {
            false
        }
        Some(Isb | Dsb(_) | Dmb | Dc { .. } | Ic(_) | Tlbi(_)) => false,
        // A single load of vector registers has no result that the comparison reads; see SEQUENCES.
        Some(Pair { size: 16, .. }) => false,
        Some(Single { rn, place: Place::Indexed { index, .. }, .. }) => {
            index != rn && index != ZERO
        }
        Some(Single { place: Place::At(offset), .. }) => (0..0x400).contains(&offset),
        Some(_) => true,
    }
}

/// Steps the same instructions from the same random state in the model and in QEMU, and compares
/// the results.
fn compare(gdb: &mut Gdb, random: &mut SplitMix64, words: &[u32]) -> Result<()> {
    let mut registers = [0; 34];
    registers.iter_mut().for_each(|register| *register = random.next_u64());
    let somewhere = |random: &mut SplitMix64| DATA + 0x400 + random.below(0x40) * 0x10;
    for register in &mut registers[1..4] {
        *register = somewhere(random);
    }
    if let [word] = words {
        match decode(*word) {
            Some(Instruction::Pair { rn, .. }) => registers[rn] = somewhere(random),
            Some(Instruction::Single { rn, place, .. }) => {
                if let Place::Indexed { index, .. } = place {
                    registers[index] = random.below(16) * 8;
                }
                registers[rn] = somewhere(random);
            }
            _ => {}
        }
    }
    registers[31] &= !0xf;
    registers[32] = CODE;
    // NZCV random, DAIF set, EL2h.
    registers[33] = registers[33] & 0xf000_0000 | spsr::DAIF | spsr::EL2H;

    // Put the instructions after an hvc at its vector as well.
    let mut bytes = vec![0; (END - CODE) as usize];
    for (word, place) in words.iter().zip((0..).step_by(4)) {
        bytes[place..place + 4].copy_from_slice(&word.to_le_bytes());
    }
    bytes[(DATA - CODE) as usize..].fill_with(|| random.next_u64() as u8);
    if let Some(after) = words.iter().position(|word| *word == HVC) {
        for (word, place) in words[after + 1..].iter().zip((0x1200..).step_by(4)) {
            bytes[place..place + 4].copy_from_slice(&word.to_le_bytes());
        }
    }

    let mut system = System::new(Processor::Plain);
    system.set(model::system::registers::SPSEL, 1);
    let mut memory = Memory::new(CODE, bytes.clone());
    for access in [Access::Read, Access::Write, Access::Execute] {
        memory.allow(access, CODE..END);
    }
    let mut cpu = Cpu::new(system, memory, Level::El2, CODE);
    cpu.x.copy_from_slice(&registers[..31]);
    (cpu.sp_el2, cpu.flags) = (registers[31], registers[33] & 0xf000_0000);

    for (place, part) in (CODE..).step_by(0x400).zip(bytes.chunks(0x400)) {
        gdb.write(place, part)?;
    }
    gdb.set_general(&registers)?;
    for step in 0..words.len() {
        let at = cpu.pc;
        let said = || format!("{words:08x?}, step {step}, at {at:#x}, from {registers:#x?}");
        cpu.step().map_err(|wrong| anyhow::anyhow!("{wrong}")).with_context(said)?;
        gdb.step()?;
        let theirs = gdb.general()?;
        for (number, (ours, theirs)) in cpu.x.iter().zip(&theirs).enumerate() {
            ensure!(
                ours == theirs,
                "x{number} is {ours:#x} in the model, {theirs:#x} in QEMU: {}",
                said()
            );
        }
        let mode = if cpu.level == Level::El1 { spsr::EL1H } else { spsr::EL2H };
        let state = cpu.flags | cpu.daif | mode;
        // QEMU clears NZCV on an exception; the architecture does not. No handler here reads NZCV.
        let flags = if words[..=step].contains(&HVC) { 0 } else { 0xf000_0000 };
        let kept = flags | spsr::DAIF | 0xf;
        ensure!(
            cpu.pc == theirs[32],
            "PC is {:#x} in the model, {:#x} in QEMU: {}",
            cpu.pc,
            theirs[32],
            said()
        );
        ensure!(
            state & kept == theirs[33] & kept,
            "PSTATE is {state:#x} in the model, {:#x} in QEMU: {}",
            theirs[33],
            said()
        );
        if cpu.level == Level::El2 {
            ensure!(
                cpu.sp_el2 == theirs[31],
                "SP is {:#x} in the model, {:#x} in QEMU: {}",
                cpu.sp_el2,
                theirs[31],
                said()
            );
        }
    }
    let theirs = gdb.memory(DATA, (END - DATA) as usize)?;
    let differs = cpu
        .memory
        .beneath(&(DATA..END))
        .iter()
        .zip(&theirs)
        .position(|(ours, theirs)| ours != theirs);
    ensure!(
        differs.is_none(),
        "memory differs at DATA + {differs:x?}: {words:08x?} from {registers:#x?}"
    );
    Ok(())
}
