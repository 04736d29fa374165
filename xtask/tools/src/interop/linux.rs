//! The facts that Linux finds on the machine it is booted on, reported by our `/init`.
//!
//! At the end of each run of `interop`, `/init` reports and then starts a shell on the console.
//! The facts are:
//!
//! - from Linux's log: the exception level of all CPUs, KVM's use of EL2, and whether there were
//!   seeds for KASLR and for the random number generator;
//! - its RAM, from `/proc/iomem`, and the memory nodes of the device tree;
//! - the reservations, from the blob itself, because `/proc/device-tree` holds only the tree.
//!
//! The shell is then given a computation, and the command to power off.

use std::{fmt, ops::Range};

use anyhow::{Context, Result, ensure};

use harness::serial_input::Answer;

use super::ways::MARK;

/// Linux's command line. A panic ends the machine instead of waiting for someone.
pub const WORDS: &str = "console=ttyAMA0 panic=-1";

/// The text of `/init`, the first program.
const INIT: &str = r#"
export PATH=/bin
for name in mount nproc awk dmesg sed grep cat head hexdump ls; do alias $name="busybox $name"; done
mount -t proc proc /proc
mount -t sysfs sys /sys
echo "found: cpus $(nproc)"
echo "found: memory $(awk '/^MemTotal/ { print $2 }' /proc/meminfo)"
echo "found: level $(dmesg | sed -n 's/.* CPU: All CPU(s) started at //p')"
echo "found: kvm $(dmesg | sed -n 's/.* kvm \[1\]: \(.*initialized successfully\|HYP mode not available\)$/\1/p')"
echo "found: kaslr $(dmesg | grep -c 'KASLR enabled')"
echo "found: random $(dmesg | grep -c '0.000000\] random: crng init done')"
echo "found: words $(cat /proc/cmdline)"
hex() { hexdump -v -e '1/1 "%02x"'; }
tree=/proc/device-tree
echo found: ram $(sed -n 's/^\([0-9a-f-]*\) : System RAM$/\1/p' /proc/iomem)
echo "found: nodes $(cat $tree/memory*/reg | hex)"
echo found: reserved $(ls $tree/reserved-memory 2>&1)
echo "found: blob $(head -c 168 /sys/firmware/fdt | hex)"
echo "found: initrd $(cat $tree/chosen/linux,initrd-start | hex)-$(cat $tree/chosen/linux,initrd-end | hex)"
echo "found: mark $(cat $tree/{mark} 2>/dev/null)"
echo "found: all"
exec busybox sh
"#;

/// Returns the text of `/init`.
pub fn init() -> String {
    INIT.replace("{mark}", MARK[0])
}

/// The input at the shell's prompt. It computes a number, so an echo of the input is no answer.
pub const ANSWER: Answer =
    Answer { prompt: "/ # ", typed: "echo answered: $((6 * 7))\nbusybox poweroff -f\n" };

/// The shell's answer.
const ANSWERED: &str = "answered: 42";

/// The allowed difference of Linux's total memory in KiB, if all ranges of RAM are equal.
///
/// The total excludes Linux's own use, which depends on addresses and on the size of the device
/// tree: QEMU pads its own to 1 MiB.
const MEMORY_TOLERANCE: u64 = 1024;

/// The facts that one Linux reported.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Facts {
    cpus: u32,
    /// Total memory in KiB.
    memory: u64,
    level: String,
    kvm: String,
    has_kaslr: bool,
    has_random: bool,
    words: String,
    /// Ranges of RAM, as in `/proc/iomem`.
    ram: String,
    /// The `reg` of the tree's memory nodes.
    nodes: String,
    /// The entries of /reserved-memory.
    reserved: String,
    /// The reservations of the blob.
    reservations: Vec<Range<u64>>,
    /// Byte range of the initrd.
    initrd: Range<u64>,
    mark: String,
}

