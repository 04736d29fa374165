//! The orders of a run: what the kernel is told in /chosen/bootargs.
//!
//! *When:* before QEMU's command line is composed. Each fact that the generations live by stands in these words, the seed
//! too, so that the same words repeat the same run.

use std::{
    fmt,
    hash::{BuildHasher, Hasher, RandomState},
};

use clap::ValueEnum;

/// Where each generation sends the next one.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Base {
    /// Onto the running kernel: everything is overwritten
    Same,
    /// Any 2 MiB slot of RAM that fits, drawn from the seed
    Random,
    /// Where the disk says
    Load,
}

/// How a generation leaves.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Restart {
    /// Copies with MMU and caches on, and leaves then
    Hot,
    /// Turns the MMU off, and copies then
    Cold,
}

/// Which of the two lives at EL2 the kernel leads.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum El2 {
    /// At EL1, above its own hyp-stub
    Nvhe,
    /// At EL2, with E2H set
    Vhe,
}

/// What the kernel is told, beside what its machine always says.
#[derive(Clone, Debug)]
pub struct Orders {
    /// How many generations there are.
    pub generations: u32,
    /// Where each generation sends the next one.
    pub base: Base,
    /// How a generation leaves.
    pub restart: Restart,
    /// What every random choice is drawn from.
    pub seed: u64,
    /// More words, as they are.
    pub append: Vec<String>,
}

impl Default for Orders {
    /// The main job at its fullest; the seed is drawn anew.
    fn default() -> Self {
        Self {
            generations: 3,
            base: Base::Same,
            restart: Restart::Hot,
            seed: draw_seed(),
            append: Vec::new(),
        }
    }
}

impl Orders {
    /// Whether the last generation goes to a payload.
    pub fn goes_on(&self) -> bool {
        self.append.iter().any(|word| word.starts_with("payload="))
    }

    /// The line for `-append`: the machine's words first, so that ours and the caller's come after them.
    pub fn bootargs(&self, machine: &str, semihosting: bool) -> String {
        let Self { generations, base, restart, seed, append } = self;
        let mut words = format!(
            "{machine} generations={generations} base={base} restart={restart} seed={seed:#018x}"
        );
        if semihosting {
            words.push_str(" semihosting");
        }
        for word in append {
            words.push(' ');
            words.push_str(word.trim());
        }
        words.trim().to_owned()
    }

    /// The value that a word among the caller's has; of one given twice the last counts.
    pub fn word(&self, key: &str) -> Option<&str> {
        let words = self.append.iter().flat_map(|words| words.split_whitespace());
        words
            .filter_map(|word| word.split_once('='))
            .rfind(|(name, _)| *name == key)
            .map(|(_, value)| value)
    }
}

/// A seed that nobody can foresee.
pub fn draw_seed() -> u64 {
    // The standard library seeds its hash maps from the system; that is all the randomness that is needed here.
    RandomState::new().build_hasher().finish()
}

/// The seed of something that has a name: other names have other seeds from the same one.
pub fn seed_of(seed: u64, name: &str) -> u64 {
    let mixed = |seed: u64, byte: u8| (seed ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    name.bytes().fold(seed, mixed)
}

/// A seed as it is typed and printed: decimal, or hexadecimal after 0x.
pub fn parse_seed(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| {
        format!(
            "`{text}` is not a number of 64 bits: type decimal digits, or 0x and hexadecimal ones"
        )
    })
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Same => "same",
            Self::Random => "random",
            Self::Load => "load",
        })
    }
}

impl fmt::Display for El2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nvhe => "nvhe",
            Self::Vhe => "vhe",
        })
    }
}

impl fmt::Display for Restart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hot => "hot",
            Self::Cold => "cold",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bootargs_hold_every_order_once() {
        let orders = Orders {
            seed: 0x2a,
            append: vec!["selftest=stub".into(), " x=1 ".into()],
            ..Orders::default()
        };
        assert_eq!(
            (orders.word("selftest"), orders.word("x"), orders.word("y")),
            (Some("stub"), Some("1"), None)
        );
        assert_eq!(
            orders.bootargs("el2=nvhe", true),
            "el2=nvhe generations=3 base=same restart=hot seed=0x000000000000002a semihosting selftest=stub x=1"
        );
        let orders = Orders {
            base: Base::Random,
            restart: Restart::Cold,
            append: vec![],
            generations: 7,
            ..orders
        };
        assert_eq!(
            orders.bootargs("", false),
            "generations=7 base=random restart=cold seed=0x000000000000002a",
            "a machine without words leaves no space in front"
        );
    }

    #[test]
    fn a_printed_seed_can_be_typed() {
        for seed in [0, 42, u64::MAX] {
            assert_eq!(parse_seed(&format!("{seed:#018x}")), Ok(seed));
            assert_eq!(parse_seed(&seed.to_string()), Ok(seed));
        }
        assert!(parse_seed("0xfish").unwrap_err().contains("0xfish"));
        assert!(parse_seed("18446744073709551616").is_err());
    }

    #[test]
    fn seeds_differ() {
        assert_ne!(draw_seed(), draw_seed());
    }
}
