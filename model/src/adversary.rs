//! The adversary: every freedom that the architecture leaves to an implementation, used against the code.
//!
//! *When:* at each step that leaves a choice. [`Adversary::lazy`] puts everything off as long as it may, [`Adversary::eager`] does everything at
//! once, and those that are [drawn](Adversary::drawn) from a seed mix: each freedom is used lazily, eagerly, or as a coin falls.

use std::hash::{Hash, Hasher};

use relocate::random::SplitMix64;

/// How one freedom is used.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Mood {
    /// As late as the architecture allows.
    Lazy,
    /// At once.
    Eager,
    /// By the fall of a coin, each time.
    Random,
}

/// What one run of the code is up against.
#[derive(Clone, Debug)]
pub struct Adversary {
    /// What it is called in messages.
    pub name: String,
    /// When a store past the caches, a dc, an ic or a tlbi completes.
    pub completion: Mood,
    /// Which of them go first where a barrier waits for several: cleans and invalidations (lazy), stores (eager).
    pub order: Mood,
    /// When a dirty line is written back. Lazy: never, unless told to.
    pub eviction: Mood,
    /// When a clean line is brought in that nobody asked for. Eager: always just before memory changes beneath it. Lazy: never.
    pub speculation: Mood,
    /// When a write to a system register takes effect.
    pub registers: Mood,
    /// How long a translation is kept. Lazy: for ever. Eager: not at all.
    pub translations: Mood,
    /// How long an instruction stays in the I-cache, and in the pipeline. Lazy: until told otherwise. Eager: not at all.
    pub instructions: Mood,
    /// Whether dc ivac writes a dirty line back. Lazy: it is lost. Eager: it is written back, as an implementation may.
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

    /// Puts everything off, but for the speculation, which is always a step ahead.
    #[must_use]
    pub fn lazy() -> Self {
        Self { speculation: Mood::Eager, ..Self::all("lazy", Mood::Lazy, 0) }
    }

    /// The same, but where a barrier waits for stores and for maintenance, the stores go first.
    #[must_use]
    pub fn lazy_stores_first() -> Self {
        Self { name: "lazy, stores first".to_owned(), order: Mood::Eager, ..Self::lazy() }
    }

    /// The same, but each store and each operation is complete at once: what follows too late finds nothing pending to ride on.
    #[must_use]
    pub fn prompt() -> Self {
        Self { name: "prompt".to_owned(), completion: Mood::Eager, ..Self::lazy() }
    }

    /// Does everything at once, and keeps nothing.
    #[must_use]
    pub fn eager() -> Self {
        Self::all("eager", Mood::Eager, 0)
    }

    /// Draws how each freedom is used. What is complete at once hides every missing barrier, so that is left to [`Self::eager`].
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

    /// A coin that falls so one time in `n`.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.random.below(n) == 0
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.random.below(n as u64) as usize
    }
}

/// By what it will do next.
impl Hash for Adversary {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.random.clone().next_u64().hash(state);
    }
}
