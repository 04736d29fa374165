//! A console read as the lives that it tells of.
//!
//! *When:* after a run, by whoever proves or tests it. A log line is `[generation] text`; lines without that belong to whoever spoke last. The words
//! are the kernel's own (`main::introduce`, `stage`, `way_here`): a line that a case needs and that is not as expected fails it.

use anyhow::{Context, Result, bail, ensure};
use boot::marker;

/// One generation, as it told of itself.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Life {
    /// Its number.
    pub number: u32,
    /// How many there are to be.
    pub of: u32,
    /// el1, nvhe or vhe.
    pub mode: String,
    /// Where it lies.
    pub base: u64,
    /// What it draws from.
    pub seed: u64,
    /// Bytes of memory that are its image's.
    pub image: u64,
    /// Where its control pages start.
    pub control: u64,
    /// Bytes of free memory.
    pub free: u64,
    /// Bytes of its device tree.
    pub tree: u64,
    /// CNTVCT at its first instruction, in nanoseconds.
    pub entered: u64,
    /// The stations of the way here, each with the nanoseconds since the one before.
    pub phases: Vec<(String, u64)>,
    /// Bytes that it hashed to load its successor, the last time.
    pub hashed: Option<u64>,
    /// Nanoseconds that it waited for the disk meanwhile.
    pub waited: Option<u64>,
    /// Why it did not restart, each time.
    pub refused: Vec<String>,
    /// How many CPUs are up, and how many there are.
    pub cpus: (u32, u32),
    /// Whether it takes interrupts at all.
    pub has_interrupts: bool,
    /// How many of its timer's interrupts each CPU took, as told when the others are off.
    pub ticks: Vec<u64>,
    /// Interrupts that it was entered with.
    pub found: Vec<String>,
    /// How many interrupts it took that were not its own.
    pub strays: u64,
    /// How it left, if it did.
    pub bye: Option<Bye>,
    /// All that it said, without its number.
    pub lines: Vec<String>,
}

/// The last words before the point of no return.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Bye {
    /// What is about to happen.
    pub way: String,
    /// The next image's first instruction.
    pub entry: u64,
    /// Its device tree.
    pub tree: u64,
    /// Where the relocation code lies.
    pub control: u64,
}

impl Life {
    /// The names of the stations of the way here.
    pub fn stations(&self) -> Vec<&str> {
        self.phases.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// Whether a line of it has `words`.
    pub fn says(&self, words: &str) -> bool {
        self.lines.iter().any(|line| line.contains(words))
    }
}

/// The lives, in the order of the console.
pub fn lives(console: &str) -> Result<Vec<Life>> {
    let mut lives: Vec<Life> = Vec::new();
    for line in console.lines() {
        let said = line.strip_prefix('[').and_then(|rest| rest.split_once("] "));
        let (speaker, text) = match said.map(|(number, text)| (number.parse::<u32>(), text)) {
            Some((Ok(number), text)) => (Some(number), text),
            _ => (None, line),
        };
        if let Some(number) = speaker
            && lives.last().is_none_or(|life| life.number != number)
        {
            lives.push(Life { number, ..Life::default() });
        }
        let Some(life) = lives.last_mut() else { continue };
        life.hear(text).with_context(|| format!("the line \"{line}\""))?;
        life.lines.push(text.to_owned());
    }
    lives.iter().try_for_each(|life| {
        ensure!(life.of > 0, "generation {} did not introduce itself", life.number);
        Ok(())
    })?;
    Ok(lives)
}

/// The console in two: what so many generations said, and what came after the last one's "Bye!".
pub fn parted(console: &str, generations: u32) -> Result<(&str, &str)> {
    // Behind a generation's number: the way here begins with the same word, and Linux says it too, behind a time.
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
        "{count} of {generations} generations said \"{}\"",
        marker::BYE
    );
    let end = console[at..].find('\n').map_or(console.len(), |end| at + end + 1);
    Ok(console.split_at(end))
}

