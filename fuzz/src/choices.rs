//! Choices read from an input: cases that a fuzzer can mutate byte by byte.
//!
//! Targets use them where raw bytes would hardly ever make a case that gets far.

/// The bytes not yet used.
#[derive(Clone, Debug)]
pub struct Choices<'a>(pub &'a [u8]);

impl<'a> Choices<'a> {
    /// Returns a number below `n`, which is not 0, or 0 after the input has ended.
    ///
    /// One byte is used for up to 256 possibilities, otherwise eight.
    pub fn below(&mut self, n: u64) -> u64 {
        (if n <= 256 { self.byte().into() } else { u64::from_le_bytes(self.bytes()) }) % n
    }

    /// Returns the next byte, or 0 after the input has ended.
    pub fn byte(&mut self) -> u8 {
        self.bytes::<1>()[0]
    }

    /// Returns true one time in `n` if bytes are evenly spread; never after the input has ended.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == n - 1
    }

    /// Returns one of `these`.
    pub fn one_of<T: Copy>(&mut self, these: &[T]) -> T {
        these[self.below(these.len() as u64) as usize]
    }

    /// Returns up to `most` bytes of the input.
    pub fn run(&mut self, most: u64) -> &'a [u8] {
        let length = (self.below(most + 1) as usize).min(self.0.len());
        let (run, rest) = self.0.split_at(length);
        self.0 = rest;
        run
    }

    /// Returns the next `N` bytes, with zeros after the input has ended.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let (taken, rest) = self.0.split_at(N.min(self.0.len()));
        bytes[..taken.len()].copy_from_slice(taken);
        self.0 = rest;
        bytes
    }
}
