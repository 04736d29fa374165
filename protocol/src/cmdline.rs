//! The command line: parameters in /chosen/bootargs.
//!
//! They apply to this generation and to the following ones.
//!
//! - Runs once, early in Rust, because the mode depends on a parameter.
//! - Refuses a known parameter whose value is not allowed or is no number.
//! - Ignores unknown parameters, as Linux does: they may be for another program.

use alloc::borrow::ToOwned;
use alloc::string::String;
use boot::uart::Uart;
use core::fmt;

/// A value of a parameter that has a fixed set of values. It is printed and parsed as its word.
pub trait Word: Copy + Send + Sync + 'static {
    /// Every value with its word.
    const WORDS: &'static [(&'static str, Self)];

    /// Returns the value of a word.
    #[must_use]
    fn of(word: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(known, _)| *known == word).map(|&(_, value)| value)
    }
}

/// Writes down the words of an enum once, for the kernel that parses them and the tools that print
/// them.
macro_rules! words {
    ($name:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        impl Word for $name {
            const WORDS: &'static [(&'static str, Self)] = &[$(($word, Self::$variant)),+];
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word),+ })
            }
        }
    };
}

words!(Base { Same = "same", Random = "random", Load = "load" });
words!(Restart { Hot = "hot", Cold = "cold" });
words!(El2 { Nvhe = "nvhe", Vhe = "vhe" });
words!(FitSource { Initrd = "initrd" });
words!(Check { Report = "", Strict = "strict" });
words!(Selftest {
    Stub = "stub",
    Interrupts = "interrupts",
    Lpis = "lpis",
    Storm = "storm",
    Heap = "heap",
});

/// The base that the next kernel will run at.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Base {
    /// The base of the running kernel.
    #[default]
    Same,
    /// A random 2 MiB slot of RAM. The control pages are placed at random as well.
    Random,
    /// The address in the FIT's `load` property.
    Load,
}

/// The order of copying and turning the MMU off.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Restart {
    /// Copy first, with MMU and caches on; then MMU off.
    #[default]
    Hot,
    /// MMU off first, then copy.
    Cold,
}

/// The boot medium that must hold the FIT.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FitSource {
    /// The initrd that the loader named in /chosen.
    Initrd,
}

/// The effect of a broken rule of the boot protocol.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Check {
    /// The checker reports it, and the kernel continues.
    Report,
    /// The checker reports it, and the run ends as failed.
    Strict,
}

/// The mode requested for a kernel that was entered at EL2.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum El2 {
    /// Run at EL1, with the hyp-stub at EL2.
    Nvhe,
    /// Run at EL2, with HCR_EL2.E2H set.
    Vhe,
}

/// The CPU that performs the kexec, if it is not the one that was entered first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RestartCpu {
    /// The CPU with this index in the device tree, counted from 0.
    Number(usize),
    /// A random one of those that are up.
    Random,
}

/// A self-test to run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Selftest {
    /// Runs the hyp-stub's conformance suite on every CPU, then ends the run.
    Stub,
    /// Before each kexec, puts interrupts into every state that the next kernel must not find.
    Interrupts,
    /// Before each kexec, leaves LPIs on, so that the GIC still uses tables in memory.
    Lpis,
    /// During each kexec, raises as many interrupts as possible that no driver handles.
    Storm,
    /// Before each kexec, allocates and frees memory and waits, differently in each run.
    Heap,
}

/// The parameters that the command line can set.
#[derive(Clone, Debug, Eq, PartialEq)]
#[doc(alias = "bootargs")]
#[doc(alias = "command line")]
pub struct Cmdline {
    /// `generations=N`: the number of generations in this run, at least one.
    pub generations: u32,
    /// `payload=NAME`: the last generation kexecs the FIT's configuration of that name, instead of
    /// ending the run.
    pub payload: Option<String>,
    /// `fit=initrd`: where the FIT is. By default it is on the disk, or in the initrd of a machine
    /// without a disk.
    pub fit: Option<FitSource>,
    /// `base=same|random|load`: where the next kernel is placed.
    pub base: Base,
    /// `seed=S`, decimal or 0x: the seed of all random choices.
    pub seed: Option<u64>,
    /// `restart=hot|cold`: whether the copy runs with MMU and caches on.
    pub restart: Restart,
    /// `el2=nvhe|vhe`: the mode at EL2. By default VHE is used if the CPU has it.
    pub el2: Option<El2>,
    /// `alternate`: nvhe in even generations, vhe in odd ones. Overrides `el2`.
    pub alternate: bool,
    /// `semihosting`: the run may be ended by a semihosting exit.
    pub semihosting: bool,
    /// `on-refusal=continue`: after a refusal, try the FIT's next configuration.
    pub continue_on_refusal: bool,
    /// `restart-cpu=N|random`: the CPU that performs the kexec. By default, the one entered first.
    pub restart_cpu: Option<RestartCpu>,
    /// `earlycon=NAME,ADDRESS`, as Linux has it: the UART that is the console, whatever the device
    /// tree says.
    pub earlycon: Option<Uart>,
    /// `unverified`: a payload without a digest may be loaded.
    pub unverified: bool,
    /// `force`: kexec even if a CPU does not stop, or the GIC cannot be silenced.
    pub force: bool,
    /// `check` or `check=strict`: check the state at entry against the boot protocol.
    pub check: Option<Check>,
    /// `selftest=stub|interrupts|lpis|storm|heap`: a self-test to run.
    pub selftest: Option<Selftest>,
}