impl Life {
    fn hear(&mut self, text: &str) -> Result<()> {
        if let Some(rest) = text.strip_prefix(marker::GENERATION) {
            ensure!(self.of == 0, "generation {} introduces itself twice", self.number);
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
        } else if let Some(rest) = text.strip_prefix("phases, ns: ") {
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
        } else if let Some(rest) = text.strip_prefix(marker::FOUND) {
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

/// `Bye! +12 copied +3 main` as `Bye!` after 0, `copied` after 12, `main` after 3.
fn stations(line: &str) -> Result<Vec<(String, u64)>> {
    let mut stations = line.split(" +");
    let first = stations.next().unwrap_or_default().to_owned();
    let mut found = vec![(first, 0)];
    for station in stations {
        let (time, name) = station.split_once(' ').unwrap_or_default();
        let Ok(time) = time.parse() else { bail!("\"{station}\" is no time and a name") };
        found.push((name.to_owned(), time));
    }
    Ok(found)
}

/// The hexadecimal number, with its 0x, behind `label`.
pub fn hex(line: &str, label: &str) -> Result<u64> {
    let digits = behind(line, label)?
        .strip_prefix("0x")
        .with_context(|| format!("no 0x behind \"{label}\""))?;
    let end = digits.find(|digit: char| !digit.is_ascii_hexdigit()).unwrap_or(digits.len());
    u64::from_str_radix(&digits[..end], 16).with_context(|| format!("no number behind \"{label}\""))
}

fn decimal(line: &str, label: &str) -> Result<u64> {
    let digits = behind(line, label)?;
    let end = digits.find(|digit: char| !digit.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().with_context(|| format!("no number behind \"{label}\""))
}

fn behind<'a>(line: &'a str, label: &str) -> Result<&'a str> {
    Ok(line.split_once(label).with_context(|| format!("there is no \"{label}\" in \"{line}\""))?.1)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Three generations of nvhe, hot, at the same base.
    pub const GOOD: &str = "\
[0] phases, ns: first instruction +224048 EL2 set up +269120 MMU on +130688 main
[0] entered at 753024 ns of CNTVCT
[0] Generation 0 of 3: nvhe, base 0x40200000
[0] seed 0x2a, image 479232 bytes, control pages 0x5ffc0000
[0] free memory 536209728 bytes, device tree 7846 bytes (handed over with 1048576)
[0] CPUs: 2 of 2 up; GICv3, EL1's virtual timer (INTID 27)
[0] loaded \"conf-1\": 164128 bytes hashed, 6 requests, disk 191024 ns
[0] others off in 310736 ns; ticks [16, 14], work [14, 2], interrupts not ours 0
[0] Bye! Next: copy, MMU off, HVC_SOFT_RESTART; entry 0x40200000, device tree 0x4027c000, control pages 0x5ffc0000, breadcrumbs 0x5ffc2000
[1] phases, ns: Bye! +1 in the control page +2 copied +3 maintained +4 verified +5 MMU off +6 leaving +7 first instruction +8 EL2 set up +9 MMU on +10 main
[1] entered at 20753024 ns of CNTVCT
[1] Generation 1 of 3: nvhe, base 0x40200000
[1] seed 0x2a, image 479232 bytes, control pages 0x5ff80000
[1] free memory 536217920 bytes, device tree 7846 bytes (handed over with 7846)
[1] CPUs: 2 of 2 up; GICv3, EL1's virtual timer (INTID 27)
[1] loaded \"conf-1\": 164128 bytes hashed, 6 requests, disk 191024 ns
[1] others off in 310736 ns; ticks [16, 14], work [14, 2], interrupts not ours 0
[1] Bye! Next: copy, MMU off, HVC_SOFT_RESTART; entry 0x40200000, device tree 0x5ffc2000, control pages 0x5ff80000, breadcrumbs 0x5ff82000
[2] phases, ns: Bye! +1 in the control page +2 copied +3 maintained +4 verified +5 MMU off +6 leaving +7 first instruction +8 EL2 set up +9 MMU on +10 main
[2] entered at 40753024 ns of CNTVCT
[2] Generation 2 of 3: nvhe, base 0x40200000
[2] seed 0x2a, image 479232 bytes, control pages 0x5ff40000
[2] free memory 536217920 bytes, device tree 7846 bytes (handed over with 7846)
[2] CPUs: 2 of 2 up; GICv3, EL1's virtual timer (INTID 27)
[2] Ouroboros: success
";

    #[test]
    fn lives_are_read() {
        let lives = lives(GOOD).unwrap();
        assert_eq!(lives.len(), 3);
        assert_eq!(
            (lives[1].number, lives[1].of, lives[1].mode.as_str(), lives[1].base),
            (1, 3, "nvhe", 0x4020_0000)
        );
        assert_eq!((lives[1].seed, lives[1].image, lives[1].control), (0x2a, 479_232, 0x5ff8_0000));
        assert_eq!((lives[1].free, lives[1].tree), (536_217_920, 7846));
        assert_eq!(
            (lives[1].cpus, &*lives[1].ticks, lives[1].strays),
            ((2, 2), [16, 14].as_slice(), 0)
        );
        assert_eq!(lives[0].stations(), ["first instruction", "EL2 set up", "MMU on", "main"]);
        assert_eq!(lives[0].phases[1], ("EL2 set up".to_owned(), 224_048));
        assert_eq!(
            (lives[0].entered, lives[0].hashed, lives[2].hashed),
            (753_024, Some(164_128), None)
        );
        let bye = lives[0].bye.as_ref().unwrap();
        assert_eq!(bye.way, "copy, MMU off, HVC_SOFT_RESTART");
        assert_eq!([bye.entry, bye.tree, bye.control], [0x4020_0000, 0x4027_c000, 0x5ffc_0000]);
        assert!(lives[2].bye.is_none() && lives[2].says("success"));
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
            assert!(lives(&doctored).is_err(), "{is}");
        }
    }
}
