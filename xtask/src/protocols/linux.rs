//! What Linux finds of the machine that it was handed, told by an `/init` of ours.
//!
//! *When:* at the end of each run of `protocols`. Linux's own words in its log are taken: which level all CPUs were entered at, whether KVM has EL2,
//! whether there was a seed for KASLR and one for the random number generator.

use std::fmt;

use anyhow::{Context, Result, ensure};

/// Linux's orders. A panic ends the machine instead of waiting for someone.
pub const WORDS: &str = "console=ttyAMA0 panic=-1";

/// The first program.
pub const INIT: &str = r#"
export PATH=/bin
for name in mount nproc awk dmesg sed grep cat poweroff; do alias $name="busybox $name"; done
mount -t proc proc /proc
mount -t sysfs sys /sys
echo "found: cpus $(nproc)"
echo "found: memory $(awk '/^MemTotal/ { print $2 }' /proc/meminfo)"
echo "found: level $(dmesg | sed -n 's/.* CPU: All CPU(s) started at //p')"
echo "found: kvm $(dmesg | sed -n 's/.* kvm \[1\]: \(.*initialized successfully\|HYP mode not available\)$/\1/p')"
echo "found: kaslr $(dmesg | grep -c 'KASLR enabled')"
echo "found: random $(dmesg | grep -c '0.000000\] random: crng init done')"
echo "found: words $(cat /proc/cmdline)"
echo "found: all"
poweroff -f
"#;

/// How much memory may be missing, in KiB: what Linux takes for itself depends on where things lie.
const MEMORY_TOLERANCE: u64 = 1024;

/// What it found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Facts {
    cpus: u32,
    /// KiB.
    memory: u64,
    level: String,
    kvm: String,
    has_kaslr: bool,
    has_random: bool,
    words: String,
}

impl Facts {
    /// Reads them off the console.
    pub fn read(console: &str) -> Result<Self> {
        let found = |name: &str| -> Result<String> {
            let start = format!("found: {name}");
            // The console's line may have begun with something else: Linux does not wait for init.
            let line = console.lines().find_map(|line| line.split_once(&start)).map(|(_, value)| value.trim());
            line.map(str::to_owned).with_context(|| format!("Linux's init did not tell \"{name}\""))
        };
        found("all")?;
        let flag = |name: &str| Ok::<bool, anyhow::Error>(found(name)? != "0");
        Ok(Self {
            cpus: found("cpus")?.parse()?,
            memory: found("memory")?.parse()?,
            level: found("level")?,
            kvm: found("kvm")?,
            has_kaslr: flag("kaslr")?,
            has_random: flag("random")?,
            words: found("words")?,
        })
    }

    /// Holds them against what the machine has.
    pub fn check(&self, mode: &str, cpus: u32, has_entropy: bool) -> Result<()> {
        ensure!(self.words == WORDS, "Linux's orders are \"{}\"", self.words);
        ensure!(self.cpus == cpus, "Linux has {} of {cpus} CPUs", self.cpus);
        let (level, kvm) = match mode {
            "el1" => ("EL1", "HYP mode not available"),
            "nvhe" => ("EL2", "Hyp mode initialized successfully"),
            _ => ("EL2", "VHE mode initialized successfully"),
        };
        ensure!(self.level == level, "Linux was entered at \"{}\", not {level}", self.level);
        ensure!(self.kvm == kvm, "KVM says \"{}\", not \"{kvm}\"", self.kvm);
        ensure!(self.has_kaslr == has_entropy, "with an entropy device: {has_entropy}, KASLR: {}", self.has_kaslr);
        ensure!(self.has_random == has_entropy, "with an entropy device: {has_entropy}, seeded: {}", self.has_random);
        Ok(())
    }

    /// Holds them against what it finds when QEMU loads it.
    pub fn compare(&self, reference: &Self) -> Result<()> {
        let (memory, whole) = (self.memory, reference.memory);
        ensure!(memory.abs_diff(whole) <= MEMORY_TOLERANCE, "Linux has {memory} KiB of memory, {whole} from QEMU");
        Ok(())
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kvm = self.kvm.split(' ').next().filter(|_| self.kvm.ends_with("successfully"));
        let seeds = if self.has_kaslr && self.has_random { "seeds" } else { "no seeds" };
        write!(f, "{} CPUs, {}, KVM {}, {seeds}", self.cpus, self.level, kvm.unwrap_or("none").to_lowercase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
[    1.302518] Run /init as init process
found: cpus 4
found: memory 487296
found: level EL2
found: kvm VHE mode initialized successfully
found: kaslr 1
found: random 1
found: words console=ttyAMA0 panic=-1
found: all
[    1.636244] reboot: Power down
";

    #[test]
    fn what_is_right_passes() {
        let facts = Facts::read(GOOD).unwrap();
        facts.check("vhe", 4, true).unwrap();
        facts.compare(&Facts { memory: facts.memory + MEMORY_TOLERANCE, ..facts.clone() }).unwrap();
        assert_eq!(facts.to_string(), "4 CPUs, EL2, KVM vhe, seeds");
    }

    #[test]
    fn each_fact_can_be_wrong() {
        for (was, is, why) in [
            ("cpus 4", "cpus 3", "3 of 4 CPUs"),
            ("level EL2", "level EL1", "entered at \"EL1\""),
            ("kvm VHE mode", "kvm Hyp mode", "KVM says"),
            ("kvm VHE mode initialized successfully", "kvm", "KVM says \"\""),
            ("kaslr 1", "kaslr 0", "KASLR: false"),
            ("random 1", "random 0", "seeded: false"),
            ("panic=-1", "panic=-1 generations=3", "orders"),
        ] {
            let doctored = GOOD.replacen(was, is, 1);
            assert_ne!(doctored, GOOD);
            let error = Facts::read(&doctored).unwrap().check("vhe", 4, true).unwrap_err().to_string();
            assert!(error.contains(why), "{error}, not {why}");
        }
        let facts = Facts::read(GOOD).unwrap();
        assert!(facts.check("vhe", 4, false).is_err(), "a stale seed");
        assert!(facts.check("nvhe", 4, true).is_err() && facts.check("el1", 4, true).is_err());
        assert!(facts.compare(&Facts { memory: facts.memory + MEMORY_TOLERANCE + 1, ..facts.clone() }).is_err());
        assert!(Facts::read(&GOOD.replace("found: all\n", "")).unwrap_err().to_string().contains("\"all\""));
    }
}
