//! Tools: what the verbs of `cargo xtask` do, one module for each verb except `test`.

pub mod bench;
pub mod boards;
pub mod check;
pub mod check_loader;
pub mod diagrams;
pub mod dist;
pub mod doctor;
pub mod entry_state;
pub mod fuzz;
pub mod image;
pub mod interop;
pub mod run;
pub mod stress;
