//! Machines without a console: the kernel prints nothing, and the exit code shows the run's end.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use harness::{
    disk,
    fit_edit::set,
    invariants::MODES,
    kernel_build,
    request::{Disk, Request},
    tree_edit::edit_tree,
    verdict::Verdict,
};

use super::case::{Case, Trial, case};

/// Returns the cases of this suite.
pub fn cases() -> Vec<Case> {
    let ends = |machine, verdict, alter: fn(&mut Request)| {
        move |trial: &mut Trial<'_>| silent(trial, machine, verdict, alter)
    };
    let mut cases: Vec<_> = MODES
        .into_iter()
        .map(|machine| {
            // The exit code is 0; the harness misses the marker of success.
            case(format!("console/none-{machine}"), ends(machine, Verdict::Failed(0), |_| {}))
        })
        .collect();
    cases.push(case("console/of-another-kind", another_kind));
    cases.push(case(
        "console/none-refused",
        ends("nvhe", Verdict::Failed(1), |request| request.disk = Disk::None),
    ));
    cases
}

/// Drives a PL011 as an 8250, which never shows room. The run must end in time, and well.
fn another_kind(trial: &mut Trial<'_>) -> Result<()> {
    let mut request = trial.request("nvhe", &trial.cmdline())?;
    edit_tree(&mut request, |tree| {
        let uart = tree.root.child_mut("pl011@9000000").context("QEMU's tree has no UART")?;
        set(uart, "compatible", b"snps,dw-apb-uart\0".to_vec())
    })?;
    trial.ends(&request, Verdict::Failed(0)).map(drop)
}

/// Runs an Image that names no UART on a machine whose device tree names none.
fn silent(
    trial: &mut Trial<'_>,
    machine: &str,
    verdict: Verdict,
    alter: fn(&mut Request),
) -> Result<()> {
    let mut request = trial.request(machine, &trial.cmdline())?;
    let kernel = kernel_build::read(&trial.kernel().elf)?;
    request.disk = Disk::Bytes(Arc::new(disk::of(&kernel, false)));
    request.kernel = Arc::new(kernel);
    edit_tree(&mut request, |tree| {
        let uart = tree.root.child_mut("pl011@9000000").context("QEMU's tree has no UART")?;
        set(uart, "compatible", b"unknown-uart\0".to_vec())
    })?;
    alter(&mut request);
    let outcome = trial.ends(&request, verdict)?;
    ensure!(outcome.console.is_empty(), "there is no console, and it says: {}", outcome.console);
    Ok(())
}