impl Default for Cmdline {
    fn default() -> Self {
        Self {
            generations: 1,
            payload: None,
            fit: None,
            base: Base::default(),
            seed: None,
            restart: Restart::default(),
            el2: None,
            alternate: false,
            semihosting: false,
            continue_on_refusal: false,
            restart_cpu: None,
            earlycon: None,
            unverified: false,
            force: false,
            check: None,
            selftest: None,
        }
    }
}

/// A parameter whose value is not allowed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("bootargs: \"{word}\": expected {expected}")]
pub struct Error {
    /// The word. Bytes that are not UTF-8 became U+FFFD.
    word: String,
    expected: &'static str,
}

impl Cmdline {
    /// Parses `bootargs`, which may be any bytes. If a parameter is given twice, the last one
    /// counts.
    ///
    /// A word that is not UTF-8 is ignored like any other that is not ours. As the value of a
    /// parameter it is an error.
    ///
    /// # Errors
    ///
    /// The first parameter whose value is not allowed. The parameters are returned all the same,
    /// without the wrong ones.
    pub fn parse(bootargs: &[u8]) -> (Self, Result<(), Error>) {
        let mut cmdline = Self::default();
        let mut result = Ok(());
        let words = bootargs.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        for word in words.map(String::from_utf8_lossy) {
            if let Err(expected) = cmdline.parse_parameter(&word)
                && result.is_ok()
            {
                result = Err(Error { word: word.into_owned(), expected });
            }
        }
        (cmdline, result)
    }

    fn parse_parameter(&mut self, word: &str) -> Result<(), &'static str> {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        match (key, value) {
            ("generations", _) => {
                let count = number(value).and_then(|n| u32::try_from(n).ok()).filter(|&n| n > 0);
                self.generations = count.ok_or("generations=N, a number from 1 to 4294967295")?;
            }
            ("payload", name) if name.is_empty() || name.contains(char::REPLACEMENT_CHARACTER) => {
                return Err("payload=NAME, a configuration of the FIT, in UTF-8");
            }
            ("payload", name) => self.payload = Some(name.to_owned()),
            ("fit", _) => self.fit = Some(FitSource::of(value).ok_or("fit=initrd")?),
            ("base", _) => self.base = Base::of(value).ok_or("base=same, random or load")?,
            ("seed", _) => {
                self.seed = Some(number(value).ok_or("seed=S, a 64-bit number, decimal or 0x…")?)
            }
            ("restart", _) => self.restart = Restart::of(value).ok_or("restart=hot or cold")?,
            ("el2", _) => self.el2 = Some(El2::of(value).ok_or("el2=nvhe or vhe")?),
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
            ("unverified", "") => self.unverified = true,
            ("unverified", _) => return Err("unverified, without a value"),
            ("force", "") => self.force = true,
            ("force", _) => return Err("force, without a value"),
            ("check", _) => {
                self.check = Some(Check::of(value).ok_or("check alone, or check=strict")?);
            }
            // Linux's `earlycon` alone means the console of the device tree, as without it.
            ("earlycon", "") => {}
            ("earlycon", _) => {
                let uart = Uart::parse(value).ok();
                self.earlycon = Some(
                    uart.ok_or("earlycon=NAME,ADDRESS of a UART that we drive, as in pl011,0x…")?,
                );
            }
            ("selftest", _) => {
                let test = Selftest::of(value);
                self.selftest = Some(test.ok_or("selftest=stub, interrupts, lpis, storm or heap")?);
            }
            _ => {}
        }
        Ok(())
    }

    /// Returns the mode at EL2 that generation `generation` should use, if the command line says.
    #[must_use]
    pub const fn el2(&self, generation: u32) -> Option<El2> {
        match (self.alternate, generation % 2) {
            (false, _) => self.el2,
            (true, 0) => Some(El2::Nvhe),
            (true, _) => Some(El2::Vhe),
        }
    }
}

