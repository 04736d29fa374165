//! The staged kexec: fills the control pages, and takes the last steps to the jump.
//!
//! - [`Staged::new`] fills the control pages. [`Staged::kexec`] is the last Rust code that runs.
//! - Refuses a GIC that we do not drive, a list that is too long, a device that does not reset, a
//!   CPU that does not stop, a stub that refuses the private vectors, and any source, list, table,
//!   device tree or code whose checksum has changed.
//! - Leaves after a refusal: the control pages writable again, all memory free that no device
//!   keeps, the hyp-stub's own vectors in place, and devices in reset. The caller resumes the CPUs.
#![expect(unsafe_code, reason = "writes the control pages, installs EL2's vectors, and jumps")]

use crate::console;
use crate::cpus::{self, Cpu, WorkDone};
use crate::error::Error;
use crate::interrupts;
use crate::map;
use crate::memory::pointer;
use crate::plan::{Plan, has_changed};
use crate::state::Kernel;
use boot::breadcrumb::{BYE, REACHED};
use boot::cache;
use boot::marker;
use boot::phys::{PAGE_SIZE, PhysAddr, PhysRange};
use boot::{hyp, hyp_stub};
use core::convert::Infallible;
use core::ops::Range;
use log::info;
use protocol::cmdline::{Restart, Selftest};
use protocol::mode::Mode;
use protocol::record::{self, Hex, Kexec, Record};
use relocate::checksum::Crc32c;
use relocate::control::{self, ARGUMENTS_OFFSET, Arguments, Layout};
use relocate::list;
use relocate::segment::MAX_SEGMENTS;

/// A kexec that is ready to go: the control pages are filled.
pub struct Staged<'a> {
    kernel: &'a mut Kernel,
    plan: Plan,
    /// The layout of the control pages. `new` shortens `rest` to the list and the tables.
    layout: Layout,
    code_crc32c: u32,
    rest_crc32c: u32,
}

/// The point that [`Staged::kexec`] has reached.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// Nothing has been stopped yet.
    Running,
    /// Only this CPU runs, with IRQs masked.
    Masked,
    /// Interrupts are quiet: none is enabled or active. \[I9\]
    Quiet,
}

