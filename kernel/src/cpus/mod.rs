//! CPUs: every one that the device tree names is brought up, works while the kernel lives, and is off before it goes.
//!
//! *When:* [`Cpus::start`] once there is a heap and a map to share; [`Cpus::stop`] on the way out, from whichever CPU goes. *On entry:* PSCI keeps the
//! others. *Leaves:* a secondary in the same mode and map as the first, with a stack, vectors and (in nvhe) a stub of its own; after
//! `stop`, one CPU that runs, the others off by PSCI's own word. *Refuses:* a restart while a CPU will not stop, which is named.
//!
//! Linux moves to the boot CPU before it kexecs. Here whoever is ordered goes: nothing ties a generation to CPU 0, and the next one starts the CPUs
//! that it finds off, that one among them.
#![expect(unsafe_code, reason = "makes the pages that other CPUs live on")]

mod cpu;
mod work;

use crate::clock;
use crate::firmware::Firmware;
use crate::interrupts;
use crate::memory::pointer;
use alloc::boxed::Box;
use alloc::vec::Vec;
use boot::cache;
use boot::marker;
use boot::own::{Entered, Own};
use boot::phys::{PAGE_SIZE, PhysAddr};
use boot::secondary::secondary_entry;
use core::arch::asm;
use core::fmt;
use core::ops::Range;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use kernel::mode::Mode;
use kernel::protocol::Other;
use log::{info, warn};
use smccc::psci::{self, AffinityState, LowestAffinityLevel};

pub use self::cpu::{Cpu, mask, mpidr};
use self::cpu::{order, state};
pub use self::work::hand_over;

/// What a secondary's block holds, from the bottom: a guard page, its stack, a guard page, its exception stack, its [`Cpu`].
pub const BLOCK_SIZE: u64 = 64 << 10;

const EXCEPTION_STACK: u64 = 16 << 10;

/// How long a CPU may take to come up, to tick, or to go off.
const PATIENCE_NS: u64 = 2_000_000_000;

/// Why the others cannot be stopped.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Refused {
    /// It did not leave its work, or did not go off, in time.
    Running(usize, u64),
    /// PSCI CPU_OFF was denied.
    Denied(usize, u64),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Running(index, mpidr) | Self::Denied(index, mpidr)) = self;
        let why = match self {
            Self::Running(..) => "does not stop",
            Self::Denied(..) => "was denied PSCI CPU_OFF",
        };
        write!(
            f,
            "CPU {index} (MPIDR {mpidr:#x}) {why}: it would run on in memory that is overwritten"
        )
    }
}

/// All CPUs.
pub struct Cpus {
    all: Vec<&'static Cpu>,
}

impl Cpus {
    /// Makes a [`Cpu`] for each of the device tree's, in `blocks` as far as they go, and takes this CPU's interrupts over.
    ///
    /// # Safety
    ///
    /// Each of `blocks` is [`BLOCK_SIZE`] of RAM, mapped but for the [`guards`], and for ever its CPU's. `ttbr0` is the map that this CPU lives
    /// in, as EL1 would use it. `stack` is the top of the stack that this CPU may start on once more, when it was stopped.
    ///
    /// # Panics
    ///
    /// Where the device tree does not name this CPU, once.
    pub unsafe fn new(
        mpidrs: &[u64],
        blocks: &[Range<PhysAddr>],
        stack: PhysAddr,
        ttbr0: u64,
        mode: Mode,
    ) -> Self {
        let own: u64;
        // SAFETY: reading it has no side effects.
        unsafe { asm!("mrs {}, tpidr_el1", out(reg) own, options(nomem, nostack)) };
        // Aff3 and Aff2 to Aff0, as the device tree has them.
        let this = mpidr() & 0xff_00ff_ffff;
        let named = mpidrs.iter().filter(|&&mpidr| mpidr == this).count();
        assert!(named == 1, "the device tree names this CPU, MPIDR {this:#x}, {named} times");
        let mut blocks = blocks.iter();
        let mut all: Vec<&'static Cpu> = Vec::new();
        for (index, &mpidr) in mpidrs.iter().enumerate() {
            let (page, state, stack) = if mpidr == this {
                (PhysAddr(own), state::UP, stack.0)
            } else if let Some(block) = blocks.next() {
                let page = PhysAddr(block.end.0 - PAGE_SIZE);
                (page, state::OFF, page.0 - EXCEPTION_STACK - PAGE_SIZE)
            } else {
                // Never entered: it is only known by name.
                let own = Own {
                    frame: Default::default(),
                    ttbr0: 0,
                    stack: 0,
                    entered: Entered::default(),
                };
                all.push(Box::leak(Box::new(Cpu::new(own, index, mpidr, mode, state::HOMELESS))));
                continue;
            };
            let own = Own { frame: Default::default(), ttbr0, stack, entered: Entered::default() };
            let cpu: *mut Cpu = pointer(page).cast();
            // SAFETY: a page of the CPU's own, aligned, and nobody's before.
            unsafe { cpu.write(Cpu::new(own, index, mpidr, mode, state)) };
            // SAFETY: it was just made, and stays.
            all.push(unsafe { &*cpu });
        }
        Cpu::current().enter();
        Self { all }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// Those that are up, in the device tree's order.
    #[must_use]
    pub fn up(&self) -> Vec<&'static Cpu> {
        self.all.iter().copied().filter(|cpu| cpu.state.load(Acquire) == state::UP).collect()
    }

