//! Console markers: the text that a program may look for on the console.
//!
//! The kernel prints the markers, assembly prints most of those with `!!`, and xtask matches on
//! them. A marker starts its line, apart from a log line's `[generation] ` prefix. Each marker is
//! defined here and nowhere else. [`marker!`](crate::marker!) has those that assembly prints, as
//! literals.

/// Start of a generation: `Generation 3 of 5`, then what it found.
pub const GENERATION: &str = "Generation ";

/// Last line before the point of no return: `Bye! `, then what happens next.
pub const BYE: &str = "Bye!";

/// Refused kexec or run: `Refused: `, then the reason. After a refused kexec the kernel runs on.
pub const REFUSED: &str = "Refused: ";

/// Stale interrupts, which a previous kernel must not leave: which, and on which CPU.
pub const STALE: &str = "Found at entry: ";

/// End of a run that did what was requested.
pub const SUCCESS: &str = "Ouroboros: success";

/// End of a run that did not do what was requested.
pub const FAILURE: &str = "Ouroboros: failure";

/// Prefix of every line that assembly, a panic or an exception handler prints.
pub const FATAL: &str = "!! ";

/// Panic: the place in the source, and the message.
pub const PANIC: &str = "!! panic at ";

/// Exception in Rust: its slot and syndrome in words. A line that starts with [`EXCEPTION`] is
/// next.
pub const EXCEPTION_NAME: &str = "!! exception: ";

/// Exception, with its vector slot and syndrome: `esr=`, `elr=` and others follow.
pub const EXCEPTION: &str = crate::marker!(exception);

/// General-purpose register at an exception: its number, then `value=`.
pub const REGISTER: &str = crate::marker!(register);

/// Address that the early idmap has no table for.
pub const EARLY_IDMAP_FULL: &str = crate::marker!(early_idmap_full);

/// Broken rule of the boot protocol that the kernel cannot work around: its number and its effect.
pub const BROKEN: &str = crate::marker!(broken);

/// HVC_SOFT_RESTART that came back to the relocation code: its answer.
pub const SOFT_RESTART_RETURNED: &str = crate::marker!(soft_restart_returned);

/// Invalid entry of the kimage list: the entry.
pub const INVALID_ENTRY: &str = crate::marker!(invalid_entry);

/// Destination whose copied data has another checksum than the source had: its address, then
/// `crc32c=` and `expected=`.
pub const MISMATCH: &str = crate::marker!(mismatch);

/// Exception in the relocation code: its vector slot, then `esr=`, `elr=` and `far=`.
pub const RELOCATION_FAULT: &str = crate::marker!(relocation_fault);

/// Last line of a CPU that stops permanently; nothing follows it on the console.
pub const STOPPED: &str = crate::marker!(stopped);

/// Expands to a marker that assembly prints, as a literal.
///
/// `marker!(stopped)` is [`STOPPED`], and so on. A literal can go into `concat!`, for assembly or
/// for a longer text that a test expects. `assembler_macros!` in `macros.rs` makes each of them
/// known to the assembler.
#[macro_export]
macro_rules! marker {
    (exception) => {
        "!! exception slot="
    };
    (register) => {
        "!! register number="
    };
    (early_idmap_full) => {
        "!! the early idmap has no table left for address "
    };
    (broken) => {
        "!! boot protocol: broken is rule "
    };
    (soft_restart_returned) => {
        "!! HVC_SOFT_RESTART returned: x0="
    };
    (invalid_entry) => {
        "!! the list holds an invalid entry: "
    };
    (mismatch) => {
        "!! copied data does not match its checksum: destination="
    };
    (relocation_fault) => {
        "!! fault while relocating: slot="
    };
    (stopped) => {
        "!! stopped"
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fatal_marker_starts_alike_and_is_no_prefix_of_another() {
        let fatal = [
            PANIC,
            EXCEPTION_NAME,
            EXCEPTION,
            REGISTER,
            EARLY_IDMAP_FULL,
            BROKEN,
            SOFT_RESTART_RETURNED,
            INVALID_ENTRY,
            MISMATCH,
            RELOCATION_FAULT,
            STOPPED,
        ];
        for marker in fatal {
            assert!(marker.starts_with(FATAL), "{marker}");
            assert_eq!(
                fatal.iter().filter(|other| other.starts_with(marker)).count(),
                1,
                "{marker}"
            );
        }
    }
}
