//! Parser of a console into one record for each generation.
//!
//! A log line is `[generation] text`; a line without that prefix belongs to the generation that
//! printed last. The formats are those of the kernel (`main::introduce`, `stage`, `boot_trace`). A
//! log line that does not parse is an error.

use anyhow::{Context, Result, bail, ensure};
use boot::marker;

/// The log of one generation.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct GenerationLog {
    /// The generation's number.
    pub number: u32,
    /// The number of generations in the run.
    pub of: u32,
    /// The mode: el1, nvhe or vhe.
    pub mode: String,
    /// The address of the image.
    pub base: u64,
    /// The seed.
    pub seed: u64,
    /// The size of the image in memory, in bytes.
    pub image: u64,
    /// The address of the control pages.
    pub control: u64,
    /// Free memory in bytes.
    pub free: u64,
    /// The size of the device tree in bytes.
    pub tree: u64,
    /// CNTVCT at the first instruction, in nanoseconds.
    pub entered: u64,
    /// The breadcrumbs of the path to this kernel, each with the nanoseconds since the previous
    /// one.
    pub phases: Vec<(String, u64)>,
    /// The bytes hashed in the last load of the next kernel.
    pub hashed: Option<u64>,
    /// The nanoseconds spent waiting for the disk in that load.
    pub waited: Option<u64>,
    /// The reasons of refused kexecs, in order.
    pub refused: Vec<String>,
    /// The number of CPUs that are up, and the number of all CPUs.
    pub cpus: (u32, u32),
    /// True if the kernel takes interrupts at all.
    pub has_interrupts: bool,
    /// The number of timer interrupts that each CPU took; reported once the other CPUs are off.
    pub ticks: Vec<u64>,
    /// Stale interrupts found at entry.
    pub found: Vec<String>,
    /// The number of interrupts taken that were not its own.
    pub strays: u64,
    /// The `Bye!` line, if this kernel left.
    pub bye: Option<Bye>,
    /// All lines, without the generation prefix.
    pub lines: Vec<String>,
}

/// A `Bye!` line, the last before the point of no return.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Bye {
    /// The steps that follow.
    pub way: String,
    /// The address of the next kernel's first instruction.
    pub entry: u64,
    /// The address of its device tree.
    pub tree: u64,
    /// The address of the relocation code.
    pub control: u64,
}

