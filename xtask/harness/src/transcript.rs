//! Reader of a console: one log for each generation, from its records.
//!
//! All numbers come from the records (`protocol::record`). The lines for people are kept as they
//! are, for tests that look for a message. A line `[generation] text` belongs to that
//! generation, a line without the prefix to the one that printed last.

use anyhow::{Context, Result, anyhow, ensure};
use boot::marker;
use protocol::record::{self, Record};

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
    pub trace: Vec<(String, u64)>,
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
    /// The kexec, if this kernel left.
    pub bye: Option<Bye>,
    /// Whether the run ended with success, if it ended here.
    pub end: Option<bool>,
    /// All lines for people, without the generation prefix.
    pub lines: Vec<String>,
}

/// The kexec that a generation announced, right before the point of no return.
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
    /// The address of the breadcrumbs.
    pub breadcrumbs: u64,
}

impl GenerationLog {
    /// The names of the breadcrumbs of the path to this kernel.
    pub fn breadcrumbs(&self) -> Vec<&str> {
        self.trace.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// Returns whether a line contains `words`.
    pub fn says(&self, words: &str) -> bool {
        self.lines.iter().any(|line| line.contains(words))
    }
}

/// Reads the console into generations, in its order.
pub fn logs(console: &str) -> Result<Vec<GenerationLog>> {
    let mut logs: Vec<GenerationLog> = Vec::new();
    for line in console.lines() {
        if let Some(record) = Record::parse(line) {
            let record = record.map_err(|why| anyhow!("the record \"{line}\": {why}"))?;
            if let Some(number) = generation(&record) {
                let gen_log = log_of(&mut logs, number);
                gen_log.take(record).with_context(|| format!("the record \"{line}\""))?;
            }
        } else if let Some((number, text)) = prefixed(line) {
            log_of(&mut logs, number).lines.push(text.to_owned());
        } else if let Some(gen_log) = logs.last_mut() {
            gen_log.lines.push(line.to_owned());
        }
    }
    logs.iter().try_for_each(|gen_log| {
        ensure!(gen_log.of > 0, "generation {} printed no record of itself", gen_log.number);
        Ok(())
    })?;
    Ok(logs)
}

/// The log of generation `number`, which is the last or a new one.
fn log_of(logs: &mut Vec<GenerationLog>, number: u32) -> &mut GenerationLog {
    if logs.last().is_none_or(|gen_log| gen_log.number != number) {
        logs.push(GenerationLog { number, ..GenerationLog::default() });
    }
    logs.last_mut().expect("one was pushed if there was none")
}

/// Splits `[generation] text`.
fn prefixed(line: &str) -> Option<(u32, &str)> {
    let (number, text) = line.strip_prefix('[')?.split_once("] ")?;
    Some((number.parse().ok()?, text))
}

/// The generation that a record belongs to; a rule's record does not say.
fn generation(record: &Record) -> Option<u32> {
    Some(match record {
        Record::Generation(record) => record.generation,
        Record::Cpus(record) => record.generation,
        Record::Refusal(record) => record.generation,
        Record::Kexec(record) => record.generation,
        Record::End(record) => record.generation,
        Record::Rule(_) => return None,
    })
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
    fn take(&mut self, record: Record) -> Result<()> {
        match record {
            Record::Generation(record) => {
                ensure!(self.of == 0, "generation {} is recorded twice", self.number);
                ensure!(record.of > 0, "a run of no generations");
                let trace = record.boot_trace.into_iter().map(|(name, ns)| {
                    let ns = u64::try_from(ns).with_context(|| format!("{ns} ns to \"{name}\""))?;
                    Ok((name.into_owned(), ns))
                });
                self.trace = trace.collect::<Result<_>>()?;
                (self.of, self.mode) = (record.of, record.mode.into_owned());
                (self.base, self.seed) = (record.base.0, record.seed.0);
                (self.image, self.control) = (record.image_bytes, record.control_pages.0);
                (self.free, self.tree) = (record.free_bytes, record.fdt_bytes);
                self.entered = record.entered_ns;
                self.found.extend(record.stale);
            }
            Record::Cpus(record::Cpus { up, of, interrupts, stale, .. }) => {
                (self.cpus, self.has_interrupts) = ((up, of), interrupts.is_some());
                self.found.extend(stale);
            }
            Record::Refusal(record) => self.refused.push(record.reason),
            Record::Kexec(record) => {
                (self.hashed, self.waited) = (Some(record.hashed_bytes), Some(record.disk_ns));
                (self.ticks, self.strays) = (record.ticks, record.strays);
                self.bye = Some(Bye {
                    way: record.next.into_owned(),
                    entry: record.entry.0,
                    tree: record.fdt.0,
                    control: record.control_pages.0,
                    breadcrumbs: record.breadcrumbs.0,
                });
            }
            Record::End(record) => self.end = Some(record.success),
            Record::Rule(_) => {}
        }
        Ok(())
    }
}

/// Parses the hexadecimal number, with its 0x, that follows `label`.
pub fn hex(line: &str, label: &str) -> Result<u64> {
    let digits = behind(line, label)?
        .strip_prefix("0x")
        .with_context(|| format!("no 0x after \"{label}\""))?;
    let end = digits.find(|digit: char| !digit.is_ascii_hexdigit()).unwrap_or(digits.len());
    u64::from_str_radix(&digits[..end], 16).with_context(|| format!("no number after \"{label}\""))
}

fn behind<'a>(line: &'a str, label: &str) -> Result<&'a str> {
    Ok(line.split_once(label).with_context(|| format!("there is no \"{label}\" in \"{line}\""))?.1)
}

