//! The console: `log` on the PL011 that the device tree names.
//!
//! *When:* from the kernel's map on; before, and under a panic that came before, the emergency UART speaks. A line is
//! `[generation] text`. *Leaves:* every character sent when [`flush`] returns.
#![expect(unsafe_code, reason = "claims the UART's registers")]

use crate::memory::pointer;
use arm_pl011_uart::{PL011Registers, Uart, UniqueMmioPointer};
use boot::phys::PhysAddr;
use core::fmt::Write;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};
use log::{LevelFilter, Log, Metadata, Record};
use spin::Mutex;

struct Console {
    uart: Mutex<Option<Uart<'static>>>,
    generation: AtomicU32,
}

static CONSOLE: Console = Console { uart: Mutex::new(None), generation: AtomicU32::new(0) };

impl Log for Console {
    /// The kernel's own words: what a driver says of itself is not part of the story.
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with(env!("CARGO_CRATE_NAME"))
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        if let Some(uart) = self.uart.lock().as_mut() {
            let generation = self.generation.load(Ordering::Relaxed);
            // Nobody could be told that the console failed.
            let _ = write!(uart, "[{generation}] {}\r\n", record.args());
        }
    }

    fn flush(&self) {
        if let Some(uart) = self.uart.lock().as_ref() {
            while uart.is_busy() {}
        }
    }
}

/// Opens the console of generation `generation` on the PL011 at `base`.
///
/// # Safety
///
/// A PL011 lies there, mapped as device memory, and nothing else uses it.
///
/// # Panics
///
/// Where `base` is zero, or a logger is installed already.
pub unsafe fn open(base: PhysAddr, generation: u32) {
    let registers =
        NonNull::new(pointer(base).cast::<PL011Registers>()).expect("a UART at address 0");
    // SAFETY: as our caller promised.
    let registers = unsafe { UniqueMmioPointer::new(registers) };
    *CONSOLE.uart.lock() = Some(Uart::new(registers));
    CONSOLE.generation.store(generation, Ordering::Relaxed);
    log::set_logger(&CONSOLE).unwrap_or_else(|error| panic!("{error}"));
    log::set_max_level(LevelFilter::Info);
}

/// Waits until the last character has left.
pub fn flush() {
    log::logger().flush();
}

/// How often a panic asks for the console before it breaks the lock: longer than another CPU writes a line.
const PATIENCE: u32 = 10_000_000;

/// A writer for a panic. It waits for another CPU's line to end; a lock that is its own, it breaks.
pub struct Last(Uart<'static>);

impl Last {
    /// The console if it is open, else the emergency UART.
    pub fn open() -> Self {
        let mut console =
            (0..PATIENCE).find_map(|_| CONSOLE.uart.try_lock()).unwrap_or_else(|| {
                // SAFETY: whoever has it for so long does not go on: this CPU, which panics, or one that stands still.
                unsafe { CONSOLE.uart.force_unlock() };
                CONSOLE.uart.lock()
            });
        let uart = console.take().unwrap_or_else(|| {
            let registers =
                NonNull::new(pointer(PhysAddr(boot::emergency::UART)).cast::<PL011Registers>());
            // SAFETY: the early map holds that page as device memory, and nobody else writes to it in a panic.
            Uart::new(unsafe {
                UniqueMmioPointer::new(registers.expect("the emergency UART is not at 0"))
            })
        });
        Self(uart)
    }
}

impl Write for Last {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        text.split_inclusive('\n').try_for_each(|line| match line.strip_suffix('\n') {
            Some(line) => write!(self.0, "{line}\r\n"),
            None => self.0.write_str(line),
        })
    }
}
