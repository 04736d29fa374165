//! Self-tests: the hyp-stub's conformance suite (`selftest=stub`), and noise (`selftest=heap`).
//!
//! [`disturb`] makes the noise. All else is the suite, against the ABI in [`boot::hyp`]:
//!
//! - When: instead of the rest of the generation, on every CPU.
//! - Expects: mode nvhe or vhe. In nvhe the suite calls the stub from EL1 and, by way of a landing
//!   pad, from EL2h. In vhe it installs the stub's vectors again and calls from EL2h.
//! - Leaves: a line for each failed check, a count, and the end of the run.
//!
//! In nvhe the run ends with the last check, a trapped register read with x0 = 1. The stub must not
//! take that for SOFT_RESTART: the early console has to report an exception.
#![expect(unsafe_code, reason = "calls the stub in every way that a kernel must not")]

use crate::clock;
use crate::cpus::{self, Cpu};
use crate::end;
use crate::state::Kernel;
use alloc::vec::Vec;
use boot::hyp::{FINALISE_EL2, RESET_VECTORS, SET_VECTORS, SOFT_RESTART, STUB_ERR};
use boot::sysreg::{current_el, hcr, mair, sctlr, spsr};
use core::arch::{asm, global_asm};
use core::fmt;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::Relaxed;
use log::{error, info};
use protocol::mode::Mode;
use relocate::random::SplitMix64;

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

/// The results in x0 and x1.
#[derive(Clone, Copy)]
#[repr(C)]
struct Answers {
    x0: u64,
    x1: u64,
}

