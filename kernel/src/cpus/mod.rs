//! Bring-up and shutdown of all CPUs that the device tree names.
//!
//! - When: [`Cpus::start`] once there is a heap and a shared map; [`Cpus::stop`] before the kexec,
//!   on whichever CPU performs it.
//! - Expects: every other CPU is off, under PSCI's control.
//! - Leaves, after `start`: each secondary in the same mode and map as the first CPU, with its own
//!   stack, vectors and (in nvhe) hyp-stub.
//! - Leaves, after `stop`: one running CPU; PSCI's AFFINITY_INFO reports the others off.
//! - Refuses: a restart while a CPU does not stop; the error names that CPU.
//!
//! Linux migrates to the boot CPU before it kexecs. This kernel can kexec from any CPU, since no
//! generation depends on CPU 0. The next generation starts every CPU that is off, the former boot
//! CPU included.
#![expect(unsafe_code, reason = "writes the pages of the other CPUs")]

mod atomic;
mod cpu;
mod work;

use crate::clock;
use crate::console;
use crate::firmware::{self, Firmware};
use crate::interrupts;
use crate::memory::pointer;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;
use boot::cache;
use boot::marker;
use boot::percpu::{Entered, PerCpu};
use boot::phys::{PAGE_SIZE, PhysAddr};
use boot::secondary::secondary_entry;
use core::arch::asm;
use core::ops::Range;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use fdt::machine::AFFINITY;
use log::{info, warn};
use protocol::mode::Mode;
use protocol::record::{self, Record};
use protocol::rules::Other;
use smccc::psci::{self, AffinityState, LowestAffinityLevel};

pub use self::cpu::{Cpu, mask, mpidr};
use self::cpu::{CpuCommand, CpuState};
pub use self::work::migrate;

/// Size of a secondary's block. From the bottom: guard page, stack, guard page, exception stack,
/// [`Cpu`].
pub const BLOCK_SIZE: u64 = 64 << 10;

const EXCEPTION_STACK: u64 = 16 << 10;

/// Time limit for a CPU to come up and tick, in ns. The second CPU_ON of a CPU takes TF-A on a
/// Raspberry Pi 4 more than two seconds.
const TO_COME: u64 = 10_000_000_000;

/// Time limit for a CPU to go off, or to do a short task, in ns.
const TIMEOUT_NS: u64 = 2_000_000_000;

/// A reason why the other CPUs cannot be stopped.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// The CPU did not act on the stop command, or did not go off, in time.
    #[error("CPU {0} (MPIDR {1:#x}) does not stop: it would run on in memory that is overwritten")]
    Running(usize, u64),
    /// PSCI denied CPU_OFF.
    #[error(
        "CPU {0} (MPIDR {1:#x}) was denied PSCI CPU_OFF: it would run on in memory that is \
         overwritten"
    )]
    Denied(usize, u64),
}

/// All CPUs.
pub struct Cpus {
    all: Vec<&'static Cpu>,
}

/// Continues with this CPU alone, as Linux does, if the device tree does not name it. Returns
/// whether that is so: the numbers of the others may be as wrong.
pub fn stay_alone_if_unnamed(mpidrs: &mut Vec<u64>) -> bool {
    let this = mpidr() & AFFINITY;
    let is_unnamed = !mpidrs.contains(&this);
    if is_unnamed {
        *mpidrs = Vec::from([this]);
    }
    is_unnamed
}

