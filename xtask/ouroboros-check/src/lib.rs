//! Judge of loaders: reads what the boot-protocol checker reported, and decides.
//!
//! - [`report`] reads the verdicts on each rule off a console.
//! - [`known`] is the user's list of breaks that are known.
//! - [`judgement`] compares the two.
//! - [`output`] prints the result for people and for programs.
//!
//! `cargo xtask check-loader` and the program `ouroboros-check` use it.

pub mod judgement;
pub mod known;
pub mod options;
pub mod output;
pub mod report;
