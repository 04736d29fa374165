//! CPUs: every one that the device tree names is brought up, works while the kernel lives, and is off before it goes.
//!
//! *When:* [`Cpus::start`] once there is a heap and a map to share; [`Cpus::stop`] on the way out, from whichever CPU goes. *On entry:* PSCI keeps the
//! others. *Leaves:* a secondary in the same mode and map as the first, with a stack, vectors and (in nvhe) a stub of its own; after
//! `stop`, one CPU that runs, the others off by PSCI's own word. *Refuses:* a restart while a CPU will not stop, which is named.
//!
//! Linux moves to the boot CPU before it kexecs. Here whoever is ordered goes: nothing ties a generation to CPU 0, and the next one starts the CPUs
//! that it finds off, that one among them.
#![expect(unsafe_code, reason = "makes the pages that other CPUs live on, and masks interrupts")]

use crate::firmware::Firmware;
use crate::interrupts::{self, Found};
use crate::life::Life;
use crate::memory::pointer;
use crate::{clock, selftest};
use alloc::boxed::Box;
use alloc::vec::Vec;
use boot::cache;
use boot::marker;
use boot::own::Own;
use boot::phys::{PAGE_SIZE, PhysAddr};
use boot::secondary::secondary_entry;
use boot::{hyp, hyp_stub};
use core::arch::asm;
use core::fmt;
use core::ops::Range;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64};
use kernel::mode::Mode;
use log::{info, warn};
use smccc::psci::{self, AffinityState, LowestAffinityLevel};
use spin::Mutex;

/// What a secondary's block holds, from the bottom: a guard page, its stack, a guard page, its exception stack, its [`Cpu`].
pub const BLOCK_SIZE: u64 = 64 << 10;

const EXCEPTION_STACK: u64 = 16 << 10;

/// How long a CPU may take to come up, to tick, or to go off.
const PATIENCE_NS: u64 = 2_000_000_000;

/// What a CPU is to do next. Each CPU has one order at a time, given by the CPU that leads.
mod order {
    pub const WORK: u8 = 0;
    pub const STOP: u8 = 1;
    pub const LEAD: u8 = 2;
    pub const SELFTEST: u8 = 3;
}

/// Where a CPU is.
mod state {
    pub const OFF: u8 = 0;
    pub const STARTING: u8 = 1;
    pub const UP: u8 = 2;
    pub const LEAVING: u8 = 3;
    /// PSCI would not turn it off.
    pub const DENIED: u8 = 4;
    /// PSCI would not turn it on.
    pub const LOST: u8 = 5;
    /// There is no memory for its stacks, and nobody was told yet.
    pub const HOMELESS: u8 = 6;
}

/// A CPU: what it and the others know of it. At the top of its exception stack, where TPIDR_EL1 points.
#[repr(C)]
pub struct Cpu {
    own: Own,
    /// Its place in the device tree's order.
    pub index: usize,
    /// MPIDR_EL1's affinity.
    pub mpidr: u64,
    mode: Mode,
    state: AtomicU8,
    order: AtomicU8,
    /// Timer interrupts taken.
    pub ticks: AtomicU64,
    /// Units of work done: one for each time that it woke.
    work: AtomicU64,
    /// Another CPU calls it, and it has not taken that interrupt yet.
    pub is_called: AtomicBool,
    /// Interrupts taken that were not ours, and the last one's INTID.
    pub strays: AtomicU32,
    /// See `strays`.
    pub stray: AtomicU32,
    /// Which bit of GICv2's target lists it is.
    pub gicv2_target: AtomicU32,
    /// Each of its ticks brings interrupts with it that are nobody's.
    pub storms: AtomicBool,
    /// What its interrupts were found in.
    found: Mutex<Found>,
    /// Its counter when it came up.
    came: AtomicU64,
}

const _: () = assert!(size_of::<Cpu>() <= PAGE_SIZE as usize);

