//! The console: a `log` backend on one UART: `earlycon=`'s, else stdout-path's, else the Image's.
//!
//! - A console is optional. Without one nothing is printed. The exit code still shows how the run
//!   ended, with `semihosting`. A failure's last words go to the failure record.
//! - Before [`open`], a panic prints to the early console's UART.
//! - Each line for people is `[generation] text`; each line for programs is a record.
//! - When [`flush`] returns, every character has been sent, or the UART no longer takes any.
#![expect(unsafe_code, reason = "claims the UART's registers")]

use boot::early_console;
use boot::failure_record::{self, Reason};
use boot::uart::{Mmio, Uart};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, Ordering};
use log::{LevelFilter, Log, Metadata};
use protocol::record::Record;
use spin::Mutex;

/// The number of characters without room in a row after which a UART gets no more.
const MOST_STUCK: u32 = 16;

/// A UART as a writer. It drops what is printed once the UART no longer takes characters: it may
/// be of another kind than the device tree says, or its other end may be gone.
struct Transmitter {
    uart: Uart,
    registers: Mmio,
    /// The number of characters without room, in a row.
    stuck: u32,
}

impl Write for Transmitter {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if !self.uart.is_some() {
            failure_record::append(text);
            return Ok(());
        }
        for byte in text.bytes() {
            if self.stuck == MOST_STUCK {
                break;
            }
            let has_room = self.uart.transmit(&mut self.registers, byte);
            self.stuck = if has_room { 0 } else { self.stuck + 1 };
        }
        Ok(())
    }
}

struct Console {
    uart: Mutex<Option<Transmitter>>,
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
        if let Some(Transmitter { uart, registers, stuck: 0 }) = self.uart.lock().as_mut() {
            uart.flush(registers);
        }
    }
}

/// Opens the console of generation `generation`, if there is one, and makes the early console use
/// it too.
///
/// # Safety
///
/// The registers must be a UART's, mapped as device memory, that nothing else uses.
///
/// # Panics
///
/// If a logger is installed already.
pub unsafe fn open(uart: Option<&Uart>, generation: u32) {
    CONSOLE.generation.store(generation, Ordering::Relaxed);
    if let Some(&uart) = uart {
        // SAFETY: our caller guarantees a mapped UART that nothing else uses.
        let mut registers = unsafe { Mmio::new() };
        uart.turn_on(&mut registers);
        early_console::open(&uart);
        *CONSOLE.uart.lock() = Some(Transmitter { uart, registers, stuck: 0 });
    }
    log::set_logger(&CONSOLE).unwrap_or_else(|error| panic!("{error}"));
    log::set_max_level(LevelFilter::Info);
}

/// Returns whether a console is open.
pub fn is_open() -> bool {
    CONSOLE.uart.lock().is_some()
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

/// Keeps a refusal's reason in the failure record if there is no console.
pub fn keep(reason: &str) {
    if CONSOLE.uart.lock().is_none() {
        failure_record::begin(Reason::Refused, [0; 3]);
        failure_record::append(reason);
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
pub struct Last(Transmitter);

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
        let early = || {
            // SAFETY: `new` requires mapped registers that nothing else uses. The early idmap maps
            // the page of the UART that the Image names, if any, and no console is open yet.
            let registers = unsafe { Mmio::new() };
            Transmitter { uart: early_console::of_image(), registers, stuck: 0 }
        };
        Self(console.take().unwrap_or_else(early))
    }

    /// Returns whether there is a UART to show what is written.
    pub const fn is_shown(&self) -> bool {
        self.0.uart.is_some()
    }
}

impl Write for Last {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.split_inclusive('\n').try_for_each(|line| match line.strip_suffix('\n') {
            Some(line) => write!(self.0, "{line}\r\n"),
            None => self.0.write_str(line),
        })
    }
}