impl Cpus {
    /// Makes a [`Cpu`] for each CPU of the device tree and takes over this CPU's interrupts. CPUs
    /// for which `blocks` has no block left stay off.
    ///
    /// # Safety
    ///
    /// Each of `blocks` is [`BLOCK_SIZE`] of RAM, mapped except for its [`guards`], and permanently
    /// reserved for its CPU. `ttbr0` is this CPU's map, as EL1 would use it. `stack` is the top of
    /// a stack on which this CPU may start again after a stop.
    ///
    /// # Panics
    ///
    /// If the device tree does not name this CPU exactly once.
    pub unsafe fn new(
        mpidrs: &[u64],
        blocks: &[Range<PhysAddr>],
        stack: PhysAddr,
        ttbr0: u64,
        mode: Mode,
    ) -> Self {
        let percpu: u64;
        // SAFETY: reading TPIDR_EL1 has no side effects.
        unsafe { asm!("mrs {}, tpidr_el1", out(reg) percpu, options(nomem, nostack)) };
        let this = mpidr() & AFFINITY;
        let named = mpidrs.iter().filter(|&&mpidr| mpidr == this).count();
        assert!(named == 1, "the device tree names this CPU, MPIDR {this:#x}, {named} times");
        let mut blocks = blocks.iter();
        let mut all: Vec<&'static Cpu> = Vec::new();
        for (index, &mpidr) in mpidrs.iter().enumerate() {
            let (page, state, stack) = if mpidr == this {
                (PhysAddr::new(percpu), CpuState::Up, stack.get())
            } else if let Some(block) = blocks.next().filter(|_| interrupts::reaches(mpidr)) {
                let page = block.end - PAGE_SIZE;
                (page, CpuState::Off, page.get() - EXCEPTION_STACK - PAGE_SIZE)
            } else {
                // This CPU is never started, and only needs a name for messages.
                let percpu = PerCpu {
                    frame: Default::default(),
                    ttbr0: 0,
                    stack: 0,
                    entered: Entered::default(),
                };
                all.push(Box::leak(Box::new(Cpu::new(
                    percpu,
                    index,
                    mpidr,
                    mode,
                    if interrupts::reaches(mpidr) { CpuState::NoStack } else { CpuState::Alone },
                ))));
                continue;
            };
            let percpu =
                PerCpu { frame: Default::default(), ttbr0, stack, entered: Entered::default() };
            let cpu: *mut Cpu = pointer(page).cast();
            // SAFETY: the page is aligned and writable, and belongs to this CPU alone.
            unsafe { cpu.write(Cpu::new(percpu, index, mpidr, mode, state)) };
            // SAFETY: the write above initialised it, and it never moves or goes away.
            all.push(unsafe { &*cpu });
        }
        Cpu::current().enter();
        Self { all }
    }