impl GenerationLog {
    /// The names of the breadcrumbs of the path to this kernel.
    pub fn stations(&self) -> Vec<&str> {
        self.phases.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// Returns whether a line contains `words`.
    pub fn says(&self, words: &str) -> bool {
        self.lines.iter().any(|line| line.contains(words))
    }
}

/// Parses the console into generations, in its order.
pub fn logs(console: &str) -> Result<Vec<GenerationLog>> {
    let mut logs: Vec<GenerationLog> = Vec::new();
    for line in console.lines() {
        let said = line.strip_prefix('[').and_then(|rest| rest.split_once("] "));
        let (speaker, text) = match said.map(|(number, text)| (number.parse::<u32>(), text)) {
            Some((Ok(number), text)) => (Some(number), text),
            _ => (None, line),
        };
        if let Some(number) = speaker
            && logs.last().is_none_or(|gen_log| gen_log.number != number)
        {
            logs.push(GenerationLog { number, ..GenerationLog::default() });
        }
        let Some(gen_log) = logs.last_mut() else { continue };
        gen_log.hear(text).with_context(|| format!("the line \"{line}\""))?;
        gen_log.lines.push(text.to_owned());
    }
    logs.iter().try_for_each(|gen_log| {
        ensure!(
            gen_log.of > 0,
            "generation {} did not print its \"Generation\" line",
            gen_log.number
        );
        Ok(())
    })?;
    Ok(logs)
}

/// Splits the console after the `Bye!` line of generation number `generations`, counted from 1.
pub fn parted(console: &str, generations: u32) -> Result<(&str, &str)> {
    // Accept `Bye!` only right after a generation's prefix. The list of breadcrumbs also begins
    // with this word, and Linux prints it after a timestamp.
    let bye = format!("] {}", marker::BYE);
    let is_ours = |at: usize| {
        let number = console[..at].rsplit('\n').next().and_then(|start| start.strip_prefix('['));
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    };
    let byes = console.match_indices(&bye).map(|(at, _)| at).filter(|&at| is_ours(at));
    let last = byes.take(generations as usize).enumerate().last();
    let (count, at) = last.map_or((0, 0), |(index, at)| (index + 1, at));
    ensure!(
        count == generations as usize,
        "{count} of {generations} generations printed \"{}\"",
        marker::BYE
    );
    let end = console[at..].find('\n').map_or(console.len(), |end| at + end + 1);
    Ok(console.split_at(end))
}

impl GenerationLog {
    fn hear(&mut self, text: &str) -> Result<()> {
        if let Some(rest) = text.strip_prefix(marker::GENERATION) {
            ensure!(
                self.of == 0,
                "generation {} printed its \"Generation\" line twice",
                self.number
            );
            let (numbers, rest) = rest.split_once(": ").context("no colon")?;
            let (number, of) = numbers.split_once(" of ").context("no number")?;
            ensure!(number.parse() == Ok(self.number), "the line's prefix is another generation's");
            (self.of, self.mode) =
                (of.parse()?, rest.split(',').next().unwrap_or_default().to_owned());
            self.base = hex(rest, "base ")?;
        } else if text.starts_with("seed ") {
            self.seed = hex(text, "seed ")?;
            self.image = decimal(text, "image ")?;
            self.control = hex(text, "control pages ")?;
        } else if text.starts_with("free memory ") {
            self.free = decimal(text, "free memory ")?;
            self.tree = decimal(text, "device tree ")?;
        } else if let Some(rest) = text.strip_prefix("boot trace, ns: ") {
            self.phases = stations(rest)?;
        } else if text.starts_with("entered at ") {
            self.entered = decimal(text, "entered at ")?;
        } else if let Some(rest) = text.strip_prefix("CPUs: ") {
            let (up, of) = rest
                .split_once(" up")
                .and_then(|(counts, _)| counts.split_once(" of "))
                .context("no counts")?;
            self.cpus = (up.parse()?, of.parse()?);
            self.has_interrupts = !rest.contains("; no interrupts: ");
        } else if let Some(rest) = text.strip_prefix(marker::STALE) {
            self.found.push(rest.to_owned());
        } else if text.starts_with("others off in ") {
            let ticks = behind(text, "ticks [")?.split(']').next().unwrap_or_default();
            self.ticks =
                ticks.split(", ").map(str::parse).collect::<Result<_, _>>().context("no ticks")?;
            self.strays = decimal(text, "not ours ")?;
        } else if text.starts_with("loaded ") {
            self.hashed = Some(decimal(text, "\": ")?);
            self.waited = decimal(text, "disk ").ok();
        } else if let Some(rest) = text.strip_prefix(marker::REFUSED) {
            self.refused.push(rest.to_owned());
        } else if let Some(rest) = text.strip_prefix(marker::BYE) {
            let (way, _) = rest.split_once(';').context("no semicolon")?;
            self.bye = Some(Bye {
                way: way.trim_start_matches(" Next: ").to_owned(),
                entry: hex(rest, "entry ")?,
                tree: hex(rest, "device tree ")?,
                control: hex(rest, "control pages ")?,
            });
        }
        Ok(())
    }
}

/// Parses `Bye! +12 copied +3 main` as `Bye!` after 0, `copied` after 12, `main` after 3.
fn stations(line: &str) -> Result<Vec<(String, u64)>> {
    let mut stations = line.split(" +");
    let first = stations.next().unwrap_or_default().to_owned();
    let mut found = vec![(first, 0)];
    for station in stations {
        let (time, name) = station.split_once(' ').unwrap_or_default();
        let Ok(time) = time.parse() else { bail!("\"{station}\" is not a time and a name") };
        found.push((name.to_owned(), time));
    }
    Ok(found)
}

/// Parses the hexadecimal number, with its 0x, that follows `label`.
pub fn hex(line: &str, label: &str) -> Result<u64> {
    let digits = behind(line, label)?
        .strip_prefix("0x")
        .with_context(|| format!("no 0x after \"{label}\""))?;
    let end = digits.find(|digit: char| !digit.is_ascii_hexdigit()).unwrap_or(digits.len());
    u64::from_str_radix(&digits[..end], 16).with_context(|| format!("no number after \"{label}\""))
}

fn decimal(line: &str, label: &str) -> Result<u64> {
    let digits = behind(line, label)?;
    let end = digits.find(|digit: char| !digit.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().with_context(|| format!("no number after \"{label}\""))
}

fn behind<'a>(line: &'a str, label: &str) -> Result<&'a str> {
    Ok(line.split_once(label).with_context(|| format!("there is no \"{label}\" in \"{line}\""))?.1)
}

