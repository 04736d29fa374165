//! Tests of the stress harness: it must fail broken kernels and pass good ones.
//!
//! Each run covers few generations of few cells. The reported failure must match the patch that
//! caused it. The command line and the packed file that the harness prints must reproduce the
//! failure.

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use boot::marker;

use harness::{
    kernel_build::Built,
    patch::{HANG, Patched, RET},
    processes::{Guarded, INTERRUPTED},
};
use tools::stress::{Failure, StressOptions, Tally};

use super::case::{Case, Trial, case};

/// A patch of a kernel.
type Patch = for<'a> fn(Patched<'a>) -> Result<Patched<'a>>;

/// `mov x10, #5` of the breadcrumb "verified", and `mov x10, #0`, which leaves no breadcrumb.
const VERIFIED: u32 = 0xd280_00aa;
const NOT_VERIFIED: u32 = 0xd280_000a;

const NO_CRUMB: Patch = |kernel| kernel.replace("relocate_new_kernel", VERIFIED, NOT_VERIFIED);
const HANGS: Patch = |kernel| kernel.at("verify", 0, HANG);
const UNVERIFIED: Patch = |kernel| kernel.at("verify", 0, RET);

/// Returns the cases of this suite.
pub fn cases() -> Vec<Case> {
    vec![
        case("stress/hang", |trial| {
            let line = "--machine nvhe --cpus 1 --gic 3 --virtio modern --restart hot \
                        --base same --generations 3 --silence 4";
            fails(trial, HANGS, line, &["out of time"], Some(0), "CPU 0 stands at EL1h")
        }),
        case("stress/breaks-a-rule", |trial| {
            let line = "--machine vhe --cpus 2 --gic 2 --virtio legacy --restart hot \
                        --base random --generations 4";
            fails(
                trial,
                NO_CRUMB,
                line,
                &["every breadcrumb, the whole-image check among them", "\"copied\""],
                Some(1),
                "",
            )
        }),
        case("stress/fault-not-noticed", |trial| {
            let line = "--machine el1 --cpus 1 --gic 3 --virtio modern --restart hot \
                        --base same --faults 1 --fault late-bit";
            fails(trial, UNVERIFIED, line, &["late-bit: "], None, "")
        }),
        case("stress/shards", shards),
        case("stress/faults", faults),
        case("stress/interrupted", interrupted),
    ]
}

/// Stresses `kernel` with the arguments in `line`.
fn stress(trial: &Trial<'_>, kernel: &Arc<Built>, line: &str) -> Result<Tally> {
    let seed = if line.contains("--seed") {
        String::new()
    } else {
        format!(" --seed {:#x}", trial.seed())
    };
    StressOptions::read_line(&format!("cargo xtask stress {line}{seed}"))?
        .stress(trial.config(), kernel)
}

/// Checks that the harness fails the patched kernel for the reasons `whys`. It must do so again
/// with the command line that it printed, and with the file that it packed. With that command line
/// it must pass the good kernel.
fn fails(
    trial: &mut Trial<'_>,
    patch: Patch,
    line: &str,
    whys: &[&str],
    generation: Option<u32>,
    stood: &str,
) -> Result<()> {
    let good = trial.kernel();
    let image = patch(Patched::new(good))?.image;
    let wrong = Arc::new(Built { elf: good.elf.clone(), image, build_id: good.build_id.clone() });
    let reports = tempfile::tempdir().context("cannot make a folder for reports")?;
    let tally = stress(trial, &wrong, &format!("{line} --report {}", reports.path().display()))?;
    let first = failure(&tally)?;
    for why in whys {
        ensure!(
            first.why.contains(why),
            "the failure is \"{}\", which does not say \"{why}\"",
            first.why
        );
    }
    if generation.is_some() {
        ensure!(
            first.generation == generation,
            "the failure is of generation {:?}, not {generation:?}",
            first.generation
        );
    }
    ensure!(first.stood.contains(stood), "the CPU stopped elsewhere: {}", first.stood);
    ensure!(
        first.exceptions.contains("Exception return from"),
        "the failure shows no exceptions: {}",
        first.exceptions
    );
    // The last lines are a generation's log, or the registers of an exception, which fill all of
    // them.
    ensure!(
        ["[0] ", marker::FATAL].iter().any(|start| first.console.contains(start)),
        "the failure shows no console"
    );

    let again = StressOptions::read_line(&first.again)?;
    let second = again.stress(trial.config(), &wrong)?;
    ensure!(
        failure(&second)?.why == first.why,
        "repeated by its command line, it failed differently: {}",
        failure(&second)?.why
    );
    let passed = again.stress(trial.config(), good)?;
    ensure!(passed.passed(), "the good kernel failed as well: {}", passed.sentence());

    let packed = std::fs::read_dir(reports.path())?.next().context("nothing was packed")??.path();
    let third = StressOptions::repeat(&packed)?;
    ensure!(
        failure(&third)?.why == first.why,
        "repeated from its file, it failed differently: {}",
        failure(&third)?.why
    );
    for tally in [&tally, &second, &third] {
        // These failures are intended; keep no folder of theirs.
        let _ = std::fs::remove_dir_all(&failure(tally)?.folder);
    }
    Ok(())
}

