//! The debugger of this host: finds one that knows aarch64, and prints the line that attaches it.

use std::{path::Path, process::Command};

use anyhow::{Context, Result};

use crate::{processes::attempt, qemu, setup};

/// Debuggers that may know aarch64; those made for it come first.
const DEBUGGERS: [&str; 6] = [
    "gdb-multiarch",
    "aarch64-none-elf-gdb",
    "aarch64-elf-gdb",
    "aarch64-linux-gnu-gdb",
    "gdb",
    "lldb",
];

/// Finds the first debugger that says that it knows aarch64.
pub fn found() -> Result<&'static str> {
    let knows = |program: &&&str| setup::found(program).is_some() && knows_aarch64(program);
    DEBUGGERS
        .iter()
        .find(knows)
        .copied()
        .with_context(|| format!("none of these is installed: {}", DEBUGGERS.join(", ")))
}

fn knows_aarch64(program: &str) -> bool {
    let mut command = Command::new(program);
    if program == "lldb" {
        // LLVM's debugger knows every architecture in all packages that we know of.
        return attempt(command.arg("--version"), "").is_ok();
    }
    command.args(["-nx", "-batch", "-ex", "set architecture aarch64", "-ex", "show architecture"]);
    // The exit code is no help: gdb 13 ends with 0 after a refused command.
    attempt(&mut command, "").is_ok_and(|said| accepted(&said))
}

/// Returns whether gdb accepted the architecture. A gdb that does not know it lists those that it
/// knows.
fn accepted(said: &str) -> bool {
    !said.contains("Undefined item") && said.contains("set to \"aarch64\"")
}

/// The command line of a debugger that attaches to `stub`, with the kernel's symbols at the address
/// where QEMU loads it.
pub fn line(elf: &Path, stub: &str) -> String {
    // QEMU loads the Image 2 MiB above the start of RAM: it leaves the start for its own code, and
    // the header's text_offset (boot::image) is 0.
    const LOADED: &str = "0x40200000";
    let elf = elf.display().to_string();
    match found() {
        Ok("lldb") => {
            let slide = format!("target modules load --file {elf} --slide {LOADED}");
            qemu::shell_line(["lldb", &elf, "-o", &slide, "-o", &format!("gdb-remote {stub}")])
        }
        found => {
            // Without a debugger, show the line to type once one is installed.
            let program = found.unwrap_or(DEBUGGERS[0]);
            let (symbols, remote) =
                (format!("symbol-file {elf} -o {LOADED}"), format!("target remote {stub}"));
            qemu::shell_line([program, "-ex", &symbols, "-ex", &remote])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gdb_that_does_not_know_the_architecture_is_recognised() {
        let knows = "The target architecture is set to \"aarch64\".\n\
                     The target architecture is set to \"aarch64\".\n";
        assert!(accepted(knows));
        let not = "Undefined item: \"aarch64\".\n\
                   The target architecture is set to \"auto\" (currently \"i386\").\n";
        assert!(!accepted(not));
    }
}
