//! The bench `generations`: instructions of one restart, by phase, and their drift over many.
//!
//! Each machine gets one long hot run and one short cold run. The table counts generations from
//! [`STEADY`] on, because the first two differ:
//!
//! - Generation 0 has the loader's device tree, padded to 1 MiB, and shrinks it once.
//! - Generation 1 is the first whose heap does not hold that padded tree.

use std::time::Duration;

use anyhow::{Context, Result};

use super::{
    Measured, Setting,
    span::{Span, phase, spans},
    statistics::spread,
    table::{Cell, Table},
};
use harness::{cmdline::Restart, transcript::GenerationLog};

/// The first generation whose successors all cost the same.
const STEADY: u32 = 2;

/// The limit for a generation's instructions, hashing excluded.
const LIMIT: u64 = 2_000_000;

/// The limit for instructions that hash one byte in software.
pub const LIMIT_PER_BYTE: u64 = 33;

/// The largest allowed change from generation 2 to the last one, as a fraction of generation 2.
const DRIFT: f64 = 0.01;

/// Number of generations of a cold run: a few are enough, since the table shows them without a
/// limit.
const COLD_GENERATIONS: u32 = 12;

/// Returns three empty tables: instructions, phases, drift.
pub fn tables() -> Vec<Table> {
    vec![
        Table::new(
            "Instructions of a generation, from first instruction to first instruction, \
             without waiting for the disk",
            &[
                "machine",
                "restart",
                "measured",
                "median",
                "least",
                "greatest",
                "generation 0",
                "bytes hashed",
                "limit",
                "verdict",
                "beside hashing",
                "waiting (median)",
            ],
        ),
        Table::new(
            "Instructions of each phase of a generation (median)",
            &["machine", "restart", "phase", "instructions"],
        ),
        Table::new(
            "Drift: generation 2 and the last one (bytes, and instructions without waiting)",
            &[
                "machine",
                "generations",
                "free in 2",
                "free in last",
                "tree in 2",
                "tree in last",
                "instructions in 2",
                "in last",
                "change, %",
                "verdict",
            ],
        ),
    ]
}

/// Fills the tables for `machine`.
pub fn measure(setting: &Setting, machine: &str, tables: &mut [Table]) -> Result<()> {
    let many = if setting.quick { 50 } else { 1000 };
    for (restart, generations) in [(Restart::Hot, many), (Restart::Cold, COLD_GENERATIONS)] {
        let timeout = Duration::from_secs(60 + 2 * u64::from(generations));
        let disk = setting.plain_disk();
        let logs = setting
            .counted(machine, Measured { generations, restart, memory: None, disk, timeout })?;
        let spans: Vec<Span> = spans(&logs).collect::<Result<_>>()?;
        let steady: Vec<Span> =
            spans.iter().copied().filter(|span| span.number >= STEADY).collect();
        tables[0].row(instructions(machine, restart, &spans, &steady)?);
        phases(&logs, &steady, |phase, count| {
            tables[1].row([
                machine.into(),
                restart.to_string().as_str().into(),
                phase.into(),
                Cell::rounded(count),
            ]);
        })?;
        if restart == Restart::Hot {
            tables[2].row(drift(machine, &logs, &steady)?);
        }
    }
    Ok(())
}

fn instructions(
    machine: &str,
    restart: Restart,
    all: &[Span],
    steady: &[Span],
) -> Result<[Cell; 12]> {
    let busy = spread(steady.iter().map(Span::busy)).context("no generation from the second on")?;
    let waited =
        spread(steady.iter().map(|span| span.waited as f64)).map_or(0.0, |waited| waited.median);
    let first = all.first().map_or(0.0, Span::busy);
    let hashed = steady[0].hashed;
    let hashing = LIMIT_PER_BYTE * hashed;
    let [limit, verdict] =
        Cell::limit(busy.median, (restart == Restart::Hot).then_some(LIMIT + hashing));
    Ok([
        machine.into(),
        restart.to_string().as_str().into(),
        busy.count.into(),
        Cell::rounded(busy.median),
        Cell::rounded(busy.least),
        Cell::rounded(busy.greatest),
        Cell::rounded(first),
        hashed.into(),
        limit,
        verdict,
        Cell::rounded(busy.median - hashing as f64),
        Cell::rounded(waited),
    ])
}

