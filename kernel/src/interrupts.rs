//! Takes over the interrupts at entry, and silences them before the kexec.
//!
//! - When: [`begin`] once per generation, [`enter`] on each CPU; before the kexec [`leave`] on each
//!   CPU, then [`end`] once.
//! - Expects: whatever a predecessor left. Reads it before changing it: [`StaleIrqs`].
//! - Leaves, after `end`: every interrupt disabled, not pending, not active; no running priority;
//!   CPU interfaces, distributor and timers off.
//! - Refuses nothing: counts and disables an interrupt that this kernel does not handle.
#![expect(unsafe_code, reason = "orders memory before the wake-up SGI")]

use crate::memory::Frames;
use crate::timer::Timer;
use arm_gic::IntId;
use core::arch::asm;
use core::fmt;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use fdt::machine::{self, Reservation};
use gic::driver::Gic;
use gic::lpi::Lpis;
use log::info;
use spin::Once;

/// The wake-up SGI, which makes a CPU read its command.
const CALL: IntId = IntId::sgi(0);

/// The GIC that this kernel drives, and the timer if there is one.
struct Driven {
    gic: Gic,
    timer: Option<Tick>,
}

/// The timer, and its interrupt, a PPI.
#[derive(Clone, Copy)]
struct Tick {
    timer: Timer,
    interrupt: IntId,
}

static DRIVEN: Once<Driven> = Once::new();

impl fmt::Display for Driven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gic = &self.gic;
        match &self.timer {
            Some(Tick { timer, interrupt }) => {
                write!(f, "{gic}, {timer} (INTID {})", interrupt.raw_value())
            }
            None => write!(f, "{gic}, no timer that we drive"),
        }
    }
}

/// Stale interrupts that a predecessor left: the first INTID of each kind.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct StaleIrqs {
    enabled: Option<u32>,
    pending: Option<u32>,
    active: Option<u32>,
    /// An interrupt was acknowledged and never ended.
    running: bool,
    /// The timer was on.
    timer: bool,
}

impl StaleIrqs {
    fn of([enabled, pending, active]: [Option<u32>; 3]) -> Self {
        Self { enabled, pending, active, ..Self::default() }
    }

    /// Returns whether the predecessor left no stale interrupt.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for StaleIrqs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, first) in
            [("enabled", self.enabled), ("pending", self.pending), ("active", self.active)]
        {
            if let Some(first) = first {
                write!(f, " INTID {first} {what}")?;
            }
        }
        let running = if self.running { " one never ended" } else { "" };
        let timer = if self.timer { " timer on" } else { "" };
        write!(f, "{running}{timer}")
    }
}

/// A CPU's part in interrupts, which its handler and other CPUs share.
#[derive(Default)]
pub struct CpuInterrupts {
    /// Affinity bits of MPIDR_EL1.
    pub mpidr: u64,
    /// Timer interrupts taken.
    pub ticks: AtomicU64,
    /// Number of interrupts taken that this kernel does not handle.
    pub strays: AtomicU32,
    /// INTID of the last of these `strays`.
    pub stray: AtomicU32,
    /// Set from the moment that another CPU sends the wake-up SGI until this CPU acknowledges it.
    is_called: AtomicBool,
    /// This CPU's bit in GICv2's target lists.
    gicv2_target: AtomicU32,
    /// Set if each tick also raises 32 interrupts that this kernel does not handle (self-test).
    storms: AtomicBool,
}

impl CpuInterrupts {
    /// Makes the state of a CPU that has taken no interrupt yet.
    pub fn new(mpidr: u64) -> Self {
        Self { mpidr, ..Self::default() }
    }
}

/// LPI state that a predecessor left.
#[derive(Clone, Copy, Debug, Default)]
pub struct StaleLpis {
    /// Number of redistributors whose LPIs were on, and are off now.
    pub turned_off: usize,
    /// Number of ITSs that do not become quiescent.
    pub not_quiescent: usize,
}