impl Cpu {
    fn new(own: Own, index: usize, mpidr: u64, mode: Mode, state: u8) -> Self {
        Self {
            own,
            index,
            mpidr,
            mode,
            state: AtomicU8::new(state),
            order: AtomicU8::new(order::WORK),
            ticks: AtomicU64::new(0),
            work: AtomicU64::new(0),
            is_called: AtomicBool::new(false),
            strays: AtomicU32::new(0),
            stray: AtomicU32::new(0),
            gicv2_target: AtomicU32::new(0),
            storms: AtomicBool::new(false),
            found: Mutex::new(Found::default()),
            came: AtomicU64::new(0),
        }
    }

    /// The one that asks.
    pub fn current() -> &'static Self {
        let own: u64;
        // SAFETY: reading it has no side effects. At EL2 too it is this register that holds the page's address.
        unsafe { asm!("mrs {}, tpidr_el1", out(reg) own, options(nomem, nostack)) };
        // SAFETY: on every CPU that runs Rust, and takes interrupts or orders, the page holds its `Cpu`, which is never moved.
        unsafe { &*pointer(PhysAddr(own)).cast() }
    }

    fn is_current(&self) -> bool {
        core::ptr::eq(self, Self::current())
    }

    /// Gives it an order, and calls it.
    fn give(&self, order: u8) {
        self.is_called.store(interrupts::driven().is_some(), Relaxed);
        self.order.store(order, Release);
        interrupts::call(self);
    }

    /// The order that it was given. None before the call was taken: if it were obeyed earlier, at a tick, the call would be left to the next
    /// kernel.
    fn given(&self) -> u8 {
        let order = self.order.load(Acquire);
        if self.is_called.load(Acquire) { order::WORK } else { order }
    }

    /// Takes its interrupts over, and lets them come.
    fn enter(&self) {
        *self.found.lock() = interrupts::enter(self);
        // A call that came before this CPU could be called is lost, and must not be waited for. One that came since is pending.
        self.is_called.store(false, Release);
        unmask();
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CPU {} (MPIDR {:#x})", self.index, self.mpidr)
    }
}

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
        write!(f, "CPU {index} (MPIDR {mpidr:#x}) {why}: it would run on in memory that is overwritten")
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
    pub unsafe fn new(mpidrs: &[u64], blocks: &[Range<PhysAddr>], stack: PhysAddr, ttbr0: u64, mode: Mode) -> Self {
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
                let own = Own { frame: [0; 32], ttbr0: 0, stack: 0 };
                all.push(Box::leak(Box::new(Cpu::new(own, index, mpidr, mode, state::HOMELESS))));
                continue;
            };
            let own = Own { frame: [0; 32], ttbr0, stack };
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

    fn others(&self) -> impl Iterator<Item = &'static Cpu> {
        self.all.iter().copied().filter(|cpu| !cpu.is_current())
    }

    /// Brings up those that are off, and waits until each has taken its own interrupts over and ticked. One that does not come is reported, and the
    /// generation lives on without it.
    pub fn start(&self) {
        let begun = clock::now();
        for cpu in self.others().filter(|cpu| cpu.state.load(Acquire) == state::HOMELESS) {
            warn!("{cpu} was not started: RAM holds no {BLOCK_SIZE} bytes for its stacks: going on without it");
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
            if !in_time(|| cpu.state.load(Acquire) == state::UP && (cpu.ticks.load(Relaxed) > 0 || no_ticks())) {
                warn!("{cpu} was started and does not work: going on without it");
                continue;
            }
            // One counter and one CNTVOFF for all: what it read lies between what this CPU read before and after.
            let (came, now) = (cpu.came.load(Relaxed), clock::now());
            if !(begun..=now).contains(&came) {
                warn!("{}{cpu}: CNTVCT {came}, while this CPU's went from {begun} to {now}", marker::FOUND);
            }
        }
        let up = self.up().len();
        match interrupts::driven() {
            Some(driven) => info!("CPUs: {up} of {} up; {driven}", self.all.len()),
            None => {
                info!("CPUs: {up} of {} up; no interrupts: the device tree names no GIC that is known", self.all.len())
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
            assert!(in_time(|| cpu.order.load(Acquire) == order::WORK), "{cpu} did not end its suite");
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
        info!("others off in {stopped} ns; ticks {ticks:?}, work {work:?}, interrupts not ours {strays}");
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

/// Makes `cpu` lead the life, on its own stack; this CPU works from now on.
pub fn hand_over(cpu: &'static Cpu, life: &'static mut Life) -> ! {
    LED.store(life, Release);
    cpu.give(order::LEAD);
    work(Cpu::current())
}

/// A life on its way to another CPU.
static LED: AtomicPtr<Life> = AtomicPtr::new(core::ptr::null_mut());

/// A secondary's first line of Rust.
#[unsafe(no_mangle)]
fn kernel_secondary(own: &'static Own) -> ! {
    let cpu = Cpu::current();
    debug_assert!(core::ptr::eq(own, &cpu.own));
    if cpu.mode == Mode::Vhe {
        // SAFETY: the stub's text is mapped 1:1 and executable in the kernel's map [I2]; only the level changes.
        let answer = unsafe { hyp_stub::call(hyp::FINALISE_EL2, [0; 4]) };
        assert!(answer == 0, "{cpu}: the stub refused HVC_FINALISE_EL2, which the first CPU's granted: {answer:#x}");
    }
    cpu.came.store(clock::now(), Relaxed);
    cpu.enter();
    cpu.state.store(state::UP, Release);
    work(cpu)
}

/// What a CPU does that does not lead: it wakes, works, looks at its orders, sleeps.
fn work(cpu: &'static Cpu) -> ! {
    loop {
        mask();
        match cpu.given() {
            order::STOP => {
                leave(cpu);
                cpu.order.store(order::WORK, Release);
            }
            order::LEAD => {
                cpu.order.store(order::WORK, Relaxed);
                unmask();
                let life = LED.swap(core::ptr::null_mut(), Acquire);
                // SAFETY: whoever handed it over has let go of it for good, and it lives for ever.
                crate::lead(unsafe { &mut *life });
            }
            order::SELFTEST => {
                selftest::on_this_cpu(cpu.mode);
                cpu.order.store(order::WORK, Release);
            }
            _ => {}
        }
        cpu.work.fetch_add(1, Relaxed);
        // An interrupt that came since the order was read wakes it all the same, masked as it is.
        wait_for_interrupt();
        unmask();
    }
}

/// Takes this CPU down. Returns only if PSCI will not.
#[inline(never)]
fn leave(cpu: &Cpu) {
    interrupts::leave(cpu);
    cpu.state.store(state::LEAVING, Release);
    if let Err(error) = turn_off() {
        warn!("{cpu}: PSCI CPU_OFF: {error}");
        interrupts::enter(cpu);
        cpu.is_called.store(false, Release);
        cpu.state.store(state::DENIED, Release);
    }
}

/// PSCI CPU_OFF. Returns only if it will not.
#[inline(never)]
fn turn_off() -> Result<(), psci::error::Error> {
    psci::cpu_off::<Firmware>()
}

/// An interrupt.
#[unsafe(no_mangle)]
fn kernel_interrupt() {
    interrupts::take(Cpu::current());
}

/// MPIDR_EL1.
pub fn mpidr() -> u64 {
    let mpidr;
    // SAFETY: reading it has no side effects.
    unsafe { asm!("mrs {}, mpidr_el1", out(reg) mpidr, options(nomem, nostack)) };
    mpidr
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

/// Masks IRQs on this CPU.
pub fn mask() {
    // SAFETY: only delays interrupts.
    unsafe { asm!("msr daifset, #2", options(nostack)) };
}

/// Lets IRQs come to this CPU.
fn unmask() {
    // What is pending is taken here, and not perhaps later: the work loop masks again at once.
    // SAFETY: the vectors handle them.
    unsafe { asm!("msr daifclr, #2", "isb", options(nostack)) };
}

/// Sleeps until there is an interrupt, masked or not; without interrupts, until [`interrupts::call`] sends an event.
fn wait_for_interrupt() {
    if no_ticks() {
        // SAFETY: waits.
        unsafe { asm!("wfe", options(nostack)) };
    } else {
        // SAFETY: waits.
        unsafe { asm!("dsb sy", "wfi", options(nostack)) };
    }
}
