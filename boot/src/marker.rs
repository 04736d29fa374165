//! Console markers: the text that a program may look for on the console.
//!
//! The kernel prints the markers, the early console prints those with `!!`, and xtask matches on
//! them. A marker starts its line, apart from a log line's `[generation] ` prefix. Each marker is
//! defined here and nowhere else.

/// Start of a generation: `Generation 3 of 5`, then what it found.
pub const GENERATION: &str = "Generation ";

/// Last line before the point of no return: `Bye! `, then what happens next.
pub const BYE: &str = "Bye!";

/// Refused kexec or run: `Refused: `, then the reason. After a refused kexec the kernel runs on.
pub const REFUSED: &str = "Refused: ";

/// Stale interrupts, which a previous kernel must not leave: which, and on which CPU.
pub const STALE: &str = "Found at entry: ";

/// Broken rule of the boot protocol that the kernel cannot work around: its number and its effect.
pub const BROKEN: &str = crate::broken!();

/// End of a run that did what was requested.
pub const SUCCESS: &str = "Ouroboros: success";

/// End of a run that did not do what was requested.
pub const FAILURE: &str = "Ouroboros: failure";

/// Prefix of every line that the early console or a panic prints.
pub const FATAL: &str = "!! ";

/// Last line of a CPU that stops permanently; nothing follows it on the console.
pub const STOPPED: &str = crate::stopped!();

/// Expands to [`BROKEN`] as a literal, for assembly.
#[doc(hidden)]
#[macro_export]
macro_rules! broken {
    () => {
        "!! boot protocol: broken is rule "
    };
}

/// Expands to [`STOPPED`] as a literal, for assembly.
#[doc(hidden)]
#[macro_export]
macro_rules! stopped {
    () => {
        "!! stopped"
    };
}
