//! Faults of CPUs while a kexec is under way, between load and jump.
//!
//! One CPU hangs when it must leave its work, or the CPU that kexecs gets interrupts of no device
//! of ours.

use anyhow::{Result, bail, ensure};

use harness::{debugger::LOADED, patch::HANG, transcript};

use super::{Cases, End, Run, Way, bits};

/// Makes the first secondary that leaves its work hang with its interrupts masked. The kexec must
/// be refused, and the refusal must name the CPU.
pub fn stuck(run: &Run<'_>) -> Result<Cases> {
    const NAME: &str = "stuck CPU";
    /// A place that no CPU executes any more: the first line of Rust.
    const NOWHERE: &str = "kernel_main";
    let kernel = &run.setting.kernel;
    let (leave, nowhere) =
        (LOADED + kernel.symbol("kernel::cpus::work::leave")?, LOADED + kernel.symbol(NOWHERE)?);
    bits::injected(
        run,
        run.request()?,
        |mut gdb| {
            gdb.run_to(leave)?;
            gdb.write(nowhere, &HANG.to_le_bytes())?;
            let mut registers = gdb.general()?;
            registers[32] = nowhere;
            gdb.set_general(&registers)?;
            gdb.detach()
        },
        |way| match way {
            Way::Refused(refused) => {
                let named = |words: &String| words.contains(" does not stop: it would run on ");
                ensure!(refused.first().is_some_and(named), "it was refused with {refused:?}");
                Ok(vec![(NAME, End::Refused)])
            }
            way => bail!("the kexec should have been refused, but the run is {way}"),
        },
    )
}

/// Sends the CPU that kexecs interrupts without end while devices and CPUs are stopped. The next
/// generation must find none of them.
pub fn storm(run: &Run<'_>) -> Result<Cases> {
    const NAME: &str = "interrupt storm";
    /// The number of interrupts that are pending at once, before any tick.
    const FEWEST: u64 = 32;
    let request = run.request()?;
    let mut taken = Vec::new();
    let mut cases = run.judged(&request, |way| match way {
        Way::Gone(refused) if refused.iter().all(Vec::is_empty) => Ok(vec![(NAME, End::Gone)]),
        way => bail!("the kexec should have succeeded, but the run is {way}"),
    })?;
    for gen_log in transcript::logs(&cases.outcome.console).unwrap_or_default() {
        taken.extend(gen_log.bye.map(|_| gen_log.strays));
    }
    if cases.wrong.is_none() && taken.iter().any(|&strays| strays < FEWEST) {
        cases.wrong =
            Some(format!("storms of {taken:?} interrupts, but each should have at least {FEWEST}"));
    }
    Ok(cases)
}