    /// The others, as they were entered.
    pub fn entered(&self) -> Vec<Other> {
        let entered = |cpu: &Cpu| {
            // Up first: what it was entered in was written before.
            let came = cpu.state.load(Acquire) == state::UP;
            let Entered { current_el, daif, sctlr, cntvoff_el2 } = &cpu.own.entered;
            Other {
                mpidr: cpu.mpidr,
                came,
                current_el: current_el.load(Relaxed),
                daif: daif.load(Relaxed),
                sctlr: sctlr.load(Relaxed),
                cntvoff_el2: cntvoff_el2.load(Relaxed),
                cntfrq: cpu.frequency.load(Relaxed),
                counts_alike: !cpu.differs.load(Relaxed),
            }
        };
        self.others().map(entered).collect()
    }

    fn others(&self) -> impl Iterator<Item = &'static Cpu> {
        self.all.iter().copied().filter(|cpu| !cpu.is_current())
    }

    /// Brings up those that are off, and waits until each has taken its own interrupts over and ticked. One that does not come is reported, and the
    /// generation lives on without it.
    pub fn start(&self) {
        let begun = clock::now();
        for cpu in self.others().filter(|cpu| cpu.state.load(Acquire) == state::HOMELESS) {
            warn!(
                "{cpu} was not started: RAM holds no {BLOCK_SIZE} bytes for its stacks: going on without it"
            );
            cpu.state.store(state::LOST, Relaxed);
        }
        for cpu in self.others().filter(|cpu| cpu.state.load(Acquire) == state::OFF) {
            cpu.order.store(order::WORK, Relaxed);
            cpu.ticks.store(0, Relaxed);
            cpu.state.store(state::STARTING, Release);
            // It reads its page with its MMU off.
            let page = PhysAddr((&raw const *cpu).expose_provenance() as u64);
            cache::clean_and_invalidate(&(page..PhysAddr(page.0 + PAGE_SIZE)));
            let entry = secondary_entry as *const () as u64;
            if let Err(error) = psci::cpu_on::<Firmware>(cpu.mpidr, entry, page.0) {
                warn!("{cpu} was not started: {error}: going on without it");
                cpu.state.store(state::LOST, Relaxed);
            }
        }
        for cpu in self.others().filter(|cpu| cpu.state.load(Acquire) == state::STARTING) {
            if !in_time(|| {
                cpu.state.load(Acquire) == state::UP && (cpu.ticks.load(Relaxed) > 0 || no_ticks())
            }) {
                warn!("{cpu} was started and does not work: going on without it");
                continue;
            }
            // One counter and one CNTVOFF for all: what it read lies between what this CPU read before and after.
            let (came, now) = (cpu.came.load(Relaxed), clock::now());
            if !(begun..=now).contains(&came) {
                cpu.differs.store(true, Relaxed);
                warn!(
                    "{}{cpu}: CNTVCT {came}, while this CPU's went from {begun} to {now}",
                    marker::FOUND
                );
            }
        }
        let up = self.up().len();
        match interrupts::driven() {
            Some(driven) => info!("CPUs: {up} of {} up; {driven}", self.all.len()),
            None => {
                info!(
                    "CPUs: {up} of {} up; no interrupts: the device tree names no GIC that is known",
                    self.all.len()
                )
            }
        }
        for cpu in &self.all {
            let found = cpu.found.lock();
            if !found.is_quiet() {
                warn!("{}{cpu}:{found}", marker::FOUND);
            }
        }
    }

    /// Stops the others: they leave their work, take their interrupts down and go off. Returns the nanoseconds that it took.
    ///
    /// # Errors
    ///
    /// The first that is not off in time, unless `force` says to go all the same. Others may be; [`resume`](Self::resume) brings them back.
    pub fn stop(&self, force: bool) -> Result<u64, Refused> {
        let begun = clock::now();
        let on = || self.others().filter(|cpu| cpu.state.load(Acquire) != state::OFF);
        for cpu in on().filter(|cpu| cpu.state.load(Acquire) != state::LOST) {
            cpu.state.store(state::UP, Relaxed);
            cpu.give(order::STOP);
        }
        let mut first = None;
        for cpu in on() {
            // What it says of itself is not enough: AFFINITY_INFO is asked until it says OFF, for only then can it be turned on again.
            let off = match cpu.state.load(Acquire) {
                state::LOST => !is_on(cpu),
                _ => in_time(|| {
                    let state = cpu.state.load(Acquire);
                    state == state::DENIED || (state == state::LEAVING && is_off(cpu))
                }),
            };
            let refused = match cpu.state.load(Acquire) {
                state::LOST if off => continue,
                state::DENIED => Refused::Denied(cpu.index, cpu.mpidr),
                _ if off => {
                    cpu.state.store(state::OFF, Relaxed);
                    continue;
                }
                _ => Refused::Running(cpu.index, cpu.mpidr),
            };
            if force {
                warn!("{refused}: going on, as `force` orders");
            } else {
                // It is not to stop later, when nobody waits for it.
                cpu.order.store(order::WORK, Release);
                first = first.or(Some(refused));
            }
        }
        if let Some(refused) = first {
            return Err(refused);
        }
        Ok(clock::nanoseconds(clock::now() - begun))
    }

    /// Takes this CPU's interrupts and the distributor down. IRQs are masked, and the others off.
    pub fn quiet(&self) {
        let cpu = Cpu::current();
        interrupts::leave(cpu);
        interrupts::end();
        cpu.state.store(state::LEAVING, Relaxed);
    }

    /// Takes back what [`stop`](Self::stop) and [`quiet`](Self::quiet) did.
    pub fn resume(&self) {
        let cpu = Cpu::current();
        cpu.storms.store(false, Relaxed);
        if cpu.state.swap(state::UP, Relaxed) == state::LEAVING {
            interrupts::resume();
            cpu.enter();
        }
        for other in self.others() {
            match other.state.load(Acquire) {
                // It went back to its work.
                state::DENIED => other.state.store(state::UP, Relaxed),
                // It stopped after all, when nobody waited for it any more.
                state::LEAVING if is_off(other) => other.state.store(state::OFF, Relaxed),
                _ => {}
            }
        }
        self.start();
    }

    /// Runs the hyp-stub's conformance suite on each of the others, one after the other.
    ///
    /// # Panics
    ///
    /// Where one does not come to an end.
    pub fn selftest(&self) {
        for cpu in self.others().filter(|cpu| cpu.state.load(Acquire) == state::UP) {
            cpu.give(order::SELFTEST);
            assert!(
                in_time(|| cpu.order.load(Acquire) == order::WORK),
                "{cpu} did not end its suite"
            );
        }
    }

    /// What was taken: each CPU's ticks and units of work, and what was nobody's.
    pub fn tell(&self, stopped: u64) {
        let (mut ticks, mut work, mut strays) = (Vec::new(), Vec::new(), 0);
        for cpu in &self.all {
            ticks.push(cpu.ticks.load(Relaxed));
            work.push(cpu.work.load(Relaxed));
            strays += cpu.strays.load(Relaxed);
        }
        info!(
            "others off in {stopped} ns; ticks {ticks:?}, work {work:?}, interrupts not ours {strays}"
        );
        for cpu in self.all.iter().filter(|cpu| cpu.strays.load(Relaxed) > 0) {
            warn!("{cpu} took an interrupt that is not ours: INTID {}", cpu.stray.load(Relaxed));
        }
    }
}

