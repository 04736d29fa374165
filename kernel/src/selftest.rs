//! The hyp-stub's conformance suite (`selftest=stub`), run against the ABI of [`boot::hyp`].
//!
//! *When:* instead of a life. *On entry:* mode nvhe, where it calls from EL1 and, over a landing pad, from EL2h; or mode vhe, where it
//! puts the stub's vectors back and calls from EL2h. *Leaves:* one line for each check that failed, a count, and the end. In nvhe the
//! end is the last check: a trapped register read with x0 = 1, which only the emergency printer may answer.
#![expect(unsafe_code, reason = "calls the stub in every way that a kernel must not")]

use crate::cpus::{self, Cpu};
use crate::end;
use crate::life::Life;
use boot::hyp::{FINALISE_EL2, RESET_VECTORS, SET_VECTORS, SOFT_RESTART, STUB_ERR};
use boot::sysreg::{current_el, hcr, mair, sctlr, spsr};
use core::arch::{asm, global_asm};
use core::fmt;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::Relaxed;
use kernel::mode::Mode;
use log::{error, info};

global_asm!(
    include_str!("selftest.S"),
    SOFT_RESTART = const SOFT_RESTART,
    SPSR_TO_EL1 = const spsr::TO_EL1,
    MAIR = const mair::VALUE,
    SCTLR_MCI = const sctlr::M | sctlr::C | sctlr::I,
    HCR_TID3 = const hcr::TID3,
);

unsafe extern "C" {
    fn selftest_call(number: u64, x1: u64, x2: u64, x3: u64, x4: u64) -> Answers;
    fn selftest_restart(seen: *mut [u64; 9], x2: u64, x3: u64, x4: u64);
    fn selftest_at_el2(routine: unsafe extern "C" fn(), x0: u64, x1: u64) -> Answers;
    fn selftest_hvc_at_el2();
    fn selftest_restart_at_el2();
    fn selftest_mmu_at_el2();
    fn selftest_trap_at_el2();
    fn selftest_trapped_read() -> u64;
    static hyp_stub_vectors: u8;
}

/// What comes back in x0 and x1.
#[derive(Clone, Copy)]
#[repr(C)]
struct Answers {
    x0: u64,
    x1: u64,
}

/// Numbers that no stub of ours knows: the one that newer kernels have, the first free one, the old "get vectors", and one whose low
/// half is SOFT_RESTART's.
const UNKNOWN: [u64; 4] = [4, 5, 0xffff_ffff, 1 << 32 | SOFT_RESTART];

/// A table of 1 GiB blocks for EL2's own regime.
#[repr(C, align(4096))]
struct Table([u64; 512]);

static TABLE: spin::Mutex<Table> = spin::Mutex::new(Table([0; 512]));

struct Suite {
    checks: u32,
    failed: u32,
}

impl Suite {
    fn expect(&mut self, what: fmt::Arguments<'_>, found: u64, expected: u64) {
        self.checks += 1;
        if found != expected {
            self.failed += 1;
            error!("selftest: FAILED: {what}: {found:#x}, expected {expected:#x}");
        }
    }

    /// Calls from the level that this runs at; x19 and up are checked with each call.
    fn call(&mut self, number: u64, argument: u64, expected: u64) {
        // SAFETY: every number here comes back, by the ABI under test, and the arguments are the stub's own vectors or refused.
        let answers = unsafe { selftest_call(number, argument, 0, 0, 0) };
        self.expect(format_args!("x0 = {number:#x}, x1 = {argument:#x}"), answers.x0, expected);
        self.expect(format_args!("x0 = {number:#x}: x19 to x30"), answers.x1, 0);
    }

    /// Calls from EL2h.
    fn call_at_el2(&mut self, number: u64, argument: u64, expected: u64) {
        // SAFETY: as for `call`; the routine makes one call.
        let answers = unsafe { selftest_at_el2(selftest_hvc_at_el2, number, argument) };
        self.expect(
            format_args!("EL2h, x0 = {number:#x}, x1 = {argument:#x}"),
            answers.x0,
            expected,
        );
    }

    /// SOFT_RESTART's promises, seen by the landing pad: the shuffle, x3 and x4 left alone, EL2h, DAIF masked, SCTLR_EL2 = MMU-off value.
    fn restart(&mut self) {
        let mut seen = [0; 9];
        // SAFETY: the pad is in this image, which lies 1:1, and comes back.
        unsafe { selftest_restart(&raw mut seen, 0x1111, 0x2222, 0x3333) };
        let state = [current_el::EL2, spsr::DAIF, sctlr::EL2_MMU_OFF, 1];
        let expected = [0x1111, 0x2222, 0x3333, 0x2222, 0x3333].into_iter().chain(state);
        for (word, (found, expected)) in seen.into_iter().zip(expected).enumerate() {
            self.expect(
                format_args!("SOFT_RESTART, {word} of x0-x4, CurrentEL, DAIF, SCTLR_EL2, SPSel"),
                found,
                expected,
            );
        }
    }
}

static CHECKS: AtomicU32 = AtomicU32::new(0);
static FAILED: AtomicU32 = AtomicU32::new(0);

/// How many checks have failed so far, on any CPU.
pub fn failed() -> u32 {
    FAILED.load(Relaxed)
}