/// Numbers that our stub must refuse. Newer kernels define 4; 5 is free; 0xffff_ffff was "get
/// vectors"; the last one has SOFT_RESTART in its low half.
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

    /// Calls the stub from the current level. Each call also checks that x19 to x30 are preserved.
    fn call(&mut self, number: u64, argument: u64, expected: u64) {
        // SAFETY: by the ABI under test each of these calls returns. The stub refuses the
        // arguments, or they are its own vectors.
        let answers = unsafe { selftest_call(number, argument, 0, 0, 0) };
        self.expect(format_args!("x0 = {number:#x}, x1 = {argument:#x}"), answers.x0, expected);
        self.expect(format_args!("x0 = {number:#x}: x19 to x30"), answers.x1, 0);
    }

    /// Calls the stub from EL2h.
    fn call_at_el2(&mut self, number: u64, argument: u64, expected: u64) {
        // SAFETY: as for `call`; the routine makes one call, uses no stack and preserves x19 and
        // up.
        let answers = unsafe { selftest_at_el2(selftest_hvc_at_el2, number, argument) };
        self.expect(
            format_args!("EL2h, x0 = {number:#x}, x1 = {argument:#x}"),
            answers.x0,
            expected,
        );
    }

    /// Checks SOFT_RESTART at the landing pad: x0 to x2 from x2 to x4, x3 and x4 unchanged, EL2h,
    /// DAIF masked, SCTLR_EL2 at its MMU-off value.
    fn restart(&mut self) {
        let mut seen = [0; 9];
        // SAFETY: the pad is in this image, which is mapped 1:1, and it returns here.
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

/// Returns how many checks have failed so far, on all CPUs.
pub fn failed() -> u32 {
    FAILED.load(Relaxed)
}

/// Runs the suite on this CPU, against its own stub. Expects IRQs masked.
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

/// Blocks that [`disturb`] has allocated and not yet freed.
static KEPT: spin::Mutex<Vec<Vec<u8>>> = spin::Mutex::new(Vec::new());

/// Allocates blocks of random sizes, frees some of all that it ever allocated, and waits for a
/// random time.
///
/// The counter is the seed, and not `seed=`: each run is another one.
pub fn disturb() {
    const BLOCKS: u64 = 64;
    const MOST_BYTES: u64 = 2048;
    const MOST_NS: u64 = 2_000_000;
    let begun = clock::now();
    let mut random = SplitMix64::new(begun);
    let mut kept = KEPT.lock();
    for _ in 0..BLOCKS {
        kept.push(Vec::with_capacity(1 + random.below(MOST_BYTES) as usize));
    }
    kept.retain(|_| random.below(2) == 0);
    let wait = random.below(MOST_NS);
    while clock::nanoseconds(clock::now() - begun) < wait {
        core::hint::spin_loop();
    }
    let bytes: usize = kept.iter().map(Vec::capacity).sum();
    info!("selftest: heap: {} blocks of {bytes} bytes kept, {wait} ns spent", kept.len());
}

/// Runs the suite on every CPU, on this one last, and ends the run.
pub fn stub(kernel: &Kernel) -> ! {
    kernel.cpus.selftest();
    cpus::mask();
    on_this_cpu(kernel.mode);
    let (checks, failed) = (CHECKS.load(Relaxed), failed());
    if failed > 0 {
        error!("selftest: stub: {failed} of {checks} checks FAILED");
        end::failure();
    }
    info!("selftest: stub: {checks} checks passed");
    if kernel.mode == Mode::Nvhe {
        info!("selftest: next, a trapped read with x0 = 1");
        crate::console::flush();
        // SAFETY: the routine sets a trap that only the read below triggers.
        unsafe { selftest_at_el2(selftest_trap_at_el2, 0, 0) };
        // SAFETY: the read traps to the early console, or returns.
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
    // From EL2h the stub would install EL1 state that this kernel has not set up.
    suite.call_at_el2(FINALISE_EL2, 0, STUB_ERR);
    // SAFETY: the routine's SOFT_RESTART has the routine itself as its target.
    let answers = unsafe { selftest_at_el2(selftest_restart_at_el2, 0, 0) };
    suite.expect(format_args!("EL2h, SOFT_RESTART"), answers.x0, 0x11);

    // With EL2's MMU on, as under a hypervisor, FINALISE_EL2 is refused and SOFT_RESTART turns the
    // MMU off.
    let (ttbr0, tcr) = el2_map();
    // SAFETY: the table maps this image 1:1 and executable at EL2 [I2].
    unsafe { selftest_at_el2(selftest_mmu_at_el2, ttbr0, tcr) };
    suite.call(FINALISE_EL2, 0, STUB_ERR);
    suite.restart();

    let mmfr1: u64;
    // SAFETY: reading an ID register has no side effects.
    unsafe { asm!("mrs {}, id_aa64mmfr1_el1", out(reg) mmfr1, options(nomem, nostack)) };
    if (mmfr1 >> 8) & 0xf == 0 {
        // Without VHE the stub must refuse FINALISE_EL2.
        suite.call(FINALISE_EL2, 0, STUB_ERR);
    }
}

fn from_el2_with_e2h(suite: &mut Suite, vectors: u64) {
    let mine: u64;
    // SAFETY: the stub's vectors are mapped 1:1 and executable, and answer HVC. IRQs are masked,
    // and this code raises no other exception until this kernel's vectors are back.
    unsafe {
        asm!(
            "mrs {mine}, vbar_el2",
            "msr vbar_el2, {stub}",
            "isb",
            mine = out(reg) mine,
            stub = in(reg) vectors
        );
    }
    common(suite, vectors);
    suite.call(FINALISE_EL2, 0, STUB_ERR);
    // SAFETY: restores this kernel's own vectors.
    unsafe { asm!("msr vbar_el2, {mine}", "isb", mine = in(reg) mine) };
}

/// Builds a map of this image, 1:1, in the format of EL2 without E2H: one VA range, XN, AP\[1\]
/// RES1. Returns TTBR0_EL2 and TCR_EL2.
fn el2_map() -> (u64, u64) {
    const GIB: u64 = 1 << 30;
    let mut table = TABLE.lock();
    let address = (&raw const table.0).addr() as u64;
    // Block, AF, inner shareable, AP[1], attribute 1: only the GiB of this image, which is RAM.
    let gib = address / GIB;
    table.0[(gib % 512) as usize] = (gib * GIB) | 1 << 10 | 3 << 8 | 1 << 6 | mair::NORMAL << 2 | 1;
    // RES1 bits 31 and 23, 39-bit VA, write-back inner-shareable walks, 40-bit PA.
    let tcr = 1 << 31 | 1 << 23 | (64 - 39) | 1 << 8 | 1 << 10 | 3 << 12 | 2 << 16;
    // Clean to PoC: EL2 walks the table before its caches are on.
    let start = boot::phys::PhysAddr::new(address);
    boot::cache::clean_and_invalidate(&(start..boot::phys::PhysAddr::new(address + 4096)));
    (address, tcr)
}
