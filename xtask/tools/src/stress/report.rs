//! The report at the end of a campaign: a table on the screen, and the same in Markdown.

use std::fmt::Write;

use super::tally::{Failure, Tally};

/// A row of the table: the sums over the cells of one machine and restart.
#[derive(Default)]
struct Row {
    cells: usize,
    runs: u64,
    generations: u64,
    failed: u64,
}

const HEAD: [&str; 8] =
    ["machine", "restart", "cells", "runs", "generations", "median ms", "p99 ms", "failed"];

/// The rows of the table, as text.
fn rows(tally: &Tally) -> Vec<Vec<String>> {
    let mut rows = std::collections::BTreeMap::<String, Row>::new();
    for (name, logs) in &tally.cells {
        let row = rows.entry(group(name)).or_default();
        row.cells += 1;
        row.runs += logs.runs;
        row.generations += logs.generations;
        row.failed += logs.failed;
    }
    rows.into_iter()
        .map(|(group, row)| {
            let mut ages = super::histogram::Histogram::default();
            tally
                .ages
                .get(&group)
                .into_iter()
                .flat_map(|ages| ages.values())
                .for_each(|times| ages.merge(times));
            let ms = |part: f64| {
                ages.quantile(part).map_or("-".to_owned(), |ns| format!("{:.1}", ns / 1e6))
            };
            let (machine, restart) = group.split_once(' ').unwrap_or((&group, ""));
            let counts =
                [row.cells as u64, row.runs, row.generations].map(|count| count.to_string());
            [machine.to_owned(), restart.to_owned()]
                .into_iter()
                .chain(counts)
                .chain([ms(0.5), ms(0.99), row.failed.to_string()])
                .collect()
        })
        .collect()
}

/// The group that a cell's times are counted in: its machine with its mode, and its restart.
pub fn group(cell: &str) -> String {
    let parts: Vec<_> = cell.split('-').collect();
    let restart = parts.iter().rev().nth(1).copied().unwrap_or_default();
    // Every name ends in five parts, such as `-4cpu-gicv3-modern-hot-same`.
    let machine = parts[..parts.len().saturating_sub(5)].join("-");
    format!("{machine} {restart}")
}

/// The faults as rows: the machine, the kind, and how many ended in each way.
pub fn faults(tally: &Tally) -> Vec<[String; 3]> {
    let mut rows = Vec::new();
    for (machine, kinds) in &tally.faults {
        for (kind, ends) in kinds {
            let ends: Vec<_> = ends.iter().map(|(end, count)| format!("{count} {end}")).collect();
            rows.push([machine.clone(), kind.clone(), ends.join(", ")]);
        }
    }
    rows
}

/// Formats the table, the failures, and the sentence that sums them up.
pub fn screen(tally: &Tally) -> String {
    let mut text = String::new();
    let head = HEAD.map(str::to_owned).to_vec();
    table(&mut text, &head, &rows(tally), 2);
    if !tally.faults.is_empty() {
        text += "\n";
        let rows: Vec<_> = faults(tally).into_iter().map(Vec::from).collect();
        table(&mut text, &["machine", "fault", "ended"].map(str::to_owned), &rows, 3);
    }
    for (number, failure) in tally.failures.iter().enumerate() {
        // Show the first in full; of the others only cell, reason and command line.
        text += &if number == 0 {
            full(failure)
        } else {
            format!("\n{}: {}\n  {}\n", failure.cell, failure.why, failure.again)
        };
    }
    if tally.left_out() > 0 {
        let _ =
            writeln!(text, "\n{} of {} cells were not run", tally.left_out(), tally.cells.len());
    }
    let _ = writeln!(text, "\n{} ({})", tally.sentence(), tally.parts.join("; "));
    text
}