/// Calls `row` with each phase and its median, in console order: first from "Bye!" to
/// `kernel_main`, then the rest.
fn phases(logs: &[GenerationLog], steady: &[Span], mut row: impl FnMut(&str, f64)) -> Result<()> {
    // A span runs from one generation's entry to the next one's. The console of the next generation
    // reports the phases of the exit path, and those of its own entry path. From the second steady
    // generation on they are all the same.
    let of = |number: u32| logs.iter().find(|gen_log| gen_log.number == number);
    let last = steady.iter().filter_map(|span| of(span.number + 1)).collect::<Vec<_>>();
    let names = &last.first().context("no generation from the second on")?.trace;
    let mut sum = 0.0;
    // The first entry is the start of the measured time, not a phase.
    for (name, _) in names.iter().skip(1) {
        let values: Vec<f64> = last
            .iter()
            .map(|gen_log| phase(gen_log, name).map(|ns| ns as f64))
            .collect::<Result<_>>()?;
        let median = spread(values).map_or(0.0, |of| of.median);
        sum += median;
        row(name, median);
    }
    let busy = spread(steady.iter().map(Span::busy)).map_or(0.0, |of| of.median);
    row("from main to Bye!, hashing included", busy - sum);
    Ok(())
}

fn drift(machine: &str, logs: &[GenerationLog], steady: &[Span]) -> Result<[Cell; 10]> {
    let second = logs.iter().find(|gen_log| gen_log.number == STEADY).context("no generation 2")?;
    let last = logs.last().context("no generation")?;
    let (free, tree) = ((second.free, last.free), (second.tree, last.tree));
    let (Some(from), Some(to)) = (steady.first().map(Span::busy), steady.last().map(Span::busy))
    else {
        anyhow::bail!("too few generations");
    };
    let change = to / from - 1.0;
    Ok([
        machine.into(),
        logs.len().into(),
        free.0.into(),
        free.1.into(),
        tree.0.into(),
        tree.1.into(),
        Cell::rounded(from),
        Cell::rounded(to),
        Cell::Real(change * 100.0, 3),
        Cell::Kept(free.0 == free.1 && tree.0 == tree.1 && change.abs() <= DRIFT),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gen_log(number: u32, entered: u64, free: u64) -> GenerationLog {
        GenerationLog {
            number,
            entered,
            trace: vec![("Bye!".into(), 0), ("copied".into(), 10), ("main".into(), 5)],
            free,
            tree: 7846,
            hashed: Some(1000),
            waited: Some(500),
            ..GenerationLog::default()
        }
    }

    fn all(logs: &[GenerationLog]) -> Vec<Span> {
        spans(logs).map(Result::unwrap).collect()
    }

    fn steady(logs: &[GenerationLog]) -> Vec<Span> {
        all(logs).into_iter().filter(|span| span.number >= STEADY).collect()
    }

    #[test]
    fn the_limit_grows_with_what_is_hashed_and_waiting_does_not_count() {
        let logs: Vec<_> = (0..5).map(|n| gen_log(n, u64::from(n) * 2_033_500, 1)).collect();
        let row = instructions("m", Restart::Hot, &all(&logs), &steady(&logs)).unwrap();
        assert_eq!(row[2..4], [Cell::Count(2), Cell::Count(2_033_000)]);
        assert_eq!(
            row[8..],
            [Cell::Count(2_033_000), Cell::Kept(true), Cell::Count(2_000_000), Cell::Count(500)]
        );
    }

    #[test]
    fn a_page_lost_or_an_instruction_in_a_hundred_is_drift() {
        let verdict = |step: [u64; 5], free: [u64; 5]| {
            let mut entered = 0;
            let logs: Vec<_> = (0..5)
                .map(|n| {
                    entered += step[n];
                    gen_log(n as u32, entered, free[n])
                })
                .collect();
            drift("m", &logs, &steady(&logs)).unwrap()[9].clone()
        };
        // Each step is the length of the span that it ends; the spans of generations 2 and 3 are
        // the last two.
        let even = [0, 90_500, 80_500, 100_500, 100_500];
        assert_eq!(verdict(even, [7, 8, 9, 9, 9]), Cell::Kept(true));
        assert_eq!(verdict(even, [9, 9, 9, 9, 8]), Cell::Kept(false));
        assert_eq!(verdict([0, 90_500, 80_500, 100_500, 101_600], [9; 5]), Cell::Kept(false));
        assert_eq!(verdict([0, 90_500, 80_500, 101_600, 100_500], [9; 5]), Cell::Kept(false));
    }

    #[test]
    fn the_phases_and_the_rest_make_the_whole() {
        let logs: Vec<_> = (0..5).map(|n| gen_log(n, u64::from(n) * 1500, 1)).collect();
        let mut rows = Vec::new();
        phases(&logs, &steady(&logs), |name, count| rows.push((name.to_owned(), count))).unwrap();
        assert_eq!(rows[0], ("copied".to_owned(), 10.0));
        assert_eq!(rows.iter().map(|row| row.1).sum::<f64>(), 1000.0);
        assert_eq!(rows.len(), 3);
    }
}