impl Facts {
    /// Parses the facts from the console.
    pub fn read(console: &str) -> Result<Self> {
        let found = |name: &str| -> Result<String> {
            let start = format!("found: {name}");
            // The line on the console may begin with kernel output: Linux does not wait for init.
            let line = console
                .lines()
                .find_map(|line| line.split_once(&start))
                .map(|(_, value)| value.trim());
            line.map(str::to_owned)
                .with_context(|| format!("Linux's init did not report \"{name}\""))
        };
        found("all")?;
        ensure!(
            console.lines().any(|line| line.trim().ends_with(ANSWERED)),
            "the shell did not say \"{ANSWERED}\""
        );
        let flag = |name: &str| Ok::<bool, anyhow::Error>(found(name)? != "0");
        Ok(Self {
            cpus: found("cpus")?.parse()?,
            memory: found("memory")?.parse()?,
            level: found("level")?,
            kvm: found("kvm")?,
            has_kaslr: flag("kaslr")?,
            has_random: flag("random")?,
            words: found("words")?,
            ram: found("ram")?,
            nodes: found("nodes")?,
            reserved: found("reserved")?,
            reservations: reservations(&found("blob")?)?,
            initrd: initrd(&found("initrd")?)?,
            mark: found("mark")?,
        })
    }

    /// Checks the facts against the machine, and the mark against the one put into the tree.
    pub fn check(&self, mode: &str, cpus: u32, has_entropy: bool, mark: &str) -> Result<()> {
        ensure!(self.words == WORDS, "Linux's command line is \"{}\"", self.words);
        ensure!(self.cpus == cpus, "Linux has {} of {cpus} CPUs", self.cpus);
        let (level, kvm) = match mode {
            "el1" => ("EL1", "HYP mode not available"),
            "nvhe" => ("EL2", "Hyp mode initialized successfully"),
            _ => ("EL2", "VHE mode initialized successfully"),
        };
        ensure!(self.level == level, "Linux was entered at \"{}\", not {level}", self.level);
        ensure!(self.kvm == kvm, "KVM says \"{}\", not \"{kvm}\"", self.kvm);
        ensure!(
            self.has_kaslr == has_entropy,
            "with an entropy device: {has_entropy}, KASLR: {}",
            self.has_kaslr
        );
        ensure!(
            self.has_random == has_entropy,
            "with an entropy device: {has_entropy}, seeded: {}",
            self.has_random
        );
        ensure!(self.mark == mark, "the device tree's mark is \"{}\", not \"{mark}\"", self.mark);
        Ok(())
    }

    /// Compares the facts with those of a Linux that QEMU loaded.
    pub fn compare(&self, reference: &Self) -> Result<()> {
        let (memory, whole) = (self.memory, reference.memory);
        ensure!(
            memory.abs_diff(whole) <= MEMORY_TOLERANCE,
            "Linux has {memory} KiB of memory, {whole} from QEMU"
        );
        for (what, is, was) in [
            ("RAM", &self.ram, &reference.ram),
            ("memory nodes", &self.nodes, &reference.nodes),
            ("/reserved-memory", &self.reserved, &reference.reserved),
        ] {
            ensure!(is == was, "{what}: \"{is}\", \"{was}\" from QEMU");
        }
        // Expect the initrd as an additional reservation: QEMU names it only in /chosen, kexec in
        // both places.
        let mut due = reference.reservations.clone();
        due.push(self.initrd.clone());
        ensure!(
            self.reservations == due,
            "the blob reserves {:x?}, not {due:x?}",
            self.reservations
        );
        Ok(())
    }
}

/// Parses a hexadecimal number.
fn number(digits: &str) -> Result<u64> {
    u64::from_str_radix(digits, 16).with_context(|| format!("\"{digits}\" is no number"))
}

/// Parses the reservations in the first bytes of a blob, given as hexadecimal digits (Devicetree
/// specification 5.3).
fn reservations(blob: &str) -> Result<Vec<Range<u64>>> {
    let cell = |at: usize, bytes: usize| {
        number(blob.get(2 * at..2 * (at + bytes)).context("the blob's start is too short")?)
    };
    let (mut at, mut found) = (cell(16, 4)? as usize, Vec::new());
    loop {
        let (start, size) = (cell(at, 8)?, cell(at + 8, 8)?);
        if (start, size) == (0, 0) {
            return Ok(found);
        }
        found.push(start..start + size);
        at += 16;
    }
}