impl<'a> Staged<'a> {
    /// Fills the control pages.
    ///
    /// # Errors
    ///
    /// [`Error::List`], [`Error::ListMismatch`], [`Error::Tables`].
    pub fn new(kernel: &'a mut Kernel, plan: Plan) -> Result<Self, Error> {
        let mut layout = Layout::of(&kernel.layout.control);

        // The list, then the relocation idmap's tables, in the pages after code and breadcrumbs.
        let segments = plan.segments();
        let list_pages = list::pages_needed(&segments);
        let given = (layout.rest.bytes() / PAGE_SIZE) as usize;
        // SAFETY: `from_raw_parts_mut` requires mapped memory that nothing else refers to. These
        // are control pages, mapped writable, and only this function uses them.
        let pages =
            unsafe { core::slice::from_raw_parts_mut(pointer(layout.rest.start).cast(), given) };
        let head = list::build(&segments, pages, layout.rest.start)?;
        // SAFETY: `read` requires initialized, mapped memory. `check` reads only list pages, which
        // `build` has just written.
        let read = |entry: PhysAddr| unsafe { pointer(entry).cast::<u64>().read() };
        list::check(&segments, head, read).map_err(Error::ListMismatch)?;
        let tables = layout.rest.start + list_pages as u64 * PAGE_SIZE..layout.rest.end;
        let (ram, uart) = (&kernel.layout.mapped, kernel.uart.as_ref());
        let (relocation_ttbr0, free) = map::relocation_idmap(ram, &layout.code, uart, tables)?;
        layout.rest.end = free.start;

        let mut arguments = Arguments {
            head,
            relocation_ttbr0,
            entry: plan.entry().get(),
            dtb: plan.tree().get(),
            breadcrumbs: layout.breadcrumbs.start.get(),
            flags: 0,
            uart: kernel.uart.unwrap_or_default(),
            checks_used: 0,
            checks: [control::Check::default(); MAX_SEGMENTS],
        };
        if kernel.cmdline.restart == Restart::Cold {
            arguments.flags |= control::COLD;
        }
        if kernel.mode == Mode::Nvhe {
            arguments.flags |= control::HVC;
        }
        let checks = plan.checks();
        arguments.checks_used = checks.len() as u64;
        arguments.checks[..checks.len()].copy_from_slice(&checks);

        let code = pointer(layout.code.start);
        let breadcrumbs = pointer(layout.breadcrumbs.start);
        // SAFETY: both ranges are as long as the relocation code, and they do not overlap: one is
        // in the image's text, the other among the control pages.
        unsafe { code.copy_from_nonoverlapping(control::pages().as_ptr(), control::pages().len()) };
        // SAFETY: `write` requires room and alignment. `relocate::control` asserts that the
        // arguments fit into the first page, and `ARGUMENTS_OFFSET` is aligned for them.
        unsafe {
            code.wrapping_add(ARGUMENTS_OFFSET as usize).cast::<Arguments>().write(arguments)
        };
        // SAFETY: the breadcrumb page is one of the control pages, mapped writable.
        unsafe { breadcrumbs.write_bytes(0, PAGE_SIZE as usize) };

        // Clean the used control pages to PoC: they are read and executed with the MMU off, and at
        // EL2. The breadcrumb page must have no dirty line either, since the last breadcrumbs are
        // written past the cache. Each earlier one is cleaned right after its store. [I3, I6]
        cache::clean_and_invalidate(&(layout.code.start..layout.rest.end));
        cache::invalidate_instructions();
        kernel.map.make_executable(&layout.code);

        let (code_crc32c, rest_crc32c) = (checksum(&layout.code), checksum(&layout.rest));
        Ok(Self { kernel, plan, layout, code_crc32c, rest_crc32c })
    }

    /// Runs the requested self-test at its moment: it leaves a state that the following steps, or
    /// the next kernel, must clean up.
    fn selftest(&self, moment: Moment) {
        let cpu = &Cpu::current().interrupts;
        match (self.kernel.cmdline.selftest, moment) {
            (Some(Selftest::Storm), Moment::Running) => interrupts::storm(cpu),
            (Some(Selftest::Interrupts), Moment::Masked) => interrupts::provoke(cpu),
            (Some(Selftest::Lpis), Moment::Quiet) => interrupts::keep_lpis(cpu),
            _ => {}
        }
    }

