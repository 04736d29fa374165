//! Fuzz targets for what the kernel reads from outside: one module for each reader.
//!
//! libFuzzer calls a target's `hold` with input after input, the committed seeds first. A broken
//! promise is a panic; libFuzzer then keeps the input. No reader may panic or overflow on any
//! input. Each module lists the further promises that it checks.
//!
//! The checks are written differently from the reader they check: by pages, by lines, in 128 bits.
#![forbid(unsafe_code)]

pub mod choices;
pub mod chosen;
pub mod cmdline;
pub mod fit;
pub mod gzip;
pub mod image;
mod lines;
pub mod list;
pub mod tree;
pub use protocol::fit::writer;
