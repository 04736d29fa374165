//! Patches for kernels that are wrong on purpose: instructions replaced by symbol.
//!
//! Refuses a missing symbol, and an instruction that is not where the patch expects it: a patch
//! that changes nothing would test nothing.

use anyhow::{Result, bail};

use crate::kernel_build::Built;

/// `b .`, which hangs.
pub const HANG: u32 = 0x1400_0000;
/// `udf #0`, which takes an UNDEFINED exception.
pub const UNDEFINED: u32 = 0;
/// `ret`.
pub const RET: u32 = 0xd65f_03c0;
/// `eret`.
pub const ERET: u32 = 0xd69f_03e0;
/// `nop`.
pub const NOP: u32 = 0xd503_201f;

/// Number of bytes after a symbol that are searched for an instruction.
const NEAR: usize = 0x300;

/// An Image that is being patched.
pub struct Patched<'a> {
    kernel: &'a Built,
    /// The Image with the patches so far.
    pub image: Vec<u8>,
}

impl<'a> Patched<'a> {
    /// Starts with the kernel's own Image.
    pub fn new(kernel: &'a Built) -> Self {
        Self { kernel, image: kernel.image.clone() }
    }

    /// Puts the instruction `word` at `offset` bytes from the symbol.
    pub fn at(mut self, name: &str, offset: usize, word: u32) -> Result<Self> {
        let at = self.address(name)? + offset;
        self.put(at, word);
        Ok(self)
    }

    /// Replaces the first instruction `was` from the symbol on by `word`.
    pub fn replace(mut self, name: &str, was: u32, word: u32) -> Result<Self> {
        let Some(at) = self.near(name)?.find(|&at| self.word(at) == was) else {
            bail!("there is no instruction {was:#010x} in the {NEAR:#x} bytes from {name} on")
        };
        self.put(at, word);
        Ok(self)
    }

    /// Makes a routine return at once.
    pub fn skip(self, name: &str) -> Result<Self> {
        self.at(name, 0, RET)
    }

    /// Makes a routine return `x0` at once.
    pub fn answer(self, name: &str, x0: u16) -> Result<Self> {
        let movz = 0xd280_0000 | u32::from(x0) << 5;
        self.at(name, 0, movz)?.at(name, 4, RET)
    }

    /// Puts `word` at `offset` bytes from the first `bl` to `callee` after the symbol.
    pub fn at_call(mut self, name: &str, callee: &str, offset: isize, word: u32) -> Result<Self> {
        let to = self.address(callee)?;
        let Some(at) = self.near(name)?.find(|&at| called(at, self.word(at)) == Some(to)) else {
            bail!("{callee} is not called in the {NEAR:#x} bytes from {name} on")
        };
        self.put(at.wrapping_add_signed(offset), word);
        Ok(self)
    }

    /// Replaces the `nth` `b.ne` after the symbol, counted from 0, by `nop`.
    pub fn never_branch(mut self, name: &str, nth: usize) -> Result<Self> {
        let branches = |at: &usize| self.word(*at) & 0xff00_001f == 0x5400_0001;
        let Some(at) = self.near(name)?.filter(branches).nth(nth) else {
            bail!("there are not {} b.ne in the {NEAR:#x} bytes from {name} on", nth + 1)
        };
        self.put(at, NOP);
        Ok(self)
    }

    /// Makes a routine begin `seconds` late, by the counter. The code for it replaces the beginning
    /// of `room`, a routine that must not run, and changes x9 to x11. The first instruction of
    /// `name` must not depend on its address.
    pub fn late(mut self, name: &str, room: &str, seconds: u16) -> Result<Self> {
        let (start, room) = (self.address(name)?, self.address(room)?);
        let words = [
            0xd53b_e049,                           // mrs x9, cntvct_el0
            0xd53b_e00a,                           // mrs x10, cntfrq_el0
            0xd280_000b | u32::from(seconds) << 5, // mov x11, #seconds
            0x9b0b_254a,                           // madd x10, x10, x11, x9
            0xd53b_e049,                           // mrs x9, cntvct_el0
            0xeb0a_013f,                           // cmp x9, x10
            0x54ff_ffc3,                           // b.lo, two instructions back
            self.word(start),
            branch(room + 8 * 4, start + 4),
        ];
        for (at, word) in (room..).step_by(4).zip(words) {
            self.put(at, word);
        }
        self.put(start, branch(start, room));
        Ok(self)
    }

    fn near(&self, name: &str) -> Result<impl Iterator<Item = usize> + use<>> {
        let start = self.address(name)?;
        Ok((start..start + NEAR).step_by(4))
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.image[at..at + 4].try_into().expect("four bytes"))
    }

    fn put(&mut self, at: usize, word: u32) {
        self.image[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }

    fn address(&self, name: &str) -> Result<usize> {
        Ok(usize::try_from(self.kernel.symbol(name)?)?)
    }
}

/// Returns `b`, from one address to another.
fn branch(from: usize, to: usize) -> u32 {
    let offset = (to as u32).wrapping_sub(from as u32) / 4;
    0x1400_0000 | offset & 0x03ff_ffff
}

/// Returns the target of `word` at address `at` if it is a `bl`.
fn called(at: usize, word: u32) -> Option<usize> {
    // imm26: signed, in units of 4 bytes.
    let offset = (word << 6).cast_signed() >> 4;
    (word >> 26 == 0b10_0101).then(|| at.wrapping_add_signed(offset as isize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_goes_forwards_and_backwards_and_nothing_else_is_one() {
        assert_eq!(called(0x1000, 0x9400_0002), Some(0x1008));
        assert_eq!(called(0x1000, 0x97ff_ffff), Some(0xffc));
        assert_eq!(called(0x1000, HANG), None);
        assert_eq!(called(0x1000, RET), None);
        assert_eq!(called(0x1000, branch(0x1000, 0x2000) | 1 << 31), Some(0x2000));
        assert_eq!(called(0x2000, branch(0x2000, 0x1000) | 1 << 31), Some(0x1000));
    }
}
