//! The kernel's bootargs for a run: what xtask writes into /chosen/bootargs.
//!
//! Everything that the generations depend on is in these parameters, the seed included, so the same
//! bootargs repeat the same run.

use std::hash::{BuildHasher, Hasher, RandomState};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use protocol::cmdline::{Word, number};

pub use protocol::cmdline::{Base, El2, Restart};

/// Returns clap's parser for a value that the kernel parses by the same words.
pub fn word<T: Word>() -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(T::WORDS.iter().map(|(word, _)| *word))
        .map(|word| T::of(&word).expect("clap accepts these words alone"))
}

/// The parameters of a run, apart from those of its machine.
#[derive(Clone, Debug)]
pub struct Cmdline {
    /// The number of generations.
    pub generations: u32,
    /// The destination of each copy of the kernel.
    pub base: Base,
    /// When the copy is made.
    pub restart: Restart,
    /// The seed of every random choice.
    pub seed: u64,
    /// More parameters, as they are.
    pub append: Vec<String>,
}

impl Default for Cmdline {
    /// Three generations, each onto the running kernel, copied hot; with a fresh seed.
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

impl Cmdline {
    /// Returns whether the last generation kexecs a payload.
    pub fn kexecs_payload(&self) -> bool {
        self.append.iter().any(|word| word.starts_with("payload="))
    }

    /// Formats the line for `-append`. The machine's parameters come first, so that ours and the
    /// caller's can override them.
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

    /// The value of the parameter `key` in `append`. If it is given twice, the last value counts.
    pub fn word(&self, key: &str) -> Option<&str> {
        let words = self.append.iter().flat_map(|words| words.split_whitespace());
        words
            .filter_map(|word| word.split_once('='))
            .rfind(|(name, _)| *name == key)
            .map(|(_, value)| value)
    }
}

/// Draws a random seed.
pub fn draw_seed() -> u64 {
    // The standard library seeds its hash maps from the system; that is enough randomness here.
    RandomState::new().build_hasher().finish()
}

/// Derives the seed of the thing called `name` from a common seed; different names get different
/// seeds.
pub fn seed_of(seed: u64, name: &str) -> u64 {
    let mixed = |seed: u64, byte: u8| (seed ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    name.bytes().fold(seed, mixed)
}

/// Parses a seed as typed and printed: decimal, or hexadecimal after 0x.
pub fn parse_seed(text: &str) -> Result<u64, String> {
    number(text).ok_or_else(|| {
        format!(
            "`{text}` is not a number of 64 bits: type decimal digits, or 0x and hexadecimal ones"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bootargs_hold_every_order_once() {
        let cmdline = Cmdline {
            seed: 0x2a,
            append: vec!["selftest=stub".into(), " x=1 ".into()],
            ..Cmdline::default()
        };
        assert_eq!(
            (cmdline.word("selftest"), cmdline.word("x"), cmdline.word("y")),
            (Some("stub"), Some("1"), None)
        );
        assert_eq!(
            cmdline.bootargs("el2=nvhe", true),
            "el2=nvhe generations=3 base=same restart=hot seed=0x000000000000002a \
             semihosting selftest=stub x=1"
        );
        let cmdline = Cmdline {
            base: Base::Random,
            restart: Restart::Cold,
            append: vec![],
            generations: 7,
            ..cmdline
        };
        assert_eq!(
            cmdline.bootargs("", false),
            "generations=7 base=random restart=cold seed=0x000000000000002a",
            "a machine without parameters leaves no space in front"
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
