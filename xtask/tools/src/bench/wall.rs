//! The bench `wall`: wall time of a generation, beside QEMU's own reset in the same run.
//!
//! Each machine gets one run without `-icount`. Every [`BETWEEN_RESETS`] generations, QMP resets
//! the machine in the middle of its work, and it starts again with generation 0. Both are thus
//! measured on the same host in the same minutes. The guest's counter times a generation, from
//! first instruction to first instruction. The host's clock times a reset, from the command to the
//! first line on the console.

use std::time::Duration;

use anyhow::{Context, Result};
use boot::marker;
use serde_json::json;

use super::{
    Setting,
    span::spans,
    statistics::spread,
    table::{Cell, Table},
};
use harness::{cmdline::Restart, guest::Guest, request::Disk, transcript::logs};

/// The aim for a generation in milliseconds, by number of CPUs. The host decides, so it is no
/// limit.
const AIMS_MS: [(u32, u64); 2] = [(1, 20), (4, 40)];

/// More generations than any of these runs reaches.
const WITHOUT_END: u32 = 1_000_000;

/// Generations between two resets.
const BETWEEN_RESETS: u32 = 25;

/// The first generation that is measured; earlier ones cost more.
const STEADY: u32 = 2;

/// The longest that a generation or a reset may take; after that the run fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// Returns the one empty table.
pub fn tables() -> Vec<Table> {
    let columns = &[
        "machine",
        "CPUs",
        "generations",
        "median",
        "10 % below",
        "10 % above",
        "aim",
        "verdict",
        "resets",
        "reset median",
        "10 % below ",
        "10 % above ",
    ];
    vec![Table::new(
        "Wall time, ms: a hot generation, and QEMU's own reset to the first line",
        columns,
    )]
}

/// Fills the table for `machine`.
pub fn measure(setting: &Setting, machine: &str, tables: &mut [Table]) -> Result<()> {
    let resets = if setting.quick { 4 } else { 20 };
    for (cpus, aim) in AIMS_MS {
        eprintln!(
            "{machine}, {cpus} CPUs: {resets} resets, each after {BETWEEN_RESETS} generations"
        );
        let (console, resets) = session(setting, machine, cpus, resets)?;
        row(machine, cpus, aim, &console, &resets, &mut tables[0])?;
    }
    Ok(())
}

/// Removes the last generation before each reset from the console: the reset cut it short in the
/// middle of a line.
fn uncut(console: &str) -> String {
    let (mut whole, mut last, mut number) = (String::new(), String::new(), None);
    let first = format!("[0] {}0", marker::GENERATION);
    for line in
        console.replace(&first, &format!("\n{first}")).lines().filter(|line| !line.is_empty())
    {
        let prefix = line.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let speaker = prefix.and_then(|(number, _)| number.parse::<u32>().ok()).or(number);
        if speaker != number {
            if speaker > number {
                whole.push_str(&last);
            }
            last.clear();
            number = speaker;
        }
        last.push_str(line);
        last.push('\n');
    }
    whole
}

fn row(
    machine: &str,
    cpus: u32,
    aim: u64,
    console: &str,
    resets: &[Duration],
    table: &mut Table,
) -> Result<()> {
    let logs = logs(&uncut(console))?;
    let steady = spans(&logs).flatten().filter(|span| span.number >= STEADY);
    let generation = spread(steady.map(|span| span.whole as f64 / 1e6)).context("no generation")?;
    let reset = spread(resets.iter().map(|reset| reset.as_secs_f64() * 1e3)).context("no reset")?;
    let [aim, verdict] = Cell::limit(generation.median, Some(aim));
    let ms = |value| Cell::Real(value, 2);
    table.row([
        machine.into(),
        u64::from(cpus).into(),
        generation.count.into(),
        ms(generation.median),
        ms(generation.low),
        ms(generation.high),
        aim,
        verdict,
        reset.count.into(),
        ms(reset.median),
        ms(reset.low),
        ms(reset.high),
    ]);
    Ok(())
}

/// Runs on `cpus` CPUs with `resets` resets; returns the console and how long each reset took.
fn session(
    setting: &Setting,
    machine: &str,
    cpus: u32,
    resets: usize,
) -> Result<(String, Vec<Duration>)> {
    let mut request = setting.request(machine, WITHOUT_END, Restart::Hot)?;
    // QEMU takes the last `-action`: the common flags make a reset end the run.
    request.args = ["-action", "reboot=reset", "-smp", &cpus.to_string()].map(str::to_owned).into();
    (request.name, request.disk) =
        (format!("{machine}-wall"), Disk::Bytes(setting.plain_disk().into()));
    let guest = Guest::start(&request, &[])?;
    line(&guest, 0, FIRST)?;
    let mut monitor = guest.monitor(PATIENCE)?;
    let mut took = Vec::new();
    for _ in 0..resets {
        line(&guest, BETWEEN_RESETS, ALL_UP)?;
        let asked = guest.elapsed();
        monitor.execute("system_reset", &json!({}))?;
        took.push(line(&guest, 0, FIRST)?.saturating_sub(asked));
    }
    line(&guest, BETWEEN_RESETS, FIRST)?;
    Ok((guest.end()?, took))
}

/// The start of a generation's first line.
const FIRST: &str = marker::GENERATION;

/// The start of the line that reports that all CPUs are up.
///
/// A reset before that line may come while QEMU has a CPU_ON pending. QEMU carries it out after the
/// reset, and that CPU then runs from the old entry address.
const ALL_UP: &str = "CPUs: ";

/// Waits for the line of generation `number` that begins with `start`; returns when it came.
fn line(guest: &Guest, number: u32, start: &str) -> Result<Duration> {
    guest
        .heard(PATIENCE, |text| is_line(text, number, start))
        .with_context(|| format!("generation {number} does not come up"))
}

/// Finds a line even if it directly follows one that a reset cut short.
fn is_line(text: &str, number: u32, start: &str) -> bool {
    text.contains(&format!("[{number}] {start}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_line_is_found_behind_one_that_was_cut_short() {
        for (text, is_first) in [
            ("[24] Generation 24 of 30", false),
            ("[25] Generation 25 of 30", false),
            ("[25] loaded[0] Generation 0 of 30", true),
            ("[0] Generation 0 of 30", true),
        ] {
            assert_eq!(is_line(text, 0, FIRST), is_first, "{text}");
        }
    }

    #[test]
    fn what_a_reset_cut_short_is_left_out() {
        let console =
            "QEMU\n[0] a\n[1] b\nc\n[2] d[0] Generation 0 of 9\n[0] f\n[1] g\n[2] h\n[3] cut";
        assert_eq!(
            uncut(console),
            "QEMU\n[0] a\n[1] b\nc\n[0] Generation 0 of 9\n[0] f\n[1] g\n[2] h\n"
        );
    }
}
