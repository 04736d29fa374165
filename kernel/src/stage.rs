//! Stage: a plan becomes bytes in the control block, and the last acts before there is no way back.
//!
//! *When:* [`Staged::new`] after the plan; [`Staged::restart`] as the kernel's last act. *Leaves,* refused: the control block writable again,
//! all memory given back, the stub's own vectors in place. *Refuses:* a list too long, a device not in reset, anything the
//! restart depends on that has changed since it was made.
#![expect(unsafe_code, reason = "writes the control block, installs EL2's vectors, and jumps")]

use crate::console;
use crate::cpus::{self, Cpu};
use crate::interrupts;
use crate::life::Life;
use crate::map;
use crate::memory::pointer;
use crate::plan::Plan;
use crate::refused::Refused;
use boot::breadcrumb::{BYE, REACHED};
use boot::cache;
use boot::marker;
use boot::phys::{PAGE_SIZE, PhysAddr, PhysRange};
use boot::{hyp, hyp_stub};
use core::convert::Infallible;
use core::ops::Range;
use kernel::mode::Mode;
use kernel::orders::{Restart, Selftest};
use log::info;
use relocate::checksum::Crc32c;
use relocate::control::{self, ARGUMENTS_OFFSET, Arguments, Layout};
use relocate::list;
use relocate::segment::MAX_SEGMENTS;

/// A restart that needs nothing more but to be entered.
pub struct Staged<'a> {
    life: &'a mut Life,
    plan: Plan,
    /// The parts of the block, `rest` as far as it is used.
    layout: Layout,
    code_crc32c: u32,
    rest_crc32c: u32,
}

/// How far a restart is.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// Nothing has been stopped yet.
    Running,
    /// One CPU runs, and takes no interrupt.
    Masked,
    /// No interrupt is left.
    Quiet,
}

impl<'a> Staged<'a> {
    /// Fills the control block.
    ///
    /// # Errors
    ///
    /// [`Refused::List`], [`Refused::Unfaithful`], [`Refused::NoCrc32`].
    pub fn new(life: &'a mut Life, plan: Plan) -> Result<Self, Refused> {
        let mut layout = Layout::of(&life.control);
        let uart = life.uart.clone();
        if !relocate::checksum::is_available() {
            return Err(Refused::NoCrc32);
        }

        // The list, then the copy's tables, in what the block has beside code and breadcrumbs.
        let segments = plan.segments();
        let list_pages = list::pages_needed(&segments);
        let given = (layout.rest.bytes() / PAGE_SIZE) as usize;
        // SAFETY: the pages are the control block's own, mapped writable, and borrowed by nobody.
        let pages =
            unsafe { core::slice::from_raw_parts_mut(pointer(layout.rest.start).cast(), given) };
        let head = list::build(&segments, pages, layout.rest.start)?;
        // SAFETY: reads list pages only, which `build` has just written.
        let read = |entry: PhysAddr| unsafe { pointer(entry).cast::<u64>().read() };
        list::check(&segments, head, read).map_err(Refused::Unfaithful)?;
        let tables = PhysAddr(layout.rest.start.0 + list_pages as u64 * PAGE_SIZE)..layout.rest.end;
        let (copy_ttbr0, free) = map::copy_map(&life.mapped, &layout.code, &uart, tables);
        layout.rest.end = free.start;

        let mut arguments = Arguments {
            head,
            copy_ttbr0,
            entry: plan.entry().0,
            dtb: plan.tree().0,
            breadcrumbs: layout.breadcrumbs.start.0,
            flags: 0,
            uart: uart.start.0,
            checks_used: 0,
            checks: [control::Check::default(); MAX_SEGMENTS],
        };
        if life.orders.restart == Restart::Cold {
            arguments.flags |= control::COLD;
        }
        if life.mode == Mode::Nvhe {
            arguments.flags |= control::HVC;
        }
        let checks = plan.checks();
        arguments.checks_used = checks.len() as u64;
        arguments.checks[..checks.len()].copy_from_slice(&checks);

        let code = pointer(layout.code.start);
        let crumbs = pointer(layout.breadcrumbs.start);
        // SAFETY: source and destination are as long as the relocation code, and different memory.
        unsafe { code.copy_from_nonoverlapping(control::pages().as_ptr(), control::pages().len()) };
        // SAFETY: the arguments have room at that place in the first page, which the offset keeps aligned.
        unsafe {
            code.wrapping_add(ARGUMENTS_OFFSET as usize).cast::<Arguments>().write(arguments)
        };
        // SAFETY: the breadcrumb page is the control block's own.
        unsafe { crumbs.write_bytes(0, PAGE_SIZE as usize) };

        // The whole block to PoC: it is read with the MMU off, by EL2 as well, and executed. Its breadcrumbs are not written through the
        // cache any more but by stores that are cleaned one by one. [I3, I6]
        cache::clean_and_invalidate(&(layout.code.start..layout.rest.end));
        cache::invalidate_instructions();
        life.map.make_executable(&layout.code);

        let (code_crc32c, rest_crc32c) = (checksum(&layout.code), checksum(&layout.rest));
        Ok(Self { life, plan, layout, code_crc32c, rest_crc32c })
    }

