//! A test case: a name, and a check that starts runs and judges their outcomes.
//!
//! A suite lists cases; the runner gives each a [`Trial`]. A trial remembers its runs. It keeps
//! their folders until the case has passed, and shows the last run if the case fails.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Result, bail, ensure};

use harness::{
    cmdline::{Base, Cmdline, seed_of},
    config::{Config, Gic},
    disk,
    error::Skipped,
    kernel_build::Built,
    needs::Need,
    report,
    request::{Disk, Request},
    run::{Outcome, run},
    transcript::{self, GenerationLog},
    verdict::Verdict,
};

/// The check of a case.
type Check = Box<dyn Fn(&mut Trial<'_>) -> Result<()> + Send + Sync>;

/// A named check.
pub struct Case {
    /// `suite/case`.
    pub name: String,
    /// The check needs neither QEMU nor the kernel.
    pub on_host: bool,
    /// The case takes minutes, and runs only if there is a filter.
    pub is_long: bool,
    /// Needs of the case, besides QEMU and the kernel.
    pub needs: Vec<Need>,
    /// Returns an error if the case fails.
    pub check: Check,
}

impl Case {
    /// Has the case run only if there is a filter.
    pub fn long(mut self) -> Self {
        self.is_long = true;
        self
    }

    /// Adds what the case needs.
    pub fn needing(mut self, needs: impl IntoIterator<Item = Need>) -> Self {
        self.needs.extend(needs);
        self
    }

    /// Has the case skipped, if one of its needs is among the missing.
    pub fn skip_without(&mut self, missing: &BTreeMap<Need, Skipped>) {
        if let Some(lack) = self.needs.iter().find_map(|need| missing.get(need)).cloned() {
            self.check = Box::new(move |_| Err(lack.clone().into()));
        }
    }
}

/// Returns a case that runs QEMU.
pub fn case(
    name: impl Into<String>,
    check: impl Fn(&mut Trial<'_>) -> Result<()> + Send + Sync + 'static,
) -> Case {
    let (name, check) = (name.into(), Box::new(check));
    Case { name, on_host: false, is_long: false, needs: Vec::new(), check }
}

/// Inputs that all cases share.
pub struct TestContext {
    /// qemu.toml.
    pub config: Arc<Config>,
    /// The kernel under test.
    pub kernel: Arc<Built>,
    /// Seed of all random choices.
    pub seed: u64,
}

/// Sets the number of CPUs and the GIC.
pub fn with_cpus(request: &mut Request, cpus: u32, gic: Gic) {
    (request.cpus, request.gic) = (Some(cpus), Some(gic));
}

/// A case while it runs.
pub struct Trial<'a> {
    case: &'a str,
    context: Option<&'a TestContext>,
    made: Vec<Outcome>,
}

impl<'a> Trial<'a> {
    /// Starts the case `case`. Host tests have no `context`.
    pub fn new(case: &'a str, context: Option<&'a TestContext>) -> Self {
        Self { case, context, made: Vec::new() }
    }

    /// qemu.toml.
    pub fn config(&self) -> &'a Arc<Config> {
        &self.context().config
    }

    /// The kernel under test.
    pub fn kernel(&self) -> &'a Arc<Built> {
        &self.context().kernel
    }

    fn context(&self) -> &'a TestContext {
        self.context.expect("a host test starts no QEMU")
    }

    /// Returns this case's own seed, derived from the shared one and the case's name.
    pub fn seed(&self) -> u64 {
        seed_of(self.context().seed, self.case)
    }

    /// Returns the default parameters with this case's seed.
    pub fn cmdline(&self) -> Cmdline {
        Cmdline { seed: self.seed(), ..Cmdline::default() }
    }

    /// Returns a request to run the kernel on a machine of qemu.toml, with a disk that holds the
    /// same kernel.
    pub fn request(&self, machine: &str, cmdline: &Cmdline) -> Result<Request> {
        let TestContext { config, kernel, .. } = self.context();
        let mut request = Request::new(config, machine, kernel)?;
        request.name = self.case.replace('/', "-");
        request.bootargs = cmdline.bootargs(&request.machine.bootargs, request.semihosting);
        request.seed = cmdline.seed;
        request.disk = Disk::Bytes(Arc::new(disk::of(&request.kernel, cmdline.base == Base::Load)));
        request.keep = true;
        Ok(request)
    }

    /// Returns the same request without semihosting: the guest ends by PSCI SYSTEM_OFF and makes no
    /// call to the host.
    pub fn request_psci(&self, machine: &str, cmdline: &Cmdline) -> Result<Request> {
        let mut request = self.request(machine, cmdline)?;
        request.semihosting = false;
        request.bootargs = cmdline.bootargs(&request.machine.bootargs, false);
        Ok(request)
    }

    /// Runs the request, with any outcome. A failure of the case shows its latest run.
    pub fn run(&mut self, request: &Request) -> Result<&Outcome> {
        let outcome = run(request)?;
        self.made.push(outcome);
        Ok(self.made.last().expect("one was just added"))
    }

    /// Runs a request that must succeed, and returns its generations.
    pub fn logs(&mut self, request: &Request) -> Result<Vec<GenerationLog>> {
        let outcome = self.run(request)?;
        ensure!(outcome.verdict == Verdict::Success, "{}", outcome.verdict.words());
        transcript::logs(&outcome.console)
    }

    /// Runs a request that must end with the verdict `expected`, and returns its outcome.
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

    /// Removes the folders of all runs, after the case has passed.
    pub fn discard(&self) -> Result<()> {
        self.made.iter().try_for_each(|outcome| outcome.folder.discard())
    }

    /// Returns the outcome of the last run.
    pub fn last(&self) -> Option<&Outcome> {
        self.made.last()
    }

    /// Describes the last run, for a failure report.
    pub fn last_run(&self) -> String {
        self.made.last().map(report::seen).unwrap_or_default()
    }
}
