//! Refusals: each rule broken once, told in a sentence that names it and the value, and survived.
//!
//! *When:* on machine nvhe, three generations. Where the disk has a second configuration that is good, every generation refuses the first,
//! gives its memory back and restarts with the second: that it was alive is then beyond doubt. Elsewhere the run ends as failed.

pub mod disks;
mod images;
pub mod late;
mod payloads;
mod places;

use std::sync::Arc;

use anyhow::{Result, ensure};
use boot::marker;

use crate::{
    disk,
    kernel_build::Built,
    orders::{Base, Orders},
    proof::{Modes, check},
    request::{Disk, Request},
    transcript::{self, Life},
    verdict::Verdict,
};

use super::case::{Case, Trial, case};

/// A rule that is broken, and how that is told.
#[derive(Clone, Copy)]
struct Refusal {
    name: &'static str,
    /// What the generations are ordered.
    base: Base,
    /// What they find.
    disk: fn(&Built) -> Result<Vec<u8>>,
    /// Other changes of the run.
    alter: fn(&mut Request) -> Result<()>,
    /// What the sentence names: the rule, and the value that broke it.
    says: &'static [&'static str],
    /// The disk has a second configuration, which is good.
    goes_on: bool,
}

/// Nothing is broken yet.
const PLAIN: Refusal = Refusal {
    name: "",
    base: Base::Same,
    disk: |kernel| Ok(disk::of(kernel, false)),
    alter: |_| Ok(()),
    says: &[],
    goes_on: true,
};

/// All of them.
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
        let mut orders = Orders { base: self.base, ..trial.orders() };
        if self.goes_on {
            orders.append.push("on-refusal=continue".to_owned());
        }
        let mut request = trial.request("nvhe", &orders)?;
        request.disk = Disk::Bytes(Arc::new((self.disk)(trial.kernel())?));
        (self.alter)(&mut request)?;
        if self.goes_on {
            let lives = trial.lives(&request)?;
            check(&lives, &orders, Modes::All("nvhe"))?;
            let [restarted @ .., _] = lives.as_slice() else { anyhow::bail!("no generation") };
            restarted.iter().try_for_each(|life| alive(life, self.says))
        } else {
            failed(trial, &request, self.says)
        }
    }
}

/// The generation refused once, with those words, and lived on.
fn alive(life: &Life, says: &[&str]) -> Result<()> {
    let number = life.number;
    let [refused] = life.refused.as_slice() else {
        anyhow::bail!(
            "generation {number} refused {} times, not once: {:?}",
            life.refused.len(),
            life.refused
        )
    };
    for words in says {
        ensure!(
            refused.contains(words),
            "generation {number}'s refusal does not say \"{words}\": {refused}"
        );
    }
    let lives_on = format!("generation {number} lives on, all its memory given back");
    ensure!(life.says(&lives_on), "generation {number} does not say that it lives on");
    Ok(())
}

/// The run ends as failed, in order, after the first generation's refusal.
fn failed(trial: &mut Trial<'_>, request: &Request, says: &[&str]) -> Result<()> {
    let outcome = trial.ends(request, Verdict::Failed(1))?;
    let lives = transcript::lives(&outcome.console)?;
    let [life] = lives.as_slice() else {
        anyhow::bail!("{} generations, and one was to be", lives.len())
    };
    alive(life, says)?;
    ensure!(life.bye.is_none(), "it said Bye!");
    ensure!(
        life.lines.last().is_some_and(|line| line == marker::FAILURE),
        "it did not end with its marker"
    );
    Ok(())
}
