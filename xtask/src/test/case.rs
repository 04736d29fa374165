//! A case: a name, and a check that makes runs and judges what came of them.
//!
//! *When:* a suite lists cases, the runner gives each a [`Trial`]. A trial remembers its runs: their folders are kept until the case
//! has passed, and the last one is shown where it has not.

use std::{fmt, sync::Arc};

use anyhow::{Result, bail, ensure};

use crate::{
    config::Config,
    disk,
    kernel_build::Built,
    orders::{Base, Orders, seed_of},
    report,
    request::{Disk, Request},
    run::{Outcome, run},
    transcript::{self, Life},
    verdict::Verdict,
};

/// What a check is.
type Check = Box<dyn Fn(&mut Trial<'_>) -> Result<()> + Send + Sync>;

/// Something that is to be so.
pub struct Case {
    /// `suite/what`.
    pub name: String,
    /// It needs neither a machine nor the kernel.
    pub on_host: bool,
    /// Finds out whether it is.
    pub check: Check,
}

/// A case on a machine.
pub fn case(
    name: impl Into<String>,
    check: impl Fn(&mut Trial<'_>) -> Result<()> + Send + Sync + 'static,
) -> Case {
    Case { name: name.into(), on_host: false, check: Box::new(check) }
}

/// What all cases are made with.
pub struct Lab {
    /// qemu.toml.
    pub config: Arc<Config>,
    /// The kernel under test.
    pub kernel: Arc<Built>,
    /// What random choices are drawn from.
    pub seed: u64,
}

/// Why a case was not made: something that is nice to have is not here.
#[derive(Debug)]
pub struct Skipped(
    /// What.
    pub String,
);

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skipped {}

/// A case while it is made.
pub struct Trial<'a> {
    case: &'a str,
    lab: Option<&'a Lab>,
    made: Vec<Outcome>,
}

impl<'a> Trial<'a> {
    /// The case of that name; without a lab it is one for the host alone.
    pub fn new(case: &'a str, lab: Option<&'a Lab>) -> Self {
        Self { case, lab, made: Vec::new() }
    }

    /// qemu.toml.
    pub fn config(&self) -> &'a Arc<Config> {
        &self.lab().config
    }

    /// The kernel under test.
    pub fn kernel(&self) -> &'a Arc<Built> {
        &self.lab().kernel
    }

    fn lab(&self) -> &'a Lab {
        self.lab.expect("a case for the host alone starts no machine")
    }

    /// This case's own seed: other cases draw other numbers from the same one.
    pub fn seed(&self) -> u64 {
        seed_of(self.lab().seed, self.case)
    }

    /// Orders that are drawn from this case's seed.
    pub fn orders(&self) -> Orders {
        Orders { seed: self.seed(), ..Orders::default() }
    }

    /// A run of the kernel on a machine of qemu.toml, from its own disk.
    pub fn request(&self, machine: &str, orders: &Orders) -> Result<Request> {
        let Lab { config, kernel, .. } = self.lab();
        let mut request = Request::new(config, machine, kernel)?;
        request.name = self.case.replace('/', "-");
        request.bootargs = orders.bootargs(&request.machine.bootargs, request.semihosting);
        request.seed = orders.seed;
        request.disk = Disk::Bytes(Arc::new(disk::of(kernel, orders.base == Base::Load)));
        request.keep = true;
        Ok(request)
    }

    /// The same without semihosting: PSCI ends the machine, and no call goes past it to the host.
    pub fn request_psci(&self, machine: &str, orders: &Orders) -> Result<Request> {
        let mut request = self.request(machine, orders)?;
        request.semihosting = false;
        request.bootargs = orders.bootargs(&request.machine.bootargs, false);
        Ok(request)
    }

    /// Makes the run; whatever its end is, it is this one that a failure shows.
    pub fn run(&mut self, request: &Request) -> Result<&Outcome> {
        let outcome = run(request)?;
        self.made.push(outcome);
        Ok(self.made.last().expect("one was just added"))
    }

    /// Makes a run that must be a success; gives its generations.
    pub fn lives(&mut self, request: &Request) -> Result<Vec<Life>> {
        let outcome = self.run(request)?;
        ensure!(outcome.verdict == Verdict::Success, "{}", outcome.verdict.words());
        transcript::lives(&outcome.console)
    }

    /// Makes a run that must end in that way; gives its outcome.
    pub fn ends(&mut self, request: &Request, expected: Verdict) -> Result<&Outcome> {
        let outcome = self.run(request)?;
        if outcome.verdict != expected {
            bail!(
                "the run's end is \"{}\", and should be \"{}\"",
                outcome.verdict.words(),
                expected.words()
            );
        }
        Ok(outcome)
    }

    /// Takes the folders away: the case has passed.
    pub fn discard(&self) -> Result<()> {
        self.made.iter().try_for_each(|outcome| outcome.folder.discard())
    }

    /// What came of the last run.
    pub fn last(&self) -> Option<&Outcome> {
        self.made.last()
    }

    /// What there is to see of the last run.
    pub fn last_run(&self) -> String {
        self.made.last().map(report::seen).unwrap_or_default()
    }
}