/// A good console, which tests doctor: three generations of nvhe, hot, at the same base.
pub const GOOD: &str = "\
[0] boot trace, ns: first instruction +224048 EL2 set up +269120 MMU on +130688 main
[0] entered at 753024 ns of CNTVCT
[0] Generation 0 of 3: nvhe, base 0x40200000
[0] seed 0x2a, image 479232 bytes, control pages 0x5ffc0000
[0] free memory 536209728 bytes, device tree 7846 bytes (handed over with 1048576)
[0] CPUs: 2 of 2 up; GICv3, EL1's virtual timer (INTID 27)
[0] loaded \"conf-1\": 164128 bytes hashed, 6 requests, disk 191024 ns
[0] others off in 310736 ns; ticks [16, 14], work [14, 2], interrupts not ours 0
[0] Bye! Next: copy, MMU off, HVC_SOFT_RESTART; entry 0x40200000, \
device tree 0x4027c000, control pages 0x5ffc0000, breadcrumbs 0x5ffc2000
[1] boot trace, ns: Bye! +1 in the control page +2 copied +3 maintained +4 verified \
+5 MMU off +6 leaving +7 first instruction +8 EL2 set up +9 MMU on +10 main
[1] entered at 20753024 ns of CNTVCT
[1] Generation 1 of 3: nvhe, base 0x40200000
[1] seed 0x2a, image 479232 bytes, control pages 0x5ff80000
[1] free memory 536217920 bytes, device tree 7846 bytes (handed over with 7846)
[1] CPUs: 2 of 2 up; GICv3, EL1's virtual timer (INTID 27)
[1] loaded \"conf-1\": 164128 bytes hashed, 6 requests, disk 191024 ns
[1] others off in 310736 ns; ticks [16, 14], work [14, 2], interrupts not ours 0
[1] Bye! Next: copy, MMU off, HVC_SOFT_RESTART; entry 0x40200000, \
device tree 0x5ffc2000, control pages 0x5ff80000, breadcrumbs 0x5ff82000
[2] boot trace, ns: Bye! +1 in the control page +2 copied +3 maintained +4 verified \
+5 MMU off +6 leaving +7 first instruction +8 EL2 set up +9 MMU on +10 main
[2] entered at 40753024 ns of CNTVCT
[2] Generation 2 of 3: nvhe, base 0x40200000
[2] seed 0x2a, image 479232 bytes, control pages 0x5ff40000
[2] free memory 536217920 bytes, device tree 7846 bytes (handed over with 7846)
[2] CPUs: 2 of 2 up; GICv3, EL1's virtual timer (INTID 27)
[2] Ouroboros: success
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_are_read() {
        let logs = logs(GOOD).unwrap();
        assert_eq!(logs.len(), 3);
        assert_eq!(
            (logs[1].number, logs[1].of, logs[1].mode.as_str(), logs[1].base),
            (1, 3, "nvhe", 0x4020_0000)
        );
        assert_eq!((logs[1].seed, logs[1].image, logs[1].control), (0x2a, 479_232, 0x5ff8_0000));
        assert_eq!((logs[1].free, logs[1].tree), (536_217_920, 7846));
        assert_eq!(
            (logs[1].cpus, &*logs[1].ticks, logs[1].strays),
            ((2, 2), [16, 14].as_slice(), 0)
        );
        assert_eq!(logs[0].stations(), ["first instruction", "EL2 set up", "MMU on", "main"]);
        assert_eq!(logs[0].phases[1], ("EL2 set up".to_owned(), 224_048));
        assert_eq!(
            (logs[0].entered, logs[0].hashed, logs[2].hashed),
            (753_024, Some(164_128), None)
        );
        let bye = logs[0].bye.as_ref().unwrap();
        assert_eq!(bye.way, "copy, MMU off, HVC_SOFT_RESTART");
        assert_eq!([bye.entry, bye.tree, bye.control], [0x4020_0000, 0x4027_c000, 0x5ffc_0000]);
        assert!(logs[2].bye.is_none() && logs[2].says("success"));
    }

    #[test]
    fn a_payloads_words_are_its_own() {
        let (ours, payload) = parted(GOOD, 2).unwrap();
        assert!(
            ours.ends_with("breadcrumbs 0x5ff82000\n") && payload.starts_with("[2] phases"),
            "{payload}"
        );
        let linux = format!("[    1.405106] Bye!\n{GOOD}");
        assert_eq!(parted(&linux, 2).unwrap().1, payload);
        assert!(parted(GOOD, 3).unwrap_err().to_string().contains("2 of 3 generations"));
        assert!(parted("", 1).is_err());
    }

    #[test]
    fn what_cannot_be_is_not_read() {
        for (was, is) in [
            ("[1] Generation 1 of 3", "[1] Generation 2 of 3"),
            ("[1] Generation 1 of 3: nvhe, base 0x40200000\n", ""),
            ("[1] seed", "[1] Generation 1 of 3: nvhe, base 0x40200000\n[1] seed"),
            ("base 0x40200000", "base here"),
            ("+3 maintained", "+x maintained"),
        ] {
            let doctored = GOOD.replacen(was, is, if is == "base here" { 9 } else { 1 });
            assert_ne!(doctored, GOOD);
            assert!(logs(&doctored).is_err(), "{is}");
        }
    }
}
