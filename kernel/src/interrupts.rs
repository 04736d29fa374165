//! Interrupts: taken over for this life, and left so that the next one takes none of ours.
//!
//! *When:* what all CPUs share once a life, the rest on each CPU; [`leave`] and [`end`] are the way out's. *On entry:* whatever a predecessor left,
//! which is read before it is changed: [`Found`]. *Leaves,* at the end: every interrupt disabled, neither pending nor active, no priority
//! running, interfaces, distributor and timers off. *Refuses:* nothing; an interrupt that is not ours is counted and turned off.
#![expect(unsafe_code, reason = "orders memory before a call")]

use crate::cpus::Cpu;
use crate::gic::{self, Gic};
use crate::timer::Timer;
use arm_gic::IntId;
use boot::phys::PhysAddr;
use core::arch::asm;
use core::fmt;
use core::sync::atomic::Ordering::{Relaxed, Release};
use kernel::lpi::Lpis;
use kernel::tree::{self, Reservation};
use log::info;
use spin::Once;

/// The software-generated interrupt that makes a CPU look at its orders.
const CALL: IntId = IntId::sgi(0);

/// What is driven.
struct Driven {
    gic: Gic,
    timer: Timer,
    /// The timer's, a private peripheral interrupt.
    tick: IntId,
}

static DRIVEN: Once<Driven> = Once::new();

impl fmt::Display for Driven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { gic, timer, tick } = self;
        write!(f, "{gic}, {timer} (INTID {})", tick.raw_value())
    }
}

/// What a predecessor left: the first INTID of each kind.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Found {
    enabled: Option<u32>,
    pending: Option<u32>,
    active: Option<u32>,
    /// An interrupt was taken and never ended.
    running: bool,
    /// The timer was on.
    timer: bool,
}

impl Found {
    fn of([enabled, pending, active]: [Option<u32>; 3]) -> Self {
        Self { enabled, pending, active, ..Self::default() }
    }

    /// Whether there was nothing.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Found {
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

/// What a predecessor left of LPIs.
#[derive(Clone, Copy, Debug, Default)]
pub struct LpisFound {
    /// So many CPUs' were on, and are off.
    pub turned_off: usize,
    /// So many translation services do not become quiescent.
    pub restless: usize,
}

/// Makes the GIC let go of memory that a predecessor gave it for LPIs. Where it does not, that memory is reserved for good; and so in each later
/// generation, which finds the same.
pub fn turn_lpis_off(machine: &mut tree::Machine) -> LpisFound {
    let Some(gic @ tree::Gic::V3 { .. }) = &machine.gic else { return LpisFound::default() };
    let regions = gic.registers();
    let mut found = LpisFound { restless: gic::quiesce(&machine.its), turned_off: 0 };
    for lpis in gic::turn_lpis_off(&regions[1..]) {
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

/// Takes over what all CPUs share, where this machine has a GIC and a timer that are known. Returns what it was found in.
pub fn begin(gic: Option<tree::Gic>, timer: Option<tree::Timer>, at_el2: bool) -> Found {
    let (Some(gic), Some(numbers)) = (gic, timer) else { return Found::default() };
    let (timer, number) = match at_el2 {
        false => (Timer::VirtualEl1, numbers.virtual_el1),
        true => (Timer::PhysicalEl2, numbers.physical_el2),
    };
    let driven =
        DRIVEN.call_once(|| Driven { gic: Gic(gic), timer, tick: IntId::ppi(number - 16) });
    // The first bank that has some tells it: an extended interrupt is told where there is no plain one.
    let shared = driven.gic.shared().map(|bank| bank.found());
    let found = Found::of(
        shared.fold([None; 3], |first, more| [0, 1, 2].map(|state| first[state].or(more[state]))),
    );
    resume();
    found
}

/// Sets up what all CPUs share.
pub fn resume() {
    if let Some(driven) = DRIVEN.get() {
        driven.gic.set_up();
    }
}

/// Takes this CPU's own over, and starts its timer. IRQs are masked. Returns what they were found in.
pub fn enter(cpu: &Cpu) -> Found {
    let Some(Driven { gic, timer, tick }) = DRIVEN.get() else { return Found::default() };
    let (running, on) = (gic.priority_runs(), timer.is_on());
    let found = Found { running, timer: on, ..Found::of(gic.private(cpu.mpidr).found()) };
    timer.off();
    gic.set_up_cpu(cpu.mpidr, [CALL, *tick]);
    cpu.gicv2_target.store(gic.target(), Relaxed);
    timer.arm();
    found
}

/// Takes one interrupt. No lock is taken: it may have come anywhere.
pub fn take(cpu: &Cpu) {
    let Some(Driven { gic, timer, tick }) = DRIVEN.get() else { return };
    let Some(interrupt) = gic.acknowledge() else { return };
    let number = gic.number(interrupt);
    if number == tick.raw_value() {
        // A level that had fallen may be shown once more: nothing to do for it.
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

/// Makes another CPU look at its orders.
pub fn call(cpu: &Cpu) {
    // What it is to read is written before it is called.
    // SAFETY: a barrier, and an event for a CPU that has no interrupts to wait for.
    unsafe { asm!("dsb ish", "sev", options(nostack)) };
    if let Some(driven) = DRIVEN.get() {
        driven.gic.send(CALL, cpu.mpidr, cpu.gicv2_target.load(Relaxed));
    }
}

/// Makes it hard to leave well, for the self-test: on this CPU a shared interrupt taken and never ended, a call to itself pending, the timer
/// expired. IRQs are masked.
pub fn provoke(cpu: &Cpu) {
    let Some(Driven { gic, timer, .. }) = DRIVEN.get() else { return };
    // Level-sensitive, and first in line: while it is expired nothing else would be taken.
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

/// From now on each tick of this CPU has 32 interrupts behind it that nobody drives, until IRQs are masked. For the self-test.
pub fn storm(cpu: &Cpu) {
    if let Some(Driven { gic, .. }) = DRIVEN.get() {
        cpu.storms.store(true, Relaxed);
        gic.raise(cpu.mpidr);
    }
}

/// Leaves LPIs on, as a kernel does that cannot turn them off, with tables in memory that nobody uses. For the self-test.
pub fn keep_lpis(cpu: &Cpu) {
    const TABLES: usize = 128 << 10;
    let Some(Driven { gic, .. }) = DRIVEN.get() else { return };
    let mut tables = alloc::vec::Vec::<u8>::with_capacity(TABLES + (64 << 10));
    let start = PhysAddr(tables.spare_capacity_mut().as_ptr().expose_provenance() as u64)
        .align_up(64 << 10);
    core::mem::forget(tables);
    gic.keep_tables(cpu.mpidr, start);
    info!("LPIs left on, with tables at {start}");
}

/// Leaves this CPU's own as a kernel wants to find them. IRQs are masked.
pub fn leave(cpu: &Cpu) {
    cpu.storms.store(false, Relaxed);
    if let Some(Driven { gic, timer, .. }) = DRIVEN.get() {
        timer.off();
        gic.leave_cpu(cpu.mpidr);
    }
}

/// Leaves what all CPUs share, when each of them has left.
pub fn end() {
    if let Some(driven) = DRIVEN.get() {
        driven.gic.leave();
    }
}

/// What is driven, in words.
#[must_use]
pub fn driven() -> Option<impl fmt::Display> {
    DRIVEN.get()
}