fn failure(tally: &Tally) -> Result<&Failure> {
    ensure!(
        !tally.passed() && tally.exit_code() == 1,
        "the harness passed the kernel: {}",
        tally.sentence()
    );
    tally.failures.first().context("the harness failed the kernel without a reason")
}

/// Checks that two shards, and the report merged from theirs, equal the run without shards. Each
/// report must name every cell that ran.
fn shards(trial: &mut Trial<'_>) -> Result<()> {
    let folder = tempfile::tempdir().context("cannot make a folder for reports")?;
    let file = |name: &str| folder.path().join(name).display().to_string();
    let cells = "--machine nvhe,vhe --cpus 2 --gic 3 --virtio modern --base same --generations 21";
    let whole = stress(trial, trial.kernel(), &format!("{cells} --json {}", file("whole.json")))?;
    ensure!(whole.passed() && whole.generations() == 21, "the whole: {}", whole.sentence());
    for part in ["1", "2"] {
        let made = stress(
            trial,
            trial.kernel(),
            &format!("{cells} --shard {part}/2 --json {}", file(&format!("{part}.json"))),
        )?;
        ensure!(
            made.passed() && made.generations() < 21 && made.generations() > 0,
            "shard {part}: {}",
            made.sentence()
        );
    }
    let merge = format!(
        "cargo xtask stress merge {} {} --json {} --html {} --junit {}",
        file("1.json"),
        file("2.json"),
        file("merged.json"),
        file("merged.html"),
        file("merged.xml")
    );
    let code = StressOptions::read_line(&merge)?.perform()?;
    ensure!(code == 0, "merged, they end with {code}");
    let merged: Tally = serde_json::from_slice(&std::fs::read(file("merged.json"))?)?;
    let counts = |tally: &Tally| -> Vec<_> {
        tally
            .cells
            .iter()
            .map(|(name, logs)| (name.clone(), logs.runs, logs.generations, logs.failed))
            .collect()
    };
    ensure!(
        counts(&merged) == counts(&whole),
        "merged, the shards ran {:?}, the whole {:?}",
        counts(&merged),
        counts(&whole)
    );
    let (html, xml) = (
        std::fs::read_to_string(file("merged.html"))?,
        std::fs::read_to_string(file("merged.xml"))?,
    );
    for name in whole.cells.keys() {
        ensure!(
            html.contains(name.as_str()) && xml.contains(name.as_str()),
            "{name} is missing in a report"
        );
    }
    ensure!(
        html.contains("<svg")
            && xml.contains(&format!("tests=\"{}\" failures=\"0\"", whole.cells.len())),
        "the reports lack a chart or the number of tests"
    );
    Ok(())
}

/// Injects faults of many kinds, which the kernel must detect.
fn faults(trial: &mut Trial<'_>) -> Result<()> {
    let tally = stress(trial, trial.kernel(), "--machine nvhe --faults 55 --cpus 1,2")?;
    ensure!(tally.passed(), "{}: {:?}", tally.sentence(), tally.failures.first());
    let kinds: usize = tally.faults.values().map(|kinds| kinds.len()).sum();
    ensure!(
        tally.injected() >= 55 && kinds >= 10,
        "{} faults of {kinds} kinds: {:?}",
        tally.injected(),
        tally.faults
    );
    Ok(())
}

/// Sends SIGINT to the harness, which must stop its QEMUs, print a summary and exit with code 130.
fn interrupted(trial: &mut Trial<'_>) -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(120);
    // No other run has seven CPUs, so `ours` can recognise these QEMUs.
    let line = "stress --machine nvhe --cpus 7 --until-fail --jobs 2 --generations 100000 --seed";
    let folder = tempfile::tempdir().context("cannot make a folder for the output")?;
    let said = folder.path().join("said");
    let mut command = Command::new(harness::paths::program()?);
    command.args(line.split(' ')).arg(trial.seed().to_string()).stdin(Stdio::null());
    let child =
        Guarded::spawn(command.stdout(std::fs::File::create(&said)?).stderr(Stdio::null()))?;
    let started = Instant::now();
    while ours(&said)? == 0 {
        ensure!(started.elapsed() < LIMIT, "the harness started no QEMU");
        ensure!(child.wait(Duration::from_millis(50))?.is_none(), "the harness ended at once");
    }
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status()?;
    ensure!(status.success(), "kill(1) failed");
    let Some(status) = child.wait(LIMIT)? else { bail!("the harness continued to run") };
    ensure!(
        status.code() == Some(INTERRUPTED.into()),
        "the harness ended with {status}, not {INTERRUPTED}"
    );
    let words = std::fs::read_to_string(&said)?;
    ensure!(words.contains("interrupted; none failed; "), "there is no summary: {words}");
    let left = ours(&said)?;
    ensure!(left == 0, "{left} QEMUs are left");
    Ok(())
}

/// Counts the QEMUs with seven CPUs, which only `interrupted` starts. On a host without /proc,
/// judges by the harness's output.
fn ours(said: &Path) -> Result<usize> {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return Ok(usize::from(
            !std::fs::read_to_string(said)?.contains("passed")
                && std::fs::metadata(said)?.len() > 0,
        ));
    };
    let lines = processes
        .flatten()
        .filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    Ok(lines
        .filter(|line| {
            line.starts_with(b"qemu") && line.windows(8).any(|words| words == b"-smp\x007\0-")
        })
        .count())
}