    /// Returns the number of CPUs in the device tree.
    #[must_use]
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// Returns the CPUs that are up, in device-tree order.
    #[must_use]
    pub fn up(&self) -> Vec<&'static Cpu> {
        self.all.iter().copied().filter(|cpu| cpu.state.load(Acquire) == CpuState::Up).collect()
    }

    /// Returns the entry state of every other CPU.
    pub fn entered(&self) -> Vec<Other> {
        let entered = |cpu: &Cpu| {
            // Read `state` first: Acquire makes the entry state visible, which the CPU wrote before
            // it set UP.
            let came = cpu.state.load(Acquire) == CpuState::Up;
            let Entered { current_el, daif, sctlr, cntvoff_el2 } = &cpu.percpu.entered;
            Other {
                mpidr: cpu.mpidr(),
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

    /// Starts the CPUs that are off, and waits until each has taken over its own interrupts and
    /// ticked. Reports a CPU that does not come up; the generation continues without it.
    pub fn start(&self) {
        let begun = clock::now();
        let mut stale = Vec::new();
        for cpu in self.others().filter(|cpu| cpu.state.load(Acquire) == CpuState::NoStack) {
            warn!(
                "{cpu} was not started: RAM holds no {BLOCK_SIZE} bytes for its stacks: \
                 continuing without it"
            );
            cpu.state.store(CpuState::OnFailed, Relaxed);
        }
        for cpu in self.others().filter(|cpu| cpu.state.load(Acquire) == CpuState::Alone) {
            warn!("{cpu} was not started: the GIC has no redistributor for it: continuing without");
            cpu.state.store(CpuState::OnFailed, Relaxed);
        }
        for cpu in self.others().filter(|cpu| cpu.state.load(Acquire) == CpuState::Off) {
            cpu.command.store(CpuCommand::Idle, Relaxed);
            cpu.interrupts.ticks.store(0, Relaxed);
            cpu.state.store(CpuState::Starting, Release);
            // The CPU reads its page with its MMU off.
            let page = PhysAddr::new((&raw const *cpu).expose_provenance() as u64);
            cache::clean_and_invalidate(&(page..page + PAGE_SIZE));
            let entry = secondary_entry as *const () as u64;
            if let Err(error) = psci::cpu_on::<Firmware>(cpu.mpidr(), entry, page.get()) {
                match firmware::lack() {
                    Some(why) => warn!("{cpu} was not started: {why}: continuing without it"),
                    None => warn!("{cpu} was not started: {error}: continuing without it"),
                }
                cpu.state.store(CpuState::OnFailed, Relaxed);
            }
        }
        for cpu in self.others().filter(|cpu| cpu.state.load(Acquire) == CpuState::Starting) {
            if !within(TO_COME, || {
                cpu.state.load(Acquire) == CpuState::Up
                    && (cpu.interrupts.ticks.load(Relaxed) > 0 || !interrupts::ticks())
            }) {
                warn!("{cpu} was started and does not work: continuing without it");
                continue;
            }
            // All CPUs share one counter and one CNTVOFF. So the CPU's reading must be between this
            // CPU's readings before and after.
            let (came, now) = (cpu.came.load(Relaxed), clock::now());
            if !(begun..=now).contains(&came) {
                cpu.differs.store(true, Relaxed);
                stale.push(format!(
                    "{cpu}: CNTVCT {came}, while this CPU's went from {begun} to {now}"
                ));
            }
        }
        // This CPU has to tick as well. On a busy host it may work for long before its first tick.
        let own = &Cpu::current().interrupts.ticks;
        if interrupts::ticks() && !within(TO_COME, || own.load(Relaxed) > 0) {
            warn!("this CPU's timer does not tick");
        }
        let (up, of) = (self.up().len(), self.all.len());
        let driven = interrupts::driven().map(|driven| driven.to_string());
        match &driven {
            Some(driven) => info!("CPUs: {up} of {of} up; {driven}"),
            None => info!(
                "CPUs: {up} of {of} up; no interrupts: the device tree names no GIC that is known"
            ),
        }
        for cpu in &self.all {
            let stale_irqs = cpu.stale_irqs.lock();
            if !stale_irqs.is_quiet() {
                stale.push(format!("{cpu}:{stale_irqs}"));
            }
        }
        stale.iter().for_each(|stale| warn!("{}{stale}", marker::STALE));
        console::record(&Record::Cpus(record::Cpus {
            generation: console::generation(),
            up: up as u32,
            of: of as u32,
            interrupts: driven.filter(|_| interrupts::ticks()),
            stale,
        }));
    }

    /// Stops the other CPUs: each leaves its work loop, silences its interrupts and calls CPU_OFF.
    /// Returns the time that this took, in nanoseconds.
    ///
    /// # Errors
    ///
    /// Returns the first CPU that is not off in time, unless `force` permits to continue without
    /// it. Other CPUs may be off already; [`resume`](Self::resume) starts them again.
    pub fn stop(&self, force: bool) -> Result<u64, Error> {
        let begun = clock::now();
        let on = || self.others().filter(|cpu| cpu.state.load(Acquire) != CpuState::Off);
        for cpu in on().filter(|cpu| cpu.state.load(Acquire) != CpuState::OnFailed) {
            // A CPU that comes only now would not see a command that was given before.
            if cpu.state.load(Acquire) == CpuState::Starting
                && !in_time(|| cpu.state.load(Acquire) != CpuState::Starting)
            {
                continue;
            }
            cpu.state.store(CpuState::Up, Relaxed);
            cpu.give(CpuCommand::Stop);
        }
        let mut first = None;
        for cpu in on() {
            // The CPU's own LEAVING is not enough. Poll AFFINITY_INFO until it reports OFF: only
            // then can CPU_ON succeed again.
            let off = match cpu.state.load(Acquire) {
                CpuState::OnFailed => !is_on(cpu),
                CpuState::Starting => false,
                _ => in_time(|| {
                    let state = cpu.state.load(Acquire);
                    state == CpuState::OffDenied || (state == CpuState::Leaving && is_off(cpu))
                }),
            };
            let error = match cpu.state.load(Acquire) {
                CpuState::OnFailed if off => continue,
                CpuState::OffDenied => Error::Denied(cpu.index, cpu.mpidr()),
                _ if off => {
                    cpu.state.store(CpuState::Off, Relaxed);
                    continue;
                }
                _ => Error::Running(cpu.index, cpu.mpidr()),
            };
            if force {
                warn!("{error}: continuing, as `force` orders");
            } else {
                // Withdraw the stop command, or the CPU would power off after we gave up waiting
                // for it.
                cpu.command.store(CpuCommand::Idle, Release);
                first = first.or(Some(error));
            }
        }
        if let Some(error) = first {
            return Err(error);
        }
        Ok(clock::nanoseconds(clock::now() - begun))
    }

    /// Silences this CPU's interrupts and the distributor. Expects IRQs masked and the other CPUs
    /// off.
    pub fn quiet(&self) {
        let cpu = Cpu::current();
        interrupts::leave(&cpu.interrupts);
        interrupts::end();
        cpu.state.store(CpuState::Leaving, Relaxed);
    }

    /// Undoes [`stop`](Self::stop) and [`quiet`](Self::quiet).
    pub fn resume(&self) {
        let cpu = Cpu::current();
        interrupts::end_storm(&cpu.interrupts);
        if cpu.state.swap(CpuState::Up, Relaxed) == CpuState::Leaving {
            interrupts::resume();
            cpu.enter();
        }
        for other in self.others() {
            match other.state.load(Acquire) {
                // It returned to its work loop.
                CpuState::OffDenied => other.state.store(CpuState::Up, Relaxed),
                // It powered off after `stop` had given up waiting.
                CpuState::Leaving if is_off(other) => other.state.store(CpuState::Off, Relaxed),
                _ => {}
            }
        }
        self.start();
    }

    /// Runs the hyp-stub's conformance suite on each other CPU, one after another.
    ///
    /// # Panics
    ///
    /// If a CPU does not finish the suite in time.
    pub fn selftest(&self) {
        for cpu in self.others().filter(|cpu| cpu.state.load(Acquire) == CpuState::Up) {
            cpu.give(CpuCommand::Selftest);
            assert!(
                in_time(|| cpu.command.load(Acquire) == CpuCommand::Idle),
                "{cpu} did not end its suite"
            );
        }
    }

    /// Returns what each CPU did since it came up.
    pub fn work_done(&self) -> WorkDone {
        let of = |count: fn(&Cpu) -> &AtomicU64| {
            self.all.iter().map(|cpu| count(cpu).load(Relaxed)).collect()
        };
        let strays =
            self.all.iter().map(|cpu| u64::from(cpu.interrupts.strays.load(Relaxed))).sum();
        WorkDone { ticks: of(|cpu| &cpu.interrupts.ticks), work: of(|cpu| &cpu.work), strays }
    }

    /// Logs each CPU that took an interrupt that this kernel does not handle.
    pub fn log_strays(&self) {
        for cpu in self.all.iter().filter(|cpu| cpu.interrupts.strays.load(Relaxed) > 0) {
            warn!(
                "{cpu} took an interrupt that is not ours: INTID {}",
                cpu.interrupts.stray.load(Relaxed)
            );
        }
    }
}

/// The work that the CPUs did, in device-tree order.
pub struct WorkDone {
    /// Timer interrupts taken.
    pub ticks: Vec<u64>,
    /// Units of work done.
    pub work: Vec<u64>,
    /// Number of interrupts taken that this kernel does not handle.
    pub strays: u64,
}

/// Returns the two pages of a block that stay unmapped, one below each stack.
pub fn guards(block: &Range<PhysAddr>) -> [Range<PhysAddr>; 2] {
    let exception = block.end.get() - PAGE_SIZE - EXCEPTION_STACK - PAGE_SIZE;
    [block.start.get(), exception]
        .map(|guard| PhysAddr::new(guard)..PhysAddr::new(guard + PAGE_SIZE))
}

/// Returns whether AFFINITY_INFO reports the CPU off.
#[inline(never)]
fn is_off(cpu: &Cpu) -> bool {
    psci::affinity_info::<Firmware>(cpu.mpidr(), LowestAffinityLevel::All) == Ok(AffinityState::Off)
}

/// Returns whether AFFINITY_INFO reports the CPU on or about to be on.
fn is_on(cpu: &Cpu) -> bool {
    let state = psci::affinity_info::<Firmware>(cpu.mpidr(), LowestAffinityLevel::All);
    matches!(state, Ok(AffinityState::On | AffinityState::OnPending))
}

fn in_time(done: impl FnMut() -> bool) -> bool {
    within(TIMEOUT_NS, done)
}

fn within(nanoseconds: u64, mut done: impl FnMut() -> bool) -> bool {
    let begun = clock::now();
    loop {
        if done() {
            return true;
        }
        if clock::nanoseconds(clock::now() - begun) > nanoseconds {
            return false;
        }
        core::hint::spin_loop();
    }
}
