//! Refusal tests: each breaks one rule, and the kernel must name it and continue.
//!
//! - Each case runs three generations on machine nvhe.
//! - The refusal must name the rule and the value that broke it.
//! - If the disk has a good second configuration, every generation refuses the first one, frees its
//!   memory and restarts with the second. The second restart proves that the kernel still worked.
//! - Otherwise the run must end as failed.

pub mod disks;
mod images;
pub mod late;
mod payloads;
mod places;

use std::sync::Arc;

use anyhow::{Result, ensure};
use boot::marker;

use harness::{
    cmdline::{Base, Cmdline},
    disk,
    invariants::{Modes, check},
    kernel_build::Built,
    request::{Disk, Request},
    transcript::{self, GenerationLog},
    verdict::Verdict,
};

use super::case::{Case, Trial, case};

/// A broken rule, and the expected refusal.
#[derive(Clone, Copy)]
struct Refusal {
    name: &'static str,
    /// The `base=` parameter of the generations.
    base: Base,
    /// Makes the disk.
    disk: fn(&Built) -> Result<Vec<u8>>,
    /// Makes other changes to the run.
    alter: fn(&mut Request) -> Result<()>,
    /// Parts of the expected refusal: the rule, and the value that broke it.
    says: &'static [&'static str],
    /// The disk has a second configuration, which is good.
    goes_on: bool,
}

/// Defaults, which break no rule.
const PLAIN: Refusal = Refusal {
    name: "",
    base: Base::Same,
    disk: |kernel| Ok(disk::of(kernel, false)),
    alter: |_| Ok(()),
    says: &[],
    goes_on: true,
};

/// Returns the cases of this suite.
pub fn cases() -> Vec<Case> {
    let tables = [disks::REFUSALS, images::REFUSALS, places::REFUSALS];
    let table = tables.into_iter().flatten();
    let mut cases: Vec<_> = table
        .map(|refusal| case(format!("refused/{}", refusal.name), |trial| refusal.pass(trial)))
        .collect();
    cases.extend(disks::cases());
    cases.extend(images::cases());
    cases.extend(places::cases());
    cases.extend(payloads::cases());
    cases.extend(late::cases());
    cases
}

impl Refusal {
    fn pass(&self, trial: &mut Trial<'_>) -> Result<()> {
        let mut cmdline = Cmdline { base: self.base, ..trial.cmdline() };
        if self.goes_on {
            cmdline.append.push("on-refusal=continue".to_owned());
        }
        let mut request = trial.request("nvhe", &cmdline)?;
        request.disk = Disk::Bytes(Arc::new((self.disk)(trial.kernel())?));
        (self.alter)(&mut request)?;
        if self.goes_on {
            let logs = trial.logs(&request)?;
            check(&logs, &cmdline, Modes::All("nvhe"))?;
            let [restarted @ .., _] = logs.as_slice() else { anyhow::bail!("no generation") };
            restarted.iter().try_for_each(|gen_log| alive(gen_log, self.says))
        } else {
            failed(trial, &request, self.says)
        }
    }
}

/// Checks that the generation refused once, with the text `says`, and continued.
pub(super) fn alive(gen_log: &GenerationLog, says: &[&str]) -> Result<()> {
    let number = gen_log.number;
    let [refused] = gen_log.refused.as_slice() else {
        anyhow::bail!(
            "generation {number} refused {} times, not once: {:?}",
            gen_log.refused.len(),
            gen_log.refused
        )
    };
    for words in says {
        ensure!(
            refused.contains(words),
            "generation {number}'s refusal does not say \"{words}\": {refused}"
        );
    }
    let continues = format!("generation {number} continues, all its memory given back");
    ensure!(gen_log.says(&continues), "generation {number} does not print that it continues");
    Ok(())
}

/// Runs a request that must end as failed, with the failure marker, after the first generation's
/// refusal.
pub(super) fn failed(trial: &mut Trial<'_>, request: &Request, says: &[&str]) -> Result<()> {
    let outcome = trial.ends(request, Verdict::Failed(1))?;
    let logs = transcript::logs(&outcome.console)?;
    let [gen_log] = logs.as_slice() else {
        anyhow::bail!("{} generations, and should be one", logs.len())
    };
    alive(gen_log, says)?;
    ensure!(gen_log.bye.is_none(), "the kernel printed Bye!");
    ensure!(
        gen_log.lines.last().is_some_and(|line| line == marker::FAILURE),
        "the console does not end with the failure marker"
    );
    Ok(())
}
