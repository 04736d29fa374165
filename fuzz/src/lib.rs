//! What the kernel reads from outside, given anything at all: one function for each fuzz target, which holds the promises of one reader.
//!
//! *When:* libFuzzer calls a target's `hold` with input after input, the committed seeds first. *Refuses:* by a panic, which libFuzzer keeps the
//! input of. That nothing panics or overflows by itself is asked everywhere; each module says what else.
//! What it holds a reader against is written another way than the reader: by pages, by lines, in 128 bits.
#![forbid(unsafe_code)]

pub mod choices;
pub mod chosen;
pub mod fit;
pub mod gzip;
pub mod image;
mod lines;
pub mod list;
pub mod orders;
pub mod tree;
#[path = "../../xtask/src/fit.rs"]
pub mod writer;
