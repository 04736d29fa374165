//! The console: a `log` backend on the PL011 that the device tree names.
//!
//! - Works from the kernel's idmap on. Before that, a panic prints to the early console's UART.
//! - Each line for people is `[generation] text`; each line for programs is a record.
//! - When [`flush`] returns, every character has been sent.
#![expect(unsafe_code, reason = "claims the UART's registers")]

use crate::memory::pointer;
use arm_pl011_uart::{PL011Registers, Uart, UniqueMmioPointer};
use boot::phys::PhysAddr;
use core::fmt::Write;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};
use log::{LevelFilter, Log, Metadata};
use protocol::record::Record;
use spin::Mutex;

struct Console {
    uart: Mutex<Option<Uart<'static>>>,
    generation: AtomicU32,
}

static CONSOLE: Console = Console { uart: Mutex::new(None), generation: AtomicU32::new(0) };

impl Log for Console {
    /// Returns whether the message is the kernel's own. Messages of libraries are dropped.
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with(env!("CARGO_CRATE_NAME"))
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        if let Some(uart) = self.uart.lock().as_mut() {
            let generation = self.generation.load(Ordering::Relaxed);
            // If the console fails, we have nowhere to report it.
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
/// `base` must be a PL011 that is mapped as device memory and that nothing else uses.
///
/// # Panics
///
/// If `base` is zero, or if a logger is installed already.
pub unsafe fn open(base: PhysAddr, generation: u32) {
    let registers =
        NonNull::new(pointer(base).cast::<PL011Registers>()).expect("a UART at address 0");
    // SAFETY: our caller guarantees a mapped PL011 that nothing else uses.
    let registers = unsafe { UniqueMmioPointer::new(registers) };
    *CONSOLE.uart.lock() = Some(Uart::new(registers));
    CONSOLE.generation.store(generation, Ordering::Relaxed);
    log::set_logger(&CONSOLE).unwrap_or_else(|error| panic!("{error}"));
    log::set_max_level(LevelFilter::Info);
}

/// Returns this generation's number.
pub fn generation() -> u32 {
    CONSOLE.generation.load(Ordering::Relaxed)
}

/// Prints a record for programs, without the prefix that lines for people have.
pub fn record(record: &Record) {
    let line = record.line();
    if let Some(uart) = CONSOLE.uart.lock().as_mut() {
        // If the console fails, we have nowhere to report it.
        let _ = write!(uart, "{line}\r\n");
    }
}

/// Waits until the UART has sent the last character.
pub fn flush() {
    log::logger().flush();
}

/// The number of times that a panic tries to lock the console before it breaks the lock.
///
/// All tries together take longer than another CPU needs to print a line.
const PATIENCE: u32 = 10_000_000;

/// The console's writer for a panic or an exception.
///
/// It waits for another CPU's line to end, then breaks the lock: this CPU itself may hold it.
pub struct Last(Uart<'static>);

impl Last {
    /// Takes the console if it is open, else the early console's UART.
    pub fn open() -> Self {
        let mut console =
            (0..PATIENCE).find_map(|_| CONSOLE.uart.try_lock()).unwrap_or_else(|| {
                // SAFETY: `force_unlock` requires that the holder no longer uses the UART. After so
                // many tries it is this CPU, which is panicking, or one that makes no progress.
                unsafe { CONSOLE.uart.force_unlock() };
                CONSOLE.uart.lock()
            });
        let uart = console.take().unwrap_or_else(|| {
            let registers =
                NonNull::new(pointer(PhysAddr(boot::early_console::UART)).cast::<PL011Registers>());
            // SAFETY: `new` requires a mapped PL011 that nothing else uses. The early idmap maps
            // this page as device memory, and no console is open yet.
            Uart::new(unsafe {
                UniqueMmioPointer::new(registers.expect("the early UART is not at 0"))
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
