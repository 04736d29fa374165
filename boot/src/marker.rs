//! Console markers: the words that a program may look for on the console.
//!
//! *When:* in every phase; the kernel prints them, the emergency printer in assembly prints the `!!` ones, xtask reads them.
//! A marker stands at the start of a line (a log line's `[generation] ` prefix may stand before it) and is written once, here.

/// A generation has come up: `Generation 3 of 5`, then what it found.
pub const GENERATION: &str = "Generation ";

/// The point of no return is next: `Bye! ` and what will happen.
pub const BYE: &str = "Bye!";

/// A generation refused to restart and lives on: `Refused: ` and the rule with the value that broke it.
pub const REFUSED: &str = "Refused: ";

/// A predecessor left interrupts that a kernel must not find: which, and on which CPU.
pub const FOUND: &str = "Found at entry: ";

/// A rule of the boot protocol and what came of it, as one line of JSON.
pub const RULE: &str = "{\"rule\":";

/// A rule of the boot protocol that was broken and that nobody can live without: its number, and what it led to.
pub const BROKEN: &str = crate::broken!();

/// The last generation ended as ordered.
pub const SUCCESS: &str = "Ouroboros: success";

/// The run ended, not as ordered.
pub const FAILURE: &str = "Ouroboros: failure";

/// What a printer without Rust, or a panic, puts first on its line.
pub const EMERGENCY: &str = "!! ";

/// The last words of a CPU that stops for good; nothing follows on the console.
pub const STOPPED: &str = crate::stopped!();

/// [`BROKEN`] as a literal, for assembly.
#[doc(hidden)]
#[macro_export]
macro_rules! broken {
    () => {
        "!! boot protocol: broken is rule "
    };
}

/// [`STOPPED`] as a literal, for assembly.
#[doc(hidden)]
#[macro_export]
macro_rules! stopped {
    () => {
        "!! stopped"
    };
}