/// Makes the GIC stop using memory that a predecessor gave it for LPIs. If a redistributor keeps
/// its LPIs on, reserves its tables. Each later generation finds and reserves the same tables.
pub fn turn_lpis_off(machine: &mut machine::Machine) -> StaleLpis {
    let Some(machine::Gic::V3 { redistributors, .. }) = &machine.gic else {
        return StaleLpis::default();
    };
    let mut found = StaleLpis { not_quiescent: gic::driver::quiesce(&machine.its), turned_off: 0 };
    for lpis in gic::driver::turn_lpis_off(redistributors) {
        match lpis {
            Lpis::Off => {}
            Lpis::TurnedOff => found.turned_off += 1,
            Lpis::Stuck(tables) => {
                let reserve =
                    |range| Reservation { range, name: "a GIC's LPI tables".into(), no_map: false };
                machine.reserved.extend(tables.map(reserve));
            }
        }
    }
    found
}

/// Takes over the distributor and shared interrupts, if the machine has a known GIC. Returns the
/// stale interrupts.
///
/// A GIC is taken over, and left quiet, even if there is no timer to drive. One that has no
/// redistributor for `this`, the MPIDR of this CPU, is not.
pub fn begin(
    gic: Option<machine::Gic>,
    timer: Option<machine::Timer>,
    this: u64,
    at_el2: bool,
) -> StaleIrqs {
    let Some(gic) = gic.map(Gic).filter(|gic| gic.has(this)) else {
        return StaleIrqs::default();
    };
    let tick = |(timer, number): (Timer, u32)| Tick { timer, interrupt: IntId::ppi(number - 16) };
    let timer = timer.and_then(|numbers| match at_el2 {
        false => numbers.virtual_el1.map(|number| (Timer::VirtualEl1, number)),
        true => numbers.physical_el2.map(|number| (Timer::PhysicalEl2, number)),
    });
    let timer = timer.map(tick);
    let driven = DRIVEN.call_once(|| Driven { gic, timer });
    // Report the first bank with a set bit: an extended interrupt only if there is no plain one.
    let shared = driven.gic.shared().map(|bank| bank.found());
    let found = StaleIrqs::of(
        shared.fold([None; 3], |first, more| [0, 1, 2].map(|state| first[state].or(more[state]))),
    );
    resume();
    found
}

/// Sets up the distributor and shared interrupts.
pub fn resume() {
    if let Some(driven) = DRIVEN.get() {
        driven.gic.set_up();
    }
}

/// Takes over this CPU's private interrupts and starts its timer. Expects IRQs masked. Returns the
/// stale interrupts.
pub fn enter(cpu: &CpuInterrupts) -> StaleIrqs {
    let found = DRIVEN.get().map(|driven| driven.enter(cpu)).unwrap_or_default();
    // A wake-up SGI sent before this CPU could receive it is lost, so do not wait for it. One sent
    // since then is pending, and is taken once IRQs are unmasked.
    cpu.is_called.store(false, Release);
    found
}

impl Driven {
    fn enter(&self, cpu: &CpuInterrupts) -> StaleIrqs {
        let Self { gic, timer: tick } = self;
        let timer = tick.map(|tick| tick.timer);
        let found = StaleIrqs {
            running: gic.priority_runs(),
            timer: timer.is_some_and(Timer::is_on),
            ..StaleIrqs::of(gic.private(cpu.mpidr).found())
        };
        timer.inspect(|timer| timer.off());
        gic.set_up_cpu(cpu.mpidr, [CALL].into_iter().chain(tick.map(|tick| tick.interrupt)));
        cpu.gicv2_target.store(gic.target(), Relaxed);
        timer.inspect(|timer| timer.arm());
        found
    }
}

/// Handles one interrupt. Takes no lock, since the interrupted code may hold any.
pub fn take(cpu: &CpuInterrupts) {
    let Some(Driven { gic, timer }) = DRIVEN.get() else { return };
    let Some(interrupt) = gic.acknowledge() else { return };
    let number = gic.number(interrupt);
    if let Some(Tick { timer, .. }) = timer.filter(|tick| number == tick.interrupt.raw_value()) {
        // If the timer has not expired, the GIC has signalled again a level that has already
        // fallen. Ignore it.
        if timer.has_expired() {
            cpu.ticks.fetch_add(1, Relaxed);
            timer.arm();
            if cpu.storms.load(Relaxed) {
                gic.raise(cpu.mpidr);
            }
        }
    } else if number == CALL.raw_value() {
        cpu.is_called.store(false, Release);
    } else {
        cpu.strays.fetch_add(1, Relaxed);
        cpu.stray.store(number, Relaxed);
        gic.disable(number, cpu.mpidr);
    }
    gic.end(interrupt);
}

