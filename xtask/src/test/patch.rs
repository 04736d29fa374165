//! Kernels that are wrong on purpose: single instructions of the Image, found by symbol, put in place of others.
//!
//! *When:* by the cases that show what happens when something goes wrong. Refuses a symbol that is not there, and an instruction that is
//! not where it is looked for: a patch that hits nothing would be a test of nothing.

use anyhow::{Result, bail};

use crate::kernel_build::Built;

/// `b .`: hangs.
pub const HANG: u32 = 0x1400_0000;
/// `udf #0`: an exception.
pub const UNDEFINED: u32 = 0;
/// `ret`.
pub const RET: u32 = 0xd65f_03c0;
/// `eret`.
pub const ERET: u32 = 0xd69f_03e0;

/// An Image to be changed.
pub struct Patched<'a> {
    kernel: &'a Built,
    /// As changed so far.
    pub image: Vec<u8>,
}

impl<'a> Patched<'a> {
    /// The kernel's own Image.
    pub fn new(kernel: &'a Built) -> Self {
        Self { kernel, image: kernel.image.clone() }
    }

    /// Puts `word` at `offset` bytes behind the symbol.
    pub fn at(mut self, name: &str, offset: usize, word: u32) -> Result<Self> {
        let at = self.address(name)? + offset;
        self.put(at, word);
        Ok(self)
    }

    /// Puts `word` in place of the first instruction `was` behind the symbol.
    pub fn replace(mut self, name: &str, was: u32, word: u32) -> Result<Self> {
        const NEAR: usize = 0x200;
        let start = self.address(name)?;
        let found = (start..start + NEAR).step_by(4).find(|&at| self.image[at..at + 4] == was.to_le_bytes());
        let Some(at) = found else {
            bail!("there is no instruction {was:#010x} in the {NEAR:#x} bytes from {name} on")
        };
        self.put(at, word);
        Ok(self)
    }

    fn put(&mut self, at: usize, word: u32) {
        self.image[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }

    fn address(&self, name: &str) -> Result<usize> {
        Ok(usize::try_from(self.kernel.symbol(name)?)?)
    }
}
