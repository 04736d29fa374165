//! docs/entry-state.md: the list with its reasons, and what was seen of it in the runs of every cell.
//!
//! *When:* after every cell was run. A value stands on the page where each build shows the same one; addresses and times are "differs".

use std::{collections::BTreeSet, fmt::Write};

use super::{
    Cell, Row,
    allowed::{ALLOWED, Allowed, Seen},
};

/// Where it lies.
pub const PAGE: &str = "docs/entry-state.md";

const HEAD: &str = "\
# What the first instruction finds

Every EL1 and EL2 system register, the general registers and PSTATE, as a debugger finds them at `_start`: after a cold boot by QEMU's loader, and after a
self-kexec, hot and cold, in each mode. What differs is on this list, with the reason why the boot protocol allows it; whatever else differs fails the cases
`entry/*`, as does an entry of the list, or a bit, that differs nowhere. This page is written by `cargo xtask test entry/ --bless`, from runs; `cargo xtask test entry/` makes them again and
fails where they tell something else. `cargo xtask diff-entry` shows the registers side by side.

Each run is of three generations with `base=same`: the first is entered cold, the second by a generation that was, the third by one that was entered warm; with `alternate` the second comes out of nvhe and
the third out of vhe. The guest is stopped by a breakpoint that QEMU keeps in the CPU, not in memory, so it holds though the copy overwrites what is there.

QEMU gives each register its own value, whatever HCR_EL2.E2H makes an instruction reach by that name: SCTLR_EL1 is EL1's also where E2H is set, and its other name, SCTLR_EL12, was the same in every
run. No debugger sees here what QEMU has no stored value of: counters, the GIC's CPU interface (the cases `cpus/*` hold that) and caches.
";

/// The word that says which QEMU the runs were made with.
pub fn written_with(qemu: &str) -> String {
    let version =
        qemu.split_whitespace().skip_while(|&word| word != "version").nth(1).unwrap_or(qemu);
    let short: Vec<_> = version.split('.').take(2).collect();
    format!("Made with QEMU {}.", short.join("."))
}

/// The page of these runs; `qemu` is what QEMU says of its version.
pub fn page(runs: &[(Cell, Vec<Row>)], qemu: &str) -> String {
    let mut page = HEAD.to_owned();
    let lives = in_order(runs.iter().map(|(cell, _)| cell.life()));
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
        "\n## What may differ, and why\n\n| register | bits | reason |\n|---|---|---|"
    );
    for allowed in ALLOWED {
        let _ =
            writeln!(page, "| {} | {} | {} |", names(allowed), bits(allowed.bits), allowed.reason);
    }

    let _ = writeln!(
        page,
        "\n## What was seen\n\nCold → the generations after, once where they are alike; more than one row of values where CPUs differ.\n"
    );
    let _ =
        writeln!(page, "| register | {} |\n|---|{}", lives.join(" | "), "---|".repeat(lives.len()));
    for allowed in ALLOWED {
        let seen = lives.iter().map(|life| {
            let of_life = runs.iter().filter(|(cell, _)| cell.life() == *life);
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
        "\n## What is the same\n\nIn every generation of a run, {} registers:\n",
        same.len()
    );
    let _ = writeln!(
        page,
        "{}.",
        same.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    );
    let _ = writeln!(
        page,
        "\nAnd {identification} that say what the CPU is (`ID_…`, `MVFR…`, `CTR_EL0` and others)."
    );
    page
}

/// What the rows of one entry, in one life, were seen to be.
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

/// Each once, where it comes first.
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