/// A good console, which tests doctor: three generations of nvhe, hot, at the same base.
pub const GOOD: &str = "\
[0] Generation 0 of 3: nvhe, base 0x40200000
{\"ouroboros\":2,\"record\":\"generation\",\"generation\":0,\"of\":3,\"mode\":\"nvhe\",\
\"base\":\"0x40200000\",\"seed\":\"0x2a\",\"image_bytes\":479232,\"control_pages\":\"0x5ffc0000\",\
\"free_bytes\":536209728,\"fdt_bytes\":7846,\"fdt_entry_bytes\":1048576,\"entered_ns\":753024,\
\"boot_trace\":[[\"first instruction\",0],[\"EL2 set up\",224048],[\"MMU on\",269120],\
[\"main\",130688]],\"stale\":[]}
{\"ouroboros\":2,\"record\":\"cpus\",\"generation\":0,\"up\":2,\"of\":2,\
\"interrupts\":\"GICv3, EL1's virtual timer (INTID 27)\",\"stale\":[]}
{\"ouroboros\":2,\"record\":\"kexec\",\"generation\":0,\
\"next\":\"copy, MMU off, HVC_SOFT_RESTART\",\"entry\":\"0x40200000\",\"fdt\":\"0x4027c000\",\
\"control_pages\":\"0x5ffc0000\",\"breadcrumbs\":\"0x5ffc2000\",\"hashed_bytes\":164128,\
\"disk_requests\":6,\"disk_ns\":191024,\"stop_ns\":310736,\"ticks\":[16,14],\"work\":[14,2],\
\"strays\":0}
[0] Bye! Next: copy, MMU off, HVC_SOFT_RESTART; entry 0x40200000, breadcrumbs 0x5ffc2000
[1] Generation 1 of 3: nvhe, base 0x40200000
{\"ouroboros\":2,\"record\":\"generation\",\"generation\":1,\"of\":3,\"mode\":\"nvhe\",\
\"base\":\"0x40200000\",\"seed\":\"0x2a\",\"image_bytes\":479232,\"control_pages\":\"0x5ff80000\",\
\"free_bytes\":536217920,\"fdt_bytes\":7846,\"fdt_entry_bytes\":7846,\"entered_ns\":20753024,\
\"boot_trace\":[[\"Bye!\",0],[\"in the control page\",1],\
[\"copied\",2],[\"maintained\",3],[\"verified\",4],[\"MMU off\",5],[\"leaving\",6],\
[\"first instruction\",7],[\"EL2 set up\",8],[\"MMU on\",9],[\"main\",10]],\"stale\":[]}
{\"ouroboros\":2,\"record\":\"cpus\",\"generation\":1,\"up\":2,\"of\":2,\
\"interrupts\":\"GICv3, EL1's virtual timer (INTID 27)\",\"stale\":[]}
{\"ouroboros\":2,\"record\":\"kexec\",\"generation\":1,\
\"next\":\"copy, MMU off, HVC_SOFT_RESTART\",\"entry\":\"0x40200000\",\"fdt\":\"0x5ffc2000\",\
\"control_pages\":\"0x5ff80000\",\"breadcrumbs\":\"0x5ff82000\",\"hashed_bytes\":164128,\
\"disk_requests\":6,\"disk_ns\":191024,\"stop_ns\":310736,\"ticks\":[16,14],\"work\":[14,2],\
\"strays\":0}
[1] Bye! Next: copy, MMU off, HVC_SOFT_RESTART; entry 0x40200000, breadcrumbs 0x5ff82000
[2] Generation 2 of 3: nvhe, base 0x40200000
{\"ouroboros\":2,\"record\":\"generation\",\"generation\":2,\"of\":3,\"mode\":\"nvhe\",\
\"base\":\"0x40200000\",\"seed\":\"0x2a\",\"image_bytes\":479232,\"control_pages\":\"0x5ff40000\",\
\"free_bytes\":536217920,\"fdt_bytes\":7846,\"fdt_entry_bytes\":7846,\"entered_ns\":40753024,\
\"boot_trace\":[[\"Bye!\",0],[\"in the control page\",1],\
[\"copied\",2],[\"maintained\",3],[\"verified\",4],[\"MMU off\",5],[\"leaving\",6],\
[\"first instruction\",7],[\"EL2 set up\",8],[\"MMU on\",9],[\"main\",10]],\"stale\":[]}
{\"ouroboros\":2,\"record\":\"cpus\",\"generation\":2,\"up\":2,\"of\":2,\
\"interrupts\":\"GICv3, EL1's virtual timer (INTID 27)\",\"stale\":[]}
[2] Ouroboros: success
{\"ouroboros\":2,\"record\":\"end\",\"generation\":2,\"success\":true}
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_are_read() {
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
        assert_eq!(logs[0].breadcrumbs(), ["first instruction", "EL2 set up", "MMU on", "main"]);
        assert_eq!(logs[0].trace[1], ("EL2 set up".to_owned(), 224_048));
        assert_eq!(
            (logs[0].entered, logs[0].hashed, logs[2].hashed),
            (753_024, Some(164_128), None)
        );
        let bye = logs[0].bye.as_ref().unwrap();
        assert_eq!(bye.way, "copy, MMU off, HVC_SOFT_RESTART");
        assert_eq!([bye.entry, bye.tree, bye.control], [0x4020_0000, 0x4027_c000, 0x5ffc_0000]);
        assert!(logs[2].bye.is_none() && logs[2].says("success"));
        assert_eq!((logs[1].end, logs[2].end), (None, Some(true)));
    }

    #[test]
    fn a_payloads_words_are_its_own() {
        let (ours, payload) = parted(GOOD, 2).unwrap();
        assert!(
            ours.ends_with("breadcrumbs 0x5ff82000\n") && payload.starts_with("[2] Generation"),
            "{payload}"
        );
        let linux = format!("[    1.405106] Bye!\n{GOOD}");
        assert_eq!(parted(&linux, 2).unwrap().1, payload);
        assert!(parted(GOOD, 3).unwrap_err().to_string().contains("2 of 3 generations"));
        assert!(parted("", 1).is_err());
    }

    #[test]
    fn doctored_records_are_refused() {
        for (was, is) in [
            ("\"record\":\"generation\",\"generation\":1", "\"record\":\"cpus\",\"generation\":1"),
            (
                "\"record\":\"generation\",\"generation\":2",
                "\"record\":\"generation\",\"generation\":1",
            ),
            ("\"base\":\"0x40200000\"", "\"base\":\"here\""),
            ("\"of\":3", "\"of\":0"),
            ("[\"maintained\",3]", "[\"maintained\",-3]"),
            ("{\"ouroboros\":2,", "{\"ouroboros\":1,"),
        ] {
            let doctored = GOOD.replacen(was, is, 1);
            assert_ne!(doctored, GOOD);
            assert!(logs(&doctored).is_err(), "{is}");
        }
    }
}
