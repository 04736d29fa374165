//! SplitMix64: reproducible pseudorandom numbers, for placement.
//!
//! - *When:* while this kernel plans its successor. The seed comes from `/chosen/bootargs` and is
//!   printed, so any placement can be reproduced.
//! - *Not* for secrets: one number reveals all that follow.
//!
//! G. L. Steele, D. Lea, C. H. Flood, "Fast splittable pseudorandom number generators", OOPSLA
//! 2014. The constants are the paper's "variant 13" of MurmurHash3's finaliser, due to D. Stafford.

/// A SplitMix64 generator: 64 bits of state, a period of 2⁶⁴, every seed as good as any other.
#[derive(Clone, Debug)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// Creates a generator from `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the next number, uniform over all of `u64`.
    pub const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number in `0..n`, uniformly.
    ///
    /// We take the high half of a 128-bit product, and discard the few draws that would favour some
    /// results (D. Lemire, "Fast random integer generation in an interval", 2019). A plain
    /// remainder would favour low numbers.
    ///
    /// # Panics
    ///
    /// Panics if `n` is 0.
    pub const fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "a random number below 0");
        // 2^64 modulo n: this many low halves belong to intervals that are one draw too long.
        let surplus = n.wrapping_neg() % n;
        loop {
            let product = self.next_u64() as u128 * n as u128;
            if product as u64 >= surplus {
                return (product >> 64) as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_the_papers() {
        let mut random = SplitMix64::new(1_234_567);
        let first: [u64; 5] = core::array::from_fn(|_| random.next_u64());
        assert_eq!(
            first,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423,
                4_593_380_528_125_082_431,
                16_408_922_859_458_223_821
            ]
        );
        assert_eq!(SplitMix64::new(0).next_u64(), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn below_is_below_and_reaches_both_ends() {
        let mut random = SplitMix64::new(1);
        for n in [1, 2, 3, 7, 1000, u64::MAX / 2 + 2, u64::MAX] {
            for _ in 0..1000 {
                assert!(random.below(n) < n);
            }
        }
        let draws: Vec<u64> = (0..1000).map(|_| random.below(7)).collect();
        assert!((0..7).all(|number| draws.contains(&number)), "{draws:?}");
    }

    #[test]
    fn below_has_no_bias() {
        // Without discarding draws, n = 3 * 2^62 would give multiples of three in half of the
        // draws: two products in four fall on them. Without bias they are one in three.
        let draws = if cfg!(miri) { 3_000 } else { 300_000 };
        let mut random = SplitMix64::new(2);
        let hits = (0..draws).filter(|_| random.below(3 << 62).is_multiple_of(3)).count();
        assert!(hits.abs_diff(draws / 3) < draws / 50, "{hits} of {draws}");
    }

    #[test]
    fn below_a_power_of_two_no_draw_is_discarded() {
        let (mut random, mut halved) = (SplitMix64::new(3), SplitMix64::new(3));
        for _ in 0..100 {
            assert_eq!(halved.below(1 << 63), random.next_u64() >> 1);
        }
    }

    #[test]
    #[should_panic(expected = "below 0")]
    fn below_nothing_is_refused() {
        SplitMix64::new(0).below(0);
    }
}