/// Announces a wake-up SGI to a CPU, before its command is written.
pub fn announce(cpu: &CpuInterrupts) {
    cpu.is_called.store(DRIVEN.is_completed(), Relaxed);
}

/// Returns whether an announced wake-up SGI is still to be acknowledged.
pub fn is_called(cpu: &CpuInterrupts) -> bool {
    cpu.is_called.load(Acquire)
}

/// Makes another CPU read its command.
pub fn call(cpu: &CpuInterrupts) {
    // DSB: the command is visible before the SGI is sent. SEV: wakes a CPU in WFE, without a GIC.
    // SAFETY: the barrier only orders memory accesses, and the event only ends a WFE.
    unsafe { asm!("dsb ish", "sev", options(nostack)) };
    if let Some(driven) = DRIVEN.get() {
        driven.gic.send(CALL, cpu.mpidr, cpu.gicv2_target.load(Relaxed));
    }
}

/// Provokes states that are hard to silence, for the self-test. On this CPU: a shared interrupt
/// acknowledged and never ended, an SGI to itself pending, the timer expired. Expects IRQs masked.
pub fn provoke(cpu: &CpuInterrupts) {
    let Some(Driven { gic, timer: Some(Tick { timer, .. }) }) = DRIVEN.get() else { return };
    // Turn the timer off first: expired, its level-sensitive interrupt would be acknowledged before
    // any other.
    timer.off();
    let kept = gic.take_and_keep(cpu.mpidr);
    gic.send(CALL, cpu.mpidr, gic.target());
    timer.arm();
    while !timer.has_expired() {}
    info!(
        "provoked: INTID {kept} taken and not ended, INTID {} pending, the timer expired",
        CALL.raw_value()
    );
}

/// Makes each tick of this CPU raise 32 interrupts that no driver handles, until IRQs are masked.
/// For the self-test.
pub fn storm(cpu: &CpuInterrupts) {
    if let Some(Driven { gic, .. }) = DRIVEN.get() {
        cpu.storms.store(true, Relaxed);
        gic.raise(cpu.mpidr);
    }
}

/// Leaves LPIs on, with tables in leaked frames, like a kernel that cannot turn them off. For the
/// self-test.
///
/// The next kernel reserves these frames, so their place must not depend on the heap.
pub fn keep_lpis(cpu: &CpuInterrupts) {
    const TABLES: u64 = 128 << 10;
    let Some(Driven { gic, .. }) = DRIVEN.get() else { return };
    let tables = Frames::contiguous(TABLES + (64 << 10), &[]).expect("frames for LPI tables");
    let start = tables.runs()[0].start.align_up(64 << 10);
    core::mem::forget(tables);
    gic.keep_tables(cpu.mpidr, start);
    info!("LPIs left on, with tables at {start}");
}

/// Ends [`storm`].
pub fn end_storm(cpu: &CpuInterrupts) {
    cpu.storms.store(false, Relaxed);
}

/// Silences this CPU's private interrupts, timer and interface. Expects IRQs masked.
pub fn leave(cpu: &CpuInterrupts) {
    end_storm(cpu);
    if let Some(Driven { gic, timer }) = DRIVEN.get() {
        timer.inspect(|tick| tick.timer.off());
        gic.leave_cpu(cpu.mpidr);
    }
}

/// Silences the distributor and shared interrupts. Expects that every CPU has called [`leave`].
pub fn end() {
    if let Some(driven) = DRIVEN.get() {
        driven.gic.leave();
    }
}

/// Returns whether CPUs tick: whether there is a timer whose interrupts the GIC delivers.
pub fn ticks() -> bool {
    DRIVEN.get().is_some_and(|driven| driven.timer.is_some())
}

/// Returns whether a CPU can take interrupts: whether the GIC has its redistributor.
pub fn reaches(mpidr: u64) -> bool {
    DRIVEN.get().is_none_or(|driven| driven.gic.has(mpidr))
}

/// Returns a description of the GIC and timer in use; `None` without a GIC.
#[must_use]
pub fn driven() -> Option<impl fmt::Display> {
    DRIVEN.get()
}
