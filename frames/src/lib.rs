//! RAM as ranges of pages: which of them have an owner, and frames handed out of the rest.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod layout;
