//! The bench `relocation`: instructions per relocated MiB, as slopes over payload sizes.
//!
//! Each payload size gets one run of two generations, so one restart, with the same kernel beside
//! the payload. A slope needs no model of what a restart costs without a payload. Its r² shows
//! whether the cost is linear at all.

use std::time::Duration;

use anyhow::{Context, Result};

use super::{
    Measured, Setting,
    generations::LIMIT_PER_BYTE,
    span::{phase, spans},
    statistics::line,
    table::{Cell, Table},
};
use harness::{cmdline::Restart, disk, transcript::GenerationLog};
use protocol::fit::writer::{self as fit, Kind, Payload};

const MIB: u64 = 1 << 20;

/// Payload sizes in MiB, the ones for `--quick` first.
const SIZES: [usize; 6] = [0, 8, 16, 32, 64, 128];

/// The number of sizes that `--quick` measures.
const QUICK: usize = 3;

/// RAM for the payload at its destination, its staging frames, and the kernel.
const MEMORY: &str = "1G";

/// The payload's load address: 256 MiB into the RAM of `virt`, above the loader's device tree and
/// below the control pages.
const LOAD: u64 = 0x5000_0000;

/// The measures: name, the phases that add up to it, and its limit per MiB for a hot restart.
const MEASURES: [(&str, &[&str], u64); 2] = [
    ("copy and maintenance", &["copied", "maintained"], 140_000),
    ("checksum afterwards", &["verified"], 250_000),
];

/// Returns the one empty table.
pub fn tables() -> Vec<Table> {
    let columns =
        &["machine", "restart", "what", "payloads up to, MiB", "per MiB", "r²", "limit", "verdict"];
    vec![Table::new("Instructions per MiB of payload: least squares over payload sizes", columns)]
}

/// Fills the table for `machine`.
pub fn measure(setting: &Setting, machine: &str, tables: &mut [Table]) -> Result<()> {
    let sizes = if setting.quick { &SIZES[..QUICK] } else { &SIZES };
    for restart in [Restart::Hot, Restart::Cold] {
        let mut logs = Vec::new();
        for &size in sizes {
            // Hashing alone takes 35 million instructions per MiB.
            let timeout = Duration::from_secs(60 + 10 * size as u64);
            let disk = with_payload(setting, size);
            let measured =
                Measured { generations: 2, restart, memory: Some(MEMORY), disk, timeout };
            logs.push((size as f64, setting.counted(machine, measured)?));
        }
        let mut row = |what: &str, points: &[(f64, f64)], limit: u64| {
            let line = line(points).context("a slope needs two sizes")?;
            let [limit, verdict] =
                Cell::limit(line.slope, (restart == Restart::Hot).then_some(limit));
            let largest = points.iter().map(|point| point.0).fold(0.0, f64::max);
            let (restart, slope) = (restart.to_string(), Cell::rounded(line.slope));
            let measured = [Cell::rounded(largest), slope, Cell::Real(line.r2, 6)];
            tables[0].row(
                [machine.into(), restart.as_str().into(), what.into()]
                    .into_iter()
                    .chain(measured)
                    .chain([limit, verdict]),
            );
            Ok::<_, anyhow::Error>(())
        };
        for (what, names, limit) in MEASURES {
            let points = (logs.iter())
                .map(|(size, logs)| Ok((*size, phases(logs, names)?)))
                .collect::<Result<Vec<_>>>()?;
            row(what, &points, limit)?;
        }
        // The whole generation, with hashing; its limit is the per-byte limit of a generation.
        let whole = |logs: &[GenerationLog]| -> Result<f64> {
            Ok(spans(logs).next().context("no restart")??.busy())
        };
        let points = logs
            .iter()
            .map(|(size, logs)| Ok((*size, whole(logs)?)))
            .collect::<Result<Vec<_>>>()?;
        row("whole generation, with hashing", &points, LIMIT_PER_BYTE * MIB)?;
    }
    Ok(())
}

/// Returns a disk with the kernel and a payload of `mib` MiB.
fn with_payload(setting: &Setting, mib: usize) -> Vec<u8> {
    let mut payloads = vec![disk::own(&setting.kernel, None)];
    if mib > 0 {
        // The instruction count does not depend on the bytes. Every page differs, so a page copied
        // to the wrong place would fail its checksum.
        let data =
            (0..mib * MIB as usize / 8).flat_map(|word| (word as u64).to_le_bytes()).collect();
        let description = format!("{mib} MiB to relocate");
        let kind = Kind::Loadable { load: LOAD };
        payloads.push(Payload { description, kind, ..disk::payload("payload", data, None) });
    }
    fit::write(&payloads)
}

/// Returns the total time of the phases `names` on the way to generation 1.
fn phases(logs: &[GenerationLog], names: &[&str]) -> Result<f64> {
    let restarted = logs.iter().find(|gen_log| gen_log.number == 1).context("no restart")?;
    names.iter().map(|name| phase(restarted, name).map(|ns| ns as f64)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measure_is_the_sum_of_its_phases() {
        let phases_told =
            [("copied", 100), ("maintained", 23)].map(|(name, ns)| (name.to_owned(), ns)).into();
        let logs = [
            GenerationLog::default(),
            GenerationLog { number: 1, trace: phases_told, ..GenerationLog::default() },
        ];
        assert_eq!(phases(&logs, &["copied", "maintained"]).unwrap(), 123.0);
        assert!(phases(&logs, &["verified"]).is_err());
        assert!(phases(&logs[..1], &["copied"]).is_err());
    }

    #[test]
    fn the_phases_are_the_way_outs_own() {
        for name in MEASURES.iter().flat_map(|(_, names, _)| *names) {
            assert!(boot::breadcrumb::NAMES.contains(name), "{name}");
        }
    }
}
