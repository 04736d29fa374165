//! The release folder: it judges foreign builds alone, and the same sources make the same bytes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use harness::{
    firmware::{EDK2, U_BOOT},
    needs::Need,
    parts, paths,
    processes::Guarded,
    qemu::shell_word,
};

use super::case::{Case, case};

/// The time limit for a whole release, from its first crate on.
const PATIENCE: Duration = Duration::from_secs(1200);

/// Returns the cases. Each builds a release, which takes minutes.
pub fn cases() -> Vec<Case> {
    vec![
        case("dist/judges", |_| judges()).needing([Need::Edk2, Need::UBoot]).long(),
        case("dist/reproducible", |_| reproducible()).long(),
    ]
}

/// Judges foreign builds with the release's folder alone: no Rust, no variable but PATH.
fn judges() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let release = folder.path().join("release");
    made(&paths::root(), &paths::target_dir(), &release)?;
    let mut sums = Command::new("sha256sum");
    sums.args(["--check", "--quiet", "SHA256SUMS"]).current_dir(&release);
    ensure!(sums.status()?.success(), "SHA256SUMS is wrong");

    let qemu = shell_word(&parts::qemu().display().to_string());
    let machine = format!(
        "{qemu} -machine virt,virtualization=on,acpi=off -cpu cortex-a72 -smp 2 -nic none \
         -display none -serial stdio -no-reboot"
    );
    let disk = "-drive if=none,id=d0,format=raw,file={disk},readonly=on \
                -device virtio-blk-device,drive=d0";
    let firmware = |firmware: Option<PathBuf>| {
        let place = firmware.context("a firmware is missing")?;
        Ok::<_, anyhow::Error>(format!("-bios {}", shell_word(&place.display().to_string())))
    };
    let (edk2, u_boot) = (firmware(EDK2.found())?, firmware(U_BOOT.found())?);
    let by_qemu = format!("{machine} {disk} -kernel {{image}} -append {{append}}");
    let by_initrd = format!("{machine} -kernel {{image}} -initrd {{initrd}} -append {{append}}");
    // As the user would do: EDK2's boot manager takes the kernel from fw_cfg, U-Boot's from qfw.
    let by_edk2 = format!("{by_qemu} {edk2} -boot menu=on,splash-time=0");
    let by_u_boot = format!("{by_qemu} {u_boot}");
    for (name, line, options, code) in [
        ("qemu", &by_qemu, &[][..], 0),
        ("initrd", &by_initrd, &["--tap"], 0),
        ("edk2", &by_edk2, &[], 0),
        // U-Boot enters with SErrors unmasked.
        ("u-boot-booti", &by_u_boot, &[], 1),
        ("u-boot-booti", &by_u_boot, &["--known", "known.toml"], 0),
        ("nothing", &"true {image}".to_owned(), &[], 1),
    ] {
        let output = judge(&release, &[&["--loader", name, "--exec", line], options].concat())?;
        ensure!(output.status.code() == Some(code), "{name}: {output:?}");
    }

    // A saved console gives the same verdict.
    let log = folder.path().join("boot.log");
    let place = log.display().to_string();
    let line = by_u_boot.replace("stdio", &format!("file:{}", shell_word(&place)));
    let live = judge(&release, &["--exec", &line, "--console", &place])?;
    let saved = judge(&release, &[&place])?;
    let of = |output: &Output| {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().filter(|line| line.contains("BROKEN")).map(str::to_owned).collect::<Vec<_>>()
    };
    ensure!(live.status.code() == Some(1) && saved.status.code() == Some(1), "{live:?} {saved:?}");
    ensure!(of(&live) == of(&saved) && of(&saved).len() == 1, "{live:?} {saved:?}");
    Ok(())
}

/// Runs the release's judge in its folder.
fn judge(release: &Path, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(release.join("ouroboros-check"));
    command.args(arguments).current_dir(release).env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {command:?}"))
}

/// Makes two releases from copies of the sources in two folders; each file must be the same.
fn reproducible() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let roots = ["one", "another-and-longer"].map(|name| folder.path().join(name));
    // Copy both before the first build, which takes minutes: somebody may edit the sources.
    roots.iter().try_for_each(|root| copy_sources(root))?;
    for root in &roots {
        made(root, &root.join("target"), &root.join("release"))?;
        fs::remove_dir_all(root.join("target")).context("cannot remove a target directory")?;
    }
    let (mut count, mut differ) = (0, Vec::new());
    for entry in fs::read_dir(roots[0].join("release"))? {
        let name = entry?.file_name();
        let [one, other] = roots.each_ref().map(|root| fs::read(root.join("release").join(&name)));
        count += 1;
        if one? != other? {
            differ.push(name);
        }
    }
    ensure!(differ.is_empty(), "these files differ: {differ:?}");
    ensure!(count >= 12, "a release has {count} files");
    Ok(())
}

/// Copies the files that git tracks or would track.
fn copy_sources(to: &Path) -> Result<()> {
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let output = git.current_dir(paths::root()).output().context("cannot start git")?;
    ensure!(output.status.success(), "this is not a git checkout: cannot list the sources");
    for name in String::from_utf8(output.stdout)?.split_terminator('\0') {
        let (from, to) = (paths::root().join(name), to.join(name));
        fs::create_dir_all(to.parent().unwrap_or(&to))?;
        fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    Ok(())
}

/// Has this very program make the release of the sources in `root`.
fn made(root: &Path, target_dir: &Path, release: &Path) -> Result<()> {
    let mut xtask = Command::new(paths::program().context("cannot find this program")?);
    xtask.args(["dist", "--out"]).arg(release).current_dir(root);
    xtask.env("CARGO_MANIFEST_DIR", root.join("xtask")).env("CARGO_TARGET_DIR", target_dir);
    xtask.stdin(Stdio::null()).stdout(Stdio::null());
    let guarded = Guarded::spawn(&mut xtask).context("cannot start xtask")?;
    let status = guarded.wait(PATIENCE)?;
    ensure!(status.is_some_and(|status| status.success()), "`xtask dist` fails: {status:?}");
    Ok(())
}