/// Formats a table with columns as wide as needed. Columns from `numbers` on hold numbers and are
/// aligned to the right.
fn table(text: &mut String, head: &[String], rows: &[Vec<String>], numbers: usize) {
    let width = |column: usize| {
        std::iter::once(head)
            .chain(rows.iter().map(Vec::as_slice))
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    for row in std::iter::once(head).chain(rows.iter().map(Vec::as_slice)) {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let width = width(column);
            if column < numbers { format!("{cell:width$}") } else { format!("{cell:>width$}") }
        });
        let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}

/// Formats a failure with all its evidence.
pub fn full(failure: &Failure) -> String {
    let mut text = format!("\n{}: {}\n", failure.cell, failure.why);
    let _ = writeln!(text, "on {}, seed {}", failure.machine, failure.seed);
    for (title, body) in [
        ("The console's last lines:", &failure.console),
        ("Where the CPUs stood:", &failure.stood),
        ("QEMU's exception log, from a repetition:", &failure.exceptions),
        ("Kept in:", &failure.folder),
        ("Run it again:", &failure.again),
    ] {
        if !body.trim().is_empty() {
            let _ = writeln!(text, "\n{title}");
            body.trim_end().lines().for_each(|line| text += &format!("  {line}\n"));
        }
    }
    text
}

/// Formats the summary of a job in continuous integration.
pub fn markdown(tally: &Tally) -> String {
    let mut text = format!("### Ouroboros {}\n\n{}\n\n", tally.what, plain(&tally.sentence()));
    let mut line = |cells: Vec<String>| {
        let _ = writeln!(
            text,
            "| {} |",
            cells.iter().map(|cell| plain(cell)).collect::<Vec<_>>().join(" | ")
        );
    };
    line(HEAD.map(str::to_owned).to_vec());
    line(vec!["---".to_owned(); HEAD.len()]);
    rows(tally).into_iter().for_each(&mut line);
    if !tally.faults.is_empty() {
        text += "\n| machine | fault | ended |\n| --- | --- | --- |\n";
        for row in faults(tally) {
            let _ = writeln!(text, "| {} |", row.map(|cell| plain(&cell)).join(" | "));
        }
    }
    for failure in &tally.failures {
        let _ = writeln!(
            text,
            "\n**{}**: {}\n\n    {}",
            failure.cell,
            plain(&failure.why),
            failure.again
        );
    }
    text
}

/// Escapes text so that Markdown shows it as it is.
fn plain(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escaped =
                matches!(c, '|' | '*' | '_' | '`' | '<' | '>' | '[' | ']' | '\\').then_some('\\');
            escaped.into_iter().chain([if c.is_control() { ' ' } else { c }])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::tally::tests::{failure, tally},
        *,
    };

    #[test]
    fn the_screen_shows_what_ran_and_what_failed() {
        let words = screen(&tally("seed 0x1", 2, None));
        assert!(
            words.contains("el1") && words.contains("passed: 6 generations in 2 runs"),
            "{words}"
        );
        let words = screen(&tally("seed 0x1", 2, Some(failure())));
        assert!(
            words.contains("FAILED: 1 run") && words.contains("cargo xtask stress --seed '0x1'"),
            "{words}"
        );
        assert!(words.contains("[2] Generation 2"), "{words}");
    }

    #[test]
    fn a_group_is_machine_and_restart() {
        assert_eq!(group("vhe-alternate-4cpu-gicv3-modern-cold-random"), "vhe-alternate cold");
        assert_eq!(group("el1-1cpu-gicv2-legacy-hot-same"), "el1 hot");
    }

    #[test]
    fn markdown_is_not_broken_by_what_a_console_says() {
        let words = markdown(&tally("seed 0x1", 2, Some(failure())));
        assert!(words.contains("a \\<b\\> & \"c\" \\]\\]\\> d"), "{words}");
        let columns: std::collections::BTreeSet<_> = words
            .lines()
            .filter(|line| line.starts_with('|'))
            .map(|line| line.matches(" |").count())
            .collect();
        assert_eq!(columns.len(), 1, "{words}");
    }
}
