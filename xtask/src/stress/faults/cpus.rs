//! CPUs that do not do as they should while a restart is under way.
//!
//! *When:* between load and jump: one hangs as it is told to leave, or the one that goes is given interrupts that are nobody's.

use anyhow::{Result, bail, ensure};

use crate::{debugger::LOADED, test::patch::HANG, transcript};

use super::{Cases, End, Run, Way, bits};

/// The first of the others to leave its work hangs instead, its interrupts masked: the restart is refused, and names it.
pub fn stuck(run: &Run<'_>) -> Result<Cases> {
    const NAME: &str = "stuck CPU";
    /// Where nobody comes any more: the first line of Rust.
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
            way => bail!("the restart should have been refused, and the run is {way}"),
        },
    )
}

/// While devices and CPUs are stopped, interrupts come without end to the CPU that goes; the next generation finds none of them.
pub fn storm(run: &Run<'_>) -> Result<Cases> {
    const NAME: &str = "interrupt storm";
    /// What comes at once, before any tick.
    const FEWEST: u64 = 32;
    let request = run.request()?;
    let mut taken = Vec::new();
    let mut cases = run.judged(&request, |way| match way {
        Way::Gone(refused) if refused.iter().all(Vec::is_empty) => Ok(vec![(NAME, End::Gone)]),
        way => bail!("it should have gone, and the run is {way}"),
    })?;
    for life in transcript::lives(&cases.outcome.console).unwrap_or_default() {
        taken.extend(life.bye.map(|_| life.strays));
    }
    if cases.wrong.is_none() && taken.iter().any(|&strays| strays < FEWEST) {
        cases.wrong = Some(format!(
            "storms of {taken:?} interrupts, and each should have had {FEWEST} at the least"
        ));
    }
    Ok(cases)
}
