//! Runs as a guest under KVM: Debian's Linux on an emulated EL2, and in it Debian's arm64 QEMU.
//!
//! The guest's CPU, timer and GIC are then the hardware's, as KVM passes them on, and PSCI is
//! reached by HVC.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, bail, ensure};

use harness::{
    cmdline::{Base, Cmdline},
    config::Config,
    debian::Debian,
    disk,
    invariants::{Modes, prove},
    needs::Need,
    packages::Packages,
    request::{Disk, Medium, Request},
    transcript::GenerationLog,
};

use super::case::{Case, Trial, case};

/// The number of the guest's CPUs.
const CPUS: u32 = 4;

/// Linux's command line.
const LINUX: &str = "console=ttyAMA0 panic=-1 quiet";

/// Linux's /init. The terminal leaves the guest's line ends alone.
const INIT: &str = r#"
export PATH=/bin
for name in mount cat stty poweroff; do alias $name="busybox $name"; done
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
stty -onlcr
qemu-system-aarch64 -machine virt,gic-version=3,its=on -accel kvm -cpu host -m 256M -smp {cpus} \
    -nic none -display none -monitor none -no-reboot -serial stdio \
    -global virtio-mmio.force-legacy=false -device virtio-rng-device \
    -drive if=none,id=d0,format=raw,file=/disk.itb,readonly=on \
    -device virtio-blk-device,drive=d0 -kernel /Image -append "$(cat /bootargs)"
poweroff -f
"#;

/// Returns the cases of this suite.
pub fn cases() -> Vec<Case> {
    let cases = [case("kvm/generations", generations).long(), case("kvm/check", checked).long()];
    let needs = [Need::Debian, Need::Packages(Packages::ArmQemu)];
    cases.map(|case| case.needing(needs)).into()
}

/// Runs twenty generations as a guest.
fn generations(trial: &mut Trial<'_>) -> Result<()> {
    let cmdline = Cmdline { generations: 20, base: Base::Random, ..trial.cmdline() };
    guest(trial, &cmdline).map(drop)
}

/// Checks the boot protocol's rules as a guest.
fn checked(trial: &mut Trial<'_>) -> Result<()> {
    let append = vec!["check".to_owned()];
    let cmdline = Cmdline { generations: 1, append, ..trial.cmdline() };
    let logs = guest(trial, &cmdline)?;
    for words in ["PSCI by HVC", " 0 broken"] {
        ensure!(logs[0].says(words), "the checker does not print \"{words}\"");
    }
    Ok(())
}

/// Runs as a guest, and checks every generation.
fn guest(trial: &mut Trial<'_>, cmdline: &Cmdline) -> Result<Vec<GenerationLog>> {
    let request = host(trial, cmdline)?;
    let mut logs = trial.logs(&request)?;
    let [first, ..] = logs.as_mut_slice() else { bail!("no generation") };
    // KVM's SGIs are always enabled.
    first.found.retain(|found| !found.contains("INTID 0 enabled"));
    prove(&logs, cmdline, Modes::All("el1"), Some(CPUS))?;
    Ok(logs)
}

/// A Linux whose /init starts this kernel as a guest.
fn host(trial: &Trial<'_>, cmdline: &Cmdline) -> Result<Request> {
    let debian = Debian::get()?;
    let mut request = trial.request_psci("vhe", cmdline)?;
    let mut archive = debian.archive(&INIT.replace("{cpus}", &CPUS.to_string()))?;
    Packages::add_qemu(&mut archive)?;
    archive.program("Image", &request.kernel.image);
    archive.program("disk.itb", &disk::of(&request.kernel, false));
    archive.program("bootargs", cmdline.bootargs("", false).as_bytes());
    (request.disk, request.fit) = (Disk::Bytes(Arc::new(archive.close())), Medium::Initrd);
    (request.image, request.bootargs) = (Some(debian.image()?), LINUX.to_owned());
    request.memory = Some("1G".to_owned());
    // Time is the number of instructions, or a busy host would let the guest's limits pass.
    request.args = ["-icount", "shift=1,sleep=off"].map(str::to_owned).into();
    // Linux and the QEMU in it are large programs: give QEMU a cache that holds their code.
    let mut config = Config::clone(trial.config());
    for flag in &mut config.common.flags {
        flag.arg = flag.arg.replace("tb-size=32", "tb-size=256");
    }
    request.config = Arc::new(config);
    // A minute on an idle host, and far more on a busy one.
    (request.timeout, request.silence) =
        (Duration::from_secs(1200), Some(Duration::from_secs(300)));
    Ok(request)
}