/// Runs the suite on this CPU, whose stub is its own. IRQs are masked.
pub fn on_this_cpu(mode: Mode) {
    let mut suite = Suite { checks: 0, failed: 0 };
    let vectors = (&raw const hyp_stub_vectors).addr() as u64;
    match mode {
        Mode::El1 => {
            error!("selftest: FAILED: entered at EL1: there is no stub");
            suite.failed += 1;
        }
        Mode::Nvhe => from_el1(&mut suite, vectors),
        Mode::Vhe => from_el2_with_e2h(&mut suite, vectors),
    }
    CHECKS.fetch_add(suite.checks, Relaxed);
    FAILED.fetch_add(suite.failed, Relaxed);
    if suite.failed == 0 {
        info!("selftest: stub: {} checks passed on CPU {}", suite.checks, Cpu::current().index);
    }
}

/// Runs the suite on every CPU, this one last, and ends.
pub fn stub(life: &Life) -> ! {
    life.cpus.selftest();
    cpus::mask();
    on_this_cpu(life.mode);
    let (checks, failed) = (CHECKS.load(Relaxed), failed());
    if failed > 0 {
        error!("selftest: stub: {failed} of {checks} checks FAILED");
        end::failure();
    }
    info!("selftest: stub: {checks} checks passed");
    if life.mode == Mode::Nvhe {
        info!("selftest: next, a trapped read with x0 = 1");
        crate::console::flush();
        // SAFETY: the routine sets a trap that nothing but the read below springs.
        unsafe { selftest_at_el2(selftest_trap_at_el2, 0, 0) };
        // SAFETY: it traps, or comes back.
        let restarted = unsafe { selftest_trapped_read() };
        error!("selftest: FAILED: the trapped read restarted, or did not trap: {restarted}");
        end::failure();
    }
    end::success()
}

fn common(suite: &mut Suite, vectors: u64) {
    suite.call(SET_VECTORS, vectors, 0);
    suite.call(SET_VECTORS, vectors + 0x400, STUB_ERR);
    suite.call(RESET_VECTORS, 0, 0);
    for number in UNKNOWN {
        suite.call(number, 0, STUB_ERR);
    }
}

fn from_el1(suite: &mut Suite, vectors: u64) {
    common(suite, vectors);
    suite.restart();
    for number in UNKNOWN {
        suite.call_at_el2(number, 0, STUB_ERR);
    }
    suite.call_at_el2(SET_VECTORS, vectors, 0);
    suite.call_at_el2(SET_VECTORS, vectors + 8, STUB_ERR);
    suite.call_at_el2(RESET_VECTORS, 0, 0);
    // From EL2h it would install EL1 state that nobody set.
    suite.call_at_el2(FINALISE_EL2, 0, STUB_ERR);
    // SAFETY: the routine restarts onto itself.
    let answers = unsafe { selftest_at_el2(selftest_restart_at_el2, 0, 0) };
    suite.expect(format_args!("EL2h, SOFT_RESTART"), answers.x0, 0x11);

    // With EL2's MMU on, as under a hypervisor: FINALISE refuses, SOFT_RESTART turns it off.
    let (ttbr0, tcr) = el2_map();
    // SAFETY: the table maps this image 1:1 and executable for EL2.
    unsafe { selftest_at_el2(selftest_mmu_at_el2, ttbr0, tcr) };
    suite.call(FINALISE_EL2, 0, STUB_ERR);
    suite.restart();

    let mmfr1: u64;
    // SAFETY: an identification register.
    unsafe { asm!("mrs {}, id_aa64mmfr1_el1", out(reg) mmfr1, options(nomem, nostack)) };
    if (mmfr1 >> 8) & 0xf == 0 {
        // No VHE to go to.
        suite.call(FINALISE_EL2, 0, STUB_ERR);
    }
}

fn from_el2_with_e2h(suite: &mut Suite, vectors: u64) {
    let mine: u64;
    // SAFETY: the stub's vectors, mapped 1:1 and executable, answer HVC; nothing else may happen until this kernel's are back.
    unsafe {
        asm!("mrs {mine}, vbar_el2", "msr vbar_el2, {stub}", "isb", mine = out(reg) mine, stub = in(reg) vectors);
    }
    common(suite, vectors);
    suite.call(FINALISE_EL2, 0, STUB_ERR);
    // SAFETY: this kernel's own vectors.
    unsafe { asm!("msr vbar_el2, {mine}", "isb", mine = in(reg) mine) };
}

/// TTBR0_EL2 and TCR_EL2 of a map that holds this image 1:1, in EL2's own format: one VA range, XN, RES1 AP\[1\].
fn el2_map() -> (u64, u64) {
    const GIB: u64 = 1 << 30;
    let mut table = TABLE.lock();
    let address = (&raw const table.0).addr() as u64;
    // Block, AF, inner shareable, AP[1], attribute 1: this image's GiB, which is RAM, and nothing else.
    let gib = address / GIB;
    table.0[(gib % 512) as usize] = (gib * GIB) | 1 << 10 | 3 << 8 | 1 << 6 | mair::NORMAL << 2 | 1;
    // RES1 bits 31 and 23, 39 bits of address, write-back inner-shareable walks, 40 bits of physical address.
    let tcr = 1 << 31 | 1 << 23 | (64 - 39) | 1 << 8 | 1 << 10 | 3 << 12 | 2 << 16;
    // EL2 walks it with caches off until its own are on.
    let start = boot::phys::PhysAddr(address);
    boot::cache::clean_and_invalidate(&(start..boot::phys::PhysAddr(address + 4096)));
    (address, tcr)
}