/// The pages of a block that no map holds: below each stack.
pub fn guards(block: &Range<PhysAddr>) -> [Range<PhysAddr>; 2] {
    let exception = block.end.0 - PAGE_SIZE - EXCEPTION_STACK - PAGE_SIZE;
    [block.start.0, exception].map(|guard| PhysAddr(guard)..PhysAddr(guard + PAGE_SIZE))
}

/// Whether PSCI says that the CPU is off.
#[inline(never)]
fn is_off(cpu: &Cpu) -> bool {
    psci::affinity_info::<Firmware>(cpu.mpidr, LowestAffinityLevel::All) == Ok(AffinityState::Off)
}

/// Whether PSCI says that it is on, or about to be.
fn is_on(cpu: &Cpu) -> bool {
    let state = psci::affinity_info::<Firmware>(cpu.mpidr, LowestAffinityLevel::All);
    matches!(state, Ok(AffinityState::On | AffinityState::OnPending))
}

/// Without interrupts nothing ticks.
fn no_ticks() -> bool {
    interrupts::driven().is_none()
}

fn in_time(mut done: impl FnMut() -> bool) -> bool {
    let begun = clock::now();
    loop {
        if done() {
            return true;
        }
        if clock::nanoseconds(clock::now() - begun) > PATIENCE_NS {
            return false;
        }
        core::hint::spin_loop();
    }
}