    /// Stops the machine, verifies everything once more and enters the relocation code.
    ///
    /// Returns only if a step refuses.
    ///
    /// # Errors
    ///
    /// [`Error::Gic`], [`Error::Busy`], [`Error::Cpu`], [`Error::Changed`], [`Error::Vectors`].
    #[doc(alias = "machine_kexec")]
    pub fn kexec(self) -> Result<Infallible, Error> {
        self.selftest(Moment::Running);
        let is_named = self.kernel.machine.gic.is_some();
        if is_named && interrupts::driven().is_none() && !self.kernel.cmdline.force {
            return Err(Error::Gic);
        }
        self.kernel.devices.quiesce()?;
        let stop_ns = self.kernel.cpus.stop(self.kernel.cmdline.force)?;
        let WorkDone { ticks, work, strays } = self.kernel.cpus.work_done();
        info!(
            "others off in {stop_ns} ns; ticks {ticks:?}, work {work:?}, \
             interrupts not ours {strays}"
        );
        self.kernel.cpus.log_strays();
        cpus::mask();
        self.selftest(Moment::Masked);
        self.kernel.cpus.quiet();
        self.selftest(Moment::Quiet);
        // The last checks before the point of no return: only this CPU runs [I9], and nothing that
        // the kexec depends on has changed since it was made. [I8]
        self.plan.check_sources()?;
        for (name, range, was) in [
            (record::RELOCATION_CODE, &self.layout.code, self.code_crc32c),
            (record::LIST_AND_IDMAP, &self.layout.rest, self.rest_crc32c),
        ] {
            let now = checksum(range);
            if has_changed(was, now) {
                return Err(Error::Changed(name.into(), was, now));
            }
        }
        let next = match (self.kernel.cmdline.restart, self.kernel.mode) {
            (Restart::Hot, Mode::Nvhe) => "copy, MMU off, HVC_SOFT_RESTART",
            (Restart::Hot, _) => "copy, MMU off, branch",
            (Restart::Cold, Mode::Nvhe) => "MMU off, HVC_SOFT_RESTART, copy at EL2, branch",
            (Restart::Cold, _) => "MMU off, copy, branch",
        };
        let image = self.plan.image();
        console::record(&Record::Kexec(Kexec {
            generation: self.kernel.generation,
            next: next.into(),
            entry: Hex(self.plan.entry().get()),
            fdt: Hex(self.plan.tree().get()),
            control_pages: Hex(self.layout.code.start.get()),
            breadcrumbs: Hex(self.layout.breadcrumbs.start.get()),
            hashed_bytes: image.hashed,
            disk_requests: image.disk_requests,
            disk_ns: image.disk_ns,
            stop_ns,
            ticks,
            work,
            strays,
        }));
        info!(
            "{} Next: {next}; entry {}, device tree {}, control pages {}, breadcrumbs {}",
            marker::BYE,
            self.plan.entry(),
            self.plan.tree(),
            self.layout.code.start,
            self.layout.breadcrumbs.start,
        );
        console::flush();
        self.breadcrumb_bye();
        // The hyp-stub answers this call and no later one: afterwards the private vectors answer
        // SET_VECTORS and SOFT_RESTART, and report any other exception to EL2 as a fault. If the
        // stub refuses, we refuse as well, although "Bye!" was printed.
        if self.kernel.mode == Mode::Nvhe {
            let answer = self.install_vectors();
            if answer != 0 {
                return Err(Error::Vectors(answer));
            }
        }
        // SAFETY: `enter` requires that the control pages are staged, executable and clean to PoC,
        // which `new` did, with list and arguments as checked above. Devices are in reset, and in
        // nvhe the private vectors are installed.
        unsafe { control::enter(self.layout.code.start) }
    }

    /// Asks the hyp-stub to install the private vectors at EL2. Returns the stub's answer.
    #[inline(never)]
    fn install_vectors(&self) -> u64 {
        let vectors = self.layout.private_el2_vectors();
        // SAFETY: `SET_VECTORS` makes this memory EL2's code. The private vectors are staged there,
        // clean to PoC, and follow the stub's ABI. [I3]
        unsafe { hyp_stub::call(hyp::SET_VECTORS, [vectors.get(), 0, 0, 0]) }
    }

    /// Writes the first breadcrumb in the way that the relocation code writes the others. \[I6\]
    fn breadcrumb_bye(&self) {
        let slot = self.layout.breadcrumbs.start;
        // SAFETY: `write_volatile` requires a writable, aligned slot of two words. The slot is the
        // start of the breadcrumb page.
        unsafe {
            pointer(slot)
                .cast::<[u64; 2]>()
                .write_volatile([BYE as u64 + REACHED, crate::clock::now()])
        };
        cache::clean_and_invalidate(&(slot..slot + 16));
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        self.kernel.map.make_writable(&self.layout.code);
    }
}

fn checksum(range: &Range<PhysAddr>) -> u32 {
    // SAFETY: `from_raw_parts` requires mapped memory without a writer. The range is part of the
    // control pages, which nothing writes meanwhile.
    let bytes =
        unsafe { core::slice::from_raw_parts(pointer(range.start), range.bytes() as usize) };
    Crc32c::default().update(bytes).value()
}
