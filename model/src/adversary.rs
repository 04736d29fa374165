//! The adversary: uses every freedom that the architecture leaves.
//!
//! It decides at each step that leaves a choice. [`Adversary::lazy`] puts everything off as long as
//! allowed, [`Adversary::eager`] does everything at once. Adversaries [drawn](Adversary::drawn)
//! from a seed mix: they use each freedom lazily, eagerly, or by a coin toss.

use std::hash::{Hash, Hasher};

use relocate::random::SplitMix64;

/// The use of one freedom.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Mood {
    /// As late as the architecture allows.
    Lazy,
    /// At once.
    Eager,
    /// By a coin toss, each time.
    Random,
}

/// The choices that one run of the code faces.
#[derive(Clone, Debug)]
pub struct Adversary {
    /// The name used in messages.
    pub name: String,
    /// When a store past the caches, a dc, an ic or a tlbi completes.
    pub completion: Mood,
    /// The order in which a barrier completes several: dc first (lazy), or stores first (eager).
    pub order: Mood,
    /// When a dirty line is written back. Lazy: only by maintenance.
    pub eviction: Mood,
    /// When a clean line is brought in without an access. Eager: always just before memory below it
    /// changes. Lazy: never.
    pub speculation: Mood,
    /// When a write to a system register takes effect.
    pub registers: Mood,
    /// How long a translation is kept. Lazy: until invalidated. Eager: not at all.
    pub translations: Mood,
    /// How long an instruction stays in the I-cache and in the pipeline. Lazy: until invalidated.
    /// Eager: not at all.
    pub instructions: Mood,
    /// The effect of dc ivac on a dirty line. Lazy: the data is lost. Eager: it is written back, as
    /// an implementation may.
    pub ivac: Mood,
    random: SplitMix64,
}

impl Adversary {
    fn all(name: &str, mood: Mood, seed: u64) -> Self {
        Self {
            name: name.to_owned(),
            completion: mood,
            order: mood,
            eviction: mood,
            speculation: mood,
            registers: mood,
            translations: mood,
            instructions: mood,
            ivac: mood,
            random: SplitMix64::new(seed),
        }
    }

    /// Puts everything off, except for speculation, which is always a step ahead.
    #[must_use]
    pub fn lazy() -> Self {
        Self { speculation: Mood::Eager, ..Self::all("lazy", Mood::Lazy, 0) }
    }

    /// Is [`lazy`](Self::lazy), but a barrier completes stores before maintenance.
    #[must_use]
    pub fn lazy_stores_first() -> Self {
        Self { name: "lazy, stores first".to_owned(), order: Mood::Eager, ..Self::lazy() }
    }

    /// Is [`lazy`](Self::lazy), but completes each store and operation at once.
    ///
    /// A missing barrier later on then finds nothing pending that could hide the mistake.
    #[must_use]
    pub fn prompt() -> Self {
        Self { name: "prompt".to_owned(), completion: Mood::Eager, ..Self::lazy() }
    }

    /// Does everything at once, and keeps nothing.
    #[must_use]
    pub fn eager() -> Self {
        Self::all("eager", Mood::Eager, 0)
    }

    /// Draws how each freedom is used.
    ///
    /// Eager completion hides every missing barrier, so only [`Self::eager`] has it.
    #[must_use]
    pub fn drawn(seed: u64) -> Self {
        use Mood::{Eager, Lazy, Random};
        let mut this = Self::all(&format!("seed {seed}"), Random, seed);
        let mut one_of = |moods: [Mood; 3]| moods[this.random.below(3) as usize];
        Self {
            completion: one_of([Lazy, Lazy, Random]),
            order: one_of([Lazy, Eager, Random]),
            eviction: one_of([Lazy, Eager, Random]),
            speculation: one_of([Lazy, Eager, Random]),
            registers: one_of([Lazy, Random, Random]),
            translations: one_of([Lazy, Eager, Random]),
            instructions: one_of([Lazy, Lazy, Random]),
            ivac: one_of([Lazy, Eager, Random]),
            ..this
        }
    }

    /// Returns true one time in `n`.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.random.below(n) == 0
    }

    /// Returns a number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.random.below(n as u64) as usize
    }
}

/// Hashes the adversary by its next random number.
impl Hash for Adversary {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.random.clone().next_u64().hash(state);
    }
}
