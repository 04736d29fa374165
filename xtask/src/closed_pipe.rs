//! A quiet end when the reader of our output goes away, as in `cargo xtask doctor | head -1`.
//!
//! - Rust ignores SIGPIPE, so a print to a closed pipe panics. We keep the signal ignored: it would
//!   also end us when a QEMU ends before it has read what we type.
//! - The panic unwinds, so that our processes and temporary folders go as after any error.
//! - The standard library gives the programs that we start the signal's default action.

use std::{
    any::Any,
    panic::{self, AssertUnwindSafe},
    sync::atomic::{AtomicBool, Ordering},
};

use harness::processes;

/// The exit code of a program that SIGPIPE ends, by the convention of shells: 128 + SIGPIPE.
pub const EXIT_CODE: u8 = 141;

static CLOSED: AtomicBool = AtomicBool::new(false);

/// Returns the result of `act`, or `None` if a print found its pipe closed, on any thread.
pub fn unless_closed<T>(act: impl FnOnce() -> T) -> Option<T> {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if is_closed_pipe(info.payload()) && !CLOSED.swap(true, Ordering::SeqCst) {
            // The other threads end as after Ctrl-C.
            processes::interrupt();
        }
        // The panics that follow from the first are no news either.
        if !CLOSED.load(Ordering::SeqCst) {
            usual(info);
        }
    }));
    // The caller ends the process after a panic, and so uses nothing that the panic left behind.
    let ended = panic::catch_unwind(AssertUnwindSafe(act));
    match ended {
        _ if CLOSED.load(Ordering::SeqCst) => None,
        Ok(result) => Some(result),
        Err(panic) => panic::resume_unwind(panic),
    }
}

/// Returns whether a panic comes from print! or eprint! on a closed pipe. The standard library's
/// text is all that says so; tests/closed_pipe.rs fails if that text changes.
fn is_closed_pipe(panic: &dyn Any) -> bool {
    let message = panic.downcast_ref::<String>().map_or("", String::as_str);
    message.starts_with("failed printing to std") && message.contains("Broken pipe")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_panics_are_not_silenced() {
        let says = |message: &str| is_closed_pipe(&message.to_owned());
        assert!(says("failed printing to stdout: Broken pipe (os error 32)"));
        assert!(!says("failed printing to stdout: No space left on device (os error 28)"));
        assert!(!says("QEMU's monitor: Broken pipe (os error 32)"));
        assert!(!is_closed_pipe(&"a panic without arguments"));
    }
}