fn initrd(ends: &str) -> Result<Range<u64>> {
    let (start, end) = ends.split_once('-').context("no range of the ramdisk")?;
    Ok(number(start)?..number(end)?)
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kvm = self.kvm.split(' ').next().filter(|_| self.kvm.ends_with("successfully"));
        let seeds = if self.has_kaslr && self.has_random { "seeds" } else { "no seeds" };
        write!(
            f,
            "{} CPUs, {}, KVM {}, {seeds}",
            self.cpus,
            self.level,
            kvm.unwrap_or("none").to_lowercase()
        )
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
found: ram 40000000-5fffffff
found: nodes 00000000400000000000000020000000
found: reserved ls: /proc/device-tree/reserved-memory: No such file or directory
found: blob \
d00dfeed0000000a0000000a0000000a000000280000001100000010000000000000000000000000\
000000004800000000000000000017ff00000000000000000000000000000000
found: initrd 0000000048000000-00000000480017ff
found: mark
found: all
/ # echo answered: $((6 * 7))
answered: 42
/ # busybox poweroff -f
[    1.636244] reboot: Power down
";

    #[test]
    fn what_is_right_passes() {
        let facts = Facts::read(GOOD).unwrap();
        facts.check("vhe", 4, true, "").unwrap();
        let reference = Facts {
            memory: facts.memory + MEMORY_TOLERANCE,
            reservations: Vec::new(),
            ..facts.clone()
        };
        facts.compare(&reference).unwrap();
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
            ("panic=-1", "panic=-1 generations=3", "command line"),
            ("found: mark", "found: mark x", "mark is \"x\""),
        ] {
            let doctored = GOOD.replacen(was, is, 1);
            assert_ne!(doctored, GOOD);
            let error =
                Facts::read(&doctored).unwrap().check("vhe", 4, true, "").unwrap_err().to_string();
            assert!(error.contains(why), "{error}, not {why}");
        }
        let facts = Facts::read(GOOD).unwrap();
        assert!(facts.check("vhe", 4, false, "").is_err(), "a stale seed");
        assert!(facts.check("vhe", 4, true, "x").is_err(), "another tree");
        assert!(
            facts.check("nvhe", 4, true, "").is_err() && facts.check("el1", 4, true, "").is_err()
        );
        assert!(
            Facts::read(&GOOD.replace("found: all\n", ""))
                .unwrap_err()
                .to_string()
                .contains("\"all\"")
        );
        assert!(
            Facts::read(&GOOD.replace("\nanswered: 42", ""))
                .unwrap_err()
                .to_string()
                .contains("the shell")
        );
    }

    #[test]
    fn memory_is_that_of_a_cold_boot() {
        let reference = Facts { reservations: Vec::new(), ..Facts::read(GOOD).unwrap() };
        let why = |doctored: &str| {
            Facts::read(doctored).unwrap().compare(&reference).unwrap_err().to_string()
        };
        for (was, is, says) in [
            ("memory 487296", "memory 486271", "KiB of memory"),
            ("-5fffffff", "-5ffeffff", "RAM: \"40000000-5ffeffff\""),
            ("-5fffffff", "-4fffffff 50010000-5fffffff", "RAM: "),
            ("0020000000", "0010000000", "memory nodes"),
            ("reserved ls: ", "reserved secret@50000000 ls: ", "/reserved-memory"),
            ("00000017ff00", "00000027ff00", "the blob reserves [48000000..480027ff]"),
            ("00480017ff", "00480037ff", "not [48000000..480037ff]"),
        ] {
            let doctored = GOOD.replacen(was, is, 1);
            assert_ne!(doctored, GOOD, "{was}");
            assert!(why(&doctored).contains(says), "{}, not {says}", why(&doctored));
        }
        assert!(
            Facts::read(&GOOD.replace("00000000000000000000000000000000\n", "\n")).is_err(),
            "without an end"
        );
    }
}
