//! The orders: what the words of /chosen/bootargs ask of this generation and the ones after it.
//!
//! *When:* read once, in the first lines of Rust, because the mode depends on them. *Refuses:* a known word with a value that it cannot
//! have, or one that is no number. A word that it does not know is another program's and is passed over, as kernels do.

use alloc::borrow::ToOwned;
use alloc::string::String;
use core::fmt;

/// Where a copy lands.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Base {
    /// Exactly on the running kernel.
    #[default]
    Same,
    /// Any 2 MiB slot of RAM, and control pages anywhere.
    Random,
    /// Where the FIT's `load` says.
    Load,
}

/// Whether the copy runs with MMU and caches on.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Restart {
    /// Copy first, then MMU off.
    #[default]
    Hot,
    /// MMU off first.
    Cold,
}

/// Which of the two lives at EL2 is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum El2 {
    /// At EL1, over the stub.
    Nvhe,
    /// At EL2, with E2H.
    Vhe,
}

/// Which CPU restarts, where it is not the one that was entered first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RestartCpu {
    /// By its place in the device tree's order, from 0.
    Number(usize),
    /// Any of them.
    Random,
}

/// What is tested beside living.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Selftest {
    /// The hyp-stub's conformance suite, on every CPU, instead of a life.
    Stub,
    /// Before each restart, interrupts in every state that the next kernel must not find.
    Interrupts,
    /// Before each restart, a GIC that still uses tables in memory.
    Lpis,
    /// During each restart, interrupts that nobody drives, as many as there can be.
    Storm,
}

/// All that bootargs can order.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Orders {
    /// `generations=N`: how many lives there are in all, at least one.
    pub generations: u32,
    /// `payload=NAME`: the last of them goes to the FIT's configuration of that name instead of ending.
    pub payload: Option<String>,
    /// `base=same|random|load`.
    pub base: Base,
    /// `seed=S`, decimal or 0x: what `base=random` draws from.
    pub seed: Option<u64>,
    /// `restart=hot|cold`.
    pub restart: Restart,
    /// `el2=nvhe|vhe`; where it is not given the CPU decides.
    pub el2: Option<El2>,
    /// `alternate`: nvhe in even generations, vhe in odd ones.
    pub alternate: bool,
    /// `semihosting`: the end may be told to the host by a semihosting call.
    pub semihosting: bool,
    /// `on-refusal=continue`: after a refusal go on with the FIT's next configuration.
    pub continue_on_refusal: bool,
    /// `restart-cpu=N|random`: the CPU that goes; where it is not given, the one that came.
    pub restart_cpu: Option<RestartCpu>,
    /// `force`: go even if a CPU will not stop.
    pub force: bool,
    /// `check`: the boot protocol is held against what was found.
    pub check: bool,
    /// `selftest=stub|interrupts|lpis|storm`.
    pub selftest: Option<Selftest>,
}

impl Default for Orders {
    fn default() -> Self {
        Self {
            generations: 1,
            payload: None,
            base: Base::default(),
            seed: None,
            restart: Restart::default(),
            el2: None,
            alternate: false,
            semihosting: false,
            continue_on_refusal: false,
            restart_cpu: None,
            force: false,
            check: false,
            selftest: None,
        }
    }
}

/// A word of bootargs that cannot be obeyed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refused<'a> {
    word: &'a str,
    expected: &'static str,
}

impl fmt::Display for Refused<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bootargs: \"{}\": expected {}", self.word, self.expected)
    }
}

impl Orders {
    /// Reads the words of `bootargs`. Of a word given twice the last one counts.
    ///
    /// # Errors
    ///
    /// The first word that cannot be obeyed, with the orders as they are without it.
    pub fn parse(bootargs: &str) -> (Self, Result<(), Refused<'_>>) {
        let mut orders = Self::default();
        let mut result = Ok(());
        for word in bootargs.split_ascii_whitespace() {
            if let Err(expected) = orders.obey(word)
                && result.is_ok()
            {
                result = Err(Refused { word, expected });
            }
        }
        (orders, result)
    }

