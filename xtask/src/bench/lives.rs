//! What each generation tells of itself, read off the console of a run.
//!
//! *When:* after a run that is measured. Pure. The words are the kernel's (`kernel/src/main.rs`, `kernel/src/way_here.rs`); a
//! line that has been worded anew is missed here, and the figure that needs it is then "not measured", never a wrong one.

use anyhow::{Context, Result};

/// One generation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Life {
    /// Its number.
    pub number: u32,
    /// CNTVCT at its first instruction, in nanoseconds.
    pub entered: Option<u64>,
    /// Each phase from its predecessor's "Bye!" to its own main, in nanoseconds.
    pub phases: Vec<(String, u64)>,
    /// Bytes of its image in memory.
    pub image: Option<u64>,
    /// Bytes of memory that are free.
    pub free: Option<u64>,
    /// Bytes of its device tree.
    pub tree: Option<u64>,
    /// Bytes that it hashed to load its successor.
    pub hashed: Option<u64>,
    /// Nanoseconds that it waited for the disk.
    pub waited: Option<u64>,
}

/// From one generation's first instruction to the next one's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// The number of the generation that it begins with.
    pub number: u32,
    /// Nanoseconds, the waiting for the disk included.
    pub whole: u64,
    /// Of them, waiting for the disk.
    pub waited: u64,
    /// Bytes that were hashed meanwhile.
    pub hashed: u64,
}

impl Span {
    /// Nanoseconds without the waiting for the disk.
    pub fn busy(&self) -> f64 {
        self.whole.saturating_sub(self.waited) as f64
    }
}

impl Life {
    /// How long the phase called `name` took.
    pub fn phase(&self, name: &str) -> Result<u64> {
        let found = self.phases.iter().find(|(phase, _)| phase == name);
        found.map(|(_, ns)| *ns).with_context(|| format!("generation {} does not tell of `{name}`", self.number))
    }

    /// Takes what a line says, if it says something.
    fn take(&mut self, text: &str) {
        if let Some(phases) = text.strip_prefix("phases, ns: ") {
            let stations = phases.split(" +").filter_map(|station| station.split_once(' '));
            self.phases = stations.filter_map(|(ns, name)| Some((name.to_owned(), ns.parse().ok()?))).collect();
        }
        let keep = |field: &mut Option<u64>, before: &str, after: &str| {
            if let Some(number) = between(text, before, after) {
                *field = Some(number);
            }
        };
        keep(&mut self.entered, "entered at ", " ns of CNTVCT");
        keep(&mut self.image, ", image ", " bytes");
        keep(&mut self.free, "free memory ", " bytes");
        keep(&mut self.tree, ", device tree ", " bytes");
        keep(&mut self.hashed, "\": ", " bytes hashed");
        keep(&mut self.waited, ", disk ", " ns");
    }
}

/// The number that stands between two pieces of text.
fn between(text: &str, before: &str, after: &str) -> Option<u64> {
    let rest = &text[text.find(before)? + before.len()..];
    rest[..rest.find(after)?].parse().ok()
}

/// The generations in a console, in the order in which they came up. A reset begins a new sequence with generation 0.
pub fn lives(console: &str) -> Vec<Life> {
    let mut lives: Vec<Life> = Vec::new();
    for line in console.lines() {
        let Some((number, text)) = line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) else { continue };
        let Ok(number) = number.trim().parse() else { continue };
        if lives.last().is_none_or(|life| life.number != number) {
            lives.push(Life { number, ..Life::default() });
        }
        if let Some(life) = lives.last_mut() {
            life.take(text);
        }
    }
    lives
}

/// The spans between generations of which the second follows the first, or what was not told.
pub fn spans(lives: &[Life]) -> impl Iterator<Item = Result<Span>> {
    let followed = lives.windows(2).filter(|pair| pair[1].number == pair[0].number + 1);
    followed.map(|pair| span(&pair[0], &pair[1]))
}

fn span(from: &Life, to: &Life) -> Result<Span> {
    let number = from.number;
    let told = |field: Option<u64>, what: &str| {
        field.with_context(|| format!("the console of generation {number} or the next does not tell {what}"))
    };
    let (start, end) = (told(from.entered, "when it was entered")?, told(to.entered, "when it was entered")?);
    let whole =
        end.checked_sub(start).with_context(|| format!("the counter went backwards after generation {number}"))?;
    let waited = told(from.waited, "how long it waited for the disk")?;
    Ok(Span { number, whole, waited, hashed: told(from.hashed, "how much it hashed")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: &str = "\
[0] phases, ns: first instruction +144 EL2 set up +29264 MMU on +37344 main
[0] entered at 32 ns of CNTVCT
[0] Generation 0 of 3: nvhe, base 0x40200000
[0] seed 0xde00ecfda1e5b9fc, image 475136 bytes, control pages 0x5ffc0000
[0] free memory 536213824 bytes, device tree 7846 bytes (handed over with 1048576)
[0] found a block device of size 160KB
[0] loaded \"conf-1\": 160032 bytes hashed, 6 requests, disk 2064 ns
[0] Bye! Next: copy, MMU off, HVC_SOFT_RESTART; entry 0x40200000, device tree 0x4027c000
[1] phases, ns: Bye! +114048 in the control page +56112 copied +16 maintained +105760 verified
[1] entered at 7530576 ns of CNTVCT
[1] free memory 536222016 bytes, device tree 7846 bytes (handed over with 7846)
";

    #[test]
    fn a_generation_tells_of_itself() {
        let lives = lives(CONSOLE);
        assert_eq!(lives.len(), 2);
        let first = Life {
            number: 0,
            entered: Some(32),
            phases: [("EL2 set up", 144), ("MMU on", 29264), ("main", 37344)].map(|(p, n)| (p.to_owned(), n)).into(),
            image: Some(475_136),
            free: Some(536_213_824),
            tree: Some(7846),
            hashed: Some(160_032),
            waited: Some(2064),
        };
        assert_eq!(lives[0], first);
        assert_eq!(lives[1].phase("copied").unwrap(), 56112);
        assert_eq!(lives[1].phase("in the control page").unwrap(), 114_048);
        assert!(lives[1].phase("baked").unwrap_err().to_string().contains("baked"));
    }

    #[test]
    fn a_span_reaches_from_first_instruction_to_first_instruction() {
        let span = spans(&lives(CONSOLE)).next().unwrap().unwrap();
        assert_eq!(span, Span { number: 0, whole: 7_530_544, waited: 2064, hashed: 160_032 });
        assert_eq!(span.busy(), 7_528_480.0);
    }

    #[test]
    fn what_was_not_told_is_not_made_up() {
        let silent = CONSOLE.replace("disk 2064 ns", "and so on");
        let lacks = spans(&lives(&silent)).next().unwrap().unwrap_err();
        assert!(lacks.to_string().contains("disk"), "{lacks}");
    }

    #[test]
    fn a_reset_is_no_span() {
        let twice = CONSOLE.replace("[1]", "[5]") + CONSOLE;
        assert_eq!(spans(&lives(&twice)).count(), 1);
    }
}
