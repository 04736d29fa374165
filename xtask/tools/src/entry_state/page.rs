//! Generator of docs/entry-state.md: the list with its reasons, and all values seen.
//!
//! The page shows a value only if every build has the same; addresses and times appear as
//! "differs".

use std::{collections::BTreeSet, fmt::Write};

use super::{
    Cell, Row,
    allowed::{ALLOWED, Allowed, Seen},
};

/// Path of the page.
pub const PAGE: &str = "docs/entry-state.md";

const HEAD: &str = "\
# Entry state: registers at the first instruction

A debugger reads every EL1 and EL2 system register, the general registers and PSTATE at `_start`.
It does so after a cold boot by QEMU's loader, and after a self-kexec, hot and cold, in each mode.
The list below names each register that differs, with the reason why the boot protocol allows it.
The cases `entry/*` fail if another register or bit differs.
They also fail if an entry or a bit on the list never differs.

`cargo xtask test entry/ --bless` generates this page from runs.
`cargo xtask test entry/` repeats the runs and fails if the page differs.
`cargo xtask diff-entry` shows the registers side by side.

Each run has three generations with `base=same`.
The loader enters the first, the first enters the second, and the second enters the third.
With `alternate`, the second is entered from nvhe and the third from vhe.
QEMU keeps the breakpoint in the CPU, not in memory, so the copy over `_start` does not remove it.

QEMU shows each register's own value, past the redirection that HCR_EL2.E2H makes for instructions.
SCTLR_EL1 is always EL1's, and its alias SCTLR_EL12 had the same value in every run.
The debugger cannot see state that QEMU does not store:
counters, the GIC's CPU interface (the cases `cpus/*` check it) and caches.
";

/// Returns the sentence that names the QEMU version of the runs.
pub fn written_with(qemu: &str) -> String {
    let version =
        qemu.split_whitespace().skip_while(|&word| word != "version").nth(1).unwrap_or(qemu);
    let short: Vec<_> = version.split('.').take(2).collect();
    format!("Made with QEMU {}.", short.join("."))
}

/// Returns the page for these runs; `qemu` is QEMU's version line.
pub fn page(runs: &[(Cell, Vec<Row>)], qemu: &str) -> String {
    let mut page = HEAD.to_owned();
    let logs = in_order(runs.iter().map(|(cell, _)| cell.gen_log()));
    let cpus: BTreeSet<_> = runs.iter().map(|(cell, _)| cell.cpu.as_str()).collect();
    // Writing to a String cannot fail.
    let _ = writeln!(
        page,
        "\n{} CPUs: {}.",
        written_with(qemu),
        cpus.into_iter().collect::<Vec<_>>().join(", ")
    );

    let _ = writeln!(
        page,
        "\n## Registers that may differ\n\n| register | bits | reason |\n|---|---|---|"
    );
    for allowed in ALLOWED {
        let _ =
            writeln!(page, "| {} | {} | {} |", names(allowed), bits(allowed.bits), allowed.reason);
    }

    let _ = writeln!(
        page,
        "\n## Values seen\n\n\
         Cold value → values of the later generations; equal ones are shown once.\n\
         A cell has several lines if CPUs differ.\n"
    );
    let _ =
        writeln!(page, "| register | {} |\n|---|{}", logs.join(" | "), "---|".repeat(logs.len()));
    for allowed in ALLOWED {
        let seen = logs.iter().map(|gen_log| {
            let of_life = runs.iter().filter(|(cell, _)| cell.gen_log() == *gen_log);
            let rows = of_life
                .flat_map(|(_, rows)| rows)
                .filter(|row| allowed.registers.contains(&row.name.as_str()));
            cell(allowed, rows)
        });
        let _ = writeln!(page, "| {} | {} |", names(allowed), seen.collect::<Vec<_>>().join(" | "));
    }

    let rows = || runs.iter().flat_map(|(_, rows)| rows);
    let same: BTreeSet<_> = rows()
        .filter(|row| row.allowed.is_none() && !row.is_identification())
        .map(|row| row.name.as_str())
        .collect();
    let identification = rows()
        .filter(|row| row.is_identification())
        .map(|row| row.name.as_str())
        .collect::<BTreeSet<_>>()
        .len();
    let _ = writeln!(
        page,
        "\n## Registers that do not differ\n\n\
         {} registers have the same value in every generation of a run:\n",
        same.len()
    );
    let _ = writeln!(
        page,
        "{}.",
        same.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    );
    let _ = writeln!(
        page,
        "\n{identification} more identify the CPU (`ID_…`, `MVFR…`, `CTR_EL0` and others)."
    );
    page
}

/// Returns the values of one entry's rows in one column, as a cell.
fn cell<'a>(allowed: &Allowed, rows: impl Iterator<Item = &'a Row>) -> String {
    let differing = rows.filter(|row| row.differs() != 0).map(|row| {
        if allowed.seen == Seen::ByChance {
            return "differs".to_owned();
        }
        let mut values = row.values.clone();
        let cold = values.remove(0);
        values.dedup();
        let warm: Vec<_> = values.iter().map(|value| format!("{value:#x}")).collect();
        format!("{cold:#x} → {}", warm.join(" → "))
    });
    in_order(differing).join("<br>")
}

/// Removes repeated words, keeping the first.
fn in_order(words: impl Iterator<Item = String>) -> Vec<String> {
    let mut once = Vec::new();
    for word in words {
        if !once.contains(&word) {
            once.push(word);
        }
    }
    once
}

fn names(allowed: &Allowed) -> String {
    match allowed.registers {
        [one] => format!("`{one}`"),
        [first, .., last] => format!("`{first}` to `{last}`"),
        [] => String::new(),
    }
}

fn bits(bits: u64) -> String {
    if bits == u64::MAX { "all".to_owned() } else { format!("{bits:#x}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_where_every_build_has_them() {
        let row = |name: &str, values: &[u64]| {
            let allowed = ALLOWED.iter().find(|allowed| allowed.registers.contains(&name));
            Row { name: name.to_owned(), values: values.into(), allowed }
        };
        let shown = |rows: &[Row]| cell(rows[0].allowed.unwrap(), rows.iter());
        assert_eq!(shown(&[row("MAIR_EL1", &[0, 4, 4]), row("MAIR_EL1", &[0, 4, 4])]), "0x0 → 0x4");
        assert_eq!(
            shown(&[row("MAIR_EL1", &[0, 4, 5]), row("MAIR_EL1", &[0, 0, 0])]),
            "0x0 → 0x4 → 0x5"
        );
        assert_eq!(shown(&[row("VBAR_EL1", &[0, 4, 5])]), "differs");
        assert_eq!(shown(&[row("VBAR_EL1", &[0, 0, 0])]), "");
    }

    #[test]
    fn the_version_is_qemus() {
        assert_eq!(
            written_with("QEMU emulator version 7.2.22 (Debian 1:7.2)"),
            "Made with QEMU 7.2."
        );
    }
}