/// Parses a number as parameters have it: decimal, or hexadecimal after 0x.
#[must_use]
pub fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use boot::phys::PhysAddr;
    use boot::uart::Kind;

    #[test]
    fn no_words_are_one_generation_on_the_same_place() {
        assert_eq!(Cmdline::parse(b""), (Cmdline::default(), Ok(())));
        assert_eq!(Cmdline::default().generations, 1);
    }

    #[test]
    fn every_parameter_is_followed() {
        let words = "console=ttyAMA0 generations=7 payload=conf-2 fit=initrd base=random seed=0x1F \
                     restart=cold el2=vhe alternate semihosting on-refusal=continue restart-cpu=2 \
                     unverified force check selftest=stub earlycon=cdns,0xff000000,115200 quiet";
        let expected = Cmdline {
            generations: 7,
            payload: Some("conf-2".to_string()),
            fit: Some(FitSource::Initrd),
            base: Base::Random,
            seed: Some(31),
            restart: Restart::Cold,
            el2: Some(El2::Vhe),
            alternate: true,
            semihosting: true,
            continue_on_refusal: true,
            restart_cpu: Some(RestartCpu::Number(2)),
            earlycon: Some(Uart::new(Kind::Cadence, PhysAddr::new(0xff00_0000), 0, 4)),
            unverified: true,
            force: true,
            check: Some(Check::Report),
            selftest: Some(Selftest::Stub),
        };
        assert_eq!(Cmdline::parse(words.as_bytes()), (expected, Ok(())));
    }

    #[test]
    fn a_random_cpu_may_perform_the_kexec() {
        let (cmdline, result) = Cmdline::parse(b"restart-cpu=random");
        assert_eq!((cmdline.restart_cpu, result), (Some(RestartCpu::Random), Ok(())));
    }

    #[test]
    fn a_value_that_cannot_be_names_its_word() {
        for (word, hint) in [
            ("generations=0", "from 1"),
            ("generations=x", "from 1"),
            ("generations=4294967296", "from 1"),
            ("payload=", "a configuration of the FIT"),
            ("fit=disk", "fit=initrd"),
            ("base=here", "same, random or load"),
            ("seed=0xg", "64-bit"),
            ("seed=18446744073709551616", "64-bit"),
            ("restart=warm", "hot or cold"),
            ("el2=on", "nvhe or vhe"),
            ("alternate=no", "without a value"),
            ("semihosting=off", "without a value"),
            ("on-refusal=panic", "continue"),
            ("restart-cpu=all", "random"),
            ("unverified=yes", "without a value"),
            ("force=no", "without a value"),
            ("check=all", "check=strict"),
            ("earlycon=pl022,0x9000000", "NAME,ADDRESS"),
            ("earlycon=pl011", "NAME,ADDRESS"),
            ("selftest=all", "stub, interrupts, lpis, storm or heap"),
        ] {
            let (cmdline, result) = Cmdline::parse(word.as_bytes());
            let message = result.unwrap_err().to_string();
            assert!(message.contains(word) && message.contains(hint), "{message}");
            assert_eq!(cmdline, Cmdline::default());
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_ignored_or_named() {
        // Latin-1, as an old terminal sends it, in a word that is another program's.
        let (cmdline, result) = Cmdline::parse(b"generations=2 name=M\xfcller base=random");
        assert_eq!((cmdline.generations, cmdline.base, result), (2, Base::Random, Ok(())));
        for word in [&b"payload=M\xfcller"[..], b"generations=2\xff", b"base=\xff", b"force=\xff"] {
            let (cmdline, result) = Cmdline::parse(&[word, b" alternate"].concat());
            let message = result.unwrap_err().to_string();
            assert!(message.contains(&*String::from_utf8_lossy(word)), "{message}");
            assert_eq!(cmdline, Cmdline { alternate: true, ..Cmdline::default() });
        }
    }

    #[test]
    fn a_printed_word_is_parsed() {
        fn holds<T: Word + fmt::Display + fmt::Debug + PartialEq>(count: usize) {
            assert_eq!(T::WORDS.len(), count);
            for &(word, value) in T::WORDS {
                assert_eq!((value.to_string().as_str(), T::of(word)), (word, Some(value)));
            }
        }
        holds::<Base>(3);
        holds::<Restart>(2);
        holds::<El2>(2);
        holds::<FitSource>(1);
        holds::<Selftest>(5);
    }

    #[test]
    fn alternating_overrides_and_starts_with_nvhe() {
        let (cmdline, _) = Cmdline::parse(b"alternate el2=vhe");
        assert_eq!(
            [0, 1, 2].map(|g| cmdline.el2(g)),
            [Some(El2::Nvhe), Some(El2::Vhe), Some(El2::Nvhe)]
        );
    }
}