    fn obey(&mut self, word: &str) -> Result<(), &'static str> {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        match (key, value) {
            ("generations", _) => {
                let count = number(value).and_then(|n| u32::try_from(n).ok()).filter(|&n| n > 0);
                self.generations = count.ok_or("generations=N, a number from 1 to 4294967295")?;
            }
            ("payload", "") => return Err("payload=NAME, a configuration of the FIT"),
            ("payload", name) => self.payload = Some(name.to_owned()),
            ("base", "same") => self.base = Base::Same,
            ("base", "random") => self.base = Base::Random,
            ("base", "load") => self.base = Base::Load,
            ("base", _) => return Err("base=same, random or load"),
            ("seed", _) => {
                self.seed = Some(number(value).ok_or("seed=S, a 64-bit number, decimal or 0x…")?)
            }
            ("restart", "hot") => self.restart = Restart::Hot,
            ("restart", "cold") => self.restart = Restart::Cold,
            ("restart", _) => return Err("restart=hot or cold"),
            ("el2", "nvhe") => self.el2 = Some(El2::Nvhe),
            ("el2", "vhe") => self.el2 = Some(El2::Vhe),
            ("el2", _) => return Err("el2=nvhe or vhe"),
            ("alternate", "") => self.alternate = true,
            ("alternate", _) => return Err("alternate, without a value"),
            ("semihosting", "") => self.semihosting = true,
            ("semihosting", _) => return Err("semihosting, without a value"),
            ("on-refusal", "continue") => self.continue_on_refusal = true,
            ("on-refusal", _) => return Err("on-refusal=continue"),
            ("restart-cpu", "random") => self.restart_cpu = Some(RestartCpu::Random),
            ("restart-cpu", _) => {
                let index = number(value)
                    .and_then(|n| usize::try_from(n).ok())
                    .ok_or("restart-cpu=N, a number, or random")?;
                self.restart_cpu = Some(RestartCpu::Number(index));
            }
            ("force", "") => self.force = true,
            ("force", _) => return Err("force, without a value"),
            ("check", "") => self.check = true,
            ("check", _) => return Err("check, without a value"),
            ("selftest", "stub") => self.selftest = Some(Selftest::Stub),
            ("selftest", "interrupts") => self.selftest = Some(Selftest::Interrupts),
            ("selftest", "lpis") => self.selftest = Some(Selftest::Lpis),
            ("selftest", "storm") => self.selftest = Some(Selftest::Storm),
            ("selftest", _) => return Err("selftest=stub, interrupts, lpis or storm"),
            _ => {}
        }
        Ok(())
    }

    /// Which life at EL2 generation `generation` is to have, where these orders say.
    #[must_use]
    pub const fn el2(&self, generation: u32) -> Option<El2> {
        match (self.alternate, generation % 2) {
            (false, _) => self.el2,
            (true, 0) => Some(El2::Nvhe),
            (true, _) => Some(El2::Vhe),
        }
    }
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn no_words_are_one_generation_on_the_same_place() {
        assert_eq!(Orders::parse(""), (Orders::default(), Ok(())));
        assert_eq!(Orders::default().generations, 1);
    }

    #[test]
    fn every_word_is_obeyed() {
        let words = "console=ttyAMA0 generations=7 payload=conf-2 base=random seed=0x1F restart=cold el2=vhe alternate semihosting \
                     on-refusal=continue restart-cpu=2 force check selftest=stub quiet";
        let expected = Orders {
            generations: 7,
            payload: Some("conf-2".to_string()),
            base: Base::Random,
            seed: Some(31),
            restart: Restart::Cold,
            el2: Some(El2::Vhe),
            alternate: true,
            semihosting: true,
            continue_on_refusal: true,
            restart_cpu: Some(RestartCpu::Number(2)),
            force: true,
            check: true,
            selftest: Some(Selftest::Stub),
        };
        assert_eq!(Orders::parse(words), (expected, Ok(())));
    }

    #[test]
    fn a_value_that_cannot_be_names_its_word() {
        for (word, hint) in [
            ("generations=0", "from 1"),
            ("generations=x", "from 1"),
            ("generations=4294967296", "from 1"),
            ("payload=", "a configuration of the FIT"),
            ("base=here", "same, random or load"),
            ("seed=0xg", "64-bit"),
            ("seed=18446744073709551616", "64-bit"),
            ("restart=warm", "hot or cold"),
            ("el2=on", "nvhe or vhe"),
            ("alternate=no", "without a value"),
            ("semihosting=off", "without a value"),
            ("on-refusal=panic", "continue"),
            ("restart-cpu=all", "random"),
            ("force=no", "without a value"),
            ("check=all", "without a value"),
            ("selftest=all", "stub, interrupts, lpis or storm"),
        ] {
            let (orders, result) = Orders::parse(word);
            let message = result.unwrap_err().to_string();
            assert!(message.contains(word) && message.contains(hint), "{message}");
            assert_eq!(orders, Orders::default());
        }
    }

    #[test]
    fn alternating_overrides_and_starts_with_nvhe() {
        let (orders, _) = Orders::parse("alternate el2=vhe");
        assert_eq!(
            [0, 1, 2].map(|g| orders.el2(g)),
            [Some(El2::Nvhe), Some(El2::Vhe), Some(El2::Nvhe)]
        );
    }
}
