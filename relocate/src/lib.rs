//! The way out: from "Bye!" to the next image's first instruction.
#![cfg_attr(not(test), no_std)]