    /// Does what a self-test is for: leaves behind, at that moment, what the steps after it, or the next kernel, have to put right.
    fn selftest(&self, moment: Moment) {
        match (self.life.orders.selftest, moment) {
            (Some(Selftest::Storm), Moment::Running) => interrupts::storm(Cpu::current()),
            (Some(Selftest::Interrupts), Moment::Masked) => interrupts::provoke(Cpu::current()),
            (Some(Selftest::Lpis), Moment::Quiet) => interrupts::keep_lpis(Cpu::current()),
            _ => {}
        }
    }

    /// Restarts. Returns only what refused to.
    ///
    /// # Errors
    ///
    /// [`Refused::Busy`], [`Refused::Changed`], [`Refused::Vectors`].
    pub fn restart(self) -> Result<Infallible, Refused> {
        self.selftest(Moment::Running);
        self.life.devices.quiesce()?;
        let stopped = self.life.cpus.stop(self.life.orders.force)?;
        self.life.cpus.tell(stopped);
        cpus::mask();
        self.selftest(Moment::Masked);
        self.life.cpus.quiet();
        self.selftest(Moment::Quiet);
        // The last act before the point of no return: one CPU runs [I9], and nothing has changed since it was made. [I8]
        self.plan.check_sources()?;
        for (name, range, was) in [
            ("the relocation code", &self.layout.code, self.code_crc32c),
            ("the list or the copy's tables", &self.layout.rest, self.rest_crc32c),
        ] {
            let now = checksum(range);
            if has_changed(was, now) {
                return Err(Refused::Changed(name.into(), was, now));
            }
        }
        let way = match (self.life.orders.restart, self.life.mode) {
            (Restart::Hot, Mode::Nvhe) => "copy, MMU off, HVC_SOFT_RESTART",
            (Restart::Hot, _) => "copy, MMU off, branch",
            (Restart::Cold, Mode::Nvhe) => "MMU off, HVC_SOFT_RESTART, copy at EL2, branch",
            (Restart::Cold, _) => "MMU off, copy, branch",
        };
        info!(
            "{} Next: {way}; entry {}, device tree {}, control pages {}, breadcrumbs {}",
            marker::BYE,
            self.plan.entry(),
            self.plan.tree(),
            self.layout.code.start,
            self.layout.breadcrumbs.start,
        );
        console::flush();
        self.crumb_bye();
        // The last call to the stub: from here on a trap to EL2 is a fault while relocating. A stub that refuses takes "Bye!" back.
        if self.life.mode == Mode::Nvhe {
            let answer = self.install_vectors();
            if answer != 0 {
                return Err(Refused::Vectors(answer));
            }
        }
        // SAFETY: the block is staged, executable and clean to PoC; list and arguments are as they were checked; devices are in reset;
        // in nvhe the private vectors are in place.
        unsafe { control::enter(self.layout.code.start) }
    }

    /// Has the stub give EL2 to the private vectors. Returns its answer.
    #[inline(never)]
    fn install_vectors(&self) -> u64 {
        let vectors = self.layout.private_el2_vectors();
        // SAFETY: the private vectors are staged there and clean to PoC; they answer by the stub's ABI. [I3]
        unsafe { hyp_stub::call(hyp::SET_VECTORS, [vectors.0, 0, 0, 0]) }
    }

    /// Leaves the first breadcrumb, as the relocation code leaves the others. \[I6\]
    fn crumb_bye(&self) {
        let slot = self.layout.breadcrumbs.start;
        // SAFETY: the page is the control block's own; a slot is two words.
        unsafe {
            pointer(slot)
                .cast::<[u64; 2]>()
                .write_volatile([BYE as u64 + REACHED, crate::clock::now()])
        };
        cache::clean_and_invalidate(&(slot..PhysAddr(slot.0 + 16)));
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        self.life.map.make_writable(&self.layout.code);
    }
}

/// Whether a checksum is not what it was.
#[inline(never)]
pub fn has_changed(was: u32, now: u32) -> bool {
    was != now
}

fn checksum(range: &Range<PhysAddr>) -> u32 {
    // SAFETY: a part of the control block, which is mapped and which nothing writes meanwhile.
    let bytes =
        unsafe { core::slice::from_raw_parts(pointer(range.start), range.bytes() as usize) };
    Crc32c::default().update(bytes).value()
}
